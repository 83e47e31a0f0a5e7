"""Config and options of a small training on toy faces."""

from pathlib import Path

from tool_runs import loaders

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs/toy/trn-hidden-output_test-resnet_toy.py")
MTFL_CONFIG = str(ROOT / "configs/mtfl/mtl_resnet18_mtfl.py")
SIZES = dict(train_size=80, test_size=24)


def options(root, epochs=1, *more):
    listing = [f"train_cfg.max_epochs={epochs}", "train_cfg.val_interval=1", "input_size=32"]
    listing += loaders(data_root=root, val_size=16, **SIZES)
    return ["--cfg-options", *listing, "custom_hooks.0.allow_undersampled=True", *more]
