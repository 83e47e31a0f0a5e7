"""A timm backbone, shared by the tasks up to a stage, with a copy of the rest for each task."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence

import timm
import torch
from torch import Tensor, nn

from trn_plugin.engine.checkpoint import load_weights_file
from trn_plugin.errors import ConfigError, first_line
from trn_plugin.models._cut import CannotTrace, cut
from trn_plugin.registry import MODELS

__all__ = ["TimmTrunk"]

_WHERE = "model.backbone"


@MODELS.register_module()
class TimmTrunk(nn.Module):
    """Any timm architecture as the trunk of a multi-task network.

    The stages are timm's own ``feature_info`` entries (ResNet-18 has 5: stem, layer1..4). The
    first of them run once, as ``trunk``; each task has its own copy of the rest,
    ``tails.<task>``, up to the pooled features that enter timm's classifier. Parameters keep
    timm's dotted names under ``trunk.`` and ``tails.<task>.``. The cut model is compared with the
    uncut one when it is built, in evaluation and in training mode.

    Attributes:
        num_features (int): width of each task's hidden features.
        img_size (tuple[int, int]): height and width of the pictures.
        stages (tuple[str, ...]): the modules that end timm's stages.
        shares_everything (bool): whether all tasks have the same features.
        fully_shared (frozenset[str]): the tasks whose hidden features are one and the same tensor.

    Args:
        model_name (str): any name of ``timm.list_models()``, with or without a pretrained tag.
        pretrained (bool): load timm's weights (needs timm's hub, or timm's cache).
        checkpoint_path (str, optional): load the uncut model's weights from this file instead.
        shared_stages (int | str): 0 shares nothing (single-task learning), k the first k stages,
            a negative number all but the last -k, 'all' everything but the heads.
        tasks (Sequence[str]): names of the tasks; ``MultiTaskModel`` passes its heads' names.
        img_size (int | tuple[int, int], optional): height and width of the pictures. Models that
            are built for one size (most transformers) are built for this one; others take any.
            Default: the size of timm's own configuration.
        in_chans (int): channels of the pictures.
        taps (Sequence[str]): dotted names of modules inside the tails whose pooled outputs
            :meth:`features` also gives; ``MultiTaskModel`` passes its neck's levels.
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
        shared_stages: int | str = -1,
        tasks: Sequence[str] = (),
        img_size: int | Sequence[int] | None = None,
        in_chans: int = 3,
        taps: Sequence[str] = (),
        **kwargs,
    ) -> None:
        super().__init__()
        if not tasks:
            raise ConfigError(f"{_WHERE}.tasks: expected at least one task name")
        self.model_name = model_name
        self.tasks = tuple(tasks)
        self.taps = tuple(taps)
        model, self.img_size = _create(
            model_name, pretrained, checkpoint_path, img_size, in_chans, kwargs
        )
        self.mean = tuple(model.pretrained_cfg.get("mean", (0.485, 0.456, 0.406)))
        self.std = tuple(model.pretrained_cfg.get("std", (0.229, 0.224, 0.225)))
        self.stages = _stage_names(model)
        self.shared_stages = _resolve(shared_stages, self.stages, model_name)
        self.shares_everything = shared_stages == "all" or (
            self.shared_stages == len(self.stages) > 0
        )
        self.fully_shared = frozenset(self.tasks if self.shares_everything else ())
        probe = torch.rand(2, in_chans, *self.img_size, generator=torch.Generator().manual_seed(0))
        self._copies_shared = False
        names = dict(model.named_modules())
        for tap in self.taps:
            if tap not in names:
                raise ConfigError(
                    f"model.neck.levels: expected 'hidden', 'output' or a module of {model_name}, "
                    f"got {tap!r}; its stages are {', '.join(self.stages)}"
                )
        self.num_features = _probe_width(model, probe, model_name)

        if self.shares_everything:
            self.trunk = model
            self.tails = nn.ModuleDict({task: nn.Identity() for task in self.tasks})
        elif self.shared_stages == 0:
            self.trunk = nn.Identity()
            self.tails = nn.ModuleDict({task: copy.deepcopy(model) for task in self.tasks})
        else:
            boundary = self.stages[self.shared_stages - 1]
            uncut = copy.deepcopy(model)
            try:
                self.trunk, tail = cut(model, boundary, self.taps)
            except CannotTrace as error:
                raise self._uncuttable(boundary, str(error)) from error
            tails = [tail, *(copy.deepcopy(tail) for _ in self.tasks[1:])]
            self.tails = nn.ModuleDict(dict(zip(self.tasks, tails, strict=True)))
            self._check_against(uncut, probe, boundary)
        self._channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
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
        tapped: dict[str, dict[str, Tensor]] = {tap: {} for tap in self.taps}
        if self.shares_everything:
            return dict.fromkeys(self.tasks, self.trunk(x)), tapped
        hidden = {}
        shared = None if self.shared_stages == 0 else self.trunk(x)
        for task, tail in self.tails.items():
            if shared is None:
                hidden[task], *values = _with_taps(tail, self.taps, x)
            else:
                hidden[task], *values = tail(*map(self._own, shared))
            for tap, value in zip(self.taps, values, strict=True):
                tapped[tap][task] = self._pool(value, tap)
        return hidden, tapped

    def _own(self, value):
        """A copy, where the tails would change the shared values in place."""
        return value.clone() if self._copies_shared and torch.is_tensor(value) else value

    def _pool(self, value, tap: str) -> Tensor:
        if torch.is_tensor(value) and value.ndim in (2, 3, 4):
            if value.ndim == 2:
                return value
            if value.ndim == 3:
                return value.mean(1)
            return value.mean((1, 2) if self._channels_last else (2, 3))
        shape = tuple(value.shape) if torch.is_tensor(value) else type(value).__name__
        raise ConfigError(
            f"model.neck.levels: {tap!r} gives {shape} in {self.model_name}, where (N, d), "
            "(N, L, d) or maps (N, d, H, W) are expected"
        )

    def _probe_taps(self, probe: Tensor) -> dict[str, int]:
        if self.shares_everything:
            raise ConfigError(
                f"model.neck.levels: {self.taps[0]!r} is no module of a task's own, since "
                f"{_WHERE}.shared_stages shares everything"
            )
        self.eval()
        with torch.no_grad():
            tapped = self.features(probe)[1]
        self.train()
        return {tap: next(iter(values.values())).shape[1] for tap, values in tapped.items()}

    def _check_against(self, uncut: nn.Module, probe: Tensor, boundary: str) -> None:
        """Same output as the uncut model for the first task's path, same random numbers."""
        task = self.tasks[0]
        parts = (self.trunk, self.tails[task])

        def cut_forward(x):
            shared = parts[0](x)
            tensors = [value for value in shared if torch.is_tensor(value)]
            versions = [value._version for value in tensors]
            features = parts[1](*map(self._own, shared))[0]
            if versions != [value._version for value in tensors]:
                self._copies_shared = True
            return features

        state = [{k: v.clone() for k, v in part.state_dict().items()} for part in parts]
        for mode in (False, True):
            outputs = []
            for run, modules in (
                (uncut, (uncut,)),
                (cut_forward, parts),
            ):
                with torch.random.fork_rng(devices=[]), torch.no_grad():
                    torch.manual_seed(0)
                    for module in modules:
                        module.train(mode)
                    try:
                        outputs.append(run(probe))
                    except Exception as error:  # the traced model's own code may raise anything
                        raise self._uncuttable(
                            boundary, f"the parts fail: {first_line(error)}"
                        ) from error
            scale = outputs[0].abs().max().clamp(min=1e-6)
            difference = float((outputs[0] - outputs[1]).abs().max() / scale)
            if not difference <= 1e-5:
                name = "training" if mode else "evaluation"
                raise self._uncuttable(
                    boundary, f"cut and uncut differ by {difference:.1e} (relative) in {name} mode"
                )
        for part, values in zip(parts, state, strict=True):
            part.load_state_dict(values)
        self.train()

    def _uncuttable(self, boundary: str, reason: str) -> ConfigError:
        return ConfigError(
            f"{_WHERE}: {self.model_name} cannot be cut after {boundary!r} ({reason}); "
            "shared_stages=0 and shared_stages='all' work with any model"
        )

    def extra_repr(self) -> str:
        return f"{self.model_name}, shared_stages={self.shared_stages} of {len(self.stages)}"


def _with_taps(model: nn.Module, taps: Sequence[str], x: Tensor) -> tuple:
    """What an uncut model returns, and what its modules ``taps`` return (when last called)."""
    values = {}
    handles = [
        model.get_submodule(tap).register_forward_hook(
            lambda _, __, out, tap=tap: values.__setitem__(tap, out)
        )
        for tap in taps
    ]
    try:
        out = model(x)
    finally:
        for handle in handles:
            handle.remove()
    return out, *(values[tap] for tap in taps)


def _create(model_name, pretrained, checkpoint_path, img_size, in_chans, kwargs):
    if not timm.is_model(model_name):
        names = timm.list_models()
        close = difflib.get_close_matches(model_name.split(".")[0], names, n=5, cutoff=0.5)
        hint = ", ".join(close) if close else f"see timm.list_models(), {len(names)} names"
        raise ConfigError(
            f"{_WHERE}.model_name: timm knows no {model_name!r}; close matches: {hint}"
        )
    config = timm.get_pretrained_cfg(model_name)
    size = _pair(img_size) or tuple((config.input_size if config else (3, 224, 224))[1:])
    options = dict(kwargs, in_chans=in_chans, num_classes=0)
    if img_size is not None and config is not None and config.fixed_input_size:
        options["img_size"] = size
    if checkpoint_path is not None:
        return _with_weights(model_name, options, checkpoint_path), size
    try:
        model = timm.create_model(model_name, pretrained=pretrained, **options)
    except Exception as error:  # timm and its hub raise anything from OSError to AssertionError
        if pretrained:
            raise ConfigError(
                f"{_WHERE}.pretrained: no pretrained weights of {model_name} could be loaded "
                f"({first_line(error)}); give a local file as checkpoint_path, or set "
                "pretrained=False"
            ) from error
        raise ConfigError(
            f"{_WHERE}: timm cannot build {model_name}: {first_line(error)}"
        ) from error
    return model, size


def _with_weights(model_name: str, options: dict, path: str) -> nn.Module:
    """The model with weights from a file, converted by timm as its own are."""
    weights = load_weights_file(path)
    overlay = {"state_dict": weights}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = timm.create_model(model_name, **options).state_dict()
        torch.manual_seed(0)
        try:
            model = timm.create_model(
                model_name, pretrained=True, pretrained_cfg_overlay=overlay, **options
            )
        except Exception as error:  # timm's converters meet keys and shapes of another model
            raise ConfigError(
                f"{_WHERE}.checkpoint_path: {path} holds no weights of {model_name}: "
                f"{first_line(error)}"
            ) from error
    # timm only logs what it did not find
    missing = [k for k, v in model.state_dict().items() if v.ndim > 1 and torch.equal(v, fresh[k])]
    if missing:
        raise ConfigError(
            f"{_WHERE}.checkpoint_path: {path} holds no weights of {model_name}: it lacks "
            f"{', '.join(missing[:3])}{f' and {len(missing) - 3} more' if missing[3:] else ''}"
        )
    return model


def _pair(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if size is None or isinstance(size, int):
        return None if size is None else (size, size)
    if len(size) != 2:
        raise ConfigError(f"{_WHERE}.img_size: expected (height, width), got {tuple(size)}")
    return int(size[0]), int(size[1])


def _stage_names(model: nn.Module) -> tuple[str, ...]:
    """Modules that end timm's stages; some families' ``feature_info`` misnames their container."""
    info = getattr(model, "feature_info", None)
    names = [entry["module"] for entry in getattr(info, "info", info) or []]
    modules = dict(model.named_modules())
    for i, name in enumerate(names):
        for container in ("stages", "blocks", "layers"):
            other = f"{container}.{name.rpartition('.')[2]}"
            if name not in modules and len(modules.get(container, ())) == len(names):
                names[i] = name = other
    return tuple(names)


def _resolve(shared: int | str, stages: tuple[str, ...], model_name: str) -> int:
    count = len(stages)
    if shared == "all":
        return count
    valid = isinstance(shared, int) and not isinstance(shared, bool) and -count <= shared <= count
    if not valid:
        listing = ", ".join(f"{i + 1} ({name})" for i, name in enumerate(stages))
        raise ConfigError(
            f"{_WHERE}.shared_stages: expected 0, 'all', a stage of {model_name} [{listing}] or "
            f"its negative, got {shared!r}"
        )
    return shared if shared >= 0 else count + shared


def _probe_width(model: nn.Module, probe: Tensor, model_name: str) -> int:
    model.eval()
    try:
        with torch.no_grad():
            features = model(probe)
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
    return features.shape[1]
