"""The types of `smtplite.worker`, as its users meet them. Type checkers read this file; nobody runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import assert_type

from smtplite import Client, Delivery, SMTPError
from smtplite.routes import Route
from smtplite.worker import (
    Backoff,
    Identity,
    Job,
    LaneStatus,
    Later,
    Lease,
    MemorySource,
    MemoryStore,
    Outcome,
    Shaper,
    Source,
    Status,
    Store,
    Worker,
    jobs_for,
    send_job,
)
from smtplite.worker.events import WorkerEvent


class Slowly:
    """A shaper of the user's own."""

    async def run(self, lanes: Sequence[str], tell: Callable[[WorkerEvent], None]) -> None:
        """Do nothing beside."""
        assert_type((lanes[0], tell), tuple[str, Callable[[WorkerEvent], None]])

    async def room(self, lane: str, most: int) -> int:
        """Have as many leased as may be."""
        return most if lane == "bulk" else 1

    async def turn(self, lane: str) -> bool:
        """Have each go at once."""
        return bool(lane)

    def trouble(self, error: SMTPError) -> None:
        """Learn nothing."""
        assert_type(error.retryable, bool)

    async def hold(self, jobs: Sequence[Job]) -> Mapping[Identity, float]:
        """Have all wait for a second."""
        return {job.identity: 1.0 for job in jobs}

    def observe(self, job: Job, delivery: Delivery) -> None:
        """Learn nothing."""
        assert_type((job.lane, delivery.receipt is None), tuple[str, bool])


async def load(reference: str) -> bytes:
    """Return content that lies elsewhere."""
    return reference.encode()


async def workers(client: Client, route: Route, source: Source, store: Store) -> None:
    """Make workers, and run them."""
    assert_type(MemorySource(lease_seconds=30).store, MemoryStore)
    here: Source = MemorySource()
    shaper: Shaper = Slowly()
    worker = Worker(here, client, lanes={"transactional": 1, "bulk": None}, backoff=Backoff(first=1.0, longest=60))
    assert_type(await worker.run(handle_signals=True), None)
    assert_type(worker.stop(), None)
    assert_type(worker.cancel(), None)
    Worker(source, route, store=store, shaper=shaper, load=load, batch=50, in_flight=8, timeout=30, drain=5)
    Worker(source, "smtp://localhost")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Worker(source, client, lanes={"bulk": "4"})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]


async def jobs(source: MemorySource, client: Client, store: Store) -> None:
    """Queue jobs, look at them, and send one."""
    made = jobs_for(
        b"", ["a@example.net"], key="order-7", when_unknown="record", not_after=timedelta(hours=1), lane="bulk"
    )
    assert_type(made, list[Job])
    jobs_for(b"", when_unknown="perhaps")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(source.enqueue(made), int)
    assert_type(await source.status(), Sequence[LaneStatus])
    [job] = await source.lease("bulk", 1, 0.5)
    assert_type(job, Job)
    assert_type(job.identity, Identity)
    assert_type(job.identity.recipient, str)
    assert_type(job.token, Lease | None)
    assert_type(job.lease, Lease)
    assert_type(job.content, bytes | None)
    found = await store.find([job.identity])
    assert_type(found, Mapping[Identity, Outcome])
    assert_type(found[job.identity].status, Status)
    decision = await send_job(job, client, store, backoff=Backoff())
    if isinstance(decision, Later):
        assert_type(decision.seconds, float | None)
        assert_type(decision.job, Job)
    else:
        assert_type(decision, Outcome)
        assert_type(decision.reply, str | None)
