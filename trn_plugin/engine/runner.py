"""MMEngine's Runner, with safe checkpoints and with several processes on CPUs."""

from __future__ import annotations

import copy
import time

import mmengine
import torch
from mmengine.device import get_device
from mmengine.dist import master_only
from mmengine.logging import HistoryBuffer
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from mmengine.registry import OPTIMIZERS
from mmengine.runner import Runner

import trn_plugin
from trn_plugin.engine.building import config_errors
from trn_plugin.engine.checkpoint import (
    load_checkpoint_file,
    load_model_state,
    save_checkpoint_file,
)
from trn_plugin.errors import CheckpointError, ConfigError, TrainingError, first_line
from trn_plugin.registry import RUNNERS

__all__ = ["SafeRunner"]


@RUNNERS.register_module()
class SafeRunner(Runner):
    """MMEngine's Runner with another way of writing and reading checkpoints.

    A checkpoint holds tensors, numbers and strings only, is written whole or not at all, and
    nothing in it is executed when it is read: MMEngine 0.10.7 cannot read its own checkpoints on
    torch >= 2.6 without allowing code in them, and evaluates the config text that they hold.
    Checkpoints of the plain Runner can be read too. Set ``runner_type='SafeRunner'``.
    """

    _validated: tuple[int, dict] = (-1, {})

    def wrap_model(self, model_wrapper_cfg, model):
        if self.distributed and not torch.cuda.is_available() and model_wrapper_cfg is None:
            # MMEngine passes device_ids, which a CPU module must not have
            return MMDistributedDataParallel(
                module=model.to(get_device()),
                broadcast_buffers=False,
                find_unused_parameters=self.cfg.get("find_unused_parameters", False),
            )
        return super().wrap_model(model_wrapper_cfg, model)

    def train(self):
        """As MMEngine's.

        Raises:
            TrainingError: a gradient that is not finite, where ``clip_grad`` asks for the check.
        """
        try:
            return super().train()
        except RuntimeError as error:
            if "non-finite" not in str(error):
                raise
            raise TrainingError(
                f"iteration {self.iter + 1}: {first_line(error)}; the last checkpoint is in "
                f"{self.work_dir}; a lower learning rate may help"
            ) from error

    def call_hook(self, fn_name, **kwargs):
        if fn_name == "after_val_epoch":
            self._validated = self.iter, kwargs.get("metrics") or {}
        super().call_hook(fn_name, **kwargs)

    @staticmethod
    def build_dataloader(dataloader, seed=None, diff_rank_seed=False):
        """As MMEngine's; a mistake in the config is a ConfigError; nothing is pinned on CPUs."""
        if isinstance(dataloader, dict) and not torch.cuda.is_available():
            dataloader = {**dataloader, "pin_memory": False}  # or torch warns at every loader
        with config_errors("dataloader"):
            return Runner.build_dataloader(dataloader, seed, diff_rank_seed)

    def build_optim_wrapper(self, optim_wrapper):
        """As MMEngine's; the running moments are told of accumulated gradients."""
        name = (
            optim_wrapper.get("optimizer", {}).get("type")
            if isinstance(optim_wrapper, dict)
            else None
        )
        if isinstance(name, str) and OPTIMIZERS.get(name) is None:
            raise ConfigError(f"optim_wrapper.optimizer.type: no optimizer is named {name!r}")
        with config_errors("optim_wrapper"):
            built = super().build_optim_wrapper(optim_wrapper)
        neck = getattr(self._bare_model, "neck", None)
        if hasattr(neck, "accumulate"):
            neck.accumulate(getattr(built, "_accumulative_counts", 1))
        return built

    def build_param_scheduler(self, scheduler):
        """As MMEngine's; a mistake in the config is a ConfigError."""
        with config_errors("param_scheduler"):
            return super().build_param_scheduler(scheduler)

    def build_evaluator(self, evaluator):
        """As MMEngine's; a mistake in the config is a ConfigError."""
        with config_errors("evaluator"):
            return super().build_evaluator(evaluator)

    def build_train_loop(self, loop):
        """As MMEngine's.

        Raises:
            ConfigError: an epoch without a single batch, or a data set without labels for a head.
        """
        with config_errors("train_cfg"):
            built = super().build_train_loop(loop)
        loader = built.dataloader
        if len(loader) == 0:
            raise ConfigError(
                f"train_dataloader: {len(loader.dataset)} samples give no batch of "
                f"{loader.batch_size} with drop_last={loader.drop_last}"
            )
        if hasattr(self._bare_model, "check_dataset"):
            self._bare_model.check_dataset(getattr(loader.dataset, "metainfo", {}))
        if hasattr(self._bare_model, "balance"):
            self._bare_model.balance(loader.dataset)
        return built

    def load_checkpoint(self, filename, map_location="cpu", strict=False, revise_keys=()):
        """Load weights; every name must fit unless the run trains from them (``load_from``).

        Raises:
            CheckpointError: a file that cannot be read, or weights of another model.
        """
        checkpoint = load_checkpoint_file(filename, map_location)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        if strict or self._resume or self._train_loop is None:
            load_model_state(self._bare_model, checkpoint["state_dict"], filename)
        else:
            self._load_what_fits(checkpoint["state_dict"], filename)
        self._has_loaded = True
        self.logger.info(f"Load checkpoint from {filename}")
        return checkpoint

    def resume(
        self,
        filename,
        resume_optimizer=True,
        resume_param_scheduler=True,
        map_location="default",
    ):
        """Continue a training run: weights, counters, optimiser, schedules, logs.

        Raises:
            CheckpointError: as ``load_checkpoint``, or a file without a run's counters.
        """
        device = get_device() if map_location == "default" else map_location
        checkpoint = self.load_checkpoint(filename, map_location=device, strict=True)
        meta = checkpoint["meta"]
        if not isinstance(meta.get("epoch"), int) or not isinstance(meta.get("iter"), int):
            raise CheckpointError(
                f"{filename}: holds weights but no run to resume (no epoch, iter)"
            )
        self.train_loop._epoch, self.train_loop._iter = meta["epoch"], meta["iter"]

        seed = meta.get("seed")
        if isinstance(seed, int) and seed != self._randomness_cfg.get("seed"):
            self.logger.warning(f"resuming with the seed of the checkpoint, {seed}")
            self._randomness_cfg.update(seed=seed)
            self.set_randomness(**self._randomness_cfg)
            self.train_dataloader.sampler.seed = seed

        _restore_message_hub(self.message_hub, checkpoint.get("message_hub", {}))
        if resume_optimizer and "optimizer" in checkpoint:
            self.optim_wrapper = self.build_optim_wrapper(self.optim_wrapper)
            self.optim_wrapper.load_state_dict(checkpoint["optimizer"])
        if resume_param_scheduler and "param_schedulers" in checkpoint and self.param_schedulers:
            self.param_schedulers = self.build_param_scheduler(self.param_schedulers)
            for mine, saved in _schedulers(self.param_schedulers, checkpoint["param_schedulers"]):
                mine.load_state_dict(saved)
        if isinstance(checkpoint.get("random_state"), torch.Tensor):
            torch.set_rng_state(checkpoint["random_state"].cpu())
        self._has_loaded = True
        self.logger.info(f"resumed epoch: {self.epoch}, iter: {self.iter}")

    @master_only
    def save_checkpoint(
        self,
        out_dir,
        filename,
        file_client_args=None,
        save_optimizer=True,
        save_param_scheduler=True,
        meta=None,
        by_epoch=True,
        backend_args=None,
    ):
        """Write a checkpoint of plain data.

        Raises:
            CheckpointError: the file cannot be written.
        """
        meta = dict(meta or {})
        meta.setdefault("epoch", self.epoch + 1 if by_epoch else self.epoch)
        meta.setdefault("iter", self.iter if by_epoch else self.iter + 1)
        meta.update(
            cfg=self.cfg.pretty_text,
            seed=self.seed,
            experiment_name=self.experiment_name,
            time=time.strftime("%Y%m%d_%H%M%S", time.localtime()),
            mmengine_version=mmengine.__version__,
            trn_plugin_version=trn_plugin.__version__,
            dataset_meta=getattr(self.train_dataloader.dataset, "metainfo", {}),
        )
        iteration, metrics = self._validated
        if iteration == self.iter:
            meta.update(metrics=metrics)
        checkpoint = {
            "meta": meta,
            "state_dict": self._bare_model.state_dict(),
            "message_hub": _message_hub_state(self.message_hub),
            "random_state": torch.get_rng_state(),
        }
        if save_optimizer:
            checkpoint["optimizer"] = self.optim_wrapper.state_dict()
        if save_param_scheduler and self.param_schedulers:
            checkpoint["param_schedulers"] = (
                {k: [s.state_dict() for s in v] for k, v in self.param_schedulers.items()}
                if isinstance(self.param_schedulers, dict)
                else [s.state_dict() for s in self.param_schedulers]
            )
        self.call_hook("before_save_checkpoint", checkpoint=checkpoint)
        save_checkpoint_file(checkpoint, mmengine.fileio.join_path(out_dir, filename))

    @property
    def _bare_model(self):
        return self.model.module if is_model_wrapper(self.model) else self.model

    def _load_what_fits(self, state: dict, filename) -> None:
        # the running moments are of the data that they were measured on
        own = {k: v for k, v in self._bare_model.state_dict().items() if not k.startswith("neck.")}
        fits = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
        if not fits:
            raise CheckpointError(
                f"{filename}: no weight of it fits the config's model; it holds "
                f"{', '.join(list(state)[:3])}, the model {', '.join(list(own)[:3])}"
            )
        self._bare_model.load_state_dict(fits, strict=False)
        self.logger.info(f"{len(fits)} of {len(own)} weights taken from {filename}")


def _message_hub_state(hub) -> dict:
    resumed = {k: v for k, v in hub._resumed_keys.items() if v}
    return {
        "log_scalars": {
            name: dict(zip(("history", "counts"), buffer.data, strict=True))
            for name, buffer in hub.log_scalars.items()
            if resumed.get(name, True)
        },
        "runtime_info": {
            k: copy.copy(v)
            for k, v in hub.runtime_info.items()
            if resumed.get(k) and isinstance(v, (bool, int, float, str))
        },
    }


def _restore_message_hub(hub, state: dict) -> None:
    for name, saved in state.get("log_scalars", {}).items():
        if isinstance(saved, dict) and "history" in saved:  # the plain Runner's are stand-ins
            hub.log_scalars[name] = HistoryBuffer(
                saved["history"].cpu().numpy(), saved["counts"].cpu().numpy()
            )
            hub._resumed_keys[name] = True
    for name, value in state.get("runtime_info", {}).items():
        if isinstance(value, (bool, int, float, str)):
            hub._runtime_info[name] = value
            hub._resumed_keys[name] = True


def _schedulers(mine, saved):
    if isinstance(mine, dict):
        for name, schedulers in mine.items():
            yield from zip(schedulers, saved[name], strict=True)
    else:
        yield from zip(mine, saved, strict=True)
