"""Predictions as plain values: one JSON object, or one row of a table, a face."""

from __future__ import annotations

from collections.abc import Mapping

from trn_plugin.deploy.metadata import task_names

__all__ = ["as_json", "as_row", "columns"]

PLACE = ("image", "frame", "seconds", "x0", "y0", "x1", "y1")


def as_json(tasks: Mapping[str, dict], prediction: Mapping) -> dict:
    """A prediction of plain values: landmarks as name -> [x, y] in the picture's pixels."""
    plain = dict(prediction)
    for name, task in tasks.items():
        if task["kind"] == "landmarks":
            points = prediction[name].tolist()
            plain[name] = dict(zip(task["names"], points, strict=True))
        elif task["kind"] == "class":
            found = prediction[name]
            probabilities = dict(zip(task["classes"], found["probabilities"], strict=True))
            plain[name] = {**found, "probabilities": probabilities}
    return plain


def columns(tasks: Mapping[str, dict]) -> list[str]:
    """The table's header: where the face is, then each task.

    ``<task>.<point>.x`` and ``.y``; ``<task>`` for the most probable class and ``<task>.<class>``
    for each probability; ``<task>.<name>`` for attributes and values.
    """
    found = list(PLACE)
    for name, task in tasks.items():
        found += [name] if task["kind"] == "class" else []
        parts = (".x", ".y") if task["kind"] == "landmarks" else ("",)
        found += [f"{name}.{entry}{part}" for entry in task_names(task) for part in parts]
    return found


def as_row(tasks: Mapping[str, dict], record: Mapping) -> list:
    """A record of ``tools/predict.py`` as the cells under :func:`columns`; None is empty."""
    box = record["box"] or [None] * 4
    row = [record["image"], record.get("frame"), record.get("seconds"), *box]
    for name, task in tasks.items():
        found = record["tasks"][name]
        if task["kind"] == "class":
            row += [found["label"], *found["probabilities"].values()]
        elif task["kind"] == "landmarks":
            row += [value for point in found.values() for value in point]
        else:
            row += found.values()
    return row
