"""Trace a model with torch.fx, and find its modules in the graph."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch.utils.checkpoint
from timm.layers import get_notrace_functions, get_notrace_modules
from torch import fx, nn

from trn_plugin.errors import first_line

__all__ = ["FIRST", "OWN", "CannotTrace", "OneInput", "Trace", "trace_model"]


# leaf modules, as paramwise_cfg's norm_decay_mult finds norms by their class
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
OWN = "model."
FIRST = 1  # node 0 is the input


class CannotTrace(Exception):
    """torch.fx cannot trace the model, or its modules are not called in the given order."""


class OneInput(nn.Module):
    """Hides the optional arguments of a model's forward, which would become graph inputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)


@dataclass
class Trace:
    """A traced graph.

    Attributes:
        nodes (list[fx.Node]): in order; the last one is the output.
        boundaries (list[int]): number of nodes before the end of each boundary module.
        regions (list[tuple[int, int]]): node ranges to recompute in the backward pass.
    """

    nodes: list[fx.Node]
    boundaries: list[int]
    regions: list[tuple[int, int]]


class _RecordingTracer(fx.Tracer):
    """Records the node range and the result of each module call."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))
        self.calls: list[tuple[str, int, int]] = []
        self.values: dict[str, fx.Proxy] = {}
        self.feature_map: fx.Proxy | None = None
        self.regions: list[tuple[int, int]] = []
        self._leaves = tuple(get_notrace_modules())
        self._inside_region = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (*self._leaves, *_NORMS)) or super().is_leaf_module(
            m, module_qualified_name
        )

    def call_module(self, m, forward, args, kwargs):
        start = len(self.graph.nodes)
        out = super().call_module(m, forward, args, kwargs)
        path = self.path_of_module(m).removeprefix(OWN)
        self.calls.append((path, start, len(self.graph.nodes)))
        self.values[path] = out
        return out

    def last_call(self, name: str) -> str | None:
        """The module itself, or for a list, which is never called, its last called block."""
        paths = [path for path, _, _ in self.calls if f"{path}.".startswith(f"{name}.")]
        return name if name in paths else paths[-1] if paths else None

    def trace_with_map(self, root: OneInput) -> fx.Graph:
        """Trace, and record the result of the model's ``forward_features``, if it has one."""
        model = root.model
        if not hasattr(model, "forward_features"):
            return self.trace(root)
        original = model.forward_features

        def recording(*args, **kwargs):
            self.feature_map = original(*args, **kwargs)
            return self.feature_map

        model.forward_features = recording
        try:
            return self.trace(root)
        finally:
            del model.forward_features

    def checkpoint(self, function, *args, **kwargs):
        """Replaces ``torch.utils.checkpoint.checkpoint``: records the nodes to recompute."""
        for option in ("use_reentrant", "preserve_rng_state", "context_fn", "determinism_check"):
            kwargs.pop(option, None)
        start, outermost = len(self.graph.nodes), not self._inside_region
        self._inside_region = True
        out = function(*args, **kwargs)
        if outermost:
            self.regions.append((start, len(self.graph.nodes)))
            self._inside_region = False
        return out


def trace_model(
    root: OneInput,
    boundaries: Sequence[str],
    taps: Sequence[str],
    recompute: Sequence[str] | None,
    with_map: bool = False,
) -> Trace:
    """Trace a model in its current mode; arguments as of ``cut``.

    The graph's output is a tuple: the outputs of the model, of ``taps`` and, with ``with_map``, of
    ``forward_features``.

    Raises:
        CannotTrace: torch.fx fails, or the modules are not called in this order.
    """
    if with_map and not hasattr(root.model, "forward_features"):
        raise CannotTrace("it has no forward_features, which gives the map before pooling")
    graph = None
    if recompute is not None:
        tracer = _RecordingTracer()
        with contextlib.suppress(Exception), _timms_checkpointing(root.model, tracer.checkpoint):
            graph = tracer.trace_with_map(root)
    if graph is None or not tracer.regions:
        tracer = _RecordingTracer()
        try:
            graph = tracer.trace_with_map(root)
        except Exception as error:  # the model's code may raise anything
            raise CannotTrace(f"torch.fx: {first_line(error)}") from error
        if recompute is not None:
            tracer.regions = _blocks(root.model, tracer.calls, recompute)

    ends = {path: end for path, _, end in tracer.calls}
    last = {name: tracer.last_call(name) for name in (*boundaries, *taps)}
    for name, call in last.items():
        if call is None:
            raise CannotTrace(f"{name!r} is not called in the forward pass")
    positions = [ends[last[name]] for name in boundaries]
    for first, second in itertools.pairwise(boundaries):
        if ends[last[first]] >= ends[last[second]]:
            raise CannotTrace(f"{second!r} does not come after {first!r}")
    for tap in taps:
        if boundaries and ends[last[tap]] <= positions[-1]:
            raise CannotTrace(f"{tap!r} lies before {boundaries[-1]!r}, in the shared part")
    nodes = list(graph.nodes)
    values = [fx.node.map_aggregate(tracer.values[last[tap]], _node) for tap in taps]
    if with_map:
        values.append(fx.node.map_aggregate(tracer.feature_map, _node))
    nodes[-1].args = ((nodes[-1].args[0], *values),)
    return Trace(nodes, positions, tracer.regions)


@contextlib.contextmanager
def _timms_checkpointing(model: nn.Module, checkpoint):
    """Enable timm's gradient checkpointing, with ``checkpoint`` instead of torch's function."""
    model.set_grad_checkpointing(True)
    original = torch.utils.checkpoint.checkpoint
    torch.utils.checkpoint.checkpoint = checkpoint
    try:
        yield
    finally:
        torch.utils.checkpoint.checkpoint = original
        model.set_grad_checkpointing(False)


def _blocks(
    model: nn.Module, calls: list[tuple[str, int, int]], stages: Sequence[str]
) -> list[tuple[int, int]]:
    """Node ranges of the blocks in each stage, or of the whole stage if it has none."""
    modules = dict(model.named_modules())
    found = []
    for stage in stages:
        inside = [
            (start, end)
            for path, start, end in calls
            if path.startswith(f"{stage}.")
            and isinstance(modules[path.rpartition(".")[0]], _CONTAINERS)
        ]
        found += inside or [(start, end) for path, start, end in calls if path == stage]
    ranges: list[tuple[int, int]] = []
    for start, end in sorted(found, key=lambda r: (r[0], -r[1])):
        if end > start and (not ranges or start >= ranges[-1][1]):
            ranges.append((start, end))
    return ranges


def _node(value):
    return value.node if isinstance(value, fx.Proxy) else value
