"""Typed events of a worker, for `Worker(trace=...)`: what it leased, sent and wrote down, and what went wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import attrs

from smtplite.errors import SMTPError
from smtplite.results import Delivery
from smtplite.worker.jobs import Job, Outcome
from smtplite.worker.source import LaneStatus

__all__ = [
    "EngineFailed",
    "JobFinished",
    "JobHeldBack",
    "JobReleased",
    "JobRetried",
    "JobsBegun",
    "JobsLeased",
    "JobsWritten",
    "LimitsShared",
    "Measure",
    "QueueCounted",
    "RelayFailed",
    "WorkerEvent",
    "WorkerTrace",
]


@attrs.frozen(kw_only=True)
class JobsLeased:
    """The worker has these jobs.

    Attributes:
        lane: their lane.
        jobs: the jobs.
    """

    lane: str
    jobs: tuple[Job, ...]


@attrs.frozen(kw_only=True)
class JobsBegun:
    """The first octet of these jobs is about to be written.

    Attributes:
        lane: their lane.
        jobs: the jobs.
        at: the engine's time, in seconds since 1970.
    """

    lane: str
    jobs: tuple[Job, ...]
    at: float


@attrs.frozen(kw_only=True)
class JobFinished:
    """It is decided what became of a job; it has yet to be written down.

    Attributes:
        lane: its lane.
        job: the job.
        outcome: what became of it; final.
        delivery: what came of the try; None: it was not tried now.
        relay: which relay that was, such as "mx.example.com:587"; None: it was not tried now.
        seconds: from its first octet to its verdict; None: it was not begun.
        is_repeated: True if the outcome was written down before: the job came again, and is settled unsent.
    """

    lane: str
    job: Job
    outcome: Outcome
    delivery: Delivery | None = None
    relay: str | None = None
    seconds: float | None = None
    is_repeated: bool = False


@attrs.frozen(kw_only=True)
class JobRetried:
    """A try decided nothing: the job is queued again.

    Attributes:
        lane: its lane.
        job: as it was tried.
        pause: seconds until it is due.
        error: what came of the try; None: its content could not be loaded.
        relay: as in `JobFinished`.
        seconds: as in `JobFinished`.
    """

    lane: str
    job: Job
    pause: float
    error: SMTPError | None = None
    relay: str | None = None
    seconds: float | None = None


@attrs.frozen(kw_only=True)
class JobReleased:
    """A job goes back as it came, for this was no try: no connection, or the worker stops.

    Attributes:
        lane: its lane.
        job: the job.
        is_begun: whether its first octet was about to be written.
    """

    lane: str
    job: Job
    is_begun: bool = False


@attrs.frozen(kw_only=True)
class JobHeldBack:
    """The shaper says that a job has to wait.

    Attributes:
        lane: its lane.
        job: the job.
        pause: seconds until it is due.
    """

    lane: str
    job: Job
    pause: float


@attrs.frozen(kw_only=True)
class JobsWritten:
    """What was decided of these jobs is written down; the worker does not have them any more.

    Attributes:
        lane: their lane.
        jobs: the jobs.
    """

    lane: str
    jobs: tuple[Job, ...]


@attrs.frozen(kw_only=True)
class QueueCounted:
    """The engine said how many jobs there are, in all and not only this worker's.

    Attributes:
        lanes: each lane that has any.
    """

    lanes: tuple[LaneStatus, ...]


@attrs.frozen(kw_only=True)
class EngineFailed:
    """The engine did not do what it was asked to; the worker tries again.

    Attributes:
        lane: for which lane; None: for none of them.
        operation: "lease", "extend", "settle" or "status".
        error: what it raised.
    """

    lane: str | None
    operation: str
    error: Exception


@attrs.frozen(kw_only=True)
class RelayFailed:
    """No connection can be had, or the password is wrong; the worker tries again.

    Attributes:
        lane: for which lane.
        relay: the relay; None: its name is not known.
        error: why.
        pause: seconds until the next try.
    """

    lane: str
    relay: str | None
    error: SMTPError
    pause: float


@attrs.frozen(kw_only=True)
class Measure:
    """What a rule, or somebody by hand, does for a while because it was too much.

    Attributes:
        action: "suspend", "max_message_rate" or "connection_limit".
        rule: the rule's name, as in its file; "hand": somebody's.
        recipients: for which recipients, as the rule names them; None: for the whole relay.
        until: when it ends, on the clock of the store; the same measure with another end was taken again.
    """

    action: str
    rule: str
    recipients: str | None
    until: float


@attrs.frozen(kw_only=True)
class LimitsShared:
    """The worker knows what all workers of a relay may do now, and what is done for a while.

    Attributes:
        relay: the relay.
        rate: messages a second, of all workers together; None: as many as it takes.
        measures: what is done for a while; what is over is not among them.
    """

    relay: str
    rate: float | None
    measures: tuple[Measure, ...] = ()


WorkerEvent: TypeAlias = (
    JobsLeased
    | JobsBegun
    | JobFinished
    | JobRetried
    | JobReleased
    | JobHeldBack
    | JobsWritten
    | QueueCounted
    | EngineFailed
    | RelayFailed
    | LimitsShared
)
#: Is told what happens. It is called in the event loop, and should not take long.
WorkerTrace: TypeAlias = Callable[[WorkerEvent], None]
