"""How many of a model's stages the tasks share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trn_plugin.errors import ConfigError

__all__ = ["Stages"]


@dataclass(frozen=True)
class Stages:
    """The stages of a model.

    Attributes:
        model_name (str): of the model.
        names (tuple[str, ...]): the modules that end its stages.
    """

    model_name: str
    names: tuple[str, ...]

    @property
    def everything(self) -> int:
        """The number that stands for all stages and what follows the last."""
        return max(len(self.names), 1)

    def shared_by_task(
        self, shared: int | str | Mapping[str, int | str], tasks: Sequence[str]
    ) -> dict[str, int]:
        """``shared_stages`` as a number for each task; what only one task would share is its own.

        Raises:
            ConfigError: no number for a task, or a stage that the model has not.
        """
        if not isinstance(shared, Mapping):
            return dict.fromkeys(tasks, self.count(shared, "shared_stages"))
        if set(shared) != set(tasks):
            raise ConfigError(
                f"model.backbone.shared_stages: expected a number for each of {', '.join(tasks)}, "
                f"found numbers for {', '.join(map(str, shared)) or 'none'}"
            )
        counts = {task: self.count(shared[task], f"shared_stages.{task}") for task in tasks}
        used_twice = sorted(counts.values())[-2:][0]
        return {task: min(count, used_twice) for task, count in counts.items()}

    def count(self, stages: int | str, key: str) -> int:
        """A number of stages from the front; with the last one comes all that follows it.

        Raises:
            ConfigError: the model has no such stage; names ``model.backbone.<key>``.
        """
        count = len(self.names)
        if stages == "all":
            return self.everything
        valid = isinstance(stages, int) and not isinstance(stages, bool)
        if not valid or not -count <= stages <= count:
            listing = ", ".join(f"{i + 1} ({name})" for i, name in enumerate(self.names))
            raise ConfigError(
                f"model.backbone.{key}: expected 0, 'all', a stage of {self.model_name} "
                f"[{listing}] or its negative, found {stages!r}"
            )
        return stages if stages >= 0 else count + stages
