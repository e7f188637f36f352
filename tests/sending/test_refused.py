"""Refused connections (R26): one that cannot be opened says nothing about those that work."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import smtplite
from smtplite import Client, Delivery, Outgoing, Timeouts
from smtplite.options import Options
from smtplite.sending import pool as pool_module
from smtplite.sending.deadline import Deadline
from smtplite.sending.pool import Pool
from smtplite.sending.session import Session
from smtplite.testing import SMTPServer
from smtplite.testing.capacity import WhenFull

RAW = b"From: me@example.org\r\nTo: you@example.org\r\nSubject: hi\r\n\r\nbody\r\n"
PATIENCE_SECONDS = 60


def client_of(server: SMTPServer, **options: Any) -> Client:
    return Client(server.host, server.port, tls="none", **options)


def items(count: int, prefix: str = "") -> list[Outgoing]:
    return [Outgoing(RAW, f"{prefix}{number}@example.org", tag=number) for number in range(count)]


# Servers that take fewer


@pytest.mark.exhaustive(keep=3)
@pytest.mark.parametrize("when_full", ["421", "close", "silence"])
@pytest.mark.parametrize("places", [1, 2, 3])
@pytest.mark.anyio
async def test_a_stream_of_a_default_client_reaches_a_server_that_takes_fewer(places: int, when_full: WhenFull) -> None:
    """R26."""
    server = SMTPServer(max_connections=places, when_full=when_full)
    outcomes: list[Delivery] = []
    with anyio.fail_after(PATIENCE_SECONDS):
        async with server, client_of(server) as client, client.send_many(items(200)) as deliveries:
            outcomes += [delivery async for delivery in deliveries]
    assert [delivery.error for delivery in outcomes if delivery.error is not None] == []
    assert Counter(message.sender for message in server.messages) == Counter(item.sender for item in items(200))
    assert not server.violations


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("when_full", ["421", "close", "silence"])
@pytest.mark.anyio
async def test_many_senders_share_what_the_server_takes(when_full: WhenFull) -> None:
    """R26: 50 connections wanted, 10 taken, 2,000 messages: none fails."""
    server = SMTPServer(max_connections=10, when_full=when_full)
    complete = 0

    async def send(client: Client) -> None:
        nonlocal complete
        receipt = await client.send(RAW)
        complete += receipt.complete

    with anyio.fail_after(PATIENCE_SECONDS):
        async with server, client_of(server, max_connections=50) as client, anyio.create_task_group() as tasks:
            for _ in range(2_000):
                tasks.start_soon(send, client)
    assert complete == len(server.messages) == 2_000


@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
@pytest.mark.exhaustive(keep=1)
@pytest.mark.needs("/proc")
def test_out_of_descriptors(backend: str) -> None:
    """R26: 300 senders and 100 connections where the process has room for a few: every message arrives."""
    program = textwrap.dedent(
        """
        import os, resource, sys
        import anyio
        from smtplite import Client

        RAW = b"From: me@example.org\\r\\nTo: you@example.org\\r\\nSubject: hi\\r\\n\\r\\nbody\\r\\n"
        counts = [0, 0]

        async def main():
            async with Client("127.0.0.1", int(sys.argv[1]), tls="none", max_connections=100) as client:
                await client.send(RAW)  # what is imported late needs descriptors, too
                used = len(os.listdir("/proc/self/fd"))
                resource.setrlimit(resource.RLIMIT_NOFILE, (used + 10, used + 10))

                async def send():
                    try:
                        receipt = await client.send(RAW)
                        counts[0] += receipt.complete
                    except Exception as error:
                        counts[1] += 1
                        print(repr(error), repr(error.__cause__))

                async with anyio.create_task_group() as tasks:
                    for _ in range(300):
                        tasks.start_soon(send)
            print(counts)

        backend = sys.argv[2]
        anyio.run(
            main,
            backend="trio" if backend == "trio" else "asyncio",
            backend_options={"use_uvloop": True} if backend == "uvloop" else {},
        )
        """
    )
    with SMTPServer().in_thread() as server:
        ran = subprocess.run(
            [sys.executable, "-c", program, str(server.port), backend],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        assert ran.stdout.splitlines()[-1:] == ["[300, 0]"], ran.stdout[-2_000:] + ran.stderr[-2_000:]
        assert len(server.messages) == 301
        assert 1 < len(server.connections) < 100


# What a refusal means


class Wire:
    """A way to a server, with connections that do what a test says."""

    def __init__(self, server: SMTPServer) -> None:
        self.server = server
        #: For each connection in turn: None, or what happens instead.
        self.plan: list[BaseException | SMTPServer | None] = []
        self.tries = 0

    async def __call__(self) -> anyio.abc.ByteStream:
        self.tries += 1
        does = self.plan.pop(0) if self.plan else None
        if isinstance(does, BaseException):
            raise does
        return await (self.server if does is None else does).connect()


def scripted(reply: str, verb: str = "GREETING", **options: Any) -> SMTPServer:
    server = SMTPServer(**options)
    server.reply(verb, reply, close=True)
    return server


AUTH: dict[str, Any] = {"users": {"me": "secret"}, "auth_in_clear": True, "require_auth": True}
REFUSALS: dict[str, Callable[[], BaseException | SMTPServer]] = {
    "421 greeting": lambda: scripted("421 4.3.2 too many"),
    "450 hello": lambda: scripted("450 4.3.2 later", "EHLO", **AUTH),
    "454 auth": lambda: scripted("454 4.7.0 later", "END_OF_AUTH", **AUTH),
    "432 auth": lambda: scripted("432 4.7.12 later", "END_OF_AUTH", **AUTH),
    "535 auth": lambda: scripted("535 5.7.8 no", "END_OF_AUTH", **AUTH),
    "554 greeting": lambda: scripted("554 5.3.2 no"),
    "refused": lambda: ConnectionRefusedError("connection refused"),
    "no descriptors": lambda: OSError(24, "Too many open files"),
    "own error": lambda: LookupError("the proxy's"),
}


async def held_client(server: SMTPServer, wire: Wire, tasks: anyio.abc.TaskGroup, **options: Any) -> tuple[Client, Any]:
    """Return a client with one connection, which waits for a verdict until that is released."""
    client = Client(connect=wire, tls="none", username="me", password="secret", allow_insecure_auth=True, **options)
    held = server.hold("END_OF_DATA", times=1)
    tasks.start_soon(client.send, RAW)
    await held.wait()
    return client, held


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.anyio
async def test_with_others_open_nobody_fails_for_it(refusal: str) -> None:
    """R26: whoever opened it goes on waiting for those that work, whatever it was."""
    server = SMTPServer(**AUTH)
    wire = Wire(server)
    with anyio.fail_after(PATIENCE_SECONDS):
        async with anyio.create_task_group() as tasks:
            client, held = await held_client(server, wire, tasks, max_connections=2)
            wire.plan = [REFUSALS[refusal]()]
            for _ in range(3):
                tasks.start_soon(client.send, RAW)
            while wire.tries < 2:
                await anyio.lowlevel.checkpoint()
            await anyio.wait_all_tasks_blocked()
            held.release()
        assert wire.tries == 2
        assert len(server.messages) == 4
        await client.aclose()


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.anyio
async def test_with_nothing_open_everybody_learns_it_at_once(refusal: str) -> None:
    """R26: and the next caller tries again. (An error of the caller's own is told to whom it happened.)"""
    server = SMTPServer(**AUTH)
    wire = Wire(server)
    is_own = refusal == "own error"
    wire.plan = [REFUSALS[refusal]() for _ in range(3 if is_own else 1)]
    errors: list[BaseException] = []
    client = Client(
        connect=wire, tls="none", username="me", password="secret", allow_insecure_auth=True, max_connections=1
    )

    async def send() -> None:
        try:
            await client.send(RAW)
        except (smtplite.SMTPError, LookupError) as error:
            errors.append(error)

    with anyio.fail_after(PATIENCE_SECONDS):
        async with client:
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(send)
            assert len(errors) == 3
            assert len({type(error) for error in errors}) == 1
            assert all(isinstance(error, LookupError) == is_own for error in errors)
            assert all(getattr(error, "not_sent", ("you@example.org",)) == ("you@example.org",) for error in errors)
            assert wire.tries == (3 if is_own else 1)
            assert (await client.send(RAW)).complete


@pytest.mark.anyio
async def test_after_pool_it_is_a_timeout_caused_by_the_last_refusal() -> None:
    """R26: however often it was tried meanwhile."""
    server = SMTPServer(**AUTH)
    wire = Wire(server)
    with anyio.fail_after(PATIENCE_SECONDS):
        async with anyio.create_task_group() as tasks:
            client, held = await held_client(server, wire, tasks, timeouts=Timeouts(pool=0.2))
            wire.plan = [scripted("421 4.3.2 too many")]
            with pytest.raises(smtplite.SMTPTimeout, match=r"no connection became free within 0\.2 s") as caught:
                await client.send(RAW)
            held.release()
        await client.aclose()
    assert caught.value.phase == "pool"
    assert isinstance(caught.value.__cause__, smtplite.ServiceUnavailable)
    assert caught.value.not_sent == ("you@example.org",)


@pytest.mark.parametrize("tries", [1, 5])
@pytest.mark.anyio
async def test_tries_beside_the_wait_do_not_make_it_longer(tries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """R26."""
    monkeypatch.setattr(pool_module, "_FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(pool_module, "_MAX_PAUSE_SECONDS", 0.01)
    server = SMTPServer(**AUTH)
    wire = Wire(server)
    with anyio.fail_after(PATIENCE_SECONDS):
        async with anyio.create_task_group() as tasks:
            client, held = await held_client(server, wire, tasks, timeouts=Timeouts(pool=0.2))
            full = scripted("421 4.3.2 too many")
            wire.plan = [full] * 1_000
            with pytest.raises(smtplite.SMTPTimeout, match=r"no connection became free within 0\.2 s"):
                await client.send(RAW)
            assert wire.tries > tries
            held.release()
        await client.aclose()


@pytest.mark.anyio
async def test_a_refusal_that_was_overcome_is_no_cause() -> None:
    server = SMTPServer(**AUTH)
    wire = Wire(server)
    timeouts = Timeouts(pool=0.2)
    with anyio.fail_after(PATIENCE_SECONDS):
        async with anyio.create_task_group() as tasks:
            client, held = await held_client(server, wire, tasks, timeouts=timeouts, max_connections=2)
            client._pool._limit.note_refusal(1, smtplite.ConnectError("once"), was_trial=False)
            client._pool._limit._retry_at = 0.0
            second = server.hold("END_OF_DATA", times=1)
            tasks.start_soon(client.send, RAW)
            await second.wait()  # both places are taken, and the server takes both
            with pytest.raises(smtplite.SMTPTimeout, match="no connection became free") as caught:
                await client.send(RAW)
            held.release()
            second.release()
        await client.aclose()
    assert caught.value.__cause__ is None


# Slow ones


@pytest.mark.anyio
async def test_a_greeting_that_does_not_come_is_given_up_for_a_session_that_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R26."""
    monkeypatch.setattr(pool_module, "_PATIENCE_SECONDS", 0.05)
    server = SMTPServer(max_connections=1, when_full="silence")
    with anyio.fail_after(PATIENCE_SECONDS):
        async with server.client() as client, anyio.create_task_group() as tasks:
            held = server.hold("END_OF_DATA", times=1)
            tasks.start_soon(client.send, RAW)
            await held.wait()
            tasks.start_soon(client.send, RAW)
            while len(server.connections) < 2:
                await anyio.lowlevel.checkpoint()
            held.release()
    assert len(server.messages) == 2
    assert [connection.received.count(b"MAIL FROM") for connection in server.connections] == [2, 0]


@pytest.mark.anyio
async def test_a_server_that_is_always_slow_is_not_taken_for_one_that_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """R26: those that open connections are neither given up for a session that comes free, nor begun anew."""
    monkeypatch.setattr(pool_module, "_PATIENCE_SECONDS", 0.0)
    fakes = Fakes()
    pool = Pool(fakes.open, Options(hostname="mx.example", max_connections=3))
    clock = Clock()
    with anyio.fail_after(PATIENCE_SECONDS), clock.installed():
        async with anyio.create_task_group() as tasks:
            got: list[Session] = []

            async def acquire() -> None:
                got.append(await pool.acquire(Deadline()))

            for _ in range(3):
                tasks.start_soon(acquire)
            await anyio.wait_all_tasks_blocked()
            clock.now += 2.0  # nobody knows yet that this is how long it always takes
            with anyio.move_on_after(0):
                await pool.acquire(Deadline())  # a newcomer who gives up
            await anyio.wait_all_tasks_blocked()
            assert len(fakes.waiting) == 3
            fakes.waiting[0].set()
            await anyio.wait_all_tasks_blocked()
            await pool.release(got[0])
            await anyio.wait_all_tasks_blocked()
            assert fakes.cancelled == 0
            assert len(got) == 1
            fakes.waiting[1].set()
            fakes.waiting[2].set()
        assert len(got) == 3
        assert pool._limit.connections == float("inf")


class Clock:
    """Time, as the pool sees it; the event loop has its own."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    @contextmanager
    def installed(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("smtplite.sending.pool.time", self)
            yield


class FakeSession:
    """What the pool sees of a session."""

    def __init__(self, fakes: Fakes) -> None:
        self.fakes = fakes
        self.is_reusable = True
        self.is_closing = False
        self.opened_at = self.idle_since = time.monotonic()
        self.is_reused = False
        self.is_open = True
        self.has_ended = False

    def is_stale(self) -> bool:
        return self.has_ended

    async def dismiss(self) -> None:
        self._close()
        with anyio.CancelScope(shield=True):
            await anyio.lowlevel.checkpoint()

    async def discard(self, reason: str) -> None:
        await self.dismiss()

    async def quit(self) -> None:
        await self.dismiss()

    def forget(self) -> None:
        self._close()

    def _close(self) -> None:
        assert self.is_open
        self.is_open = False
        self.fakes.open_count -= 1


class Fakes:
    """Opens sessions when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[anyio.Event] = []
        self.errors: list[Exception | None] = []
        self.cancelled = 0
        self.open_count = 0
        self.most = 0

    async def open(self, deadline: Deadline) -> Session:
        event = anyio.Event()
        self.waiting.append(event)
        self.open_count += 1
        self.most = max(self.most, self.open_count)
        try:
            await event.wait()
        except BaseException:
            self.cancelled += 1
            self.open_count -= 1
            raise
        return cast(Session, FakeSession(self))


# The clock


@pytest.mark.anyio
async def test_the_pause_doubles_up_to_a_minute_and_begins_anew_once_more_are_taken() -> None:
    """R26."""
    clock = Clock()
    fakes = Refusing()
    pool = Pool(fakes.open, Options(hostname="mx.example", max_connections=4))
    with clock.installed():
        session = await pool.acquire(Deadline())
        fakes.refuses = True
        assert await fakes.tries_again(pool)
        for pause in [1, 2, 4, 8, 16, 32, 60, 60, 60]:
            clock.now += pause * 0.74
            assert not await fakes.tries_again(pool), pause
            clock.now += pause * 0.52
            assert await fakes.tries_again(pool), pause
        # The server takes more: each that works lets the next be tried at once.
        fakes.refuses = False
        clock.now += 76
        others = [await pool.acquire(Deadline()) for _ in range(2)]
        assert len({session, *others}) == 3
        fakes.refuses = True
        assert await fakes.tries_again(pool)
        clock.now += 0.74
        assert not await fakes.tries_again(pool)
        clock.now += 0.52
        assert await fakes.tries_again(pool)


class Refusing:
    """Opens sessions at once, or refuses to."""

    def __init__(self) -> None:
        self.refuses = False
        self.error: Exception = smtplite.ServiceUnavailable(
            "full", reply=smtplite.Reply(421, (b"full",)), phase="greeting"
        )
        self.tries = 0
        self.fakes = Fakes()

    async def open(self, deadline: Deadline) -> Session:
        self.tries += 1
        await anyio.lowlevel.checkpoint()
        if self.refuses:
            raise self.error
        self.fakes.open_count += 1
        return cast(Session, FakeSession(self.fakes))

    async def tries_again(self, pool: Pool) -> bool:
        """Say whether one more who wants a session has the pool try to open one."""
        before = self.tries
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pool.acquire, Deadline())
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        return self.tries > before


@pytest.mark.anyio
async def test_several_refused_at_once_are_one_refusal() -> None:
    """R26: 40 of 50 are refused in a burst: the first try after that is a second later, not a minute."""
    clock = Clock()
    fakes = Refusing()
    pool = Pool(fakes.open, Options(hostname="mx.example", max_connections=50))
    with clock.installed():
        await pool.acquire(Deadline())
        fakes.refuses = True
        async with anyio.create_task_group() as tasks:
            for _ in range(40):
                tasks.start_soon(pool.acquire, Deadline())
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        assert fakes.tries == 41
        clock.now += 1.26
        assert await fakes.tries_again(pool)
        assert fakes.tries == 42


@pytest.mark.anyio
async def test_what_a_try_would_not_change_is_not_tried_while_others_are_open() -> None:
    """R26: a password, a certificate."""
    clock = Clock()
    fakes = Refusing()
    pool = Pool(fakes.open, Options(hostname="mx.example", max_connections=4))
    with clock.installed():
        session = await pool.acquire(Deadline())
        fakes.refuses = True
        fakes.error = smtplite.TLSError("certificate has expired", phase="tls")
        assert await fakes.tries_again(pool)
        clock.now += 100_000
        assert not await fakes.tries_again(pool)
        cast(Any, session).is_reusable = False
        await pool.release(session)
        with pytest.raises(smtplite.TLSError):
            await pool.acquire(Deadline())


@pytest.mark.parametrize("ends", ["works, while another one left", "is cancelled"])
@pytest.mark.anyio
async def test_after_a_try_another_may_come(ends: str) -> None:
    """R26: however it ended."""
    clock = Clock()
    fakes = Refusing()
    pool = Pool(fakes.open, Options(hostname="mx.example", max_connections=4))
    with clock.installed():
        first, second = [await pool.acquire(Deadline()) for _ in range(2)]
        fakes.refuses = True
        assert await fakes.tries_again(pool)
        clock.now += 2
        if ends == "is cancelled":
            with anyio.CancelScope() as scope:
                scope.cancel()
                await pool.acquire(Deadline())
        else:
            cast(Any, second).is_reusable = False
            fakes.refuses = False
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pool.acquire, Deadline())
                await anyio.lowlevel.checkpoint()
                await pool.release(second)
        fakes.refuses = True
        for _ in range(3):
            clock.now += 100
            assert await fakes.tries_again(pool)
        await pool.release(first)


# Who counts


@pytest.mark.anyio
async def test_a_raw_session_is_nobody_to_wait_for() -> None:
    """R26: it is never given back to be used again: with nothing else open, everybody learns at once."""
    server = SMTPServer(max_connections=1)
    with anyio.fail_after(PATIENCE_SECONDS):
        async with server.client() as client, client.session():
            with pytest.raises(smtplite.ServiceUnavailable, match="too many connections"):
                await client.send(RAW)


@pytest.mark.anyio
async def test_a_connection_marked_for_closing_is_nobody_to_wait_for() -> None:
    """R26."""
    fakes = Refusing()
    pool = Pool(fakes.open, Options(hostname="mx.example", max_connections=4))
    session = await pool.acquire(Deadline())
    cast(Any, session).is_closing = True
    fakes.refuses = True
    with anyio.fail_after(PATIENCE_SECONDS), pytest.raises(smtplite.ServiceUnavailable):
        await pool.acquire(Deadline())


@pytest.mark.needs("fork")
def test_a_fork_drops_what_was_learnt() -> None:
    fakes = Refusing()
    pool = Pool(fakes.open, Options(hostname="mx.example", max_connections=4))

    async def learn() -> None:
        session = await pool.acquire(Deadline())
        fakes.refuses = True
        assert await fakes.tries_again(pool)
        await pool.release(session)
        assert pool._limit.connections == 1

    async def open_three() -> None:
        fakes.refuses = False
        for _ in range(3):
            await pool.acquire(Deadline())
        assert pool._limit.connections == float("inf")

    anyio.run(learn)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            anyio.run(open_three)
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pool._limit.connections == 1


# Whose turn it is


@pytest.mark.parametrize("when_full", ["421", "silence"])
@pytest.mark.anyio
async def test_three_streams_and_many_senders_share_one_connection_fairly(
    when_full: WhenFull, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R26: each owner gets a turn before anybody gets the next one: counted while all of them still want some."""
    # Those who open a connection of their own take no turn for a second.
    monkeypatch.setattr(pool_module, "_PATIENCE_SECONDS", 0.0)
    server = SMTPServer(max_connections=1, when_full=when_full)
    each, senders = 20, 5

    async def stream(name: str, client: Client) -> None:
        async with client.send_many(items(each, name)) as deliveries:
            async for delivery in deliveries:
                assert delivery.receipt is not None, delivery.error

    async def send(name: str, client: Client) -> None:
        for number in range(each):
            await client.send(RAW, sender=f"{name}{number}@example.org", recipients="you@example.org")

    names = [*(f"stream{i}-" for i in range(3)), *(f"sender{i}-" for i in range(senders))]
    with anyio.fail_after(PATIENCE_SECONDS):
        async with server.client() as client, anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(stream if name.startswith("stream") else send, name, client)
    order = [next(name for name in names if (message.sender or "").startswith(name)) for message in server.messages]
    assert Counter(order) == dict.fromkeys(names, each)
    # While everybody still has half to do, the turns are even; the connection's first user may be some ahead, until
    # the others have come to the queue.
    half = order[: next(i for i in range(len(order)) if max(Counter(order[: i + 1]).values()) > each // 2)]
    turns = Counter(half)
    assert all(turns[name] >= each // 4 for name in names), turns


@pytest.mark.anyio
async def test_who_needs_a_fresh_one_keeps_its_turn() -> None:
    """R26: it closes what it was lent, and nobody else opens one in that place."""
    fakes = Refusing()
    pool = Pool(fakes.open, Options(hostname="mx.example", max_connections=1))
    order: list[str] = []

    async def use(name: str, *, fresh: bool) -> None:
        session = await pool.acquire(Deadline(), fresh=fresh)
        order.append(name)
        await anyio.lowlevel.checkpoint()
        await pool.release(session)

    with anyio.fail_after(PATIENCE_SECONDS):
        session = await pool.acquire(Deadline())
        async with anyio.create_task_group() as tasks:
            for name in ("fresh", "second", "third"):
                tasks.start_soon(partial(use, name, fresh=name == "fresh"))
                await anyio.wait_all_tasks_blocked()
            await pool.release(session)
    assert order == ["fresh", "second", "third"]
    assert fakes.tries == 2


@pytest.mark.anyio
async def test_what_connect_raises_reaches_only_the_one_it_happened_to() -> None:
    """Even if it is no Exception, or somebody else's cancellation: the others go on."""

    class Stop(BaseException):
        """As KeyboardInterrupt, which event loops treat in ways of their own."""

    server = SMTPServer(**AUTH)
    wire = Wire(server)
    with anyio.fail_after(PATIENCE_SECONDS):
        async with anyio.create_task_group() as tasks:
            client, held = await held_client(server, wire, tasks)
            wire.plan = [Stop()]
            with pytest.raises(Stop):
                await client.send(RAW)
            held.release()
        assert (await client.send(RAW)).complete
        await client.aclose()


@pytest.mark.asyncio
async def test_a_cancelled_future_within_connect_is_no_loop_without_end() -> None:
    import asyncio

    tries = 0

    async def connect() -> anyio.abc.ByteStream:
        nonlocal tries
        tries += 1
        future: asyncio.Future[anyio.abc.ByteStream] = asyncio.get_running_loop().create_future()
        future.cancel()
        return await future

    async with Client(connect=connect, tls="none") as client:
        with pytest.raises(asyncio.CancelledError):
            await client.send(RAW)
    assert tries == 1


# Nothing leaks (I8)


class Crowd(Fakes):
    """Opens sessions after some turns of the loop, and refuses some."""

    def __init__(self, rng: random.Random, places: int) -> None:
        super().__init__()
        self.rng = rng
        self.places = places
        self.sessions: list[FakeSession] = []

    async def open(self, deadline: Deadline) -> Session:
        self.open_count += 1
        self.most = max(self.most, self.open_count)
        try:
            for _ in range(self.rng.randrange(6)):
                await anyio.lowlevel.checkpoint()
            if self.open_count > self.places or self.rng.random() < 0.1:
                raise self.rng.choice(
                    [
                        smtplite.ConnectError("refused"),
                        LookupError("own"),
                        smtplite.TLSError("certificate", phase="tls"),
                    ]
                )
        except BaseException:
            self.open_count -= 1
            raise
        session = FakeSession(self)
        self.sessions.append(session)
        return cast(Session, session)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@given(
    seed=st.integers(0, 2**32),
    most=st.integers(1, 4),
    places=st.integers(1, 4),
    count=st.integers(1, 12),
    patience=st.sampled_from([0.0, 1.0]),
)
@settings(max_examples=150, deadline=None)
def test_no_place_is_lost_whoever_is_cancelled_wherever(
    backend: str, seed: int, most: int, places: int, count: int, patience: float
) -> None:
    """R26: never more than the pool may have; everybody comes back; at the end nothing is lent."""
    rng = random.Random(seed)
    crowd = Crowd(rng, places)
    pool = Pool(crowd.open, Options(hostname="mx.example", max_connections=most))
    lent: set[Session] = set()
    outcomes = 0

    async def use(number: int, scope: anyio.CancelScope) -> None:
        nonlocal outcomes
        owner = object() if number % 3 else pool
        try:
            with scope:
                for _ in range(3):
                    try:
                        session = await pool.acquire(
                            Deadline(), fresh=rng.random() < 0.3, apart=rng.random() < 0.1, owner=owner
                        )
                    except (smtplite.SMTPError, LookupError):
                        continue
                    assert session not in lent
                    lent.add(session)
                    try:
                        for _ in range(rng.randrange(4)):
                            await anyio.lowlevel.checkpoint()
                        fake = cast(FakeSession, session)
                        fake.is_reusable = rng.random() < 0.7
                        fake.has_ended = rng.random() < 0.1
                    finally:
                        lent.discard(session)
                        await pool.release(session)
        finally:
            outcomes += 1

    async def main() -> None:
        with anyio.fail_after(PATIENCE_SECONDS):
            async with anyio.create_task_group() as tasks:
                scopes = [anyio.CancelScope() for _ in range(count)]
                for number, scope in enumerate(scopes):
                    tasks.start_soon(use, number, scope)
                while outcomes < count:
                    await anyio.lowlevel.checkpoint()
                    assert pool._count <= most
                    if rng.random() < 0.1:
                        rng.choice(scopes).cancel()
            assert outcomes == count
            assert pool._count == len(pool._idle)
            assert not pool._queue
            assert not pool._lent
            assert pool._opening == pool._closing == 0
            assert not pool._limit.is_tried
            assert pool._token is None
            assert crowd.most <= most
            await pool.aclose()

    patch = pytest.MonkeyPatch()
    patch.setattr(pool_module, "_PATIENCE_SECONDS", patience)
    patch.setattr(pool_module, "_FIRST_PAUSE_SECONDS", 0.0)
    patch.setattr(pool_module, "_MAX_PAUSE_SECONDS", 0.0)
    try:
        anyio.run(main, backend=backend)
    finally:
        patch.undo()


@pytest.mark.parametrize("steps", range(12))
@pytest.mark.anyio
async def test_cancelled_at_each_step_of_opening(steps: int) -> None:
    """Lent and opened at the same moment, too: both are somebody else's then."""
    fakes = Fakes()
    pool = Pool(fakes.open, Options(hostname="mx.example", max_connections=2))
    patch = pytest.MonkeyPatch()
    patch.setattr(pool_module, "_PATIENCE_SECONDS", 0.0)
    try:
        with anyio.fail_after(PATIENCE_SECONDS):
            async with anyio.create_task_group() as tasks:
                got: list[Session] = []

                async def acquire(scope: anyio.CancelScope) -> None:
                    with scope:
                        session = await pool.acquire(Deadline())
                        if scope.cancel_called:
                            await pool.release(session)
                        else:
                            got.append(session)

                tasks.start_soon(acquire, anyio.CancelScope())
                await anyio.wait_all_tasks_blocked()
                fakes.waiting[0].set()
                await anyio.wait_all_tasks_blocked()
                scope = anyio.CancelScope()
                tasks.start_soon(acquire, scope)
                await anyio.wait_all_tasks_blocked()
                fakes.waiting[1].set()
                await pool.release(got[0])
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                scope.cancel()
                await anyio.wait_all_tasks_blocked()
            assert pool._opening == pool._closing == 0
            for session in got[1:]:
                await pool.release(session)
            assert not pool._lent
            assert len(pool._idle) == pool._count
            await pool.aclose()
        assert fakes.open_count == 0
    finally:
        patch.undo()
