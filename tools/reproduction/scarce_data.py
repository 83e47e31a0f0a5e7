"""MTFL with landmarks for some of the pictures, and a neck that relates the features of all."""

import hashlib

from trn_plugin.datasets.mtfl import MTFL
from trn_plugin.models.neck import Measurements, TaskRelationNeck
from trn_plugin.registry import DATASETS, MODELS


@DATASETS.register_module()
class ScarceMTFL(MTFL):
    """MTFL with landmark labels for a share of the pictures, chosen by a hash of their names.

    The boxes are still made from the landmarks of all pictures.

    Args:
        share: between 0 and 1.
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
    """Relates the features of all samples, and the labels of samples with both labels.

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
