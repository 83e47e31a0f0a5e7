"""Stop at, or skip, training steps with a non-finite loss or gradient."""

from __future__ import annotations

import inspect
import math

import torch
import torch.distributed

from trn_plugin.checkpoints.newest import last_checkpoint_text
from trn_plugin.config_checks import config_errors
from trn_plugin.engine import step_log
from trn_plugin.engine.optimizers import wrappers_of
from trn_plugin.engine.step_log import StepLog
from trn_plugin.errors import TrainingError, printable

__all__ = ["FiniteSteps", "reads_late"]

MOST_SKIPPED = 100  # consecutive steps; a run that skips more is stopped


def reads_late(device: torch.device) -> bool:
    """Whether to read flags and log values of this device without synchronisation."""
    return device.type == "cuda"


class FiniteSteps:
    """Runs a runner's training steps; a non-finite step ends the run or is skipped.

    Losses and the gradient norm are checked after the backward pass. On a CPU this is immediate.
    On a GPU, a fused optimizer skips its update by a flag on the device (``found_inf``), which the
    host reads later with the log (:class:`StepLog`); the first step and other optimizers
    synchronise. Processes share their gradients, and agree on skipping if a loss is non-finite.
    Overflows under mixed precision are left to the gradient scaler.

    Args:
        runner (SafeRunner): with its model and optimizers built.
        action (str): 'stop' raises TrainingError; 'skip' undoes the step, warns and counts it.

    Attributes:
        begun (bool): whether a step has begun.
        infinite (dict): copies of the model's buffers that hold infinities by design, as masks do.
        late (bool): whether flags and log values are read late, without synchronisation.
    """

    def __init__(self, runner, action: str = "stop") -> None:
        self.runner, self.skips, self.begun = runner, action == "skip", False
        self.in_a_row, self.last_bad = 0, -1
        model = runner.bare_model
        self.names = {id(p): name for name, p in model.named_parameters()}
        self.infinite = {k: b.clone() for k, b in model.named_buffers() if bool(b.isinf().any())}
        self.device = next(model.parameters()).device
        self.late = reads_late(self.device)
        self.log, self.losses = StepLog(runner, self._on_nonfinite), step_log.Losses()
        self.wrappers = list(wrappers_of(runner.optim_wrapper).values())
        self.handles = [model.register_forward_hook(self.losses)]
        self.clipped, self.flagged = {}, []
        for wrapper in self.wrappers:
            optimizer = wrapper.optimizer
            if hasattr(optimizer, "register_step_pre_hook"):
                self.handles.append(optimizer.register_step_pre_hook(self._before_step))
                self.handles.append(optimizer.register_step_post_hook(self._after_step))
            if getattr(wrapper, "clip_grad_kwargs", None):
                options, probe = wrapper.clip_grad_kwargs, torch.ones(1, device=self.device)
                probe.grad = torch.ones_like(probe)
                with config_errors(f"optim_wrapper.clip_grad: {printable(options)}"):
                    inspect.signature(wrapper.clip_func).bind([], **options)
                    wrapper.clip_func([probe], **options)
            if getattr(wrapper, "clip_func", None) is torch.nn.utils.clip_grad_norm_:
                self.clipped[id(optimizer)] = wrapper
                wrapper.clip_func = self._clipper(wrapper)

    def close(self) -> None:
        """Remove the hooks from the model and the optimizers."""
        for handle in self.handles:
            handle.remove()
        for wrapper in self.clipped.values():
            wrapper.clip_func = torch.nn.utils.clip_grad_norm_

    def train_step(self, data_batch) -> dict:
        """Run the model's training step and return its log entries.

        Raises:
            TrainingError: a non-finite step; names iteration, task and level if known.
        """
        runner, self.begun = self.runner, True
        counts = [getattr(wrapper, "inner_count", 0) for wrapper in self.wrappers]
        statistics = step_log.statistics_of(runner.bare_model) if self.skips else []
        self.stepped, self.good, self.masked, self.norms = False, None, None, {}
        try:
            outputs = runner.model.train_step(data_batch, optim_wrapper=runner.optim_wrapper)
            at_once = not (self.stepped or self.skips or self.late)
            problem = self.losses.bad_text() if at_once else None
        except TrainingError as error:
            problem = str(error)
        if problem is not None:
            return self._stop_or_skip(problem, counts, statistics)
        due = all(wrapper.should_update() for wrapper in self.wrappers)
        if due:
            self.losses.clear()
        for tensor, before in statistics if self.good is not None else ():
            tensor.copy_(torch.where(self.good, tensor, before))
        norms = {w.grad_name: self.norms[k] for k, w in self.clipped.items() if k in self.norms}
        entries = {**{name: norm.total for name, norm in norms.items()}, **outputs}
        scaled = any(hasattr(wrapper, "loss_scaler") for wrapper in self.wrappers)
        if scaled or self.skips:
            skipped = int(scaled and due and not self.stepped)
            entries["skipped_steps"] = skipped if self.masked is None else self.masked
        self._log(entries)
        return outputs

    def _log(self, entries: dict) -> None:
        self.log.add(self.runner.iter + 1, entries, self.good, [*self.norms.values()])
        if not self.late:
            self.log.flush()

    def _on_nonfinite(self, iteration: int, entries: dict, norms: list) -> None:
        """Stop at, or count, a non-finite step whose flag was read late."""
        losses = {k: v for k, v in entries.items() if "loss" in k and not math.isfinite(v)}
        bad = [each for each in norms if not bool(each.each.isfinite().all())] or norms
        problem = step_log.losses_text(losses) or bad[0].bad_text(self.names)
        self._stop_or_count(iteration, problem)

    def _stop_or_skip(self, problem: str, counts: list[int], statistics: list) -> dict:
        """Stop, or undo the step: clear gradients, restore statistics; returns the losses."""
        self.log.flush()
        self._stop_or_count(self.runner.iter + 1, problem)
        for wrapper, count in zip(self.wrappers, counts, strict=True):
            if (
                getattr(wrapper, "inner_count", None) == count
            ):  # the pass that counts, backward, was not reached
                wrapper.backward(torch.zeros((), device=self.device, requires_grad=True))
            wrapper.zero_grad()
        for tensor, before in statistics:
            tensor.copy_(before)
        outputs = {name: torch.cat(values).mean() for name, values in self.losses.items()}
        self.losses.clear()
        self.good = None  # it is counted already
        self._log({**outputs, "skipped_steps": 1})
        return outputs

    def _stop_or_count(self, iteration: int, problem: str) -> None:
        """Count and log a skipped step; TrainingError for 'stop', or after too many in a row."""
        runner = self.runner
        self.in_a_row = self.in_a_row + 1 if iteration == self.last_bad + 1 else 1
        self.last_bad = iteration
        if self.skips and self.in_a_row > MOST_SKIPPED:
            problem += f", and the {MOST_SKIPPED} steps before were skipped too"
        if not self.skips or self.in_a_row > MOST_SKIPPED:
            where = last_checkpoint_text(runner.work_dir)
            raise TrainingError(f"iteration {iteration}: {problem}; {where}")
        skipped = runner.message_hub.runtime_info.get("skipped_steps", 0) + 1
        runner.message_hub.update_info("skipped_steps", skipped)
        runner.logger.warning(
            f"iteration {iteration}: {problem}; the step was skipped "
            f"({skipped} of {iteration} so far)"
        )

    def _clipper(self, wrapper):
        """``clip_grad_norm_`` that keeps the norm on its device for the check and the log."""

        def clip(parameters, max_norm, norm_type=2.0, error_if_nonfinite=False, foreach=None):
            norms = step_log.norms_of(parameters, float(norm_type))
            self.norms[id(wrapper.optimizer)] = norms
            torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norms.total, foreach)

        return clip

    def _before_step(self, optimizer, args, kwargs) -> None:
        self.stepped = True
        scaler = getattr(optimizer, "found_inf", None)  # set by a gradient scaler, if any
        if id(optimizer) not in self.norms:
            params = [p for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
            self.norms[id(optimizer)] = step_log.norms_of(params)
        norms = self.norms[id(optimizer)]
        values = [v for losses in self.losses.values() for v in losses]
        values += [norms.total.reshape(1)] if scaler is None else []
        if not values:
            return
        flat = torch.cat([value.to(self.device, torch.float32) for value in values])
        good = flat.isfinite().all()
        if self.skips and torch.distributed.is_initialized():
            agreed = good.to(torch.int32)
            torch.distributed.all_reduce(agreed, op=torch.distributed.ReduceOp.MIN)
            good = agreed.bool()
        fused = all(group.get("fused") for group in optimizer.param_groups)
        if self.late and fused and optimizer.state:  # the first step may ignore the flag
            self.good = good if self.good is None else self.good & good
            bad = (~self.good).to(torch.float32)
            self.masked = bad if scaler is None else torch.maximum(bad, scaler.reshape(()))
            optimizer.found_inf = self.masked
            if scaler is None:
                self.flagged.append(optimizer)
        elif not bool(good):
            raise TrainingError(self.losses.bad_text() or norms.bad_text(self.names))
        self.losses.clear()

    def _after_step(self, optimizer, args, kwargs) -> None:
        if optimizer in self.flagged:
            self.flagged.remove(optimizer)
            del optimizer.found_inf
