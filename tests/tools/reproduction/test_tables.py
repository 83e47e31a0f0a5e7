"""The tables' configs and options exist."""

from pathlib import Path

import pytest
from reproduction.main import TABLES
from reproduction.report import baseline_of

from trn_plugin.cli import load_config
from trn_plugin.cli.config import add_config_arguments
from trn_plugin.cli.parsing import build_parser
from trn_plugin.experiments.plan import runs_of
from trn_plugin.experiments.training import box_of

ROOT = Path(__file__).parents[3]
NEW = (  # options that no config sets
    *("cache_gb", "channels_last", "checkpoint_path", "decay_mult", "indices", "pin_memory"),
    *(
        "dataset.partition",
        "dataset.share",
        "landmarks.channels",
        "neck.statistic",
        "neck.type",
        "task_weighting.type",
    ),
)
SCALES = [(table, scale) for table in TABLES.values() for scale in table.scales]


def has(config, key):
    for part in key.split("."):
        if isinstance(config, (list, tuple)):
            part = int(part)
        elif part not in config:
            return False
        config = config[part]
    return True


def config_of(run):
    parser = build_parser("")
    add_config_arguments(parser)
    arguments = parser.parse_args([run.row.config, "--cfg-options", *run.options])
    path = str(ROOT / run.row.config)
    return load_config(path, None), arguments.cfg_options, load_config(path, arguments.cfg_options)


@pytest.mark.parametrize(
    ("table", "scale"), SCALES, ids=[f"{table.name}-{scale}" for table, scale in SCALES]
)
def test_options_change_existing_keys(table, scale, tmp_path):
    runs = runs_of(table, scale, [5], tmp_path)
    assert len({(run.row.config, run.row.options) for run in runs}) == len(runs), "two rows alike"
    for run in runs[:4] + runs[-4:]:
        plain, options, config = config_of(run)
        missing = [k for k in options if not has(plain, k) and not k.endswith(NEW)]
        assert not missing, f"{run}: {missing}"
        assert config.randomness.seed == 5
        for split in run.scale.splits:
            assert config[f"{split}_dataloader"].dataset.type in ("MTFL", "CelebA")
        if "test" not in run.scale.splits:
            assert config.test_dataloader is None, "its pictures need not be here"


def test_rows_are_measured_on_boxes_that_do_not_leak(tmp_path):
    for run in runs_of(TABLES["table1"], "small", [0], tmp_path):
        _, _, config = config_of(run)
        assert "perturbed" in box_of(config, "val")
        assert box_of(config, "test") == "whole picture"


def test_every_row_has_its_config_and_its_baseline():
    for table in TABLES.values():
        assert len({row.slug for row in table.rows}) == len(table.rows)
        for row in table.rows:
            assert (ROOT / row.config).is_file()
            other = baseline_of(row, table.rows)
            assert row.baseline == ("" if other is None else other.name)
            assert other is not row
