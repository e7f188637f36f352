"""Signals that ask a program to stop: Ctrl-C, and what a supervisor sends."""

from __future__ import annotations

import math
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from anyio.streams.memory import MemoryObjectReceiveStream

__all__ = ["STOP", "open_stop_signals"]

#: What asks a program to stop: Ctrl-C, a supervisor; on Windows Ctrl-Break as well.
STOP: Final[tuple[signal.Signals, ...]] = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
)


@contextmanager
def open_stop_signals() -> Iterator[AsyncIterator[int]]:
    """Hear SIGINT (Ctrl-C) and SIGTERM, in place of their usual effect, as long as the context is open.

    Enter it in the main thread. The event loops of asyncio on Windows cannot hear signals: there the process hears
    them, and wakes the loop.
    """
    import anyio

    with ExitStack() as stack:
        signals: AsyncIterator[int]
        try:
            signals = stack.enter_context(anyio.open_signal_receiver(*STOP))
        except NotImplementedError:
            signals = stack.enter_context(_heard_by_the_process())
        yield signals


@contextmanager
def _heard_by_the_process() -> Iterator[MemoryObjectReceiveStream[int]]:
    """Hear signals by handlers of the process: an asyncio event loop has no ``add_signal_handler`` here."""
    import asyncio

    import anyio

    loop = asyncio.get_running_loop()
    heard, signals = anyio.create_memory_object_stream[int](math.inf)

    def hear(number: int, _frame: FrameType | None) -> None:
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(_pass_on, number)

    def _pass_on(number: int) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # nobody hears any more
            heard.send_nowait(number)

    with ExitStack() as stack:
        stack.callback(signals.close)
        stack.callback(heard.close)
        stack.enter_context(_woken_by_signals(loop))
        for number in STOP:
            stack.callback(signal.signal, number, signal.signal(number, hear))
        yield signals


@contextmanager
def _woken_by_signals(loop: AbstractEventLoop) -> Iterator[None]:
    """Have signals end the wait of an event loop.

    A proactor sees to that itself. The selector loop on Windows does not, and nothing else ends its ``select``: there
    handlers would run only when something arrives (https://github.com/python/cpython/issues/77373).
    """
    former = signal.set_wakeup_fd(-1)
    if former != -1:
        signal.set_wakeup_fd(former, warn_on_full_buffer=False)
        yield
        return
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        with suppress(NotImplementedError):  # a proactor that was made in another thread: it is woken by handlers alone
            loop.add_reader(ours, ours.recv, 4096)
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            with suppress(NotImplementedError):
                loop.remove_reader(ours)
