"""Batches for benchmarks in the format of a data loader: random pictures or a config's own."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from trn_plugin.engine.runner import SafeRunner
from trn_plugin.errors import ConfigError
from trn_plugin.structures import MultiTaskBatch, MultiTaskDataSample

COARSE, KINDS = 4, 64  # side of a random picture before upsampling; different labels of a task


def random_batches(model, config, args):
    """Endless batches of smooth random pictures, and of labels that depend on them."""
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    tasks, teachers = {}, {}
    for name, head in model.heads.items():
        tasks[name] = head.task
        teacher = torch.randn((3 * COARSE**2, KINDS), generator=generator)
        teachers[name] = teacher, [head.task.example(rng) for _ in range(KINDS)]
    widths = {name: task.width for name, task in tasks.items()}
    two_labels = np.array([[-1.0], [1.0]])  # mean 0, standard deviation 1
    labels = SimpleNamespace(labels_of=lambda task: two_labels.repeat(widths[task], axis=1))
    model.fit_to_labels(labels)
    size = (args.image_size, args.image_size)
    while True:
        coarse = torch.rand((args.batch, 3, COARSE, COARSE), generator=generator)
        images = nn.functional.interpolate(255 * coarse, size=size, mode="bilinear")
        samples = [MultiTaskDataSample(gt={}) for _ in range(args.batch)]
        for task, (teacher, examples) in teachers.items():
            chosen = ((coarse - 0.5).flatten(1) @ teacher).argmax(1).tolist()
            for sample, index in zip(samples, chosen, strict=True):
                sample.gt[task] = examples[index]
        inputs = images.to(args.device, torch.uint8)
        yield {"inputs": inputs, "data_samples": MultiTaskBatch.of(samples, tasks)}


def data_batches(model, config, args):
    """Batches of the config's training set, epoch after epoch."""
    if not config.get("train_dataloader"):
        raise ConfigError(f"{args.config}: expected a train_dataloader for --data, found none")
    settings = dict(config.train_dataloader, batch_size=args.batch, num_workers=0)
    settings |= dict(persistent_workers=False, drop_last=True)
    settings.pop("prefetch_factor", None)  # only valid with workers
    loader = SafeRunner.build_dataloader(settings, seed=0)
    if len(loader) == 0:
        raise ConfigError(
            f"--batch {args.batch}: the training set has only {len(loader.dataset)} pictures"
        )
    model.fit_to_labels(loader.dataset)
    for epoch in itertools.count():
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            yield {**batch, "inputs": torch.stack(list(batch["inputs"])).to(args.device)}
