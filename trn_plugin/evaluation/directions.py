"""Which way each measure is better, as the metrics say themselves."""

from __future__ import annotations

from trn_plugin.registry import METRICS

__all__ = ["rule_of"]


def rule_of(measures):
    """'greater' or 'less' for a measure, a list of these for a list; None where one is unknown."""
    if isinstance(measures, (list, tuple)):
        rules = [rule_of(measure) for measure in measures]
        return None if None in rules or not rules else rules
    return _direction_of(measures) if isinstance(measures, str) else None


def _direction_of(measure: str) -> str | None:
    """'greater' or 'less' for a key of the metrics; None where no metric says so.

    A metric's class says it in ``directions``, by the name of a measure; longer names that begin
    with it and an underscore are measured likewise.
    """
    METRICS.import_from_location()
    name = measure.rpartition("/")[2]
    for kind in METRICS.module_dict.values():
        known = getattr(kind, "directions", {})
        for own in sorted(known, key=len, reverse=True):
            if name == own or name.startswith(f"{own}_"):
                return known[own]
    return None
