import gc
import logging
import os
import sys
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # several processes share the cores; before torch is imported

import cv2
import mmengine.config.config
import torch
from mmengine.registry import init_default_scope

cv2.setNumThreads(0)
# yapf, which formats the config for logs, files and checkpoints, would be half of a small run
mmengine.config.config.FormatCode = lambda text, **options: (text, True)
TESTS = Path(__file__).parent
ROOMS = ("relation", "models", "datasets", "engine", "hooks")  # helpers shared by tests
for folder in (*ROOMS, ".", "../tools", "../tools/benchmarks"):
    sys.path.insert(0, str((TESTS / folder).resolve()))


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if "cuda" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_collection_finish():
    """Exempt imported modules from garbage collection, which MMEngine runs for each data set."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def default_scope():
    init_default_scope("trn_plugin")


@pytest.fixture(autouse=True)
def without_fsync(monkeypatch):
    """fsync is slow, and no test checks that files survive a power failure."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def device():
    """The device under test: TRN_PLUGIN_TEST_DEVICE, by default the CPU."""
    return torch.device(os.environ.get("TRN_PLUGIN_TEST_DEVICE", "cpu"))


class _Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@pytest.fixture
def logged():
    """A function that returns what MMEngine's current logger has logged since the test began."""
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    handler = _Lines()
    logger.addHandler(handler)
    yield lambda: "\n".join(handler.lines)
    logger.removeHandler(handler)


@pytest.fixture
def run_tool(monkeypatch, capsys):
    """A function that runs a tool with arguments: its exit status, output and errors."""
    from tool_runs import tool

    def run(name, *arguments):
        status = tool(name, *arguments, monkeypatch=monkeypatch)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run
