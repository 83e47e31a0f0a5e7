"""The paper's scale, fine-tuning on CPUs, and a small one for a quick look."""

from __future__ import annotations

from reproduction.plan import Scale

__all__ = [
    *("CELEBA_SMALL", "CELEBA_SMALL_512", "FINETUNE", "MTFL_SMALL", "PAPER", "small_mtfl"),
]

MEASURED_AT_THE_END = "train_cfg.val_interval=1000000"


def _on_cpu(splits: tuple[str, ...]) -> tuple[str, ...]:
    """No workers, and pictures kept once decoded."""
    loaders = [
        f"{part}_dataloader.{option}"
        for part in ("train", *splits)
        for option in ("num_workers=0", "persistent_workers=False", "pin_memory=False")
    ]
    return (
        *loaders,
        "train_dataloader.dataset.pipeline.1.cache_gb=3",
        "model.backbone.channels_last=True",
    )


PAPER = Scale("At the paper's scale: ResNet-18, batch 128, m 0.99.", (MEASURED_AT_THE_END,))


def finetune(size: int, epochs: int) -> Scale:
    """MTFL with a pretrained network on CPUs."""
    return Scale(
        about=(
            "Fine-tuning on CPUs: timm's `tf_efficientnet_lite0` with ImageNet weights, "
            f"{size} pixels, the 9,000 training pictures, {epochs} epochs, batch 128."
        ),
        options=(
            *_on_cpu(("val", "test")),
            "model.backbone.model_name=tf_efficientnet_lite0",
            "model.backbone.checkpoint_path=$LITE0_WEIGHTS",
            "model.backbone.pretrained=False",
            f"input_size={size}",
            "optim_wrapper.optimizer.lr=3e-3",
            f"train_cfg.max_epochs={epochs}",
            MEASURED_AT_THE_END,
        ),
    )


FINETUNE = finetune(64, 8)


def _small(
    about: str,
    options: tuple[str, ...],
    splits: tuple[str, ...] = ("val",),
    backbone: str = "test_resnet",
    learning_rate: str = "6e-3",
) -> Scale:
    without_test = () if "test" in splits else ("test_dataloader=None", "test_cfg=None")
    without_test += () if "test" in splits else ("test_evaluator=None",)
    return Scale(
        about=f"Small scale: timm's `{backbone}` (not pretrained), {about}",
        options=(
            *_on_cpu(splits),
            *without_test,
            f"model.backbone.model_name={backbone}",
            "model.backbone.pretrained=False",
            f"optim_wrapper.optimizer.lr={learning_rate}",
            MEASURED_AT_THE_END,
            *options,
        ),
        splits=splits,
    )


def small_mtfl(size: int, epochs: int, pictures: int | None = None, splits=("val",)) -> Scale:
    """MTFL on a CPU: some or all of the 9,000 training pictures, the 1,000 for validation."""
    some = () if pictures is None else (f"train_dataloader.dataset.indices={pictures}",)
    return _small(
        f"{size} pixels, {pictures or 9000:,} training pictures, {epochs} epochs, batch 128.",
        (f"input_size={size}", f"train_cfg.max_epochs={epochs}", *some),
        splits,
    )


MTFL_SMALL = small_mtfl(48, 10, splits=("val", "test"))


def _small_celeba(epochs: int = 5, **network: str) -> Scale:
    partition = "dataset.partition=list_eval_partition_8k.txt"
    return _small(
        "32 pixels, the first 8,000 pictures (7,000 for training, 1,000 for validation), "
        f"{epochs} epochs, batch 64.",
        (
            "input_size=32",
            f"train_cfg.max_epochs={epochs}",
            f"val_dataloader.{partition}",
            f"train_dataloader.{partition}",
            "train_dataloader.batch_size=64",
        ),
        **network,
    )


CELEBA_SMALL = _small_celeba()
CELEBA_SMALL_512 = _small_celeba(backbone="resnet10t", learning_rate="1e-3")
"""With the paper's 512 hidden features."""
