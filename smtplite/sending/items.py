"""Items: the caller's messages on their way into a stream, taken one by one; and those that are ready to be sent."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio

from smtplite.callbacks import pass_through
from smtplite.sending.outbound import Outbound
from smtplite.sending.session import Session

__all__ = ["Items", "Ready"]


class Items:
    """The caller's messages, taken one by one. Those that must be waited for are fetched by a task, a few ahead.

    Args:
        items: the caller's.
        limit: the caller's rate limit, entered and left before an item is given.
        ahead: how many may be fetched and not taken.
        call: called whenever there may be more, or no more.
    """

    def __init__(
        self,
        items: Iterable[Any] | AsyncIterable[Any],
        limit: AbstractAsyncContextManager[object] | None,
        ahead: int,
        call: Callable[[], None],
    ) -> None:
        self._items = items
        self._limit = limit
        self._ahead = ahead
        self._call = call
        self._iterator: Iterator[Any] | None = None
        if limit is None and not isinstance(items, AsyncIterable):
            self._iterator = iter(items)
        self._fetched: deque[Any] = deque()
        self._at_limit: list[Any] = []  # the item that waits for the caller's rate limit
        self._was_taken = anyio.Event()
        self._is_exhausted = False
        #: What the caller's iterable raised.
        self.failure: Exception | None = None

    @property
    def must_be_fetched(self) -> bool:
        """True if `fetch` is to run in a task, for as long as items are wanted."""
        return self._iterator is None

    @property
    def is_exhausted(self) -> bool:
        """True once there will be no more."""
        return self._is_exhausted and not self._fetched

    @property
    def not_given(self) -> list[Any]:
        """What was taken from the caller and not yet given."""
        return [*self._fetched, *self._at_limit]

    def next(self) -> tuple[bool, Any]:
        """Return whether there is an item now, and the item."""
        if self._iterator is None:
            if not self._fetched:
                return False, None
            self._was_taken.set()
            return True, self._fetched.popleft()
        if self._is_exhausted:
            return False, None
        try:
            return True, next(self._iterator)
        except StopIteration:
            pass
        except Exception as error:  # noqa: BLE001 (the caller's own: raised by the loop)
            self.failure = error
        self._is_exhausted = True
        self._call()
        return False, None

    async def fetch(self) -> None:
        """Take items for which has to be waited, a few ahead."""
        try:
            async for item in self._items if isinstance(self._items, AsyncIterable) else _Each(self._items):
                self._at_limit.append(item)  # taken, and nowhere else yet
                if self._limit is not None:
                    await pass_through(self._limit)
                self._at_limit.clear()
                self._fetched.append(item)
                self._call()
                while len(self._fetched) >= self._ahead:
                    if self._was_taken.is_set():
                        self._was_taken = anyio.Event()
                    await self._was_taken.wait()
        except Exception as error:  # noqa: BLE001 (the caller's own: raised by the loop)
            self.failure = error
        self._is_exhausted = True
        self._call()


class _Each:
    """The items of an iterable, to a loop that has to wait between them."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._iterator = iter(items)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        try:
            return next(self._iterator)
        except StopIteration:
            raise StopAsyncIteration from None


class Ready:
    """Messages that were read and checked, or sent before in part or in vain. They come before new ones."""

    def __init__(self) -> None:
        self._waiting: deque[Outbound] = deque()
        self._cut: deque[Outbound] = deque()  # sent before in vain: for a connection that is opened after that

    def __len__(self) -> int:
        return len(self._waiting) + len(self._cut)

    @property
    def has_cut(self) -> bool:
        """True if a connection has to be opened for one of them."""
        return bool(self._cut)

    def add(self, outbound: Outbound) -> None:
        """Add one."""
        (self._cut if outbound.is_cut else self._waiting).append(outbound)

    def put_back(self, outbound: Outbound) -> None:
        """Take back what there was no room for; it comes first."""
        (self._cut if outbound.was_tried else self._waiting).appendleft(outbound)

    def take(self, session: Session) -> Outbound | None:
        """Return what comes next in this session; None: there is nothing for it."""
        if self._cut and session.opened_at > self._cut[0].cut_at:
            return self._cut.popleft()
        return self._waiting.popleft() if self._waiting else None
