"""Metrics of a worker for OpenTelemetry: what it sends, what becomes of it, what waits, and what goes wrong.

::

    worker = Worker(source, client, trace=WorkerMetrics())

It needs ``pip install 'smtplite[otel]'``; the library is imported when the first `WorkerMetrics` is made. The values of
attributes are names of lanes, relays, rules and error classes, and reply codes: their number is bounded, and no address
of a person is among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from smtplite import __version__
from smtplite.errors import SMTPError
from smtplite.worker import events
from smtplite.worker.source import LaneStatus

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

__all__ = ["WorkerMetrics"]

#: How long a message waits: from milliseconds to four days, when it is given up.
_WAITS: Final = (0.01, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600, 96 * 3600)
#: How long a try takes: from a relay on the same machine to the longest timeout.
_TRIES: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600)

_Attributes: TypeAlias = dict[str, str | int]
#: Action, rule and recipients of a measure: only as many as the files of rules have.
_Key: TypeAlias = tuple[str, str, str | None]

#: Stands for the end of a measure that is over.
_OVER: Final = 0.0


class WorkerMetrics:
    """Makes metrics from the events of workers. Pass it to each worker as ``trace=``; a process needs only one.

    Args:
        meter_provider: OpenTelemetry's meter provider; None: the global one.

    Raises:
        ImportError: opentelemetry-api is not installed.
    """

    def __init__(self, meter_provider: MeterProvider | None = None) -> None:
        try:
            from opentelemetry import metrics
        except ModuleNotFoundError as error:
            raise ImportError("metrics of a worker need an extra: pip install 'smtplite[otel]'") from error
        meter = metrics.get_meter("smtplite.worker", __version__, meter_provider=meter_provider)
        count, gauge, up_down = meter.create_counter, meter.create_gauge, meter.create_up_down_counter
        self._outcomes = count("smtplite.worker.outcomes", "{message}", "Messages with a final outcome")
        self._retries = count("smtplite.worker.retries", "{message}", "Tries after which a message was queued again")
        self._repeats = count("smtplite.worker.repeats", "{message}", "Messages that already had an outcome")
        self._released = count("smtplite.worker.released", "{message}", "Messages given back without a try")
        self._held_back = count("smtplite.worker.held_back", "{message}", "Messages that a limit made wait")
        self._errors = count("smtplite.worker.errors", "{error}", "Failures of the engine and of the relay")
        self._leased = up_down("smtplite.worker.leased", "{message}", "Messages that the worker has")
        self._in_flight = up_down("smtplite.worker.in_flight", "{message}", "Messages begun, without a verdict yet")
        self._queued = gauge("smtplite.worker.queue.messages", "{message}", "Messages in the queue, of all workers")
        self._due = gauge("smtplite.worker.queue.due_age", "s", "How long messages have been due, at most")
        self._oldest = gauge("smtplite.worker.queue.oldest_age", "s", "How long ago the oldest message was queued")
        self._suspensions = gauge("smtplite.worker.suspensions", "{suspension}", "1 while a rule suspends sending")
        self._slowdowns = gauge("smtplite.worker.slowdowns", "{slowdown}", "1 while a rule slows down sending")
        self._measures = count(
            "smtplite.worker.measures", "{measure}", "How often a rule suspended or slowed down sending"
        )
        self._rate = gauge("smtplite.worker.rate_limit", "{message}/s", "How fast all workers together may send now")
        self._wait = meter.create_histogram(
            "smtplite.worker.queue.wait",
            "s",
            "From queueing a message to the first byte of its first try",
            explicit_bucket_boundaries_advisory=_WAITS,
        )
        self._duration = meter.create_histogram(
            "smtplite.worker.send.duration",
            "s",
            "From the first byte of a try to its verdict",
            explicit_bucket_boundaries_advisory=_TRIES,
        )
        self._total = meter.create_histogram(
            "smtplite.worker.message.duration",
            "s",
            "From queueing a message to its outcome, over all tries",
            explicit_bucket_boundaries_advisory=_WAITS,
        )
        self._lanes: set[str] = set()  # every lane that the queue ever had
        self._known: dict[str, dict[_Key, float]] = {}  # relay -> its measures -> when each ends

    def __call__(self, event: events.WorkerEvent) -> None:
        """Record an event."""
        _NOTES[type(event)](self, event)

    def _note_leased(self, event: events.JobsLeased) -> None:
        self._leased.add(len(event.jobs), _lane(event.lane))

    def _note_begun(self, event: events.JobsBegun) -> None:
        lane = _lane(event.lane)
        self._in_flight.add(len(event.jobs), lane)
        for job in event.jobs:
            if job.attempt == 1 and job.queued_at is not None:
                self._wait.record(max(0.0, event.at - job.queued_at), lane)

    def _note_finished(self, event: events.JobFinished) -> None:
        outcome, lane = event.outcome, _lane(event.lane)
        attributes = {**lane, **_server(event.relay), "smtplite.outcome": outcome.status}
        self._note_try(event, attributes)
        if event.is_repeated:
            self._repeats.add(1, lane)
            return
        if event.job.queued_at is not None:
            total = max(0.0, outcome.at - event.job.queued_at)
            self._total.record(total, {**lane, "smtplite.outcome": outcome.status})
        error = None if event.delivery is None else event.delivery.error
        self._outcomes.add(1, attributes if error is None else attributes | _of_error(error))

    def _note_retried(self, event: events.JobRetried) -> None:
        attributes = {**_lane(event.lane), **_server(event.relay)}
        self._note_try(event, {**attributes, "smtplite.outcome": "retried"})
        self._retries.add(1, attributes | _of_error(event.error))

    def _note_try(self, event: events.JobFinished | events.JobRetried, attributes: _Attributes) -> None:
        if event.seconds is not None:
            self._in_flight.add(-1, _lane(event.lane))
            self._duration.record(event.seconds, attributes)

    def _note_released(self, event: events.JobReleased) -> None:
        lane = _lane(event.lane)
        self._released.add(1, lane)
        if event.is_begun:
            self._in_flight.add(-1, lane)

    def _note_held_back(self, event: events.JobHeldBack) -> None:
        self._held_back.add(1, _lane(event.lane))

    def _note_written(self, event: events.JobsWritten) -> None:
        self._leased.add(-len(event.jobs), _lane(event.lane))

    def _note_counted(self, event: events.QueueCounted) -> None:
        by_lane = {status.lane: status for status in event.lanes}
        self._lanes |= by_lane.keys()
        for name in self._lanes:  # a lane without jobs is not reported: count it as empty
            status, lane = by_lane.get(name) or LaneStatus(lane=name, waiting=0, leased=0, later=0), _lane(name)
            for state in ("waiting", "leased", "later"):
                self._queued.set(getattr(status, state), {**lane, "smtplite.state": state})
            self._due.set(status.due_seconds, lane)
            self._oldest.set(status.oldest_seconds, lane)

    def _note_engine(self, event: events.EngineFailed) -> None:
        attributes: _Attributes = {} if event.lane is None else _lane(event.lane)
        attributes |= {"smtplite.operation": event.operation, "error.type": type(event.error).__qualname__}
        self._errors.add(1, attributes)

    def _note_relay(self, event: events.RelayFailed) -> None:
        attributes = {**_lane(event.lane), **_server(event.relay), "smtplite.operation": "connect"}
        self._errors.add(1, attributes | _of_error(event.error))

    def _note_limits(self, event: events.LimitsShared) -> None:
        server = _server(event.relay)
        if event.rate is not None:
            self._rate.set(event.rate, server)
        known = self._known.setdefault(event.relay, {})
        now = {(measure.action, measure.rule, measure.recipients): measure.until for measure in event.measures}
        for key in known.keys() | now.keys():
            action, rule, recipients = key
            attributes = server | {"smtplite.rule": rule}
            if recipients is not None:
                attributes["smtplite.recipients"] = recipients
            if action != "suspend":
                attributes["smtplite.action"] = action
            (self._suspensions if action == "suspend" else self._slowdowns).set(int(key in now), attributes)
            if key in now and now[key] != known.get(key):
                self._measures.add(1, attributes | {"smtplite.action": action})
        known.update(dict.fromkeys(known, _OVER) | now)


_NOTES: Final[Mapping[type, Callable[[WorkerMetrics, Any], None]]] = {
    events.JobsLeased: WorkerMetrics._note_leased,
    events.JobsBegun: WorkerMetrics._note_begun,
    events.JobFinished: WorkerMetrics._note_finished,
    events.JobRetried: WorkerMetrics._note_retried,
    events.JobReleased: WorkerMetrics._note_released,
    events.JobHeldBack: WorkerMetrics._note_held_back,
    events.JobsWritten: WorkerMetrics._note_written,
    events.QueueCounted: WorkerMetrics._note_counted,
    events.EngineFailed: WorkerMetrics._note_engine,
    events.RelayFailed: WorkerMetrics._note_relay,
    events.LimitsShared: WorkerMetrics._note_limits,
}


def _lane(name: str) -> _Attributes:
    return {"smtplite.lane": name}


def _server(relay: str | None) -> _Attributes:
    """Return the attributes of a relay: two for "mx.example.com:587", one for the path of a Unix socket."""
    if relay is None:
        return {}
    host, colon, port = relay.rpartition(":")
    if not (colon and port.isascii() and port.isdecimal()):
        return {"server.address": relay}
    return {"server.address": host.removeprefix("[").removesuffix("]"), "server.port": int(port)}


def _of_error(error: SMTPError | None) -> _Attributes:
    """Return the attributes of an error: its class, and the reply's code if there is one."""
    if error is None:
        return {"error.type": "_OTHER"}
    attributes: _Attributes = {"error.type": f"smtplite.{type(error).__name__}"}
    reply = error.reply or next(iter(error.refused.values()), None)
    if reply is not None:
        attributes["smtplite.reply.code"] = reply.code
    return attributes
