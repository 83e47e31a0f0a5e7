_base_ = "sideburns_arched-eyebrows_mtl.py"

custom_hooks = [dict(type="TaskRelationLossHook", weights=dict(output=0.01))]
