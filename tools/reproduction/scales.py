"""The paper's scale, and one for two CPU cores."""

from __future__ import annotations

from dataclasses import replace

from reproduction.plan import Scale

__all__ = ["CELEBA_SMALL", "CELEBA_SMALL_512", "MTFL_SMALL", "PAPER", "PAPER_MTFL", "small_mtfl"]

PAPER = Scale(
    options=(),
    train_options=("train_cfg.val_interval=1000",),
    split="test",
    about="At the paper's scale: ResNet-18, batch 128, m 0.99, the test half.",
)
PAPER_MTFL = replace(PAPER, train_options=("train_cfg.val_interval=60",))
"""Validates once, at the end."""


def _small(size: int, learning_rate: str, epochs: int, backbone: str = "test_resnet") -> Scale:
    loaders = [
        f"{part}_dataloader.{option}"
        for part in ("train", "val")
        for option in ("num_workers=0", "persistent_workers=False", "pin_memory=False")
    ]
    return Scale(
        options=(
            f"model.backbone.model_name={backbone}",
            "model.backbone.channels_last=True",
            f"input_size={size}",
            *(option for option in loaders if option.startswith("val")),
        ),
        train_options=(
            "model.backbone.pretrained=False",
            *(option for option in loaders if option.startswith("train")),
            "train_dataloader.dataset.pipeline.1.cache_gb=3",
            "test_dataloader=None",  # its pictures need not be here
            "test_cfg=None",
            "test_evaluator=None",
            f"optim_wrapper.optimizer.lr={learning_rate}",
            f"train_cfg.max_epochs={epochs}",
            f"train_cfg.val_interval={epochs + 1}",  # tools/test.py measures once, at the end
        ),
        split="val",
        about="",
    )


def small_mtfl(size: int = 48, epochs: int = 10, pictures: int | None = None) -> Scale:
    """MTFL on a CPU: some or all of the 9,000 training pictures, the 1,000 for validation."""
    scale = _small(size, "6e-3", epochs)
    some = ()
    if pictures is not None:
        some = (f"train_dataloader.dataset.indices={pictures}",)
    count = "9,000" if pictures is None else f"{pictures:,}"
    return Scale(
        options=scale.options,
        train_options=(*scale.train_options, *some),
        split="val",
        about=(
            f"Small scale: timm's `test_resnet` (not pretrained), {size} "
            f"pixels, {count} training pictures of training.txt, {epochs} epochs, batch 128, "
            "measured on 1,000 other pictures of training.txt."
        ),
    )


MTFL_SMALL = small_mtfl()


def _small_celeba(backbone: str = "test_resnet", learning_rate: str = "6e-3") -> Scale:
    scale = _small(32, learning_rate, 5, backbone)
    partition = "list_eval_partition_8k.txt"
    return Scale(
        options=(*scale.options, f"val_dataloader.dataset.partition={partition}"),
        train_options=(
            *scale.train_options,
            f"train_dataloader.dataset.partition={partition}",
            "train_dataloader.batch_size=64",
        ),
        split="val",
        about=(
            f"Small scale: timm's `{backbone}` (not pretrained), 32 pixels, the first 8,000 "
            "pictures (7,000 for training, 1,000 for validation), 5 epochs, batch 64."
        ),
    )


CELEBA_SMALL = _small_celeba()
CELEBA_SMALL_512 = _small_celeba("resnet10t", "1e-3")
"""With the paper's 512 hidden features."""
