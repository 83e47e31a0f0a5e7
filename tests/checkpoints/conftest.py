import os

import pytest


@pytest.fixture(autouse=True)
def without_waiting_for_the_disk(monkeypatch):
    """Many small checkpoints: whether they outlive a power failure is not what is tested."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
