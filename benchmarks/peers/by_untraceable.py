"""smtplite with every question whether somebody listens cut out of its source: what `trace` costs who does not use it.

The statements that ask are taken out of the syntax tree before the modules are executed; nothing else differs.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from types import ModuleType
from typing import Any, Final

from benchmarks.worker import Turn

#: The modules that ask, those first that others import.
MODULES: Final = ("smtplite.sending.outbound", "smtplite.sending.session")
ASKED: Final = frozenset({"_traces", "is_on"})


class Cutter(ast.NodeTransformer):
    """Cuts ``if`` statements whose test is one of ASKED alone, and assignments of it; elsewhere nobody listens."""

    def __init__(self) -> None:
        self.cuts = 0

    def visit_If(self, node: ast.If) -> ast.AST:
        """Replace the statement by nothing, if it asks."""
        return self._cut(node, node.test)

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        """Replace the statement by nothing, if it keeps the answer."""
        return self._cut(node, node.value)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """Answer the question, where it is a part of an expression."""
        if node.attr not in ASKED or not isinstance(node.ctx, ast.Load):
            return self.generic_visit(node)
        self.cuts += 1
        return ast.copy_location(ast.Constant(value=False), node)

    def _cut(self, node: ast.If | ast.Assign, asks: ast.expr) -> ast.AST:
        if not (isinstance(asks, ast.Attribute) and asks.attr in ASKED):
            return self.generic_visit(node)
        self.cuts += 1
        return ast.copy_location(ast.Pass(), node)


def load_without(name: str) -> ModuleType:
    """Import a module without what asks."""
    assert name not in sys.modules, f"{name} is imported already"
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    with open(spec.origin, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    cutter = Cutter()
    tree = cutter.visit(tree)
    assert cutter.cuts, f"nothing in {name} asks whether somebody listens: this measures nothing"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    exec(compile(tree, spec.origin, "exec"), module.__dict__)
    return module


for name in MODULES:
    load_without(name)

from benchmarks.peers import by_smtplite  # noqa: E402 (behind them: it imports what they are part of)


def versions() -> dict[str, str]:
    """Return nothing that smtplite itself does not say."""
    return {}


def run(request: dict[str, Any], turn: Turn, option: str) -> None:
    """Do a `Work`."""
    by_smtplite.run(request, turn, option)
