"""A stopped and resumed run ends like an uninterrupted one, bit for bit."""

from types import SimpleNamespace

import pytest
import tiny
import torch
from mmengine.runner import Runner
from tiny import (
    BATCH,
    EPOCHS,
    EVERY_EPOCH,
    EVERY_OTHER,
    SAMPLES,
    StopAt,
    assert_same,
    changed,
    result_of,
    stopped_and_resumed,
    tiny_runner,
    warnings_of,
    whole,
)

from trn_plugin.checkpoints import load_checkpoint_file
from trn_plugin.errors import CheckpointError
from trn_plugin.hooks import NamesHook

ITERATIONS = dict(type="IterBasedTrainLoop", max_iters=16, val_interval=4)


@pytest.mark.parametrize(
    ("train_cfg", "checkpoint", "stops", "accumulated"),
    [
        (
            EPOCHS,
            EVERY_EPOCH,
            (3, 8, 18),
            1,
        ),  # before the first checkpoint, within an epoch, at the end of one
        (EPOCHS, EVERY_OTHER, (5, 6, 13), 1),
        (EPOCHS, EVERY_OTHER, (4, 9, 11), 3),
        (ITERATIONS, EVERY_OTHER, (4, 9), 1),
        (dict(by_epoch=True, max_epochs=3), EVERY_OTHER, (9,), 1),
        (dict(by_epoch=False, max_iters=9), EVERY_OTHER, (7,), 1),
        (dict(ITERATIONS, val_interval=1, max_iters=6), dict(EVERY_OTHER, interval=1), (4,), 1),
    ],
)
def test_resumed_equals_whole(tmp_path, train_cfg, checkpoint, stops, accumulated):
    optim = dict(accumulative_counts=accumulated)
    options = dict(train_cfg=train_cfg, checkpoint=checkpoint, optim=optim)
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
    """Compared with a run without workers: their number must not matter."""
    options = dict(train_cfg=train_cfg, checkpoint=EVERY_OTHER)
    expected = result_of(whole(tmp_path, **options))
    options |= dict(num_workers=workers, persistent_workers=persistent)
    assert_same(result_of(stopped_and_resumed(tmp_path, (9,), **options)), expected)


def test_an_infinite_sampler_continues(tmp_path, monkeypatch):
    def sample(self, index):  # mmengine's sampler yields no draws
        x = torch.full((6,), index / SAMPLES)
        return dict(x=x, y=x[:2])

    monkeypatch.setattr(tiny.Numbers, "__getitem__", sample)
    options = dict(
        train_cfg=ITERATIONS, checkpoint=EVERY_OTHER, sampler=dict(type="InfiniteSampler")
    )
    rest = stopped_and_resumed(tmp_path, (5, 11), **options)
    assert_same(result_of(rest), result_of(whole(tmp_path, **options)))


@pytest.mark.parametrize(
    ("train_cfg", "done", "total"), [(EPOCHS, 8, 18), (ITERATIONS, 8, ITERATIONS["max_iters"])]
)
def test_samples_before_the_checkpoint_are_not_read(tmp_path, train_cfg, done, total):
    """They are skipped, not decoded."""
    options = dict(train_cfg=train_cfg, checkpoint=EVERY_OTHER)
    rest = stopped_and_resumed(tmp_path, (done,), **options)
    expected = whole(tmp_path, **options).train_dataloader.dataset.read
    epochs, batches = divmod(done, 6)
    assert rest.train_dataloader.dataset.read == expected[epochs * SAMPLES + batches * BATCH :]
    assert total > done


def test_runs_with_equal_seeds_are_equal_and_others_differ(tmp_path):
    first, second, other = (
        result_of(whole(tmp_path / name, seed=seed))
        for name, seed in (("first", 5), ("second", 5), ("other", 6))
    )
    assert_same(first, second)
    assert not torch.equal(first["train/loss"], other["train/loss"])


def test_a_warning_if_there_is_nothing_to_resume(tmp_path, capsys):
    run = tiny_runner(tmp_path, resume=True)
    run.train()
    log = capsys.readouterr().out
    assert f"there is no checkpoint in {tmp_path / 'run'}; starting from the beginning" in log


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        (3, r"no checkpoint has been written yet$"),
        (8, r"epoch_1\.pth; --resume continues from there$"),
    ],
)
def test_an_interrupt_names_the_checkpoint_to_resume_from(tmp_path, stop, message):
    with pytest.raises(KeyboardInterrupt, match=message):
        tiny_runner(tmp_path, custom_hooks=[StopAt(stop)]).train()


def test_other_data_in_the_middle_of_an_epoch_is_refused(tmp_path):
    options = dict(checkpoint=EVERY_OTHER)
    with pytest.raises(KeyboardInterrupt):
        tiny_runner(tmp_path, custom_hooks=[StopAt(4)], **options).train()
    with pytest.raises(CheckpointError, match=r"after 4 of an epoch's 6 batches, but .* has 10"):
        tiny_runner(tmp_path, resume=True, samples=40, **options).train()


def test_parameters_in_another_order_keep_their_moments(tmp_path):
    """Another version of timm may reorder them; equal shapes would hide it."""

    turned = tiny.TinyModel()
    turned.heads = torch.nn.ModuleDict(reversed(list(turned.heads.items())))
    whole(tmp_path)
    saved = load_checkpoint_file(tmp_path / "whole" / "epoch_3.pth")
    names = saved["optimized"][""][0]
    assert set(names) == {name for name, _ in turned.named_parameters()}
    assert names != [name for name, _ in turned.named_parameters()]
    run = tiny_runner(tmp_path, "whole", resume=True, model=turned)
    run.train()  # the run is complete
    for name, parameter in turned.named_parameters():
        expected = saved["optimizer"]["state"][names.index(name)]["exp_avg"]
        assert torch.equal(run.optim_wrapper.optimizer.state[parameter]["exp_avg"], expected), name


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


def test_reinitialised_weights_are_named(tmp_path):
    whole(tmp_path)
    path = tmp_path / "whole" / "epoch_3.pth"
    changed(path, lambda c: c["state_dict"].update({"body.0.weight": torch.ones(3, 3)}))
    changed(path, lambda c: c["state_dict"].pop("heads.a.bias"))
    run = tiny_runner(tmp_path, "other", load_from=str(path))
    messages = warnings_of(run)
    run.load_or_resume()
    assert any("lacks heads.a.bias: these start anew" in text for text in messages)
    assert any("body.0.weight (3, 3) float32 instead of (8, 6)" in text for text in messages)


def test_names_that_the_model_lacks_are_reported(tmp_path):
    run = tiny_runner(tmp_path)
    run.trained_on = dict(tasks=dict(a=dict(kind="class", classes=("cat", "dog")), b=dict()))
    told = warnings_of(run)
    for classes, count in ((["cat", "dog"], 0), (["dog", "cat"], 1), ("odd", 1), (7, 1)):
        metainfo = dict(tasks=dict(a=dict(kind="class", classes=classes)))
        NamesHook().before_test(SimpleNamespace(**vars(run), **with_test_data(run, metainfo)))
        assert len(told) == count
    assert "a: the model was trained with classes ['cat', 'dog'], the test data has" in told[0]


def with_test_data(run, metainfo):
    dataset = SimpleNamespace(metainfo=metainfo)
    return dict(bare_model=run.model, test_dataloader=SimpleNamespace(dataset=dataset))
