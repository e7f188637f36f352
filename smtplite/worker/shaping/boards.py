"""Boards: where the board of each relay is kept. In memory here; for PostgreSQL and JetStream, beside the queue."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from smtplite.worker.shaping.board import Board

__all__ = ["Boards", "MemoryBoards"]

T = TypeVar("T")


class Boards(Protocol):
    """Keeps a board for each relay, and changes it in one step, even if others want to change it at the same time."""

    async def change(self, relay: str, action: Callable[[Board, float], T]) -> T:
        """Change the board of a relay.

        Args:
            relay: its name; a board that was never written is empty.
            action: called with the board and the store's time, in seconds; changes the board. It may be called again,
                with another board, if somebody else was faster.

        Returns:
            What the action returned.
        """

    async def read(self, relay: str) -> tuple[Board, float]:
        """Return the board of a relay, and the store's time."""


class MemoryBoards:
    """Boards in memory, for the workers of one process.

    Args:
        monotonic: a clock that only goes forward, in seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._texts: dict[str, bytes] = {}

    async def change(self, relay: str, action: Callable[[Board, float], T]) -> T:
        """Change the board of a relay; see `Boards.change`."""
        board = Board.from_json(self._texts.get(relay))
        result = action(board, self._monotonic())
        self._texts[relay] = board.to_json()
        return result

    async def read(self, relay: str) -> tuple[Board, float]:
        """Return the board of a relay, and the time."""
        return Board.from_json(self._texts.get(relay)), self._monotonic()
