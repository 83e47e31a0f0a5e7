"""No step with a loss or a gradient that is not finite."""

from __future__ import annotations

import torch
import torch.distributed
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from trn_plugin.errors import (
    CheckpointError,
    ConfigError,
    TrainingError,
    first_line,
    printable,
)

__all__ = ["ACTIONS", "FiniteSteps"]

ACTIONS = ("stop", "skip")
MOST_SKIPPED = 100
"""Steps in a row; a run that skips more of them does not train."""


class _NotFinite(TrainingError):
    """Raised between the backward pass and the optimizer's step."""


class _Losses(dict):
    """Forward hook of a model: its losses since the last step, by name."""

    def __call__(self, module, inputs, output) -> None:
        if module.training and isinstance(output, dict):
            for name, value in output.items():
                values = value if isinstance(value, (list, tuple)) else [value]
                if "loss" in name and all(torch.is_tensor(v) for v in values):
                    self.setdefault(name, []).extend(v.detach() for v in values)

    def __deepcopy__(self, memo):
        return _Losses()  # a copy of the model has had no step


class FiniteSteps:
    """Runs a runner's training steps; one that is not finite ends the run, or is left out.

    Losses and gradients are looked at once, after the backward pass, so that a GPU is waited for
    once. Of several processes all see the same gradients and so decide alike; whether to skip for
    a loss alone they agree on. Under mixed precision a gradient that overflowed is the business
    of the gradient scaler, which skips that step and lowers its scale.

    Args:
        runner (SafeRunner): whose model and optimizers are built.
        action (str): 'stop' raises TrainingError, 'skip' leaves weights and normalisation
            statistics as they were before the step, says so in the log and counts.
    """

    def __init__(self, runner, action: str = "stop") -> None:
        if action not in ACTIONS:
            raise ConfigError(f"non_finite: expected one of {', '.join(ACTIONS)}, found {action!r}")
        self.runner = runner
        self.begun = False
        self.built = {
            name: buffer.clone()
            for name, buffer in runner.bare_model.named_buffers()
            if torch.isinf(buffer).any()
        }
        self.skips = action == "skip"
        self.in_a_row = 0
        self.losses = _Losses()
        self.names = {id(p): name for name, p in runner.bare_model.named_parameters()}
        wrapper = runner.optim_wrapper
        wrappers = [wrapper] if hasattr(wrapper, "optimizer") else list(wrapper.values())
        self.wrappers = wrappers
        self.handles = [runner.bare_model.register_forward_hook(self.losses)]
        self.handles += [
            w.optimizer.register_step_pre_hook(self._before_step)
            for w in wrappers
            if hasattr(w.optimizer, "register_step_pre_hook")
        ]

    def close(self) -> None:
        """Take the hooks off the model and the optimizers."""
        for handle in self.handles:
            handle.remove()

    def train_step(self, data_batch) -> dict:
        """The model's training step.

        Returns:
            dict: what there is to log; where steps can be skipped also ``skipped_steps``, 1 for a
            step that was.

        Raises:
            TrainingError: naming iteration, task and level, as far as they are known.
            CheckpointError: in the first step of a resumed run, from an optimizer whose state in
                the file is of no use.
        """
        runner = self.runner
        self.begun = True
        counts = [getattr(w, "_inner_count", 0) for w in self.wrappers]
        statistics = _statistics(runner.bare_model) if self.skips else []
        self.stepped = False
        try:
            outputs = runner.model.train_step(data_batch, optim_wrapper=runner.optim_wrapper)
            problem = None if self.stepped or self.skips else self._bad_losses()
        except TrainingError as error:
            problem = str(error)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # of an optimizer that meets odd things in its state, any
            if self.stepped and runner.resumed_from:
                raise CheckpointError(
                    f"{runner.resumed_from}: the optimizer cannot go on from the state in it: "
                    f"{type(error).__name__}: {printable(first_line(error))}"
                ) from error
            of_clipping = isinstance(error, RuntimeError) and "non-finite" in str(error)
            if not of_clipping:
                raise
            problem = self._bad_losses() or self._bad_gradients() or first_line(error)
        if self.stepped:
            runner.resumed_from = None
        if problem is None:
            self.in_a_row = 0
            due = all(w.should_update() for w in self.wrappers)
            if due:
                self.losses.clear()
            scaled = any(hasattr(w, "loss_scaler") for w in self.wrappers)
            if scaled or self.skips:
                outputs = _finite_only(outputs, int(scaled and due and not self.stepped))
            return outputs
        if not self.skips:
            raise TrainingError(
                f"iteration {runner.iter + 1}: {problem}; {runner.last_checkpoint_text()}"
            )
        return self._skip(problem, counts, statistics)

    def _skip(self, problem: str, counts: list[int], statistics: list) -> dict:
        runner = self.runner
        for wrapper, count in zip(self.wrappers, counts, strict=True):
            wrapper.optimizer.zero_grad()
            if hasattr(wrapper, "_inner_count"):
                wrapper._inner_count = count + 1
        for tensor, before in statistics:
            tensor.copy_(before)
        outputs = {k: torch.stack(v).mean() for k, v in self.losses.items()}
        self.losses.clear()
        self.in_a_row += 1
        done = runner.iter + 1
        skipped = runner.message_hub.runtime_info.get("skipped_steps", 0) + 1
        runner.message_hub.update_info("skipped_steps", skipped)
        runner.logger.warning(
            f"iteration {done}: {problem}; the step was skipped ({skipped} of {done} so far)"
        )
        if self.in_a_row > MOST_SKIPPED:
            raise TrainingError(
                f"iteration {done}: {problem}, and the {MOST_SKIPPED} steps before were skipped "
                f"too; {runner.last_checkpoint_text()}"
            )
        return _finite_only(outputs, 1)

    def _before_step(self, optimizer, args, kwargs) -> None:
        self.stepped = True
        grads = _gradients(optimizer)
        flags = [torch.isfinite(v).all() for values in self.losses.values() for v in values]
        if grads:
            largest = torch.nn.utils.get_total_norm(grads, norm_type=float("inf"))
            flags.append(torch.isfinite(largest))
        if not flags:
            return
        good = torch.stack([flag.to(flags[0].device) for flag in flags]).all()
        if self.skips and torch.distributed.is_initialized():
            good = good.to(torch.int32)
            torch.distributed.all_reduce(good, op=torch.distributed.ReduceOp.MIN)
        if not bool(good):
            raise _NotFinite(
                self._bad_losses()
                or self._bad_gradients()
                or "a loss of another process is not finite"
            )
        self.losses.clear()

    def _bad_losses(self) -> str | None:
        bad = {
            name: float(next(v for v in torch.stack(values).flatten() if not torch.isfinite(v)))
            for name, values in self.losses.items()
            if not torch.isfinite(torch.stack(values)).all()
        }
        return " and ".join(f"{_loss_name(k)} is {v}" for k, v in bad.items()) or None

    def _bad_gradients(self) -> str | None:
        bad = [
            self.names.get(id(parameter), "a parameter")
            for wrapper in self.wrappers
            for group in wrapper.optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
        ]
        if not bad:
            return None
        tasks = [task for task in getattr(self.runner.bare_model, "tasks", ()) if _of(task, bad)]
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        of = f" (of {' and '.join(tasks)})" if tasks else ""
        return f"the gradient of {bad[0]}{more}{of} is not finite"


def _gradients(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]


def _of(task: str, names: list[str]) -> bool:
    return any(task in name.split(".")[:-1] for name in names)


def _loss_name(key: str) -> str:
    level = key.removeprefix("loss_relation_")
    if level != key:
        return f"the relation loss of level {level!r}"
    task = key.removeprefix("loss_")
    return f"the loss of task {task!r}" if task != key else repr(key)


def _finite_only(outputs: dict, skipped: int) -> dict:
    finite = {
        name: value
        for name, value in outputs.items()
        if not torch.is_tensor(value) or bool(torch.isfinite(value).all())
    }
    return {**finite, "skipped_steps": skipped}


def _statistics(model: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The buffers that a forward pass changes in normalisation layers, with copies of them."""
    return [
        (buffer, buffer.clone())
        for module in model.modules()
        if isinstance(module, _NormBase)
        for buffer in module.buffers(recurse=False)
    ]
