_base_ = "wearing-hat_bald_mtl.py"

custom_hooks = [dict(type="TaskRelationLossHook", weights=dict(output=0.01))]
