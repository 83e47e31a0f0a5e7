import logging

import pytest


class _Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@pytest.fixture
def logged():
    """A function: all that was logged by MMEngine's current logger since the test began."""
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    handler = _Lines()
    logger.addHandler(handler)
    yield lambda: "\n".join(handler.lines)
    logger.removeHandler(handler)
