"""The register tells the truth: what stands in it is there, is run, and says what it holds."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from tests.exhaustive import COLLECTED, WHOLE

from .register import ADVISORIES, HELD, RULES

pytestmark = pytest.mark.exhaustive(keep=WHOLE)

TESTS = Path(__file__).parent.parent
Place = tuple[str, str]  # of a test: its file, from tests/ on, and its name


def place_of(name: str) -> Place:
    module, _, function = name.partition("::")
    if module.endswith(".py"):
        return module, function
    return f"misbehaving/test_{module}.py", f"test_{function}"


PLACES = {place_of(name) for tests in HELD.values() for name in tests}


def by_place(nodes: Iterable[str]) -> Mapping[Place, list[str]]:
    """Return the place of each test -> the ids of its nodes, such as ``test_x.py::test_y[z]``."""
    found: dict[Place, list[str]] = defaultdict(list)
    for node in nodes:
        path, _, name = node.partition("::")
        file = "/".join(Path(path).parts[-2:])
        found[file, name.partition("[")[0]].append(name)
    return found


@pytest.fixture(scope="module")
def collected(request: pytest.FixtureRequest) -> Mapping[Place, list[str]]:
    """What pytest collects, exhaustive families with all that they have."""
    nodes: list[str] = request.config.stash[COLLECTED]
    found = by_place(nodes)
    if found.keys() >= PLACES:
        return found
    # A part of the tests is run, or one is missing.
    files = sorted({str(TESTS / file) for file, _ in PLACES if (TESTS / file).exists()})
    command = [sys.executable, "-m", "pytest", "--collect-only", "--exhaustive", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=TESTS.parent)
    return by_place(line for line in done.stdout.splitlines() if "::" in line)


@functools.cache
def docstrings(file: str) -> Mapping[str, str]:
    tree = ast.parse((TESTS / file).read_text())
    functions = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return {function.name: ast.get_docstring(function) or "" for function in functions}


def plain(text: str) -> str:
    """Return the text as the id of a parameter has it: blanks and underscores are the same."""
    return re.sub(r"[\s_]+", " ", text)


@pytest.mark.parametrize("held", HELD)
def test_each_rule_and_each_advisory_is_held_by_tests_that_name_it(
    held: str, collected: Mapping[Place, list[str]]
) -> None:
    for name in HELD[held]:
        file, function = place = place_of(name)
        assert place in collected, f"{held}: {name} does not exist, or is not collected"
        text = plain("\n".join([docstrings(file).get(function, ""), *collected[place]]))
        pattern = rf"(?<![A-Za-z0-9]){re.escape(plain(held))}(?![A-Za-z0-9]|\.[0-9])"
        assert re.search(pattern, text, re.IGNORECASE), f"{name} does not say that it holds {held}"


def test_every_rule_and_nothing_twice() -> None:
    assert list(RULES) == [f"R{number}" for number in (*range(1, 32), 33)]
    assert not RULES.keys() & ADVISORIES.keys()
    for tests in HELD.values():
        assert tests
        assert len(set(tests)) == len(tests)


def test_every_test_of_this_folder_holds_something(collected: Mapping[Place, list[str]]) -> None:
    """What stands in no list is found by nobody who looks for what it holds."""
    named = {r"\bR[0-9]+\b", r"\b(?:CVE|GHSA|VU|RUSTSEC)\b"}
    for file, function in collected:
        if not file.startswith("misbehaving/") or file == "misbehaving/test_register.py":
            continue
        text = plain("\n".join([docstrings(file).get(function, ""), *collected[file, function]]))
        assert (file, function) in PLACES or any(re.search(each, text) for each in named), f"{file}::{function}"
