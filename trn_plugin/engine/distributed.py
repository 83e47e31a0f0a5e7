"""Distributed data parallel training, on GPUs or CPUs."""

from __future__ import annotations

import os

from mmengine.device import get_device
from mmengine.dist import get_world_size
from mmengine.registry import MODEL_WRAPPERS
from timm.layers import convert_sync_batchnorm
from timm.utils import distribute_bn
from torch import nn

from trn_plugin.errors import ConfigError

__all__ = ["average_statistics", "distributed_model"]


def distributed_model(cfg, model: nn.Module) -> nn.Module:
    """Wrap a model for DDP as MMEngine's runner does, also on CPUs (without ``device_ids``).

    ``sync_bn`` uses timm's conversion: MMEngine's drops the activation of BatchNormAct.
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
    if get_world_size() > 1:
        distribute_bn(model, get_world_size(), reduce=True)
