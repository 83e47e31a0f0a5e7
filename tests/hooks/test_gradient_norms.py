"""Gradient norms are right, and measuring them does not change the training."""

import pytest
import torch
from builders import batch
from test_relation_loss import SIZE, history, relation_hook, runner, weights

from trn_plugin.errors import ConfigError


def test_norms_are_those_of_the_losses_alone(tmp_path):
    hooks = [
        relation_hook(weights=dict(output=1.0)),
        dict(type="GradientNormHook", interval=1, shared="backbone.trunk"),
    ]
    seen = {}

    run = runner(tmp_path, hooks, batch_size=32)
    model = run.model
    parameters = [p for n, p in model.named_parameters() if n.startswith("backbone.trunk.")]

    def watch(module, args, output):
        if isinstance(output, dict) and not seen:
            for key in ("loss_landmarks", "loss_pose", "loss_relation_output"):
                grads = torch.autograd.grad(output[key], parameters, retain_graph=True)
                flat = torch.cat([g.flatten() for g in grads])
                seen[key.removeprefix("loss_")] = float(flat.norm())

    model.register_forward_hook(watch)
    run.train()
    assert seen["relation_output"] > 0
    for name, norm in seen.items():
        assert history(run, f"gradient/{name}")[0] == pytest.approx(norm, rel=1e-5)


def test_training_is_unchanged_and_the_interval_is_kept(tmp_path):
    plain = runner(tmp_path, [relation_hook(weights=dict(output=1.0))], name="plain", epochs=2)
    hooks = [relation_hook(weights=dict(output=1.0)), dict(type="GradientNormHook", interval=3)]
    measured = runner(tmp_path, hooks, name="measured", epochs=2)
    plain.train()
    measured.train()
    assert len(history(measured, "gradient/pose")) == 2  # of iterations 0 to 3
    for (name, a), b in zip(weights(plain).items(), weights(measured).values(), strict=True):
        assert torch.equal(a, b), name
    x, samples = batch(4, SIZE)
    assert "gradient/pose" not in measured.model(x, samples, mode="loss")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(interval=0), "interval: expected an integer of at least 1, found 0"),
        (dict(shared="backbone.nothing"), "shared: no parameter below 'backbone.nothing'"),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        runner(tmp_path, [dict(type="GradientNormHook", **options)]).train()
