"""Training steps of a small model with relation losses, by an optimizer wrapper."""

import torch
from builders import batch, build
from mmengine.optim import OptimWrapper

from trn_plugin.balancing import JacobianOptimWrapper
from trn_plugin.hooks import TaskRelationLossHook

SIZE = 32


def relation_model(relation=0.5, name="test_vit", **options):
    """A model with layer norm, so that the samples of a batch are independent."""
    model = build(name, levels=("hidden", "output"), size=SIZE, **options)
    hook = TaskRelationLossHook(dict(hidden=relation, output=relation), min_samples_per_dim=0)
    model.neck.require_samples(0)
    if relation:
        model.relation_losses.append(hook.losses)
    return model.train()


def wrapper_of(model, aggregator=None, lr=0.05, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    if aggregator is None:
        return OptimWrapper(optimizer, **options)
    return JacobianOptimWrapper(optimizer, aggregator, **options)


def step(model, wrapper, x, samples, wrapped=None):
    """Like MMEngine's ``train_step``."""
    wrapped = model if wrapped is None else wrapped
    with wrapper.optim_context(wrapped):
        losses = wrapped(x, samples, mode="loss")
    wrapper.update_params(model.parse_losses(losses)[0])
    return {name: value.detach() for name, value in losses.items()}


def trained(model, wrapper, steps=3, n=16, missing=()):
    """The weights after some steps."""
    for number in range(steps):
        step(model, wrapper, *batch(n, SIZE, seed=number, missing=missing))
    return {k: v.detach().clone() for k, v in model.named_parameters()}


def trunk_of(weights):
    return torch.cat([v.flatten() for k, v in weights.items() if k.startswith("backbone.trunk.")])


def assert_close(found, expected, error=1e-5):
    for key, value in expected.items():
        difference = (found[key] - value).norm()
        assert difference <= error * value.norm().clamp(min=1e-3), key
