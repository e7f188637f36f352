"""smtplite's SyncClient, which blocks: one connection."""

from __future__ import annotations

from typing import Any

from benchmarks.common import HOST, LOCAL_HOSTNAME
from benchmarks.peers.by_smtplite import calls
from benchmarks.work import Work
from benchmarks.worker import NotAvailable, Turn
from smtplite import SyncClient


def versions() -> dict[str, str]:
    """Return nothing: the asynchronous peer says what runs here."""
    return {}


def run(request: dict[str, Any], turn: Turn, option: str) -> None:  # noqa: ARG001 (it has none)
    """Do a `Work`, one message after another."""
    work = Work(**request)
    if work.way != "sequence" or not work.warm:
        raise NotAvailable("SyncClient is measured one message after another, warm")
    todo = calls(work)
    with SyncClient(HOST, work.port, tls="none", local_hostname=LOCAL_HOSTNAME, chunking=work.chunking) as client:
        for number, (message, envelope) in enumerate(todo):
            if number == work.warm:
                turn.begin()
            client.send(message, **envelope)
        turn.end()
