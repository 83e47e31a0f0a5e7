"""Task Relation Networks for timm and MMEngine.

Train, and predict::

    from trn_plugin import TaskPredictor, train
    train("trn_plugin::toy/trn-output_test-resnet_toy.py", work_dir="work_dirs/toy")

    predictor = TaskPredictor("model.onnx")  # or a config, and checkpoint="epoch_15.pth"
    predictor.predict("photos/")

Importing the package imports nothing else: ``trn_plugin.deploy`` runs where torch is absent.
"""

import os
import sys
from importlib import import_module

# Limit the size that a picture's header may declare; OpenCV reads these when it is imported.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**28))
os.environ.setdefault("OPENCV_LOG_LEVEL", "FATAL")  # unreadable pictures raise our own errors

__version__ = "0.1.0"

_HOMES = {
    "TaskPredictor": "deploy",
    "build_runner": "cli",
    "load_config": "cli",
    "train": "cli.train",
}
__all__ = ["TaskPredictor", "build_runner", "load_config", "train"]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


class _ConfigHook:
    """Import hook: registers this package's configs when ``mmengine.config`` is imported."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != "mmengine.config":
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder != cls)
        spec = next(filter(None, others), None)
        if spec is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                import_module("trn_plugin.packaged").register()

            spec.loader.exec_module = exec_module
        return spec


if "mmengine.config" in sys.modules:
    import_module("trn_plugin.packaged").register()
else:
    sys.meta_path.insert(0, _ConfigHook)
