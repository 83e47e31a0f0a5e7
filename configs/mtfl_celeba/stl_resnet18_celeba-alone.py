_base_ = "mtl_resnet18_mtfl-celeba.py"

model = dict(
    heads=dict(_delete_=True, attributes={{_base_.model.heads.attributes}}),
    neck=None,
)
train_dataloader = dict(
    sampler=dict(_delete_=True, type="DrawSampler", shuffle=True),
    dataset=dict(datasets=[{{_base_.celeba_train}}]),
)
val_dataloader = dict(dataset=dict(datasets=[{{_base_.celeba_val}}]))
test_dataloader = dict(dataset=dict(datasets=[{{_base_.celeba_test}}]))
val_evaluator = {{_base_.celeba_metrics}}
test_evaluator = val_evaluator
