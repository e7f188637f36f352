"""Wait for sockets, on every event loop; with a way around a bug of anyio on some of them.

An event loop without ``add_reader``, such as asyncio's default on Windows, leaves the waiting to a thread of anyio's.
That thread loses a wait if two tasks wait for the same socket, one to read and one to write (anyio 4.16 removes what
was ready first from its list twice, and the second time fails). So on those loops a writer waits for a duplicate of the
socket, and a reader for the socket itself.

The loop's own ``sock_recv`` cannot be used: a read that is cancelled on a proactor may already have consumed bytes
(https://github.com/python/cpython/pull/7498), and a cancelled ``sock_sendall`` does not tell how much was sent.
"""

from __future__ import annotations

import socket
import sys
from typing import Final
from weakref import WeakKeyDictionary

import anyio
from anyio import wait_readable

__all__ = ["notify_closing", "wait_readable", "wait_writable"]

#: A socket that a writer waits for -> its duplicate.
_duplicates: Final[WeakKeyDictionary[socket.socket, socket.socket]] = WeakKeyDictionary()


def _has_readers() -> bool:
    """Return True if the event loop itself watches sockets; trio does."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return True
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return True
    return type(loop).add_writer is not asyncio.AbstractEventLoop.add_writer


async def wait_writable(sock: socket.socket) -> None:
    """Wait until the socket accepts bytes; another task may wait to read meanwhile.

    Raises:
        anyio.ClosedResourceError: it is being closed; see `notify_closing`.
        OSError: waiting for it failed.
    """
    if _has_readers():
        await anyio.wait_writable(sock)
        return
    duplicate = _duplicates[sock] = sock.dup()
    try:
        await anyio.wait_writable(duplicate)
    finally:
        _duplicates.pop(sock, None)
        duplicate.close()


def notify_closing(sock: socket.socket) -> None:
    """Wake the tasks that wait for a socket before it is closed; on a closed descriptor they would wait forever."""
    duplicate = _duplicates.pop(sock, None)
    try:
        for each in (sock,) if duplicate is None else (sock, duplicate):
            anyio.notify_closing(each)
    except RuntimeError:
        pass  # no event loop is running here, so nobody waits
    if duplicate is not None:  # while it is open, the connection stays open
        duplicate.close()
