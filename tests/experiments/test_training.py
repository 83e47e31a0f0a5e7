"""trn_plugin.experiments.training: train and measure in one process."""

import json

import pytest
from tool_runs import loaders

from trn_plugin.cli.parsing import build_parser
from trn_plugin.datasets import MTFL
from trn_plugin.datasets.toy_faces import make_toy_faces
from trn_plugin.experiments import training

TOY = "trn_plugin::toy/trn-output_test-resnet_toy.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("toy")
    make_toy_faces(str(root), seed=0, train_size=96, test_size=20)
    return root


def record(data, folder, *flags):
    parser = build_parser("")
    training.add_arguments(parser)
    options = loaders(type="MTFL", data_root=data, val_size=16)
    options += ["input_size=32", "train_cfg.max_epochs=1", "train_cfg.val_interval=1000"]
    options += ["default_hooks.checkpoint.interval=1000"]
    out = folder / "m.json"
    arguments = [TOY, "--work-dir", str(folder), "--out", str(out), *flags]
    training.main(parser.parse_args([*arguments, "--cfg-options", *options]))
    return json.loads(out.read_text())


def test_both_sets_are_measured_after_one_training(data, tmp_path):
    found = record(data, tmp_path)
    assert set(found["metrics"]) == {"val", "test"}
    for metrics in found["metrics"].values():
        assert metrics["landmarks/NME"] > 0
    assert found["metrics"]["val"] != found["metrics"]["test"]
    assert found["labels"]["val"] != found["labels"]["test"]
    assert [path.name for path in tmp_path.glob("*.pth")] == ["epoch_1.pth"]
    again = record(data, tmp_path, "--resume", "--splits", "val")
    assert again["metrics"] == {"val": found["metrics"]["val"]}


def test_the_digest_depends_on_the_pixel_centre_convention(data):
    class Moved(MTFL):
        def get_data_info(self, idx):
            info = super().get_data_info(idx)
            return {**info, "gt": {**info["gt"], "landmarks": info["gt"]["landmarks"] + 0.5}}

    options = dict(data_root=str(data), ann_file="training.txt")
    digests = [training.labels_digest(kind(**options)) for kind in (MTFL, MTFL, Moved)]
    assert digests[0] == digests[1] != digests[2]
