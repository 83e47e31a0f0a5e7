"""An exported file instead of a model: its inputs, its predictions and its metrics."""

import numpy as np
import pytest
import torch
from mmengine.config import Config

from trn_plugin.deploy import TaskPredictor
from trn_plugin.deploy.evaluate import (
    ExportedModel,
    crops_for_exported,
    evaluators_for,
    use_exported,
)
from trn_plugin.errors import ConfigError
from trn_plugin.structures import MultiTaskDataSample

NME = dict(type="NormalizedMeanError", task="landmarks", by="pose")
POSE = dict(type="trn_plugin.Accuracy", task="pose")
SIMILARITY = dict(
    type="TaskSimilarity", relations=[("landmarks", "pose"), (("landmarks", "age"), ("pose",))]
)
PIPELINE = [
    dict(type="LoadImage"),
    dict(type="FaceBox", mode="whole"),
    dict(type="trn_plugin.CropResize", size=8),
    dict(type="PackMultiTaskInputs"),
]


def colour(height, width, rgb):
    return torch.tensor(rgb, dtype=torch.uint8)[:, None, None].expand(3, height, width)


def test_predictions_have_the_form_of_a_models(mean_colour_model):
    model = ExportedModel(str(mean_colour_model))
    crops = [colour(10, 20, (51, 102, 204)), colour(30, 30, (204, 102, 51))]
    labels = dict(landmarks=torch.rand(2, 2), pose=torch.tensor(1), gender=torch.tensor([1.0]))
    samples = [MultiTaskDataSample(gt=dict(labels)), MultiTaskDataSample(gt={})]
    first, second = model.test_step(dict(inputs=crops, data_samples=samples))
    np.testing.assert_allclose(first.pred["landmarks"], [[0.2, 0.4], [0.4, 0.8]], atol=1e-6)
    np.testing.assert_allclose(second.pred["landmarks"], [[0.8, 0.4], [0.4, 0.2]], atol=1e-6)
    np.testing.assert_allclose(first.pred["pose"], [0.8, 0.2], atol=1e-6)
    assert first.hidden == first.output == {}
    assert first.target["pose"].tolist() == [0, 1]
    assert torch.equal(first.target["landmarks"], labels["landmarks"].flatten())
    assert set(first.target) == {"landmarks", "pose"}
    assert second.target == {}


def test_metrics_that_do_not_fit_the_file_are_named(mean_colour_model):
    predictor = TaskPredictor(mean_colour_model)
    absent = [
        dict(type="AttributeMetric", task=("smile", "hats")),
        dict(type="AttributeMetric"),  # its default task is 'attributes'
        SIMILARITY,
    ]
    kept, left_out = evaluators_for([NME, POSE, *absent], predictor)
    assert kept == [
        NME,
        POSE,
        {**SIMILARITY, "relations": [(("landmarks",), ("pose",))], "levels": ()},
    ]
    assert left_out[:2] == [
        "AttributeMetric: the file has no output hats",
        "AttributeMetric: the file has no output attributes",
    ]
    assert "relations" in left_out[2]
    assert "tau_hidden, tau_output" in left_out[3]


def test_the_pipeline_crops_but_does_not_resize():
    loader = dict(batch_size=4, dataset=dict(type="MTFL", pipeline=PIPELINE))
    changed = crops_for_exported(loader, "test_dataloader")
    steps = [step["type"] for step in changed["dataset"]["pipeline"]]
    assert steps == ["LoadImage", "FaceBox", "trn_plugin.Crop", "PackMultiTaskInputs"]
    assert changed["collate_fn"] == dict(type="pseudo_collate")
    assert loader["dataset"]["pipeline"] is PIPELINE
    assert PIPELINE[2]["size"] == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(test_dataloader=None), "no test_dataloader"),
        (
            dict(test_evaluator=[dict(type="Accuracy", task="hat")]),
            "test_evaluator: found no metric of",
        ),
        (
            dict(test_dataloader=dict(dataset=dict(pipeline=PIPELINE[:2]))),
            "expected one CropResize, .*found LoadImage, FaceBox",
        ),
        (dict(test_dataloader=dict(dataset=dict(type="MTFL"))), "found no pipeline"),
    ],
)
def test_a_config_that_cannot_test_a_file_is_named(mean_colour_model, change, message):
    config = Config(
        dict(
            test_dataloader=dict(dataset=dict(type="MTFL", pipeline=PIPELINE)),
            test_evaluator=NME,
            model=dict(type="MultiTaskModel"),
        )
        | change
    )
    with pytest.raises(ConfigError, match=message):
        use_exported(config, str(mean_colour_model))
