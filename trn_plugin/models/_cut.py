"""Cutting a timm model at stage boundaries.

The model's forward pass is traced by torch.fx, once for train and once for eval mode (a trace
freezes ``self.training``); what runs up to the end of a boundary module becomes one part, the
rest another, and every value that the rest needs is handed on. All parts keep the original
modules under their original dotted names.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch.utils.checkpoint
from timm.layers import get_notrace_functions, get_notrace_modules
from torch import fx, nn

from trn_plugin.errors import first_line
from trn_plugin.models._graph_part import Code, GraphPart, Program, Result, Step

__all__ = ["CannotTrace", "cut"]


# kept whole, since optimisers find them by their class (paramwise_cfg's norm_decay_mult)
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_OWN = "model."
_FIRST = 1  # node 0 is the input


class CannotTrace(Exception):
    """torch.fx cannot follow this model's forward pass, or the boundary is no module of it."""


def cut(
    model: nn.Module,
    boundaries: Sequence[str],
    taps: Sequence[str] = (),
    *,
    whole: bool = False,
    frozen: Collection[nn.Module] = (),
    recompute: Sequence[str] | None = None,
) -> tuple[GraphPart, list[GraphPart]]:
    """Cut ``model`` after each of its modules ``boundaries``.

    Args:
        model (nn.Module): takes one (N, C, H, W) tensor.
        boundaries (Sequence[str]): dotted names of modules, or of lists of modules, in order.
        taps (Sequence[str]): dotted names of modules behind the boundaries.
        whole (bool): let the trunk run on to the model's end after the last boundary.
        frozen (Collection[nn.Module]): modules that stay in eval mode in train mode.
        recompute (Sequence[str], optional): gradient checkpointing: names of the model's stages,
            for the models for which timm itself does not say what to recompute.

    Returns:
        The trunk, which takes pictures and returns a tuple of values for each boundary (and, with
        ``whole``, one that holds what ``model`` returns), and for each boundary the part that
        takes those values and returns one tuple, in a tuple: what ``model`` returns and what the
        modules of ``taps`` return (when last called). Their modules are those of ``model``.

    Raises:
        CannotTrace: with torch.fx's reason, or a name that is no module (behind the boundary).
    """
    names = (*boundaries, *taps)
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules:
            raise CannotTrace(f"no module is named {name!r}")
    was_training = {module: module.training for module in modules.values()}
    root = _OneInput(model)
    traces = {}
    try:
        for mode in (True, False):
            model.train(mode)
            for module in frozen:
                module.eval()
            traces[mode] = _trace(root, boundaries, taps, recompute if mode else None)
    finally:
        for module, mode in was_training.items():
            module.training = mode
    trunk = {mode: _trunk(trace, whole) for mode, trace in traces.items()}
    tails = [
        {mode: _tail(trace, index) for mode, trace in traces.items()}
        for index in range(len(boundaries))
    ]
    return _part(root, trunk), [_part(root, tail) for tail in tails]


class _OneInput(nn.Module):
    """Hides the optional arguments of a model's forward, which a trace would make inputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)


@dataclass
class _Trace:
    """A graph's nodes, the last one its output; the nodes before each boundary; node ranges."""

    nodes: list[fx.Node]
    boundaries: list[int]
    regions: list[tuple[int, int]]


class _NotingTracer(fx.Tracer):
    """Notes of every module call where its nodes begin and end, and what it returned."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))
        self.calls: list[tuple[str, int, int]] = []
        self.values: dict[str, fx.Proxy] = {}
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
        path = self.path_of_module(m).removeprefix(_OWN)
        self.calls.append((path, start, len(self.graph.nodes)))
        self.values[path] = out
        return out

    def last_call(self, name: str) -> str | None:
        """The module itself, or of a list, which is never called, its last called block."""
        paths = [path for path, _, _ in self.calls if f"{path}.".startswith(f"{name}.")]
        return name if name in paths else paths[-1] if paths else None

    def checkpoint(self, function, *args, **kwargs):
        """Stands in for torch's: notes which nodes the model wants to recompute."""
        for option in ("use_reentrant", "preserve_rng_state", "context_fn", "determinism_check"):
            kwargs.pop(option, None)
        start, outermost = len(self.graph.nodes), not self._inside_region
        self._inside_region = True
        out = function(*args, **kwargs)
        if outermost:
            self.regions.append((start, len(self.graph.nodes)))
            self._inside_region = False
        return out


def _trace(
    root: _OneInput,
    boundaries: Sequence[str],
    taps: Sequence[str],
    recompute: Sequence[str] | None,
) -> _Trace:
    graph = None
    if recompute is not None:
        tracer = _NotingTracer()
        with contextlib.suppress(Exception), _timms_checkpointing(root.model, tracer.checkpoint):
            graph = tracer.trace(root)
    if graph is None or not tracer.regions:
        tracer = _NotingTracer()
        try:
            graph = tracer.trace(root)
        except Exception as error:  # tracing runs the model's code: it may raise anything
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
    nodes[-1].args = ((nodes[-1].args[0], *values),)
    return _Trace(nodes, positions, tracer.regions)


@contextlib.contextmanager
def _timms_checkpointing(model: nn.Module, checkpoint):
    """The model asks ``checkpoint`` to run what timm would recompute."""
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
    """Node ranges of the blocks that a stage lists, or of the whole stage where it lists none."""
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


def _trunk(trace: _Trace, whole: bool) -> Program:
    end = len(trace.nodes) - 1
    edges = [_FIRST, *trace.boundaries, *([end] if whole else [])]
    steps, results = [], []
    for start, stop in itertools.pairwise(edges):
        steps += _steps(trace, start, stop)
        names = _results(trace) if stop == end else _crossing(trace, stop)
        results.append(Result(len(steps), names))
    return Program((trace.nodes[0].name,), steps, results)


def _tail(trace: _Trace, index: int) -> Program:
    start, end = trace.boundaries[index], len(trace.nodes) - 1
    steps = _steps(trace, start, end)
    return Program(_crossing(trace, start), steps, [Result(len(steps), _results(trace))])


def _results(trace: _Trace) -> tuple[str, ...]:
    return tuple(f"_result{i}" for i in range(len(trace.nodes[-1].args[0])))


def _crossing(trace: _Trace, position: int) -> tuple[str, ...]:
    """The values that are there before a node and used from it on."""
    needed = {user for node in trace.nodes[position:] for user in node.all_input_nodes}
    return tuple(node.name for node in trace.nodes[:position] if node in needed)


def _steps(trace: _Trace, start: int, end: int) -> list[Step]:
    """Nodes ``start`` to ``end``, a step of its own for each range to be recomputed."""
    edges = {start, end, *(e for region in trace.regions for e in region if start < e < end)}
    steps = []
    for first, last in itertools.pairwise(sorted(edges)):
        recompute = any(a <= first and last <= b for a, b in trace.regions)
        steps.append(_step(trace, first, last, recompute))
    return steps


def _step(trace: _Trace, start: int, end: int, recompute: bool) -> Step:
    nodes, output = trace.nodes[start:end], trace.nodes[-1]
    final = end == len(trace.nodes) - 1
    needed = {n for node in (*nodes, *([output] if final else [])) for n in node.all_input_nodes}
    inputs = [node for node in trace.nodes[:start] if node in needed]
    graph = fx.Graph()
    copies = {node: graph.placeholder(node.name) for node in inputs}
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    if final:
        values = fx.node.map_arg(output.args[0], copies.__getitem__)
        outputs = _results(trace)
    else:
        later = {user for node in trace.nodes[end:] for user in node.all_input_nodes}
        kept = [node for node in nodes if node in later]
        values, outputs = tuple(copies[node] for node in kept), [node.name for node in kept]
    graph.output(values)
    graph.lint()
    used = [node for node in graph.nodes if node.op in ("call_module", "get_attr")]
    targets = tuple(dict.fromkeys(node.target for node in used))
    for node in used:
        node.target = node.target.removeprefix(_OWN)
    inputs = tuple(node.name for node in inputs)
    return Step(Code.of(graph), inputs, tuple(outputs), targets, recompute)


def _part(root: _OneInput, programs: dict[bool, Program]) -> GraphPart:
    part = GraphPart(programs)
    steps = [step for program in programs.values() for step in program.steps]
    for target in dict.fromkeys(target for step in steps for target in step.targets):
        owner = root.model if target.startswith(_OWN) else root
        part.reference(owner, target.removeprefix(_OWN))
    return part
