"""The hooks of a ``SafeRunner``."""

from __future__ import annotations

from mmengine.hooks import Hook

from trn_plugin.directions import check_monitors
from trn_plugin.engine.building import replaced
from trn_plugin.engine.distributed import average_statistics
from trn_plugin.engine.finite import FiniteSteps
from trn_plugin.engine.schedules import schedules_in
from trn_plugin.engine.step_log import StepLogHook

__all__ = ["hooks_of"]

# our replacements of MMEngine's hooks, and MMEngine's default hooks
OWN = {
    "CheckpointHook": "trn_plugin.SafeCheckpointHook",
    "EarlyStoppingHook": "trn_plugin.CheckedEarlyStoppingHook",
    "RuntimeInfoHook": StepLogHook,
}
DEFAULT = dict(
    runtime_info=dict(type="RuntimeInfoHook"),
    timer=dict(type="IterTimerHook"),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    logger=dict(type="LoggerHook"),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", interval=1),
)


def hooks_of(cfg, default_hooks: dict | None, custom_hooks: list | None) -> dict[str, object]:
    """All hooks, or their configs, by key path; a default hook set to None is left out."""
    given = {f"default_hooks.{k}": hook for k, hook in {**DEFAULT, **(default_hooks or {})}.items()}
    given |= {f"custom_hooks.{k}": hook for k, hook in enumerate(custom_hooks or ())}
    hooks = {place: replaced(hook, OWN) for place, hook in given.items() if hook is not None}
    hooks |= dict(run=RunHook(), names=dict(type="trn_plugin.NamesHook"))
    if cfg.get("save_on_sigterm"):
        hooks["save_on_sigterm"] = dict(type="trn_plugin.SaveOnTerminateHook")
    return hooks


class RunHook(Hook):
    """Creates ``runner.finite_steps``, averages statistics before validations, records metrics."""

    priority = 1

    def before_train(self, runner) -> None:
        runner.finite_steps = FiniteSteps(runner, runner.cfg.get("non_finite", "stop"))

    def before_val(self, runner) -> None:
        average_statistics(runner.bare_model)

    def after_val_epoch(self, runner, metrics=None) -> None:
        if runner.finite_steps is not None:  # in a training
            check_monitors(schedules_in(runner.param_schedulers), metrics or {})
        runner.validated = runner.iter, metrics or {}
        # the log counts epochs, checkpoints count iterations
        runner.message_hub.update_scalar("val/at_iter", runner.iter)
