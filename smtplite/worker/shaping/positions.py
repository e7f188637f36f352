"""Positions: the line of each table and key in a TOML file; `tomllib` does not tell it."""

from __future__ import annotations

import re
from typing import Any, Final, TypeAlias

__all__ = ["Path", "positions"]

#: Where a value is: names of tables and keys, and numbers within arrays, from 0.
Path: TypeAlias = tuple[str | int, ...]

#: What is between values: whitespace and comments.
_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
#: A string of any of the four kinds. A multi-line string ends with three quotes, and may have two more before them.
_STRING: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}' r"|'''.*?'{3,5}" r'|"(?:[^"\\\n]|\\.)*"' r"|'[^'\n]*'",
    re.DOTALL,
)
#: A number, a boolean, or a time, which may contain a space.
_PLAIN: Final = re.compile(r"[^\s,\]}#]+(?: [0-9][^\s,\]}#]*)?")


def positions(text: str) -> dict[Path, int]:
    """Return the line of each table, key and element of an array, counted from 1.

    A table with several headers has the line of the first one.

    Args:
        text: TOML that `tomllib` has read without an error. For anything else, the result means nothing.
    """
    return _Scanner(text).scan()


class _Scanner:
    """Reads TOML that is known to be valid, and keeps only the positions.

    Args:
        text: the file.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._found: dict[Path, int] = {}
        self._counted = (0, 1)  # lines are counted up to this character, which is on this line
        self._sizes: dict[Path, int] = {}  # array of tables -> how many elements it has

    def scan(self) -> dict[Path, int]:
        """Read the file."""
        table: Path = ()
        self._skip()
        while self._at < len(self._text):
            if self._text.startswith("[", self._at):
                table = self._header()
            else:
                self._pair(table)
            self._skip()
        return self._found

    def _header(self) -> Path:
        """Read ``[a.b]`` or ``[[a.b]]``; return the table that the next keys belong to."""
        start = self._at
        is_array = self._text.startswith("[[", start)
        self._at += 2 if is_array else 1
        *parents, name = self._key()
        path: Path = ()
        for parent in parents:
            path = self._note((*path, parent), start)
            if path in self._sizes:  # what follows belongs to the last element
                path = (*path, self._sizes[path] - 1)
        path = self._note((*path, name), start)
        if is_array:
            self._sizes[path] = self._sizes.get(path, 0) + 1
            path = self._note((*path, self._sizes[path] - 1), start)
        self._at += 2 if is_array else 1
        return path

    def _pair(self, table: Path) -> None:
        """Read ``key = value``."""
        start = self._at
        path = table
        for name in self._key():
            path = self._note((*path, name), start)
        self._at += 1  # the "="
        self._skip()
        self._value(path)

    def _key(self) -> list[str]:
        """Read a key, which may have dots, and the space after it."""
        names: list[str] = []
        while True:
            self._skip()
            if self._text[self._at] in "\"'":
                names.append(_unquoted(self._take(_STRING)))
            else:
                names.append(self._take(_BARE_KEY))
            self._skip()
            if not self._text.startswith(".", self._at):
                return names
            self._at += 1

    def _value(self, path: Path) -> None:
        match self._text[self._at]:
            case "[":
                self._array(path)
            case "{":
                self._inline_table(path)
            case '"' | "'":
                self._take(_STRING)
            case _:
                self._take(_PLAIN)

    def _array(self, path: Path) -> None:
        self._at += 1
        number = 0
        self._skip()
        while not self._text.startswith("]", self._at):
            self._value(self._note((*path, number), self._at))
            number += 1
            self._skip_comma()
        self._at += 1

    def _inline_table(self, path: Path) -> None:
        self._at += 1
        self._skip()
        while not self._text.startswith("}", self._at):
            self._pair(path)
            self._skip_comma()
        self._at += 1

    def _skip_comma(self) -> None:
        self._skip()
        if self._text.startswith(",", self._at):
            self._at += 1
            self._skip()

    def _skip(self) -> None:
        self._take(_BLANK)

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise ValueError(f"not valid TOML at character {self._at}")
        self._at = found.end()
        return found[0]

    def _note(self, path: Path, start: int) -> Path:
        if path not in self._found:
            counted, line = self._counted
            line += self._text.count("\n", counted, start)
            self._counted = (start, line)
            self._found[path] = line
        return path


def _unquoted(quoted: str) -> str:
    if quoted.startswith("'"):
        return quoted[1:-1]
    import tomllib

    value: Any = tomllib.loads(f"value = {quoted}")["value"]
    return str(value)
