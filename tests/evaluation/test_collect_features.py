import math

import pytest
import torch

from trn_plugin.evaluation.features import collect_features
from trn_plugin.structures import MultiTaskDataSample


class Model(torch.nn.Module):
    """Two tasks on one hidden tensor, a third on a part of it."""

    tasks = ("a", "b", "part")

    def test_step(self, batch):
        samples = []
        for x, labels in batch:
            hidden = torch.arange(4.0) + x
            sample = MultiTaskDataSample(gt={})
            sample.hidden = {"a": hidden, "b": hidden, "part": hidden[:2]}
            sample.output = {task: hidden[:1] * 2 for task in self.tasks}
            sample.target = {task: torch.tensor([float(x)] * 2) for task in labels}
            samples.append(sample)
        return samples


def test_features_are_collected_by_level_and_task():
    batches = [[(0, "a"), (1, "ab")], [(2, "b")]]
    batches = [[(x, tuple(labels)) for x, labels in batch] for batch in batches]
    found = collect_features(Model(), batches)
    assert found["hidden"]["a"].tolist() == [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]]
    assert found["hidden"]["b"] is found["hidden"]["a"]
    assert found["hidden"]["part"].tolist() == [[0, 1], [1, 2], [2, 3]]
    assert found["output"]["part"].tolist() == [[0], [2], [4]]
    assert found["gt"]["a"].tolist()[:2] == [[0, 0], [1, 1]]
    assert math.isnan(found["gt"]["a"][2, 0])
    assert found["gt"]["b"][:, 0].tolist()[1:] == [1, 2]
    assert found["gt"]["part"].shape == (3, 1)  # never labelled
    assert found["gt"]["part"][:, 0].tolist() == pytest.approx([math.nan] * 3, nan_ok=True)
