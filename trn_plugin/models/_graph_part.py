"""Part of a traced model as a module: the modules that it uses, and generated code."""

from __future__ import annotations

import contextlib
import importlib
import types
from dataclasses import dataclass, field

import torch
import torch.utils.checkpoint
from torch import fx, nn

__all__ = ["Code", "CutPart", "GraphPart", "Program", "Result", "Step"]


class Code:
    """A function generated from a graph. Deep copies share it; pickles hold its source.

    ``src`` defines ``forward(self, ...)``. ``scope`` holds its globals: values, and Python modules
    by name.
    """

    def __init__(self, src: str, scope: dict) -> None:
        self.src = src
        self.scope = {
            name: importlib.import_module(value) if isinstance(value, str) else value
            for name, value in scope.items()
        }
        run_scope = dict(self.scope)
        exec(compile(src, f"<cut {id(self):x}>", "exec"), run_scope)
        self.run = run_scope["forward"]

    @classmethod
    def of(cls, graph: fx.Graph) -> Code:
        code = graph.python_code("self")
        return cls(code.src, dict(code.globals))

    def __reduce__(self):
        scope = {
            name: value.__name__ if isinstance(value, types.ModuleType) else value
            for name, value in self.scope.items()
        }
        return Code, (self.src, scope)


@dataclass
class Step:
    """Consecutive nodes: ``code`` takes the values ``inputs`` and returns a tuple ``outputs``."""

    code: Code
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    recompute: bool = False  # gradient checkpointing
    dead: tuple[str, ...] = ()  # values that are not needed after this step


@dataclass
class Result:
    """Values that a part returns, ready after the first ``after`` steps."""

    after: int
    names: tuple[str, ...]
    copied: set[str] = field(default_factory=set)  # to clone: later steps change them in place

    def of(self, env: dict) -> tuple:
        return tuple(env[n].clone() if n in self.copied else env[n] for n in self.names)


@dataclass
class Program:
    """The steps of a part in train or eval mode. Deep copies of the part share it."""

    inputs: tuple[str, ...]
    steps: list[Step]
    results: list[Result]
    copied: set[str] = field(default_factory=set)  # inputs to clone: steps change them in place

    def __post_init__(self) -> None:
        needed: set[str] = set()
        for index in range(len(self.steps), 0, -1):
            step = self.steps[index - 1]
            needed.update(n for r in self.results if r.after == index for n in r.names)
            step.dead = tuple(sorted({*step.inputs, *step.outputs} - needed))
            needed.update(step.inputs)

    def __deepcopy__(self, memo):
        return self


class CutPart(nn.Module):
    """Part of a cut model: takes values, returns a tuple of values for each ``Result``.

    Attributes:
        recording (bool): True for the runs after cutting that find which values the part changes
            in place.
    """

    recording = False

    def results(self, values, count: int) -> tuple[tuple, ...]:
        """Run until the first ``count`` results are ready; returns a tuple of values for each."""
        raise NotImplementedError


class GraphPart(CutPart):
    """Part of a traced model: the modules that it uses, and a program for each ``training``."""

    def __init__(self, programs: dict[bool, Program]) -> None:
        super().__init__()
        self._programs = programs

    def reference(self, source: nn.Module, path: str) -> None:
        """Make ``self.path`` the same object as ``source.path``."""
        target = self
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
            # constants of the trace belong to the code, so they are not persistent
            persistent = name in source._buffers and name not in source._non_persistent_buffers_set
            target.register_buffer(name, value, persistent=persistent)
        else:
            setattr(target, name, value)

    def forward(self, *values):
        return self.results(values, len(self._programs[self.training].results))

    def results(self, values, count: int) -> tuple[tuple, ...]:
        """See ``CutPart``; a step that changes its inputs in place is not recomputed."""
        program = self._programs[self.training]
        env = dict(zip(program.inputs, values, strict=True))
        noted = [(program.inputs, program.copied, values, self._versions(values))]
        for name in program.copied:
            env[name] = env[name].clone()
        results: list[tuple] = []
        for index, step in enumerate(program.steps):
            inputs = [env[name] for name in step.inputs]
            before = self._versions(inputs)
            self._run(step, env)
            if self.recording:
                step.recompute &= before == self._versions(inputs)
            result = program.results[len(results)]
            if index + 1 == result.after:
                own = result.of(env)
                results.append(own)
                noted.append((result.names, result.copied, own, self._versions(own)))
                if len(results) == count:
                    break
        for names, copied, own, before in noted if self.recording else ():
            after = self._versions(own)
            copied.update(n for n, a, b in zip(names, before, after, strict=True) if a != b)
        return tuple(results)

    def _versions(self, values) -> list[int | None]:
        """While recording, how often each value was changed in place."""
        if not self.recording:
            return []
        return [value._version if torch.is_tensor(value) else None for value in values]

    def _run(self, step: Step, env: dict) -> None:
        args = [env[name] for name in step.inputs]
        if step.recompute and torch.is_grad_enabled():
            contexts = {}
            if not torch.compiler.is_compiling():
                contexts["context_fn"] = lambda: (contextlib.nullcontext(), _no_statistics(self))
            outputs = torch.utils.checkpoint.checkpoint(
                step.code.run, self, *args, use_reentrant=False, **contexts
            )
        else:
            outputs = step.code.run(self, *args)
        env.update(zip(step.outputs, outputs, strict=True))
        for name in step.dead:
            del env[name]


@contextlib.contextmanager
def _no_statistics(part: nn.Module):
    """Leave batch norm's running statistics unchanged when a step is recomputed."""
    norms = [m for m in part.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum, norm.num_batches_tracked = momentum, count
