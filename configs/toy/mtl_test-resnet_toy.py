_base_ = [
    "../_base_/models/resnet18_landmarks-pose.py",
    "../_base_/datasets/toy_faces.py",
    "../_base_/schedules/adamw_60e.py",
    "../_base_/default_runtime.py",
]

model = dict(backbone=dict(model_name="test_resnet", pretrained=False))
optim_wrapper = dict(optimizer=dict(lr=6e-3))
train_cfg = dict(max_epochs=15)
