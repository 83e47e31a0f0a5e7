"""Losses and relations of batches in which single points are missing."""

import copy
import pickle

import numpy as np
import pytest
import torch

from trn_plugin.evaluation import NormalizedMeanError, TaskSimilarity
from trn_plugin.models.heads import LandmarkHead
from trn_plugin.registry import MODELS
from trn_plugin.structures import MultiTaskBatch, MultiTaskDataSample
from trn_plugin.tasks import read_tasks

COUNT = 24
TASKS = read_tasks(
    dict(
        points=dict(kind="landmarks", names=("a", "b", "c"), interocular=(0, 1)),
        pose=dict(kind="class", classes=("x", "y", "z")),
    )
)


def samples(missing=True):
    """Samples, some without points, some with a part of them."""
    g = torch.Generator().manual_seed(0)
    for row in range(COUNT):
        points = torch.rand(3, 2, generator=g)
        if missing and row % 3 == 1:
            points[row % 2 + 1] = torch.nan
        if missing and row % 6 == 2:
            points[1:] = torch.nan
        sample = MultiTaskDataSample(metainfo=dict(tasks=TASKS, box=(0, 0, 50, 80)))
        sample.gt = {"points": points, "pose": torch.tensor(row % 3)}
        if row == 6:
            del sample.gt["points"]
        yield sample


def batch(missing=True):
    return MultiTaskBatch.of(list(samples(missing)), TASKS)


def outputs():
    return torch.rand(COUNT, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()


def test_complete_labels_have_no_parts():
    assert batch().complete == {"pose"}
    assert batch(missing=False).complete == {"pose"}  # one sample has no points
    assert not batch(missing=False).parts
    assert list(batch().parts) == ["points"]


@pytest.mark.parametrize("loss", ["l1", "l2", "smooth_l1"])
def test_loss_is_the_mean_over_the_points_that_are_there(loss):
    head = LandmarkHead(3, 4, loss=loss, loss_weight=3.0)
    found, output = batch(), outputs()
    total = head.loss(output, found.targets["points"], found.masks["points"], found.parts["points"])
    total.backward()
    functions = dict(l1=torch.nn.L1Loss(), l2=torch.nn.MSELoss(), smooth_l1=torch.nn.SmoothL1Loss())
    functions["smooth_l1"].beta = 0.02
    kept, labels = outputs(), []
    rows = [
        (row, sample.gt["points"]) for row, sample in enumerate(samples()) if "points" in sample.gt
    ]
    pairs = [
        (kept[row].view(3, 2)[point], label[point])
        for row, label in rows
        for point in range(3)
        if not label[point].isnan().any()
    ]
    labels = torch.stack([label for _, label in pairs])
    expected = 3.0 * functions[loss](torch.stack([output for output, _ in pairs]), labels)
    expected.backward()
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(output.grad, kept.grad)


def same(a, b):
    assert torch.equal(a.matrix, b.matrix)
    assert torch.equal(a.mask, b.mask)
    assert a.parts.keys() == b.parts.keys()
    assert all(torch.equal(a.parts[task], b.parts[task]) for task in a.parts)


def test_parts_travel_with_the_batch():
    found = batch()
    for other in (
        pickle.loads(pickle.dumps(found)),
        copy.deepcopy(found),
        found.to("cpu"),
        found.with_fields(pred={}),
        MultiTaskBatch.of(list(found), TASKS),
    ):
        same(found, other)
    for label, sample in zip(found.labels("points"), samples(), strict=True):
        if label is None:
            assert "points" not in sample.gt
        else:
            np.testing.assert_array_equal(label, sample.gt["points"].numpy())


def model():
    torch.manual_seed(0)
    return MODELS.build(
        dict(
            type="MultiTaskModel",
            backbone=dict(type="TimmTrunk", model_name="test_resnet", pretrained=False),
            heads=dict(
                points=dict(type="LandmarkHead", num_points=3),
                pose=dict(type="ClassificationHead", num_classes=3),
            ),
            neck=dict(type="TaskRelationNeck", relations=[("points", "pose")], levels=("output",)),
        )
    )


def test_relations_use_the_whole_labels():
    pictures = torch.rand(COUNT, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    whole = [
        row
        for row, sample in enumerate(samples())
        if "points" in sample.gt and not sample.gt["points"].isnan().any()
    ]
    network = model().eval()
    network.neck.train()
    network.loss(pictures, batch())
    alone = model().eval()
    alone.neck.train()
    chosen = [sample for row, sample in enumerate(samples()) if row in whole]
    alone.loss(pictures[whole], MultiTaskBatch.of(chosen, TASKS))
    for level in ("output", "label"):
        ours, theirs = (each.neck.layers_of(level) for each in (network, alone))
        assert ours.effective_sample_size == pytest.approx(len(whole), rel=1e-5)
        ours.eval(), theirs.eval()
        for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("as_batch", [True, False])
def test_metrics_count_what_is_there(as_batch):
    pictures = torch.rand(COUNT, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    predicted = model().eval().predict(pictures, batch())
    given = predicted if as_batch else [sample.to_dict() for sample in predicted]
    error = NormalizedMeanError("points", norm="crop", mean_shape=True)
    similarity = TaskSimilarity([("points", "pose")], levels=("output",))
    for metric in (error, similarity):
        metric.dataset_meta = dict(tasks={name: task.info for name, task in TASKS.items()})
        metric.process(None, given)
    side, errors, whole = np.array([50.0, 80.0]), [], 0
    for sample, points in zip(samples(), predicted.array("pred", "points"), strict=True):
        if "points" in sample.gt:
            truth = sample.gt["points"].numpy()
            there = ~np.isnan(truth).any(1)
            whole += there.all()
            distances = np.linalg.norm((points - truth)[there] * side, axis=1)
            errors.append(100 * distances.mean() / np.sqrt(side.prod()))
    found = error.evaluate(COUNT)
    assert found["points/NME"] == pytest.approx(np.mean(errors), rel=1e-5)
    assert found["points/failure_rate"] == pytest.approx(100 * np.mean(np.array(errors) > 10))
    assert np.isfinite(found["points/NME_mean_shape"])
    assert similarity.evaluate(COUNT)["relation/N/points-pose"] == whole
