"""A run that was stopped and resumed ends as one that was not, bit for bit."""

import re

import pytest
import tiny
import torch
from mmengine.runner import Runner
from tiny import BATCH, SAMPLES, StopAt, assert_same, result_of, tiny_runner

from trn_plugin.engine import load_checkpoint_file
from trn_plugin.errors import CheckpointError

EPOCHS = dict(type="EpochBasedTrainLoop", max_epochs=3, val_interval=2)
ITERATIONS = dict(type="IterBasedTrainLoop", max_iters=16, val_interval=4)
EVERY_EPOCH = dict(type="CheckpointHook", interval=1, max_keep_ckpts=2)
EVERY_OTHER = dict(type="CheckpointHook", interval=2, by_epoch=False, max_keep_ckpts=2)
FOREVER = dict(type="InfiniteSampler")


def stopped_and_resumed(folder, stops, **options):
    """The result of a run that is stopped after each of these iterations."""
    for stop in stops:
        part = tiny_runner(folder, "part", resume=True, custom_hooks=[StopAt(stop)], **options)
        with pytest.raises(KeyboardInterrupt):
            part.train()
    rest = tiny_runner(folder, "part", resume=True, **options)
    rest.train()
    return rest


def whole(folder, **options):
    run = tiny_runner(folder, "whole", **options)
    run.train()
    return run


@pytest.mark.parametrize(
    ("train_cfg", "checkpoint", "stops"),
    [
        (EPOCHS, EVERY_EPOCH, (3, 8, 18)),  # before the first checkpoint, within and at an end
        (EPOCHS, EVERY_OTHER, (5, 6, 13)),
        (ITERATIONS, EVERY_OTHER, (4, 9)),
        (dict(by_epoch=True, max_epochs=3), EVERY_OTHER, (9,)),
        (dict(by_epoch=False, max_iters=9), EVERY_OTHER, (7,)),
    ],
)
def test_resumed_equals_whole(tmp_path, train_cfg, checkpoint, stops):
    options = dict(train_cfg=train_cfg, checkpoint=checkpoint)
    rest = stopped_and_resumed(tmp_path, stops, **options)
    expected = result_of(whole(tmp_path, **options))
    assert "val/tiny/error" in expected or "val_interval" not in train_cfg
    assert_same(result_of(rest), expected)


@pytest.mark.parametrize(
    ("workers", "persistent", "train_cfg"),
    [
        (1, False, ITERATIONS),
        (2, True, EPOCHS),
        pytest.param(4, False, EPOCHS, marks=pytest.mark.slow),
        pytest.param(4, True, ITERATIONS, marks=pytest.mark.slow),
    ],
)
def test_with_workers_too(tmp_path, workers, persistent, train_cfg):
    """Against a run without workers: their number must not matter either."""
    options = dict(train_cfg=train_cfg, checkpoint=EVERY_OTHER)
    expected = result_of(whole(tmp_path, **options))
    options |= dict(num_workers=workers, persistent_workers=persistent)
    assert_same(result_of(stopped_and_resumed(tmp_path, (9,), **options)), expected)


def test_accumulated_gradients_are_not_lost(tmp_path):
    options = dict(checkpoint=EVERY_OTHER, optim=dict(accumulative_counts=3))
    rest = stopped_and_resumed(tmp_path, (4, 9, 11), **options)
    assert_same(result_of(rest), result_of(whole(tmp_path, **options)))


def test_an_endless_sampler_goes_on(tmp_path, monkeypatch):
    def sample(self, index):  # mmengine's sampler hands no draw on
        x = torch.full((6,), index / SAMPLES)
        return dict(x=x, y=x[:2])

    monkeypatch.setattr(tiny.Numbers, "__getitem__", sample)
    options = dict(train_cfg=ITERATIONS, checkpoint=EVERY_OTHER, sampler=FOREVER)
    rest = stopped_and_resumed(tmp_path, (5, 11), **options)
    assert_same(result_of(rest), result_of(whole(tmp_path, **options)))


@pytest.mark.parametrize(
    ("train_cfg", "done", "total"), [(EPOCHS, 8, 18), (ITERATIONS, 8, ITERATIONS["max_iters"])]
)
def test_no_sample_is_read_again(tmp_path, train_cfg, done, total):
    """The samples before the checkpoint are passed over, not decoded."""
    options = dict(train_cfg=train_cfg, checkpoint=EVERY_OTHER)
    rest = stopped_and_resumed(tmp_path, (done,), **options)
    expected = whole(tmp_path, **options).train_dataloader.dataset.read
    epochs, batches = divmod(done, 6)
    assert rest.train_dataloader.dataset.read == expected[epochs * SAMPLES + batches * BATCH :]
    assert total > done


def test_two_runs_of_a_seed_are_equal_and_of_two_seeds_are_not(tmp_path):
    first, second, other = (
        result_of(whole(tmp_path / name, seed=seed))
        for name, seed in (("first", 5), ("second", 5), ("other", 6))
    )
    assert_same(first, second)
    assert not torch.equal(first["train/loss"], other["train/loss"])


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 half a file", None])
def test_the_newest_readable_checkpoint_is_taken(tmp_path, damage, capsys):
    expected = result_of(whole(tmp_path))
    whole(tmp_path / "copy")
    work = tmp_path / "copy" / "whole"
    assert sorted(p.name for p in work.glob("*.pth")) == ["epoch_2.pth", "epoch_3.pth"]
    newest = work / "epoch_3.pth"
    if damage is None:  # one byte of the weights
        damage = bytearray(newest.read_bytes())
        weights = load_checkpoint_file(newest)["state_dict"]["body.0.weight"]
        damage[damage.index(weights.numpy().tobytes()) + 7] ^= 1
    newest.write_bytes(damage)
    (work / ".epoch_3.pth.x.part").write_bytes(b"killed while it was written")
    run = tiny_runner(tmp_path / "copy", "whole", resume=True)
    capsys.readouterr()
    run.train()
    assert re.search(r"WARNING - not resumed from: .*epoch_3\.pth: ", capsys.readouterr().out)
    assert_same(result_of(run), expected)
    newest.write_bytes(b"")
    (work / "epoch_2.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* the file is empty"):
        tiny_runner(tmp_path / "copy", "whole", resume=True).train()


def test_nothing_to_resume_is_said(tmp_path, capsys):
    run = tiny_runner(tmp_path, resume=True)
    run.train()
    log = capsys.readouterr().out
    assert f"there is no checkpoint in {tmp_path / 'run'}; starting from the beginning" in log


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


def test_a_resumed_run_keeps_no_more_checkpoints_than_asked_for(tmp_path):
    stopped_and_resumed(tmp_path, (8, 14))
    assert sorted(p.name for p in (tmp_path / "part").glob("*.pth")) == [
        "epoch_2.pth",
        "epoch_3.pth",
    ]


def test_the_best_score_survives(tmp_path):
    """The validation that a killed run had not come to is made up for."""
    checkpoint = dict(EVERY_EPOCH, save_best="tiny/error", rule="less")
    options = dict(checkpoint=checkpoint, train_cfg=dict(EPOCHS, val_interval=1))
    rest = stopped_and_resumed(tmp_path, (6, 12, 15), **options)
    run = whole(tmp_path, **options)
    assert rest.message_hub.get_info("best_score") == run.message_hub.get_info("best_score")
    (best,) = (p.name for p in (tmp_path / "whole").glob("best_*.pth"))
    expected = load_checkpoint_file(tmp_path / "whole" / best)
    found = load_checkpoint_file(tmp_path / "part" / best)
    for key, value in expected["state_dict"].items():
        assert torch.equal(found["state_dict"][key], value), key


def test_other_data_in_the_middle_of_an_epoch_is_refused(tmp_path):
    options = dict(checkpoint=EVERY_OTHER)
    with pytest.raises(KeyboardInterrupt):
        tiny_runner(tmp_path, custom_hooks=[StopAt(4)], **options).train()
    with pytest.raises(CheckpointError, match=r"after 4 of an epoch's 6 batches, but .* has 10"):
        tiny_runner(tmp_path, resume=True, samples=40, **options).train()


def test_the_state_of_another_optimizer_is_named(tmp_path):
    whole(tmp_path)
    path = tmp_path / "whole" / "epoch_3.pth"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["optimizer"]["param_groups"] *= 2
    torch.save(checkpoint, path)
    with pytest.raises(CheckpointError, match=r"epoch_3\.pth: .* does not fit the config's opti"):
        tiny_runner(tmp_path, "whole", resume=True).train()


def test_a_checkpoint_of_plain_mmengine_is_resumed(tmp_path):
    part = tiny_runner(tmp_path, "part")
    part.save_checkpoint = lambda *args, **kwargs: Runner.save_checkpoint(part, *args, **kwargs)
    part.train()
    saved = load_checkpoint_file(tmp_path / "part" / "epoch_3.pth")
    assert "trn_plugin_version" not in saved["meta"]
    options = dict(train_cfg=dict(EPOCHS, max_epochs=4))
    rest = tiny_runner(tmp_path, "part", resume=True, **options)
    rest.train()
    assert rest.epoch == 4
    assert rest.iter == 24
    steps = {int(v["step"]) for v in rest.optim_wrapper.state_dict()["state"].values()}
    assert steps == {24}
