"""Adaptive weights of the task losses.

A weighting is a module built with ``shares``, the factor c of Kendall et al. by task. It maps the
losses by task to weighted losses; ``logged()`` gives the weights. Two methods are optional:
``MultiTaskModel`` calls ``connect(trunk)``, and ``SafeRunner`` ``check_length(steps, logger)``.
"""

from trn_plugin.models.weighting.dynamic_average import DynamicWeightAverage
from trn_plugin.models.weighting.gradnorm import GradNorm
from trn_plugin.models.weighting.uncertainty import UncertaintyWeighting

__all__ = ["DynamicWeightAverage", "GradNorm", "UncertaintyWeighting"]
