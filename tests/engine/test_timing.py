"""Seconds of a call, and what it returns."""

import time

from trn_plugin.engine.timing import timed


def test_seconds_and_result():
    seconds, result = timed(lambda: time.sleep(0.05) or 7, "cpu")
    assert result == 7
    assert 0.05 <= seconds < 5
