"""Classes of samples for ``ClassBalancedDataset``, also in wrapping data sets."""

import numpy as np
import pytest
import torch
from mmengine.dataset import ClassBalancedDataset
from mmengine.registry import init_default_scope

from trn_plugin.datasets import MTFL, DrawnDataset, SampleDraw
from trn_plugin.engine import SafeRunner
from trn_plugin.errors import ConfigError

PIPELINE = [
    dict(type="trn_plugin.LoadImage"),
    dict(type="trn_plugin.FaceBox", mode="jitter"),
    dict(type="trn_plugin.CropResize", size=8),
    dict(type="trn_plugin.PackMultiTaskInputs"),
]


class OwnWrapper:
    def __init__(self, dataset):
        self.hidden = dataset


def test_rare_classes_are_repeated(toy_root):
    one = MTFL(toy_root, tasks=("smile", "pose"), indices=40)
    poses = [one.get_data_info(i)["gt"]["pose"] for i in range(40)]
    smiles = [one.get_data_info(i)["gt"]["smile"][0] for i in range(40)]
    for i in range(40):  # smile is name 0; the poses come behind it
        assert one.get_cat_ids(i) == [0] * int(smiles[i]) + [1 + poses[i]]
    counts = np.bincount(ClassBalancedDataset(one, 0.5).repeat_indices, minlength=40)
    rarest = np.bincount(poses).argmin()
    assert counts[np.array(poses) == rarest].min() > 1
    balanced = DrawnDataset(ClassBalancedDataset(one, 0.5))
    expected = np.average(smiles, weights=counts)
    np.testing.assert_allclose(balanced.labels_of("smile").mean(axis=0), [expected])


@pytest.mark.parametrize("kind", ["ConcatDataset", "MixedDataset", "RepeatDataset"])
def test_rare_classes_are_repeated_within_wrappers(toy_root, kind):
    init_default_scope("trn_plugin")
    smile, pose = (
        MTFL(toy_root, pipeline=PIPELINE, tasks=(task,), indices=8, metainfo=dict(dataset=task))
        for task in ("smile", "pose")
    )
    options = dict(
        ConcatDataset=dict(datasets=[smile, pose], ignore_keys=["tasks", "dataset"]),
        MixedDataset=dict(datasets=[smile, pose]),
        RepeatDataset=dict(dataset=pose, times=2),
    )[kind]
    inner = dict(type="trn_plugin.DrawnDataset", dataset=dict(type=kind, **options))
    balanced = DrawnDataset(ClassBalancedDataset(inner, 0.9))
    within = balanced.dataset.dataset
    poses = [pose.get_data_info(i)["gt"]["pose"] for i in range(8)]
    smiles = [int(smile.get_data_info(i)["gt"]["smile"][0]) for i in range(8)]
    if kind == "RepeatDataset":
        expected = 2 * [[number] for number in poses]
    else:  # smile is name 0; the poses come behind it
        expected = [[0] * there for there in smiles] + [[1 + number] for number in poses]
    assert [within.get_cat_ids(i) for i in range(16)] == expected
    assert len(balanced) > len(within) == 16
    draws = [SampleDraw(len(balanced) - 1, epoch, 4) for epoch in (1, 1, 2)]
    once, again, later = (balanced[draw]["inputs"] for draw in draws)
    assert torch.equal(once, again)
    assert not torch.equal(once, later)


def test_an_unknown_wrapper_in_a_balanced_data_set_is_refused(toy_root):
    dataset = DrawnDataset(OwnWrapper(MTFL(toy_root)))
    with pytest.raises(ConfigError, match="OwnWrapper does not describe the classes"):
        dataset.get_cat_ids(0)


@pytest.mark.parametrize("kind", ["ConcatDataset", "RepeatDataset"])
def test_a_plain_wrapper_in_a_balanced_data_set_is_refused(toy_root, kind):
    init_default_scope("trn_plugin")
    one = dict(type="MTFL", data_root=toy_root)
    inner = dict(datasets=[one]) if kind == "ConcatDataset" else dict(dataset=one, times=2)
    dataset = dict(type="ClassBalancedDataset", oversample_thr=0.9, dataset=dict(inner, type=kind))
    loader = dict(batch_size=2, dataset=dataset, sampler=dict(type="DrawSampler"))
    with pytest.raises(ConfigError, match=f"{kind} has no get_cat_ids.*DrawnDataset"):
        SafeRunner.build_dataloader(loader, 3)
