"""What makes the relation loss work? Small trainings that differ from plain MTL in one thing."""

from __future__ import annotations

from trn_plugin.experiments.plan import Row, Table
from trn_plugin.experiments.scales import PAPER, small_mtfl
from trn_plugin.experiments.tables import MTFL_COLUMNS

__all__ = ["STUDY"]

EPOCHS = 40
MTL, STL, TRN = (
    f"configs/mtfl/{method}-fast_resnet18_mtfl.py" for method in ("mtl", "stl", "trn-hidden-output")
)


def _weights(factor: float) -> tuple[str, ...]:
    """The paper's weights times a factor."""
    levels = {"output": 0.01, "hidden": 0.001}
    return tuple(f"custom_hooks.0.weights.{k}={factor * w:g}" for k, w in levels.items())


STUDY = Table(
    name="study",
    title="MTFL, few pictures.",
    rows=(
        Row("MTL", MTL, part="baselines"),
        Row(
            "MTL, three times the landmarks' loss",
            MTL,
            ("model.heads.landmarks.loss_weight=30",),
            {},
            "MTL",
            "baselines",
        ),
        Row(
            "MTL, a third of the landmarks' loss",
            MTL,
            ("model.heads.landmarks.loss_weight=3.3",),
            {},
            "MTL",
            "baselines",
        ),
        Row(
            "MTL, uncertainty weighting",
            MTL,
            (
                "model.task_weighting.type=UncertaintyWeighting",
                "optim_wrapper.paramwise_cfg.custom_keys.task_weighting.decay_mult=0",
            ),
            {},
            "MTL",
            "baselines",
        ),
        Row("STL", STL, (), {}, "MTL", "baselines"),
        Row(
            "STL, MTL's compute (half the epochs)",
            STL,
            (f"train_cfg.max_epochs={EPOCHS // 2}",),
            {},
            "MTL",
            "baselines",
        ),
        Row("TRN, λ of the paper", TRN, (), {}, "MTL", "relation loss"),
        Row("TRN, 100 times λ", TRN, _weights(100), {}, "MTL", "relation loss"),
        Row("TRN, 1,000 times λ", TRN, _weights(1000), {}, "MTL", "relation loss"),
        Row(
            "TRN, 100 times λ, τ corrected for chance",
            TRN,
            (*_weights(100), "model.neck.correct_chance=True"),
            {},
            "MTL",
            "relation loss",
        ),
    ),
    columns=MTFL_COLUMNS,
    scales={"small": small_mtfl(32, EPOCHS, 1000), "paper": PAPER},
)
