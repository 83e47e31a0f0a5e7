"""What the pages say is there is there."""

import re

import pytest
from pages import PAGES, ROOT, name_of

from trn_plugin.cli import COMMANDS


def anchors(page):
    """Of the page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_config_is_in_the_table():
    text = (ROOT / "configs" / "README.md").read_text(encoding="utf-8")
    for config in (ROOT / "configs").rglob("*.py"):
        place = config.relative_to(ROOT / "configs")
        if place.parts[0] == "_base_":
            continue
        # a pair stands once for its three methods, a method also for its fast pipeline
        name = place.stem.rsplit("_", 1)[0] if "pairs" in place.parts else str(place)
        name = name.replace("-fast_", "_")
        assert name in text, f"configs/README.md does not name {place}"


def test_every_command_is_in_the_reference():
    text = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
    for command in COMMANDS:
        assert f"\n| `{command}` | " in text, command
