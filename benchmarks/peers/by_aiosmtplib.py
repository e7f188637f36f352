"""aiosmtplib: one connected client; for many messages at once `aiosmtplib.send`, a connection each."""

from __future__ import annotations

import asyncio
from typing import Any

import aiosmtplib

from benchmarks.common import HOST, LOCAL_HOSTNAME
from benchmarks.common import versions as versions_of
from benchmarks.peers.watch import watched
from benchmarks.work import Letter, Work
from benchmarks.worker import NotAvailable, Turn


def versions() -> dict[str, str]:
    """Return what runs here."""
    return versions_of("aiosmtplib")


def run(request: dict[str, Any], turn: Turn, option: str) -> None:  # noqa: ARG001 (it has none)
    """Do a `Work`."""
    work = Work(**request)
    if work.chunking:
        raise NotAvailable("aiosmtplib has no BDAT")
    if work.way == "large-path":
        raise NotAvailable("aiosmtplib sends from memory only")
    ways = {"sequence": sequence, "bulk": sequence, "concurrent": concurrent, "large": whole}
    asyncio.run(ways[work.way](work, turn))


def client_for(work: Work) -> aiosmtplib.SMTP:
    return aiosmtplib.SMTP(
        hostname=HOST, port=work.port, use_tls=False, start_tls=False, local_hostname=LOCAL_HOSTNAME, timeout=60
    )


async def sequence(work: Work, turn: Turn) -> None:
    todo = [(letter, letter.built() if work.form == "objects" else None) for letter in work.messages()]
    client = client_for(work)
    if not work.warm:
        turn.begin()
    await client.connect()
    for number, (letter, message) in enumerate(todo):
        if number == work.warm and work.warm:
            turn.begin()
        if message is None:
            await client.sendmail(letter.sender, letter.recipients, letter.octets)
        else:
            await client.send_message(message)
    turn.end()
    await client.quit()


async def concurrent(work: Work, turn: Turn) -> None:
    todo = list(work.messages())

    async def send(letter: Letter) -> None:
        await aiosmtplib.send(
            letter.octets,
            sender=letter.sender,
            recipients=letter.recipients,
            hostname=HOST,
            port=work.port,
            use_tls=False,
            start_tls=False,
            local_hostname=LOCAL_HOSTNAME,
            timeout=60,
        )

    turn.begin()
    await asyncio.gather(*map(send, todo))
    turn.end()


async def whole(work: Work, turn: Turn) -> None:
    """Send one large message, after a small one."""
    letter = next(Work(way="sequence").messages())
    octets = work.large()
    client = client_for(work)

    async def send() -> None:
        await client.sendmail(letter.sender, letter.recipients, octets)

    await client.connect()
    await client.sendmail(letter.sender, letter.recipients, letter.octets)
    turn.begin()
    if work.watch:
        await watched(send(), turn.result)
    else:
        await send()
    turn.end()
    await client.quit()
