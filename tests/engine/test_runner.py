import pytest
import torch
from builders import model_config
from test_relation_loss import relation_hook, runner
from tiny import assert_same_weights

from trn_plugin.checkpoints import load_checkpoint_file, load_model_state
from trn_plugin.engine.distributed import distributed_model
from trn_plugin.errors import CheckpointError, ConfigError, TrainingError


def hook():
    return relation_hook(weights=dict(output=0.1, hidden=0.1))


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole = runner(tmp_path, [hook()], name="whole", epochs=3)
    whole.train()
    runner(tmp_path, [hook()], name="part", epochs=2).train()
    rest = runner(tmp_path, [hook()], name="part", epochs=3, resume=True)
    rest.train()
    assert rest.iter == whole.iter
    assert_same_weights(whole, rest)
    for key in ("loss", "relation/output/landmarks-pose"):
        whole_log = whole.message_hub.get_scalar(f"train/{key}").data[0]
        rest_log = rest.message_hub.get_scalar(f"train/{key}").data[0]
        assert whole_log.tolist() == rest_log.tolist()


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
    other = model_config("test_vit", size=32)
    path = str(tmp_path / "run" / "epoch_1.pth")
    with pytest.raises(CheckpointError, match="is of another model than the config's: it lacks"):
        runner(tmp_path, name="b", model=other, resume=True, load_from=path).train()
    state = load_checkpoint_file(path)
    torch.save(dict(state_dict=dict(nothing=torch.zeros(1)), meta=state["meta"]), path)
    with pytest.raises(CheckpointError, match="none of its weights fits"):
        runner(tmp_path, name="c", model=other, load_from=path).train()


def test_a_resumed_run_keeps_its_seed(tmp_path):
    """The checkpoint's seed, not the config's, determines order and augmentation of the rest."""
    whole = runner(tmp_path, name="whole", epochs=2)
    whole.train()
    runner(tmp_path, name="part", epochs=1).train()
    rest = runner(tmp_path, name="part", epochs=2, resume=True, seed=77)
    rest.train()
    assert rest.train_dataloader.sampler.seed == 3
    assert_same_weights(whole, rest)


def test_fine_tuning_loads_weights_but_no_running_covariances(tmp_path):
    runner(tmp_path, [hook()], name="old").train()
    path = str(tmp_path / "old" / "epoch_1.pth")
    old = load_checkpoint_file(path)["state_dict"]
    run = runner(tmp_path, [hook()], name="new", load_from=path, epochs=0)
    run.load_or_resume()
    state = run.model.state_dict()
    assert torch.equal(state["heads.pose.fc.weight"], old["heads.pose.fc.weight"])
    assert state["neck.layers.hidden.groups.0.weights"] == 0
    assert old["neck.layers.hidden.groups.0.weights"] > 0


def test_non_finite_features_end_the_run(tmp_path):
    optim = dict(optimizer=dict(type="SGD", lr=1e30))
    with pytest.raises(TrainingError, match=r"TaskRelationNeck: .*\(hidden\).* not finite"):
        runner(tmp_path, epochs=3, optim_wrapper=optim).train()


@pytest.mark.parametrize("action", ["stop", "skip"])
def test_non_finite_features_never_enter_the_running_covariances(tmp_path, action):
    """The second of four steps has a NaN in the output of pose."""
    run = runner(tmp_path, [hook()], epochs=2, cfg=dict(non_finite=action))
    states = []

    def spoil(head, inputs, output):
        states.append({k: v.clone() for k, v in run.model.neck.state_dict().items()})
        return output * float("nan") if len(states) == 2 else output

    run.model.heads["pose"].register_forward_hook(spoil)
    if action == "stop":
        with pytest.raises(TrainingError, match=r"iteration 2: .*pose \(output\)") as caught:
            run.train()
        assert "no checkpoint has been written yet" in str(caught.value)
    else:
        run.train()
        assert run.message_hub.get_info("skipped_steps") == 1
        assert len(states) == 4
    for key, value in run.model.neck.state_dict().items():
        assert not value.is_floating_point() or torch.isfinite(value).all(), key
    moved = [k for k, v in states[0].items() if not torch.equal(v, states[-1][k])]
    assert moved


def test_gradient_accumulation_keeps_the_effective_sample_size(tmp_path):
    optim = dict(optimizer=dict(type="SGD", lr=0.01), accumulative_counts=4)
    run = runner(tmp_path, optim_wrapper=optim)
    run.train()
    layers = run.model.neck.layers.values()
    assert {round(layer.momentum**4, 12) for layer in layers} == {0.9}


def test_a_checkpoint_holds_the_metrics_of_its_own_iteration(tmp_path):
    run = runner(tmp_path)
    run.train()
    for iteration, expected in ((run.iter, {"pose/accuracy": 70.0}), (run.iter - 1, None)):
        run.validated = iteration, {"pose/accuracy": 70.0}
        run.save_checkpoint(str(tmp_path), "best.pth")
        assert load_checkpoint_file(tmp_path / "best.pth")["meta"].get("metrics") == expected


def test_an_epoch_without_a_batch_is_refused(tmp_path):
    run = runner(tmp_path, batch_size=64)
    run._train_dataloader["drop_last"] = True
    with pytest.raises(ConfigError, match="32 samples give no batch of 64"):
        run.train()


def test_sync_bn_needs_cuda():
    if torch.cuda.is_available():
        pytest.skip("needs a machine without CUDA")
    with pytest.raises(ConfigError, match=r"sync_bn: .* runs on CUDA only; on CPUs leave it out"):
        distributed_model(dict(sync_bn="torch"), torch.nn.BatchNorm1d(2))


def test_weights_alone_cannot_be_resumed(tmp_path):
    run = runner(tmp_path, name="run")
    run.train()
    path = str(tmp_path / "weights.pth")
    torch.save(dict(state_dict=run.model.state_dict()), path)
    with pytest.raises(CheckpointError, match="cannot be resumed"):
        runner(tmp_path, name="b", resume=True, load_from=path).train()


def test_compile_applies_to_the_parts_of_the_backbone(tmp_path):
    """MMEngine's option; the results are those of the uncompiled run."""
    torch._dynamo.reset()
    plain = runner(tmp_path, name="plain", epochs=1)
    options = dict(backend="eager", fullgraph=True)
    compiled = runner(tmp_path, name="compiled", epochs=1, cfg=dict(compile=options))
    for run in (plain, compiled):
        run.train()
    backbone = compiled.model.backbone
    for part in (backbone.trunk, *backbone.tails.values()):
        assert part._compiled_call_impl is not None
    for key, value in plain.model.state_dict().items():
        assert torch.allclose(value, compiled.model.state_dict()[key], atol=1e-5), key


def test_a_checkpoint_of_an_earlier_version_keeps_its_weights(tmp_path, recwarn):
    """The running covariances of the tasks are reset, and one line says so."""
    runner(tmp_path, [hook()], name="run").train()
    path = tmp_path / "run" / "epoch_1.pth"
    checkpoint = load_checkpoint_file(path)
    state = checkpoint["state_dict"]
    for key in [key for key in state if ".groups." in key or key.endswith("_extra_state")]:
        value = state.pop(key)
        if key.endswith("covariance"):
            state[key.replace("covariance", "moments")] = value
            state[key.replace("covariance", "weight")] = torch.ones(1)
    torch.save(checkpoint, path)
    run = runner(tmp_path, [hook()], name="run", epochs=2, resume=True)
    load_model_state(run.model, state, path)
    assert len({str(w.message) for w in recwarn if "start anew" in str(w.message)}) == 1
    loaded = run.model.state_dict()
    assert torch.equal(loaded["heads.pose.fc.weight"], state["heads.pose.fc.weight"])
    assert loaded["neck.layers.hidden.groups.0.batches"] == 0
    run.train()
