"""Which way each measure is better, as the metrics say themselves."""

from __future__ import annotations

from trn_plugin.registry import METRICS

__all__ = ["direction_of", "with_directions"]


def direction_of(measure: str) -> str | None:
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


def with_directions(hook: dict) -> dict:
    """The config of a hook that compares measures, with the rule of those that it names."""
    name = "save_best" if "save_best" in hook else "monitor"
    measures = hook.get(name)
    if hook.get("rule") is not None or not measures or measures == "auto":
        return hook
    listed = [measures] if isinstance(measures, str) else measures
    if not isinstance(listed, (list, tuple)) or not all(isinstance(m, str) for m in listed):
        return hook
    rules = [direction_of(measure) for measure in listed]
    if None in rules:
        return hook
    return {**hook, "rule": rules[0] if isinstance(measures, str) else rules}
