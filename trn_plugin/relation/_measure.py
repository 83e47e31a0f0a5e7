"""Update of the running moments, tau of every pair, and its closed-form gradient."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from trn_plugin.relation._host import times
from trn_plugin.relation._moments import centre
from trn_plugin.relation._ranks import working_dtype, world_size
from trn_plugin.relation._spectrum import mean_square_gradient

__all__ = ["UpdateAndMeasure"]

APART = 16  # entries between the rows of the features


def _full_precision(device: torch.device):
    """Autocast off, where it is on."""
    known = torch.amp.is_autocast_available(device.type)
    if not known or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


class UpdateAndMeasure(torch.autograd.Function):
    """A step of Algorithm 1.

    The arguments are a ``TaskRelationLayer``, the masks (N, T) or None, and the features of each
    task; the values are tau of the layer's pairs, and (T,) int, above 0 where features are not
    finite; None on a CPU, where such features are an error at once. Nothing is updated before the
    features of all tasks are known to be finite.
    """

    @staticmethod
    def forward(ctx, layer, masks: Tensor | None, *features: Tensor):
        device = features[0].device
        dtype = features[0].dtype
        for f in features[1:]:
            dtype = torch.promote_types(dtype, f.dtype)
        taus, saved, batches, faults = [], [], [], []
        with _full_precision(device):
            products = [members.group.product_dtype(dtype) for members in layer.members]
            narrow = device.type == "cpu" and all(d == torch.float32 for d in products)
            joint_dtype = torch.float32 if narrow else working_dtype(device)
            joint = _side_by_side(features, joint_dtype)
            for members, product_dtype in zip(layer.members, products, strict=True):
                group = members.group
                mask = None if masks is None else masks[:, members.tasks].all(2).T
                x, count = centre(members.take(joint), mask, product_dtype)
                squares = group.squares(x)
                single = squares is not None and x.dtype == torch.float32
                if single and group.exceeds_float32(x, squares):
                    working = working_dtype(device)
                    x, count = centre(members.take(_side_by_side(features, working)), mask, working)
                    squares = group.squares(x)
                blocks, wrong = group.products(x, squares)
                if wrong is not None:
                    faults.append((members.tasks, wrong))
                batches.append((members, x, count, blocks))
            faulty = _faulty_tasks(faults, len(features), device) if faults else None
            clean = None
            if faults and device.type == "cpu":
                layer.raise_if_faulty(faulty)
            elif faults:
                clean = (faulty == 0).all()
            for members, x, count, blocks in batches:
                w = members.group.update(x, blocks, count, layer.momentum, clean)
                x = x if clean is None else torch.where(clean, x, 0.0)
                solved = layer.solve(members, x, w, count, dtype)
                taus.extend(tau for tau, *_ in solved)
                saved.extend([x, w * world_size(), *(t for found in solved for t in found)])
        ctx.save_for_backward(*saved)
        ctx.members, ctx.order, ctx.shrinkage = layer.members, layer.order, layer.shrinkage
        ctx.kept = len(solved[0])
        ctx.features = [(f.shape[1], f.dtype) for f in features]
        if faulty is not None:
            ctx.mark_non_differentiable(faulty)
        return layer.by_pair(taus).clone(), faulty

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor, _):
        with _full_precision(grad.device):
            return None, None, *_by_task(ctx, grad)


def _by_task(ctx, grad: Tensor) -> list[Tensor]:
    """Gradients of the features, (N, d) of each task, from that of the pairs' values."""
    saved, grads = iter(ctx.saved_tensors), iter(_by_class(grad, ctx.members, ctx.order))
    total = None
    for members in ctx.members:
        x, w = next(saved), next(saved)
        fresh = len(members.group.dims) == 2 and all(pairs.is_one for pairs in members.pairs)
        fresh = fresh and x.device.type == "cpu" and ctx.kept == 3
        by_set = torch.empty_like(x) if fresh else torch.zeros_like(x)
        for pairs in members.pairs:
            tau, *derivatives = (next(saved) for _ in range(ctx.kept))
            scale, weight = next(grads), pairs.by_set(w)
            x1, x2 = pairs.take(x)
            if pairs.is_one and x.device.type == "cpu" and ctx.kept == 3:
                outs = pairs.take(by_set)
                found = float(tau), *derivatives, ctx.shrinkage, float(scale) * float(weight)
                _write_gradient(outs, x1, x2, *found, add=not fresh)
                continue
            tau, *derivatives = (t.to(x.dtype) for t in (tau, *derivatives))
            scale = (scale * weight).to(x.dtype)[:, None, None]
            if ctx.kept == 3:
                g1, g2 = _gradient(x1, x2, tau, *derivatives, ctx.shrinkage)
            else:
                g1, g2 = mean_square_gradient(x1, x2, *derivatives, ctx.shrinkage)
            pairs.add(by_set, g1.mul_(scale), g2.mul_(scale))
        total = members.spread(by_set, total)
    widths, dtypes = zip(*ctx.features, strict=True)
    by_task = total.split(widths, 1)
    return [g.to(dtype) for g, dtype in zip(by_task, dtypes, strict=True)]


def _side_by_side(features: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    """(N, all) copy."""
    widths = [f.shape[1] for f in features]
    # rows that lie a power of two apart take the same places of a processor's cache
    joint = features[0].new_empty(len(features[0]), sum(widths) + APART, dtype=dtype)[:, :-APART]
    for own, f in zip(joint.split(widths, 1), features, strict=True):
        own.copy_(f.detach())
    return joint


def _by_class(values: Tensor, members: list, order: Tensor) -> list[Tensor]:
    """(P_c,) of each class of pairs, of values in the order of the layer's pairs."""
    sizes = [len(pairs.pairs) for m in members for pairs in m.pairs]
    if len(sizes) == 1:
        return [values.reshape(-1)]
    return list(torch.empty_like(values).index_copy_(0, order, values).split(sizes))


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


def _write_gradient(outs, x1, x2, tau: float, a, b, shrinkage: float, scale: float, add: bool):
    """:func:`_gradient` of one pair on a CPU, times ``scale``, written or added in place."""
    g1, g2, x1, x2 = (t[0] for t in (*outs, x1, x2))
    a, b = (v[0].to(x1.dtype) for v in (a, b))
    p, q = (times(v.numpy(), x.numpy().T) for x, v in ((x1, a), (x2, b)))
    for g, x, own, other, vector in ((g1, x1, p, q, a), (g2, x2, q, p, b)):
        ridge = -scale * tau * shrinkage * float(vector.dot(vector)) / len(vector)
        other = torch.from_numpy(other - own.dtype.type(tau) * own)
        if add:
            g.add_(x, alpha=ridge).addr_(other, vector, alpha=scale)
        else:
            torch.addr(x, other, vector, beta=ridge, alpha=scale, out=g)
