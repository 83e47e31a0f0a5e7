"""Similarities of two tasks, by name. Each is a function of their covariances.

Example:
    >>> from trn_plugin.relation import SIMILARITIES, Similarity
    >>> class SquaredCosine(Similarity):
    ...     def value(self, s11, s12, s22, shrinkage):
    ...         return s12.sum((-2, -1)) ** 2 / (s11.sum((-2, -1)) * s22.sum((-2, -1)))
    >>> SIMILARITIES["squared cosine"] = SquaredCosine()  # statistic='squared cosine'
    >>> _ = SIMILARITIES.pop("squared cosine")
"""

from trn_plugin.relation.similarities.base import Similarity
from trn_plugin.relation.similarities.cka import LinearCKA
from trn_plugin.relation.similarities.largest import LargestCanonicalCorrelation
from trn_plugin.relation.similarities.mean_square import MeanSquaredCanonicalCorrelation

__all__ = [
    "SIMILARITIES",
    "LargestCanonicalCorrelation",
    "LinearCKA",
    "MeanSquaredCanonicalCorrelation",
    "Similarity",
]

SIMILARITIES: dict[str, Similarity] = {
    "largest": LargestCanonicalCorrelation(),
    "pillai": MeanSquaredCanonicalCorrelation(),
    "cka": LinearCKA(),
}
