"""Hooks: the relation loss, and pictures of test cases."""

from trn_plugin.hooks.case_pictures import CasePicturesHook
from trn_plugin.hooks.relation_loss import TaskRelationLossHook

__all__ = ["CasePicturesHook", "TaskRelationLossHook"]
