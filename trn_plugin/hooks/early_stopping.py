"""Early stopping that knows the directions of measures."""

from __future__ import annotations

from mmengine.hooks import EarlyStoppingHook

from trn_plugin.directions import rule_of
from trn_plugin.errors import ConfigError
from trn_plugin.registry import HOOKS

__all__ = ["CheckedEarlyStoppingHook"]


@HOOKS.register_module()
class CheckedEarlyStoppingHook(EarlyStoppingHook):
    """MMEngine's ``EarlyStoppingHook``; metrics of this package need no ``rule``.

    ``SafeRunner`` uses this hook where a config says ``EarlyStoppingHook``.

    Raises:
        ConfigError: the validation does not measure ``monitor``.
    """

    def __init__(self, monitor: str, rule: str | None = None, **options) -> None:
        super().__init__(monitor, rule or rule_of(monitor), **options)

    def after_val_epoch(self, runner, metrics) -> None:
        if metrics and self.monitor not in metrics:
            raise ConfigError(
                f"EarlyStoppingHook.monitor: expected one of {', '.join(metrics)}, "
                f"found {self.monitor!r}"
            )
        super().after_val_epoch(runner, metrics)
