import pytest
import torch
from builders import batch, build, model_config

from trn_plugin.deploy.metadata import INPUT_NAME
from trn_plugin.errors import ConfigError
from trn_plugin.registry import MODELS


def test_modes():
    model = build()
    x, samples = batch(7)
    outputs = model(x)
    assert {t: tuple(f.shape) for t, f in outputs.items()} == dict(landmarks=(7, 10), pose=(7, 5))
    losses = model(x, samples, "loss")
    assert {k for k in losses if "loss" in k} == {"loss_landmarks", "loss_pose"}
    model.eval()
    outputs = model(x)
    predicted = model(x, samples, "predict")
    for row, sample in enumerate(predicted):
        assert sample.pred["landmarks"].shape == (5, 2)
        assert torch.equal(sample.logits["pose"], outputs["pose"][row])
        assert torch.equal(sample.output["pose"], sample.pred["pose"])
        assert torch.allclose(sample.pred["pose"], outputs["pose"][row].softmax(0))
        assert torch.equal(sample.target["landmarks"], sample.gt["landmarks"].flatten())
        assert sample.hidden["pose"].shape == (model.backbone.num_features,)
    with pytest.raises(ConfigError, match="mode: expected"):
        model(x, samples, "guess")


def test_prediction_needs_no_labels(device):
    model = build().eval().to(device)
    x, _ = batch(2)
    assert set(model(x.to(device), mode="predict")[0].pred) == {"landmarks", "pose"}
    x, samples = batch(2, missing={(0, "pose")})
    first, second = model(x.to(device), samples, "predict")
    assert "pose" not in first.target
    assert "pose" in second.target


@pytest.mark.parametrize("with_neck", [True, False])
def test_neck_changes_neither_losses_nor_gradients_nor_weights(with_neck):
    """Two steps, bit for bit, with and without a neck that nothing uses."""
    model = build(neck=with_neck)
    reference = build(neck=False)
    for m in (model, reference):
        optimizer = torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9)
        torch.manual_seed(5)
        for seed in range(2):
            losses = m(*batch(8, seed=seed), "loss")
            total, _ = m.parse_losses(losses)
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
    for (name, p), (_, q) in zip(
        model.named_parameters(), reference.named_parameters(), strict=True
    ):
        assert torch.equal(p, q), name


def test_normalisation_defaults_to_the_backbones():
    model = build("test_vit")
    mean = torch.tensor(model.backbone.mean) * 255
    assert torch.allclose(model.data_preprocessor.mean.flatten(), mean)
    pictures = [torch.full((3, 64, 64), 100, dtype=torch.uint8) for _ in range(2)]
    data = model.data_preprocessor(dict(inputs=pictures, data_samples=None))
    assert data["inputs"].shape == (2, 3, 64, 64)
    expected = (100 - mean[0]) / (255 * model.backbone.std[0])
    assert data["inputs"][0, 0, 0, 0].item() == pytest.approx(expected.item())


@pytest.mark.parametrize(
    "name", ["loss_of_hair", "keys", "two words", "a.b", INPUT_NAME, "relation_x"]
)
def test_task_names_that_cannot_be_used(name):
    config = model_config(heads={name: dict(type="ClassificationHead", num_classes=2)}, neck=False)
    with pytest.raises(ConfigError, match="cannot be a task name"):
        MODELS.build(config)


def test_no_heads():
    config = model_config(neck=False)
    config.heads = {}
    with pytest.raises(ConfigError, match="at least one task"):
        MODELS.build(config)


def test_other_scopes_find_it_by_prefix():
    from mmengine.registry import MODELS as ROOT
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmengine"):
        config = model_config()
        config.type = "trn_plugin.MultiTaskModel"
        assert ROOT.build(config).tasks == ("landmarks", "pose")
