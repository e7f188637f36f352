"""A server that is full, and one that is restarted: on TCP, on a Unix socket, in memory and in a thread."""

from __future__ import annotations

import smtplib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

import smtplite
from smtplite import Client
from smtplite.testing import SMTPServer
from smtplite.testing.capacity import FULL_REPLY

RAW = b"From: ann@example.org\r\nTo: bob@example.org\r\nSubject: hi\r\n\r\nbody\r\n"
PATIENCE_SECONDS = 20

Connect = Callable[[], Awaitable[anyio.abc.ByteStream]]

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["TCP", "Unix", "memory"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def serving(way: str, tmp_path: Path, **options: Any) -> AsyncIterator[tuple[SMTPServer, Connect]]:
    """Give a server, and what connects to it in that way."""
    path = tmp_path / "socket"
    if way == "memory":
        server = SMTPServer(**options)
        yield server, server.connect
        return
    async with SMTPServer(socket_path=path if way == "Unix" else None, **options) as server:

        async def connect() -> anyio.abc.ByteStream:
            if way == "Unix":
                return await anyio.connect_unix(path)
            return await anyio.connect_tcp(server.host, server.port)

        yield server, connect
        await ended(server)


async def rest_of(stream: anyio.abc.ByteStream) -> bytes:
    """Return everything that the server says until its end."""
    said = b""
    with anyio.fail_after(PATIENCE_SECONDS):
        try:
            while True:
                said += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return said


async def says_nothing(stream: anyio.abc.ByteStream) -> bool:
    with anyio.move_on_after(0.05):
        await stream.receive()
        return False
    return True


async def test_one_too_many_is_told_so(way: str, tmp_path: Path) -> None:
    async with serving(way, tmp_path, max_connections=1) as (server, connect):
        async with await connect() as first:
            assert (await first.receive()).startswith(b"220 ")
            async with await connect() as second:
                assert await rest_of(second) == FULL_REPLY
            assert await says_nothing(first)
        await ended(server)
        async with await connect() as third:
            assert (await third.receive()).startswith(b"220 ")


async def ended(server: SMTPServer) -> None:
    """Wait until no connection is open."""
    with anyio.fail_after(PATIENCE_SECONDS):
        while any(connection.is_open for connection in server.connections):
            await anyio.lowlevel.checkpoint()


async def test_one_too_many_is_closed_without_a_word(way: str, tmp_path: Path) -> None:
    async with serving(way, tmp_path, max_connections=1, when_full="close") as (server, connect):
        async with await connect() as first, await connect() as second:
            assert (await first.receive()).startswith(b"220 ")
            assert await rest_of(second) == b""
        await ended(server)


async def test_one_too_many_hears_nothing_until_it_is_its_turn(way: str, tmp_path: Path) -> None:
    """They are served in the order in which they came; one that has left meanwhile takes nobody's place."""
    async with serving(way, tmp_path, max_connections=1, when_full="silence") as (server, connect):
        first = await connect()
        assert (await first.receive()).startswith(b"220 ")
        gone, second, third = [await connect() for _ in range(3)]
        with anyio.fail_after(PATIENCE_SECONDS):
            while len(server.connections) < 4:
                await anyio.lowlevel.checkpoint()
        await gone.aclose()
        assert await says_nothing(second)
        await first.aclose()
        assert (await second.receive()).startswith(b"220 ")
        assert await says_nothing(third)
        await second.send(b"QUIT\r\n")
        assert (await rest_of(second)).startswith(b"221 ")
        assert (await third.receive()).startswith(b"220 ")
        await second.aclose()
        await third.aclose()
        await ended(server)


async def test_a_client_that_speaks_first_is_heard_once_it_is_served(way: str, tmp_path: Path) -> None:
    """A TLS client does."""
    options: dict[str, Any] = {"max_connections": 1, "when_full": "silence", "tls": "implicit"}
    async with serving(way, tmp_path, **options) as (server, connect):
        client = Client(
            connect=connect, hostname="localhost", tls="implicit", tls_context=server.ca_context(), max_connections=1
        )
        first = await connect()
        async with client, anyio.create_task_group() as tasks:
            tasks.start_soon(client.send, RAW)
            with anyio.fail_after(PATIENCE_SECONDS):
                while len(server.connections) < 2:
                    await anyio.lowlevel.checkpoint()
            await first.aclose()
        assert len(server.messages) == 1


async def test_inside_tls_it_is_told_inside_tls(way: str, tmp_path: Path) -> None:
    async with serving(way, tmp_path, max_connections=1, tls="implicit") as (server, connect):
        context = server.ca_context()
        async with Client(connect=connect, hostname="localhost", tls="implicit", tls_context=context) as client:
            async with client.session():
                other = Client(connect=connect, hostname="localhost", tls="implicit", tls_context=context)
                async with other:
                    with pytest.raises(smtplite.ServiceUnavailable, match="too many connections") as caught:
                        await other.send(RAW)
    assert caught.value.retryable
    assert not server.violations


async def test_a_restart_cuts_what_is_open_and_the_same_address_works_again(way: str, tmp_path: Path) -> None:
    async with serving(way, tmp_path) as (server, connect), Client(connect=connect, tls="none") as client:
        assert (await client.send(RAW)).complete
        async with await connect() as stream:
            assert (await stream.receive()).startswith(b"220 ")
            await server.restart()
            assert await rest_of(stream) == b""
        assert (await client.send(RAW)).complete
        assert len(server.messages) == 2
        assert sum(connection.is_open for connection in server.connections) == 1


async def test_what_is_under_way_is_not_accepted(way: str, tmp_path: Path) -> None:
    async with serving(way, tmp_path) as (server, connect), Client(connect=connect, tls="none") as client:
        held = server.hold("DATA")
        failures: list[smtplite.SMTPError] = []

        async def send() -> None:
            with pytest.raises(smtplite.ConnectionLost) as caught:
                await client.send(RAW)
            failures.append(caught.value)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            await held.wait()
            await server.restart()
            held.release()
        assert failures[0].not_sent == ("bob@example.org",)
        assert not server.messages
        assert not server.violations


async def test_meanwhile_connecting_is_refused(way: str, tmp_path: Path) -> None:
    async with serving(way, tmp_path) as (server, connect), anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: server.restart(pause=PATIENCE_SECONDS))
        await anyio.wait_all_tasks_blocked()
        async with Client(connect=connect, tls="none") as client:
            with pytest.raises(smtplite.ConnectError):
                await client.send(RAW)
        with pytest.raises(RuntimeError, match="being restarted already"):
            await server.restart()
        tasks.cancel_scope.cancel()


async def test_a_restart_makes_room(way: str, tmp_path: Path) -> None:
    async with serving(way, tmp_path, max_connections=1, when_full="silence") as (server, connect):
        async with await connect() as first, await connect() as second:
            await first.receive()
            await server.restart()
            assert await rest_of(second) == b""
            async with await connect() as third:
                assert (await third.receive()).startswith(b"220 ")


async def test_the_server_may_be_left_while_it_is_restarted() -> None:
    with anyio.fail_after(PATIENCE_SECONDS):
        async with anyio.create_task_group() as tasks:
            async with SMTPServer() as server:
                tasks.start_soon(lambda: server.restart(pause=PATIENCE_SECONDS))
                await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        async with server, await anyio.connect_tcp(server.host, server.port) as stream:
            assert (await stream.receive()).startswith(b"220 ")


async def test_without_keep_nothing_is_kept_of_those_turned_away() -> None:
    server = SMTPServer(max_connections=1, when_full="close", keep=False)
    async with await server.connect():
        for _ in range(3):
            await server.connect()
        assert len(server.connections) == 1


def test_in_a_thread() -> None:
    with SMTPServer(max_connections=1).in_thread() as server:
        with smtplib.SMTP(server.host, server.port, local_hostname="client.example", timeout=PATIENCE_SECONDS):
            with pytest.raises(smtplib.SMTPConnectError, match="too many connections"):
                smtplib.SMTP(server.host, server.port, local_hostname="client.example", timeout=PATIENCE_SECONDS)
            server.restart()
            with smtplib.SMTP(server.host, server.port, local_hostname="client.example", timeout=PATIENCE_SECONDS):
                pass


@pytest.mark.parametrize("options", [{"max_connections": 0}, {"max_connections": 1, "when_full": "refuse"}])
def test_what_is_no_limit_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"max_connections|when_full"):
        SMTPServer(**options)
