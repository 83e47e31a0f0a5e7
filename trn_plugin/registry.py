"""Child registries of MMEngine's, scope ``trn_plugin``.

``default_scope = 'trn_plugin'`` or the prefix ``trn_plugin.`` in a ``type`` finds every class of
this package; ``locations`` are imported on first use. Registries to which this package adds nothing
have children too: MMEngine warns about registry trees without the scope.
"""

from mmengine import registry as mmengine_registry
from mmengine.registry import Registry

from trn_plugin import packaged

__all__ = [
    "DATASETS",
    "DATA_SAMPLERS",
    "EVALUATORS",
    "FUNCTIONS",
    "HOOKS",
    "LOG_PROCESSORS",
    "METRICS",
    "MODELS",
    "OPTIM_WRAPPERS",
    "RUNNERS",
    "TRANSFORMS",
]

SCOPE = "trn_plugin"
packaged.register()


def _child(parent: Registry, *rooms: str) -> Registry:
    return Registry(
        parent.name,
        build_func=parent.build_func,
        parent=parent,
        scope=SCOPE,
        locations=[f"{SCOPE}.{room}" for room in rooms],
    )


MODELS = _child(mmengine_registry.MODELS, "models")
HOOKS = _child(mmengine_registry.HOOKS, "hooks")
DATASETS = _child(mmengine_registry.DATASETS, "datasets")
TRANSFORMS = _child(mmengine_registry.TRANSFORMS, "datasets")
DATA_SAMPLERS = _child(mmengine_registry.DATA_SAMPLERS, "datasets")
FUNCTIONS = _child(mmengine_registry.FUNCTIONS, "datasets")
EVALUATORS = _child(mmengine_registry.EVALUATOR, "evaluation")
METRICS = _child(mmengine_registry.METRICS, "evaluation")
RUNNERS = _child(mmengine_registry.RUNNERS, "engine")
LOG_PROCESSORS = _child(mmengine_registry.LOG_PROCESSORS, "engine")
OPTIM_WRAPPERS = _child(mmengine_registry.OPTIM_WRAPPERS, "balancing")

_OTHERS = [
    _child(parent, "registry")  # MMEngine warns if there is no location
    for parent in vars(mmengine_registry).values()
    if isinstance(parent, Registry) and SCOPE not in parent.children
]
