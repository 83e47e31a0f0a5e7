"""trn-plugin browse: drawings of the samples that training sees."""

import cv2
import numpy as np
import pytest
import torch
from tool_runs import loaders

from trn_plugin.cli import browse as browse_module
from trn_plugin.cli.browse import both_pictures
from trn_plugin.structures import MultiTaskDataSample
from trn_plugin.tasks import read_tasks

TOY = "trn_plugin::toy/mtl_test-resnet_toy.py"


def test_sheets_of_each_phase(tmp_path, run_tool, monkeypatch):
    own = loaders(data_root=tmp_path / "toy", train_size=12, test_size=4, val_size=4)
    monkeypatch.setattr(browse_module, "PER_SHEET", 4)
    for phase, count, sheets in (("train", 5, 2), ("val", 100, 1), ("test", 3, 1)):
        out = tmp_path / phase
        arguments = ["--phase", phase, "--show-number", count, "--output-dir", out]
        status, printed, error = run_tool("browse_dataset", TOY, *arguments, "--cfg-options", *own)
        assert status == 0, error
        files = sorted(out.iterdir())
        assert [file.name for file in files] == [f"{phase}_{i + 1}.png" for i in range(sheets)]
        assert all(cv2.imread(str(file)).std() > 10 for file in files)
        assert f"written: {files[0]}" in printed


def test_a_config_without_that_phase_is_a_one_line_error(run_tool):
    arguments = (TOY, "--phase", "val", "--cfg-options", "val_dataloader=None")
    status, _, error = run_tool("browse_dataset", *arguments)
    assert status == 2
    assert "error: config: has no val_dataloader" in error


@pytest.fixture
def packed(tmp_path):
    """A sample that lacks one point and one label."""
    cv2.imwrite(str(tmp_path / "a.png"), np.full((40, 60, 3), 200, np.uint8))
    tasks = read_tasks(
        dict(
            points=dict(kind="landmarks", names=("eye", "nose")),
            pose=dict(kind="class", classes=("left", "right")),
            marks=dict(kind="attributes", names=("hat", "beard", "smile")),
            age=dict(kind="values", names=("age",)),
        )
    )
    about = dict(img_path=str(tmp_path / "a.png"), box=(5, 6, 35, 36), box_source="a box")
    sample = MultiTaskDataSample(metainfo=dict(tasks=tasks, dataset="mine", **about))
    sample.gt = dict(
        points=torch.tensor([[0.25, 0.5], [torch.nan, torch.nan]]),
        pose=torch.tensor(1),
        marks=torch.tensor([1.0, 0.0, 1.0]),
    )
    return dict(inputs=torch.full((3, 20, 20), 90.0), data_samples=sample)


def test_labels_boxes_and_missing_labels_are_drawn(packed):
    original, network = both_pictures(packed, ["pose", "height"])
    assert original.frame == (5, 6, 35, 36)
    assert original.image.shape == (40, 60, 3)
    assert network.image.shape == (20, 20, 3)
    np.testing.assert_allclose(network.truth, [[5, 10]])
    texts = {line.text: line.right for line in (*original.lines, *network.lines)}
    for text in ("a.png", "of mine", "box: a box", "pose: right", "marks: hat, smile"):
        assert texts[text] is None
    assert texts["points: 1 points, missing: nose"] is False
    assert texts["age: no label"] is False
    assert texts["height: none in mine"] is None


def test_a_picture_that_cannot_be_read(packed):
    packed["data_samples"].set_field(True, "unreadable", field_type="metainfo")
    packed["data_samples"].gt = {}
    lines = [line.text for line in both_pictures(packed)[0].lines]
    assert "the picture cannot be read" in lines
