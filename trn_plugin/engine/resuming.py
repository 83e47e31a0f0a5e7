"""Resume from a checkpoint, and warn of config changes that the resumed run ignores."""

from __future__ import annotations

import copy

from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process

from trn_plugin.checkpoints.newest import newest_first
from trn_plugin.engine import run_state
from trn_plugin.engine.schedules import schedules_in
from trn_plugin.errors import CheckpointError, ConfigError, first_line, printable, shown

__all__ = ["resume", "resume_newest"]

MOST = 8  # changed settings in the warning


def resume(runner, checkpoint: dict, filename, optimizer: bool, param_scheduler: bool) -> None:
    """Restore a run's state, after its weights have been loaded."""
    meta, loop = checkpoint["meta"], runner.train_loop
    counts = [meta.get(name) for name in ("epoch", "iter")]
    if not all(type(count) is int and 0 <= count < 2**53 for count in counts):
        raise CheckpointError(f"{filename}: cannot be resumed: it has no epoch or no iter")
    loop.epoch, loop.iter = counts
    if hasattr(loop, "find_batch"):
        loop.find_batch(meta, filename)
    loop.validation_pending = not meta.get("metrics")
    seed = meta.get("seed")
    if isinstance(seed, int) and seed != runner.randomness.get("seed"):
        if not 0 <= seed < 2**32:
            raise CheckpointError(f"{filename}: expected a seed below 2^32, found {shown(seed)}")
        runner.logger.warning(f"resuming with the seed of the checkpoint, {seed}")
        runner.randomness.update(seed=seed)
        runner.set_randomness(**runner.randomness)
        runner.train_dataloader.sampler.seed = seed
    stretch = runner.cfg.get("resume_schedule") == "config"
    try:
        ignored = run_state.restore(runner, checkpoint, optimizer, param_scheduler, stretch)
    except ConfigError:
        raise
    except Exception as error:  # torch and MMEngine do not validate the file
        raise CheckpointError(
            f"{filename}: its state does not fit the config's optimizer, schedules or number of "
            f"processes: {type(error).__name__}: {printable(first_line(error))}"
        ) from error
    told = []
    if ignored:
        told.append(
            f"optimizer and learning rate schedule are those of the checkpoint: "
            f"{', '.join(ignored)} (resume_schedule='config' takes rates and schedules from the "
            "config)"
        )
    changed = _changed_settings(run_state.settings_of(runner.cfg), meta.get("settings"))
    if changed:
        told.append(f"changed config values apply from now on: {', '.join(changed)}")
    if told:
        runner.logger.warning(f"resumed from {filename} with another config: {'; '.join(told)}")


def _changed_settings(own: dict, saved) -> list[str]:
    saved = saved if isinstance(saved, dict) else own
    lines = [
        f"{path} (was {shown(saved.get(path))}, is {shown(own.get(path))})"
        for path in {**own, **saved}
        if isinstance(path, str) and not _same(own.get(path), saved.get(path))
    ]
    return lines[:MOST] + ([f"and {len(lines) - MOST} more"] if len(lines) > MOST else [])


def _same(own, saved) -> bool:
    return saved is own or (isinstance(saved, (str, int, float)) and saved == own)


def resume_newest(runner) -> None:
    """Resume from the newest checkpoint that all processes can load."""
    found = [newest_first(runner.work_dir) if is_main_process() else ([], [])]
    broadcast_object_list(found)
    paths, unreadable = found[0]
    start, failed = copy.deepcopy(run_state.capture(runner, True, True)), []
    for path in paths:
        problem = None
        try:
            runner.resume(path)
        except CheckpointError as error:
            problem = str(error)
            _start_again(runner, copy.deepcopy(start))
        errors = [text for text in all_gather_object(problem) if text]
        if not errors:
            break
        runner.resumed_from = None
        failed.append(errors[0])
    problems = failed + unreadable
    for problem in problems:
        runner.logger.warning(f"not resumed from: {problem}")
    if runner.resumed_from is None and problems:
        raise CheckpointError(
            f"no checkpoint in {runner.work_dir} can be resumed from: {problems[0]}"
        )
    if runner.resumed_from is None:
        runner.logger.warning(
            f"--resume: there is no checkpoint in {runner.work_dir}; starting from the beginning"
        )


def _start_again(runner, state: dict) -> None:
    """Reset optimizers and schedules after an unusable checkpoint."""
    runner.optim_wrapper.load_state_dict(state["optimizer"])
    saved = schedules_in(state.get("param_schedulers", []))
    for schedule, before in zip(schedules_in(runner.param_schedulers), saved, strict=True):
        schedule.load_state_dict(before)
