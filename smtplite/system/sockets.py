"""Sockets: Unix sockets where there are any, connecting, looking, and closing at once."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from typing import Final

from smtplite.errors import ConfigurationError

__all__ = ["RESET_ON_CLOSE", "connect_error", "has_arrived", "is_under_way", "reason_of", "unix_family"]

#: For SO_LINGER: closing sends a reset, and drops what was not sent. ``struct linger`` is two shorts on Windows.
RESET_ON_CLOSE: Final = struct.pack("HH" if sys.platform == "win32" else "ii", 1, 0)

#: What `connect_ex` says while it goes on. On other systems EWOULDBLOCK is EAGAIN: nothing goes on.
_UNDER_WAY: Final = (errno.EINPROGRESS, errno.EINTR, *((errno.EWOULDBLOCK,) if sys.platform == "win32" else ()))

#: What the system says -> what it means: macOS may say EPROTOTYPE to whoever writes while the connection ends.
_MEANS: Final = {errno.EPROTOTYPE: errno.EPIPE} if sys.platform == "darwin" else {}


def unix_family() -> socket.AddressFamily:
    """Return the address family of Unix sockets.

    Raises:
        ConfigurationError: Python has none on this system.
    """
    family: socket.AddressFamily | None = getattr(socket, "AF_UNIX", None)
    if family is None:
        raise ConfigurationError("socket_path needs Unix sockets, and Python has none on Windows: pass hostname")
    return family


def is_under_way(code: int) -> bool:
    """Return True if `connect_ex` said that connecting goes on, and the socket can be waited for."""
    return code in _UNDER_WAY


def connect_error(code: int) -> OSError:
    """Return the error of a connection that could not be made, from the number that the system gave."""
    # os.strerror knows the numbers of Windows' sockets not at all: "Unknown error".
    texts: dict[int, str] = getattr(socket, "errorTab", {})
    return OSError(code, texts.get(code, "").removesuffix(".") or os.strerror(code))


def reason_of(error: OSError) -> str | None:
    """Return what the system says of an error; None if it is not the system's, or says nothing."""
    means = _MEANS.get(error.errno) if error.errno is not None else None
    return error.strerror if means is None else os.strerror(means)


def has_arrived(sock: socket.socket) -> bool:
    """Return True if anything can be read now, an end or an error too; nothing is taken away.

    It peeks, on every system alike: not every one has poll(), and those that do differ in what it says of an end.

    Args:
        sock: non-blocking.
    """
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
