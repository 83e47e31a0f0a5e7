import copy
import pickle
from multiprocessing.reduction import ForkingPickler

import pytest
import torch

from trn_plugin.structures import MultiTaskDataSample


def sample():
    return MultiTaskDataSample(
        metainfo=dict(img_path="a.jpg", box=(1, 2, 3, 4)),
        gt=dict(points=torch.rand(5, 2), pose=torch.tensor(3), none=torch.zeros(0)),
        pred=dict(half=torch.ones(2, dtype=torch.bfloat16), leaf=torch.ones(2, requires_grad=True)),
        note="text",
    )


def assert_same(left, right):
    assert left.metainfo == right.metainfo
    assert set(left.keys()) == set(right.keys())
    for key in ("gt", "pred"):
        for task, value in left.get(key).items():
            other = right.get(key)[task]
            assert (value.dtype, value.requires_grad) == (other.dtype, other.requires_grad)
            torch.testing.assert_close(value, other, rtol=0, atol=0)
    assert left.note == right.note


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies_are_the_same(way):
    original = sample()
    other = way(original)
    assert_same(original, other)
    other.gt["points"] = torch.zeros(1)  # the copy is writable, like the original
    other.pred = dict(pose=torch.ones(5))
    assert original.gt["points"].shape == (5, 2) or way is copy.copy
    assert set(original.pred) == {"half", "leaf"}


def test_labels_are_pickled_as_plain_bytes():
    """torch would send each tensor as a shared-memory file, which is many times slower."""
    one = MultiTaskDataSample(gt=sample().gt)
    data = bytes(ForkingPickler.dumps([one] * 2))
    assert b"rebuild" not in data
    labels = pickle.loads(data)[1].gt
    assert all(torch.equal(labels[task], value) for task, value in one.gt.items())
    assert b"rebuild" in bytes(ForkingPickler.dumps(dict(one.gt)))  # what is avoided
