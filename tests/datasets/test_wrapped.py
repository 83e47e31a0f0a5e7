"""Augmented views of samples under any sampler and any wrapping data set."""

import itertools
from functools import cache

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset
from mmengine.registry import init_default_scope
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler, Subset

from trn_plugin.datasets import MTFL, DrawnDataset, NumberedDraws, SampleDraw
from trn_plugin.datasets.wrapped import parts_of
from trn_plugin.engine import SafeRunner
from trn_plugin.engine.loops import batches_from
from trn_plugin.errors import ConfigError
from trn_plugin.registry import DATA_SAMPLERS, DATASETS

COUNT = 12
PIPELINE = [
    dict(type="trn_plugin.LoadImage"),
    dict(type="trn_plugin.FaceBox", mode="jitter"),
    dict(type="trn_plugin.CropResize", size=8),
    dict(type="trn_plugin.RandomFlip", prob=0.5),
    dict(type="trn_plugin.PackMultiTaskInputs"),
]


@DATASETS.register_module(force=True)
class PartOf(Subset):
    def __init__(self, dataset, indices):
        super().__init__(DATASETS.build(dataset), indices)


@DATASETS.register_module(force=True)
class OwnWrapper:
    """A wrapper of a user: each sample twice."""

    def __init__(self, dataset):
        self.hidden = DATASETS.build(dataset)

    def __len__(self):
        return 2 * len(self.hidden)

    def __getitem__(self, index):
        return self.hidden[index // 2]


@DATA_SAMPLERS.register_module(force=True)
class InOrder(SequentialSampler):
    """A sampler of torch, without seed and epoch."""

    def __init__(self, dataset, seed):
        super().__init__(dataset)


SAMPLERS = {
    "draw": dict(type="DrawSampler", shuffle=True),
    "default": dict(type="DefaultSampler", shuffle=True),
    "default in order": dict(type="DefaultSampler", shuffle=False),
    "infinite": dict(type="InfiniteSampler", shuffle=True),
    "infinite in order": dict(type="InfiniteSampler", shuffle=False),
    "of torch": dict(type="InOrder"),
}
WRAPPERS = {
    "bare": lambda one: one(indices=COUNT),
    "repeat": lambda one: dict(type="RepeatDataset", times=3, dataset=one(indices=4)),
    "concat": lambda one: dict(type="ConcatDataset", datasets=[one(indices=5), one(indices=-7)]),
    "balanced": lambda one: dict(
        type="ClassBalancedDataset", oversample_thr=0.9, dataset=one(indices=6)
    ),
    "subset": lambda one: dict(type="PartOf", indices=[7, 3, 3, 5], dataset=one(indices=8)),
    "own": lambda one: dict(type="OwnWrapper", dataset=one(indices=6)),
    "nested": lambda one: dict(
        type="RepeatDataset",
        times=2,
        dataset=dict(type="ConcatDataset", datasets=[one(indices=3), one(indices=-3)]),
    ),
}


def flat(samples):
    return torch.stack([sample["inputs"] for sample in samples]), [
        (sample["data_samples"].img_path) for sample in samples
    ]


def loader_of(root, sampler, wrapper, workers=0, seed=4, batch_size=3, **more):
    init_default_scope("trn_plugin")

    def one(**options):
        return dict(type="MTFL", data_root=root, pipeline=PIPELINE, **options)

    config = dict(
        batch_size=batch_size,
        num_workers=workers,
        sampler=dict(SAMPLERS[sampler]),
        dataset=WRAPPERS[wrapper](one),
        collate_fn=flat,
        disable_subprocess_warning=True,
        **more,
    )
    return SafeRunner.build_dataloader(config, seed)


def views(loader, epochs=2, start=0):
    """(paths, pictures) of each epoch, an endless sampler's cut into the length of the data."""
    size = -(-len(loader.dataset) // loader.batch_size)
    sampler = loader.batch_sampler.sampler
    endless = "Infinite" in type(getattr(sampler, "sampler", sampler)).__name__
    found = []
    if endless:
        stream = batches_from(loader, start)
        for _ in range(epochs):
            found.append(list(itertools.islice(stream, size - start)))
            start = 0
        stream.close()
    else:
        for epoch in range(epochs):
            sampler.set_epoch(epoch)
            found.append(list(batches_from(loader, start if epoch == 0 else 0)))
    return [
        ([path for _, paths in epoch for path in paths], torch.cat([x for x, _ in epoch]))
        for epoch in found
    ]


def same(left, right):
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in zip(left, right, strict=True))


@cache
def without_workers(root, sampler, wrapper):
    return views(loader_of(root, sampler, wrapper), epochs=3)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_view_of_a_picture_is_seen_twice(toy_root, sampler, wrapper):
    seen = {}
    for paths, pictures in without_workers(toy_root, sampler, wrapper):
        for path, picture in zip(paths, pictures, strict=True):
            assert not any(torch.equal(picture, other) for other in seen.setdefault(path, []))
            seen[path].append(picture)
    assert max(map(len, seen.values())) >= 3


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_views_depend_only_on_the_seed(toy_root, sampler, wrapper):
    """Not on workers, other random numbers, or where a resumed epoch begins."""
    (paths, pictures), second, _ = without_workers(toy_root, sampler, wrapper)
    torch.manual_seed(2)
    np.random.seed(3)
    resumed = views(loader_of(toy_root, sampler, wrapper), start=1)
    assert same(resumed, [(paths[3:], pictures[3:]), second])
    other = views(loader_of(toy_root, sampler, wrapper, seed=5), epochs=1)
    assert not torch.equal(other[0][1], pictures)


@pytest.mark.parametrize(
    ("sampler", "wrapper", "workers"),
    [
        (sampler, wrapper, (1, 4)[(i + j) % 2])
        for i, sampler in enumerate(("draw", "default", "infinite"))
        for j, wrapper in enumerate(WRAPPERS)
    ],
)
def test_workers_change_nothing(toy_root, sampler, wrapper, workers):
    (paths, pictures), second, _ = without_workers(toy_root, sampler, wrapper)
    persistent = workers == 4
    loader = loader_of(toy_root, sampler, wrapper, workers, persistent_workers=persistent)
    assert same(views(loader, start=1), [(paths[3:], pictures[3:]), second])


@pytest.mark.parametrize("sampler", ["default", "infinite"])
def test_several_processes_give_the_views_of_one(toy_root, sampler, monkeypatch):
    whole = views(loader_of(toy_root, sampler, "repeat", batch_size=1), epochs=1)[0][1]
    for rank in range(2):
        for module in ("mmengine.dataset.sampler", "trn_plugin.datasets.sampler"):
            monkeypatch.setattr(f"{module}.get_dist_info", lambda rank=rank: (rank, 2))
        loader = loader_of(toy_root, sampler, "repeat", batch_size=1)
        part = torch.cat([x for x, _ in itertools.islice(batches_from(loader, 0), 6)])
        assert torch.equal(part, whole[rank::2])


def test_a_custom_batch_sampler_gets_the_draws(toy_root):
    DATA_SAMPLERS.register_module(name="OwnBatches", module=BatchSampler, force=True)
    batches = dict(type="OwnBatches", drop_last=False)
    loaders = [
        loader_of(toy_root, "default", "repeat", workers, batch_sampler=batches)
        for workers in (0, 1)
    ]
    assert torch.equal(*(torch.cat([x for x, _ in loader]) for loader in loaders))


@pytest.mark.parametrize("wrapper", [w for w in WRAPPERS if w != "own"])
def test_without_a_draw_views_are_random(toy_root, wrapper):
    """Another project's runner, which reseeds all generators each epoch."""
    dataset = loader_of(toy_root, "default", wrapper).dataset
    dataset = getattr(dataset, "dataset", dataset)  # as another project's runner builds it
    seen = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        seen.append([dataset[i]["inputs"] for i in range(4)])
    assert not any(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_a_wrapped_sampler_keeps_order_and_attributes():
    class Weights(RandomSampler):
        weights = "abc"

    sampler = NumberedDraws(range(5), Weights(range(5)), seed=3)
    assert sorted(sampler) == [0, 1, 2, 3, 4]
    assert (len(sampler), sampler.weights, sampler.seed) == (5, "abc", 3)
    sampler.seed = 9
    sampler.set_epoch(2)
    draws = list(sampler)
    assert {(draw.seed, draw.epoch) for draw in draws} == {(9, 2)}
    assert [draw.position for draw in draws] == [0, 1, 2, 3, 4]
    assert not hasattr(sampler, "other")
    pairs = [(1, "large"), (0, "small")]  # keys of a data set that are more than an index
    assert list(NumberedDraws(range(2), type("Pairs", (list,), {})(pairs), seed=0)) == pairs


class Plain(BaseDataset):
    """Another project's data set with its own record format."""

    METAINFO = dict(tasks={})

    def load_data_list(self):
        return [dict(number=i) for i in range(5)]


def test_another_projects_data_set_is_read_unchanged():
    dataset = DrawnDataset(Plain())
    assert [dataset[SampleDraw(i)]["number"] for i in range(len(dataset))] == [0, 1, 2, 3, 4]
    assert dataset.metainfo == dict(tasks={})
    with pytest.raises(ConfigError, match="Plain has no labels_of"):
        dataset.labels_of("smile").mean(axis=0)


@pytest.fixture
def face_sets(toy_root):
    def make(**options):
        return MTFL(toy_root, tasks=("smile", "pose"), **options)

    return make


def test_labels_are_counted_through_wrappers(face_sets, toy_root):
    a, b = face_sets(indices=7), face_sets(indices=-9)
    config = dict(type="ConcatDataset", datasets=[a, b])
    wrapped = Subset(RepeatDataset(config, 2), [0, 6, 7, 16, 20, 31])
    rows = [a[i]["gt"]["smile"] for i in (0, 6)]
    rows += [b[0]["gt"]["smile"], a[0]["gt"]["smile"], a[4]["gt"]["smile"], b[8]["gt"]["smile"]]
    dataset = DrawnDataset(wrapped)
    found = dataset.labels_of("smile")
    assert sorted(found.ravel().tolist()) == sorted(np.concatenate(rows).tolist())
    assert list(dataset.metainfo["tasks"]) == ["smile", "pose"]
    assert sum(len(rows) for _, rows in parts_of(wrapped)) == 6
    with pytest.raises(ConfigError, match="no task 'age'"):
        dataset.labels_of("age").mean(axis=0)


def test_metainfo_has_the_tasks_of_all_inner_data_sets(toy_root):
    smile, pose = (MTFL(toy_root, tasks=(task,), indices=5) for task in ("smile", "pose"))
    both = DrawnDataset(ConcatDataset([smile, pose], ignore_keys=["tasks"]))
    assert both.metainfo == {
        **smile.metainfo,
        "tasks": smile.metainfo["tasks"] | {"pose": pose.metainfo["tasks"]["pose"]},
    }
    assert list(both.metainfo["tasks"]) == ["smile", "pose"]
    assert DrawnDataset(Subset(both, [0, 7])).metainfo == both.metainfo
