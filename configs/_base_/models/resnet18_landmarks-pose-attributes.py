_base_ = "resnet18_landmarks-pose.py"

model = dict(heads=dict(attributes=dict(type="AttributeHead", num_attributes=40)))
