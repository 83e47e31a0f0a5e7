"""A timm backbone, shared by the tasks up to a stage, with a copy of the rest for each task."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import timm
import torch
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
    """What a trunk gives of pictures.

    Attributes:
        hidden (dict[str, Tensor]): (N, d) pooled features by task.
        taps (dict[str, dict[str, Tensor]]): by tap and task the mean over positions, (N, d).
        maps (dict[str, Tensor]): (N, C, h, w) before pooling, of the tasks that want it.
    """

    hidden: dict[str, Tensor]
    taps: dict[str, dict[str, Tensor]]
    maps: dict[str, Tensor]


@MODELS.register_module()
class TimmTrunk(CutParts):
    """Any timm architecture as the trunk of a multi-task network.

    The stages are timm's own ``feature_info`` entries (ResNet-18 has 5: stem, layer1..4). The
    first of them run once, as ``trunk``; each task has its own copy of the rest,
    ``tails.<task>``, up to the pooled features that enter timm's classifier. Parameters keep
    timm's dotted names under ``trunk.`` and ``tails.<task>.``. The cut model is compared with the
    uncut one when it is built, in evaluation and in training mode.

    Tasks may share different numbers of stages: ``shared_stages=dict(a=2, b=4, c=4)`` runs the
    first two for all, and the next two once for b and c. ``trunk`` holds all that more than one
    task uses, so stages 1 to 4; ``tails.a`` holds a's own stages 3 and 5 and so on.

    A head may want the map before pooling, what timm's ``forward_features`` gives; tokens of a
    transformer are laid out as a map.

    Attributes:
        num_features (int): width of each task's hidden features.
        map_features (int): channels of the maps, where a task wants them.
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
        maps (Sequence[str]): the tasks that want the map before pooling; ``MultiTaskModel`` passes
            those whose head says ``input = "map"``.
        out_indices (Sequence[int], optional): for a model of another project, as its backbone:
            without tasks, give a tuple of the maps (N, C, h, w) after these stages, which timm
            counts from 0; (-1,) is the last.
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
        model, img_size, timm_options = create(
            model_name, pretrained, checkpoint_path, img_size, in_chans, kwargs
        )
        stages = Stages(model_name, stage_names(model))
        shared = stages.shared_by_task(shared_stages, tasks) if tasks else {}
        super().__init__(tasks, shared, stages, taps, bool(maps), channels_last)
        self.model_name, self.stages = model_name, stages.names
        self.img_size, self.in_chans, self.timm_options = img_size, in_chans, timm_options
        self.mean = tuple(model.pretrained_cfg.get("mean", (0.485, 0.456, 0.406)))
        self.std = tuple(model.pretrained_cfg.get("std", (0.229, 0.224, 0.225)))
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
        """Hidden features of each task, or with ``out_indices`` maps.

        Args:
            x (Tensor): (N, in_chans, H, W) normalised pictures.

        Returns:
            dict[str, Tensor]: (N, num_features) by task, pooled; what enters a linear last layer.
            With ``out_indices`` a tuple of maps (N, C, h, w).
        """
        if self.out_indices is None:
            return self.features(x).hidden
        options = dict(indices=self.out_indices, norm=True, intermediates_only=True)
        return tuple(self.trunk.forward_intermediates(self._laid_out(x), **options))

    def features(self, x: Tensor) -> Features:
        """Hidden features of each task, what ``taps`` name, and the maps of those that want them.

        Args:
            x (Tensor): (N, in_chans, H, W) normalised pictures.
        """
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
        """``trunk`` is timm's model as far as the last map."""
        try:
            self.out_indices = model.prune_intermediate_layers(list(indices), prune_head=True)
            if checkpointing:
                model.set_grad_checkpointing(True)
        except Exception as error:  # timm's models raise anything
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
