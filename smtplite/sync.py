"""SyncClient: a Client without ``await``, for scripts, WSGI, Celery and threads.

::

    with SyncClient("smtp.example.com", username="me", password="...") as client:
        receipt = client.send(message)

All SyncClients of a process share one event loop, which runs in a thread of its own. Both begin with the first call, so
that a server may fork its workers before; a process that was forked later begins with a loop of its own. This module
stands above `Client` and uses nothing that a program of yours could not use.
"""

from __future__ import annotations

import asyncio
import atexit
import copy
import inspect
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, contextmanager
from email.headerregistry import Address
from email.message import Message
from functools import partial
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Final, Generic, ParamSpec, Self, TypeVar, cast

import anyio

from smtplite import (
    Client,
    ConnectionLost,
    Deliveries,
    Delivery,
    Envelope,
    LocalProtocolError,
    Outgoing,
    RawSession,
    Receipt,
    Reply,
    ServerInfo,
    SMTPError,
)

if TYPE_CHECKING:  # names for annotations alone
    from smtplite.message.envelope import AnyMessage, AnyRecipients
    from smtplite.protocol import Command, Extensions

__all__ = ["SyncClient", "SyncDeliveries", "SyncSession"]

_T = TypeVar("_T")
_P = ParamSpec("_P")

#: How long a call that was interrupted, by Ctrl-C or by whatever a signal handler raises, waits for its cancellation.
INTERRUPT_SECONDS: Final = 1.0
#: How long the end of the interpreter waits for what is under way, and for the servers to say goodbye.
EXIT_SECONDS: Final = 2.0
#: ... and then for what it cancelled.
EXIT_CANCEL_SECONDS: Final = 1.0

#: Messages of `send_many` that are taken from the caller's iterable before the loop asked for them.
_ITEMS_AHEAD: Final = 16
#: Outcomes of `send_many` that the caller may leave lying, beside those of Client itself, before no more is sent.
_OUTCOMES_AHEAD: Final = 64


# The loop


class Call(Generic[_T]):
    """A coroutine function on its way through the loop, and what came of it.

    Args:
        action: what to call there.
        notify: is called in the loop's thread when it is done; must neither block nor raise.
        leave: is called in the loop's thread when the interpreter ends; None: the call is given time to end by itself.
    """

    __slots__ = ("_action", "_error", "_notify", "_result", "_task", "is_cancelled", "is_done", "leave")

    def __init__(
        self,
        action: Callable[[], Awaitable[_T]],
        notify: Callable[[], object],
        leave: Callable[[], object] | None = None,
    ) -> None:
        self._action = action
        self._notify = notify
        self._task: asyncio.Task[None] | None = None
        self._result: _T
        self._error: BaseException | None = None
        self.leave = leave
        self.is_cancelled = False
        self.is_done = False

    async def run(self) -> None:
        """Do it, in a task of the loop's."""
        self._task = asyncio.current_task()
        try:
            # A task that is cancelled before its first step never takes it, and nobody would be told.
            if self.is_cancelled:
                raise asyncio.CancelledError
            self._result = await self._action()
        except BaseException as error:  # noqa: BLE001 (whatever it is, it belongs to the caller's thread)
            self._error = error
        self._finish()

    def cancel(self) -> None:
        """Cancel it; in the loop's thread."""
        self.is_cancelled = True
        if self._task is not None:
            self._task.cancel()

    def abandon(self, error: BaseException) -> None:
        """End the wait for it: nobody does it any more."""
        self._error = error
        self._finish()

    def _finish(self) -> None:
        self._task = None
        self.is_done = True
        self._notify()

    def outcome(self) -> _T:
        """Return what it returned, or raise what it raised."""
        error, self._error = self._error, None
        if error is None:
            return self._result
        try:
            raise error
        finally:
            del error  # or it would hold this frame, and this frame it


class _Resolver(ThreadPoolExecutor):
    """Looks names up, each in a daemon thread: the end of the interpreter waits for no name server."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(*arguments, **options))
                except BaseException as error:  # noqa: BLE001 (goes to whoever asked)
                    future.set_exception(error)

        threading.Thread(target=run, name="smtplite resolver", daemon=True).start()
        return future


class _Loop:
    """An event loop in a thread of its own, for as long as the process lives."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._calls: set[Call[Any]] = set()  # not done
        self._emptied: asyncio.Event | None = None  # set when that set is; made when somebody waits for it
        self._clients: weakref.WeakSet[Client] = weakref.WeakSet()
        self._lock = threading.RLock()
        # Not what a policy chooses: this one is known to live through a fork.
        self._loop = asyncio.SelectorEventLoop()
        self._loop.set_default_executor(_Resolver())
        self._end: asyncio.Future[None] = self._loop.create_future()
        # A daemon, and so are the threads that begin in it: nothing of ours may keep the interpreter from its end.
        self.thread = threading.Thread(target=self._run, name="smtplite", daemon=True)
        try:
            self.thread.start()
        except BaseException:
            self._loop.close()
            raise

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        while not self._end.done():
            try:
                # Not run_forever: anyio keeps its worker threads for as long as such a root task lives.
                self._loop.run_until_complete(self._wait_for_end())
            except BaseException:  # noqa: BLE001, S112 (SystemExit in a task ends a loop; its caller is told by Call)
                continue
        self._loop.close()

    async def _wait_for_end(self) -> None:
        await asyncio.shield(self._end)

    def hand_over(self, call: Call[Any]) -> None:
        """Have a call done; from another thread.

        Raises:
            LocalProtocolError: the loop has ended, because the interpreter does.
        """
        self._calls.add(call)
        try:
            self._loop.call_soon_threadsafe(self._begin, call)
        except RuntimeError as error:
            self._calls.discard(call)
            if not self._loop.is_closed():
                raise
            raise LocalProtocolError(_ENDING) from error

    def _begin(self, call: Call[Any]) -> None:
        # The call holds its task, and the loop holds the call.
        self._loop.create_task(self._do(call))

    async def _do(self, call: Call[Any]) -> None:
        await call.run()
        self._calls.discard(call)
        if not self._calls and self._emptied is not None:
            self._emptied.set()

    def soon(self, function: Callable[[], object]) -> None:
        """Have a function called in the loop's thread, from any thread; after its end it is not called."""
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    def know(self, client: Client) -> None:
        """See to it that a client's connections end with the interpreter."""
        with self._lock:
            self._clients.add(client)

    def forked(self) -> None:
        """End every wait, in the child: the thread that would is not here, and its calls are the parent's."""
        for call in list(self._calls):
            call.abandon(LocalProtocolError("this process was forked while it sent: its parent goes on sending"))

    def exit(self) -> None:
        """Give what is under way a moment, end connections and thread; all of it in bounded time."""
        with self._lock:
            clients = list(self._clients)
        self.soon(lambda: self._loop.create_task(self._wind_up(clients)))
        self.thread.join(EXIT_SECONDS + 2 * EXIT_CANCEL_SECONDS)

    async def _wind_up(self, clients: list[Client]) -> None:
        try:
            for call in list(self._calls):
                if call.leave is not None:
                    call.leave()
            with anyio.move_on_after(EXIT_SECONDS):
                async with anyio.create_task_group() as tasks:
                    for client in clients:
                        tasks.start_soon(client.aclose)
                    tasks.start_soon(self._empty)
            for call in list(self._calls):
                call.cancel()
            with anyio.move_on_after(EXIT_CANCEL_SECONDS):
                await self._empty()
        finally:
            self._end.set_result(None)

    async def _empty(self) -> None:
        while self._calls:
            self._emptied = asyncio.Event()
            await self._emptied.wait()


# The process


_ENDING: Final = "the interpreter is ending, and no thread can send any more: send before its end"


class _Process:
    """The loop of this process, and how it begins."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal's handler may send, too
        self._loop: _Loop | None = None

    def loop(self) -> _Loop:
        """Return the loop; start it, if there is none in this process.

        Raises:
            LocalProtocolError: the interpreter ends, and threads cannot begin any more.
        """
        loop = self._loop
        if loop is not None and loop.process == os.getpid():
            return loop
        with self._lock:
            if self._loop is None or self._loop.process != os.getpid():
                self.leave_to_parent(self._loop)
                try:
                    self._loop = _Loop()
                except RuntimeError as error:
                    self._loop = None
                    if threading.main_thread().is_alive():
                        raise
                    raise LocalProtocolError(_ENDING) from error
            return self._loop

    @staticmethod
    def leave_to_parent(loop: _Loop | None) -> None:
        """Never let go of a loop of the parent's: its end would reach into what the two processes share.

        That is its epoll, in which the child would delete what the parent waits for, and its connections.
        """
        if loop is not None:
            _of_parents.append(loop)

    def after_fork(self) -> _Process:
        """Return what the child has; the parent's lock may be held, and its thread is not here."""
        self.leave_to_parent(self._loop)
        if self._loop is not None:
            self._loop.forked()
        return _Process()

    def exit(self) -> None:
        """End the loop; what sends nevertheless later begins anew, if it can."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None and loop.process == os.getpid():
            loop.exit()


_of_parents: Final[list[_Loop]] = []
_process = _Process()


def _begin_child() -> None:
    global _process
    _process = _process.after_fork()


def _exit() -> None:
    _process.exit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_child)
# Threads that are no daemons were waited for before; the loop still turns, which it does not in a finaliser.
atexit.register(_exit)


# What stands above may use the next three, too: smtplite.contrib.django does.


def run(client: SyncClient, action: Callable[[Client], Awaitable[_T]]) -> _T:
    """Have an action done by the client in the loop, and wait for it, even in the thread of another event loop.

    Raises:
        LocalProtocolError: the thread is the loop's own, which would wait for itself.
    """
    loop = client.loop()
    done = threading.Lock()
    done.acquire()
    call = Call(partial(action, client.asynchronous), done.release)
    try:
        loop.hand_over(call)
        done.acquire()
    except BaseException:  # a signal's handler raised: KeyboardInterrupt, SystemExit, a time limit
        if not call.is_done:
            loop.soon(call.cancel)
            done.acquire(timeout=INTERRUPT_SECONDS)
        raise
    return call.outcome()


def begin(client: SyncClient, action: Callable[[Client], Awaitable[object]]) -> Callable[[], object]:
    """Have an action done by the client in the loop, and return what waits for it."""
    done = threading.Lock()
    done.acquire()
    client.loop().hand_over(Call(partial(action, client.asynchronous), done.release))
    return done.acquire


async def run_from_loop(client: SyncClient, action: Callable[[Client], Awaitable[_T]]) -> _T:
    """Do what `run` does, from an asyncio event loop, which goes on meanwhile. Cancelled, it cancels the action."""
    loop = client.loop()
    here = asyncio.get_running_loop()
    done = asyncio.Event()

    def notify() -> None:
        try:
            here.call_soon_threadsafe(done.set)
        except RuntimeError:
            if not here.is_closed():  # else nobody waits any more
                raise

    call = Call(partial(action, client.asynchronous), notify)
    loop.hand_over(call)
    try:
        await done.wait()
    except asyncio.CancelledError:
        loop.soon(call.cancel)
        raise
    return call.outcome()


def _refuse_event_loop() -> None:
    """Raise an error if this thread is that of a running event loop, which would stand still meanwhile."""
    trio = sys.modules.get("trio")
    if asyncio.events._get_running_loop() is not None or (trio is not None and trio.lowlevel.in_trio_run()):
        raise LocalProtocolError(
            "SyncClient would stop the event loop that runs in this thread: use smtplite.Client with await here"
        )


# The client


def _takes_what_client_takes(
    original: Callable[Concatenate[Client, _P], None],
) -> Callable[[Callable[..., None]], Callable[Concatenate[SyncClient, _P], None]]:
    """Give `__init__` the arguments of Client's: there is one list of them, not two."""

    def decorate(function: Callable[..., None]) -> Callable[Concatenate[SyncClient, _P], None]:
        function.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]  # what inspect looks for
        return cast("Callable[Concatenate[SyncClient, _P], None]", function)

    return decorate


class SyncClient:
    """Sends messages through a server: `Client` without ``await``, for any number of threads.

    A SyncClient may be made anywhere, also at import time and before a fork; ``with`` opens no connection, and closes
    those that were opened. It can be used from any thread, but not where an event loop runs: there use `Client`.

    What it is given to call runs in the thread of the event loop that all SyncClients of the process share: `trace`,
    `connect`, `sign`, the token functions of `auth`, and `rate_limit`. Such a function must not block for long, and
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
            ConfigurationError: the URL or an option is wrong; shows nothing of the URL that could hold a password.
        """
        client = cls.__new__(cls)
        client._hold(Client.from_url(url, **overrides))
        return client

    def _hold(self, client: Client) -> None:
        self.asynchronous = client
        self._loop: _Loop | None = None  # which knows the client
        self._streams: set[SyncDeliveries] = set()  # under way
        self._is_closed = False

    def __repr__(self) -> str:
        return f"Sync{self.asynchronous!r}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def loop(self) -> _Loop:
        """Return the loop of this process, to which this client is known; for this module and what builds on it.

        Raises:
            LocalProtocolError: the thread is the loop's own; or the interpreter ends.
        """
        loop = _process.loop()
        if loop.thread is threading.current_thread():
            raise LocalProtocolError(
                "SyncClient is used from within a callback, in the thread of its event loop, which would wait for "
                "itself: use another thread"
            )
        if loop is not self._loop:
            loop.know(self.asynchronous)
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
        """End the idle connections, and each busy one when its message is done; nothing can be sent any more.

        Idempotent, from any thread. A stream of `send_many` that was not ended is left, as its block would be.
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
                stream._leave(None, why=LocalProtocolError("client was closed before its stream was at its end"))
        finally:
            run(self, Client.aclose)

    def send(
        self,
        message: AnyMessage,
        *,
        sender: str | Address | None = None,
        recipients: AnyRecipients | None = None,
        envelope: Envelope | None = None,
        require_all: bool = False,
        timeout: float | None = None,
    ) -> Receipt:
        """Send one message, and say what became of it for each recipient.

        Interrupted, by Ctrl-C or by whatever a signal's handler raises, the call cancels the message and goes on with
        that exception, after a second at the latest. If the message was handed over by then, its outcome is unknown,
        and a warning says so in the log.

        Args:
            message: a message object of `email`, or the message as octets.
            sender: the reverse-path; None: from Sender or From; "": the null reverse-path.
            recipients: one address, or several; None: from To, Cc and Bcc. Bcc itself is never sent.
            envelope: in place of sender and recipients, with more to say.
            require_all: send to nobody unless every recipient is accepted.
            timeout: seconds for the whole call.

        Returns:
            The receipt: somebody was certainly delivered. ``receipt.complete`` if everybody was.

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
            )
        )

    def send_many(
        self,
        messages: Iterable[AnyMessage | Outgoing] | AsyncIterable[AnyMessage | Outgoing],
        *,
        connections: int | None = None,
        in_flight: int = 32,
        require_all: bool = False,
        timeout: float | None = None,
        drain: float = 30.0,
    ) -> SyncDeliveries:
        """Send many messages over a few connections, and say what became of each, in order of completion.

        ::

            for delivery in client.send_many(messages):
                ...  # delivery.item, and delivery.receipt or delivery.error

        The messages are read in the thread that asks for the outcomes, lazily: a few ahead of what is sent. If you may
        leave the loop early, put it into a block:

        ::

            with client.send_many(messages) as deliveries:
                for delivery in deliveries:
                    if enough:
                        break
            deliveries.rest  # what the loop did not hand out

        Args:
            messages: what `send` takes, or `Outgoing`; any iterable. An asynchronous one is read in the loop's thread.
            connections: the most to use at the same time; None: all that the client may have but one, at least one.
            in_flight: with `chunking`, messages whose verdicts are outstanding on one connection.
            require_all: for each message, send to nobody unless every recipient is accepted.
            timeout: seconds for each message, from its first octet to its verdict; None: the client's.
            drain: seconds to wait for outstanding outcomes when the block is left early.

        Raises:
            ConfigurationError: an argument is wrong.
            SMTPError: (the loop) no connection could be opened; what one message could not do is in its delivery.
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
            },
        )

    @contextmanager
    def session(self) -> Iterator[SyncSession]:
        """Open a connection of its own, for commands that `send` does not know; see `Client.session`.

        ::

            with client.session() as session:
                reply = session.command(Vrfy("postmaster"))

        Raises:
            SMTPError: what `send` would raise before its first message.
        """
        manager = self.asynchronous.session()
        session = SyncSession(self, self._run(lambda _: manager.__aenter__()))
        try:
            yield session
        except BaseException as error:
            failure = error
            if session.is_ours:
                self._run(lambda _: manager.__aexit__(type(failure), failure, failure.__traceback__))
            raise
        else:
            if session.is_ours:
                self._run(lambda _: manager.__aexit__(None, None, None))

    def check(self) -> ServerInfo:
        """Connect, say hello, begin TLS, authenticate, and say what the server offers. Sends no message.

        Raises:
            SMTPError: what `send` would raise before its first message.
        """
        return self._run(Client.check)


class SyncSession:
    """What `SyncClient.session` gives: `RawSession` without ``await``."""

    def __init__(self, client: SyncClient, session: RawSession) -> None:
        self._client = client
        self._session = session
        self._process = os.getpid()

    @property
    def is_ours(self) -> bool:
        """False after a fork: the connection is the parent's."""
        return self._process == os.getpid()

    @property
    def extensions(self) -> Extensions:
        """What the server offers."""
        return self._session.extensions

    @property
    def info(self) -> ServerInfo:
        """What is known of the server."""
        return self._session.info

    @property
    def transcript(self) -> tuple[str, ...]:
        """The last commands and replies, secrets left out."""
        return self._session.transcript

    def command(self, command: Command) -> Reply:
        """Send a command and return its reply, whatever it says; see `RawSession.command`.

        Args:
            command: of `smtplite.protocol`, such as ``Vrfy("x")`` or ``Custom("XFOO", "bar")``.

        Raises:
            LocalProtocolError: the command is illegal now, or not one for a raw session; nothing was sent.
            SMTPError: as `RawSession.command`; the connection is of no further use.
        """
        if not self.is_ours:
            raise LocalProtocolError("session belongs to the process that this one was forked from: open another one")
        return self._client._run(lambda _: self._session.command(command))


# Many messages


class _Left(Exception):
    """The block of a stream was left by an exception: what is under way is given up."""


#: For the consumer: look whether more messages can be taken.
_MORE: Final = object()
#: For the consumer: nothing is to come.
_END: Final = object()


class _Feed:
    """The caller's messages on their way from the consumer's thread, which reads them, to the loop.

    Each attribute is changed by one thread in one step, and looked at again before anybody waits: no lock is needed.

    Args:
        iterator: the caller's.
        ask: called in the loop's thread: has the consumer look whether it may take more.
    """

    def __init__(self, iterator: Iterator[Any], ask: Callable[[], object]) -> None:
        self._iterator = iterator
        self._ask = ask
        self._items: deque[Any] = deque()
        self._error: Exception | None = None
        self._is_exhausted = False
        self._has_changed = asyncio.Event()  # in the loop's thread alone
        self._is_starving = False  # the loop waits for that

    # In the consumer's thread

    @property
    def can_take(self) -> bool:
        """True if one more message may be taken from the caller's iterable."""
        return not self._is_exhausted and len(self._items) < _ITEMS_AHEAD

    def take(self, loop: _Loop) -> None:
        """Take a message, if the loop has room for it."""
        if not self.can_take:
            return
        try:
            self._items.append(next(self._iterator))
        except StopIteration:
            self._is_exhausted = True
        except Exception as error:  # noqa: BLE001 (the caller's own: raised by Client, behind the outcomes)
            self._error = error
            self._is_exhausted = True
        if self._is_starving:
            self._is_starving = False
            loop.soon(self._has_changed.set)

    def stop(self) -> None:
        """Take nothing more."""
        self._is_exhausted = True

    def untaken(self) -> list[Any]:
        """Return, and forget, what was taken from the caller and not by Client."""
        items = list(self._items)
        self._items.clear()
        return items

    # In the loop's thread

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        while not self._items:
            self._has_changed.clear()
            self._is_starving = True
            if self._items:
                break
            if self._is_exhausted:
                error, self._error = self._error, None
                if error is not None:
                    raise error
                raise StopAsyncIteration
            self._ask()
            await self._has_changed.wait()
        self._is_starving = False
        item = self._items.popleft()
        if len(self._items) <= _ITEMS_AHEAD // 2:
            self._ask()
        return item


class SyncDeliveries:
    """What `SyncClient.send_many` gives: iterate it for the outcomes, in order of completion.

    The stream begins with its block, or with the first step of the loop. Several threads may take outcomes from it.

    Args:
        client: sends them.
        messages: of the caller's.
        options: of `Client.send_many`.
    """

    def __init__(self, client: SyncClient, messages: Any, options: dict[str, Any]) -> None:
        self._client = client
        self._process = os.getpid()
        self._feed: _Feed | None = None  # None: the messages come from an asynchronous iterable
        source: Any = messages
        if isinstance(messages, Iterable) and not isinstance(
            messages, (str, bytes, bytearray, memoryview, Message, Outgoing, AsyncIterable)
        ):
            source = self._feed = _Feed(iter(messages), self._ask)
        # Which says what is wrong with the arguments, and sends nothing before it is entered.
        self._stream: AbstractAsyncContextManager[Deliveries] = client.asynchronous.send_many(source, **options)
        self._turn = threading.Lock()  # held by the consumer whose turn it is
        self._consumer: int | None = None  # that thread
        self._loop: _Loop | None = None  # once it began
        self._call: Call[None] | None = None
        self._done = threading.Lock()  # free once the call is done
        #: Deliveries, _MORE and _END, from the loop to the consumer.
        self._outcomes: SimpleQueue[Any] = SimpleQueue()
        self._was_asked = False  # _MORE is among them
        self._is_leaving = False
        self._failure: BaseException | None = None  # with what the block was left
        self._why: SMTPError | None = None  # the consumer has to be told that it was left
        self._unsent: SMTPError = ConnectionLost("not sent: the stream was left before its turn came")
        self._rest: list[Delivery] = []
        self._rest_of_loop: list[Delivery] = []
        self._scope: anyio.CancelScope | None = None  # in the loop's thread alone: around the wait for outcomes
        self._has_room = asyncio.Event()  # likewise
        self._is_full = False  # the loop waits for room

    # For the caller

    @property
    def rest(self) -> list[Delivery]:
        """After the end: what the loop did not hand out. Each message taken is in the loop or here, once."""
        return self._rest

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave(exc_value)

    def close(self) -> None:
        """Take nothing more, and wait for the outcomes of what is under way: they are in `rest`. Idempotent."""
        self._leave(None)

    def __iter__(self) -> Iterator[Delivery]:
        return self

    def __next__(self) -> Delivery:
        """Return the next outcome.

        Raises:
            SMTPError: no connection could be opened; said once.
            Exception: what the caller's iterable raised.
        """
        if self._process != os.getpid():
            raise LocalProtocolError("stream belongs to the process that this one was forked from: begin another one")
        if self._consumer == threading.get_ident():
            raise LocalProtocolError("messages of send_many asks for the outcomes of its own stream: read them outside")
        with self._turn:
            self._consumer = threading.get_ident()
            try:
                return self._next()
            except BaseException as error:
                self._leave(None if isinstance(error, StopIteration) else error)
                raise
            finally:
                self._consumer = None

    def _next(self) -> Delivery:
        if self._call is None and self._is_leaving:
            raise StopIteration
        self._begin()
        self._take()
        while True:
            try:
                found = self._outcomes.get(block=not self._can_take)
            except Empty:
                self._take()
                continue
            if found is _MORE:
                self._was_asked = False
                self._take()
            elif found is _END:
                self._outcomes.put(_END)  # for whoever asks next
                self._end()
                raise StopIteration
            else:
                if self._is_full and self._outcomes.qsize() <= _OUTCOMES_AHEAD // 2:
                    self._is_full = False
                    self._soon(self._has_room.set)
                return cast("Delivery", found)

    @property
    def _can_take(self) -> bool:
        return self._feed is not None and not self._is_leaving and self._feed.can_take

    def _take(self) -> None:
        if self._can_take and self._feed is not None and self._loop is not None:
            self._feed.take(self._loop)

    def _soon(self, function: Callable[[], object]) -> None:
        if self._loop is not None:
            self._loop.soon(function)

    def _begin(self) -> None:
        if self._call is not None:
            return
        self._client._check()
        self._loop = self._client.loop()
        self._done.acquire()
        self._call = Call(self._drive, self._ended, self._leave_in_loop)
        self._client._streams.add(self)
        self._loop.hand_over(self._call)

    def _ended(self) -> None:
        self._outcomes.put(_END)
        self._done.release()

    def _end(self) -> None:
        """Raise what the stream ended with, once."""
        call, why = self._call, self._why
        self._why = None
        if call is not None and not call.is_cancelled:
            call.outcome()
        if why is not None:
            raise why

    # In the loop's thread

    async def _drive(self) -> None:
        deliveries: Deliveries | None = None
        try:
            async with self._stream as deliveries:
                with anyio.CancelScope() as self._scope:
                    if self._is_leaving:
                        self._scope.cancel()
                    async for delivery in deliveries:
                        self._outcomes.put(delivery)
                        if self._outcomes.qsize() >= _OUTCOMES_AHEAD:
                            await self._wait_for_room()
                if self._failure is not None:
                    raise _Left
        except _Left:
            pass
        except SMTPError as error:
            self._unsent = error
            raise
        finally:
            if deliveries is not None:
                self._rest_of_loop = list(deliveries.rest)

    async def _wait_for_room(self) -> None:
        self._has_room.clear()
        self._is_full = True
        if self._outcomes.qsize() <= _OUTCOMES_AHEAD // 2:  # the consumer was quicker
            self._is_full = False
        else:
            await self._has_room.wait()

    def _ask(self) -> None:
        if not self._was_asked:
            self._was_asked = True
            self._outcomes.put(_MORE)

    def _leave_in_loop(self) -> None:
        self._is_leaving = True
        if self._scope is not None:
            self._scope.cancel()

    # Leaving

    def _leave(self, failure: BaseException | None, *, why: SMTPError | None = None) -> None:
        """End the stream, wait for that, and see to `rest`."""
        if self._process != os.getpid():
            return  # what is under way is the parent's
        if self._feed is not None and (self._call is None or not self._call.is_done):
            self._feed.stop()
        if self._call is None or self._loop is None:
            self._is_leaving = True
            return
        if not self._call.is_done and not self._is_leaving:
            self._failure = failure
            self._why = why
            self._is_leaving = True
            self._soon(self._leave_in_loop)
        # What a signal's handler raised does not wait for long.
        is_interrupt = failure is not None and not isinstance(failure, (Exception, GeneratorExit))
        try:
            is_over = self._done.acquire(timeout=INTERRUPT_SECONDS if is_interrupt else -1)
        except BaseException:
            self._soon(self._call.cancel)
            if self._done.acquire(timeout=INTERRUPT_SECONDS):
                self._over()
            raise
        if is_over:
            self._over()

    def _over(self) -> None:
        """Make an outcome of everything that was taken and not handed out."""
        self._done.release()
        self._client._streams.discard(self)
        left: list[Delivery] = []
        while True:
            try:
                found = self._outcomes.get_nowait()
            except Empty:
                break
            if found is not _MORE and found is not _END:
                left.append(found)
        self._outcomes.put(_END)
        left += self._rest_of_loop
        self._rest_of_loop = []
        if self._feed is not None:
            left += [Delivery(item, error=copy.copy(self._unsent)) for item in self._feed.untaken()]
        self._rest += left
