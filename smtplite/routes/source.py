"""Source: the caller's messages on their way into a route, taken one by one."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from typing import Any

import anyio

from smtplite.message import Prepared
from smtplite.message.envelope import Outgoing

__all__ = ["Source", "prepared_of"]


class Source:
    """The caller's items. Those that must be waited for are fetched by a task of the route, which no relay can cancel.

    Args:
        items: the caller's.
        ahead: how many may be fetched and not taken.
        call: called whenever there may be more, or no more.
    """

    def __init__(self, items: Iterable[Any] | AsyncIterable[Any], ahead: int, call: Callable[[], None]) -> None:
        self._items = items
        self._ahead = ahead
        self._call = call
        self._iterator: Iterator[Any] | None = None if isinstance(items, AsyncIterable) else iter(items)
        self._fetched: deque[Any] = deque()
        self._was_taken = anyio.Event()
        self._is_exhausted = False
        #: What the caller's iterable raised.
        self.failure: Exception | None = None

    @property
    def must_be_fetched(self) -> bool:
        """True if `fetch` is to run in a task."""
        return self._iterator is None

    @property
    def is_exhausted(self) -> bool:
        """True once there will be no more."""
        return self._is_exhausted and not self._fetched

    @property
    def untaken(self) -> list[Any]:
        """What was taken from the caller, and not from here."""
        return list(self._fetched)

    def next(self) -> tuple[bool, Any]:
        """Return whether there is an item now, and the item."""
        if self._fetched:
            self._was_taken.set()
            return True, self._fetched.popleft()
        if self._is_exhausted or self._iterator is None:
            return False, None
        try:
            return True, next(self._iterator)
        except StopIteration:
            pass
        except Exception as error:  # noqa: BLE001 (the caller's own: raised by the loop)
            self.failure = error
        self._end()
        return False, None

    def put_back(self, item: Any) -> None:
        """Take back an item with which nothing was done."""
        self._fetched.appendleft(item)
        self._call()

    def _end(self) -> None:
        self._is_exhausted = True
        self._call()

    async def fetch(self) -> None:
        """Take items for which has to be waited, a few ahead."""
        items = self._items
        if not isinstance(items, AsyncIterable):
            return
        try:
            async for item in items:
                self._fetched.append(item)
                self._call()
                while len(self._fetched) >= self._ahead:
                    if self._was_taken.is_set():
                        self._was_taken = anyio.Event()
                    await self._was_taken.wait()
        except Exception as error:  # noqa: BLE001 (the caller's own: raised by the loop)
            self.failure = error
        self._end()


async def prepared_of(item: Any) -> Prepared:
    """Read and check one of the caller's items, once for all relays.

    Raises:
        SMTPError: it cannot be sent.
    """
    if isinstance(item, Prepared):
        return item.signed_by(None)  # somebody else closes it
    if isinstance(item, Outgoing):
        return await Prepared.of(item.message, sender=item.sender, recipients=item.recipients, envelope=item.envelope)
    return await Prepared.of(item)
