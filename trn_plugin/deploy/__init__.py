"""Export a trained model to one ONNX file, and run that file.

``TaskPredictor`` and ``draw_objects`` need numpy, OpenCV and onnxruntime only; ``export_onnx``,
``check_export`` and ``DeployModel`` need torch. Each is imported on first use.
"""

from importlib import import_module

__all__ = ["DeployModel", "TaskPredictor", "check_export", "draw_objects", "export_onnx"]

_MODULES = {
    "DeployModel": "model",
    "TaskPredictor": "runtime",
    "check_export": "check",
    "draw_objects": "drawing",
    "export_onnx": "export",
}


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
