"""Live updates: what changed in the store, for each browser that listens (server-sent events)."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import anyio

from smtplite.cli.store import Caught, Change, Store

__all__ = ["Events", "Listener"]

#: A browser that missed so many changes reads the list again.
MAX_BEHIND: Final = 2000
#: A comment from time to time: without it nobody would notice that a browser has gone.
HEARTBEAT_SECONDS: Final = 15.0


class Events:
    """Tells the browsers what changed.

    Args:
        store: whose changes.
        summary: makes of a message what the list shows.

    Attributes:
        is_over: whether all streams are to end.
    """

    def __init__(self, store: Store, summary: Callable[[Caught], dict[str, Any]]) -> None:
        self._store = store
        self._summary = summary
        self._listeners: set[Listener] = set()
        self.is_over = False
        store.listen(self._changed)

    def __len__(self) -> int:
        return len(self._listeners)

    def _changed(self, change: Change) -> None:
        for listener in self._listeners:
            listener.put(change)

    def end(self) -> None:
        """End all streams, also those to come: a server cannot stop before."""
        self.is_over = True
        for listener in self._listeners:
            listener.wake()

    @contextmanager
    def changes(self) -> Iterator[Listener]:
        """Give what waits for changes, those from now on."""
        listener = Listener()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    async def stream(self) -> AsyncIterator[str]:
        """Yield events until the end: first the revision, then all that changed since the last one, in one."""
        with self.changes() as listener:
            yield _event({"revision": self._store.revision, "messages": len(self._store)}, "hello")
            while not self.is_over:
                if not await listener.wait(HEARTBEAT_SECONDS):
                    yield ": still here\n\n"
                    continue
                if self.is_over:
                    return
                changes = listener.take()
                if changes is None:
                    yield _event({"revision": self._store.revision}, "reload")
                elif changes:
                    yield _event(self._merged(changes), "change")

    def _merged(self, changes: list[Change]) -> dict[str, Any]:
        removed = {number for change in changes for number in change.removed}
        return {
            "revision": changes[-1].revision,
            "added": [
                self._summary(caught) for change in changes for caught in change.added if caught.number not in removed
            ],
            "removed": sorted(removed),
        }


class Listener:
    """One that waits for changes, with those that it has not been told yet."""

    def __init__(self) -> None:
        self._changes: list[Change] | None = []
        self._event = anyio.Event()

    def put(self, change: Change) -> None:
        """Note a change."""
        if self._changes is not None:
            self._changes.append(change)
            if len(self._changes) > MAX_BEHIND:
                self._changes = None
        self.wake()

    def wake(self) -> None:
        """End the wait."""
        self._event.set()

    async def wait(self, seconds: float = math.inf) -> bool:
        """Wait until something happened, at most so many seconds, and say whether it did."""
        with anyio.move_on_after(seconds):
            await self._event.wait()
            return True
        return False

    def take(self) -> list[Change] | None:
        """Return what changed since the last time; None: too much."""
        changes, self._changes = self._changes, []
        self._event = anyio.Event()
        return changes


def _event(data: dict[str, Any], name: str) -> str:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"
