"""The testing server: on real sockets here, and in memory by `smtplite.testing.memory`.

Both are thin shells. What happens between the wire and the protocol half is `smtplite.testing.connection`.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack
from urllib.parse import quote

import anyio
import anyio.abc
import anyio.lowlevel
import attrs

from smtplite.testing.capacity import Capacity, WhenFull
from smtplite.testing.config import (
    DEFAULT_SCRAM_ITERATIONS,
    ScramFault,
    ServerConfig,
    ServerExtensions,
    ServerQuirks,
)
from smtplite.testing.connection import DEFAULT_WAIT_SECONDS, HeldReply, ServedConnection, Waiters, do_nothing
from smtplite.testing.memory import MemoryStream
from smtplite.testing.message import Commitment, Mailbox, ReceivedMessage, RefusedMessage, Violation
from smtplite.testing.protocol import ServerConnection
from smtplite.testing.script import Hold, ReplyOptions, Script, ScriptedReply, ScriptedText
from smtplite.testing.tls import authority, client_context, require_trustme, server_context

if TYPE_CHECKING:
    from smtplite.client import Client
    from smtplite.testing.threaded import ThreadedServer

__all__ = ["SMTPServer"]

#: The most that is read from a client at once.
MAX_RECEIVE_BYTES = 65_536

IDLE_REPLY = b"421 4.4.2 idle for too long, closing\r\n"


class SMTPServer:
    """An ESMTP or LMTP server for tests. It accepts every message and keeps it in `messages`.

    On a socket: ``async with SMTPServer() as server:`` and connect to `server.host` and `server.port`, or to
    `server.url`. Its tasks end with the block. Without a socket, and then without `async with`: `server.client()`, or
    give `server.connect` to the client. For code that is not asynchronous: ``with server.in_thread():``.

    Args:
        host: the address to listen on; by default one that other machines cannot reach.
        port: the port to listen on; 0: any free one.
        socket_path: listen on this Unix socket instead, which must not exist; it is removed at the end.
        name: the domain that greeting and EHLO reply begin with.
        extensions: what to offer; by default what most servers do.
        quirks: which habits of real servers to have; by default none.
        lmtp: speak LMTP.
        numbered: end each reply with the number of the command that it answers (`ServerConfig.numbered`).
        replies: scripted replies, as `reply` adds them.
        on_message: called with each message, before it is accepted and answered. If it returns text, such as
            ``"452 4.3.1 disk full"``, that is the reply instead, and the message is not accepted; None: it is. If it
            raises, the server ends with that exception. It must not block for long.
        on_refusal: called with each message that was refused, and why, and with each session without a message because
            something was refused; the same rules hold for it.
        strict: refuse what servers accept although it breaks the protocol, such as 8-bit content without BODY=8BITMIME.
            It is recorded in `violations` in any case.
        max_connections: how many connections are served at the same time; None: as many as come.
        when_full: what happens to one more. ``"421"``: the greeting is a 421, and the connection is closed.
            ``"close"``: it is closed without a greeting. ``"silence"``: it is accepted, and not greeted until another
            one has ended (Postfix at its process limit).
        keep: whether to keep what happened. False is for a server that runs for a long time: `messages` stays empty,
            and `connections` has only those that are open, without a transcript.
        tls: ``"implicit"``: TLS begins before the greeting. ``"starttls"``: STARTTLS is offered, as with
            `ServerExtensions.starttls`. None: neither, unless `extensions` say so.
        ssl_context: the server's certificate and versions of TLS. None: a certificate of a temporary authority, valid
            for `host`, localhost and `name`; the context of a client that trusts it is `ca_context()`.
        require_tls: answer 530 before TLS.
        users: passwords by user name. With any user here or in `tokens`, the server offers AUTH.
        tokens: OAuth access tokens by user name.
        external_identity: who the client is by EXTERNAL; None: the name in its certificate.
        mechanisms: to offer, in this order; None: all that the three above allow.
        auth_in_clear: offer and accept plain-text mechanisms without TLS.
        auth_legacy_form: offer ``AUTH=PLAIN`` instead of ``AUTH PLAIN``.
        require_auth: answer 530 before AUTH.
        auth_nonce: the server's nonce; None: a different one each time.
        scram_iterations: the iteration count, even one that no server may use.
        scram_salt: None: one that is derived from the user's name.
        scram_final_in_success: put the server's final message into the 235.
        scram_faults: how to misbehave in SCRAM: see `ScramFault`.

    Raises:
        ImportError: TLS is asked for without `ssl_context`, and trustme is not installed.
        ValueError: ``tls``, ``max_connections`` or ``when_full`` is none of these.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        socket_path: str | os.PathLike[str] | None = None,
        name: str = "mail.example.com",
        extensions: ServerExtensions | None = None,
        quirks: ServerQuirks | None = None,
        lmtp: bool = False,
        numbered: bool = False,
        replies: Iterable[ScriptedReply] = (),
        on_message: Callable[[ReceivedMessage], str | None] | None = None,
        on_refusal: Callable[[RefusedMessage], None] | None = None,
        strict: bool = False,
        keep: bool = True,
        max_connections: int | None = None,
        when_full: WhenFull = "421",
        tls: Literal["implicit", "starttls"] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        require_tls: bool = False,
        users: Mapping[str, str] | None = None,
        tokens: Mapping[str, str] | None = None,
        external_identity: str | None = None,
        mechanisms: Iterable[str] | None = None,
        auth_in_clear: bool = False,
        auth_legacy_form: bool = False,
        require_auth: bool = False,
        auth_nonce: str | None = None,
        scram_iterations: int | str = DEFAULT_SCRAM_ITERATIONS,
        scram_salt: bytes | None = None,
        scram_final_in_success: bool = False,
        scram_faults: Collection[ScramFault] = (),
    ) -> None:
        if tls not in {None, "implicit", "starttls"}:
            raise ValueError(f'tls is "implicit", "starttls" or None, not {tls!r}')
        extensions = extensions if extensions is not None else ServerExtensions()
        if tls == "starttls":
            extensions = attrs.evolve(extensions, starttls=True)
        self.config = ServerConfig(
            name=name,
            extensions=extensions,
            lmtp=lmtp,
            numbered=numbered,
            strict=strict,
            require_tls=require_tls,
            users=dict(users or {}),
            tokens=dict(tokens or {}),
            external_identity=external_identity,
            mechanisms=mechanisms,
            auth_in_clear=auth_in_clear,
            auth_legacy_form=auth_legacy_form,
            require_auth=require_auth,
            auth_nonce=auth_nonce,
            scram_iterations=scram_iterations,
            scram_salt=scram_salt,
            scram_final_in_success=scram_final_in_success,
            scram_faults=scram_faults,
            quirks=quirks if quirks is not None else ServerQuirks(),
            replies=tuple(replies),
        )
        self._is_implicit = tls == "implicit"
        self._own_ssl_context = ssl_context
        if ssl_context is None and (self._is_implicit or extensions.starttls):
            require_trustme()
        #: The scripted replies, common to all connections.
        self.script = Script(self.config.replies)
        self.mailbox = Mailbox(self._on_delivery, on_message=on_message, on_refusal=on_refusal, keeps=keep)
        #: Every connection so far, including those that ended.
        self.connections: list[ServedConnection] = []
        self.host = host
        self.socket_path = Path(socket_path) if socket_path is not None else None
        self._asked_port = port
        self._port: int | None = None
        self._keeps = keep
        self._capacity = Capacity(max_connections, when_full)
        self._waiters = Waiters()
        self._arrivals: weakref.WeakSet[_Arrivals] = weakref.WeakSet()
        self._held: list[HeldReply] = []
        self._stack: AsyncExitStack | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._listener: anyio.abc.Listener[anyio.abc.SocketStream] | None = None
        self._listening = do_nothing  # ends the task that accepts connections
        self._is_accepting = False  # whether it runs
        self._is_down = False
        self._served: dict[ServedConnection, Callable[[], None]] = {}  # those on sockets, and what ends each
        self._changes = Waiters()

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
    def tls_mode(self) -> Literal["implicit", "starttls", "none"]:
        """How a client begins TLS with this server, by the name of its option ``tls=``."""
        if self._is_implicit:
            return "implicit"
        return "starttls" if self.config.extensions.starttls else "none"

    @property
    def url(self) -> str:
        """Where the server listens, for `smtplite.Client.from_url`: ``smtp://127.0.0.1:40123?tls=none``.

        It holds no credentials. With TLS the client has to trust the certificate:
        ``tls_context=server.ca_context()``.

        Raises:
            RuntimeError: it does not listen now.
        """
        scheme = "lmtp" if self.config.lmtp else "smtp"
        mode = self.tls_mode
        if self.socket_path is not None:
            address = f"{scheme}+unix://{quote(str(self.socket_path.absolute()))}"
            return address if mode == "none" else f"{address}?tls={mode}&tls_hostname=localhost"
        address = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        if scheme == "smtp" and mode != "none":
            return f"smtps://{address}" if mode == "implicit" else f"smtp://{address}"
        return f"{scheme}://{address}?tls={mode}"

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """What the server shows: its certificate and its versions of TLS. A context set here is used from now on.

        `smtplite.testing.server_context` makes others: for the wrong host, expired, signed by nobody known.

        Raises:
            ImportError: no context was given or set, and trustme is not installed.
        """
        if self._own_ssl_context is None:
            self._own_ssl_context = server_context("localhost", "127.0.0.1", "::1", self.host, self.config.name)
        return self._own_ssl_context

    @ssl_context.setter
    def ssl_context(self, context: ssl.SSLContext) -> None:
        self._own_ssl_context = context

    def ca_context(self, *, certificate: str | None = None) -> ssl.SSLContext:
        """Return a new context for a client, which trusts the authority of the default certificate and no other.

        Args:
            certificate: whom the client's own certificate names, for a server that asks for one; None: it has none.

        Raises:
            ImportError: trustme is not installed.
        """
        return client_context(certificate=certificate)

    def write_ca(self, path: str | os.PathLike[str]) -> Path:
        """Write the authority of the default certificate to a file, for a client that is told its CA by a file's name.

        ::

            ca = server.write_ca(tmp_path / "ca.pem")
            Client.from_url(f"smtp://localhost:{server.port}?ca={ca}")

        Args:
            path: Where to write it, as PEM.

        Returns:
            The path.

        Raises:
            ImportError: trustme is not installed.
        """
        authority().cert_pem.write_to_path(os.fspath(path))
        return Path(path)

    async def close_idle(self, reply: bytes = IDLE_REPLY) -> int:
        """Close every connection on which nothing is under way, as servers do after a while.

        Args:
            reply: said before closing; empty: nothing is said.

        Returns:
            How many were closed.
        """
        idle = [connection for connection in self.connections if connection.is_open and connection.protocol.is_idle]
        for connection in idle:
            await connection.say(reply, close=True)
        return len(idle)

    async def restart(self, *, pause: float = 0.0) -> None:
        """Stop, and start again at the same address. What was accepted and scripted is kept.

        Every connection is cut without a word, in the middle of whatever is under way. Until the server is back,
        connecting is refused.

        Args:
            pause: seconds between the end and the new start.

        Raises:
            RuntimeError: it is being restarted already.
        """
        if self._is_down:
            raise RuntimeError("the server is being restarted already")
        self._is_down = True
        listens = self._listener is not None
        try:
            await self._stop_listening()
            for connection in reversed(self.connections.copy()):  # the youngest first: nobody moves up into a place
                if connection not in self._served:
                    connection.cut()
            await self._cut_sockets()
            await anyio.sleep(pause)
            if listens and self._tasks is not None:
                self._listen(await self._bind(), self._tasks)
        finally:
            self._is_down = False

    async def _cut_sockets(self) -> None:
        for connection, end in reversed(self._served.copy().items()):
            connection.wake = do_nothing
            connection.cut()
            end()
        await self._changes.wait(lambda: not self._served, None)

    @property
    def messages(self) -> list[ReceivedMessage]:
        """What was accepted, over all connections, in the order in which it was committed."""
        return self.mailbox.messages

    @property
    def refused(self) -> list[RefusedMessage]:
        """What was refused, and why, in the order in which it came to its end."""
        return self.mailbox.refused

    @property
    def committed(self) -> list[Commitment]:
        """What the server answers for, one entry for each recipient of each message (`Mailbox.committed`)."""
        return self.mailbox.committed

    @property
    def violations(self) -> list[Violation]:
        """The mistakes of all clients so far; a test of a client ends in ``assert not server.violations``."""
        return [violation for connection in self.connections for violation in connection.violations]

    @property
    def executed_content(self) -> list[bytes]:
        """The lines of content that ran as commands, on all connections (`ServerConnection.executed_content`)."""
        return [line for connection in self.connections for line in connection.executed_content]

    def reply(self, verb: str, reply: ScriptedText = None, **options: Unpack[ReplyOptions]) -> None:
        """Say `reply` to `verb` from now on, on every connection; an earlier reply that also matches goes first.

        The arguments are those of `ScriptedReply`. Examples::

            server.reply("RCPT", "550 5.1.1 no such user", to="bob@example.org")
            server.reply("MAIL", "451 4.3.0 later", times=1)
            server.reply("END_OF_DATA", b"", performs=True, close=True)  # accepted, and the reply lost
            server.reply("CONTENT", "552 5.3.4 too big", after_bytes=10_000, close=True)
            server.reply("EHLO", lambda said: said[:20], close=True)  # what it would have said, cut
            server.reply("STARTTLS", "220 2.0.0 go", performs=False)  # and reads on, unencrypted
            server.reply("AUTH", "334 no base64!")
            server.reply("END_OF_DATA", b"", performs=True, alert=True)  # accepted, and TLS ended with an alert

        Args:
            verb: a command, or another point of the dialogue.
            reply: what to say; None: the server's own reply.
            options: ``to``, ``sender``, ``times``, ``performs``, ``close``, ``in_tls``, ``alert``, ``for_all``,
                ``after_bytes``, ``hold``.

        Raises:
            ValueError: `reply` is text but not a reply, or `verb` cannot be a verb.
        """
        self.script.add(ScriptedReply(verb, reply, **options))

    def hold(self, verb: str, reply: ScriptedText = None, **options: Unpack[ReplyOptions]) -> HeldReply:
        """Hold back the reply to `verb` until what this returns is released; the arguments are those of `reply`.

        What the reply answers is done at once. Until the release the connection does nothing more::

            held = server.hold("END_OF_DATA")
            ...  # begin to send
            await held.wait()  # the message is in server.messages; the client waits for the verdict
            held.release()
        """
        held = HeldReply()
        self._held.append(held)
        options["hold"] = held
        self.reply(verb, reply, **options)
        return held

    def reset(self) -> None:
        """Forget messages, violations, transcripts, connections that ended, and the script except for `replies`.

        Replies that are held are released. Connections that are open stay open.
        """
        self.script.clear()
        for scripted in self.config.replies:
            self.script.add(scripted)
        held, self._held = self._held, []
        for hold in held:
            hold.release()
        self.connections[:] = [connection for connection in self.connections if connection.is_open]
        for connection in self.connections:
            connection.forget()
        self.mailbox.clear()

    async def wait_for_messages(
        self, count: int = 1, *, timeout: float | None = DEFAULT_WAIT_SECONDS
    ) -> list[ReceivedMessage]:
        """Wait until at least `count` messages were accepted, over the whole life of the server or since `reset`.

        Args:
            count: how many.
            timeout: in seconds; None: wait without limit.

        Returns:
            `messages`.

        Raises:
            TimeoutError: fewer were accepted within `timeout`.
        """
        if not await self._waiters.wait(lambda: self.mailbox.count >= count, timeout):
            raise TimeoutError(f"the server accepted {self.mailbox.count} of {count} messages within {timeout} seconds")
        return self.messages

    def arrivals(self) -> AsyncIterator[ReceivedMessage]:
        """Return an iterator over the messages that are accepted from now on.

        It waits for each, whether messages are kept or not, and ends when the server is left::

            async for message in server.arrivals():
                print(message)
        """
        arrivals = _Arrivals()
        self._arrivals.add(arrivals)
        return arrivals

    def _on_delivery(self, message: ReceivedMessage) -> None:
        for arrivals in self._arrivals:
            arrivals.add(message)
        self._waiters.wake()

    def client(self, **options: Any) -> Client:
        """Return a client whose connections to this server are in memory; the server does not have to be entered.

        It is set up as the server needs it: with TLS, trusting the temporary authority, and with LMTP.

        Args:
            options: those of `smtplite.Client`; they have priority over what is chosen here.
        """
        from smtplite.testing.outbox import client_of

        return client_of(self, **options)

    def in_thread(self) -> ThreadedServer:
        """Return this server for use with `with`: it then runs in a thread and an event loop of its own.

        For tests that are not asynchronous, and for those that run on any event loop::

            with SMTPServer().in_thread() as server:
                smtplib.SMTP(server.host, server.port)
        """
        from smtplite.testing.threaded import ThreadedServer

        return ThreadedServer(self)

    async def connect(self) -> anyio.abc.ByteStream:
        """Open a connection in memory; the server does not have to be entered.

        Returns:
            The client's end, for ``Client(connect=server.connect, tls="none")``. The client wraps TLS around it; the
            server's part happens within `send`. It knows what the client has read, and so also what the client wrote
            too early (`ServerConnection.feed`). After the server has closed, `send` raises
            `anyio.BrokenResourceError`, and what the server had said can still be received.

        Raises:
            ConnectionRefusedError: the server is being restarted.
        """
        await anyio.lowlevel.checkpoint()
        if self._is_down:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        connection = self._accept()
        stream = MemoryStream(connection)
        self._capacity.begin(connection)
        return stream

    def _accept(self) -> ServedConnection:
        protocol = ServerConnection(self.config, self.mailbox, script=self.script)
        connection = ServedConnection(
            protocol, lambda: self.ssl_context, is_implicit=self._is_implicit, keeps_transcript=self._keeps
        )
        self.connections.append(connection)
        connection.on_end = lambda: self._end(connection)
        return connection

    def _end(self, connection: ServedConnection) -> None:
        self._capacity.end(connection)
        self._changes.wake()
        if not self._keeps:
            self.connections.remove(connection)

    async def __aenter__(self) -> Self:
        if self._stack is not None:
            raise RuntimeError("the server listens already")
        async with AsyncExitStack() as stack:
            if self.socket_path is not None:
                stack.callback(self.socket_path.unlink, missing_ok=True)
            stack.push_async_callback(self._stop_listening)
            listener = await self._bind()
            self._tasks = await stack.enter_async_context(anyio.create_task_group())
            self._listen(listener, self._tasks)
            self._stack = stack.pop_all()
        return self

    async def _bind(self) -> anyio.abc.Listener[anyio.abc.SocketStream]:
        """Take the address: at first the one that we were asked for, later the same again."""
        listener: anyio.abc.Listener[anyio.abc.SocketStream]
        if self.socket_path is not None:
            if self._is_down:
                self.socket_path.unlink(missing_ok=True)
            listener = await anyio.create_unix_listener(self.socket_path)
        else:
            port = self._asked_port if self._port is None else self._port
            listener = await anyio.create_tcp_listener(local_host=self.host, local_port=port)
            self._port = listener.extra(anyio.abc.SocketAttribute.local_port)
        self._listener = listener
        return listener

    def _listen(self, listener: anyio.abc.Listener[anyio.abc.SocketStream], tasks: anyio.abc.TaskGroup) -> None:
        """Take what comes, in a task of its own."""
        scope = anyio.CancelScope()
        self._listening = scope.cancel

        async def accept() -> None:
            try:
                with scope:
                    await listener.serve(self._serve, tasks)
            finally:
                self._is_accepting = False
                self._changes.wake()

        self._is_accepting = True
        tasks.start_soon(accept)

    async def _stop_listening(self) -> None:
        self._listening()
        # A listener that is closed under those who wait at it raises.
        await self._changes.wait(lambda: not self._is_accepting or self._tasks is None, None)
        if self._listener is not None:
            listener, self._listener = self._listener, None
            await _close(listener)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        if self._stack is None or self._tasks is None:
            raise RuntimeError("the server does not listen")
        stack, tasks = self._stack, self._tasks
        self._stack = self._tasks = self._port = None
        self._changes.wake()
        if self.socket_path is not None:
            with anyio.move_on_after(DEFAULT_WAIT_SECONDS, shield=True):
                await self._cut_sockets()
        for arrivals in self._arrivals:
            arrivals.end()
        tasks.cancel_scope.cancel()
        if isinstance(exc, Exception):
            # Kept from the task group, which would put the test's own exception into a group
            await stack.aclose()
            return None
        return await stack.__aexit__(exc_type, exc, traceback)

    async def _serve(self, stream: anyio.abc.SocketStream) -> None:
        with anyio.CancelScope() as scope:
            connection = self._accept()
            self._served[connection] = scope.cancel if self.socket_path is None else partial(_shut_down, stream)
            try:
                await self._serve_connection(stream, connection)
            finally:
                del self._served[connection]
                self._changes.wake()

    async def _serve_connection(self, stream: anyio.abc.SocketStream, connection: ServedConnection) -> None:
        wire = _Wire(stream, connection)
        connection.flush = wire.flush
        if self._tasks is not None:
            connection.wake = wire.flush_by(self._tasks)
        try:
            self._capacity.begin(connection)
            await self._changes.wait(lambda: not (connection.is_open and connection.is_waiting), None)
            while True:
                # The next bytes are taken only when the replies to the last ones are with the kernel. After our end,
                # too: a socket closed with bytes unread would reset the connection, and take our last reply with it
                await wire.flush()
                await self._room_while_held(connection)
                connection.receive(await stream.receive(MAX_RECEIVE_BYTES))
        except (anyio.EndOfStream, anyio.BrokenResourceError, OSError):  # OSError: trio's, from send_eof
            pass
        finally:
            connection.wake = do_nothing
            connection.receive(b"")
            await _close(stream)

    async def _room_while_held(self, connection: ServedConnection) -> None:
        """Wait until a client that goes on sending while a reply is held may be read again."""
        listened_to: Hold | None = None

        def may_be_read() -> bool:
            nonlocal listened_to
            hold = connection.protocol.held_by if connection.is_full and connection.is_open else None
            if hold is not None and hold is not listened_to:
                listened_to = hold
                hold.on_release(self._changes.wake)
            return hold is None or hold.is_released

        await self._changes.wait(may_be_read, None)


class _Arrivals(AsyncIterator[ReceivedMessage]):
    """The messages that one iterator has still to give."""

    def __init__(self) -> None:
        self._messages: deque[ReceivedMessage] = deque()
        self._has_ended = False
        self._waiters = Waiters()

    def add(self, message: ReceivedMessage) -> None:
        self._messages.append(message)
        self._waiters.wake()

    def end(self) -> None:
        self._has_ended = True
        self._waiters.wake()

    async def __anext__(self) -> ReceivedMessage:
        await anyio.lowlevel.checkpoint()
        await self._waiters.wait(lambda: bool(self._messages) or self._has_ended, None)
        if not self._messages:
            raise StopAsyncIteration
        return self._messages.popleft()


class _Wire:
    """The way out of a connection on a socket, for the task that serves it and for those who `say` something."""

    def __init__(self, stream: anyio.abc.SocketStream, connection: ServedConnection) -> None:
        self._stream = stream
        self._connection = connection
        self._lock = anyio.Lock()
        self._sent_eof = False

    def flush_by(self, tasks: anyio.abc.TaskGroup) -> Callable[[], None]:
        """Return what begins to flush in a task of its own."""

        def begin() -> None:
            tasks.start_soon(self.flush_if_possible)

        return begin

    async def flush_if_possible(self) -> None:
        """Do as `flush`; a client that is gone is found by whoever reads from it."""
        try:
            await self.flush()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            pass

    async def flush(self) -> None:
        async with self._lock:
            outgoing = self._connection.outgoing
            while outgoing:  # more may come meanwhile, and all of it goes before the end
                data = bytes(outgoing)
                outgoing.clear()
                await self._stream.send(data)
            if not self._connection.is_open and not self._sent_eof:
                self._sent_eof = True
                try:
                    await self._stream.send_eof()
                except RuntimeError as error:  # uvloop's, where the client was faster
                    raise anyio.BrokenResourceError from error


def _shut_down(stream: anyio.abc.SocketStream) -> None:
    """End a connection on a Unix socket: to cancel anyio's `receive` on one can fail when something just arrives."""
    try:
        stream.extra(anyio.abc.SocketAttribute.raw_socket).shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the client was faster


async def _close(resource: anyio.abc.AsyncResource) -> None:
    with anyio.CancelScope(shield=True):
        await resource.aclose()
