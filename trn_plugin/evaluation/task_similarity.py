"""Task similarity of an evaluation set (Eq. 11 and Eq. 12 of the paper)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from mmengine.dist import get_world_size
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from trn_plugin.errors import ConfigError
from trn_plugin.evaluation.features import FIELDS, LABELS, features_of, joined, split
from trn_plugin.evaluation.pairwise import grouped, pair_similarities
from trn_plugin.evaluation.task_metric import Samples, listed, table
from trn_plugin.registry import METRICS
from trn_plugin.structures import MultiTaskBatch, relation_name, relation_sides

__all__ = ["TaskSimilarity"]

LEVELS = tuple(level for level in FIELDS if level != LABELS)


@METRICS.register_module()
class TaskSimilarity(BaseMetric):
    """tau of each relation on hidden features, outputs (Eq. 11) and labels (Eq. 12).

    All levels use the same pictures, those with complete labels of both sides. tau is NaN if
    N - 1 <= d1 + d2 or a feature is not finite; the logged table gives the reason.

    Keys, with ``<relation>`` such as ``landmarks-pose`` or ``a+b-c``: ``N/<relation>`` and, for
    each level and for the labels (``gt``), ``tau_<level>/<relation>``,
    ``chance_<level>/<relation>`` (mean tau of independent features), ``d1_<level>/<relation>``
    and ``d2_<level>/<relation>``. Similarities are in 0..1.

    Args:
        relations: Pairs of tasks or of groups of tasks, ``[('landmarks', 'pose')]`` or
            ``[(('a', 'b'), ('c',))]``; the features of a group are concatenated. 'all' for every
            pair of the model's tasks.
        levels: Any of ``'hidden'`` (inputs of the tasks' last layers), ``'output'`` (predictions of
            the heads) and ``'logits'`` (their raw outputs).
        collect_device, prefix, collect_dir: See :class:`mmengine.evaluator.BaseMetric`.

    Raises:
        ConfigError: an unknown level or task, or a relation that is not a pair of different tasks
            or is listed twice.
    """

    default_prefix = "relation"

    def __init__(
        self,
        relations: Sequence | str,
        levels: Sequence[str] = ("hidden", "output"),
        collect_device: str = "cpu",
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix, collect_dir)
        levels = (levels,) if isinstance(levels, str) else tuple(levels)
        for level in levels:
            if level not in LEVELS:
                raise ConfigError(
                    f"TaskSimilarity.levels: expected any of {listed(LEVELS)}, found {level!r}"
                )
        self.levels = levels
        self.relations: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        for index, relation in enumerate(() if relations == "all" else relations):
            key = f"TaskSimilarity.relations[{index}]"
            sides = relation_sides(relation, key)
            name = relation_name(sides)
            if name in self.relations:
                raise ConfigError(f"{key}: {name} is listed twice")
            self.relations[name] = sides
        if not self.relations and relations != "all":
            raise ConfigError("TaskSimilarity.relations: expected at least one pair, found none")
        self.tasks = {task for sides in self.relations.values() for side in sides for task in side}

    @property
    def predicted_tasks(self) -> tuple[str, ...]:
        """The tasks whose features are read."""
        return tuple(self.tasks)

    @BaseMetric.dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict | None) -> None:
        """Set and check the data set's metainfo; it must have all tasks of the relations."""
        self._dataset_meta = dataset_meta
        if dataset_meta and "tasks" in dataset_meta:
            self._check_tasks(dataset_meta["tasks"], "data set")

    def _check_tasks(self, known: Sequence[str], owner: str) -> None:
        for index, sides in enumerate(self.relations.values()):
            for task in (*sides[0], *sides[1]):
                if task not in known:
                    raise ConfigError(
                        f"TaskSimilarity.relations[{index}]: expected tasks of the {owner} "
                        f"({listed(known)}), found {task!r}"
                    )

    takes_batches = True

    def process(self, data_batch: object, data_samples: Samples) -> None:
        """Store the features of the related tasks."""
        if not len(data_samples):
            return
        is_batch = isinstance(data_samples, MultiTaskBatch)
        known = data_samples.fields if is_batch else data_samples[0]
        for level in self.levels:
            tasks = known[FIELDS[level]]
            if not self.relations:  # 'all'
                pairs = [((a,), (b,)) for a, b in combinations(sorted(tasks), 2)]
                self.relations = {relation_name(sides): sides for sides in pairs}
                self.tasks = set(tasks)
            self._check_tasks(tasks, "model")
        found = features_of(data_samples, (*self.levels, LABELS), tuple(self.tasks))
        # MMEngine interleaves the samples of several ranks
        self.results += split(found) if get_world_size() > 1 else [found]

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Similarities by key, NaN if undefined; also logged as a table."""
        sides = {"+".join(side): side for pair in self.relations.values() for side in pair}
        pairs = [tuple("+".join(side) for side in pair) for pair in self.relations.values()]
        features = joined(results)
        labels = grouped(features[LABELS], sides)
        present = {name: np.isfinite(values).all(1) for name, values in labels.items()}
        found = {
            level: pair_similarities(grouped(values, sides), pairs, present)
            for level, values in features.items()
        }
        metrics, rows = {}, []
        for index, name in enumerate(self.relations):
            metrics[f"N/{name}"] = found[LABELS][index].n
            for level, similarities in found.items():
                tau, chance, n, d1, d2, note = similarities[index]
                metrics |= {
                    f"tau_{level}/{name}": tau,
                    f"chance_{level}/{name}": chance,
                    f"d1_{level}/{name}": d1,
                    f"d2_{level}/{name}": d2,
                }
                numbers = [_number(tau), _number(chance), *map(str, (n, d1, d2))]
                rows.append([_short(name), level, *numbers, note])
        header = ["relation", "level", "tau", "chance", "N", "d1", "d2", ""]
        text = table(header, rows, left=(0, 1, len(header) - 1))
        count = len(next(iter(labels.values()), ()))
        print_log(f"Task similarity, {count} pictures\n{text}", logger="current")
        return metrics


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _short(name: str) -> str:
    return name if len(name) <= 40 else name[:37] + "..."
