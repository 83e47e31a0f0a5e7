"""The tables' configs and options are real."""

from pathlib import Path

import pytest
from reproduction.catalogue import TABLES
from reproduction.execution import parsed_options
from reproduction.plan import runs_of
from reproduction.report import baseline_of, box_of
from reproduction.tables import FIGURE4

from trn_plugin.cli import load_config
from trn_plugin.errors import ConfigError

ROOT = Path(__file__).parents[3]
NEW = (  # options that no config names
    "dataset.partition",
    "cache_gb",
    "channels_last",
    "pin_memory",
    "indices",
    "task_weighting.type",
    "decay_mult",
    "correct_chance",
    "neck.statistic",
)


def has(config, key):
    for part in key.split("."):
        if isinstance(config, (list, tuple)):
            part = int(part)
        elif part not in config:
            return False
        config = config[part]
    return True


@pytest.mark.parametrize("table", [*TABLES.values(), FIGURE4], ids=lambda table: table.name)
@pytest.mark.parametrize("scale", ["small", "paper"])
def test_options_change_what_is_there(table, scale, tmp_path):
    if scale not in table.scales:
        with pytest.raises(ConfigError, match=f"{table.name} has no scale 'paper', but small"):
            runs_of(table, scale, [5], tmp_path)
        return
    runs = runs_of(table, scale, [5], tmp_path)
    assert len({(run.row.config, run.row.options) for run in runs}) == len(runs), "two rows alike"
    for run in runs[:4] + runs[-4:]:
        path = str(ROOT / run.row.config)
        plain = load_config(path, None)
        options = parsed_options(run.train_options)
        missing = [k for k in options if not has(plain, k) and not k.endswith(NEW)]
        assert not missing, f"{run}: {missing}"
        assert load_config(path, options).randomness.seed == 5
        loader = load_config(path, parsed_options(run.options))[f"{run.scale.split}_dataloader"]
        assert loader.dataset.type in ("MTFL", "CelebA")


def test_small_rows_are_measured_on_boxes_that_do_not_leak(tmp_path):
    for run in runs_of(TABLES["table1"], "small", [0], tmp_path):
        config = load_config(str(ROOT / run.row.config), parsed_options(run.options))
        box, leaks = box_of(config, "val")
        assert "perturbed" in box
        assert not leaks
        box, leaks = box_of(config, "test")
        assert box == "whole picture (test)"


def test_every_row_has_its_config_and_its_baseline():
    for table in TABLES.values():
        assert len({row.slug for row in table.rows}) == len(table.rows)
        for row in table.rows:
            assert (ROOT / row.config).is_file()
            other = baseline_of(row, table.rows)
            assert row.baseline == ("" if other is None else other.name)
            assert other is not row
