"""Measure task relations of any model by forward hooks on its modules."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from weakref import WeakKeyDictionary

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trn_plugin.errors import CheckpointError, ConfigError
from trn_plugin.hooks._features import FeatureReader, refuse_same_modules
from trn_plugin.hooks._labels import LabelReader, number_of_samples
from trn_plugin.hooks._name_checks import check_dict, check_levels, check_names, check_tasks
from trn_plugin.models.neck import Measurements, TaskRelationNeck
from trn_plugin.structures import relation_sides

__all__ = ["AttachedRelations"]

_HOOK = "TaskRelationLossHook"
_ATTACHED: WeakKeyDictionary[nn.Module, AttachedRelations] = WeakKeyDictionary()


class AttachedRelations:
    """Measures task relations between modules of any model while it computes its losses.

    The running covariances are stored here: the model gets no parameter, buffer or attribute.

    Args:
        features (Mapping[str, Mapping[str, str | Mapping]]): by level and task, see
            ``FeatureReader``.
        labels (Mapping[str, str | Mapping]): by task, see ``LabelReader``.
        relations, **options: see ``TaskRelationNeck``.
        data_samples (str): the argument of the model's ``forward`` that holds the labels.

    Raises:
        ConfigError: inconsistent names, or an option out of range.
    """

    def __init__(
        self,
        features: Mapping[str, Mapping[str, str | Mapping]],
        labels: Mapping[str, str | Mapping],
        relations: Sequence[tuple] | str,
        data_samples: str,
        **options,
    ) -> None:
        check_dict(f"{_HOOK}.features", features)
        check_dict(f"{_HOOK}.labels", labels)
        if relations == "all":
            relations = list(combinations(sorted(labels), 2))
        if not relations:
            raise ConfigError(f"{_HOOK}.relations: expected at least one pair of tasks")
        sides = [relation_sides(relation, f"{_HOOK}.relations") for relation in relations]
        tasks = tuple(dict.fromkeys(task for pair in sides for side in pair for task in side))
        check_names(f"{_HOOK}.relations", tasks)
        check_levels(f"{_HOOK}.features", features)
        check_tasks(f"{_HOOK}.labels", labels, tasks)
        self.levels = tuple(features)
        self.readers: dict[str, dict[str, FeatureReader]] = {}
        for level, paths in features.items():
            where = f"{_HOOK}.features.{level}"
            check_tasks(where, paths, tasks)
            self.readers[level] = {t: FeatureReader(paths[t], f"{where}.{t}") for t in tasks}
        self.labels = {task: LabelReader(labels[task], f"{_HOOK}.labels.{task}") for task in tasks}
        self.sides = tuple(sides)
        self.data_samples = data_samples
        try:
            self.neck = TaskRelationNeck(sides, self.levels, **options)
        except ConfigError as error:
            raise ConfigError(str(error).replace("model.neck.", f"{_HOOK}.")) from None
        self.dims: dict[str, dict[str, int]] | None = None  # widths by level; set by the first step
        self._double_labels: set[str] = set()  # tasks with float64 labels, equal in all processes
        self._saved: dict | None = None
        self._handles: list[RemovableHandle] = []
        self._measuring = self._was_called = False

    def check_called(self) -> None:
        """Check that training steps call ``forward`` in mode 'loss'.

        Raises:
            ConfigError: none has so far.
        """
        if self._handles and not self._was_called:
            raise ConfigError(
                f"{_HOOK}: the model's train_step did not call its forward with mode='loss', where "
                "features and labels are read"
            )

    def attach(
        self,
        model: nn.Module,
        losses: Callable[[dict[str, Measurements]], dict[str, Tensor]],
        check: Callable[[TaskRelationNeck, int], None] | None = None,
        micro_batches: int = 1,
    ) -> None:
        """Add losses to those that each training step of a model returns.

        Args:
            model (nn.Module): like MMEngine's ``BaseModel``. Not the wrapper, or
                DistributedDataParallel would not see the relation losses.
            losses (Callable): maps measurements to losses and log entries.
            check (Callable, optional): called in the first step, when the widths are known, with
                the neck and the number of samples in a step.
            micro_batches (int): number of steps over which gradients are accumulated.

        Raises:
            ConfigError: a path that names no module, a relation of a module with itself, or a
                ``forward`` without the arguments 'mode' and ``data_samples``.
        """
        if model in _ATTACHED:  # by a run that ended with an error
            _ATTACHED[model].detach()
        _ATTACHED[model] = self
        self._signature = inspect.signature(model.forward)
        parameters = self._signature.parameters.values()
        for name in ("mode", self.data_samples):
            if not any(p.name == name or p.kind is p.VAR_KEYWORD for p in parameters):
                raise ConfigError(
                    f"{_HOOK}.data_samples: {type(model).__name__}.forward has no argument "
                    f"{name!r}; its arguments are {', '.join(p.name for p in parameters)}"
                )
        for readers in self.readers.values():
            refuse_same_modules(model, readers, self.sides)
        self._losses, self._check = losses, check
        self._was_called = False
        self._micro_batches = micro_batches
        # torch.compile must not trace the reading of labels
        before, after = map(torch.compiler.disable, (self._before, self._after))
        self._handles = [
            model.register_forward_pre_hook(before, with_kwargs=True),
            *(reader.attach(model, lambda: self._measuring) for reader in self._all_readers()),
            model.register_forward_hook(after, with_kwargs=True),
        ]

    def detach(self) -> None:
        """Remove all hooks from the model; the running covariances stay here."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._end()

    def state(self) -> dict:
        """The running covariances as plain data, for a checkpoint."""
        if self.dims is None:
            return self._saved or {}
        state = self.neck.state_dict()
        return {
            "relations": list(self.neck.names),
            "dims": {level: dict(widths) for level, widths in self.dims.items()},
            "double_labels": sorted(self._double_labels),
            "moments": {name: value.detach().cpu().clone() for name, value in state.items()},
        }

    def load(self, state: Mapping | None) -> None:
        """Continue with the running covariances of a checkpoint; None starts new ones.

        Raises:
            CheckpointError: the state is damaged, or of other relations or levels.
        """
        self.dims = self._saved = None
        if not state:  # also if saved before the first step
            return
        dims = state.get("dims") if isinstance(state, Mapping) else None
        if not isinstance(dims, Mapping) or not {"double_labels", "moments"} <= set(state):
            raise CheckpointError(
                "relation_state: expected relations, dims, double_labels and moments, found "
                f"{list(state) if isinstance(state, Mapping) else type(state).__name__}"
            )
        for what, saved, own in (
            ("relations", state.get("relations"), list(self.neck.names)),
            ("levels", list(dims), [*self.levels, "label"]),
        ):
            if saved != own:
                raise CheckpointError(
                    f"relation_state: the checkpoint has the {what} {saved}, the config {own}"
                )
        self._saved = dict(state)

    def _argument(self, name: str, args: tuple, kwargs: dict):
        """The value of an argument in a call of the model's ``forward``."""
        if name in kwargs:
            return kwargs[name]
        bound = self._signature.bind_partial(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments.get(name)

    def _before(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        trains = model.training and torch.is_grad_enabled()
        if trains and self._argument("mode", args, kwargs) == "loss":
            self._end()
            self._measuring = self._was_called = True

    def _after(self, model: nn.Module, args: tuple, kwargs: dict, output):
        if not self._measuring or self._argument("mode", args, kwargs) != "loss":
            return None
        try:
            if not isinstance(output, dict):
                raise ConfigError(
                    f"{_HOOK}: {type(model).__name__}.forward returned a {type(output).__name__} "
                    "in mode 'loss', expected a dict of losses"
                )
            measured = self._measure(self._argument(self.data_samples, args, kwargs))
            added = {**self.neck.logged(measured), **self._losses(measured)}
            taken = sorted(set(added) & set(output))
            if taken:
                raise ConfigError(
                    f"{_HOOK}: the model's own losses have {', '.join(taken)} already"
                )
            return {**output, **added}
        finally:
            self._end()

    def _measure(self, samples) -> dict[str, Measurements]:
        count = number_of_samples(samples, f"{_HOOK}.data_samples")
        devices = [reader.device for reader in self._all_readers()]
        device = next((d for d in devices if d.type != "cpu"), devices[0])
        labels = {task: reader.read(samples, device) for task, reader in self.labels.items()}
        targets = {task: found.values for task, found in labels.items()}
        mask = {task: found.mask for task, found in labels.items()}
        features: dict[str, dict[str, Tensor]] = {}
        for level, readers in self.readers.items():
            features[level] = {}
            for task, reader in readers.items():
                width = None if self.dims is None else self.dims[level][task]
                features[level][task], has_features = reader.take(
                    count, labels[task], width, device
                )
                if has_features is not None:
                    own = mask[task]
                    mask[task] = has_features if own is None else own & has_features
        if self.dims is None:
            self._connect(features, self._label_dims(targets, samples, device), count)
        for task, target in targets.items():
            width = self.dims["label"][task]
            if target is None:
                target = torch.zeros(count, width, device=device)
            if target.shape[1] != width:
                raise ConfigError(
                    f"{_HOOK}.labels.{task}: {self.labels[task].path!r} gives {target.shape[1]} "
                    f"numbers, expected {width} as in the first batch"
                )
            targets[task] = target.double() if task in self._double_labels else target.float()
        return self.neck({**features, "label": targets}, mask)

    def _label_dims(self, targets, samples, device: torch.device) -> dict[str, int]:
        """Label widths, shared by all ranks: the first batch of a rank may lack labels."""
        if self._saved is not None:
            self._double_labels = set(self._saved["double_labels"])
            return dict(self._saved["dims"]["label"])
        known = torch.zeros(len(targets), 2, dtype=torch.int64, device=device)
        for row, target in zip(known, targets.values(), strict=True):
            if target is not None:
                row[0], row[1] = target.shape[1], int(target.dtype == torch.float64)
        all_reduce(known, op="max")
        widths, doubles = known.T.tolist()
        for reader, width in zip(self.labels.values(), widths, strict=True):
            if width == 0:
                raise ConfigError(
                    f"{reader.where}: no sample of the first batch has a label at "
                    f"{reader.path!r}: {reader.describe_path(samples)}"
                )
        self._double_labels = {t for t, double in zip(targets, doubles, strict=True) if double}
        return dict(zip(targets, widths, strict=True))

    def _connect(self, features, label_dims: dict[str, int], count: int) -> None:
        """Build the layers for the widths of the first step."""
        for level, tensors in features.items():
            if not any(tensor.requires_grad for tensor in tensors.values()):
                raise ConfigError(
                    f"{_HOOK}.features.{level}: no gradient flows through any of its modules, "
                    "which are frozen, detached or run under no_grad"
                )
        dims = {
            level: {task: tensor.shape[1] for task, tensor in tensors.items()}
            for level, tensors in features.items()
        }
        dims["label"] = label_dims
        self.neck.connect(dims)
        self.neck.accumulate(self._micro_batches)
        self.neck.to(next(iter(features[self.levels[0]].values())).device)
        if self._check is not None:
            self._check(self.neck, count * get_world_size())
        if self._saved is not None:
            self._restore(self._saved, dims)
        self.dims, self._saved = dims, None

    def _restore(self, saved: Mapping, dims: dict) -> None:
        for level, widths in dims.items():
            if dict(saved["dims"][level]) != widths:
                raise CheckpointError(
                    f"relation_state: the checkpoint's features of {level!r} are "
                    f"{saved['dims'][level]} wide, the model's {widths}"
                )
        try:
            self.neck.load_state_dict(saved["moments"])
        except RuntimeError as error:
            raise CheckpointError(f"relation_state: {' '.join(str(error).split())}") from None

    def _end(self) -> None:
        self._measuring = False
        for reader in self._all_readers():
            reader.clear()

    def _all_readers(self) -> Iterable[FeatureReader]:
        return (reader for readers in self.readers.values() for reader in readers.values())
