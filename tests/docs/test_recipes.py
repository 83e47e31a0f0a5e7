"""The recipes of docs/guides/recipes.md do what they say, some of them in one training."""

import importlib.util
import sys
import types
from itertools import pairwise

import pytest
import torch
from mmengine.hooks import Hook
from pages import ROOT, blocks

from trn_plugin import build_runner, load_config
from trn_plugin.checkpoints import load_checkpoint_file
from trn_plugin.datasets.toy_faces import make_toy_faces

FILES = {block.title: block.text for block in blocks(ROOT / "docs/guides/recipes.md")}
STEPS = 3  # in an epoch: 40 samples in batches of 13
SMALL = {
    "input_size": 32,
    "log_level": "WARNING",
    "default_hooks.similarity_plot": None,
    "default_hooks.logger.interval": 1,
    "optim_wrapper.optimizer.lr": 0.01,
}
LOADER = {
    "batch_size": 13,
    "num_workers": 0,
    "persistent_workers": False,
    "dataset.train_size": 48,
    "dataset.val_size": 8,
    "dataset.test_size": 8,
    "dataset.serialize_data": False,
}


class Watch(Hook):
    """What each step does: rate, weights before it, norm of the gradient that it uses."""

    priority = "LOWEST"

    def __init__(self):
        self.rates, self.weights, self.norms = [], [], []

    def before_train(self, runner):
        self.start = {name: value.clone() for name, value in runner.model.state_dict().items()}
        runner.optim_wrapper.optimizer.register_step_pre_hook(self.on_step)

    def on_step(self, optimizer, args, kwargs):
        found = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.get_total_norm([grad for grad in found if grad is not None])
        self.norms.append(norm.item())

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.rates.append(runner.optim_wrapper.get_lr()["lr"][0])
        self.note(runner)

    def note(self, runner):
        self.weights.append(runner.bare_model.heads["pose"].fc.weight.detach().clone())


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipes") / "faces"
    make_toy_faces(str(folder), train_size=48, test_size=8)
    return str(folder)


@pytest.fixture
def train(faces, tmp_path, monkeypatch):
    """A function: the runner after a training by some recipes, and what was seen of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)

    def run(*recipes, **options):
        config = load_config(f"{recipes[0]}.py")
        for recipe in recipes[1:]:
            names = {}
            exec(FILES[f"{recipe}.py"], names)
            own = {k: v for k, v in names.items() if not k.startswith("_")}
            config.merge_from_dict(own)
        loader = {**LOADER, "dataset.data_root": faces}
        parts = ("train", "val", "test")
        small = {f"{part}_dataloader.{k}": v for part in parts for k, v in loader.items()}
        config.merge_from_dict({**SMALL, **small, **options, "work_dir": str(tmp_path / "work")})
        runner, watch = build_runner(config), Watch()
        runner.register_hook(watch)
        runner.train()
        watch.note(runner)
        return runner, watch

    return run


def check_rates(runner, rates, warm, every):
    """From a tenth up to the peak, which step ``warm`` has first, and down, ``every`` so often."""
    (peak,) = {group["initial_lr"] for group in runner.optim_wrapper.optimizer.param_groups}
    assert rates[0] == pytest.approx(peak / 10)
    assert rates[warm] == max(rates) == pytest.approx(peak)
    assert rates[-1] < peak / 4
    for step, (before, after) in enumerate(pairwise(rates), 1):
        if step <= warm or step > warm + every:
            expected = (after > before) - (after < before)
            assert expected == (0 if step % every else 1 if step <= warm else -1), step


def test_average_of_weights_and_rates_by_epoch(train, tmp_path):
    options = {"custom_hooks.0.momentum": 0.3, "train_cfg.max_epochs": 6}
    runner, watch = train("ema", "by_epoch", **options)
    check_rates(runner, watch.rates, warm=STEPS, every=STEPS)
    _, average, *others = watch.weights  # the average starts after the first step
    for weight in others:
        average = average.lerp(weight, 0.3)
    saved = load_checkpoint_file(tmp_path / "work/epoch_6.pth")["state_dict"]
    torch.testing.assert_close(saved["heads.pose.fc.weight"], average)
    trained = runner.model.state_dict()
    assert not torch.equal(saved["heads.pose.fc.weight"], trained["heads.pose.fc.weight"])
    assert not torch.equal(
        saved["backbone.trunk.bn1.running_mean"], trained["backbone.trunk.bn1.running_mean"]
    )


def test_the_best_is_kept_and_training_ends(train, tmp_path):
    options = {"optim_wrapper.optimizer.lr": 0.0, "train_cfg.max_epochs": 20}
    runner, _ = train("best", **options, **{"custom_hooks.0.patience": 2})
    assert runner.epoch < 6
    assert len(list((tmp_path / "work").glob("best_landmarks_NME_epoch_*.pth"))) == 1


def test_accumulated_and_clipped_gradients_and_rates_by_iteration(train):
    options = {"train_cfg.max_iters": 18, "param_scheduler.0.end": 6, "param_scheduler.1.begin": 6}
    runner, watch = train("by_iteration", "steps", **options)
    check_rates(runner, watch.rates, warm=5, every=1)
    changed = [i for i, (a, b) in enumerate(pairwise(watch.weights), 1) if not torch.equal(a, b)]
    assert changed == [4, 8, 12, 16, 18]  # the last step has two batches
    assert len(watch.norms) == 5
    assert max(watch.norms) == pytest.approx(1, abs=1e-3)


@pytest.fixture
def tensorboard(monkeypatch, tmp_path):
    """A function: the scalars that were written; by a stand-in where TensorBoard is missing."""
    written = set()

    class SummaryWriter:
        def __init__(self, folder):
            pass

        def add_scalar(self, name, value, step):
            written.add(name)

        def __getattr__(self, name):
            return lambda *args, **kwargs: None

    def read():
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        (events,) = (tmp_path / "work").rglob("events.out.tfevents.*")
        return set(EventAccumulator(str(events)).Reload().Tags()["scalars"])

    if importlib.util.find_spec("tensorboard") is not None:
        return read
    stand_in = types.ModuleType("torch.utils.tensorboard")
    stand_in.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    return lambda: written


def test_frozen_stages_rates_by_layer_tensorboard_and_parts_of_ones_own(train, tensorboard):
    recipes = ("mine", "frozen", "rates", "log_to_tensorboard")
    runner, watch = train(*recipes, **{"train_cfg.max_epochs": 1})

    for name, value in runner.model.state_dict().items():
        stage = name.removeprefix("backbone.trunk.").split(".")[0]
        if stage in ("conv1", "bn1", "layer1"):
            assert torch.equal(value, watch.start[name]), name
        elif name.endswith("weight"):
            assert not torch.equal(value, watch.start[name]), name

    names = {id(p): name for name, p in runner.model.named_parameters()}
    groups = runner.optim_wrapper.optimizer.param_groups
    factors = {names[id(p)]: each["initial_lr"] / 0.01 for each in groups for p in each["params"]}
    for name, factor in factors.items():
        expected = {"backbone.trunk": 0.1, "heads.landmarks": 2.0}
        expected = expected.get(".".join(name.split(".")[:2]), 1.0)
        expected = 0.5 if name.startswith("backbone.trunk.layer3.") else expected
        assert factor == pytest.approx(expected), name

    head, scalars = runner.model.heads["landmarks"], runner.message_hub.log_scalars
    assert type(head).__name__ == "MyLandmarkHead"
    assert head.criterion.width == 0.05
    assert scalars["train/pictures"].current() == 13 * STEPS
    assert scalars["val/landmarks/worst"].current() > 0
    error = torch.linspace(0, 0.2, 201)
    steps = head.criterion(error, torch.zeros(201)).diff()
    assert torch.all(steps > 0)
    assert torch.all(steps[100:] - 1e-3 < 1e-6)
    runner.visualizer.close()
    assert {"loss", "lr", "pictures", "landmarks/worst"} <= tensorboard()
