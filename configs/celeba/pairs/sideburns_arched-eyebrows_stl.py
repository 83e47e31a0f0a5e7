_base_ = "sideburns_arched-eyebrows_mtl.py"

model = dict(backbone=dict(shared_stages=0))
