"""Update of the running moments, tau of every pair, and its closed-form gradient."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from trn_plugin.relation._moments import centre
from trn_plugin.relation._ranks import working_dtype, world_size
from trn_plugin.relation._spectrum import mean_square_gradient

__all__ = ["UpdateAndMeasure"]


def _full_precision(device: torch.device):
    """Autocast off, where the device knows of it."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


class UpdateAndMeasure(torch.autograd.Function):
    """A step of Algorithm 1.

    The arguments are a ``TaskRelationLayer``, the masks (N, T) or None, and the features of each
    task; the values are tau (P_c,) of each of the layer's classes of pairs, and (T,) int, above 0
    where features are not finite; None on a CPU, where such features are an error at once.
    """

    @staticmethod
    def forward(ctx, layer, masks: Tensor | None, *features: Tensor):
        device = features[0].device
        dtype = features[0].dtype
        for f in features[1:]:
            dtype = torch.promote_types(dtype, f.dtype)
        taus, saved, updated, faults = [], [], [], []
        with _full_precision(device):
            products = [members.group.product_dtype(dtype) for members in layer.members]
            narrow = device.type == "cpu" and all(d == torch.float32 for d in products)
            joint_dtype = torch.float32 if narrow else working_dtype(device)
            joint = torch.cat([f.detach().to(joint_dtype) for f in features], 1)
            for members, product_dtype in zip(layer.members, products, strict=True):
                group = members.group
                mask = None if masks is None else masks[:, members.tasks].all(2).T
                x, count = centre(members.take(joint), mask, product_dtype)
                if device.type == "cpu" and x.dtype == torch.float32 and group.is_dominated(x):
                    working = working_dtype(device)
                    x, count = centre(members.take(joint).to(working), mask, working)
                group.keep_in(x.dtype)
                w, bad = group.update(x, count, layer.momentum)
                if bad is not None:
                    faults.append((members.tasks, bad))
                    x = torch.where((w > 0)[:, None, None], x, 0.0)
                updated.append((x, w))
            faulty = _faulty_tasks(faults, len(features), device) if faults else None
            if device.type == "cpu" and faults:
                layer.raise_if_faulty(faulty)
                faulty = None
            for members, (x, w) in zip(layer.members, updated, strict=True):
                solved = layer.solve(members, x, w, dtype)
                taus.extend(tau for tau, *_ in solved)
                saved.extend([x, w * world_size(), *(t for found in solved for t in found)])
        ctx.save_for_backward(*saved)
        ctx.members = layer.members
        ctx.kept = len(solved[0])
        ctx.shrinkage = layer.shrinkage
        ctx.features = [(f.shape[1], f.dtype) for f in features]
        if faulty is not None:
            ctx.mark_non_differentiable(faulty)
        return *taus, faulty

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads: Tensor):
        saved, grads = iter(ctx.saved_tensors), iter(grads)
        total = None
        for members in ctx.members:
            x, w = next(saved), next(saved)
            by_set = torch.zeros_like(x)
            for pairs in members.pairs:
                tau, *derivatives = (next(saved).to(x.dtype) for _ in range(ctx.kept))
                scale = (next(grads) * pairs.by_set(w)).to(x.dtype)
                x1, x2 = pairs.take(x)
                if pairs.is_one and x.device.type == "cpu" and ctx.kept == 3:
                    outs = pairs.take(by_set)
                    _add_gradient(outs, x1, x2, tau, *derivatives, ctx.shrinkage, float(scale))
                    continue
                scale = scale[:, None, None]
                if ctx.kept == 3:
                    g1, g2 = _gradient(x1, x2, tau, *derivatives, ctx.shrinkage)
                else:
                    g1, g2 = mean_square_gradient(x1, x2, *derivatives, ctx.shrinkage)
                pairs.add(by_set, g1.mul_(scale), g2.mul_(scale))
            total = members.spread(by_set, total)
        widths, dtypes = zip(*ctx.features, strict=True)
        by_task = total.split(widths, 1)
        return None, None, *(g.to(dtype) for g, dtype in zip(by_task, dtypes, strict=True))


def _faulty_tasks(faults: list, tasks: int, device: torch.device) -> Tensor:
    """(T,) numbers of sets in which a task's features are not finite."""
    faulty = torch.zeros(tasks, dtype=torch.int64, device=device)
    for members, bad in faults:
        faulty.index_add_(0, members.flatten(), bad.flatten().to(faulty.dtype))
    return faulty


def _gradient(x1: Tensor, x2: Tensor, tau: Tensor, a: Tensor, b: Tensor, shrinkage: float):
    """Of the largest canonical correlation, for moments x'x; the shrinkage moves with them."""
    p, q = x1 @ a[..., None], x2 @ b[..., None]
    tau = tau[:, None, None]
    ridge1, ridge2 = (tau * shrinkage * v.square().mean(1)[:, None, None] for v in (a, b))
    g1 = torch.addcmul(-ridge1 * x1, q - tau * p, a[:, None])
    g2 = torch.addcmul(-ridge2 * x2, p - tau * q, b[:, None])
    return g1, g2


def _add_gradient(outs, x1: Tensor, x2: Tensor, tau: Tensor, a, b, shrinkage: float, scale: float):
    """:func:`_gradient` of one pair on a CPU, times ``scale``, added in place."""
    (g1, g2, x1, x2, a, b), tau = (t[0] for t in (*outs, x1, x2, a, b)), float(tau)
    p, q = x1 @ a, x2 @ b
    for g, x, own, other, vector in ((g1, x1, p, q, a), (g2, x2, q, p, b)):
        ridge = tau * shrinkage * float(vector.dot(vector)) / len(vector)
        g.addmm_((other - tau * own)[:, None], vector[None], alpha=scale)
        g.add_(x, alpha=-scale * ridge)
