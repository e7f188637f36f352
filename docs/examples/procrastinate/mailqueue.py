"""Mail in a queue in PostgreSQL, by procrastinate: what the application and worker.py share. Meant to be copied.

The application calls `enqueue` inside its own transaction.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.utils import localtime, make_msgid
from typing import Any, Literal

import procrastinate
import psycopg
from procrastinate.jobs import Job, Status

from smtplite import Client, DeliveryUnknown, SMTPError
from smtplite.message import wire_bytes

WhenUnknown = Literal["send-again", "record"]
"""
What to do when nobody can know whether a message arrived. "send-again": better twice than never; every copy has the
same Message-ID. "record": better never than twice; somebody looks into it.
"""

DATABASE = os.environ.get("DATABASE_URL", "")
ATTEMPTS = int(os.environ.get("MAIL_ATTEMPTS", "12"))
FIRST_RETRY_SECONDS = float(os.environ.get("MAIL_FIRST_RETRY_SECONDS", "60"))
LONGEST_RETRY_SECONDS = float(os.environ.get("MAIL_LONGEST_RETRY_SECONDS", "14400"))
DEAD_AFTER_SECONDS = float(os.environ.get("MAIL_DEAD_AFTER_SECONDS", "30"))
RESCUE_CRON = os.environ.get("MAIL_RESCUE_CRON", "* * * * *")

SCHEMA = """
CREATE TABLE IF NOT EXISTS mail_message (
    message_id text PRIMARY KEY,
    content bytea NOT NULL
);
CREATE TABLE IF NOT EXISTS mail_outcome (
    message_id text NOT NULL,
    recipient text NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('refused', 'unknown', 'failed')),
    reply text,
    error text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (message_id, recipient)
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
    when_unknown: WhenUnknown = "send-again",
) -> str:
    """Queue a message within the transaction of `connection`: it is sent if that commits, and only then.

    One job for each recipient, so that each has an outcome of its own, and a retry concerns nobody else. The Message-ID
    is fixed here, once: whatever happens later, every copy carries it.

    Returns:
        The Message-ID.
    """
    if message["Message-ID"] is None:
        message["Message-ID"] = make_msgid(domain=(message["From"] or "").rpartition("@")[2].strip("> ") or None)
    if message["Date"] is None:
        message["Date"] = localtime()
    message_id = str(message["Message-ID"])
    await connection.execute(
        "INSERT INTO mail_message (message_id, content) VALUES (%s, %s)", (message_id, wire_bytes(message))
    )
    await deliver.configure(connection=connection).batch_defer_async(
        *({"message_id": message_id, "recipient": recipient, "when_unknown": when_unknown} for recipient in recipients)
    )
    return message_id


# --- in the worker --------------------------------------------------------------------------------------------------


def seconds_to_next_try(error: BaseException, job: Job) -> float | None:
    """Return how long to wait before the job runs again; None: it does not."""
    if isinstance(error, (DeliveryUnknown, asyncio.CancelledError)):  # cancelled: the worker had to leave
        if job.task_kwargs["when_unknown"] == "record":
            return None
    elif not (isinstance(error, SMTPError) and error.retryable):
        return None
    if job.attempts + 1 >= ATTEMPTS:
        return None
    longest = min(FIRST_RETRY_SECONDS * 2 ** min(job.attempts, 30), LONGEST_RETRY_SECONDS)
    return random.uniform(longest / 2, longest)  # jitter: those refused together come back apart


class ByOutcome(procrastinate.BaseRetryStrategy):
    """Runs a job again if, and when, `seconds_to_next_try` says so."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> procrastinate.RetryDecision | None:
        """Return when; None: the job has failed."""
        seconds = seconds_to_next_try(exception, job)
        if seconds is None:
            return None
        return procrastinate.RetryDecision(retry_at=datetime.now(UTC) + timedelta(seconds=seconds))


@app.task(name="mail.deliver", queue="mail", pass_context=True, retry=ByOutcome())
async def deliver(
    context: procrastinate.JobContext,
    *,
    message_id: str,
    recipient: str,
    when_unknown: WhenUnknown,  # read by seconds_to_next_try, from the job
) -> None:
    """Send one message to one recipient. A job that is done succeeded; what failed is in mail_outcome."""
    client: Client = context.additional_context["client"]
    row = await app.connector.execute_query_one_async(
        "SELECT content FROM mail_message WHERE message_id = %(message_id)s", message_id=message_id
    )
    try:
        await client.send(bytes(row["content"]), recipients=[recipient])
    except (SMTPError, asyncio.CancelledError) as error:
        if seconds_to_next_try(error, context.job) is None:
            await record(message_id, recipient, error)
        raise


async def record(message_id: str, recipient: str, error: BaseException) -> None:
    """Write down why a job was given up, with the server's reply."""
    outcome, reply = "failed", None
    if isinstance(error, (DeliveryUnknown, asyncio.CancelledError)):
        outcome = "unknown"
    elif isinstance(error, SMTPError):
        reply = error.refused.get(recipient) or error.reply
        outcome = "refused" if reply is not None else "failed"
    await app.connector.execute_query_async(
        "INSERT INTO mail_outcome (message_id, recipient, outcome, reply, error)"
        " VALUES (%(message_id)s, %(recipient)s, %(outcome)s, %(reply)s, %(error)s)"
        " ON CONFLICT (message_id, recipient) DO UPDATE"
        " SET outcome = excluded.outcome, reply = excluded.reply, error = excluded.error, at = now()",
        message_id=message_id,
        recipient=recipient,
        outcome=outcome,
        reply=None if reply is None else str(reply),
        error=f"{type(error).__name__}: {error}",
    )


# The priority brings it in front of a long queue. A `lock` would stay with a worker that dies in here, for ever.
@app.periodic(cron=RESCUE_CRON)
@app.task(name="mail.rescue", queue="mail", queueing_lock="mail.rescue", priority=100)
async def rescue(timestamp: int) -> None:  # procrastinate says when it was due
    """Take back the jobs of workers that died: they stay "doing", and nobody else would touch them.

    What a dead worker had begun may have been handed over: that is one more "unknown", and the job's policy decides.
    """
    jobs = app.job_manager
    for job in await jobs.get_stalled_jobs(queue="mail", seconds_since_heartbeat=DEAD_AFTER_SECONDS):
        if job.task_name != deliver.name:
            await jobs.finish_job(job, Status.FAILED, delete_job=True)  # a rescue; the next one is this
        elif job.task_kwargs["when_unknown"] == "record":
            error = DeliveryUnknown("the worker died while it had the job")
            await record(str(job.task_kwargs["message_id"]), str(job.task_kwargs["recipient"]), error)
            await jobs.finish_job(job, Status.FAILED, delete_job=False)
        else:
            await jobs.retry_job(job)
