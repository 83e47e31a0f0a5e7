"""A grid of settings: KEY=A,B,C for each key, a cell for each combination."""

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
    """A row for each cell of a grid, the last key changing fastest.

    Args:
        config: the config file of all cells.
        keys: KEY=A,B,C; a comma inside brackets or braces belongs to a value.

    Raises:
        ConfigError: no KEY=VALUE, a key or a value given twice, two cells of one folder, or the
            seed, which --seeds gives.
    """
    grid: dict[str, list[str]] = {}
    for text in keys:
        key, equals, values = text.partition("=")
        key, listed = key.strip(), [value.strip() for value in _split(values)]
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
    """KEY=VALUE as ``load_config`` takes them; a later one replaces an earlier one."""
    if not options:
        return None
    parser = build_parser("")
    add_config_arguments(parser)
    last = {option.partition("=")[0]: option for option in options}
    return parser.parse_args([config, "--cfg-options", *last.values()]).cfg_options


def equal_epochs(epochs: int, costs: Sequence[float]) -> list[int]:
    """Epochs by which all cells spend about the same; the cheapest has ``epochs``.

    Args:
        epochs: of the cheapest cell.
        costs: of a step of each cell, such as its multiplications.
    """
    return [max(1, round(epochs * min(costs) / cost)) for cost in costs]


def with_equal_epochs(row: Row, epochs: int) -> Row:
    """A cell that trains for so many epochs.

    Raises:
        ConfigError: the grid changes the epochs itself.
    """
    if any(option.startswith(f"{EPOCHS}=") for option in row.options):
        raise ConfigError(f"--equal-compute sets {EPOCHS}, which the grid changes too")
    return dataclasses.replace(row, options=(*row.options, f"{EPOCHS}={epochs}"))


def _split(text: str) -> list[str]:
    """Parts between the commas that are outside of brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _words(keys: Sequence[str]) -> dict[str, str]:
    """The shortest ends of dotted keys that tell them apart."""
    words = {}
    for key in keys:
        parts = key.split(".")
        ends = [".".join(parts[-length:]) for length in range(1, len(parts) + 1)]
        others = [f".{other}" for other in keys if other != key]
        alone = [end for end in ends if not any(other.endswith(f".{end}") for other in others)]
        words[key] = [*alone, key][0]
    return words
