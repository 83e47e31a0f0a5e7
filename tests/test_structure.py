"""Public names are documented, and the rooms import in one direction."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import trn_plugin

PACKAGE = Path(trn_plugin.__file__).parent
ROOMS = (
    "relation",
    "models",
    "hooks",
    "datasets",
    "evaluation",
    "deploy",
    "engine",
    "experiments",
)
# what a room may import of the others; everybody may use the plain files at the top
ALLOWED = {
    "relation": set(),
    "datasets": set(),
    "models": {"relation", "engine"},  # of engine: safe loading of weights
    "hooks": {"models", "evaluation", "relation"},
    "evaluation": {"relation"},
    "deploy": {"engine"},
    "engine": set(),
    "experiments": {"datasets", "engine"},
}


def modules():
    for info in pkgutil.walk_packages([str(PACKAGE)], "trn_plugin."):
        yield info.name


@pytest.mark.parametrize("name", sorted(modules()))
def test_public_names_have_docstrings(name):
    module = importlib.import_module(name)
    assert module.__doc__, name
    public = getattr(module, "__all__", [])
    for attribute in public:
        value = getattr(module, attribute)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, f"{name}.{attribute}"


@pytest.mark.parametrize("room", ROOMS)
def test_import_direction(room):
    for path in (PACKAGE / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                parts = name.split(".")
                other = parts[1] if parts[0] == "trn_plugin" and len(parts) > 1 else None
                if other in ROOMS and other != room:
                    assert other in ALLOWED[room], f"{path.name} imports {name}"


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import trn_plugin", ["torch", "numpy", "mmengine"]),
        ("import trn_plugin.relation", ["mmengine", "timm", "albumentations", "cv2"]),
        ("from trn_plugin.deploy import FaceTaskPredictor", ["torch", "mmengine", "timm"]),
    ],
)
def test_light_imports(statement, absent):
    code = f"import sys; {statement}; print([m for m in {absent!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_nothing_asserts_for_its_users():
    """A user's mistake is an exception with a message; asserts vanish under -O."""
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not [n for n in ast.walk(tree) if isinstance(n, ast.Assert)], path.name
