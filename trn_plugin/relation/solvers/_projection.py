"""Rayleigh-Ritz projection onto the vectors found so far."""

import torch
from torch import Tensor

__all__ = ["Projection", "unpadded"]

MIN_GAP = 5e-4  # lower bound on the gap between Ritz values


def unpadded(rows: Tensor, d1: int, d2: int) -> list[list[Tensor]]:
    """Views of the vectors, own and cross products of each side of rows (2, ..., 3, d)."""
    widths = (d1, d1, d2), (d2, d2, d1)
    return [[rows[side, ..., i, :w] for i, w in enumerate(widths[side])] for side in range(2)]


class Projection:
    """Canonical correlations (Ritz values) within a basis of each side.

    ``rows`` (2, K, 3, d) hold for both sides K vectors, their products with the side's own
    covariance and with the cross-covariance. The narrower side is padded with zeros, so that one
    operation serves both. Here the bases are orthonormal in the shrunk covariances.

    Attributes:
        tau (float): largest Ritz value.

    Raises:
        torch.linalg.LinAlgError: linearly dependent vectors, or non-finite values.
    """

    def __init__(
        self, s11: Tensor, s12: Tensor, s22: Tensor, shrinkage: float, rows: Tensor, room: int
    ) -> None:
        self.s11, self.s12, self.s22 = s11, s12, s22
        traces = [s.diagonal().mean(dtype=torch.float64) for s in (s11, s22)]
        self.ridge = shrinkage * torch.stack(traces)[:, None]
        count, d = rows.shape[1], rows.shape[3]
        rows = rows.clone()
        rows[:, :, 1] += self.ridge[:, None] * rows[:, :, 0]
        lower = torch.linalg.cholesky(rows[:, :, 1] @ rows[:, :, 0].mT)
        self.flat = rows.new_empty(2, count + room, 3 * d)
        identity = torch.eye(count, dtype=rows.dtype)
        inverse = torch.linalg.solve_triangular(lower, identity, upper=False)
        torch.bmm(inverse, rows.flatten(2), out=self.flat[:, :count])
        self._resize(count)
        self.cross = rows.new_empty(count + room, count + room)
        self.cross[:count, :count] = self.across[0] @ self.vectors[1].mT
        # a new vector and its products, in the dtype of the covariances
        self.new = s12.new_zeros(2, 3, d)
        self.parts = unpadded(self.new, *s12.shape)
        self._solve()

    def _resize(self, count: int) -> None:
        self.count = count
        self.vectors, self.along, self.across = self.flat[:, :count].tensor_split(3, 2)

    def _solve(self) -> None:
        """Solve the projected problem."""
        self.whitened = k = self.cross[: self.count, : self.count]
        self.squares, self.right = torch.linalg.eigh(k.mT @ k)
        self.tau = max(float(self.squares[-1]), 0.0) ** 0.5
        v = self.right[:, -1]
        coefficients = torch.stack([torch.mv(k, v).div_(self.tau), v])
        ritz = torch.bmm(coefficients[:, None], self.flat[:, : self.count])
        self.ritz, self.ritz_along, self.ritz_across = ritz[:, 0].tensor_split(3, 1)

    def residuals(self) -> Tensor:
        """Residuals of the two equations, (2, d)."""
        return torch.sub(self.ritz_across.flip(0), self.ritz_along, alpha=self.tau)

    def second_order_change(self, corrections: Tensor) -> tuple[float, float]:
        """Second-order effect of corrections (2, d) through coupling to other Ritz pairs.

        Returns the squared change of the gradient, as ``Correction`` measures it, and the larger
        relative change of the two vectors.
        """
        tau, x = self.tau, corrections.double()
        near = int(torch.searchsorted(self.squares, tau**2 / 4))
        values, w = self.squares[near:-1].sqrt(), self.right[:, near:-1]
        pairs = torch.stack([self.whitened @ w / values, w])
        inside = torch.bmm(self.along, x[..., None])
        outside = torch.bmm(self.across, x.flip(0)[..., None])
        inner, outer = torch.bmm(pairs.mT, torch.cat([inside, outside], 2)).sum(0).unbind(1)
        share = (outer - values * inner) / (2 * (tau - values).clamp_(min=MIN_GAP))
        change = float((share.square() * (1 + tau**2 - 2 * tau * values)).sum())
        within = pairs @ share[:, None] - inside
        x = torch.baddbmm(x[:, None], within.mT, self.vectors)[:, 0]
        rotation = torch.linalg.vector_norm(x, dim=1) / torch.linalg.vector_norm(self.ritz, dim=1)
        return change, float(rotation.max())

    def extend(self, corrections: Tensor) -> None:
        """Add the orthogonal parts of corrections (2, d) to the bases, and solve again."""
        n, x = self.count, corrections.double()[:, None]
        # products are computed from the orthogonal part: differences of products lose directions
        # of no variance
        self.new[:, 0] = torch.baddbmm(x, x @ self.along.mT, self.vectors, alpha=-1)[:, 0]
        (x, own1, cross1), (y, own2, cross2) = self.parts
        torch.mv(self.s11, x, out=own1)
        torch.mv(self.s12.mT, x, out=cross1)
        torch.mv(self.s12, y, out=cross2)
        torch.mv(self.s22, y, out=own2)
        new = self.flat[:, n]
        new.copy_(self.new.flatten(1))
        vector, along, across = new.tensor_split(3, 1)
        along.addcmul_(self.ridge, vector)
        overlap = torch.bmm(vector[:, None], self.along.mT)
        self.flat[:, n : n + 1].baddbmm_(overlap, self.flat[:, :n], alpha=-1)
        new *= (vector * along).sum(1, keepdim=True).rsqrt_()
        self._resize(n + 1)
        torch.mv(self.vectors[1], across[0], out=self.cross[n, : n + 1])
        self.cross[:n, n] = torch.mv(self.across[0, :n], vector[1])
        self._solve()

    def leading_rows(self, count: int) -> Tensor:
        """Rows of the leading ``count`` Ritz vectors, with products of the unshrunk covariances."""
        squares = self.squares
        if float(squares[-count]) > 1e-10 * float(squares[-1]):
            v = self.right[:, -count:].flip(1)
            u = self.whitened @ v / squares[-count:].flip(0).sqrt()
        else:  # eigh loses small values, which it squares
            u, _, vh = torch.linalg.svd(self.whitened)
            u, v = u[:, :count], vh[:count].mT
        rows = (torch.stack([u, v]).mT @ self.flat[:, : self.count]).unflatten(2, (3, -1))
        rows[:, :, 1] -= self.ridge[:, None] * rows[:, :, 0]
        return rows
