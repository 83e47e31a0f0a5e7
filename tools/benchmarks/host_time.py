"""CPU time of the main process in steps of a config's runner, compared with a plain loop.

Implements `benchmark_step.py --host`. Each step of the runner is paired with a step of a plain
loop: a second model on the same batch, alternately before and after the runner's step. In training
it normalises, runs the network with its neck and relation losses, and does backward, clipping and
the optimizer step; in evaluation, forward and predictions. The result is the difference within
pairs, in CPU time of all threads of this process; data-loader workers are other processes and do
not count.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections import defaultdict

import torch
from mmengine.hooks import Hook
from torch import nn

from trn_plugin.cli import build_runner
from trn_plugin.errors import ConfigError
from trn_plugin.evaluation.task_metric import table
from trn_plugin.registry import MODELS


def measure(config, args) -> list[dict]:
    """Print and return the medians of training and evaluation steps, in milliseconds."""
    config.train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=10**6, val_interval=10**6)
    for loader in (config.train_dataloader, config.val_dataloader):
        loader.update(batch_size=args.batch, persistent_workers=loader.num_workers > 0)
    arrival = Arrival()
    pairs = PairedSteps(arrival, min(args.warmup, 10) + args.steps)
    with tempfile.TemporaryDirectory(prefix="host_time-") as config.work_dir:
        runner = build_runner(config)
        runner.register_hook(arrival, "HIGHEST")
        runner.register_hook(pairs, "LOWEST")
        with contextlib.suppress(Enough):
            runner.train()
        with contextlib.suppress(Enough):
            while True:
                runner.val_loop.run()
    rows = []
    for mode, times in pairs.times.items():
        whole, plain, loader = zip(*times[-args.steps :], strict=True)
        for part, ours, base in (
            (f"{mode} step", whole, plain),
            ("  of which data loader", loader, [0.0] * args.steps),
        ):
            sides = ours, base, [a - b for a, b in zip(ours, base, strict=True)]
            medians = (1e3 * statistics.median(side) for side in sides)
            names = ("runner_ms", "plain_ms", "difference_ms")
            rows.append({"mode": mode, "part": part} | dict(zip(names, medians, strict=True)))
    print(
        f"{config.filename}: batch {args.batch}, {args.image_size} pixels, {args.threads} "
        f"threads, medians of {args.steps} pairs; CPU time, ms"
    )
    cells = [[row["part"], *(f"{ms:.2f}" for ms in list(row.values())[2:])] for row in rows]
    print(table(["", "runner", "plain", "difference"], cells))
    return rows


class Enough(Exception):
    """Ends a loop after the measured steps."""


class Arrival(Hook):
    """First hook: records the CPU time at which the batch arrives."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.time = time.process_time()

    before_val_iter = before_train_iter


class PairedSteps(Hook):
    """Last hook: runs a step of the plain loop before or after each step of the runner.

    Attributes:
        times: for each mode and pair, CPU seconds of the runner's step with its data loader, the
            plain step, and the data loader.
    """

    def __init__(self, arrival: Arrival, number: int) -> None:
        self.arrival, self.number = arrival, number
        self.times: dict[str, list] = defaultdict(list)

    def before_train(self, runner):
        if min(len(runner.train_dataloader), len(runner.val_dataloader)) < 2:
            raise ConfigError("--batch: expected at least two batches of each data set")
        self.plain = PlainLoop(runner)

    def before_train_epoch(self, runner):
        self.ended = None  # starting workers is not part of a step

    before_val_epoch = before_train_epoch

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.entered = time.process_time()
        self.pairs = self.times["training" if runner.model.training else "evaluation"]
        if len(self.pairs) % 2:
            self.plain_seconds = self.plain.step(data_batch, runner.model.training)
        self.begun = time.process_time()

    before_val_iter = before_train_iter

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        seconds = time.process_time() - self.begun
        if not len(self.pairs) % 2:
            self.plain_seconds = self.plain.step(data_batch, runner.model.training)
        if self.ended is not None:
            whole, loader = self.entered - self.ended + seconds, self.arrival.time - self.ended
            self.pairs.append((whole, self.plain_seconds, loader))
            if len(self.pairs) == self.number:
                raise Enough
        self.ended = time.process_time()

    after_val_iter = after_train_iter


class PlainLoop:
    """The network's work in plain PyTorch, with a separate model and optimizer."""

    def __init__(self, runner) -> None:
        wrapper, model = runner.optim_wrapper, runner.model
        self.model = MODELS.build(runner.cfg.model)
        self.model.fit_to_labels(runner.train_dataloader.dataset)
        self.model.load_state_dict(model.state_dict())
        self.model.relation_losses = list(model.relation_losses)
        twins = dict(zip(model.parameters(), self.model.parameters(), strict=True))
        groups = [
            {**group, "params": [twins[p] for p in group["params"]]}
            for group in wrapper.optimizer.param_groups
        ]
        self.optimizer, self.others = type(wrapper.optimizer)(groups), wrapper.optimizer
        self.clip = wrapper.clip_grad_kwargs

    def step(self, batch, training: bool) -> float:
        """CPU seconds of a step, without preparing the losses' targets."""
        self.model.train(training)
        for group, other in zip(self.optimizer.param_groups, self.others.param_groups, strict=True):
            group["lr"] = other["lr"]
        samples = batch["data_samples"]
        targets = {
            task: head.prepare(samples.targets[task], samples.masks[task])
            for task, head in self.model.heads.items()
        }
        begun = time.process_time()
        if training:
            self.train(batch["inputs"], targets, samples.masks)
        else:
            self.evaluate(batch["inputs"])
        return time.process_time() - begun

    def train(self, inputs, targets, masks):
        model = self.model
        hidden, tapped, _ = model.backbone.features(model.data_preprocessor.normalize(inputs))
        logits = {task: head(hidden[task]) for task, head in model.heads.items()}
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
        loss.backward()
        if self.clip:
            nn.utils.clip_grad_norm_(list(model.parameters()), **self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def evaluate(self, inputs):
        model = self.model
        hidden = model.backbone(model.data_preprocessor.normalize(inputs))
        for task, head in model.heads.items():
            head.predict(head(hidden[task]))
