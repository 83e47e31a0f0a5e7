_base_ = "wearing-hat_bald_mtl.py"

model = dict(backbone=dict(shared_stages=0))
