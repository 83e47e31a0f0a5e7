"""Join data sets of different tasks, and sample each by its share."""

from collections import Counter

import pytest
import torch
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.registry import init_default_scope

from trn_plugin.datasets import DrawnDataset, MixedDataset, ShareSampler, ToyFaces
from trn_plugin.engine import SafeRunner
from trn_plugin.errors import ConfigError
from trn_plugin.evaluation import Accuracy
from trn_plugin.registry import DATASETS, MODELS

POINTS, SMILES = ("landmarks", "pose"), ("smile",)


def steps(mode):
    return [
        dict(type="LoadImage"),
        dict(type="FaceBox", mode=mode),
        dict(type="CropResize"),
        dict(type="PackMultiTaskInputs"),
    ]


@pytest.fixture(autouse=True)
def scope():
    init_default_scope("trn_plugin")


@pytest.fixture
def toy(toy_root):
    def config(tasks, indices, mode="jitter", **options):
        sizes = dict(train_size=60, test_size=20)
        own = dict(tasks=tasks, indices=indices, pipeline=steps(mode), input_size=32)
        if tasks == SMILES:
            own["metainfo"] = dict(dataset="Smiles")
        return dict(type="ToyFaces", data_root=toy_root, **sizes, **own, **options)

    return config


@pytest.fixture
def mixed(toy):
    return MixedDataset([toy(POINTS, 5), toy(SMILES, -8)])


def model_of(*tasks, relations=None, deletion="pairwise"):
    heads = dict(
        landmarks=dict(type="LandmarkHead", num_points=5),
        pose=dict(type="ClassificationHead", num_classes=5),
        smile=dict(type="AttributeHead", num_attributes=1),
    )
    neck = dict(type="TaskRelationNeck", relations=relations, deletion=deletion)
    return MODELS.build(
        dict(
            type="MultiTaskModel",
            backbone=dict(type="TimmTrunk", model_name="test_resnet", pretrained=False),
            heads={task: heads[task] for task in tasks},
            neck=neck if relations else None,
        )
    )


def loader_of(dataset, sampler, batch_size=13):
    config = dict(
        batch_size=batch_size,
        num_workers=0,
        sampler=sampler,
        dataset=dataset,
        collate_fn=dict(type="trn_plugin.multi_task_collate"),
    )
    return SafeRunner.build_dataloader(config, 3)


def drawn(sampler, epochs=1):
    order = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        order.append(list(sampler))
    return order


def test_each_sample_has_the_labels_of_its_data_set(toy):
    dataset = dict(type="MixedDataset", datasets=[toy(POINTS, 5), toy(SMILES, -8)])
    loader = loader_of(dataset, dict(type="DrawSampler", shuffle=False))
    batch = next(iter(loader))["data_samples"]
    assert list(batch.tasks) == [*POINTS, *SMILES]
    for task in POINTS:
        assert batch.masks[task].tolist() == [True] * 5 + [False] * 8
    assert batch.masks["smile"].tolist() == [False] * 5 + [True] * 8
    assert list(loader.dataset.metainfo["tasks"]) == [*POINTS, *SMILES]


def test_missing_labels_change_no_loss(toy):
    """Task losses of a mixed batch equal those of its parts."""
    torch.manual_seed(0)
    model = model_of(*POINTS, *SMILES, relations=[POINTS]).eval()
    parts = toy(POINTS, 5, "perturbed"), toy(SMILES, -8, "perturbed")
    losses = []
    for datasets in (parts, parts[:1], parts[1:]):
        dataset = dict(type="MixedDataset", datasets=list(datasets))
        data = next(iter(loader_of(dataset, dict(type="DrawSampler", shuffle=False))))
        model.fit_to_labels(loader_of(dataset, None).dataset)
        losses.append(model(**model.data_preprocessor(data), mode="loss"))
    for task, part in (("landmarks", 1), ("pose", 1), ("smile", 2)):
        torch.testing.assert_close(losses[0][f"loss_{task}"], losses[part][f"loss_{task}"])
        assert losses[3 - part][f"loss_{task}"] == 0


def test_a_task_with_two_descriptions_is_refused(toy):
    other = toy(POINTS, 5)
    other["metainfo"] = dict(tasks=dict(pose=dict(kind="class", classes=("left", "right"))))
    with pytest.raises(ConfigError, match="pose"):
        MixedDataset([toy(POINTS, 5), other])


def test_two_data_sets_with_the_same_name_are_refused(toy):
    parts = toy(POINTS, 5), toy(POINTS, -5)
    with pytest.raises(ConfigError, match=r"'ToyFaces'.*metainfo=dict\(dataset="):
        MixedDataset(list(parts))
    named = MixedDataset([parts[0], dict(parts[1], metainfo=dict(dataset="more"))])
    assert named.metainfo["datasets"] == ["ToyFaces", "more"]


def test_a_wrapping_data_set_inside_is_refused(toy):
    repeated = dict(type="RepeatDataset", times=2, dataset=toy(SMILES, -8))
    with pytest.raises(ConfigError, match=r"datasets\[1\]: .*RepeatDataset.*ShareSampler"):
        MixedDataset([toy(POINTS, 5), repeated])


@pytest.mark.parametrize(
    ("relations", "deletion", "refused"),
    [
        ([("landmarks", "pose")], "pairwise", None),
        ([("landmarks", "pose"), ("pose", "smile")], "pairwise", "pose-smile"),
        ("all", "pairwise", "landmarks-smile"),
        ([(("landmarks", "smile"), ("pose",))], "pairwise", r"landmarks\+smile-pose"),
        ([("landmarks", "pose")], "listwise", None),
    ],
)
def test_relations_need_samples_with_both_labels(mixed, relations, deletion, refused):
    model = model_of(*POINTS, *SMILES, relations=relations, deletion=deletion)
    if refused is None:
        model.check_dataset(mixed.metainfo)
        return
    with pytest.raises(ConfigError, match=f"relations: {refused} cannot be measured"):
        model.check_dataset(mixed.metainfo)


def test_a_metric_counts_the_pictures_of_its_data_set(toy):
    names = dict(metainfo=dict(dataset="B")), dict()
    parts = [toy(POINTS, 4, **more) for more in names]
    dataset = dict(type="MixedDataset", datasets=parts)
    batch = next(iter(loader_of(dataset, dict(type="DrawSampler", shuffle=False))))["data_samples"]
    right = torch.nn.functional.one_hot(batch.targets["pose"].argmax(1), 5).float()
    right[:4] = right[:4].roll(1, 1)
    found = batch.with_fields(pred=dict(pose=right))
    for name, expected in (("B", 0), ("ToyFaces", 100)):
        metric = Accuracy(task="pose", dataset=name)
        metric.process(None, found)
        metric.process(None, [sample.to_dict() for sample in found])
        assert metric.evaluate(16) == {f"{name}/pose/accuracy": expected}


def test_a_metric_finds_data_sets_by_name_also_in_wrappers(toy):
    named = dict(metainfo=dict(dataset="B"))
    a, b = DATASETS.build(toy(POINTS, 4)), DATASETS.build(toy(POINTS, 4, **named))
    both = DrawnDataset(ConcatDataset([a, b], ignore_keys=["dataset"]))
    names = [(a, ["ToyFaces"]), (RepeatDataset(b, 2), ["B"]), (both, ["ToyFaces", "B"])]
    for dataset, known in names:
        for name in known:
            Accuracy(task="pose", dataset=name).dataset_meta = dataset.metainfo
        with pytest.raises(ConfigError, match=f"expected one of {', '.join(known)}, found 'ty"):
            Accuracy(task="pose", dataset="typo").dataset_meta = dataset.metainfo


@pytest.mark.parametrize("shares", [(1, 1), (1, 3), (9, 1), (0.2, 0.3)])
def test_shares_of_an_epoch(mixed, shares):
    sampler = ShareSampler(mixed, shares, seed=3)
    for order in drawn(sampler, 3):
        assert len(order) == len(sampler) == len(mixed)
        first = sum(index < 5 for index in order)
        assert abs(first - 13 * shares[0] / sum(shares)) <= 0.5


def test_samples_are_seen_equally_often(mixed):
    orders = drawn(ShareSampler(mixed, (4, 1), seed=3), 20)
    counts = Counter(int(index) for order in orders for index in order)
    for part in (range(5), range(5, 13)):
        own = [counts[index] for index in part]
        assert max(own) - min(own) <= 1
    assert len({tuple(map(int, order)) for order in orders}) == 20


def test_processes_share_one_order(mixed, monkeypatch):
    whole = drawn(ShareSampler(mixed, (1, 1), seed=3))[0]
    for rank in range(2):
        monkeypatch.setattr("mmengine.dataset.sampler.get_dist_info", lambda rank=rank: (rank, 2))
        own = drawn(ShareSampler(mixed, (1, 1), seed=3))[0]
        assert list(map(repr, own[:6])) == list(map(repr, whole[rank::2][:6]))
        assert len(own) == 7


@pytest.mark.parametrize(
    "shares", [(1,), (1, 0), (1, -1), (1, "2"), 0.5, (1, float("nan")), (1, 99)]
)
def test_unusable_shares_are_refused(mixed, shares):
    with pytest.raises(ConfigError, match="shares"):
        ShareSampler(mixed, shares)


def test_shares_need_several_data_sets(toy):
    with pytest.raises(ConfigError, match="MixedDataset"):
        ShareSampler(ToyFaces(**{k: v for k, v in toy(POINTS, 4).items() if k != "type"}), (1,))


def test_a_picture_that_comes_twice_is_augmented_twice(toy):
    dataset = dict(type="MixedDataset", datasets=[toy(POINTS, 1), toy(SMILES, 9)])
    loader = loader_of(dataset, dict(type="ShareSampler", shares=(1, 1)), batch_size=10)
    data = next(iter(loader))
    once = [
        picture
        for picture, there in zip(data["inputs"], data["data_samples"].masks["pose"], strict=True)
        if there
    ]
    assert len(once) == 5
    assert len({picture.numpy().tobytes() for picture in once}) == 5
