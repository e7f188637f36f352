"""Streams whose every await is numbered, joined to the testing server's protocol half without a socket.

A `World` is one server, its mailbox, and all that ever connected to it. Its streams wait at *places*: before a
connection is opened and behind, before the first octet of a write is taken, in its middle and behind, before octets are
read, at the end. The places that the task under test comes by (`ACTOR` is FIRST) are numbered over the whole run, and
at one of them the `Fault` strikes. Time is not the machine's: see `run`.

What is taken is served at once: the server commits, and has its reply ready, before the client's `send` returns. So
whatever the client calls "certainly not sent" here was certainly not taken, or the mailbox says otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import selectors
import ssl
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextvars import ContextVar
from enum import Enum
from typing import Any, Final, Literal

import anyio
import anyio.abc
import anyio.lowlevel
import attrs
import trio.testing

from smtplite.errors import ConnectError, ConnectionLost
from smtplite.net import Meanwhile
from smtplite.testing import Mailbox, Script, ScriptedReply, ServedConnection, ServerConfig, ServerConnection
from smtplite.testing.tls import server_context

__all__ = [
    "ACTOR",
    "FIRST",
    "HOLDS",
    "WORLD",
    "Backend",
    "Broken",
    "Fault",
    "FaultStream",
    "ForeignFaultStream",
    "Kind",
    "TalkativeForeignFaultStream",
    "Wire",
    "World",
    "acting",
    "connect_tcp",
    "run",
]

Backend = Literal["asyncio", "trio"]

#: The task under test; see `ACTOR`.
FIRST: Final = "first"
#: Another one, which waits at the places as well, but nothing strikes there.
HOLDS: Final = "holder"
#: Whose octets and waits these are. Child tasks inherit it.
ACTOR: ContextVar[str] = ContextVar("ACTOR")
#: The world that `connect_tcp` connects to.
WORLD: ContextVar[World] = ContextVar("WORLD")


class Kind(Enum):
    """What happens at the place where a fault strikes."""

    CANCEL = "the scope is cancelled, and the wait with it"
    CANCEL_LATE = "the scope is cancelled while nothing waits: the next real wait ends"
    TASK_CANCEL = "asyncio.Task.cancel()"
    FAIL = "the connection fails; what the server had said can still be read"
    RESET = "the connection fails; what the server had said is lost"
    END = "the server closes; what it had said can still be read"
    TIMEOUT = "nothing happens, for ever"
    CLOSE_CLIENT = "another task closes the client, and has it done"


@attrs.frozen
class Fault:
    """One thing that goes wrong, at the place with this number."""

    kind: Kind
    at: int


class Broken(Exception):
    """The connection does not work any more."""


@contextlib.contextmanager
def acting(actor: str) -> Iterator[None]:
    """Do what is done inside as `actor`."""
    token = ACTOR.set(actor)
    try:
        yield
    finally:
        ACTOR.reset(token)


@functools.cache
def _tls_context() -> ssl.SSLContext:
    return server_context("localhost")


class Wire:
    """One connection, as both of its ends see it."""

    def __init__(self, world: World) -> None:
        self.world = world
        protocol = ServerConnection(world.config, world.mailbox, script=world.script)
        self.served = ServedConnection(protocol, _tls_context, is_implicit=world.is_implicit_tls)
        self.served.greet()
        self.opened_by = ACTOR.get()
        #: What was taken of the client's octets, and whose they were; also what the server did not live to see.
        self.taken: list[tuple[str, bytes]] = []
        #: What the client's calls of `send` were given, taken or not.
        self.given = bytearray()
        #: What the client's calls of `receive` returned.
        self.read = bytearray()
        #: Taken behind the server's end: it never saw these.
        self.swallowed = bytearray()
        self.is_closed = False
        self.is_broken = False
        self.is_reset = False
        #: Whether the server is gone without the client's kernel knowing of it.
        self.is_secretly_dead = False
        #: For the conversation's own use.
        self.notes: list[str] = []
        self._readers: list[anyio.Event] = []

    @property
    def is_ended(self) -> bool:
        """Whether the server's side is gone."""
        return not self.served.is_open

    @property
    def is_readable(self) -> bool:
        """Whether `receive` would return or raise at once."""
        return self.is_closed or (not self.is_secretly_dead and (self.is_ended or bool(self.served.outgoing)))

    def take(self, octets: bytes) -> None:
        """Take octets of the client, or raise Broken and take none."""
        if self.is_closed or self.is_broken:
            raise Broken("the connection is broken")
        if not octets:
            return
        actor = ACTOR.get()
        self.taken.append((actor, octets))
        if actor == HOLDS:
            self.world.is_held.set()
        if self.is_ended:
            # The kernel takes one more write, and learns from the answer to it that nobody is there.
            self.swallowed += octets
            self.is_broken = True
        else:
            self.served.receive(octets, unread=bool(self.served.outgoing))
            self.world.have_taken(self)
        self._wake()

    async def receive(self, most: int) -> bytes:
        """Return what the server said; b"" at its end. Raises Broken."""
        await self.world.at("receive", self)
        while True:
            if self.is_closed or self.is_reset:
                raise Broken("the connection is broken")
            if self.served.outgoing:
                most = min(most, self.world.most_read)
                octets = bytes(self.served.outgoing[:most])
                del self.served.outgoing[:most]
                self.read += octets
                return octets
            if self.is_ended:
                return b""
            readable = anyio.Event()
            self._readers.append(readable)
            await readable.wait()

    @property
    def waits(self) -> bool:
        """Whether a write has to wait: for FIRST and HOLDS, unless the network is quick."""
        return not self.world.is_quick and ACTOR.get() in (FIRST, HOLDS)

    async def send(self, octets: bytes, took: Callable[[int], None]) -> None:
        """Take octets with a place before the first, in the middle, before the last and behind it. Raises Broken."""
        self.given += octets
        length = len(octets)
        done = 0
        if not self.waits:
            self.take(octets)
            took(length)
            return
        stops = {0, length // 2, length}
        if length > 64:  # else it is a command or two: one middle is as good as another
            stops.add(length - 1)
        for stop in sorted(stops):
            self.take(octets[done:stop])
            done = stop
            took(done)
            await self.world.at(f"send, {done} of {length} taken", self)

    def say(self, octets: bytes, *, close: bool = False) -> None:
        """Have the server say something in clear that is not the answer to a command."""
        self.served.outgoing += self.served.protocol.say(octets, close=close)
        if close:
            self.served.is_open = False
        self._wake()

    def end(self) -> None:
        """End the server's side; what it said stays readable."""
        self.served.receive(b"")
        self._wake()

    def close(self) -> None:
        """End the client's side."""
        self.is_closed = True
        self.end()

    def fail(self, *, and_forget: bool) -> None:
        """Break the connection in the middle."""
        self.is_broken = True
        self.end()
        if and_forget:
            self.is_reset = True
            self.served.outgoing.clear()

    def _wake(self) -> None:
        readers, self._readers = self._readers, []
        for readable in readers:
            readable.set()


class World:
    """One server and everything that happens around it.

    Args:
        config: how the server behaves.
        replies: what it was told to say.
        is_implicit_tls: whether TLS comes first of all.
        max_connections: checked at every place: never more are open.
        most_read: octets that one `receive` returns at most.
        is_quick: whether the network takes each write of a `FaultStream` at once: it has no places then.
        have_taken: called whenever the server has seen something.
        fault: what goes wrong; None: nothing.
        strikes: says whether this kind of fault can happen at this place. It waits for the next one where it can: two
            tasks of one conversation need not come by in the same order each time.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        replies: Iterable[ScriptedReply] = (),
        is_implicit_tls: bool = False,
        max_connections: int = 1,
        most_read: int = 65_536,
        is_quick: bool = False,
        have_taken: Callable[[Wire], None] | None = None,
        fault: Fault | None = None,
        strikes: Callable[[Kind, str], bool] = lambda kind, place: True,
    ) -> None:
        self.config = config
        self.mailbox = Mailbox()
        self.script = Script(replies)
        self.is_implicit_tls = is_implicit_tls
        self.max_connections = max_connections
        self.most_read = most_read
        self.is_quick = is_quick
        self.fault = fault
        self.wires: list[Wire] = []
        #: The places that FIRST came by, in order: the last one's number is `len(places) - 1`.
        self.places: list[str] = []
        #: Set when FIRST begins, and when it came by its first place.
        self.has_begun = anyio.Event()
        self.was_first_seen = anyio.Event()
        #: Set when HOLDS has a connection.
        self.is_held = anyio.Event()
        #: Whether the fault has happened.
        self.fault_struck = False
        #: What the client had read by then.
        self.read_before_fault = b""
        #: Of FIRST, for Kind.CANCEL and CANCEL_LATE.
        self.scope = anyio.CancelScope()
        #: Of FIRST, for Kind.TASK_CANCEL.
        self.task: asyncio.Task[None] | None = None
        #: Kind.CLOSE_CLIENT: asked for, and done.
        self.asks_to_close = anyio.Event()
        self.client_is_closed = anyio.Event()
        self._have_taken = have_taken
        self._strikes = strikes

    def have_taken(self, wire: Wire) -> None:
        """Let the conversation have its say about what the server has just seen."""
        if self._have_taken is not None:
            self._have_taken(wire)

    # What the client is given

    async def connect(self) -> FaultStream:
        """Open a connection; a stand-in for `smtplite.net.connect_tcp`."""
        try:
            return FaultStream(await self._open())
        except Broken as error:
            raise ConnectError(f"cannot connect: {error}", phase="connect") from error

    async def connect_foreign(self) -> ForeignFaultStream:
        """Open a connection; for `Client(connect=...)`."""
        return ForeignFaultStream(await self._open_foreign())

    async def connect_talkative(self) -> TalkativeForeignFaultStream:
        """Open a connection; for `Client(connect=...)`. The stream can abort, and tell whether it is readable."""
        return TalkativeForeignFaultStream(await self._open_foreign())

    async def _open_foreign(self) -> Wire:
        try:
            return await self._open()
        except Broken as error:
            raise ConnectionRefusedError(str(error)) from error

    async def _open(self) -> Wire:
        await self.at("connect, nothing done", None)
        wire = Wire(self)
        self.wires.append(wire)
        try:
            await self.at("connect, done", wire)
        except BaseException:
            wire.close()
            raise
        return wire

    # The places

    async def at(self, place: str, wire: Wire | None) -> None:
        """Wait at a place; have the fault happen if this is where it strikes.

        Raises:
            Broken: it is Kind.FAIL or RESET.
        """
        open_wires = sum(not wire.is_closed for wire in self.wires)
        assert open_wires <= self.max_connections, f"{open_wires} connections are open at {place!r}"
        actor = ACTOR.get()
        if actor == HOLDS:
            await anyio.lowlevel.checkpoint()
        if actor != FIRST:
            return
        self.was_first_seen.set()
        number = len(self.places)
        self.places.append(place)
        fault = self.fault
        if fault is not None and number >= fault.at and not self.fault_struck and self._strikes(fault.kind, place):
            self.fault_struck = True
            self.read_before_fault = b"".join(wire.read for wire in self.wires)
            await self._strike(fault.kind, place, wire)
        elif fault is None or fault.kind is not Kind.CANCEL_LATE:
            await anyio.lowlevel.checkpoint()
        # else: as with a kernel that is never busy: nobody looks for a cancellation here

    def pass_by(self, place: str) -> None:
        """Come by a place where nobody waits; a cancellation may be asked for there all the same."""
        if not self.has_begun.is_set() or ACTOR.get() not in (FIRST, HOLDS):
            return
        number = len(self.places)
        self.places.append(place)
        fault = self.fault
        if fault is None or number < fault.at or self.fault_struck or not self._strikes(fault.kind, place):
            return
        self.fault_struck = True
        if fault.kind is Kind.CANCEL_LATE:
            self.scope.cancel()
        else:
            assert fault.kind is Kind.TASK_CANCEL
            assert self.task is not None
            self.task.cancel()

    async def _strike(self, kind: Kind, place: str, wire: Wire | None) -> None:
        match kind:
            case Kind.CANCEL:
                self.scope.cancel()
                await anyio.lowlevel.checkpoint()
            case Kind.CANCEL_LATE:
                self.scope.cancel()
            case Kind.TASK_CANCEL:
                assert self.task is not None
                self.task.cancel()
                await anyio.lowlevel.checkpoint()
            case Kind.FAIL | Kind.RESET:
                if wire is not None:  # a read that fails finds nothing any more
                    wire.fail(and_forget=kind is Kind.RESET or place == "receive")
                raise Broken("it failed here")
            case Kind.END:
                assert wire is not None
                wire.end()
                await anyio.lowlevel.checkpoint()
            case Kind.TIMEOUT:
                await anyio.sleep_forever()
            case Kind.CLOSE_CLIENT:
                self.asks_to_close.set()
                await self.client_is_closed.wait()


class FaultStream:
    """A `smtplite.net.Stream`: knows what was not taken, what is there to read, and can abort."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.unsent = 0

    async def send(self, data: bytes, meanwhile: Meanwhile | None = None) -> None:
        self.unsent = len(data)
        if meanwhile is None or not self._wire.waits:
            await self._send(data)
            return
        # It waits at its places, so that what comes is read meanwhile.
        failures: list[ConnectionLost] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(meanwhile, tasks.cancel_scope)
            try:
                await self._send(data)
            except ConnectionLost as error:
                failures.append(error)
            tasks.cancel_scope.cancel()
        if failures:
            raise failures[0]

    async def _send(self, data: bytes) -> None:
        def took(octets: int) -> None:
            self.unsent = len(data) - octets

        try:
            await self._wire.send(data, took)
        except Broken as error:
            raise ConnectionLost(f"connection lost: {error}") from error

    async def receive(self) -> bytes:
        try:
            return await self._wire.receive(65_536)
        except Broken as error:
            raise ConnectionLost(f"connection lost: {error}") from error

    async def look(self) -> bytes | None:
        """Say what is there; an await that a TLS stream uses, though not to wait for the network."""
        wire = self._wire
        await wire.world.at("look", wire)
        return await self._receive_now() if wire.is_readable else None

    async def _receive_now(self) -> bytes:
        octets = bytes(self._wire.served.outgoing)
        self._wire.served.outgoing.clear()
        self._wire.read += octets
        return octets

    def watch(self) -> None:
        pass

    def rest(self) -> None:
        pass

    def is_stale(self) -> bool:
        return self._wire.is_readable

    def abort(self) -> None:
        self._wire.close()

    def close(self) -> None:
        self._wire.close()

    async def aclose(self) -> None:
        self._wire.close()
        await self._wire.world.at("aclose", self._wire)

    @property
    def local_address(self) -> str | None:
        return "192.0.2.1"


class ForeignFaultStream(anyio.abc.ByteStream):
    """What `Client(connect=...)` may return at the least: it cannot say what was taken, nor abort."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    async def send(self, item: bytes) -> None:
        try:
            await self.wire.send(item, lambda _: None)
        except Broken as error:
            raise anyio.BrokenResourceError from error

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        try:
            octets = await self.wire.receive(max_bytes)
        except Broken as error:
            raise anyio.BrokenResourceError from error
        if not octets:
            raise anyio.EndOfStream
        return octets

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        self.wire.close()
        try:
            await self.wire.world.at("aclose", self.wire)
        except Broken as error:
            raise ConnectionResetError(str(error)) from error


class TalkativeForeignFaultStream(ForeignFaultStream):
    """It has both of the methods that a stream of `Client(connect=...)` may have beside anyio's."""

    def abort(self) -> None:
        self.wire.close()

    def is_readable(self) -> bool:
        return self.wire.is_readable


async def connect_tcp(*_: object) -> FaultStream:
    """Connect to the WORLD; put in the place of `smtplite.sending.handshake.connect_tcp`."""
    return await WORLD.get().connect()


# Time


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: when nothing is ready, time jumps to the next timer."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("everybody waits for ever")
        if not ready and timeout is not None and timeout > 0:
            self.now += timeout
        return ready


class _JumpingEventLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def run(backend: Backend, main: Callable[[], Awaitable[None]]) -> None:
    """Run `main` on an event loop whose clock jumps to the next deadline when nothing else can happen."""
    options: dict[str, Any]
    if backend == "asyncio":
        options = {"loop_factory": _JumpingEventLoop}
    else:
        options = {"clock": trio.testing.MockClock(autojump_threshold=0)}
    anyio.run(main, backend=backend, backend_options=options)
