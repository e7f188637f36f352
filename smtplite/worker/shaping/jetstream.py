"""Boards in JetStream: a key for each relay, in a bucket beside the streams, written by compare-and-set."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final, TypeVar

import anyio
from nats.js.errors import BucketNotFoundError, KeyNotFoundError, KeyWrongLastSequenceError

from smtplite.worker.shaping.board import Board

__all__ = ["JetStreamBoards"]

T = TypeVar("T")

#: How often a change is tried again because somebody else was faster.
_TRIES: Final = 20
_LONGEST_PAUSE_SECONDS: Final = 0.05
#: How often the server is asked for its time; in between, the monotonic clock counts.
_CLOCK_SECONDS: Final = 60.0


class JetStreamBoards:
    """Boards in a bucket of keys and values; see `Boards`. A `JetStreamSource` has one.

    Args:
        bucket: its name.
        context: returns nats-py's JetStream context.
        ask: calls JetStream's API.
    """

    def __init__(
        self, bucket: str, context: Callable[[], Any], ask: Callable[[str], Awaitable[dict[str, Any]]]
    ) -> None:
        self._bucket = bucket
        self._context = context
        self._ask = ask
        self._clock_at: float | None = None
        self._offset = 0.0

    async def install(self, replicas: int) -> None:
        """Create the bucket, if it does not exist."""
        try:
            await self._context().key_value(self._bucket)
        except BucketNotFoundError:
            await self._context().create_key_value(bucket=self._bucket, replicas=replicas)

    async def change(self, relay: str, action: Callable[[Board, float], T]) -> T:
        """Change the board of a relay; see `Boards.change`.

        Raises:
            TimeoutError: somebody else was faster each time.
        """
        values = await self._context().key_value(self._bucket)
        for _ in range(_TRIES):
            text, revision = await self._get(values, relay)
            board, now = Board.from_json(text), await self._now()
            result = action(board, now)
            try:
                # Revision 0 means that the key does not exist; a deleted key has another revision.
                await values.update(_key(relay), board.to_json(), last=revision)
            except KeyWrongLastSequenceError:
                await anyio.sleep(random.uniform(0, _LONGEST_PAUSE_SECONDS))  # noqa: S311 (no secret)
            else:
                return result
        raise TimeoutError(f"others changed the board of {relay!r:.80} {_TRIES} times in a row")

    async def read(self, relay: str) -> tuple[Board, float]:
        """Return the board of a relay, and the server's time."""
        text, _ = await self._get(await self._context().key_value(self._bucket), relay)
        return Board.from_json(text), await self._now()

    async def _get(self, values: Any, relay: str) -> tuple[bytes | None, int]:
        try:
            entry = await values.get(_key(relay))
        except KeyNotFoundError as error:
            entry = getattr(error, "entry", None)  # there is one if the key was deleted
            return None, 0 if entry is None else entry.revision
        return entry.value, entry.revision

    async def _now(self) -> float:
        if self._clock_at is None or time.monotonic() - self._clock_at > _CLOCK_SECONDS:
            info = await self._ask(f"STREAM.INFO.KV_{self._bucket}")
            self._clock_at = time.monotonic()
            self._offset = datetime.fromisoformat(info["ts"]).timestamp() - self._clock_at
        return time.monotonic() + self._offset


def _key(relay: str) -> str:
    """Return the key of a relay in the bucket, where not every character is allowed."""
    return re.sub(r"[^A-Za-z0-9.-]", lambda found: f"={ord(found[0]):x}=", relay).strip(".") or "="
