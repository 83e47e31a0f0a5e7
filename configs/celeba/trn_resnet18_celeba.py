_base_ = "mtl_resnet18_celeba.py"

custom_hooks = [dict(type="TaskRelationLossHook", weights=dict(output=0.01))]
