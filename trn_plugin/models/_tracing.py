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
    """A traced graph; the last node is the output."""

    nodes: list[fx.Node]
    boundaries: list[int]  # number of nodes before the end of each boundary module
    regions: list[tuple[int, int]]  # node ranges to recompute in the backward pass


class _RecordingTracer(fx.Tracer):
    """Records where the last call of each module ends, and its result."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))
        self.calls: dict[str, tuple[int, fx.Proxy]] = {}
        self.feature_map: fx.Proxy | None = None
        self.regions: list[tuple[int, int]] = []
        self._leaves = tuple(get_notrace_modules())
        self._inside_region = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (*self._leaves, *_NORMS)) or super().is_leaf_module(
            m, module_qualified_name
        )

    def call_module(self, m, forward, args, kwargs):
        out = super().call_module(m, forward, args, kwargs)
        path = self.path_of_module(m).removeprefix(OWN)
        self.calls.pop(path, None)  # the dict is in order of the last calls
        self.calls[path] = len(self.graph.nodes), out
        return out

    def last_call(self, name: str) -> tuple[int, fx.Proxy] | None:
        """The last call of a module, or of the last block of a list, which itself is not called."""
        inside = [call for path, call in self.calls.items() if path.startswith(f"{name}.")]
        return self.calls.get(name, inside[-1] if inside else None)

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
    last = {name: tracer.last_call(name) for name in (*boundaries, *taps, *(recompute or ()))}
    for name in (*boundaries, *taps):
        if last[name] is None:
            raise CannotTrace(f"{name!r} is not called in the forward pass")
    positions = [last[name][0] for name in boundaries]
    for first, second in itertools.pairwise(boundaries):
        if last[first][0] >= last[second][0]:
            raise CannotTrace(f"{second!r} does not come after {first!r}")
    for tap in taps:
        if boundaries and last[tap][0] <= positions[-1]:
            raise CannotTrace(f"{tap!r} lies before {boundaries[-1]!r}, in the shared part")
    if recompute is not None and not tracer.regions:
        ends = [FIRST, *(last[stage][0] for stage in recompute if last[stage])]
        tracer.regions = [(a, b) for a, b in itertools.pairwise(ends) if a < b]
    nodes = list(graph.nodes)
    values = [fx.node.map_aggregate(last[tap][1], _node) for tap in taps]
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


def _node(value):
    return value.node if isinstance(value, fx.Proxy) else value
