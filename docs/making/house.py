"""The rooms of the code and their modules; and the example projects."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

from making.markdown import code, prose, table
from making.paths import DOCS, PACKAGE, tables

#: Where the tables of the house stand: which room may import which, and in which order modules stand in a room.
LAYERS: Final = DOCS.parent / "tests" / "test_layers.py"


def examples() -> str:
    """Return the list of the example projects, by the titles of their pages."""
    pages = [*sorted(DOCS.glob("examples/*.md")), *sorted(DOCS.glob("examples/*/README.md"))]
    titles = {page: page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for page in pages}
    return "".join(f"- [{title}]({page.relative_to(DOCS).as_posix()})\n" for page, title in titles.items())


def rooms() -> str:
    """Return the table of the rooms and their modules, from top to bottom, as tests/test_layers.py holds them."""
    house = tables(LAYERS, "(?!PACKAGE|MODULES)[A-Z]+")
    below, above = house["ARROWS"], house["ABOVE"]
    rows = []
    for room in [*reversed(above), *reversed(below)]:
        if room in above:
            allowed = [*(code(_short(name)) for name in sorted(above[room])), "`client` and all below it"]
        else:
            allowed = [code(_short(name)) for name in reversed(below) if name in below[room]]
        rows.append((f"**{code(_short(room))}**", _summary(_module(room)), ", ".join(allowed) or "nothing of ours"))
        folder = PACKAGE.joinpath(*room.split(".")[1:])
        if room == PACKAGE.name or not folder.is_dir():
            continue
        names = [path.stem for path in folder.glob("*.py") if path.stem != "__init__"]
        order = {name: place for place, group in enumerate(house["ORDERS"].get(room, ())) for name in group}
        names.sort(key=lambda name: (-order.get(name, 0), name))
        rows += ((code(f"{_short(room)}.{name}"), _summary(folder / f"{name}.py"), "") for name in names)
    return table(("Room, and its modules", "What it does", "It may import"), rows)


def _short(room: str) -> str:
    return room.removeprefix(f"{PACKAGE.name}.")


def _module(room: str) -> Path:
    path = PACKAGE.joinpath(*room.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _summary(module: Path) -> str:
    """Return the first line of a module's docstring, as Markdown."""
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    if not docstring:
        raise ValueError(f"{module.name} has no docstring: its first line stands in the map of the rooms")
    return prose(docstring.partition("\n")[0]).replace("``", "`")
