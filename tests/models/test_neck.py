import pytest
import torch
from builders import batch, build

from trn_plugin.errors import ConfigError
from trn_plugin.relation import TaskRelationLayer


def test_measures_what_layers_of_their_own_measure():
    model = build()
    layers = {level: TaskRelationLayer(0.9) for level in ("hidden", "output", "label")}
    for seed in range(3):
        x, samples = batch(16, seed=seed)
        losses = model(x, samples, "loss")
        with torch.no_grad():
            model.backbone.train()
            hidden = model.backbone(x)
        output = {t: model.heads[t](hidden[t]) for t in model.tasks}
        label = {t: model.heads[t].encode([s.gt[t] for s in samples], "cpu")[0] for t in output}
        for level, f in (("hidden", hidden), ("output", output), ("label", label)):
            expected = layers[level](f["landmarks"].detach(), f["pose"].detach())
            key = f"relation/{level}/landmarks-pose"
            assert losses[key].item() == pytest.approx(expected.item(), abs=1e-5)


def test_only_samples_with_both_labels_are_related():
    missing = {(0, "pose"), (3, "landmarks"), (5, "pose"), (5, "landmarks")}
    x, samples = batch(16, missing=missing)
    model = build()
    model.neck.train()
    losses = model(x, samples, "loss")
    rows = torch.tensor([r for r in range(16) if r not in (0, 3, 5)])
    landmarks = torch.stack([samples[r].gt["landmarks"].flatten() for r in rows])
    pose = torch.eye(5)[torch.stack([samples[r].gt["pose"] for r in rows])]
    expected = TaskRelationLayer(0.9)(landmarks, pose)
    assert losses["relation/label/landmarks-pose"].item() == pytest.approx(expected.item())


def test_groups_of_tasks():
    heads = {
        name: dict(type="AttributeHead", num_attributes=n)
        for name, n in (("a", 2), ("b", 1), ("c", 3))
    }
    relations = [(("a", "b"), ("c",)), ("a", "c")]
    model = build(heads=heads, relations=relations, levels=("output",))
    x, samples = batch(16)
    for row, sample in enumerate(samples):
        bits = [(row >> k) & 1 for k in range(6)]
        sample.gt = {n: torch.tensor(bits[:k]).float() for n, k in (("a", 2), ("b", 1), ("c", 3))}
    losses = model(x, samples, "loss")
    assert {k for k in losses if k.startswith("relation/")} == {
        f"relation/{level}/{name}" for level in ("output", "label") for name in ("a+b-c", "a-c")
    }
    assert model.neck.layers["output"][0].dims == (3, 3)


def test_evaluation_leaves_the_state_alone():
    model = build()
    x, samples = batch(16)
    model(x, samples, "loss")
    before = {k: v.clone() for k, v in model.neck.state_dict().items()}
    model.eval()
    model(x, samples, "predict")
    model(x, samples, "loss")
    assert all(torch.equal(v, before[k]) for k, v in model.neck.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(relations=[("landmarks", "age")]), "'age' names no task; .* landmarks, pose"),
        (dict(relations=[("pose", "pose")]), "two different, non-empty sides"),
        (dict(relations=["pose"]), "expected pairs of tasks"),
        (dict(relations=[]), "at least one pair"),
        (dict(levels=("inner",)), "levels out of .* got"),
        (dict(shared="all"), "'hidden' relates a feature to itself"),
    ],
)
def test_errors_are_raised_when_the_model_is_built(options, message):
    with pytest.raises(ConfigError, match=message):
        build(**options)


def test_sharing_everything_allows_the_output_level():
    model = build(shared="all", levels=("output",))
    assert "relation/output/landmarks-pose" in model(*batch(8), "loss")
