"""Time per step of the task relation layer (forward, backward, update) and of its alternatives.

Example:
    python tools/benchmarks/benchmark_relation.py --dims 10x5 40 128 512 --dtypes float32

All methods get the same features, recorded while a small two-task network trains, and are timed
in turn at the same steps. Two columns are medians over steps of ratios of times: "factor" is
Algorithm 1 / method, "/ floor" is method / the three covariance products alone. Errors of tau and
of the gradient (relative to its norm) are differences from the exact solution in float64.
"""

import copy
import statistics

import torch
from measuring import add_count, add_device_arguments, add_out, timed, use_device
from torch import Tensor, nn

from trn_plugin.cli.running import start
from trn_plugin.evaluation.task_metric import table
from trn_plugin.files import write_table
from trn_plugin.relation import TaskRelationLayer

MOMENTUM, SHRINKAGE, EVERY = 0.99, 1e-5, 2
METHODS = ("floor", "Algorithm 1 (SVD, autograd)", "ours, cold", "ours, warm")


def main(args):
    torch.manual_seed(0)
    use_device(args)
    print(
        f"{args.device}, {args.threads} threads, batch {args.batch}, torch "
        f"{torch.__version__}; {args.steps} timed steps after {args.start}"
    )
    rows = []
    for dims in args.dims:
        steps = args.steps if max(dims) < 1024 else min(args.steps, args.wide_steps)
        recorded = record(dims, args.batch, args.start + EVERY * steps)
        for dtype in args.dtypes:
            features = [
                [f.to(args.device, getattr(torch, dtype)) for f in pair] for pair in recorded
            ]
            rows += [
                {"d1": dims[0], "d2": dims[1], "dtype": dtype, **row}
                for row in measure(features, args.start, dims)
            ]
            report(rows[-len(METHODS) :])
    if args.out:
        write_table(args.out, rows)


def add_arguments(parser):
    parser.add_argument(
        "--dims",
        nargs="+",
        type=widths,
        metavar="D1xD2",
        default=[(10, 5), (40, 40), (128, 128), (512, 512), (2048, 2048)],
        help="widths of the two tasks, 10x5, or 512 for both",
    )
    dtypes = ["float32", "float64"]
    parser.add_argument("--dtypes", nargs="+", choices=tuple(dtypes), default=dtypes)
    add_device_arguments(parser)
    add_count(parser, "--batch", 128)
    add_count(parser, "--start", 100, "steps before the first timed step")
    add_count(parser, "--steps", 30, "timed steps, every second one")
    add_count(parser, "--wide-steps", 5, "timed steps from d = 1024 on")
    add_out(parser)


def widths(text: str) -> tuple[int, int]:
    first, _, second = text.partition("x")
    return int(first), int(second or first)


def record(dims: tuple[int, int], batch: int, steps: int) -> list[list[Tensor]]:
    """Features (batch, d) of a network's two tails at each step of its training."""
    trunk = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
    tails = nn.ModuleList(nn.Sequential(nn.Linear(256, d), nn.ReLU()) for d in dims)
    heads = nn.ModuleList(nn.Linear(d, 5) for d in dims)
    teacher = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    parameters = [*trunk.parameters(), *tails.parameters(), *heads.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
    recorded = []
    for _ in range(steps):
        x = torch.randn(batch, 64)
        with torch.no_grad():
            targets = teacher(x).split(5, 1)
        shared = trunk(x)
        hidden = [tail(shared) for tail in tails]
        recorded.append([h.detach() for h in hidden])
        loss = sum(
            nn.functional.mse_loss(head(h), target)
            for head, h, target in zip(heads, hidden, targets, strict=True)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return recorded


def measure(features: list[list[Tensor]], start: int, dims: tuple[int, int]):
    """One row for each method, with medians over the timed steps."""
    device = features[0][0].device
    layer = TaskRelationLayer(
        MOMENTUM, SHRINKAGE, dims=dims, start="identity", min_samples_per_dim=0
    ).to(device)
    moments = identities(dims, features[0][0])
    doubles = identities(dims, features[0][0].double())
    times: dict[str, list[float]] = {method: [] for method in METHODS}
    errors: dict[str, list[tuple[float, float]]] = {method: [] for method in METHODS[1:]}
    for step, pair in enumerate(features):
        advance(doubles, [f.double() for f in pair])
        pair = [f.clone().requires_grad_() for f in pair]
        if step >= start and (step - start) % EVERY == 0:
            reference = exact_solution(doubles, [f.detach().double() for f in pair])
            cold = copy.deepcopy(layer)
            cold.reset_solvers()
            runs = (
                lambda p=pair: products(*centred(p)),
                lambda p=pair: by_autograd(moments, p),
                lambda p=pair, c=cold: (tau := c(*p), *torch.autograd.grad(tau, p)),
                lambda p=pair: (tau := layer(*p), *torch.autograd.grad(tau, p)),
            )
            for method, run in zip(METHODS, runs, strict=True):
                seconds, found = timed(run, device)
                times[method].append(seconds)
                if method in errors:
                    errors[method].append(difference(found, reference))
        else:
            layer(*pair)
        advance(moments, [f.detach() for f in pair])
    for method in METHODS:
        pairs = zip(times[METHODS[1]], times[method], strict=True)
        floors = zip(times["floor"], times[method], strict=True)
        yield {
            "method": method,
            "milliseconds": 1e3 * statistics.median(times[method]),
            "factor": statistics.median(a / b for a, b in pairs),
            "floor": statistics.median(b / a for a, b in floors),
            "tau_error": max((e[0] for e in errors.get(method, ())), default=None),
            "gradient_error": max((e[1] for e in errors.get(method, ())), default=None),
            "exact_rate": layer.exact_rate if method == METHODS[-1] else None,
        }


def identities(dims: tuple[int, int], like: Tensor) -> list[Tensor]:
    """Initial S11, S12, S22: identity, zero, identity."""
    d1, d2 = dims
    s11, s12, s22 = torch.eye(d1), torch.zeros(d1, d2), torch.eye(d2)
    return [s.to(like) for s in (s11, s12, s22)]


def centred(pair: list[Tensor]) -> list[Tensor]:
    return [f - f.mean(0) for f in pair]


def products(x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The floor: the covariance products that every method needs."""
    return x1.mT @ x1, x1.mT @ x2, x2.mT @ x2


@torch.no_grad()
def advance(moments: list[Tensor], pair: list[Tensor]) -> None:
    for s, c in zip(moments, products(*centred(pair)), strict=True):
        s.mul_(MOMENTUM).add_(c, alpha=1 - MOMENTUM)


def shrunk(s: Tensor) -> Tensor:
    ridge = SHRINKAGE * s.diagonal().mean()
    return s + ridge * torch.eye(len(s), dtype=s.dtype, device=s.device)


def inverse_sqrt(s: Tensor) -> Tensor:
    u, e, _ = torch.linalg.svd(s)
    return u @ torch.diag(e.rsqrt()) @ u.mT


def by_autograd(moments: list[Tensor], pair: list[Tensor]) -> tuple[Tensor, ...]:
    """Algorithm 1 with autograd through its decompositions, on the layer's shrunk moments."""
    s11, s12, s22 = (
        MOMENTUM * s + (1 - MOMENTUM) * c
        for s, c in zip(moments, products(*centred(pair)), strict=True)
    )
    whitened = inverse_sqrt(shrunk(s11)) @ s12 @ inverse_sqrt(shrunk(s22))
    tau = torch.linalg.svd(whitened)[1][0]
    return tau, *torch.autograd.grad(tau, pair)


def exact_solution(moments: list[Tensor], pair: list[Tensor]) -> tuple[Tensor, ...]:
    """tau and its gradients by Cholesky factors, an SVD and the closed form, in float64."""
    s11, s12, s22 = moments
    l1, l2 = (torch.linalg.cholesky(shrunk(s)) for s in (s11, s22))
    k = torch.linalg.solve_triangular(l1, s12, upper=False)
    u, s, vh = torch.linalg.svd(torch.linalg.solve_triangular(l2, k.mT, upper=False).mT)
    a = torch.linalg.solve_triangular(l1.mT, u[:, :1], upper=True)[:, 0]
    b = torch.linalg.solve_triangular(l2.mT, vh[:1].mT, upper=True)[:, 0]
    tau, (x1, x2) = s[0], centred(pair)
    p, q = x1 @ a, x2 @ b
    g1 = torch.outer(q - tau * p, a) - tau * SHRINKAGE * a.square().mean() * x1
    g2 = torch.outer(p - tau * q, b) - tau * SHRINKAGE * b.square().mean() * x2
    return tau, (1 - MOMENTUM) * g1, (1 - MOMENTUM) * g2


def difference(found: tuple[Tensor, ...], reference: tuple[Tensor, ...]) -> tuple[float, float]:
    """|error| of tau, and the larger relative error of the two gradients."""
    found = [f.detach().double() for f in found]
    gradients = zip(found[1:], reference[1:], strict=True)
    relative = max(float((f - r).norm() / r.norm()) for f, r in gradients)
    return float((found[0] - reference[0]).abs()), relative


def report(rows: list[dict]) -> None:
    print(f"\n{rows[0]['d1']} x {rows[0]['d2']}, {rows[0]['dtype']}")
    columns = {"milliseconds": ".2f", "factor": ".1f", "floor": ".2f"}
    columns |= {"tau_error": ".1e", "gradient_error": ".1e"}
    lines = [
        [row["method"], *("" if row[k] is None else format(row[k], f) for k, f in columns.items())]
        for row in rows
    ]
    print(table(["", "median ms", "factor", "/ floor", "tau error", "gradient"], lines))
    if rows[-1]["exact_rate"] is not None:
        print(f"exact route in {100 * rows[-1]['exact_rate']:.1f} % of all steps")


if __name__ == "__main__":
    start(__doc__, add_arguments, main)
