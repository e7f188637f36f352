"""Signals, on event loops that hear them and on those that do not; and what else differs."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio import selector_events
from types import ModuleType

import anyio
import pytest

from smtplite.system import processes, signals
from tests.loops import LikeProactor

from .conftest import As


class LikeWindowsSelector(selector_events.BaseSelectorEventLoop):
    """Watches sockets, and hears no signals."""


LOOPS = [asyncio.SelectorEventLoop, LikeProactor, LikeWindowsSelector]


@pytest.fixture(autouse=True)
def _as_it_was() -> object:
    before = [signal.getsignal(number) for number in signals.STOP], signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.set_wakeup_fd(before[1]) == -1
    for number, handler in zip(signals.STOP, before[0], strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_each_signal_is_heard_on_every_loop_and_the_handlers_are_put_back(
    loop: type[asyncio.AbstractEventLoop], number: signal.Signals
) -> None:
    heard = []

    async def main() -> None:
        with anyio.fail_after(30), signals.open_stop_signals() as stops:
            for _ in range(2):
                signal.raise_signal(number)
                async for each in stops:
                    heard.append(each)
                    break

    anyio.run(main, backend_options={"loop_factory": loop})
    assert heard == [number, number]


@pytest.mark.parametrize("loop", [LikeProactor, LikeWindowsSelector])
def test_a_loop_that_waits_is_woken(loop: type[asyncio.AbstractEventLoop]) -> None:
    """Nothing else happens: the wait itself must end."""

    async def main() -> int:
        with anyio.fail_after(30), signals.open_stop_signals() as stops:
            async with anyio.create_task_group() as tasks:
                await anyio.lowlevel.checkpoint()
                tasks.start_soon(anyio.to_thread.run_sync, lambda: os.kill(os.getpid(), signal.SIGTERM))
                async for each in stops:
                    return each
        raise AssertionError("nothing was heard")

    assert anyio.run(main, backend_options={"loop_factory": loop}) == signal.SIGTERM


def test_a_not_implemented_error_of_the_callers_is_not_taken_for_the_loops() -> None:
    async def main() -> None:
        with signals.open_stop_signals():
            raise NotImplementedError("mine")

    with pytest.raises(NotImplementedError, match="mine"):
        anyio.run(main)


def test_where_there_is_no_fork_nothing_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "register_at_fork", raising=False)
    processes.after_fork(lambda: None)


@pytest.mark.parametrize(
    ("environment", "shows"),
    [({}, False), ({"WT_SESSION": "x"}, True), ({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False)],
)
def test_the_old_console_of_windows_shows_no_colours(
    load_as: As, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], *, shows: bool
) -> None:
    for name in ("TERM", "WT_SESSION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert load_as("terminals", "win32").show_colours() is shows
    assert load_as("terminals", "linux").show_colours() is (environment.get("TERM") != "dumb")


def test_psycopgs_event_loop_is_the_one_that_watches_sockets(load_as: As) -> None:
    assert load_as("loops", "win32").watching_loop() is asyncio.SelectorEventLoop
    assert load_as("loops", "linux").watching_loop() is None


def test_windows_locks_one_byte_where_nobody_reads(
    load_as: As, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    locked = []
    msvcrt = ModuleType("msvcrt")
    msvcrt.LK_NBLCK = 2  # type: ignore[attr-defined]  # a module of another system
    msvcrt.locking = lambda descriptor, mode, count: locked.append(  # type: ignore[attr-defined]  # likewise
        (os.lseek(descriptor, 0, os.SEEK_CUR), mode, count)
    )
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt)
    files = load_as("files", "win32")
    descriptor = os.open(f"{tmp_path}/results", os.O_RDWR | os.O_CREAT | files.AT_ONCE | files.BYTE_FOR_BYTE)
    try:
        os.write(descriptor, b"a line")
        files.lock(descriptor)
        assert locked == [((1 << 31) - 2, 2, 1)]
        assert os.read(descriptor, 10) == b"a line"
    finally:
        os.close(descriptor)
