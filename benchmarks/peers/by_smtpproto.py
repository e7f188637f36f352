"""smtpproto: one session; for many messages at once its client, which opens a session for each. Only objects."""

from __future__ import annotations

from email.message import EmailMessage
from typing import Any

import anyio
from smtpproto.client import AsyncSMTPClient  # type: ignore[import-not-found,unused-ignore]  # need not be there

from benchmarks.common import HOST, LOCAL_HOSTNAME
from benchmarks.common import versions as versions_of
from benchmarks.peers.watch import watched
from benchmarks.work import Letter, Work
from benchmarks.worker import NotAvailable, Turn


def versions() -> dict[str, str]:
    """Return what runs here."""
    return versions_of("smtpproto")


def run(request: dict[str, Any], turn: Turn, option: str) -> None:  # noqa: ARG001 (it has none)
    """Do a `Work`; its octets were parsed before the clock starts."""
    work = Work(**request)
    if work.chunking:
        raise NotAvailable("smtpproto has no BDAT")
    if work.way == "large-path":
        raise NotAvailable("smtpproto sends from memory only")
    ways = {"sequence": sequence, "bulk": sequence, "concurrent": concurrent, "large": whole}
    anyio.run(ways[work.way], work, turn)


def client_for(work: Work) -> AsyncSMTPClient:
    return AsyncSMTPClient(HOST, work.port, domain=LOCAL_HOSTNAME, max_concurrent_connections=work.connections)


def message_of(letter: Letter, work: Work) -> EmailMessage:
    return letter.built() if work.form == "objects" else letter.parsed()


async def sequence(work: Work, turn: Turn) -> None:
    todo = [(letter, message_of(letter, work)) for letter in work.messages()]
    if not work.warm:
        turn.begin()
    async with client_for(work).connect() as session:
        for number, (letter, message) in enumerate(todo):
            if number == work.warm and work.warm:
                turn.begin()
            await session.send_message(message, sender=letter.sender, recipients=letter.recipients)
        turn.end()


async def concurrent(work: Work, turn: Turn) -> None:
    todo = [(letter, message_of(letter, work)) for letter in work.messages()]

    async def send(letter: Letter, message: Any) -> None:
        await client.send_message(message, sender=letter.sender, recipients=letter.recipients)

    turn.begin()
    client = client_for(work)
    async with anyio.create_task_group() as tasks:
        for letter, message in todo:
            tasks.start_soon(send, letter, message)
    turn.end()


async def whole(work: Work, turn: Turn) -> None:
    """Send one large message, after a small one."""
    letter = next(Work(way="sequence").messages())
    small = letter.parsed()
    message = Letter(letter.sender, letter.recipients, work.large()).parsed()

    async def send() -> None:
        await session.send_message(message, sender=letter.sender, recipients=letter.recipients)

    async with client_for(work).connect() as session:
        await session.send_message(small, sender=letter.sender, recipients=letter.recipients)
        turn.begin()
        if work.watch:
            await watched(send(), turn.result)
        else:
            await send()
        turn.end()
