"""Advice on models with known gradient conflicts, and on a few toy faces."""

import csv
import math
from types import SimpleNamespace

import pytest
import torch
from tool_runs import loaders
from torch import nn

from trn_plugin.datasets.toy_faces import make_toy_faces
from trn_plugin.experiments.advice_report import sentences
from trn_plugin.experiments.gradients import StageCosineHook, mean_interval, stages_of_parameters
from trn_plugin.models import TimmTrunk

STAGES = ("one", "two", "three", "four")
CONFIG = "trn_plugin::toy/mtl_test-resnet_toy.py"


class Stack(nn.Module):
    """Four stages; two tasks agree at the first ``agree`` stages and conflict at the others."""

    tasks = ("a", "b")

    def __init__(self, agree):
        super().__init__()
        layers = [nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in STAGES]
        self.backbone = nn.Module()
        self.backbone.trunk = nn.Sequential(*layers)
        self.agree = agree

    def forward(self, x):
        early, last = 0.0, x
        for number, layer in enumerate(self.backbone.trunk, 1):
            last = layer(last)
            early = early + 100 * last.square().sum() if number <= self.agree else early
        return {"loss_a": early + last.sum(), "loss_b": early - last.sum()}


def measured(model, batches=24):
    torch.manual_seed(0)
    places = {name: int(name[0]) for name, _ in model.backbone.trunk.named_parameters()}
    hook = StageCosineHook(places)
    hook.before_train(SimpleNamespace(model=model, iter=0, max_iters=batches))
    for _ in range(batches):
        model(torch.randn(8, 4))
    model.eval()(torch.randn(8, 4))
    assert len(hook.cosines["a", "b"]) == batches
    return hook.by_stage()


@pytest.mark.parametrize("agree", range(len(STAGES) + 1))
def test_conflicts_begin_at_the_stage_where_gradients_are_opposite(agree):
    found = measured(Stack(agree))
    assert [i.low > 0 for i in found["a", "b"]] == [k < agree for k in range(len(STAGES))]
    assert [i.high < 0 for i in found["a", "b"]] == [k >= agree for k in range(len(STAGES))]
    (told,) = sentences(STAGES, found)
    assert "4 of 4 mean cosines differ from 0" in told
    assert ("agree at one" in told) == (agree > 0)
    assert ("against each other at" in told) == (agree < len(STAGES))


def test_tasks_with_one_loss_agree_everywhere():
    class Same(Stack):
        def forward(self, x):
            losses = super().forward(x)
            return {"loss_a": losses["loss_a"], "loss_b": 3 * losses["loss_a"]}

    found = measured(Same(0))
    assert [interval.mean for interval in found["a", "b"]] == pytest.approx([1.0] * 4)


@pytest.mark.parametrize("cosines", [[-0.5, -0.6] * 9, [math.nan] * 50])
def test_few_batches_give_no_conclusion(cosines):
    (told,) = sentences(("one",), {("a", "b"): [mean_interval(cosines)]})
    assert "too few batches" in told
    assert "against" not in told


@pytest.mark.parametrize("model_name", ["test_resnet", "test_vit"])
def test_each_parameter_has_the_stage_that_a_cut_gives_it(model_name):
    stages, places = stages_of_parameters(dict(type="TimmTrunk", model_name=model_name))
    for count in (1, len(stages) - 1):
        trunk = TimmTrunk(model_name, tasks=("a", "b"), shared_stages=count)
        behind = {name for name, _ in trunk.tails["a"].named_parameters()}
        assert behind == {name for name, place in places.items() if place >= count}


def test_advice_on_toy_faces(tmp_path, run_tool):
    faces = tmp_path / "faces"
    sizes = dict(train_size=64, test_size=8)
    make_toy_faces(str(faces), **sizes)
    options = ["input_size=32"]
    options += loaders(["train", "val"], data_root=faces, val_size=24, **sizes)
    out = tmp_path / "advice"
    status, printed, error = run_tool(
        "advise", CONFIG, "--steps", 4, "--out-dir", out, "--cfg-options", *options
    )
    assert status == 0, error
    assert "landmarks and pose: too few batches: 4 gave" in printed
    assert "is undefined: N - 1 <= d1 + d2 (N = 24 pictures)" in printed
    assert "No cut is suggested" in printed
    with open(out / "advice.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 + 5
    assert {row["batches"] for row in rows if row["cosine"]} == {"4"}
    assert 0 < float(rows[0]["tau"]) <= 1
    assert (out / "advice.png").read_bytes().startswith(b"\x89PNG")
    assert not list(out.rglob("*.pth"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["model.heads.pose=None"], "model.heads"),
        (["model.backbone.type=ResNet"], "model.backbone.type: expected TimmTrunk, found ResNet"),
    ],
)
def test_mistakes_are_one_line_errors(run_tool, options, message):
    status, _, error = run_tool("advise", CONFIG, "--cfg-options", *options)
    assert status == 2
    (line,) = [line for line in error.splitlines() if line.startswith("error:")]
    assert message in line
