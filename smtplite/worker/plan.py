"""What the lanes of a worker share, and what a lane knows about a job that it has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs

from smtplite.worker import events
from smtplite.worker.jobs import Job
from smtplite.worker.retrying import Backoff
from smtplite.worker.source import Sender, Shaper, Source, Store
from smtplite.worker.watching import tell

__all__ = ["Held", "Plan"]


@attrs.frozen(kw_only=True)
class Plan:
    """What the lanes of a worker share."""

    source: Source
    sender: Sender
    store: Store
    shaper: Shaper | None
    load: Callable[[str], Awaitable[bytes]] | None
    backoff: Backoff
    batch: int
    in_flight: int
    timeout: float | None
    drain: float
    trace: events.WorkerTrace | None

    def tell(self, event: events.WorkerEvent) -> None:
        """Hand an event to the caller's hook, if there is one."""
        if self.trace is not None:
            tell(self.trace, event)


@attrs.define(eq=False)
class Held:
    """A job that this worker has.

    Attributes:
        job: the job.
        is_marked: whether a mark in the store says that it was begun.
        is_begun: whether its first byte was about to be written.
        began: when that was, on the monotonic clock.
        is_decided: whether its outcome is known, and only has to be recorded.
        copy: the same job, leased once more because the lease of `job` ended meanwhile; given back after `job`.
    """

    job: Job
    copy: Job | None = None
    is_marked: bool = False
    is_begun: bool = False
    began: float = 0.0
    is_decided: bool = False
