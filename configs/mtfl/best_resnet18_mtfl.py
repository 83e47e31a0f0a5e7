# multi-task recipe: three shared stages, three times the landmarks' loss weight, label smoothing,
# exponential moving average of the weights, stronger augmentation, 80 epochs
_base_ = "mtl-fast_resnet18_mtfl.py"

model = dict(
    backbone=dict(shared_stages=3),
    heads=dict(landmarks=dict(loss_weight=30.0), pose=dict(label_smoothing=0.1)),
    neck=None,
)
train_pipeline = [
    dict(type="FaceBox", mode="jitter"),
    dict(type="LoadCrop", rotate=30, reduced=True),
    dict(
        type="Albumentations",
        transforms=[
            dict(type="RandomBrightnessContrast", brightness_limit=0.4, contrast_limit=0.4, p=0.7),
            dict(type="ToGray", p=0.2),
            dict(type="GaussianBlur", blur_limit=0, sigma_limit=(0.3, 2.0), p=0.3),
            dict(
                type="CoarseDropout",
                num_holes_range=(1, 2),
                hole_height_range=(0.1, 0.3),
                hole_width_range=(0.1, 0.3),
                p=0.5,
            ),
        ],
    ),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackMultiTaskInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
custom_hooks = [
    dict(type="EMAHook", momentum=0.001, update_buffers=True),
]
train_cfg = dict(max_epochs=80)
