dataset_type = "CelebA"
data_root = "{{$CELEBA_ROOT:data/celeba}}"
partition = "{{$CELEBA_PARTITION:list_eval_partition.txt}}"
tasks = ("group_a", "group_b")
input_size = 128

train_pipeline = [
    dict(type="FaceBox", mode="whole"),
    dict(type="LoadCrop", rotate=10, scale=(0.9, 1.1), shift=0.05, reduced=False, cache_gb=0),
    dict(
        type="Albumentations",
        transforms=[
            dict(type="RandomBrightnessContrast", brightness_limit=0.2, contrast_limit=0.2, p=0.5),
        ],
    ),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackMultiTaskInputs"),
]
val_pipeline = [
    dict(type="LoadImage"),
    dict(type="FaceBox", mode="whole"),
    dict(type="CropResize"),
    dict(type="PackMultiTaskInputs"),
]

train_dataloader = dict(
    batch_size=128,
    num_workers=2,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    collate_fn=dict(type="trn_plugin.multi_task_collate"),
    sampler=dict(type="DrawSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        partition=partition,
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
    pin_memory=True,
    collate_fn=dict(type="trn_plugin.multi_task_collate"),
    sampler=dict(type="DrawSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        partition=partition,
        split="val",
        tasks=tasks,
        input_size=input_size,
        pipeline=val_pipeline,
    ),
)
test_dataloader = dict(val_dataloader, dataset=dict(val_dataloader["dataset"], split="test"))

val_evaluator = [
    dict(type="AttributeMetric", task=("group_a", "group_b")),
    dict(type="TaskSimilarity", levels=("output",), relations=[("group_a", "group_b")]),
]
test_evaluator = val_evaluator
