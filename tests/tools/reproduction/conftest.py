import pytest
from tables import TWO_ROWS


@pytest.fixture
def table():
    """Two rows, one compared with the other."""
    return TWO_ROWS
