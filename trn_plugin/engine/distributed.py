"""Distributed data parallel training, on GPUs or CPUs."""

from __future__ import annotations

import os

from mmengine.device import get_device
from mmengine.dist import all_reduce, get_world_size
from mmengine.registry import MODEL_WRAPPERS
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import SyncBatchNorm, _NormBase

from trn_plugin.errors import ConfigError

__all__ = ["average_statistics", "distributed_model"]


def distributed_model(cfg, model: nn.Module) -> nn.Module:
    """Wrap a model as MMEngine's runner does, also on CPUs, where ``device_ids`` are an error.

    ``sync_bn`` converts by timm: MMEngine's conversion drops the activation of BatchNormAct.
    """
    device = get_device()
    if cfg.get("sync_bn") is not None:
        if device != "cuda":
            raise ConfigError(
                "sync_bn: torch's SyncBatchNorm runs on CUDA only; on CPUs leave it out, or use a "
                "backbone with layer norm (convnext, vit)"
            )
        model = convert_sync_batchnorm(model)
    unused = cfg.get("find_unused_parameters", False)
    wrapper = cfg.get("model_wrapper_cfg") or dict(
        broadcast_buffers=False, find_unused_parameters=unused
    )
    given = dict(module=model.to(device))
    if device == "cuda":
        given["device_ids"] = [int(os.environ["LOCAL_RANK"])]
    return MODEL_WRAPPERS.build(
        {"type": "MMDistributedDataParallel", **wrapper}, default_args=given
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
