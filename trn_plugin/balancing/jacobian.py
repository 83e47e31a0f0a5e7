"""Jacobian descent: aggregate the gradients of the losses by TorchJD."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
import torch.distributed as dist
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from trn_plugin.errors import ConfigError, first_line, printable
from trn_plugin.ranks import sum_over_ranks, world_size
from trn_plugin.registry import OPTIM_WRAPPERS

__all__ = ["JacobianOptimWrapper"]

WHERE = "optim_wrapper.aggregator"
RELATION = "loss_relation_"


@OPTIM_WRAPPERS.register_module()
class JacobianOptimWrapper(OptimWrapper):
    """Aggregates the losses' gradients of the shared parameters (TorchJD).

    Each loss is a row of the Jacobian of the shared parameters, which the aggregator combines to
    one gradient. All other parameters get the sum of the losses' gradients, as in plain training.
    The aggregator sets the scale: UPGrad and MGDA average where plain training sums.

    - Accumulation sums the Jacobians of k batches and aggregates once. Clipping follows.
    - Several processes average the Jacobian, and the first one aggregates it: two processes with
      half the batch each do what one does with the whole batch.
    - A task without labels in the batch has a zero row. The row is left out, except for aggregators
      with a state or with a list of one number per row.
    - A resumed run is bit-identical. TorchJD cannot save the state of aggregators such as
      NashMTL and GradVac; their runs cannot be resumed.
    - Each loss costs a backward pass, and memory for a gradient of the shared parameters.

    Args:
        optimizer, accumulative_counts, clip_grad: see MMEngine's ``OptimWrapper``.
        aggregator (dict | str): the name of a TorchJD aggregator as ``type``, and its arguments;
            lists of numbers become tensors. A string is a name without arguments.
        relation_losses (str): 'row' makes the sum of the relation losses one row, 'tasks' adds an
            equal share of it to each task's row.
        shared (str): dotted prefix of the names of the shared parameters.

    Raises:
        ConfigError: TorchJD is missing, or has no such aggregator or arguments; no parameter is
            shared; the losses are not a dict; a run is resumed whose aggregator has a state.
    """

    differentiates_often = True

    def __init__(
        self,
        optimizer,
        aggregator: Mapping | str | None = None,
        relation_losses: str = "row",
        shared: str = "backbone.trunk",
        accumulative_counts: int = 1,
        clip_grad: dict | None = None,
    ) -> None:
        super().__init__(optimizer, accumulative_counts, clip_grad)
        if relation_losses not in ("row", "tasks"):
            raise ConfigError(
                "optim_wrapper.relation_losses: expected 'row' or 'tasks', "
                f"found {relation_losses!r}"
            )
        aggregator = dict(type=aggregator) if isinstance(aggregator, str) else aggregator
        if not isinstance(aggregator, Mapping):
            raise ConfigError(
                f"{WHERE}: expected the name of an aggregator of TorchJD, such as 'UPGrad', or a "
                f"dict with it as 'type', found {printable(repr(aggregator))}"
            )
        device = optimizer.param_groups[0]["params"][0].device
        self.aggregator = _build(aggregator, device)
        self.fixed_rows = _has_state(self.aggregator) or any(
            isinstance(value, (list, tuple)) for value in aggregator.values()
        )
        self.relation_losses, self.shared = relation_losses, shared
        self.aggregations = 0
        self._losses: dict[str, Tensor] | None = None
        self._names: list[str] = []
        self._model: nn.Module | None = None
        self._jacobian: Tensor | None = None

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Store the losses that the model computes in this context, for ``backward``."""
        wrapped = is_model_wrapper(model)
        self._model, self._losses = model.module if wrapped else model, None
        handle = self._model.register_forward_hook(self._store)
        try:
            # the processes average Jacobians instead
            with model.no_sync() if wrapped else nullcontext():
                yield
        finally:
            handle.remove()
        if not self._losses:
            raise ConfigError(
                "optim_wrapper: JacobianOptimWrapper needs a model whose forward returns a dict of "
                f"losses in mode 'loss'; {type(self._model).__name__} does not"
            )

    def backward(self, loss: Tensor, **kwargs) -> None:
        """Add the Jacobian of the stored losses to that of earlier batches.

        In a skipped step there are none; then this is ``OptimWrapper.backward`` of ``loss``.
        """
        losses, self._losses = self._losses, None
        if losses is None:
            super().backward(loss, **kwargs)
            return
        rows = [self.scale_loss(row) for row in self._rows(losses)]
        jacobian, gradients = self._differentiate(rows)
        if world_size() > 1:
            for tensor in (jacobian, *gradients.values()):
                sum_over_ranks(tensor).div_(world_size())
        self._jacobian = jacobian if self._jacobian is None else self._jacobian + jacobian
        for parameter, gradient in gradients.items():
            before = parameter.grad
            parameter.grad = gradient if before is None else before + gradient
        self._inner_count += 1

    def step(self, **kwargs) -> None:
        """Aggregate, then clip and step as ``OptimWrapper``."""
        jacobian, self._jacobian = self._jacobian, None
        if jacobian is not None:
            shared = self._parameters()[0]
            parts = self._aggregate(jacobian).split([p.numel() for p in shared])
            for parameter, part in zip(shared, parts, strict=True):
                # fused optimizers need the parameter's memory format
                parameter.grad = torch.empty_like(parameter).copy_(part.view_as(parameter))
        super().step(**kwargs)

    def zero_grad(self, **kwargs) -> None:
        """As ``OptimWrapper``; also clears the Jacobian."""
        self._jacobian = None
        super().zero_grad(**kwargs)

    def state_dict(self) -> dict:
        """As ``OptimWrapper``, plus the Jacobian accumulated since the last step."""
        state = dict(aggregations=self.aggregations)
        if self._jacobian is not None:
            state["jacobian"] = self._jacobian
        return {**super().state_dict(), "aggregator": state}

    def load_state_dict(self, state_dict: dict) -> None:
        """As ``OptimWrapper``; a ConfigError if the aggregator has a state of earlier steps."""
        state_dict = dict(state_dict)
        state = state_dict.pop("aggregator", {})
        count, jacobian = state.get("aggregations", 0), state.get("jacobian")
        if count and _has_state(self.aggregator):
            raise ConfigError(
                f"{WHERE}: a run with {type(self.aggregator).__name__} cannot be resumed: "
                "TorchJD does not save its state of earlier steps"
            )
        super().load_state_dict(state_dict)
        self.aggregations, self._jacobian = count, jacobian

    def _store(self, module: nn.Module, inputs: tuple, output) -> None:
        if isinstance(output, Mapping):
            self._losses = {
                name: sum(v.mean() for v in value) if isinstance(value, list) else value.mean()
                for name, value in output.items()
                if "loss" in name
            }

    def _rows(self, losses: dict[str, Tensor]) -> list[Tensor]:
        tasks = {name: loss for name, loss in losses.items() if not name.startswith(RELATION)}
        self._names = [name.removeprefix("loss_") for name in tasks]
        tasks = list(tasks.values())
        relations = [loss for name, loss in losses.items() if name.startswith(RELATION)]
        if not relations:
            return tasks
        if self.relation_losses == "row" or not tasks:
            self._names.append("relation losses")
            return [*tasks, sum(relations)]
        return [loss + sum(relations) / len(tasks) for loss in tasks]

    def _parameters(self) -> tuple[list[Tensor], list[Tensor]]:
        """The shared and the other parameters that are trained."""
        named = [(n, p) for n, p in self._model.named_parameters() if p.requires_grad]
        shared = [p for n, p in named if n.startswith(f"{self.shared}.")]
        if not shared:
            raise ConfigError(
                f"optim_wrapper.shared: no trained parameter below {self.shared!r}, nothing to "
                "aggregate; use OptimWrapper"
            )
        return shared, [p for n, p in named if not n.startswith(f"{self.shared}.")]

    def _differentiate(self, rows: list[Tensor]) -> tuple[Tensor, dict[Tensor, Tensor]]:
        """The Jacobian (rows, shared), and the summed gradients of the other parameters.

        Computed row by row, as the autograd function of the relations does not support vmap.
        """
        shared, others = self._parameters()
        jacobian = shared[0].new_zeros(len(rows), sum(p.numel() for p in shared))
        gradients: dict[Tensor, Tensor] = {}
        if dist.is_available() and dist.is_initialized():  # all processes reduce the same tensors
            gradients = {p: torch.zeros_like(p) for p in others}
        last = max((k for k, row in enumerate(rows) if row.requires_grad), default=-1)
        for k, row in enumerate(rows):
            if not row.requires_grad:
                continue
            found = torch.autograd.grad(
                row, [*shared, *others], retain_graph=k < last, allow_unused=True
            )
            parts = jacobian[k].split([p.numel() for p in shared])
            for part, gradient in zip(parts, found, strict=False):
                if gradient is not None:
                    part.copy_(gradient.reshape(-1))
            for parameter, gradient in zip(others, found[len(shared) :], strict=True):
                if gradient is not None:
                    before = gradients.get(parameter)
                    gradients[parameter] = gradient if before is None else before + gradient
        return jacobian, gradients

    def _aggregate(self, jacobian: Tensor) -> Tensor:
        """Aggregate the rows; if any is non-finite, sum them, so that the step's check finds it."""
        self.aggregations += 1
        if not self.fixed_rows:
            jacobian = jacobian[jacobian.abs().amax(1) != 0]
        if not len(jacobian) or not bool(jacobian.isfinite().all()):
            return jacobian.sum(0)
        several = world_size() > 1
        if several and dist.get_rank() != 0:
            gradient = jacobian.new_empty(jacobian.shape[1])
        else:
            try:
                gradient = self.aggregator(jacobian)
            except (ValueError, IndexError) as error:  # wrong number of rows
                raise ConfigError(
                    f"{WHERE}: {type(self.aggregator).__name__} cannot aggregate "
                    f"{len(jacobian)} rows{self._rows_text()}: {printable(first_line(error))}"
                ) from error
        if several:
            dist.broadcast(gradient, 0)
        return gradient

    def _rows_text(self) -> str:
        """Names of the rows for a message; empty if zero rows are left out."""
        if not self.fixed_rows:
            return ""
        names = ", ".join(self._names)
        own = "; relation_losses='tasks' leaves the last one out"
        return f" ({names}{own if self._names[-1] == 'relation losses' else ''})"


def _torchjd(module: str):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{WHERE}: TorchJD is not installed; pip install trn-plugin[torchjd]"
        ) from error


def _has_state(aggregator) -> bool:
    return isinstance(aggregator, _torchjd("torchjd").Stateful)


def _build(config: Mapping, device: torch.device) -> nn.Module:
    """Build the aggregator of a config, with tensors on ``device``."""
    module = _torchjd("torchjd.aggregation")
    bases = (module.Aggregator, module.WeightedAggregator, module.GramianWeightedAggregator)
    classes = {name: getattr(module, name) for name in module.__all__}
    classes = {
        name: kind
        for name, kind in classes.items()
        if issubclass(kind, module.Aggregator) and kind not in bases
    }
    options = dict(config)
    name = options.pop("type", None)
    if name not in classes:
        raise ConfigError(
            f"{WHERE}.type: expected one of {', '.join(sorted(classes))}, found {name!r}"
        )
    for key, value in options.items():
        if isinstance(value, (list, tuple)):
            options[key] = torch.tensor(value, dtype=torch.float32, device=device)
    try:
        return classes[name](**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{WHERE}: {name}: {printable(first_line(error))}") from error
    except ImportError as error:  # its message says what to install
        raise ConfigError(f"{WHERE}: {printable(first_line(error))}") from error
