_base_ = "mustache_goatee_mtl.py"

custom_hooks = [dict(type="TaskRelationLossHook", weights=dict(output=0.01))]
