"""Decide what to do after a try. Only the result of the try and the job's own policy matter."""

from __future__ import annotations

import random
from typing import Final, TypeAlias

import attrs

from smtplite.errors import (
    ConfigurationError,
    ExtensionRequired,
    MessageError,
    MessageRefused,
    RecipientsRefused,
    SenderRefused,
)
from smtplite.protocol.reply import Reply
from smtplite.results import Delivery
from smtplite.worker.jobs import Job, Outcome, Status, message_id_of

__all__ = ["Backoff", "Decision", "Later", "decide", "expired", "given_up"]

#: Errors that are about this message: it can never be sent, but others can.
_OF_THE_MESSAGE: Final = (MessageError, ExtensionRequired)
#: Refusals of one message by the server.
_REFUSALS: Final = (SenderRefused, RecipientsRefused, MessageRefused)

_MOST_DOUBLINGS: Final = 30


@attrs.frozen
class Backoff:
    """How long to wait before a job is tried again: twice as long each time, less up to half of it.

    What is taken off is random: it spreads out jobs that were refused together.

    Attributes:
        first: seconds after the first try, at most.
        longest: seconds between two tries, at most.

    Raises:
        ConfigurationError: `first` is not above 0, or is more than `longest`.
    """

    first: float = 60.0
    longest: float = 4 * 3600.0

    def __attrs_post_init__(self) -> None:
        if not 0 < self.first <= self.longest:
            raise ConfigurationError(f"first must be above 0 and at most longest, not {self.first} and {self.longest}")

    def seconds(self, attempt: int) -> float:
        """Return how many seconds to wait after this try, counted from 1."""
        most = min(self.first * 2.0 ** min(attempt - 1, _MOST_DOUBLINGS), self.longest)
        return random.uniform(most / 2, most)  # noqa: S311 (no secret)


@attrs.frozen
class Later:
    """The job must be queued again.

    Attributes:
        job: the job to queue.
        seconds: until it is due; None: at once, because this did not count as a try.
    """

    job: Job
    seconds: float | None


#: An outcome is final, everything else is `Later`.
Decision: TypeAlias = Outcome | Later


def _outcome(job: Job, status: Status, now: float, *, reply: Reply | None = None, error: str = "") -> Outcome:
    if job.is_uncertain and status != "accepted":
        status = "unknown"  # an earlier try may have delivered it, whatever the last one ended with
    return Outcome(
        status=status,
        reply=None if reply is None else str(reply),
        error=error,
        message_id=None if job.content is None else message_id_of(job.content),
        attempt=job.attempt,
        at=now,
    )


def expired(job: Job, now: float) -> Outcome:
    """Return the outcome of a job whose time ended before it could be tried."""
    error = f"its time was over before try {job.attempt}"
    return _outcome(job, "expired", now, error=f"{error}; the one before: {job.last}" if job.last else error)


def given_up(job: Job, now: float, status: Status, error: str) -> Outcome:
    """Return the outcome of a job that is not tried."""
    return _outcome(job, status, now, error=error)


def decide(job: Job, delivery: Delivery, now: float, backoff: Backoff, *, is_begun: bool) -> Decision:
    """Decide what becomes of a job after a try.

    Args:
        job: the job.
        delivery: the result of the try.
        now: the engine's time.
        backoff: how long to wait.
        is_begun: whether its first byte was about to be written: only then does it count as a try.
    """
    error = delivery.error
    if error is None:
        receipt = delivery.result()
        return _outcome(job, "accepted", now, reply=receipt.reply)
    text = f"{type(error).__name__}: {error}"
    if error.delivered is None:
        if job.when_unknown == "record":
            return _outcome(job, "unknown", now, reply=error.reply, error=text)
        return _again(attrs.evolve(job, is_uncertain=True), now, backoff, None, text)
    if isinstance(error, _OF_THE_MESSAGE):
        return _outcome(job, "failed", now, error=text)
    reply = error.refused.get(job.identity.recipient) or error.reply
    if isinstance(error, _REFUSALS) and reply is not None and reply.is_permanent:
        return _outcome(job, "refused", now, reply=reply, error=text)
    if is_begun:
        return _again(job, now, backoff, reply, text)
    return Later(job, None)  # not about this message: no connection, a wrong password, or the worker stops


def _again(job: Job, now: float, backoff: Backoff, reply: Reply | None, text: str) -> Decision:
    seconds = backoff.seconds(job.attempt)
    if now + seconds > job.not_after:
        return _outcome(job, "expired", now, reply=reply, error=text)
    return Later(attrs.evolve(job, attempt=job.attempt + 1, last=text), seconds)
