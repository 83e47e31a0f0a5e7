"""A timm backbone, shared by the tasks up to a stage, with a copy of the rest for each task."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import timm
import torch
from torch import Tensor, nn

from trn_plugin.errors import ConfigError, first_line
from trn_plugin.models._cut import CannotTrace, cut
from trn_plugin.models._frozen import freeze
from trn_plugin.models._graph_part import CutPart, tensor_versions
from trn_plugin.models._replay import cut_by_replay
from trn_plugin.models._timm import create, stage_names
from trn_plugin.registry import MODELS

__all__ = ["TimmTrunk"]

_WHERE = "model.backbone"
_TOLERANCE = 1e-5


@MODELS.register_module()
class TimmTrunk(nn.Module):
    """Any timm architecture as the trunk of a multi-task network.

    The stages are timm's own ``feature_info`` entries (ResNet-18 has 5: stem, layer1..4). The
    first of them run once, as ``trunk``; each task has its own copy of the rest,
    ``tails.<task>``, up to the pooled features that enter timm's classifier. Parameters keep
    timm's dotted names under ``trunk.`` and ``tails.<task>.``. The cut model is compared with the
    uncut one when it is built, in evaluation and in training mode.

    Tasks may share different numbers of stages: ``shared_stages=dict(a=2, b=4, c=4)`` runs the
    first two for all, and the next two once for b and c. ``trunk`` holds all that more than one
    task uses, so stages 1 to 4; ``tails.a`` holds a's own stages 3 and 5 and so on.

    Attributes:
        num_features (int): width of each task's hidden features.
        img_size (tuple[int, int]): height and width of the pictures.
        timm_options (dict): what ``timm.create_model`` takes to make the uncut model.
        stages (tuple[str, ...]): the modules that end timm's stages.
        shared_stages (dict[str, int]): by task, the stages that it has in ``trunk``.
        fully_shared (frozenset[str]): the tasks whose hidden features are one and the same tensor.

    Args:
        model_name (str): any name of ``timm.list_models()``, with or without a pretrained tag;
            ``local-dir:FOLDER`` or ``hf-hub:OWNER/NAME`` as of ``timm.create_model``.
        pretrained (bool): load timm's weights (needs timm's hub, or timm's cache).
        checkpoint_path (str, optional): load the uncut model's weights from this file instead.
        shared_stages (int | str | dict): 0 shares nothing (single-task learning), k the first k
            stages, a negative number all but the last -k, 'all' (or the number of stages)
            everything but the heads. A dict gives one for each task; what only one task would
            use of ``trunk`` is its own.
        tasks (Sequence[str]): names of the tasks; ``MultiTaskModel`` passes its heads' names.
        img_size (int | tuple[int, int], optional): height and width of the pictures. Models that
            are built for one size (most transformers) are built for this one; others take any.
            Default: the size of timm's own configuration.
        in_chans (int): channels of ``x``; ``MultiTaskModel`` refuses all but 3, which grey
            pictures have too when they are read.
        taps (Sequence[str]): dotted names of modules inside the tails whose pooled outputs
            :meth:`features` also gives; ``MultiTaskModel`` passes its neck's levels.
        frozen_stages (int | str): stages that are not trained, counted as in ``shared_stages``;
            they stay in evaluation mode (batch norm, dropout) when the rest trains.
        grad_checkpointing (bool): in training, compute the blocks that timm would again in the
            backward pass instead of keeping their activations; same results, batch norm's
            running statistics included.
        channels_last (bool): lay out weights and pictures as (N, H, W, C) in memory.
        **kwargs: further arguments of ``timm.create_model`` (``drop_rate``, ``drop_path_rate``,
            ``global_pool``, ...).

    Raises:
        ConfigError: unknown name (with timm's close matches), a stage that does not exist (with
            the valid ones), weights that cannot be had, a model that cannot be cut there.
    """

    def __init__(
        self,
        model_name: str,
        pretrained: bool = False,
        checkpoint_path: str | None = None,
        shared_stages: int | str | Mapping[str, int | str] = -1,
        tasks: Sequence[str] = (),
        img_size: int | Sequence[int] | None = None,
        in_chans: int = 3,
        taps: Sequence[str] = (),
        frozen_stages: int | str = 0,
        grad_checkpointing: bool = False,
        channels_last: bool = False,
        **kwargs,
    ) -> None:
        super().__init__()
        if not tasks:
            raise ConfigError(f"{_WHERE}.tasks: expected at least one task name")
        if len(set(tasks)) < len(tasks):
            raise ConfigError(f"{_WHERE}.tasks: a task is named twice in {list(tasks)}")
        self.model_name = model_name
        self.tasks = tuple(tasks)
        self.taps = tuple(taps)
        self.channels_last = channels_last
        model, self.img_size, self.timm_options = create(
            model_name, pretrained, checkpoint_path, img_size, in_chans, kwargs
        )
        self.mean = tuple(model.pretrained_cfg.get("mean", (0.485, 0.456, 0.406)))
        self.std = tuple(model.pretrained_cfg.get("std", (0.229, 0.224, 0.225)))
        self.stages = stage_names(model)
        self._everything = max(len(self.stages), 1)
        self.shared_stages = self._shared_by_task(shared_stages)
        self.fully_shared = frozenset(
            task for task, count in self.shared_stages.items() if count == self._everything
        )
        self._check_taps(model)
        self._nhwc = getattr(model, "output_fmt", "NCHW") == "NHWC"
        self._positions: dict[str, tuple[int, int]] = {}

        probe = _probe(model, in_chans, self.img_size)
        self.num_features, expected = _hidden(model, probe, model_name)
        frozen = self._freeze(model, frozen_stages, probe)
        self._frozen = frozenset(frozen)
        self._in_place: dict[int, set[int]] = {}
        if self._cut(model, tuple(frozen.values()), grad_checkpointing, probe):
            self._compare(model, probe, expected, tuple(frozen.values()))
        if channels_last:
            self.to(memory_format=torch.channels_last)
        self.train()
        self.tap_features = self._probe_taps(probe) if self.taps else {}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Hidden features of each task.

        Args:
            x (Tensor): (N, in_chans, H, W) normalised pictures.

        Returns:
            dict[str, Tensor]: (N, num_features) by task, what enters the last layer.
        """
        return self.features(x)[0]

    def features(self, x: Tensor) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
        """Hidden features of each task, and what ``taps`` name.

        Args:
            x (Tensor): (N, in_chans, H, W) normalised pictures.

        Returns:
            As :meth:`forward`, and by tap and task the mean over positions, (N, d).
        """
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        shared = self._shared(x)
        hidden: dict[str, Tensor] = {}
        tapped: dict[str, dict[str, Tensor]] = {tap: {} for tap in self.taps}
        for task, tail in self.tails.items():
            level = self._levels[task]
            if task in self.fully_shared:
                hidden[task] = shared[level][0]
                continue
            inputs = (x,) if level is None else self._own(shared[level], level)
            hidden[task], *values = _run_tail(tail, self.taps, inputs)
            for tap, value in zip(self.taps, values, strict=True):
                tapped[tap][task] = self._pool(value, tap)
        return hidden, tapped

    def path(self, task: str, x: Tensor) -> Tensor:
        """Hidden features of one task alone, without what only others need.

        Args:
            task (str): one of ``tasks``.
            x (Tensor): (N, in_chans, H, W) normalised pictures.

        Returns:
            Tensor: (N, num_features); with the random numbers that the uncut model would use.
        """
        level = self._levels[task]
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        if level is None:
            return _run_tail(self.tails[task], (), (x,))[0]
        if not isinstance(self.trunk, CutPart):
            return self.trunk(x)
        values = self.trunk.results((x,), level + 1)[level]
        return values[0] if task in self.fully_shared else self.tails[task](*values)[0][0]

    def compile_parts(self, **options) -> None:
        """Compile the trunk and each tail, each as one graph for either mode.

        Args:
            **options: of ``torch.compile``.
        """
        for part in (self.trunk, *self.tails.values()):
            if not isinstance(part, nn.Identity):
                part.compile(**options)

    def to_timm(self, task: str) -> nn.Module:
        """The uncut timm model with the weights of the trunk and of one task's tail.

        Args:
            task (str): one of ``tasks``.

        Returns:
            nn.Module: without classifier (``num_classes=0``), in eval mode, on the CPU; gives the
            task's hidden features.

        Raises:
            ConfigError: no such task, or no uncut model gives the same: trunk and tail both use a
                weight, which has come to differ.
        """
        if task not in self.tasks:
            raise ConfigError(f"task: expected one of {', '.join(self.tasks)}, got {task!r}")
        model = timm.create_model(self.model_name, **self.timm_options).eval()
        state = model.state_dict()
        for part in (self.trunk, self.tails[task]):
            own = part.state_dict()
            state.update({name: own[name].detach().cpu() for name in state if name in own})
        model.load_state_dict(state)
        twin = copy.deepcopy(self).cpu().eval()
        probe = _probe(model, self.timm_options["in_chans"], self.img_size)
        with torch.no_grad():
            difference = relative_difference(twin.path(task, probe), model(probe))
        if not difference <= _TOLERANCE:
            raise ConfigError(
                f"{self.model_name}: no uncut model gives what {task} gives (the closest is off by "
                f"{difference:.1e}): some weights are used before and after the cut, and differ"
            )
        return model

    def train(self, mode: bool = True) -> TimmTrunk:
        """Frozen stages stay in evaluation mode."""
        super().train(mode)
        if self._frozen:
            for part in (self.trunk, *self.tails.values()):
                for name, module in part.named_modules():
                    if name in self._frozen:
                        module.training = False
        return self

    def _shared(self, x: Tensor) -> tuple[tuple, ...]:
        if isinstance(self.trunk, CutPart):
            return self.trunk(x)
        return ((self.trunk(x),),) if self.fully_shared else ()

    def _own(self, values: tuple, level: int) -> tuple:
        """Copies, where a tail would change in place what others still need."""
        changed = self._in_place.get(level)
        if not changed:
            return values
        return tuple(v.clone() if i in changed else v for i, v in enumerate(values))

    def _pool(self, value, tap: str) -> Tensor:
        if torch.is_tensor(value) and value.ndim in (2, 3, 4):
            if value.ndim == 2:
                return value
            if value.ndim == 3:
                return value.mean(1)
            return value.mean(self._positions[tap])
        shape = tuple(value.shape) if torch.is_tensor(value) else type(value).__name__
        raise ConfigError(
            f"model.neck.levels: {tap!r} gives {shape} in {self.model_name}, where (N, d), "
            "(N, L, d) or maps (N, d, H, W) are expected"
        )

    def _check_tapped(self, tap: str, value, rows: int) -> None:
        """Find the dimensions of positions: inside a model maps may be laid out either way."""
        if not torch.is_tensor(value) or value.ndim not in (2, 3, 4):
            return  # which pooling tells
        if len(value) != rows:
            raise ConfigError(
                f"model.neck.levels: {tap!r} gives {len(value)} rows for {rows} pictures in "
                f"{self.model_name} (windows of them?), where one for each is expected"
            )
        if value.ndim == 4:
            layouts = ((1, 2), (2, 3)) if self._nhwc else ((2, 3), (1, 2))
            height, width = self.img_size
            fitting = [
                (i, j)
                for i, j in layouts
                if abs(value.shape[i] * width - value.shape[j] * height) <= max(height, width)
            ]
            if not fitting:
                raise ConfigError(
                    f"model.neck.levels: {tap!r} gives {tuple(value.shape)} in "
                    f"{self.model_name}, where maps (N, d, H, W) or (N, H, W, d) are expected"
                )
            self._positions[tap] = fitting[0]

    def _shared_by_task(self, shared: int | str | Mapping) -> dict[str, int]:
        if not isinstance(shared, Mapping):
            return dict.fromkeys(self.tasks, self._count(shared, "shared_stages"))
        if set(shared) != set(self.tasks):
            raise ConfigError(
                f"{_WHERE}.shared_stages: expected a number for each of {', '.join(self.tasks)}, "
                f"got numbers for {', '.join(map(str, shared)) or 'none'}"
            )
        counts = {task: self._count(shared[task], f"shared_stages.{task}") for task in self.tasks}
        used_twice = sorted(counts.values())[-2:][0]
        return {task: min(count, used_twice) for task, count in counts.items()}

    def _count(self, stages: int | str, key: str) -> int:
        """A number of stages from the front; with the last one comes all that follows it."""
        count = len(self.stages)
        if stages == "all":
            return self._everything
        valid = isinstance(stages, int) and not isinstance(stages, bool)
        if not valid or not -count <= stages <= count:
            listing = ", ".join(f"{i + 1} ({name})" for i, name in enumerate(self.stages))
            raise ConfigError(
                f"{_WHERE}.{key}: expected 0, 'all', a stage of {self.model_name} [{listing}] or "
                f"its negative, got {stages!r}"
            )
        return stages if stages >= 0 else count + stages

    def _check_taps(self, model: nn.Module) -> None:
        names = dict(model.named_modules())
        for tap in self.taps:
            if tap not in names:
                raise ConfigError(
                    "model.neck.levels: expected 'hidden', 'output' or a module of "
                    f"{self.model_name}, got {tap!r}; its stages are {', '.join(self.stages)}"
                )
            if self.fully_shared:
                raise ConfigError(
                    f"model.neck.levels: {tap!r} is no module of a task's own, since "
                    f"{_WHERE}.shared_stages shares everything of "
                    f"{', '.join(t for t in self.tasks if t in self.fully_shared)}"
                )

    def _freeze(self, model: nn.Module, stages: int | str, probe: Tensor) -> dict[str, nn.Module]:
        count = self._count(stages, "frozen_stages")
        if count == 0:
            return {}
        return freeze(model, None if count == self._everything else self.stages[count - 1], probe)

    def _cut(
        self,
        model: nn.Module,
        frozen: tuple[nn.Module, ...],
        checkpointing: bool,
        probe: Tensor,
    ) -> bool:
        """Make trunk and tails; whether there is something to compare with the uncut model."""
        counts = sorted({c for c in self.shared_stages.values() if 0 < c < self._everything})
        levels = {count: level for level, count in enumerate([*counts, self._everything])}
        self._levels = {task: levels.get(count) for task, count in self.shared_stages.items()}
        boundaries = [self.stages[count - 1] for count in counts]
        whole = bool(self.fully_shared)
        options = dict(frozen=frozen, recompute=self.stages if checkpointing else None)
        own: nn.Module = model
        try:
            if checkpointing:
                own = cut(model, (), self.taps, whole=True, **options)[0]
            if counts:
                self.trunk, tails = cut(model, boundaries, self.taps, whole=whole, **options)
            else:
                self.trunk, tails = own if whole else nn.Identity(), []
        except CannotTrace as error:
            if checkpointing and counts:
                raise ConfigError(
                    f"{_WHERE}.grad_checkpointing: {self.model_name} cannot be traced ({error}); "
                    "leave it out, or share nothing (0) or everything ('all')"
                ) from error
            if checkpointing:
                return self._with_timms_checkpointing(model)
            try:
                self.trunk, tails = cut_by_replay(model, boundaries, self.taps, probe, whole=whole)
            except Exception as other:  # runs the model's code
                reason = f"{error}; by replay: {first_line(other)}"
                raise self._uncuttable(boundaries, reason) from other

        self._make_tails(own, tails)
        return bool(counts) or checkpointing

    def _with_timms_checkpointing(self, model: nn.Module) -> bool:
        """A model in one piece, which is not traced."""
        try:
            model.set_grad_checkpointing(True)
        except (AttributeError, AssertionError, NotImplementedError) as error:
            raise ConfigError(
                f"{_WHERE}.grad_checkpointing: {self.model_name} has none ({first_line(error)})"
            ) from error
        self.trunk = model if self.fully_shared else nn.Identity()
        self._make_tails(model, [])
        return False

    def _make_tails(self, own: nn.Module, tails: Sequence[nn.Module]) -> None:
        """Each task's copy of what it does not share."""
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
    def _compare(
        self,
        model: nn.Module,
        probe: Tensor,
        expected: Tensor,
        frozen: tuple[nn.Module, ...],
    ) -> None:
        """Same output as the uncut model from each part, with the same random numbers."""
        kept = {id(b): (b, b.clone()) for b in (*model.buffers(), *self.buffers())}
        paths = {level: task for task, level in reversed(self._levels.items())}
        for mode in (False, True):
            if mode:
                model.train()
                for module in frozen:
                    module.training = False
                expected = _seeded(model, probe)
            self.train(mode)
            for level, task in paths.items():
                boundary = "input" if level is None else (*self._boundaries(), "end")[level]
                try:
                    found = _seeded(lambda x, task=task: self._path(task, x), probe)
                except Exception as error:  # the traced model's own code may raise anything
                    raise self._uncuttable(
                        [boundary], f"the parts fail: {first_line(error)}"
                    ) from error
                difference = relative_difference(found, expected)
                if not difference <= _TOLERANCE:
                    name = "training" if mode else "evaluation"
                    raise self._uncuttable(
                        [boundary],
                        f"cut and uncut differ by {difference:.1e} (relative) in {name} mode",
                    )
        for buffer, value in kept.values():
            buffer.copy_(value)

    def _boundaries(self) -> list[str]:
        counts = {c for c in self.shared_stages.values() if 0 < c < self._everything}
        return [self.stages[count - 1] for count in sorted(counts)]

    def _path(self, task: str, x: Tensor) -> Tensor:
        """Hidden features of one task alone; notes what changes in place on the way."""
        level, tail = self._levels[task], self.tails[task]
        inputs: tuple = (x,)
        if level is not None and not isinstance(self.trunk, CutPart):
            return self.trunk(x)
        if level is not None:
            results = self.trunk.checked_results((x,), level + 1)
            if task in self.fully_shared:
                return results[level][0]
            inputs = results[level]
        if not isinstance(tail, CutPart):
            return tail(x)
        before = tensor_versions(inputs)
        ((out, *_),) = tail.checked_results(inputs, 1)
        after = tensor_versions(inputs)
        others = [other for other in self.tasks if other != task]
        if any(self._levels[o] is not None and self._levels[o] >= (level or 0) for o in others):
            changed = {i for i, version in enumerate(after) if version != before[i]}
            self._in_place.setdefault(level or 0, set()).update(changed)
        return out

    @torch.no_grad()
    def _probe_taps(self, probe: Tensor) -> dict[str, int]:
        self.eval()
        for task in self.tasks[:1]:
            level = self._levels[task]
            x = probe.contiguous(memory_format=torch.channels_last) if self.channels_last else probe
            inputs = (x,) if level is None else self._own(self._shared(x)[level], level)
            values = _run_tail(self.tails[task], self.taps, inputs)[1:]
            for tap, value in zip(self.taps, values, strict=True):
                self._check_tapped(tap, value, len(probe))
        tapped = self.features(probe)[1]
        self.train()
        return {tap: next(iter(values.values())).shape[1] for tap, values in tapped.items()}

    def _uncuttable(self, boundaries: Sequence[str], reason: str) -> ConfigError:
        where = (
            f"after {' and '.join(map(repr, boundaries))}" if boundaries else "for checkpointing"
        )
        return ConfigError(
            f"{_WHERE}: {self.model_name} cannot be cut {where} ({reason}); "
            "shared_stages=0 and shared_stages='all' work with any model"
        )

    def extra_repr(self) -> str:
        shared = set(self.shared_stages.values())
        shown = shared.pop() if len(shared) == 1 else self.shared_stages
        return f"{self.model_name}, shared_stages={shown} of {len(self.stages)}"


def _run_tail(tail: nn.Module, taps: Sequence[str], inputs: tuple) -> tuple:
    """What a tail returns, and what its modules ``taps`` return (when last called)."""
    if isinstance(tail, CutPart):
        return tail(*inputs)[0]
    values = {}
    handles = [
        tail.get_submodule(tap).register_forward_hook(
            lambda _, __, out, tap=tap: values.__setitem__(tap, out)
        )
        for tap in taps
    ]
    try:
        out = tail(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return out, *(values[tap] for tap in taps)


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected value."""
    return float((found - expected).detach().abs().max() / expected.abs().max().clamp(min=1e-6))


def _tensors(module: nn.Module) -> set[int]:
    return {id(t) for t in (*module.parameters(), *module.buffers())}


def _probe(model: nn.Module, in_chans: int, size: tuple[int, int]) -> Tensor:
    """Random pictures; two where batch norm cannot do with one."""
    norms = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2 if norms else 1, in_chans, *size, generator=generator)


def _seeded(run, x: Tensor) -> Tensor:
    state = torch.random.get_rng_state()
    torch.default_generator.manual_seed(0)
    try:
        return run(x)
    finally:
        torch.random.set_rng_state(state)


def _hidden(model: nn.Module, probe: Tensor, model_name: str) -> tuple[int, Tensor]:
    """Width of the pooled features, and the probe's."""
    model.eval()
    try:
        with torch.no_grad():
            features = _seeded(model, probe)
    except Exception as error:  # a model's own shape errors are of any type
        raise ConfigError(
            f"{_WHERE}: {model_name} does not take pictures of {tuple(probe.shape[1:])}: "
            f"{first_line(error)}"
        ) from error
    model.train()
    if not torch.is_tensor(features) or features.ndim != 2:
        shape = tuple(features.shape) if torch.is_tensor(features) else type(features).__name__
        raise ConfigError(
            f"{_WHERE}: {model_name} gives {shape} where pooled features (N, d) are expected; "
            "set global_pool"
        )
    return features.shape[1], features
