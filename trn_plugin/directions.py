"""Whether greater or less is better, by the ``directions`` of the metrics."""

from __future__ import annotations

from trn_plugin.registry import METRICS

__all__ = ["rule_of"]


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
