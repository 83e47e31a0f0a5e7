"""Whether greater or less is better, by the ``directions`` of the metrics."""

from __future__ import annotations

from collections.abc import Iterable

from trn_plugin.errors import ConfigError
from trn_plugin.registry import METRICS

__all__ = ["check_monitors", "rule_of", "with_rules"]


def rule_of(measures):
    """'greater' or 'less' for a key of the metrics, or a list for a list; None if one is unknown.

    An entry of ``directions`` also applies to longer names that begin with it and an underscore.
    """
    if isinstance(measures, (list, tuple)):
        rules = [rule_of(measure) for measure in measures]
        return None if None in rules or not rules else rules
    if not isinstance(measures, str):
        return None
    METRICS.import_from_location()
    name = measures.rpartition("/")[2]
    for kind in METRICS.module_dict.values():
        known = getattr(kind, "directions", {})
        for own in sorted(known, key=len, reverse=True):
            if name == own or name.startswith(f"{own}_"):
                return known[own]
    return None


def with_rules(scheduler):
    """Configs of schedules, with the ``rule`` of a monitored measure that a metric declares."""
    if isinstance(scheduler, (list, tuple)):
        return [with_rules(each) for each in scheduler]
    if isinstance(scheduler, dict) and "type" not in scheduler:  # schedules by optimizer
        return {name: with_rules(each) for name, each in scheduler.items()}
    rule = rule_of(scheduler.get("monitor")) if isinstance(scheduler, dict) else None
    return scheduler if rule is None else {"rule": rule, **scheduler}


def check_monitors(schedules: Iterable, metrics: dict) -> None:
    """Raise ConfigError for a schedule whose measure is not among those of a validation."""
    for schedule in schedules if metrics else ():
        monitor = getattr(schedule, "monitor", None)
        if monitor is not None and monitor not in metrics:
            raise ConfigError(
                f"param_scheduler.monitor: expected one of {', '.join(metrics)}, found {monitor!r}"
            )
