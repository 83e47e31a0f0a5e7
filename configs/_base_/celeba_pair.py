_base_ = "../celeba/mtl_resnet18_celeba.py"

tasks = ("att1", "att2")
train_dataloader = dict(dataset=dict(tasks=tasks))
val_dataloader = dict(dataset=dict(tasks=tasks))
test_dataloader = dict(dataset=dict(tasks=tasks))
model = dict(
    heads=dict(
        _delete_=True,
        att1=dict(type="AttributeHead", num_attributes=1),
        att2=dict(type="AttributeHead", num_attributes=1),
    ),
    neck=dict(relations=[tasks]),
)
val_evaluator = [
    dict(type="AttributeMetric", task=tasks, per_attribute=True),
    dict(type="TaskSimilarity", levels=("output",), relations=[tasks]),
]
test_evaluator = val_evaluator
