"""Cutting a timm model at stage boundaries.

torch.fx traces the model's forward pass once in train and once in eval mode, as a trace fixes
``self.training``. The nodes up to the end of a boundary module become one part, the rest another;
the first returns all values that the second needs. All parts keep the original modules under their
original dotted names.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

from torch import fx, nn

from trn_plugin.models._graph_part import Code, GraphPart, Program, Result, Step
from trn_plugin.models._tracing import FIRST, OWN, CannotTrace, OneInput, Trace, trace_model

__all__ = ["cut"]


def cut(
    model: nn.Module,
    boundaries: Sequence[str],
    taps: Sequence[str] = (),
    *,
    whole: bool = False,
    frozen: Collection[nn.Module] = (),
    recompute: Sequence[str] | None = None,
    with_map: bool = False,
) -> tuple[GraphPart, list[GraphPart]]:
    """Cut ``model`` after each of its modules (or lists of modules) ``boundaries``.

    Returns the trunk and a tail for each boundary, which share the modules of ``model``. The trunk
    takes pictures and returns a tuple of values for each boundary and, with ``whole``, one with the
    model's output. A tail takes the values of its boundary and returns a tuple of one tuple: the
    outputs of ``model``, of the last calls of ``taps`` and, with ``with_map``, of
    ``model.forward_features``.

    Args:
        frozen (Collection[nn.Module]): modules that stay in eval mode in train mode.
        recompute (Sequence[str], optional): enables gradient checkpointing of the blocks that timm
            defines, or if it defines none, of these stages.

    Raises:
        CannotTrace: torch.fx fails, a name is not that of a module, or a tap is not in the tails.
    """
    names = (*boundaries, *taps)
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules:
            raise CannotTrace(f"no module is named {name!r}")
    was_training = {module: module.training for module in modules.values()}
    root = OneInput(model)
    traces = {}
    try:
        for mode in (True, False):
            model.train(mode)
            for module in frozen:
                module.eval()
            traces[mode] = trace_model(
                root, boundaries, taps, recompute if mode else None, with_map
            )
    finally:
        for module, mode in was_training.items():
            module.training = mode
    trunk = GraphPart({mode: _trunk(trace, whole) for mode, trace in traces.items()})
    tails = [
        GraphPart({mode: _tail(trace, index) for mode, trace in traces.items()})
        for index in range(len(boundaries))
    ]
    for trace in traces.values():
        end = len(trace.nodes) - 1
        last = end if whole else trace.boundaries[-1]
        for part, nodes in (
            (trunk, trace.nodes[:last]),
            *zip(tails, (trace.nodes[start:end] for start in trace.boundaries), strict=True),
        ):
            for node in nodes:
                if node.op in ("call_module", "get_attr"):
                    owner = model if node.target.startswith(OWN) else root
                    part.reference(owner, node.target.removeprefix(OWN))
    return trunk, tails


def _trunk(trace: Trace, whole: bool) -> Program:
    end = len(trace.nodes) - 1
    edges = [FIRST, *trace.boundaries, *([end] if whole else [])]
    steps, results = [], []
    for start, stop in itertools.pairwise(edges):
        steps += _steps(trace, start, stop)
        names = _results(trace) if stop == end else _crossing(trace, stop)
        results.append(Result(len(steps), names))
    return Program((trace.nodes[0].name,), steps, results)


def _tail(trace: Trace, index: int) -> Program:
    start, end = trace.boundaries[index], len(trace.nodes) - 1
    steps = _steps(trace, start, end)
    return Program(_crossing(trace, start), steps, [Result(len(steps), _results(trace))])


def _results(trace: Trace) -> tuple[str, ...]:
    return tuple(f"_result{i}" for i in range(len(trace.nodes[-1].args[0])))


def _crossing(trace: Trace, position: int) -> tuple[str, ...]:
    """Names of the values computed before a node and used by it or later ones."""
    needed = {user for node in trace.nodes[position:] for user in node.all_input_nodes}
    return tuple(node.name for node in trace.nodes[:position] if node in needed)


def _steps(trace: Trace, start: int, end: int) -> list[Step]:
    """Nodes ``start`` to ``end`` as steps, split where a range to recompute starts or ends."""
    edges = {start, end, *(e for region in trace.regions for e in region if start < e < end)}
    steps = []
    for first, last in itertools.pairwise(sorted(edges)):
        recompute = any(a <= first and last <= b for a, b in trace.regions)
        steps.append(_step(trace, first, last, recompute))
    return steps


def _step(trace: Trace, start: int, end: int, recompute: bool) -> Step:
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
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = node.target.removeprefix(OWN)
    inputs = tuple(node.name for node in inputs)
    return Step(Code.of(graph), inputs, tuple(outputs), recompute)
