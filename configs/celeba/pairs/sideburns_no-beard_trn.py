_base_ = "sideburns_no-beard_mtl.py"

custom_hooks = [dict(type="TaskRelationLossHook", weights=dict(output=0.01))]
