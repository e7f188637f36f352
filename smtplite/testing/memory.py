"""A connection to the testing server without a socket: what is sent is answered at once, in the sender's task."""

from __future__ import annotations

import anyio
import anyio.abc
import anyio.lowlevel

from smtplite.testing.connection import ServedConnection

__all__ = ["MemoryStream"]

#: Handed to the server at once.
MAX_RECEIVE_BYTES = 65_536
#: Of replies that the client did not take: from here on its `send` waits, as it would for a full socket.
MAX_UNREAD_BYTES = 65_536


class MemoryStream(anyio.abc.ByteStream):
    """The client's end of the connection."""

    def __init__(self, connection: ServedConnection) -> None:
        self._connection = connection
        self._unread = connection.outgoing
        self._is_closed = False
        self._sent_eof = False
        self._readable: anyio.Event | None = None
        self._drained: anyio.Event | None = None
        connection.flush = self._flush
        connection.wake = self._wake

    async def receive(self, max_bytes: int = MAX_RECEIVE_BYTES) -> bytes:
        """Return what the server said, waiting for it if there is nothing."""
        await anyio.lowlevel.checkpoint()
        while not self._unread:
            self._check_open()
            if not self._connection.is_open:
                raise anyio.EndOfStream
            if self._readable is not None:
                raise anyio.BusyResourceError("receiving from")
            self._readable = anyio.Event()
            try:
                await self._readable.wait()
            finally:
                self._readable = None
        self._check_open()
        data = bytes(self._unread[:max_bytes])
        del self._unread[:max_bytes]
        self._wake()
        return data

    @property
    def _is_clogged(self) -> bool:
        if self._is_closed or not self._connection.is_open:
            return False
        return len(self._unread) >= MAX_UNREAD_BYTES or self._connection.is_full

    async def send(self, item: bytes) -> None:
        """Have the server read the bytes and answer them."""
        await anyio.lowlevel.checkpoint()
        for start in range(0, len(item), MAX_RECEIVE_BYTES):
            while self._is_clogged:
                if self._drained is not None:
                    raise anyio.BusyResourceError("sending to")
                self._drained = anyio.Event()
                try:
                    await self._drained.wait()
                finally:
                    self._drained = None
            self._check_open()
            was_open = self._connection.is_open and not self._sent_eof
            data = bytes(item[start : start + MAX_RECEIVE_BYTES])
            self._connection.receive(data, unread=bool(self._unread))
            if not was_open:
                raise anyio.BrokenResourceError
            self._wake()

    async def send_eof(self) -> None:
        """End the client's side; what the server said can still be received."""
        await anyio.lowlevel.checkpoint()
        self._check_open()
        self._end()

    async def aclose(self) -> None:
        """Close the connection."""
        self._is_closed = True
        self._end()
        await anyio.lowlevel.checkpoint()

    def is_readable(self) -> bool:
        """Say whether `receive` would return or raise at once."""
        return bool(self._unread) or self._is_closed or not self._connection.is_open

    def _check_open(self) -> None:
        if self._is_closed:
            raise anyio.ClosedResourceError

    def _end(self) -> None:
        if not self._sent_eof:
            self._sent_eof = True
            self._connection.receive(b"")
        self._wake()

    async def _flush(self) -> None:
        self._wake()
        await anyio.lowlevel.checkpoint()

    def _wake(self) -> None:
        if self._readable is not None and self.is_readable():
            self._readable.set()
        if self._drained is not None and not self._is_clogged:
            self._drained.set()
