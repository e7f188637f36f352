"""Export the metrics of `smtplite worker run`: on a page for Prometheus, or to a collector by OTLP."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from smtplite.errors import ConfigurationError
from smtplite.worker.metrics import WorkerMetrics

__all__ = ["EXPORTERS", "exported", "options_of"]

logger = logging.getLogger("smtplite.worker")

#: What is set up. "prometheus": a page that Prometheus reads. "otlp": an export to a collector, configured by the SDK's
#: environment variables. "global": nothing, because ``opentelemetry-instrument`` set up the global provider.
EXPORTERS: Final = ("prometheus", "otlp", "global")

#: The default port of OpenTelemetry's environment variables; only this machine can connect.
_LISTEN: Final = "127.0.0.1:9464"


@contextmanager
def exported(exporter: str, listen: str = _LISTEN) -> Iterator[WorkerMetrics]:
    """Yield metrics that are exported during the block; what is left is exported at its end.

    Args:
        exporter: one of `EXPORTERS`.
        listen: for "prometheus", the address of the page.

    Raises:
        ConfigurationError: a package is not installed, or the address cannot be used; says what to do.
    """
    if exporter == "global":
        yield _metrics(None)
        return
    with _reader(exporter, listen) as reader:
        provider = _provider(reader)
        try:
            yield _metrics(provider)
        finally:
            provider.shutdown()


def _metrics(provider: Any) -> WorkerMetrics:
    try:
        return WorkerMetrics(provider)
    except ImportError as error:
        raise ConfigurationError(str(error)) from error


def _provider(reader: Any) -> Any:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.resources import Resource

    given = Resource.create()
    ours: dict[str, str] = {}
    if str(given.attributes.get("service.name", "unknown_service")).startswith("unknown_service"):
        ours["service.name"] = "smtplite-worker"
    if "service.instance.id" not in given.attributes:  # without it, a collector mixes up the workers
        ours["service.instance.id"] = str(uuid.uuid4())
    return MeterProvider(metric_readers=[reader], resource=given.merge(Resource(ours)))


@contextmanager
def _reader(exporter: str, listen: str) -> Iterator[Any]:
    if exporter == "otlp":
        try:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
            from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        except ModuleNotFoundError as error:
            raise _lacking("otlp", "opentelemetry-exporter-otlp-proto-http") from error
        yield PeriodicExportingMetricReader(OTLPMetricExporter())
        return
    try:
        from opentelemetry.exporter.prometheus import PrometheusMetricReader
        from prometheus_client import start_http_server
    except ModuleNotFoundError as error:
        raise _lacking("prometheus", "opentelemetry-exporter-prometheus") from error
    host, port = address(listen)
    try:
        server, thread = start_http_server(port, host)
    except OSError as error:
        raise ConfigurationError(f"metrics.listen: cannot listen on {listen!r:.80}: {error}") from error
    logger.info("metrics are at http://%s:%d/metrics", host, server.server_port)
    try:
        yield PrometheusMetricReader()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def address(listen: str) -> tuple[str, int]:
    """Return the host and port of an address such as ``"127.0.0.1:9464"``.

    Raises:
        ConfigurationError: it is not an address with a port.
    """
    host, colon, port = listen.rpartition(":")
    if not (colon and host and port.isascii() and port.isdecimal() and int(port) < 1 << 16):
        raise ConfigurationError(
            f'metrics.listen must be an address and a port, such as "{_LISTEN}", not {listen!r:.80}'
        )
    return host.removeprefix("[").removesuffix("]"), int(port)


def _lacking(exporter: str, package: str) -> ConfigurationError:
    return ConfigurationError(f"metrics.exporter = {exporter!r} needs packages: pip install 'smtplite[otel]' {package}")


def options_of(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the options of `exported` from a table of the file.

    Args:
        given: the table.
        where: the name of the file in errors.

    Raises:
        ConfigurationError: something in it is wrong.
    """
    options = {"exporter": "prometheus", **given}
    if options["exporter"] not in EXPORTERS:
        known = ", ".join(map(repr, EXPORTERS))
        raise ConfigurationError(f"{where}: metrics.exporter must be one of {known}, not {options['exporter']!r:.80}")
    if "listen" in options:
        if options["exporter"] != "prometheus":
            raise ConfigurationError(f"{where}: metrics.listen is only for the exporter 'prometheus': remove it")
        address(options["listen"])
    return options
