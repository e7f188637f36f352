"""Stream: what a session needs of a connection, whatever it is made of."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

import anyio

from smtplite.errors import ConnectionLost

__all__ = ["MAX_RECEIVE_BYTES", "Meanwhile", "Stream", "send_while"]

#: The most that one `receive` returns.
MAX_RECEIVE_BYTES: Final = 65_536

#: What runs while a write has to wait: a reader, which cancels the scope it is given once writing is of no more use.
Meanwhile = Callable[[anyio.CancelScope], Coroutine[Any, Any, None]]


class Stream(Protocol):
    """What a session needs of a connection."""

    @property
    def unsent(self) -> int:
        """Octets at the end of the last `send` that the kernel (or the stream below) has not taken."""

    async def send(self, data: bytes, meanwhile: Meanwhile | None = None) -> None:
        """Write all of `data`, or as much as there is when `meanwhile` ends it.

        Args:
            data: the octets.
            meanwhile: runs as long as the other side takes nothing.

        Raises:
            ConnectionLost: the connection failed; `unsent` says how much was not taken.
            TLSError: TLS did.
        """

    async def receive(self) -> bytes:
        """Return what has arrived, waiting if nothing has; b"" once the server closed its side.

        Raises:
            ConnectionLost: the connection failed.
            TLSError: TLS did, as by an alert of the server's.
        """

    async def look(self) -> bytes | None:
        """Return what has arrived, without waiting; b"" once the server closed its side; None if nothing is there.

        Raises:
            TLSError: TLS failed, as by an alert of the server's.
        """

    def watch(self) -> None:
        """Say that much will be received from now on, until `rest`: the event loop may watch without a break."""

    def rest(self) -> None:
        """Say that nothing will be received for a while: nothing of this is left with an event loop."""

    def is_stale(self) -> bool:
        """Return True if anything arrived, or ended, while the connection was idle."""

    def abort(self) -> None:
        """Close at once, without await and without a word to the server; octets not yet taken are never sent."""

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
        except ConnectionLost as error:  # what left a task group would come out of it as an ExceptionGroup
            failures.append(error)
        tasks.cancel_scope.cancel()
    if failures:
        raise failures[0]
