"""The event loop that all SyncClients of a process share, in a thread of its own: from its start to its end."""

from __future__ import annotations

import asyncio
import atexit
import importlib
import os
import threading
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

import anyio

from smtplite import Client, LocalProtocolError
from smtplite.system.processes import after_fork

__all__ = ["INTERRUPT_SECONDS", "Call", "Loop", "shared_loop"]

# What else would be loaded in the loop's thread at its first use: by anyio, under a name of its own affair, and when
# it connects. If a process is forked in the middle of an import, that import is locked for ever in the child.
for _name in ("anyio._backends._asyncio", "encodings.idna"):
    with suppress(ImportError):
        importlib.import_module(_name)

_T = TypeVar("_T")

#: How long a call that was interrupted, by Ctrl-C or by whatever a signal handler raises, waits for its cancellation.
INTERRUPT_SECONDS: Final = 1.0
#: How long the end of the interpreter waits for what is under way, and for the servers to say goodbye.
EXIT_SECONDS: Final = 2.0
#: ... and then for what it cancelled.
EXIT_CANCEL_SECONDS: Final = 1.0


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

    def give_up(self) -> None:
        """Cancel it, and tell nobody: the interpreter ends, and with it the daemon thread that waits."""
        self._notify = _nobody
        self.cancel()

    def abandon(self, error: BaseException) -> None:
        """End the wait for it, unless that was ended: nobody does it any more."""
        self._error = error
        try:
            self._finish()
        except RuntimeError:  # whoever waits was told before, and the lock is free
            pass

    def _finish(self) -> None:
        self._task = None
        self.is_done = True
        self._notify()

    @property
    def has_result(self) -> bool:
        """True if it is done, and returned."""
        return self.is_done and self._error is None

    def outcome(self) -> _T:
        """Return what it returned, or raise what it raised."""
        error, self._error = self._error, None
        if error is None:
            return self._result
        try:
            raise error
        finally:
            del error  # or it would hold this frame, and this frame it


def _nobody() -> None:
    pass


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

        try:
            threading.Thread(target=run, name="smtplite resolver", daemon=True).start()
        except RuntimeError:  # after the end of the main thread, from Python 3.12 on
            run()
        return future


class Loop:
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
            call.abandon(LocalProtocolError("this process was forked during a send: its parent goes on sending"))

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
                call.give_up()
            with anyio.move_on_after(EXIT_CANCEL_SECONDS):
                await self._empty()
        finally:
            self._end.set_result(None)

    async def _empty(self) -> None:
        while self._calls:
            self._emptied = asyncio.Event()
            await self._emptied.wait()


# The process


_ENDING: Final = "the interpreter is shutting down, and nothing can be sent any more: send earlier"


class _Process:
    """The loop of this process, and how it begins."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal's handler may send, too
        self._loop: Loop | None = None
        self._is_ending = False

    def loop(self) -> Loop:
        """Return the loop; start it, if there is none in this process.

        Raises:
            LocalProtocolError: the interpreter ends, and threads cannot begin any more.
        """
        loop = self._loop
        if loop is not None and loop.process == os.getpid():
            return loop
        with self._lock:
            if self._is_ending:
                raise LocalProtocolError(_ENDING)
            if self._loop is None or self._loop.process != os.getpid():
                self.leave_to_parent(self._loop)
                try:
                    self._loop = Loop()
                except RuntimeError as error:
                    self._loop = None
                    if threading.main_thread().is_alive():
                        raise
                    raise LocalProtocolError(_ENDING) from error
            return self._loop

    @staticmethod
    def leave_to_parent(loop: Loop | None) -> None:
        """Never let go of a loop of the parent's: its end would reach into what the two processes share.

        That is its epoll, in which the child would delete what the parent waits for, and its connections.
        """
        if loop is not None:
            _of_parents.append(loop)

    def after_fork(self) -> _Process:
        """Return what the child has; the parent's lock may be held, and its thread is not here."""
        if self._loop is not None:
            self.leave_to_parent(self._loop)
            self._loop.forked()
        return _Process()

    def exit(self) -> None:
        """End the loop. Nothing can be sent any more: nobody would end its connections, or begin a thread for it."""
        with self._lock:
            self._is_ending = True
            loop, self._loop = self._loop, None
        if loop is not None and loop.process == os.getpid():
            loop.exit()


_of_parents: Final[list[Loop]] = []
_process = _Process()


def _begin_child() -> None:
    global _process
    _process = _process.after_fork()


def _exit() -> None:
    _process.exit()


def shared_loop() -> Loop:
    """Return the loop of this process; start it, if there is none yet.

    Raises:
        LocalProtocolError: the interpreter ends, and threads cannot begin any more.
    """
    return _process.loop()


after_fork(_begin_child)
# Threads that are no daemons were waited for before; the loop still turns, which it does not in a finaliser.
atexit.register(_exit)
