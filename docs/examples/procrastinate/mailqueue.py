"""A mail queue in PostgreSQL, with procrastinate: what the application and worker.py share. Meant to be copied.

The application calls `enqueue` inside its own transaction. `smtplite.worker.send_job` sends each message and records
its outcome. procrastinate keeps the queue, and hands over one job at a time.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from typing import Any, Literal

import attrs
import procrastinate
import psycopg
from procrastinate.jobs import Status

from smtplite import Client
from smtplite.worker import Backoff, Job, Later, Lease, Store, jobs_for, send_job

DATABASE = os.environ.get("DATABASE_URL", "")
BACKOFF = Backoff(
    first=float(os.environ.get("MAIL_FIRST_RETRY_SECONDS", "60")),
    longest=float(os.environ.get("MAIL_LONGEST_RETRY_SECONDS", "14400")),
)
DEAD_AFTER_SECONDS = float(os.environ.get("MAIL_DEAD_AFTER_SECONDS", "30"))
RESCUE_CRON = os.environ.get("MAIL_RESCUE_CRON", "* * * * *")

SCHEMA = """
CREATE TABLE IF NOT EXISTS mail_message (
    message_id text PRIMARY KEY,
    content bytea NOT NULL
);
"""
"""The message is not in the job: it may have many recipients, and procrastinate writes a job's arguments to the log."""

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=DATABASE, min_size=2, max_size=8))


# --- in the application ---------------------------------------------------------------------------------------------


async def enqueue(
    connection: psycopg.AsyncConnection[Any],
    message: EmailMessage,
    recipients: Iterable[str],
    *,
    when_unknown: Literal["retry", "record"] = "retry",
    not_after: timedelta | None = None,
) -> str:
    """Queue a message in the transaction of `connection`. It is sent only if that transaction commits.

    There is one job for each recipient, so each has its own outcome, and a retry affects no other recipient.

    Args:
        connection: psycopg's connection.
        message: the message to send.
        recipients: their addresses.
        when_unknown: what to do if nobody can know whether it arrived: "retry" (better twice than never), or "record"
            (better never than twice).
        not_after: how long to keep trying.

    Returns:
        The Message-ID, which every copy has.
    """
    jobs = jobs_for(message, list(recipients), when_unknown=when_unknown, not_after=not_after)
    message_id = jobs[0].key
    await connection.execute(
        "INSERT INTO mail_message (message_id, content) VALUES (%s, %s)", (message_id, jobs[0].content)
    )
    by_reference = [attrs.evolve(job, content=None, reference=message_id) for job in jobs]
    await deliver.configure(connection=connection).batch_defer_async(*({"job": j.to_header()} for j in by_reference))
    return message_id


# --- in the worker --------------------------------------------------------------------------------------------------


@app.task(name="mail.deliver", queue="mail", pass_context=True)
async def deliver(context: procrastinate.JobContext, *, job: str) -> None:
    """Send one message to one recipient. Its outcome is recorded in smtplite_outcome."""
    client: Client = context.additional_context["client"]
    store: Store = context.additional_context["store"]
    queued = Job.from_header(job, None)
    row = await app.connector.execute_query_one_async(
        "SELECT content FROM mail_message WHERE message_id = %(message_id)s", message_id=queued.reference
    )
    decision = await send_job(
        attrs.evolve(
            queued,
            content=bytes(row["content"]),
            reference=None,
            # A worker died while it had the job, and `rescue` took the job back. The message may have been handed over.
            is_uncertain=queued.is_uncertain or context.job.attempts > 0,
            token=Lease(uuid.uuid4().hex, 0.0),
        ),
        client,
        store,
        backoff=BACKOFF,
    )
    if isinstance(decision, Later):
        # As a new job, because its header has changed. If this worker dies before the old job is done, there are two
        # jobs: the first one records its outcome in the store, and the second one finds it there.
        again = attrs.evolve(decision.job, content=None, reference=queued.reference)
        at = datetime.now(UTC) + timedelta(seconds=decision.seconds or 0)
        await deliver.configure(schedule_at=at).defer_async(job=again.to_header())


# The priority puts it in front of a long queue. If a worker died in here, a `lock` would stay with it forever.
@app.periodic(cron=RESCUE_CRON)
@app.task(name="mail.rescue", queue="mail", queueing_lock="mail.rescue", priority=100)
async def rescue(timestamp: int) -> None:  # procrastinate says when it was due
    """Take back the jobs of workers that died. They stay "doing", and no other worker would touch them.

    If a message must not arrive twice and was begun, a mark in the store says so; the next worker records "unknown".
    """
    jobs = app.job_manager
    for job in await jobs.get_stalled_jobs(queue="mail", seconds_since_heartbeat=DEAD_AFTER_SECONDS):
        if job.task_name == deliver.name:
            await jobs.retry_job(job)
        else:
            await jobs.finish_job(job, Status.FAILED, delete_job=True)  # a rescue itself; this is the next one
