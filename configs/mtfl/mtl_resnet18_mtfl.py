_base_ = [
    "../_base_/models/resnet18_landmarks-pose.py",
    "../_base_/datasets/mtfl.py",
    "../_base_/schedules/adamw_60e.py",
    "../_base_/default_runtime.py",
]
