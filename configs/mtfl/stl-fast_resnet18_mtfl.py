_base_ = "mtl-fast_resnet18_mtfl.py"

model = dict(backbone=dict(shared_stages=0))
