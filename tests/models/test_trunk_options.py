"""Options of ``TimmTrunk``."""

import copy
import pickle
import re

import pytest
import torch
from builders import trunk, uncut
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper

from trn_plugin.errors import ConfigError
from trn_plugin.models import TimmTrunk

X = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def build(name="test_resnet", shared_stages=-1, **options):
    return trunk(name, shared_stages, **options)


def train_step(model):
    torch.manual_seed(1)
    model.train().zero_grad()
    sum(features.square().mean() for features in model(X).values()).backward()


def saved_numbers(model):
    """Run a training step; count the numbers it stores for backward, without the weights."""
    kept = {p.data_ptr(): 0 for p in model.parameters()}

    def pack(tensor):
        kept.setdefault(tensor.data_ptr(), tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        train_step(model)
    return sum(kept.values())


def names(module):
    return {name for name, _ in module.named_parameters()}


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
@pytest.mark.parametrize(
    ("shared", "counts", "fully_shared"),
    [
        (dict(a=1, b=3, c=3, d=2), dict(a=1, b=3, c=3, d=2), set()),
        (dict(a=0, b=2, c="all", d=-1), dict(a=0, b=2, c=-1, d=-1), set()),
        (dict(a=0, b=2, c="all", d="all"), dict(a=0, b=2, c="all", d="all"), {"c", "d"}),
        (dict(a=0, b=0, c=0, d="all"), dict(a=0, b=0, c=0, d=0), set()),
    ],
)
def test_tasks_share_different_numbers_of_stages(name, shared, counts, fully_shared):
    """``trunk`` holds what two tasks or more use, and every path is the uncut model."""
    model, whole = build(name, tasks=tuple(shared), shared_stages=shared), uncut(name)
    for key, count in dict(all=len(model.stages), **{"-1": len(model.stages) - 1}).items():
        counts = {t: count if str(c) == key else c for t, c in counts.items()}
    assert model.shared_stages == counts
    assert model.fully_shared == fully_shared
    for training in (False, True):
        expected = whole.train(training)(X)
        for task, features in model.train(training)(X).items():
            assert torch.allclose(features, expected, atol=1e-5), task
    assert names(whole) == names(model.trunk) | names(model.tails["d"])
    storages = [p.data_ptr() for p in model.parameters()]
    assert len(set(storages)) == len(storages)


def test_stages_shared_by_some_tasks_run_once():
    model = build(tasks=("a", "b", "c"), shared_stages=dict(a=2, b=4, c=4))
    calls = []
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda *_, path=path: calls.append(path))
    model(X)
    assert len(set(calls)) == len(calls)
    assert any(path.startswith("trunk.layer3") for path in calls)
    assert {path.split(".")[1] for path in calls if "layer3" in path and "tails" in path} == {"a"}
    assert {path.split(".")[1] for path in calls if "layer4" in path} == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("shared", "message"),
    [
        (dict(a=1), r"shared_stages: expected a number for each of a, b, found numbers for a"),
        (dict(a=1, b=1, c=1), r"found numbers for a, b, c"),
        (dict(a=1, b=9), r"shared_stages\.b: expected 0, 'all', a stage .* found 9"),
    ],
)
def test_bad_dicts_of_stages_are_refused(shared, message):
    with pytest.raises(ConfigError, match=message):
        build(shared_stages=shared)


@pytest.mark.parametrize("shared", [0, 2, -1, "all"])
def test_frozen_stages_do_not_change(shared):
    """Neither weights nor batch norm statistics, in trunk and tails alike."""
    model = build(shared_stages=shared, frozen_stages=3, drop_path_rate=0.5)
    before = {k: v.clone() for k, v in model.named_buffers()}
    train_step(model)
    trained = {k for k, p in model.named_parameters() if p.grad is not None}
    assert trained == {k for k in names(model) if re.search(r"layer[34]\.", k)}
    moved = {k for k, v in model.named_buffers() if not torch.equal(v, before[k])}
    assert moved == {k for k in before if re.search(r"layer[34]\.", k)}


def test_parameters_of_the_model_itself_freeze_with_the_stages_that_use_them():
    model = build("test_vit", shared_stages=3, frozen_stages=1)
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert {"trunk.cls_token", "trunk.pos_embed", "trunk.patch_embed.proj.weight"} <= frozen
    assert not [n for n in frozen if "blocks.1" in n or n.startswith("tails")]


@pytest.mark.parametrize(
    ("name", "shared"),
    [
        ("test_resnet", 0),
        ("test_resnet", -1),
        ("test_vit", 2),
        ("test_vit", "all"),
        ("densenet121", -1),
    ],
)
def test_checkpointing_changes_no_gradient_and_no_statistics(name, shared):
    options = dict(shared_stages=shared, drop_path_rate=0.3)
    if name == "densenet121":
        options = dict(shared_stages=shared, drop_rate=0.3)
    plain, saving = build(name, **options), build(name, grad_checkpointing=True, **options)
    assert saved_numbers(saving) < saved_numbers(plain)
    assert names(saving) == names(plain)
    for path, parameter in plain.named_parameters():
        assert torch.equal(parameter.grad, saving.get_parameter(path).grad), path
    for path, buffer in plain.named_buffers():
        assert torch.equal(buffer, saving.get_buffer(path)), path


def test_channels_last_reaches_weights_and_pictures():
    model = build(channels_last=True).eval()
    seen = []
    conv = model.tails["a"].get_submodule("layer4.0.conv1")
    conv.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    features = model(X)["a"]
    assert torch.allclose(features, build().eval()(X)["a"], atol=1e-5)
    for tensor in (conv.weight, *seen):
        assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_small_pictures_in_channels_last_do_not_fail_the_comparison_with_the_uncut_model():
    for seed in range(5):
        torch.manual_seed(seed)
        build(channels_last=True, size=32)


@pytest.mark.parametrize("options", [{}, dict(grad_checkpointing=True, frozen_stages=1)])
def test_pickles_are_the_same_model(options):
    model = build("test_vit", **options).eval()
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert torch.equal(model(X)["b"], twin(X)["b"])
        assert twin.train().trunk.training
        train_step(twin)


def compiles_as_one_graph(name, backend, **options):
    torch._dynamo.reset()
    model = build(name, **options)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    for training in (True, False):
        expected = copy.deepcopy(model).train(training)(X)["b"]
        model.train(training)
        assert torch.allclose(compiled(X)["b"], expected, atol=1e-5)


def test_compiles_as_one_graph_in_either_mode():
    compiles_as_one_graph("test_vit", "eager", shared_stages=dict(a=1, b=2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
@pytest.mark.parametrize(
    "options",
    [{}, dict(shared_stages="all", grad_checkpointing=True), dict(shared_stages=dict(a=0, b=2))],
)
def test_compiles_with_inductor(name, options):
    compiles_as_one_graph(name, "inductor", **options)


def test_parts_have_learning_rates_of_their_own():
    """MMEngine's paramwise_cfg, by timm's names under ``trunk.`` and ``tails.<task>.``."""
    model = build()
    rates = {"trunk": 0.1, "trunk.layer3": 0.5, "tails.a": 2.0, "tails.b.layer4.0.conv1": 3.0}
    config = ConfigDict(
        optimizer=dict(type="SGD", lr=1.0),
        paramwise_cfg=dict(custom_keys={key: dict(lr_mult=rate) for key, rate in rates.items()}),
    )
    groups = build_optim_wrapper(model, config).optimizer.param_groups
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    for name, p in model.named_parameters():
        matching = [key for key in sorted(rates, key=len, reverse=True) if key in name]
        assert rate[id(p)] == (rates[matching[0]] if matching else 1.0), name


@pytest.mark.parametrize("part", ["bn1.weight", "bn1.bias", "bn1.running_var", "layer2.0.conv1"])
def test_a_file_that_lacks_something_is_refused(tmp_path, part):
    state = {k: v for k, v in uncut("test_resnet").state_dict().items() if part not in k}
    torch.save(state, tmp_path / "lacks.pth")
    with pytest.raises(ConfigError, match=rf"lacks\.pth holds no weights .* lacks .*{part}"):
        build(checkpoint_path=str(tmp_path / "lacks.pth"))


@pytest.mark.parametrize(
    ("name", "tap", "width"),
    [
        ("test_convnext", "stages.3.blocks.0.mlp", 64),  # maps of (N, H, W, d) inside
        ("test_convnext", "stages.3.blocks.0", 64),
        ("test_resnet", "layer4.0.conv1", 96),
        ("test_vit", "blocks.5.mlp", 64),
    ],
)
def test_taps_average_over_positions(name, tap, width):
    model = build(name, taps=(tap,))
    assert model.tap_features[tap] == width
    assert model.features(X)[1][tap]["a"].shape == (4, width)


def test_taps_of_windows_are_refused():
    with pytest.raises(ConfigError, match=r"'layers.3.blocks.0.attn' gives \d+ rows for 1 picture"):
        TimmTrunk(
            "swin_tiny_patch4_window7_224",
            tasks=("a",),
            img_size=448,
            taps=("layers.3.blocks.0.attn",),
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(name="test_vit.nope"), r"no weights 'test_vit\.nope'; expected one of test_vit\."),
        (dict(num_classes=5), "num_classes: not used"),
        (dict(frozen_stage=1), r"frozen_stage: .*did you mean 'frozen_stages'\?"),
        (dict(tasks=("a", "a")), "a task is named twice"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        build(**options)


@pytest.mark.parametrize("size", ["64", 64.0, -3, (64,), (64, 0)])
def test_invalid_sizes_are_refused(size):
    with pytest.raises(ConfigError, match="img_size: expected"):
        TimmTrunk("test_resnet", tasks=("a",), img_size=size)
