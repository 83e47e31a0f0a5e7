"""MMEngine's Runner, safe to resume, that says what it does not follow."""

from trn_plugin.engine.logs import ScreenLogProcessor
from trn_plugin.engine.runner import SafeRunner

__all__ = ["SafeRunner", "ScreenLogProcessor"]
