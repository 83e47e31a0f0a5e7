"""A grid of settings: KEY=A,B,C for each key, one cell for each combination."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from trn_plugin.cli.config import add_config_arguments
from trn_plugin.cli.parsing import build_parser
from trn_plugin.errors import ConfigError
from trn_plugin.experiments.plan import Row

__all__ = ["cells", "equal_epochs", "parse_options", "with_equal_epochs"]

EPOCHS = "train_cfg.max_epochs"


def cells(config: str, keys: Sequence[str]) -> list[Row]:
    """One row for each cell of a grid; the last key varies fastest.

    Args:
        config: the config file of all cells.
        keys: KEY=A,B,C; a comma inside brackets or braces belongs to a value.

    Raises:
        ConfigError: not KEY=VALUE, a key or a value given twice, two cells with the same folder,
            or the key of the seed, which --seeds sets.
    """
    grid: dict[str, list[str]] = {}
    for text in keys:
        key, equals, values = text.partition("=")
        listed = _split(values)
        if not (key and equals) or "" in listed:
            raise ConfigError(f"grid: expected KEY=A,B,C, found {text!r}")
        if key in grid or len(set(listed)) < len(listed):
            raise ConfigError(f"grid: {text}: expected each key and each of its values once")
        if key == "randomness.seed":
            raise ConfigError("grid: randomness.seed: give the seeds with --seeds")
        grid[key] = listed
    words = _words(list(grid))
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


def with_equal_epochs(row: Row, epochs: int) -> Row:
    """The cell with ``epochs`` added to its options.

    Raises:
        ConfigError: the epochs are a key of the grid.
    """
    if any(option.startswith(f"{EPOCHS}=") for option in row.options):
        raise ConfigError(f"--equal-compute sets {EPOCHS}, which the grid changes too")
    return dataclasses.replace(row, options=(*row.options, f"{EPOCHS}={epochs}"))


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


def _words(keys: Sequence[str]) -> dict[str, str]:
    """The shortest unique suffix of each dotted key."""
    words = {}
    for key in keys:
        parts = key.split(".")
        suffixes = [".".join(parts[-length:]) for length in range(1, len(parts) + 1)]
        others = [f".{other}" for other in keys if other != key]
        unique = [s for s in suffixes if not any(other.endswith(f".{s}") for other in others)]
        words[key] = [*unique, key][0]
    return words
