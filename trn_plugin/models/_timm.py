"""Building timm's models, with weights from its hub or from a file."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import timm
import torch
from torch import nn

from trn_plugin.engine.checkpoint import load_weights_file
from trn_plugin.errors import ConfigError, first_line

__all__ = ["create", "stage_names"]

_WHERE = "model.backbone"
_MISNAMED = {"stem": "act2", "stage1": "layer1"}  # in HRNet


def create(
    model_name: str,
    pretrained: bool,
    checkpoint_path: str | None,
    img_size: int | Sequence[int] | None,
    in_chans: int,
    kwargs: dict,
) -> tuple[nn.Module, tuple[int, int], dict]:
    """Build a model without its classifier; arguments as of ``TimmTrunk``.

    Returns:
        The model, the height and width of its pictures, and the arguments of
        ``timm.create_model`` that make such a model.

    Raises:
        ConfigError: unknown name, weights that cannot be had, arguments that timm refuses.
    """
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
        return _with_weights(model_name, options, checkpoint_path), size, options
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
    return model, size, options


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
    missing = [
        k
        for k, v in model.named_parameters()
        if v.ndim > 1
        and torch.equal(v, fresh[k])
        and not (k in weights and torch.equal(v, weights[k].to(v)))
    ]
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


def stage_names(model: nn.Module) -> tuple[str, ...]:
    """Modules that end timm's stages; some families' ``feature_info`` misnames them.

    An entry for which there is no module (TResNet's first) is no stage.
    """
    info = getattr(model, "feature_info", None)
    names = [entry["module"] for entry in getattr(info, "info", info) or []]
    modules = dict(model.named_modules())
    found = []
    for name in names:
        others = [name, _MISNAMED.get(name), *(m for m in modules if m.endswith(f".{name}"))]
        for container in ("stages", "blocks", "layers"):
            if len(modules.get(container, ())) == len(names):
                others.append(f"{container}.{name.rpartition('.')[2]}")
        found += [other for other in others if other and other in modules][:1]
    return tuple(found)
