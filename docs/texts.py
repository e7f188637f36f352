"""The texts of all errors that smtplite raises, read from its source; and the page that explains them.

docs/reference/troubleshooting.md has an entry for each kind of trouble: its heading is an example, and the list below
it names the texts that it is about, in which ... stands for anything::

    ### `server does not offer STARTTLS: pass tls="none" to send unencrypted`

    - `server does not offer STARTTLS: ...`
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import attrs

import smtplite.errors
from smtplite import SMTPError

__all__ = ["ANYTHING", "ENTRIES", "Entry", "Text", "entries_of", "explained_by", "is_example", "texts_of"]

PACKAGE: Final = Path(__file__).resolve().parent.parent / "smtplite"
ENTRIES: Final = Path(__file__).resolve().parent / "reference" / "troubleshooting.md"

#: Stands for what differs from case to case.
ANYTHING: Final = "..."

_ENTRY: Final = re.compile(
    r"^### `(?P<heading>[^\n]+)`\n\n(?P<patterns>(?:- `[^\n]+`\n)+)\n(?P<advice>.*?)(?=^#|\Z)", re.MULTILINE | re.DOTALL
)

#: What is called with an error's text, and which of its arguments the text is.
_MAKERS: Final = {
    **{
        name: 0
        for name, value in vars(smtplite.errors).items()
        if isinstance(value, type) and issubclass(value, SMTPError)
    },
    "UserError": 0,
    # of smtplite.compat.aiosmtplib
    "SMTPException": 0,
    "SMTPNotSupported": 0,
    "SMTPServerDisconnected": 0,
    "extension_required": 1,
}
#: Errors of the standard library that are put into one of ours, as they are.
_PUT_INTO_OURS: Final = {"cli/job.py": "ValueError", "options.py": "ValueError"}
_MAX_DEPTH: Final = 6
#: A pattern of several parts that has fewer letters of its own is vague.
_FEWEST_LETTERS: Final = 10


@attrs.frozen
class Text:
    """An error's text, and where it is in the source."""

    text: str
    place: str


@attrs.frozen
class Entry:
    """An entry of the page."""

    heading: str
    patterns: tuple[str, ...]
    advice: str


class _Module:
    """What the text of a call is made of, as far as it stands in the same module."""

    def __init__(self, tree: ast.Module) -> None:
        self._values: dict[str, list[ast.expr]] = {}
        self._functions: dict[str, list[ast.expr]] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        self._values.setdefault(target.id, []).append(node.value)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
                self._values.setdefault(node.target.id, []).append(node.value)
            elif isinstance(node, ast.FunctionDef):
                returned = [one.value for one in ast.walk(node) if isinstance(one, ast.Return) and one.value]
                self._functions.setdefault(node.name, []).extend(returned)

    def texts(self, node: ast.expr, depth: int = 0) -> Iterator[str]:
        """Yield what this expression may be."""
        if depth > _MAX_DEPTH:
            yield ANYTHING
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else ANYTHING for part in node.values)
        elif isinstance(node, ast.IfExp):
            yield from self.texts(node.body, depth + 1)
            yield from self.texts(node.orelse, depth + 1)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            for left in self.texts(node.left, depth + 1):
                for right in self.texts(node.right, depth + 1):
                    yield left + right
        else:
            for found in self._elsewhere(node):
                yield from self.texts(found, depth + 1)

    def _elsewhere(self, node: ast.expr) -> Iterable[ast.expr]:
        found: Iterable[ast.expr] = ()
        if isinstance(node, ast.Name):
            found = self._values.get(node.id, ())
        elif isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            found = self._functions.get(name, ())
        return found or [ast.Constant(ANYTHING)]


def texts_of(package: Path = PACKAGE) -> list[Text]:
    """Return each text once, in the order of the modules; not those that are another error's."""
    found: dict[str, Text] = {}
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        module = _Module(tree)
        calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
        for call in sorted(calls, key=lambda call: call.lineno):
            name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
            index = 0 if name == _PUT_INTO_OURS.get(place) else _MAKERS.get(name)
            if index is None or len(call.args) <= index:
                continue
            for text in module.texts(call.args[index]):
                shown = re.sub(r"(\.\.\.)+", ANYTHING, text.partition("\n")[0])
                if re.search("[a-z]", shown):
                    found.setdefault(shown, Text(shown, f"{place}:{call.lineno}"))
    return list(found.values())


def entries_of(page: str) -> list[Entry]:
    """Return the entries of the page."""
    return [
        Entry(match["heading"], tuple(re.findall("^- `(.+)`$", match["patterns"], re.MULTILINE)), match["advice"])
        for match in _ENTRY.finditer(page)
    ]


def explained_by(text: str, pattern: str) -> bool:
    """Return True if this pattern covers that text. One that would cover nearly everything covers only itself."""
    if pattern.count(ANYTHING) > 1 and sum(map(str.isalpha, pattern)) < _FEWEST_LETTERS:
        return text == pattern
    return is_example(text, pattern)


def is_example(text: str, pattern: str) -> bool:
    """Return True if this text is of that form."""
    expression = ".*".join(re.escape(part) for part in pattern.split(ANYTHING))
    return re.fullmatch(expression, text, re.DOTALL) is not None
