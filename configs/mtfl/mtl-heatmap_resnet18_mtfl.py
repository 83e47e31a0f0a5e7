_base_ = "mtl-fast_resnet18_mtfl.py"

model = dict(
    heads=dict(landmarks=dict(type="HeatmapLandmarkHead", upsample=2, channels=128)),
)
