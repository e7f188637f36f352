"""A session that takes usual replies at once does all that it does, in the same order, as if it took each by itself."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from itertools import product
from typing import Any

import anyio
import pytest

from smtplite import ConnectionLost
from smtplite.message.prepared import prepare
from smtplite.net import Meanwhile
from smtplite.protocol import Connection, Ehlo
from smtplite.sending.deadline import Deadline
from smtplite.sending.outbound import Outbound
from smtplite.sending.session import Session
from smtplite.testing.config import ServerConfig
from smtplite.testing.protocol import ServerConnection
from smtplite.trace import TraceEvent, Tracer
from tests.simulation.wire import as_replies

#: What may stand in the place of a reply.
UNUSUAL = {
    "4yz": b"450 4.2.0 not now\r\n",
    "5yz": b"550 5.1.1 no\r\n",
    "421": b"421 4.3.2 closing\r\n",
    "251": b"251 2.1.5 forwards\r\n",
    "252": b"252 2.1.5 tries\r\n",
    "in two lines": b"250-2.0.0 one\r\n250 2.0.0 two\r\n",
    "garbage": b"\x00garbage\r\n",
    "nothing": b"",
}
ENDS = ("", "EOF", "reset", "silence", "cancellation")


class Recorded(Deadline):
    """A deadline that writes down what is waited for."""

    def __init__(self, record: list[object]) -> None:
        super().__init__()
        self._record = record

    def arm(
        self, seconds: float, reason: str, phase: str, *, cause: Callable[[], Exception | None] | None = None
    ) -> None:
        self._record.append(("waits", seconds, reason, phase, self.message_limit == math.inf))
        super().arm(seconds, reason, phase, cause=cause)


class ScriptedStream:
    """A stream to the testing server, of whose replies one is changed, and behind which the connection may end.

    Args:
        record: what is written and read is noted there.
        index: of the reply that is changed, from the first message on; None: none is.
        reply: instead of it.
        end: what comes behind it.
        cut: octets are read in pieces of so many; 0: as they come.
        unsent: the write whose replies hold the changed one is not taken whole: so many octets of it.
    """

    def __init__(
        self, record: list[object], index: int | None, reply: bytes, end: str, cut: int, unsent: int = 0
    ) -> None:
        self._server = ServerConnection(ServerConfig())
        self._record = record
        self._index, self._reply, self._end, self._cut = index, reply, end, cut
        self._waiting = deque([self._server.greeting()])
        self._replies = -1  # the reply to EHLO is not one of them
        self._unsent = unsent
        self.has_ended = False
        self.cancel: Callable[[], None] = lambda: None
        self.unsent = 0

    async def send(self, data: bytes, meanwhile: Meanwhile | None = None) -> None:
        self._record.append(("writes", data))
        said = b""
        self.unsent = 0
        if self.has_ended:
            return
        for reply in as_replies(self._server.feed(data)):
            if self._replies == self._index:
                said += self._reply
                self.unsent = min(self._unsent, len(data))
                self.has_ended = bool(self._end)
            elif not self.has_ended:
                said += reply
            self._replies += 1
        step = self._cut or len(said) or 1
        self._waiting += [said[at : at + step] for at in range(0, len(said), step)]

    async def receive(self) -> bytes:
        self._record.append("reads")
        if self._waiting:
            return self._waiting.popleft()
        if self._end == "EOF":
            return b""
        if self._end == "reset":
            raise ConnectionLost("connection reset")
        self.cancel()
        await anyio.sleep_forever()
        raise AssertionError("cancelled")

    async def look(self) -> bytes | None:
        self._record.append("looks")
        return self._waiting.popleft() if self._waiting else None

    def watch(self) -> None:
        pass

    def rest(self) -> None:
        pass

    def is_stale(self) -> bool:
        return False

    def abort(self) -> None:
        self._record.append("aborts")

    def close(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    @property
    def local_address(self) -> str | None:
        return None


class Messages:
    """A queue of messages."""

    def __init__(self, record: list[object], count: int) -> None:
        self._record = record
        self.session: Session
        self.all: list[Outbound] = []
        for number in range(count):
            raw = b"Subject: %d\r\n\r\n.body\r\n" % number
            prepared = prepare(raw, sender=f"s{number}@x.example", recipients=f"r{number}@x.example")
            self.all.append(Outbound(prepared, Tracer(), item=number, in_stream=True))
        self._waiting = deque(self.all)

    def take(self) -> Outbound | None:
        if not self._waiting:
            return None
        self._waiting[0].fit_to(self.session)
        return self._waiting.popleft()

    def put_back(self, outbound: Outbound) -> None:
        self._waiting.appendleft(outbound)

    def begins(self, outbounds: list[Outbound]) -> None:
        self._record.append(("begins", [outbound.item for outbound in outbounds]))

    def finished(self, outbound: Outbound) -> None:
        self._record.append(("finished", outbound.item, outbound.outcomes, repr(outbound.error), outbound.was_written))


async def conversation(
    monkeypatch: pytest.MonkeyPatch,
    *,
    at_once: bool,
    chunking: bool = False,
    in_flight: int = 32,
    count: int = 3,
    has_rested: bool = False,
    traces: bool = False,
    index: int | None = None,
    reply: bytes = b"",
    end: str = "",
    cut: int = 0,
    unsent: int = 0,
) -> tuple[list[object], int, int]:
    """Return all that happened, how many replies were taken at once, and how many there were."""
    record: list[object] = []

    def trace(event: TraceEvent) -> None:
        record.append(("trace", repr(event).replace(f"connection={session.number}", "")))

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "_at_once", at_once)
        stream = ScriptedStream(record, index, reply, end, cut, unsent)
        session = Session(stream, server="x", chunking=chunking)
        deadline = Recorded(record)
        messages = Messages(record, count)
        messages.session = session
        await session.next_event(deadline)
        await session.ask(Ehlo("client.example"), deadline)
        session.window.is_proved = chunking
        session.window.in_flight = in_flight
        if traces:
            session._tracer = Tracer(trace)
        if has_rested:
            session.is_reused, session.idle_since = True, -math.inf
        with anyio.CancelScope() as scope:
            stream.cancel = scope.cancel if end == "cancellation" else deadline.scope.cancel
            with deadline.scope:
                await session.run(messages, deadline)
        record.append((session.is_dead, session.window.reason, session.transcript, session.is_reusable))
        record += [(each.outcomes, repr(each.error), each.goes_on(), each.was_tried) for each in messages.all]
        return record, session.window.at_once, stream._replies


async def compare(monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[int, int]:
    record, taken, replies = await conversation(monkeypatch, at_once=True, **options)
    other, none, _ = await conversation(monkeypatch, at_once=False, **options)
    assert record == other, options
    assert none == 0
    return taken, replies


WAYS = [(chunking, in_flight) for chunking in (False, True) for in_flight in (1, 2, 32)]


@pytest.mark.asyncio
@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize(("chunking", "in_flight"), WAYS)
async def test_what_a_session_does_is_the_same_whatever_a_reply_is(
    monkeypatch: pytest.MonkeyPatch, chunking: bool, in_flight: int
) -> None:
    """Octets, waits, looks, hooks and outcomes, in their order (R1, R7, R8, R25); reads end anywhere."""
    way = {"chunking": chunking, "in_flight": in_flight}
    taken, count = await compare(monkeypatch, **way)
    assert taken == 3
    for index, reply, end, cut in product(range(count), UNUSUAL.values(), ENDS, (0, 17)):
        if reply or end:
            await compare(monkeypatch, **way, index=index, reply=reply, end=end, cut=cut)


@pytest.mark.asyncio
@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("chunking", [False, True], ids=["DATA", "BDAT"])
async def test_what_a_session_does_is_the_same_behind_a_rest_in_a_trace_and_with_octets_unsent(
    monkeypatch: pytest.MonkeyPatch, chunking: bool
) -> None:
    _, count = await compare(monkeypatch, chunking=chunking)
    variants: tuple[dict[str, Any], ...] = ({"has_rested": True}, {"traces": True}, {"unsent": 7}, {"unsent": 10**6})
    for variant, index, reply, end in product(variants, range(count), UNUSUAL.values(), ("", "EOF")):
        if reply or end:
            await compare(monkeypatch, chunking=chunking, index=index, reply=reply, end=end, **variant)
    for cut in range(1, 80):
        await compare(monkeypatch, chunking=chunking, cut=cut)
