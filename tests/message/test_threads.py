"""Worker threads: a few at a time, in order; and nobody waits for one that takes long (rule R27)."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator

import anyio
import anyio.lowlevel
import pytest

from smtplite.message import threads
from smtplite.message.threads import in_thread

pytestmark = pytest.mark.anyio


class Work:
    """What a thread does until it is let go."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.begun: list[int] = []

    def __call__(self, number: int) -> int:
        self.begun.append(number)
        assert self.released.wait(20)
        return number


@pytest.fixture
def work() -> Iterator[Work]:
    work = Work()
    yield work
    work.released.set()


async def settled() -> None:
    """Let every task go as far as it can."""
    for _ in range(50):
        await anyio.lowlevel.checkpoint()


async def until_begun(work: Work, count: int) -> None:
    with anyio.fail_after(20):
        while len(work.begun) < count:  # noqa: ASYNC110 (a thread says nothing to this loop before it is done)
            await anyio.sleep(0.001)


async def test_a_few_run_at_a_time_and_the_others_follow_in_order(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_MOMENT_SECONDS", math.inf)
    async with anyio.create_task_group() as tasks:
        for number in range(threads._THREADS + 5):
            tasks.start_soon(in_thread, work, number)
            await settled()
        await until_begun(work, threads._THREADS)
        await settled()
        assert len(work.begun) == threads._THREADS
        work.released.set()
    assert sorted(work.begun[: threads._THREADS]) == list(range(threads._THREADS))
    assert len(work.begun) == threads._THREADS + 5


async def test_one_that_gives_up_waiting_lets_the_next_one_go(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_MOMENT_SECONDS", math.inf)
    monkeypatch.setattr(threads, "_THREADS", 1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(in_thread, work, 0)
        await until_begun(work, 1)
        scopes = [anyio.CancelScope() for _ in range(3)]
        done: list[int] = []

        async def wait(number: int) -> None:
            with scopes[number - 1]:
                done.append(await in_thread(work, number))

        for number in (1, 2, 3):
            tasks.start_soon(wait, number)
            await settled()
        scopes[0].cancel()  # the first of those that wait
        scopes[1].cancel()  # and one behind it
        await settled()
        work.released.set()
    assert work.begun == [0, 3]
    assert done == [3]


async def test_there_is_an_end_to_it(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes longer than a moment; still no more than so many threads are begun."""
    monkeypatch.setattr(threads, "_MOMENT_SECONDS", 0.0)
    monkeypatch.setattr(threads, "_THREADS", 2)
    monkeypatch.setattr(threads, "_MAX_THREADS", 4)
    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(in_thread, work, number)
        await until_begun(work, 4)
        await settled()
        assert len(work.begun) == 4
        work.released.set()
    assert sorted(work.begun) == list(range(6))


async def test_one_that_was_abandoned_counts_no_more(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """R27."""
    monkeypatch.setattr(threads, "_MOMENT_SECONDS", math.inf)
    monkeypatch.setattr(threads, "_THREADS", 1)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            await_it = anyio.Event()

            async def abandoned() -> None:
                await_it.set()
                await in_thread(work, 0, abandon_on_cancel=True)

            tasks.start_soon(abandoned)
            await await_it.wait()
            await until_begun(work, 1)
            scope.cancel()
    assert await in_thread(len, b"abc") == 3
