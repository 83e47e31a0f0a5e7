"""What makes the relation loss work? Small trainings that differ from plain MTL in one thing."""

from __future__ import annotations

from reproduction.options import PILLAI, THREEFOLD, UNCERTAINTY, weights_times
from reproduction.plan import Row, Table
from reproduction.scales import small_mtfl
from reproduction.tables import MTFL_COLUMNS

__all__ = ["STUDY"]

EPOCHS = 24
MTL, STL, TRN = (
    f"configs/mtfl/{method}-fast_resnet18_mtfl.py" for method in ("mtl", "stl", "trn-hidden-output")
)

VARIANTS = {
    "λ of the paper": (),
    "100 times λ": weights_times(100),
    "1,000 times λ": weights_times(1000),
    "Pillai's trace, 100 times λ": (*weights_times(100), PILLAI),
    "Pillai's trace, 1,000 times λ": (*weights_times(1000), PILLAI),
}


def _trn(name: str, *options: str) -> Row:
    return Row(name, TRN, options, {}, "MTL", "relation loss")


STUDY = Table(
    name="study",
    title="MTFL, few pictures.",
    rows=(
        Row("MTL", MTL, part="baselines"),
        Row(
            "MTL, three times the landmarks' loss",
            MTL,
            (THREEFOLD,),
            {},
            "MTL",
            "baselines",
        ),
        Row(
            "MTL, ten times the landmarks' loss",
            MTL,
            ("model.heads.landmarks.loss_weight=100",),
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
        Row("MTL, uncertainty weighting", MTL, UNCERTAINTY, {}, "MTL", "baselines"),
        Row("STL", STL, (), {}, "MTL", "baselines"),
        Row(
            "STL, MTL's compute (half the epochs)",
            STL,
            (f"train_cfg.max_epochs={EPOCHS // 2}",),
            {},
            "MTL",
            "baselines",
        ),
        *(_trn(f"TRN, {name}", *options) for name, options in VARIANTS.items()),
        *(
            Row(
                name, TRN, (*options, THREEFOLD), {}, "MTL, three times the landmarks' loss", "both"
            )
            for name, options in {
                "TRN, λ of the paper, three times the landmarks' loss": (),
                "TRN, Pillai's trace, 1,000 times λ, three times the landmarks' loss": (
                    *weights_times(1000),
                    PILLAI,
                ),
            }.items()
        ),
    ),
    columns=MTFL_COLUMNS,
    scales={"small": small_mtfl(32, EPOCHS, 1000)},
)
