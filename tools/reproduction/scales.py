"""The scales of the tables: the paper's, fine-tuning on CPUs, and a small one."""

from __future__ import annotations

from trn_plugin.experiments.plan import Scale

MEASURED_AT_THE_END = "train_cfg.val_interval=1000000"


def _on_cpu(splits: tuple[str, ...]) -> tuple[str, ...]:
    """Options for a CPU: no data-loader workers, and a cache of decoded pictures."""
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


def _scale(about: str, backbone: str, options: tuple[str, ...], splits: tuple[str, ...]) -> Scale:
    """A scale on a CPU; without a test set, unless ``splits`` has it."""
    unused = () if "test" in splits else ("test_dataloader", "test_cfg", "test_evaluator")
    return Scale(
        about=about,
        options=(
            *_on_cpu(splits),
            *(f"{section}=None" for section in unused),
            f"model.backbone.model_name={backbone}",
            "model.backbone.pretrained=False",
            MEASURED_AT_THE_END,
            *options,
        ),
        splits=splits,
    )


def _settings(size: int, epochs: int, learning_rate: str) -> tuple[str, ...]:
    rate = f"optim_wrapper.optimizer.lr={learning_rate}"
    return (f"input_size={size}", f"train_cfg.max_epochs={epochs}", rate)


def small_mtfl(size: int, epochs: int, pictures: int | None = None, splits=("val",)) -> Scale:
    """MTFL on a CPU, with ``pictures`` of the 9,000 training pictures (default: all)."""
    some = () if pictures is None else (f"train_dataloader.dataset.indices={pictures}",)
    return _scale(
        f"Small scale: timm's `test_resnet` (not pretrained), {size} pixels, "
        f"{pictures or 9000:,} training pictures, {epochs} epochs, batch 128.",
        "test_resnet",
        (*_settings(size, epochs, "6e-3"), *some),
        splits,
    )


PAPER = Scale("At the paper's scale: ResNet-18, batch 128, m 0.99.", (MEASURED_AT_THE_END,))
MTFL_SMALL = small_mtfl(48, 10, splits=("val", "test"))

LITE0 = "tf_efficientnet_lite0"
PRETRAINED = f"Fine-tuning: timm's `{LITE0}` with ImageNet weights, "
WEIGHTS = "model.backbone.checkpoint_path=$LITE0_WEIGHTS"
FINETUNE = _scale(
    PRETRAINED + "96 pixels, the 9,000 training pictures, 10 epochs, batch 128.",
    LITE0,
    (WEIGHTS, *_settings(96, 10, "4e-3")),
    ("val", "test"),
)

EIGHT_THOUSAND = (
    "val_dataloader.dataset.partition=list_eval_partition_8k.txt",
    "train_dataloader.dataset.partition=list_eval_partition_8k.txt",
    "train_dataloader.batch_size=64",
)
FIRST = "the first 8,000 pictures (7,000 for training, 1,000 for validation), batch 64"
CELEBA_FINETUNE = _scale(
    f"{PRETRAINED}64 pixels, {FIRST}, 8 epochs.",
    LITE0,
    (WEIGHTS, *_settings(64, 8, "1e-3"), *EIGHT_THOUSAND),
    ("val",),
)
CELEBA_SMALL, CELEBA_SMALL_512 = (
    _scale(
        f"Small scale: timm's `{backbone}` (not pretrained), 32 pixels, {FIRST}, 5 epochs.",
        backbone,
        (*_settings(32, 5, learning_rate), *EIGHT_THOUSAND),
        ("val",),
    )
    for backbone, learning_rate in (("test_resnet", "6e-3"), ("resnet10t", "1e-3"))
)
"""The second has the paper's 512 hidden features."""
