"""Metrics: a worker is run, and what OpenTelemetry's own SDK collects then is what happened."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import anyio
import attrs
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader

from smtplite import Client, ConfigurationError, ConnectError
from smtplite.routes import Route
from smtplite.testing import SMTPServer
from smtplite.worker import LaneStatus, MemorySource, Worker
from smtplite.worker import events as worker_events
from smtplite.worker import running as running_module
from smtplite.worker.metrics import WorkerMetrics
from smtplite.worker.shaping import Rules, Shaping
from tests.worker.kit import SOON, accepted, has_outcomes, is_done, letter, until

#: The relay of a client over a connection in memory.
RELAY = "server.address=connect= server.port=25"


class Meters:
    """What a worker tells, and what the SDK makes of it."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._provider = MeterProvider(metric_readers=[self._reader])
        self._metrics = WorkerMetrics(self._provider)
        self.events: list[Any] = []
        self.units: dict[str, str] = {}

    def __call__(self, event: Any) -> None:
        self.events.append(event)
        self._metrics(event)

    def collect(self) -> dict[str, dict[str, float]]:
        """Return metric -> attributes as "lane=bulk ..." -> value; of a histogram, how many there were."""
        data = self._reader.get_metrics_data()
        found: dict[str, dict[str, float]] = {}
        for resource in () if data is None else data.resource_metrics:
            for scope in resource.scope_metrics:
                assert scope.scope.name == "smtplite.worker"
                for metric in scope.metrics:
                    self.units[metric.name] = metric.unit or ""
                    points = {_text(point.attributes): _value(point) for point in metric.data.data_points}
                    found[metric.name.removeprefix("smtplite.worker.")] = points
        return found


def _value(point: Any) -> float:
    return float(point.count if isinstance(point, HistogramDataPoint) else point.value)


def _text(attributes: Any) -> str:
    return " ".join(f"{key.removeprefix('smtplite.')}={value}" for key, value in sorted(attributes.items(), key=_name))


def _name(pair: tuple[str, Any]) -> str:
    return pair[0].removeprefix("smtplite.")


async def run_until_done(source: MemorySource, client: Any, jobs: list[Any], meters: Any, **options: Any) -> None:
    async with anyio.create_task_group() as tasks:
        worker = Worker(source, client, lanes={"bulk": 1}, backoff=SOON, trace=meters, **options)
        tasks.start_soon(worker.run)
        await until(lambda: is_done(source, jobs))
        worker.stop()


@pytest.mark.asyncio
async def test_outcomes_and_tries_are_counted_by_lane_and_relay_with_the_code_that_decided() -> None:
    source, server, meters = MemorySource(), SMTPServer(), Meters()
    server.reply("RCPT", "550 5.1.1 no such user", to="2@example.net")
    server.reply("RCPT", "451 4.7.1 later", to="3@example.net", times=2)
    jobs = [job for number in (1, 2, 3) for job in letter(number)]
    source.enqueue(jobs)
    async with server.client() as client:
        await run_until_done(source, client, jobs, meters)
    found = meters.collect()
    refused = "error.type=smtplite.RecipientsRefused"
    assert found["outcomes"] == {
        f"lane=bulk outcome=accepted {RELAY}": 2,
        f"{refused} lane=bulk outcome=refused reply.code=550 {RELAY}": 1,
    }
    assert found["retries"] == {f"{refused} lane=bulk reply.code=451 {RELAY}": 2}
    assert found["send.duration"] == {
        f"lane=bulk outcome=accepted {RELAY}": 2,
        f"lane=bulk outcome=refused {RELAY}": 1,
        f"lane=bulk outcome=retried {RELAY}": 2,
    }
    assert found["queue.wait"] == {"lane=bulk": 3}, "of the first try of each"
    assert found["message.duration"] == {"lane=bulk outcome=accepted": 2, "lane=bulk outcome=refused": 1}
    assert found["leased"] == {"lane=bulk": 0}
    assert found["in_flight"] == {"lane=bulk": 0}


@pytest.mark.asyncio
async def test_what_is_under_way_and_what_waits_is_seen_while_it_is_so() -> None:
    source, server, meters = MemorySource(), SMTPServer(), Meters()
    source.enqueue([*letter(1), *letter(2), *letter(3, lane="elsewhere")])
    held = server.hold("END_OF_DATA")
    async with server.client() as client, anyio.create_task_group() as tasks:
        worker = Worker(source, client, lanes={"bulk": 1}, trace=meters)
        tasks.start_soon(worker.run)
        await held.wait()  # with the first one; the second waits for its connection
        found = meters.collect()
        held.release()
        worker.stop()
    assert found["leased"] == {"lane=bulk": 2}
    assert 1 <= found["in_flight"]["lane=bulk"] <= 2, "two messages may share a write"
    assert found["queue.messages"]["lane=elsewhere state=waiting"] == 1
    assert sum(found["queue.messages"].values()) == 3


@pytest.mark.asyncio
async def test_a_lane_that_is_empty_again_has_none_and_is_not_old() -> None:
    meters = Meters()
    full = LaneStatus(lane="bulk", waiting=7, leased=2, later=1, oldest_seconds=90.0, due_seconds=30.0)
    meters(worker_events.QueueCounted(lanes=(full,)))
    assert meters.collect()["queue.messages"] == {
        "lane=bulk state=waiting": 7,
        "lane=bulk state=leased": 2,
        "lane=bulk state=later": 1,
    }
    found = meters.collect()
    assert (found["queue.due_age"], found["queue.oldest_age"]) == ({"lane=bulk": 30.0}, {"lane=bulk": 90.0})
    meters(worker_events.QueueCounted(lanes=()))
    found = meters.collect()
    assert set(found["queue.messages"].values()) == {0}
    assert (found["queue.due_age"], found["queue.oldest_age"]) == ({"lane=bulk": 0.0}, {"lane=bulk": 0.0})


@pytest.mark.asyncio
async def test_a_job_that_comes_again_is_counted_as_that_and_as_no_second_outcome() -> None:
    source, server, meters = MemorySource(), SMTPServer(), Meters()
    jobs = letter()
    await source.store.save([accepted(jobs[0])])
    source.enqueue(jobs)
    async with server.client() as client:
        await run_until_done(source, client, jobs, meters)
    found = meters.collect()
    assert found["repeats"] == {"lane=bulk": 1}
    assert "outcomes" not in found
    assert found["leased"] == {"lane=bulk": 0}


@pytest.mark.asyncio
async def test_what_the_engine_and_the_relay_do_not_do_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_module, "_FIRST_PAUSE_SECONDS", 0.01)
    source, server, meters = MemorySource(), SMTPServer(), Meters()
    trouble = {"lease": 1, "settle": 2, "status": 1, "connect": 3}

    def flaky(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*arguments: Any) -> Any:
            if trouble[name]:
                trouble[name] -= 1
                raise OSError("it is away")
            return await method(*arguments)

        return call

    for name in ("lease", "settle", "status"):
        monkeypatch.setattr(source, name, flaky(name, getattr(source, name)))
    jobs = letter()
    source.enqueue(jobs)
    async with (
        Client(connect=flaky("connect", server.connect), tls="none") as client,
        anyio.create_task_group() as tasks,
    ):
        worker = Worker(source, client, lanes={"bulk": 1}, backoff=SOON, trace=meters)
        tasks.start_soon(worker.run)
        await until(lambda: _settled(source, jobs))
        worker.stop()
    found = meters.collect()
    assert found["released"] == {"lane=bulk": 3}, "the job went back each time"
    assert found["errors"] == {
        f"error.type=smtplite.ConnectError lane=bulk operation=connect {RELAY}": 3,
        "error.type=OSError lane=bulk operation=lease": 1,
        "error.type=OSError lane=bulk operation=settle": 2,
        "error.type=OSError operation=status": 1,
    }
    assert found["leased"] == {"lane=bulk": 0}


async def _settled(source: MemorySource, jobs: list[Any]) -> bool:
    return all(job.identity in source.store.outcomes for job in jobs) and not source._rows


@pytest.mark.asyncio
async def test_the_relay_of_a_route_is_the_one_that_took_the_message() -> None:
    source, server, meters = MemorySource(), SMTPServer(), Meters()
    away = Client("127.0.0.1", 1, tls="none")
    jobs = letter()
    source.enqueue(jobs)
    async with server, Client(server.host, server.port, tls="none") as client, Route([away, client]) as route:
        await run_until_done(source, route, jobs, meters)
        port = server.port
    assert meters.collect()["outcomes"] == {
        f"lane=bulk outcome=accepted server.address=127.0.0.1 server.port={port}": 1
    }


@pytest.mark.parametrize(
    ("relay", "attributes"),
    [
        ("mx.example.com:587", "server.address=mx.example.com server.port=587"),
        ("[2001:db8::1]:25", "server.address=2001:db8::1 server.port=25"),
        ("/run/smtp.sock", "server.address=/run/smtp.sock"),
        (None, ""),
    ],
)
@pytest.mark.asyncio
async def test_a_relay_has_the_attributes_of_the_conventions(relay: str | None, attributes: str) -> None:
    meters = Meters()
    error = OSError("away")
    meters(worker_events.RelayFailed(lane="bulk", relay=relay, error=ConnectError(str(error)), pause=1.0))
    expected = f"error.type=smtplite.ConnectError lane=bulk operation=connect {attributes}".strip()
    assert meters.collect()["errors"] == {expected: 1}


@pytest.mark.asyncio
async def test_names_and_units_are_those_of_the_conventions() -> None:
    """Names in lower case with dots, UCUM units, and annotations such as {message} for what is counted."""
    source, server, meters = MemorySource(), SMTPServer(), Meters()
    server.reply("RCPT", "451 4.7.1 later", times=1)
    jobs = letter()
    source.enqueue(jobs)
    async with server.client() as client:
        await run_until_done(source, client, jobs, meters)
    meters.collect()
    for name, unit in meters.units.items():
        assert re.fullmatch(r"smtplite\.worker(\.[a-z_]+)+", name)
        assert unit == ("s" if name.endswith(("age", "wait", "duration")) else "{message}"), name
    assert len(meters.units) == 10


@pytest.mark.asyncio
async def test_no_address_and_no_text_of_a_server_is_in_a_metric() -> None:
    source, server, meters = MemorySource(), SMTPServer(), Meters()
    server.reply("RCPT", "550 5.1.1 secret text", to="2@example.net")
    jobs = [*letter(1), *letter(2)]
    source.enqueue(jobs)
    async with server.client() as client:
        await run_until_done(source, client, jobs, meters)
    found = str(meters.collect())
    assert "example.net" not in found
    assert "example.org" not in found
    assert "secret" not in found


@pytest.mark.asyncio
async def test_a_hook_that_fails_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    source, server = MemorySource(), SMTPServer()

    def fails(event: object) -> None:
        raise ZeroDivisionError(type(event).__name__)

    jobs = letter()
    source.enqueue(jobs)
    async with server.client() as client:
        await run_until_done(source, client, jobs, fails)
    assert source.store.outcomes[jobs[0].identity].status == "accepted"
    assert "trace hook failed on JobFinished" in caplog.text
    assert "example.net" not in caplog.text.partition("Traceback")[0]


@pytest.mark.asyncio
async def test_a_hook_that_cannot_be_called_is_refused() -> None:
    async def never_awaited(event: object) -> None:
        """Nobody would."""

    async with SMTPServer().client() as client:
        with pytest.raises(ConfigurationError, match="a function of an event"):
            Worker(MemorySource(), client, trace=never_awaited)  # type: ignore[arg-type]  # that is the point


def test_without_the_package_it_says_what_to_install_and_the_worker_needs_none() -> None:
    program = """
import sys
sys.modules["opentelemetry"] = None
import smtplite.worker, smtplite.worker.metrics
try:
    smtplite.worker.metrics.WorkerMetrics()
except ImportError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert ran.stdout == "metrics of a worker need an extra: pip install 'smtplite[otel]'\n"


def test_nothing_of_opentelemetry_is_imported_before_it_is_used() -> None:
    program = "import sys, smtplite.worker.metrics; print([name for name in sys.modules if 'opentelemetry' in name])"
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert ran.stdout == "[]\n"


@pytest.mark.asyncio
async def test_a_message_that_is_begun_anew_on_another_connection_is_one_in_flight() -> None:
    source, server, meters = MemorySource(), SMTPServer(), Meters()
    server.reply("DATA", b"", times=1, close=True)
    jobs = [*letter(1), *letter(2)]
    source.enqueue(jobs)
    async with server.client() as client:
        await run_until_done(source, client, jobs, meters)
    begun = [job for event in meters.events if isinstance(event, worker_events.JobsBegun) for job in event.jobs]
    assert [job.identity for job in begun] == [job.identity for job in jobs]
    found = meters.collect()
    assert found["in_flight"] == {"lane=bulk": 0}
    assert found["queue.wait"] == {"lane=bulk": 2}


@pytest.mark.asyncio
async def test_suspensions_and_slowdowns_are_seen_by_relay_and_rule_until_they_are_over() -> None:
    meters = Meters()
    relay = "smtp.example.com:587"
    where = "server.address=smtp.example.com server.port=587"
    rule = 'relay."smtp.example.com".automation[0]'
    suspended = worker_events.Measure(action="suspend", rule=rule, recipients=None, until=60.0)
    slow = worker_events.Measure(action="max_message_rate", rule="hand", recipients="gmail.com", until=90.0)

    def shared(*measures: worker_events.Measure, rate: float | None = None) -> dict[str, dict[str, float]]:
        meters(worker_events.LimitsShared(relay=relay, rate=rate, measures=measures))
        return meters.collect()

    assert "rate_limit" not in shared()
    found = shared(suspended, slow, rate=12.5)
    assert found["suspensions"] == {f"rule={rule} {where}": 1}
    assert found["slowdowns"] == {f"action=max_message_rate recipients=gmail.com rule=hand {where}": 1}
    assert found["rate_limit"] == {where: 12.5}
    found = shared(slow)
    assert found["suspensions"] == {f"rule={rule} {where}": 0}
    assert set(found["slowdowns"].values()) == {1}
    found = shared(attrs.evolve(suspended, until=180.0), slow)
    assert found["suspensions"] == {f"rule={rule} {where}": 1}
    assert found["measures"] == {
        f"action=suspend rule={rule} {where}": 2,
        f"action=max_message_rate recipients=gmail.com rule=hand {where}": 1,
    }
    assert found == shared(attrs.evolve(suspended, until=180.0), slow), "the same again is nothing new"


@pytest.mark.asyncio
async def test_what_a_rule_suspends_is_seen_and_ends() -> None:
    source, server, meters = MemorySource(), SMTPServer(), Meters()
    server.reply("RCPT", "451 4.7.1 slow down", to="1@example.net", times=1)
    rules = """
    [[default.automation]]
    regex = 'slow down'
    action = ["Suspend", { SetConfig = { name = "max_message_rate", value = "500/s" } }]
    duration = "1s"
    [recipient."example.com"]
    suspended = true
    """
    jobs = letter(1)
    source.enqueue([*jobs, *letter(2, to="2@example.com")])
    seen: list[dict[str, dict[str, float]]] = []

    def looking(event: Any) -> None:
        meters(event)
        seen.append(meters.collect())

    async def is_over() -> bool:
        if not seen:
            return False
        values = [*seen[-1].get("suspensions", {}).values(), *seen[-1].get("slowdowns", {}).values()]
        return values == [0, 0] and await has_outcomes(source, jobs)

    async with server.client() as client, anyio.create_task_group() as tasks:
        shaping = Shaping(Rules.of(rules), "smtp.example.com:587", source.boards, client)
        worker = Worker(source, client, lanes={"bulk": 1}, backoff=SOON, shaper=shaping, trace=looking)
        tasks.start_soon(worker.run)
        await until(is_over)
        worker.stop()
    found = seen[-1]
    about = "rule=default.automation[0] server.address=smtp.example.com server.port=587"
    assert found["suspensions"] == {about: 0}
    assert any(each.get("suspensions") == {about: 1} for each in seen)
    assert found["slowdowns"] == {f"action=max_message_rate {about}": 0}
    assert found["measures"] == {f"action=max_message_rate {about}": 1, f"action=suspend {about}": 1}
    assert found["rate_limit"]["server.address=smtp.example.com server.port=587"] > 0
    assert found["held_back"] == {"lane=bulk": 1}, "the recipient that is suspended by the file"
