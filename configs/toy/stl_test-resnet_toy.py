_base_ = "mtl_test-resnet_toy.py"

model = dict(backbone=dict(shared_stages=0))
