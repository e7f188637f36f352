"""What a worker does for `trace`: it reports what happens, and counts the queue."""

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

#: Counting the queue may take up this part of the time, at most.
_COUNTING_SHARE: Final = 0.05


def tell(trace: WorkerTrace, event: WorkerEvent) -> None:
    """Pass an event to the caller's hook. If it raises, that is logged, and nothing else happens."""
    try:
        trace(event)
    except Exception:
        logger.exception("trace hook failed on %s", type(event).__name__)


def relay_of(delivery: Delivery, sender: Any) -> str | None:
    """Return the relay that had the last word on a message.

    Args:
        delivery: the result.
        sender: what sent it: a Client, which has a `server`, or a Route, whose results have hops.
    """
    result = delivery.receipt if delivery.error is None else delivery.error
    if result is not None and result.hops:
        return result.hops[-1].relay
    return getattr(sender, "server", None)


async def keep_counting(source: Source, trace: WorkerTrace, seconds: float) -> None:
    """Report how many jobs there are, again and again; less often if counting takes long.

    Args:
        source: counts the jobs.
        trace: is told.
        seconds: the time between two counts, at least.
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
