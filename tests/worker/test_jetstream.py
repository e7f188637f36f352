"""NATS JetStream as a source: a real server on a port of its own."""

from __future__ import annotations

import itertools
import signal
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio
import attrs
import pytest
import pytest_asyncio

from smtplite.errors import ConfigurationError, MessageError
from smtplite.testing import SMTPServer
from smtplite.worker import Job, Source, Worker
from tests.interop.launcher import ensure_nothing_is_missing
from tests.worker import kills
from tests.worker.conformance import Conformance
from tests.worker.engines import NatsServer
from tests.worker.kit import SOON, is_done, lease_one, letter, until
from tests.worker.stops import stop_in_the_middle

if TYPE_CHECKING:
    from smtplite.worker.jetstream import JetStreamSource

pytestmark = pytest.mark.interop

#: `python -m tests.worker.kills` is the long form.
KILLS = 20

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    ensure_nothing_is_missing(NatsServer.missing)
    with NatsServer() as running:
        yield running


class InJetStream:
    """Sources over streams of their own."""

    def __init__(self, url: str, stream: str, stack: AsyncExitStack) -> None:
        self.url = url
        self.stream = stream
        self._stack = stack

    async def source(self, *, lease_seconds: float = 60.0) -> JetStreamSource:
        from smtplite.worker.jetstream import JetStreamSource

        return await self._stack.enter_async_context(
            JetStreamSource(self.url, stream=self.stream, lease_seconds=lease_seconds)
        )

    async def enqueue(self, jobs: Iterable[Job]) -> None:
        import nats

        from smtplite.worker.jetstream import enqueue

        connection = await nats.connect(self.url)
        await enqueue(connection, jobs, stream=self.stream)
        await connection.close()


@pytest_asyncio.fixture
async def engine(server: NatsServer) -> AsyncIterator[InJetStream]:
    async with AsyncExitStack() as stack:
        engine = InJetStream(server.url, f"TEST{next(_numbers)}", stack)
        await (await engine.source()).install()
        yield engine


class TestJetStream(Conformance):
    short = 2.0
    taker = 2.0  # the consumer's `ack_wait` is the same for all
    silence = 0.3
    delay = 2.0


@pytest.mark.asyncio
async def test_queueing_again_is_dropped_and_said(engine: InJetStream) -> None:
    import nats

    from smtplite.worker.jetstream import enqueue

    connection = await nats.connect(engine.url)
    assert await enqueue(connection, [*letter(1), *letter(2)], stream=engine.stream) == 2
    assert await enqueue(connection, [*letter(1), *letter(3)], stream=engine.stream) == 1
    [job] = letter(4)
    large = attrs.evolve(job, content=b"x" * connection.max_payload)
    with pytest.raises(MessageError, match="reference="):
        await enqueue(connection, [large], stream=engine.stream)
    await connection.close()


@pytest.mark.asyncio
async def test_a_retry_whose_answer_was_lost_is_one_job(engine: InJetStream) -> None:
    source = await engine.source()
    await engine.enqueue(letter())
    job = await lease_one(source)
    again = attrs.evolve(job, attempt=2)
    await source.retry([(again, 0.0)])
    await source.retry([(again, 0.0)])
    second = await lease_one(source)
    assert second.attempt == 2
    assert await source.lease("bulk", 10, 0.3) == []
    await source.retry([(second, 0.0)])  # a shaper has it wait: the same attempt, and another delivery
    assert (await lease_one(source)).attempt == 2


@pytest.mark.asyncio
async def test_many_retries_do_not_hold_up_the_lane(engine: InJetStream) -> None:
    source = await engine.source()
    jobs = [job for number in range(50) for job in letter(number)]
    await engine.enqueue(jobs)
    leased: list[Job] = []
    while len(leased) < 50:
        leased += await source.lease("bulk", 50, 1.0)
    await source.retry([(attrs.evolve(job, attempt=2), 3600.0) for job in leased])
    await engine.enqueue(letter(99))
    assert (await lease_one(source)).key == "<99@example.org>"
    [lane] = await source.status()
    assert (lane.leased, lane.later) == (1, 50)


@pytest.mark.asyncio
async def test_what_others_publish_is_taken_out(engine: InJetStream) -> None:
    import nats

    source = await engine.source()
    connection = await nats.connect(engine.url)
    await connection.jetstream().publish(f"{engine.stream.lower()}.job.bulk", b"hello")
    await connection.close()
    await engine.enqueue(letter(1))
    assert (await lease_one(source)).key == "<1@example.org>"


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
async def test_a_restart_of_the_server_loses_nothing(engine: InJetStream, server: NatsServer, how: str) -> None:
    source = await engine.source(lease_seconds=5.0)
    jobs = [job for number in range(400) for job in letter(number, when_unknown=("retry", "record")[number % 2])]
    await engine.enqueue(jobs)
    relay = SMTPServer()
    async with relay.client() as client, anyio.create_task_group() as tasks:
        worker = Worker(source, client, lanes={"bulk": 2}, batch=40, backoff=SOON)
        tasks.start_soon(worker.run)
        await until(lambda: _sent(relay, 50))
        await anyio.to_thread.run_sync(server.stop, signal.Signals[how])
        await anyio.to_thread.run_sync(server.start)
        await until(lambda: _done(source, jobs), seconds=90)
        worker.stop()
    recipients = [path for message in relay.messages for path in message.recipients]
    once = [job.identity.recipient for job in jobs if job.when_unknown == "record"]
    assert set(recipients) == {job.identity.recipient for job in jobs}
    assert all(recipients.count(recipient) == 1 for recipient in once)


async def _sent(relay: SMTPServer, number: int) -> bool:
    return len(relay.messages) >= number


async def _done(source: Source, jobs: list[Job]) -> bool:
    try:
        return await is_done(source, jobs)
    except Exception:  # noqa: BLE001 (while the server is away, nothing is done)
        return False


@pytest.mark.asyncio
async def test_three_workers_that_are_killed_again_and_again_lose_nothing(engine: InJetStream) -> None:
    report = await kills.over_jetstream(engine.url, KILLS, kills.make_jobs(KILLS * 30), stream=engine.stream)
    report.check()
    print(f"\njetstream: {report}")


@pytest.mark.asyncio
@pytest.mark.parametrize("patiently", [True, False])
async def test_a_worker_process_that_is_told_to_stop_leaves_nothing_unsettled(
    engine: InJetStream, patiently: bool
) -> None:
    source = {"engine": "jetstream", "url": engine.url, "stream": engine.stream}
    await stop_in_the_middle(source, engine.enqueue, patiently=patiently)


@pytest.mark.asyncio
async def test_a_server_without_schedules_is_refused(engine: InJetStream, monkeypatch: pytest.MonkeyPatch) -> None:
    from smtplite.worker import jetstream

    monkeypatch.setattr(jetstream, "OLDEST_SERVER", (99, 0, 0))
    with pytest.raises(ConfigurationError, match=r"need 2\.12 or later"):
        await engine.source()


@pytest.mark.asyncio
async def test_a_server_that_is_not_there_is_said_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_nothing_is_missing(NatsServer.missing)
    from smtplite.worker import jetstream

    monkeypatch.setattr(jetstream, "_OPEN_SECONDS", 2.0)  # the first try is over by then
    with socket.socket() as nobody:  # it has a port, and does not listen
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(ConfigurationError, match="cannot connect to NATS: ConnectionRefusedError"):
            async with jetstream.JetStreamSource(f"nats://127.0.0.1:{nobody.getsockname()[1]}"):
                pass
