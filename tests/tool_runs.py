"""Run tools in this process, with the arguments of a command line."""

import importlib.util
import runpy
import sys
from pathlib import Path

TOOLS = Path(__file__).parents[1] / "tools"


def path_of(name):
    """The file of a tool or benchmark."""
    return next(p for p in (TOOLS / f"{name}.py", TOOLS / f"benchmarks/{name}.py") if p.is_file())


def tool(name, *arguments, monkeypatch):
    """Run a tool; return its exit status."""
    path = path_of(name)
    monkeypatch.setattr("sys.argv", [f"{name}.py", *map(str, arguments)])
    with monkeypatch.context() as patch:
        patch.syspath_prepend(path.parent)
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as stop:
            return stop.code
    return 0


def loaders(parts=("train", "val", "test"), batch_size=16, **dataset):
    """KEY=VALUE of data loaders without worker processes, and of their data sets."""
    own = dict(num_workers=0, persistent_workers=False, batch_size=batch_size)
    own |= {f"dataset.{key}": value for key, value in dataset.items()}
    return [f"{part}_dataloader.{key}={value}" for part in parts for key, value in own.items()]


def load(name):
    """Import a tool as a module."""
    path = path_of(name)
    spec = importlib.util.spec_from_file_location(f"loaded_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
