import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from trn_plugin.datasets import SampleDraw
from trn_plugin.deploy.evaluate import crops_for_exported
from trn_plugin.engine.data_config import check_roots, datasets_in, plain_datasets_in, with_draws
from trn_plugin.engine.inference import build_loader
from trn_plugin.errors import ConfigError, DataError

PIPELINE = [
    dict(type="LoadImage"),
    dict(type="FaceBox", mode="whole"),
    dict(type="CropResize", size=16),
    dict(type="PackMultiTaskInputs"),
]
SIZES = dict(train_size=24, val_size=8, test_size=8)


@pytest.fixture(autouse=True)
def scope():
    init_default_scope("trn_plugin")


def wrapped(*datasets):
    concatenated = dict(type="ConcatDataset", datasets=list(datasets))
    return dict(type="RepeatDataset", times=2, dataset=concatenated)


def test_wrapped_data_sets_are_found():
    config = wrapped(dict(type="A"), dict(type="B"))
    found = [each["type"] for each in datasets_in(config)]
    assert found == ["RepeatDataset", "ConcatDataset", "A", "B"]
    assert [each["type"] for each in plain_datasets_in(config)] == ["A", "B"]
    assert list(datasets_in(None)) == []


def test_only_classes_without_draws_are_wrapped():
    own = dict(sampler=dict(type="DrawSampler"), dataset=dict(type="MTFL"))
    assert with_draws(own) == own
    other = dict(sampler=dict(type="DefaultSampler"), dataset=wrapped(dict(type="MTFL")))
    found = with_draws(other)
    assert found["sampler"] == dict(type="trn_plugin.NumberedDraws", sampler=other["sampler"])
    assert found["dataset"] == dict(type="trn_plugin.DrawnDataset", dataset=other["dataset"])
    assert with_draws(found) == found
    unknown = dict(sampler=dict(type="Nothing"), dataset=dict(type="Nothing"))
    assert with_draws(unknown) == unknown  # the registry's own error names it


def test_the_root_of_a_wrapped_data_set_is_checked_early(tmp_path):
    good = dict(type="ToyFaces", data_root=str(tmp_path / "toy"))
    bad = dict(type="MTFL", data_root=str(tmp_path / "nowhere"))
    loaders = dict(train=dict(dataset=wrapped(good)), val=None, test=None)
    check_roots(loaders)
    assert not (tmp_path / "toy").exists()
    loaders["val"] = dict(dataset=wrapped(good, bad))
    with pytest.raises((ConfigError, DataError), match="nowhere' is not a folder"):
        check_roots(loaders)


def test_evaluation_uses_its_pipeline_in_wrapped_data_sets(tmp_path):
    def faces(pipeline, **more):
        return dict(type="ToyFaces", data_root=str(tmp_path), pipeline=pipeline, **SIZES, **more)

    drawn = [PIPELINE[0], dict(type="FaceBox", mode="jitter"), *PIPELINE[2:]]
    loader = dict(batch_size=4, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False))
    config = Config(
        dict(
            train_dataloader=dict(
                loader, dataset=wrapped(faces(drawn, indices=3), faces(drawn, indices=2))
            ),
            val_dataloader=dict(loader, dataset=wrapped(faces(PIPELINE, split="val"))),
        )
    )
    data = build_loader(config, "train").dataset
    assert len(data) == 10
    for index in range(10):
        sample = data[SampleDraw(index)]
        assert sample["data_samples"].box_source == "whole picture"
    exported = crops_for_exported(config.val_dataloader.to_dict(), "val_dataloader")
    (inner,) = plain_datasets_in(exported["dataset"])
    assert inner["pipeline"][2] == dict(type="trn_plugin.Crop")
    with pytest.raises(ConfigError, match=r"val_dataloader\.dataset\.pipeline: .*found no pipel"):
        crops_for_exported(dict(dataset=None), "val_dataloader")
