"""MMEngine's Runner with exact resuming, and the checkpoints that it writes."""

from trn_plugin.checkpoints import (
    load_checkpoint_file,
    load_model_state,
    load_weights_file,
    save_checkpoint_file,
)
from trn_plugin.engine.runner import SafeRunner
from trn_plugin.logs import ScreenLogProcessor

__all__ = [
    "SafeRunner",
    "ScreenLogProcessor",
    "load_checkpoint_file",
    "load_model_state",
    "load_weights_file",
    "save_checkpoint_file",
]
