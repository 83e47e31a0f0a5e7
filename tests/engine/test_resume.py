"""A run that was stopped and resumed ends as one that was not, bit for bit."""

import re
import shutil
from types import SimpleNamespace

import pytest
import tiny
import torch
from mmengine.runner import Runner
from tiny import BATCH, SAMPLES, StopAt, assert_same, result_of, tiny_runner

from trn_plugin.checkpoints import load_checkpoint_file
from trn_plugin.errors import CheckpointError, ConfigError
from trn_plugin.hooks import NamesHook

EPOCHS = dict(type="EpochBasedTrainLoop", max_epochs=3, val_interval=2)
ITERATIONS = dict(type="IterBasedTrainLoop", max_iters=16, val_interval=4)
EVERY_EPOCH = dict(type="CheckpointHook", interval=1, max_keep_ckpts=2)
EVERY_OTHER = dict(type="CheckpointHook", interval=2, by_epoch=False, max_keep_ckpts=2)
EVERY_ONE = dict(EVERY_OTHER, interval=1)
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
        (dict(ITERATIONS, val_interval=1, max_iters=6), EVERY_ONE, (4,)),
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


def test_a_best_checkpoint_that_a_kill_left_behind_is_removed(tmp_path):
    checkpoint = dict(EVERY_EPOCH, save_best="tiny/error", rule="less")
    options = dict(checkpoint=checkpoint, train_cfg=dict(EPOCHS, val_interval=1))
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


BEST = dict(EVERY_EPOCH, save_best="tiny/error", rule="less")


def test_weights_alone_are_not_what_a_run_goes_on_from(tmp_path):
    """Killed between the best checkpoint and the next write of the epoch's."""
    options = dict(checkpoint=BEST, train_cfg=dict(EPOCHS, val_interval=1))
    part = tiny_runner(tmp_path, "part", **options)
    write = part.save_checkpoint

    def killed_after_the_best(out_dir, filename, *args, **kwargs):
        write(out_dir, filename, *args, **kwargs)
        if filename.startswith("best_"):
            raise KeyboardInterrupt

    part.save_checkpoint = killed_after_the_best
    with pytest.raises(KeyboardInterrupt):
        part.train()
    assert sorted(p.name[:5] for p in (tmp_path / "part").glob("*.pth")) == ["best_", "epoch"]
    rest = tiny_runner(tmp_path, "part", resume=True, **options)
    rest.train()
    assert_same(result_of(rest), result_of(whole(tmp_path, **options)))


def test_the_best_checkpoint_outlives_a_failed_write_of_a_better_one(tmp_path):
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


def test_a_measure_that_is_not_there_is_named(tmp_path):
    run = tiny_runner(tmp_path, checkpoint=dict(BEST, save_best="tiny/erorr"))
    with pytest.raises(ConfigError, match=r"expected one of tiny/error, .* found 'tiny/erorr'"):
        run.train()


def test_published_checkpoints_hold_what_was_asked_for(tmp_path):
    whole(tmp_path, checkpoint=dict(BEST, published_keys=["meta", "state_dict"]))
    (path,) = (tmp_path / "whole").glob("epoch_3-????????.pth")
    assert set(torch.load(path, weights_only=True)) == {"meta", "state_dict"}


def changed(path, change):
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, path)


def test_a_checkpoint_cannot_have_other_files_removed(tmp_path):
    options = dict(checkpoint=BEST, train_cfg=dict(EPOCHS, val_interval=1))
    with pytest.raises(KeyboardInterrupt):
        tiny_runner(tmp_path, "part", custom_hooks=[StopAt(8)], **options).train()
    shutil.move(tmp_path / "part" / "epoch_1.pth", tmp_path)
    victims = tmp_path / "victims" / "best_folder.pth"
    victims.mkdir(parents=True)
    (victims / "file").write_text("mine")
    file = tmp_path / "best_other.pth"
    file.write_text("mine")

    for victim in (victims, file):
        path = tmp_path / "hostile.pth"
        shutil.copy(tmp_path / "epoch_1.pth", path)
        changed(
            path,
            lambda c, victim=victim: c["message_hub"]["runtime_info"].update(
                best_ckpt=str(victim), best_score=1e9
            ),
        )
        run = tiny_runner(tmp_path, "part", resume=True, load_from=str(path), **options)
        run.train()
    assert (victims / "file").read_text() == file.read_text() == "mine"


def test_early_stopping_goes_on_counting(tmp_path):
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


ODD = {
    "epoch": lambda c: c["meta"].update(epoch=-3),
    "iter": lambda c: c["meta"].update(iter=10**400),
    "seed": lambda c: c["meta"].update(seed=2**70),
    "negative seed": lambda c: c["meta"].update(seed=-1),
    "log name": lambda c: c["message_hub"]["log_scalars"].update(
        {1: dict(history=torch.ones(2), counts=torch.ones(2))}
    ),
    "log lengths": lambda c: c["message_hub"]["log_scalars"].update(
        a=dict(history=torch.ones(2), counts=torch.ones(3))
    ),
    "kept": lambda c: c["message_hub"]["runtime_info"].update(keep_ckpt_ids=5),
    "random": lambda c: c["ranks"][0].update(random=3),
    "moments": lambda c: c["optimizer"]["state"][0].update(exp_avg=torch.ones(7)),
    "moments of another kind": lambda c: c["optimizer"]["state"][3].update(exp_avg="abc"),
    "no moments": lambda c: c["optimizer"]["state"][2].pop("exp_avg_sq"),
    "step": lambda c: c["optimizer"]["state"][1].update(step=torch.zeros(0)),
    "betas": lambda c: c["optimizer"]["param_groups"][0].update(betas=[0.9]),
    "schedule": lambda c: c["param_schedulers"][0].update(param_name="momentum"),
    "schedule's length": lambda c: c["param_schedulers"][0].update(end="abc"),
    "another schedule": lambda c: c["param_schedulers"][0].pop("T_max"),
    "schedule's method": lambda c: c["param_schedulers"][0].update(step=3),
    "rate": lambda c: c["optimizer"]["param_groups"][0].update(lr="abc"),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_content_is_told_in_one_line(tmp_path, kind):
    whole(tmp_path)
    path = tmp_path / "whole" / "epoch_3.pth"
    changed(path, ODD[kind])
    options = dict(load_from=str(path), train_cfg=dict(EPOCHS, max_epochs=4))
    with pytest.raises(CheckpointError, match=r"epoch_3\.pth: ") as error:
        tiny_runner(tmp_path, "whole", resume=True, **options).train()
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        (3, r"no checkpoint has been written yet$"),
        (8, r"epoch_1\.pth; --resume continues from there$"),
    ],
)
def test_an_interrupt_says_where_to_go_on(tmp_path, stop, message):
    with pytest.raises(KeyboardInterrupt, match=message):
        tiny_runner(tmp_path, custom_hooks=[StopAt(stop)]).train()


def test_a_pointer_to_nowhere_is_none(tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "last_checkpoint").write_bytes(b"\xff\xfe\x00")
    rest = tiny_runner(tmp_path, "part", resume=True)
    rest.train()
    assert rest.epoch == 3


def test_weights_that_start_anew_are_named(tmp_path):
    whole(tmp_path)
    path = tmp_path / "whole" / "epoch_3.pth"
    changed(path, lambda c: c["state_dict"].update({"body.0.weight": torch.ones(3, 3)}))
    changed(path, lambda c: c["state_dict"].pop("heads.a.bias"))
    run = tiny_runner(tmp_path, "other", load_from=str(path))
    messages = []
    run.logger.warning = messages.append
    run.load_or_resume()
    assert any("lacks heads.a.bias: these start anew" in text for text in messages)
    assert any("body.0.weight (3, 3) instead of (8, 6)" in text for text in messages)


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
        tiny_runner(tmp_path, "whole", resume=True, load_from=str(path)).train()


def test_parameters_in_another_order_keep_their_moments(tmp_path):
    """As a newer timm may have them; of equal shapes nothing else would tell."""

    turned = tiny.TinyModel()
    turned.heads = torch.nn.ModuleDict(reversed(list(turned.heads.items())))
    whole(tmp_path)
    saved = load_checkpoint_file(tmp_path / "whole" / "epoch_3.pth")
    names = saved["optimized"][""][0]
    assert set(names) == {name for name, _ in turned.named_parameters()}
    assert names != [name for name, _ in turned.named_parameters()]
    run = tiny_runner(tmp_path, "whole", resume=True, model=turned)
    run.train()  # it is at its end
    for name, parameter in turned.named_parameters():
        expected = saved["optimizer"]["state"][names.index(name)]["exp_avg"]
        assert torch.equal(run.optim_wrapper.optimizer.state[parameter]["exp_avg"], expected), name


@pytest.mark.parametrize("names", [{"": [["x"]]}, {"a": [["x"]]}, {"": 3}, None, {"": [3]}])
def test_the_moments_of_other_parameters_are_refused(tmp_path, names):
    whole(tmp_path)
    path = tmp_path / "whole" / "epoch_3.pth"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["optimized"] = names
    torch.save(checkpoint, path)
    with pytest.raises(CheckpointError, match=r"epoch_3\.pth: .* does not fit the config's opti"):
        tiny_runner(tmp_path, "whole", resume=True, load_from=str(path)).train()


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


def test_other_names_than_the_models_are_told(tmp_path):
    run = tiny_runner(tmp_path)
    run.trained_on = dict(tasks=dict(a=dict(kind="class", classes=("cat", "dog")), b=dict()))
    told = []
    run.logger.warning = told.append
    for classes, count in ((["cat", "dog"], 0), (["dog", "cat"], 1), ("odd", 1), (7, 1)):
        metainfo = dict(tasks=dict(a=dict(kind="class", classes=classes)))
        NamesHook().before_test(SimpleNamespace(**vars(run), **with_test_data(run, metainfo)))
        assert len(told) == count
    assert "a: the model was trained with classes ['cat', 'dog'], the test data has" in told[0]


def with_test_data(run, metainfo):
    dataset = SimpleNamespace(metainfo=metainfo)
    return dict(bare_model=run.model, test_dataloader=SimpleNamespace(dataset=dataset))
