"""MMEngine's Runner, with safe checkpoints, exact resuming and distributed training on CPUs."""

from __future__ import annotations

import copy
import functools
from contextlib import nullcontext

import mmengine
import torch
from mmengine.device import get_device
from mmengine.dist import all_gather_object, is_main_process
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from trn_plugin import checkpoints, packaged
from trn_plugin.checkpoints import newest
from trn_plugin.config_checks import check_complete, check_sections, config_errors
from trn_plugin.directions import with_rules
from trn_plugin.engine import resuming, run_state
from trn_plugin.engine.building import ConfigErrorRunner
from trn_plugin.engine.data_config import (
    check_metrics,
    check_roots,
    check_training,
    spread_input_size,
    with_draws,
)
from trn_plugin.engine.distributed import average_statistics, distributed_model
from trn_plugin.engine.hooks import hooks_of
from trn_plugin.engine.loops import IterationLoop, own_log_processor, own_loop
from trn_plugin.engine.optimizers import accumulated, own_optimizer
from trn_plugin.engine.schedules import as_iterations
from trn_plugin.engine.work_dir import only_run_in
from trn_plugin.errors import ConfigError
from trn_plugin.logs import ScreenFilter
from trn_plugin.registry import RUNNERS

__all__ = ["SafeRunner"]


@RUNNERS.register_module()
class SafeRunner(ConfigErrorRunner):
    """MMEngine's Runner with checkpoints of plain data (``runner_type='SafeRunner'``).

    Checkpoints are written atomically, and loading one executes nothing in it. Checkpoints of
    MMEngine's Runner can be loaded too.

    A resumed run gives the result of an uninterrupted one, bit for bit on a CPU. One warning lists
    the config changes that it ignores. With ``resume_schedule='config'`` it uses the config's rates
    and schedules, as if they had applied from the start. A non-finite step ends the run, or is
    skipped with ``non_finite='skip'``. ``save_on_sigterm=True`` writes a checkpoint on SIGTERM.

    Attributes:
        finite_steps (FiniteSteps): runs the training steps; None before training.
        validated (tuple[int, dict]): iteration and metrics of the last validation.
        trained_on (dict): metainfo of the data set that the loaded weights were trained on.
        resumed_from (str | None): the checkpoint that the run was resumed from.
    """

    def __init__(self, *args, load_from=None, resume=False, **options) -> None:
        self.loaders = {
            part: options.get(f"{part}_dataloader") for part in ("train", "val", "test")
        }
        self.trains = options.get("train_cfg")
        self.randomness = options.setdefault("randomness", {"seed": None})
        self.load_from, self.resuming, self.loaded = load_from, resume, False
        self.validated, self.trained_on = (-1, {}), {}
        self.random_state = self.resumed_from = self.finite_steps = None
        self.screen = ScreenFilter()
        super().__init__(*args, load_from=load_from, resume=resume, **options)
        self.screen.is_built = True

    @classmethod
    def from_cfg(cls, cfg):
        """As MMEngine's; checks the config, and applies ``input_size`` to data and backbone."""
        cfg = copy.deepcopy(cfg)
        packaged.drop_scope(cfg)
        check_sections(cfg)
        check_complete(cfg)
        spread_input_size(cfg)
        with config_errors("config"):
            return super().from_cfg(cfg)

    @functools.cached_property
    def config_text(self) -> str:
        """The formatted config; cached, as formatting takes longer than a small checkpoint."""
        return self.cfg.pretty_text

    @property
    def bare_model(self):
        """The model without its distributed wrapper."""
        return self.model.module if is_model_wrapper(self.model) else self.model

    def build_logger(self, *args, **kwargs):
        """As MMEngine's; long messages go to the log file only."""
        logger = super().build_logger(*args, **kwargs)
        self.screen.add_to(logger)
        return logger

    def build_log_processor(self, log_processor):
        """As MMEngine's; by default `ScreenLogProcessor`, with the ``by_epoch`` of the loop."""
        return super().build_log_processor(own_log_processor(log_processor, self.trains))

    def build_model(self, model):
        """As MMEngine's; refuses a missing data root before loading weights."""
        check_roots(self.loaders)
        return super().build_model(model)

    def dump_config(self):
        """Does nothing: :meth:`train` dumps the config after locking the work directory."""

    def wrap_model(self, model_wrapper_cfg, model):
        """As MMEngine's, also without CUDA, and with timm's conversion of batch norm."""
        if self.distributed and not is_model_wrapper(model):
            return distributed_model(self.cfg, model)
        if model_wrapper_cfg is not None and not self.distributed:
            self.logger.warning("model_wrapper_cfg: no effect in a run of one process")
        return super().wrap_model(model_wrapper_cfg, model)

    def _maybe_compile(self, target: str) -> None:
        """Apply ``compile`` to the backbone only, not to losses, checks and optimizer steps."""
        options = self.cfg.get("compile")
        weighting = getattr(self.bare_model, "task_weighting", None)
        for part in (self.optim_wrapper, weighting) if options else ():
            if getattr(part, "differentiates_often", False):
                raise ConfigError(
                    f"compile: not with {type(part).__name__}, which needs several backward "
                    "passes through a graph; compiled graphs allow one"
                )
        backbone = getattr(self.bare_model, "backbone", None)
        with config_errors("compile"):
            if not hasattr(backbone, "compile_parts"):
                super()._maybe_compile(target)
            elif options:
                backbone.compile_parts(**({} if options is True else options))

    def register_hooks(self, default_hooks=None, custom_hooks=None):
        """As MMEngine's; adds this package's hooks, and replaces some of MMEngine's by ours."""
        for place, hook in hooks_of(self.cfg, default_hooks, custom_hooks).items():
            with config_errors(place):
                self.register_hook(hook)

    def train(self):
        """As MMEngine's; locks the work directory; errors before the first step are ConfigError."""
        self.finite_steps = None
        try:
            with only_run_in(self.work_dir) if is_main_process() else nullcontext():
                newest.check_earlier(self.work_dir, None if self.resuming else self.logger)
                super().dump_config()
                return super().train()
        except KeyboardInterrupt as error:
            where = newest.last_checkpoint_text(self.work_dir)
            if newest.checkpoint_files(self.work_dir):
                where += "; --resume continues from there"
            raise type(error)(where) from None
        except Exception:
            if self.finite_steps is not None and self.finite_steps.begun:
                raise
            with config_errors("config"):
                raise
        finally:
            if self.finite_steps is not None:
                self.finite_steps.close()

    @staticmethod
    def build_dataloader(dataloader, seed=None, diff_rank_seed=False):
        """As MMEngine's; with reproducible augmentations (`with_draws`); not pinned on CPUs."""
        with config_errors("dataloader"):
            if isinstance(dataloader, dict):
                dataloader = with_draws(dataloader)
                if not torch.cuda.is_available():  # torch would warn for each loader
                    dataloader["pin_memory"] = False
            built = Runner.build_dataloader(dataloader, seed, diff_rank_seed)
        if built.generator is None:  # else each epoch draws a seed from the global generator
            built.generator = torch.Generator().manual_seed(seed or 0)
        return built

    def build_optim_wrapper(self, optim_wrapper):
        """As MMEngine's; adapts the momentum of running covariances to gradient accumulation."""
        built = super().build_optim_wrapper(own_optimizer(optim_wrapper, self.model))
        neck = getattr(self.bare_model, "neck", None)
        if hasattr(neck, "accumulate"):
            neck.accumulate(accumulated(built))
        return built

    def build_param_scheduler(self, scheduler):
        """As MMEngine's; converts schedules to iterations for `IterationLoop`, and adds rules."""
        if self.trains and isinstance(self.train_loop, IterationLoop):
            length = len(self.train_dataloader)
            scheduler = as_iterations(scheduler, length, self.train_loop.max_iters)
        return super().build_param_scheduler(with_rules(scheduler))

    def build_evaluator(self, evaluator):
        """As MMEngine's; with `BatchEvaluator`; refuses metrics of tasks that the model lacks."""
        is_dict = isinstance(evaluator, dict) and "metrics" not in evaluator
        if isinstance(evaluator, list) or is_dict:
            evaluator = dict(type="trn_plugin.BatchEvaluator", metrics=evaluator)
        built = super().build_evaluator(evaluator)
        check_metrics(built, self.bare_model)
        return built

    def build_train_loop(self, loop):
        """As MMEngine's; with our loops; refuses data that do not fit the model."""
        built = super().build_train_loop(own_loop(loop))
        check_training(built, self.bare_model, self.logger)
        return built

    def load_checkpoint(self, filename, map_location="cpu", strict=False, revise_keys=()):
        """Load weights; all names must match, except when training with ``load_from``."""
        checkpoint = checkpoints.load_checkpoint_file(filename, map_location)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        if strict or self.resuming or not self.trains:
            checkpoints.load_model_state(self.bare_model, checkpoint["state_dict"], filename)
        else:
            first, *more = checkpoints.load_fitting_state(
                self.bare_model, checkpoint["state_dict"], filename
            )
            self.logger.info(first)
            for line in more:
                self.logger.warning(line)
        self.loaded, trained_on = True, checkpoint["meta"].get("dataset_meta")
        self.trained_on = trained_on if isinstance(trained_on, dict) else {}
        self.logger.info(f"Load checkpoint from {filename}")
        return checkpoint

    def load_or_resume(self):
        """Load or resume as configured; ``resume`` without ``load_from`` takes the newest."""
        if self.loaded:
            return
        if self.resuming and self.load_from is None:
            resuming.resume_newest(self)
        elif self.resuming:
            self.resume(self.load_from)
        elif self.load_from is not None:
            self.load_checkpoint(self.load_from)

    def resume(
        self, filename, resume_optimizer=True, resume_param_scheduler=True, map_location="default"
    ):
        """Restore weights, counters, optimizers, schedules, logs and random generators."""
        device = get_device() if map_location == "default" else map_location
        checkpoint = self.load_checkpoint(filename, map_location=device, strict=True)
        self.optim_wrapper = self.build_optim_wrapper(self.optim_wrapper)
        if self.param_schedulers is not None:
            self.param_schedulers = self.build_param_scheduler(self.param_schedulers)
        resuming.resume(self, checkpoint, filename, resume_optimizer, resume_param_scheduler)
        self.resumed_from = str(filename)
        self.logger.info(f"resumed epoch: {self.epoch}, iter: {self.iter}")

    def restore_random_state(self):
        """Restore the checkpoint's random state; the loops call it before the first batch."""
        if self.random_state is not None:
            run_state.set_random_state(self.random_state)
            self.random_state = None

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
        """Write a checkpoint; all processes must call it.

        Raises:
            CheckpointError: the file cannot be written.
            TrainingError: the state is non-finite; the earlier checkpoint is kept.
        """
        if self.finite_steps is not None:
            self.finite_steps.log.flush()
        average_statistics(self.bare_model)
        run_state.check_loadable(self, save_optimizer)
        ranks = all_gather_object(run_state.process_state(self))
        if not is_main_process():
            return
        checkpoint = {
            "meta": run_state.describe(self, meta or {}, by_epoch),
            "state_dict": self.bare_model.state_dict(),
            "ranks": ranks,
            **run_state.capture(self, save_optimizer, save_param_scheduler),
        }
        self.call_hook("before_save_checkpoint", checkpoint=checkpoint)
        checkpoints.save_checkpoint_file(checkpoint, mmengine.fileio.join_path(out_dir, filename))
