"""Typed events of a worker, for `Worker(trace=...)`: what it leased, sent and recorded, and what went wrong."""

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
    """The worker leased these jobs.

    Attributes:
        lane: their lane.
        jobs: the jobs.
    """

    lane: str
    jobs: tuple[Job, ...]


@attrs.frozen(kw_only=True)
class JobsBegun:
    """The first byte of these jobs is about to be written.

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
    """The outcome of a job is known; it is not yet recorded.

    Attributes:
        lane: its lane.
        job: the job.
        outcome: what became of it; final.
        delivery: the result of this try; None: it was not tried now.
        relay: the relay, such as "mx.example.com:587"; None: it was not tried now.
        seconds: from its first byte to its verdict; None: it was not begun.
        is_repeated: True if the outcome was already recorded: the job came again, and was not sent again.
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
    """A try ended without a final outcome: the job is queued again.

    Attributes:
        lane: its lane.
        job: as it was tried.
        pause: seconds until it is due.
        error: why the try failed; None: its content could not be loaded.
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
    """A job is given back unchanged: there was no connection, or the worker stops. This does not count as a try.

    Attributes:
        lane: its lane.
        job: the job.
        is_begun: whether its first byte was about to be written.
    """

    lane: str
    job: Job
    is_begun: bool = False


@attrs.frozen(kw_only=True)
class JobHeldBack:
    """The shaper made a job wait.

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
    """What became of these jobs is recorded; the worker does not have them any more.

    Attributes:
        lane: their lane.
        jobs: the jobs.
    """

    lane: str
    jobs: tuple[Job, ...]


@attrs.frozen(kw_only=True)
class QueueCounted:
    """The engine counted all jobs, not only this worker's.

    Attributes:
        lanes: each lane that has jobs.
    """

    lanes: tuple[LaneStatus, ...]


@attrs.frozen(kw_only=True)
class EngineFailed:
    """The engine failed to do what it was asked for; the worker tries again.

    Attributes:
        lane: the lane that asked; None: it was not for a lane.
        operation: "lease", "extend", "settle" or "status".
        error: what it raised.
    """

    lane: str | None
    operation: str
    error: Exception


@attrs.frozen(kw_only=True)
class RelayFailed:
    """No connection could be opened, or the password is wrong; the worker tries again.

    Attributes:
        lane: the lane that needed it.
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
    """What a rule, or somebody by hand, does for a while, to send less.

    Attributes:
        action: "suspend", "max_message_rate" or "connection_limit".
        rule: the rule's name, as in its file; "hand": somebody did it by hand.
        recipients: the pattern of the recipients, as in the rule; None: the whole relay.
        until: when it ends, on the store's clock. If only this changes, the rule was triggered again.
    """

    action: str
    rule: str
    recipients: str | None
    until: float


@attrs.frozen(kw_only=True)
class LimitsShared:
    """The worker learned what all workers of a relay may do now, and which measures apply.

    Attributes:
        relay: the relay.
        rate: messages a second, of all workers together; None: no limit.
        measures: the measures that apply now; those that are over are not among them.
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
#: A function that is told what happens. It is called in the event loop, and should return quickly.
WorkerTrace: TypeAlias = Callable[[WorkerEvent], None]
