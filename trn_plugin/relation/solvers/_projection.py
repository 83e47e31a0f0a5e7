"""Rayleigh-Ritz projection onto the vectors found so far."""

import torch
from torch import Tensor

__all__ = ["Basis", "Projection"]

MIN_GAP = 5e-4  # lower bound on the gap between Ritz values


class Basis:
    """Vectors of one side, orthonormal in its shrunk covariance, and their products.

    A row (2 d + other,) holds a vector (d,), its product with this side's covariance s (d, d), and
    its product with the cross-covariance (d, other). In the argument ``rows`` and in the result of
    :meth:`combined` the products are with s, within the basis with s after shrinkage.
    """

    def __init__(self, s: Tensor, cross: Tensor, shrinkage: float, rows: Tensor, room: int) -> None:
        self.s, self.cross = s, cross
        self.ridge = shrinkage * float(s.diagonal().mean(dtype=torch.float64))
        self.rows = rows.new_empty(len(rows) + room, rows.shape[1])
        self.rows[: len(rows)] = rows
        self._resize(len(rows))
        self.along.add_(self.vectors, alpha=self.ridge)

    def _resize(self, count: int) -> None:
        self.count, d = count, len(self.s)
        self.vectors, self.along, self.across = self.rows[:count].tensor_split((d, 2 * d), 1)

    def relative_change(self, coefficients: Tensor, x: Tensor, within: Tensor) -> float:
        """Norm of x + V w relative to that of V c: basis V, ``coefficients`` c, ``within`` w."""
        vector = torch.mv(self.vectors.mT, coefficients)
        change = torch.addmv(x, self.vectors.mT, within)
        return float(change.dot(change) / vector.dot(vector)) ** 0.5

    def orthogonal_part(self, x: Tensor) -> Tensor:
        """A vector (d,) minus its projection onto the basis, in the dtype of the covariance.

        Compute its products from the result: differences of products lose precision in directions
        without variance.
        """
        x = x.double()
        x = torch.addmv(x, self.vectors.mT, torch.mv(self.along, x), alpha=-1)
        return x.to(self.s.dtype)

    def append(self, *row: Tensor) -> None:
        """Orthonormalise a vector with its products, and append them."""
        n, new, d = self.count, self.rows[self.count], len(self.s)
        new.copy_(torch.cat(row))
        vector, along = new[:d], new[d : 2 * d]
        along.add_(vector, alpha=self.ridge)
        new.addmv_(self.rows[:n].mT, torch.mv(self.along, vector), alpha=-1)
        new *= vector.dot(along).rsqrt()
        self._resize(n + 1)

    def combined(self, coefficients: Tensor) -> Tensor:
        """Rows of linear combinations (n, k) of the vectors, with products of the unshrunk s."""
        new, d = coefficients @ self.rows[: self.count], len(self.s)
        new[:, d : 2 * d].add_(new[:, :d], alpha=-self.ridge)
        return new


class Projection:
    """Canonical correlations (Ritz values) within a basis of each side."""

    def __init__(self, first: Basis, second: Basis) -> None:
        self.sides, n = (first, second), first.count
        gram = torch.stack([side.along @ side.vectors.mT for side in self.sides])
        lower, info = torch.linalg.cholesky_ex(gram)
        self.is_valid = not info.any()
        identity = torch.eye(n, dtype=lower.dtype)
        for side, factor in zip(self.sides, lower, strict=True):
            inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
            side.rows[:n] = inverse @ side.rows[:n]
        self.cross = lower.new_empty(len(first.rows), len(second.rows))
        self.cross[:n, :n] = first.across @ second.vectors.mT

    @property
    def whitened(self) -> Tensor:
        """(k, k) cross-covariance of the two orthonormal bases."""
        n = self.sides[0].count
        return self.cross[:n, :n]

    def solve(self) -> tuple[float, Tensor, Tensor]:
        """Largest Ritz value tau, and its coefficients (k,) in each basis."""
        k = self.whitened
        self.squares, self.right = torch.linalg.eigh(k.mT @ k)
        tau = max(float(self.squares[-1]), 0.0) ** 0.5
        v = self.right[:, -1]
        return tau, torch.mv(k, v).div_(tau), v

    def residuals(self, tau: float, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Residuals of the two equations, (d1,) and (d2,) float32."""
        first, second = self.sides
        r1 = torch.mv(second.across.mT, v).sub_(torch.mv(first.along.mT, u), alpha=tau)
        r2 = torch.mv(first.across.mT, u).sub_(torch.mv(second.along.mT, v), alpha=tau)
        return r1.float(), r2.float()

    def second_order_change(
        self, tau: float, u: Tensor, v: Tensor, x: Tensor, y: Tensor
    ) -> tuple[float, float]:
        """Second-order effect of corrections (d1,), (d2,) through coupling to other Ritz pairs.

        Returns the squared change of the gradient, as ``Correction`` measures it, and the larger
        relative change of the two vectors.
        """
        (first, second), k = self.sides, self.whitened
        x, y = x.double(), y.double()
        near = int(torch.searchsorted(self.squares, tau**2 / 4))
        values, w = self.squares[near:-1].sqrt(), self.right[:, near:-1]
        z = k @ w / values
        ours, theirs = torch.mv(first.along, x), torch.mv(second.along, y)
        coupling = torch.mv(z.mT, torch.mv(first.across, y) - torch.mv(k, theirs))
        coupling += torch.mv(w.mT, torch.mv(second.across, x) - torch.mv(k.mT, ours))
        share = coupling / (2 * (tau - values).clamp_(min=MIN_GAP))
        change = float((share.square() * (1 + tau**2 - 2 * tau * values)).sum())
        ours, theirs = torch.mv(z, share) - ours, torch.mv(w, share) - theirs
        return change, max(first.relative_change(u, x, ours), second.relative_change(v, y, theirs))

    def extend(self, x: Tensor, y: Tensor) -> None:
        """Add the orthogonal parts of vectors (d1,) and (d2,) to the bases."""
        (first, second), n = self.sides, self.sides[0].count
        x, y = first.orthogonal_part(x), second.orthogonal_part(y)
        # both products with the cross-covariance together, while it is in the cache
        own1, cross1 = torch.mv(first.s, x), torch.mv(first.cross.mT, x)
        cross2, own2 = torch.mv(first.cross, y), torch.mv(second.s, y)
        first.append(x, own1, cross1)
        second.append(y, own2, cross2)
        torch.mv(second.vectors, first.across[n], out=self.cross[n, : n + 1])
        self.cross[:n, n] = torch.mv(first.across[:n], second.vectors[n])

    def ritz_vectors(self, count: int) -> list[Tensor]:
        """Rows of the leading ``count`` Ritz vectors of each side, with products of unshrunk s."""
        squares = self.squares
        if float(squares[-count]) > 1e-10 * float(squares[-1]):
            v = self.right[:, -count:].flip(1)
            u = self.whitened @ v / squares[-count:].flip(0).sqrt()
        else:  # eigh loses small values, which it squares
            u, _, vh = torch.linalg.svd(self.whitened)
            u, v = u[:, :count], vh[:count].mT
        return [side.combined(c.mT) for side, c in zip(self.sides, (u, v), strict=True)]
