"""The pages of the documentation, and the fenced blocks in them.

A block is run by a test unless a comment above it says otherwise::

    <!-- not run: needs two machines -->
    <!-- tested by: tests/tools/test_own_kind.py -->
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "configs/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
MARK = re.compile(r"<!-- (not run|tested by): (.+?) -->")
FENCE = re.compile(
    r"(?:^[ ]*(?P<mark><!--.*?-->)\n+)?"
    r"^(?P<indent>[ ]*)(?P<ticks>`{3,})(?P<info>[^`\n]*)\n(?P<text>.*?)^(?P=indent)(?P=ticks)[ ]*$",
    re.MULTILINE | re.DOTALL,
)


@dataclass
class Block:
    """A fenced block of a page.

    Attributes:
        language (str): ``bash``, ``python`` and so on; '' where the fence says none.
        title (str): the file that it is to be saved as, or ''.
        mark (tuple): ``('not run', reason)``, ``('tested by', path)`` or None.
    """

    page: Path
    line: int
    language: str
    title: str
    mark: tuple[str, str] | None
    text: str

    @property
    def where(self):
        return f"{name_of(self.page)}:{self.line}"


def name_of(page):
    return str(page.relative_to(ROOT))


def blocks(page):
    """The fenced blocks of a page, in order."""
    content = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(content):
        language, _, rest = match["info"].strip().partition(" ")
        title = re.search(r'title="([^"]+)"', rest)
        mark = MARK.fullmatch(match["mark"] or "")
        indent = len(match["indent"])
        found.append(
            Block(
                page=page,
                line=content.count("\n", 0, match.start("ticks")) + 1,
                language=language,
                title=title[1] if title else "",
                mark=mark and mark.groups(),
                text="".join(line[indent:] for line in match["text"].splitlines(keepends=True)),
            )
        )
    return found
