"""Corners where a review found the client wrong: each test is named after what the caller saw."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

import smtplite
from smtplite import Client, Timeouts, sasl
from smtplite.net import MAX_RECEIVE_BYTES, ForeignStream, connect_tcp
from smtplite.net.tls import Ciphertext
from smtplite.sending.deadline import Deadline
from smtplite.testing import SMTPServer

pytestmark = pytest.mark.anyio

RAW = b"From: me@example.org\r\nTo: you@example.org\r\nSubject: hi\r\n\r\nbody\r\n"
RawServer = Callable[[Callable[[socket.socket], None]], int]


class Wrapped(anyio.abc.ByteStream):
    """A stream of the user's own, over one of the built-in server's; broken where a test wants it."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self.stream = stream
        self.written = b""
        self.fails_to_receive_behind: bytes | None = None
        self.fails_to_close = False
        self.fails_to_tell = False

    async def send(self, item: bytes) -> None:
        self.written += item
        await self.stream.send(item)

    async def receive(self, max_bytes: int = MAX_RECEIVE_BYTES) -> bytes:
        if self.fails_to_receive_behind is not None and self.fails_to_receive_behind in self.written:
            raise RuntimeError("tunnel gone")
        return await self.stream.receive(max_bytes)

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def aclose(self) -> None:
        await self.stream.aclose()
        if self.fails_to_close:
            raise RuntimeError("close failed")

    def is_readable(self) -> bool:
        if self.fails_to_tell:
            raise ValueError("negative file descriptor")
        return False


def wrapping(server: SMTPServer, **faults: object) -> tuple[list[Wrapped], Callable[[], object]]:
    streams: list[Wrapped] = []

    async def connect() -> Wrapped:
        stream = Wrapped(await server.connect())
        for name, value in faults.items():
            setattr(stream, name, value)
        streams.append(stream)
        return stream

    return streams, connect


async def test_an_exception_of_the_users_stream_behind_the_dot_is_delivery_unknown() -> None:
    server = SMTPServer()
    _, connect = wrapping(server, fails_to_receive_behind=b"\r\n.\r\n")
    async with Client(connect=connect, tls="none") as client:  # type: ignore[arg-type]
        with pytest.raises(smtplite.DeliveryUnknown) as caught:
            await client.send(RAW)
    assert isinstance(caught.value.__cause__, smtplite.ConnectionLost)
    assert isinstance(caught.value.__cause__.__cause__, RuntimeError)
    assert len(server.messages) == 1


async def test_a_stream_that_fails_to_close_takes_no_receipt_away() -> None:
    """R2."""
    server = SMTPServer()
    _, connect = wrapping(server, fails_to_close=True)
    async with Client(connect=connect, tls="none", max_messages_per_connection=1) as client:  # type: ignore[arg-type]
        assert (await client.send(RAW)).complete
        assert (await client.send(RAW)).complete


async def test_a_stream_that_cannot_say_whether_it_is_readable_costs_no_place_in_the_pool() -> None:
    server = SMTPServer()
    streams, connect = wrapping(server)
    async with Client(connect=connect, tls="none", max_connections=1) as client:  # type: ignore[arg-type]
        assert (await client.send(RAW)).complete
        streams[0].fails_to_tell = True
        assert (await client.send(RAW)).complete
    assert len(streams) == 2


@pytest.mark.parametrize(
    ("said", "error", "code"),
    [
        (b"421 bye\r\n", smtplite.ServiceUnavailable, 421),
        (b"552 no\r\n", smtplite.MessageRefused, 552),
        (b"250 junk\r\n", smtplite.RemoteProtocolError, None),
    ],
)
async def test_a_refusal_that_came_while_a_large_group_was_written_is_the_error(
    raw_server: RawServer, said: bytes, error: type[smtplite.SMTPError], code: int | None
) -> None:
    count = 5000

    def handle(connection: socket.socket) -> None:
        connection.sendall(b"220 raw\r\n")
        connection.recv(1000)
        connection.sendall(b"250-raw\r\n250 PIPELINING\r\n")
        connection.recv(1000)  # the group has begun
        connection.sendall(b"250 ok\r\n" * (count + 1) + b"354 go\r\n" + said)
        while connection.recv(65536):
            pass

    recipients = [f"recipient-{i}@example.org" for i in range(count)]
    async with Client("127.0.0.1", raw_server(handle), tls="none", timeouts=Timeouts(quit=0.2)) as client:
        with pytest.raises(error) as caught:
            await client.send(RAW, recipients=recipients, timeout=60)
    assert (caught.value.reply and caught.value.reply.code) == code
    assert not caught.value.unknown
    assert caught.value.retryable is (code == 421)


@pytest.mark.needs("Unix sockets")
async def test_a_unix_socket_whose_queue_is_full_is_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "full")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        async with Client(socket_path=path, timeouts=Timeouts(connect=0.3)) as client:
            with pytest.raises(smtplite.SMTPTimeout, match="no connection to"):
                await client.send(RAW)


async def test_a_zone_that_is_none_of_this_host_is_a_connect_error() -> None:
    with pytest.raises(smtplite.ConnectError, match="cannot resolve fe80::1%nope"):
        await connect_tcp("fe80::1%nope", 25)


@pytest.mark.parametrize("address", [("127.0.0.1", 99999), ("127.0.0.1",), "127.0.0.1", (1, 2)])
async def test_a_source_address_that_is_none_is_said_when_the_client_is_made(address: object) -> None:
    with pytest.raises(smtplite.ConfigurationError, match="source_address"):
        Client("h", source_address=address)  # type: ignore[arg-type]


async def test_a_connection_that_check_opened_counts_as_reused() -> None:
    """R11 a."""
    async with SMTPServer() as server, Client(server.host, server.port, tls="none") as client:
        await client.check()
        server.reply("MAIL", "421 4.4.2 idle too long", times=1)
        assert (await client.send(RAW)).complete


async def test_no_connection_is_lent_beyond_its_age() -> None:
    async with SMTPServer() as server, Client(server.host, server.port, tls="none", max_age=3600) as client:
        sessions = [await client._pool.acquire(Deadline()) for _ in range(2)]
        for session in sessions:
            await client._pool.release(session)
        sessions[1].opened_at -= 3600  # used last, so lent first; the one idle for longest is young
        await client.send(RAW)
        assert sessions[1].is_dead
        assert sessions[0].window.begun == 1
        assert len(server.connections) == 2


async def test_a_second_try_that_fails_says_nothing_of_the_first() -> None:
    async with SMTPServer() as server:
        client = Client(server.host, server.port, tls="none")
        await client.send(RAW)
        server.reply("MAIL", "421 4.4.2 idle too long")
        server.reply("GREETING", b"")
        with pytest.raises(smtplite.SMTPTimeout) as caught:
            await client.send(RAW, timeout=2)  # long enough for the first try
        assert caught.value.reply is None
        assert not any("MAIL" in line for line in caught.value.transcript)
        await client.aclose()


async def test_a_rejected_token_is_the_error_though_the_server_closed_behind_it() -> None:
    async def token(refresh: bool) -> str:
        return "t0ken"

    async with SMTPServer(tls="starttls", tokens={"me": "other"}) as server:
        server.reply("END_OF_AUTH", "535 5.7.8 no", close=True)
        auth = sasl.XOAuth2("me", token)
        async with Client(server.host, server.port, tls_context=server.ca_context(), auth=auth) as client:
            with pytest.raises(smtplite.AuthenticationError, match="535") as caught:
                await client.send(RAW)
    assert not caught.value.retryable
    assert caught.value.transcript


async def test_a_token_callback_has_no_deadline_of_the_servers() -> None:
    deadlines: list[float] = []

    async def token(refresh: bool) -> str:
        deadlines.append(anyio.current_effective_deadline())
        return "t0ken" if refresh else "stale"

    async with SMTPServer(tls="starttls", tokens={"me": "t0ken"}) as server:
        auth = sasl.XOAuth2("me", token)
        async with Client(server.host, server.port, tls_context=server.ca_context(), auth=auth) as client:
            assert (await client.send(RAW)).complete
    assert deadlines == [math.inf, math.inf]


async def test_two_tasks_read_ciphertext_and_one_of_them_takes_it() -> None:
    """TLS 1.2 renegotiates: then the writer reads, too, beside the reader."""
    ours, theirs = anyio.create_memory_object_stream[bytes](1)

    class Source(anyio.abc.ByteStream):
        async def receive(self, max_bytes: int = MAX_RECEIVE_BYTES) -> bytes:
            return await theirs.receive()

        async def send(self, item: bytes) -> None:
            raise NotImplementedError

        async def send_eof(self) -> None:
            raise NotImplementedError

        async def aclose(self) -> None:
            theirs.close()

    ciphertext = Ciphertext(ForeignStream(Source()))
    received: list[bytes] = []

    async def receive() -> None:
        received.append(await ciphertext.receive())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        tasks.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        ours.send_nowait(b"record")
    assert sorted(received) == [b"", b"record"]
    ours.close()
    theirs.close()


async def test_an_upload_leaves_the_event_loop_its_turns() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    turns_at: list[int] = []

    class Eager(Wrapped):
        """Takes each large piece at once, as a kernel with large buffers does."""

        async def send(self, item: bytes) -> None:
            if len(item) > 100_000:
                turns_at.append(turns)
            else:
                await super().send(item)

    server = SMTPServer()

    async def connect() -> Eager:
        return Eager(await server.connect())

    async with Client(connect=connect, tls="none") as client, anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        await client.send(RAW + (b"y" * 70 + b"\r\n") * 50_000)
        tasks.cancel_scope.cancel()
    assert len(turns_at) > 20
    assert turns_at[-1] - turns_at[0] >= len(turns_at) - 2  # trio runs those whose turn it is in any order
