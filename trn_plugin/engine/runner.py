"""MMEngine's Runner, with safe checkpoints and with several processes on CPUs."""

from __future__ import annotations

import copy
import os
import time

import mmengine
import torch
from mmengine.device import get_device
from mmengine.dist import (
    all_gather_object,
    all_reduce,
    broadcast_object_list,
    get_rank,
    get_world_size,
    is_main_process,
)
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from mmengine.registry import OPTIMIZERS
from mmengine.runner import Runner
from timm.layers import convert_sync_batchnorm
from torch.nn.modules.batchnorm import SyncBatchNorm, _NormBase

import trn_plugin
from trn_plugin.engine.building import config_errors
from trn_plugin.engine.checkpoint import (
    FORMAT,
    listed,
    load_checkpoint_file,
    load_model_state,
    save_checkpoint_file,
)
from trn_plugin.engine.checkpoint_hook import SafeCheckpointHook
from trn_plugin.engine.finite import FiniteSteps
from trn_plugin.engine.input_size import spread_input_size
from trn_plugin.engine.loops import EpochLoop, IterationLoop
from trn_plugin.engine.message_hub import message_hub_state, restore_message_hub
from trn_plugin.engine.newest import checkpoint_files, newest_checkpoint
from trn_plugin.engine.random_state import check_random_state, random_state, set_random_state
from trn_plugin.engine.run_state import (
    check_optimizer,
    hooks_state,
    in_own_order,
    optimized_names,
    restore_hooks,
    restore_schedule,
)
from trn_plugin.errors import (
    CheckpointError,
    ConfigError,
    TrainingError,
    first_line,
    printable,
)
from trn_plugin.registry import DATASETS, RUNNERS

__all__ = ["SafeRunner"]


@RUNNERS.register_module()
class SafeRunner(Runner):
    """MMEngine's Runner with another way of writing and reading checkpoints.

    A checkpoint holds tensors, numbers and strings only, is written whole or not at all, and
    nothing in it is executed when it is read: MMEngine 0.10.7 cannot read its own checkpoints on
    torch >= 2.6 without allowing code in them, and evaluates the config text that they hold.
    Checkpoints of the plain Runner can be read too. Set ``runner_type='SafeRunner'``.

    A resumed run ends as one that was not stopped, bit for bit on a CPU: a checkpoint also holds
    every process's random generators and gradients that wait for more micro-batches, the loops go
    on from the very batch, and the data loaders draw nothing from the generators that training
    draws from. A step that is not finite ends the run (``non_finite='skip'`` in the config leaves
    it out instead).

    Attributes:
        finite_steps (FiniteSteps): runs the training steps, while training.
        owes_validation (bool): whether the checkpoint resumed from was written before the
            validation that may be due at its iteration.
        resumed_from (str | None): the checkpoint, until the first step after it is done.
    """

    _validated: tuple[int, dict] = (-1, {})
    _random_state: dict | None = None
    _trained_on: dict = {}
    owes_validation = False
    resumed_from: str | None = None
    finite_steps: FiniteSteps

    @classmethod
    def from_cfg(cls, cfg):
        """As MMEngine's; ``input_size`` in the config is that of the data sets and the backbone."""
        cfg = copy.deepcopy(cfg)
        spread_input_size(cfg)
        return super().from_cfg(cfg)

    def build_model(self, model):
        """As MMEngine's; a data root that is not there is told before weights are looked for.

        A training does not need the test set, so that only a runner without one looks for it.
        """
        loaders = [self._train_dataloader, self._val_dataloader]
        if self._train_dataloader is None:
            loaders.append(self._test_dataloader)
        for loader in loaders:
            dataset = loader.get("dataset") if isinstance(loader, dict) else None
            if isinstance(dataset, dict) and isinstance(dataset.get("type"), str):
                kind = DATASETS.get(dataset["type"])
                if "data_root" in dataset and hasattr(kind, "check_root"):
                    with config_errors("dataloader"):
                        DATASETS.build({**dataset, "lazy_init": True}).check_root()
        return super().build_model(model)

    def dump_config(self):
        """As MMEngine's; without training data, the work directory's config stays as it is.

        That is the one that a model was trained with; its own is among its logs.
        """
        if self._train_dataloader is not None:
            super().dump_config()

    def wrap_model(self, model_wrapper_cfg, model):
        """As MMEngine's; without CUDA too, and with timm's conversion of batch norm.

        Raises:
            ConfigError: ``sync_bn`` without CUDA, or with another value than 'torch'.
        """
        if not self.distributed or is_model_wrapper(model):
            return super().wrap_model(model_wrapper_cfg, model)
        sync_bn = self.cfg.get("sync_bn")
        if sync_bn is not None:
            _check_sync_bn(sync_bn)
            # MMEngine's conversion drops the activation in timm's BatchNormAct layers
            model = convert_sync_batchnorm(model)
        if model_wrapper_cfg is not None:
            self.cfg.sync_bn = None
            try:
                return super().wrap_model(model_wrapper_cfg, model)
            finally:
                self.cfg.sync_bn = sync_bn
        device = get_device()
        # device_ids, which a CPU module must not have
        ids = dict(device_ids=[int(os.environ["LOCAL_RANK"])]) if device == "cuda" else {}
        return MMDistributedDataParallel(
            module=model.to(device),
            broadcast_buffers=False,
            find_unused_parameters=self.cfg.get("find_unused_parameters", False),
            **ids,
        )

    def _maybe_compile(self, target: str) -> None:
        """``compile`` is for the network; losses, checks and optimiser steps are no graphs."""
        options = self.cfg.get("compile")
        backbone = getattr(self.bare_model, "backbone", None)
        if not hasattr(backbone, "compile_parts"):
            super()._maybe_compile(target)
        elif options:
            backbone.compile_parts(**({} if options is True else options))

    def register_default_hooks(self, hooks=None):
        """As MMEngine's; ``CheckpointHook`` means the one that always leaves a checkpoint."""
        hooks = dict(hooks or {})
        given = hooks.get("checkpoint", dict(type="CheckpointHook", interval=1))
        ours = ("CheckpointHook", "mmengine.CheckpointHook")
        if isinstance(given, dict) and given.get("type") in ours:
            hooks["checkpoint"] = {**given, "type": SafeCheckpointHook}
        super().register_default_hooks(hooks)

    def train(self):
        """As MMEngine's.

        Raises:
            TrainingError: a loss or gradient that is not finite.
        """
        try:
            return super().train()
        except KeyboardInterrupt:
            where = self.last_checkpoint_text()
            if checkpoint_files(self.work_dir):
                where += "; --resume goes on from there"
            raise KeyboardInterrupt(where) from None
        finally:
            if hasattr(self, "finite_steps"):
                self.finite_steps.close()

    def call_hook(self, fn_name, **kwargs):
        if fn_name == "before_train":
            self.finite_steps = FiniteSteps(self, self.cfg.get("non_finite", "stop"))
        elif fn_name == "before_val":
            self._average_statistics()
        elif fn_name == "before_test":
            self._compare_names(self.test_dataloader.dataset)
        elif fn_name == "after_val_epoch":
            self._validated = self.iter, kwargs.get("metrics") or {}
            # the log's own count is of epochs, a checkpoint's of iterations
            self.message_hub.update_scalar("val/at_iter", self.iter)
        super().call_hook(fn_name, **kwargs)

    @staticmethod
    def build_dataloader(dataloader, seed=None, diff_rank_seed=False):
        """As MMEngine's; a mistake in the config is a ConfigError; nothing is pinned on CPUs.

        The loader has a generator of its own: it would draw its workers' seed from the global
        one each time that it is iterated, so that dropout would depend on how often it was.
        """
        if isinstance(dataloader, dict) and not torch.cuda.is_available():
            dataloader = {**dataloader, "pin_memory": False}  # or torch warns at every loader
        with config_errors("dataloader"):
            built = Runner.build_dataloader(dataloader, seed, diff_rank_seed)
        if built.generator is None:
            built.generator = torch.Generator()
            built.generator.manual_seed(seed or 0)
        return built

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
        neck = getattr(self.bare_model, "neck", None)
        if hasattr(neck, "accumulate"):
            neck.accumulate(getattr(built, "_accumulative_counts", 1))
        return built

    def build_param_scheduler(self, scheduler):
        """As MMEngine's; a mistake in the config is a ConfigError."""
        with config_errors("param_scheduler"):
            return super().build_param_scheduler(scheduler)

    def build_evaluator(self, evaluator):
        """As MMEngine's; a mistake in the config is a ConfigError.

        So is a metric of a task that the model has not, which would be met only when it is
        evaluated.
        """
        with config_errors("evaluator"):
            built = super().build_evaluator(_batched(evaluator))
        tasks = getattr(self.bare_model, "tasks", None)
        for metric in built.metrics if tasks is not None else ():
            for task in getattr(metric, "predicted_tasks", ()):
                if task not in tasks:
                    raise ConfigError(
                        f"{type(metric).__name__}: expected one of the model's tasks "
                        f"({', '.join(tasks)}), found {task!r}"
                    )
        return built

    def build_train_loop(self, loop):
        """As MMEngine's.

        Raises:
            ConfigError: an epoch without a single batch, or a data set without labels for a head.
        """
        with config_errors("train_cfg"):
            built = super().build_train_loop(_own_loop(loop))
        loader = built.dataloader
        if len(loader) == 0:
            raise ConfigError(
                f"train_dataloader: {len(loader.dataset)} samples give no batch of "
                f"{loader.batch_size} with drop_last={loader.drop_last}"
            )
        if hasattr(self.bare_model, "check_dataset"):
            self.bare_model.check_dataset(getattr(loader.dataset, "metainfo", {}))
        if hasattr(self.bare_model, "fit_to_labels"):
            self.bare_model.fit_to_labels(loader.dataset)
        return built

    def load_checkpoint(self, filename, map_location="cpu", strict=False, revise_keys=()):
        """Load weights; every name must fit unless the run trains from them (``load_from``).

        Raises:
            CheckpointError: a file that cannot be read, or weights of another model.
        """
        checkpoint = load_checkpoint_file(filename, map_location)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        if strict or self._resume or self._train_loop is None:
            load_model_state(self.bare_model, checkpoint["state_dict"], filename)
        else:
            self._load_what_fits(checkpoint["state_dict"], filename)
        self._has_loaded = True
        trained_on = checkpoint["meta"].get("dataset_meta")
        self._trained_on = trained_on if isinstance(trained_on, dict) else {}
        self.logger.info(f"Load checkpoint from {filename}")
        return checkpoint

    def load_or_resume(self):
        """Load or resume, as the config says; ``resume`` without ``load_from`` finds the newest.

        Raises:
            CheckpointError: none of the work directory's checkpoints can be read.
        """
        if self._has_loaded or not self._resume or self._load_from is not None:
            return super().load_or_resume()
        found = [None]
        problem = None
        if is_main_process():
            try:
                found = [newest_checkpoint(self.work_dir, self.logger)]
            except CheckpointError as error:
                problem = error
                found = [error]
        broadcast_object_list(found)
        problem = problem or (found[0] if isinstance(found[0], CheckpointError) else None)
        if problem is not None:
            raise problem
        if found[0] is None:
            self.logger.warning(
                f"--resume: there is no checkpoint in {self.work_dir}; starting from the beginning"
            )
        else:
            self.resume(found[0])

    def resume(
        self,
        filename,
        resume_optimizer=True,
        resume_param_scheduler=True,
        map_location="default",
    ):
        """Continue a training run: weights, counters, optimiser, schedules, logs, generators.

        Raises:
            CheckpointError: as ``load_checkpoint``; a file without a run's counters, or with the
                state of other optimizers; one from within an epoch of another length.
        """
        device = get_device() if map_location == "default" else map_location
        checkpoint = self.load_checkpoint(filename, map_location=device, strict=True)
        meta = checkpoint["meta"]
        counts = [meta.get(name) for name in ("epoch", "iter")]
        if not all(type(count) is int and 0 <= count < 2**53 for count in counts):
            raise CheckpointError(
                f"{filename}: holds weights but no run to resume (no epoch, iter)"
            )
        self.train_loop._epoch, self.train_loop._iter = meta["epoch"], meta["iter"]
        self._find_batch(meta, filename)
        self.owes_validation = not meta.get("metrics")

        seed = meta.get("seed")
        if isinstance(seed, int) and not 0 <= seed < 2**32:
            raise CheckpointError(
                f"{filename}: expected a seed below 2^32, found {printable(seed)}"
            )
        if isinstance(seed, int) and seed != self._randomness_cfg.get("seed"):
            self.logger.warning(f"resuming with the seed of the checkpoint, {seed}")
            self._randomness_cfg.update(seed=seed)
            self.set_randomness(**self._randomness_cfg)
            self.train_dataloader.sampler.seed = seed

        try:
            self._restore(checkpoint, resume_optimizer, resume_param_scheduler)
        except Exception as error:  # torch and MMEngine take what is in the file unchecked
            raise CheckpointError(
                f"{filename}: its run does not fit the config's optimizer, schedules or number of "
                f"processes: {type(error).__name__}: {printable(first_line(error))}"
            ) from error
        self._has_loaded = True
        self.resumed_from = str(filename)
        self.logger.info(f"resumed epoch: {self.epoch}, iter: {self.iter}")

    def restore_random_state(self):
        """Set the generators to what they were at the checkpoint; the loops call it in time."""
        if self._random_state is not None:
            set_random_state(self._random_state)
            self._random_state = None

    def last_checkpoint_text(self) -> str:
        """Where a run that ends now can be resumed from."""
        paths = checkpoint_files(self.work_dir)
        if not paths:
            return "no checkpoint has been written yet"
        newest = max(paths, key=lambda path: path.stat().st_mtime_ns)
        return f"the last checkpoint is {newest}"

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
        """Write a checkpoint of plain data; all processes must call it.

        Raises:
            CheckpointError: the file cannot be written.
            TrainingError: weights that are not finite; an earlier checkpoint is not replaced.
        """
        self._average_statistics()
        self._check_weights()
        ranks = all_gather_object(self._rank_state())
        if not is_main_process():
            return
        meta = dict(meta or {})
        meta.setdefault("epoch", self.epoch + 1 if by_epoch else self.epoch)
        meta.setdefault("iter", self.iter if by_epoch else self.iter + 1)
        loop = self.train_loop
        meta.update(
            batch=0 if meta["epoch"] > loop.epoch else getattr(loop, "done", 0),
            batches=len(self.train_dataloader),
            cfg=self.cfg.pretty_text,
            seed=self.seed,
            experiment_name=self.experiment_name,
            time=time.strftime("%Y%m%d_%H%M%S", time.localtime()),
            mmengine_version=mmengine.__version__,
            trn_plugin_version=trn_plugin.__version__,
            trn_plugin_format=FORMAT,
            dataset_meta=getattr(self.train_dataloader.dataset, "metainfo", {}),
        )
        iteration, metrics = self._validated
        if iteration == self.iter:
            meta.update(metrics=metrics)
        checkpoint = {
            "meta": meta,
            "state_dict": self.bare_model.state_dict(),
            "message_hub": message_hub_state(self.message_hub),
            "ranks": ranks,
            "hooks": hooks_state(self.hooks),
        }
        if save_optimizer:
            checkpoint["optimizer"] = self.optim_wrapper.state_dict()
            checkpoint["optimized"] = optimized_names(self.optim_wrapper, self.bare_model)
        if save_param_scheduler and self.param_schedulers:
            checkpoint["param_schedulers"] = (
                {k: [s.state_dict() for s in v] for k, v in self.param_schedulers.items()}
                if isinstance(self.param_schedulers, dict)
                else [s.state_dict() for s in self.param_schedulers]
            )
        self.call_hook("before_save_checkpoint", checkpoint=checkpoint)
        save_checkpoint_file(checkpoint, mmengine.fileio.join_path(out_dir, filename))

    @property
    def bare_model(self):
        """The model without its wrapper for several processes."""
        return self.model.module if is_model_wrapper(self.model) else self.model

    def _restore(self, checkpoint: dict, optimizer: bool, param_scheduler: bool) -> None:
        restore_message_hub(self.message_hub, checkpoint.get("message_hub", {}))
        if optimizer and "optimizer" in checkpoint:
            self.optim_wrapper = self.build_optim_wrapper(self.optim_wrapper)
            own = optimized_names(self.optim_wrapper, self.bare_model)
            saved = checkpoint.get("optimized", own)
            self.optim_wrapper.load_state_dict(in_own_order(checkpoint["optimizer"], saved, own))
            check_optimizer(self.optim_wrapper)
        elif optimizer:
            self.logger.warning(
                "the checkpoint holds no optimizer state: the run goes on with a new optimizer"
            )
        if param_scheduler and "param_schedulers" in checkpoint and self.param_schedulers:
            self.param_schedulers = self.build_param_scheduler(self.param_schedulers)
            for mine, saved in _schedulers(self.param_schedulers, checkpoint["param_schedulers"]):
                restore_schedule(mine, saved)
        restore_hooks(self.hooks, checkpoint.get("hooks", {}))
        ranks = checkpoint.get("ranks") or []
        if len(ranks) == get_world_size():
            mine = ranks[get_rank()]
            check_random_state(mine["random"])
            self._random_state = mine["random"]
            parameters = dict(self.bare_model.named_parameters())
            for name, gradient in mine["gradients"].items():
                parameters[name].grad = gradient.to(parameters[name]).clone()
        elif ranks:
            self.logger.warning(
                f"the checkpoint is of a run with {len(ranks)} processes, this one has "
                f"{get_world_size()}: it goes on, but not exactly as that run would have"
            )

    def _find_batch(self, meta: dict, filename) -> None:
        """Where in its epoch a run by epochs goes on."""
        loop = self.train_loop
        if not isinstance(loop, EpochLoop):
            return
        batches = len(self.train_dataloader)
        known = meta.get("batches", batches)
        done = meta.get("batch")
        if done is None:  # written by MMEngine
            done = meta["iter"] - meta["epoch"] * batches
            done = done if 0 <= done <= batches else 0
        if not isinstance(done, int) or (done and (known != batches or not 0 < done <= batches)):
            raise CheckpointError(
                f"{filename}: was written after {done} of an epoch's {known} batches, but the "
                f"config's epoch has {batches}; resume with the data, batch size and number of "
                "processes of that run, or from the checkpoint of a whole epoch"
            )
        if known != batches:
            self.logger.warning(f"an epoch had {known} batches, now it has {batches}")
        loop.done = done

    def _compare_names(self, dataset) -> None:
        """Say so when classes, points or attributes have other names than the model's."""
        tasks, own = (
            meta.get("tasks") if isinstance(meta.get("tasks"), dict) else {}
            for meta in (
                self._trained_on or getattr(self.bare_model, "dataset_meta", {}),
                getattr(dataset, "metainfo", {}),
            )
        )
        for task in tasks.keys() & own.keys():
            for key in ("classes", "names"):
                theirs, ours = (dict(kinds[task]).get(key) for kinds in (tasks, own))
                if theirs is not None and ours is not None and list(theirs) != list(ours):
                    self.logger.warning(
                        f"{task}: the model was trained with {key} {printable(list(theirs))}, the "
                        f"test data has {printable(list(ours))}: what it measures may be wrong"
                    )

    def _rank_state(self) -> dict:
        """What a process needs to go on as it would have, besides what all processes share."""
        wrapper = self.optim_wrapper
        waiting = hasattr(wrapper, "_inner_count") and not wrapper.should_update()
        gradients = {
            name: parameter.grad.cpu()
            for name, parameter in self.bare_model.named_parameters()
            if waiting and parameter.grad is not None
        }
        return {"random": random_state(), "gradients": gradients}

    def _average_statistics(self) -> None:
        """One set of batch norm statistics for all processes: what is saved is what is tested."""
        if get_world_size() == 1:
            return
        for module in self.bare_model.modules():
            if isinstance(module, _NormBase) and not isinstance(module, SyncBatchNorm):
                for statistic in (module.running_mean, module.running_var):
                    if statistic is not None:
                        all_reduce(statistic, op="mean")

    def _check_weights(self) -> None:
        weights = dict(self.bare_model.named_parameters())
        largest = torch.nn.utils.get_total_norm(
            [w.detach() for w in weights.values()], norm_type=float("inf")
        )
        if not torch.isfinite(largest):
            bad = next(name for name, w in weights.items() if not torch.isfinite(w).all())
            raise TrainingError(
                f"iteration {self.iter}: the weights of {bad} are not finite and are not saved; "
                f"{self.last_checkpoint_text()}"
            )

    def _load_what_fits(self, state: dict, filename) -> None:
        # the running moments are of the data that they were measured on
        own = {k: v for k, v in self.bare_model.state_dict().items() if not k.startswith("neck.")}
        fits = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
        if not fits:
            raise CheckpointError(
                f"{filename}: no weight of it fits the config's model; it holds "
                f"{', '.join(list(state)[:3])}, the model {', '.join(list(own)[:3])}"
            )
        self.bare_model.load_state_dict(fits, strict=False)
        self.logger.info(f"{len(fits)} of {len(own)} weights taken from {filename}")
        missing = [key for key in own if key not in state]
        shapes = [
            f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in own
            if key in state and key not in fits
        ]
        for problem, keys in (("lacks", missing), ("has", shapes)):
            if keys:
                self.logger.warning(f"{filename} {problem} {listed(keys)}: these start anew")


def _check_sync_bn(value) -> None:
    if value != "torch":
        raise ConfigError(f"sync_bn: expected 'torch', found {value!r}")
    if not torch.cuda.is_available():
        raise ConfigError(
            "sync_bn: torch's SyncBatchNorm runs on CUDA only; on CPUs leave it out, or take a "
            "backbone with layer norm (convnext, vit), which needs none"
        )


def _batched(evaluator):
    """The config of MMEngine's Evaluator as one of the evaluator that hands on batches."""
    is_dict = isinstance(evaluator, dict) and "metrics" not in evaluator
    if isinstance(evaluator, list) or is_dict:
        return dict(type="trn_plugin.BatchEvaluator", metrics=evaluator)
    return evaluator


def _own_loop(loop):
    """The config of MMEngine's loops as one of the loops here."""
    if not isinstance(loop, dict):
        return loop
    loop = dict(loop)
    if "type" not in loop and isinstance(loop.get("by_epoch"), bool):
        loop["type"] = "EpochBasedTrainLoop" if loop.pop("by_epoch") else "IterBasedTrainLoop"
    own = {"EpochBasedTrainLoop": EpochLoop, "IterBasedTrainLoop": IterationLoop}
    kind = loop.get("type")
    if isinstance(kind, str):
        loop["type"] = own.get(kind.removeprefix("mmengine."), kind)
    return loop


def _schedulers(mine, saved):
    if isinstance(mine, dict):
        for name, schedulers in mine.items():
            yield from zip(schedulers, saved[name], strict=True)
    else:
        yield from zip(mine, saved, strict=True)
