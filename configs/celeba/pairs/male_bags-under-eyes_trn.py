_base_ = "male_bags-under-eyes_mtl.py"

custom_hooks = [dict(type="TaskRelationLossHook", weights=dict(output=0.01))]
