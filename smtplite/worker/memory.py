"""A source in memory: for tests, and for a process whose queue may be lost when it ends."""

from __future__ import annotations

import heapq
import itertools
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import anyio
import attrs

from smtplite.worker.jobs import Identity, Job, Lease, Outcome
from smtplite.worker.shaping.boards import MemoryBoards
from smtplite.worker.source import LaneStatus

__all__ = ["MemorySource", "MemoryStore"]


class MemoryStore:
    """Outcomes and marks in a dictionary.

    Attributes:
        outcomes: what became of each job.
        begun: identity -> the name of the lease under which it was begun.
    """

    def __init__(self) -> None:
        self.outcomes: dict[Identity, Outcome] = {}
        self.begun: dict[Identity, str] = {}

    async def begin(self, jobs: Sequence[Job]) -> Mapping[Identity, Outcome | None]:
        """Mark jobs as begun; see `Store.begin`."""
        others: dict[Identity, Outcome | None] = {}
        for job in jobs:
            identity = job.identity
            if identity in self.outcomes:
                others[identity] = self.outcomes[identity]
            elif self.begun.setdefault(identity, job.lease.name) != job.lease.name:
                others[identity] = None
        return others

    async def forget(self, jobs: Iterable[Job]) -> None:
        """Remove the marks of jobs; see `Store.forget`."""
        for job in jobs:
            if self.begun.get(job.identity) == job.lease.name:
                del self.begun[job.identity]

    async def find(self, identities: Iterable[Identity]) -> Mapping[Identity, Outcome]:
        """Return the outcomes of the jobs that have one."""
        return {identity: self.outcomes[identity] for identity in identities if identity in self.outcomes}

    async def save(self, settled: Sequence[tuple[Job, Outcome]]) -> None:
        """Record outcomes; see `Store.save`."""
        for job, outcome in settled:
            if outcome.status == "accepted" or job.identity not in self.outcomes:
                self.outcomes[job.identity] = outcome
            self.begun.pop(job.identity, None)


@attrs.define(eq=False)
class _Row:
    """A job in the queue.

    Attributes:
        job: without a lease.
        queued: when it was queued, on the monotonic clock.
        due: when it is due, or was.
        lease: its lease; None: nobody has it.
    """

    job: Job
    queued: float
    due: float
    lease: Lease | None = None


@attrs.define(eq=False)
class _Lane:
    """The jobs of a lane; each is in one of these three.

    Attributes:
        waiting: numbers of the jobs that are due, in order.
        later: (when it is due, number) of the jobs that are not due yet, as a heap.
        leased: the jobs that a worker has, or had when it died.
    """

    waiting: dict[int, None] = attrs.field(factory=dict)
    later: list[tuple[float, int]] = attrs.field(factory=list)
    leased: dict[int, _Row] = attrs.field(factory=dict)


#: How often an empty lane is checked again for jobs that became due.
_LOOK_SECONDS: Final = 0.05


class MemorySource:
    """A queue in memory, for as many workers of this process as you like.

    Args:
        lease_seconds: how long a lease lasts.
        clock: returns the time, in seconds since 1970.
        monotonic: a clock that only goes forward, in seconds; used for leases and retries.
    """

    def __init__(
        self,
        *,
        lease_seconds: float = 60.0,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = MemoryStore()
        #: Where `smtplite.worker.shaping` keeps what workers share.
        self.boards = MemoryBoards(monotonic)
        self.lease_seconds = lease_seconds
        self._monotonic = monotonic
        self._epoch = clock() - monotonic()
        self._rows: dict[int, _Row] = {}
        self._queued: set[Identity] = set()
        self._lanes: dict[str, _Lane] = {}
        self._numbers = itertools.count(1)
        self._arrived: anyio.Event | None = None

    def now(self) -> float:
        """Return the time, in seconds since 1970; it does not change if the machine's clock is set."""
        return self._epoch + self._monotonic()

    def enqueue(self, jobs: Iterable[Job]) -> int:
        """Queue jobs, and return how many. A job with a key and recipient that are already queued is skipped."""
        count = 0
        for job in jobs:
            if job.identity not in self._queued:
                number = next(self._numbers)
                now = self._monotonic()
                self._rows[number] = _Row(attrs.evolve(job, token=None), now, now)
                self._queued.add(job.identity)
                self._lane(job.lane).waiting[number] = None
                count += 1
        self._wake()
        return count

    def _lane(self, name: str) -> _Lane:
        return self._lanes.setdefault(name, _Lane())

    def _wake(self) -> None:
        arrived, self._arrived = self._arrived, None
        if arrived is not None:
            arrived.set()

    async def lease(self, lane: str, most: int, wait: float) -> list[Job]:
        """Lease jobs of a lane that are due; see `Source.lease`."""
        until = self._monotonic() + wait
        while not (jobs := self._lease(lane, most)) and self._monotonic() < until:
            if self._arrived is None:
                self._arrived = anyio.Event()
            with anyio.move_on_after(min(wait, _LOOK_SECONDS)):
                await self._arrived.wait()
        return jobs

    def _lease(self, name: str, most: int) -> list[Job]:
        now = self._monotonic()
        lane = self._lane(name)
        while lane.later and lane.later[0][0] <= now:
            lane.waiting[heapq.heappop(lane.later)[1]] = None
        ended = [number for number, row in lane.leased.items() if row.lease is not None and row.lease.until <= now]
        jobs: list[Job] = []
        for number in [*ended, *itertools.islice(lane.waiting, max(0, most - len(ended)))][:most]:
            row = self._rows[number]
            if row.lease is not None:  # a worker had it and did not give it back: the message may have been handed over
                row.job = attrs.evolve(row.job, is_uncertain=True)
            row.lease = Lease(uuid.uuid4().hex, now + self.lease_seconds, number)
            lane.waiting.pop(number, None)
            lane.leased[number] = row
            jobs.append(attrs.evolve(row.job, token=row.lease))
        return jobs

    def _own(self, job: Job) -> _Row | None:
        """Return the row of a job if nobody else leased it; its own lease may have ended."""
        row = self._rows.get(job.lease.handle)
        return row if row is not None and row.lease is job.token else None

    async def extend(self, jobs: Sequence[Job]) -> None:
        """Extend the leases of these jobs; see `Source.extend`."""
        for job in jobs:
            if self._own(job) is not None:
                job.lease.until = self._monotonic() + self.lease_seconds

    async def settle(self, settled: Sequence[tuple[Job, Outcome]]) -> None:
        """Record outcomes, and drop the jobs; see `Source.settle`."""
        for job, outcome in settled:
            row = self._own(job)
            if row is not None or outcome.status == "accepted":
                await self.store.save([(job, outcome)])
            if row is not None:
                del self._rows[job.lease.handle]
                del self._lane(row.job.lane).leased[job.lease.handle]
                self._queued.discard(job.identity)

    async def retry(self, retries: Sequence[tuple[Job, float]]) -> None:
        """Queue jobs again; see `Source.retry`."""
        for job, seconds in retries:
            row = self._own(job)
            if row is None:
                continue
            number, lane = job.lease.handle, self._lane(row.job.lane)
            row.lease = None
            row.job = attrs.evolve(job, token=None)
            row.due = self._monotonic() + seconds
            del lane.leased[number]
            if seconds > 0:
                heapq.heappush(lane.later, (row.due, number))
            else:
                lane.waiting[number] = None
        self._wake()

    async def release(self, jobs: Sequence[Job]) -> None:
        """Give jobs back; see `Source.release`."""
        await self.retry([(job, 0.0) for job in jobs])

    async def status(self) -> Sequence[LaneStatus]:
        """Return how many jobs there are, by lane."""
        now = self._monotonic()
        statuses: list[LaneStatus] = []
        for name, lane in sorted(self._lanes.items()):
            numbers = [*lane.waiting, *lane.leased, *(number for _, number in lane.later)]
            if numbers:
                statuses.append(
                    LaneStatus(
                        lane=name,
                        waiting=len(lane.waiting),
                        leased=len(lane.leased),
                        later=len(lane.later),
                        oldest_seconds=now - min(self._rows[number].queued for number in numbers),
                        due_seconds=max([0.0, *(now - self._rows[number].due for number in lane.waiting)]),
                    )
                )
        return statuses
