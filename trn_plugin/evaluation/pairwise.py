"""Task similarity of many pairs, each over the samples that both sides have."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from trn_plugin.evaluation.task_metric import table
from trn_plugin.relation import chance_similarity, task_similarity_matrix

__all__ = [
    "PairSimilarity",
    "chance_text",
    "clustered_order",
    "grouped",
    "pair_similarities",
    "similarity_matrix",
    "similarity_rows",
    "similarity_table",
]


class PairSimilarity(NamedTuple):
    """Task similarity of one pair.

    Attributes:
        tau: in 0..1; NaN if undefined.
        chance: mean tau of independent features; NaN with too few samples.
        n: number of samples that both sides have.
        d1: width of the first side.
        d2: width of the second side.
        note: why tau is undefined or meaningless; usually empty.
    """

    tau: float
    chance: float
    n: int
    d1: int
    d2: int
    note: str = ""


def grouped(
    features: Mapping[str, np.ndarray], groups: Mapping[str, Sequence[str]]
) -> dict[str, np.ndarray]:
    """Concatenate features, (N, d1 + d2 + ...) by group.

    Args:
        features: (N, d) by name.
        groups: names of ``features``, by the name of their group.
    """
    return {
        name: features[members[0]]
        if len(members) == 1
        else np.concatenate([features[member] for member in members], axis=1)
        for name, members in groups.items()
    }


def pair_similarities(
    features: Mapping[str, np.ndarray],
    pairs: Sequence[tuple[str, str]],
    present: Mapping[str, np.ndarray] | None = None,
) -> list[PairSimilarity]:
    """tau of each pair (Eq. 11; of labels, Eq. 12) and its chance level.

    Pairs with the same samples are measured together.

    Args:
        features: (N, d) floating point by name.
        pairs: pairs of names.
        present: (N,) bool by name, the samples that count; default those with finite features.

    Returns:
        One `PairSimilarity` for each pair, in their order.
    """
    if present is None:
        names = {name for pair in pairs for name in pair}
        present = {name: np.isfinite(features[name]).all(1) for name in names}
    together: dict[bytes, list[tuple[str, str]]] = {}
    for a, b in pairs:
        together.setdefault((present[a] & present[b]).tobytes(), []).append((a, b))
    found: dict[tuple[str, str], PairSimilarity] = {}
    for rows, chosen in together.items():
        measured = _measure(features, chosen, np.frombuffer(rows, dtype=bool))
        found.update(zip(chosen, measured, strict=True))
    return [found[pair] for pair in pairs]


def similarity_matrix(
    names: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    similarities: Sequence[PairSimilarity],
) -> np.ndarray:
    """Symmetric (T, T) matrix of tau, 1 on the diagonal, NaN for pairs that are not given."""
    position = {name: index for index, name in enumerate(names)}
    matrix = np.full((len(names), len(names)), np.nan)
    np.fill_diagonal(matrix, 1.0)
    for (a, b), similarity in zip(pairs, similarities, strict=True):
        i, j = position[a], position[b]
        matrix[i, j] = matrix[j, i] = similarity.tau
    return matrix


def similarity_rows(
    pairs: Sequence[tuple[str, str]],
    found: Mapping[str, Sequence[PairSimilarity]],
    points: str | None = None,
) -> list[dict]:
    """A row of plain values for each pair, sorted by falling tau of the first level.

    Args:
        pairs: pairs of names.
        found: similarity of each pair, by level.
        points: the command-line option for the position of points, copied to each row.

    Returns:
        a, b, N, points, and for each level ``tau_<level>``, ``chance_``, ``d1_``, ``d2_``,
        ``note_``; None for an undefined number.
    """
    first, rows = next(iter(found)), []
    for index, (a, b) in enumerate(pairs):
        row = {"a": a, "b": b, "N": found[first][index].n, "points": points}
        for level, similarities in found.items():
            similarity = similarities[index]
            tau, chance = (
                None if math.isnan(value) else round(value, 6)
                for value in (similarity.tau, similarity.chance)
            )
            row |= {f"tau_{level}": tau, f"chance_{level}": chance}
            row |= {f"{name}_{level}": getattr(similarity, name) for name in ("d1", "d2", "note")}
        rows.append(row)
    return sorted(rows, key=lambda row: -1 if row[f"tau_{first}"] is None else -row[f"tau_{first}"])


def similarity_table(rows: Sequence[Mapping], levels: Sequence[str], listed: int) -> str:
    """The rows as text; only the first and last ``listed`` of many."""
    header, lines = ["pair, most related labels first", "N"], []
    for level in levels:
        header += [f"tau {level}", "chance", "d1", "d2"]
    for row in rows if len(rows) <= 2 * listed else [*rows[:listed], *rows[-listed:]]:
        line = [f"{row['a']} - {row['b']}", str(row["N"])]
        for level in levels:
            values = row[f"tau_{level}"], row[f"chance_{level}"]
            line += ["-" if value is None else f"{value:.4f}" for value in values]
            line += [str(row[f"d1_{level}"]), str(row[f"d2_{level}"])]
        notes = [f"{level}: {row[f'note_{level}']}" for level in levels if row[f"note_{level}"]]
        lines.append([*line, "; ".join(notes)])
    if len(rows) > 2 * listed:
        lines.insert(listed, ["...", *[""] * len(header)])
    return table([*header, ""], lines, left=(0, len(header)))


def chance_text(similarities: Sequence[PairSimilarity]) -> str:
    """The lowest and highest chance level of all pairs, in words."""
    known = [s.chance for s in similarities if not math.isnan(s.chance)]
    if not known:
        return "undefined: too few samples"
    low, high = f"{min(known):.3f}", f"{max(known):.3f}"
    return f"unrelated features would give {low if low == high else f'{low} to {high}'}"


def clustered_order(matrix: np.ndarray) -> list[int]:
    """An order that puts related tasks next to each other: average linkage over 1 - tau.

    Args:
        matrix: (T, T) tau, symmetric; NaN counts as unrelated.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(matrix) < 3:
        return list(range(len(matrix)))
    distance = 1 - np.nan_to_num(matrix, nan=0.0)
    np.fill_diagonal(distance, 0)
    joined = linkage(squareform(distance, checks=False), "average", optimal_ordering=True)
    return leaves_list(joined).tolist()


def _measure(
    features: Mapping[str, np.ndarray], pairs: Sequence[tuple[str, str]], rows: np.ndarray
) -> list[PairSimilarity]:
    n = int(rows.sum())
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    kept = {name: features[name] if n == len(rows) else features[name][rows] for name in names}
    finite = [name for name in names if n and np.isfinite(kept[name]).all()]
    place = {name: index for index, name in enumerate(finite)}
    sides = [torch.from_numpy(kept[name]) for name in finite]
    tau = task_similarity_matrix(sides).numpy() if sides else None
    constant = functools.cache(lambda name: bool((kept[name] == kept[name][0]).all()))
    chance = functools.cache(chance_similarity)
    similarities = []
    for a, b in pairs:
        size = n, kept[a].shape[1], kept[b].shape[1]
        expected = chance(*size)
        if n == 0:
            value, note = math.nan, "undefined: no sample has all labels"
        elif n - 1 <= size[1] + size[2]:
            value, note = math.nan, "undefined: N - 1 <= d1 + d2"
        elif a not in place or b not in place:
            value, note = math.nan, "undefined: features are not finite"
        else:
            value, note = float(tau[place[a], place[b]]), ""
            if features[a] is features[b]:
                note = "identical features"
            elif value == 0 and (constant(a) or constant(b)):
                empty = [s for s, name in (("first", a), ("second", b)) if constant(name)]
                note = f"constant: {' and '.join(empty)} side"
        similarities.append(PairSimilarity(value, expected, *size, note))
    return similarities
