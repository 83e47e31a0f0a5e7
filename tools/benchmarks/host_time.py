"""CPU time of the main process in steps of a config's runner, compared with a plain loop.

Implements `benchmark_step.py --host`. For each step of the runner, a second model does the
network's work on the same batch, alternately before and after it: normalise, forward with the neck
and its relation losses, losses, backward, clip, optimiser step; in evaluation, forward and
predictions. The result is the difference of each pair, in CPU time of all threads of this process.
Data-loader workers are other processes and do not count.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path

import torch
from mmengine.hooks import Hook
from torch import nn

from trn_plugin.cli import build_runner
from trn_plugin.errors import ConfigError
from trn_plugin.registry import MODELS

MODES = {"train": "a training step", "val": "an evaluation step"}
LOADER, REST = "PyTorch: data loader", "trn_plugin and MMEngine: rest of the step"
NORMALISE, NETWORK, HEADS, NECK = "normalise", "trunk and tails", "heads and losses", "neck"
BACKWARD, CLIP, STEP = "backward", "clip", "optimiser step, check of gradients"


def measure(config, args) -> list[dict]:
    """Print and return the cost of a step on both sides, in total and for each part."""
    config.train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=10**6, val_interval=10**6)
    for loader in (config.train_dataloader, config.val_dataloader):
        loader.update(batch_size=args.batch, persistent_workers=loader.num_workers > 0)
    pairs = PairedSteps(args.warmup, args.steps)
    with tempfile.TemporaryDirectory(prefix="host_time-") as folder:
        config.work_dir = folder
        with (
            (Path(folder) / "screen.log").open("w") as screen,
            contextlib.redirect_stdout(screen),
            contextlib.redirect_stderr(screen),
        ):
            runner = build_runner(config)
            runner.register_hook(pairs, "LOWEST")
            with contextlib.suppress(Enough):
                runner.train()
            with contextlib.suppress(Enough):
                while True:
                    runner.val_loop.run()
    return report(config, args, pairs.clocks)


class Enough(Exception):
    """Ends a loop after the measured steps."""


class Clock:
    """CPU seconds of steps by side and part; nested parts count for the innermost one."""

    def __init__(self) -> None:
        self.steps: list[dict] = []
        self.restart()

    def restart(self) -> None:
        self.step, self.stack, self.since = defaultdict(float), [], time.process_time()

    def charge(self) -> None:
        now = time.process_time()
        if self.stack:
            self.step[self.stack[-1]] += now - self.since
        self.since = now

    def runner_in(self, part: str) -> None:
        self.charge()
        self.stack = [("runner", part)]

    @contextlib.contextmanager
    def part(self, name: str, side: str | None = None):
        self.charge()
        self.stack.append((side or self.stack[-1][0], name))
        try:
            yield
        finally:
            self.charge()
            self.stack.pop()


class PairedSteps(Hook):
    """Runs a step of the plain loop before or after each step of the runner; the last hook."""

    def __init__(self, warmup: int, steps: int) -> None:
        self.warmup, self.number = min(warmup, 10), steps
        self.clocks = {mode: Clock() for mode in MODES}
        self.clock: Clock | None = None

    def before_train(self, runner):
        if min(len(runner.train_dataloader), len(runner.val_dataloader)) < 2:
            raise ConfigError("--batch: expected two batches or more of each data set")
        self.plain = PlainLoop(runner, self)
        model, wrapper = runner.model, runner.optim_wrapper
        self.watch_network(model)
        self.watch(model.data_preprocessor, "forward", "trn_plugin: data preprocessor")
        self.watch(model, "parse_losses", "MMEngine: parse_losses")
        self.watch(wrapper, "update_params", "MMEngine: optimiser wrapper")
        self.watch(wrapper, "backward", BACKWARD)
        self.watch(wrapper.optimizer, "step", STEP)
        if wrapper.clip_grad_kwargs:
            self.watch(wrapper, "clip_func", CLIP)
        self.watch(runner.val_evaluator, "process", "MMEngine: evaluator")
        for metric in runner.val_evaluator.metrics:
            self.watch(metric, "process", f"{owner(metric)}: metric {type(metric).__name__}")
        for hook in runner.hooks:
            for event in hook.get_triggered_stages():
                if event.endswith("_iter") and hook is not self:
                    self.watch(hook, event, f"{owner(hook)}: hook {type(hook).__name__}")

    def watch_network(self, model):
        self.watch(model.data_preprocessor, "normalize", NORMALISE)
        self.watch(model.backbone, "features", NETWORK)
        for head in model.heads.values():
            for method in ("forward", "loss", "predict"):
                self.watch(head, method, HEADS)
        if model.neck is not None:
            self.watch(model.neck, "forward", NECK)

    def watch(self, target, method, part):
        run = getattr(target, method)

        def watched(*args, **kwargs):
            if self.clock is None:
                return run(*args, **kwargs)
            with self.clock.part(part):
                return run(*args, **kwargs)

        setattr(target, method, watched)

    def before_train_epoch(self, runner):
        self.clock = None  # starting workers is not part of a step

    before_val_epoch = before_train_epoch

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.before_step("train", data_batch)

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        self.before_step("val", data_batch)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.after_step("train", data_batch)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.after_step("val", data_batch)

    def before_step(self, mode, batch):
        if self.clock is not None:
            if len(self.clock.steps) % 2:
                self.plain_step(mode, batch)
            self.clock.runner_in(REST)

    def after_step(self, mode, batch):
        clock = self.clocks[mode]
        if self.clock is not None:  # not in the first step of an epoch
            clock.charge()
            if not len(clock.steps) % 2:
                self.plain_step(mode, batch)
            clock.steps.append(clock.step)
            if len(clock.steps) == self.warmup + self.number:
                self.clock = None
                raise Enough
        clock.restart()
        clock.runner_in(LOADER)
        self.clock = clock

    def plain_step(self, mode, batch):
        with self.clock.part("prepare", side="neither"):
            prepared = self.plain.prepared(batch, mode == "train")
        with self.clock.part(REST, side="plain"):
            (self.plain.train if mode == "train" else self.plain.evaluate)(*prepared)


class PlainLoop:
    """The network's work in plain PyTorch, with a separate model and optimiser."""

    def __init__(self, runner, pairs: PairedSteps) -> None:
        wrapper, model = runner.optim_wrapper, runner.model
        self.model, self.part = MODELS.build(runner.cfg.model), lambda name: pairs.clock.part(name)
        self.model.fit_to_labels(runner.train_dataloader.dataset)
        self.model.load_state_dict(model.state_dict())
        self.model.relation_losses = list(model.relation_losses)
        twins = dict(zip(model.parameters(), self.model.parameters(), strict=True))
        groups = [
            {**group, "params": [twins[p] for p in group["params"]]}
            for group in wrapper.optimizer.param_groups
        ]
        self.optimizer, self.others = type(wrapper.optimizer)(groups), wrapper.optimizer
        self.clip = wrapper.clip_grad_kwargs and partial(
            nn.utils.clip_grad_norm_, list(self.model.parameters()), **wrapper.clip_grad_kwargs
        )
        pairs.watch_network(self.model)

    def prepared(self, batch, training):
        """Pictures, targets and masks in the form that the losses need."""
        self.model.train(training)
        for group, other in zip(self.optimizer.param_groups, self.others.param_groups, strict=True):
            group["lr"] = other["lr"]
        samples = batch["data_samples"]
        targets = {
            task: head.prepare(samples.targets[task], samples.masks[task])
            for task, head in self.model.heads.items()
        }
        return batch["inputs"], targets, samples.masks

    def train(self, inputs, targets, masks):
        model = self.model
        hidden, tapped, _ = model.backbone.features(model.data_preprocessor.normalize(inputs))
        logits = {task: head(hidden[task]) for task, head in model.heads.items()}
        with self.part(HEADS):
            loss = sum(
                head.sample_loss(logits[task], targets[task]).mean()
                for task, head in model.heads.items()
            )
        if model.neck is not None:
            with torch.set_grad_enabled(bool(model.relation_losses)):
                output = {task: head.activate(logits[task]) for task, head in model.heads.items()}
                features = {"hidden": hidden, "logits": logits, "label": targets, **tapped}
                measured = model.neck({**features, "output": output}, masks)
                for relation_loss in model.relation_losses:
                    losses = relation_loss(measured)
                    loss = loss + sum(v for k, v in losses.items() if k.startswith("loss"))
        with self.part(BACKWARD):
            loss.backward()
        if self.clip:
            with self.part(CLIP):
                self.clip()
        with self.part(STEP):
            self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def evaluate(self, inputs, targets, masks):
        model = self.model
        hidden = model.backbone(model.data_preprocessor.normalize(inputs))
        for task, head in model.heads.items():
            head.predict(head(hidden[task]))


def owner(part) -> str:
    module = type(part).__module__.split(".")[0]
    return {"mmengine": "MMEngine"}.get(module, module)


def report(config, args, clocks) -> list[dict]:
    """Print and return medians of the steps and means of their parts, in milliseconds."""
    print(
        f"{config.filename}: batch {args.batch}, {args.image_size} pixels, {args.threads} "
        f"thread{'s' * (args.threads > 1)}, {args.steps} pairs; CPU time, ms"
    )
    rows = []
    for mode, clock in clocks.items():
        steps = clock.steps[-args.steps :]
        sides = [
            [1e3 * sum(t for (owner, _), t in step.items() if owner == side) for step in steps]
            for side in ("runner", "plain")
        ]
        sides.append([a - b for a, b in zip(*sides, strict=True)])
        rows.append((mode, f"{MODES[mode]}, medians", *map(statistics.median, sides)))
        parts = []
        for name in {part: None for step in steps for side, part in step if side != "neither"}:
            both = [
                1e3 * statistics.mean(step.get((side, name), 0.0) for step in steps)
                for side in ("runner", "plain")
            ]
            parts.append((mode, f"  {name}", *both, both[0] - both[1]))
        parts.append((mode, "  all, means", *map(statistics.mean, sides)))
        rows += sorted((p for p in parts if max(p[2:4]) > 0.005), key=lambda part: -part[-1])
    print(f"{'':52} {'runner':>9} {'plain':>9} {'difference':>11}")
    for _, name, *values in rows:
        print(f"{name:52} {values[0]:9.2f} {values[1]:9.2f} {values[2]:11.2f}")
    names = ("mode", "part", "runner_ms", "plain_ms", "difference_ms")
    return [dict(zip(names, row, strict=True)) for row in rows]
