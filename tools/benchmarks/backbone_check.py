"""Check that a backbone cut at its stage boundaries gives the same outputs as timm's own model.

All weights are random, including near-zero constants (a layer scale of 1e-6, zeroed branches), so
that every part affects the output. Dropout and stochastic depth are on if the model has them.
"""

from __future__ import annotations

import collections
import math
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

import timm
import torch
from torch import nn

from trn_plugin.errors import ConfigError, first_line
from trn_plugin.models import TimmTrunk
from trn_plugin.models._timm import stage_names
from trn_plugin.models._uncut import relative_difference
from trn_plugin.onnx_translations import onnx_translations

TOLERANCES = {"eval": 1e-5, "train": 1e-5, "gradient": 1e-4, "onnx": 1e-3}
"""Relative to the largest feature, or to the largest entry of a parameter's gradient."""
SIZES = (64, 112, 128, 160, 192, 224, 256, 288, 320, 384, 448, 512)
DROPS = ("drop_rate", "drop_path_rate", "proj_drop_rate", "attn_drop_rate")
"""Tried together, then ever fewer: not all models accept or can train with all of them."""


def failed(reason: str) -> dict:
    return dict(outcome=reason, onnx_outcome=reason)


def check_backbone(name: str, boundaries=None, onnx: bool = True) -> dict:
    """Cut a model, compare it with the uncut one, and export it; return a row of the table.

    Args:
        name (str): a name from ``timm.list_models()``.
        boundaries (Sequence[int], optional): stages to cut after, from 1; default all.
        onnx (bool): export the model cut before its last stage, and run it with onnxruntime.
    """
    try:
        uncut = Uncut(name)
    except ConfigError as error:
        return failed(str(error))
    stages = stage_names(uncut.model)
    largest, failures, count = dict.fromkeys(("eval", "train", "gradient"), 0.0), [], 0
    for boundary in boundaries or range(1, len(stages)):
        try:
            found = uncut.differences(boundary)
        except ConfigError as error:
            failures.append(str(error))
            continue
        count += 1
        for what, (difference, where) in found.items():
            largest[what], _ = worst([(largest[what], ""), (difference, "")])
            if not difference <= TOLERANCES[what]:
                of = f"{what} of {where}, cut after {stages[boundary - 1]!r},"
                failures.append(f"{of} differs by {difference:.1e}")
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    exported, onnx_outcome = float("nan"), "not tried"
    if onnx:
        try:
            exported = onnx_difference(uncut.cut(-1 if len(stages) > 1 else 0), uncut.x)
            agrees = exported <= TOLERANCES["onnx"]
            onnx_outcome = "ok" if agrees else f"differs by {exported:.1e}"
        except Exception as error:  # torch.onnx and onnxruntime raise many types
            onnx_outcome = f"{type(error).__name__}: {first_line(error)}"
    return dict(
        params=sum(p.numel() for p in uncut.model.parameters()),
        img_size=uncut.size,
        boundaries=count,
        **{what: f"{difference:.1e}" for what, difference in largest.items()},
        outcome=failures[0] + more if failures else "ok",
        onnx=f"{exported:.1e}",
        onnx_outcome=onnx_outcome,
    )


class Uncut:
    """timm's model at the smallest input size that it accepts, its features and gradients."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.model, self.size, self.options = smallest_input(name)
        self.x = pictures(self.size)
        self.state = {key: value.clone() for key, value in self.model.state_dict().items()}
        with torch.no_grad():
            self.eval = self.model.eval()(self.x)
        self.weights = torch.randn(self.eval.shape, generator=torch.Generator().manual_seed(2))
        self.model.train().zero_grad()
        torch.manual_seed(1)
        self.train = self.model(self.x)
        (self.train * self.weights).sum().backward()
        self.gradients = {n: p.grad for n, p in self.model.named_parameters() if p.grad is not None}

    def cut(self, shared_stages: int) -> TimmTrunk:
        """The model with the same weights, cut for two tasks."""
        sizes = dict(shared_stages=shared_stages, tasks=("a", "b"), img_size=self.size)
        trunk = TimmTrunk(self.name, **sizes, **self.options)
        with torch.no_grad():
            for name, value in [*trunk.named_parameters(), *trunk.named_buffers()]:
                if uncut_name(name) in self.state:
                    value.copy_(self.state[uncut_name(name)])
        return trunk

    def differences(self, boundary: int) -> dict[str, tuple[float, str]]:
        """The largest difference of each mode and of the gradients, and its task or parameter."""
        trunk, found = self.cut(boundary), {}
        with torch.no_grad():
            features = trunk.eval()(self.x)
        found["eval"] = worst((relative_difference(f, self.eval), t) for t, f in features.items())
        trunk.train()
        passes = []
        for task in trunk.tasks:
            torch.manual_seed(1)
            features = trunk.path(task, self.x)
            passes.append((relative_difference(features, self.train.detach()), task))
            (features * self.weights).sum().backward()
        sums = collections.defaultdict(float)
        for name, parameter in trunk.named_parameters():
            if parameter.grad is not None:
                sums[uncut_name(name)] = sums[uncut_name(name)] + parameter.grad / len(trunk.tasks)
        largest = max(float(g.abs().max()) for g in self.gradients.values())
        gradients = [(0.0, "")]
        for name, expected in self.gradients.items():
            scale = max(float(expected.abs().max()), 1e-3 * largest)
            gradients.append((float((sums[name] - expected).abs().max()) / scale, name))
        return found | {"train": worst(passes), "gradient": worst(gradients)}


def worst(found: Iterable[tuple[float, str]]) -> tuple[float, str]:
    """The largest difference and its name; NaN counts as the largest."""
    return max(found, key=lambda each: math.inf if math.isnan(each[0]) else each[0])


def uncut_name(name: str) -> str:
    return re.sub(r"^(trunk|tails\.[^.]+)\.", "", name)


def pictures(size: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))


def smallest_input(name: str) -> tuple[nn.Module, int, dict]:
    """The model, size and dropout options of the smallest input with finite features."""
    config = timm.get_pretrained_cfg(name)
    native = max(config.input_size[1:]) if config else 224
    reason = ""
    for size in sorted({*(s for s in SIZES if s < native), native}):
        sized = {"img_size": size} if config and config.fixed_input_size else {}
        for count in range(len(DROPS), -1, -1):
            options = dict.fromkeys(DROPS[:count], 0.1)
            try:
                torch.manual_seed(0)
                model = timm.create_model(name, num_classes=0, **sized, **options)
                features = model.train()(pictures(size))
                features.sum().backward()
            except Exception as error:  # shape errors of models have many types
                reason = first_line(error)
                continue
            if torch.isfinite(features).all():
                randomise_constants(model)
                return model, size, options
            reason = "features are not finite"
    raise ConfigError(f"{name} does not run with any input size: {reason}")


@torch.no_grad()
def randomise_constants(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(4)
    for parameter in model.parameters():
        if parameter.numel() and float(parameter.abs().max()) < 1e-2:
            parameter.copy_(0.2 * torch.rand(parameter.shape, generator=generator) + 0.1)


def onnx_difference(trunk: TimmTrunk, x: torch.Tensor) -> float:
    """Largest difference between exported and PyTorch trunk, relative to the largest feature."""
    import onnxruntime

    trunk.eval()
    batch = torch.cat([x, x.flip(0), x.flip(3)])[:3]
    options = dict(dynamo=True, verbose=False, input_names=["x"])
    options |= dict(dynamic_shapes=({0: torch.export.Dim("N")},))
    options |= dict(custom_translation_table=onnx_translations())
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = str(Path(folder) / "backbone.onnx")
        torch.onnx.export(trunk, (batch[:2],), path, **options)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        found = map(torch.from_numpy, session.run(None, {"x": batch.numpy()}))
        differences = map(relative_difference, found, trunk(batch).values())
        return worst((difference, "") for difference in differences)[0]
