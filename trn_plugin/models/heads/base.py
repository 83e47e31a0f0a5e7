"""Base class of the heads."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trn_plugin.errors import ConfigError
from trn_plugin.ranks import sum_over_ranks, world_size
from trn_plugin.tasks import Task, numbered, read_task

__all__ = ["TaskHead", "distance_loss"]

DISTANCES = {"l1": F.l1_loss, "l2": F.mse_loss, "smooth_l1": F.smooth_l1_loss}


def distance_loss(head: str, name: str, beta: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Elementwise loss of (N, d): 'l1', 'l2', or 'smooth_l1', which is quadratic below ``beta``."""
    if name not in DISTANCES:
        raise ConfigError(f"{head}.loss: expected one of {list(DISTANCES)}, found {name!r}")
    options = {"beta": beta} if name == "smooth_l1" else {}
    return functools.partial(DISTANCES[name], reduction="none", **options)


def mean_over_labelled(losses: Tensor, mask: Tensor, shares: Tensor | None = None) -> Tensor:
    """Mean of ``losses`` (N,) over the samples of ``mask`` (N,) on all ranks; 0 if there are none.

    Each rank divides its own sum by the mean count per rank. DistributedDataParallel averages the
    gradients over the ranks, which gives the mean over all labelled samples.

    ``shares`` (N,) weights each sample by the present fraction of its label.
    """
    labelled = mask.sum() if shares is None else torch.where(mask, shares, 0.0).sum()
    count = sum_over_ranks(labelled.to(losses.dtype)) / world_size()
    return torch.where(mask, losses, 0.0).sum() / count.clamp(min=1e-6)


class TaskHead(nn.Module):
    """A task's last layer, by default a linear map of its hidden features.

    Args:
        num_names (int): number of points, classes, attributes or values.
        in_features (int, optional): width of the hidden features, or channels of the map;
            ``MultiTaskModel`` passes it. None builds no linear layer, for a subclass with its own.
        loss_weight (float): factor of this task's loss.
        names (Sequence[str], optional): names of the points, classes, attributes or values.

    Subclasses set ``task_type``, and implement ``sample_loss``, ``predict`` and, if the raw output
    is not comparable with the targets, ``activate``.

    Attributes:
        task (Task): describes the task.
        out_features (int): width of the raw output and of the task's targets.
    """

    task_type: type[Task]
    input = "vector"
    """The head's input: the pooled 'vector' (N, d), or the 'map' (N, C, h, w) before pooling.

    ``input`` in the head's config takes precedence.
    """
    waits_for: str | None = None
    """The argument that is still to be set from the training labels."""
    uncertainty_share = 1.0
    """Factor c in ``UncertaintyWeighting``; 1/2 for Gaussian losses."""

    def __init__(
        self,
        num_names: int,
        in_features: int | None,
        loss_weight: float = 1.0,
        names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        if num_names < 1:
            raise ConfigError(f"{owner}: expected at least one output")
        if names is not None and len(names) != num_names:
            raise ConfigError(f"{owner}.names: expected {num_names} names, found {len(names)}")
        key = self.task_type.names_key
        self.names = None if names is None else tuple(names)
        names = self.names or numbered(owner, num_names)
        self.task = self.task_type(owner, {key: names})
        self.out_features = self.task.width
        self.loss_weight = loss_weight
        if in_features is None:
            return
        self.fc = nn.Linear(in_features, self.out_features)
        nn.init.trunc_normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(N, in_features), or maps (N, in_features, h, w) -> raw outputs (N, out_features)."""
        return self.fc(hidden)

    def prepare(self, targets: Tensor, mask: Tensor) -> Tensor:
        """Convert targets (N, out_features) to the loss's form; by default unchanged.

        ``mask`` (N,) bool is False for samples without label.
        """
        return targets

    def loss(
        self, output: Tensor, targets: Tensor, mask: Tensor, parts: Tensor | None = None
    ) -> Tensor:
        """0-d: mean loss over the labelled samples of all ranks, times ``loss_weight``.

        ``parts`` (N, out_features) bool is False for missing entries of the targets. They add no
        loss, and all present entries weigh the same.
        """
        shares = None
        if self.waits_for is not None:
            raise ConfigError(
                f"{type(self).__name__}.{self.waits_for}: taken from the training labels, which "
                "SafeRunner passes; set runner_type='SafeRunner' or give numbers"
            )
        with torch.autocast(output.device.type, enabled=False):
            output = output.float()
            if parts is not None:
                # a target equal to the output has no loss and no gradient
                targets = torch.where(parts, targets, output.detach())
                shares = parts.float().mean(1)
            losses = self.sample_loss(output, targets)
        return self.loss_weight * mean_over_labelled(losses, mask, shares)

    def fit_to_labels(self, task: str, dataset) -> None:
        """Set the argument ``waits_for`` from the training labels, if there is one."""
        if self.waits_for is None:
            return
        key = f"model.heads.{task}.{self.waits_for}"
        if not hasattr(dataset, "labels_of"):
            raise ConfigError(
                f"{key}: expected numbers, or a training data set with the method labels_of, "
                f"found {type(dataset).__name__}"
            )
        self.take(key, dataset.labels_of(task))
        self.waits_for = None

    def take(self, key: str, labels: np.ndarray) -> None:
        """Set ``waits_for`` from known training labels (n, width); ``key`` is its config key."""
        raise NotImplementedError

    def check_labels(self, task: str, info: Mapping) -> None:
        """Check the kind and number of labels in a data set's metainfo."""
        given = read_task(task, info, "the training data set's task ")
        expected = len(self.task.names)
        if given.kind != self.task.kind or len(given.names) != expected:
            raise ConfigError(
                f"model.heads.{task}: {type(self).__name__} expects {expected} of kind "
                f"{self.task.kind!r}, the data set has {len(given.names)} of kind {given.kind!r}"
            )

    def sample_loss(self, output: Tensor, targets: Tensor) -> Tensor:
        raise NotImplementedError

    def activate(self, output: Tensor) -> Tensor:
        """(N, out_features) raw output -> float32 in the form of the targets."""
        return output.float()

    def predict(self, output: Tensor) -> Tensor:
        raise NotImplementedError

    def in_picture(self, output: Tensor, width: int, height: int) -> Tensor:
        """As ``predict``, but with points in pixels of a picture; exported models use it."""
        return self.predict(output)

    @property
    def spread(self) -> Tensor | float:
        """Standard deviation of the labels (out_features,); 1 if unknown."""
        return 1.0
