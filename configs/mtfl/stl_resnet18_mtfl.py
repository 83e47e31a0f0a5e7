_base_ = "mtl_resnet18_mtfl.py"

model = dict(backbone=dict(shared_stages=0))
