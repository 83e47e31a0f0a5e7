"""Cut a model that torch.fx cannot trace, by replaying the outputs of its first modules.

The trunk is the model, stopped at the boundary; it records the output of each module. A tail is a
copy of the model whose first modules return the recorded outputs without computing. Code between
modules (sums, reshaping) runs again in each tail.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trn_plugin.errors import ConfigError
from trn_plugin.models._graph_part import CutPart
from trn_plugin.models._taps import outputs_of
from trn_plugin.models._tracing import CannotTrace
from trn_plugin.models._unused import drop_unused, empty

__all__ = ["ReplayTail", "ReplayTrunk", "cut_by_replay"]


def cut_by_replay(
    model: nn.Module,
    boundaries: Sequence[str],
    taps: Sequence[str],
    probe: Tensor,
    *,
    whole: bool = False,
) -> tuple[ReplayTrunk, list[ReplayTail]]:
    """As :func:`trn_plugin.models._cut.cut`, for any model; the parts are copies of it.

    ``probe`` are pictures (N, C, H, W).

    Raises:
        CannotTrace: the modules are not called in this order.
    """
    plans = [
        {mode: _plan(copy.deepcopy(model), boundary, taps, mode, probe) for mode in (True, False)}
        for boundary in boundaries
    ]
    trunk = ReplayTrunk(copy.deepcopy(model), plans, whole)
    tails = [ReplayTail(copy.deepcopy(model), plan, taps) for plan in plans]
    drop_unused(trunk, tails, probe)
    return trunk, tails


@dataclass
class _Plan:
    """A boundary, and the outermost modules that finish before it."""

    end: str  # the module whose last call before the boundary ends the shared part
    calls: int  # number of its calls up to the boundary
    recorded: dict[str, int]  # number of calls up to the boundary, by module
    again: set[str]  # recorded modules that are also called after the boundary


@torch.no_grad()
def _plan(model: nn.Module, boundary: str, taps: Sequence[str], mode: bool, probe: Tensor) -> _Plan:
    order: list[str] = []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: order.append(name))
    model.train(mode)
    state = torch.random.get_rng_state()
    model(probe)
    torch.random.set_rng_state(state)
    last = {name: index for index, name in enumerate(order)}
    inside = [name for name in order if f"{name}.".startswith(f"{boundary}.")]
    if not inside:
        raise CannotTrace(f"{boundary!r} is not called in the forward pass")
    end = boundary if boundary in last else inside[-1]
    for tap in taps:
        if last.get(tap, -1) <= last[end]:
            raise CannotTrace(f"{tap!r} lies before {boundary!r}, in the shared part")
    done = order[: last[end] + 1]
    recorded: dict[str, int] = {}
    for name in done:
        parents = [".".join(name.split(".")[:i]) for i in range(1, name.count(".") + 1)]
        if not any(parent in done for parent in parents):
            recorded[name] = recorded.get(name, 0) + 1
    again = set(order[len(done) :]) & set(recorded)
    return _Plan(end, done.count(end), recorded, again)


class _Shell(CutPart):
    """A module that holds a model's parameters, buffers and modules under the model's names."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.__dict__["_hidden"] = model
        for parts in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            self.__dict__[parts] = model.__dict__[parts]

    @property
    def _model(self) -> nn.Module:
        model = self.__dict__["_hidden"]
        model.training = self.training
        return model


class _Stop(Exception):
    """Ends the trunk's forward pass at the last boundary."""


class ReplayTrunk(_Shell):
    """A model up to its last boundary, or with ``whole`` to its end.

    ``plans`` holds for each boundary its plan by ``training``.
    """

    def __init__(self, model: nn.Module, plans: list[dict[bool, _Plan]], whole: bool) -> None:
        super().__init__(model)
        self._plans, self._whole = plans, whole

    def forward(self, x: Tensor) -> tuple[tuple, ...]:
        return self.results((x,), len(self._plans) + self._whole)

    @torch.compiler.disable
    def results(self, values, count: int) -> tuple[tuple, ...]:
        """For each boundary the pictures and recorded outputs; for the end the model's output."""
        if torch.compiler.is_exporting():  # an export cannot follow the exception _Stop
            raise ConfigError(
                "a model that torch.fx cannot trace cannot be exported in parts; set "
                "model.backbone.shared_stages to 0 or 'all'"
            )
        plans = [plan[self.training] for plan in self._plans[:count]]
        outputs: dict[str, list] = {}
        results: list[tuple] = []

        def record(name, out):
            outputs.setdefault(name, []).append(out)
            while len(results) < len(plans):
                plan = plans[len(results)]
                if name != plan.end or len(outputs[name]) < plan.calls:
                    return
                results.append((*values, {n: outputs[n][:k] for n, k in plan.recorded.items()}))
            if len(results) == count:
                raise _Stop

        names = {n for plan in plans for n in (plan.end, *plan.recorded)}
        model = self._model
        handles = [
            model.get_submodule(name).register_forward_hook(
                lambda _, __, out, name=name: record(name, out)
            )
            for name in names
        ]
        try:
            out = model(*values)
        except _Stop:
            return tuple(results)
        finally:
            for handle in handles:
                handle.remove()
        return (*results, (out,))


class _Replay:
    """Replaces a module's forward: returns the recorded outputs, and after these computes.

    Outputs are cloned, as the code after the module may change them in place.
    """

    def __init__(self, module: nn.Module, name: str, tape: dict[str, list]) -> None:
        self.module, self.name, self.tape = module, name, tape

    def __call__(self, *args, **kwargs):
        values = self.tape.get(self.name)
        if not values:
            return type(self.module).forward(self.module, *args, **kwargs)
        return _cloned(values.pop(0))


class ReplayTail(_Shell):
    """A model after a boundary; its first modules return the outputs that the trunk recorded."""

    def __init__(self, model: nn.Module, plan: dict[bool, _Plan], taps: Sequence[str]) -> None:
        super().__init__(model)
        self._taps = tuple(taps)
        self._tape: dict[str, list] = {}  # outputs still to replay, by module
        for name in dict.fromkeys(n for p in plan.values() for n in p.recorded):
            module = model.get_submodule(name)
            module.forward = _Replay(module, name, self._tape)
            if not any(name in p.again for p in plan.values()):
                empty(module)

    def forward(self, x: Tensor, recorded: dict[str, list]) -> tuple[tuple]:
        return self.results((x, recorded), 1)

    @torch.compiler.disable
    def results(self, values, count: int) -> tuple[tuple]:
        """The outputs of the model and of the last calls of ``taps``, in one tuple."""
        x, recorded = values
        self._tape.update({name: list(outputs) for name, outputs in recorded.items()})
        model = self._model
        with outputs_of(model, self._taps) as tapped:
            out = model(x)
        self._tape.clear()
        return ((out, *(tapped[tap] for tap in self._taps)),)


def _cloned(value):
    """The value with its tensors cloned; tensors in dicts are not."""
    if torch.is_tensor(value):
        return value.clone()
    return type(value)(map(_cloned, value)) if isinstance(value, (list, tuple)) else value
