"""What every source has to do: ONE suite. A module for each engine has a subclass of `Conformance` and an `engine`."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import anyio
import attrs
import pytest

from smtplite.testing import SMTPServer
from smtplite.worker import Backoff, Job, Source, Worker
from tests.worker import lanes
from tests.worker.kit import (
    PATIENCE_SECONDS,
    SOON,
    Engine,
    accepted,
    has_outcomes,
    lease_one,
    letter,
    nothing_left,
    run_worker,
    until,
    with_status,
)

#: So many bulk jobs wait; for 100,000 there is `python -m tests.worker.lanes`.
CROWD = 3_000
STOOD_STILL = "this machine stood still for as long as a lease"


@pytest.mark.asyncio
class Conformance:
    """A subclass sets `short`, how long a lease is that is to end; `silence` and `delay` as the engine needs them."""

    short = 0.15
    #: How long a lease is of whoever takes over.
    taker = 60.0
    #: How long a job is not to come, before a test believes that it will not.
    silence = 0.1
    #: A wait that the engine can tell from none.
    delay = 0.3

    # The source

    async def test_a_job_comes_out_as_it_was_queued(self, engine: Engine) -> None:
        [job] = letter(7, when_unknown="record", lane="transactional", key="order-7")
        source = await engine.source()
        await engine.enqueue([job])
        before = time.monotonic()
        leased = await lease_one(source, "transactional")
        assert leased.identity == ("order-7", "7@example.net")
        assert (leased.content, leased.envelope) == (job.content, job.envelope)
        assert (leased.when_unknown, leased.lane, leased.attempt) == ("record", "transactional", 1)
        assert leased.not_after == pytest.approx(job.not_after)
        assert not leased.is_uncertain
        assert leased.lease.until <= time.monotonic() + source.lease_seconds
        assert leased.lease.until >= before

    async def test_a_leased_job_is_given_to_nobody_else(self, engine: Engine) -> None:
        one, other = await engine.source(), await engine.source()
        await engine.enqueue(letter())
        await lease_one(one)
        assert await other.lease("bulk", 10, 0.1) == []

    async def test_so_many_are_leased_at_most_and_no_two_leases_have_a_name(self, engine: Engine) -> None:
        source = await engine.source()
        await engine.enqueue([job for number in range(5) for job in letter(number)])
        jobs: list[Job] = []
        while len(jobs) < 5:
            got = await source.lease("bulk", 2, 1.0)
            assert 1 <= len(got) <= 2
            jobs += got
        assert len({job.identity for job in jobs}) == 5
        assert len({(job.identity, job.lease.name) for job in jobs}) == 5

    async def test_the_same_key_and_recipient_is_one_job(self, engine: Engine) -> None:
        source = await engine.source()
        await engine.enqueue(letter(key="invoice-1"))
        await engine.enqueue(letter(key="invoice-1"))
        await lease_one(source)
        assert await source.lease("bulk", 10, 0.1) == []

    async def test_a_lane_gives_out_its_own_jobs(self, engine: Engine) -> None:
        source = await engine.source()
        await engine.enqueue([*letter(1, lane="bulk"), *letter(2, lane="transactional")])
        assert (await lease_one(source, "transactional")).key == "<2@example.org>"
        assert (await lease_one(source, "bulk")).key == "<1@example.org>"

    async def test_what_is_settled_is_gone_and_its_outcome_stays(self, engine: Engine) -> None:
        source = await engine.source(lease_seconds=self.short)
        await engine.enqueue(letter())
        job = await lease_one(source)
        await source.settle([with_status(job, "refused")])
        assert await source.lease("bulk", 10, 2 * self.short) == []
        assert (await source.store.find([job.identity]))[job.identity].status == "refused"
        await until(lambda: nothing_left(source))

    async def test_a_retry_is_due_after_its_time_and_is_the_next_attempt(self, engine: Engine) -> None:
        source = await engine.source()
        await engine.enqueue(letter())
        job = await lease_one(source)
        began = time.monotonic()
        await source.retry([(attrs.evolve(job, attempt=2), self.delay)])
        again = await lease_one(source)
        assert time.monotonic() - began > self.delay / 3  # some engines count in whole seconds
        assert (again.identity, again.attempt, again.is_uncertain) == (job.identity, 2, False)
        assert again.content == job.content

    async def test_what_is_to_be_tried_later_is_nobodys_until_then(self, engine: Engine) -> None:
        source = await engine.source()
        await engine.enqueue(letter())
        job = await lease_one(source)
        await source.retry([(attrs.evolve(job, attempt=2), 3600.0)])
        assert await source.lease("bulk", 10, self.silence) == []
        [lane] = [lane for lane in await source.status() if lane.waiting + lane.leased + lane.later]
        assert (lane.lane, lane.waiting, lane.leased, lane.later) == ("bulk", 0, 0, 1)

    async def test_status_says_for_how_long_a_job_has_been_due_that_nobody_has(self, engine: Engine) -> None:
        source = await engine.source()
        await engine.enqueue(letter())

        async def is_due() -> bool:
            return any(lane.due_seconds > 0 and lane.oldest_seconds > 0 for lane in await source.status())

        await until(is_due)
        job = await lease_one(source)
        assert [lane.due_seconds for lane in await source.status()] == [0], "a worker has it"
        await source.retry([(attrs.evolve(job, attempt=2), 3600.0)])
        assert [lane.due_seconds for lane in await source.status()] == [0], "it is not due"

    async def test_what_an_earlier_try_may_have_delivered_is_remembered(self, engine: Engine) -> None:
        source = await engine.source()
        await engine.enqueue(letter())
        job = await lease_one(source)
        await source.retry([(attrs.evolve(job, attempt=2, is_uncertain=True), 0.01)])
        assert (await lease_one(source)).is_uncertain

    async def test_a_released_job_is_due_at_once_and_was_no_try(self, engine: Engine) -> None:
        source = await engine.source()
        await engine.enqueue(letter())
        job = await lease_one(source)
        await source.release([job])
        again = await lease_one(source)
        assert (again.identity, again.attempt, again.is_uncertain) == (job.identity, 1, False)

    async def test_an_extended_lease_lasts_longer(self, engine: Engine) -> None:
        one, other = (
            await engine.source(lease_seconds=2 * self.short),
            await engine.source(lease_seconds=2 * self.short),
        )
        await engine.enqueue(letter())
        job = await lease_one(one)
        first = job.lease.until
        for _ in range(4):
            taken = await other.lease("bulk", 10, self.short)
            skip_if_free_again(job, bool(taken))
            assert taken == []
            await one.extend([job])
        assert job.lease.until > first + self.short

    async def test_when_a_lease_ended_another_gets_the_job_and_knows_that_it_may_have_been_sent(
        self, engine: Engine
    ) -> None:
        one, other = await engine.source(lease_seconds=self.short), await engine.source(lease_seconds=self.short)
        await engine.enqueue(letter())
        first = await lease_one(one)
        second = await lease_one(other)
        assert second.identity == first.identity
        assert second.is_uncertain
        assert second.lease.name != first.lease.name

    @pytest.mark.parametrize("verb", ["extend", "release", "retry", "settle", "settle accepted"])
    async def test_a_worker_that_wakes_up_after_its_lease_was_given_away_harms_nothing(
        self, engine: Engine, verb: str
    ) -> None:
        zombie, holder = (
            await engine.source(lease_seconds=self.short),
            await engine.source(lease_seconds=self.taker),
        )
        await engine.enqueue(letter())
        old = await lease_one(zombie)
        held = await self.taken_over(holder, old)
        ended = old.lease.until
        match verb:
            case "extend":
                await zombie.extend([old])
                assert old.lease.until == ended
            case "release":
                await zombie.release([old])
            case "retry":
                await zombie.retry([(attrs.evolve(old, attempt=2), 0.01)])
            case "settle":
                await zombie.settle([with_status(old, "unknown")])
            case "settle accepted":
                await zombie.settle([accepted(old)])
        await holder.extend([held])
        found = await holder.store.find([old.identity])
        assert {outcome.status for outcome in found.values()} == ({"accepted"} if verb == "settle accepted" else set())
        others = await holder.lease("bulk", 10, self.silence)
        skip_if_free_again(held, bool(others))
        assert others == []  # nobody else got it
        await holder.extend([held])
        await holder.settle([with_status(held, "refused")])
        status = (await holder.store.find([old.identity]))[old.identity].status
        assert status == ("accepted" if verb == "settle accepted" else "refused")
        await until(lambda: nothing_left(holder))

    async def taken_over(self, holder: Source, old: Job) -> Job:
        """Return the job as somebody else has it, once its lease ended."""
        held = await lease_one(holder)
        assert held.lease.name != old.lease.name
        return held

    # The store

    async def leased_twice(self, engine: Engine) -> tuple[Source, Job, Job]:
        source, holder = await engine.source(lease_seconds=self.short), await engine.source(lease_seconds=self.taker)
        await engine.enqueue(letter(when_unknown="record"))
        first = await lease_one(source)
        return holder, first, await self.taken_over(holder, first)

    async def test_what_one_has_begun_nobody_else_begins(self, engine: Engine) -> None:
        source, first, second = await self.leased_twice(engine)
        assert await source.store.begin([first]) == {}
        assert await source.store.begin([first]) == {}, "its own mark is its own, should the answer have been lost"
        assert await source.store.begin([second]) == {first.identity: None}
        assert await source.store.find([first.identity]) == {}, "a mark is no outcome"

    async def test_a_mark_is_removed_only_by_whom_it_names(self, engine: Engine) -> None:
        source, first, second = await self.leased_twice(engine)
        await source.store.begin([first])
        await source.store.forget([second])
        assert await source.store.begin([second]) == {first.identity: None}
        await source.store.forget([first])
        assert await source.store.begin([second]) == {}

    async def test_what_has_an_outcome_is_not_begun_any_more(self, engine: Engine) -> None:
        source, first, second = await self.leased_twice(engine)
        await source.store.begin([first])
        await source.store.save([with_status(first, "unknown")])
        others = await source.store.begin([second])
        outcome = others[first.identity]
        assert outcome is not None
        assert outcome.status == "unknown"
        await source.store.forget([first])  # too late: it is an outcome now
        assert (await source.store.find([first.identity]))[first.identity].status == "unknown"

    async def test_accepted_is_the_truth_however_late_it_comes(self, engine: Engine) -> None:
        source, first, second = await self.leased_twice(engine)
        for given, wanted in [("unknown", "unknown"), ("refused", "unknown"), ("accepted", "accepted")]:
            await source.store.save([with_status(first, given)])
            assert (await source.store.find([first.identity]))[first.identity].status == wanted
        await source.store.save([with_status(second, "refused")])
        assert (await source.store.find([first.identity]))[first.identity].status == "accepted"

    # The worker

    async def test_everything_is_sent_once_and_has_its_outcome(self, engine: Engine) -> None:
        jobs = [job for number in range(50) for job in letter(number, when_unknown=("retry", "record")[number % 2])]
        ran = await run_worker(engine, SMTPServer(), jobs, batch=16)
        assert sorted(ran.recipients) == sorted(job.identity.recipient for job in jobs)
        assert {outcome.status for outcome in ran.outcomes.values()} == {"accepted"}
        assert ran.outcomes["7@example.net"].message_id == "<7@example.org>"

    async def test_what_is_refused_for_now_is_tried_again_and_what_is_refused_for_good_is_not(
        self, engine: Engine
    ) -> None:
        server = SMTPServer()
        server.reply("RCPT", "451 4.7.1 greylisted", to="1@example.net", times=2)
        server.reply("RCPT", "550 5.1.1 no such user", to="2@example.net")
        jobs = [job for number in range(4) for job in letter(number)]
        jobs.append(attrs.evolve(jobs[3], key="no-date", content=b"From: ada@example.org\r\n\r\nNo Message-ID.\r\n"))
        jobs.append(attrs.evolve(jobs[3], key="late", not_after=time.time() - 5))
        ran = await run_worker(engine, server, jobs)
        assert sorted(ran.recipients) == ["0@example.net", "1@example.net", "3@example.net"]
        found = {
            identity.key: outcome
            for identity, outcome in (await ran.source.store.find([j.identity for j in jobs])).items()
        }
        assert found["<1@example.org>"].status == "accepted"
        assert found["<1@example.org>"].attempt == 3
        assert found["<2@example.org>"].status == "refused"
        assert found["<2@example.org>"].reply == "550 5.1.1 no such user"
        assert found["no-date"].status == "failed"
        assert found["late"].status == "expired"

    async def test_what_is_refused_for_now_and_has_no_time_for_another_try_is_expired_and_says_why(
        self, engine: Engine
    ) -> None:
        """Its time is long, and the next try later still: so that no machine is too slow for the first one."""
        server = SMTPServer()
        server.reply("RCPT", "451 4.7.1 never", to="0@example.net")
        jobs = letter(not_after=timedelta(minutes=10))
        ran = await run_worker(engine, server, jobs, backoff=Backoff(7200, 7200))
        assert ran.recipients == []
        outcome = ran.outcomes["0@example.net"]
        assert (outcome.status, outcome.attempt) == ("expired", 1)
        assert "451 4.7.1 never" in outcome.error

    @pytest.mark.parametrize(("when_unknown", "copies", "status"), [("retry", 2, "accepted"), ("record", 1, "unknown")])
    async def test_each_job_says_what_to_do_when_nobody_can_know(
        self, engine: Engine, when_unknown: Any, copies: int, status: str
    ) -> None:
        server = SMTPServer()
        server.reply("END_OF_DATA", b"", performs=True, close=True, times=1)
        ran = await run_worker(engine, server, letter(when_unknown=when_unknown))
        assert ran.outcomes["0@example.net"].status == status
        assert [message.content.split(b"Message-ID: ")[1][:15] for message in server.messages] == [
            b"<0@example.org>"
        ] * copies

    async def test_what_may_have_arrived_is_unknown_whatever_came_of_the_next_try(self, engine: Engine) -> None:
        server = SMTPServer()
        server.reply("END_OF_DATA", b"", performs=True, close=True, times=1)
        server.reply("RCPT", "250 ok", times=1)
        server.reply("RCPT", "550 5.7.1 enough")
        ran = await run_worker(engine, server, letter())
        assert ran.outcomes["0@example.net"].status == "unknown"
        assert ran.outcomes["0@example.net"].reply == "550 5.7.1 enough"

    async def test_what_a_dead_worker_had_begun_is_unknown_and_not_sent(self, engine: Engine) -> None:
        dead = await engine.source(lease_seconds=self.short)
        await engine.enqueue(letter(when_unknown="record"))
        job = await lease_one(dead)
        await dead.store.begin([job])
        ran = await run_worker(engine, SMTPServer(), [job], lease_seconds=self.taker)
        assert ran.outcomes["0@example.net"].status == "unknown"
        assert ran.recipients == []

    async def test_a_lost_ack_does_not_send_again(self, engine: Engine) -> None:
        """The outcome was written down, and the worker died before the job was settled."""
        dead = await engine.source(lease_seconds=self.short)
        await engine.enqueue(letter())
        job = await lease_one(dead)
        await dead.store.save([accepted(job)])
        ran = await run_worker(engine, SMTPServer(), [job], lease_seconds=self.taker)
        assert ran.recipients == []

    async def test_a_job_whose_lease_ended_before_it_was_begun_is_not_sent_by_its_old_holder(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The worker stood still between the lease and the write: another one has the job by now, and sends it."""
        source, other = await engine.source(lease_seconds=self.short), await engine.source(lease_seconds=self.taker)
        await engine.enqueue(letter())
        server = SMTPServer()
        taken: list[Job] = []
        lease = source.lease

        async def stand_still(lane: str, most: int, wait: float) -> list[Job]:
            jobs = await lease(lane, most, wait)
            if jobs and not taken:
                taken.append(await self.taken_over(other, jobs[0]))
            return jobs

        monkeypatch.setattr(source, "lease", stand_still)
        async with server.client() as client, anyio.create_task_group() as tasks:
            worker = Worker(source, client, lanes={"bulk": 1}, backoff=SOON)
            tasks.start_soon(worker.run)
            await until(lambda: _is_true(lambda: taken))
            assert await source.store.find([taken[0].identity]) == {}
            await other.settle([accepted(taken[0])])
            is_late = time.monotonic() > taken[0].lease.until
            worker.stop()
        if server.messages and is_late:
            pytest.skip(STOOD_STILL)
        assert server.messages == []
        await until(lambda: nothing_left(other))

    async def test_stopping_in_the_middle_leaves_nothing_leased_and_nothing_sent_without_its_outcome(
        self, engine: Engine
    ) -> None:
        source = await engine.source()
        jobs = [job for number in range(300) for job in letter(number, when_unknown=("retry", "record")[number % 2])]
        await engine.enqueue(jobs)
        server = SMTPServer()
        async with server.client() as client, anyio.create_task_group() as tasks:
            worker = Worker(source, client, lanes={"bulk": 2}, batch=40)
            tasks.start_soon(worker.run)
            await until(lambda: _is_true(lambda: len(server.messages) >= 20))
            worker.stop()
        sent = {path for message in server.messages for path in message.recipients}
        found = await source.store.find([job.identity for job in jobs])
        assert {identity.recipient for identity in found} == sent
        assert len(server.messages) == len(sent) < 300
        await until(lambda: _waiting_and_leased(source, 300 - len(sent), 0))

    async def test_transactional_mail_does_not_wait_for_bulk_of_which_half_is_refused_for_now(
        self, engine: Engine
    ) -> None:
        relay, source = lanes.Relay(), await engine.source()
        await engine.enqueue(lanes.bulk(CROWD))
        async with (
            SMTPServer(on_message=relay.take).client(max_connections=3) as client,
            anyio.create_task_group() as tasks,
        ):
            worker = Worker(source, client)
            tasks.start_soon(worker.run)
            report = await lanes.measure(relay, engine.enqueue, CROWD, 4)
            worker.stop()
        # Counted in bulk messages, so that a slow machine changes nothing; tests/worker/lanes.py has a clock.
        assert max(report.overtaken_by) < CROWD / 4, str(report)
        waiting = {lane.lane: lane for lane in await source.status()}["bulk"]
        assert waiting.later > 0
        assert waiting.waiting > CROWD / 4

    async def test_a_clock_that_jumps_changes_nothing(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        """This machine's clock is set a day ahead, and then two days back, while jobs wait for their next try."""
        server = SMTPServer()
        server.reply("RCPT", "451 4.7.1 greylisted", to="1@example.net", times=1)
        real, offset = time.time, [0.0]
        jobs = [job for number in range(3) for job in letter(number, not_after=timedelta(hours=1))]
        source = await engine.source()
        await engine.enqueue(jobs)
        monkeypatch.setattr(time, "time", lambda: real() + offset[0])
        async with server.client() as client, anyio.create_task_group() as tasks:
            offset[0] = 86_400.0
            worker = Worker(source, client, lanes={"bulk": 1}, backoff=SOON)
            tasks.start_soon(worker.run)
            await until(lambda: _is_true(lambda: server.messages))
            offset[0] = -86_400.0
            await until(lambda: has_outcomes(source, jobs), seconds=PATIENCE_SECONDS / 2)
            worker.stop()
        found = await source.store.find([job.identity for job in jobs])
        assert {outcome.status for outcome in found.values()} == {"accepted"}
        assert len(server.messages) == 3


def skip_if_free_again(job: Job, is_given_out: bool) -> None:
    """Skip a test in which somebody else got a job, if its lease was over by then, of which the test knows nothing."""
    if is_given_out and time.monotonic() > job.lease.until:
        pytest.skip(STOOD_STILL)


async def _is_true(value: Any) -> bool:
    return bool(value() if callable(value) else value)


async def _waiting_and_leased(source: Source, waiting: int, leased: int) -> bool:
    lanes = await source.status()
    return (sum(lane.waiting for lane in lanes), sum(lane.leased for lane in lanes)) == (waiting, leased)
