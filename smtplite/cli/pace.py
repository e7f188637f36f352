"""``smtplite send --rate``: a number of messages in a period, evenly spread."""

from __future__ import annotations

import argparse
import re
from types import TracebackType
from typing import Final

__all__ = ["Pace", "rate"]

_RATE: Final = re.compile(r"(?P<count>\d+(?:\.\d+)?)/(?P<unit>s|sec|second|m|min|minute|h|hour|d|day)", re.ASCII)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def rate(text: str) -> float:
    """Read a rate such as 10/s, 600/min or 1000/h.

    Returns:
        Messages in a second.
    """
    match = _RATE.fullmatch(text)
    if match is None or not float(match["count"]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate such as 10/s, 600/min or 1000/h")
    return float(match["count"]) / _SECONDS[match["unit"][0]]


class Pace:
    """A rate limit for `smtplite.Client`: each message waits for its turn, and the turns are evenly spaced.

    After a pause there is no burst to make up for it: servers with a limit answer a burst with a 421.

    Args:
        per_second: turns in a second.
    """

    def __init__(self, per_second: float) -> None:
        self._seconds = 1 / per_second
        self._next = 0.0

    async def __aenter__(self) -> None:
        import anyio

        turn = max(anyio.current_time(), self._next)
        self._next = turn + self._seconds
        await anyio.sleep_until(turn)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None
