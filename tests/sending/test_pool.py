"""The pool: bounded, fair, and bound to no event loop while nothing is in use."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import anyio
import anyio.from_thread
import pytest

import smtplite
from smtplite import Client, Timeouts
from smtplite.options import Options
from smtplite.sending.deadline import Deadline
from smtplite.sending.pool import Pool
from smtplite.sending.session import Session
from smtplite.testing import SMTPServer

RAW = b"From: me@example.org\r\nTo: you@example.org\r\nSubject: hi\r\n\r\nbody\r\n"
SOON = 0.2


def client_of(server: SMTPServer, **options: object) -> Client:
    return Client(server.host, server.port, tls="none", **options)  # type: ignore[arg-type]


@contextmanager
def server_in_a_thread() -> Iterator[SMTPServer]:
    """Run a server on an event loop of its own, so that it outlives the loops that a test opens and closes."""
    with anyio.from_thread.start_blocking_portal() as portal, portal.wrap_async_context_manager(SMTPServer()) as server:
        yield server


# One after another


@pytest.mark.anyio
async def test_first_come_first_served() -> None:
    order: list[int] = []
    async with SMTPServer() as server, client_of(server, max_connections=1) as client:

        async def send(i: int) -> None:
            await client.send(RAW)
            order.append(i)

        async with anyio.create_task_group() as tasks:
            for i in range(6):
                tasks.start_soon(send, i)
                await anyio.wait_all_tasks_blocked()
        assert len(server.connections) == 1
    assert order == list(range(6))


@pytest.mark.anyio
async def test_who_waits_too_long_is_told_so() -> None:
    timeouts = Timeouts(pool=SOON)
    async with SMTPServer() as server, client_of(server, max_connections=1, timeouts=timeouts) as client:
        held = server.hold("END_OF_DATA", times=1)
        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as first:
                tasks.start_soon(_send_within, client, first)
                await held.wait()
                with pytest.raises(smtplite.SMTPTimeout, match=r"no connection became free within 0\.2 s") as caught:
                    await client.send(RAW)
                assert caught.value.phase == "pool"
                assert caught.value.not_sent == ("you@example.org",)
                tasks.cancel_scope.cancel()
        held.release()
        assert (await client.send(RAW)).complete


async def _send_within(client: Client, scope: anyio.CancelScope) -> None:
    await client.send(RAW)


@pytest.mark.anyio
async def test_a_cancelled_waiter_hands_its_turn_on() -> None:
    async with SMTPServer() as server, client_of(server, max_connections=1) as client:
        done: list[str] = []

        async def send(name: str, scope: anyio.CancelScope) -> None:
            with scope:
                await client.send(RAW)
                done.append(name)

        scopes = {name: anyio.CancelScope() for name in "abc"}
        async with anyio.create_task_group() as tasks:
            for name, scope in scopes.items():
                tasks.start_soon(send, name, scope)
                await anyio.lowlevel.checkpoint()  # trio starts tasks in any order
            scopes["b"].cancel()
        assert done == ["a", "c"]
        assert (await client.send(RAW)).complete


@pytest.mark.anyio
async def test_when_a_connect_fails_everybody_who_waits_learns_it_and_the_next_one_tries_again() -> None:
    attempts = 0
    server = SMTPServer()
    may_fail = anyio.Event()

    async def connect() -> anyio.abc.ByteStream:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            await may_fail.wait()
            raise ConnectionRefusedError("down")
        return await server.connect()

    errors: list[smtplite.SMTPError] = []
    async with Client(connect=connect, tls="none", max_connections=1) as client:

        async def send(recipient: str) -> None:
            try:
                await client.send(RAW, recipients=recipient)
            except smtplite.ConnectError as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            for i in range(3):
                tasks.start_soon(send, f"r{i}@example.org")
            await anyio.wait_all_tasks_blocked()
            may_fail.set()
        assert attempts == 1
        assert sorted(error.not_sent[0] for error in errors) == [f"r{i}@example.org" for i in range(3)]
        assert all(isinstance(error.__cause__, ConnectionRefusedError) for error in errors)
        assert (await client.send(RAW)).complete


@pytest.mark.anyio
async def test_closing_sends_everybody_who_waits_away_and_lets_who_sends_finish() -> None:
    async with SMTPServer() as server:
        client = client_of(server, max_connections=1)
        outcomes: list[object] = []

        async def send() -> None:
            try:
                outcomes.append((await client.send(RAW)).complete)
            except smtplite.LocalProtocolError as error:
                outcomes.append(str(error))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            tasks.start_soon(send)
            while not server.connections:  # the first one has begun
                await anyio.lowlevel.checkpoint()
            await client.aclose()
        assert outcomes in ([True, "client is closed"], ["client is closed", True])
        with anyio.fail_after(20):  # we do not stay for the reply, so the server may still be reading
            while not server.connections[0].received.endswith(b"QUIT\r\n"):
                await anyio.lowlevel.checkpoint()
        assert len(server.connections) == 1


@pytest.mark.anyio
async def test_an_error_on_one_connection_touches_no_message_on_another() -> None:
    async with SMTPServer() as server, client_of(server, max_connections=4) as client:
        server.reply("END_OF_DATA", b"", performs=False, close=True, times=3)
        unknown = 0

        async def send() -> None:
            nonlocal unknown
            try:
                assert (await client.send(RAW)).complete
            except smtplite.DeliveryUnknown:
                unknown += 1

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(send)
        assert unknown == 3
        assert len(server.messages) == 17


class LazySession:
    """Takes its time to leave, as a session over a slow stream may."""

    def __init__(self, may_leave: anyio.Event) -> None:
        self.may_leave = may_leave
        self.is_reusable = True
        self.is_closing = False
        self.opened_at = self.idle_since = time.monotonic()

    def is_stale(self) -> bool:
        return False

    async def dismiss(self) -> None:
        await self.may_leave.wait()


@pytest.mark.anyio
async def test_who_waits_for_a_place_keeps_nobody_from_what_is_idle() -> None:
    """One that needs a fresh connection closes an idle one, which may take its time; the other idle one is free."""
    may_leave = anyio.Event()

    async def open_session(deadline: Deadline) -> Session:
        return cast(Session, LazySession(may_leave))

    pool = Pool(open_session, Options(hostname="mx.example", max_connections=2))
    fresh: list[Session] = []

    async def acquire_fresh() -> None:
        fresh.append(await pool.acquire(Deadline(), fresh=True))

    with anyio.fail_after(20):
        lent = [await pool.acquire(Deadline()) for _ in range(2)]
        for session in lent:
            await pool.release(session)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(acquire_fresh)
            await anyio.wait_all_tasks_blocked()
            other = await pool.acquire(Deadline())
            assert other in lent
            await pool.release(other)
            may_leave.set()
    assert len(fresh) == 1
    assert fresh[0] not in lent


# Event loops and processes


def test_one_client_serves_one_event_loop_after_another() -> None:
    """While it is idle it is bound to none; and an idle connection goes on from one to the next."""
    with server_in_a_thread() as server:
        client = client_of(server)  # made where no event loop runs

        async def send() -> None:
            assert (await client.send(RAW)).complete

        asyncio.run(send())
        asyncio.run(send())
        anyio.run(send, backend="trio")
        anyio.run(send, backend="asyncio", backend_options={"use_uvloop": True})
        asyncio.run(client.aclose())
        assert len(server.messages) == 4
        assert len(server.connections) == 1


def test_two_event_loops_at_the_same_time_are_refused_before_any_octet() -> None:
    with server_in_a_thread() as server:
        client = client_of(server)
        server.reply("END_OF_DATA", b"", performs=True, times=1)
        is_sending, may_end = threading.Event(), threading.Event()

        async def hold() -> None:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(client.send, RAW)
                    await server_has_taken(server, 1)
                    is_sending.set()
                    await anyio.to_thread.run_sync(may_end.wait, 20)
                    scope.cancel()

        thread = threading.Thread(target=anyio.run, args=(hold,), daemon=True)
        thread.start()
        assert is_sending.wait(20)

        async def refused() -> None:
            with pytest.raises(smtplite.LocalProtocolError, match="in use by another event loop"):
                await client.send(RAW)

        try:
            asyncio.run(refused())
        finally:
            may_end.set()
            thread.join(20)

        async def again() -> None:
            async with client:
                assert (await client.send(RAW)).complete

        asyncio.run(again())


async def server_has_taken(server: SMTPServer, count: int) -> None:
    while len(server.messages) < count:
        await anyio.lowlevel.checkpoint()


@pytest.mark.needs("fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_after_a_fork_the_connection_is_still_the_parents() -> None:
    with server_in_a_thread() as server:
        client = client_of(server)

        async def send() -> None:
            assert (await client.send(RAW)).complete

        async def send_and_close() -> None:
            async with client:
                await send()

        asyncio.run(send())
        child = os.fork()
        if child == 0:
            code = 1
            try:
                asyncio.run(send_and_close())
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        asyncio.run(send_and_close())  # on its old connection
        assert len(server.messages) == 3
        assert sorted(c.received.count(b"MAIL FROM") for c in server.connections) == [1, 2]
