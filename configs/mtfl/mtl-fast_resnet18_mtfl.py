_base_ = "mtl_resnet18_mtfl.py"

train_pipeline = [
    dict(type="FaceBox", mode="jitter"),
    dict(type="LoadCrop", rotate=25, reduced=True),
    dict(
        type="Albumentations",
        transforms=[
            dict(
                type="RandomBrightnessContrast", brightness_limit=0.25, contrast_limit=0.25, p=0.5
            ),
            dict(type="ToGray", p=0.2),
            dict(type="GaussianBlur", blur_limit=0, sigma_limit=(0.3, 1.5), p=0.2),
        ],
    ),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackMultiTaskInputs"),
]
train_dataloader = dict(pin_memory=True, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(pin_memory=True)
test_dataloader = dict(pin_memory=True)
