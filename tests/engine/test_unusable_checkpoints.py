"""Checkpoints that cannot be used, or must not be written."""

import re
import shutil

import pytest
import torch
from tiny import (
    EPOCHS,
    StopAt,
    TinyModel,
    assert_same,
    assert_same_weights,
    changed,
    result_of,
    tiny_runner,
    warnings_of,
    whole,
)

from trn_plugin.checkpoints import FORMAT, load_checkpoint_file
from trn_plugin.errors import CheckpointError, TrainingError

NAN, INF = float("nan"), float("inf")
ONE = dict(EPOCHS, max_epochs=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return whole(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def work(trained, tmp_path):
    """A copy of a finished run's work directory, with epoch_2.pth and epoch_3.pth."""
    shutil.copytree(trained.work_dir, tmp_path / "whole")
    return tmp_path / "whole"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("heads.a.weight", r"the weights of heads\.a\.weight are not finite"),
        ("body.1.running_var", r"the statistics of body\.1\.running_var are not finite"),
        ("", "the optimizer's exp_avg is not finite"),
    ],
)
def test_a_non_finite_state_is_not_saved(tmp_path, path, message):
    run = tiny_runner(tmp_path, train_cfg=ONE)
    run.train()
    before = (tmp_path / "run" / "epoch_1.pth").read_bytes()
    state = next(iter(run.optim_wrapper.optimizer.state.values()))
    spoilt = run.model.state_dict()[path] if path else state["exp_avg"]
    spoilt.view(-1)[0] = INF
    with pytest.raises(TrainingError, match=message):
        run.save_checkpoint(str(tmp_path / "run"), "epoch_1.pth")
    assert (tmp_path / "run" / "epoch_1.pth").read_bytes() == before


def test_masks_may_hold_infinities(tmp_path):
    for epochs in (1, 2):
        model = TinyModel()
        model.register_buffer("mask", torch.tensor([0.0, -INF]))
        train_cfg = dict(EPOCHS, max_epochs=epochs)
        run = tiny_runner(tmp_path, model=model, train_cfg=train_cfg, resume=epochs > 1)
        run.train()
        assert run.epoch == epochs


def weight(value):
    return lambda c: c["state_dict"].update({"body.0.bias": value(torch.ones(8))})


def moment(number, **values):
    return lambda c: c["optimizer"]["state"][number].update(values)


def group(**values):
    return lambda c: c["optimizer"]["param_groups"][0].update(values)


def schedule(**values):
    return lambda c: c["param_schedulers"][0].update(values)


def info(**values):
    return lambda c: c["message_hub"]["runtime_info"].update(values)


def log(**values):
    lengths = {key: torch.ones(length) for key, length in values.pop("lengths").items()}
    return lambda c: c["message_hub"]["log_scalars"].update({values["name"]: lengths})


UNUSABLE = {
    "NaN weights": lambda c: c["state_dict"]["body.0.weight"].fill_(NAN),
    "sparse": weight(torch.Tensor.to_sparse),
    "float8": weight(lambda x: x.to(torch.float8_e4m3fn)),
    "complex": weight(lambda x: x * 1j),
    "negative variance": lambda c: c["state_dict"]["body.1.running_var"].fill_(-1),
    "NaN moments": lambda c: c["optimizer"]["state"][0]["exp_avg"].fill_(NAN),
    "moments": moment(0, exp_avg=torch.ones(7)),
    "rate": group(lr="abc"),
    "no group": lambda c: c["optimizer"].update(param_groups=[]),
    "two groups": lambda c: c["optimizer"].update(param_groups=c["optimizer"]["param_groups"] * 2),
    **{
        f"names {names}": lambda c, names=names: c.update(optimized=names)
        for names in ({"": [["x"]]}, {"a": [["x"]]}, {"": 3}, None)
    },
    "no schedules": lambda c: c.update(param_schedulers=[]),
    "schedule": schedule(param_name="momentum"),
    "schedule's length": schedule(end="abc"),
    "another schedule": lambda c: c["param_schedulers"][0].pop("T_max"),
    "schedule's method": schedule(step=3),
    "no generators": lambda c: c["ranks"][0].update(random={}),
    "epoch": lambda c: c["meta"].update(epoch=-3),
    "iter": lambda c: c["meta"].update(iter=10**400),
    "seed": lambda c: c["meta"].update(seed=2**70),
    "log name": log(name=1, lengths=dict(history=2, counts=2)),
    "log lengths": log(name="a", lengths=dict(history=2, counts=3)),
    "kept": info(keep_ckpt_ids=5),
    "moments of another kind": moment(3, exp_avg="abc"),
    "no moments": lambda c: c["optimizer"]["state"][2].pop("exp_avg_sq"),
    "step": moment(1, step=torch.zeros(0)),
    "betas": group(betas=[0.9]),
}


OVERLOOKED = {
    "no iteration": lambda c: c["meta"].pop("iter"),
    "no optimizer": lambda c: c.pop("optimizer"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_odd_content_is_a_one_line_error(work, kind):
    path = work / "epoch_3.pth"
    changed(path, UNUSABLE[kind])
    options = dict(load_from=str(path), train_cfg=dict(EPOCHS, max_epochs=4))
    with pytest.raises(CheckpointError, match=r"epoch_3\.pth") as error:
        tiny_runner(work.parent, "whole", resume=True, **options).train()
    assert str(error.value).isprintable()


FALLS_BACK = ["NaN weights", "float8", "moments", "schedule", "no generators", *OVERLOOKED]


@pytest.mark.parametrize("kind", FALLS_BACK)
def test_resuming_skips_unusable_checkpoints(trained, work, kind):
    changed(work / "epoch_3.pth", {**UNUSABLE, **OVERLOOKED}[kind])
    rest = tiny_runner(work.parent, "whole", resume=True)
    told = warnings_of(rest)
    rest.train()
    assert [text for text in told if "not resumed from" in text and "epoch_3.pth" in text]
    assert rest.train_dataloader.dataset.read  # it resumed from epoch_2.pth
    assert_same_weights(trained, rest)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 half a file", None])
def test_the_newest_readable_checkpoint_is_taken(trained, work, damage, capsys):
    newest = work / "epoch_3.pth"
    if damage is None:  # one byte of the weights
        damage = bytearray(newest.read_bytes())
        weights = load_checkpoint_file(newest)["state_dict"]["body.0.weight"]
        damage[damage.index(weights.numpy().tobytes()) + 7] ^= 1
    newest.write_bytes(damage)
    (work / ".epoch_3.pth.x.part").write_bytes(b"killed while it was written")
    run = tiny_runner(work.parent, "whole", resume=True)
    run.train()
    assert re.search(r"WARNING - not resumed from: .*epoch_3\.pth: ", capsys.readouterr().out)
    assert_same(result_of(run), result_of(trained))
    newest.write_bytes(b"")
    (work / "epoch_2.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* the file is empty"):
        tiny_runner(work.parent, "whole", resume=True).train()


@pytest.mark.parametrize("resume", [False, True])
def test_a_checkpoint_of_a_newer_version_is_never_overwritten(work, resume):
    path = work / "epoch_3.pth"
    changed(path, lambda c: c["meta"].update(trn_plugin_format=FORMAT + 1))
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"epoch_3\.pth: written by a newer version"):
        tiny_runner(work.parent, "whole", resume=resume).train()
    assert path.read_bytes() == before


def test_a_last_checkpoint_file_that_points_nowhere_is_ignored(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last_checkpoint").write_bytes(b"\xff\xfe\x00")
    rest = tiny_runner(tmp_path, resume=True, train_cfg=ONE)
    rest.train()
    assert rest.epoch == 1


def test_a_checkpoint_cannot_make_a_run_delete_other_files(tmp_path):
    checkpoint = dict(type="CheckpointHook", interval=1, save_best="tiny/error", rule="less")
    options = dict(checkpoint=checkpoint, train_cfg=dict(EPOCHS, val_interval=1))
    with pytest.raises(KeyboardInterrupt):
        tiny_runner(tmp_path, custom_hooks=[StopAt(8)], **options).train()
    hostile = tmp_path / "hostile.pth"
    shutil.move(tmp_path / "run" / "epoch_1.pth", hostile)
    for victim in (tmp_path / "best_folder.pth" / "file", tmp_path / "best_other.pth"):
        victim.parent.mkdir(exist_ok=True)
        victim.write_text("mine")
        named = victim if victim.suffix else victim.parent
        changed(hostile, info(best_ckpt=str(named), best_score=1e9))
        tiny_runner(tmp_path, resume=True, load_from=str(hostile), **options).train()
        assert victim.read_text() == "mine"
