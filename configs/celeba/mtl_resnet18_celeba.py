_base_ = [
    "../_base_/models/resnet18_attribute-groups.py",
    "../_base_/datasets/celeba.py",
    "../_base_/schedules/adamw_60e.py",
    "../_base_/default_runtime.py",
]

train_cfg = dict(max_epochs=15, val_interval=1)
