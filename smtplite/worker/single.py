"""One job at a time, for queues that have their own loop and hand over jobs, such as Celery or procrastinate."""

from __future__ import annotations

import time
from typing import Any, Protocol

from smtplite.errors import SMTPError
from smtplite.message.envelope import Outgoing
from smtplite.results import Delivery, Receipt
from smtplite.worker.jobs import Job, Outcome, has_identity_fields
from smtplite.worker.retrying import Backoff, Decision, Later, decide, expired, given_up
from smtplite.worker.source import Store

__all__ = ["send_job"]


class Single(Protocol):
    """What sends one job: a Client, or anything else with the same `send`."""

    async def send(self, message: Any, *, envelope: Any) -> Receipt:
        """Send one message; see `Client.send`."""


async def send_job(
    job: Job, client: Single, store: Store, *, backoff: Backoff | None = None, now: float | None = None
) -> Decision:
    """Send one job as a worker does: not if it already has an outcome, and marked if it must not be sent twice.

    The queue's own lease replaces the worker's: give the job a `token` with a new name each time that the queue hands
    it over. If this is cancelled, a job that was handed over stays marked; the queue has to run a "retry" job again.

    Args:
        job: the job, with its content.
        client: sends it.
        store: where outcomes and marks are.
        backoff: how long to wait before it is tried again; None: `Backoff()`.
        now: the queue's time, in seconds since 1970; None: this machine's time.

    Returns:
        Its `Outcome`, which is already recorded; or `Later`, with the job to queue again, and after how many seconds.
    """
    now = time.time() if now is None else now
    outcome = (await store.find([job.identity])).get(job.identity)
    if outcome is not None:
        return outcome
    if now > job.not_after:
        return await _saved(job, expired(job, now), store)
    if not has_identity_fields(job.content or b""):
        error = "not sent: the message has no Message-ID or no Date, and each copy would be another message"
        return await _saved(job, given_up(job, now, "failed", error), store)
    is_marked = job.when_unknown == "record"
    if is_marked:
        others = await store.begin([job])
        if job.identity in others:
            error = "a worker began it and did not say what became of it: it died, or lost its lease"
            found = others[job.identity] or given_up(job, now, "unknown", error)
            return await _saved(job, found, store)
    try:
        delivery = Delivery(Outgoing(b""), await client.send(job.content, envelope=job.envelope))
    except SMTPError as error:
        delivery = Delivery(Outgoing(b""), error=error)
    # It always counts as a try: `send` does not say whether its first byte was written.
    decision = decide(job, delivery, now, backoff or Backoff(), is_begun=True)
    if isinstance(decision, Later):
        if is_marked:
            await store.forget([job])
        return decision
    return await _saved(job, decision, store)


async def _saved(job: Job, outcome: Outcome, store: Store) -> Outcome:
    await store.save([(job, outcome)])
    return outcome
