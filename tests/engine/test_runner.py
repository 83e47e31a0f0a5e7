import sys
from pathlib import Path

import pytest
import torch

from trn_plugin.engine import load_checkpoint_file
from trn_plugin.errors import CheckpointError, ConfigError

sys.path.insert(0, str(Path(__file__).parents[1] / "hooks"))
from test_relation_loss import relation_hook, runner


def hook():
    return relation_hook(weights=dict(output=0.1, hidden=0.1))


def test_resumed_run_equals_one_that_was_not_stopped(tmp_path):
    whole = runner(tmp_path, [hook()], name="whole", epochs=3)
    whole.train()
    runner(tmp_path, [hook()], name="part", epochs=2).train()
    rest = runner(tmp_path, [hook()], name="part", epochs=3, resume=True)
    rest.train()
    assert rest.iter == whole.iter
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, rest.model.state_dict()[key]), key
    for key in ("loss", "relation/output/landmarks-pose"):
        whole_log = whole.message_hub.get_scalar(f"train/{key}").data[0]
        rest_log = rest.message_hub.get_scalar(f"train/{key}").data[0]
        assert whole_log.tolist() == rest_log.tolist()


def test_checkpoints_hold_the_relation_state_and_no_code(tmp_path):
    run = runner(tmp_path, [hook()])
    run.train()
    path = tmp_path / "run" / "epoch_1.pth"
    state = torch.load(path, weights_only=True)["state_dict"]
    key = "neck.layers.hidden.0.s12"
    assert torch.equal(state[key], run.model.state_dict()[key])
    assert state["neck.layers.hidden.0.weight"] > 0


def test_the_config_in_a_checkpoint_is_not_executed(tmp_path):
    runner(tmp_path, name="run").train()
    path, mark = tmp_path / "run" / "epoch_1.pth", tmp_path / "mark"
    checkpoint = load_checkpoint_file(path)
    for key in ("config", "cfg"):
        checkpoint["meta"][key] = f"open({str(mark)!r}, 'w')"
    torch.save(checkpoint, path)
    runner(tmp_path, name="run", epochs=2, resume=True).train()
    assert not mark.exists()


def test_checkpoint_of_another_model(tmp_path):
    runner(tmp_path, name="run").train()
    from builders import model_config

    other = model_config("test_vit", size=32)
    path = str(tmp_path / "run" / "epoch_1.pth")
    with pytest.raises(CheckpointError, match="is of another model than the config's: it lacks"):
        runner(tmp_path, name="b", model=other, resume=True, load_from=path).train()
    state = load_checkpoint_file(path)
    torch.save(dict(state_dict=dict(nothing=torch.zeros(1)), meta=state["meta"]), path)
    with pytest.raises(CheckpointError, match="no weight of it fits"):
        runner(tmp_path, name="c", model=other, load_from=path).train()


def test_an_epoch_without_a_batch_is_refused(tmp_path):
    run = runner(tmp_path, batch_size=64)
    run._train_dataloader["drop_last"] = True
    with pytest.raises(ConfigError, match="32 samples give no batch of 64"):
        run.train()


def test_weights_alone_cannot_be_resumed(tmp_path):
    run = runner(tmp_path, name="run")
    run.train()
    path = str(tmp_path / "weights.pth")
    torch.save(dict(state_dict=run.model.state_dict()), path)
    with pytest.raises(CheckpointError, match="no run to resume"):
        runner(tmp_path, name="b", resume=True, load_from=path).train()
