"""Markdown: tables and code spans, and what docstrings say."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def code(text: str) -> str:
    """Return the text as a code span, whatever backticks it holds."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def prose(text: str) -> str:
    """Return text of a docstring or a comment as Markdown, without the numbers of our internal rules."""
    text = re.sub(r" ?\((?:rules? )?R\d[^()]*\)", "", text)
    # Angle brackets would vanish as HTML.
    return re.sub(r"<([^<>`]*)>", r"&lt;\1&gt;", text)


def first_line(documented: object) -> str:
    """Return the first line of a docstring."""
    return prose((inspect.getdoc(documented) or "").partition("\n")[0])


def attributes(cls: type) -> dict[str, str]:
    """Return attribute -> what the "Attributes:" section of the class's docstring says of it."""
    _, _, section = (inspect.getdoc(cls) or "").partition("Attributes:\n")
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: prose(" ".join(text.split())) for name, text in found}
