"""The testing server's shell: sockets, memory, waiting. Each scenario runs on asyncio and on trio."""

from __future__ import annotations

import gc
import smtplib
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import pytest

import smtplite.testing
from smtplite.testing import ScriptedReply, ServerExtensions, SMTPServer

EHLO = b"EHLO client.example\r\n"
MAIL = b"MAIL FROM:<ann@example.org>\r\n"
BOB = b"RCPT TO:<bob@example.org>\r\n"
CONTENT = b"Subject: hello\r\n\r\nhi\r\n"

Scenario = Callable[[], Awaitable[None]]
SCENARIOS: list[Scenario] = []


def scenario(function: Scenario) -> Scenario:
    SCENARIOS.append(function)
    return function


async def on_every_backend(function: Scenario) -> None:
    with anyio.fail_after(20):
        await function()


async def read_replies(stream: anyio.abc.ByteReceiveStream, count: int) -> list[int]:
    """Receive exactly `count` replies and return their codes."""
    octets = b""
    while True:
        lines = octets.split(b"\r\n")
        codes = [int(line[:3]) for line in lines[:-1] if line[3:4] != b"-"]
        if len(codes) == count and not lines[-1]:
            return codes
        assert len(codes) < count, octets
        octets += await stream.receive()


async def read_to_end(stream: anyio.abc.ByteReceiveStream) -> bytes:
    octets = b""
    while True:
        try:
            octets += await stream.receive()
        except anyio.EndOfStream:
            return octets


@asynccontextmanager
async def connected(server: SMTPServer) -> AsyncIterator[anyio.abc.ByteStream]:
    """Connect by TCP, past the greeting."""
    async with await anyio.connect_tcp(server.host, server.port) as stream:
        assert await read_replies(stream, 1) == [220]
        yield stream


@asynccontextmanager
async def in_memory(server: SMTPServer) -> AsyncIterator[anyio.abc.ByteStream]:
    async with await server.connect() as stream:
        assert await read_replies(stream, 1) == [220]
        yield stream


async def say(stream: anyio.abc.ByteStream, octets: bytes, count: int) -> list[int]:
    await stream.send(octets)
    return await read_replies(stream, count)


# --- on TCP


@scenario
async def a_message_over_tcp() -> None:
    async with SMTPServer() as server, connected(server) as stream:
        assert await say(stream, EHLO, 1) == [250]
        assert await say(stream, MAIL + BOB + b"DATA\r\n", 3) == [250, 250, 354]
        await stream.send(CONTENT)
        await anyio.wait_all_tasks_blocked()
        assert await say(stream, b".\r\nQUIT\r\n", 2) == [250, 221]
        assert await read_to_end(stream) == b""
        assert [message.content for message in server.messages] == [CONTENT]
        assert server.violations == []
        [connection] = server.connections
        assert connection.received == EHLO + MAIL + BOB + b"DATA\r\n" + CONTENT + b".\r\nQUIT\r\n"
        assert connection.sent.startswith(b"220 mail.example.com ESMTP ready\r\n250-")
        assert connection.flights == sum(direction == "C" for direction, _ in connection.transcript) >= 3
        assert not connection.is_open


@scenario
async def connections_share_messages_and_script() -> None:
    async with SMTPServer(replies=[ScriptedReply("MAIL", "451 4.3.0 later", times=1)]) as server:
        server.reply("NOOP", "250 2.0.0 once", times=1)
        for expected in (451, 250):
            async with connected(server) as stream:
                assert await say(stream, EHLO, 1) == [250]
                assert await say(stream, MAIL, 1) == [expected]
                if expected == 250:
                    assert await say(stream, BOB, 1) == [250]
                    assert await say(stream, b"BDAT 0 LAST\r\n", 1) == [250]
                await stream.send(b"NOOP\r\n")
                assert (b"once" in await stream.receive()) is (expected == 451)
        assert len(server.connections) == 2
        assert len(server.messages) == 1


@scenario
async def a_violation_over_tcp() -> None:
    async with SMTPServer() as server:
        async with connected(server) as stream:
            assert await say(stream, b"NOOP\nNOOP\r\n", 1) == [500]
        assert server.violations == server.connections[0].violations == [r"bare LF in a command: b'NOOP\nNOOP'"]


@scenario
async def an_independent_client_is_served() -> None:
    """The standard library's client, lockstep, without a violation."""
    recipients = ["bob@example.org", "eve@example.org"]
    content = b"Subject: x\r\n\r\n.\r\n..\r\n"

    def send(port: int) -> dict[str, tuple[int, bytes]]:
        with smtplib.SMTP("127.0.0.1", port, local_hostname="client.example", timeout=30) as client:
            return client.sendmail("ann@example.org", recipients, content, ["BODY=8BITMIME"])

    async with SMTPServer() as server:
        server.reply("RCPT", "550 5.1.1 no such user", to="bob@example.org")
        refused = await anyio.to_thread.run_sync(send, server.port)
        assert refused == {"bob@example.org": (550, b"5.1.1 no such user")}
        [message] = await server.wait_for_messages(1)
        assert message.recipients == ("eve@example.org",)
        assert message.content == content
        assert server.violations == []


@scenario
async def the_last_reply_arrives_though_octets_follow_quit() -> None:
    async with SMTPServer() as server, connected(server) as stream:
        await stream.send(b"QUIT\r\n" + b"NOOP\r\n" * 1000)
        assert (await read_to_end(stream)).startswith(b"221 ")


@scenario
async def a_greeting_that_closes() -> None:
    server = SMTPServer(replies=[ScriptedReply("GREETING", "421 4.3.2 busy")])
    async with server, await anyio.connect_tcp(server.host, server.port) as stream:
        assert await read_to_end(stream) == b"421 4.3.2 busy\r\n"


@scenario
async def a_client_that_is_gone() -> None:
    """Neither an end nor a reset of the client disturbs the server."""
    async with SMTPServer() as server:
        for linger in (False, True):
            async with await anyio.connect_tcp(server.host, server.port) as stream:
                assert await read_replies(stream, 1) == [220]
                if linger:
                    raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                await stream.send(EHLO + MAIL + BOB + b"DATA\r\n" + CONTENT)
        async with connected(server) as stream:
            assert await say(stream, b"NOOP\r\n", 1) == [250]
        assert server.messages == []


@scenario
async def a_client_that_does_not_read_is_not_read_from() -> None:
    """Backpressure: what the server takes stays bounded while its replies are not taken."""
    group = b"NOOP\r\n" * 200_000
    async with SMTPServer() as server, connected(server) as stream, anyio.create_task_group() as tasks:
        server.reply("NOOP", b"250 %b\r\n" % (b"x" * 5_000))  # of which the buffers in between hold a few thousand
        tasks.start_soon(stream.send, group)
        before, turns = 0, 0
        while not before or turns < 50:  # so many turns of the loop in which it could have read more, and did not
            await anyio.lowlevel.checkpoint()
            now = len(server.connections[0].received) if server.connections else 0
            before, turns = now, turns + 1 if now == before else 0
        assert before < len(group) / 2
        tasks.cancel_scope.cancel()


@scenario
async def leaving_ends_connections_that_wait() -> None:
    async with SMTPServer() as server:
        stream = await anyio.connect_tcp(server.host, server.port)
        assert await read_replies(stream, 1) == [220]
    async with stream:
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await stream.receive()


@scenario
async def an_exception_leaves_as_itself() -> None:
    with pytest.raises(ZeroDivisionError):
        async with SMTPServer():
            _ = 1 / 0


@scenario
async def cancellation_leaves_too() -> None:
    with anyio.CancelScope() as scope:
        async with SMTPServer() as server, connected(server):
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught


@scenario
async def a_fault_of_the_server_itself_is_not_hidden() -> None:
    server = SMTPServer()
    server.script.take = lambda *args, **kwargs: 1 / 0  # type: ignore[assignment,method-assign]
    with pytest.raises(ExceptionGroup) as caught:
        async with server, connected(server):
            await anyio.sleep_forever()
    assert caught.group_contains(ZeroDivisionError)


@scenario
async def a_server_can_be_entered_again_but_not_twice() -> None:
    server = SMTPServer()
    for _ in range(2):
        async with server:
            with pytest.raises(RuntimeError, match="listens already"):
                await server.__aenter__()
            async with connected(server):
                pass
    with pytest.raises(RuntimeError, match="does not listen"):
        _ = server.port
    with pytest.raises(RuntimeError, match="does not listen"):
        await server.__aexit__(None, None, None)
    assert len(server.connections) == 2


@scenario
async def a_port_that_is_in_use() -> None:
    async with SMTPServer() as server:
        second = SMTPServer(port=server.port)
        with pytest.raises(OSError, match="in use"):
            await second.__aenter__()
        async with SMTPServer(port=0):
            pass


# --- on a Unix socket


@scenario
async def a_message_over_a_unix_socket() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lmtp"
        async with SMTPServer(socket_path=path, lmtp=True) as server:
            with pytest.raises(RuntimeError, match="does not listen on a port"):
                _ = server.port
            async with await anyio.connect_unix(path) as stream:
                assert await read_replies(stream, 1) == [220]
                assert await say(stream, b"LHLO client.example\r\n", 1) == [250]
                assert await say(stream, MAIL + BOB + BOB + b"BDAT 0 LAST\r\n", 5) == [250] * 5
            assert len(server.messages) == 1
        assert not path.exists()


# --- in memory


@scenario
async def a_message_in_memory() -> None:
    server = SMTPServer()
    async with in_memory(server) as stream:
        assert await say(stream, EHLO, 1) == [250]
        assert await say(stream, MAIL + BOB + b"DATA\r\n", 3) == [250, 250, 354]
        assert await say(stream, CONTENT + b".\r\n" + MAIL + BOB + b"DATA\r\n", 4) == [250, 250, 250, 354]
        assert await say(stream, CONTENT + b".\r\nQUIT\r\n", 2) == [250, 221]
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()
    assert len(server.messages) == 2
    assert server.violations == []
    assert server.connections[0].flights == 4
    assert [direction for direction, _ in server.connections[0].transcript] == [
        "S",
        "C",
        "S",
        "C",
        "S",
        "C",
        "S",
        "C",
        "S",
    ]


@scenario
async def memory_knows_what_the_client_has_read() -> None:
    server = SMTPServer(extensions=ServerExtensions(pipelining=False))
    async with in_memory(server) as stream:
        await stream.send(EHLO)
        await stream.send(MAIL)
        await read_replies(stream, 2)
        await stream.send(BOB)
        await stream.send(BOB)
    assert server.violations == ["bytes after EHLO, which ends its group", "pipelining, which is not offered"]
    server = SMTPServer()
    async with await server.connect() as stream:
        await stream.send(EHLO)
    assert server.violations == ["bytes before the greeting was read"]


@scenario
async def a_reader_in_memory_waits_for_a_writer() -> None:
    server = SMTPServer()
    codes: list[int] = []

    async def read(stream: anyio.abc.ByteStream) -> None:
        codes.extend(await read_replies(stream, 2))

    async with in_memory(server) as stream, anyio.create_task_group() as tasks:
        tasks.start_soon(read, stream)
        await anyio.wait_all_tasks_blocked()
        await stream.send(b"NOO")
        await anyio.wait_all_tasks_blocked()
        assert codes == []
        await stream.send(b"P\r\nNOOP\r\n")
    assert codes == [250, 250]


@scenario
async def replies_in_memory_are_taken_in_pieces() -> None:
    server = SMTPServer()
    async with await server.connect() as stream:
        assert await stream.receive(3) == b"220"
        assert await stream.receive(1) == b" "
        assert (await stream.receive()).endswith(b"ready\r\n")


@scenario
async def a_cancelled_receive_in_memory_loses_nothing() -> None:
    server = SMTPServer()
    async with in_memory(server) as stream:
        with anyio.move_on_after(0):
            await stream.receive()
        await stream.send(b"NOOP\r\n")
        with anyio.CancelScope() as scope:
            scope.cancel()
            await stream.receive()
        assert await read_replies(stream, 1) == [250]


@scenario
async def a_send_in_memory_that_is_cancelled_at_once_sends_nothing() -> None:
    server = SMTPServer()
    async with in_memory(server) as stream:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await stream.send(b"NOOP\r\n")
    assert server.connections[0].received == b""


@scenario
async def a_writer_in_memory_waits_for_a_reader() -> None:
    """Backpressure: a client that never reads deadlocks here as it would on a socket."""
    server = SMTPServer()
    group = b"HELP\r\n" * 20_000
    done = anyio.Event()

    async def write(stream: anyio.abc.ByteStream) -> None:
        await stream.send(group)
        done.set()

    async with in_memory(server) as stream, anyio.create_task_group() as tasks:
        tasks.start_soon(write, stream)
        await anyio.wait_all_tasks_blocked()
        assert not done.is_set()
        assert len(server.connections[0].received) < len(group)
        with pytest.raises(anyio.BusyResourceError):
            await stream.send(b"NOOP\r\n")
        assert set(await read_replies(stream, 20_000)) == {214}
        await done.wait()


@scenario
async def two_readers_in_memory_are_one_too_many() -> None:
    server = SMTPServer()
    async with in_memory(server) as stream, anyio.create_task_group() as tasks:
        tasks.start_soon(stream.receive)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError):
            await stream.receive()
        await stream.send(b"NOOP\r\n")


@scenario
async def after_the_server_closed_in_memory() -> None:
    """What it said can still be read, a send fails, and the end shows."""
    server = SMTPServer()
    server.reply("MAIL", "421 4.3.2 stopping")
    async with in_memory(server) as stream:
        await say(stream, EHLO, 1)
        await stream.send(MAIL + BOB)
        with pytest.raises(anyio.BrokenResourceError):
            await stream.send(BOB)
        assert await read_to_end(stream) == b"421 4.3.2 stopping\r\n"
        assert not server.connections[0].is_open


@scenario
async def the_client_closes_in_memory() -> None:
    server = SMTPServer()
    stream = await server.connect()
    await stream.receive()

    async def wait_for_the_end() -> None:
        with pytest.raises(anyio.ClosedResourceError):
            await stream.receive()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait_for_the_end)
        await anyio.wait_all_tasks_blocked()
        await stream.aclose()
    await stream.aclose()
    for use in (stream.receive(), stream.send(b"NOOP\r\n"), stream.send_eof()):
        with pytest.raises(anyio.ClosedResourceError):
            await use
    assert not server.connections[0].is_open
    assert server.connections[0].received == b""


@scenario
async def closing_in_memory_wakes_a_writer_that_waits() -> None:
    server = SMTPServer()
    stream = await server.connect()

    async def write() -> None:
        with pytest.raises(anyio.ClosedResourceError):
            await stream.send(b"HELP\r\n" * 20_000)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        await anyio.wait_all_tasks_blocked()
        await stream.aclose()


@scenario
async def the_end_of_the_client_in_memory() -> None:
    server = SMTPServer()
    async with in_memory(server) as stream:
        await stream.send(b"QUI")
        await stream.send_eof()
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()
        with pytest.raises(anyio.BrokenResourceError):
            await stream.send(b"T\r\n")
    assert server.connections[0].transcript[1] == ("C", b"QUI")


@scenario
async def whether_memory_is_readable() -> None:
    server = SMTPServer()
    stream = await server.connect()
    is_readable = stream.is_readable  # type: ignore[attr-defined]
    assert is_readable()
    await stream.receive()
    assert not is_readable()
    await stream.send(b"QUIT\r\n")
    assert is_readable()
    await stream.receive()
    assert is_readable()
    await stream.aclose()


# --- waiting


@scenario
async def waiting_for_messages() -> None:
    server = SMTPServer()
    seen: list[int] = []

    async def wait(count: int) -> None:
        seen.append(len(await server.wait_for_messages(count)))

    async with in_memory(server) as stream, anyio.create_task_group() as tasks:
        tasks.start_soon(wait, 1)
        tasks.start_soon(wait, 2)
        await say(stream, EHLO, 1)
        await anyio.wait_all_tasks_blocked()
        assert seen == []
        for expected in ([1], [1, 2]):
            await say(stream, MAIL + BOB + b"BDAT 0 LAST\r\n", 3)
            await anyio.wait_all_tasks_blocked()
            assert seen == expected
        assert await server.wait_for_messages(2, timeout=None) == server.messages


@scenario
async def waiting_for_messages_in_vain() -> None:
    server = SMTPServer()
    with pytest.raises(TimeoutError, match="accepted 0 of 1 messages within 0 seconds"):
        await server.wait_for_messages(timeout=0)


each = pytest.mark.parametrize("function", SCENARIOS, ids=lambda function: function.__name__)


@pytest.mark.asyncio
@each
async def test_on_asyncio(function: Scenario) -> None:
    await on_every_backend(function)


@pytest.mark.exhaustive(keep=6)
@each
def test_on_trio(function: Scenario) -> None:
    anyio.run(on_every_backend, function, backend="trio")
    gc.collect(1)


@pytest.mark.needs("uvloop")
@each
def test_on_uvloop(function: Scenario) -> None:
    pytest.importorskip("uvloop")
    anyio.run(on_every_backend, function, backend_options={"use_uvloop": True})
    gc.collect(1)


def test_a_server_can_be_made_without_a_loop_and_serve_several() -> None:
    server = SMTPServer()

    async def converse() -> None:
        async with in_memory(server) as stream:
            await say(stream, EHLO, 1)
            await say(stream, MAIL + BOB + b"BDAT 0 LAST\r\n", 3)

    for backend in ("asyncio", "trio", "asyncio"):
        anyio.run(converse, backend=backend)
    assert len(server.messages) == 3


def test_the_public_names() -> None:
    for name in smtplite.testing.__all__:
        assert getattr(smtplite.testing, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = smtplite.testing.nothing  # type: ignore[attr-defined]
