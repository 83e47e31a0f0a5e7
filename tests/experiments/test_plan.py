"""The runs of a table, and the settings that identify a run."""

from pathlib import Path

import pytest

from trn_plugin.errors import ConfigError
from trn_plugin.experiments.plan import runs_of


def settings(table, *extra, **options):
    return runs_of(table, "small", [0], Path("out"), extra, **options)[0].settings


def test_settings_have_only_options_that_change_results(table):
    plain = settings(table)
    assert (
        settings(table, "train_dataloader.num_workers=4", "default_hooks.checkpoint.interval=1")
        == plain
    )
    assert settings(table, "y=1") != plain
    assert settings(table, "s=2") != plain
    assert settings(table, "s=2", "s=1") == plain, "the last of one key counts"
    assert settings(table, amp=True) != plain


def test_mixed_precision_and_one_checkpoint(table):
    for amp in (False, True):
        command = runs_of(table, "small", [0], Path("out"), amp=amp)[0].command()
        assert ("--amp" in command[: command.index("--cfg-options")]) == amp
        assert "default_hooks.checkpoint.max_keep_ckpts=1" in command


def test_rows_are_chosen_by_name(table):
    (chosen,) = runs_of(table, "small", [0], Path("out"), only=["more-much"])
    assert chosen.row.name == "More (much)"
    with pytest.raises(ConfigError, match="no row is named 'less'; they are plain, more-much"):
        runs_of(table, "small", [0], Path("out"), only=["less"])


def test_each_seed_has_all_rows_before_the_next(table):
    runs = runs_of(table, "small", [4, 2], Path("out"))
    found = [(run.seed, run.row.slug) for run in runs]
    assert found == [(4, "plain"), (4, "more-much"), (2, "plain"), (2, "more-much")]
