"""Time and memory of a cut backbone, compared with its parts and with timm's own model.

Prints for each model
  build  CPU seconds to build and check the cut model, minus those to build timm's own model;
  step   ratio: forward pass of two tasks / trunk and two tails run alone;
  memory ratio: bytes saved for the backward pass in the same two cases;
  bare   ratio: forward pass of one task with all stages shared / timm's own model.
Both sides of a ratio run in turn, on one core. Times are medians of CPU time, which other programs
disturb less than wall-clock time.

Example:
    python tools/benchmarks/benchmark_backbones.py resnet18 vit_base_patch16_224 --runs 20
"""

import time

import timm
import torch
from measuring import add_count, times_in_turn

from trn_plugin.cli.running import start
from trn_plugin.models import TimmTrunk


def add_arguments(parser):
    parser.add_argument("names", nargs="+", help="timm's model names")
    add_count(parser, "--batch-size", 4, "pictures in a batch")
    add_count(parser, "--runs", 20, "timed runs of each side")


def main(args):
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}")
    print(f"{'model':30} {'build (s)':>10} {'step':>8} {'memory':>8} {'bare':>8}")
    for name in args.names:
        print(f"{name:30} {measure(name, args)}", flush=True)


def measure(name: str, args) -> str:
    builds = dict(
        cut=lambda: TimmTrunk(name, shared_stages=-1, tasks=("a",)),
        uncut=lambda: timm.create_model(name, num_classes=0),
    )
    build = times_in_turn(builds, 3, time.process_time)
    cut = TimmTrunk(name, shared_stages=-1, tasks=("a", "b")).eval()
    bare = timm.create_model(name, num_classes=0).eval()
    everything = TimmTrunk(name, shared_stages="all", tasks=("a",)).eval()
    x = torch.randn(args.batch_size, 3, *cut.img_size)
    with torch.no_grad():
        values = cut.trunk(x)[0]
    held = [v.requires_grad_(v.is_floating_point()) if torch.is_tensor(v) else v for v in values]
    parts = dict(
        trunk=lambda: cut.trunk(x)[0],
        first=lambda: cut.tails["a"](*held)[0],
        second=lambda: cut.tails["b"](*held)[0],
    )
    sides = dict(whole=lambda: tuple(cut(x).values()), **parts)
    memory = {key: kept_bytes(run, cut) for key, run in sides.items()}
    sides |= dict(bare=lambda: bare(x), everything=lambda: everything(x))
    with torch.no_grad():
        times = times_in_turn(sides, args.runs, time.process_time)
    of_parts, bytes_of_parts = (sum(found[key] for key in parts) for found in (times, memory))
    return (
        f"{build['cut'] - build['uncut']:10.2f} {times['whole'] / of_parts:8.3f} "
        f"{memory['whole'] / bytes_of_parts:8.3f} {times['everything'] / times['bare']:8.3f}"
    )


def kept_bytes(run, model) -> int:
    """Bytes that ``run`` saves for the backward pass, without the weights."""
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
    model.eval()
    del outputs
    return sum(size for size, _ in kept.values())


if __name__ == "__main__":
    start(__doc__, add_arguments, main)
