"""Client: the public object, with `send` and the pool of sessions that it uses."""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from email.headerregistry import Address
from email.message import Message
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.abc

from smtplite.elsewhere import METHODS, OPTIONS, explained
from smtplite.errors import ConfigurationError, ServiceUnavailable
from smtplite.message.envelope import AnyMessage, AnyRecipients, Envelope, Outgoing
from smtplite.message.prepared import Prepared
from smtplite.message.signing import Sign
from smtplite.options import Options, Security, Timeouts, TLSMode, check_flag, check_number, check_timeout, options_of
from smtplite.protocol.commands import Noop
from smtplite.results import Receipt, ServerInfo
from smtplite.sasl import Mechanism
from smtplite.sending.deadline import Deadline
from smtplite.sending.handshake import Opener, reply_of
from smtplite.sending.pool import Pool
from smtplite.sending.raw import RawSession, RawSessions
from smtplite.sending.session import Session
from smtplite.sending.single import deliver, send_one
from smtplite.sending.stream import Deliveries, Plan
from smtplite.trace import Trace, Tracer

__all__ = ["Client", "send"]


class Client:
    """Sends messages through a server, from any number of tasks, over a pool of connections.

    Connections are opened when they are needed; the end of ``async with`` closes them. A Client may be made anywhere,
    even at import time. It is not thread-safe.

    Args:
        hostname: the server; or pass `socket_path` or `connect` instead.
        port: None: 465 if `tls` is "implicit", else 24 for LMTP, 25 if `tls` is "none", and 587 otherwise.
        tls: "implicit", "starttls" or "none" (unencrypted). None: "implicit" on port 465; "none" for Unix sockets and
            for LMTP to loopback; else "starttls". TLS is verified, and nothing is tried again unencrypted.
        tls_context: for your own CA, or a client certificate; None: the system's CAs, TLS 1.2 or later.
        tls_hostname: the name that the certificate must have; None: `hostname`.
        username: with `password`: authenticate, with the best mechanism that both sides know.
        password: see `username`.
        auth: a mechanism of `smtplite.sasl`, or several in order of preference, instead of `username` and `password`.
        allow_insecure_auth: authenticate even if the connection is unencrypted. A Unix socket counts as secure,
            loopback does not.
        local_hostname: our name in EHLO; None: this host's full name, else the address literal of our end.
        source_address: (IP address of this host, port) to connect from; "" and 0: any.
        socket_path: the path of a Unix socket to connect to.
        connect: ``async () -> anyio.abc.ByteStream``: opens the connection, for proxies and for tests. Its `receive`
            must not lose data when it is cancelled.
        lmtp: speak LMTP (RFC 2033).
        pipelining: False: send one command at a time, for servers that only claim to support more.
        chunking: True: send content in chunks, in one write with the envelope (BDAT, RFC 3030): one round trip a
            message. For servers that you trust; on each connection the server must first prove that it reads a chunk as
            content even if it refuses it.
        max_connections: how many connections may be open at the same time.
        max_messages_per_connection: how many messages are sent before a connection is replaced; None: any number.
        idle_timeout: seconds after which an idle connection is not used again.
        max_age: seconds after which a connection is not used again; None: never.
        timeouts: how long each phase may take.
        timeout: the default `timeout` of `send`: seconds for a whole call; None: no limit but `timeouts`.
        rate_limit: an async context manager, such as an ``aiolimiter.AsyncLimiter``: `send` and `send_many` enter and
            leave it before the first byte of each message.
        sign: ``(bytes) -> header fields``, to sign messages, for example with DKIM. It is called with the message as it
            will be sent, and returns what to put before it; for a large message it is called in a worker thread. A
            Content is read into memory as a whole.
        trace: is called with typed events about what happens, without secrets.

    Raises:
        ConfigurationError: an option is wrong; says which.
    """

    @explained(ConfigurationError, "Client", OPTIONS)
    def __init__(
        self,
        hostname: str | None = None,
        port: int | None = None,
        *,
        tls: TLSMode | None = None,
        tls_context: ssl.SSLContext | None = None,
        tls_hostname: str | None = None,
        username: str | None = None,
        password: str | None = None,
        auth: Mechanism | Iterable[Mechanism] | None = None,
        allow_insecure_auth: bool = False,
        local_hostname: str | None = None,
        source_address: tuple[str, int] | None = None,
        socket_path: str | None = None,
        connect: Callable[[], Awaitable[anyio.abc.ByteStream]] | None = None,
        lmtp: bool = False,
        pipelining: bool = True,
        chunking: bool = False,
        max_connections: int = 5,
        max_messages_per_connection: int | None = None,
        idle_timeout: float = 30.0,
        max_age: float | None = None,
        timeouts: Timeouts | None = None,
        timeout: float | None = None,
        rate_limit: AbstractAsyncContextManager[object] | None = None,
        sign: Sign | None = None,
        trace: Trace | None = None,
    ) -> None:
        self._options = Options(
            hostname=hostname,
            port=port,
            tls=tls,
            tls_context=tls_context,
            tls_hostname=tls_hostname,
            username=username,
            password=password,
            auth=auth,
            allow_insecure_auth=allow_insecure_auth,
            local_hostname=local_hostname,
            source_address=source_address,
            socket_path=socket_path,
            connect=connect,
            lmtp=lmtp,
            pipelining=pipelining,
            chunking=chunking,
            max_connections=max_connections,
            max_messages_per_connection=max_messages_per_connection,
            idle_timeout=idle_timeout,
            max_age=max_age,
            timeouts=timeouts,
            timeout=timeout,
            rate_limit=rate_limit,
            sign=sign,
            trace=trace,
        )
        self._tracer = Tracer(trace)
        self._opener = Opener(self._options, self._tracer)
        self._pool = Pool(self._opener, self._options)

    @classmethod
    def from_url(cls, url: str, **overrides: Any) -> Self:
        """Make a Client from a URL: ``smtp://me:p%40ss@host:587?max_connections=4``.

        ``smtp://host`` is ``Client("host")``: STARTTLS required. ``smtps://``: implicit TLS. ``lmtp://host``.
        ``smtp+unix:///path``, ``lmtp+unix:///path``. Unencrypted: ``smtp://localhost:1025?tls=none``.
        ``smtp://host?ca=/etc/my-ca.pem`` trusts the CA in this file, and no other.

        Args:
            url: username and password percent-encoded; query options have the names of Client's arguments.
            overrides: any of Client's arguments; they win over the URL.

        Raises:
            ConfigurationError: the URL or an option is wrong; never shows a part of the URL that could hold a password.
        """
        return cls(**{**options_of(url), **overrides})

    if not TYPE_CHECKING:  # to a type checker, a method that is not there is an error

        def __getattr__(self, name: str) -> object:
            remedy = f": {METHODS[name]}" if name in METHODS else ""
            raise AttributeError(f"{type(self).__name__} has no {name}{remedy}", name=name, obj=self)

    def __repr__(self) -> str:
        return f"Client({self._options.server!r})"

    @property
    def server(self) -> str:
        """What it connects to, for display, such as "mx.example.com:587"."""
        return self._options.server

    @property
    def security(self) -> Security:
        """What protects its connections: "verified" (TLS, or a Unix socket), "encrypted" (not verified) or "clear"."""
        return self._options.security

    @property
    def max_connections(self) -> int:
        """How many connections it may have at most: the argument, which `resize` does not change."""
        return self._options.max_connections

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the idle connections, and each busy one when its message is done; nothing can be sent after that."""
        await self._pool.aclose()

    async def resize(self, connections: int) -> None:
        """Use at most this many connections from now on; return when no more are open.

        Idle connections are closed at once, busy ones when their message is done. With 0, `send` waits until there may
        be some again, or until `timeouts.pool` is over.

        Args:
            connections: from 0 to `max_connections`.

        Raises:
            ConfigurationError: the number is not allowed; nothing changes.
        """
        check_number("connections", connections, 0, self._options.max_connections, whole=True)
        await self._pool.resize(connections)

    async def send(
        self,
        message: AnyMessage | Prepared,
        *,
        sender: str | Address | None = None,
        recipients: AnyRecipients | None = None,
        envelope: Envelope | None = None,
        require_all: bool = False,
        timeout: float | None = None,
        ready_within: float | None = None,
    ) -> Receipt:
        """Send one message, and return what became of it for each recipient.

        Args:
            message: a message object of `email`, the message as bytes, a `Content`, or a `smtplite.message.Prepared`.
            sender: the reverse-path; None: from Sender or From; "": the null reverse-path.
            recipients: one address, or several; None: from To, Cc and Bcc. The Bcc field itself is never sent.
            envelope: instead of `sender` and `recipients`, to set more than addresses.
            require_all: send to nobody unless every recipient is accepted.
            timeout: seconds for the whole call. Use this, not `asyncio.wait_for`, and you learn the outcome.
            ready_within: how many of these seconds may pass until a connection is ready, authenticated and all; None:
                as long as the client's `timeouts` allow.

        Returns:
            The receipt. The message was certainly accepted for somebody; ``receipt.complete`` if for everybody.

        Raises:
            MessageError: the message cannot be sent as it is.
            ReplyError: the server said no.
            ExtensionRequired: the message needs something that the server does not offer.
            TransportError: the network failed; certainly nothing was delivered.
            DeliveryUnknown: the whole message was handed over, and the server's verdict never came.
            ProtocolError: one side broke the protocol; certainly nothing was delivered.
        """
        options = self._options
        deadline = Deadline(options.timeout if timeout is None else check_timeout(timeout))
        ready_within = check_timeout(ready_within, "ready_within")
        ready_at = math.inf if ready_within is None else anyio.current_time() + ready_within
        return await send_one(
            message,
            {"sender": sender, "recipients": recipients, "envelope": envelope},
            partial(deliver, pool=self._pool, ready_at=ready_at),
            options=options,
            tracer=self._tracer,
            deadline=deadline,
            require_all=require_all,
        )

    def send_many(
        self,
        messages: Iterable[AnyMessage | Outgoing | Prepared] | AsyncIterable[AnyMessage | Outgoing | Prepared],
        *,
        connections: int | None = None,
        in_flight: int = 32,
        require_all: bool = False,
        timeout: float | None = None,
        drain: float = 30.0,
        reconnect: float = 30.0,
        on_begin: Callable[[list[Any]], None] | None = None,
    ) -> AbstractAsyncContextManager[Deliveries]:
        """Send many messages over a few connections, and report what became of each, in order of completion.

        ::

            async with client.send_many(messages) as deliveries:
                async for delivery in deliveries:
                    ...  # delivery.item, and delivery.receipt or delivery.error

        The content of a message and the envelope of the next one share a write, so a message costs one round trip, and
        with `chunking` almost none. If you leave the block early, no more messages are read; those under way are
        awaited, and their outcomes are left in ``deliveries.rest``. If you leave it by an exception, everything ends at
        once.

        Args:
            messages: what `send` accepts, or `Outgoing`; any iterable, also an asynchronous one, read lazily.
            connections: how many to use at most; None: one fewer than the client may have, and at least one.
            in_flight: with `chunking`, how many messages may await their verdicts on one connection.
            require_all: for each message, send to nobody unless every recipient is accepted.
            timeout: seconds for each message, from its first byte to its verdict; None: the client's.
            drain: seconds to wait for outstanding outcomes when the block is left early.
            reconnect: seconds to keep trying when the last connection was lost and none can be opened, for example
                while a server restarts. The first connection is tried once.
            on_begin: called before each write with the items whose first byte is in it, in the order of the stream.
                For programs that have to record first what may become unknown. It must not block for long. If it
                raises, nothing of that write is sent, and the stream ends with that exception.

        Raises:
            ConfigurationError: an argument is wrong.
            SMTPError: (in the loop) no connection could be opened. If one message could not be sent, its delivery says
                so, and the others go on.
        """
        if isinstance(messages, (str, bytes, bytearray, memoryview, Message, Outgoing)):
            raise ConfigurationError(
                "messages must be an iterable of messages, not one message: use send, or a list of one"
            )
        if not isinstance(messages, (Iterable, AsyncIterable)):
            raise ConfigurationError(f"messages must be an iterable of messages, not {type(messages).__name__}")
        options = self._options
        if connections is None:
            connections = max(1, options.max_connections - 1)
        check_number("connections", connections, 1, options.max_connections, whole=True)
        check_number("in_flight", in_flight, 1, math.inf, whole=True)
        check_number("drain", drain, 0, math.inf)
        check_number("reconnect", reconnect, 0, math.inf)
        if on_begin is not None and not callable(on_begin):
            raise ConfigurationError(f"on_begin must be a function of a list of items, not {type(on_begin).__name__}")
        plan = Plan(
            connections=connections,
            in_flight=in_flight,
            require_all=require_all,
            timeout=options.timeout if timeout is None else check_timeout(timeout),
            drain=drain,
            reconnect=reconnect,
            on_begin=on_begin,
            rate_limit=options.rate_limit,
            sign=options.sign,
            tracer=self._tracer,
        )
        return Deliveries(messages, self._pool, plan)

    def session(self, *, greeting_only: bool = False) -> AbstractAsyncContextManager[RawSession]:
        """Open a connection for commands that `send` does not use; it counts as one of the pool's connections.

        ::

            async with client.session() as session:
                reply = await session.command(Vrfy("postmaster"))

        It is greeted, inside TLS and authenticated, like the client's other connections. It is closed at the end of the
        block, and `send` never uses it.

        Args:
            greeting_only: leave everything after the greeting (EHLO, STARTTLS, authentication) to the caller; with
                ``tls="implicit"`` the greeting comes inside TLS.

        Raises:
            SMTPError: what `send` would raise before its first message.
        """
        check_flag("greeting_only", greeting_only)
        return RawSessions(self._pool, self._opener, self._options, self._tracer, greeting_only=greeting_only)

    async def check(self) -> ServerInfo:
        """Connect, say hello, begin TLS, authenticate, and return what the server offers; send no message.

        Raises:
            SMTPError: what `send` would raise before its first message.
        """
        deadline = Deadline(self._options.timeout)
        with deadline.scope:
            session = await self._pool.acquire(deadline)
            try:
                return await _look_around(session, deadline)
            finally:
                await self._pool.release(session)
        raise deadline.error()


async def _look_around(session: Session, deadline: Deadline) -> ServerInfo:
    try:
        reply = reply_of(await session.ask(Noop(), deadline))
        if reply.code == 421:
            raise ServiceUnavailable(
                f"server closes the connection: {reply}", command="NOOP", reply=reply, phase="command"
            )
    except BaseException as error:
        await session.discard(str(error) or type(error).__name__)
        raise
    return session.info


async def send(
    message: AnyMessage | Prepared,
    *,
    sender: str | Address | None = None,
    recipients: AnyRecipients | None = None,
    envelope: Envelope | None = None,
    require_all: bool = False,
    timeout: float | None = None,
    **options: Any,
) -> Receipt:
    """Send one message over a new connection: the arguments are those of `Client.send`, and those of `Client`.

    ::

        receipt = await smtplite.send(message, hostname="smtp.example.com")
    """
    async with Client(**options) as client:
        return await client.send(
            message,
            sender=sender,
            recipients=recipients,
            envelope=envelope,
            require_all=require_all,
            timeout=timeout,
        )
