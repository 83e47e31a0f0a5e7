"""Any registered backbone as a trunk that is shared whole."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from trn_plugin.checkpoints import load_model_state, load_weights_file
from trn_plugin.config_checks import config_errors
from trn_plugin.errors import ConfigError, printable
from trn_plugin.models._timm import sides_of
from trn_plugin.models._uncut import output_for, probing_pictures, shape_of
from trn_plugin.models.trunk import Features, TimmTrunk
from trn_plugin.registry import MODELS

__all__ = ["WholeTrunk", "build_trunk"]

_WHERE = "model.backbone"


def build_trunk(
    config: Mapping, tasks: Sequence[str], taps: Sequence[str], maps: Sequence[str]
) -> TimmTrunk | WholeTrunk:
    """The trunk of a config: ``TimmTrunk``, or any other registered backbone, shared whole.

    ``tasks``, ``taps`` and ``maps`` are those of ``TimmTrunk``.

    Raises:
        ConfigError: the config asks for something that the trunk does not support.
    """
    kind = config.get("type")
    scope = kind.rpartition(".")[0] if isinstance(kind, str) else ""
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    config = {"_scope_": scope or MODELS.scope, **config}
    if kind is None or (inspect.isclass(kind) and issubclass(kind, TimmTrunk)):
        return MODELS.build({**config, "tasks": tasks, "taps": taps, "maps": maps})
    name = kind.__name__
    own = {key: config.pop(key, None) for key in ("shared_stages", "checkpoint_path")}
    if own["shared_stages"] not in (None, "all"):
        raise ConfigError(
            f"{_WHERE}.shared_stages: {name} is not a TimmTrunk and is shared whole; expected "
            f"'all', found {printable(repr(own['shared_stages']))}"
        )
    if taps:
        raise ConfigError(
            f"model.neck.levels: {taps[0]!r} is not a separate module for each task, since {name} "
            "is not a TimmTrunk and is shared whole"
        )
    size = config.get("img_size", 224)
    taken = inspect.signature(kind).parameters
    for key in ("img_size", "pretrained"):
        if key not in taken and (key == "img_size" or not config.get(key)):
            config.pop(key, None)
    if "Pretrained" in str(config.get("init_cfg")):
        raise ConfigError(
            f"{_WHERE}.init_cfg: not used to load weights, as MMEngine would execute code in the "
            "file; give a local file as checkpoint_path"
        )
    with config_errors(_WHERE):
        trunk = MODELS.build(config)
    return WholeTrunk(trunk, tasks, maps, size, own["checkpoint_path"])


class WholeTrunk(nn.Module):
    """A backbone that all tasks share whole, for ``MultiTaskModel``.

    The backbone returns a map (N, C, h, w), a vector (N, C), or a tuple that ends in one. The
    hidden features are the vector, or the mean of the map over positions.

    Args:
        trunk (nn.Module): the backbone.
        tasks (Sequence[str]): names of the tasks.
        maps (Sequence[str]): the tasks whose head takes the map before pooling.
        img_size (int | Sequence[int]): height and width of the pictures.
        checkpoint_path (str, optional): load the backbone's weights from this file; of a whole
            model's file, those under ``backbone.``.

    Attributes:
        num_features (int): width of the hidden features.
        map_features (int): channels of the map; 0 if there is none.

    Raises:
        ConfigError: the backbone gives neither a map nor a vector, or a task needs the map and
            it gives a vector.
    """

    def __init__(
        self,
        trunk: nn.Module,
        tasks: Sequence[str],
        maps: Sequence[str] = (),
        img_size: int | Sequence[int] = 224,
        checkpoint_path: str | None = None,
    ) -> None:
        super().__init__()
        self.model_name = type(trunk).__name__
        self.tasks, self.maps = tuple(tasks), tuple(maps)
        self.img_size = sides_of(img_size)
        self.in_chans = 3
        self.mean, self.std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
        self.fully_shared = frozenset(tasks)
        self.tap_features: dict[str, int] = {}
        if hasattr(trunk, "init_weights"):
            trunk.init_weights()
        self.trunk = trunk
        if checkpoint_path is not None:
            state = load_weights_file(checkpoint_path)
            mark = "backbone."
            own = {key[len(mark) :]: v for key, v in state.items() if key.startswith(mark)}
            load_model_state(trunk, own or state, checkpoint_path)
        value = self._probe()
        self.num_features = value.shape[1]
        self.map_features = value.shape[1] if value.ndim == 4 else 0

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) normalised pictures -> hidden features (N, num_features) by task."""
        return self.features(x).hidden

    def features(self, x: Tensor) -> Features:
        """Hidden features of each task, and the map for the tasks ``maps``."""
        value = self._last(self.trunk(x))
        hidden = value.mean((2, 3)) if value.ndim == 4 else value
        return Features(dict.fromkeys(self.tasks, hidden), {}, dict.fromkeys(self.maps, value))

    def compile_parts(self, **options) -> None:
        """Compile the backbone; ``options`` are those of ``torch.compile``."""
        self.trunk.compile(**options)

    def to_timm(self, task: str) -> nn.Module:
        """Raise a ConfigError: the backbone is not from timm."""
        raise ConfigError(f"{self.model_name} is not a timm model, and cannot become one")

    @staticmethod
    def _last(out):
        return out[-1] if isinstance(out, (tuple, list)) and out else out

    def _probe(self) -> Tensor:
        """Output for random pictures."""
        probe = probing_pictures(self.trunk, 3, self.img_size)
        value = self._last(output_for(self.trunk, probe, self.model_name))
        ranks = (4,) if self.maps else (2, 4)
        if not torch.is_tensor(value) or value.ndim not in ranks or len(value) != len(probe):
            expected = "a map (N, C, h, w)" if self.maps else "a map (N, C, h, w) or vector (N, C)"
            reason = f", which the head of {self.maps[0]} takes" if self.maps else ""
            raise ConfigError(
                f"{_WHERE}: {self.model_name} gives {shape_of(value)}; expected {expected}, or a "
                f"tuple that ends in one{reason}"
            )
        return value
