"""The event loops of the tests; and one that is not on this system, imitated as far as that goes."""

from __future__ import annotations

import asyncio
from asyncio import selector_events
from typing import Final

import pytest

__all__ = ["LOOPS", "LOOPS_AND_IMITATED", "LikeProactor"]


class LikeProactor(selector_events.BaseSelectorEventLoop):
    """An event loop with what asyncio's default on Windows has, and no more.

    It watches no file descriptors for others, hears no signals, and has no Unix sockets. Servers, `sock_recv` and the
    like work. How a proactor does these, and what Windows makes of sockets, is not imitated.
    """

    add_reader = asyncio.AbstractEventLoop.add_reader
    remove_reader = asyncio.AbstractEventLoop.remove_reader
    add_writer = asyncio.AbstractEventLoop.add_writer
    remove_writer = asyncio.AbstractEventLoop.remove_writer

    # What we inherit asks for the methods that are missing here.

    def _sock_read_done(self, fd: int, fut: object, handle: asyncio.Handle | None = None) -> None:
        if handle is None or not handle.cancelled():
            self._remove_reader(fd)  # type: ignore[attr-defined]  # not in typeshed

    def _sock_write_done(self, fd: int, fut: object, handle: asyncio.Handle | None = None) -> None:
        if handle is None or not handle.cancelled():
            self._remove_writer(fd)  # type: ignore[attr-defined]  # not in typeshed


#: What `anyio_backend` is, for most rooms.
LOOPS: Final = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop", marks=pytest.mark.needs("uvloop")),
    pytest.param(("trio", {}), id="trio"),
]
#: The same for the client, and for all that it stands on. `tests/exhaustive.py` knows the last one by its name.
LOOPS_AND_IMITATED: Final = [*LOOPS, pytest.param(("asyncio", {"loop_factory": LikeProactor}), id="no_readers")]
