"""What MkDocs cannot do by itself: equations without JavaScript, and docstrings in its own syntax.

MkDocs loads this file as a hook, mkdocstrings as an extension of Griffe.
"""

import re

import griffe
from latex2mathml.converter import convert

DIRECTIVE = re.compile(r"^( *)\.\. math:: *((?:.*)(?:\n\1 +\S.*)*)\n?", re.MULTILINE)
ROLE = re.compile(r":(?:class|func|meth|mod|attr|ref):`~?([^`]*)`")
INLINE = re.compile(r":math:`([^`]*)`")


def on_config(config):
    """A fence of the language ``math`` becomes MathML; GitHub draws the same fence."""
    config.mdx_configs["pymdownx.superfences"] = {
        "custom_fences": [{"name": "math", "class": "math", "format": equation}]
    }
    return config


def on_page_markdown(markdown, page, **kwargs):
    """The front page has no columns beside it, only the tabs above."""
    if page.is_homepage:
        page.meta["hide"] = ["navigation", "toc"]
    return markdown


def equation(source, language, css_class, options, md, **kwargs):
    """LaTeX as MathML."""
    return f'<div class="equation">{convert(source.strip(), display="block")}</div>'


class Docstrings(griffe.Extension):
    """Equations and references of docstrings, from reStructuredText to Markdown."""

    def on_object(self, *, obj, loader, **kwargs):
        """Once for each module, class and function."""
        if obj.docstring:
            obj.docstring.value = in_markdown(obj.docstring.value)


def in_markdown(text):
    """A docstring, its ``.. math::`` and ``:role:`` in Markdown."""
    text = DIRECTIVE.sub(_display, text)
    text = INLINE.sub(lambda match: convert(match[1]), text)
    text = ROLE.sub(lambda match: f"`{match[1].rpartition('.')[2]}`", text)
    return re.sub(r"^(\s*)Example:\n", r"\1Examples:\n", text, flags=re.MULTILINE)


def _display(match):
    math = " ".join(line.strip() for line in match[2].splitlines())
    return f"{match[1]}{convert(math, display='block')}\n"
