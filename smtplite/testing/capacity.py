"""How many connections the testing server serves at the same time, and what happens to one more."""

from __future__ import annotations

from collections import deque
from typing import Literal, get_args

from smtplite.testing.connection import ServedConnection

__all__ = ["Capacity", "WhenFull"]

#: What a server does with a connection for which it has no place. ``"421"``: it says so instead of a greeting.
#: ``"close"``: it closes it without a word. ``"silence"``: it says nothing, and serves it once there is a place.
WhenFull = Literal["421", "close", "silence"]

FULL_REPLY = b"421 4.3.2 too many connections, try again later\r\n"


class Capacity:
    """The places of a server.

    Args:
        limit: how many there are; None: no limit.
        when_full: what happens to a connection for which there is none.

    Raises:
        ValueError: an argument is none of these.
    """

    def __init__(self, limit: int | None, when_full: WhenFull) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"max_connections is at least 1, or None, not {limit!r}")
        if when_full not in get_args(WhenFull):
            raise ValueError(f'when_full is "421", "close" or "silence", not {when_full!r}')
        self._limit = limit
        self._when_full = when_full
        self._served: set[ServedConnection] = set()
        self._waiting: deque[ServedConnection] = deque()

    def begin(self, connection: ServedConnection) -> None:
        """Serve a connection that was accepted, or do what is done with one too many."""
        if self._has_place:
            self._served.add(connection)
            connection.greet()
        elif self._when_full == "silence":
            self._waiting.append(connection)
            connection.is_waiting = True
        else:
            connection.turn_away(FULL_REPLY if self._when_full == "421" else b"")

    def end(self, connection: ServedConnection) -> None:
        """Take note that a connection has ended; its place goes to the one that has waited longest."""
        if connection in self._waiting:
            self._waiting.remove(connection)
        self._served.discard(connection)
        while self._waiting and self._has_place:
            following = self._waiting.popleft()
            self._served.add(following)
            following.greet()
            following.wake()

    @property
    def _has_place(self) -> bool:
        return self._limit is None or len(self._served) < self._limit
