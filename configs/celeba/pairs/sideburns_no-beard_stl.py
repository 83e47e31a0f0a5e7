_base_ = "sideburns_no-beard_mtl.py"

model = dict(backbone=dict(shared_stages=0))
