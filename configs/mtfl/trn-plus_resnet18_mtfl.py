_base_ = "trn-hidden-output_resnet18_mtfl.py"

model = dict(heads=dict(landmarks=dict(loss_weight=30.0)))
