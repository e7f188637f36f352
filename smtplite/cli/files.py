"""Files that are passed to the commands: regular files only, read up to a limit.

A FIFO waits for its writer, and a device has no end: a command that was given one by mistake would hang, or fill the
memory. A symbolic link is followed, and what it leads to is checked.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from smtplite.cli.terminal import UserError
from smtplite.system.files import AT_ONCE, BYTE_FOR_BYTE

__all__ = ["MAX_MESSAGE_BYTES", "MAX_SMALL_BYTES", "FileError", "check_file", "kind_of", "read_file", "text_of"]

#: The most that is read of a message.
MAX_MESSAGE_BYTES: Final = 268_435_456
#: The most that is read of a file that is not a message: a password, certificates.
MAX_SMALL_BYTES: Final = 1_048_576

_KINDS: Final = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class FileError(UserError):
    """A file cannot be used.

    Attributes:
        reason: why, without its name.
    """

    def __init__(self, verb: str, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"cannot {verb} {os.fspath(path)}: {reason}")
        self.reason = reason


def text_of(error: OSError) -> str:
    """Return what the system says."""
    return error.strerror or str(error)


def kind_of(mode: int) -> str | None:
    """Return what kind of file this is, by its mode; None: a regular one."""
    if stat.S_ISREG(mode):
        return None
    return next((kind for test, kind in _KINDS if test(mode)), "something else")


def check_file(path: str | os.PathLike[str], max_bytes: int = MAX_SMALL_BYTES) -> None:
    """Make sure that others may read a file to its end: it is a regular one, and not too large.

    Raises:
        FileError: it is not.
    """
    try:
        _check(path, os.stat(path), max_bytes)
    except OSError as error:
        raise FileError("read", path, text_of(error)) from None


def read_file(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """Return what is in a file.

    Raises:
        FileError: it cannot be read, is not a regular file, or holds more than `max_bytes`.
    """
    check_file(path, max_bytes)  # before it is opened, because opening a device may do something
    try:
        # What has taken its place since then cannot make us wait.
        descriptor = os.open(path, os.O_RDONLY | AT_ONCE | BYTE_FOR_BYTE)
        with open(descriptor, "rb", buffering=0) as file:
            _check(path, os.fstat(descriptor), max_bytes)
            pieces, left = [], max_bytes + 1  # it may be growing
            while left and (piece := file.read(left)):
                pieces.append(piece)
                left -= len(piece)
    except OSError as error:
        raise FileError("read", path, text_of(error)) from None
    if not left:
        raise _too_large(path, max_bytes)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _check(path: str | os.PathLike[str], found: os.stat_result, max_bytes: int) -> None:
    kind = kind_of(found.st_mode)
    if kind is not None:
        raise FileError("read", path, f"it is {kind}, not a regular file")
    if found.st_size > max_bytes:
        raise _too_large(path, max_bytes)


def _too_large(path: str | os.PathLike[str], max_bytes: int) -> FileError:
    return FileError("read", path, f"it has more than {max_bytes:,} bytes")
