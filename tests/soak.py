"""A soak: very many messages over a few connections, which a proxy kills at random; every outcome is then checked.

::

    python -m tests.soak --messages 100000 --connections 10
    python -m tests.soak --messages 100000 --connections 10 --send-many --chunking
    python -m tests.soak --messages 100000 --connections 10 --chaos --tls

All of it is one process on loopback: the client, the proxy, and a server that writes down what it takes *before* it
answers. The proxy cuts a connection at a random octet, in either direction, by RST or by FIN; ``--seed`` repeats the
choices (not the scheduling). At the end, for each recipient of each message:

- accepted: the server took it, exactly once;
- refused, or not sent: the server did not take it;
- unknown: the server took it at most once;
- and nothing else: accepted + refused + not sent + unknown is what was handed in.

So nothing is ever taken twice: what may have been handed over is never sent again. The client's memory must not grow,
and no connection may be left. The exit status says whether all of that held.

``--chaos`` adds to that: the server takes fewer connections than the client wants, and how many changes; one too many
is told 421, closed, reset, or left without a greeting. It is restarted: all connections end, and for a moment none is
accepted. The event loop stands still. Sends and streams are cancelled at random moments, or have hardly any time; what
became of a cancelled `send` its trace says. And a message must not fail for a connection that was not its own (rule
R26): when one fails because none could be opened, every connection that sent messages before, and is not closed, is
suspect; one that goes on to send another message was there to be waited for, and the run has failed.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import ctypes
import gc
import itertools
import os
import random
import resource
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from smtplite import Client, Delivery, Outgoing, Receipt, SMTPError, SMTPTimeout, Timeouts
from smtplite.protocol.window import Window
from smtplite.testing import (
    Mailbox,
    ReceivedMessage,
    Script,
    ScriptedReply,
    ServerConfig,
    ServerConnection,
    client_context,
    server_context,
)
from smtplite.trace import ConnectionClosed, FlightSent, MessageFinished, TraceEvent

__all__ = ["Report", "Settings", "main", "soak"]

HOST: Final = "127.0.0.1"
#: Octets that a connection carries, on average, before it is killed.
MEAN_LIFE_OCTETS: Final = 20_000
#: Of so many connections, one does not live to see its first message.
STILLBORN: Final = 8
MAX_STILLBORN_OCTETS: Final = 600

#: What a message's recipients are, the first one, two or three of them; the last is refused.
RECIPIENTS: Final = ("a@recipient.example", "b@recipient.example", "nobody@recipient.example")
REPLIES: Final = (
    ScriptedReply("RCPT", "550 5.1.1 no such user", to=RECIPIENTS[2]),
    ScriptedReply("END_OF_DATA", "554 5.7.1 spam", sender="spam@sender.example"),
)

#: Growth between the first quarter of the run and the last that is none: noise of the allocator.
MAX_GROWTH_OCTETS: Final = 4 * 1024 * 1024
MAX_GROWTH_SHARE: Final = 0.02
#: Fewer messages than these tell nothing about memory.
MIN_MESSAGES_FOR_MEMORY: Final = 5_000

#: Beyond `Settings.seconds`: for what is under way then.
GRACE_SECONDS: Final = 120
#: For the server's own ends of connections to be closed.
SETTLE_SECONDS: Final = 60

#: No outcome yet; and the four.
NONE, ACCEPTED, REFUSED, UNKNOWN, NOT_SENT = range(5)
_NAMES: Final = ("no outcome", "accepted", "refused", "unknown", "not sent")

#: Chaos. Of so many messages, one has hardly any time, and one is cancelled.
HURRIED: Final = 20
HURRY_SECONDS: Final = 0.2
#: A stream ends after so many messages; one of three is cancelled before.
STREAM_MESSAGES: Final = 400
#: Between two disturbances, and how long the event loop stands still, or nobody listens.
CALM_SECONDS: Final = (0.02, 0.3)
STALL_SECONDS: Final = (0.02, 0.3)
PAUSE_SECONDS: Final = (0.0, 0.15)
#: What becomes of a connection for which there is no place.
TURNED_AWAY: Final = ("421", "FIN", "RST", "silence")
#: Phases of an error that says: there was no connection.
OPENING_PHASES: Final = frozenset({"connect", "tls", "starttls", "greeting", "hello", "auth", "pool"})

_LINGER_RESET: Final = struct.pack("ii", 1, 0)


@attrs.frozen(kw_only=True)
class Settings:
    """What to do.

    Attributes:
        messages: how many.
        connections: of the client, at the same time.
        seed: of the proxy's choices.
        seconds: after this nothing more is begun.
        send_many: use `Client.send_many`, not concurrent calls of `Client.send`.
        chunking: send with BDAT.
        tls: inside TLS.
        chaos: refuse connections, restart, stall and cancel, too.
    """

    messages: int = 100_000
    connections: int = 10
    seed: int = 1
    seconds: float = 1_800
    send_many: bool = False
    chunking: bool = False
    tls: bool = False
    chaos: bool = False


@attrs.define(kw_only=True)
class Report:
    """What happened; `failures` is empty if all that must hold did."""

    messages: int = 0
    outcomes: collections.Counter[str] = attrs.field(factory=collections.Counter)
    errors: collections.Counter[str] = attrs.field(factory=collections.Counter)
    taken: int = 0
    taken_but_unknown: int = 0
    #: Verdicts that were taken at once with all that was owed (see `smtplite.protocol.usual`).
    at_once: int = 0
    connections: int = 0
    kills: collections.Counter[str] = attrs.field(factory=collections.Counter)
    #: By chaos: what happened, how often.
    chaos: collections.Counter[str] = attrs.field(factory=collections.Counter)
    seconds: float = 0.0
    #: Of memory, in the first quarter of the run and in the last; and the blocks that Python has given out.
    octets: tuple[int, int] = (0, 0)
    blocks: tuple[int, int] = (0, 0)
    failures: list[str] = attrs.field(factory=list)

    def __str__(self) -> str:
        outcomes = ", ".join(f"{self.outcomes[name]} {name}" for name in _NAMES[1:])
        errors = ", ".join(f"{count} {name}" for name, count in self.errors.most_common())
        kills = ", ".join(f"{count} {name}" for name, count in sorted(self.kills.items()))
        mebibyte = 1024 * 1024
        lines = [
            f"{self.messages} messages in {self.seconds:.1f} s ({self.messages / (self.seconds or 1):.0f}/s)",
            f"recipients: {outcomes}; in all {self.outcomes.total()}",
            f"the server took {self.taken}, {self.taken_but_unknown} of them unknown to the client",
            f"verdicts taken at once with all that was owed: {self.at_once}",
            f"errors: {errors or 'none'}",
            f"{self.connections} connections, {self.kills.total()} killed: {kills}",
            *(
                [f"chaos: {', '.join(f'{count} {name}' for name, count in sorted(self.chaos.items()))}"]
                * bool(self.chaos)
            ),
            f"memory: {self.octets[0] / mebibyte:.1f} MiB in {self.blocks[0]} blocks in the first quarter, "
            f"{self.octets[1] / mebibyte:.1f} MiB in {self.blocks[1]} in the last",
            *(f"FAILED: {failure}" for failure in self.failures),
        ]
        return "\n".join(lines)


def recipients_of(number: int) -> tuple[str, ...]:
    """Return the recipients of a message."""
    return RECIPIENTS[: 1 + number % 3]


def sender_of(number: int) -> str:
    """Return the reverse-path of a message: one in fifty is refused."""
    return "spam@sender.example" if number % 50 == 49 else "me@sender.example"


def content_of(number: int) -> bytes:
    """Return a message, which says its number where it begins and where it ends."""
    return (
        f"Message-ID: <{number}@soak.example>\r\nFrom: {sender_of(number)}\r\nSubject: soak\r\n\r\n"
        + ".a line that begins with a dot\r\n" * (number % 7)
        + f"end of {number}\r\n"
    ).encode()


class Ledger(Mailbox):
    """What the server took, and what the client said of it: one octet each for every recipient.

    Args:
        messages: how many there are.
    """

    def __init__(self, messages: int) -> None:
        super().__init__(keeps=False)
        # Written to, so that the pages are there from the start and are no growth of the client's.
        self.taken = bytearray(b"\0" * (messages * len(RECIPIENTS)))
        self.outcomes = bytearray(b"\0" * (messages * len(RECIPIENTS)))
        self.failures: list[str] = []

    def deliver(self, message: ReceivedMessage) -> None:
        """Commit a message; it is not kept."""
        number = int(message.content[len("Message-ID: <") : message.content.index(b"@")])
        if message.content != content_of(number) or message.sender != sender_of(number):
            self.fail(f"the server took something else for message {number}: {message!r}")
        for recipient in message.recipients:
            self.taken[self._index(number, recipient)] += 1

    def note(self, number: int, result: Receipt | SMTPError | MessageFinished) -> None:
        """Note what the client said of a message."""
        said = [
            *((recipient, ACCEPTED) for recipient in result.accepted),
            *((recipient, REFUSED) for recipient in result.refused),
            *((recipient, UNKNOWN) for recipient in result.unknown),
            *((recipient, NOT_SENT) for recipient in result.not_sent),
        ]
        if sorted(recipient for recipient, _ in said) != sorted(recipients_of(number)):
            self.fail(f"message {number} has other recipients than it was given: {said}")
            return
        for recipient, outcome in said:
            index = self._index(number, recipient)
            if self.outcomes[index] != NONE:
                self.fail(f"{recipient} of message {number} has two outcomes")
            self.outcomes[index] = outcome

    def fail(self, failure: str) -> None:
        """Note something that must not be; the first few are enough."""
        if len(self.failures) < 20:
            self.failures.append(failure[:300])

    def close(self, report: Report, handed_in: int) -> None:
        """Compare both sides."""
        for number in range(handed_in):
            for recipient in recipients_of(number):
                index = self._index(number, recipient)
                outcome, taken = self.outcomes[index], self.taken[index]
                report.outcomes[_NAMES[outcome]] += 1
                report.taken += taken
                report.taken_but_unknown += taken if outcome == UNKNOWN else 0
                wanted = {ACCEPTED: (1,), UNKNOWN: (0, 1)}.get(outcome, (0,))
                if outcome == NONE or taken not in wanted:
                    self.fail(f"{recipient} of message {number}: {_NAMES[outcome]}, and taken {taken} times")
        report.failures += self.failures

    @staticmethod
    def _index(number: int, recipient: str) -> int:
        return number * len(RECIPIENTS) + RECIPIENTS.index(recipient)


class _Open:
    """Counts the ends of connections that are open at the server and the proxy."""

    def __init__(self) -> None:
        self._count = 0
        self.none = asyncio.Event()
        self.none.set()

    def opened(self) -> None:
        self._count += 1
        self.none.clear()

    def closed(self) -> None:
        self._count -= 1
        if not self._count:
            self.none.set()


# The server


class _Server(asyncio.Protocol):
    """One connection of the server: what it takes is in the ledger before it answers."""

    def __init__(self, config: ServerConfig, ledger: Ledger, script: Script, ends: _Open) -> None:
        self._ledger = ledger
        self._ends = ends
        self._protocol = ServerConnection(config, ledger, script=script)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ends.opened()
        transport.write(self._protocol.greeting())

    def data_received(self, data: bytes) -> None:
        self._transport.write(self._protocol.feed(data))
        if self._protocol.closing:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.feed(b"")
        for violation in self._protocol.violations:
            self._ledger.fail(f"the client broke the protocol: {violation}")
        self._ends.closed()


# The proxy


class _Killer:
    """Decides when a connection dies, and how.

    Args:
        rng: decides.
    """

    def __init__(self, rng: random.Random) -> None:
        self.direction = rng.choice(("to the server", "to the client"))
        self.how = rng.choice(("RST", "FIN"))
        if rng.randrange(STILLBORN) == 0:
            self.left = rng.randrange(MAX_STILLBORN_OCTETS)
        else:
            self.left = int(rng.expovariate(1 / MEAN_LIFE_OCTETS))
        if self.direction == "to the client":
            self.left //= 2  # replies are shorter than messages

    def pass_on(self, direction: str, data: bytes) -> bytes | None:
        """Return what may pass; None: all of it, and the connection lives."""
        if direction != self.direction:
            return None
        if len(data) <= self.left:
            self.left -= len(data)
            return None
        return data[: self.left]


class _Side(asyncio.Protocol):
    """One side of a connection through the proxy; what it reads goes to the other."""

    transport: asyncio.Transport
    other: _Side

    def __init__(self, proxy: _Proxy, killer: _Killer, direction: str) -> None:
        self._proxy = proxy
        self._killer = killer
        self._direction = direction
        self.is_dead = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._proxy.ends.opened()

    def data_received(self, data: bytes) -> None:
        if self.is_dead:
            return
        passing = self._killer.pass_on(self._direction, data)
        if passing is None:
            self.other.transport.write(data)
            return
        self.other.transport.write(passing)
        self._proxy.report.kills[f"by {self._killer.how} {self._direction}"] += 1
        self.cut(is_reset=self._killer.how == "RST")

    def cut(self, *, is_reset: bool) -> None:
        """End the connection, both sides."""
        self.is_dead = self.other.is_dead = True
        for side in (self, self.other):
            if hasattr(side, "transport"):
                side.end(is_reset=is_reset)

    def end(self, *, is_reset: bool) -> None:
        """Close this side."""
        sock = self.transport.get_extra_info("socket")
        if is_reset and sock is not None and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
            self.transport.abort()
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._proxy.ends.closed()
        if not self.is_dead:
            self.is_dead = self.other.is_dead = True
            if hasattr(self.other, "transport"):  # else `_Proxy._connect` sees to it
                self.other.end(is_reset=exc is not None)
        self._proxy.left(self)


class _Proxy:
    """Stands between the client and the server, and kills connections."""

    def __init__(self, port: int, settings: Settings, report: Report, ends: _Open) -> None:
        self._port = port
        self._seed = settings.seed
        self._is_tls = settings.tls
        self.report = report
        self.ends = ends
        self._tasks: set[asyncio.Task[None]] = set()
        self._rng = random.Random(f"{settings.seed}/proxy")
        self._served: set[_Side] = set()
        self._silent: collections.deque[_Side] = collections.deque()
        #: How many connections are served at the same time; None: all.
        self.places: int | None = None
        self.front: asyncio.Server  # once it listens

    def accept(self) -> _Side:
        """Make the side of a client that has just connected."""
        self.report.connections += 1
        killer = _Killer(random.Random(f"{self._seed}/{self.report.connections}"))
        client = _Accepted(self, killer, "to the server")
        client.other = _Side(self, killer, "to the client")
        client.other.other = client
        return client

    def begin(self, client: _Side) -> None:
        """Connect a client to the server, if there is a place for it."""
        if self.places is not None and len(self._served) >= self.places:
            self._turn_away(client)
            return
        self._served.add(client)
        task = asyncio.get_running_loop().create_task(self._connect(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _turn_away(self, client: _Side) -> None:
        how = self._rng.choice(TURNED_AWAY)
        if how == "421" and self._is_tls:
            how = "FIN"
        self.report.chaos[f"refused by {how}"] += 1
        if how == "silence":
            self._silent.append(client)
            return
        if how == "421":
            client.transport.write(b"421 4.3.2 too many connections\r\n")
        client.is_dead = client.other.is_dead = True
        client.end(is_reset=how == "RST")

    def left(self, side: _Side) -> None:
        """Take note that a side has ended: somebody who waits may have its place."""
        self._served.discard(side)
        if side in self._silent:
            self._silent.remove(side)
        while self._silent and (self.places is None or len(self._served) < self.places):
            self.begin(self._silent.popleft())

    async def listen(self, port: int = 0) -> None:
        """Take connections."""
        self.front = await asyncio.get_running_loop().create_server(self.accept, HOST, port)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.front.sockets[0].getsockname()[1])

    async def settle(self) -> None:
        """Wait for connections to the server that are just being made."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def restart(self) -> None:
        """End every connection, and accept none for a moment."""
        port = self.port
        self.front.close()
        is_reset = self._rng.random() < 0.5
        for client in [*self._silent, *self._served]:
            client.cut(is_reset=is_reset)
        await asyncio.sleep(self._rng.uniform(*PAUSE_SECONDS))
        await self.listen(port)

    async def disturb(self, connections: int) -> None:
        """Do now this, now that, until cancelled."""
        rng, chaos = self._rng, self.report.chaos
        while True:
            await asyncio.sleep(rng.uniform(*CALM_SECONDS))
            match rng.randrange(10):
                case 0:
                    chaos["restarts"] += 1
                    await self.restart()
                case 1 | 2 | 3:
                    self.places = rng.randint(1, connections)
                case 4 | 5 | 6:
                    chaos["stalls"] += 1
                    time.sleep(rng.uniform(*STALL_SECONDS))  # noqa: ASYNC251 (this is what is tested)
                case _:
                    pass

    async def _connect(self, client: _Side) -> None:
        await asyncio.get_running_loop().create_connection(lambda: client.other, HOST, self._port)
        if client.is_dead:  # it left before
            client.other.transport.abort()
        else:
            client.transport.resume_reading()


class _Accepted(_Side):
    """The side of the client: nothing is read from it until there is somebody to read it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.pause_reading()
        self._proxy.begin(self)


@contextlib.asynccontextmanager
async def _serving(settings: Settings, ledger: Ledger, report: Report) -> AsyncIterator[int]:
    """Run server and proxy; gives the port of the proxy. Ends when every connection has ended."""
    loop = asyncio.get_running_loop()
    config = ServerConfig()
    script = Script(REPLIES)
    ends = _Open()
    context = server_context("localhost", HOST) if settings.tls else None
    async with await loop.create_server(lambda: _Server(config, ledger, script, ends), HOST, 0, ssl=context) as server:
        proxy = _Proxy(server.sockets[0].getsockname()[1], settings, report, ends)
        await proxy.listen()
        chaos = loop.create_task(proxy.disturb(settings.connections)) if settings.chaos else None
        try:
            yield proxy.port
        finally:
            if chaos is not None:
                chaos.cancel()
                await asyncio.wait([chaos])
            proxy.front.close()
        if chaos is not None and not chaos.cancelled():
            chaos.result()
        await proxy.settle()
        await ends.none.wait()


# The client


def _memory_octets() -> int:
    """Return the memory that this process occupies now."""
    # What the C library keeps for later is no growth. TLS takes and gives back so much that it was several MiB.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc
        trim(0)
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:  # not Linux: the most that it ever occupied will do
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _descriptors() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


class _Watch:
    """What the client's trace tells: of messages that were cancelled, and of connections that were there all the time.

    Args:
        fail: is told what must not be.
    """

    def __init__(self, fail: Callable[[str], None]) -> None:
        self._fail = fail
        self._working: set[int] = set()  # connections that sent a message, and are not closed
        self._suspects: dict[int, str] = {}  # of those: what failed, although they were there
        #: By number: the outcomes of messages that are cancelled.
        self.finished: dict[int, MessageFinished | None] = {}

    def __call__(self, event: TraceEvent) -> None:
        if isinstance(event, FlightSent):
            if any(command.startswith("MAIL") for command in event.commands):
                self._working.add(event.connection)
                if (what := self._suspects.pop(event.connection, None)) is not None:
                    self._fail(f"{what}, and connection {event.connection} went on sending messages")
        elif isinstance(event, ConnectionClosed):
            self._working.discard(event.connection)
            self._suspects.pop(event.connection, None)
        elif isinstance(event, MessageFinished) and event.message_id is not None:
            number = int(event.message_id[1:].partition("@")[0])
            if number in self.finished:
                self.finished[number] = event

    def failed(self, what: str) -> None:
        """Take note that something failed because no connection could be had."""
        for connection in self._working:
            self._suspects[connection] = what


class _Run:
    """The client's side of a soak."""

    def __init__(self, settings: Settings, ledger: Ledger, report: Report) -> None:
        self._settings = settings
        self._ledger = ledger
        self._report = report
        self._numbers = itertools.count()
        self._end = time.monotonic() + settings.seconds
        self._is_over = False
        self._every = max(1, settings.messages // 100)
        self._memory: list[tuple[int, int]] = []
        self.handed_in = 0
        self._rng = random.Random(f"{settings.seed}/client")
        #: For the client's ``trace=``.
        self.watch = _Watch(ledger.fail)

    def _next(self) -> Iterator[int]:
        """Yield the numbers of messages, until all are handed in or time is up."""
        while not self._is_over:
            number = next(self._numbers)
            if number >= self._settings.messages or time.monotonic() > self._end:
                self._is_over = True
                return
            self.handed_in = number + 1
            yield number

    def _note(self, number: int, result: Receipt | SMTPError | MessageFinished, *, is_judged: bool = False) -> None:
        self._ledger.note(number, result)
        self._report.messages += 1
        if isinstance(result, SMTPError):
            self._report.errors[type(result).__name__] += 1
            if result.phase in OPENING_PHASES and not is_judged:
                self._report.chaos["messages failed because no connection was to be had"] += 1
                self.watch.failed(f"message {number} failed: {result!r}")
            if result.retryable and (result.accepted or result.unknown):
                self._ledger.fail(f"message {number} may be sent again, and was delivered: {result!r}")
        if self._report.messages % self._every == 0:
            gc.collect()  # errors hold on to themselves by their tracebacks; what is left then is really held
            self._memory.append((_memory_octets(), sys.getallocatedblocks()))

    async def send_each(self, client: Client) -> None:
        """Send by concurrent calls of `Client.send`, more than there are connections."""

        async def work() -> None:
            for number in self._next():
                if self._settings.chaos and self._rng.randrange(HURRIED) == 0:
                    await self._send_and_cancel(client, number)
                    continue
                hurry = self._settings.chaos and self._rng.randrange(HURRIED) == 0
                try:
                    self._note(
                        number,
                        await client.send(
                            content_of(number),
                            sender=sender_of(number),
                            recipients=recipients_of(number),
                            timeout=HURRY_SECONDS if hurry else None,
                        ),
                    )
                except SMTPError as error:
                    # Whose own time was up did not fail for want of a connection.
                    is_own = hurry and isinstance(error, SMTPTimeout)
                    self._note(number, error, is_judged=is_own)
                    if error.phase in OPENING_PHASES and not is_own:
                        await asyncio.sleep(0.1)  # as anybody would: with nothing open, the next one fails at once

        async with asyncio.TaskGroup() as tasks:
            for _ in range(3 * self._settings.connections):
                tasks.create_task(work())

    async def _send_and_cancel(self, client: Client, number: int) -> None:
        """Send a message that is cancelled at some moment, by `asyncio.timeout` or as a task."""
        finished = self.watch.finished
        finished[number] = None
        seconds = self._rng.uniform(0, 0.1)
        sending = client.send(content_of(number), sender=sender_of(number), recipients=recipients_of(number))
        try:
            if self._rng.random() < 0.5:
                async with asyncio.timeout(seconds):
                    self._note(number, await sending)
            else:
                task = asyncio.ensure_future(sending)
                await asyncio.wait([task], timeout=seconds)
                task.cancel()
                await asyncio.wait([task])
                if task.cancelled():
                    raise TimeoutError
                self._note(number, task.result())
        except SMTPError as error:
            self._note(number, error)
        except TimeoutError:
            self._report.chaos["cancelled sends"] += 1
            event = finished[number]
            if event is not None:
                self._note(number, event)
            else:  # it never got as far as being a message
                self._note(number, SMTPError("cancelled", not_sent=recipients_of(number)))
        del finished[number]

    async def send_many(self, client: Client) -> None:
        """Send by `Client.send_many`; begin it again when no connection could be opened."""
        if self._settings.chaos:
            await self._send_many_in_chaos(client)
            return
        numbers = self._next()
        while not self._is_over:
            items = (
                Outgoing(content_of(number), sender_of(number), recipients=recipients_of(number), tag=number)
                for number in numbers
            )
            try:
                async with client.send_many(items, connections=self._settings.connections) as deliveries:
                    async for delivery in deliveries:
                        self._note_delivery(delivery)
            except SMTPError as error:
                self._report.errors[f"{type(error).__name__} of the loop"] += 1
            for delivery in deliveries.rest:
                self._note_delivery(delivery)

    async def _send_many_in_chaos(self, client: Client) -> None:
        """Send one stream after another, two at a time; some are cancelled, some have hardly any time for a message."""

        async def work() -> None:
            while not self._is_over:
                numbers = itertools.islice(self._next(), STREAM_MESSAGES)
                items = (
                    Outgoing(content_of(number), sender_of(number), recipients=recipients_of(number), tag=number)
                    for number in numbers
                )
                hurry = self._rng.randrange(3) == 0
                seconds = self._rng.uniform(0.05, 1) if self._rng.randrange(3) == 0 else None
                stream = client.send_many(
                    items,
                    connections=max(1, self._settings.connections // 2),
                    timeout=HURRY_SECONDS if hurry else None,
                )
                try:
                    async with asyncio.timeout(seconds), stream as deliveries:
                        async for delivery in deliveries:
                            self._note_delivery(delivery)
                except TimeoutError as error:
                    if isinstance(error, SMTPError):
                        raise
                    self._report.chaos["cancelled streams"] += 1
                except SMTPError as error:
                    self._report.chaos["streams failed because no connection was to be had"] += 1
                    self.watch.failed(f"a stream failed: {error!r}")
                    await asyncio.sleep(0.1)
                for delivery in stream.rest:  # type: ignore[attr-defined]  # it is what `async with` gives
                    self._note_delivery(delivery, is_rest=True)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(2):
                tasks.create_task(work())

    def _note_delivery(self, delivery: Delivery, *, is_rest: bool = False) -> None:
        assert isinstance(delivery.item, Outgoing)
        result = delivery.receipt or delivery.error
        assert result is not None
        # What a stream that gave up has left over is told of it, and was judged with it.
        self._note(delivery.item.tag, result, is_judged=is_rest)

    def judge_memory(self) -> None:
        """Compare the first quarter with the last."""
        quarter = len(self._memory) // 4
        if not quarter:
            return
        report = self._report
        report.octets = first, last = _means(self._memory, quarter, 0)
        report.blocks = first_blocks, last_blocks = _means(self._memory, quarter, 1)
        if report.messages < MIN_MESSAGES_FOR_MEMORY:
            return
        if last - first > max(MAX_GROWTH_OCTETS, MAX_GROWTH_SHARE * first):
            self._ledger.fail(f"memory grew by {last - first} octets")
        if last_blocks - first_blocks > MAX_GROWTH_SHARE * first_blocks:
            self._ledger.fail(f"{last_blocks - first_blocks} blocks of memory more are in use")


def _means(samples: Sequence[tuple[int, int]], quarter: int, index: int) -> tuple[int, int]:
    """Return the means of one value over the first quarter of the samples, and over the last."""
    values = [sample[index] for sample in samples]
    return sum(values[:quarter]) // quarter, sum(values[-quarter:]) // quarter


@contextlib.contextmanager
def _counting_usual(report: Report) -> Iterator[None]:
    """Count the messages whose replies were the usual ones, and were taken at once."""
    receive_usual = Window.receive_usual

    def counted(window: Window[Any]) -> Any:
        taken = receive_usual(window)
        report.at_once += taken is not None and taken[0] is not None
        return taken

    Window.receive_usual = counted  # type: ignore[method-assign,assignment] # for the time of a soak
    try:
        yield
    finally:
        Window.receive_usual = receive_usual  # type: ignore[method-assign] # as it was


async def soak(settings: Settings) -> Report:
    """Run it, within bounds, and compare what the client said with what the server took."""
    report = Report()
    ledger = Ledger(settings.messages)
    run = _Run(settings, ledger, report)
    timeouts = Timeouts(pool=60, connect=20, greeting=20, command=20, data_init=20, data_block=20, end_of_data=20)
    begun = time.monotonic()
    descriptors = _descriptors()
    async with asyncio.timeout(settings.seconds + GRACE_SECONDS), _serving(settings, ledger, report) as port:
        client = Client(
            "localhost" if settings.tls else HOST,
            port,
            tls="implicit" if settings.tls else "none",
            tls_context=client_context() if settings.tls else None,
            local_hostname="client.example",
            max_connections=settings.connections,
            timeouts=timeouts,
            chunking=settings.chunking,
            trace=run.watch if settings.chaos else None,
        )
        with _counting_usual(report):
            async with client:
                await (run.send_many(client) if settings.send_many else run.send_each(client))
        report.seconds = time.monotonic() - begun
        run.judge_memory()
    ledger.close(report, run.handed_in)
    if report.messages != run.handed_in:
        report.failures.append(f"{run.handed_in} messages were handed in, {report.messages} have an outcome")
    if report.at_once * 10 < report.taken:
        report.failures.append(f"of {report.taken} messages the verdicts on {report.at_once} alone were taken at once")
    for _ in range(SETTLE_SECONDS * 10):  # TLS of the server's that was cut in its handshake counts nowhere else
        if _descriptors() <= descriptors:
            break
        await asyncio.sleep(0.1)
    if (left := _descriptors() - descriptors) > 0:
        report.failures.append(f"{left} descriptors were left open")
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it from the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.partition("\n")[0])
    for field in attrs.fields(Settings):
        option = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            parser.add_argument(option, action="store_true")
        else:
            parser.add_argument(option, type=type(field.default), default=field.default)
    settings = Settings(**vars(parser.parse_args(arguments)))
    print(settings, flush=True)
    report = asyncio.run(soak(settings))
    print(report)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
