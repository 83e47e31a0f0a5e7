"""Hooks: the relation loss, norms of gradients, and pictures of test cases."""

from trn_plugin.hooks.case_pictures import CasePicturesHook
from trn_plugin.hooks.gradient_norms import GradientNormHook
from trn_plugin.hooks.relation_loss import TaskRelationLossHook

__all__ = ["CasePicturesHook", "GradientNormHook", "TaskRelationLossHook"]
