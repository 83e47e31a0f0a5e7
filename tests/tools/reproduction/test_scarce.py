"""Landmark labels for a share of the pictures, and tau of the unlabelled ones."""

import numpy as np
import pytest
import torch
from reproduction.scarce import ScarceMTFL, UnlabelledRelationNeck

from trn_plugin.datasets.toy_faces import make_toy_faces
from trn_plugin.models.neck import TaskRelationNeck

DIMS = {level: {"landmarks": 10, "pose": 5} for level in ("output", "label")}


def connected(kind):
    neck = kind(relations=[("landmarks", "pose")], levels=("output",), momentum=0.5)
    neck.connect(DIMS)
    return neck.train()


def batch(n=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        level: {task: torch.randn(n, d, generator=generator) for task, d in dims.items()}
        for level, dims in DIMS.items()
    }


def test_a_share_of_the_pictures_keeps_its_landmarks(tmp_path):
    make_toy_faces(str(tmp_path), seed=0, train_size=60, test_size=1)

    def kept(share):
        data = ScarceMTFL(share=share, data_root=str(tmp_path), ann_file="training.txt")
        infos = [data.get_data_info(i) for i in range(len(data))]
        assert all(len(info["landmarks"]) == 5 for info in infos), "boxes are of all landmarks"
        return np.array(["landmarks" in info["gt"] for info in infos])

    none, some, more, everything = map(kept, (0.0, 0.3, 0.6, 1.0))
    assert not none.any()
    assert everything.all()
    assert some.mean() == pytest.approx(0.3, abs=0.2)
    assert (more | ~some).all(), "those of a smaller share are among those of a larger one"


def test_features_of_all_and_labels_of_some_pictures():
    features, everywhere = batch(), {"landmarks": None, "pose": None}
    some = {"landmarks": torch.arange(200) < 100, "pose": None}
    found = connected(UnlabelledRelationNeck)(features, some)["output"]
    of_all = connected(TaskRelationNeck)(features, everywhere)["output"]
    labelled = {
        level: {task: values[:100] for task, values in tasks.items()}
        for level, tasks in features.items()
    }
    of_some = connected(TaskRelationNeck)(labelled, everywhere)["output"]
    torch.testing.assert_close(found.tau, of_all.tau)
    torch.testing.assert_close(found.label, of_some.label)
