"""Shaping in a worker: what waits, waits in the queue; nothing is lost, and no try is counted."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
import pytest

from smtplite import Client, ConfigurationError
from smtplite.testing import SMTPServer
from smtplite.worker import MemorySource, Worker
from smtplite.worker.shaping import RELAY, Action, Board, Effect, MemoryBoards, Rules, Shaping
from smtplite.worker.shaping import shaper as shaper_module
from tests.worker.kit import SOON, has_outcomes, is_done, letter, until

pytestmark = pytest.mark.asyncio

T = TypeVar("T")

RELAY_NAME = "smtp.example.com"


@asynccontextmanager
async def working(
    source: MemorySource, server: SMTPServer, rules: str, boards: Any = None, **options: Any
) -> AsyncIterator[Shaping]:
    """Run a worker that is shaped, for the time of the block."""
    client = Client(connect=server.connect, tls="none", max_connections=2)
    async with client, anyio.create_task_group() as tasks:
        shaping = Shaping(Rules.of(rules), RELAY_NAME, boards or source.boards, client)
        worker = Worker(source, client, shaper=shaping, backoff=SOON, **{"lanes": {"bulk": 1}, **options})
        tasks.start_soon(worker.run)
        yield shaping
        worker.stop()


async def suspend(boards: MemoryBoards, what: str, seconds: float) -> None:
    def add(board: Board, now: float) -> None:
        board.add(Effect(what=what, action=Action("suspend"), until=now + seconds, reason="a test", by="hand"), now)

    await boards.change(RELAY_NAME, add)


async def resume(boards: MemoryBoards, what: str) -> None:
    await boards.change(RELAY_NAME, lambda board, now: board.resume(what, now))


def holds(condition: Callable[[], Any]) -> Callable[[], Any]:
    async def now() -> bool:
        return bool(condition())

    return now


async def test_without_rules_all_is_sent() -> None:
    source, server = MemorySource(), SMTPServer()
    jobs = [job for number in range(5) for job in letter(number)]
    source.enqueue(jobs)
    async with working(source, server, ""):
        await until(lambda: is_done(source, jobs))
    assert len(server.messages) == 5
    board, _ = await source.boards.read(RELAY_NAME)
    assert not [worker for worker in board.workers.values() if worker.connections], "it gave back what it had"


async def test_while_the_relay_is_suspended_nothing_is_leased_and_then_all_is_sent() -> None:
    source, server = MemorySource(), SMTPServer()
    await suspend(source.boards, RELAY, 3600)
    jobs = letter(1, when_unknown="record")
    source.enqueue(jobs)
    async with working(source, server, '[default]\nmax_message_rate = "100/s"\n') as shaping:
        await until(holds(lambda: shaping.effects))
        with anyio.move_on_after(0.2):
            await until(lambda: has_outcomes(source, jobs))
        [lane] = await source.status()
        assert (lane.waiting, lane.leased) in ((1, 0), (0, 1)), "it is in the queue, or waits for its turn"
        assert not server.connections
        await resume(source.boards, RELAY)
        shaping._share._ask_at = 0.0  # its next look at the board is some seconds away
        shaping._asks_now.set()
        await until(lambda: is_done(source, jobs))
    [outcome] = source.store.outcomes.values()
    assert outcome.attempt == 1


async def test_a_recipient_who_is_suspended_holds_up_nobody_else() -> None:
    source, server = MemorySource(), SMTPServer()
    jobs = [*letter(1, to="ada@gmail.com"), *letter(2), *letter(3, to="grace@gmail.com"), *letter(4)]
    source.enqueue(jobs)
    others = [job for job in jobs if "gmail" not in job.identity.recipient]
    async with working(source, server, '[recipient."gmail.com"]\nsuspended = true\n'):
        await until(lambda: has_outcomes(source, others))
        await until(holds(lambda: not source._lane("bulk").leased))
    [lane] = await source.status()
    assert lane.later == 2
    assert {row.job.attempt for row in source._rows.values()} == {1}
    assert not source.store.begun


async def test_a_reply_sets_an_automation_off_and_it_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    source, server = MemorySource(), SMTPServer()
    server.reply("RCPT", "451 4.7.28 slow down", to="ada@gmail.com", times=1)
    rules = """
    [[recipient."gmail.com".automation]]
    enhanced_code = "4.7.28"
    action = "Suspend"
    duration = "2 hours"
    """
    jobs = [*letter(1, to="ada@gmail.com"), *letter(2)]
    source.enqueue(jobs)
    async with working(source, server, rules) as shaping:
        await until(holds(lambda: shaping.effects))
        await until(lambda: has_outcomes(source, jobs[1:]))
    [effect] = shaping.effects
    assert (effect.what, effect.reason) == ("gmail.com", "451 4.7.28 slow down")
    assert 'gmail.com: suspend for 2 h, by recipient."gmail.com".automation[0]: 451 4.7.28 slow down' in caplog.text


class _Away(MemoryBoards):
    """A store that is away at first."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = True

    async def change(self, relay: str, action: Callable[[Board, float], T]) -> T:
        if self.is_away:
            raise OSError("the store is away")
        return await super().change(relay, action)


async def test_a_store_that_is_away_stops_nobody_and_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    source, server, boards = MemorySource(), SMTPServer(), _Away()
    jobs = [job for number in range(3) for job in letter(number)]
    source.enqueue(jobs)
    async with working(source, server, '[default]\nmax_message_rate = "100/s"\n', boards) as shaping:
        await until(lambda: is_done(source, jobs))
        boards.is_away = False
        await until(holds(lambda: not shaping._is_away))
    assert caplog.text.count("limits cannot be shared") == 1
    assert "limits are shared again, by" in caplog.text


async def test_a_lane_that_comes_first_has_the_next_turn() -> None:
    shaping = Shaping(Rules.of('[default]\nmax_message_rate = "20/s"\n'), RELAY_NAME, MemoryBoards())
    order: list[str] = []

    async def take(lane: str) -> None:
        assert await shaping.turn(lane)
        order.append(lane)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(shaping.run, ["transactional", "bulk"])
        await take("bulk")
        async with anyio.create_task_group() as turns:
            for lane in ("bulk", "bulk", "transactional"):
                turns.start_soon(take, lane)
        tasks.cancel_scope.cancel()
    assert order == ["bulk", "transactional", "bulk", "bulk"]


async def test_who_waits_for_too_long_gives_the_job_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shaper_module, "_PATIENCE_SECONDS", 0.05)
    shaping = Shaping(Rules.of('[default]\nmax_message_rate = "1/h"\n'), RELAY_NAME, MemoryBoards())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(shaping.run, ["bulk"])
        with anyio.fail_after(30):
            while not await shaping.turn("bulk"):
                pass
        with anyio.fail_after(30):  # its turn would come in an hour
            assert not await shaping.turn("bulk")
        tasks.cancel_scope.cancel()


async def test_the_client_has_the_connections_of_this_worker() -> None:
    source, server = MemorySource(), SMTPServer()
    jobs = [job for number in range(40) for job in letter(number)]
    source.enqueue(jobs)
    async with working(
        source,
        server,
        '[default]\nconnection_limit = 1\nmax_message_rate = "500/s"\n',
        lanes={"transactional": 1, "bulk": 1},
    ):
        await until(lambda: is_done(source, jobs))
    assert len(server.connections) == 1


async def test_rules_that_limit_connections_need_a_client() -> None:
    with pytest.raises(ConfigurationError, match="but Shaping was given no client: pass client="):
        Shaping(Rules.of("[default]\nconnection_limit = 1\n"), RELAY_NAME, MemoryBoards())
