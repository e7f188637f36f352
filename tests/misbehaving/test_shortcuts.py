"""A client's shortcuts change nothing but the time that a message takes, however a connection ends.

There are two: what is usual is written and taken at once (`smtplite.protocol.usual`), and the event loop watches a
socket without a break. Each run is made with and without them: over real sockets, on each event loop, in clear and
inside TLS. Compared are octets, outcomes, and what goes over which connection; and what the server took is the truth.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Final

import anyio
import attrs
import pytest

from smtplite import Client, Deliveries, Delivery, Outgoing, Receipt, SMTPError
from smtplite.net import SocketStream
from smtplite.protocol.connection import Connection
from smtplite.testing import Mailbox, ServerConfig, ServerConnection
from tests.exhaustive import part
from tests.simulation.wire import as_replies

from .dialogue import client_at, skips_time
from .server import Peer, Server
from .test_r24_failed_writes import inside, options_of

pytestmark = pytest.mark.anyio

in_clear_and_tls = pytest.mark.parametrize("mode", ["in clear", "TLS"])


@attrs.frozen(kw_only=True)
class Way:
    """How messages are sent: each by `send`, or together by `send_many`."""

    many: bool
    count: int
    size: int = 0
    chunking: bool = False


WAYS: Final = {
    "send": Way(many=False, count=2),
    "many": Way(many=True, count=5),
    "many, BDAT": Way(many=True, count=3, chunking=True),
}


@contextmanager
def shortcuts(*, at_once: bool, is_watched: bool) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connection, "_at_once", at_once)
        if not is_watched:
            patch.setattr(SocketStream, "watch", SocketStream.rest)
        yield


# How a connection ends


async def is_reset(peer: Peer) -> None:
    peer.reset()


async def is_closed(peer: Peer) -> None:
    peer.close()


async def is_half_closed(peer: Peer) -> None:
    peer.say_no_more()
    await peer.read_to_the_end()


async def falls_silent(peer: Peer) -> None:
    await peer.read_to_the_end()


async def goes_on(peer: Peer) -> None:
    """Do not end it at all."""


async def is_refused(peer: Peer) -> None:
    await peer.write(b"452 4.3.1 no room for it\r\n")
    peer.reset()


async def is_left(peer: Peer) -> None:
    await peer.write(b"421 4.3.2 closing\r\n")
    peer.say_no_more()
    await peer.read_to_the_end()


End = Callable[[Peer], Awaitable[None]]
ENDS: Final[dict[str, End]] = {
    "reset": is_reset,
    "closed": is_closed,
    "half-closed": is_half_closed,
    "refused": is_refused,
    "left": is_left,
    "goes on": goes_on,
}


@attrs.frozen(kw_only=True)
class Trouble:
    """What befalls the first connection.

    Attributes:
        index: of the reply behind which it ends, counted from the first behind EHLO's; None: it does not end.
        octets: so many of that reply are said; None: all.
        stops_at: or it ends once the server has read so many octets, and the client cannot write any more.
        end: how it ends.
        is_the_same: whether what is seen is the same each time.
    """

    index: int | None = None
    octets: int | None = None
    stops_at: int | None = None
    end: End = is_closed
    is_the_same: bool = True


class World:
    """The server's side of a run."""

    def __init__(self, trouble: Trouble) -> None:
        self._trouble = trouble
        self.mailbox = Mailbox()
        self._said = -1  # replies; EHLO's is none of them
        #: How many there were to the messages, before the last one.
        self.replies = 0
        #: Octets that the server had read when it stopped.
        self.received = 0

    def note(self) -> None:
        """Say that the last message comes next."""
        self.replies = self._said

    async def __call__(self, peer: Peer) -> None:
        protocol = ServerConnection(ServerConfig(numbered=True), self.mailbox)
        await peer.write(protocol.greeting())
        trouble = self._trouble if peer.number == 0 else Trouble()
        said = b""
        while b"221 " not in said:
            said = octets = b""
            while not octets:  # a record of TLS that is not complete is none
                octets = await peer.read_some()
            for reply in as_replies(protocol.feed(octets)):
                if trouble.index is not None and self._said == trouble.index:
                    # The client finds all of this at once: nobody else runs in between.
                    await peer.write(said + reply[: trouble.octets])
                    await trouble.end(peer)
                    return
                self._said += peer.number == 0
                said += reply
            await peer.write(said)
            if trouble.stops_at is not None and len(peer.received) >= trouble.stops_at:
                await anyio.wait_all_tasks_blocked()
                self.received = len(peer.received)
                await trouble.end(peer)
                if trouble.end is not goes_on:
                    return
                trouble = Trouble()


def outgoing(number: int, size: int) -> Outgoing:
    line = f".body of {number}\r\n"
    raw = f"Subject: {number}\r\n\r\n{line * max(1, size // len(line))}".encode()
    return Outgoing(raw, f"s{number}@x.example", recipients=f"r{number}@x.example", tag=number)


Said = Receipt | SMTPError | None


async def converse(client: Client, way: Way, told: dict[int, Said]) -> None:
    """Send the messages; note what is said of each."""
    items = [outgoing(number, way.size) for number in range(way.count)]
    if not way.many:
        for item in items:
            await send(client, item, told)
        return
    deliveries: Deliveries | None = None
    try:
        async with client.send_many(items, connections=1) as deliveries:
            async for delivery in deliveries:
                note(delivery, told)
    finally:
        for delivery in [] if deliveries is None else deliveries.rest:
            note(delivery, told)


def note(delivery: Delivery, told: dict[int, Said]) -> None:
    assert isinstance(delivery.item, Outgoing)
    told[delivery.item.tag] = delivery.receipt or delivery.error


async def send(client: Client, item: Outgoing, told: dict[int, Said]) -> None:
    try:
        told[item.tag] = await client.send(item.message, sender=item.sender, recipients=item.recipients)
    except SMTPError as error:
        told[item.tag] = error


def shown(said: Said) -> tuple[object, ...]:
    if said is None:
        return ()
    sets = (said.accepted, said.refused, said.unknown, said.not_sent, said.reply)
    return (*sets, said.replies) if isinstance(said, Receipt) else (*sets, repr(said), said.phase)


async def run(way: Way, trouble: Trouble, mode: str) -> tuple[list[object], World]:
    """Send the messages, and one more behind them; return what was seen, and the server's side."""
    world = World(trouble)
    told: dict[int, Said] = {}
    async with Server(inside(mode, world)) as server:
        if trouble.stops_at is not None:
            server._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        async with client_at(server, max_connections=1, chunking=way.chunking, **options_of(mode)) as client:
            await converse(client, way, told)
            world.note()
            await send(client, outgoing(way.count, 0), told)
    judge(told, world, way)
    outcomes = [(number, *shown(said)) for number, said in sorted(told.items())]
    if trouble.stops_at is None:
        return [[bytes(peer.received) for peer in server.peers], outcomes], world
    # It is the kernel's affair how much had left, and the event loop's whether the write fails first, or the read.
    return [[bytes(peer.received) for peer in server.peers[1:]], [said[:6] for said in outcomes]], world


def judge(told: dict[int, Said], world: World, way: Way) -> None:
    """R1: what is said of each message is what the server knows."""
    taken = Counter(message.sender for message in world.mailbox.messages)
    assert sorted(told) == list(range(way.count + 1))
    for number, said in told.items():
        assert said is not None
        times = taken[f"s{number}@x.example"]
        assert times == 1 if said.accepted else times <= bool(said.unknown), (number, said)
    assert told[way.count].accepted  # type: ignore[union-attr]  # the one behind: on whatever connection


async def compare(way: Way, trouble: Trouble, mode: str, *, is_watched: bool = False) -> World:
    """Make a run with all shortcuts, and without; return the server's side of the first.

    Args:
        way: how messages are sent.
        trouble: what befalls the first connection.
        mode: in clear, or inside TLS.
        is_watched: whether a socket may be watched without a break here.
    """
    first, world = None, None
    for at_once, watches in product((True, False), (True, False) if is_watched else (False,)):
        with shortcuts(at_once=at_once, is_watched=watches):
            seen, last = await run(way, trouble, mode)
        if world is None:
            first, world = seen, last
        assert seen == first or not trouble.is_the_same, (trouble, at_once, watches)
    assert world is not None
    return world


#: How a connection ends -> how much of a reply is said before it does; None: all.
SAID_LAST: Final = {"reset": (None, 0), "closed": (None, 5), "half-closed": (None,)}


@pytest.fixture
def is_watched(request: pytest.FixtureRequest, mode: str) -> bool:
    return request.node.callspec.params["anyio_backend"] in ("asyncio", "skipping asyncio") and mode == "in clear"


@pytest.mark.exhaustive(keep=5)
@pytest.mark.parametrize("end", SAID_LAST)
@pytest.mark.parametrize("name", WAYS)
@in_clear_and_tls
async def test_however_a_connection_ends_the_shortcuts_change_nothing(
    name: str, end: str, mode: str, is_watched: bool
) -> None:
    """R1, R2, R9, R11, R24: behind each reply that the client has not read yet, in its middle, and in front of it."""
    way = WAYS[name]
    replies = (await compare(way, Trouble(), mode, is_watched=is_watched)).replies
    for index, octets in part(list(product(range(replies), SAID_LAST[end])), keep=2):
        await compare(way, Trouble(index=index, octets=octets, end=ENDS[end]), mode, is_watched=is_watched)


@skips_time
@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize("name", WAYS)
@in_clear_and_tls
async def test_wherever_a_server_falls_silent_the_shortcuts_change_nothing(
    name: str, mode: str, is_watched: bool
) -> None:
    """R7: the client gives up on its own, with what was not read yet and with half a reply."""
    way = WAYS[name]
    replies = (await compare(way, Trouble(), mode, is_watched=is_watched)).replies
    for index in part(range(replies), keep=2):
        trouble = Trouble(index=index, octets=5 * (index % 2), end=falls_silent)
        await compare(way, trouble, mode, is_watched=is_watched)


LARGE_WAYS: Final = {
    "send": Way(many=False, count=2, size=200_000),
    "many": Way(many=True, count=3, size=200_000),
    "many, BDAT": Way(many=True, count=16, size=50_000, chunking=True),
}


@pytest.mark.exhaustive(keep=4)
@pytest.mark.parametrize("end", [end for end in ENDS if end != "closed"])
@pytest.mark.parametrize("name", LARGE_WAYS)
@in_clear_and_tls
async def test_with_full_buffers_the_shortcuts_change_nothing(
    name: str, end: str, mode: str, is_watched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R1, R3, R24: the server reads no more, in the middle of content, until the client can write no more."""
    begin = SocketStream.__init__

    def with_small_buffer(stream: SocketStream, sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        begin(stream, sock)

    monkeypatch.setattr(SocketStream, "__init__", with_small_buffer)
    way = LARGE_WAYS[name]
    # How much of a window has left is the kernel's affair: there the truth has to do.
    trouble = Trouble(stops_at=300_000, end=ENDS[end], is_the_same=not way.chunking)
    world = await compare(way, trouble, mode, is_watched=is_watched)
    assert world.received >= 300_000
