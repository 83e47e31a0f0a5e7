_base_ = [
    "models/resnet18_own-tasks.py",
    "datasets/tabular.py",
    "schedules/adamw_60e.py",
    "default_runtime.py",
]
