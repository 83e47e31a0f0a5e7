"""Time and memory of a cut backbone, beside those of its parts and of timm's own model.

Prints for each model
  build  CPU seconds that the cut and the comparison with the uncut model add to timm's own;
  step   a forward pass of two tasks over trunk and two tails, each timed alone;
  memory what that pass keeps for the backward pass, over trunk and two tails alone;
  bare   a forward pass of one task with everything shared over timm's own model.
The sides of a ratio run in turn; medians, of CPU time on CPUs, so that other programs matter less
(with --threads 1 it is the time that passes on an idle machine).

Example:
    python tools/benchmarks/benchmark_backbones.py resnet18 vit_base_patch16_224 --runs 20
"""

import time

from measuring import add_device_arguments, times_in_turn, use_device

from trn_plugin.cli.parsing import positive_int
from trn_plugin.cli.running import start


def add_arguments(parser):
    parser.add_argument("names", nargs="+", help="timm's names")
    parser.add_argument("--shared-stages", type=int, default=-1, help="default -1")
    parser.add_argument("--batch-size", type=positive_int, default=4)
    parser.add_argument("--runs", type=positive_int, default=20, help="default 20")
    add_device_arguments(parser)
    parser.set_defaults(threads=1)
    parser.add_argument("--train", action="store_true", help="forward and backward, in train mode")


def main(args):
    import torch

    use_device(args)
    print(f"torch {torch.__version__}, {args.threads} threads, {args.device}")
    print(f"{'model':30} {'build (s)':>10} {'step':>8} {'memory':>8} {'bare':>8}")
    for name in args.names:
        print(f"{name:30} {measure(name, args)}", flush=True)


def measure(name: str, args) -> str:
    import timm
    import torch

    from trn_plugin.models import TimmTrunk

    def shared(stages, tasks):
        return TimmTrunk(name, shared_stages=stages, tasks=tasks)

    build = times_in_turn(
        dict(
            cut=lambda: shared(args.shared_stages, ("a",)),
            uncut=lambda: timm.create_model(name, num_classes=0),
        ),
        3,
        time.process_time,
    )
    device = torch.device(args.device)
    model = shared(args.shared_stages, ("a", "b")).to(device)
    bare = timm.create_model(name, num_classes=0).to(device)
    everything = shared("all", ("a",)).to(device)
    x = torch.randn(args.batch_size, 3, *model.img_size, device=device)
    with torch.no_grad():
        values = model.trunk(x)[0]
    held = [v.requires_grad_(v.is_floating_point()) if torch.is_tensor(v) else v for v in values]
    parts = dict(
        trunk=lambda: model.trunk(x)[0],
        first=lambda: model.tails["a"](*held)[0],
        second=lambda: model.tails["b"](*held)[0],
    )
    whole = dict(whole=lambda: tuple(model(x).values()))
    memory = {key: kept_bytes(run, model) for key, run in (whole | parts).items()}

    def step(run):
        if not args.train:
            with torch.no_grad():
                run()
        else:
            tensors = [t for t in run() if torch.is_tensor(t) and t.requires_grad]
            sum(t.sum() for t in tensors).backward()
        if device.type == "cuda":
            torch.cuda.synchronize()

    for module in (model, bare, everything):
        module.train(args.train)
    sides = whole | parts
    sides |= dict(bare=lambda: (bare(x),), everything=lambda: tuple(everything(x).values()))
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    times = times_in_turn(
        {k: lambda run=run: step(run) for k, run in sides.items()}, args.runs, clock
    )
    alone = times["trunk"] + times["first"] + times["second"]
    alone_bytes = memory["trunk"] + memory["first"] + memory["second"]
    return (
        f"{build['cut'] - build['uncut']:10.2f} {times['whole'] / alone:8.3f} "
        f"{memory['whole'] / alone_bytes:8.3f} {times['everything'] / times['bare']:8.3f}"
    )


def kept_bytes(run, model) -> int:
    """Bytes that the backward pass of ``run`` would need, besides the weights."""
    import torch

    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = run()
    del outputs
    return sum(size for size, _ in kept.values())


if __name__ == "__main__":
    start(__doc__, add_arguments, main)
