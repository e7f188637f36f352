"""Client: what an application holds. `send`, and the pool of sessions behind it."""

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

    ``async with`` opens no connection; it closes those that were opened. A Client may be made anywhere, also at import
    time. It is not thread-safe.

    Args:
        hostname: the server; or give `socket_path` or `connect`.
        port: None: 24 for LMTP, 25 where tls is "none", 465 where it is "implicit", else 587.
        tls: "implicit", "starttls" or "none" (in clear). None: "implicit" on port 465; "none" for Unix sockets and for
            LMTP to loopback; else "starttls". TLS is verified, and there is no second try in clear.
        tls_context: with your own CA, or a client certificate; None: the system's CAs, TLS 1.2 or later.
        tls_hostname: whom the certificate must name; None: `hostname`.
        username: with `password`: authenticate, by the best mechanism that both sides know.
        password: see `username`.
        auth: a mechanism of `smtplite.sasl`, or several in order of preference, in place of both.
        allow_insecure_auth: authenticate in clear, too. A Unix socket counts as secure, loopback does not.
        local_hostname: who we say we are; None: this host's full name, else the address literal of our end.
        source_address: (IP address of this host, port) to connect from; "" and 0: any.
        socket_path: a Unix socket.
        connect: ``async () -> anyio.abc.ByteStream``: for proxies, and for tests. A `receive` of it that is cancelled
            must lose nothing.
        lmtp: speak LMTP (RFC 2033).
        pipelining: False: one command at a time, for servers that only say they can do more.
        chunking: True: content in chunks that are written with their envelope (RFC 3030), one round trip a message, for
            servers that you trust; each connection has to prove first that it reads a chunk that it refuses as content.
        max_connections: connections at the same time.
        max_messages_per_connection: then a connection is replaced; None: never.
        idle_timeout: seconds after which an idle connection is not used again.
        max_age: seconds after which a connection is not used again; None: never.
        timeouts: for each phase.
        timeout: default of `send`'s own: seconds for a whole call; None: no limit beside `timeouts`.
        rate_limit: an async context manager, such as an ``aiolimiter.AsyncLimiter``: entered and left before the first
            octet of each message, by `send` and `send_many`.
        sign: ``(octets) -> header fields``, to sign messages with DKIM: called with the octets as they will travel,
            returns what to put in front of them. In a worker thread where they are many. A Content is read as a whole.
        trace: is told what happens, by typed events without secrets.

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
        ``smtp+unix:///path``, ``lmtp+unix:///path``. In clear: ``smtp://localhost:1025?tls=none``.
        ``smtp://host?ca=/etc/my-ca.pem`` trusts the CA in this file, and no other.

        Args:
            url: username and password percent-encoded; query options by the names of Client's arguments.
            overrides: any of Client's arguments; they win over the URL.

        Raises:
            ConfigurationError: the URL or an option is wrong; shows nothing of the URL that could hold a password.
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
        """What it connects to, for people: such as "mx.example.com:587"."""
        return self._options.server

    @property
    def security(self) -> Security:
        """What protects its dialogues: "verified" TLS, or a Unix socket; TLS that is only "encrypted"; or "clear"."""
        return self._options.security

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
        """End the idle connections, and each busy one when its message is done; nothing can be sent any more."""
        await self._pool.aclose()

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
        """Send one message, and say what became of it for each recipient.

        Args:
            message: a message object of `email`, or the message as octets; or either of them, `Prepared` before.
            sender: the reverse-path; None: from Sender or From; "": the null reverse-path.
            recipients: one address, or several; None: from To, Cc and Bcc. Bcc itself is never sent.
            envelope: in place of sender and recipients, with more to say.
            require_all: send to nobody unless every recipient is accepted.
            timeout: seconds for the whole call; to learn the outcome use this, not `asyncio.wait_for`.
            ready_within: of these, the seconds until a connection is ready to send on, authenticated and all; None: as
                long as the client's `timeouts` allow.

        Returns:
            The receipt. Somebody was certainly delivered; ``receipt.complete`` if everybody was.

        Raises:
            MessageError: the message cannot be sent as it is.
            ReplyError: the server said no.
            ExtensionRequired: the message needs what the server does not offer.
            TransportError: the network failed; certainly nothing was delivered.
            DeliveryUnknown: the message was handed over, and no verdict came.
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
        """Send many messages over a few connections, and say what became of each, in order of completion.

        ::

            async with client.send_many(messages) as deliveries:
                async for delivery in deliveries:
                    ...  # delivery.item, and delivery.receipt or delivery.error

        Content and the next message's envelope share a write: a message costs one round trip, with `chunking` next to
        none. Leaving the block early takes nothing more, waits for the outcomes of what is under way, and leaves them
        in ``deliveries.rest``; leaving it by an exception ends all at once.

        Args:
            messages: what `send` takes, or `Outgoing`; any iterable, also an asynchronous one, read lazily.
            connections: the most to use at the same time; None: all that the client may have but one, at least one.
            in_flight: with `chunking`, messages whose verdicts are outstanding on one connection.
            require_all: for each message, send to nobody unless every recipient is accepted.
            timeout: seconds for each message, from its first octet to its verdict; None: the client's.
            drain: seconds to wait for outstanding outcomes when the block is left early.
            reconnect: seconds to go on trying when the last connection was lost and none can be opened, as while a
                server is restarted. Before the first connection there is one try.
            on_begin: called before each write, with the items whose first octet is in it, in the order of the stream:
                for those who must write down first what may become unknown. It must not block for long. If it raises,
                nothing of that write is sent, and the stream ends with what it raised.

        Raises:
            ConfigurationError: an argument is wrong.
            SMTPError: (the loop) no connection could be opened; what one message could not do is in its delivery.
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
        """Open a connection of its own, for commands that `send` does not know; it counts as one of the pool's.

        ::

            async with client.session() as session:
                reply = await session.command(Vrfy("postmaster"))

        It is greeted, inside TLS and authenticated as the client's others; at the end of the block it is closed, and
        never sends a message of `send`.

        Args:
            greeting_only: leave all that comes after the greeting (EHLO, STARTTLS, authentication) to the caller; with
                ``tls="implicit"`` the greeting comes inside TLS.

        Raises:
            SMTPError: what `send` would raise before its first message.
        """
        check_flag("greeting_only", greeting_only)
        return RawSessions(self._pool, self._opener, self._options, self._tracer, greeting_only=greeting_only)

    async def check(self) -> ServerInfo:
        """Connect, say hello, begin TLS, authenticate, and say what the server offers. Sends no message.

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
    """Send one message over a connection of its own: the arguments of `Client.send`, and those of `Client`.

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
