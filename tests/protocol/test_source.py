"""The source of the core: no assert decides anything, no class and no module does more than its share."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = sorted((ROOT / "smtplite" / "protocol").glob("*.py"))

#: What says no when it is misused, and what decides outcomes: run again where no assert of the core could help.
GUARDS = (
    "tests/protocol/test_outcomes.py",
    "tests/protocol/test_transaction.py",
    "tests/protocol/test_window.py::test_what_was_or_may_have_been_delivered_is_not_sent_again",
    "tests/protocol/test_window.py::test_a_message_that_was_fitted_to_no_server_cannot_begin",
    "tests/protocol/test_state.py::test_a_group_is_its_commands_one_by_one_or_nothing",
)


MAX_ATTRIBUTES, MAX_LINES = 20, 600


def attributes_of(cls: ast.ClassDef) -> set[str]:
    """Return what its objects carry: assigned in the class's body, or to `self` in its methods."""
    found = set()
    for node in ast.walk(cls):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        for target in targets:
            if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
                found.add(target.attr)
            elif isinstance(target, ast.Name) and node in cls.body:
                found.add(target.id)
    return found


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_no_class_has_more_than_20_attributes_and_a_long_module_says_why_it_is_one_job(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    module = ast.parse(text)
    for cls in (node for node in module.body if isinstance(node, ast.ClassDef)):
        assert len(attributes_of(cls)) <= MAX_ATTRIBUTES, cls.name
    begin = "\n".join((ast.get_docstring(module) or "").splitlines()[:3])
    assert len(text.splitlines()) <= MAX_LINES or "One job" in begin


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_the_core_has_no_assert(path: Path) -> None:
    lines = [
        node.lineno for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Assert)
    ]
    assert lines == [], f"{path.name}: raise an error of smtplite.errors instead"


@pytest.mark.exhaustive(keep=0)
def test_guards_and_outcomes_hold_without_asserts() -> None:
    """The tests' own asserts still count: pytest rewrites them."""
    command = (sys.executable, "-O", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", *GUARDS)
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " passed" in done.stdout
