"""What the benchmarks found, and what they ask of us."""

from __future__ import annotations

import re
import sys
from typing import Final

from making.markdown import code, table
from making.paths import DOCS

#: The benchmarks' own page; `python -m benchmarks` writes it.
RESULTS: Final = DOCS / "benchmarks" / "results.md"
_PEERS: Final = ("aiosmtplib", "smtpproto", "smtplib", "nodemailer")


def _medians(heading: str) -> dict[str, str]:
    """Return who -> median, of the table below a heading of the benchmarks' page."""
    _, found, section = RESULTS.read_text(encoding="utf-8").partition(f"\n### {heading}\n")
    if not found:
        raise ValueError(f"{RESULTS.name} has no table {heading!r}")
    return dict(re.findall(r"^\| ([^|]+?) \| ([\d.,]+) \|", section.partition("\n### ")[0], re.MULTILINE))


def measured() -> str:
    """Return the table of what a message costs, ours beside the peers', as the benchmarks found it."""
    trips = _medians("Round trips a message, counted by the server")
    seconds = _medians("200 messages, round trip 20 ms, 1 connection: seconds in all")
    rows = [
        ("round trips a message", trips["smtplite send"], trips["smtplite send_many"], *(trips[who] for who in _PEERS)),
        ("the same, to 50 recipients", trips["smtplite send, to 50"], "–", *(trips[f"{who}, to 50"] for who in _PEERS)),
        (
            "200 messages at a round trip of 20 ms, 1 connection",
            *(f"{seconds[who]} s" for who in ("smtplite, one send after another", "smtplite", *_PEERS)),
        ),
    ]
    return table(("Cost", "smtplite `send`", "`send_many`", *_PEERS), rows)


def goals() -> str:
    """Return the table of what the benchmarks ask of us, as `python -m benchmarks` judges it."""
    sys.path.insert(0, str(DOCS.parent))  # they are no part of the package
    from benchmarks.rows import GROUPS

    rows = [
        (row.title, " and ".join(goal.in_words(row.metric) for goal in row.goals), code(group.name))
        for group in (make(quick=False) for make in GROUPS.values())
        for row in group.rows
        if row.goals
    ]
    return table(("What", "Goal", "Measured by `--rows`"), rows)
