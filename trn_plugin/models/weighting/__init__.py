"""Weights of the task losses that follow the training.

A weighting is a module that is built with ``shares``, the factor c of Kendall et al. by task. It
takes the losses by task and gives them weighted; ``logged()`` says how. ``MultiTaskModel`` calls
``connect(trunk)`` of one that has it, and ``SafeRunner`` ``check_length(steps, logger)``.
"""

from trn_plugin.models.weighting.dynamic_average import DynamicWeightAverage
from trn_plugin.models.weighting.gradnorm import GradNorm
from trn_plugin.models.weighting.uncertainty import UncertaintyWeighting

__all__ = ["DynamicWeightAverage", "GradNorm", "UncertaintyWeighting"]
