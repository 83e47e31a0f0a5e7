_base_ = "male_bags-under-eyes_mtl.py"

model = dict(backbone=dict(shared_stages=0))
