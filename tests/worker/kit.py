"""What the tests of the worker share: jobs, an engine to run them over, and a relay."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import anyio
import attrs

from smtplite.testing import SMTPServer
from smtplite.worker import Backoff, Job, Outcome, Source, Worker, jobs_for

#: Longer than anything here takes.
PATIENCE_SECONDS = 90.0

#: Tries follow each other at once.
SOON = Backoff(first=0.05, longest=0.1)


class Engine(Protocol):
    """An engine with a queue of its own, empty at first."""

    async def source(self, *, lease_seconds: float = 60.0) -> Source:
        """Return a source, as a worker process has one; closed at the end of the test."""

    async def enqueue(self, jobs: Iterable[Job]) -> None:
        """Queue jobs as an application does."""


def letter(number: int = 0, **options: Any) -> list[Job]:
    """Return the jobs of a small message."""
    to = options.pop("to", f"{number}@example.net")
    head = f"From: ada@example.org\r\nTo: {to}\r\nSubject: {number}\r\nMessage-ID: <{number}@example.org>\r\n"
    return jobs_for(f"{head}\r\nHello.\r\n".encode(), [to], **options)


def accepted(job: Job) -> tuple[Job, Outcome]:
    return job, Outcome(status="accepted", attempt=job.attempt)


def with_status(job: Job, status: Any) -> tuple[Job, Outcome]:
    return job, Outcome(status=status, attempt=job.attempt)


async def lease_one(source: Source, lane: str = "bulk") -> Job:
    """Lease the one job that is there, or will be."""
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        jobs = await source.lease(lane, 10, 1.0)
        if jobs:
            assert len(jobs) == 1
            return jobs[0]
    raise AssertionError("no job came")


async def nothing_left(source: Source) -> bool:
    return not any(lane.waiting + lane.leased + lane.later for lane in await source.status())


@attrs.define
class Ran:
    """A worker that ran until all of its jobs had an outcome."""

    server: SMTPServer
    source: Source
    jobs: list[Job]
    outcomes: dict[str, Outcome] = attrs.field(factory=dict)

    @property
    def recipients(self) -> list[str]:
        """Whom the relay took a message for, in order."""
        return [path for message in self.server.messages for path in message.recipients]


async def until(condition: Callable[[], Any], *, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until an awaitable condition holds; the engine tells nobody, so it is asked again and again."""
    with anyio.fail_after(seconds):
        while not await condition():  # noqa: ASYNC110 (an engine has no event of ours)
            await anyio.sleep(0.02)


async def has_outcomes(source: Source, jobs: Sequence[Job]) -> bool:
    return len(await source.store.find([job.identity for job in jobs])) == len(jobs)


async def is_done(source: Source, jobs: Sequence[Job]) -> bool:
    """Say whether all have an outcome, and none is left in the queue."""
    return await has_outcomes(source, jobs) and await nothing_left(source)


async def run_worker(engine: Engine, server: SMTPServer, jobs: list[Job], **options: Any) -> Ran:
    """Queue jobs, and run a worker until all have an outcome and the queue is empty."""
    source = await engine.source(lease_seconds=options.pop("lease_seconds", 60.0))
    await engine.enqueue(jobs)
    ran = Ran(server, source, jobs)
    async with server.client() as client:
        worker = Worker(source, client, **{"backoff": SOON, "lanes": {"bulk": 2}, **options})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await until(lambda: is_done(source, jobs))
            worker.stop()
    found = await source.store.find([job.identity for job in jobs])
    ran.outcomes = {identity.recipient: outcome for identity, outcome in found.items()}
    return ran
