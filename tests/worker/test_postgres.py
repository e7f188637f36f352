"""PostgreSQL as a source, by PgQueuer: a real server in a folder of its own."""

from __future__ import annotations

import itertools
import json
import signal
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import pytest_asyncio

from smtplite.cli import main
from smtplite.errors import ConfigurationError
from smtplite.testing import SMTPServer
from smtplite.worker import Job, Source, Worker
from tests.interop.launcher import ensure_nothing_is_missing
from tests.worker import kills
from tests.worker.conformance import Conformance
from tests.worker.engines import PostgresServer
from tests.worker.kit import SOON, accepted, has_outcomes, is_done, lease_one, letter, until
from tests.worker.stops import stop_in_the_middle

if TYPE_CHECKING:
    import psycopg

    from smtplite.worker.postgres import PostgresSource

pytestmark = pytest.mark.interop

#: `python -m tests.worker.kills` is the long form.
KILLS = 20

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    ensure_nothing_is_missing(PostgresServer.missing)
    with PostgresServer() as running:
        yield running


class InPostgres:
    """Sources over a database of their own."""

    def __init__(self, info: str, stack: AsyncExitStack) -> None:
        self.info = info
        self._stack = stack

    async def source(self, *, lease_seconds: float = 60.0) -> PostgresSource:
        from smtplite.worker.postgres import PostgresSource

        return await self._stack.enter_async_context(PostgresSource(self.info, lease_seconds=lease_seconds))

    async def enqueue(self, jobs: Iterable[Job]) -> None:
        import psycopg

        from smtplite.worker.postgres import enqueue

        async with await psycopg.AsyncConnection.connect(self.info) as connection:
            await enqueue(connection, jobs)


@pytest_asyncio.fixture
async def engine(server: PostgresServer) -> AsyncIterator[InPostgres]:
    import psycopg

    name = f"test{next(_numbers)}"
    with psycopg.connect(server.info, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    info = server.info.replace("dbname=postgres", f"dbname={name}")
    async with AsyncExitStack() as stack:
        engine = InPostgres(info, stack)
        await (await engine.source()).install()
        yield engine


class TestPostgres(Conformance):
    short = 2.0
    taker = 2.0  # whoever leases decides how long a lease of others was
    silence = 0.3
    delay = 1.5


@pytest.mark.asyncio
async def test_what_is_queued_in_a_transaction_that_fails_is_not_there(engine: InPostgres) -> None:
    import psycopg

    from smtplite.worker.postgres import enqueue, enqueue_sync

    source = await engine.source()
    async with await psycopg.AsyncConnection.connect(engine.info) as connection:
        with pytest.raises(ZeroDivisionError):
            await _fails(connection)
        assert await source.status() == []
        async with connection.transaction():
            assert await enqueue(connection, letter(1)) == 1
            assert await enqueue(connection, []) == 0
        assert await enqueue(connection, letter(1)) == 0
    with psycopg.connect(engine.info) as blocking:
        assert enqueue_sync(blocking, [*letter(1), *letter(2)]) == 1
        assert enqueue_sync(blocking, []) == 0
    assert [lane.waiting for lane in await source.status()] == [2]


@pytest.mark.asyncio
@pytest.mark.parametrize("how", [signal.SIGQUIT])
async def test_a_restart_of_the_database_loses_nothing_and_sends_nothing_twice(
    engine: InPostgres, server: PostgresServer, how: signal.Signals
) -> None:
    source = await engine.source()
    jobs = [job for number in range(400) for job in letter(number, when_unknown=("retry", "record")[number % 2])]
    await engine.enqueue(jobs)
    relay = SMTPServer()
    async with relay.client() as client, anyio.create_task_group() as tasks:
        worker = Worker(source, client, lanes={"bulk": 2}, batch=40, backoff=SOON)
        tasks.start_soon(worker.run)
        await until(lambda: _sent(relay, 50))
        await anyio.to_thread.run_sync(server.stop, how)
        await anyio.to_thread.run_sync(server.start)
        await until(lambda: _done(source, jobs), seconds=90)
        worker.stop()
    recipients = [path for message in relay.messages for path in message.recipients]
    assert len(recipients) == len(set(recipients)) == 400
    found = await source.store.find([job.identity for job in jobs])
    assert {outcome.status for outcome in found.values()} == {"accepted"}


@pytest.mark.asyncio
async def test_a_database_that_is_back_is_found_however_often_it_was_not(
    engine: InPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pauses between two tries do not grow: those of the pool double, to minutes."""
    import psycopg

    from smtplite.worker import postgres

    monkeypatch.setattr(postgres, "_TRY_SECONDS", 0.02)
    connect = psycopg.AsyncConnection.connect
    failures = 0

    async def refused(*arguments: Any, **options: Any) -> psycopg.AsyncConnection[Any]:
        nonlocal failures
        if failures:
            failures -= 1
            raise psycopg.OperationalError("connection refused")
        return await connect(*arguments, **options)

    monkeypatch.setattr(psycopg.AsyncConnection, "connect", refused)
    async with postgres.PostgresSource(engine.info, connections=1) as source:
        failures = 12
        with pytest.raises(psycopg.OperationalError):
            await source._database.fetch("SELECT pg_terminate_backend(pg_backend_pid())")
        with anyio.fail_after(20):
            assert await source.status() == []
    assert failures == 0


@pytest.mark.asyncio
async def test_a_restart_costs_one_statement_and_not_one_for_each_connection(
    engine: InPostgres, server: PostgresServer
) -> None:
    import psycopg

    source = await engine.source()
    async with anyio.create_task_group() as tasks:  # at the same time: each has a connection of its own
        for _ in range(4):
            tasks.start_soon(source._database.fetch, "SELECT pg_sleep(0.05)")
    await anyio.to_thread.run_sync(server.stop)
    await anyio.to_thread.run_sync(server.start)
    with pytest.raises(psycopg.OperationalError):
        await source.status()
    for _ in range(8):
        assert await source.status() == []


@pytest.mark.asyncio
async def test_a_machine_that_falls_silent_is_given_up_and_the_url_may_say_when(engine: InPostgres) -> None:
    from smtplite.worker.postgres import PostgresSource

    async with PostgresSource(f"{engine.info} tcp_user_timeout=5000") as source, source._database.connection() as given:
        parameters = given.info.get_parameters()
    assert parameters["tcp_user_timeout"] == "5000"
    assert parameters["keepalives_idle"] == "10"


@pytest.mark.asyncio
async def test_a_source_that_was_not_entered_says_so() -> None:
    ensure_nothing_is_missing(PostgresServer.missing)
    from smtplite.worker.postgres import PostgresSource

    with pytest.raises(ConfigurationError, match="use it in an async with block"):
        await PostgresSource("dbname=x").status()


@pytest.mark.asyncio
async def test_what_extends_and_what_settles_at_the_same_time_do_not_wait_in_a_circle(engine: InPostgres) -> None:
    source = await engine.source()
    await engine.enqueue(job for number in range(400) for job in letter(number))
    jobs = await source.lease("bulk", 400, 1.0)
    assert len(jobs) == 400
    for _ in range(5):
        async with anyio.create_task_group() as tasks:  # a deadlock is an error of one of them
            tasks.start_soon(source.extend, jobs)
            tasks.start_soon(source.extend, jobs[::-1])
            tasks.start_soon(source.extend, jobs[200:] + jobs[:200])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(source.extend, jobs)
        tasks.start_soon(source.settle, [accepted(job) for job in jobs[::-2]])
        tasks.start_soon(source.retry, [(job, 0.0) for job in jobs[::2]])
    [lane] = await source.status()
    assert (lane.waiting, lane.leased) == (200, 0)


async def _fails(connection: psycopg.AsyncConnection[Any]) -> None:
    from smtplite.worker.postgres import enqueue

    async with connection.transaction():
        assert await enqueue(connection, letter(1)) == 1
        raise ZeroDivisionError


async def _sent(relay: SMTPServer, number: int) -> bool:
    return len(relay.messages) >= number


async def _done(source: Source, jobs: list[Job]) -> bool:
    try:
        return await is_done(source, jobs)
    except Exception:  # noqa: BLE001 (while the database is away, nothing is done)
        return False


@pytest.mark.asyncio
async def test_what_others_put_into_the_lane_is_set_aside(engine: InPostgres) -> None:
    import psycopg

    source = await engine.source()
    await engine.enqueue(letter(1))
    with psycopg.connect(engine.info) as connection:
        connection.execute("INSERT INTO pgqueuer (priority, status, entrypoint) VALUES (0, 'queued', 'smtplite.bulk')")
    assert (await lease_one(source)).key == "<1@example.org>"
    with psycopg.connect(engine.info) as connection:
        row = connection.execute("SELECT count(*) FROM pgqueuer WHERE status = 'failed'").fetchone()
    assert row == (1,)


@pytest.mark.asyncio
async def test_a_reply_with_octets_that_no_database_takes_is_written_down(engine: InPostgres) -> None:
    from smtplite.worker import Outcome

    source = await engine.source()
    await engine.enqueue(letter(1))
    job = await lease_one(source)
    await source.settle([(job, Outcome(status="refused", reply="550 a\0b\udcff"))])
    assert await has_outcomes(source, [job])


@pytest.mark.asyncio
async def test_a_database_that_is_not_there_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, server: PostgresServer
) -> None:
    from smtplite.worker import postgres

    monkeypatch.setattr(postgres, "_OPEN_SECONDS", 0.5)
    with pytest.raises(ConfigurationError, match="cannot use the database"):
        async with postgres.PostgresSource("host=/nowhere dbname=x"):
            pass


@pytest.mark.asyncio
async def test_three_workers_that_are_killed_again_and_again_lose_nothing(engine: InPostgres) -> None:
    report = await kills.over_postgres(engine.info, KILLS, kills.make_jobs(KILLS * 30))
    report.check()
    print(f"\npostgres: {report}")


@pytest.mark.asyncio
@pytest.mark.parametrize("patiently", [True, False])
async def test_a_worker_process_that_is_told_to_stop_leaves_nothing_unsettled(
    engine: InPostgres, patiently: bool
) -> None:
    await stop_in_the_middle({"engine": "postgres", "url": engine.info}, engine.enqueue, patiently=patiently)


def test_the_command_installs_and_says_how_many_jobs_there_are(
    server: PostgresServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import psycopg

    from smtplite.worker.postgres import enqueue_sync

    with psycopg.connect(server.info, autocommit=True) as connection:
        connection.execute("CREATE DATABASE command")
    info = server.info.replace("dbname=postgres", "dbname=command")
    config = tmp_path / "worker.toml"
    config.write_text(f'[relay]\nurl = "smtp://localhost"\n[source]\nengine = "postgres"\nurl = "{info}"\n')
    assert main(["worker", "install", str(config)]) == 0
    assert main(["worker", "install", str(config)]) == 0, "again changes nothing"
    assert main(["worker", "status", str(config)]) == 0
    assert capsys.readouterr().out == "nothing is queued\n"
    with psycopg.connect(info) as connection:
        enqueue_sync(connection, [*letter(1), *letter(2, lane="transactional"), *letter(3)])
    assert main(["worker", "status", str(config)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("bulk: 2 jobs due, 0 with a worker, 0 to be tried later; the oldest was queued ")
    assert second.startswith("transactional: 1 job due, ")
    assert main(["worker", "status", "--json", str(config)]) == 0
    assert [json.loads(line)["waiting"] for line in capsys.readouterr().out.splitlines()] == [2, 1]
