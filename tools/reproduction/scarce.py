"""Does the relation loss help if all pictures have a pose label but few have landmarks?

tau of predictions needs no labels. So the relation loss uses the predictions of all pictures, and
pulls their tau towards tau of the labels, which is measured on pictures with both labels.
"""

import hashlib

from reproduction.scales import small_mtfl
from reproduction.tables import MTFL_COLUMNS, MTL, TRN, weights_times
from trn_plugin.datasets.mtfl import MTFL
from trn_plugin.experiments.plan import Row, Table
from trn_plugin.models.neck import Measurements, TaskRelationNeck
from trn_plugin.registry import DATASETS, MODELS


@DATASETS.register_module()
class ScarceMTFL(MTFL):
    """MTFL with landmark labels for a share of the pictures, chosen by a hash of their names.

    Boxes are still computed from the landmarks of all pictures.

    Args:
        share: share of the pictures that keep their landmarks, between 0 and 1.
        **options: options of ``MTFL``.
    """

    def __init__(self, *args, share: float, **options) -> None:
        self.share = share
        super().__init__(*args, **options)

    def load_data_list(self) -> list[dict]:
        records = super().load_data_list()
        for record in records:
            name = "/".join(record["img_path"].split("/")[-2:])
            digest = hashlib.sha256(f"l:{name}".encode()).digest()
            if int.from_bytes(digest[:4], "big") >= self.share * 2**32:
                del record["gt"]["landmarks"]
        return records


@MODELS.register_module()
class UnlabelledRelationNeck(TaskRelationNeck):
    """Relates the features of all samples, but labels only where both are present.

    For relations between two tasks, not between groups.
    """

    def forward(self, features, mask):
        """As ``TaskRelationNeck.forward``."""
        tasks = [side[0] for side in self._sides]
        taus = {
            level: self.layers_of(level)(
                *(features[level][task] for task in tasks),
                mask=[mask[task] if level == "label" else None for task in tasks],
            ).view(-1)
            for level in (*self.levels, "label")
        }
        label = taus.pop("label").detach()
        return {
            level: Measurements(
                tau,
                label.to(tau.dtype),
                self.layers_of(level).effective_sample_size.view(-1),
                self.layers_of(level).arrived.view(-1),
            )
            for level, tau in taus.items()
        }


UNLABELLED = "model.neck.type=UnlabelledRelationNeck"


def _rows(share: float) -> list[Row]:
    scarce = (
        "custom_imports.imports=trn_plugin.registry,reproduction.scarce",
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
