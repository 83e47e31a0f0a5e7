_base_ = "mtl_resnet18_mtfl.py"

model = dict(neck=dict(statistic="pillai"))
custom_hooks = [dict(type="TaskRelationLossHook", weights=dict(output=10.0, hidden=1.0))]
