"""Distributed data parallel training, on GPUs or CPUs."""

from __future__ import annotations

import os

import torch
from mmengine.device import get_device
from mmengine.dist import all_reduce, get_world_size
from mmengine.model import MMDistributedDataParallel
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import SyncBatchNorm, _NormBase

from trn_plugin.errors import ConfigError

__all__ = ["average_statistics", "distributed_model", "with_sync_bn"]


def with_sync_bn(value: str | None, model: nn.Module) -> nn.Module:
    """Apply ``sync_bn`` by timm, as MMEngine's conversion drops BatchNormAct's activation."""
    if value is None:
        return model
    if value != "torch":
        raise ConfigError(f"sync_bn: expected 'torch', found {value!r}")
    if not torch.cuda.is_available():
        raise ConfigError(
            "sync_bn: torch's SyncBatchNorm runs on CUDA only; on CPUs leave it out, or use a "
            "backbone with layer norm (convnext, vit)"
        )
    return convert_sync_batchnorm(model)


def distributed_model(cfg, model: nn.Module) -> MMDistributedDataParallel:
    """MMEngine's wrapper; on CPUs without ``device_ids``, which its runner always passes."""
    device = get_device()
    ids = dict(device_ids=[int(os.environ["LOCAL_RANK"])]) if device == "cuda" else {}
    return MMDistributedDataParallel(
        module=model.to(device),
        broadcast_buffers=False,
        find_unused_parameters=cfg.get("find_unused_parameters", False),
        **ids,
    )


def average_statistics(model: nn.Module) -> None:
    """Average batch norm statistics over processes, before a validation or a checkpoint.

    MMEngine's ``SyncBuffersHook`` would average counters and running covariances too.
    """
    for module in model.modules() if get_world_size() > 1 else ():
        if isinstance(module, _NormBase) and not isinstance(module, SyncBatchNorm):
            for statistic in (module.running_mean, module.running_var):
                if statistic is not None:
                    all_reduce(statistic, op="mean")
