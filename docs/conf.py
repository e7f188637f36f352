"""How Sphinx builds the documentation: `python docs/build.py html`."""

from __future__ import annotations

import html
import inspect
import os
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

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinxext.opengraph",
]
exclude_patterns = ["_build"]

# Pages, in the Markdown that the web shows too
myst_heading_anchors = 4
myst_links_external_new_tab = False
myst_enable_extensions = ["colon_fence"]  # for the columns of the landing page

# Reference, from the docstrings
default_role = "py:obj"  # a link where the name is known, else code
#: The engines of a worker: what is said of them needs none of them.
autodoc_mock_imports = ["pgqueuer", "psycopg", "psycopg_pool", "nats"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
strip_signature_backslash = True  # else the parameter from_ is a reference to "from"

autosummary_generate = False  # it makes the tables at the top of the pages, and no pages

# Looks
SOURCE = "https://github.com/smtplite/smtplite"
html_theme = "furo"
html_title = "smtplite"
html_static_path = ["_static"]
html_css_files = ["smtplite.css"]
html_favicon = "_static/favicon.svg"
html_baseurl = os.environ.get("READTHEDOCS_CANONICAL_URL", "https://smtplite.readthedocs.io/en/latest/")
html_theme_options = {
    "light_logo": "logo-light.svg",
    "dark_logo": "logo-dark.svg",
    "sidebar_hide_name": True,  # the logo says it
    "source_repository": SOURCE,
    "source_branch": "main",
    "source_directory": "docs/",
    "light_css_variables": {"color-brand-primary": "#0b6285", "color-brand-content": "#0b6285"},
    "dark_css_variables": {"color-brand-primary": "#6cc5e8", "color-brand-content": "#6cc5e8"},
    "footer_icons": [{"name": "GitHub", "url": SOURCE, "html": "GitHub", "class": ""}],
}
html_copy_source = False
html_show_sphinx = False
pygments_style = "a11y-high-contrast-light"  # furo brings both
pygments_dark_style = "a11y-high-contrast-dark"

# What search engines and previews of links show: the first sentences of each page
ogp_site_url = html_baseurl
ogp_site_name = "smtplite"
ogp_description_length = 200
ogp_enable_meta_description = True
ogp_image = "_static/preview.png"
ogp_image_alt = "smtplite: send mail, and know what became of it"
ogp_social_cards = {"enable": False}

# A button that copies: what is typed, not what is printed
copybutton_selector = "div.highlight-python pre, div.highlight-sh pre, div.highlight-ini pre, div.highlight-yaml pre"

#: A row of the table in index.md that leads to pages: its name in bold, and links.
_ROW = re.compile(r"^\| \*\*(?P<caption>.+?)\*\* \|(?P<links>.+)\|$", re.MULTILINE)
_LINK = re.compile(r"\]\((?P<page>[\w./-]+)\.(?:md|rst)\)")
_FENCE = re.compile(r"^```(python no-run|text output|mermaid)$", re.MULTILINE)
_DIAGRAM = re.compile(r"^```mermaid\n.*?^```$", re.MULTILINE | re.DOTALL)
_OUTSIDE = re.compile(r"\[(?P<title>[^\]]+)\]\((?P<url>https://[^)\s]+)\)")
_PICTURE = re.compile(r"^!\[(?P<says>[^\]]+)\]\((?P<file>[\w-]+\.svg)\)$", re.MULTILINE)
_COLUMNS = {
    "<!-- columns -->": ":::::{container} columns\n\n::::{container} column",
    "<!-- next column -->": "::::\n\n::::{container} column",
    "<!-- end columns -->": "::::\n\n:::::",
}


_INCLUDED = re.compile(r"^```\{include\} \.\./(?P<file>\w+\.md)\n(?::.*\n)*```$", re.MULTILINE)
#: A link to a file, of a page that stands beside this folder: into this folder, or elsewhere in the repository.
_BESIDE = re.compile(r"\]\((?![a-z]+:|#)(?P<docs>docs/)?(?P<rest>[^)\s]+)\)")


def _included(match: re.Match[str]) -> str:
    """Return a page that stands beside this folder, with links that lead where they led."""
    text = (DOCS.parent / match["file"]).read_text(encoding="utf-8")
    elsewhere = f"{SOURCE}/blob/main/"
    return _BESIDE.sub(lambda link: f"]({'' if link['docs'] else elsewhere}{link['rest']})", text)


def _toctrees(index: str) -> str:
    """Return what the sidebar shows: the same pages as the table of the index."""
    trees = []
    for row in _ROW.finditer(index):
        pages = [match["page"] for match in _LINK.finditer(row["links"]) if not match["page"].startswith("examples/")]
        pages += [f"{match['title'].capitalize()} <{match['url']}>" for match in _OUTSIDE.finditer(row["links"])]
        trees.append(_toctree(row["caption"], pages))
    _, _, listed = index.partition("<!-- generated: examples -->")
    trees.append(_toctree("Examples", [match["page"] for match in _LINK.finditer(listed)]))
    return "\n".join(trees)


def _toctree(caption: str, pages: list[str]) -> str:
    listed = "\n".join(pages)
    return f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{listed}\n```\n"


def _drawn(page: Path, match: re.Match[str]) -> str:
    """Return a picture of ours as a part of the page: it then has the colours of the page's theme."""
    picture = (page.parent / match["file"]).read_text(encoding="utf-8")
    if 'class="drawn' not in picture:
        return match[0]
    said = picture.replace('role="img"', f'role="img" aria-label="{html.escape(match["says"])}"', 1)
    return f'```{{raw}} html\n<div class="drawn" tabindex="0">{said}</div>\n```'


def _code_of(folder: Path) -> str:
    """Return the files of an example, to be shown below its page."""
    files = sorted(folder.glob("*.py"), key=lambda path: (path.name.startswith("test_"), path.name))
    shown = [f"### {path.name}\n\n```{{literalinclude}} {path.name}\n:language: python\n```" for path in files]
    return "\n\n## The code\n\n" + "\n\n".join(shown) + "\n"


def _read(_app: Sphinx, name: str, source: list[str]) -> None:
    """Turn what GitHub and our tests read into what Sphinx reads."""
    text = _INCLUDED.sub(_included, source[0])
    if name == "index":
        text += "\n" + _toctrees(text)
        for comment, directive in _COLUMNS.items():
            text = text.replace(comment, directive)
        text = "---\nhide-toc: true\n---\n" + text
    # A browser draws no mermaid by itself; the picture is made from the same transitions.
    text = _DIAGRAM.sub("![The states and what leads from one to another](states.svg)", text)
    text = _FENCE.sub(lambda match: "```" + match[1].partition(" ")[0], text)
    text = _PICTURE.sub(lambda match: _drawn(DOCS / name, match), text)
    if name.startswith("examples/"):
        text += _code_of((DOCS / name).parent)
    source[0] = text


#: A signature with more parameters than this is a wall: it shows the first, and the list below it has all, with types.
MOST_PARAMETERS = 6


def _short_signature(
    _app: Sphinx, _what: str, _name: str, obj: Any, _options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Return a signature that can be taken in at a glance."""
    try:
        # By position, or needed: what a call begins with. Defaults and the rest are told where each is explained.
        parameters = [each for each in inspect.signature(obj).parameters.values() if each.name not in ("self", "cls")]
    except (TypeError, ValueError):
        return signature, returns
    if signature is None or len(parameters) <= MOST_PARAMETERS:
        return signature, returns
    first = [each for each in parameters if each.kind is not each.KEYWORD_ONLY or each.default is each.empty]
    return f"({', '.join(each.name for each in first[:MOST_PARAMETERS])}, ...)".replace("(, ", "("), returns


def _for_everybody(_app: Sphinx, _page: str, _template: str, context: dict[str, Any], _doctree: object) -> None:
    """Mend what the theme and Sphinx write for those who do not use a mouse, or do not see the page."""
    tree = "furo_navigation_tree"
    if tree in context:
        context[tree] = context[tree].replace('role="heading"', 'role="heading" aria-level="2"')
    if "body" in context:  # what is wider than the page is scrolled with the arrow keys
        body = context["body"].replace('<div class="highlight"><pre>', '<div class="highlight"><pre tabindex="0">')
        context["body"] = body.replace('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper')


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
    app.connect("autodoc-process-signature", _short_signature)
    app.connect("source-read", _read)
    app.connect("html-page-context", _for_everybody, priority=900)  # after the theme's own
