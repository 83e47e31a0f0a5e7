input_size = 112

augmentation = [
    dict(
        type="Albumentations",
        transforms=[
            dict(
                type="RandomBrightnessContrast", brightness_limit=0.25, contrast_limit=0.25, p=0.5
            ),
            dict(type="ToGray", p=0.2),
        ],
    ),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackMultiTaskInputs"),
]
mtfl = dict(
    type="MTFL",
    data_root="{{$MTFL_ROOT:data/MTFL}}",
    tasks=("landmarks", "pose"),
    input_size=input_size,
)
celeba = dict(
    type="CelebA",
    data_root="{{$CELEBA_ROOT:data/celeba}}",
    partition="{{$CELEBA_PARTITION:list_eval_partition.txt}}",
    tasks=("attributes",),
    input_size=input_size,
)
mtfl_train = dict(
    **mtfl,
    ann_file="training.txt",
    split="train",
    pipeline=[
        dict(type="FaceBox", mode="jitter"),
        dict(type="LoadCrop", rotate=25, reduced=True),
        *augmentation,
    ],
)
celeba_train = dict(
    **celeba,
    split="train",
    pipeline=[
        dict(type="FaceBox", mode="whole"),
        dict(type="LoadCrop", rotate=10, scale=(0.9, 1.1), shift=0.05),
        *augmentation,
    ],
)
whole = [
    dict(type="LoadImage"),
    dict(type="FaceBox", mode="whole"),
    dict(type="CropResize"),
    dict(type="PackMultiTaskInputs"),
]
perturbed = [
    dict(type="LoadImage"),
    dict(type="FaceBox", mode="perturbed"),
    dict(type="CropResize"),
    dict(type="PackMultiTaskInputs"),
]

loading = dict(
    batch_size=128,
    num_workers=2,
    persistent_workers=True,
    collate_fn=dict(type="trn_plugin.multi_task_collate"),
)
mtfl_val = dict(**mtfl, ann_file="training.txt", split="val", pipeline=perturbed)
celeba_val = dict(**celeba, split="val", pipeline=whole)
mtfl_test = dict(**mtfl, ann_file="testing.txt", pipeline=whole)
celeba_test = dict(**celeba, split="test", pipeline=whole)

train_dataloader = dict(
    **loading,
    drop_last=True,
    sampler=dict(type="ShareSampler", shares=(1, 1)),
    dataset=dict(type="MixedDataset", datasets=[mtfl_train, celeba_train]),
)
val_dataloader = dict(
    **loading,
    sampler=dict(type="DrawSampler", shuffle=False),
    dataset=dict(type="MixedDataset", datasets=[mtfl_val, celeba_val]),
)
test_dataloader = dict(
    **loading,
    sampler=dict(type="DrawSampler", shuffle=False),
    dataset=dict(type="MixedDataset", datasets=[mtfl_test, celeba_test]),
)

mtfl_metrics = [
    dict(type="NormalizedMeanError", dataset="MTFL", task="landmarks", mean_shape=True),
    dict(type="Accuracy", dataset="MTFL", task="pose", balanced=True),
    dict(type="TaskSimilarity", relations=[("landmarks", "pose")]),
]
celeba_metrics = [dict(type="AttributeMetric", dataset="CelebA", task="attributes")]
val_evaluator = [*mtfl_metrics, *celeba_metrics]
test_evaluator = val_evaluator
