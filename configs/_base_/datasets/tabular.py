dataset_type = "TabularMultiTask"
input_size = 112

train_pipeline = [
    dict(type="LoadImage"),
    dict(type="RegionBox", training=True),
    dict(type="CropResize"),
    dict(
        type="Albumentations",
        transforms=[
            dict(
                type="RandomBrightnessContrast", brightness_limit=0.25, contrast_limit=0.25, p=0.5
            ),
            dict(type="Rotate", limit=15, p=0.7),
        ],
    ),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackMultiTaskInputs"),
]
val_pipeline = [
    dict(type="LoadImage"),
    dict(type="RegionBox", training=False),
    dict(type="CropResize"),
    dict(type="PackMultiTaskInputs"),
]

train_dataloader = dict(
    batch_size=64,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    collate_fn=dict(type="trn_plugin.multi_task_collate"),
    sampler=dict(type="DrawSampler", shuffle=True),
    dataset=dict(type=dataset_type, split="train", input_size=input_size, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=2,
    persistent_workers=True,
    collate_fn=dict(type="trn_plugin.multi_task_collate"),
    sampler=dict(type="DrawSampler", shuffle=False),
    dataset=dict(type=dataset_type, split="val", input_size=input_size, pipeline=val_pipeline),
)
test_dataloader = dict(val_dataloader, dataset=dict(val_dataloader["dataset"], split="test"))
