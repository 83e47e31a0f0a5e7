import os

import pytest


@pytest.fixture(autouse=True)
def without_waiting_for_the_disk(monkeypatch):
    """Skip fsync for speed."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
