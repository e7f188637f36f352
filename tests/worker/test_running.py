"""What a worker does beside the engine: lanes, outages, signals, stores of others, shapers, references."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anyio
import attrs
import pytest

from smtplite import Client, ConfigurationError, Delivery, SMTPError
from smtplite.testing import SMTPServer
from smtplite.worker import Backoff, Identity, Job, MemorySource, MemoryStore, Worker
from smtplite.worker import running as running_module
from tests.worker.kit import SOON, accepted, is_done, letter, nothing_left, until

pytestmark = pytest.mark.asyncio


def when(condition: Callable[[], Any]) -> Callable[[], Any]:
    async def holds() -> bool:
        return bool(condition())

    return holds


async def test_while_the_relay_is_away_jobs_are_given_back_and_no_try_is_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(running_module, "_FIRST_PAUSE_SECONDS", 0.02)
    source, server = MemorySource(), SMTPServer()
    failures = 3

    async def connect() -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError("no route")
        return await server.connect()

    jobs = letter()
    source.enqueue(jobs)
    async with Client(connect=connect, tls="none") as client, anyio.create_task_group() as tasks:
        worker = Worker(source, client, lanes={"bulk": 1}, backoff=Backoff(3600, 3600))
        tasks.start_soon(worker.run)
        await until(lambda: is_done(source, jobs))
        worker.stop()
    assert source.store.outcomes[jobs[0].identity].attempt == 1
    assert "no connection, next try in" in caplog.text


async def test_a_wrong_password_costs_no_job_and_is_said_loudly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(running_module, "_FIRST_PAUSE_SECONDS", 0.02)
    source, server = MemorySource(), SMTPServer(users={"me": "right"}, auth_in_clear=True, mechanisms=["PLAIN"])
    source.enqueue(letter())
    client = Client(connect=server.connect, tls="none", username="me", password="wrong", allow_insecure_auth=True)
    async with client, anyio.create_task_group() as tasks:
        worker = Worker(source, client, lanes={"bulk": 1})
        tasks.start_soon(worker.run)
        await until(when(lambda: caplog.text.count("AuthenticationError") >= 2))
        worker.stop()
    [lane] = await source.status()
    assert (lane.waiting, lane.leased, lane.later) == (1, 0, 0)
    assert not source.store.outcomes


async def test_what_the_engine_does_is_logged_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(running_module, "_FIRST_PAUSE_SECONDS", 0.01)
    source, server = MemorySource(), SMTPServer()
    trouble = dict.fromkeys(["lease", "settle", "retry"], 2)

    def flaky(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*arguments: Any) -> Any:
            if trouble[name]:
                trouble[name] -= 1
                raise OSError("the engine is away")
            return await method(*arguments)

        return call

    for name in trouble:
        monkeypatch.setattr(source, name, flaky(name, getattr(source, name)))
    server.reply("RCPT", "451 4.7.1 later", times=1)
    jobs = [*letter(1), *letter(2)]
    source.enqueue(jobs)
    async with server.client() as client, anyio.create_task_group() as tasks:
        worker = Worker(source, client, lanes={"bulk": 1}, backoff=SOON)
        tasks.start_soon(worker.run)
        await until(lambda: is_done(source, jobs))
        worker.stop()
    assert len(server.messages) == 2
    assert not any(trouble.values())
    assert "outcomes cannot be recorded" in caplog.text
    assert "jobs cannot be leased" in caplog.text


async def test_cancel_cuts_off_what_is_under_way_and_writes_down_that_it_is_unknown() -> None:
    source, server = MemorySource(), SMTPServer()
    held = server.hold("END_OF_DATA")
    jobs = letter(when_unknown="record")
    source.enqueue(jobs)
    async with server.client() as client, anyio.create_task_group() as tasks:
        worker = Worker(source, client, lanes={"bulk": 1})
        tasks.start_soon(worker.run)
        await held.wait()
        worker.cancel()
    assert source.store.outcomes[jobs[0].identity].status == "unknown"
    assert await nothing_left(source)


async def test_stop_waits_for_what_is_under_way_only_so_long() -> None:
    source, server = MemorySource(), SMTPServer()
    held = server.hold("END_OF_DATA")
    jobs = letter(when_unknown="record")
    source.enqueue(jobs)
    async with server.client() as client, anyio.create_task_group() as tasks:
        worker = Worker(source, client, lanes={"bulk": 1}, drain=0.05)
        tasks.start_soon(worker.run)
        await held.wait()
        worker.stop()
    assert source.store.outcomes[jobs[0].identity].status == "unknown"


async def test_outcomes_may_be_kept_elsewhere() -> None:
    source, store, server = MemorySource(), MemoryStore(), SMTPServer()
    jobs = [*letter(1, when_unknown="record"), *letter(2), *letter(3)]
    await store.save([accepted(jobs[2])])
    source.enqueue(jobs)
    async with server.client() as client, anyio.create_task_group() as tasks:
        worker = Worker(source, client, store=store, lanes={"bulk": 1})
        tasks.start_soon(worker.run)
        await until(lambda: nothing_left(source))
        worker.stop()
    assert {outcome.status for outcome in store.outcomes.values()} == {"accepted"}
    assert len(store.outcomes) == 3
    assert len(server.messages) == 2, "the third one had an outcome there"
    assert not store.begun


class _Shaper:
    """A shaper that has the first of all jobs wait, and gives no turn at first."""

    def __init__(self) -> None:
        self.asked: list[Identity] = []
        self.seen: list[Identity] = []
        self.troubles: list[SMTPError] = []
        self.turns = [False, True, True]
        self.lanes: Sequence[str] = []

    async def run(self, lanes: Sequence[str], tell: Callable[[Any], None]) -> None:
        self.lanes = lanes
        await anyio.sleep_forever()

    async def room(self, lane: str, most: int) -> int:
        return min(most, 2)

    async def hold(self, jobs: Sequence[Job]) -> Mapping[Identity, float]:
        self.asked += [job.identity for job in jobs]
        return {self.asked[0]: 0.01} if len(self.asked) <= len(jobs) else {}

    async def turn(self, lane: str) -> bool:
        return self.turns.pop(0)

    def observe(self, job: Job, delivery: Delivery) -> None:
        self.seen.append(job.identity)

    def trouble(self, error: SMTPError) -> None:
        self.troubles.append(error)


async def test_a_shaper_has_jobs_wait_and_that_is_no_try() -> None:
    source, server, shaper = MemorySource(), SMTPServer(), _Shaper()
    jobs = [*letter(1), *letter(2, when_unknown="record")]
    source.enqueue(jobs)
    async with server.client() as client, anyio.create_task_group() as tasks:
        worker = Worker(source, client, shaper=shaper, lanes={"bulk": 1})
        tasks.start_soon(worker.run)
        await until(lambda: is_done(source, jobs))
        worker.stop()
    assert shaper.asked[:2] == [jobs[0].identity, jobs[1].identity], "no more than there was room for"
    assert sorted(shaper.seen) == sorted(job.identity for job in jobs)
    assert shaper.lanes == ["bulk"]
    assert not shaper.turns, "what was given back had no turn, and had one later"
    assert not source.store.begun, "what was given back has no mark"
    assert {outcome.attempt for outcome in source.store.outcomes.values()} == {1}


async def test_a_shaper_learns_why_there_was_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_module, "_FIRST_PAUSE_SECONDS", 0.01)
    source, server, shaper = MemorySource(), SMTPServer(), _Shaper()
    server.reply("GREETING", "421 4.7.0 too many connections", times=1)
    shaper.turns = [True, True, True]
    jobs = letter(1)
    source.enqueue(jobs)
    async with server.client() as client, anyio.create_task_group() as tasks:
        worker = Worker(source, client, shaper=shaper, lanes={"bulk": 1})
        tasks.start_soon(worker.run)
        await until(lambda: is_done(source, jobs))
        worker.stop()
    assert [error.reply.code for error in shaper.troubles if error.reply is not None] == [421]
    assert shaper.seen == [jobs[0].identity], "the first time it was not begun"


async def test_content_may_lie_elsewhere(caplog: pytest.LogCaptureFixture) -> None:
    source, server = MemorySource(), SMTPServer()
    [job] = letter()
    content = job.content
    jobs = [attrs.evolve(job, content=None, reference="letters/0")]
    source.enqueue(jobs)
    asked: list[str] = []

    async def load(reference: str) -> bytes:
        asked.append(reference)
        if len(asked) == 1:
            raise OSError("the disk is away")
        return content or b""

    server.reply("RCPT", "451 4.7.1 later", times=1)
    async with server.client() as client, anyio.create_task_group() as tasks:
        worker = Worker(source, client, load=load, lanes={"bulk": 1}, backoff=SOON)
        tasks.start_soon(worker.run)
        await until(lambda: is_done(source, jobs))
        worker.stop()
    assert asked == ["letters/0"] * 3
    assert [message.content for message in server.messages] == [content]
    assert source.store.outcomes[jobs[0].identity].attempt == 3
    assert "cannot be loaded" in caplog.text


async def test_a_job_whose_content_can_never_be_loaded_expires() -> None:
    """It was tried again for ever: only jobs with content were asked whether their time was over."""
    passed = [0.0]
    source, server = MemorySource(lease_seconds=10_000, monotonic=lambda: time.monotonic() + passed[0]), SMTPServer()
    [job] = letter()
    job = attrs.evolve(job, content=None, reference="gone", not_after=source.now() + 3600)
    source.enqueue([job])

    async def load(reference: str) -> bytes:
        passed[0] = 4000.0
        raise FileNotFoundError(reference)

    async with server.client() as client, anyio.create_task_group() as tasks:
        worker = Worker(source, client, load=load, lanes={"bulk": 1}, backoff=SOON)
        tasks.start_soon(worker.run)
        await until(lambda: is_done(source, [job]))
        worker.stop()
    outcome = source.store.outcomes[job.identity]
    assert (outcome.status, outcome.attempt) == ("expired", 2)
    assert outcome.error == (
        "its time was over before try 2; the one before: its content could not be loaded: FileNotFoundError"
    )
    assert not server.messages


async def test_a_worker_that_cannot_load_says_so(caplog: pytest.LogCaptureFixture) -> None:
    source, server = MemorySource(), SMTPServer()
    source.enqueue([attrs.evolve(letter()[0], content=None, reference="letters/0")])
    async with server.client() as client, anyio.create_task_group() as tasks:
        worker = Worker(source, client, lanes={"bulk": 1})
        tasks.start_soon(worker.run)
        await until(when(lambda: "pass load= to the worker" in caplog.text))
        worker.stop()
    [lane] = await source.status()
    assert lane.later == 1


async def test_leases_are_extended_while_a_job_waits_for_its_reply() -> None:
    source, server = MemorySource(lease_seconds=0.3), SMTPServer()
    held = server.hold("END_OF_DATA")
    jobs = letter()
    source.enqueue(jobs)
    async with server.client() as client, anyio.create_task_group() as tasks:
        worker = Worker(source, client, lanes={"bulk": 1})
        tasks.start_soon(worker.run)
        await held.wait()
        [row] = source._rows.values()
        assert row.lease is not None
        ends = row.lease.until
        await until(when(lambda: row.lease is not None and row.lease.until > ends + 0.3))
        held.release()
        await until(lambda: is_done(source, jobs))
        worker.stop()
    assert len(server.messages) == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lanes": {}}, "needs at least one lane"),
        ({"batch": 0}, "batch"),
        ({"drain": -1}, "drain"),
        ({"lanes": {"bulk": 99}}, "connections"),
    ],
)
async def test_wrong_options_are_an_error_and_no_group_of_errors(options: dict[str, Any], text: str) -> None:
    async with SMTPServer().client() as client:
        with pytest.raises(ConfigurationError, match=text):
            await Worker(MemorySource(), client, **options).run()


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


async def test_a_second_copy_in_the_queue_does_not_disturb_the_first() -> None:
    """Engines may deliver a job that is under way in this very worker again, as when it stood still for a while."""
    source, server = MemorySource(lease_seconds=60), SMTPServer()
    held = server.hold("END_OF_DATA")
    jobs = letter()
    source.enqueue(jobs)
    async with server.client() as client, anyio.create_task_group() as tasks:
        worker = Worker(source, client, lanes={"bulk": 1})
        tasks.start_soon(worker.run)
        await held.wait()
        source._queued.clear()  # as if the engine had forgotten that it has it
        source.enqueue(jobs)
        await until(when(lambda: sum(row.lease is not None for row in source._rows.values()) == 2))
        held.release()
        await until(lambda: is_done(source, jobs))  # it is given back, and settled unsent
        worker.stop()
    assert len(server.messages) == 1
