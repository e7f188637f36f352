"""Where the tables stand from which pages are made, and how they are read."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, Final

DOCS: Final = Path(__file__).resolve().parents[1]
#: The package whose rooms they are.
PACKAGE: Final = DOCS.parent / "smtplite"


def tables(module: Path, names: str) -> dict[str, Any]:
    """Return the constants of a test module whose names match, without loading the tests and what they need."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    constants: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and re.fullmatch(names, target.id):
                constants.append(node)
    found: dict[str, Any] = {}
    exec(compile(ast.Module(constants, type_ignores=[]), module, "exec"), found)  # noqa: S102 (our own tests)
    return found
