"""The house: no room grows over the reader's head, and its map leads somewhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.exhaustive import WHOLE

pytestmark = pytest.mark.exhaustive(keep=WHOLE)

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "smtplite"


MAX_LINES = 600
MAX_ATTRIBUTES = 20

#: In the first lines of a docstring, with the reason behind it: this is long, and one job all the same.
ONE_JOB = "One job, although long: "
#: How many lines of a docstring are its first.
FIRST_LINES = 5


MODULES = {
    path.relative_to(ROOT).as_posix(): path for path in sorted(PACKAGE.rglob("*.py")) if "testing" not in path.parts
}


def attributes(node: ast.ClassDef) -> set[str]:
    """Return the names that an object of the class holds: its annotated fields, and what any method assigns to self."""
    fields = {
        inner.target.id
        for inner in node.body
        if isinstance(inner, ast.AnnAssign)
        and isinstance(inner.target, ast.Name)
        and not ast.unparse(inner.annotation).startswith("ClassVar")
    }
    assigned = {
        inner.attr
        for inner in ast.walk(node)
        if isinstance(inner, ast.Attribute)
        and isinstance(inner.ctx, ast.Store)
        and isinstance(inner.value, ast.Name)
        and inner.value.id == "self"
    }
    return fields | assigned


def explains_its_length(node: ast.ClassDef | ast.Module) -> bool:
    """Say whether the first lines of the docstring have a reason why this is one job."""
    docstring = ast.get_docstring(node) or ""
    first = " ".join(docstring.splitlines()[:FIRST_LINES])
    return len(first.partition(ONE_JOB)[2].split()) > 3


def too_full(name: str, source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and not explains_its_length(node):
            count = len(attributes(node))
            if count > MAX_ATTRIBUTES:
                yield f"{node.name} has {count} attributes"


@pytest.mark.parametrize("name", MODULES)
def test_no_class_has_more_than_20_attributes_without_a_reason(name: str) -> None:
    assert not list(too_full(name, MODULES[name].read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", MODULES)
def test_no_module_has_more_than_600_lines_without_a_reason(name: str) -> None:
    source = MODULES[name].read_text(encoding="utf-8")
    lines = len(source.splitlines())
    is_allowed = explains_its_length(ast.parse(source))
    assert lines <= MAX_LINES or is_allowed, f"{lines} lines: split it, or say why it is one job ({ONE_JOB!r}...)"


def test_fields_and_what_methods_assign_are_counted_once() -> None:
    [node] = ast.parse(
        "class Full:\n"
        "    one: int\n"
        "    kind: ClassVar[str] = 'x'\n"
        "    def __init__(self):\n"
        "        self.one = self.two = 1\n"
        "    def later(self):\n"
        "        self.three: int = self.four\n"
        "        (self.five, other.six) = 1, 2\n"
    ).body
    assert isinstance(node, ast.ClassDef)
    assert attributes(node) == {"one", "two", "three", "five"}


def test_a_full_class_is_found_unless_it_gives_its_reason() -> None:
    fields = "".join(f"    field_{number}: int\n" for number in range(MAX_ATTRIBUTES + 1))
    assert list(too_full("x.py", f"class Full:\n{fields}")) == ["Full has 21 attributes"]
    assert list(too_full("x.py", f'class Full:\n    """{ONE_JOB}because"""\n{fields}'))
    assert not list(too_full("x.py", f'class Full:\n    """{ONE_JOB}an option of the server each."""\n{fields}'))


def test_every_place_that_contributing_names_exists() -> None:
    """Whoever looks for a decision finds it where the table "You look for" says."""
    rows = re.findall(r"^\| where .* \|$", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == 3
    for row in rows:
        names = re.findall("`([^`]+)`", row)
        paths = [name for name in names if name.endswith(".py")]
        assert paths, row
        for path in set(paths):
            assert (ROOT / path).is_file(), path
        sources = "".join((ROOT / path).read_text(encoding="utf-8") for path in paths if (ROOT / path).is_file())
        for name in set(names) - set(paths):
            for part in name.split("."):
                assert re.search(rf"^ *(?:class|(?:async )?def) {part}\b", sources, re.MULTILINE), name


def test_the_server_of_the_misbehaving_suite_knows_nothing_of_the_client() -> None:
    """What it takes for a command is written a second time there; a mistake of the client's would else be its own."""
    tree = ast.parse((ROOT / "tests" / "misbehaving" / "server.py").read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in imported if name.partition(".")[0] == "smtplite"} == {"smtplite.testing.tls"}


#: Asserts that tell the type checker what the line before made so. No other may stand there: -O takes them out.
NARROWING = {
    "message/composing.py": 1,
    "message/content.py": 2,
    "message/prepared.py": 3,
}


def test_asserts_decide_nothing() -> None:
    """What guards an outcome, or the caller's input, holds under ``python -O``, too."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith("testing/"):
            count = sum(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
            if count:
                found[name] = count
    assert found == NARROWING
