"""OpenTelemetry for `smtplite.Client(trace=...)`: a span for each message, and metrics.

Names are those of OpenTelemetry's semantic conventions if there is one (``messaging.*``, ``server.*``, ``network.*``,
``error.type``). All others begin with ``smtplite.``. None contains an address, or a text that may contain one.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Final

from opentelemetry import metrics, trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from smtplite import SMTPError
from smtplite.trace import ConnectionClosed, ConnectionOpened, FlightSent, MessageFinished, TraceEvent

__all__ = ["Telemetry"]

#: How many closed connections are remembered, for messages whose outcome comes after the close.
_CLOSED: Final = 100


class _Connection:
    """What is known about a connection.

    Attributes:
        messages: how many were finished on it.
        flights: writes since the last message was finished, or since the connection was opened.
        began: the time of the first of these writes, or of the last one before; nanoseconds of the system's clock.
    """

    def __init__(self) -> None:
        self.messages = 0
        self.flights = 0
        self.began = time.time_ns()


class Telemetry:
    """Makes spans and metrics from the events of one Client: pass it as ``trace=``.

    Args:
        server_address: the server's name, or the path of its Unix socket.
        server_port: the port; None: a Unix socket.
        tracer_provider: None: the global one.
        meter_provider: None: the global one.
    """

    def __init__(
        self,
        server_address: str,
        server_port: int | None = None,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer("smtplite", tracer_provider=tracer_provider)
        meter = metrics.get_meter("smtplite", meter_provider=meter_provider)
        self._server: dict[str, AttributeValue] = {"server.address": server_address}
        if server_port is not None:
            self._server["server.port"] = server_port
        self._common: dict[str, AttributeValue] = {
            **self._server,
            "messaging.system": "smtp",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
        }
        self._of_span: dict[str, AttributeValue] = {
            **self._common,
            "network.protocol.name": "smtp",
            "network.transport": "unix" if server_port is None else "tcp",
        }
        self._name = f"send {server_address}" + ("" if server_port is None else f":{server_port}")
        self._connections: dict[int, _Connection] = {}
        self._closed: deque[int] = deque()
        self._messages = meter.create_counter(
            "messaging.client.sent.messages", "{message}", "Messages that were tried to be sent"
        )
        self._duration = meter.create_histogram(
            "messaging.client.operation.duration",
            "s",
            "From a message's first write to its outcome",
            explicit_bucket_boundaries_advisory=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
        )
        self._recipients = meter.create_counter(
            "smtplite.client.recipients", "{recipient}", "What became of recipients, by smtplite.outcome"
        )
        self._opened = meter.create_counter("smtplite.client.connections.opened", "{connection}", "Connections opened")
        self._reused = meter.create_counter(
            "smtplite.client.connections.reused", "{message}", "Messages on a connection that had done one before"
        )
        self._flights = meter.create_counter("smtplite.client.flights", "{flight}", "Writes, each a round trip")

    def __call__(self, event: TraceEvent) -> None:
        """Record an event."""
        if isinstance(event, ConnectionOpened):
            self._connections[event.connection] = _Connection()
            self._opened.add(1, self._server)
        elif isinstance(event, FlightSent):
            connection = self._connections[event.connection]
            if connection.messages and not connection.flights:
                connection.began = time.time_ns()
            connection.flights += 1
            self._flights.add(1, self._server)
        elif isinstance(event, ConnectionClosed):
            self._closed.append(event.connection)
            if len(self._closed) > _CLOSED:
                del self._connections[self._closed.popleft()]
        elif isinstance(event, MessageFinished):
            self._finished(event)

    def _finished(self, event: MessageFinished) -> None:
        now = time.time_ns()
        attributes = dict(self._of_span)
        began = now  # no connection was opened
        if event.connection is not None and (connection := self._connections.get(event.connection)) is not None:
            began = connection.began
            attributes["smtplite.flights"] = connection.flights
            attributes["smtplite.connection.reused"] = connection.messages > 0
            if connection.messages:
                self._reused.add(1, self._server)
            connection.messages += 1
            connection.flights = 0
        outcomes = {
            "delivered": len(event.accepted),
            "refused": len(event.refused),
            "unknown": len(event.unknown),
            "not_sent": len(event.not_sent),
        }
        for outcome, count in outcomes.items():
            attributes[f"smtplite.recipients.{outcome}"] = count
            if count:
                self._recipients.add(count, {**self._server, "smtplite.outcome": outcome})
        attributes["smtplite.outcome"] = _outcome(outcomes)
        if event.message_id is not None:
            attributes["messaging.message.id"] = event.message_id
        of_metric = dict(self._common)
        if not event.accepted:
            error_type = _error_type(event.error)
            attributes["error.type"] = of_metric["error.type"] = error_type
        if event.error is not None:
            attributes.update(_attributes_of(event.error))
        self._messages.add(1, of_metric)
        self._duration.record(max(0, now - began) / 1e9, of_metric)
        # Made at the end, with both times. The hook runs where `send` was called, so the parent is the caller's span.
        span = self._tracer.start_span(self._name, kind=SpanKind.CLIENT, attributes=attributes, start_time=began)
        if not event.accepted:
            span.set_status(Status(StatusCode.ERROR))  # no description: it may contain addresses
        span.end(max(began, now))


def _outcome(outcomes: dict[str, int]) -> str:
    """Return the outcome if all recipients have the same, else "partial"; but "unknown" if any is unknown."""
    if outcomes["unknown"]:
        return "unknown"
    named = [outcome for outcome, count in outcomes.items() if count]
    return named[0] if len(named) == 1 else "partial"


def _error_type(error: SMTPError | None) -> str:
    """Return the error's class; "_OTHER", as the conventions say, if the send was cancelled."""
    return "_OTHER" if error is None else f"smtplite.{type(error).__name__}"


def _attributes_of(error: SMTPError) -> dict[str, AttributeValue]:
    found: dict[str, AttributeValue] = {"smtplite.retryable": error.retryable}
    if error.phase is not None:
        found["smtplite.phase"] = error.phase
    if error.reply is not None:
        found["smtplite.reply.code"] = error.reply.code
        if error.reply.enhanced is not None:
            found["smtplite.reply.enhanced"] = str(error.reply.enhanced)
    return found
