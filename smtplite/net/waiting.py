"""Waiting for sockets, on every event loop; with a way around what anyio mixes up on some.

An event loop without ``add_reader``, as asyncio's default on Windows, leaves the waiting to a thread of anyio's. That
thread loses a wait if the same socket is waited for in both directions (anyio 4.16: what was ready first is taken off
its list twice, and the second time fails). So there a writer waits for a duplicate of the socket, and a reader for the
socket itself.

The loop's own ``sock_recv`` is not the way: a read that is cancelled on a proactor may have taken octets already
(https://github.com/python/cpython/pull/7498), and a ``sock_sendall`` that is cancelled does not tell how much went out.
"""

from __future__ import annotations

import socket
import sys
from typing import Final
from weakref import WeakKeyDictionary

import anyio
from anyio import wait_readable

__all__ = ["notify_closing", "wait_readable", "wait_writable"]

#: Sockets that are waited for to write to -> the duplicates.
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
    """Wait until the socket takes octets, while others may wait to read.

    Raises:
        anyio.ClosedResourceError: it is being closed; see `notify_closing`.
        OSError: it cannot be waited for.
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
    """Wake whoever waits for a socket that is about to be closed; on a closed descriptor they would wait for ever."""
    duplicate = _duplicates.pop(sock, None)
    try:
        for each in (sock,) if duplicate is None else (sock, duplicate):
            anyio.notify_closing(each)
    except RuntimeError:
        pass  # no event loop is running here, so nobody waits
    if duplicate is not None:  # as long as it is open, the connection is
        duplicate.close()
