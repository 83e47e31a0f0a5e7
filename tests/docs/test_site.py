"""The site is built without a warning."""

import importlib.util
import subprocess
import sys

import pytest
from pages import ROOT

NEEDED = ("mkdocs", "material", "mkdocstrings", "latex2mathml")


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, NEEDED)), reason="needs pip install trn-plugin[docs]"
)
def test_the_site_is_built(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "<math" in (tmp_path / "concepts/method/index.html").read_text(encoding="utf-8")
