"""A worker that sends by a `Route`: a relay that dies costs no job, and sends none twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import pytest

from smtplite.worker import Backoff, Job, MemorySource, Worker
from smtplite.worker import running as running_module
from smtplite.worker.source import Sender
from tests.routes.relays import Relay, route_of
from tests.worker.kit import SOON, is_done, letter, until

pytestmark = pytest.mark.asyncio

CONNECTIONS = 2
#: A job that was refused would wait for longer than a test.
NEVER = Backoff(3600, 3600)


def mixed(count: int) -> list[Job]:
    return [job for number in range(count) for job in letter(number, when_unknown=("retry", "record")[number % 2])]


def copies(*relays: Relay) -> Counter[str]:
    return Counter(recipient for relay in relays for recipient in relay.recipients)


async def sent(source: MemorySource, jobs: Sequence[Job], relays: Sequence[Relay], **options: Any) -> None:
    """Run a worker over a route until all jobs are done."""
    async with route_of(*relays, failures=1, pause=0.01) as route:
        await _done_by(route, source, jobs, **options)


async def _done_by(sender: Sender, source: MemorySource, jobs: Sequence[Job], **options: Any) -> None:
    source.enqueue(jobs)
    worker = Worker(source, sender, **{"lanes": {"bulk": CONNECTIONS}, "batch": 20, "backoff": SOON, **options})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await until(lambda: is_done(source, jobs))
        worker.stop()


async def test_what_a_relay_did_not_take_goes_to_the_other_one_and_is_no_new_try() -> None:
    one, two = Relay("one.example"), Relay("two.example")
    one.server.reply("MAIL", times=20)  # then it dies, in the middle of every message
    for verb in ("RCPT", "DATA"):
        one.server.reply(verb, b"", close=True, times=2)
    source, jobs = MemorySource(), mixed(60)
    await sent(source, jobs, [one, two], backoff=NEVER)
    assert copies(one, two) == Counter(job.identity.recipient for job in jobs)
    outcomes = [source.store.outcomes[job.identity] for job in jobs]
    assert {(outcome.status, outcome.attempt) for outcome in outcomes} == {("accepted", 1)}
    assert two.recipients
    assert not source.store.begun


async def test_a_relay_that_is_killed_again_and_again_loses_nothing_and_what_must_not_be_sent_twice_is_not() -> None:
    one, two = Relay("one.example"), Relay("two.example")
    source, jobs = MemorySource(), mixed(120)
    kills = 0

    async def kill() -> None:
        nonlocal kills
        while True:
            await one.server.wait_for_messages(len(one.server.messages) + 5, timeout=60)
            kills += 1
            await one.server.restart()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kill)
        await sent(source, jobs, [one, two])
        tasks.cancel_scope.cancel()
    taken = copies(one, two)
    for job in jobs:
        status = source.store.outcomes[job.identity].status
        if job.when_unknown == "record":
            assert taken[job.identity.recipient] <= 1
            assert status == "unknown" or (status, taken[job.identity.recipient]) == ("accepted", 1)
        else:
            assert status == "accepted"
            assert taken[job.identity.recipient] >= 1
    assert kills > 2
    twice = sum(taken.values()) - len(taken)
    unknown = sum(outcome.status == "unknown" for outcome in source.store.outcomes.values())
    assert twice + unknown <= kills * CONNECTIONS, "no more than what was under way there"
    assert sorted({*one.names, *two.names}) == sorted(job.key for job in jobs if taken[job.identity.recipient])


async def test_a_lost_verdict_is_the_policys_affair_and_not_the_other_relays() -> None:
    one, two = Relay("one.example"), Relay("two.example")
    one.server.reply("END_OF_DATA", b"", performs=True, close=True, times=1)
    source, jobs = MemorySource(), letter(1, when_unknown="record")
    await sent(source, jobs, [one, two])
    assert source.store.outcomes[jobs[0].identity].status == "unknown"
    assert copies(one, two) == {"1@example.net": 1}


async def test_while_no_relay_works_nothing_is_lost_and_no_try_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_module, "_FIRST_PAUSE_SECONDS", 0.01)
    one, two = Relay("one.example"), Relay("two.example")
    one.is_off = two.is_off = True

    async def comes_back() -> None:
        if two.connects == 3:
            two.is_off = False

    two.before = comes_back
    source, jobs = MemorySource(), mixed(10)
    await sent(source, jobs, [one, two], backoff=NEVER)
    assert sorted(two.recipients) == sorted(job.identity.recipient for job in jobs)
    assert {outcome.attempt for outcome in source.store.outcomes.values()} == {1}


@pytest.mark.parametrize("by", ["route", "client"])
async def test_a_job_whose_lease_ended_before_it_was_begun_is_given_back_and_not_called_unknown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, by: str
) -> None:
    """The worker stood still while the connection was made."""
    ahead = [0.0]

    def monotonic() -> float:
        return time.monotonic() + ahead[0]

    one, two = Relay("one.example"), Relay("two.example")
    source = MemorySource(monotonic=monotonic)
    monkeypatch.setattr(running_module, "time", _Time(monotonic))
    leases: list[Job] = []
    lease = source.lease

    async def note(lane: str, most: int, wait: float) -> list[Job]:
        jobs = await lease(lane, most, wait)
        leases.extend(jobs)
        return jobs

    async def stand_still() -> None:
        one.before = None
        ahead[0] += 100

    monkeypatch.setattr(source, "lease", note)
    one.before = stand_still
    jobs = letter(1, when_unknown="record")
    if by == "route":
        await sent(source, jobs, [one, two], backoff=NEVER)
    else:
        async with one.client as client:
            await _done_by(client, source, jobs, backoff=NEVER)
    assert leases[-1].lease.until > leases[0].lease.until + 90
    outcome = source.store.outcomes[jobs[0].identity]
    assert (outcome.status, outcome.attempt) == ("accepted", 1)
    assert copies(one, two) == {"1@example.net": 1}
    assert "lane bulk: not sent: the lease of job '<1@example.org>' ended" in caplog.text
    assert "no connection" not in caplog.text


class _Time:
    """A clock in place of the module `time`."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.monotonic = monotonic
