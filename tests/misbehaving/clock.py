"""Clocks that skip the time in which nothing happens: a deadline of ten minutes is waited for in a few milliseconds.

Both event loops here go on as usual while there is anything to do. Once nothing was for `IDLE_SECONDS`, they move their
clock to the next deadline. So a test may hold the deadlines of RFC 5321 as they are, and a machine that is busy cannot
make it fail: what costs time is idleness, not work.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Mapping
from selectors import SelectorKey
from typing import Any, Final

import sniffio
import trio
import trio.testing

#: Real seconds without an event until the clock is moved. The kernel delivers on loopback at once.
IDLE_SECONDS: Final = 0.01


class _SkippingSelector(selectors.BaseSelector):
    """A selector that reports, in place of waiting for longer than `IDLE_SECONDS`, how long it would have waited."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self.skipped = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        if timeout is None or timeout <= IDLE_SECONDS:
            return self._selector.select(timeout)
        events = self._selector.select(IDLE_SECONDS)
        if not events:
            self.skipped += timeout - IDLE_SECONDS
        return events

    def register(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        return self._selector.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> SelectorKey:
        return self._selector.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        return self._selector.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, SelectorKey]:
        return self._selector.get_map()

    def close(self) -> None:
        self._selector.close()


class SkippingEventLoop(asyncio.SelectorEventLoop):
    """asyncio's event loop, with a clock that skips idle time."""

    def __init__(self) -> None:
        self._skipping = _SkippingSelector()
        super().__init__(self._skipping)

    def time(self) -> float:
        return super().time() + self._skipping.skipped


def skipping_trio_clock() -> trio.testing.MockClock:
    """Return a clock for one run of trio that skips idle time."""
    return trio.testing.MockClock(rate=1.0, autojump_threshold=IDLE_SECONDS)


def is_skipping() -> bool:
    """Tell whether the event loop that runs is one of these."""
    if sniffio.current_async_library() == "trio":
        return isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock)
    return isinstance(asyncio.get_running_loop(), SkippingEventLoop)
