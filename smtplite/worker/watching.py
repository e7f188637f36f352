"""What a worker does for those who watch it: it tells them what happens, and counts the queue."""

from __future__ import annotations

import logging
import time
from typing import Any, Final

import anyio

from smtplite.results import Delivery
from smtplite.worker.events import EngineFailed, QueueCounted, WorkerEvent, WorkerTrace
from smtplite.worker.source import Source

__all__ = ["keep_counting", "relay_of", "tell"]

logger = logging.getLogger("smtplite.worker")

#: Counting the queue may keep the engine busy for this part of the time.
_COUNTING_SHARE: Final = 0.05


def tell(trace: WorkerTrace, event: WorkerEvent) -> None:
    """Hand an event to the caller's hook, whose exceptions are logged and go no further."""
    try:
        trace(event)
    except Exception:
        logger.exception("trace hook failed on %s", type(event).__name__)


def relay_of(delivery: Delivery, sender: Any) -> str | None:
    """Return the relay that had the last word on a message.

    Args:
        delivery: what came of it.
        sender: what it was sent by: a Client, which has a `server`, or a Route, whose results have hops.
    """
    result = delivery.receipt if delivery.error is None else delivery.error
    if result is not None and result.hops:
        return result.hops[-1].relay
    return getattr(sender, "server", None)


async def keep_counting(source: Source, trace: WorkerTrace, seconds: float) -> None:
    """Say now and then how many jobs there are; where counting takes long, less often.

    Args:
        source: counts.
        trace: is told.
        seconds: between two times, at least.
    """
    while True:
        began = time.monotonic()
        try:
            tell(trace, QueueCounted(lanes=tuple(await source.status())))
        except Exception as error:
            logger.exception("the jobs of the queue cannot be counted")
            tell(trace, EngineFailed(lane=None, operation="status", error=error))
        took = time.monotonic() - began
        await anyio.sleep(max(seconds, took / _COUNTING_SHARE))
