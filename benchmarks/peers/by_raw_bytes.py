"""The floor of asyncio: octets that were composed before, over a Protocol; replies are counted, none is understood.

A `sequence` takes the round trips of `send`, `bulk` those of `send_many`. Nobody can be faster on this event loop who
speaks the same dialogue, and nobody should send mail like that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any, Final

import attrs

from benchmarks.common import HOST, LOCAL_HOSTNAME
from benchmarks.native import KEYWORDS
from benchmarks.peers.watch import watched
from benchmarks.work import Letter, Work
from benchmarks.worker import NotAvailable, Turn

IN_FLIGHT: Final = 32
PIECE_BYTES: Final = 262_144


@attrs.frozen
class Flight:
    """What is written at once, and how many replies come before the next is."""

    octets: bytes
    replies: int


def versions() -> dict[str, str]:
    """Return nothing: it is Python's."""
    return {}


def run(request: dict[str, Any], turn: Turn, option: str) -> None:  # noqa: ARG001 (it has none)
    """Do a `Work`."""
    work = Work(**request)
    if work.way not in ("sequence", "bulk", "large") or work.form != "octets":
        raise NotAvailable("the floor is of messages in a row")
    asyncio.run((whole if work.way == "large" else in_a_row)(work, turn))


def envelope_of(letter: Letter) -> bytes:
    rcpts = "".join(f"RCPT TO:<{address}>\r\n" for address in letter.recipients)
    return f"MAIL FROM:<{letter.sender}>\r\n{rcpts}".encode("ascii")


def flights_of(work: Work, letters: Iterable[Letter]) -> Iterator[Flight]:
    parts = [(envelope_of(letter), 1 + len(letter.recipients), letter.octets) for letter in letters]
    if work.chunking:
        messages = [
            Flight(b"%sBDAT %d LAST\r\n%s" % (envelope, len(octets), octets), replies + 1)
            for envelope, replies, octets in parts
        ]
        step = IN_FLIGHT if work.way == "bulk" else 1
        for start in range(0, len(messages), step):
            some = messages[start : start + step]
            yield Flight(b"".join(flight.octets for flight in some), sum(flight.replies for flight in some))
        return
    content, owed = b"", 0  # the end of the message before
    for envelope, replies, octets in parts:
        if work.way != "bulk" and content:
            yield Flight(content, owed)
            content, owed = b"", 0
        yield Flight(b"%s%sDATA\r\n" % (content, envelope), owed + replies + 1)
        content, owed = b"%s.\r\n" % octets, 1
    yield Flight(content, owed)


class Floor(asyncio.Protocol):
    """Writes flights, each when the one before is answered."""

    def __init__(self) -> None:
        self.flights: Iterator[Flight] = iter(())
        self.owed = 1  # the greeting
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.can_write = asyncio.Event()
        self.can_write.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.owed -= data.count(b"\n")
        if self.owed:
            return
        flight = next(self.flights, None)
        if flight is None:
            self.done.set_result(None)
            return
        self.owed = flight.replies
        self.transport.write(flight.octets)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or EOFError("server closed the connection"))

    def pause_writing(self) -> None:
        self.can_write.clear()

    def resume_writing(self) -> None:
        self.can_write.set()

    async def go_through(self, flights: Iterable[Flight]) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self.flights = iter(flights)
        first = next(self.flights)
        self.owed = first.replies
        self.transport.write(first.octets)
        await self.done


async def connected(work: Work) -> Floor:
    _, floor = await asyncio.get_running_loop().create_connection(Floor, HOST, work.port)
    await floor.done
    floor.done = asyncio.get_running_loop().create_future()
    floor.owed = 1 + len(KEYWORDS)  # lines
    floor.transport.write(f"EHLO {LOCAL_HOSTNAME}\r\n".encode("ascii"))
    await floor.done
    return floor


async def in_a_row(work: Work, turn: Turn) -> None:
    letters = list(work.messages())
    warm, flights = list(flights_of(work, letters[: work.warm])), list(flights_of(work, letters[work.warm :]))
    if not work.warm:
        turn.begin()
    floor = await connected(work)
    if work.warm:
        await floor.go_through(warm)
        turn.begin()
    await floor.go_through(flights)
    turn.end()
    floor.transport.close()


async def whole(work: Work, turn: Turn) -> None:
    """Send one large message in pieces, as the transport has room for them; no dot is doubled."""
    letter = next(Work(way="sequence").messages())
    octets = memoryview(work.large().replace(b"\r\n.", b"\r\n.."))
    floor = await connected(work)

    async def send() -> None:
        await floor.go_through([Flight(envelope_of(letter) + b"DATA\r\n", 3)])
        floor.done = asyncio.get_running_loop().create_future()
        floor.owed = 1
        for start in range(0, len(octets), PIECE_BYTES):
            floor.transport.write(octets[start : start + PIECE_BYTES])
            await floor.can_write.wait()
        floor.transport.write(b".\r\n")
        await floor.done

    turn.begin()
    if work.watch:
        await watched(send(), turn.result)
    else:
        await send()
    turn.end()
    floor.transport.close()
