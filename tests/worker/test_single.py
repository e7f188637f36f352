"""`send_job`: one job at a time, with the store and the policies of a worker."""

from __future__ import annotations

import time
from typing import Any

import attrs
import pytest

from smtplite.testing import SMTPServer
from smtplite.worker import Job, Later, Lease, MemoryStore, Outcome, send_job
from tests.worker.kit import SOON, accepted, letter

pytestmark = pytest.mark.asyncio


def leased(name: str = "first", **options: Any) -> Job:
    return attrs.evolve(letter(**options)[0], token=Lease(name, 0.0))


async def sent(server: SMTPServer, store: MemoryStore, job: Job, **options: Any) -> Outcome | Later:
    async with server.client() as client:
        return await send_job(job, client, store, backoff=SOON, **options)


@pytest.mark.parametrize("when_unknown", ["retry", "record"])
async def test_what_is_accepted_is_written_down_and_not_sent_again(when_unknown: str) -> None:
    server, store = SMTPServer(), MemoryStore()
    outcome = await sent(server, store, leased(when_unknown=when_unknown))
    assert isinstance(outcome, Outcome)
    assert outcome.status == "accepted"
    assert await sent(server, store, leased("second", when_unknown=when_unknown)) == outcome
    assert len(server.messages) == 1
    assert not store.begun


async def test_a_refusal_for_now_is_for_the_queue_to_try_again_and_leaves_no_mark() -> None:
    server, store = SMTPServer(), MemoryStore()
    server.reply("RCPT", "451 4.7.1 later", times=1)
    later = await sent(server, store, leased(when_unknown="record"))
    assert isinstance(later, Later)
    assert (later.job.attempt, later.seconds is not None) == (2, True)
    assert not store.begun
    again = await sent(server, store, attrs.evolve(later.job, token=Lease("second", 0.0)))
    assert isinstance(again, Outcome)
    assert (again.status, again.attempt) == ("accepted", 2)


@pytest.mark.parametrize(("when_unknown", "status"), [("retry", None), ("record", "unknown")])
async def test_when_nobody_can_know_the_job_decides(when_unknown: str, status: str | None) -> None:
    server, store = SMTPServer(), MemoryStore()
    server.reply("END_OF_DATA", b"", performs=True, close=True, times=1)
    decision = await sent(server, store, leased(when_unknown=when_unknown))
    if status is None:
        assert isinstance(decision, Later)
        assert decision.job.is_uncertain
    else:
        assert isinstance(decision, Outcome)
        assert decision.status == status


async def test_what_a_dead_worker_began_is_unknown_and_what_it_settled_is_known() -> None:
    server, store = SMTPServer(), MemoryStore()
    await store.begin([leased(when_unknown="record")])
    outcome = await sent(server, store, leased("second", when_unknown="record"))
    assert isinstance(outcome, Outcome)
    assert outcome.status == "unknown"
    await store.save([accepted(leased())])
    found = await sent(server, store, leased("third", when_unknown="record"))
    assert isinstance(found, Outcome)
    assert found.status == "accepted"
    assert not server.messages


async def test_what_is_too_late_or_no_message_is_not_sent() -> None:
    server, store = SMTPServer(), MemoryStore()
    late = await sent(server, store, attrs.evolve(leased(), not_after=time.time() - 1))
    broken = await sent(server, store, attrs.evolve(leased(), key="b", content=b"From: a@example.org\r\n\r\n"))
    early = await sent(server, store, attrs.evolve(leased(), key="c", not_after=1000.0), now=999.0)
    assert [decision.status for decision in (late, broken, early) if isinstance(decision, Outcome)] == [
        "expired",
        "failed",
        "accepted",
    ]
