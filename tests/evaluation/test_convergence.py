import numpy as np
import pytest
import torch

from trn_plugin.evaluation.convergence import OnlineRun, online_similarity
from trn_plugin.relation import TaskRelationLayer, task_similarity


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    common = rng.normal(size=(1000, 1))
    return tuple((common + rng.normal(size=(1000, d))).astype(np.float32) for d in (3, 2))


def test_few_features_arrive_at_the_offline_value(features):
    offline = float(task_similarity(*map(torch.from_numpy, features)))
    run = online_similarity(*features, batch_size=100, momentum=0.98, iterations=300)
    assert run.tau[-50:].mean() == pytest.approx(offline, abs=0.01)
    assert run.arrival(offline, 0.05) < 250


def test_many_features_cannot_with_few_effective_samples():
    """Independent features: offline near chance at N, online near 1."""
    rng = np.random.default_rng(0)
    sides = [rng.normal(size=(3000, 40)).astype(np.float32) for _ in range(2)]
    offline = float(task_similarity(*map(torch.from_numpy, sides)))
    run = online_similarity(*sides, batch_size=32, momentum=0.5, iterations=40)
    assert offline < 0.3
    assert run.tau[-10:].min() > 0.8
    assert run.arrival(offline, 0.05) is None


def test_each_epoch_has_each_sample_once_in_a_new_order(features, monkeypatch):
    index = np.arange(10, dtype=np.float32)[:, None]
    seen = []

    def keep(self, f1, f2):
        assert torch.equal(f1, f2)
        seen.append(f1[:, 0].tolist())
        return torch.zeros(())

    monkeypatch.setattr(TaskRelationLayer, "forward", keep)
    online_similarity(index, index, batch_size=4, momentum=0.9, iterations=6)
    epochs = [seen[i] + seen[i + 1] for i in (0, 2, 4)]
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize(
    ("tau", "arrived"),
    [
        ([0.1, 0.5, 0.9, 0.52], 4),
        ([0.5, 0.5], 1),
        ([0.5, 0.9], None),
        ([0.5] * 6 + [0.9, 0.5], None),  # off in the last quarter
        ([0.5] * 5 + [0.9, 0.5, 0.5], 7),
    ],
)
def test_estimates_do_not_leave_after_arrival(tau, arrived):
    assert OnlineRun(np.array(tau)).arrival(0.5, 0.05) == arrived
