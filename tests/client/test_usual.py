"""Whatever a server says, and whenever: to take what is usual at once is the same as to take each reply by itself.

A `Client` of the public kind, in a world without sockets whose clock jumps (`fault_stream.run`). Compared are the
octets on each connection and when they were written, how many connections there were and how each ended, what the
caller was told and when, what the server took, and what the trace says.
"""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Iterator
from contextvars import ContextVar
from itertools import product
from typing import Any, Final

import anyio
import attrs
import pytest

from smtplite import Client, Deliveries, Delivery, Outgoing, Receipt, SMTPError, Timeouts
from smtplite.errors import ConnectionLost
from smtplite.net import Meanwhile
from smtplite.protocol.connection import Connection
from smtplite.sending import outbound, pool, session
from smtplite.testing import Mailbox, ServerConfig, ServerConnection
from smtplite.trace import TraceEvent
from tests.exhaustive import part
from tests.simulation.wire import as_replies

from .fault_stream import Backend, run

#: Each phase has a time of its own, so that it can be told whose deadline it was.
TIMEOUTS: Final = Timeouts(greeting=10, command=60, data_init=120, data_block=180, end_of_data=600, quit=5)


@attrs.frozen(kw_only=True)
class Way:
    """How messages are sent.

    Attributes:
        many: by `send_many`, and one by `send` behind it; else each by `send`.
        count: how many.
        recipients: of each.
        options: of the client.
        call: of `send`, or of `send_many`.
        lmtp: LMTP.
        traces: whether what happens is traced.
        rest: seconds between one call and the next.
    """

    many: bool = True
    count: int = 3
    recipients: int = 1
    options: dict[str, Any] = attrs.field(factory=dict)
    call: dict[str, Any] = attrs.field(factory=dict)
    lmtp: bool = False
    traces: bool = False
    rest: float = 0.0


#: What the server says -> how long may be waited for it.
SECONDS: Final = {b"ok: queued": 600, b"end data": 120, b"sender ok": 60, b"recipient ok": 60, b"": 60}
CHUNKING: Final = {"chunking": True}
WAYS: Final[dict[str, Way]] = {
    "send": Way(many=False, count=2),
    "send, BDAT": Way(many=False, options=CHUNKING),
    "send, BDAT, with a rest": Way(many=False, options=CHUNKING, rest=2),
    **{
        f"many, {'BDAT' if options else 'DATA'}, {in_flight} in flight": Way(
            options=options, call={"in_flight": in_flight}, count=4 if options else 2 if in_flight == 1 else 5
        )
        for options in ({}, CHUNKING)
        for in_flight in (1, 2, 32)
    },
    "many, to three": Way(recipients=3, count=5),
    "many, BDAT, to three": Way(recipients=3, options=CHUNKING),
    "many, all or nobody": Way(recipients=2, count=2, call={"require_all": True}),
    "many, LMTP": Way(lmtp=True, recipients=2, count=2),
    "many, LMTP, BDAT": Way(lmtp=True, recipients=2, count=2, options=CHUNKING),
    "many, traced": Way(count=2, traces=True),
    "many, BDAT, traced": Way(options=CHUNKING, traces=True),
}

#: What may come in the place of a reply. `tests/protocol` tries more of them, and reads that end at each octet.
INSTEAD: Final[dict[str, bytes]] = {
    "4yz": b"450 4.2.0 not now\r\n",
    "too many": b"452 4.5.3 too many\r\n",
    "5yz": b"550 5.1.1 no\r\n",
    "421": b"421 4.3.2 closing\r\n",
    "251": b"251 2.1.5 forwards\r\n",
    "252": b"252 2.1.5 tries\r\n",
    "250": b"250 2.0.0 as ever\r\n",
    "354": b"354 go on\r\n",
    "in lines": b"250-2.0.0 one\r\n250 2.0.0 two\r\n",
    "garbage": b"\x00garbage\r\n",
    "two": b"250 2.0.0 ok\r\n250 2.0.0 surplus\r\n",
}
ENDS: Final = ("EOF", "reset", "silence", "cancellation")


@attrs.frozen(kw_only=True)
class Trouble:
    """What befalls the first connection.

    Attributes:
        index: of the reply that is another one, counted from the first behind EHLO's; None: none is.
        reply: instead of it; None: it stays as it is.
        end: how the connection ends behind it; "": it goes on.
        cut: so many octets of it can be read by themselves, and the rest later; 0: it comes with what is around it.
        late: so many seconds does that reply let wait for it.
        apart: so many seconds lie between all replies.
    """

    index: int | None = None
    reply: bytes | None = None
    end: str = ""
    cut: int = 0
    late: float = 0.0
    apart: float = 0.0


class World:
    """The server, and what the client does to it."""

    def __init__(self, way: Way, trouble: Trouble) -> None:
        self.way, self.trouble = way, trouble
        self.mailbox = Mailbox()
        self.lines: list[Line] = []
        self.scope = anyio.CancelScope()
        #: When the caller was told what of which message.
        self.told: list[tuple[float, tuple[object, ...]]] = []
        self.trace: list[str] = []


WORLD: ContextVar[World] = ContextVar("WORLD")


class Line:
    """A `smtplite.net.Stream` in memory, to a server of which one reply is another, or late."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._trouble = trouble = world.trouble if not world.lines else Trouble()
        self._server = ServerConnection(ServerConfig(lmtp=world.way.lmtp, numbered=True), world.mailbox)
        self._said = deque([(anyio.current_time(), self._server.greeting())])
        self._count = -1  # of the replies; EHLO's is none of them
        self._end = ""
        self._trouble = trouble
        #: When each of the client's octets were written, and how it ended.
        self.written: list[tuple[float, bytes]] = []
        self.ended: list[str] = []
        #: When the client got or wrote something last.
        self.last_at = anyio.current_time()
        self.replies = 0
        #: The reply in whose place another one came.
        self.owed = b""
        self.unsent = 0
        world.lines.append(self)

    def _say(self, reply: bytes) -> None:
        trouble, index = self._trouble, self._count
        self._count += 1
        self.replies = self._count
        if self._end:
            return
        is_it = index == trouble.index
        begins = max(anyio.current_time(), self._said[-1][0] if self._said else 0.0)
        at = begins + (trouble.apart if index >= 0 else 0) + (trouble.late if is_it else 0)
        if is_it:
            self.owed = reply
            reply = reply if trouble.reply is None else trouble.reply
            self._end = trouble.end
        if is_it and trouble.cut:
            self._said.append((at, reply[: trouble.cut]))
            self._said.append((at + 1, reply[trouble.cut :]))
        else:
            self._said.append((at, reply))

    async def send(self, data: bytes, meanwhile: Meanwhile | None = None) -> None:
        now = self.last_at = anyio.current_time()
        if self.written and self.written[-1][0] == now:
            data, taken = self.written.pop()[1] + data, data
        else:
            taken = data
        self.written.append((now, data))
        self.unsent = 0
        for reply in as_replies(self._server.feed(taken)):
            self._say(reply)

    def _at_hand(self) -> bytes | None:
        octets = b""
        while self._said and self._said[0][0] <= anyio.current_time():
            octets += self._said.popleft()[1]
            if octets and self._said and self._said[0][0] > anyio.current_time():
                break
        if octets:
            self.last_at = anyio.current_time()
        return octets or None

    async def receive(self) -> bytes:
        while (octets := self._at_hand()) is None:
            if self._said:
                await anyio.sleep_until(self._said[0][0])
            elif self._end == "EOF":
                return b""
            elif self._end == "reset":
                raise ConnectionLost("connection lost: reset by peer")
            else:
                if self._end == "cancellation":
                    self._world.scope.cancel()
                await anyio.sleep_forever()
        return octets

    async def look(self) -> bytes | None:
        octets = self._at_hand()
        return b"" if octets is None and not self._said and self._end in ("EOF", "reset") else octets

    def watch(self) -> None:
        pass

    def rest(self) -> None:
        pass

    def is_stale(self) -> bool:
        is_at_hand = bool(self._said) and self._said[0][0] <= anyio.current_time()
        return bool(self.ended) or is_at_hand or (not self._said and self._end in ("EOF", "reset"))

    def abort(self) -> None:
        self.ended.append("abort")

    def close(self) -> None:
        self.ended.append("close")

    async def aclose(self) -> None:
        if not self.ended:
            self.ended.append("aclose")

    @property
    def local_address(self) -> str | None:
        return "192.0.2.1"


async def connect(*_: object) -> Line:
    return Line(WORLD.get())


def outgoing(number: int, way: Way) -> Outgoing:
    raw = f"Subject: {number}\r\n\r\n.body of {number}\r\n".encode()
    recipients = [f"r{number}{letter}@x.example" for letter in "abc"[: way.recipients]]
    return Outgoing(raw, f"s{number}@x.example", recipients=recipients, tag=number)


def shown(said: Receipt | SMTPError | None) -> tuple[object, ...]:
    if said is None:
        return ()
    sets = (said.accepted, said.refused, said.unknown, said.not_sent, said.reply)
    if isinstance(said, Receipt):
        return (*sets, said.replies)
    return (*sets, repr(said), said.phase, said.transcript, repr(said.__cause__))


def tag_of(delivery: Delivery) -> Any:
    assert isinstance(delivery.item, Outgoing)
    return delivery.item.tag


async def converse(world: World) -> None:
    way = world.way
    WORLD.set(world)
    items = [outgoing(number, way) for number in range(way.count)]

    def note(number: object, said: Receipt | SMTPError | None) -> None:
        world.told.append((anyio.current_time(), (number, *shown(said))))

    def note_delivery(delivery: Delivery) -> None:
        note(tag_of(delivery), delivery.receipt or delivery.error)

    def trace(event: TraceEvent) -> None:
        world.trace.append(re.sub(r"connection=[0-9]+|seconds=[0-9.]+", "", repr(event)))

    async def send(item: Outgoing, **call: Any) -> None:
        try:
            receipt = await client.send(item.message, sender=item.sender, recipients=item.recipients, **call)
        except SMTPError as error:
            note(item.tag, error)
        else:
            note(item.tag, receipt)

    client = Client(
        "mx.test",
        25,
        tls="none",
        lmtp=way.lmtp,
        local_hostname="client.example",
        max_connections=1,
        timeouts=TIMEOUTS,
        trace=trace if way.traces else None,
        **way.options,
    )
    async with client:
        with world.scope:
            if way.many:
                deliveries: Deliveries | None = None
                try:
                    async with client.send_many(items, connections=1, **way.call) as deliveries:
                        async for delivery in deliveries:
                            note_delivery(delivery)
                finally:
                    rest = [] if deliveries is None else deliveries.rest
                    for delivery in sorted(rest, key=tag_of):  # it has no order
                        note_delivery(delivery)
            else:
                for item in items:
                    await send(item, **way.call)
                    await anyio.sleep(way.rest)
        await send(outgoing(way.count, way))


class _Clock:
    """In place of `time`, where it is asked how long ago something was: the event loop's, and never twice the same."""

    def __init__(self) -> None:
        self._asked = itertools.count()

    def monotonic(self) -> float:
        return anyio.current_time() + next(self._asked) * 1e-9


@pytest.fixture(autouse=True)
def _joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtplite.sending.handshake.connect_tcp", connect)
    monkeypatch.setattr("random.uniform", lambda low, _: low)
    clock = _Clock()
    for module in (outbound, pool, session):
        monkeypatch.setattr(module, "time", clock, raising=False)


def talk(way: Way, trouble: Trouble, *, at_once: bool, backend: Backend = "asyncio") -> World:
    """Have a conversation, and return all that came of it."""
    worlds: list[World] = []

    async def main() -> None:
        worlds.append(World(way, trouble))
        await converse(worlds[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connection, "_at_once", at_once)
        run(backend, main)
    return worlds[0]


def record(world: World) -> list[object]:
    if world.trouble.end == "cancellation":  # what was left undecided is decided in no order
        world.trace.sort()
    return [
        [(line.written, line.ended) for line in world.lines],
        world.told,
        [(message.sender, message.recipients, message.content) for message in world.mailbox.messages],
        world.trace,
    ]


def compare(way: Way, trouble: Trouble) -> World:
    one, other = (talk(way, trouble, at_once=at_once) for at_once in (True, False))
    assert record(one) == record(other), trouble
    return one


def troubles(replies: int) -> Iterator[Trouble]:
    """Yield what may befall each of so many replies."""
    for index in range(replies):
        yield from (Trouble(index=index, reply=reply) for reply in INSTEAD.values())
        yield Trouble(index=index, cut=4)
        for end, reply in product(ENDS, (b"", None, INSTEAD["421"])):
            yield Trouble(index=index, reply=reply, end=end)


def undisturbed(way: Way) -> World:
    """Have a conversation that nothing befalls, over one connection; return all that came of it."""
    world = compare(way, Trouble())
    assert len(world.lines) == 1
    assert [len(message.recipients) for message in world.mailbox.messages] == [way.recipients] * (way.count + 1)
    return world


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.exhaustive(keep=6)
def test_whatever_a_reply_is_a_client_does_the_same(name: str) -> None:
    """R1, R2, R7, R9, R11: octets, times, outcomes, further connections, and the message behind it."""
    way = WAYS[name]
    for trouble in part(list(troubles(undisturbed(way).lines[0].replies)), keep=4):
        compare(way, trouble)


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.exhaustive(keep=4)
def test_whenever_a_reply_comes_a_client_does_the_same(name: str) -> None:
    """R7, R25: each reply as late as it may be, and a little later; or all of them far apart."""
    replies = undisturbed(WAYS[name]).lines[0].replies
    for timeout, index, apart in part(list(product((None, 100), range(replies), (0, 40))), keep=3):
        way = attrs.evolve(WAYS[name], call={**WAYS[name].call, "timeout": timeout})
        lates = [0.0, *(seconds + more for seconds in (60, 120, 600) for more in (-3.5, 0.5))]
        for late in part(lates, keep=2):
            compare(way, Trouble(index=index, late=late, apart=apart))


@pytest.mark.parametrize("name", [name for name, way in WAYS.items() if not way.lmtp])
@pytest.mark.exhaustive(keep=4)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_silence_is_borne_as_long_as_the_command_that_is_answered_next_may_take(name: str, backend: Backend) -> None:
    """R7: whatever stands behind it in the same write, and however much of the group was answered."""
    way = WAYS[name]
    replies = undisturbed(way).lines[0].replies
    for index, apart in part(list(product(range(replies - 1), (0, 40))), keep=3):
        world = talk(way, Trouble(index=index, reply=b"", end="silence", apart=apart), at_once=True, backend=backend)
        line = world.lines[0]
        waited = min(told[0] for told in world.told if told[0] > line.last_at) - line.last_at
        seconds = SECONDS[next(words for words in SECONDS if words in line.owed)]
        assert seconds - min(1, seconds / 20) <= waited <= seconds, (index, apart, line.owed)
        # Nobody need be told: what was cut off in the proof goes again, without chunks.
        assert set(re.findall("within ([0-9]+) s", repr(world.told))) <= {str(seconds)}, (index, apart)
