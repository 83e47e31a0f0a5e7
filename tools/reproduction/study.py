"""Study of the relation loss: small trainings that each change plain MTL in one way."""

from __future__ import annotations

from reproduction.scales import small_mtfl
from reproduction.tables import (
    MTFL_COLUMNS,
    MTL,
    PILLAI,
    STL,
    THREEFOLD,
    TRN,
    UNCERTAINTY,
    WEIGHTED,
    weights_times,
)
from trn_plugin.experiments.plan import Row, Table

EPOCHS = 24
HALF = (f"train_cfg.max_epochs={EPOCHS // 2}",)
STRONG = (*weights_times(1000), PILLAI)
BASELINES = {
    WEIGHTED: (MTL, (THREEFOLD,)),
    "MTL, ten times the landmarks' loss": (MTL, ("model.heads.landmarks.loss_weight=100",)),
    "MTL, a third of the landmarks' loss": (MTL, ("model.heads.landmarks.loss_weight=3.3",)),
    "MTL, uncertainty weighting": (MTL, UNCERTAINTY),
    "STL": (STL, ()),
    "STL, MTL's compute (half the epochs)": (STL, HALF),
}
VARIANTS = {
    "λ of the paper": (),
    "100 times λ": weights_times(100),
    "1,000 times λ": weights_times(1000),
    "Pillai's trace, 100 times λ": (*weights_times(100), PILLAI),
    "Pillai's trace, 1,000 times λ": STRONG,
}

STUDY = Table(
    name="study",
    title="MTFL, few pictures.",
    rows=(
        Row("MTL", MTL, part="baselines"),
        *(Row(name, *how, "MTL", part="baselines") for name, how in BASELINES.items()),
        *(Row(f"TRN, {n}", TRN, o, "MTL", part="relation loss") for n, o in VARIANTS.items()),
        *(
            Row(f"TRN, {name}{WEIGHTED[3:]}", TRN, (*options, THREEFOLD), WEIGHTED, part="both")
            for name, options in list(VARIANTS.items())[::4]
        ),
    ),
    columns=MTFL_COLUMNS,
    scales={"small": small_mtfl(32, EPOCHS, 1000)},
)
