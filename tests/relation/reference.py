"""Float64 references: the paper's equations as printed, with autograd through the SVD."""

import os

import pytest
import torch

from trn_plugin.relation import TaskRelationLayer

DEVICE = os.environ.get("TRN_PLUGIN_TEST_DEVICE", "cpu")
on_host_only = pytest.mark.skipif(DEVICE != "cpu", reason="solvers and errors of the host")


def inverse_sqrt(s):
    u, e, _ = torch.linalg.svd(s)
    return u @ torch.diag(e.rsqrt()) @ u.T


def similarity_of_covariances(s11, s12, s22):
    """Eq. 10 with Eq. 15."""
    return torch.linalg.svdvals(inverse_sqrt(s11) @ s12 @ inverse_sqrt(s22))[0]


def shrunk(s, shrinkage):
    return s + shrinkage * s.diagonal().mean() * torch.eye(len(s), dtype=s.dtype)


def offline(f1, f2):
    f1, f2 = f1 - f1.mean(0), f2 - f2.mean(0)
    return similarity_of_covariances(f1.T @ f1, f1.T @ f2, f2.T @ f2)


class Algorithm1:
    """Lines 1-15, differentiable with respect to the last batch."""

    def __init__(self, momentum, shrinkage, d1, d2):
        self.m, self.shrinkage = momentum, shrinkage
        self.s11, self.s22 = torch.eye(d1).double(), torch.eye(d2).double()
        self.s12 = torch.zeros(d1, d2).double()

    def __call__(self, f1, f2):
        f1, f2 = f1 - f1.mean(0), f2 - f2.mean(0)
        m = self.m
        s11 = m * self.s11 + (1 - m) * f1.T @ f1
        s22 = m * self.s22 + (1 - m) * f2.T @ f2
        s12 = m * self.s12 + (1 - m) * f1.T @ f2
        tau = similarity_of_covariances(
            shrunk(s11, self.shrinkage), s12, shrunk(s22, self.shrinkage)
        )
        self.s11, self.s12, self.s22 = s11.detach(), s12.detach(), s22.detach()
        return tau


def layer_of(*args, **options):
    """A relation layer whose gradient flows from the first step, on the device that is tested."""
    kind = TaskRelationLayer if DEVICE == "cpu" else OnDevice
    return kind(*args, **{"min_samples_per_dim": 0, **options})


class OnDevice(TaskRelationLayer):
    """Moves features to the device, and tau back to the CPU."""

    def forward(self, *features, mask=None):
        if torch.is_tensor(mask):
            mask = mask.to(DEVICE)
        elif mask is not None:
            mask = [None if m is None else m.to(DEVICE) for m in mask]
        return super().forward(*(f.to(DEVICE) for f in features), mask=mask).to(features[0].device)


def drifting(steps, n, d1, d2, dtype, seed=0, close=None, noise=1.0):
    """Features of two tails of a network that changes from step to step.

    ``close`` sets the two largest correlations to nearly equal values; with little ``noise`` all 24
    are near 1, as for the tails of a trained trunk.
    """
    g = torch.Generator().manual_seed(seed)
    w1, w2 = (torch.randn(24, d, generator=g, dtype=torch.float64) for d in (d1, d2))
    for _ in range(steps):
        w1 += 0.02 * torch.randn(24, d1, generator=g, dtype=torch.float64)
        w2 += 0.02 * torch.randn(24, d2, generator=g, dtype=torch.float64)
        common = torch.randn(n, 24, generator=g, dtype=torch.float64)
        f1 = common @ w1 + noise * torch.randn(n, d1, generator=g, dtype=torch.float64)
        f2 = common @ w2 + 2 * noise * torch.randn(n, d2, generator=g, dtype=torch.float64)
        if close:
            f1[:, :2], f2[:, :2] = 30 * common[:, :2], 30 * common[:, :2]
            apart = torch.randn(n, 2, generator=g, dtype=torch.float64)
            f2[:, :2] += 30 * apart * torch.tensor([1 / c**2 - 1 for c in close]).double().sqrt()
        yield f1.to(dtype).requires_grad_(), f2.to(dtype).requires_grad_()


class ExactSolution:
    """Running covariances in float64, solved by an SVD after each batch."""

    def __init__(self, d1, d2, momentum, shrinkage=1e-5):
        self.momentum, self.shrinkage = momentum, shrinkage
        self.s11, self.s22 = torch.eye(d1).double(), torch.eye(d2).double()
        self.s12 = torch.zeros(d1, d2).double()

    def update(self, f1, f2):
        x1, x2 = (f.detach().double() - f.detach().double().mean(0) for f in (f1, f2))
        products = (self.s11, x1.T @ x1), (self.s12, x1.T @ x2), (self.s22, x2.T @ x2)
        for s, c in products:
            s.mul_(self.momentum).add_(c, alpha=1 - self.momentum)
        self.batch = x1, x2

    def solve(self):
        """Canonical correlations in falling order, and the gradients of the largest."""
        l1, l2 = (torch.linalg.cholesky(shrunk(s, self.shrinkage)) for s in (self.s11, self.s22))
        k = torch.linalg.solve_triangular(l1, self.s12, upper=False)
        u, s, vh = torch.linalg.svd(torch.linalg.solve_triangular(l2, k.T, upper=False).T)
        a = torch.linalg.solve_triangular(l1.T, u[:, :1], upper=True)
        b = torch.linalg.solve_triangular(l2.T, vh[:1].T, upper=True)
        x1, x2 = self.batch
        p, q = x1 @ a, x2 @ b
        g1 = (q - s[0] * p) @ a.T - s[0] * self.shrinkage * a.square().mean() * x1
        g2 = (p - s[0] * q) @ b.T - s[0] * self.shrinkage * b.square().mean() * x2
        return s, ((1 - self.momentum) * g1, (1 - self.momentum) * g2)
