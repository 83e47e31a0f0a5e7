_base_ = "mtl_test-resnet_toy.py"

custom_hooks = [dict(type="TaskRelationLossHook", weights=dict(output=0.01))]
