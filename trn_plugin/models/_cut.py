"""Cutting a timm model in two at a stage boundary.

The model's forward pass is traced by torch.fx, once for train and once for eval mode (a trace
freezes ``self.training``); what runs up to the end of the boundary module becomes one part, the
rest the other, and every value that the rest needs is handed on. Both parts keep the original
modules under their original dotted names.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from timm.layers import get_notrace_functions, get_notrace_modules
from torch import fx, nn

from trn_plugin.errors import first_line

__all__ = ["CannotTrace", "GraphPart", "cut"]


# kept whole, since optimisers find them by their class (paramwise_cfg's norm_decay_mult)
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


class CannotTrace(Exception):
    """torch.fx cannot follow this model's forward pass, or the boundary is no module of it."""


class GraphPart(nn.Module):
    """Part of a traced model: the modules that it uses, and a forward for either mode.

    Args:
        root (nn.Module): the traced model, whose modules and parameters are referenced.
        graphs (dict[bool, fx.Graph]): the graph to run, by ``training``.
    """

    def __init__(self, root: nn.Module, graphs: dict[bool, fx.Graph]) -> None:
        super().__init__()
        for graph in graphs.values():
            for node in graph.nodes:
                if node.op in ("call_module", "get_attr"):
                    owner = root.model if node.target.startswith("model.") else root
                    node.target = node.target.removeprefix("model.")
                    _reference(owner, self, node.target)
        self._forwards = {mode: _compile(graph) for mode, graph in graphs.items()}

    def forward(self, *values):
        return self._forwards[self.training](self, *values)

    def __deepcopy__(self, memo):
        part = GraphPart.__new__(GraphPart)
        memo[id(self)] = part
        own = {key: value for key, value in self.__dict__.items() if key != "_forwards"}
        part.__dict__.update(copy.deepcopy(own, memo), _forwards=self._forwards)
        return part


def cut(model: nn.Module, boundary: str, taps: Sequence[str] = ()) -> tuple[GraphPart, GraphPart]:
    """Cut ``model`` after its module ``boundary``.

    Args:
        model (nn.Module): takes one (N, C, H, W) tensor.
        boundary (str): dotted name of a module, or of a list of modules.
        taps (Sequence[str]): dotted names of modules behind the boundary.

    Returns:
        The part that takes pictures and returns a tuple of values, and the part that takes those
        values and returns a tuple of what ``model`` returns and of what the modules of ``taps``
        return (when last called). Their modules are those of ``model``.

    Raises:
        CannotTrace: with torch.fx's reason, or a name that is no module (behind the boundary).
    """
    for name in (boundary, *taps):
        if name not in dict(model.named_modules()):
            raise CannotTrace(f"no module is named {name!r}")
    was_training = {m: m.training for m in model.modules()}
    root = _OneInput(model)
    heads, tails = {}, {}
    try:
        for mode in (True, False):
            model.train(mode)
            tracer = _NotingTracer((boundary, *taps))
            try:
                graph = tracer.trace(root)
            except Exception as error:  # tracing runs the model's code: it may raise anything
                raise CannotTrace(f"torch.fx: {first_line(error)}") from error
            silent = [name for name in (boundary, *taps) if name not in tracer.positions]
            if silent:
                raise CannotTrace(f"{silent[0]!r} is not called in the forward pass")
            position = tracer.positions[boundary]
            early = [name for name in taps if tracer.positions[name] <= position]
            if early:
                raise CannotTrace(f"{early[0]!r} lies before {boundary!r}, in the shared part")
            values = [tracer.values[name] for name in taps]
            heads[mode], tails[mode] = _split(graph, position, values)
    finally:
        for module, mode in was_training.items():
            module.training = mode
    return GraphPart(root, heads), GraphPart(root, tails)


class _OneInput(nn.Module):
    """Hides the optional arguments of a model's forward, which a trace would make inputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)


class _NotingTracer(fx.Tracer):
    """Notes what some modules return, and how many nodes there are by then.

    A module that is never called itself, a list of blocks, counts as its last called block.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))
        self.names = names
        self.positions: dict[str, int] = {}
        self.values: dict[str, fx.Proxy] = {}
        self._leaves = tuple(get_notrace_modules())

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (*self._leaves, *_NORMS)) or super().is_leaf_module(
            m, module_qualified_name
        )

    def call_module(self, m, forward, args, kwargs):
        out = super().call_module(m, forward, args, kwargs)
        path = self.path_of_module(m).removeprefix("model.")
        for name in self.names:
            if path == name or path.startswith(f"{name}."):
                self.positions[name] = len(self.graph.nodes)
                self.values[name] = out
        return out


def _split(graph: fx.Graph, position: int, taps: list) -> tuple[fx.Graph, fx.Graph]:
    nodes = list(graph.nodes)
    output = nodes[-1]
    output.args = ((output.args[0], *(fx.node.map_aggregate(v, _node) for v in taps)),)
    first, second = nodes[:position], nodes[position:]
    needed = {user for node in second for user in node.all_input_nodes}
    crossing = [node for node in first if node in needed]

    head, copies = fx.Graph(), {}
    for node in first:
        copies[node] = head.node_copy(node, copies.__getitem__)
    head.output(tuple(copies[node] for node in crossing))

    tail = fx.Graph()
    copies = {node: tail.placeholder(node.name) for node in crossing}
    for node in second:
        copies[node] = tail.node_copy(node, copies.__getitem__)
    for part in (head, tail):
        part.lint()
    return head, tail


def _node(value):
    return value.node if isinstance(value, fx.Proxy) else value


def _compile(graph: fx.Graph):
    code = graph.python_code("self")
    scope = dict(code.globals)
    exec(compile(code.src, f"<cut {id(graph):x}>", "exec"), scope)
    return scope["forward"]


def _reference(source: nn.Module, target: nn.Module, path: str) -> None:
    """Make ``target.path`` the same object as ``source.path``."""
    *containers, name = path.split(".")
    for container in containers:
        source = getattr(source, container)
        if not hasattr(target, container):
            target.add_module(container, nn.Module())
        target = getattr(target, container)
    value = getattr(source, name)
    if isinstance(value, nn.Module):
        target.add_module(name, value)
    elif isinstance(value, nn.Parameter):
        target.register_parameter(name, value)
    elif torch.is_tensor(value):
        # a constant that the trace baked in is part of the code, not of the weights
        persistent = name in source._buffers and name not in source._non_persistent_buffers_set
        target.register_buffer(name, value, persistent=persistent)
    else:
        setattr(target, name, value)
