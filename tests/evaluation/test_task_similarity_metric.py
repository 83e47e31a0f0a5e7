import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.cross_decomposition import CCA

from trn_plugin.errors import ConfigError
from trn_plugin.evaluation import TaskSimilarity
from trn_plugin.relation import chance_similarity, task_similarity

DIMS = dict(landmarks=4, pose=3, smile=1)
FIELDS = dict(hidden="hidden", output="output", gt="target")


@pytest.fixture
def features():
    """(level, task) -> (300, d), all sharing one factor that differs by level."""
    rng = np.random.default_rng(0)
    drawn = {}
    for level in FIELDS:
        factor = rng.normal(size=(300, 1))
        for task, d in DIMS.items():
            width = 2 * d if level == "hidden" else d
            noise = rng.normal(size=(300, width))
            drawn[level, task] = torch.tensor(factor + 2 * noise, dtype=torch.float32)
    return drawn


def to_samples(features, unlabelled=()):
    count = len(next(iter(features.values())))
    return [
        {
            field: {
                task: features[level, task][i]
                for task in DIMS
                if level != "gt" or (task, i) not in unlabelled
            }
            for level, field in FIELDS.items()
        }
        for i in range(count)
    ]


def measure(samples, *relations, meta=None, **kwargs):
    metric = TaskSimilarity(relations, **kwargs)
    metric.dataset_meta = meta
    metric.process(None, samples)
    return metric.evaluate(len(samples))


def test_is_the_similarity_of_the_features(features):
    result = measure(to_samples(features), ("landmarks", "pose"), ("pose", "smile"))
    for (a, b), level in itertools.product(
        [("landmarks", "pose"), ("pose", "smile")], ["hidden", "output", "gt"]
    ):
        f1, f2 = features[level, a], features[level, b]
        tau = result[f"relation/tau_{level}/{a}-{b}"]
        assert tau == pytest.approx(float(task_similarity(f1, f2)))
        assert 0.05 < tau < 0.95
        d1, d2 = f1.shape[1], f2.shape[1]
        assert result[f"relation/d1_{level}/{a}-{b}"] == d1
        assert result[f"relation/d2_{level}/{a}-{b}"] == d2
        assert result[f"relation/chance_{level}/{a}-{b}"] == chance_similarity(300, d1, d2)
        assert result[f"relation/N/{a}-{b}"] == 300


def test_all_pairs(features):
    samples = to_samples(features)
    pairs = list(itertools.combinations(DIMS, 2))
    metric = TaskSimilarity("all")
    metric.process(None, samples)
    assert metric.evaluate(len(samples)) == measure(samples, *pairs)


def test_agrees_with_scikit_learn(features):
    result = measure(to_samples(features), ("landmarks", "pose"))
    f1, f2 = features["gt", "landmarks"].numpy(), features["gt", "pose"].numpy()
    p, q = CCA(n_components=1, max_iter=5000, tol=1e-12).fit_transform(f1, f2)
    expected = np.corrcoef(p[:, 0], q[:, 0])[0, 1]
    assert result["relation/tau_gt/landmarks-pose"] == pytest.approx(expected, abs=1e-5)


def test_groups_concatenate(features):
    result = measure(to_samples(features), (("landmarks", "smile"), ("pose",)))
    for level in ("hidden", "output", "gt"):
        joined = torch.cat([features[level, "landmarks"], features[level, "smile"]], dim=1)
        tau = result[f"relation/tau_{level}/landmarks+smile-pose"]
        assert tau == pytest.approx(float(task_similarity(joined, features[level, "pose"])))
        alone = float(task_similarity(features[level, "landmarks"], features[level, "pose"]))
        assert tau >= alone - 1e-6


def test_uses_the_pictures_with_all_labels_of_both_sides(features):
    unlabelled = {("pose", i) for i in range(40)} | {("landmarks", i) for i in range(30, 60)}
    unlabelled |= {("smile", i) for i in range(60, 300)}
    features["gt", "landmarks"][60, 0] = math.nan
    result = measure(to_samples(features, unlabelled), ("landmarks", "pose"))
    assert result["relation/N/landmarks-pose"] == 239
    for level in ("hidden", "output", "gt"):
        f1, f2 = (features[level, task][61:] for task in ("landmarks", "pose"))
        assert result[f"relation/tau_{level}/landmarks-pose"] == pytest.approx(
            float(task_similarity(f1, f2))
        )


def test_undefined_with_too_few_pictures(features, logged):
    """Hidden: d1 + d2 = 14; 15 pictures are one too few, 16 are enough."""
    samples = to_samples(features)
    few = measure(samples[:15], ("landmarks", "pose"))
    assert math.isnan(few["relation/tau_hidden/landmarks-pose"])
    assert math.isnan(few["relation/chance_hidden/landmarks-pose"])
    assert not math.isnan(few["relation/tau_output/landmarks-pose"])
    assert "undefined: N - 1 <= d1 + d2" in logged()
    enough = measure(samples[:16], ("landmarks", "pose"))
    assert 0 < enough["relation/tau_hidden/landmarks-pose"] <= 1


def test_table_is_readable(features, logged):
    measure(to_samples(features), ("landmarks", "pose"))
    header, *rows = logged().splitlines()[-4:]
    assert header.split() == ["relation", "level", "tau", "chance", "N", "d1", "d2"]
    assert [row.split()[1] for row in rows] == ["hidden", "output", "gt"]
    assert rows[0].split()[4:] == ["300", "8", "6"]
    assert len({row.index(" 300 ") for row in rows}) == 1


def test_config_errors(features):
    with pytest.raises(ConfigError, match="hidden, output, logits, found 'layer4'"):
        TaskSimilarity([("a", "b")], levels=("layer4",))
    with pytest.raises(ConfigError, match="at least one pair"):
        TaskSimilarity([])
    for bad in ("ab", ("a",), ("a", "b", "c")):
        with pytest.raises(ConfigError, match=r"relations\[0\]: expected pairs of tasks"):
            TaskSimilarity([bad])
    for bad in (("a", "a"), (("a", "b"), ("b",)), ((), ("a",))):
        with pytest.raises(
            ConfigError, match=r"relations\[0\]: expected two different, non-empty sides"
        ):
            TaskSimilarity([bad])
    with pytest.raises(ConfigError, match=r"relations\[1\]: a-b is listed twice"):
        TaskSimilarity([("a", "b"), ("a", ("b",))])
    meta = dict(tasks=dict(landmarks={}, pose={}))
    with pytest.raises(ConfigError, match=r"data set \(landmarks, pose\), found 'yaw'"):
        measure([], ("landmarks", "yaw"), meta=meta)
    with pytest.raises(ConfigError, match=r"model \(landmarks, pose, smile\), found 'yaw'"):
        measure(to_samples(features), ("landmarks", "yaw"))
