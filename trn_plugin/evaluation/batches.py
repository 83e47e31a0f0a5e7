"""An evaluator for metrics that take whole batches."""

from __future__ import annotations

from mmengine.evaluator import Evaluator

from trn_plugin.registry import EVALUATORS
from trn_plugin.structures import MultiTaskBatch

__all__ = ["BatchEvaluator"]


@EVALUATORS.register_module()
class BatchEvaluator(Evaluator):
    """MMEngine's Evaluator; passes a `MultiTaskBatch` on to metrics with ``takes_batches``.

    Other metrics get a list of data samples as dicts, as in MMEngine.
    """

    def process(self, data_samples, data_batch=None) -> None:
        """See MMEngine's."""
        if not isinstance(data_samples, MultiTaskBatch):
            super().process(data_samples, data_batch)
            return
        samples = None
        for metric in self.metrics:
            if getattr(metric, "takes_batches", False):
                metric.process(data_batch, data_samples)
                continue
            if samples is None:
                samples = [sample.to_dict() for sample in data_samples]
            metric.process(data_batch, samples)
