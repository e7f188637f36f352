"""smtplib of the standard library, which blocks: one connection."""

from __future__ import annotations

import smtplib
from typing import Any

from benchmarks.common import HOST, LOCAL_HOSTNAME
from benchmarks.work import Work
from benchmarks.worker import NotAvailable, Turn


def versions() -> dict[str, str]:
    """Return nothing: it is Python's."""
    return {}


def run(request: dict[str, Any], turn: Turn, option: str) -> None:  # noqa: ARG001 (it has none)
    """Do a `Work`."""
    work = Work(**request)
    if work.chunking:
        raise NotAvailable("smtplib has no BDAT")
    if work.way == "concurrent":
        raise NotAvailable("smtplib blocks")
    if work.way == "large-path":
        raise NotAvailable("smtplib sends from memory only")
    if work.watch:
        raise NotAvailable("smtplib has no event loop")
    (whole if work.way == "large" else sequence)(work, turn)


def sequence(work: Work, turn: Turn) -> None:
    todo = [(letter, letter.built() if work.form == "objects" else None) for letter in work.messages()]
    if not work.warm:
        turn.begin()
    with smtplib.SMTP(HOST, work.port, local_hostname=LOCAL_HOSTNAME) as client:
        for number, (letter, message) in enumerate(todo):
            if number == work.warm and work.warm:
                turn.begin()
            if message is None:
                client.sendmail(letter.sender, letter.recipients, letter.octets)
            else:
                client.send_message(message)
        turn.end()


def whole(work: Work, turn: Turn) -> None:
    """Send one large message, after a small one."""
    letter = next(Work(way="sequence").messages())
    octets = work.large()
    with smtplib.SMTP(HOST, work.port, local_hostname=LOCAL_HOSTNAME) as client:
        client.sendmail(letter.sender, letter.recipients, letter.octets)
        turn.begin()
        client.sendmail(letter.sender, letter.recipients, octets)
        turn.end()
