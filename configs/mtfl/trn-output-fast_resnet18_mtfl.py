_base_ = "mtl-fast_resnet18_mtfl.py"

custom_hooks = [dict(type="TaskRelationLossHook", weights=dict(output=0.01))]
