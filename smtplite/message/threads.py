"""Worker threads, for work that would hold up the event loop. A slow one keeps nobody waiting."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable
from typing import Final, TypeVar, TypeVarTuple

import anyio
import anyio.lowlevel
import anyio.to_thread

__all__ = ["in_thread"]

#: How many threads of one event loop work at the same time. They are our own, because those of anyio may all be waiting
#: for us to send.
_THREADS: Final = 8
#: A thread that takes longer does not count any more: a slow message must not hold up others (rule R27).
_MOMENT_SECONDS: Final = 0.25
#: But there is an end to it: a thread costs memory.
_MAX_THREADS: Final = 64

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class _Threads:
    """The worker threads of one event loop: a few at a time, in the order in which they are asked for."""

    def __init__(self) -> None:
        self._limiter = anyio.CapacityLimiter(math.inf)  # it is counted here
        self._began: dict[object, float] = {}  # those at work, the oldest first
        self._waiting: deque[anyio.Event] = deque()  # an event is set when its owner is the first
        self._freed = anyio.Event()

    async def run(self, function: Callable[[*_Ts], _T], *arguments: *_Ts, abandon_on_cancel: bool) -> _T:
        if self._waiting or self._seconds_to_wait():
            await self._wait()
        key = object()
        self._began[key] = anyio.current_time()
        try:
            return await anyio.to_thread.run_sync(
                function, *arguments, limiter=self._limiter, abandon_on_cancel=abandon_on_cancel
            )
        finally:
            del self._began[key]
            self._freed.set()

    def _seconds_to_wait(self) -> float:
        """Return 0 if there is room for one more; else in how many seconds there will be, if nobody is done by then."""
        count = len(self._began)
        if count < _THREADS:
            return 0
        if count >= _MAX_THREADS:
            return math.inf
        # There is room once all but the last seven have had their moment.
        began = next(itertools.islice(self._began.values(), count - _THREADS, None))
        return max(began + _MOMENT_SECONDS - anyio.current_time(), 0)

    async def _wait(self) -> None:
        mine = anyio.Event()
        self._waiting.append(mine)
        try:
            if self._waiting[0] is not mine:
                await mine.wait()
            while seconds := self._seconds_to_wait():
                self._freed = anyio.Event()
                with anyio.move_on_after(seconds):
                    await self._freed.wait()
        finally:
            self._waiting.remove(mine)
            if self._waiting:
                self._waiting[0].set()


_threads: Final = anyio.lowlevel.RunVar[_Threads]("smtplite threads")


async def in_thread(function: Callable[[*_Ts], _T], *arguments: *_Ts, abandon_on_cancel: bool = False) -> _T:
    """Call a function in a worker thread.

    Args:
        function: what to call. It cannot be stopped; if it takes longer than a moment, it keeps nobody waiting.
        arguments: its arguments.
        abandon_on_cancel: True: a caller that is cancelled does not wait for it; for functions without side effects.
    """
    try:
        threads = _threads.get()
    except LookupError:
        threads = _Threads()
        _threads.set(threads)
    return await threads.run(function, *arguments, abandon_on_cancel=abandon_on_cancel)
