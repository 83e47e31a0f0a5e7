"""A short log on the screen; the log file and the JSON are complete."""

from __future__ import annotations

import logging
import re

from mmengine.runner import LogProcessor

from trn_plugin.registry import LOG_PROCESSORS

__all__ = ["ScreenFilter", "ScreenLogProcessor"]

HIDDEN = r"at_iter|relation/(N|chance_\w+|d[12]_\w+)/.*|.*/AP_.*|(data_)?time"
MOST_TAUS = 6  # relations of a level listed in a line; if there are more, their mean is shown


class ScreenFilter(logging.Filter):
    """Hides deprecation warnings and messages from building the runner."""

    is_built = False

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            return "deprecated" not in record.getMessage()
        return self.is_built

    def add_to(self, logger: logging.Logger) -> None:
        """Filter all handlers of a logger except those of files."""
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(self)


@LOG_PROCESSORS.register_module()
class ScreenLogProcessor(LogProcessor):
    """MMEngine's ``LogProcessor``, with one line of main measures for a validation.

    The JSON has all measures. The line omits measures whose name extends another (``NME_left``
    and ``NME``), and sample numbers, widths and chance levels of task similarities.
    """

    def __init__(self, window_size: int = 10, **options) -> None:
        if not isinstance(window_size, int) or window_size < 1:
            raise ValueError(f"window_size: expected a number of at least 1, found {window_size!r}")
        super().__init__(window_size, **options)

    def get_log_after_epoch(self, runner, batch_idx, mode, with_non_scalar=False):
        """As MMEngine's; the text has the main measures only."""
        tag, text = super().get_log_after_epoch(runner, batch_idx, mode, with_non_scalar)
        named = {name.removeprefix(f"{mode}/"): value for name, value in tag.items()}
        main = {name: value for name, value in named.items() if not re.fullmatch(HIDDEN, name)}
        items, taus = [], {}
        for name, value in main.items():
            relation = re.fullmatch(r"relation/tau_(\w+)/(.+)", name)
            if relation:
                taus.setdefault(relation[1], {})[relation[2]] = value
            elif not any(name.startswith(f"{other}_") for other in main):
                items.append(f"{name}: {self._short(value)}")
        for level, found in taus.items():
            if len(found) > MOST_TAUS:
                mean = sum(found.values()) / len(found)
                found = {f"mean of {len(found)} relations": mean}
            items += [f"tau {level} {pair}: {self._short(tau)}" for pair, tau in found.items()]
        return tag, f"{text.partition(']  ')[0]}]  {'  '.join(items)}"

    def _short(self, value) -> str:
        return f"{value:.{self.num_digits}f}" if isinstance(value, float) else str(value)
