"""The stages of a model, and how many of them the tasks share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trn_plugin.errors import ConfigError

__all__ = ["Stages"]


@dataclass(frozen=True)
class Stages:
    """The stages of a model; ``names`` are their last modules."""

    model_name: str
    names: tuple[str, ...]

    @property
    def everything(self) -> int:
        """The count for all stages and the layers after the last one."""
        return max(len(self.names), 1)

    def shared_by_task(
        self, shared: int | str | Mapping[str, int | str], tasks: Sequence[str]
    ) -> dict[str, int]:
        """``shared_stages`` as a number for each task, without stages that only one task has."""
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
        """Convert 'all' or a negative number to a number of stages from the input.

        The last stage includes the layers after it.
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
