"""Watch: a socket that the event loop watches all the time, on event loops that can do that."""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING

import anyio

from smtplite.net.stream import MAX_RECEIVE_BYTES

if TYPE_CHECKING:
    import asyncio

__all__ = ["Watch", "begin_watch"]


class Watch:
    """A socket that an asyncio event loop watches all the time, and what has arrived on it.

    Starting and stopping that for each wait, as anyio must, costs as much as everything else about a message. The
    callback reads, so nothing is left to read when the waiting task runs. What it read is kept until `take` is called:
    a cancelled wait loses nothing.

    Args:
        sock: connected, non-blocking.
        loop: the loop that runs here.
    """

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self._socket = sock
        self._loop = loop
        self._process = os.getpid()
        self._is_watching = False
        self._waiter: asyncio.Future[None] | None = None
        self._arrived: bytes | OSError | None = None

    @property
    def has_arrived(self) -> bool:
        """True if something was read that `take` has not returned yet."""
        return self._arrived is not None

    def take(self) -> bytes:
        """Return what has arrived.

        Raises:
            BlockingIOError: nothing has arrived.
            OSError: the connection failed.
        """
        arrived = self._arrived
        if arrived is None:
            return self._socket.recv(MAX_RECEIVE_BYTES)
        self._arrived = None
        if isinstance(arrived, OSError):
            raise arrived
        return arrived

    async def wait(self) -> None:
        """Wait until something may have arrived.

        Raises:
            anyio.ClosedResourceError: the socket was closed meanwhile.
            anyio.BusyResourceError: another task is waiting.
        """
        if self._waiter is not None:
            raise anyio.BusyResourceError("reading from")
        if not self._is_watching:
            self._loop.add_reader(self._socket, self._read)
            self._is_watching = True
        waiter = self._waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    def _read(self) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():  # nobody waits: leave it in the kernel
            self.stop()
            return
        try:
            self._arrived = self._socket.recv(MAX_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._arrived = error
        waiter.set_result(None)

    def stop(self) -> None:
        """Stop watching, until a task waits again."""
        # In the child of a fork, the parent's event loop is the one that watches.
        if self._is_watching and self._process == os.getpid():
            self._loop.remove_reader(self._socket)
        self._is_watching = False

    def close(self) -> None:
        """Stop watching, and tell the task that waits: the socket is about to be closed."""
        self.stop()
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_exception(anyio.ClosedResourceError())


def begin_watch(sock: socket.socket) -> Watch | None:
    """Return a watch on the socket, if the event loop is one of the standard library's that can watch.

    Not on uvloop: it stops watching at the first error. A task waited forever for a reset that came after bytes that
    were still unread.
    """
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:  # nothing runs on it, and it is not imported just for this
        return None
    try:
        task = asyncio.current_task()
    except RuntimeError:  # on trio
        return None
    if task is None:  # a callback, or trio as a guest
        return None
    loop = task.get_loop()
    return Watch(sock, loop) if isinstance(loop, asyncio.SelectorEventLoop) else None
