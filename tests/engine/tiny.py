"""A model and data so small that a training run takes a fraction of a second."""

import itertools

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch import nn

from trn_plugin.engine import SafeRunner

NUMBER = itertools.count()
EPOCHS = dict(type="EpochBasedTrainLoop", max_epochs=3, val_interval=2)
EVERY_EPOCH = dict(type="CheckpointHook", interval=1, max_keep_ckpts=2)
EVERY_OTHER = dict(type="CheckpointHook", interval=2, by_epoch=False, max_keep_ckpts=2)
SAMPLES, BATCH = 22, 4  # six batches an epoch, the last one of two samples


class Numbers(torch.utils.data.Dataset):
    """A sample is a function of (seed, epoch, index); ``read`` lists the indices that were read."""

    metainfo: dict = {}

    def __init__(self, length=SAMPLES):
        self.length = length
        self.read = []

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.read.append(int(index))
        rng = np.random.default_rng([index.seed, index.epoch, int(index)])
        x = torch.from_numpy(rng.standard_normal(6)).float()
        return dict(x=x, y=x[:2] * 3 + 1)


class TinyModel(BaseModel):
    """A model with dropout, batch norm and two losses; ``spoil`` may change a training batch."""

    tasks = ("a", "b")
    spoil = None

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3))
        self.heads = nn.ModuleDict({task: nn.Linear(8, 1) for task in self.tasks})

    def forward(self, x, y, mode="tensor"):
        x, y = torch.as_tensor(x), torch.as_tensor(y)
        if self.spoil is not None and mode == "loss":
            x, y = self.spoil(x, y)
        found = torch.cat([head(self.body(x)) for head in self.heads.values()], 1)
        if mode == "loss":
            errors = (found - y).square().mean(0)
            return {f"loss_{task}": errors[i] for i, task in enumerate(self.tasks)}
        return [dict(found=f, y=t) for f, t in zip(found, y, strict=True)]


class SquaredError(BaseMetric):
    default_prefix = "tiny"

    def process(self, data_batch, data_samples):
        self.results += [float((s["found"] - s["y"]).square().mean()) for s in data_samples]

    def compute_metrics(self, results):
        return dict(error=sum(results) / len(results), count=len(results))


class StopAt(Hook):
    """Interrupts training as a signal would, after some iterations."""

    priority = "LOWEST"

    def __init__(self, iteration):
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iteration:
            raise KeyboardInterrupt


def tiny_runner(folder, name="run", cfg=None, seed=5, **options):
    torch.manual_seed(0)
    loader = dict(
        batch_size=BATCH,
        num_workers=options.pop("num_workers", 0),
        persistent_workers=options.pop("persistent_workers", False),
        collate_fn=dict(type="default_collate"),
    )
    sampler = options.pop("sampler", dict(type="DrawSampler", shuffle=True))
    samples = options.pop("samples", SAMPLES)
    optim = dict(optimizer=dict(type="Adam", lr=0.02))
    defaults = dict(
        model=TinyModel(),
        train_cfg=EPOCHS,
        val_dataloader=dict(loader, sampler=dict(type="DrawSampler"), dataset=Numbers(9)),
        val_cfg=dict(),
        val_evaluator=Evaluator([SquaredError()]),
        optim_wrapper=dict(optim, **options.pop("optim", {})),
        param_scheduler=dict(type="CosineAnnealingLR", by_epoch=False, T_max=20),
        checkpoint=EVERY_EPOCH,
    )
    settings = {**defaults, **options}
    checkpoint = settings.pop("checkpoint")
    return SafeRunner(
        work_dir=str(folder / name),
        train_dataloader=dict(loader, sampler=sampler, dataset=Numbers(samples)),
        default_hooks=dict(logger=dict(type="LoggerHook", interval=2), checkpoint=checkpoint),
        default_scope="trn_plugin",
        experiment_name=f"{folder.name}_{name}_{next(NUMBER)}",  # MMEngine keeps logs by name
        randomness=dict(seed=seed),
        log_level=settings.pop("log_level", "WARNING"),
        cfg=cfg or {},
        **settings,
    )


def warnings_of(run):
    """A list that collects the warnings of a run from now on."""
    told = []
    run.logger.warning = told.append
    return told


def changed(path, change):
    """Rewrite a checkpoint."""
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, path)


def whole(folder, **options):
    run = tiny_runner(folder, "whole", **options)
    run.train()
    return run


def stopped_and_resumed(folder, stops, **options):
    """A finished run that was stopped and resumed after each of these iterations."""
    for stop in stops:
        part = tiny_runner(folder, "part", resume=True, custom_hooks=[StopAt(stop)], **options)
        with pytest.raises(KeyboardInterrupt):
            part.train()
    rest = tiny_runner(folder, "part", resume=True, **options)
    rest.train()
    return rest


def result_of(run):
    """The final state and the log of a run, without times and paths."""
    state = {f"model.{k}": v.clone() for k, v in run.model.state_dict().items()}
    for index, values in run.optim_wrapper.state_dict()["state"].items():
        state |= {f"optimizer.{index}.{k}": v for k, v in values.items()}
    for name, buffer in run.message_hub.log_scalars.items():
        if not name.endswith("time"):
            state[name] = torch.as_tensor(buffer.data[0])
    state["random"] = torch.get_rng_state()
    return state


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(torch.as_tensor(found[name]), torch.as_tensor(value)), name


def assert_same_weights(run, other):
    assert_same(run.model.state_dict(), other.model.state_dict())
