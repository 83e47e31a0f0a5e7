"""The cache of decoded pictures changes no sample and is shared by workers."""

import copy
import pickle
import shutil
from itertools import chain

import numpy as np
import pytest
import torch
from celeba_files import make_celeba
from torch.utils.data import DataLoader

from trn_plugin.datasets import (
    MTFL,
    CelebA,
    DrawSampler,
    SampleDraw,
)
from trn_plugin.datasets.transforms._cache import CachedPicture, PictureCache

JITTER = dict(type="trn_plugin.FaceBox", mode="jitter", scale=(1.0, 4.0))
WHOLE = dict(type="trn_plugin.FaceBox", mode="whole")
REST = [dict(type="trn_plugin.RandomFlip"), dict(type="trn_plugin.PackMultiTaskInputs")]


@pytest.fixture(scope="module")
def sets(toy_root, tmp_path_factory):
    """Makes a data set whose boxes are sampled each epoch ('mtfl') or fixed ('celeba')."""
    celeba = tmp_path_factory.mktemp("cached")
    make_celeba(celeba, count=24)

    def make(kind, cache_gb, reduced=True, root=None, **turns):
        load = dict(type="trn_plugin.LoadCrop", size=24, reduced=reduced, cache_gb=cache_gb)
        load.update(turns)
        if kind == "mtfl":
            return MTFL(root or toy_root, pipeline=[JITTER, load, *REST], indices=24)
        return CelebA(root or str(celeba), pipeline=[WHOLE, load, *REST])

    make.roots = dict(mtfl=toy_root, celeba=str(celeba))
    return make


def epochs(dataset, numbers, workers=0):
    sampler = DrawSampler(dataset, shuffle=True, seed=1)
    loader = DataLoader(
        dataset,
        batch_size=6,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context="fork" if workers else None,
        collate_fn=list,
    )
    out = []
    for number in numbers:
        sampler.set_epoch(number)
        out.append([sample for batch in loader for sample in batch])
    return out


def assert_same(left, right):
    for a, b in zip(chain(*left), chain(*right), strict=True):
        assert torch.equal(a["inputs"], b["inputs"])
        first, second = a["data_samples"], b["data_samples"]
        assert all(torch.equal(first.gt[task], second.gt[task]) for task in first.gt)
        assert (first.box, first.ori_shape) == (second.box, second.ori_shape)


@pytest.mark.parametrize("kind", ["mtfl", "celeba"])
@pytest.mark.parametrize(("workers", "rotate"), [(0, 0), (2, 0), (2, 20)])
def test_the_cache_changes_no_sample(sets, kind, workers, rotate):
    plain = epochs(sets(kind, 0, rotate=rotate), [0, 1, 2])
    cached = sets(kind, 0.05, rotate=rotate)
    assert_same(epochs(cached, [0, 1, 2], workers), plain)
    assert len(cached.pipeline.transforms[1].cache) >= 24  # filled by the workers, seen here


@pytest.mark.parametrize("workers", [0, 2])
def test_cached_pictures_are_not_read_again(sets, tmp_path, workers):
    root = tmp_path / "faces"
    shutil.copytree(sets.roots["celeba"], root)
    dataset = sets("celeba", 0.05, root=str(root))
    first = epochs(dataset, [3], workers)
    shutil.rmtree(root / "img_align_celeba")
    assert_same(epochs(dataset, [3], workers), first)


def test_the_cache_is_bounded_and_logs_when_it_is_full(sets, logged):
    size = 24 * 24 * 3
    dataset = sets("celeba", 5.5 * size / (1 << 30))
    plain = epochs(sets("celeba", 0), [0, 1])
    assert_same(epochs(dataset, [0, 1]), plain)
    assert len(dataset.pipeline.transforms[1].cache) == 5
    assert logged().count("picture cache: full, 5 pictures") == 1


def test_copies_of_a_cache_are_empty():
    cache = PictureCache(1 << 20)
    cache.open(1)
    cache.put(0, CachedPicture(np.zeros((2, 3, 3), np.uint8), 1, (2, 3)))
    for other in (pickle.loads(pickle.dumps(cache)), copy.deepcopy(cache)):
        assert len(cache) == 1
        assert len(other) == 0
        assert other.get(0) is None


def test_transforms_cannot_change_cached_pictures(sets):
    dataset = sets("celeba", 0.05)
    draw = SampleDraw(0)
    before = dataset[draw]["inputs"].clone()
    dataset[draw]["inputs"].zero_()
    assert torch.equal(dataset[draw]["inputs"], before)


def test_a_subset_starts_with_an_empty_cache(sets):
    plain, cached = sets("celeba", 0), sets("celeba", 0.05)
    epochs(cached, [0])
    for dataset in (plain, cached):
        dataset.get_subset_([3, 4])
    draws = [SampleDraw(0), SampleDraw(1)]
    assert_same([[cached[draw] for draw in draws]], [[plain[draw] for draw in draws]])
