"""A socket that the program connected, as a stream for `Client(connect=...)`."""

from __future__ import annotations

import socket

import anyio
import anyio.abc

from smtplite.net.waiting import notify_closing, wait_readable, wait_writable
from smtplite.system.sockets import has_arrived

__all__ = ["ConnectedSocket"]


class ConnectedSocket(anyio.abc.ByteStream):
    """A stream over a connected socket, which it closes; `abort` does so at once.

    Args:
        sock: connected; non-blocking from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return what has arrived."""
        while True:
            try:
                data = self._sock.recv(max_bytes)
            except BlockingIOError:
                await wait_readable(self._sock)
                continue
            if not data:
                raise anyio.EndOfStream
            return data

    async def send(self, item: bytes) -> None:
        """Write all of it."""
        left = memoryview(item)
        while left:
            try:
                left = left[self._sock.send(left) :]
            except BlockingIOError:
                await wait_writable(self._sock)

    async def send_eof(self) -> None:
        """Say that nothing more comes."""
        self._sock.shutdown(socket.SHUT_WR)

    def is_readable(self) -> bool:
        """Return True if anything has arrived, or the connection ended."""
        return has_arrived(self._sock)

    def abort(self) -> None:
        """Close at once."""
        if self._sock.fileno() >= 0:
            notify_closing(self._sock)
            self._sock.close()

    async def aclose(self) -> None:
        """Close."""
        self.abort()
