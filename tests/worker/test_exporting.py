"""Where metrics go: what is exported is read by whoever would read it, over HTTP on loopback."""

from __future__ import annotations

import logging
import re
import sys
import threading
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import anyio
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from smtplite import ConfigurationError
from smtplite.testing import SMTPServer
from smtplite.worker import MemorySource
from smtplite.worker import config as config_module
from smtplite.worker import events as worker_events
from smtplite.worker.config import Config
from smtplite.worker.exporting import exported
from tests.worker.kit import is_done, letter, until

LOCAL = "127.0.0.1:0"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_SDK_DISABLED", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    caplog.set_level(logging.INFO, "smtplite.worker")


def page(caplog: pytest.LogCaptureFixture) -> str:
    """Return what Prometheus would read."""
    [url] = re.findall(r"metrics are at (\S+)", caplog.text)
    with urllib.request.urlopen(url, timeout=20) as answer:
        text: str = answer.read().decode()
    return text


@pytest.mark.asyncio
async def test_prometheus_reads_what_a_worker_of_a_file_did(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source, jobs = MemorySource(), letter()
    source.enqueue(jobs)

    @asynccontextmanager
    async def opened(**_options: Any) -> AsyncIterator[MemorySource]:
        yield source

    monkeypatch.setattr(config_module, "_SOURCES", {"memory": opened})
    async with SMTPServer() as server:
        file = {
            "relay": {"url": f"smtp://{server.host}:{server.port}?tls=none"},
            "source": {"engine": "memory", "url": ""},
            "worker": {"lanes": {"bulk": 1}},
            "metrics": {"listen": LOCAL, "count_every": 60},
        }
        async with Config.of(file, "worker.toml").open_worker() as worker, anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await until(lambda: is_done(source, jobs))
            text = await anyio.to_thread.run_sync(page, caplog)
            worker.stop()
        port = server.port
    [line] = [line for line in text.splitlines() if line.startswith("smtplite_worker_outcomes_total{")]
    labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
    assert float(line.split()[-1]) == 1
    assert labels["smtplite_outcome"] == "accepted"
    assert labels["smtplite_lane"] == "bulk"
    assert (labels["server_address"], labels["server_port"]) == ("127.0.0.1", str(port))
    assert 'service_name="smtplite-worker"' in text
    assert "smtplite_worker_send_duration_seconds_bucket{" in text


def test_after_the_block_the_page_is_gone_and_the_next_one_is_new(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        caplog.clear()
        with exported("prometheus", LOCAL) as metrics:
            metrics(worker_events.JobsLeased(lane="bulk", jobs=(letter()[0],)))
            assert re.search(r"^smtplite_worker_leased\{.*} 1\.0$", page(caplog), re.MULTILINE)
        with pytest.raises(OSError, match="refused"):
            page(caplog)


def test_an_address_that_is_taken_is_said() -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        taken = f"127.0.0.1:{other.server_port}"
        with (
            pytest.raises(ConfigurationError, match="cannot listen on"),
            exported("prometheus", taken),
        ):
            pass


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportMetricsServiceRequest]]]:
    """Give the URL of a collector, and what it got."""
    got: list[ExportMetricsServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(ExportMetricsServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_arguments: Any) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", got
        finally:
            server.shutdown()
            thread.join()


def test_what_is_left_at_the_end_goes_to_the_collector_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop-mail")
    with collector() as (url, got):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        with exported("otlp") as metrics:
            metrics(worker_events.JobsLeased(lane="bulk", jobs=(letter()[0],)))
    [resource] = got[-1].resource_metrics
    attributes = {item.key: item.value.string_value for item in resource.resource.attributes}
    assert attributes["service.name"] == "shop-mail"
    assert attributes["service.instance.id"], "else a collector takes all workers for one"
    [scope] = resource.scope_metrics
    assert [metric.name for metric in scope.metrics] == ["smtplite.worker.leased"]


def test_a_global_provider_of_others_is_used_and_not_ended() -> None:
    with exported("global") as metrics:
        metrics(worker_events.JobsLeased(lane="bulk", jobs=()))


@pytest.mark.parametrize(
    ("exporter", "hidden", "package"),
    [
        ("prometheus", "opentelemetry.exporter.prometheus", "opentelemetry-exporter-prometheus"),
        ("otlp", "opentelemetry.exporter.otlp.proto.http.metric_exporter", "opentelemetry-exporter-otlp-proto-http"),
        ("global", "opentelemetry", "smtplite[otel]"),
    ],
)
def test_what_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, exporter: str, hidden: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, hidden, None)
    with pytest.raises(ConfigurationError) as error, exported(exporter):
        pass
    assert package in str(error.value)
    assert "pip install" in str(error.value)
