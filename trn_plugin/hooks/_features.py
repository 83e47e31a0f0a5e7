"""Read features of a task from a module while the model runs."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trn_plugin.errors import ConfigError
from trn_plugin.hooks._labels import Labels
from trn_plugin.structures import relation_name

__all__ = ["FeatureReader", "refuse_same_modules"]


class FeatureReader:
    """Stores the output of a module, averaged over positions to (N, d).

    Args:
        config (str | Mapping): one of the ``features`` of ``TaskRelationLossHook``.
        where (str): the config key, for errors.

    Raises:
        ConfigError: an invalid config.
    """

    def __init__(self, config: str | Mapping, where: str) -> None:
        options = {"path": config} if isinstance(config, str) else config
        if (
            not isinstance(options, Mapping)
            or not isinstance(options.get("path"), str)
            or set(options) - {"path", "dim"}
        ):
            raise ConfigError(
                f"{where}: expected a module name or dict(path=..., dim=...), found {config!r}"
            )
        self.path = options["path"]
        self.dim = options.get("dim")
        if self.dim is not None and (not isinstance(self.dim, int) or self.dim == 0):
            raise ConfigError(f"{where}.dim: expected a dimension other than 0, found {self.dim!r}")
        self.where = where
        self._outputs: list[Tensor] = []

    def module(self, model: nn.Module) -> nn.Module:
        """The module to read.

        Raises:
            ConfigError: the model has no such module; suggests similar names.
        """
        modules = dict(model.named_modules(remove_duplicate=False))
        if self.path and self.path in modules:
            return modules[self.path]
        close = difflib.get_close_matches(self.path, [name for name in modules if name], n=3)
        close = close or [name for name, _ in model.named_children()]
        raise ConfigError(
            f"{self.where}: {type(model).__name__} has no module {self.path!r}; "
            f"perhaps {', '.join(close)}"
        )

    def attach(self, model: nn.Module, wanted: Callable[[], bool]) -> RemovableHandle:
        """Read the module whenever it runs and ``wanted`` returns True.

        The module then raises ConfigError if its output is not one tensor of features.
        """

        def keep(module: nn.Module, args: tuple, output) -> None:
            if wanted():
                self._outputs.append(self._pooled(output))

        return self.module(model).register_forward_hook(keep)

    @property
    def device(self) -> torch.device:
        """Device of the stored features; the CPU if there are none."""
        return self._outputs[0].device if self._outputs else torch.device("cpu")

    def clear(self) -> None:
        """Drop the stored features."""
        self._outputs.clear()

    def take(
        self,
        batch: int,
        labels: Labels,
        width: int | None = None,
        device: torch.device | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the stored features (N, d), in at least float32, and drop them.

        A head may run on the labelled samples only, and not at all without any. If there are as
        many rows as labelled samples, the rows are theirs, in order; other samples get zeros.

        Args:
            batch (int): the number of samples, N.
            labels (Labels): labels of the task.
            width (int | None): d, if known from an earlier step.
            device (torch.device): device of the zeros if the head did not run.

        Returns:
            The features, and a mask (N,) of the samples that have features; None for all.

        Raises:
            ConfigError: the module was not called exactly once since :meth:`clear`, or the number
                of rows does not fit.
        """
        outputs, self._outputs = self._outputs, []
        unlabelled = labels.values is None or (labels.mask is not None and not labels.mask.any())
        if not outputs and width is not None and unlabelled:
            none = torch.zeros(batch, dtype=torch.bool, device=device)
            return torch.zeros(batch, width, device=device), none
        if len(outputs) != 1:
            found = f"was called {len(outputs)} times" if outputs else "was not called"
            raise ConfigError(
                f"{self.where}: {self.path!r} {found} in a training step, expected one call"
            )
        (features,) = outputs
        if len(features) == batch:
            return features, None
        labelled = labels.present
        if len(features) != len(labelled) and labels.mask is not None:
            labelled = labels.mask.nonzero()[:, 0].cpu()
        if len(features) != len(labelled):
            raise ConfigError(
                f"{self.where}: {self.path!r} gives {len(features)} rows of features, expected "
                f"one for each of {batch} data samples, or of the {len(labelled)} with a label"
            )
        rows = labelled.to(features.device, non_blocking=True)
        mask = torch.zeros(batch, dtype=torch.bool).index_fill_(0, labelled, True)
        spread = features.new_zeros(batch, features.shape[1]).index_copy(0, rows, features)
        return spread, mask.to(features.device, non_blocking=True)

    def _pooled(self, output) -> Tensor:
        """Average over positions; always a copy, since the model may change the output in place."""
        while isinstance(output, (tuple, list)) and len(output) == 1:
            output = output[0]
        if not torch.is_tensor(output):
            size = f" of {len(output)}" if isinstance(output, (tuple, list, Mapping)) else ""
            raise self._misfit(f"a {type(output).__name__}{size}")
        shape = tuple(output.shape)
        if not output.is_floating_point() or not 2 <= output.ndim <= 5 or 0 in shape[1:]:
            raise self._misfit(f"{shape} of {output.dtype}")
        dim = self.dim if self.dim is not None else (-1 if output.ndim <= 3 else 1)
        if not -output.ndim < dim < output.ndim:
            raise self._misfit(f"{shape} without a dimension {dim}")
        dtype = torch.promote_types(output.dtype, torch.float32)
        positions = [i for i in range(1, output.ndim) if i != dim % output.ndim]
        if not positions:
            return output.to(dtype, copy=True)
        return output.mean(positions, dtype=dtype)

    def _misfit(self, found: str) -> ConfigError:
        return ConfigError(
            f"{self.where}: {self.path!r} gives {found}, expected one tensor (N, d), (N, L, d) or "
            "(N, d, H, W)"
        )


def refuse_same_modules(
    model: nn.Module, readers: Mapping[str, FeatureReader], sides: Iterable[tuple]
) -> None:
    """Raise a ConfigError if a relation has the same module on both sides."""
    modules = {task: reader.module(model) for task, reader in readers.items()}
    for first, second in sides:
        for task in second:
            if any(modules[task] is modules[other] for other in first):
                level = readers[task].where.rpartition(".")[0]
                raise ConfigError(
                    f"{level}: {relation_name((first, second))} relates the features of "
                    f"{readers[task].path!r} to themselves"
                )
