_base_ = "../../configs/_base_/own_data.py"

custom_imports = dict(imports=["age_task", "age_head"])
levels = ("0-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "70+")
faces = dict(
    data_root="faces",
    ann_file="labels.csv",
    labels=dict(age_group=dict(kind="ordinal", levels=levels), smile=dict(kind="attributes")),
)
train_dataloader = dict(dataset=faces)
val_dataloader = dict(dataset=faces)
test_dataloader = dict(dataset=faces)

model = dict(
    heads=dict(
        age_group=dict(type="OrdinalHead", num_levels=8),
        smile=dict(type="AttributeHead", num_attributes=1),
    ),
    neck=dict(type="TaskRelationNeck", relations=[("age_group", "smile")]),
)
val_evaluator = [
    dict(type="LevelError", task="age_group"),
    dict(type="AttributeMetric", task="smile"),
]
test_evaluator = val_evaluator
