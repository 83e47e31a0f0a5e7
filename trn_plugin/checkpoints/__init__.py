"""Checkpoints of plain data: reading executes nothing, writing is atomic."""

from trn_plugin.checkpoints.reading import FORMAT, load_checkpoint_file, load_weights_file
from trn_plugin.checkpoints.weights import load_fitting_state, load_model_state
from trn_plugin.checkpoints.writing import save_checkpoint_file

__all__ = [
    "FORMAT",
    "load_checkpoint_file",
    "load_fitting_state",
    "load_model_state",
    "load_weights_file",
    "save_checkpoint_file",
]
