"""CPU time of the main process in a training and an evaluation step, beside the network itself.

Behind `tools/benchmarks/benchmark_step.py --host`.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import tempfile
import time
from collections import defaultdict

import torch
from mmengine.hooks import Hook

from trn_plugin.cli import build_runner


class Enough(Exception):
    """Ends a training after the steps that are measured."""


class StepTimes(Hook):
    """CPU times of the process at the end of each step, and of the hooks and the data loader."""

    priority = "LOWEST"

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.ends = {"train": [], "val": []}
        self.parts = defaultdict(float)

    def before_train(self, runner):
        own = runner.optim_wrapper
        self._time(own, "update_params", "optimiser wrapper: backward, clip, step")
        self._time(runner.model.data_preprocessor, "forward", "data preprocessor")
        self._time(runner.model, "parse_losses", "MMEngine: parse_losses")
        if getattr(runner.model, "neck", None) is not None:
            self._time(runner.model.neck, "forward", "relation neck")
        for hook in runner.hooks:
            name = f"hook {type(hook).__name__} ({type(hook).__module__.split('.')[0]})"
            for event in ("before_train_iter", "after_train_iter"):
                self._time(hook, event, name)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.ends["train"].append(time.process_time())
        if len(self.ends["train"]) > self.steps:
            raise Enough

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.ends["val"].append(time.process_time())

    def _time(self, owner, method, part):
        run = getattr(owner, method)

        def timed(*args, **kwargs):
            start = time.perf_counter()  # a clock of the process takes a tenth of a millisecond
            try:
                return run(*args, **kwargs)
            finally:
                self.parts[part] += time.perf_counter() - start

        setattr(owner, method, timed)

    def median(self, loop: str) -> float:
        """Milliseconds of a step, the first ten left out where there are enough."""
        ends = self.ends[loop][10:] if len(self.ends[loop]) > 20 else self.ends[loop]
        return 1e3 * statistics.median(b - a for a, b in itertools.pairwise(ends))


def report(config, steps: int, image_size: int) -> None:
    """Train and validate by the config's runner, then do its network's work in a plain loop.

    Host time hardly depends on picture size; a small network makes it visible.
    """
    with tempfile.TemporaryDirectory(prefix="host_time-") as folder:
        config.work_dir = folder
        _report(config, steps, image_size)


def _report(config, steps: int, image_size: int) -> None:
    config.input_size = image_size
    torch.set_num_threads(1)
    config.train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=1000, val_interval=1000)
    times = StepTimes(steps)
    runner = build_runner(config)
    runner.register_hook(times)
    with contextlib.suppress(Enough):
        runner.train()
    train = plain_training(runner, some(runner.train_dataloader), steps)
    runner.val_loop.run()
    evaluate = plain_evaluation(runner, some(runner.val_dataloader), steps)
    print(f"{config.filename}: {image_size} pixels, one thread")
    print(f"{'CPU time of a step, ms':32} {'runner':>8} {'plain':>8} {'difference':>11}")
    for name, full, plain in (
        ("training", times.median("train"), train),
        ("evaluation", times.median("val"), evaluate),
    ):
        print(f"{name:32} {full:8.2f} {plain:8.2f} {full - plain:11.2f}")
    waited = runner.message_hub.get_scalar("train/data_time").mean()
    times.parts["waiting for the data loader"] = waited * len(times.ends["train"])
    print(
        "in a training step, mean of the wall-clock time, ms (the first holds the network's own):"
    )
    count = len(times.ends["train"])
    for part, seconds in sorted(times.parts.items(), key=lambda item: -item[1]):
        if seconds / count > 2e-5:
            print(f"  {part:60} {1e3 * seconds / count:8.2f}")


def some(loader) -> list[dict]:
    return list(itertools.islice(iter(loader), 8))


def median_of(step, steps: int) -> float:
    taken = []
    for number in range(steps):
        start = time.process_time()
        step(number)
        taken.append(time.process_time() - start)
    return 1e3 * statistics.median(taken[10:])


def prepared(model, batches):
    """Pictures, targets and masks of each batch, as the losses see them."""
    found = []
    for batch in batches:
        samples = batch["data_samples"]
        targets = {
            task: head.prepare(samples.targets[task], samples.masks[task])
            for task, head in model.heads.items()
        }
        found.append((batch["inputs"], targets))
    return found


def plain_training(runner, batches, steps: int) -> float:
    """Forward, losses, backward and optimiser step of the same network."""
    model, optimizer = runner.model.train(), runner.optim_wrapper.optimizer
    ready = prepared(model, batches)

    def step(number):
        inputs, targets = ready[number % len(ready)]
        hidden = model.backbone(model.data_preprocessor.normalize(inputs))
        loss = sum(
            head.sample_loss(head(hidden[task]), targets[task]).mean()
            for task, head in model.heads.items()
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return median_of(step, steps)


@torch.no_grad()
def plain_evaluation(runner, batches, steps: int) -> float:
    """Forward of the same network, and its predictions."""
    model = runner.model.eval()

    def step(number):
        inputs = batches[number % len(batches)]["inputs"]
        hidden = model.backbone(model.data_preprocessor.normalize(inputs))
        for task, head in model.heads.items():
            head.predict(head(hidden[task]))

    return median_of(step, steps)
