"""The testing server on real sockets, and in memory: a thin shell over `smtplite.testing.protocol`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import anyio
import anyio.abc
import anyio.lowlevel

from smtplite.testing.config import ServerConfig, ServerExtensions
from smtplite.testing.message import Mailbox, ReceivedMessage
from smtplite.testing.protocol import ServerConnection
from smtplite.testing.script import Script, ScriptedReply

__all__ = ["SMTPServer", "ServedConnection"]

MAX_RECEIVE_OCTETS = 65_536
"""Taken from a client at once."""
MAX_UNREAD_OCTETS = 65_536
"""Of replies in memory that a client did not take: from here on its `send` waits, as it would for a full socket."""
DEFAULT_WAIT_SECONDS = 10.0
"""`SMTPServer.wait_for_messages` gives up after this."""


class ServedConnection:
    """The record of one connection."""

    def __init__(self, protocol: ServerConnection) -> None:
        self.protocol = protocol
        """The sans-IO half."""
        self.transcript: list[tuple[Literal["C", "S"], bytes]] = []
        """What came from the client ("C") and went to it ("S"), one entry per receive and per send."""
        self.is_open = True
        """Whether neither side has ended the connection yet."""

    @property
    def violations(self) -> list[str]:
        """The client's mistakes on this connection."""
        return self.protocol.violations

    @property
    def flights(self) -> int:
        """How often the server received something."""
        return sum(direction == "C" for direction, _ in self.transcript)

    @property
    def received(self) -> bytes:
        """Everything that the client sent."""
        return b"".join(octets for direction, octets in self.transcript if direction == "C")

    @property
    def sent(self) -> bytes:
        """Everything that the server sent."""
        return b"".join(octets for direction, octets in self.transcript if direction == "S")

    def greet(self) -> bytes:
        """Begin the dialogue: return the greeting."""
        return self._note_sent(self.protocol.greeting())

    def receive(self, data: bytes, *, unread: bool = False) -> bytes:
        """Take `data` of the client (empty: its end), as `ServerConnection.feed` does, and return what to send."""
        if data:
            self.transcript.append(("C", data))
        replies = self._note_sent(self.protocol.feed(data, unread=unread))
        if self.protocol.closing:
            self.is_open = False
        return replies

    def _note_sent(self, replies: bytes) -> bytes:
        if replies:
            self.transcript.append(("S", replies))
        if self.protocol.closing:
            self.is_open = False
        return replies


class SMTPServer:
    """An ESMTP or LMTP server for tests. It takes every message and keeps it in `messages`.

    On a socket: ``async with SMTPServer() as server:`` and connect to `server.host` and `server.port`. Its tasks end
    with the block. Without a socket, and then without `async with`: give `server.connect` to the client.

    Args:
        host: The address to listen on.
        port: The port to listen on; 0: any that is free.
        socket_path: Listen on this Unix socket instead, which must not exist; it is removed at the end.
        name: The domain that greeting and EHLO reply begin with.
        extensions: What to offer; by default everything but LIMITS.
        lmtp: Speak LMTP.
        numbered: End each reply in the number of the command that it answers (`ServerConfig.numbered`).
        replies: Scripted replies, as `reply` adds them.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        socket_path: str | os.PathLike[str] | None = None,
        name: str = "mail.example.com",
        extensions: ServerExtensions | None = None,
        lmtp: bool = False,
        numbered: bool = False,
        replies: Iterable[ScriptedReply] = (),
    ) -> None:
        self.config = ServerConfig(
            name=name,
            extensions=extensions if extensions is not None else ServerExtensions(),
            lmtp=lmtp,
            numbered=numbered,
            replies=tuple(replies),
        )
        self.script = Script(self.config.replies)
        """The scripted replies, common to all connections."""
        self.mailbox = Mailbox(self._wake)
        self.connections: list[ServedConnection] = []
        """Every connection so far, also those that ended."""
        self.host = host
        self.socket_path = Path(socket_path) if socket_path is not None else None
        self._asked_port = port
        self._port: int | None = None
        self._waiting: set[anyio.Event] = set()
        self._stack: AsyncExitStack | None = None
        self._tasks: anyio.abc.TaskGroup | None = None

    @property
    def port(self) -> int:
        """The port that the server listens on.

        Raises:
            RuntimeError: it does not listen on TCP now.
        """
        if self._port is None:
            raise RuntimeError("the server does not listen on a port; enter it with `async with`, without socket_path")
        return self._port

    @property
    def messages(self) -> list[ReceivedMessage]:
        """What was taken, over all connections, in the order in which it was committed."""
        return self.mailbox.messages

    @property
    def violations(self) -> list[str]:
        """The mistakes of all clients so far; a test of a client ends in ``assert not server.violations``."""
        return [violation for connection in self.connections for violation in connection.violations]

    def reply(
        self,
        verb: str,
        reply: str | bytes,
        *,
        to: str | None = None,
        sender: str | None = None,
        times: int | None = None,
        performs: bool | None = None,
        close: bool | None = None,
        for_all: bool = False,
    ) -> None:
        """Say `reply` to `verb` from now on, on every connection; a reply given earlier that matches too goes first.

        The arguments are those of `ScriptedReply`. Examples::

            server.reply("RCPT", "550 5.1.1 no such user", to="bob@example.org")
            server.reply("MAIL", "451 4.3.0 later", times=1)
            server.reply("END_OF_DATA", b"", performs=True, close=True)  # taken, and the reply lost

        Raises:
            ValueError: `reply` is text but not a reply, or `verb` cannot be a verb.
        """
        self.script.add(
            ScriptedReply(
                verb, reply, to=to, sender=sender, times=times, performs=performs, close=close, for_all=for_all
            )
        )

    async def wait_for_messages(
        self, count: int = 1, *, timeout: float | None = DEFAULT_WAIT_SECONDS
    ) -> list[ReceivedMessage]:
        """Wait until at least `count` messages were taken, over the whole life of the server.

        Args:
            count: How many.
            timeout: In seconds; None: wait for ever.

        Returns:
            `messages`.

        Raises:
            TimeoutError: fewer were taken within `timeout`.
        """
        with anyio.move_on_after(timeout):
            while len(self.messages) < count:
                arrival = anyio.Event()
                self._waiting.add(arrival)
                try:
                    await arrival.wait()
                finally:
                    self._waiting.discard(arrival)
        if len(self.messages) < count:
            raise TimeoutError(f"the server took {len(self.messages)} of {count} messages within {timeout} seconds")
        return self.messages

    def _wake(self, message: ReceivedMessage) -> None:
        del message
        for arrival in self._waiting:
            arrival.set()

    async def connect(self) -> anyio.abc.ByteStream:
        """Open a connection in memory; the server need not be entered.

        Returns:
            The client's end: ``Client(connect=server.connect, tls="none")``. It knows what the client read, so also
            what the client wrote too early (`ServerConnection.feed`). After the server closed, `send` raises
            `anyio.BrokenResourceError`, and what it had said can still be received.
        """
        await anyio.lowlevel.checkpoint()
        return _MemoryStream(self._accept())

    def _accept(self) -> ServedConnection:
        connection = ServedConnection(ServerConnection(self.config, self.mailbox, script=self.script))
        self.connections.append(connection)
        return connection

    async def __aenter__(self) -> Self:
        if self._stack is not None:
            raise RuntimeError("the server listens already")
        async with AsyncExitStack() as stack:
            listener: anyio.abc.Listener[anyio.abc.SocketStream]
            if self.socket_path is not None:
                listener = await anyio.create_unix_listener(self.socket_path)
                stack.callback(self.socket_path.unlink, missing_ok=True)
            else:
                listener = await anyio.create_tcp_listener(local_host=self.host, local_port=self._asked_port)
                self._port = listener.extra(anyio.abc.SocketAttribute.local_port)
            stack.push_async_callback(_close, listener)
            self._tasks = await stack.enter_async_context(anyio.create_task_group())
            self._tasks.start_soon(listener.serve, self._serve, self._tasks)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        if self._stack is None or self._tasks is None:
            raise RuntimeError("the server does not listen")
        stack, tasks = self._stack, self._tasks
        self._stack = self._tasks = self._port = None
        tasks.cancel_scope.cancel()
        if isinstance(exc, Exception):
            # Kept from the task group, which would put the test's own exception into a group
            await stack.aclose()
            return None
        return await stack.__aexit__(exc_type, exc, traceback)

    async def _serve(self, stream: anyio.abc.SocketStream) -> None:
        connection = self._accept()
        try:
            replies = connection.greet()
            while True:
                # The next octets are taken only when the replies to the last ones are with the kernel
                if replies:
                    await stream.send(replies)
                if not connection.is_open:
                    break
                replies = connection.receive(await stream.receive(MAX_RECEIVE_OCTETS))
            await stream.send_eof()
            while True:
                # A socket closed with octets unread would reset the connection, and take our last reply with it
                connection.receive(await stream.receive(MAX_RECEIVE_OCTETS))
        except (anyio.EndOfStream, anyio.BrokenResourceError, OSError):  # OSError: trio's, from send_eof
            connection.receive(b"")
        finally:
            await _close(stream)


async def _close(resource: anyio.abc.AsyncResource) -> None:
    with anyio.CancelScope(shield=True):
        await resource.aclose()


class _MemoryStream(anyio.abc.ByteStream):
    """The client's end of a connection without a socket: what is sent is answered at once, in the sender's task."""

    def __init__(self, connection: ServedConnection) -> None:
        self._connection = connection
        self._unread = bytearray(connection.greet())
        self._is_closed = False
        self._sent_eof = False
        self._readable: anyio.Event | None = None
        self._drained: anyio.Event | None = None

    async def receive(self, max_bytes: int = MAX_RECEIVE_OCTETS) -> bytes:
        await anyio.lowlevel.checkpoint()
        while not self._unread:
            self._check_open()
            if not self._connection.is_open:
                raise anyio.EndOfStream
            if self._readable is not None:
                raise anyio.BusyResourceError("receiving from")
            self._readable = anyio.Event()
            try:
                await self._readable.wait()
            finally:
                self._readable = None
        self._check_open()
        octets = bytes(self._unread[:max_bytes])
        del self._unread[:max_bytes]
        if self._drained is not None and len(self._unread) < MAX_UNREAD_OCTETS:
            self._drained.set()
        return octets

    async def send(self, item: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        for start in range(0, len(item), MAX_RECEIVE_OCTETS):
            while len(self._unread) >= MAX_UNREAD_OCTETS and not self._is_closed:
                if self._drained is not None:
                    raise anyio.BusyResourceError("sending to")
                self._drained = anyio.Event()
                try:
                    await self._drained.wait()
                finally:
                    self._drained = None
            self._check_open()
            was_open = self._connection.is_open and not self._sent_eof
            octets = bytes(item[start : start + MAX_RECEIVE_OCTETS])
            self._unread += self._connection.receive(octets, unread=bool(self._unread))
            if not was_open:
                raise anyio.BrokenResourceError
            self._wake()

    async def send_eof(self) -> None:
        await anyio.lowlevel.checkpoint()
        self._check_open()
        self._end()

    async def aclose(self) -> None:
        self._is_closed = True
        self._end()
        await anyio.lowlevel.checkpoint()

    def is_readable(self) -> bool:
        """Say whether `receive` would return or raise at once."""
        return bool(self._unread) or self._is_closed or not self._connection.is_open

    def _check_open(self) -> None:
        if self._is_closed:
            raise anyio.ClosedResourceError

    def _end(self) -> None:
        if not self._sent_eof:
            self._sent_eof = True
            self._connection.receive(b"")
        self._wake()
        if self._drained is not None:
            self._drained.set()

    def _wake(self) -> None:
        if self._readable is not None and (self._unread or self._is_closed or not self._connection.is_open):
            self._readable.set()
