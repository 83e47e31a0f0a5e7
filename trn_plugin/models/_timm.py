"""Build timm models, with weights from a hub or a file."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from logging import WARNING

import timm
from mmengine.logging import print_log
from torch import nn

from trn_plugin.checkpoints import load_weights_file
from trn_plugin.checkpoints.weights import nonfinite
from trn_plugin.errors import ConfigError, first_line

__all__ = ["create", "sides_of", "stage_names"]

_WHERE = "model.backbone"
_MISNAMED = {"stem": "act2", "stage1": "layer1"}  # in HRNet


def create(
    model_name: str,
    pretrained: bool,
    checkpoint_path: str | None,
    img_size: int | Sequence[int] | None,
    in_chans: int,
    kwargs: dict,
    own: Collection[str] = (),
) -> tuple[nn.Module, tuple[int, int], dict]:
    """Build a model without its classifier; arguments as of ``TimmTrunk``.

    Returns the model, the height and width of its pictures, and the arguments of
    ``timm.create_model`` that build it again. For an unknown argument, the message suggests a close
    one of ``own``, the names of ``TimmTrunk``'s arguments.
    """
    if "num_classes" in kwargs:
        raise ConfigError(f"{_WHERE}.num_classes: not used; the heads are those of model.heads")
    config = _sourced(model_name) if ":" in model_name else _listed(model_name)
    given = None if img_size is None else sides_of(img_size)
    size = given or tuple(config.get("input_size", (3, 224, 224))[1:])
    options = dict(kwargs, in_chans=in_chans, num_classes=0)
    if img_size is not None and config.get("fixed_input_size"):
        options["img_size"] = size
    if checkpoint_path is not None:
        return _with_weights(model_name, options, checkpoint_path), size, options
    try:
        with _missing_keys() as missing:
            model = timm.create_model(model_name, pretrained=pretrained, **options)
    except Exception as error:  # timm and its hub may raise anything
        for name in kwargs:
            close = difflib.get_close_matches(name, own, n=1, cutoff=0.75)
            if close and "unexpected keyword" in str(error) and f"'{name}'" in str(error):
                raise ConfigError(
                    f"{_WHERE}.{name}: {model_name} has no such argument, "
                    f"did you mean {close[0]!r}?"
                ) from error
        if pretrained:
            raise ConfigError(
                f"{_WHERE}.pretrained: no pretrained weights of {model_name} could be loaded "
                f"({first_line(error)}); give a local file as checkpoint_path, or set "
                "pretrained=False"
            ) from error
        raise ConfigError(
            f"{_WHERE}: timm cannot build {model_name}: {first_line(error)}"
        ) from error
    if len(missing) >= sum(1 for _ in model.parameters()):
        raise ConfigError(f"{_WHERE}.pretrained: the weights of {model_name} are another model's")
    if missing:
        print_log(f"{_WHERE}: new weights, not pretrained: {_listing(missing)}", "current", WARNING)
    return model, size, options


def _listed(model_name: str) -> dict:
    """timm's own configuration of a listed model; empty if it has none."""
    if not timm.is_model(model_name):
        names = timm.list_models()
        close = difflib.get_close_matches(model_name.split(".")[0], names, n=5, cutoff=0.5)
        hint = ", ".join(close) if close else f"see timm.list_models(), {len(names)} names"
        raise ConfigError(
            f"{_WHERE}.model_name: timm knows no {model_name!r}; close matches: {hint}"
        )
    try:
        config = timm.get_pretrained_cfg(model_name)
    except RuntimeError as error:  # an unknown tag
        tags = timm.list_pretrained(f"{model_name.split('.')[0]}.*")
        raise ConfigError(
            f"{_WHERE}.model_name: timm has no weights {model_name!r}; expected one of "
            f"{', '.join(tags) or 'none'}"
        ) from error
    return config.to_dict() if config else {}


def _sourced(model_name: str) -> dict:
    """The configuration of a model from ``local-dir:`` or ``hf-hub:``."""
    try:
        return timm.create_model(model_name, pretrained=False, num_classes=0).pretrained_cfg
    except Exception as error:  # timm and its hub may raise anything
        raise ConfigError(
            f"{_WHERE}.model_name: expected 'local-dir:FOLDER' with the config.json of a timm "
            f"model, or 'hf-hub:OWNER/NAME' of one that can be reached, found {model_name!r} "
            f"({first_line(error)})"
        ) from error


def _with_weights(model_name: str, options: dict, path: str) -> nn.Module:
    """The model with weights from a file, converted by timm like its own."""
    # an empty source: weights of a folder or hub would take precedence
    overlay = {"state_dict": load_weights_file(path), "source": ""}
    with _missing_keys() as missing:
        try:
            model = timm.create_model(
                model_name, pretrained=True, pretrained_cfg_overlay=overlay, **options
            )
        except Exception as error:  # timm's converters may raise anything for another model's keys
            raise ConfigError(
                f"{_WHERE}.checkpoint_path: {path} holds no weights of {model_name}: "
                f"{first_line(error)}"
            ) from error
    if missing:
        raise ConfigError(
            f"{_WHERE}.checkpoint_path: {path} holds no weights of {model_name}: it lacks "
            f"{_listing(missing)}"
        )
    if bad := nonfinite(model.named_parameters()):
        raise ConfigError(f"{_WHERE}.checkpoint_path: {path}: {_listing(bad)} not finite")
    return model


def _listing(keys: list[str]) -> str:
    return f"{', '.join(keys[:3])}{f' and {len(keys) - 3} more' if keys[3:] else ''}"


@contextmanager
def _missing_keys() -> Iterator[list[str]]:
    """Collect the keys missing in loaded state dicts, which timm only logs."""
    missing: list[str] = []
    load = nn.Module.load_state_dict

    def noting(*args, **kwargs):
        result = load(*args, **kwargs)
        found = [key for key in result.missing_keys if not key.endswith("num_batches_tracked")]
        missing.extend(found)
        return result

    nn.Module.load_state_dict = noting
    try:
        yield missing
    finally:
        nn.Module.load_state_dict = load


def sides_of(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width in pixels, from one positive integer or two."""
    pair = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
        raise ConfigError(
            f"{_WHERE}.img_size: expected (height, width) or a side in pixels, found {size!r}"
        )
    return pair


def stage_names(model: nn.Module) -> tuple[str, ...]:
    """Last modules of timm's stages, also for families whose ``feature_info`` misnames them.

    Entries that name no module (TResNet's first) are skipped.
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
