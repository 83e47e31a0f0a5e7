"""Does the relation loss help where few pictures have landmarks? All pictures have a pose.

tau of predictions needs no labels. So the relation loss uses the features of all pictures, and
pulls their tau towards that of the labels, which is measured on pictures with both labels.
"""

from __future__ import annotations

from reproduction.scales import small_mtfl
from reproduction.tables import MTFL_COLUMNS, MTL, TRN, weights_times
from trn_plugin.experiments.plan import Row, Table

UNLABELLED = "model.neck.type=UnlabelledRelationNeck"


def _rows(share: float) -> list[Row]:
    scarce = (
        "custom_imports.imports=trn_plugin.registry,reproduction.scarce_data",
        "train_dataloader.dataset.type=ScarceMTFL",
        f"train_dataloader.dataset.share={share}",
    )
    part = f"landmarks for {100 * share:g} %"
    return [
        Row("MTL", MTL, scarce, part=part),
        *(
            Row(
                f"TRN on all pictures, {factor} times λ",
                TRN,
                (*scarce, UNLABELLED, *weights_times(factor)),
                "MTL",
                part=part,
            )
            for factor in (10, 100)
        ),
    ]


SCARCE = Table(
    name="scarce",
    title="MTFL, landmarks for few of the training pictures.",
    rows=tuple(row for share in (0.1, 0.03, 0.01) for row in _rows(share)),
    columns=MTFL_COLUMNS,
    scales={"small": small_mtfl(32, 12, splits=("val", "test"))},
)
