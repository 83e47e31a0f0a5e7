"""The example of two joined CSV files reads files of different names."""

import cv2
import numpy as np
from mmengine.registry import init_default_scope
from pages import ROOT, blocks

from trn_plugin.cli.config import load_config
from trn_plugin.registry import DATASETS


def test_the_example_joins_two_files(tmp_path, monkeypatch):
    page = ROOT / "docs/guides/several_data_sets.md"
    (block,) = [each for each in blocks(page) if "ConcatDataset" in each.text]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "block.py").write_text(block.text)
    dataset = load_config("block.py").train_dataloader.dataset
    for part in dataset.datasets:
        folder = tmp_path / part.data_root
        folder.mkdir(parents=True)
        rows = [f"{i}.png,{('circle', 'square')[i % 2]},{i}" for i in range(20)]
        for i in range(20):
            cv2.imwrite(str(folder / f"{i}.png"), np.zeros((8, 8, 3), np.uint8))
        (folder / part.ann_file).write_text("\n".join(["image,shape,size", *rows, ""]))
    init_default_scope("trn_plugin")
    joined = DATASETS.build(dataset)
    first, second = joined.datasets
    assert first.metainfo["dataset"] != second.metainfo["dataset"]
    assert len(joined) == len(first) + len(second)
