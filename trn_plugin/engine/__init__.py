"""MMEngine's Runner with checkpoints that hold no code, and what the tools share."""

from trn_plugin.engine.checkpoint import load_checkpoint_file, load_weights_file
from trn_plugin.engine.model_state import load_model_state
from trn_plugin.engine.runner import SafeRunner
from trn_plugin.engine.writing import save_checkpoint_file

__all__ = [
    "SafeRunner",
    "load_checkpoint_file",
    "load_model_state",
    "load_weights_file",
    "save_checkpoint_file",
]
