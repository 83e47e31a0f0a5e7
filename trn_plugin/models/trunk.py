"""A timm backbone whose first stages the tasks share, with a copy of the rest for each task."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from trn_plugin.errors import ConfigError, first_line
from trn_plugin.models._cut_trunk import CutParts
from trn_plugin.models._frozen import freeze
from trn_plugin.models._positions import layout_of_map
from trn_plugin.models._stages import Stages
from trn_plugin.models._taps import TapPools, check_taps
from trn_plugin.models._timm import create, stage_names
from trn_plugin.models._uncut import (
    TOLERANCE,
    hidden_features,
    probing_pictures,
    relative_difference,
)
from trn_plugin.registry import MODELS

__all__ = ["Features", "TimmTrunk"]

_WHERE = "model.backbone"


class Features(NamedTuple):
    """Outputs of a trunk."""

    hidden: dict[str, Tensor]  # (N, d) pooled features by task
    taps: dict[str, dict[str, Tensor]]  # (N, d) means over positions, by tap and task
    maps: dict[str, Tensor]  # (N, C, h, w) before pooling, by task, for the tasks ``maps``


@MODELS.register_module()
class TimmTrunk(CutParts):
    """Any timm architecture as the trunk of a multi-task network.

    The stages are timm's ``feature_info`` entries (ResNet-18 has 5: stem, layer1..4). The first
    ones run once, as ``trunk``. Each task has its own copy of the rest, ``tails.<task>``, up to
    the pooled features before timm's classifier. Parameters keep timm's dotted names under
    ``trunk.`` and ``tails.<task>.``. After building, the cut model is compared with the uncut one,
    in evaluation and in training mode.

    Tasks may share different numbers of stages: ``shared_stages=dict(a=2, b=4, c=4)`` runs stages
    1 and 2 once for all, and stages 3 and 4 once for b and c. ``trunk`` holds stages 1 to 4, which
    more than one task uses; ``tails.a`` holds a's own copies from stage 3 on.

    A head may take the map before pooling, from timm's ``forward_features``; a transformer's
    tokens are rearranged to a map.

    Attributes:
        num_features (int): width of each task's hidden features.
        map_features (int): channels of the maps; 0 if ``maps`` is empty.
        img_size (tuple[int, int]): height and width of the pictures.
        timm_options (dict): arguments of ``timm.create_model`` that build the uncut model.
        stages (tuple[str, ...]): last module of each of timm's stages.
        shared_stages (dict[str, int]): number of a task's stages in ``trunk``, by task.
        fully_shared (frozenset[str]): the tasks that share everything, including hidden features.

    Args:
        model_name (str): any name of ``timm.list_models()``, with or without a pretrained tag;
            ``local-dir:FOLDER`` or ``hf-hub:OWNER/NAME`` as of ``timm.create_model``.
        pretrained (bool): load timm's weights (needs timm's hub, or timm's cache).
        checkpoint_path (str, optional): load the uncut model's weights from this file instead.
        shared_stages (int | str | dict): 0 shares nothing (single-task learning), k > 0 the first
            k stages, -k all but the last k, 'all' (or the number of stages) everything but the
            heads. A dict gives one for each task; a stage that only one task has is not shared.
        tasks (Sequence[str]): names of the tasks; ``MultiTaskModel`` passes its heads' names.
        img_size (int | tuple[int, int], optional): height and width of the pictures; default: that
            of timm's configuration. Models of a fixed size (most transformers) are built for it.
        in_chans (int): channels of the pictures; ``MultiTaskModel`` accepts 3 only, as grey
            pictures are read as RGB.
        taps (Sequence[str]): dotted names of modules inside the tails whose pooled outputs
            :meth:`features` also returns; ``MultiTaskModel`` passes its neck's levels.
        maps (Sequence[str]): the tasks whose head takes the map before pooling; ``MultiTaskModel``
            passes those with ``input = "map"``.
        out_indices (Sequence[int], optional): for use as a backbone of another project's model,
            without tasks: return a tuple of the maps (N, C, h, w) after these stages, which timm
            counts from 0; (-1,) is the last.
        frozen_stages (int | str): stages that are not trained, counted as in ``shared_stages``;
            they stay in evaluation mode (batch norm, dropout) during training.
        grad_checkpointing (bool): recompute timm's blocks in the backward pass instead of storing
            their activations (stages, where timm defines no blocks to recompute); results are the
            same, including batch norm's running statistics.
        channels_last (bool): weights and pictures in channels-last memory format.
        **kwargs: further arguments of ``timm.create_model`` (``drop_rate``, ``drop_path_rate``,
            ``global_pool``, ...).

    Raises:
        ConfigError: unknown name (with timm's close matches), a stage that does not exist (with
            the valid ones), missing weights, or a model that cannot be cut there.
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
        maps: Sequence[str] = (),
        out_indices: Sequence[int] | None = None,
        frozen_stages: int | str = 0,
        grad_checkpointing: bool = False,
        channels_last: bool = False,
        **kwargs,
    ) -> None:
        if bool(tasks) == (out_indices is not None):
            raise ConfigError(
                f"{_WHERE}: expected tasks, which MultiTaskModel passes, or out_indices for "
                f"another model, found {'both' if tasks else 'neither'}"
            )
        if len(set(tasks)) < len(tasks):
            raise ConfigError(f"{_WHERE}.tasks: a task is named twice in {list(tasks)}")
        own = inspect.signature(TimmTrunk).parameters
        model, img_size, timm_options = create(
            model_name, pretrained, checkpoint_path, img_size, in_chans, kwargs, own
        )
        stages = Stages(model_name, stage_names(model))
        shared = stages.shared_by_task(shared_stages, tasks) if tasks else {}
        super().__init__(tasks, shared, stages, taps, bool(maps), channels_last)
        self.model_name, self.stages = model_name, stages.names
        self.img_size, self.in_chans, self.timm_options = img_size, in_chans, timm_options
        self.mean = tuple(model.pretrained_cfg.get("mean", IMAGENET_DEFAULT_MEAN))
        self.std = tuple(model.pretrained_cfg.get("std", IMAGENET_DEFAULT_STD))
        self.maps = tuple(maps)
        sharing_all = [task for task in self.tasks if task in self.fully_shared]
        check_taps(self.taps, model, model_name, self.stages, sharing_all)

        probe = probing_pictures(model, in_chans, self.img_size)
        self.num_features = hidden_features(model, probe, model_name).shape[1]
        frozen = self._freeze(model, frozen_stages, probe)
        self._frozen = frozenset(frozen)
        self.out_indices = None
        if out_indices is None:
            self._cut(model, tuple(frozen.values()), grad_checkpointing, probe)
        else:
            self._keep_maps(model, out_indices, grad_checkpointing)
        if channels_last:
            self.to(memory_format=torch.channels_last)
        self.tap_features: dict[str, int] = {}
        self.map_features = 0
        if taps or maps:
            self._probe(model, probe)
        self.train()

    def forward(self, x: Tensor) -> dict[str, Tensor] | tuple[Tensor, ...]:
        """Normalised pictures (N, in_chans, H, W) -> pooled features (N, num_features) by task.

        With ``out_indices``, a tuple of maps (N, C, h, w) instead.
        """
        if self.out_indices is None:
            return self.features(x).hidden
        options = dict(indices=self.out_indices, norm=True, intermediates_only=True)
        return tuple(self.trunk.forward_intermediates(self._laid_out(x), **options))

    def features(self, x: Tensor) -> Features:
        """Hidden features of each task, pooled outputs of ``taps``, and the maps of ``maps``."""
        paths = self.paths(x)
        tapped: dict[str, dict[str, Tensor]] = {tap: {} for tap in self.taps}
        for task, path in paths.items():
            for tap, value in zip(self.taps, path.taps, strict=task not in self.fully_shared):
                tapped[tap][task] = self._pools.pooled(tap, value)
        hidden = {task: path.hidden for task, path in paths.items()}
        maps = {task: self._layout.as_map(paths[task].map) for task in self.maps}
        return Features(hidden, tapped, maps)

    def to_timm(self, task: str) -> nn.Module:
        """The uncut timm model with the weights of the trunk and of one task's tail.

        It has no classifier (``num_classes=0``), is in eval mode and on the CPU, and returns the
        task's hidden features.

        Raises:
            ConfigError: no such task; or trunk and tail both have a copy of a weight, and training
                has made the copies differ.
        """
        if task not in self.tasks:
            raise ConfigError(f"task: expected one of {', '.join(self.tasks)}, found {task!r}")
        model = timm.create_model(self.model_name, **self.timm_options).eval()
        state = model.state_dict()
        for part in (self.trunk, self.tails[task]):
            own = part.state_dict()
            state.update({name: own[name].detach().cpu() for name in state if name in own})
        model.load_state_dict(state)
        twin = copy.deepcopy(self).cpu().eval()
        probe = probing_pictures(model, self.timm_options["in_chans"], self.img_size)
        with torch.no_grad():
            difference = relative_difference(twin.path(task, probe), model(probe))
        if not difference <= TOLERANCE:
            raise ConfigError(
                f"{self.model_name}: no uncut model has the features of {task} (the closest is "
                f"off by {difference:.1e}): trunk and tail have different copies of some weights"
            )
        return model

    def train(self, mode: bool = True) -> TimmTrunk:
        """As ``nn.Module.train``; frozen stages stay in evaluation mode."""
        super().train(mode)
        if self._frozen:
            for part in (self.trunk, *self.tails.values()):
                for name, module in part.named_modules():
                    if name in self._frozen:
                        module.training = False
        return self

    def _freeze(self, model: nn.Module, stages: int | str, probe: Tensor) -> dict[str, nn.Module]:
        count = self._stages.count(stages, "frozen_stages")
        if count == 0:
            return {}
        everything = count == self._stages.everything
        return freeze(model, None if everything else self.stages[count - 1], probe)

    @torch.no_grad()
    def _probe(self, model: nn.Module, probe: Tensor) -> None:
        """Find the layout and width of taps and maps."""
        self.eval()
        path = next(iter(self.paths(probe).values()))
        values = dict(zip(self.taps, path.taps, strict=False))
        nhwc = getattr(model, "output_fmt", "NCHW") == "NHWC"
        self._pools = TapPools(self.model_name, values, len(probe), self.img_size, nhwc)
        if self.maps:
            self._layout = layout_of_map(self.model_name, model.eval(), probe, path.map)
        features = self.features(probe)
        taps = {tap: next(iter(values.values())) for tap, values in features.taps.items()}
        self.tap_features = {tap: value.shape[1] for tap, value in taps.items()}
        self.map_features = features.maps[self.maps[0]].shape[1] if self.maps else 0

    def _keep_maps(self, model: nn.Module, indices: Sequence[int], checkpointing: bool) -> None:
        """Set ``trunk`` to timm's model, pruned after the last map."""
        try:
            self.out_indices = model.prune_intermediate_layers(list(indices), prune_head=True)
            if checkpointing:
                model.set_grad_checkpointing(True)
        except Exception as error:  # timm's models may raise anything
            listing = ", ".join(f"{i} ({name})" for i, name in enumerate(self.stages))
            raise ConfigError(
                f"{_WHERE}.out_indices: expected stages of {self.model_name} [{listing}], whose "
                f"maps timm gives, found {indices!r} ({first_line(error)})"
            ) from error
        self.trunk, self.tails = model, nn.ModuleDict()

    def extra_repr(self) -> str:
        shared = set(self.shared_stages.values())
        shown = shared.pop() if len(shared) == 1 else self.shared_stages
        return f"{self.model_name}, shared_stages={shown} of {len(self.stages)}"
