"""SocketStream: a non-blocking socket over ``anyio.wait_readable`` and ``wait_writable``, on every event loop.

`recv` and `send` are tried first. We wait only if the kernel has no data, or has no room for ours. So a reply that
arrived before a reset is never lost, and a cancelled send goes no further than what the kernel accepted. Nothing is
registered with an event loop while nobody waits, except a socket between `watch` and `rest`, while a session runs.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Final

import anyio

from smtplite.net.failures import fail
from smtplite.net.stream import MAX_RECEIVE_BYTES, Meanwhile, send_while
from smtplite.net.waiting import notify_closing, wait_readable, wait_writable
from smtplite.net.watching import Watch, begin_watch
from smtplite.system.sockets import RESET_ON_CLOSE, has_arrived

__all__ = ["SocketStream"]

#: The piece size of a large write: as much as a kernel accepts at once, so that nothing larger is copied.
_SEND_PIECE_BYTES: Final = 1 << 20


class SocketStream:
    """A connected, non-blocking stream socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            # We decide what is written together: the kernel must not hold a write back to wait for more.
            with suppress(OSError):  # the server has already closed it (macOS: EINVAL); reading shows what it said
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self.unsent = 0
        self._is_watched = False  # between `watch` and `rest`
        self._watch: Watch | None = None  # there from the first wait on, on event loops that can

    async def send(self, data: bytes, meanwhile: Meanwhile | None = None) -> None:
        """Write all of `data`; see `Stream.send`."""
        self.unsent = len(data)
        if self._try_send(data):
            return
        if meanwhile is None:
            await self._send_rest(data)
        else:
            await send_while(self._send_rest(data), meanwhile)

    def _try_send(self, data: bytes) -> bool:
        """Give the kernel what it accepts without waiting; return True if that was everything."""
        try:
            if len(data) <= _SEND_PIECE_BYTES:
                self.unsent -= self._socket.send(data)
        except BlockingIOError:
            pass
        except OSError as error:
            fail(error)
        return not self.unsent

    async def _send_rest(self, data: bytes) -> None:
        sock = self._socket
        view = memoryview(data)
        try:
            while self.unsent:
                start = len(data) - self.unsent
                try:
                    self.unsent -= sock.send(view[start : start + _SEND_PIECE_BYTES])
                except BlockingIOError:
                    await wait_writable(sock)
        except (OSError, anyio.ClosedResourceError) as error:
            fail(error)

    async def receive(self) -> bytes:
        """Return what has arrived; see `Stream.receive`."""
        watch = self._watch
        if watch is not None and not self._is_watched and not watch.has_arrived:
            watch = self._watch = None
        try:
            while True:
                try:
                    return self._socket.recv(MAX_RECEIVE_BYTES) if watch is None else watch.take()
                except BlockingIOError:
                    if watch is None and self._is_watched:
                        watch = self._watch = begin_watch(self._socket)
                    if watch is None:
                        await wait_readable(self._socket)
                    else:
                        await watch.wait()
        except (OSError, anyio.ClosedResourceError) as error:
            fail(error)

    async def look(self) -> bytes | None:
        """Return what has arrived, or None; see `Stream.look`."""
        try:
            return self._socket.recv(MAX_RECEIVE_BYTES) if self._watch is None else self._watch.take()
        except BlockingIOError:
            return None
        except OSError:  # the next receive reports it
            return b""

    def watch(self) -> None:
        """Have the event loop watch the socket all the time, if it can; see `Stream.watch`."""
        self._is_watched = True

    def rest(self) -> None:
        """Remove the socket from the event loop; see `Stream.rest`."""
        self._is_watched = False
        watch = self._watch
        if watch is not None:
            watch.stop()
            if not watch.has_arrived:
                self._watch = None

    def is_stale(self) -> bool:
        """Return True if anything arrived, or the connection ended; see `Stream.is_stale`."""
        if self._watch is not None and self._watch.has_arrived:
            return True
        return self._socket.fileno() < 0 or has_arrived(self._socket)

    def abort(self) -> None:
        """Close at once; see `Stream.abort`."""
        if self._socket.fileno() < 0:
            return
        try:
            # A reset instead of an orderly end: what the kernel still holds is not sent either.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        except OSError:  # the peer's reset came first (macOS): nothing is left to discard
            pass
        self.close()

    async def aclose(self) -> None:
        """Close; see `Stream.aclose`."""
        self.close()

    def close(self) -> None:
        """Close our end; see `Stream.close`."""
        if self._socket.fileno() >= 0:
            if self._watch is not None:
                self._watch.close()
                self._watch = None
            notify_closing(self._socket)
            self._socket.close()

    @property
    def local_address(self) -> str | None:
        """The IP address of our end; None for a Unix socket."""
        if self._socket.family not in (socket.AF_INET, socket.AF_INET6) or self._socket.fileno() < 0:
            return None
        try:
            return str(self._socket.getsockname()[0])
        except OSError:
            return None
