"""Public names are documented, and the rooms import in one direction."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
import textwrap
from pathlib import Path

import mmengine
import pytest

import trn_plugin
from trn_plugin.tasks import TASKS

PACKAGE = Path(trn_plugin.__file__).parent
ENGINE = PACKAGE / "engine"
# the rooms that each room may import; all may import the top-level modules
ALLOWED = {
    "tasks": set(),
    "relation": set(),
    "datasets": set(),
    "models": {"relation", "checkpoints"},
    "hooks": {"models", "evaluation", "relation"},
    "evaluation": {"relation"},
    "deploy": {"checkpoints", "engine", "cli"},
    "engine": {"checkpoints"},
    "checkpoints": set(),
    "balancing": set(),
    "experiments": {"cli", "datasets", "deploy", "engine", "evaluation"},
    "cli": {"checkpoints", "datasets", "deploy", "engine", "evaluation", "experiments", "models"},
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


@pytest.mark.parametrize("room", ALLOWED)
def test_import_direction(room):
    for path in (PACKAGE / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                parts = name.split(".")
                other = parts[1] if parts[0] == "trn_plugin" and len(parts) > 1 else None
                if other in ALLOWED and other not in (room, "tasks"):
                    assert other in ALLOWED[room], f"{path.name} imports {name}"


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import trn_plugin", ["torch", "numpy", "mmengine"]),
        ("import trn_plugin.tasks", ["torch", "mmengine", "cv2"]),
        ("import trn_plugin.relation", ["mmengine", "timm", "albumentations", "cv2"]),
        ("from trn_plugin import TaskPredictor", ["torch", "mmengine", "timm"]),
        ("import trn_plugin.cli.predict", ["torch", "mmengine", "timm"]),
    ],
)
def test_light_imports(statement, absent):
    code = f"import sys; {statement}; print([m for m in {absent!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_no_assert_checks_user_input():
    """A user's mistake is an exception with a message; asserts vanish under -O."""
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not [n for n in ast.walk(tree) if isinstance(n, ast.Assert)], path.name


def branches_on_kinds(node):
    """Lines that use a task class, or compare a ``kind`` with the name of one.

    Allowed are ``task_type`` and a metric's ``_needed_tasks``.
    """
    if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "task_type":
        return
    if isinstance(node, ast.FunctionDef) and node.name == "_needed_tasks":
        return
    parts = [node]
    if isinstance(node, (ast.Compare, ast.Match, ast.Subscript, ast.Call)):
        parts = list(ast.walk(node))
    found = {getattr(part, name, None) for part in parts for name in ("id", "attr")}
    texts = {part.value for part in parts if isinstance(part, ast.Constant)}
    found |= {text for text in texts if isinstance(text, str)}
    if found & {task.__name__ for task in TASKS.values()} or ("kind" in found and found & {*TASKS}):
        yield node.lineno
    for inner in ast.iter_child_nodes(node):
        yield from branches_on_kinds(inner)


def test_no_branch_on_a_kind_outside_of_tasks():
    """Other rooms ask the `Task` instead."""
    paths = [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "tools").rglob("*.py")]
    found = {
        path.name: list(branches_on_kinds(ast.parse(path.read_text(encoding="utf-8"))))
        for path in paths
        if PACKAGE / "tasks" not in path.parents
    }
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "code",
    [
        "task.kind == 'class'",
        "if info['kind'] in ('class', 'values'): pass",
        "type(task) is ClassTask",
        "isinstance(task, tasks.ClassTask)",
        "match task:\n    case ClassTask(): pass",
        "match task.kind:\n    case 'class': pass",
        "type(task).__name__ == 'ClassTask'",
        "{'class': 1}[task.kind]",
        "{'class': 1}.get(info['kind'])",
    ],
)
def test_branches_are_found(code):
    assert list(branches_on_kinds(ast.parse(code)))


MOST_PRIVATE = 25
"""How often the package may touch a private name of MMEngine."""


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def private_names(tree):
    """Private names that a module or class defines, or sets as attributes."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and is_private(node.name):
            yield node.name
        elif isinstance(node, (ast.Attribute, ast.Name)) and isinstance(node.ctx, ast.Store):
            name = node.attr if isinstance(node, ast.Attribute) else node.id
            if is_private(name):
                yield name


def names_of_bases(kind):
    """Private names of a class's MMEngine base classes."""
    names = set()
    for base in kind.__mro__:
        if base.__module__.startswith("mmengine."):
            source = textwrap.dedent(inspect.getsource(base))
            names |= set(private_names(ast.parse(source))) - {base.__name__}
    return names


def touched(node):
    """Object and private name of an attribute access, or of a getattr, setattr or hasattr call."""
    if isinstance(node, ast.Attribute) and is_private(node.attr):
        return node.value, node.attr
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) > 1:
        name = getattr(node.args[1], "value", None)
        called = node.func.id in ("getattr", "setattr", "hasattr", "delattr")
        if called and isinstance(name, str) and is_private(name):
            return node.args[0], name
    return None, None


def touches_of_mmengine(path, everywhere, own):
    """Uses of MMEngine's private names in a file, and overrides of its private methods."""
    module = importlib.import_module(
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    )

    def visit(node, inherited):
        if isinstance(node, ast.ClassDef):
            kind = getattr(module, node.name, None)
            inherited = names_of_bases(kind) if inspect.isclass(kind) else set()
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and inner.name in inherited:
                    yield f"{path.name}:{inner.lineno} def {inner.name}"
        value, name = touched(node)
        if name is not None:
            itself = isinstance(value, ast.Name) and value.id in ("self", "cls")
            itself |= isinstance(value, ast.Call) and getattr(value.func, "id", "") == "super"
            if name in inherited if itself else name in everywhere and name not in own:
                yield f"{path.name}:{node.lineno} {name}"
        for inner in ast.iter_child_nodes(node):
            yield from visit(inner, inherited)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), set())


def test_private_names_of_mmengine_are_few():
    """Private names change without notice."""
    theirs = Path(mmengine.__file__).parent.rglob("*.py")
    everywhere = {n for p in theirs for n in private_names(ast.parse(p.read_text("utf-8")))}
    files = sorted(path for path in PACKAGE.rglob("*.py") if ".mim" not in path.parts)
    own = {n for p in files for n in own_private_names(ast.parse(p.read_text("utf-8")))}
    found = [text for path in files for text in touches_of_mmengine(path, everywhere, own)]
    assert len(found) <= MOST_PRIVATE, "\n".join(found)


def own_private_names(tree):
    """Private names that a file's own functions, classes and objects have."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        ):
            yield node.attr


def test_the_engine_is_thin():
    lines = {path.name: len(path.read_text("utf-8").splitlines()) for path in ENGINE.glob("*.py")}
    assert sum(lines.values()) <= 1900
    assert lines["runner.py"] <= 300
