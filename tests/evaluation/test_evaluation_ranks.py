"""Two ranks with a padded picture equal one process: each picture counts once."""

import os
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from processes import in_ranks

from trn_plugin.evaluation import Accuracy, AttributeMetric, NormalizedMeanError, TaskSimilarity
from trn_plugin.hooks.case_pictures import CasePicturesHook
from trn_plugin.structures import MultiTaskDataSample

COUNT = 41
TASKS = dict(
    landmarks=dict(kind="landmarks", names=tuple("abcde"), interocular=(0, 1)),
    pose=dict(kind="class", classes=("left", "frontal", "right")),
    smile=dict(kind="attributes", names=("smiling",)),
)


def make_samples(picture):
    g = torch.Generator().manual_seed(0)
    samples = []
    for i in range(COUNT):
        sample = MultiTaskDataSample(metainfo=dict(img_path=picture, box=(0, 0, 64, 48)))
        points = torch.rand(5, 2, generator=g)
        pose = torch.randint(3, (), generator=g)
        smile = torch.randint(2, (1,), generator=g).float()
        sample.gt = dict(landmarks=points, pose=pose, smile=smile)
        sample.target = dict(landmarks=points.flatten(), pose=torch.eye(3)[pose])
        if i % 5 == 0:
            del sample.gt["pose"], sample.target["pose"]
        sample.pred = dict(
            landmarks=points + 0.1 * torch.randn(5, 2, generator=g),
            pose=torch.rand(3, generator=g),
            smile=torch.rand(1, generator=g),
        )
        sample.output = {task: value.flatten() for task, value in sample.pred.items()}
        samples.append(sample)
    return samples


def evaluate(samples, out):
    class Dataset(list):
        metainfo = dict(tasks=TASKS)

    dataset = Dataset(range(COUNT))
    loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset))
    visualizer = SimpleNamespace(add_image=lambda name, image: None)
    runner = SimpleNamespace(test_loop=loop, visualizer=visualizer)
    evaluator = Evaluator(
        [
            NormalizedMeanError(by="pose", mean_shape=True),
            Accuracy("pose", balanced=True),
            AttributeMetric("smile", per_attribute=True),
            TaskSimilarity([("landmarks", "pose")], levels=("output",)),
        ]
    )
    evaluator.dataset_meta = Dataset.metainfo
    hook = CasePicturesHook(out, num_worst=1, num_sample=1)
    hook.before_test(runner)
    evaluator.process(samples)
    hook.after_test_iter(runner, 0, None, samples)
    hook.after_test(runner)
    return evaluator.evaluate(COUNT)


def part(rank, folder):
    os.chdir(folder)
    samples = make_samples(str(folder / "picture.png"))
    padded = [*samples, samples[0]]
    return evaluate(padded[rank::2], str(folder / f"rank{rank}"))


def test_two_ranks_equal_one(tmp_path):
    picture = str(tmp_path / "picture.png")
    cv2.imwrite(picture, np.full((48, 64, 3), 128, np.uint8))
    expected = evaluate(make_samples(picture), str(tmp_path / "one"))
    assert expected["relation/N/landmarks-pose"] == COUNT - 9
    assert all(np.isfinite(value) for value in expected.values())
    for found in in_ranks(part, tmp_path, folder=tmp_path):
        assert found == pytest.approx(expected)
    assert (tmp_path / "rank0" / "worst.png").read_bytes() == (
        tmp_path / "one" / "worst.png"
    ).read_bytes()
    assert not (tmp_path / "rank1").exists()
