model = dict(
    type="MultiTaskModel",
    backbone=dict(type="TimmTrunk", model_name="resnet18", pretrained=True, shared_stages=-1),
    heads=dict(
        landmarks=dict(type="LandmarkHead", num_points=5, loss_weight=10.0),
        pose=dict(type="ClassificationHead", num_classes=5),
    ),
    neck=dict(
        type="TaskRelationNeck",
        momentum=0.99,
        levels=("hidden", "output"),
        relations=[("landmarks", "pose")],
    ),
)
