_base_ = "mtl_resnet18_mtfl-celeba.py"

model = dict(
    heads=dict(
        _delete_=True,
        landmarks={{_base_.model.heads.landmarks}},
        pose={{_base_.model.heads.pose}},
    )
)
train_dataloader = dict(
    sampler=dict(_delete_=True, type="DrawSampler", shuffle=True),
    dataset=dict(datasets=[{{_base_.mtfl_train}}]),
)
val_dataloader = dict(dataset=dict(datasets=[{{_base_.mtfl_val}}]))
test_dataloader = dict(dataset=dict(datasets=[{{_base_.mtfl_test}}]))
val_evaluator = {{_base_.mtfl_metrics}}
test_evaluator = val_evaluator
