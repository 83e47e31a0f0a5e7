import sys
from pathlib import Path

import pytest
from mmengine.registry import init_default_scope

for room in ("relation", "models"):
    sys.path.insert(0, str(Path(__file__).parent / room))


@pytest.fixture(autouse=True)
def default_scope():
    init_default_scope("trn_plugin")
