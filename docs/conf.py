"""How Sphinx builds the documentation: `python docs/build.py html`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.ext.napoleon import GoogleDocstring

import smtplite

DOCS = Path(__file__).resolve().parent

project = "smtplite"
author = "the smtplite authors"
copyright = "the smtplite authors"  # noqa: A001 (the name that Sphinx reads)
version = release = smtplite.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]

# Pages, in the Markdown that the web shows too
myst_heading_anchors = 4
myst_links_external_new_tab = False

# Reference, from the docstrings
default_role = "py:obj"  # a link where the name is known, else code
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
strip_signature_backslash = True  # else the parameter from_ is a reference to "from"
python_maximum_signature_line_length = 88

# Looks
html_theme = "furo"
html_title = "smtplite"
html_static_path = ["_static"]
html_css_files = ["smtplite.css"]
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "monokai"

#: A row of the table in index.md that leads to pages: its name in bold, and links.
_ROW = re.compile(r"^\| \*\*(?P<caption>.+?)\*\* \|(?P<links>.+)\|$", re.MULTILINE)
_LINK = re.compile(r"\]\((?P<page>[\w./-]+)\.(?:md|rst)\)")
_FENCE = re.compile(r"^```(python no-run|text output|mermaid)$", re.MULTILINE)
_DIAGRAM = re.compile(r"^```mermaid\n.*?^```$", re.MULTILINE | re.DOTALL)


def _toctrees(index: str) -> str:
    """Return what the sidebar shows: the same pages as the table of the index."""
    trees = []
    for row in _ROW.finditer(index):
        pages = "\n".join(match["page"] for match in _LINK.finditer(row["links"]))
        trees.append(f"```{{toctree}}\n:hidden:\n:caption: {row['caption']}\n\n{pages}\n```\n")
    _, _, listed = index.partition("<!-- generated: examples -->")
    pages = "\n".join(match["page"] for match in _LINK.finditer(listed))
    trees.append(f"```{{toctree}}\n:hidden:\n:caption: Examples\n\n{pages}\n```\n")
    return "\n".join(trees)


def _read(_app: Sphinx, name: str, source: list[str]) -> None:
    """Turn what GitHub and our tests read into what Sphinx reads."""
    text = source[0]
    if name == "index":
        text += "\n" + _toctrees(text)
    # A browser draws no mermaid by itself; the picture is made from the same transitions.
    text = _DIAGRAM.sub("![The states and what leads from one to another](states.svg)", text)
    text = _FENCE.sub(lambda match: "```" + match[1].partition(" ")[0], text)
    source[0] = text


class _Attributes:
    """Keeps what napoleon takes for "type: description" in the docstring of an attribute or a property.

    There a colon in the first line is a colon. The sections of a property, such as Raises, are those of a method.
    """

    def __init__(self) -> None:
        self._written: list[str] = []

    def before(self, _app: Sphinx, _what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
        self._written = list(lines)

    def after(self, app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
        if what in ("attribute", "data"):
            lines[:] = self._written
        elif what == "property":
            lines[:] = str(GoogleDocstring(self._written, app.config, app, "method", name, obj, options)).splitlines()


def setup(app: Sphinx) -> None:
    """Register what this file adds."""
    attributes = _Attributes()
    app.connect("autodoc-process-docstring", attributes.before, priority=400)  # napoleon's own is at 500
    app.connect("autodoc-process-docstring", attributes.after, priority=600)
    app.connect("source-read", _read)
