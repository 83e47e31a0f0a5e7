model = dict(
    type="MultiTaskModel",
    backbone=dict(type="TimmTrunk", model_name="resnet18", pretrained=True, shared_stages="all"),
    heads=dict(
        group_a=dict(type="AttributeHead", num_attributes=20),
        group_b=dict(type="AttributeHead", num_attributes=20),
    ),
    neck=dict(
        type="TaskRelationNeck",
        momentum=0.99,
        levels=("output",),
        relations=[("group_a", "group_b")],
    ),
)
