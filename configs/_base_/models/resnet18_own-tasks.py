model = dict(
    type="MultiTaskModel",
    backbone=dict(type="TimmTrunk", model_name="resnet18", pretrained=True, shared_stages=-1),
    neck=dict(type="TaskRelationNeck", momentum=0.99, levels=("hidden", "output"), relations="all"),
)
