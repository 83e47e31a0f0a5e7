"""trn_plugin.files."""

import pytest

from trn_plugin.errors import ConfigError
from trn_plugin.files import write_table


def test_rows_are_added_under_the_same_columns_only(tmp_path):
    path = tmp_path / "new" / "table.csv"
    write_table(path, [dict(a=1, b="x, y"), dict(a=2)])
    write_table(path, [dict(a=3, b=None)], append=True)
    assert path.read_text() == 'a,b\n1,"x, y"\n2,\n3,\n'
    with pytest.raises(ConfigError, match=r"--report .*table\.csv: expected .* a,c, found a,b"):
        write_table(path, [dict(a=3, c=1)], append=True, option="--report")
    with pytest.raises(ConfigError, match="cannot be written: Is a directory"):
        write_table(tmp_path, [dict(a=1)])
    write_table(path, [dict(c=1)])
    assert path.read_text() == "c\n1\n"
