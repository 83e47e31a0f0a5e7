"""Uncertainty weighting: its minimum, its gradients, its part in the model."""

import pytest
import torch
from builders import batch, build

from trn_plugin.models import UncertaintyWeighting


def test_learnt_weights_become_those_of_the_noise():
    """For constant losses the minimum is at exp(-s) = 1 / (2 c L): each weighted loss is 1/2."""
    weighting = UncertaintyWeighting({"points": 0.5, "pose": 1.0})
    losses = {"points": torch.tensor(0.02), "pose": torch.tensor(3.0)}
    optimizer = torch.optim.Adam(weighting.parameters(), lr=0.05)
    for _ in range(500):
        optimizer.zero_grad()
        sum(weighting(losses).values()).backward()
        optimizer.step()
    parts = weighting.logged()
    for task, loss in losses.items():
        assert float(parts[f"task_weight/{task}"] * loss) == pytest.approx(0.5, rel=1e-3)


def test_at_the_start_classes_keep_their_loss_and_coordinates_half_of_it():
    plain = build(size=32)
    weighted = build(size=32, task_weighting=dict(type="UncertaintyWeighting"))
    assert {k for k in weighted.state_dict() if k not in plain.state_dict()} == {
        f"task_weighting.log_variance.{task}" for task in ("landmarks", "pose")
    }
    weighted.load_state_dict(plain.state_dict(), strict=False)
    x, samples = batch(8, 32)
    a, b = plain(x, samples, mode="loss"), weighted(x, samples, mode="loss")
    assert b["loss_pose"].item() == pytest.approx(a["loss_pose"].item())
    assert b["loss_landmarks"].item() == pytest.approx(0.5 * a["loss_landmarks"].item())
    assert float(b["task_weight/landmarks"]) == 0.5
    # only what has 'loss' in its name is added up
    total, _ = weighted.parse_losses(b)
    assert float(total) == pytest.approx(float(b["loss_pose"] + b["loss_landmarks"]))
