"""Boards in PostgreSQL: a row for each relay, in the table `smtplite_board` beside the queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

from smtplite.worker.shaping.board import Board

__all__ = ["PostgresBoards", "table_of"]

T = TypeVar("T")

_NOW = "extract(epoch FROM clock_timestamp())::float AS now"


class _Statements(Protocol):
    """Whatever runs SQL statements."""

    async def fetch(self, query: str, *arguments: object) -> list[dict[str, Any]]: ...


def table_of(name: str) -> str:
    """Return the statement that creates the table."""
    return f"CREATE TABLE IF NOT EXISTS {name} (relay text PRIMARY KEY, board text NOT NULL)"


class PostgresBoards:
    """Boards in a table; see `Boards`. A `PostgresSource` has one.

    Args:
        table: its name.
        transaction: opens a transaction, and returns what runs statements in it.
    """

    def __init__(self, table: str, transaction: Callable[[], AbstractAsyncContextManager[_Statements]]) -> None:
        self._table = table
        self._transaction = transaction

    async def change(self, relay: str, action: Callable[[Board, float], T]) -> T:
        """Change the board of a relay; see `Boards.change`. Others wait until it is done."""
        async with self._transaction() as statements:
            row = await self._row(statements, relay, " FOR UPDATE")
            if row is None:  # create it, so that others have a row to wait for
                await statements.fetch(
                    f"INSERT INTO {self._table} VALUES ($1, '') ON CONFLICT DO NOTHING RETURNING 1",  # noqa: S608 (our table's name)
                    relay,
                )
                row = await self._row(statements, relay, " FOR UPDATE")
            board, now = _read(row)
            result = action(board, now)
            await statements.fetch(
                f"UPDATE {self._table} SET board = $2 WHERE relay = $1 RETURNING 1",  # noqa: S608 (as above)
                relay,
                board.to_json().decode(),
            )
        return result

    async def read(self, relay: str) -> tuple[Board, float]:
        """Return the board of a relay, and the database's time."""
        async with self._transaction() as statements:
            row = await self._row(statements, relay, "")
            if row is None:
                [row] = await statements.fetch(f"SELECT '' AS board, {_NOW}")
            return _read(row)

    async def _row(self, statements: _Statements, relay: str, lock: str) -> Mapping[str, Any] | None:
        rows = await statements.fetch(
            f"SELECT board, {_NOW} FROM {self._table} WHERE relay = $1{lock}",  # noqa: S608 (as above)
            relay,
        )
        return rows[0] if rows else None


def _read(row: Mapping[str, Any] | None) -> tuple[Board, float]:
    if row is None:  # it was deleted at this very moment
        raise RuntimeError("the row of the board is gone")
    return Board.from_json(row["board"]), row["now"]
