"""A grid of settings: KEY=A,B,C for each key, one cell for each combination."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence

from trn_plugin.cli.config import add_config_arguments
from trn_plugin.cli.parsing import build_parser
from trn_plugin.errors import ConfigError
from trn_plugin.experiments.plan import WITHOUT_EFFECT, Row

__all__ = ["cells", "content_digest", "equal_epochs", "parse_options"]


def cells(config: str, keys: Sequence[str]) -> list[Row]:
    """One row for each cell of a grid; the last key varies fastest.

    Args:
        config: the config file of all cells.
        keys: KEY=A,B,C; a comma inside brackets or braces belongs to a value.

    Raises:
        ConfigError: not KEY=VALUE, a key given twice, two cells with the same folder, or the key
            of the seed, which --seeds sets.
    """
    grid: dict[str, list[str]] = {}
    for text in keys:
        key, equals, values = text.partition("=")
        key, listed = key.strip(), [value.strip() for value in _split(values)]
        if not (key and equals) or "" in listed:
            raise ConfigError(f"grid: expected KEY=A,B,C, found {text!r}")
        if key in grid:
            raise ConfigError(f"grid: {text}: expected each key once")
        if key == "randomness.seed":
            raise ConfigError("grid: randomness.seed: give the seeds with --seeds")
        grid[key] = listed
    last = {key: key.rpartition(".")[2] for key in grid}
    words = {key: word if [*last.values()].count(word) == 1 else key for key, word in last.items()}
    rows = []
    for values in itertools.product(*grid.values()):
        chosen = list(zip(grid, values, strict=True))
        name = ", ".join(f"{words[key]} {value}" for key, value in chosen)
        rows.append(Row(name, config, tuple(f"{key}={value}" for key, value in chosen)))
    slugs = [row.slug for row in rows]
    for row in rows:
        if slugs.count(row.slug) > 1:
            raise ConfigError(f"grid: two cells would have the folder {row.slug!r}: {row.name}")
    return rows


def parse_options(config: str, options: Sequence[str]) -> dict | None:
    """Parse KEY=VALUE to the options of ``load_config``; the last value of a key counts."""
    if not options:
        return None
    parser = build_parser("")
    add_config_arguments(parser)
    last = {option.partition("=")[0]: option for option in options}
    return parser.parse_args([config, "--cfg-options", *last.values()]).cfg_options


def equal_epochs(epochs: int, costs: Sequence[float]) -> list[int]:
    """Epochs of each cell such that all cells need about the same compute.

    Args:
        epochs: epochs of the cheapest cell.
        costs: cost of a step of each cell, such as its multiplications.
    """
    return [max(1, round(epochs * min(costs) / cost)) for cost in costs]


def content_digest(config: Mapping) -> str:
    """Short SHA-256 of a config's values, without those that change no result."""

    def kept(value):
        if isinstance(value, Mapping):
            return {str(k): kept(v) for k, v in value.items() if k not in WITHOUT_EFFECT}
        if isinstance(value, (list, tuple)):
            return [kept(inside) for inside in value]
        return getattr(value, "__qualname__", None) or repr(value)  # functions without addresses

    return hashlib.sha256(json.dumps(kept(config), sort_keys=True).encode()).hexdigest()[:12]


def _split(text: str) -> list[str]:
    """Split at the commas outside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts
