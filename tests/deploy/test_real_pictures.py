"""Agreement of an exported file with PyTorch on photographs, and of what both score."""

import os
from pathlib import Path

import numpy as np
import pytest
from exported_faces import SIZE

from trn_plugin.deploy import DeployModel, check_export
from trn_plugin.deploy.evaluate import crop_loader, measure, some_crops
from trn_plugin.engine import cli

CONFIG = Path(__file__).parents[2] / "configs/mtfl/mtl_resnet18_mtfl.py"
OPTIONS = {
    "input_size": SIZE,
    "val_dataloader.num_workers": 0,
    "val_dataloader.persistent_workers": False,
    "val_dataloader.dataset.indices": list(range(0, 1000, 5)),
}


@pytest.mark.slow
@pytest.mark.real_data
def test_two_hundred_photographs(model, exported):
    root = os.environ.get("MTFL_ROOT")
    if not root:
        pytest.skip("MTFL_ROOT is not set")
    config = cli.load_config(str(CONFIG), {**OPTIONS, "val_dataloader.dataset.data_root": root})
    loader = crop_loader(config, "val")
    crops = some_crops(loader, 200)
    assert len({crop.tobytes() for crop in crops}) == 200
    deployed = DeployModel(model, SIZE).eval()
    assert max(check_export(exported[0], deployed, crops).values()) < 1e-4

    (before, after), boxes = measure(config, "val", loader, deployed, [str(exported[0])])
    assert boxes.total() == 200
    assert np.isfinite(before["landmarks/NME"])
    assert after == pytest.approx(before, abs=0.05, nan_ok=True)
