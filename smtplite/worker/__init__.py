"""A worker: sends what is queued in an existing queue engine, in batches, and records what became of each message.

::

    async with Client("smtp.example.com") as client:
        await Worker(source, client).run()

A source gives out the jobs of an engine: PostgreSQL (`smtplite.worker.postgres`), NATS JetStream
(`smtplite.worker.jetstream`), or memory (`MemorySource`), for tests and for a single process. Anything with the methods
of `Source` is a source. The library of an engine is imported only with its module.
"""

from __future__ import annotations

from smtplite.worker.jobs import Identity, Job, Lease, Outcome, Status, jobs_for
from smtplite.worker.memory import MemorySource, MemoryStore
from smtplite.worker.retrying import Backoff, Later
from smtplite.worker.running import Worker
from smtplite.worker.single import send_job
from smtplite.worker.source import LaneStatus, Shaper, Source, Store

__all__ = [
    "Backoff",
    "Identity",
    "Job",
    "LaneStatus",
    "Later",
    "Lease",
    "MemorySource",
    "MemoryStore",
    "Outcome",
    "Shaper",
    "Source",
    "Status",
    "Store",
    "Worker",
    "jobs_for",
    "send_job",
]
