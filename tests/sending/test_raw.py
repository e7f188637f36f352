"""Client.session: raw commands on a connection of its own, never returned to the pool."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

import smtplite
from smtplite import Client, Timeouts
from smtplite.protocol import (
    Bdat,
    BdatProbe,
    Command,
    Custom,
    Data,
    EndOfData,
    Mail,
    Noop,
    Quit,
    Rcpt,
    Rset,
    StartTls,
    Vrfy,
)
from smtplite.testing import SMTPServer

pytestmark = pytest.mark.anyio

RAW = b"From: me@example.org\r\nTo: you@example.org\r\n\r\nbody\r\n"


def client_of(server: SMTPServer, **options: object) -> Client:
    return Client(server.host, server.port, tls="none", **options)  # type: ignore[arg-type]


async def test_commands_and_their_replies_whatever_they_say() -> None:
    async with SMTPServer() as server:
        server.reply("RCPT", "550 5.1.1 nobody", to="nobody@example.org")
        async with client_of(server) as client, client.session() as session:
            assert "PIPELINING" in session.extensions
            assert session.info.server.endswith(str(server.port))
            assert (await session.command(Vrfy("postmaster"))).code == 252
            assert (await session.command(Mail("me@example.org"))).is_positive
            assert (await session.command(Rcpt("nobody@example.org"))).code == 550
            assert (await session.command(Rset())).is_positive
            assert (await session.command(Custom("XNOSUCH"))).is_permanent
            assert session.transcript[-2] == "C: XNOSUCH"
        assert server.messages == []
        assert server.connections[0].received.endswith(b"QUIT\r\n")


async def test_its_connection_is_its_own_and_counts_as_one_of_the_pools() -> None:
    async with SMTPServer() as server, client_of(server, max_connections=1) as client:
        await client.send(RAW)
        async with client.session() as session:
            await session.command(Mail("me@example.org"))  # left open
            waited = anyio.Event()

            async def send() -> None:
                assert (await client.send(RAW)).complete
                waited.set()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send)
                await session.command(Noop())
                assert not waited.is_set()
                tasks.cancel_scope.cancel()
        assert (await client.send(RAW)).complete
        assert len(server.connections) == 3
        assert len(server.messages) == 2


@pytest.mark.parametrize(
    "command",
    [Data(), EndOfData(), Bdat(3), BdatProbe(), StartTls()],
    ids=lambda c: type(c).__name__,
)
async def test_what_takes_more_than_a_command_and_its_reply_is_refused(command: Command) -> None:
    async with SMTPServer() as server, client_of(server) as client, client.session() as session:
        with pytest.raises(smtplite.LocalProtocolError, match="raw session"):
            await session.command(command)
        assert (await session.command(Noop())).is_positive


async def test_what_is_illegal_now_is_refused_and_changes_nothing() -> None:
    async with SMTPServer() as server, client_of(server) as client, client.session() as session:
        with pytest.raises(smtplite.LocalProtocolError, match="RCPT"):
            await session.command(Rcpt("you@example.org"))
        assert (await session.command(Noop())).is_positive


async def test_behind_quit_and_behind_an_error_nothing_is_said() -> None:
    async with SMTPServer() as server, client_of(server, timeouts=Timeouts(command=0.5)) as client:
        async with client.session() as session:
            assert (await session.command(Quit())).code == 221
            with pytest.raises(smtplite.SMTPError):
                await session.command(Noop())
        server.hold("NOOP")
        async with client.session() as session:
            with pytest.raises(smtplite.SMTPTimeout) as caught:
                await session.command(Noop())
            assert caught.value.transcript[-1] == "C: NOOP"
            with pytest.raises(smtplite.LocalProtocolError, match="closed"):
                await session.command(Noop())
        assert (await client.send(RAW)).complete


async def test_a_connection_that_ends_and_one_that_speaks_unasked() -> None:
    async with SMTPServer() as server, client_of(server) as client:
        server.reply("NOOP", b"", close=True, times=1)
        async with client.session() as session:
            with pytest.raises(smtplite.ConnectionLost):
                await session.command(Noop())
        server.reply("VRFY", b"252 x\r\n250 more\r\n")
        async with client.session() as session:
            await session.command(Vrfy("x"))
            with pytest.raises(smtplite.RemoteProtocolError):
                await session.command(Noop())
        server.reply("HELP", b"214 x\r\n421 4.3.2 going down\r\n")
        async with client.session() as session:
            from smtplite.protocol import Help

            await session.command(Help())
            with pytest.raises(smtplite.ServiceUnavailable):
                await session.command(Noop())


async def test_a_failing_block_and_a_cancelled_command_close_it_at_once() -> None:
    async with SMTPServer() as server, client_of(server, max_connections=1) as client:
        with pytest.raises(KeyError):
            async with client.session():
                raise KeyError("mine")
        hold = server.hold("NOOP")
        with anyio.CancelScope() as scope:
            async with client.session() as session, anyio.create_task_group() as tasks:
                tasks.start_soon(session.command, Noop())
                await hold.wait(1)
                scope.cancel()
        assert scope.cancelled_caught
        assert (await client.send(RAW)).complete
        assert not server.connections[0].received.endswith(b"QUIT\r\n")


async def test_no_session_can_be_had(unused_port: Callable[[], int]) -> None:
    with pytest.raises(smtplite.ConnectError):
        async with Client("127.0.0.1", unused_port(), tls="none").session():
            pytest.fail("nothing listens")
    async with SMTPServer() as server:
        server.hold("GREETING")
        with pytest.raises(smtplite.SMTPTimeout):
            async with client_of(server, timeout=0.1).session():
                pytest.fail("no greeting comes")
