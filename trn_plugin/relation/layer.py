"""The task relation layer (Algorithm 1) with its closed-form gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trn_plugin.relation._running import (
    canonical_pair,
    centre,
    sum_over_ranks,
    working_dtype,
    world_size,
)
from trn_plugin.relation.similarity import check_features

__all__ = ["TaskRelationLayer"]


class TaskRelationLayer(nn.Module):
    r"""Task similarity of features that change as the network learns (Algorithm 1).

    Each training step centres the mini-batch, updates running moments

    .. math:: S_{ij} \leftarrow m S_{ij} + (1-m)\, \bar F_i^\top \bar F_j,
              \qquad S_{ii} = I,\; S_{12} = 0 \text{ at the start}

    and returns their largest canonical correlation tau. Gradients flow through this batch's
    moments only. With w = 1 - m, and a, b the canonical vectors of the updated moments,

    .. math:: \partial\tau/\partial F_1 = w \left(\bar F_2 b a^\top - \tau \bar F_1 a a^\top
              - \tau \tfrac{\epsilon}{d_1} |a|^2 \bar F_1\right)

    and the same with 1 and 2 exchanged; the last term is that of the shrinkage, which moves with
    the moments. No decomposition is differentiated, so the gradient is finite where autograd
    through an SVD is not: from S = I with d > N, with dead features and one-hot labels.

    In evaluation mode nothing is updated and tau of the moments so far is returned. Under
    torch.distributed the moments are summed over ranks around the global mean, and the gradient
    is scaled by the world size, since DistributedDataParallel averages gradients.

    Args:
        momentum (float): m, in [0, 1).
        shrinkage (float): epsilon. :math:`S_{ii} + \epsilon\, \mathrm{tr}(S_{ii})/d_i\, I` is
            what is whitened; prevents a singular factor (one-hot labels, dead features).
        dims (tuple[int, int], optional): d1, d2; else taken from the first features.
        names (tuple[str, str]): what the errors call the two sides.

    Raises:
        ValueError: an option out of range, shapes that do not fit, or features that are not
            finite: at once on a CPU, one step later on other devices, where reading a flag at
            once would stall the device. Such a batch never enters the running moments.

    Example:
        >>> import torch
        >>> layer = TaskRelationLayer(momentum=0.99)
        >>> tau = layer(torch.randn(128, 10), torch.randn(128, 5))
        >>> tau.shape
        torch.Size([])
    """

    def __init__(
        self,
        momentum: float = 0.99,
        shrinkage: float = 1e-5,
        dims: tuple[int, int] | None = None,
        names: tuple[str, str] = ("f1", "f2"),
    ) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum: expected a number in [0, 1), got {momentum}")
        if not 1e-9 <= shrinkage <= 1:
            raise ValueError(f"shrinkage: expected a number in [1e-9, 1], got {shrinkage}")
        self.momentum = momentum
        self.shrinkage = shrinkage
        self.names = tuple(names)
        for buffer in _STATE:
            self.register_buffer(buffer, None)
        self._nonfinite: Tensor | None = None
        if dims is not None:
            self._start(*dims, device=torch.device("cpu"))

    @property
    def dims(self) -> tuple[int, int] | None:
        """(d1, d2), None before they are known."""
        return None if self.s12 is None else tuple(self.s12.shape)

    @property
    def effective_sample_size(self) -> Tensor:
        """0-d: samples behind the running moments, (sum of weights)^2 / sum of squared weights.

        Tends to batch (1+m)/(1-m) with a constant batch size (Kish's formula).
        """
        if self.s12 is None:
            return torch.zeros(())
        return self.weight**2 / self.squared_weight.clamp(min=1e-30)

    @torch.no_grad()
    def similarity(self) -> Tensor:
        """0-d: tau of the running moments; 0 before the first update."""
        if self.s12 is None:
            return torch.zeros(())
        return canonical_pair(self.s11, self.s12, self.s22, self.shrinkage)[0]

    def forward(self, f1: Tensor, f2: Tensor, mask: Tensor | None = None) -> Tensor:
        """Update the moments (training mode) and return tau.

        Args:
            f1 (Tensor): (N, d1) features of one task.
            f2 (Tensor): (N, d2) features of the other, of the same samples.
            mask (Tensor, optional): (N,) bool, the samples that count; with fewer than two of
                them on all ranks the moments stay as they are and the gradient is 0.

        Returns:
            Tensor: 0-d, in [0, 1], float32 at least, on the features' device.
        """
        check_features(f1, f2, self.names)
        if self.s12 is None:
            self._start(f1.shape[1], f2.shape[1], device=f1.device)
        elif self.s12.device != f1.device:
            self._move(f1.device)
        if (f1.shape[1], f2.shape[1]) != self.dims:
            raise ValueError(
                f"{self.names[0]} and {self.names[1]}: expected {self.dims} features as in the "
                f"running moments, got {(f1.shape[1], f2.shape[1])}"
            )
        dtype = torch.promote_types(torch.promote_types(f1.dtype, f2.dtype), torch.float32)
        if not self.training:
            return self.similarity().to(dtype)
        if mask is None:
            mask = torch.ones(len(f1), dtype=torch.bool, device=f1.device)
        elif mask.shape != f1.shape[:1]:
            raise ValueError(f"mask: expected shape ({len(f1)},), got {tuple(mask.shape)}")
        self._raise_if_nonfinite(self._nonfinite)
        tau, nonfinite = _UpdateAndMeasure.apply(f1, f2, mask, self)
        self._nonfinite = nonfinite
        if nonfinite.device.type == "cpu":
            self._raise_if_nonfinite(nonfinite)
        return tau.to(dtype)

    def extra_repr(self) -> str:
        return f"momentum={self.momentum}, shrinkage={self.shrinkage}, dims={self.dims}"

    def _start(self, d1: int, d2: int, device: torch.device) -> None:
        options = {"dtype": working_dtype(device), "device": device}
        self.s11, self.s22 = torch.eye(d1, **options), torch.eye(d2, **options)
        self.s12 = torch.zeros(d1, d2, **options)
        self.weight, self.squared_weight = (torch.zeros((), **options) for _ in range(2))

    def _move(self, device: torch.device) -> None:
        for name in _STATE:
            setattr(self, name, getattr(self, name).to(device, working_dtype(device)))

    def _apply(self, fn, recurse=True):
        """Follow a move to another device; ``half()`` and its like do not reach the moments."""
        if self.s12 is not None:
            device = fn(torch.empty(0, device=self.s12.device)).device
            if device != self.s12.device:
                self._move(device)
        return self

    @torch.no_grad()
    def _update(self, x1: Tensor, x2: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Algorithm 1, lines 8-13; returns w (0 if the batch was left out) and the fault flags."""
        d1, d2 = x1.shape[1], x2.shape[1]
        batch = sum_over_ranks(torch.cat([(x1.T @ x1), (x1.T @ x2)], 1).flatten())
        c11, c12 = batch.view(d1, d1 + d2).split([d1, d2], 1)
        c22 = sum_over_ranks(x2.T @ x2)
        nonfinite = ~torch.stack([torch.isfinite(c11).all(), torch.isfinite(c22).all()])
        counts = (count >= 2) & ~nonfinite.any()
        m = self.momentum
        for state, moments in ((self.s11, c11), (self.s12, c12), (self.s22, c22)):
            state.copy_(torch.where(counts, m * state + (1 - m) * moments, state))
        self.weight.copy_(torch.where(counts, m * self.weight + (1 - m) * count, self.weight))
        squared = m**2 * self.squared_weight + (1 - m) ** 2 * count
        self.squared_weight.copy_(torch.where(counts, squared, self.squared_weight))
        return counts * torch.full_like(count, 1 - m), nonfinite

    def _raise_if_nonfinite(self, nonfinite: Tensor | None) -> None:
        if nonfinite is not None and bool(nonfinite.any()):
            self._nonfinite = None
            names = [n for n, bad in zip(self.names, nonfinite.tolist(), strict=True) if bad]
            raise ValueError(
                f"{' and '.join(names)}: the features hold values that are not finite (or whose "
                "squares are not); the batch was left out of the running moments"
            )

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        moments = state_dict.get(f"{prefix}s12")
        if self.s12 is None and moments is not None and moments.ndim == 2:
            self._start(*moments.shape, device=moments.device)
        super()._load_from_state_dict(state_dict, prefix, *args)


_STATE = ("s11", "s12", "s22", "weight", "squared_weight")


class _UpdateAndMeasure(torch.autograd.Function):
    @staticmethod
    def forward(ctx, f1: Tensor, f2: Tensor, mask: Tensor, layer: TaskRelationLayer):
        with torch.autocast(f1.device.type, enabled=False):
            (x1, x2), count = centre([f1, f2], mask)
            w, nonfinite = layer._update(x1, x2, count)
            tau, a, b = canonical_pair(layer.s11, layer.s12, layer.s22, layer.shrinkage)
        counts = w > 0
        x1, x2 = (torch.where(counts, x, 0.0) for x in (x1, x2))
        ctx.save_for_backward(x1, x2, a, b, tau, w * world_size())
        ctx.shrinkage = layer.shrinkage
        ctx.dtypes = f1.dtype, f2.dtype
        ctx.mark_non_differentiable(nonfinite)
        return tau, nonfinite

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor, _):
        x1, x2, a, b, tau, w = ctx.saved_tensors
        p, q = x1 @ a, x2 @ b
        ridge1 = tau * ctx.shrinkage / len(a) * a.dot(a)
        ridge2 = tau * ctx.shrinkage / len(b) * b.dot(b)
        scale = grad.to(w.dtype) * w
        g1 = scale * (torch.outer(q - tau * p, a) - ridge1 * x1)
        g2 = scale * (torch.outer(p - tau * q, b) - ridge2 * x2)
        return g1.to(ctx.dtypes[0]), g2.to(ctx.dtypes[1]), None, None
