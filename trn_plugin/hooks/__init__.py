"""Hooks: the relation loss, norms of gradients, and pictures of training and of test cases."""

from trn_plugin.hooks.case_pictures import CasePicturesHook
from trn_plugin.hooks.gradient_norms import GradientNormHook
from trn_plugin.hooks.relation_loss import TaskRelationLossHook
from trn_plugin.hooks.similarity_plot import SimilarityPlotHook

__all__ = ["CasePicturesHook", "GradientNormHook", "SimilarityPlotHook", "TaskRelationLossHook"]
