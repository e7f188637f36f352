"""What a worker needs: Source, Store, Shaper and Sender. All are protocols: any object with the methods will do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from smtplite.errors import SMTPError
from smtplite.results import Delivery
from smtplite.worker.jobs import Identity, Job, Outcome

if TYPE_CHECKING:
    from smtplite.worker.events import WorkerEvent

__all__ = ["LaneStatus", "Sender", "Sending", "Shaper", "Source", "Store"]


@attrs.frozen(kw_only=True)
class LaneStatus:
    """How many jobs a lane has.

    Attributes:
        lane: its name.
        waiting: jobs that may be leased now.
        leased: jobs that a worker has.
        later: jobs that wait for the time of their next try.
        oldest_seconds: how long ago the oldest of them was queued.
        due_seconds: how long the waiting jobs have been due, at most.
    """

    lane: str
    waiting: int
    leased: int
    later: int
    oldest_seconds: float = 0.0
    due_seconds: float = 0.0


class Store(Protocol):
    """Records what became of each job, and which jobs that must not be sent twice were begun.

    One record for each `Identity`: a mark that it was begun, or its outcome. The first outcome stays, with one
    exception: "accepted" replaces any other. It is the truth, however late it comes.
    """

    async def begin(self, jobs: Sequence[Job]) -> Mapping[Identity, Outcome | None]:
        """Mark jobs as begun, each with the name of its lease, unless there is a record of it.

        Returns:
            The jobs that somebody else has a record of, each with its outcome, or None if it is marked as begun. A mark
            with the name of the job's own lease is not somebody else's.
        """

    async def forget(self, jobs: Iterable[Job]) -> None:
        """Remove the marks that carry the names of these jobs' leases: the jobs were certainly not sent."""

    async def find(self, identities: Iterable[Identity]) -> Mapping[Identity, Outcome]:
        """Return the outcomes of the jobs that have one."""

    async def save(self, settled: Sequence[tuple[Job, Outcome]]) -> None:
        """Record outcomes. When this returns, they are as safe as everything else that the engine keeps."""


class Source(Protocol):
    """An engine that gives out jobs, each to one worker at a time, until its lease ends.

    A worker that was suspended may call with a lease whose job another worker has by now. Every method must then leave
    the job alone: it is not settled, not given back and not queued again, because it belongs to the other worker.

    Attributes:
        store: where `settle` writes outcomes.
        lease_seconds: how long a lease lasts.
    """

    @property
    def store(self) -> Store:
        """Where `settle` writes outcomes."""

    @property
    def lease_seconds(self) -> float:
        """How long a lease lasts."""

    def now(self) -> float:
        """Return the engine's time, in seconds since 1970; the clock of this machine may differ."""

    async def lease(self, lane: str, most: int, wait: float) -> list[Job]:
        """Lease jobs of a lane that are due.

        Args:
            lane: its name.
            most: how many jobs to lease, at most.
            wait: seconds to wait if no job is due.

        Returns:
            The jobs, each with a lease as its `token`. It ends `lease_seconds` after this was called, or earlier.
        """

    async def extend(self, jobs: Sequence[Job]) -> None:
        """Make the leases end `lease_seconds` from now, and set `until` of the tokens. A lost lease is not changed."""

    async def settle(self, settled: Sequence[tuple[Job, Outcome]]) -> None:
        """Record outcomes, and remove the jobs from the queue, in this order or at once.

        For a job that another worker has by now, only "accepted" is recorded.
        """

    async def retry(self, retries: Sequence[tuple[Job, float]]) -> None:
        """Queue jobs again.

        Args:
            retries: each job to queue, with its lease, and the seconds from now until it is due. Not a time, because
                clocks differ.
        """

    async def release(self, jobs: Sequence[Job]) -> None:
        """Give back jobs that were not begun: they are due at once, for any worker."""

    async def status(self) -> Sequence[LaneStatus]:
        """Return how many jobs there are, by lane."""


class Shaper(Protocol):
    """Decides when jobs may be sent, so that a relay or a recipient's server gets no more than it accepts.

    `smtplite.worker.shaping.Shaping` is one.
    """

    async def run(self, lanes: Sequence[str], tell: Callable[[WorkerEvent], None]) -> None:
        """Run beside the worker, until cancelled.

        Args:
            lanes: the worker's lanes; the first one comes first.
            tell: passes an event to the worker's `trace`.
        """

    async def room(self, lane: str, most: int) -> int:
        """Return how many jobs to lease, from 1 to `most`; wait while no job should be leased."""

    async def hold(self, jobs: Sequence[Job]) -> Mapping[Identity, float]:
        """Return the leased jobs that must not be sent now, with the seconds after which to ask again."""

    async def turn(self, lane: str) -> bool:
        """Wait until the lane may send a message, and count it as sent; False: give back what was leased."""

    def observe(self, job: Job, delivery: Delivery) -> None:
        """Learn what became of a try."""

    def trouble(self, error: SMTPError) -> None:
        """Learn why no connection could be opened."""


class Sending(Protocol):
    """What `Sender.send_many` yields: the outcomes of the messages."""

    @property
    def rest(self) -> list[Delivery]:
        """After the block: the outcomes that the loop did not hand out."""

    def __aiter__(self) -> AsyncIterator[Delivery]:
        """Iterate over the outcomes, in order of completion."""


class Sender(Protocol):
    """What a worker sends with: a Client, or anything else with the same `send_many`, such as a Route."""

    def send_many(
        self,
        messages: Any,
        *,
        connections: int | None = None,
        in_flight: int = 32,
        timeout: float | None = None,
        drain: float = 30.0,
        on_begin: Callable[[list[Any]], None] | None = None,
    ) -> AbstractAsyncContextManager[Sending]:
        """Send many messages; see `Client.send_many`."""
