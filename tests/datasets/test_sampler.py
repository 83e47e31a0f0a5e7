import pickle

import pytest
import torch
from mmengine.dataset import DefaultSampler

from trn_plugin.datasets import MTFL, DrawSampler, SampleDraw

PIPELINE = [
    dict(type="trn_plugin.LoadImage"),
    dict(type="trn_plugin.FaceBox", mode="jitter"),
    dict(type="trn_plugin.CropResize", size=24),
    dict(
        type="trn_plugin.Albumentations",
        transforms=[
            dict(type="Rotate", limit=30, p=0.8),
            dict(type="GaussNoise", p=0.8),
            dict(type="Spatter", p=0.5),
            dict(type="OneOf", transforms=[dict(type="ToGray"), dict(type="RandomGamma")], p=0.5),
        ],
    ),
    dict(type="trn_plugin.RandomFlip", prob=0.5),
    dict(type="trn_plugin.PackMultiTaskInputs"),
]


@pytest.fixture(scope="module")
def dataset(toy_root):
    return MTFL(toy_root, pipeline=PIPELINE, indices=24)


def collate(samples):
    pictures = torch.stack([sample["inputs"] for sample in samples])
    points = torch.stack([sample["data_samples"].gt["landmarks"] for sample in samples])
    return pictures, points


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_a_draw_is_an_index_that_survives_pickling():
    draw = SampleDraw(7, epoch=3, seed=11)
    assert draw == 7
    assert [*range(10)][draw] == 7
    copy = pickle.loads(pickle.dumps(draw))
    assert (int(copy), copy.epoch, copy.seed) == (7, 3, 11)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("epoch", [0, 4])
def test_same_order_as_mmengines_sampler(shuffle, epoch):
    ours = DrawSampler(range(23), shuffle=shuffle, seed=5)
    theirs = DefaultSampler(range(23), shuffle=shuffle, seed=5)
    for sampler in (ours, theirs):
        sampler.set_epoch(epoch)
    draws = list(ours)
    assert draws == list(theirs)
    assert {(draw.epoch, draw.seed) for draw in draws} == {(epoch, 5)}


def test_shards_are_mmengines(monkeypatch):
    for rank in range(3):
        monkeypatch.setattr("mmengine.dataset.sampler.get_dist_info", lambda rank=rank: (rank, 3))
        assert list(DrawSampler(range(10), seed=1)) == list(DefaultSampler(range(10), seed=1))
        assert len(DrawSampler(range(10), seed=1)) == 4


def test_epoch_and_seed_each_change_every_augmentation(dataset):
    base = [dataset[SampleDraw(i, epoch=1, seed=2)]["inputs"] for i in range(len(dataset))]
    for other in (dict(epoch=2, seed=2), dict(epoch=1, seed=3), dict(epoch=2, seed=1)):
        for i, picture in enumerate(base):
            assert not torch.equal(picture, dataset[SampleDraw(i, **other)]["inputs"])


def test_the_same_draw_is_the_same_sample(dataset):
    for i in range(len(dataset)):
        first = collate([dataset[SampleDraw(i, epoch=6, seed=1)]])
        dataset[SampleDraw((i + 1) % len(dataset), epoch=7)]
        torch.manual_seed(i)
        assert same(first, collate([dataset[SampleDraw(i, epoch=6, seed=1)]]))
