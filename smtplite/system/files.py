"""Files: opened without waiting for anybody, byte for byte, and locked against other processes."""

from __future__ import annotations

import os
import sys
from typing import Final

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["AT_ONCE", "BYTE_FOR_BYTE", "lock"]

#: For `os.open`: a pipe that nobody writes into would keep its thread for ever.
AT_ONCE: Final[int] = getattr(os, "O_NONBLOCK", 0)
#: For `os.open`: ends of lines stay what they are. `open` sees to that itself.
BYTE_FOR_BYTE: Final[int] = getattr(os, "O_BINARY", 0)

#: Windows locks a range, and nobody else can read it: one byte, after what a file will have. Its C library takes the
#: place from a number of 32 bits.
_LOCKED_OFFSET: Final = (1 << 31) - 2


def lock(descriptor: int) -> None:
    """Lock a file, until it is closed.

    Raises:
        BlockingIOError, PermissionError: another process has locked it.
        OSError: it cannot be locked.
    """
    if sys.platform == "win32":
        os.lseek(descriptor, _LOCKED_OFFSET, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
