"""Tests beside other projects; ``tests/run_interop.sh`` makes the environments."""

import importlib.util
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.registry import init_default_scope

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))
if importlib.util.find_spec("mmpretrain") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def their_scope():
    init_default_scope("mmpretrain")


CLASSES = ("dark", "grey", "light")
COUNT = 64


@pytest.fixture(scope="session")
def page():
    """Names that the Python blocks of the guide define, one dict a block."""
    from pages import ROOT, blocks

    found = []
    for block in blocks(ROOT / "docs/guides/other_projects.md"):
        if block.language == "python":
            found.append({})
            exec(block.text, found[-1])
    return found


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder of pictures of 24 x 24 with a shade and a light side; labels are missing in some.

    ``labels.csv`` has them for this package, ``labels.json`` for mmpretrain.
    """
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    rows, records = ["image,shade,side,x,y"], []
    for i in range(COUNT):
        shade, side = (int(n) for n in rng.integers([3, 2]))
        picture = rng.integers(0, 40, (24, 24, 3)) + np.array([90 * shade, 20, 0])
        picture[12 * side : 12 * side + 12, :, 1] += 100
        cv2.imwrite(str(folder / f"{i}.png"), picture.clip(0, 255).astype(np.uint8))
        labels = dict(shade=shade, side=side)
        for task, period in (("shade", 3), ("side", 5)):
            if i % period == 1:
                del labels[task]
        cells = ["" if (found := labels.get(task)) is None else found for task in ("shade", "side")]
        cells[0] = CLASSES[cells[0]] if cells[0] != "" else ""
        rows.append(",".join(map(str, (f"{i}.png", *cells, 6 + i % 12, 12))))
        records.append(dict(img_path=f"{i}.png", gt_label=labels))
    (folder / "labels.csv").write_text("\n".join([*rows, ""]))
    metainfo = dict(tasks=["shade", "side"])
    (folder / "labels.json").write_text(json.dumps(dict(metainfo=metainfo, data_list=records)))
    return folder
