"""Child registries of MMEngine's, scope ``trn_plugin``.

``default_scope = 'trn_plugin'`` or the prefix ``trn_plugin.`` in a ``type`` finds every class of
this package; ``locations`` are imported on first use.
"""

from mmengine.registry import (
    DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS,
)
from mmengine.registry import (
    DATASETS as MMENGINE_DATASETS,
)
from mmengine.registry import (
    HOOKS as MMENGINE_HOOKS,
)
from mmengine.registry import (
    METRICS as MMENGINE_METRICS,
)
from mmengine.registry import (
    MODELS as MMENGINE_MODELS,
)
from mmengine.registry import (
    RUNNERS as MMENGINE_RUNNERS,
)
from mmengine.registry import (
    TRANSFORMS as MMENGINE_TRANSFORMS,
)
from mmengine.registry import (
    Registry,
)

__all__ = ["DATASETS", "DATA_SAMPLERS", "HOOKS", "METRICS", "MODELS", "RUNNERS", "TRANSFORMS"]

SCOPE = "trn_plugin"


def _child(name: str, parent: Registry, location: str) -> Registry:
    return Registry(name, parent=parent, scope=SCOPE, locations=[f"{SCOPE}.{location}"])


MODELS = _child("model", MMENGINE_MODELS, "models")
HOOKS = _child("hook", MMENGINE_HOOKS, "hooks")
DATASETS = _child("dataset", MMENGINE_DATASETS, "datasets")
TRANSFORMS = _child("transform", MMENGINE_TRANSFORMS, "datasets")
DATA_SAMPLERS = _child("data sampler", MMENGINE_DATA_SAMPLERS, "datasets")
METRICS = _child("metric", MMENGINE_METRICS, "evaluation")
RUNNERS = Registry(
    "runner",
    build_func=MMENGINE_RUNNERS.build_func,
    parent=MMENGINE_RUNNERS,
    scope=SCOPE,
    locations=[f"{SCOPE}.engine"],
)
