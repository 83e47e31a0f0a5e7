"""Float64 references: the paper's equations as printed, with autograd through the SVD."""

import os

import pytest
import torch

from trn_plugin.relation import TaskRelationLayer

DEVICE = os.environ.get("TRN_PLUGIN_TEST_DEVICE", "cpu")
# of solvers and errors that are the host's alone
on_host_only = pytest.mark.skipif(DEVICE != "cpu", reason="what the host does")


def inverse_sqrt(s):
    u, e, _ = torch.linalg.svd(s)
    return u @ torch.diag(e.rsqrt()) @ u.T


def similarity_of_moments(s11, s12, s22):
    """Eq. 10 with Eq. 15."""
    return torch.linalg.svdvals(inverse_sqrt(s11) @ s12 @ inverse_sqrt(s22))[0]


def shrunk(s, shrinkage):
    return s + shrinkage * s.diagonal().mean() * torch.eye(len(s), dtype=s.dtype)


def offline(f1, f2):
    f1, f2 = f1 - f1.mean(0), f2 - f2.mean(0)
    return similarity_of_moments(f1.T @ f1, f1.T @ f2, f2.T @ f2)


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
        tau = similarity_of_moments(shrunk(s11, self.shrinkage), s12, shrunk(s22, self.shrinkage))
        self.s11, self.s12, self.s22 = s11.detach(), s12.detach(), s22.detach()
        return tau


def layer_of(*args, **options):
    """A relation layer whose gradient flows from the first step, on the device that is tested."""
    kind = TaskRelationLayer if DEVICE == "cpu" else OnDevice
    return kind(*args, **{"min_samples_per_dim": 0, **options})


class OnDevice(TaskRelationLayer):
    """Takes features of the CPU to the device, and tau back."""

    def forward(self, *features, mask=None):
        if torch.is_tensor(mask):
            mask = mask.to(DEVICE)
        elif mask is not None:
            mask = [None if m is None else m.to(DEVICE) for m in mask]
        return super().forward(*(f.to(DEVICE) for f in features), mask=mask).to(features[0].device)
