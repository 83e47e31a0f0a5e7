"""Does a backbone, cut at its stage boundaries, still compute what timm's own model computes?"""

from __future__ import annotations

import copy
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from trn_plugin.errors import ConfigError, first_line
from trn_plugin.models._timm import stage_names
from trn_plugin.models.trunk import TimmTrunk, relative_difference
from trn_plugin.onnx_translations import onnx_translations

__all__ = ["BackboneReport", "check_backbone"]

SIZES = (64, 112, 128, 160, 192, 224, 256, 288, 320, 384, 448, 512)
"""Of pictures that are tried, smallest first, before the model's own."""
TOLERANCE = 1e-5
"""Of features, relative to the largest, in evaluation and in training mode."""
GRADIENT_TOLERANCE = 1e-4
"""Of a parameter's gradient, relative to its largest entry."""
ONNX_TOLERANCE = 1e-3
_DROP = ("drop_rate", "drop_path_rate", "proj_drop_rate", "attn_drop_rate")
_DROPS = (_DROP, _DROP[:-1], ())  # TNT's backward pass fails with attention dropout
_TAIL_BUDGET = 600e6  # parameters of all tails that are held at once


@dataclass
class BackboneReport:
    """What :func:`check_backbone` found.

    Attributes:
        model (str): timm's name.
        params (int): of the model without its classifier.
        img_size (int): side of the pictures, in pixels.
        boundaries (int): how many were cut at.
        eval, train (float): largest difference of features in either mode, over all boundaries.
        gradient (float): largest difference of gradients.
        onnx (float): largest difference of the exported model.
        failures (list[str]): what did not agree or could not be done; empty if all is well.
        onnx_failure (str): why there is no agreeing ONNX file; empty if there is one.
    """

    model: str
    params: int = 0
    img_size: int = 0
    boundaries: int = 0
    eval: float = 0.0
    train: float = 0.0
    gradient: float = 0.0
    onnx: float = float("nan")
    failures: list[str] = field(default_factory=list)
    onnx_failure: str = ""

    def as_dict(self) -> dict:
        return asdict(self)


def check_backbone(
    name: str,
    img_size: int | None = None,
    boundaries: Sequence[int] | None = None,
    onnx: bool = True,
) -> BackboneReport:
    """Cut a model, compare it with the uncut one, and export it.

    Weights are random, constants (a layer scale of 1e-6, zeroed branches) too, so that every part
    of the model shows in its output; dropout and stochastic depth are on where the model has them.

    Args:
        name (str): of ``timm.list_models()``.
        img_size (int, optional): side of the pictures; default the smallest that works.
        boundaries (Sequence[int], optional): stages to cut after, from 1; default all.
        onnx (bool): export the model cut before its last stage, and run that with onnxruntime.

    Returns:
        BackboneReport: what failed is in it.
    """
    report = BackboneReport(name)
    try:
        model, size, options = _smallest(name, img_size)
    except ConfigError as error:
        report.failures.append(str(error))
        return report
    report.params = sum(p.numel() for p in model.parameters())
    report.img_size = size
    stages = stage_names(model)
    if boundaries is None:
        boundaries = range(1, len(stages))
    uncut = _Uncut(name, model, size)
    at_once = max(1, int(_TAIL_BUDGET / max(report.params, 1)))
    for group in _groups(list(boundaries), at_once):
        _compare(report, uncut, group, options)
    if onnx:
        try:
            trunk = _trunk(uncut, -1 if len(stages) > 1 else 0, ("a",), options)
            report.onnx = onnx_difference(trunk, uncut.x)
            if not report.onnx <= ONNX_TOLERANCE:
                report.onnx_failure = f"differs by {report.onnx:.1e}"
        except Exception as error:  # torch.onnx and onnxruntime raise anything
            report.onnx_failure = _reason(error)
    return report


class _Uncut:
    """The model, pictures, and its features and gradients with them."""

    def __init__(self, name: str, model: nn.Module, size: int) -> None:
        self.name, self.model, self.size = name, model, size
        self.x = _pictures(model, size)
        self.state = copy.deepcopy(model.state_dict())
        with torch.no_grad():
            self.eval = model.eval()(self.x)
        self.weights = torch.randn(self.eval.shape, generator=torch.Generator().manual_seed(2))
        model.train().zero_grad()
        torch.manual_seed(1)
        self.train = model(self.x)
        self.loss(self.train).backward()
        self.gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        self.train = self.train.detach()

    def loss(self, features: Tensor) -> Tensor:
        return (features * self.weights).sum()


def _compare(
    report: BackboneReport, uncut: _Uncut, boundaries: Sequence[int], options: dict
) -> None:
    tasks = {f"after{count}": count for count in boundaries} | {"twin": boundaries[-1]}
    try:
        trunk = _trunk(uncut, tasks, tuple(tasks), options)
    except ConfigError as error:
        if len(boundaries) == 1:
            report.failures.append(str(error))
        else:
            for count in boundaries:
                _compare(report, uncut, [count], options)
        return
    report.boundaries += len(boundaries)

    def note(mode: str, task: str, found: Tensor, expected: Tensor) -> None:
        difference = relative_difference(found, expected)
        setattr(report, mode, max(getattr(report, mode), difference))
        if not difference <= TOLERANCE:
            name = trunk.stages[tasks[task] - 1]
            report.failures.append(f"{mode} after {name!r} differs by {difference:.1e}")

    with torch.no_grad():
        for task, features in trunk.eval()(uncut.x).items():
            note("eval", task, features, uncut.eval)
    trunk.train()
    for task in tasks:
        torch.manual_seed(1)
        features = trunk.path(task, uncut.x)
        note("train", task, features, uncut.train)
        uncut.loss(features).backward()
    _compare_gradients(report, uncut, trunk)


def _compare_gradients(report: BackboneReport, uncut: _Uncut, trunk: TimmTrunk) -> None:
    sums: dict[str, Tensor] = {}
    for name, parameter in trunk.named_parameters():
        if parameter.grad is not None:
            own = _uncut_name(name)
            sums[own] = sums.get(own, 0) + parameter.grad / len(trunk.tasks)
        elif _uncut_name(name) in uncut.gradients:
            report.failures.append(f"no gradient of {name}")
    largest = max(float(g.abs().max()) for g in uncut.gradients.values())
    for name, expected in uncut.gradients.items():
        if name not in sums:
            report.failures.append(f"no gradient of {name}")
            continue
        scale = max(float(expected.abs().max()), 1e-3 * largest)
        difference = float((sums[name] - expected).abs().max()) / scale
        report.gradient = max(report.gradient, difference)
        if not difference <= GRADIENT_TOLERANCE:
            report.failures.append(f"gradient of {name} differs by {difference:.1e}")


def onnx_difference(trunk: TimmTrunk, x: Tensor) -> float:
    """Largest difference, relative to the largest feature, of an exported trunk.

    Args:
        trunk (TimmTrunk): put into eval mode.
        x (Tensor): (N, C, H, W) pictures; the exported model takes any N.
    """
    import onnxruntime

    model = _Features(trunk).eval()
    batch = torch.cat([x, x.flip(0), x.flip(3)])[:3]
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "backbone.onnx"
        torch.onnx.export(
            model,
            (batch[:2],),
            str(path),
            dynamo=True,
            verbose=False,
            dynamic_shapes=({0: torch.export.Dim("N")},),
            input_names=["x"],
            custom_translation_table=onnx_translations(),
        )
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found = session.run(None, {"x": batch.numpy()})
        expected = model(batch)
    return max(
        relative_difference(torch.from_numpy(f), e) for f, e in zip(found, expected, strict=True)
    )


class _Features(nn.Module):
    def __init__(self, trunk: TimmTrunk) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, x):
        return tuple(self.trunk(x).values())


def _trunk(uncut: _Uncut, shared, tasks: tuple[str, ...], options: dict) -> TimmTrunk:
    trunk = TimmTrunk(uncut.name, shared_stages=shared, tasks=tasks, img_size=uncut.size, **options)
    own = {**dict(trunk.named_parameters()), **dict(trunk.named_buffers())}
    with torch.no_grad():
        for name, value in own.items():
            if _uncut_name(name) in uncut.state:
                value.copy_(uncut.state[_uncut_name(name)])
    return trunk


def _uncut_name(name: str) -> str:
    return re.sub(r"^(trunk|tails\.[^.]+)\.", "", name)


def _groups(items: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _pictures(model: nn.Module, size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))


def _smallest(name: str, img_size: int | None) -> tuple[nn.Module, int, dict]:
    """The model for the smallest pictures at which its features and gradients are finite."""
    config = timm.get_pretrained_cfg(name)
    native = max(config.input_size[1:]) if config else 224
    reason = ""
    for size in (img_size,) if img_size else sorted({*(s for s in SIZES if s < native), native}):
        for drops in _DROPS:
            try:
                options = dict.fromkeys(drops, 0.1)
                model, options = _create(name, size, options, config is not None)
                features = model.train()(_pictures(model, size))
                features.sum().backward()
                if torch.isfinite(features).all():
                    model.load_state_dict(_shaken(model))
                    return model, size, options
                reason = "features are not finite"
            except Exception as error:  # a model's own shape errors are of any type
                reason = first_line(error)
                if "gradient" not in reason:
                    break
    raise ConfigError(f"{name} runs with no size of pictures: {reason}")


def _create(name: str, size: int, options: dict, fixed: bool) -> tuple[nn.Module, dict]:
    """The model, with those of ``options`` that it takes."""
    sized = {"img_size": size} if fixed and timm.get_pretrained_cfg(name).fixed_input_size else {}
    options = dict(options)
    while True:
        torch.manual_seed(0)
        try:
            return timm.create_model(name, num_classes=0, **sized, **options), options
        except TypeError as error:
            unknown = [option for option in options if repr(option) in str(error)]
            if not unknown:
                raise
            del options[unknown[0]]


def _shaken(model: nn.Module) -> dict[str, Tensor]:
    """The model's state, with random numbers for parameters that are all (nearly) zero."""
    generator = torch.Generator().manual_seed(4)
    state = model.state_dict()
    for name, parameter in model.named_parameters():
        if parameter.numel() and float(parameter.detach().abs().max()) < 1e-2:
            state[name] = 0.2 * torch.rand(parameter.shape, generator=generator) + 0.1
    return state


def _reason(error: BaseException) -> str:
    """The operator that has no export, or else the innermost error's first line."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    for link in chain:
        found = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", str(link))
        if found:
            return f"no ONNX function for {found.group(1)}"
    last = chain[-1]
    return f"{type(last).__name__}: {first_line(last)}"
