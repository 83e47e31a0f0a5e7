"""The benchmark of a training step with and without the relation part, on the smallest model."""

import copy
import csv
import math
from pathlib import Path

import pytest
import torch
from tool_runs import load

from trn_plugin import cli
from trn_plugin.cli.parsing import build_parser
from trn_plugin.errors import ConfigError

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "configs/toy/trn-hidden-output_test-resnet_toy.py"


def module_and_training(monkeypatch, *options, config=CONFIG):
    module = load("benchmark_step")
    arguments = [str(config), "--batch", "16", "--image-size", "32"]
    arguments += ["--cfg-options", *options] if options else []
    parser = build_parser(module.__doc__)
    module.add_arguments(parser)
    args = parser.parse_args(arguments)
    torch.manual_seed(0)
    config = cli.load_config(args.config, {**(args.cfg_options or {}), "input_size": 32})
    return module, args, module.Training(config, args)


def test_table_and_csv(run_tool, tmp_path):
    out = tmp_path / "step.csv"
    few = ("--batch", 16, "--image-size", 32, "--steps", 4, "--warmup", 1)
    status, printed, errors = run_tool("benchmark_step", CONFIG, *few, "--out", out)
    assert status == 0, errors
    assert "hidden landmarks-pose (96 x 96), output landmarks-pose (10 x 5)" in printed
    assert "lambda of hidden at the end: 0\n" in printed
    with out.open(newline="") as file:
        rows = {row["what"]: row for row in csv.DictReader(file)}
    assert all(name in printed for name in rows)
    trn, mtl, difference, *alone = rows.values()
    for row in (trn, mtl, *alone):
        assert 0 < float(row["quarter_ms"]) <= float(row["median_ms"])
        assert float(row["median_ms"]) <= float(row["three_quarters_ms"])
        assert (row["backbone"], row["batch"], row["device"]) == ("test_resnet", "16", "cpu")
    assert float(mtl["percent"]) == 100
    mean = float(trn["mean_ms"]) - float(mtl["mean_ms"])
    assert math.isclose(float(difference["mean_ms"]), mean, abs_tol=1e-6)
    forward, backward, both = (float(row["mean_ms"]) for row in alone)
    assert math.isclose(forward + backward, both)
    assert both < float(trn["mean_ms"])


def test_the_two_steps_differ_only_by_the_relation_part(monkeypatch):
    """With lambda 0 they change the weights in the same way."""
    off = ["custom_hooks.0.weights.output=0", "custom_hooks.0.weights.hidden=0"]
    for options, same in ((off, True), ([], False)):
        options = [*options, "custom_hooks.0.min_samples_per_dim=0"]
        module, args, training = module_and_training(monkeypatch, *options)
        batches = module.random_batches(training.model, None, args)
        training.step(next(batches))
        batch, before = next(batches), copy.deepcopy(training.model.state_dict())
        optimizer = copy.deepcopy(training.optim_wrapper.state_dict())
        found = []
        for step in (training.step, training.plain_step):
            training.model.load_state_dict(before)
            training.optim_wrapper.load_state_dict(copy.deepcopy(optimizer))
            step(batch)
            state = training.model.state_dict()
            found.append({k: v.clone() for k, v in state.items() if not k.startswith("neck.")})
        with_neck, without = found
        assert all(torch.allclose(with_neck[k], without[k], atol=1e-7) for k in without) == same
        assert training.model.neck is not None


def test_the_part_timed_alone_computes_the_same_as_the_step(monkeypatch):
    module, args, training = module_and_training(
        monkeypatch, "custom_hooks.0.min_samples_per_dim=0"
    )
    part = module.RelationPart(training)
    batches = module.random_batches(training.model, None, args)
    for _ in range(3):
        training.step(next(batches))
        features = part.leaves()
        loss = part.forward(features)
        loss.backward()
        in_step = sum(v for k, v in training.logged.items() if k.startswith("loss_relation"))
        assert loss.detach() > 0
        torch.testing.assert_close(loss, in_step)
        for level in ("hidden", "output"):
            assert all(f.grad.abs().max() > 0 for f in features[level].values())
    assert part.neck is not training.model.neck
    torch.testing.assert_close(part.neck.state_dict(), training.model.neck.state_dict())


def test_the_order_within_a_pair_does_not_bias_the_difference(monkeypatch):
    """The second step of a pair takes 5 ms more, whichever it is; the relation part takes 1 ms."""
    module, *_ = module_and_training(monkeypatch)
    times = {
        module.TRN: [0.106, 0.101] * 4,
        module.MTL: [0.100, 0.105] * 4,
        module.DIFFERENCE: [0.006, -0.004] * 4,
    }
    row = module.row_of(module.DIFFERENCE, times)
    for key in ("median_ms", "quarter_ms", "three_quarters_ms", "mean_ms"):
        assert math.isclose(row[key], 1, abs_tol=1e-9)
    assert math.isclose(row["percent"], 100 * 0.001 / 0.1025)


def test_labels_for_every_kind_of_head(tmp_path, monkeypatch):
    config = tmp_path / "heads.py"
    config.write_text(
        f"_base_ = {str(CONFIG)!r}\n"
        "model = dict(heads=dict(_delete_=True, a=dict(type='AttributeHead', num_attributes=3, "
        "pos_weight='balanced'), b=dict(type='RegressionHead', num_values=2)), "
        "neck=dict(relations=[('a', 'b')]))\n"
    )
    module, args, training = module_and_training(monkeypatch, config=config)
    training.step(next(module.random_batches(training.model, None, args)))
    assert all(torch.isfinite(value).all() for value in training.logged.values())


def of_toy_faces(root):
    few = {"data_root": root, "train_size": 30, "test_size": 1, "val_size": 2}
    return [f"train_dataloader.dataset.{key}={value}" for key, value in few.items()]


def test_pictures_of_the_training_set(tmp_path, monkeypatch):
    module, args, training = module_and_training(monkeypatch, *of_toy_faces(tmp_path / "faces"))
    args.batch = 16
    config = cli.load_config(args.config, {**args.cfg_options, "input_size": 32})
    batches = module.data_batches(training.model, config, args)
    drawn = [next(batches) for _ in range(3)]  # one of an epoch of 28
    for batch in drawn:
        assert batch["inputs"].shape == (16, 3, 32, 32)
        assert batch["inputs"].dtype == torch.uint8
        assert batch["inputs"].float().std() > 10
        training.step(batch)
    first, second, _ = (batch["inputs"] for batch in drawn)
    assert not torch.equal(first, second)
    args.batch = 29
    with pytest.raises(ConfigError, match="--batch 29: the training set has only 28 pictures"):
        next(module.data_batches(training.model, config, args))
    config.train_dataloader = None
    with pytest.raises(ConfigError, match="expected a train_dataloader for --data, found none"):
        next(module.data_batches(training.model, config, args))


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        (CONFIG, ("--steps", 2), "--steps: expected at least 2 and 4, found 128 and 2"),
        (CONFIG, ("--steps", 5), "--steps: expected an even number, found 5"),
        (CONFIG, ("--image-size", 0), "--image-size: expected at least 1, found 0"),
        (CONFIG, ("--amp",), "--amp needs --device cuda, found cpu"),
        (CONFIG, ("--host", "--data"), "--host: takes the config's data on the CPU"),
        (CONFIG, ("--batch", 2), "tends to 398: raise either"),
        (CONFIG, ("--cfg-options", "model.neck=None"), "with a relation neck, found none"),
        (
            CONFIG.with_name("mtl_test-resnet_toy.py"),
            (),
            "expected a TaskRelationLossHook in custom_hooks, found none",
        ),
        ("nowhere.py", (), "no such config file"),
    ],
)
def test_mistakes_are_one_line_errors(run_tool, config, arguments, message):
    status, _, errors = run_tool("benchmark_step", config, *arguments)
    assert status == 2
    assert message in errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1


def test_host_time_compared_with_a_plain_loop(run_tool, tmp_path):
    """All parts of both sides add up to their steps, and the screen shows the table alone."""
    few = ("--batch", 5, "--steps", 4, "--warmup", 2, "--threads", 1)
    loaders = [
        f"{part}_dataloader.{option}"
        for part in ("train", "val")
        for option in ("num_workers=0", "persistent_workers=False")
    ]
    options = [*of_toy_faces(tmp_path / "faces"), *loaders]
    options += [option.replace("train_d", "val_d", 1) for option in options[:3]]
    options += [f"{part}_dataloader.dataset.val_size=10" for part in ("train", "val")]
    options += ["custom_hooks.0.min_samples_per_dim=0"]
    out = tmp_path / "host.csv"
    status, printed, errors = run_tool(
        "benchmark_step", CONFIG, "--host", *few, "--out", out, "--cfg-options", *options
    )
    assert status == 0, errors
    assert "mmengine - INFO - Config" not in printed
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for mode in ("train", "val"):
        of_mode = {row["part"].strip(): row for row in rows if row["mode"] == mode}
        whole = float(of_mode.pop("all, means")["runner_ms"])
        median = next(name for name in of_mode if name.endswith("medians"))
        assert float(of_mode.pop(median)["plain_ms"]) > 0
        parts = sum(float(row["runner_ms"]) for row in of_mode.values())
        assert math.isclose(parts, whole, rel_tol=0.05)


def test_a_machine_without_cuda_says_so(run_tool, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, _, errors = run_tool("benchmark_step", CONFIG, "--device", "cuda")
    assert (status, errors) == (2, "error: --device: this machine has no CUDA\n")
