"""`Client.resize`: how many connections a client uses may change while it sends."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from smtplite import Client, ConfigurationError
from smtplite.testing import SMTPServer

LETTER = b"From: a@example.org\r\nTo: b@example.net\r\n\r\nHello.\r\n"


def client_of(server: SMTPServer, connections: int = 3) -> Client:
    return Client(connect=server.connect, tls="none", max_connections=connections)


def still_open(server: SMTPServer) -> int:
    return sum(b"QUIT\r\n" not in connection.received for connection in server.connections)


@pytest.mark.anyio
async def test_idle_connections_are_closed_at_once_and_busy_ones_when_their_message_is_done() -> None:
    server = SMTPServer()
    held = server.hold("END_OF_DATA")
    async with client_of(server) as client:
        shrunk = anyio.Event()

        async def shrink() -> None:
            await client.resize(1)
            shrunk.set()

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(client.send, LETTER)
            await held.wait(3)
            tasks.start_soon(shrink)
            await anyio.wait_all_tasks_blocked()
            assert not shrunk.is_set(), "all three have a message under way"
            held.release()
        assert shrunk.is_set()
        assert still_open(server) == 1
        await client.send(LETTER)
        await client.resize(0)
        assert client.max_connections == 3
        assert still_open(server) == 0
        assert len(server.connections) == 3


@pytest.mark.anyio
async def test_a_stream_goes_on_over_fewer_connections_and_over_more_again() -> None:
    server = SMTPServer()

    async def letters() -> None:
        async with client.send_many((LETTER for _ in range(60)), connections=3) as deliveries:
            taken = 0
            async for delivery in deliveries:
                assert delivery.receipt is not None
                taken += 1
                if taken == 20:
                    tasks.start_soon(client.resize, 1)
                if taken == 40:
                    await client.resize(3)

    async with client_of(server) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(letters)
    assert len(server.messages) == 60


@pytest.mark.anyio
async def test_with_none_nobody_sends_until_there_may_be_some_again() -> None:
    server = SMTPServer()
    async with client_of(server) as client:
        await client.resize(0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.send, LETTER)
            await anyio.wait_all_tasks_blocked()
            assert not server.connections
            await client.resize(1)
    assert len(server.messages) == 1


@pytest.mark.anyio
async def test_who_waits_for_fewer_goes_on_when_more_are_allowed_again() -> None:
    server = SMTPServer()
    held = server.hold("END_OF_DATA")
    async with client_of(server) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.send, LETTER)
        await held.wait()
        async with anyio.create_task_group() as shrinking:
            shrinking.start_soon(client.resize, 0)
            await anyio.wait_all_tasks_blocked()
            await client.resize(3)
        held.release()


@pytest.mark.anyio
@pytest.mark.parametrize("connections", [-1, 4, 1.5, True])
async def test_more_than_the_client_may_have_is_an_error(connections: int) -> None:
    async with client_of(SMTPServer()) as client:
        with pytest.raises(ConfigurationError, match="connections"):
            await client.resize(connections)
