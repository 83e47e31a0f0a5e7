"""Which checkpoints a run keeps: the newest and the best."""

import shutil

import pytest
import torch
from tiny import (
    EPOCHS,
    EVERY_EPOCH,
    SquaredError,
    StopAt,
    assert_same,
    result_of,
    stopped_and_resumed,
    tiny_runner,
    whole,
)

from trn_plugin.checkpoints import load_checkpoint_file
from trn_plugin.errors import CheckpointError, ConfigError
from trn_plugin.registry import METRICS

BEST = dict(EVERY_EPOCH, save_best="tiny/error", rule="less")
EACH = dict(EPOCHS, val_interval=1)


def test_old_checkpoints_are_deleted_after_the_new_one_is_written(tmp_path, monkeypatch):
    run = tiny_runner(tmp_path, checkpoint=dict(EVERY_EPOCH, max_keep_ckpts=1))
    seen = []
    write = run.save_checkpoint

    def checked(*args, **kwargs):
        seen.append([p.name for p in (tmp_path / "run").glob("*.pth")])
        write(*args, **kwargs)

    monkeypatch.setattr(run, "save_checkpoint", checked)
    run.train()
    assert seen == [[], ["epoch_1.pth"], ["epoch_2.pth"]]
    assert [p.name for p in (tmp_path / "run").glob("*.pth")] == ["epoch_3.pth"]
    assert (tmp_path / "run" / "last_checkpoint").read_text().endswith("epoch_3.pth")


def test_a_resumed_run_respects_max_keep_ckpts(tmp_path):
    stopped_and_resumed(tmp_path, (8, 14))
    assert sorted(p.name for p in (tmp_path / "part").glob("*.pth")) == [
        "epoch_2.pth",
        "epoch_3.pth",
    ]


def test_a_best_checkpoint_that_a_kill_left_behind_is_removed(tmp_path):
    options = dict(checkpoint=BEST, train_cfg=EACH)
    tiny_runner(tmp_path, "run", **options).train()
    (best,) = (tmp_path / "run").glob("best_*.pth")
    shutil.copy(best, tmp_path / "run" / "best_tiny_error_epoch_77.pth")
    kept = tmp_path / "run" / "best_of_mine.pth"
    shutil.copy(best, kept)
    longer = dict(options, train_cfg=dict(EPOCHS, val_interval=1, max_epochs=4))
    tiny_runner(tmp_path, "run", resume=True, **longer).train()
    left = set((tmp_path / "run").glob("best_*.pth"))
    assert len(left) == 2
    assert kept in left


def killed_after_the_best(tmp_path, options, epoch):
    """A run that is killed when it has written the best checkpoint of an epoch."""
    part = tiny_runner(tmp_path, "part", **options)
    write = part.save_checkpoint

    def killed(out_dir, filename, *args, **kwargs):
        write(out_dir, filename, *args, **kwargs)
        if filename.startswith("best_") and filename.endswith(f"_{epoch}.pth"):
            raise KeyboardInterrupt

    part.save_checkpoint = killed
    return part


def test_the_best_score_survives(tmp_path):
    """A resumed run repeats the validation that a kill prevented."""
    options = dict(checkpoint=BEST, train_cfg=EACH)
    rest = stopped_and_resumed(tmp_path, (6, 12, 15), **options)
    run = whole(tmp_path, **options)
    assert rest.message_hub.get_info("best_score") == run.message_hub.get_info("best_score")
    (best,) = (p.name for p in (tmp_path / "whole").glob("best_*.pth"))
    found, expected = (
        load_checkpoint_file(tmp_path / name / best)["state_dict"] for name in ("part", "whole")
    )
    assert_same(found, expected)


@pytest.mark.parametrize("epoch", [1, 3])
def test_the_newest_checkpoint_names_the_best(tmp_path, epoch):
    """Killed when the best checkpoint was written, before the newest one is written again."""
    options = dict(checkpoint=BEST, train_cfg=EACH)
    with pytest.raises(KeyboardInterrupt):
        killed_after_the_best(tmp_path, options, epoch).train()
    tiny_runner(tmp_path, "part", resume=True, **options).train()
    (best,) = (tmp_path / "part").glob("best_*.pth")
    newest = load_checkpoint_file((tmp_path / "part/last_checkpoint").read_text())
    assert newest["message_hub"]["runtime_info"]["best_ckpt"] == str(best)


def test_a_best_checkpoint_without_optimizer_is_not_resumed_from(tmp_path):
    """Killed after the best checkpoint was written, before the next one of an epoch."""
    options = dict(checkpoint=BEST, train_cfg=EACH)
    part = killed_after_the_best(tmp_path, options, 1)
    with pytest.raises(KeyboardInterrupt):
        part.train()
    assert sorted(p.name[:5] for p in (tmp_path / "part").glob("*.pth")) == ["best_", "epoch"]
    rest = tiny_runner(tmp_path, "part", resume=True, **options)
    rest.train()
    assert_same(result_of(rest), result_of(whole(tmp_path, **options)))


def test_the_best_checkpoint_survives_a_failed_write_of_a_better_one(tmp_path):
    options = dict(
        checkpoint=dict(BEST, interval=-1), train_cfg=dict(EPOCHS, max_epochs=8, val_interval=1)
    )
    run = tiny_runner(tmp_path, "part", **options)
    write = run.save_checkpoint
    written = []

    def fails_the_second_time(out_dir, filename, *args, **kwargs):
        if written:
            raise CheckpointError("no space left")
        written.append(filename)
        write(out_dir, filename, *args, **kwargs)

    run.save_checkpoint = fails_the_second_time
    with pytest.raises(CheckpointError, match="no space left"):
        run.train()
    assert [p.name for p in (tmp_path / "part").glob("*.pth")] == written


def test_published_checkpoints_have_the_configured_keys(tmp_path):
    whole(tmp_path, checkpoint=dict(BEST, published_keys=["meta", "state_dict"]))
    (path,) = (tmp_path / "whole").glob("epoch_3-????????.pth")
    assert set(torch.load(path, weights_only=True)) == {"meta", "state_dict"}


def test_early_stopping_continues_counting_after_a_resume(tmp_path):
    stopping = dict(
        type="EarlyStoppingHook", monitor="tiny/error", rule="less", patience=3, min_delta=9.0
    )
    train_cfg = dict(EPOCHS, max_epochs=12, val_interval=1)

    def runner(name, *hooks, **options):
        hooks = [dict(stopping), *hooks]
        return tiny_runner(tmp_path, name, custom_hooks=hooks, train_cfg=train_cfg, **options)

    expected = runner("whole")
    expected.train()
    for stop in (9, 15):
        with pytest.raises(KeyboardInterrupt):
            runner("part", StopAt(stop), resume=True).train()
    rest = runner("part", resume=True)
    rest.train()
    assert rest.epoch == expected.epoch < 12
    assert_same(result_of(rest), result_of(expected))


class Directed(SquaredError):
    default_prefix = "tiny"
    directions = {"error": "less"}


def test_save_best_auto_takes_the_first_metric_with_a_direction(tmp_path, monkeypatch):
    monkeypatch.setitem(METRICS.module_dict, "Directed", Directed)
    checkpoint = dict(EVERY_EPOCH, save_best="auto")
    run = tiny_runner(tmp_path, checkpoint=checkpoint, train_cfg=EACH)
    run.train()
    (best,) = (tmp_path / "run").glob("best_tiny_error_*.pth")
    errors = run.message_hub.get_scalar("val/tiny/error").data[0]
    assert load_checkpoint_file(best)["meta"]["epoch"] == 1 + errors.argmin()


def stops(**options):
    hook = dict(type="EarlyStoppingHook", monitor="tiny/erorr", rule="less", **options)
    return dict(custom_hooks=[hook])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(checkpoint=dict(EVERY_EPOCH, save_best="auto")), "'auto' needs a measure with a kn"),
        (dict(checkpoint=dict(BEST, save_best="tiny/erorr")), r"save_best: expected one of tiny/e"),
        (stops(strict=False), r"monitor: expected one of tiny/error, .*'tiny/erorr'"),
        (stops(strict=True), r"monitor: expected one of tiny/error, .*'tiny/erorr'"),
    ],
)
def test_an_unknown_metric_for_save_best_is_named(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        tiny_runner(tmp_path, train_cfg=EACH, **options).train()


def test_epoch_based_checkpoints_in_an_iteration_based_loop(tmp_path):
    train_cfg = dict(type="IterBasedTrainLoop", max_iters=15, val_interval=99)
    checkpoint = dict(EVERY_EPOCH, max_keep_ckpts=5)
    tiny_runner(tmp_path, train_cfg=train_cfg, checkpoint=checkpoint).train()
    found = sorted(path.name for path in (tmp_path / "run").glob("*.pth"))
    assert found == ["iter_12.pth", "iter_15.pth", "iter_6.pth"]
