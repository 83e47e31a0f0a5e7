_base_ = "mustache_goatee_mtl.py"

model = dict(backbone=dict(shared_stages=0))
