_base_ = [
    "../_base_/models/resnet18_landmarks-pose-attributes.py",
    "../_base_/datasets/mtfl_celeba.py",
    "../_base_/schedules/adamw_60e.py",
    "../_base_/default_runtime.py",
]

train_cfg = dict(max_epochs=15, val_interval=1)
