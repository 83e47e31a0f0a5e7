"""What the relation part costs in a training step: a config's TRN beside the same model without.

Two models are trained on the same pictures, in pairs of steps: the config's model with its
neck and its relation losses, and the same without both (MTL). The pictures are random ones, or
with `--data` those of the config's training set, resized. The models have the same weights and
optimizer state when the first pair begins. The order is swapped each time, and a difference is
the mean of two neighbouring pairs, one of either order. A step is MMEngine's: normalise, forward,
losses, backward, clip, optimizer. Pictures lie on the device; reading data, schedules of the
learning rate, other hooks and `compile` are left out. A warm-up trains the first model, so that
its running moments are filled; with less of it a relation's loss may still be 0, which takes the
same time.

A step on a CPU takes so long that a difference of a few ms drowns. So the relation part is also
timed alone, within the same steps: after each step of the TRN a second neck, in the same state,
gets copies of that step's features and does what the step did with them. `forward` is the neck,
its log entries and the relation losses of all levels, `backward` goes from their sum to the
features. On a GPU every time ends when the device has finished; this part alone then holds
launches that a whole step hides, so that the difference of the steps is what training pays.

Percentages are of the MTL step of the same pair.

Example:
    python tools/benchmarks/benchmark_step.py configs/mtfl/trn-hidden-output_resnet18_mtfl.py
    python tools/benchmarks/benchmark_step.py --data \\
        --cfg-options train_dataloader.dataset.data_root=data/MTFL
    python tools/benchmarks/benchmark_step.py --device cuda --amp --image-size 224 \\
        --steps 100 --out step.csv
"""

import copy
import itertools
import statistics
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from measuring import add_device_arguments, timed, use_device
from torch import nn

from trn_plugin.cli.config import add_config_arguments, load_config, use_mixed_precision
from trn_plugin.cli.parsing import positive_int
from trn_plugin.cli.running import start
from trn_plugin.engine.building import config_errors
from trn_plugin.errors import ConfigError
from trn_plugin.files import write_table

CONFIG = Path(__file__).parents[2] / "configs/mtfl/trn-hidden-output_resnet18_mtfl.py"
TRN, MTL = "step with the relation part (TRN)", "step without it (MTL)"
DIFFERENCE = "difference of the two"
FORWARD, BACKWARD, BOTH = (
    f"relation part alone, {part}" for part in ("forward", "backward", "both")
)
PICTURES = ("random pictures", "pictures of the training set")
COARSE, KINDS = 4, 64  # pixels of a random picture's side, labels of a task


def add_arguments(parser):
    add_config_arguments(parser, optional=True)
    parser.set_defaults(config=str(CONFIG))
    parser.add_argument(
        "--batch", type=positive_int, default=128, help="pictures a step (%(default)s)"
    )
    parser.add_argument(
        "--image-size", type=positive_int, default=32, metavar="PX", help="%(default)s"
    )
    parser.add_argument("--data", action="store_true", help="pictures of the config's training set")
    add_device_arguments(parser)
    parser.add_argument("--amp", action="store_true", help="mixed precision (CUDA)")
    parser.add_argument(
        "--host",
        action="store_true",
        help="CPU time of the main process in a step of the config's runner, beside that of a "
        "plain loop of the same network, on the config's data",
    )
    parser.add_argument(
        "--steps", type=positive_int, default=40, help="timed pairs, an even number (%(default)s)"
    )
    parser.add_argument(
        "--warmup", type=positive_int, default=50, help="TRN steps before (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", metavar="FILE.csv", help="write the numbers to this table too")


def main(args):
    check(args)
    torch.manual_seed(args.seed)
    config = load_config(args.config, args.cfg_options)
    if args.host:
        if args.amp or args.out or args.device != "cpu":
            raise ConfigError(
                "--host: runs on the CPU and prints; leave --amp, --device, --out out"
            )
        from host_time import report as report_host

        report_host(config, args.steps, args.image_size)
        return
    if args.amp:
        use_mixed_precision(config)
    torch.backends.cudnn.benchmark = bool((config.get("env_cfg") or {}).get("cudnn_benchmark"))
    trn, mtl = build(config, args)
    print(describe(trn.model, args), flush=True)
    batches = DataBatches(trn.model, config, args) if args.data else RandomBatches(trn.model, args)
    part = RelationPart(trn)
    times = measure(trn, mtl, part, batches, args)
    rows = [row_of(name, times) for name in (TRN, MTL, DIFFERENCE, FORWARD, BACKWARD, BOTH)]
    report(rows, trn.logged)
    if args.out:
        write_table(args.out, [{**setting(trn.model, args), **row} for row in rows])


def check(args):
    for name, minimum in {"batch": 2, "steps": 4}.items():
        value = getattr(args, name)
        if value < minimum:
            raise ConfigError(f"--{name}: expected at least {minimum}, found {value}")
    if args.steps % 2:
        raise ConfigError(f"--steps: expected an even number, found {args.steps}")
    use_device(args)
    if args.amp and args.device != "cuda":
        raise ConfigError(f"--amp needs --device cuda, found {args.device}")


class Side:
    """A model in training with its optimizer."""

    def __init__(self, model, config, device):
        from mmengine.optim import build_optim_wrapper

        self.model = model.to(device).train()
        with config_errors("optim_wrapper"):
            self.optim_wrapper = build_optim_wrapper(self.model, config.optim_wrapper)
        self.logged = {}

    def step(self, batch):
        self.logged = self.model.train_step(batch, self.optim_wrapper)

    def follow(self, other):
        """Take over weights and optimizer state, as far as this model has them."""
        state = other.model.state_dict()
        self.model.load_state_dict({k: v for k, v in state.items() if not k.startswith("neck.")})
        self.optim_wrapper.load_state_dict(copy.deepcopy(other.optim_wrapper.state_dict()))


def build(config, args) -> tuple[Side, Side]:
    """The config's TRN with its relation losses, and the same model without neck.

    Raises:
        ConfigError: a config without either.
    """
    from trn_plugin.deploy.inference import build_model
    from trn_plugin.hooks import TaskRelationLossHook
    from trn_plugin.models import MultiTaskModel
    from trn_plugin.registry import HOOKS, MODELS

    if not config.model.get("neck"):
        raise ConfigError(f"{args.config}: expected a model with a relation neck, found none")
    if not config.get("optim_wrapper"):
        raise ConfigError(f"{args.config}: expected an optim_wrapper, found none")
    with config_errors("custom_hooks"):
        kinds = [(HOOKS.get(hook["type"]), hook) for hook in config.get("custom_hooks") or []]
        hooks = [HOOKS.build(hook) for kind, hook in kinds if kind is TaskRelationLossHook]
    if not hooks:
        raise ConfigError(
            f"{args.config}: expected a TaskRelationLossHook in custom_hooks, found none"
        )
    plain = build_model(config_for(config, args.image_size))
    with config_errors("model"):
        model = MODELS.build(config_for(config, args.image_size).model)
    if not isinstance(model, MultiTaskModel):
        raise ConfigError(
            f"{args.config}: expected a model of type MultiTaskModel, found {type(model).__name__}"
        )
    trn, mtl = (Side(m, config, args.device) for m in (model, plain))
    runner = SimpleNamespace(
        model=model,
        optim_wrapper=trn.optim_wrapper,
        world_size=1,
        train_dataloader=SimpleNamespace(batch_sampler=SimpleNamespace(batch_size=args.batch)),
    )
    for hook in hooks:
        hook.before_train(runner)
    return trn, mtl


def config_for(config, image_size):
    """A copy for pictures of this size and random weights."""
    config = copy.deepcopy(config)
    backbone = config.model.get("backbone") or {}
    backbone.update(img_size=image_size, pretrained=False)
    backbone.pop("checkpoint_path", None)
    return config


class RandomBatches:
    """Smooth random pictures, and labels that depend on them, for the model's heads."""

    def __init__(self, model, args):
        self.heads = model.heads
        self.args = args
        self.generator = torch.Generator().manual_seed(args.seed)
        self.teachers = {}
        rng = np.random.default_rng(args.seed)
        for task, head in model.heads.items():
            teacher = torch.randn((3 * COARSE**2, KINDS), generator=self.generator)
            self.teachers[task] = teacher, [head.task.example(rng) for _ in range(KINDS)]
        model.fit_to_labels(self)

    def draw(self) -> dict:
        """A batch as a data loader gives it."""
        from trn_plugin.structures import MultiTaskBatch, MultiTaskDataSample

        count, size = self.args.batch, self.args.image_size
        coarse = torch.rand((count, 3, COARSE, COARSE), generator=self.generator)
        images = nn.functional.interpolate(255 * coarse, size=(size, size), mode="bilinear")
        labels = {task: self.labels(task, coarse - 0.5) for task in self.heads}
        samples = [
            MultiTaskDataSample(gt={task: values[row] for task, values in labels.items()})
            for row in range(count)
        ]
        batch = MultiTaskBatch.of(samples, {task: head.task for task, head in self.heads.items()})
        return {"inputs": images.to(self.args.device, torch.uint8), "data_samples": batch}

    def labels(self, task, coarse):
        """One of some labels, which the picture decides."""
        teacher, examples = self.teachers[task]
        return [examples[index] for index in (coarse.flatten(1) @ teacher).argmax(1).tolist()]

    def positive_shares(self, task):
        return [0.5] * self.heads[task].out_features

    def value_moments(self, task):
        width = self.heads[task].out_features
        return [0.0] * width, [1.0] * width


class DataBatches:
    """Batches of the config's training set, epoch after epoch, resized."""

    def __init__(self, model, config, args):
        from trn_plugin.engine.runner import SafeRunner

        if not config.get("train_dataloader"):
            raise ConfigError(f"{args.config}: expected a train_dataloader for --data, found none")
        settings = copy.deepcopy(config.train_dataloader)
        settings.update(batch_size=args.batch, num_workers=0, persistent_workers=False)
        settings.drop_last = True
        settings.pop("prefetch_factor", None)  # of workers
        loader = SafeRunner.build_dataloader(settings, seed=args.seed)
        if len(loader) == 0:
            found = f"{len(loader.dataset)} pictures in the training set"
            raise ConfigError(f"--batch {args.batch}: no batch of {found}")
        model.fit_to_labels(loader.dataset)
        self.batches = self.read(loader)
        self.args = args

    @staticmethod
    def read(loader):
        for epoch in itertools.count():
            if hasattr(loader.sampler, "set_epoch"):
                loader.sampler.set_epoch(epoch)
            yield from loader

    def draw(self) -> dict:
        """A batch as a data loader gives it."""
        batch, size = next(self.batches), self.args.image_size
        images = torch.stack(list(batch["inputs"])).float()
        images = nn.functional.interpolate(images, (size, size), mode="area").round()
        return {**batch, "inputs": images.to(self.args.device, torch.uint8)}


class RelationPart:
    """What a step of ``side`` did with its features, once more, by a neck in the same state."""

    def __init__(self, side):
        self.side = side
        self.neck = copy.deepcopy(side.model.neck)
        side.model.neck.register_forward_pre_hook(self.keep)

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
        model = self.side.model
        with self.side.optim_wrapper.optim_context(model):
            measured = self.neck(features, self.mask)
            losses = self.neck.logged(measured)
            for relation_loss in model.relation_losses:
                losses.update(relation_loss(measured))
        return model.parse_losses(losses)[0]


def measure(trn, mtl, part, batches, args) -> dict[str, list[float]]:
    """Seconds of each timed step, by what was timed."""
    times = {name: [] for name in (TRN, MTL, DIFFERENCE, FORWARD, BACKWARD, BOTH)}

    def with_relations(batch):
        whole, _ = timed(lambda: trn.step(batch), args.device)
        features = part.leaves()
        forward, loss = timed(lambda: part.forward(features), args.device)
        backward, _ = timed(loss.backward, args.device)
        return {TRN: whole, FORWARD: forward, BACKWARD: backward, BOTH: forward + backward}

    def without(batch):
        return {MTL: timed(lambda: mtl.step(batch), args.device)[0]}

    for _ in range(args.warmup):
        with_relations(batches.draw())
    for _ in range(min(args.warmup, 3)):
        without(batches.draw())
    mtl.follow(trn)
    for number in range(args.steps):
        batch = batches.draw()
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
    shares = [100 * a / b for a, b in zip(seconds, steps, strict=True)]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {
        "what": name,
        "median_ms": median,
        "quarter_ms": low,
        "three_quarters_ms": high,
        "mean_ms": statistics.mean(values),
        "percent": statistics.median(shares),
    }


def both_orders(values):
    """Means of each two neighbours: what comes second in a pair takes another time."""
    return [(a + b) / 2 for a, b in zip(values[::2], values[1::2], strict=True)]


def setting(model, args) -> dict:
    return {
        "config": Path(args.config).stem,
        "backbone": model.backbone.model_name,
        "pictures": PICTURES[args.data],
        "image_size": args.image_size,
        "batch": args.batch,
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "amp": args.amp,
        "threads": args.threads,
        "torch": torch.__version__,
        "steps": args.steps,
    }


def describe(model, args) -> str:
    s = setting(model, args)
    relations = [
        f"{level} {name} ({d1} x {d2})"
        for level in model.neck.levels
        for name, (d1, d2) in zip(
            model.neck.names, model.neck.layers_of(level).pair_dims.tolist(), strict=True
        )
    ]
    return (
        f"{s['config']}: {s['backbone']}, {PICTURES[args.data]} at {args.image_size} x "
        f"{args.image_size}, batch {args.batch}, {s['device']}{', amp' if args.amp else ''}, "
        f"{s['threads']} threads, torch {s['torch']}; "
        f"{args.steps} pairs of steps after {args.warmup}\n"
        f"relations: {', '.join(relations)}"
    )


def report(rows, logged):
    print(f"{'':38}{'median ms':>10}{'quartiles':>18}{'mean ms':>10}{'of MTL':>10}")
    for row in rows:
        quartiles = f"{row['quarter_ms']:.2f} - {row['three_quarters_ms']:.2f}"
        print(
            f"{row['what']:38}{row['median_ms']:10.2f}{quartiles:>18}{row['mean_ms']:10.2f}"
            f"{row['percent']:8.2f} %"
        )
    for name, value in logged.items():
        if name.startswith("relation/weight_"):
            print(f"lambda of {name.removeprefix('relation/weight_')} at the end: {value:g}")
    if "relation/exact_rate" in logged:
        rate = float(logged["relation/exact_rate"])
        print(f"exact route in {100 * rate:.1f} % of all steps, warm-up included")


if __name__ == "__main__":
    start(__doc__, add_arguments, main)
