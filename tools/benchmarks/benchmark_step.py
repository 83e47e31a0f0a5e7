"""Cost of the relation part (neck and relation losses) in a training step.

The config's model is trained in pairs of steps on the same batch, one with the relation part (TRN)
and one without (MTL), in alternating order; a difference is the mean of two neighbouring pairs, one
in each order. Batches are random, or with `--data` from the config's training set, and are already
on the device. A step is MMEngine's: normalise, forward, losses, backward, clip, optimizer; reading
data, other hooks and `compile` are left out. Untimed steps before fill the running covariances.

On a CPU a difference of a few ms is lost in the noise of a step. So the relation part is also timed
alone: a copy of the neck repeats the computation on copies of the step's features. `forward` is the
neck, its log entries and the relation losses; `backward` goes from their sum to the features. On a
GPU, the clock stops when the device has finished. There the relation part timed alone includes
kernel launches that a whole step hides, and the difference is the true cost.

Percentages are of the MTL step of the same pair.

Example:
    python tools/benchmarks/benchmark_step.py configs/mtfl/trn-hidden-output_resnet18_mtfl.py
    python tools/benchmarks/benchmark_step.py --data \\
        --cfg-options train_dataloader.dataset.data_root=data/MTFL
    python tools/benchmarks/benchmark_step.py --host configs/mtfl/mtl-fast_resnet18_mtfl.py \\
        --threads 1 --steps 100
    python tools/benchmarks/benchmark_step.py --device cuda --amp --image-size 224 \\
        --steps 100 --out step.csv
"""

import copy
import statistics
from pathlib import Path
from types import SimpleNamespace

import host_time
import torch
from batches import data_batches, random_batches
from measuring import add_count, add_device_arguments, add_out, timed, use_device
from mmengine.optim import build_optim_wrapper

from trn_plugin.cli.config import add_config_arguments, load_config, use_mixed_precision
from trn_plugin.cli.running import start
from trn_plugin.config_checks import config_errors
from trn_plugin.errors import ConfigError
from trn_plugin.evaluation.task_metric import table
from trn_plugin.files import write_table
from trn_plugin.hooks import TaskRelationLossHook
from trn_plugin.registry import HOOKS, MODELS

CONFIG = Path(__file__).parents[2] / "configs/mtfl/trn-hidden-output_resnet18_mtfl.py"
TRN, MTL = "step with the relation part (TRN)", "step without it (MTL)"
DIFFERENCE, ALONE = "difference of the two", "relation part alone, "
FORWARD, BACKWARD, BOTH = (ALONE + part for part in ("forward", "backward", "both"))
PICTURES = ("random pictures", "pictures of the training set")


def add_arguments(parser):
    add_config_arguments(parser, optional=True)
    parser.set_defaults(config=str(CONFIG))
    add_count(parser, "--batch", 128, "pictures per step")
    add_count(parser, "--image-size", 32, "side in pixels")
    parser.add_argument("--data", action="store_true", help="use the config's training set")
    add_device_arguments(parser)
    parser.add_argument("--amp", action="store_true", help="mixed precision (CUDA)")
    parser.add_argument(
        "--host",
        action="store_true",
        help="instead, compare the CPU time of the runner's training and evaluation steps with "
        "that of a plain loop of the same network",
    )
    add_count(parser, "--steps", 40, "timed pairs, an even number")
    add_count(parser, "--warmup", 50, "untimed TRN steps before them")
    add_out(parser)


def main(args):
    check(args)
    torch.manual_seed(0)
    options = {**(args.cfg_options or {}), "input_size": args.image_size}
    config = load_config(args.config, options)
    if args.host:
        setting, rows = {}, host_time.measure(config, args)
    else:
        setting, rows = measure_relation_part(config, args)
    if args.out:
        write_table(args.out, [{**setting, **row} for row in rows])


def check(args):
    if min(args.batch, args.steps / 2) < 2:
        raise ConfigError(
            f"--batch, --steps: expected at least 2 and 4, found {args.batch} and {args.steps}"
        )
    if args.steps % 2:
        raise ConfigError(f"--steps: expected an even number, found {args.steps}")
    if args.host and (args.amp or args.data or args.device != "cpu"):
        raise ConfigError("--host: takes the config's data on the CPU; omit --amp and --data")
    use_device(args)
    if args.amp and args.device != "cuda":
        raise ConfigError(f"--amp needs --device cuda, found {args.device}")


def measure_relation_part(config, args):
    if args.amp:
        use_mixed_precision(config)
    torch.backends.cudnn.benchmark = bool((config.get("env_cfg") or {}).get("cudnn_benchmark"))
    training = Training(config, args)
    batches = (data_batches if args.data else random_batches)(training.model, config, args)
    setting = {
        "config": Path(args.config).stem,
        "backbone": training.model.backbone.model_name,
        "pictures": PICTURES[args.data],
        "image_size": args.image_size,
        "batch": args.batch,
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "amp": args.amp,
        "threads": args.threads,
        "torch": torch.__version__,
        "steps": args.steps,
    }
    relations = [
        f"{level} {name} ({d1} x {d2})"
        for level, widths in training.model.neck.widths().items()
        for name, (d1, d2, _) in widths.items()
        if level != "label"
    ]
    print(", ".join(f"{name} {value}" for name, value in setting.items()))
    print(f"relations: {', '.join(relations)}", flush=True)
    times = measure(training, RelationPart(training), batches, args)
    rows = [row_of(name, times) for name in times]
    report(rows, training.logged)
    return setting, rows


class Training:
    """The config's model in training mode, with its relation losses and its optimizer.

    Raises:
        ConfigError: a config without neck or TaskRelationLossHook.
    """

    def __init__(self, config, args):
        config.model.backbone.pretrained = False
        config.model.backbone.pop("checkpoint_path", None)
        with config_errors("model"):
            self.model = MODELS.build(config.model).to(args.device).train()
        if self.model.neck is None:
            raise ConfigError(f"{args.config}: expected a model with a relation neck, found none")
        with config_errors("optim_wrapper"):
            self.optim_wrapper = build_optim_wrapper(self.model, config.optim_wrapper)
        batch_sampler = SimpleNamespace(batch_size=args.batch)
        self.train_dataloader = SimpleNamespace(batch_sampler=batch_sampler)
        self.world_size = 1
        with config_errors("custom_hooks"):
            for hook in config.get("custom_hooks") or []:
                if HOOKS.get(hook["type"]) is TaskRelationLossHook:
                    HOOKS.build(hook).before_train(self)  # reads these attributes of a runner
        if not self.model.relation_losses:
            raise ConfigError(
                f"{args.config}: expected a TaskRelationLossHook in custom_hooks, found none"
            )

    def step(self, batch):
        self.logged = self.model.train_step(batch, self.optim_wrapper)

    def plain_step(self, batch):
        """A step without neck and relation losses."""
        neck, self.model.neck = self.model.neck, None
        self.model.train_step(batch, self.optim_wrapper)
        self.model.neck = neck


class RelationPart:
    """Repeats the relation part of a step with a copy of the neck."""

    def __init__(self, training):
        self.training = training
        self.neck = copy.deepcopy(training.model.neck)
        training.model.neck.register_forward_pre_hook(self.keep)

    def keep(self, neck, inputs):
        features, self.mask = inputs
        self.features = {
            level: {task: (f.detach(), f.requires_grad) for task, f in tasks.items()}
            for level, tasks in features.items()
        }

    def leaves(self):
        return {
            level: {task: f.clone().requires_grad_(needed) for task, (f, needed) in tasks.items()}
            for level, tasks in self.features.items()
        }

    def forward(self, features):
        model = self.training.model
        with self.training.optim_wrapper.optim_context(model):
            measured = self.neck(features, self.mask)
            losses = self.neck.logged(measured)
            for relation_loss in model.relation_losses:
                losses.update(relation_loss(measured))
        return model.parse_losses(losses)[0]


def measure(training, part, batches, args) -> dict[str, list[float]]:
    """Seconds of each timed step, by name of the timed part."""
    times = {name: [] for name in (TRN, MTL, DIFFERENCE, FORWARD, BACKWARD, BOTH)}

    def with_relations(batch):
        whole, _ = timed(lambda: training.step(batch), args.device)
        features = part.leaves()
        forward, loss = timed(lambda: part.forward(features), args.device)
        backward, _ = timed(loss.backward, args.device)
        return {TRN: whole, FORWARD: forward, BACKWARD: backward, BOTH: forward + backward}

    def without(batch):
        return {MTL: timed(lambda: training.plain_step(batch), args.device)[0]}

    for _ in range(args.warmup):
        with_relations(next(batches))
    for _ in range(min(args.warmup, 3)):
        without(next(batches))
    for number in range(args.steps):
        batch = next(batches)
        order = (with_relations, without) if number % 2 else (without, with_relations)
        for run in order:
            for name, seconds in run(batch).items():
                times[name].append(seconds)
        times[DIFFERENCE].append(times[TRN][-1] - times[MTL][-1])
    return times


def row_of(name, times) -> dict:
    seconds, steps = times[name], times[MTL]
    if name == DIFFERENCE:
        seconds, steps = both_orders(seconds), both_orders(steps)
    values = [1e3 * s for s in seconds]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    shares = [100 * a / b for a, b in zip(seconds, steps, strict=True)]
    row = {"what": name, "median_ms": median, "quarter_ms": low, "three_quarters_ms": high}
    return row | {"mean_ms": statistics.mean(values), "percent": statistics.median(shares)}


def both_orders(values):
    """Means of neighbouring pairs; the second run of a pair differs systematically in time."""
    return [(a + b) / 2 for a, b in zip(values[::2], values[1::2], strict=True)]


def report(rows, logged):
    header = ["", "median ms", "quarter", "three quarters", "mean ms", "% of MTL"]
    print(
        table(header, [[k if isinstance(k, str) else f"{k:.2f}" for k in r.values()] for r in rows])
    )
    for name, value in logged.items():
        if name.startswith("relation/weight_"):
            print(f"lambda of {name.removeprefix('relation/weight_')} at the end: {value:g}")
    if "relation/exact_rate" in logged:
        rate = float(logged["relation/exact_rate"])
        print(f"exact route in {100 * rate:.1f} % of all steps, warm-up included")


if __name__ == "__main__":
    start(__doc__, add_arguments, main)
