"""The source in memory."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from smtplite.worker import Job, MemorySource, Source
from tests.worker.conformance import Conformance
from tests.worker.kit import Engine


class _View:
    """A worker's own view of a queue in memory: its leases are as long as it wants them."""

    def __init__(self, queue: MemorySource, lease_seconds: float) -> None:
        self._queue = queue
        self.lease_seconds = lease_seconds

    def __getattr__(self, name: str) -> object:
        self._queue.lease_seconds = self.lease_seconds
        return getattr(self._queue, name)


class InMemory:
    """Sources that share a queue."""

    def __init__(self) -> None:
        self.queue = MemorySource()

    async def source(self, *, lease_seconds: float = 60.0) -> Source:
        return _View(self.queue, lease_seconds)  # type: ignore[return-value]  # has all that the queue has

    async def enqueue(self, jobs: Iterable[Job]) -> None:
        self.queue.enqueue(jobs)


@pytest.fixture
def engine() -> Engine:
    return InMemory()


class TestMemory(Conformance):
    pass
