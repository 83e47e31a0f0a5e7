"""Taps: modules inside a model whose outputs, averaged over positions, are levels of the neck."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trn_plugin.errors import ConfigError
from trn_plugin.models._positions import position_dims
from trn_plugin.models._uncut import shape_of

__all__ = ["TapPools", "check_taps", "outputs_of"]

_WHERE = "model.neck.levels"


@contextmanager
def outputs_of(model: nn.Module, names: Iterable[str]) -> Iterator[dict]:
    """The outputs of the last calls of modules in this context, by name."""
    outputs: dict = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: outputs.__setitem__(name, out)
        )
        for name in names
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def check_taps(
    taps: Sequence[str], model: nn.Module, name: str, stages: Sequence[str], shared: Collection[str]
) -> None:
    """Refuse taps that are not modules of the uncut model ``name``.

    Refuse all taps if some tasks share everything (``shared``).
    """
    names = dict(model.named_modules())
    for tap in taps:
        if tap not in names:
            raise ConfigError(
                f"{_WHERE}: expected 'hidden', 'output' or a module of {name}, found {tap!r}; its "
                f"stages are {', '.join(stages)}"
            )
        if shared:
            raise ConfigError(
                f"{_WHERE}: {tap!r} is not a separate module for each task, since model.backbone."
                f"shared_stages shares everything of {', '.join(shared)}"
            )


class TapPools:
    """Pools the outputs of taps to (N, d); finds their layout from example outputs.

    ``values`` holds the output of each tap for ``rows`` pictures of height and width ``size``;
    ``nhwc`` says whether the model's maps are (N, H, W, d).
    """

    def __init__(
        self, name: str, values: dict, rows: int, size: tuple[int, int], nhwc: bool
    ) -> None:
        self.positions: dict[str, tuple[int, int]] = {}
        for tap, value in values.items():
            if not torch.is_tensor(value) or value.ndim not in (2, 3, 4):
                raise ConfigError(
                    f"{_WHERE}: {tap!r} gives {shape_of(value)} in {name}, where (N, d), "
                    "(N, L, d) or maps (N, d, H, W) are expected"
                )
            if len(value) != rows:
                raise ConfigError(
                    f"{_WHERE}: {tap!r} gives {len(value)} rows for {rows} pictures in {name} "
                    "(windows of them?), where one for each is expected"
                )
            if value.ndim == 4:
                dims = position_dims(value, size, nhwc)
                if dims is None:
                    raise ConfigError(
                        f"{_WHERE}: {tap!r} gives {tuple(value.shape)} in {name}, where maps "
                        "(N, d, H, W) or (N, H, W, d) are expected"
                    )
                self.positions[tap] = dims

    def pooled(self, tap: str, value: Tensor) -> Tensor:
        """The mean of a tap's output over positions, (N, d)."""
        if value.ndim == 2:
            return value
        return value.mean(1) if value.ndim == 3 else value.mean(self.positions[tap])
