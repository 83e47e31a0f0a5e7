dataset_type = "MTFL"
data_root = "{{$MTFL_ROOT:data/MTFL}}"
tasks = ("landmarks", "pose")
input_size = 112

train_pipeline = [
    dict(type="LoadImage"),
    dict(type="FaceBox", mode="jitter"),
    dict(type="CropResize"),
    dict(
        type="Albumentations",
        transforms=[
            dict(
                type="RandomBrightnessContrast", brightness_limit=0.25, contrast_limit=0.25, p=0.5
            ),
            dict(type="ToGray", p=0.2),
            dict(type="GaussianBlur", blur_limit=0, sigma_limit=(0.3, 1.5), p=0.2),
            dict(type="Rotate", limit=25, p=0.7),
        ],
    ),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackMultiTaskInputs"),
]
val_pipeline = [
    dict(type="LoadImage"),
    dict(type="FaceBox", mode="perturbed"),
    dict(type="CropResize"),
    dict(type="PackMultiTaskInputs"),
]
test_pipeline = [
    dict(type="LoadImage"),
    dict(type="FaceBox", mode="whole"),
    dict(type="CropResize"),
    dict(type="PackMultiTaskInputs"),
]

train_dataloader = dict(
    batch_size=128,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    collate_fn=dict(type="trn_plugin.multi_task_collate"),
    sampler=dict(type="DrawSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file="training.txt",
        split="train",
        tasks=tasks,
        input_size=input_size,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=2,
    persistent_workers=True,
    collate_fn=dict(type="trn_plugin.multi_task_collate"),
    sampler=dict(type="DrawSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file="training.txt",
        split="val",
        tasks=tasks,
        input_size=input_size,
        pipeline=val_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=128,
    num_workers=2,
    persistent_workers=True,
    collate_fn=dict(type="trn_plugin.multi_task_collate"),
    sampler=dict(type="DrawSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file="testing.txt",
        tasks=tasks,
        input_size=input_size,
        pipeline=test_pipeline,
    ),
)

val_evaluator = [
    dict(type="NormalizedMeanError", task="landmarks", by="pose", mean_shape=True),
    dict(type="Accuracy", task="pose", balanced=True),
    dict(type="TaskSimilarity", relations=[("landmarks", "pose")]),
]
test_evaluator = val_evaluator
