"""Stream: what a session needs from a connection of any kind."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

import anyio

from smtplite.errors import ConnectionLost

__all__ = ["MAX_RECEIVE_BYTES", "Meanwhile", "Stream", "send_while"]

#: The most that one `receive` returns.
MAX_RECEIVE_BYTES: Final = 65_536

#: What runs while a write has to wait: a reader. It cancels the scope that it is given once writing is pointless.
Meanwhile = Callable[[anyio.CancelScope], Coroutine[Any, Any, None]]


class Stream(Protocol):
    """What a session needs from a connection."""

    @property
    def unsent(self) -> int:
        """How many bytes at the end of the last `send` the kernel (or the stream below) has not accepted."""

    async def send(self, data: bytes, meanwhile: Meanwhile | None = None) -> None:
        """Write all of `data`, unless `meanwhile` ends the write earlier.

        Args:
            data: the bytes.
            meanwhile: runs while the other side accepts no more.

        Raises:
            ConnectionLost: the connection failed; `unsent` says how much was not accepted.
            TLSError: TLS failed.
        """

    async def receive(self) -> bytes:
        """Return what has arrived, waiting if nothing has; b"" once the server closed its side.

        Raises:
            ConnectionLost: the connection failed.
            TLSError: TLS failed, for example because the server sent an alert.
        """

    async def look(self) -> bytes | None:
        """Return what has arrived, without waiting; b"" once the server closed its side; None if nothing is there.

        Raises:
            TLSError: TLS failed, for example because the server sent an alert.
        """

    def watch(self) -> None:
        """Say that much will be received from now on, until `rest`: the event loop may watch all the time."""

    def rest(self) -> None:
        """Say that nothing will be received for a while: nothing stays registered with an event loop."""

    def is_stale(self) -> bool:
        """Return True if anything arrived, or the connection ended, while it was idle."""

    def abort(self) -> None:
        """Close at once, without await and without telling the server; bytes not yet accepted are never sent."""

    def close(self) -> None:
        """Close our end, and nothing more: after a fork the connection is still the parent's."""

    async def aclose(self) -> None:
        """Close; never raises."""

    @property
    def local_address(self) -> str | None:
        """The IP address of our end, if it has one."""


async def send_while(sending: Coroutine[Any, Any, None], meanwhile: Meanwhile, patience: float = 0) -> None:
    """Run both, `meanwhile` after some seconds of patience, until the first of them ends the other."""
    failures: list[ConnectionLost] = []

    async def run() -> None:
        if patience:
            await anyio.sleep(patience)
        await meanwhile(tasks.cancel_scope)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        try:
            await sending
        except ConnectionLost as error:  # if it left the task group, it would become an ExceptionGroup
            failures.append(error)
        tasks.cancel_scope.cancel()
    if failures:
        raise failures[0]
