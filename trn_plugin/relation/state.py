"""The state of a task relation layer: running covariances, pairs and solver states."""

import warnings
from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from trn_plugin.relation import precision
from trn_plugin.relation.covariance import RunningCovariance
from trn_plugin.relation.solvers.davidson import DavidsonState

__all__ = ["RelationState"]


class RelationState(nn.Module):
    """Running covariances of each pair or of all tasks jointly, and solver states of wide pairs.

    Empty until the widths of the tasks are known. Only CPUs use the solver states.
    """

    def __init__(self, dims, pairs, is_joint: bool, identity: bool, has_solvers: bool) -> None:
        super().__init__()
        self._given_pairs = None if pairs is None else tuple(map(tuple, pairs))
        self._is_joint, self._identity, self._has_solvers = is_joint, identity, has_solvers
        self.dims: tuple[int, ...] | None = None
        self.pairs: tuple[tuple[int, int], ...] = ()
        self.groups = nn.ModuleList()
        self.register_buffer("widths", None)
        self.register_buffer("steps", None)  # of wide pairs: number, and number solved exactly
        if dims is not None:
            self._build(dims)

    @property
    def effective_sample_size(self) -> Tensor:
        """Kish's effective sample size of each tau; it tends to batch (1+m)/(1-m)."""
        return self._of_pairs(lambda s: s.effective_sample_size)

    @property
    def batches(self) -> Tensor:
        """Number of updates, of the shape of tau."""
        return self._of_pairs(lambda s: s.batches)

    @property
    def exact_rate(self) -> float | None:
        """Share of the steps of wide pairs that were solved exactly; None without such pairs."""
        if not self._states:
            return None
        solved, exact = self.steps.tolist()
        return exact / max(solved, 1)

    def get_extra_state(self) -> Tensor:
        """Solver states as bytes (n,); n depends on the widths only, and is 0 unless on a CPU."""
        parts = [t.reshape(-1).view(torch.uint8) for s in self._states for t in s.tensors]
        return torch.cat([torch.zeros(0, dtype=torch.uint8), *parts])

    def set_extra_state(self, state: Tensor) -> None:
        """Load the solver states of a layer of the same widths; ignore others."""
        tensors = [t for s in self._states for t in s.tensors]
        sizes = [t.numel() * t.element_size() for t in tensors]
        self.reset_solvers()
        if sizes and sum(sizes) == state.numel():
            for own, values in zip(tensors, state.cpu().split(sizes), strict=True):
                own.copy_(values.clone().view(own.dtype).view(own.shape))

    def reset_solvers(self) -> None:
        """Solve the next step exactly."""
        for state in self._states:
            state.reset()

    @property
    def _states(self) -> list[DavidsonState]:
        states = [pairs.state for s in self.groups if s.on_host for pairs in s.pairs]
        return [state for state in states if state is not None]

    def _build(self, dims: Sequence[int]) -> None:
        """Make covariances, pairs and solver states for tasks of these widths."""
        self.dims, n = tuple(dims), len(dims)
        self.pairs = self._given_pairs or tuple(combinations(range(n), 2))
        for pair in self.pairs:
            if len(set(pair)) < 2 or not all(0 <= task < n for task in pair):
                raise ValueError(f"pairs: expected two of the {n} tasks, found {pair}")
        if len(set(map(frozenset, self.pairs))) < len(self.pairs):
            raise ValueError(f"pairs: expected each pair once, found {self.pairs}")
        by_widths: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        for tasks in [tuple(range(n))] if self._is_joint or n == 2 else self.pairs:
            by_widths.setdefault(tuple(dims[task] for task in tasks), []).append(tasks)
        self.groups = nn.ModuleList(
            RunningCovariance(sets, self.dims, self.pairs, self._identity)
            for sets in by_widths.values()
        )
        all_pairs = [pairs for s in self.groups for pairs in s.pairs]
        for pairs in all_pairs if self._has_solvers else ():
            if precision.iterates(*pairs.widths):
                pairs.state = DavidsonState(*pairs.widths)
        order = torch.tensor([index for pairs in all_pairs for index in pairs.indices])
        self.register_buffer("order", order.argsort(), persistent=False)
        widths = [[dims[task] for task in pair] for pair in self.pairs]
        self.register_buffer("pair_dims", torch.tensor(widths), persistent=False)  # (P, 2)
        self.widths = torch.tensor(dims)
        self.steps = torch.zeros(2, dtype=torch.int64)

    def _of_pairs(self, value: Callable[[RunningCovariance], Tensor]) -> Tensor:
        return self._ordered([p.of_sets(value(s)) for s in self.groups for p in s.pairs])

    def _ordered(self, values: list[Tensor]) -> Tensor:
        """Concatenate values of the groups in the order of ``pairs``; 0-d for two tasks."""
        if not values:
            return torch.zeros(())
        ordered = values[0] if len(values) == 1 else torch.cat(values)[self.order]
        return ordered.squeeze(0) if len(self.dims) == 2 else ordered

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        widths = state_dict.get(f"{prefix}widths")
        if self.dims is None and widths is not None:
            self._build(widths.tolist())
            self.to(widths.device)
        is_old = f"{prefix}groups.0.moments" in state_dict
        dropped = tuple(prefix + name for name in ("warm.", "groups.")[: 1 + is_old])
        for key in [key for key in state_dict if key.startswith(dropped)]:
            del state_dict[key]
        if is_old:
            warnings.warn("running covariances of an earlier version start anew", stacklevel=2)
            device = self.widths.device
            self._build(self.dims)
            self.to(device)
            state_dict |= self.groups.state_dict(prefix=f"{prefix}groups.")
        state_dict.setdefault(f"{prefix}_extra_state", torch.zeros(0, dtype=torch.uint8))
        super()._load_from_state_dict(state_dict, prefix, *args)
