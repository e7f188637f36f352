"""SyncClient: the client for a program without an event loop."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import sys
import threading
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from email.headerregistry import Address
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, cast

from smtplite import Client, Envelope, LocalProtocolError, Outgoing, RawSession, Receipt, Reply, ServerInfo
from smtplite.sync.deliveries import SyncDeliveries
from smtplite.sync.loop import INTERRUPT_SECONDS, Call, Loop, shared_loop

if TYPE_CHECKING:  # names for annotations alone
    import ssl

    from smtplite import Timeouts
    from smtplite.message import Prepared
    from smtplite.options import Security
    from smtplite.protocol import Command, Domain, Extensions
    from smtplite.sasl import Mechanism
    from smtplite.types import AnyMessage, AnyRecipients

__all__ = ["SyncClient", "SyncSession", "begin", "run", "run_from_loop"]

_T = TypeVar("_T")
_P = ParamSpec("_P")

_logger = logging.getLogger("smtplite.sync")


def _takes_what_client_takes(
    original: Callable[Concatenate[Client, _P], None],
) -> Callable[[Callable[..., None]], Callable[Concatenate[SyncClient, _P], None]]:
    """Give `__init__` the arguments of Client: there is one list of them, not two."""

    def decorate(function: Callable[..., None]) -> Callable[Concatenate[SyncClient, _P], None]:
        function.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]  # what inspect looks for
        return cast("Callable[Concatenate[SyncClient, _P], None]", function)

    return decorate


class SyncClient:
    """Sends messages through a server: `Client` without ``await``, for any number of threads.

    A SyncClient may be made anywhere, even at import time and before a fork. Connections are opened when they are
    needed; the end of ``with`` closes them. It can be used from any thread, but not where an event loop runs: there use
    `Client`.

    The functions that you pass (`trace`, `connect`, `sign`, the token functions of `auth`, and `rate_limit`) run in the
    thread of the event loop that all SyncClients of the process share. Such a function must not block for long, and
    must not use a SyncClient.

    Args:
        *args: see `Client`.
        **kwargs: see `Client`; all of its arguments, with the same meaning.

    Raises:
        ConfigurationError: an option is wrong; says which.
    """

    @_takes_what_client_takes(Client.__init__)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._hold(Client(*args, **kwargs))

    @classmethod
    def from_url(cls, url: str, **overrides: Any) -> Self:
        """Make a SyncClient from a URL, as `Client.from_url` does.

        Args:
            url: ``smtp://me:p%40ss@host:587?max_connections=4``; see `Client.from_url`.
            overrides: any of Client's arguments; they win over the URL.

        Raises:
            ConfigurationError: the URL or an option is wrong; never shows a part of the URL that could hold a password.
        """
        client = cls.__new__(cls)
        client._hold(Client.from_url(url, **overrides))
        return client

    def _hold(self, client: Client) -> None:
        self._client = client
        self._loop: Loop | None = None  # which knows the client
        self._streams: set[SyncDeliveries] = set()  # under way
        self._is_closed = False

    def __repr__(self) -> str:
        return f"Sync{self._client!r}"

    @property
    def server(self) -> str:
        """What it connects to, for display, such as "mx.example.com:587"."""
        return self._client.server

    @property
    def security(self) -> Security:
        """What protects its connections: see `Client.security`."""
        return self._client.security

    @property
    def max_connections(self) -> int:
        """How many connections it may have at most; see `Client.max_connections`."""
        return self._client.max_connections

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _known_loop(self) -> Loop:
        """Return the loop of this process, to which this client is known.

        Raises:
            LocalProtocolError: the thread is the loop's own; or the interpreter ends.
        """
        loop = shared_loop()
        if loop.thread is threading.current_thread():
            raise LocalProtocolError(
                "SyncClient is used from within a callback, in the thread of its event loop, which would wait for "
                "itself: use another thread"
            )
        if loop is not self._loop:
            loop.know(self._client)
            self._loop = loop
        return loop

    def _check(self) -> None:
        _refuse_event_loop()
        if self._is_closed:
            raise LocalProtocolError("client is closed: make a new one")

    def _run(self, action: Callable[[Client], Awaitable[_T]]) -> _T:
        self._check()
        return run(self, action)

    def close(self) -> None:
        """Close the idle connections, and each busy one when its message is done; nothing can be sent after that.

        Idempotent, from any thread. A stream of `send_many` that has not ended is left, as its block would be.
        """
        if self._is_closed:
            return
        if self._loop is None:  # never used: there is nothing to end
            self._is_closed = True
            return
        _refuse_event_loop()
        self._is_closed = True
        try:
            for stream in list(self._streams):
                stream._leave(None, why=LocalProtocolError("client was closed before its stream ended"))
        finally:
            run(self, Client.aclose)

    def resize(self, connections: int) -> None:
        """Use at most this many connections from now on; return when no more are open; see `Client.resize`.

        Args:
            connections: from 0 to `max_connections`.

        Raises:
            ConfigurationError: the number is not allowed; nothing changes.
        """
        self._run(lambda client: client.resize(connections))

    def send(
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

        If the call is interrupted, by Ctrl-C or by whatever a signal's handler raises, it cancels the message and goes
        on with that exception, after a second at the latest. If the message was handed over by then, its outcome is
        unknown, and a warning in the log says so.

        Args:
            message: a message object of `email`, the message as bytes, a `Content`, or a `smtplite.message.Prepared`.
            sender: the reverse-path; None: from Sender or From; "": the null reverse-path.
            recipients: one address, or several; None: from To, Cc and Bcc. The Bcc field itself is never sent.
            envelope: instead of `sender` and `recipients`, to set more than addresses.
            require_all: send to nobody unless every recipient is accepted.
            timeout: seconds for the whole call.
            ready_within: how many of these seconds may pass until a connection is ready.

        Returns:
            The receipt. The message was certainly accepted for somebody; ``receipt.complete`` if for everybody.

        Raises:
            SMTPError: as `Client.send`.
            LocalProtocolError: an event loop runs in this thread: use `Client`; or the client is closed.
        """
        return self._run(
            lambda client: client.send(
                message,
                sender=sender,
                recipients=recipients,
                envelope=envelope,
                require_all=require_all,
                timeout=timeout,
                ready_within=ready_within,
            )
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
    ) -> SyncDeliveries:
        """Send many messages over a few connections, and report what became of each, in order of completion.

        ::

            for delivery in client.send_many(messages):
                ...  # delivery.item, and delivery.receipt or delivery.error

        The messages are read in the thread that asks for the outcomes, lazily: a few ahead of what is sent. If you may
        leave the loop early, use a block:

        ::

            with client.send_many(messages) as deliveries:
                for delivery in deliveries:
                    if enough:
                        break
            deliveries.rest  # the outcomes that the loop did not get

        Args:
            messages: what `send` accepts, or `Outgoing`; any iterable. An asynchronous one is read by the loop.
            connections: how many to use at most; None: one fewer than the client may have, and at least one.
            in_flight: with `chunking`, how many messages may await their verdicts on one connection.
            require_all: for each message, send to nobody unless every recipient is accepted.
            timeout: seconds for each message, from its first byte to its verdict; None: the client's.
            drain: seconds to wait for outstanding outcomes when the block is left early.
            reconnect: seconds to keep trying for a connection after all were lost.
            on_begin: is called in the loop's thread with the items of a write, before it; see `Client.send_many`.

        Raises:
            ConfigurationError: an argument is wrong.
            SMTPError: (in the loop) no connection could be opened. If one message could not be sent, its delivery says
                so.
        """
        return SyncDeliveries(
            self,
            messages,
            {
                "connections": connections,
                "in_flight": in_flight,
                "require_all": require_all,
                "timeout": timeout,
                "drain": drain,
                "reconnect": reconnect,
                "on_begin": on_begin,
            },
        )

    @contextmanager
    def session(self, *, greeting_only: bool = False) -> Iterator[SyncSession]:
        """Open a connection for commands that `send` does not use; see `Client.session`.

        ::

            with client.session() as session:
                reply = session.command(Vrfy("postmaster"))

        Raises:
            SMTPError: what `send` would raise before its first message.
        """
        manager = self._client.session(greeting_only=greeting_only)
        session = SyncSession(self, self._run(lambda _: manager.__aenter__()))
        try:
            yield session
        except BaseException as error:
            failure = error
            if session._is_ours:
                self._run(lambda _: manager.__aexit__(type(failure), failure, failure.__traceback__))
            raise
        else:
            if session._is_ours:
                self._run(lambda _: manager.__aexit__(None, None, None))

    def check(self) -> ServerInfo:
        """Connect, say hello, begin TLS, authenticate, and return what the server offers; send no message.

        Raises:
            SMTPError: what `send` would raise before its first message.
        """
        return self._run(Client.check)


class SyncSession:
    """What `SyncClient.session` returns: `RawSession` without ``await``."""

    def __init__(self, client: SyncClient, session: RawSession) -> None:
        self._owner = client
        self._session = session
        self._process = os.getpid()

    @property
    def _is_ours(self) -> bool:
        """False after a fork: the connection is the parent's."""
        return self._process == os.getpid()

    @property
    def extensions(self) -> Extensions:
        """What the server offers."""
        return self._session.extensions

    @property
    def info(self) -> ServerInfo:
        """What is known about the server."""
        return self._session.info

    @property
    def transcript(self) -> tuple[str, ...]:
        """The last commands and replies, secrets left out."""
        return self._session.transcript

    @property
    def local_domain(self) -> Domain:
        """Our name in EHLO."""
        return self._session.local_domain

    @property
    def is_open(self) -> bool:
        """True unless the connection is closed, or the server closed it, or sent something without being asked."""
        return self._session.is_open

    @property
    def is_closed(self) -> bool:
        """True once it was closed at our end."""
        return self._session.is_closed

    @property
    def timeouts(self) -> Timeouts:
        """How long each phase may take; if you set others, they apply to all later calls."""
        return self._session.timeouts

    @timeouts.setter
    def timeouts(self, timeouts: Timeouts) -> None:
        self._session.timeouts = timeouts

    def command(self, command: Command) -> Reply:
        """Send a command and return its reply, whatever it says; see `RawSession.command`.

        Args:
            command: of `smtplite.protocol`, such as ``Vrfy("x")`` or ``Custom("XFOO", "bar")``.

        Raises:
            LocalProtocolError: the command is not allowed now, or not one for a raw session; nothing was sent.
            SMTPError: as `RawSession.command`; the connection cannot be used any more.
        """
        return self._do(lambda: self._session.command(command))

    def start_tls(self, tls_context: ssl.SSLContext | None = None, tls_hostname: str | None = None) -> Reply:
        """Begin TLS by STARTTLS; see `RawSession.start_tls`."""
        return self._do(lambda: self._session.start_tls(tls_context, tls_hostname))

    def authenticate(self, *mechanisms: Mechanism) -> Reply:
        """Authenticate; see `RawSession.authenticate`."""
        return self._do(lambda: self._session.authenticate(*mechanisms))

    def data(self, content: bytes) -> Reply:
        """Send DATA and the content; see `RawSession.data`."""
        return self._do(lambda: self._session.data(content))

    def send(
        self,
        message: AnyMessage | Prepared,
        *,
        sender: str | Address | None = None,
        recipients: AnyRecipients | None = None,
        envelope: Envelope | None = None,
        require_all: bool = False,
        timeout: float | None = None,
    ) -> Receipt:
        """Send one message over this connection; see `RawSession.send`."""
        return self._do(
            lambda: self._session.send(
                message,
                sender=sender,
                recipients=recipients,
                envelope=envelope,
                require_all=require_all,
                timeout=timeout,
            )
        )

    def close(self) -> None:
        """Close at once, without QUIT; idempotent."""

        async def close() -> None:
            self._session.close()

        self._do(close)

    def _do(self, action: Callable[[], Awaitable[_T]]) -> _T:
        if not self._is_ours:
            raise LocalProtocolError("session belongs to the process that this one was forked from: open another one")
        return self._owner._run(lambda _: action())


# In the loop


def run(client: SyncClient, action: Callable[[Client], Awaitable[_T]]) -> _T:
    """Have an action done by the client in the loop, and wait for it, even in the thread of another event loop.

    Raises:
        LocalProtocolError: the thread is the loop's own, which would wait for itself.
    """
    loop = client._known_loop()
    done = threading.Lock()
    done.acquire()
    call = Call(partial(action, client._client), done.release)
    try:
        loop.hand_over(call)
        done.acquire()
    except BaseException as interrupt:  # a signal's handler raised: KeyboardInterrupt, SystemExit, a time limit
        if not call.is_done:
            loop.soon(call.cancel)
            done.acquire(timeout=INTERRUPT_SECONDS)
        if call.has_result:  # Client, which logs what became unknown, knows nothing of this
            _logger.warning("%s came after the call was done: nobody gets %r", type(interrupt).__name__, call.outcome())
        raise
    return call.outcome()


def begin(client: SyncClient, action: Callable[[Client], Awaitable[object]]) -> Callable[[], object]:
    """Have an action done by the client in the loop, and return what waits for it."""
    done = threading.Lock()
    done.acquire()
    client._known_loop().hand_over(Call(partial(action, client._client), done.release))
    return done.acquire


async def run_from_loop(client: SyncClient, action: Callable[[Client], Awaitable[_T]]) -> _T:
    """Do what `run` does, from an asyncio event loop, which goes on meanwhile. Cancelled, it cancels the action."""
    loop = client._known_loop()
    here = asyncio.get_running_loop()
    done = asyncio.Event()

    def notify() -> None:
        try:
            here.call_soon_threadsafe(done.set)
        except RuntimeError:
            if not here.is_closed():  # else nobody waits any more
                raise

    call = Call(partial(action, client._client), notify)
    loop.hand_over(call)
    try:
        await done.wait()
    except asyncio.CancelledError:
        loop.soon(call.cancel)
        raise
    return call.outcome()


def _refuse_event_loop() -> None:
    """Raise an error if an event loop runs in this thread: the call would block it."""
    in_trio_run = getattr(sys.modules.get("trio.lowlevel"), "in_trio_run", None)
    if asyncio.events._get_running_loop() is not None or (in_trio_run is not None and in_trio_run()):
        raise LocalProtocolError(
            "SyncClient would block the event loop that runs in this thread: use smtplite.Client with await here"
        )
