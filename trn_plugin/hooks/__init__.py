"""Hooks: relation loss, gradient norms, pictures, checkpoints, early stopping and SIGTERM."""

from trn_plugin.hooks.case_pictures import CasePicturesHook
from trn_plugin.hooks.checkpoint import SafeCheckpointHook
from trn_plugin.hooks.early_stopping import CheckedEarlyStoppingHook
from trn_plugin.hooks.gradient_norms import GradientNormHook
from trn_plugin.hooks.names import NamesHook
from trn_plugin.hooks.relation_loss import TaskRelationLossHook
from trn_plugin.hooks.save_on_terminate import SaveOnTerminateHook
from trn_plugin.hooks.similarity_plot import SimilarityPlotHook

__all__ = [
    "CasePicturesHook",
    "CheckedEarlyStoppingHook",
    "GradientNormHook",
    "NamesHook",
    "SafeCheckpointHook",
    "SaveOnTerminateHook",
    "SimilarityPlotHook",
    "TaskRelationLossHook",
]
