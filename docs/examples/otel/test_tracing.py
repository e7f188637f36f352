"""Spans and metrics, as the SDK's in-memory exporters have them."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import smtplite
from smtplite import Client
from smtplite.testing import SMTPServer

try:  # in a checkout of smtplite
    from docs.examples.otel import tracing as example
except ImportError:  # beside tracing.py
    import tracing as example

FOLDER = Path(__file__).parent
ME, YOU = "ada@example.org", "grace@example.net"
NOBODY = "nobody@example.net"


def octets(number: int = 1) -> bytes:
    header = f"From: {ME}\r\nTo: {YOU}\r\nMessage-ID: <{number}@example.org>\r\n"
    return header.encode() + b"\r\nHello\r\n"


@attrs.frozen
class Seen:
    """What was exported."""

    exporter: InMemorySpanExporter = attrs.field(factory=InMemorySpanExporter)
    reader: InMemoryMetricReader = attrs.field(factory=InMemoryMetricReader)
    tracer_provider: TracerProvider = attrs.field(factory=TracerProvider)
    meter_provider: MeterProvider = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        object.__setattr__(self, "meter_provider", MeterProvider(metric_readers=[self.reader]))

    def telemetry(self, address: str, port: int | None = None) -> example.Telemetry:
        return example.Telemetry(
            address, port, tracer_provider=self.tracer_provider, meter_provider=self.meter_provider
        )

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def metrics(self) -> dict[str, list[Any]]:
        data = self.reader.get_metrics_data()
        assert data is not None
        return {
            metric.name: list(metric.data.data_points)
            for of_resource in data.resource_metrics
            for scope in of_resource.scope_metrics
            for metric in scope.metrics
        }

    def count(self, name: str, **attributes: Any) -> float:
        """Return the sum of a counter over what has these attributes."""
        wanted = {name.replace("__", "."): value for name, value in attributes.items()}
        points = self.metrics().get(name, [])
        return float(sum(point.value for point in points if wanted.items() <= point.attributes.items()))


@pytest.fixture
def seen() -> Iterator[Seen]:
    exported = Seen()
    yield exported
    exported.tracer_provider.shutdown()
    exported.meter_provider.shutdown()


def run(seen: Seen, server: SMTPServer, what: Callable[[Client], Awaitable[object]], **options: Any) -> int:
    """Return the port of the server."""

    async def main() -> int:
        async with server:
            telemetry = seen.telemetry(server.host, server.port)
            async with Client(server.host, server.port, tls="none", trace=telemetry, **options) as client:
                await what(client)
            return server.port

    return asyncio.run(main())


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    assert span.attributes is not None
    return dict(span.attributes)


def test_a_span_for_a_message_by_the_names_of_the_conventions(seen: Seen) -> None:
    server = SMTPServer()
    port = run(seen, server, lambda client: client.send(octets()))
    (span,) = seen.spans
    assert span.name == f"send {server.host}:{port}"
    assert span.kind is SpanKind.CLIENT
    assert span.status.status_code is StatusCode.UNSET
    assert attributes_of(span) == {
        "server.address": server.host,
        "server.port": port,
        "messaging.system": "smtp",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.message.id": "<1@example.org>",
        "network.protocol.name": "smtp",
        "network.transport": "tcp",
        "smtplite.flights": 3,  # EHLO; MAIL, RCPT, DATA; content
        "smtplite.connection.reused": False,
        "smtplite.recipients.delivered": 1,
        "smtplite.recipients.refused": 0,
        "smtplite.recipients.unknown": 0,
        "smtplite.recipients.not_sent": 0,
        "smtplite.outcome": "delivered",
    }
    assert span.start_time is not None
    assert span.end_time is not None
    assert 0 < span.end_time - span.start_time < 60e9


def test_the_names_are_those_of_the_semantic_conventions(seen: Seen) -> None:
    attributes = pytest.importorskip("opentelemetry.semconv._incubating.attributes.messaging_attributes")
    names = pytest.importorskip("opentelemetry.semconv._incubating.metrics.messaging_metrics")
    from opentelemetry.semconv.attributes import error_attributes, network_attributes, server_attributes

    async def fail(client: Client) -> None:
        with pytest.raises(smtplite.RecipientsRefused):
            await client.send(octets())

    server = SMTPServer()
    server.reply("RCPT", "550 5.1.1 no such user")
    run(seen, server, fail)
    known = {
        value
        for module in (attributes, error_attributes, network_attributes, server_attributes)
        for name, value in vars(module).items()
        if name.isupper()
    }
    (span,) = seen.spans
    ours = {name for name in attributes_of(span) if name.startswith("smtplite.")}
    assert ours < attributes_of(span).keys()
    assert attributes_of(span).keys() - ours <= known
    of_metrics = {name for name in seen.metrics() if not name.startswith("smtplite.")}
    assert of_metrics == {names.MESSAGING_CLIENT_SENT_MESSAGES, names.MESSAGING_CLIENT_OPERATION_DURATION}


def test_the_parent_is_the_span_of_the_caller(seen: Seen) -> None:
    tracer = seen.tracer_provider.get_tracer("application")

    async def both(client: Client) -> None:
        with tracer.start_as_current_span("one"):
            await client.send(octets())
        with tracer.start_as_current_span("many"):
            async with client.send_many([octets(), octets()]) as deliveries:
                assert [delivery.error async for delivery in deliveries] == [None, None]

    run(seen, SMTPServer(), both)
    parents = {span.context.span_id: span.name for span in seen.spans if span.context and span.parent is None}
    assert [parents[span.parent.span_id] for span in seen.spans if span.parent] == ["one", "many", "many"]


@pytest.mark.parametrize("chunking", [False, True], ids=["DATA", "BDAT"])
def test_the_flights_of_all_messages_are_those_of_the_connection(seen: Seen, chunking: bool) -> None:
    """A message that shares all its writes with others costs nothing; only QUIT belongs to none."""

    async def many(client: Client) -> None:
        await client.send(octets())
        async with client.send_many([octets(number) for number in range(5)], connections=1) as deliveries:
            assert [delivery.error async for delivery in deliveries] == [None] * 5

    run(seen, SMTPServer(), many, chunking=chunking)
    flights = [attributes_of(span)["smtplite.flights"] for span in seen.spans]
    assert sum(flights) == seen.count("smtplite.client.flights") - 1
    assert flights == ([3, 1, 0, 0, 0, 0] if chunking else [3, 2, 1, 1, 1, 1])
    assert [attributes_of(span)["smtplite.connection.reused"] for span in seen.spans] == [False] + [True] * 5
    assert seen.count("smtplite.client.connections.opened") == 1
    assert seen.count("smtplite.client.connections.reused") == 5


def test_recipients_are_counted_by_what_became_of_them(seen: Seen) -> None:
    server = SMTPServer()
    server.reply("RCPT", "550 5.1.1 no such user", to=NOBODY)
    server.reply("END_OF_DATA", b"", close=True, performs=True, to="lost@example.net")
    server.reply("MAIL", "451 4.7.1 not so fast", sender="fast@example.org")
    server.reply("MAIL", b"", close=True, sender="gone@example.org")

    async def each(client: Client) -> None:
        receipt = await client.send(octets(), recipients=[YOU, NOBODY])
        assert receipt.refused
        failures: list[tuple[type[smtplite.SMTPError], dict[str, Any]]] = [
            (smtplite.RecipientsRefused, {"recipients": NOBODY}),
            (smtplite.DeliveryUnknown, {"recipients": [YOU, "lost@example.net"]}),
            (smtplite.SenderRefused, {"sender": "fast@example.org"}),
            (smtplite.ConnectionLost, {"sender": "gone@example.org"}),
        ]
        for error, arguments in failures:
            with pytest.raises(error):
                await client.send(octets(), **arguments)

    run(seen, server, each)
    partial, refused, unknown, throttled, gone = map(attributes_of, seen.spans)
    outcomes = [span["smtplite.outcome"] for span in (partial, refused, unknown, throttled, gone)]
    assert outcomes == ["partial", "refused", "unknown", "refused", "not_sent"]
    assert "error.type" not in partial
    assert refused["error.type"] == "smtplite.RecipientsRefused"
    assert unknown["error.type"] == "smtplite.DeliveryUnknown"
    assert (throttled["smtplite.reply.code"], throttled["smtplite.reply.enhanced"]) == (451, "4.7.1")
    assert (throttled["smtplite.phase"], throttled["smtplite.retryable"]) == ("mail", True)
    assert [span.status.status_code for span in seen.spans] == [StatusCode.UNSET] + [StatusCode.ERROR] * 4
    counts = {
        outcome: seen.count("smtplite.client.recipients", smtplite__outcome=outcome)
        for outcome in ("delivered", "refused", "unknown", "not_sent")
    }
    assert counts == {"delivered": 1, "refused": 3, "unknown": 2, "not_sent": 1}
    assert seen.count("messaging.client.sent.messages") == 5
    assert seen.count("messaging.client.sent.messages", error__type="smtplite.DeliveryUnknown") == 1
    assert sum(point.count for point in seen.metrics()["messaging.client.operation.duration"]) == 5
    exported = [repr(attributes_of(span)) + span.name + repr(span.status) for span in seen.spans]
    assert not any(address in text for text in exported for address in (YOU, NOBODY, "fast@", "lost@"))


def test_no_connection(seen: Seen) -> None:
    server = SMTPServer()
    server.reply("GREETING", "554 5.3.2 no service here")

    async def fail(client: Client) -> None:
        with pytest.raises(smtplite.ServiceUnavailable):
            await client.send(octets())

    run(seen, server, fail)
    (span,) = map(attributes_of, seen.spans)
    assert span["server.address"] == server.host
    assert span["error.type"] == "smtplite.ServiceUnavailable"
    assert span["smtplite.phase"] == "greeting"
    assert "smtplite.flights" not in span


def test_a_send_that_was_cancelled(seen: Seen) -> None:
    server = SMTPServer()
    held = server.hold("END_OF_DATA")

    async def cancel(client: Client) -> None:
        task = asyncio.ensure_future(client.send(octets()))
        await held.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(seen, server, cancel)
    (span,) = map(attributes_of, seen.spans)
    assert (span["error.type"], span["smtplite.outcome"]) == ("_OTHER", "unknown")


def test_nothing_is_kept_of_connections_for_ever(seen: Seen) -> None:
    server = SMTPServer()
    telemetry = seen.telemetry(server.host, 25)

    async def main() -> None:
        async with server:
            for _ in range(example._CLOSED + 5):
                async with Client(server.host, server.port, tls="none", trace=telemetry) as client:
                    await client.check()

    asyncio.run(main())
    assert len(telemetry._connections) == example._CLOSED
    assert seen.count("smtplite.client.connections.opened") == example._CLOSED + 5


def test_a_unix_socket_has_no_port(seen: Seen, tmp_path: Path) -> None:
    path = tmp_path / "smtp"

    async def main() -> None:
        async with SMTPServer(socket_path=path):
            async with Client(socket_path=str(path), trace=seen.telemetry(str(path))) as client:
                await client.send(octets())

    asyncio.run(main())
    (span,) = seen.spans
    assert span.name == f"send {path}"
    assert attributes_of(span)["network.transport"] == "unix"
    assert "server.port" not in attributes_of(span)


def test_the_page(tmp_path: Path) -> None:
    """Its program runs as it stands there, and the console has the span and the metrics of the message."""
    (program,) = re.findall(
        r"^```python no-run\n(.*?)^```$", (FOLDER / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    shutil.copy(FOLDER / "tracing.py", tmp_path)

    async def main() -> tuple[int, str, int]:
        async with SMTPServer() as server:
            source = program.replace('"localhost"', repr(server.host)).replace("1025", str(server.port))
            assert source != program
            lines = "".join(f"    {line}\n" for line in source.splitlines())
            script = f"import asyncio\nasync def program():\n{lines}asyncio.run(program())\n"
            (tmp_path / "program.py").write_text(script, "utf-8")
            process = await asyncio.create_subprocess_exec(
                sys.executable, "program.py", cwd=tmp_path, stdout=asyncio.subprocess.PIPE
            )
            printed, _ = await process.communicate()
            assert process.returncode is not None
            return process.returncode, printed.decode(), len(server.messages)

    status, printed, taken = asyncio.run(main())
    assert (status, taken) == (0, 1)
    assert '"smtplite.outcome": "delivered"' in printed
    assert '"name": "messaging.client.sent.messages"' in printed
