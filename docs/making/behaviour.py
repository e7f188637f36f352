"""What tests hold in tables: what a route does in trouble, and what differs from aiosmtplib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from making.markdown import code, table
from making.paths import DOCS, tables

#: Where the table TROUBLES stands: what a route does when a relay fails.
TROUBLE_TABLE: Final = DOCS.parent / "tests" / "routes" / "test_troubles.py"
#: Where the tables of `smtplite.compat.aiosmtplib` stand: what differs from aiosmtplib, and each of its names.
COMPAT_TABLE: Final = DOCS.parent / "tests" / "compat" / "differences.py"


def troubles() -> str:
    """Return the table of what a route does when a relay fails."""
    rows = tables(TROUBLE_TABLE, "TROUBLES|MOVES|STAYS|COUNTS|AT_ONCE|NOTHING")["TROUBLES"]
    shown = [(what, message, relay) for what, _, message, relay in rows]
    return table(("What happens at a relay", "The message", "The relay"), shown)


def compat_differences() -> str:
    """Return the table of what differs from aiosmtplib, as the tests of smtplite.compat hold it."""
    rows: dict[str, Sequence[str]] = tables(COMPAT_TABLE, "DIFFERENCES")["DIFFERENCES"]
    return table(("What the program meets", "aiosmtplib", "Here", "What to do"), rows.values())


def compat_further() -> str:
    """Return the table of what else differs."""
    rows: list[Sequence[str]] = tables(COMPAT_TABLE, "FURTHER")["FURTHER"]
    return table(("What the program has", "aiosmtplib", "Here"), rows)


def compat_names() -> str:
    """Return the table of each name of aiosmtplib's."""
    names: dict[str, tuple[str, str]] = tables(COMPAT_TABLE, "NAMES")["NAMES"]
    return table(("aiosmtplib", "Here", "With `Client`"), ((code(name), *row) for name, row in names.items()))
