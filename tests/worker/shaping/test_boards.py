"""Boards: one suite for memory, PostgreSQL and JetStream; and three workers over each of them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import pytest_asyncio

from smtplite import Client
from smtplite.cli import main
from smtplite.testing import SMTPServer
from smtplite.testing.message import ReceivedMessage
from smtplite.worker import MemorySource, Worker
from smtplite.worker.shaping import RELAY, Action, Board, Boards, Effect, Rules, Shaping
from smtplite.worker.shaping import shaper as shaper_module
from tests.interop.launcher import ensure_nothing_is_missing
from tests.worker.engines import NatsServer, PostgresServer
from tests.worker.kit import letter

RULES = Rules.of('[default]\nconnection_limit = 5\nmax_message_rate = "50/s"\n')


@asynccontextmanager
async def in_memory() -> AsyncIterator[Callable[[], Any]]:
    source = MemorySource()

    async def give() -> Any:
        return source

    yield give


@asynccontextmanager
async def in_postgres() -> AsyncIterator[Callable[[], Any]]:
    ensure_nothing_is_missing(PostgresServer.missing)
    from smtplite.worker.postgres import PostgresSource

    with PostgresServer() as server:
        async with AsyncExitStack() as stack:

            async def give() -> Any:
                return await stack.enter_async_context(PostgresSource(server.info))

            await (await give()).install()
            yield give


@asynccontextmanager
async def in_jetstream() -> AsyncIterator[Callable[[], Any]]:
    ensure_nothing_is_missing(NatsServer.missing)
    from smtplite.worker.jetstream import JetStreamSource

    with NatsServer() as server:
        async with AsyncExitStack() as stack:

            async def give() -> Any:
                return await stack.enter_async_context(JetStreamSource(server.url))

            await (await give()).install()
            yield give


@pytest_asyncio.fixture(
    params=[
        in_memory,
        pytest.param(in_postgres, marks=pytest.mark.interop),
        pytest.param(in_jetstream, marks=pytest.mark.interop),
    ]
)
async def source(request: pytest.FixtureRequest) -> AsyncIterator[Callable[[], Any]]:
    """Give a function that opens a source, as each worker has one."""
    async with request.param() as give:
        yield give


def held(reason: str) -> Effect:
    return Effect(what=RELAY, action=Action("suspend"), until=9e9, reason=reason, by=reason)


@pytest.mark.asyncio
async def test_what_several_change_at_the_same_time_is_all_there(source: Callable[[], Any]) -> None:
    boards: list[Boards] = [(await source()).boards for _ in range(3)]

    async def add(to: Boards, reason: str) -> None:
        await to.change("smtp.example.com:587", lambda board, now: board.add(held(reason), now))

    async with anyio.create_task_group() as tasks:
        for number in range(12):
            tasks.start_soon(add, boards[number % 3], str(number))
    board, _ = await boards[0].read("smtp.example.com:587")
    assert sorted(effect.reason for effect in board.effects) == sorted(map(str, range(12)))


@pytest.mark.asyncio
async def test_each_relay_has_its_own_and_one_that_nobody_wrote_is_empty(source: Callable[[], Any]) -> None:
    boards: Boards = (await source()).boards
    await boards.change("a.example", lambda board, now: board.add(held("here"), now))
    assert (await boards.read("b.example"))[0] == Board()
    assert len((await boards.read("a.example"))[0].effects) == 1
    await boards.change("a.example", lambda board, now: board.resume(RELAY, now))
    assert not (await boards.read("a.example"))[0].effects


@pytest.mark.asyncio
async def test_time_is_the_stores_and_goes_on(source: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    boards: Boards = (await source()).boards
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 600)  # this machine's clock is wrong by ten minutes
    _, first = await boards.read("smtp.example.com")
    second = await boards.change("smtp.example.com", lambda board, now: now)
    assert 0 <= second - first < 60
    if first > 1e9:  # a store with a clock of its own
        assert abs(first - now()) < 60


@pytest.mark.interop
@pytest.mark.asyncio
async def test_three_workers_share_five_connections_and_fifty_messages_a_second(
    source: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted by the server: at no time more than was given until then.

    A machine that has other work counts late, and then many at once. So how near it is to 50 in any seconds, up and
    down, `test_board.py` holds, with clocks of its own.
    """
    monkeypatch.setattr(shaper_module, "_STORE_SECONDS", 60.0)  # a machine that is slow is no store that is away
    times: list[float] = []
    most = 0
    enough = anyio.Event()

    def count(_message: ReceivedMessage) -> None:
        nonlocal most
        times.append(time.monotonic())
        most = max(most, sum(connection.is_open for connection in server.connections))
        if times[-1] - times[0] > 8.1:
            enough.set()

    server = SMTPServer(on_message=count, keep=False)
    sources = [await source() for _ in range(3)]
    jobs = [job for number in range(700) for job in letter(number)]
    await _enqueue(sources[0], jobs)
    workers: list[Worker] = []
    began = time.monotonic()
    async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
        for each in sources:
            client = await stack.enter_async_context(Client(connect=server.connect, tls="none", max_connections=5))
            shaping = Shaping(RULES, "smtp.example.com", each.boards, client)
            workers.append(Worker(each, client, shaper=shaping, lanes={"bulk": 4}))
            tasks.start_soon(workers[-1].run)
        with anyio.fail_after(30):
            await enough.wait()
        for worker in workers:
            worker.stop()
    assert len(times) > 50
    ready = 2 + 1.25 * 50  # tokens for the next second, and what may lie ready for a moment
    assert all(count <= 50 * (at - began) + ready for count, at in enumerate(times, start=1))
    assert most <= 5


@pytest.mark.interop
@pytest.mark.parametrize("engine", ["postgres", "jetstream"])
def test_suspend_status_and_resume_by_hand(engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = (PostgresServer if engine == "postgres" else NatsServer)()
    ensure_nothing_is_missing(type(server).missing)
    config = tmp_path / "worker.toml"

    def run(action: str, *options: str) -> list[str]:
        assert main(["worker", action, str(config), *options]) == 0
        return capsys.readouterr().out.splitlines()

    with server:
        url = getattr(server, "info", None) or getattr(server, "url", "")
        config.write_text(
            f"[relay]\nurl = 'smtp://mail.example.com'\n[source]\nengine = '{engine}'\nurl = '{url}'\n[shaping]\n"
        )
        run("install")
        assert run("suspend", "--for", "2 hours", "--reason", "maintenance") == [
            "mail.example.com: nothing is sent for 2 h"
        ]
        run("suspend", "Gmail.com", "--for", "90m")
        lines = run("status")
        assert lines[:2] == [
            "nothing is queued",
            "mail.example.com: 0 workers, 0 connections, at most 5.0 messages a second",
        ]
        assert re.fullmatch(r"mail\.example\.com: suspend for another (2 h|1 h 59 min), by hand: maintenance", lines[2])
        assert re.fullmatch(r"gmail\.com: suspend for another 1 h (30|29) min, by hand: no reason given", lines[3])
        [shaping] = map(json.loads, run("status", "--json"))
        assert [(held["what"], held["action"]) for held in shaping["holds"]] == [
            ("mail.example.com", "suspend"),
            ("gmail.com", "suspend"),
        ]
        assert run("resume", "gmail.com") == ["gmail.com: ended suspend, by hand: no reason given"]
        assert run("resume", "gmail.com") == ["gmail.com: nothing was suspended or slowed"]
        assert len(run("status")) == 3
        assert main(["worker", "suspend", str(config), "--for", "soon"]) == 2
        assert "--for must be a duration" in capsys.readouterr().err


async def _enqueue(source: Any, jobs: list[Any]) -> None:
    if isinstance(source, MemorySource):
        source.enqueue(jobs)
    elif hasattr(source, "_wire"):
        from smtplite.worker import jetstream

        await jetstream.enqueue(source._wire.connection, jobs)
    else:
        from smtplite.worker import postgres

        async with source._database.connection() as connection:
            await postgres.enqueue(connection, jobs)
