"""GradNorm and DynamicWeightAverage: their formulas, their sums, missing labels, checkpoints."""

import math
from types import SimpleNamespace

import pytest
import torch
from builders import batch, build
from torch import nn

from trn_plugin.errors import ConfigError
from trn_plugin.models import DynamicWeightAverage, GradNorm

SHARES = {"a": 1.0, "b": 0.5, "c": 1.0}
RULES = (dict(type="GradNorm"), dict(type="DynamicWeightAverage", interval=2))


class Trunk(nn.Module):
    """The gradient of task k's loss with respect to the layer has norm ``scales[k]``."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1, bias=False)

    def losses(self, scales, values=None):
        weight = self.layer.weight.sum()
        values = [1.0] * len(scales) if values is None else values
        rows = zip(SHARES, scales, values, strict=True)
        return {t: s * (weight - weight.detach()) + v for t, s, v in rows}


def dwa_weights(history, interval, temperature):
    """The paper's formula, step by step, in Python floats."""
    weights, means = [1.0] * len(history[0]), []
    used = []
    for step, losses in enumerate(history):
        used.append(list(weights))
        if (step + 1) % interval == 0:
            period = history[step + 1 - interval : step + 1]
            means.append([sum(column) / interval for column in zip(*period, strict=True)])
            if len(means) >= 2:
                falls = [new / old for new, old in zip(means[-1], means[-2], strict=True)]
                powers = [math.exp(fall / temperature) for fall in falls]
                weights = [len(losses) * power / sum(powers) for power in powers]
    return used


@pytest.mark.parametrize(("steps", "told"), [(29, 1), (30, 0)])
def test_a_run_of_less_than_three_intervals_gives_a_warning(steps, told):
    lines = []
    logger = SimpleNamespace(warning=lines.append)
    DynamicWeightAverage(SHARES, interval=10).check_length(steps, logger)
    assert len(lines) == told


@pytest.mark.parametrize(("interval", "temperature"), [(1, 2.0), (3, 0.5)])
def test_dynamic_weights_are_the_papers(interval, temperature):
    generator = torch.Generator().manual_seed(0)
    history = (torch.rand(12, 3, generator=generator) + 0.1).tolist()
    weighting = DynamicWeightAverage(SHARES, interval=interval, temperature=temperature)
    found = []
    for losses in history:
        weighting(dict(zip(SHARES, map(torch.tensor, losses), strict=True)))
        found.append([float(weight) for weight in weighting.logged().values()])
    assert torch.allclose(
        torch.tensor(found), torch.tensor(dwa_weights(history, interval, temperature)), rtol=1e-5
    )


def test_steps_without_a_loss_do_not_count():
    """Nor those that are not finite: the mean is over the others."""
    plain, other = (DynamicWeightAverage(SHARES, interval=n) for n in (2, 3))
    for step in range(6):
        losses = {task: torch.tensor(1.0 / (step + 1 + k)) for k, task in enumerate(SHARES)}
        plain(losses)
        other(losses)
        if step % 2 == 1:
            other(dict(losses, a=torch.tensor(0.0), b=torch.tensor(math.nan), c=losses["c"] * 0))
    # b and c of the third step count for neither
    assert torch.allclose(plain.weight, other.weight)


def test_gradnorm_weights_add_up_to_the_number_of_tasks_and_stay_positive():
    trunk, weighting = Trunk(), GradNorm(SHARES, lr=0.5)
    weighting.connect(trunk)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        scales, values = torch.rand(2, 3, generator=generator) + 0.01
        weighting(trunk.losses(scales.tolist(), values.tolist()))
        assert float(weighting.weight.sum()) == pytest.approx(3, rel=1e-5)
        assert bool((weighting.weight > 0).all())


def test_gradnorm_takes_the_step_of_the_papers_loss():
    """Autograd through |G - mean G r^alpha|, with a constant target, gives the same direction."""
    trunk, weighting = Trunk(), GradNorm(SHARES, alpha=1.5, lr=0.01)
    weighting.connect(trunk)
    scales, first, now = [2.0, 1.0, 0.5], [1.0, 2.0, 3.0], [0.9, 1.0, 2.9]
    weighting(trunk.losses(scales, first))
    weight = weighting.weight.clone().requires_grad_()
    pulls = weight * torch.tensor(scales)
    ratios = torch.tensor(now) / torch.tensor(first)
    target = (pulls.mean() * (ratios / ratios.mean()) ** 1.5).detach()
    ((pulls - target).abs().sum() / pulls.mean().detach()).backward()
    expected = weight.detach() - 0.01 * weight.grad
    weighting(trunk.losses(scales, now))
    assert torch.allclose(weighting.weight, expected * 3 / expected.sum(), rtol=1e-5)


def test_gradnorm_leaves_the_networks_gradients_alone():
    trunk, weighting = Trunk(), GradNorm(SHARES)
    weighting.connect(trunk)
    sum(weighting(trunk.losses([2.0, 1.0, 0.5])).values()).backward()
    assert float(trunk.layer.weight.grad) == pytest.approx(3.5)


def model_with(rule, **options):
    return build(size=32, task_weighting=rule, **options).train()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["type"])
def test_a_model_trains_logs_and_goes_on_from_its_state(rule):
    runs = model_with(rule), model_with(rule)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.05) for model in runs]

    def step(k, seed, missing=()):
        losses = runs[k](*batch(8, 32, seed=seed, missing=missing), mode="loss")
        optimizers[k].zero_grad()
        runs[k].parse_losses(losses)[0].backward()
        optimizers[k].step()
        return losses

    for seed in range(5):
        step(0, seed, missing={(row, "pose") for row in range(8 if seed == 1 else 1)})
    runs[1].load_state_dict(runs[0].state_dict())
    for seed in range(5, 9):
        losses = [step(k, seed) for k in range(2)]
        for name in ("task_weight/landmarks", "task_weight/pose", "loss_pose"):
            assert torch.equal(losses[0][name], losses[1][name])
    weights = [float(losses[0][f"task_weight/{task}"]) for task in ("landmarks", "pose")]
    assert sum(weights) == pytest.approx(2, rel=1e-5)
    assert weights[0] != 1


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["type"])
def test_without_training_nothing_changes(rule):
    model = model_with(rule).eval()
    before = {k: v.clone() for k, v in model.task_weighting.state_dict().items()}
    model(*batch(8, 32), mode="loss")
    assert all(torch.equal(v, before[k]) for k, v in model.task_weighting.state_dict().items())


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        (dict(type="GradNorm", alpha=-1), {}, "alpha"),
        (dict(type="GradNorm", alpha="1.5"), {}, r"alpha: expected .* found '1\.5'"),
        (dict(type="GradNorm"), dict(shared=0), "shared_stages"),
        (dict(type="DynamicWeightAverage", interval=0), {}, "interval"),
        (dict(type="DynamicWeightAverage", temperature=0), {}, "temperature"),
        (dict(type="DynamicWeightAverage", temperature="2"), {}, "temperature: .* found '2'"),
    ],
)
def test_wrong_configs_are_refused(rule, options, message):
    with pytest.raises(ConfigError, match=message):
        model_with(rule, **options)
