"""A cut model: the shared part runs once, and each task has its own copy of the rest."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trn_plugin.errors import ConfigError, first_line
from trn_plugin.models._cut import cut
from trn_plugin.models._graph_part import CutPart
from trn_plugin.models._replay import cut_by_replay
from trn_plugin.models._stages import Stages
from trn_plugin.models._taps import outputs_of
from trn_plugin.models._tracing import CannotTrace
from trn_plugin.models._uncut import TOLERANCE, relative_difference, seeded

__all__ = ["CutParts", "TaskPath"]

_WHERE = "model.backbone"


class TaskPath(NamedTuple):
    """Outputs of trunk and tail for one task, in the model's own layout."""

    hidden: Tensor  # (N, d), pooled
    taps: tuple = ()
    map: Tensor | None = None  # of ``forward_features``


class CutParts(nn.Module):
    """``trunk``, used by more than one task, and ``tails``, each task's own copy of the rest.

    The outputs include those of ``taps``, modules inside the tails, and with ``with_map`` that of
    the model's ``forward_features``.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        shared_stages: Mapping[str, int],
        stages: Stages,
        taps: Sequence[str],
        with_map: bool,
        channels_last: bool,
    ) -> None:
        super().__init__()
        self.tasks, self.taps, self.channels_last = tuple(tasks), tuple(taps), channels_last
        self.shared_stages, self._stages = dict(shared_stages), stages
        self._with_map = with_map
        self.fully_shared = frozenset(
            task for task, count in shared_stages.items() if count == stages.everything
        )
        counts = sorted({c for c in shared_stages.values() if 0 < c < stages.everything})
        levels = {count: level for level, count in enumerate([*counts, stages.everything])}
        self._levels = {task: levels.get(count) for task, count in shared_stages.items()}
        self._boundaries = [stages.names[count - 1] for count in counts]

    def paths(self, x: Tensor) -> dict[str, TaskPath]:
        """Outputs for pictures (N, C, H, W) by task; the trunk runs once."""
        x = self._laid_out(x)
        if isinstance(self.trunk, CutPart):
            shared = self.trunk(x)
        else:
            shared = ((self.trunk(x),),) if self.fully_shared else ()
        paths = {}
        for task, tail in self.tails.items():
            level = self._levels[task]
            if task in self.fully_shared:
                paths[task] = self._path_of(shared[level])
                continue
            inputs = (x,) if level is None else shared[level]
            paths[task] = self._path_of(self._run_tail(tail, inputs))
        return paths

    def path(self, task: str, x: Tensor) -> Tensor:
        """Hidden features (N, num_features) of one task for pictures (N, C, H, W).

        Runs only the parts that it needs, and draws the same random numbers as the uncut model.
        """
        level = self._levels[task]
        x = self._laid_out(x)
        if level is None:
            return self._run_tail(self.tails[task], (x,))[0]
        if not isinstance(self.trunk, CutPart):
            return self.trunk(x)
        values = self.trunk.results((x,), level + 1)[level]
        return values[0] if task in self.fully_shared else self.tails[task](*values)[0][0]

    def compile_parts(self, **options) -> None:
        """Compile the trunk and each tail; ``options`` are those of ``torch.compile``."""
        for part in (self.trunk, *self.tails.values()):
            if not isinstance(part, nn.Identity):
                part.compile(**options)

    def _laid_out(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x

    def _path_of(self, values: tuple) -> TaskPath:
        """The outputs of a part as a TaskPath."""
        hidden, *rest = values
        if self._with_map:
            return TaskPath(hidden, tuple(rest[:-1]), rest[-1])
        return TaskPath(hidden, tuple(rest))

    def _run_tail(self, tail: nn.Module, inputs: tuple) -> tuple:
        """The outputs of a tail and of the last calls of ``taps``."""
        if isinstance(tail, CutPart):
            return tail(*inputs)[0]
        with outputs_of(tail, self.taps) as values:
            out = tail(*inputs)
        return out, *(values[tap] for tap in self.taps)

    def _cut(
        self,
        model: nn.Module,
        frozen: tuple[nn.Module, ...],
        checkpointing: bool,
        probe: Tensor,
    ) -> None:
        """Build trunk and tails, and compare them with the uncut model."""
        options = dict(
            frozen=frozen,
            recompute=self._stages.names if checkpointing else None,
            with_map=self._with_map,
        )
        whole, cuts = bool(self.fully_shared), bool(self._boundaries)
        traced = checkpointing or self._with_map
        own: nn.Module = model
        try:
            if traced:
                own = cut(model, (), self.taps, whole=True, **options)[0]
            if cuts:
                self.trunk, tails = cut(model, self._boundaries, self.taps, whole=whole, **options)
            else:
                self.trunk, tails = own if whole else nn.Identity(), []
        except CannotTrace as error:
            if self._with_map:
                raise ConfigError(
                    f"{_WHERE}: {self._stages.model_name} cannot be traced ({error}); no head can "
                    "have input='map'"
                ) from error
            if checkpointing and cuts:
                raise ConfigError(
                    f"{_WHERE}.grad_checkpointing: {self._stages.model_name} cannot be traced "
                    f"({error}); leave it out, or share nothing (0) or everything ('all')"
                ) from error
            if checkpointing:
                self._with_timms_checkpointing(model)
                return
            try:
                self.trunk, tails = cut_by_replay(
                    model, self._boundaries, self.taps, probe, whole=whole
                )
            except Exception as other:  # the model's code may raise anything
                reason = f"{error}; by replay: {first_line(other)}"
                raise self._uncuttable(self._boundaries, reason) from other
        self._make_tails(own, tails)
        if cuts or traced:
            self._compare(model, probe, frozen)

    def _with_timms_checkpointing(self, model: nn.Module) -> None:
        """Use timm's gradient checkpointing for an uncut model that cannot be traced."""
        try:
            model.set_grad_checkpointing(True)
        except (AttributeError, AssertionError, NotImplementedError) as error:
            raise ConfigError(
                f"{_WHERE}.grad_checkpointing: {self._stages.model_name} does not support it "
                f"({first_line(error)})"
            ) from error
        self.trunk = model if self.fully_shared else nn.Identity()
        self._make_tails(model, [])

    def _make_tails(self, own: nn.Module, tails: Sequence[nn.Module]) -> None:
        """Build the tails; copy one that shares tensors with another part."""
        used = _tensors(self.trunk)
        self.tails = nn.ModuleDict()
        for task, level in self._levels.items():
            if task in self.fully_shared:
                self.tails[task] = nn.Identity()
                continue
            tail = own if level is None else tails[level]
            self.tails[task] = copy.deepcopy(tail) if used & _tensors(tail) else tail
            used |= _tensors(self.tails[task])

    @torch.no_grad()
    def _compare(self, model: nn.Module, probe: Tensor, frozen: Collection[nn.Module]) -> None:
        """Compare the output for each task with the uncut model's, with the same random numbers."""
        kept = {id(b): (b, b.clone()) for b in (*model.buffers(), *self.buffers())}
        paths = {level: task for task, level in reversed(self._levels.items())}
        self._record_changes(True)
        probe = self._laid_out(probe)  # other layouts round otherwise, which batch norm amplifies
        for mode in (False, True):
            model.train(mode)
            if mode:
                for module in frozen:
                    module.training = False
            expected = seeded(model, probe)
            self.train(mode)
            for level, task in paths.items():
                where = ["input" if level is None else (*self._boundaries, "end")[level]]
                try:
                    found = seeded(lambda x, task=task: self.path(task, x), probe)
                except Exception as error:  # the model's code may raise anything
                    raise self._uncuttable(where, f"the parts fail: {first_line(error)}") from error
                difference = relative_difference(found, expected)
                if not difference <= TOLERANCE:
                    name = "training" if mode else "evaluation"
                    raise self._uncuttable(
                        where, f"cut and uncut differ by {difference:.1e} (relative) in {name} mode"
                    )
        self._record_changes(False)
        for buffer, value in kept.values():
            buffer.copy_(value)

    def _record_changes(self, recording: bool) -> None:
        for part in (self.trunk, *self.tails.values()):
            if isinstance(part, CutPart):
                part.recording = recording

    def _uncuttable(self, boundaries: Sequence[str], reason: str) -> ConfigError:
        where = (
            f"after {' and '.join(map(repr, boundaries))}" if boundaries else "for checkpointing"
        )
        return ConfigError(
            f"{_WHERE}: {self._stages.model_name} cannot be cut {where} ({reason}); "
            "shared_stages=0 and shared_stages='all' work with any model"
        )


def _tensors(module: nn.Module) -> set[int]:
    return {id(t) for t in (*module.parameters(), *module.buffers())}
