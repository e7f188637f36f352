"""What the testing server offers besides a dialogue: clients, holds, hooks, URLs. On asyncio, uvloop and trio."""

from __future__ import annotations

import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from email.message import EmailMessage
from pathlib import Path

import anyio
import anyio.abc
import pytest

from smtplite import Client, DeliveryUnknown, MessageRefused, RecipientsRefused, TLSError
from smtplite.testing import (
    Hold,
    Outbox,
    ReceivedMessage,
    ScriptedReply,
    ServerExtensions,
    ServerQuirks,
    SMTPServer,
    server_context,
)

pytestmark = pytest.mark.anyio

EHLO = b"EHLO client.example\r\n"
MAIL = b"MAIL FROM:<ann@example.org>\r\n"
BOB = b"RCPT TO:<bob@example.org>\r\n"
CONTENT = b"Subject: hello\r\n\r\nhi\r\n"


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture(autouse=True)
async def bounded(anyio_backend: object) -> AsyncIterator[None]:
    """A test that hangs fails."""
    with anyio.fail_after(20):
        yield


def message(subject: str = "hello", to: str = "bob@example.org") -> EmailMessage:
    result = EmailMessage()
    result["From"] = "ann@example.org"
    result["To"] = to
    result["Subject"] = subject
    result.set_content("hi\n")
    return result


Opened = Callable[[SMTPServer], AbstractAsyncContextManager[Client]]


@asynccontextmanager
async def over_tcp(server: SMTPServer) -> AsyncIterator[Client]:
    async with server, Client.from_url(server.url) as client:
        yield client


@asynccontextmanager
async def in_memory(server: SMTPServer) -> AsyncIterator[Client]:
    async with server.client() as client:
        yield client


both = pytest.mark.parametrize("opened", [over_tcp, in_memory])


async def read_replies(stream: anyio.abc.ByteReceiveStream, count: int) -> list[int]:
    """Receive at least `count` replies, up to the end of a line, and return their codes."""
    codes: list[int] = []
    rest = b""
    while True:
        *lines, rest = (rest + await stream.receive()).split(b"\r\n")
        codes += [int(line[:3]) for line in lines if line[3:4] != b"-"]
        if len(codes) >= count and not rest:
            return codes


# --- replies that are held


@both
async def test_a_verdict_that_is_held(opened: Opened) -> None:
    server = SMTPServer()
    held = server.hold("END_OF_DATA")
    async with opened(server) as client, anyio.create_task_group() as tasks:
        subjects: list[bool] = []

        async def send() -> None:
            subjects.append((await client.send(message())).complete)

        tasks.start_soon(send)
        await held.wait()
        await anyio.wait_all_tasks_blocked()
        assert len(server.messages) == 1
        assert subjects == []
        held.release()
        with anyio.fail_after(30):
            while not subjects:
                await anyio.lowlevel.checkpoint()
        assert subjects == [True]
        assert (await client.send(message())).complete
        assert server.violations == []


@both
async def test_a_client_that_gives_up_while_its_verdict_is_held(opened: Opened) -> None:
    """And a release that nobody waits for any more."""
    server = SMTPServer()
    held = server.hold("END_OF_DATA", to="bob@example.org")
    async with opened(server) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.send, message())
            await held.wait()
            tasks.cancel_scope.cancel()
        while server.connections[0].is_open:
            await anyio.lowlevel.checkpoint()
        held.release()
        assert (await client.send(message(to="eve@example.org"))).complete
    assert [entry.recipient for entry in server.committed] == ["bob@example.org", "eve@example.org"]


@both
async def test_a_held_reply_holds_up_no_other_connection(opened: Opened) -> None:
    server = SMTPServer()
    held = server.hold("RCPT", to="bob@example.org")
    async with opened(server) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.send, message())
        await held.wait()
        assert (await client.send(message(to="eve@example.org"))).complete
        assert len(server.messages) == 1
        held.release()
    assert len(server.messages) == 2


@both
async def test_a_held_reply_with_a_text_of_its_own(opened: Opened) -> None:
    server = SMTPServer()
    held = server.hold("END_OF_DATA", "554 5.7.1 no", times=1)
    async with opened(server) as client:
        errors: list[MessageRefused] = []

        async def send() -> None:
            try:
                await client.send(message())
            except MessageRefused as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            await held.wait()
            held.release()
        assert errors[0].reply is not None
        assert errors[0].reply.code == 554
    assert server.messages == []


async def test_waiting_in_vain_for_a_held_reply() -> None:
    held = SMTPServer().hold("NOOP")
    with pytest.raises(TimeoutError, match="held 0 of 2 replies within 0 seconds"):
        await held.wait(2, timeout=0)


async def test_a_release_behind_the_end_of_the_server() -> None:
    async with SMTPServer() as server:
        held = server.hold("GREETING")
        stream = await anyio.connect_tcp(server.host, server.port)
        await held.wait()
    held.release()
    async with stream:
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await stream.receive()


async def test_a_client_that_is_gone_when_its_reply_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server did not read any more, and could not see it."""
    monkeypatch.setattr("smtplite.testing.connection.MAX_WAITING_BYTES", 0)
    async with SMTPServer(quirks=ServerQuirks(rcpt_reply_bytes=1_000_000)) as server:
        held = server.hold("RCPT")
        async with await anyio.connect_tcp(server.host, server.port) as stream:
            raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await stream.send(EHLO + MAIL + BOB)
            await held.wait()
        held.release()
        async with Client.from_url(server.url) as client:
            await client.check()
        while server.connections[0].is_open:
            await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("is_tcp", [True, False])
@pytest.mark.exhaustive(keep=1)
async def test_a_client_that_sends_on_behind_a_held_reply_is_read_up_to_a_limit(
    is_tcp: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtplite.testing.connection.MAX_WAITING_BYTES", 100_000)
    server = SMTPServer()
    held = server.hold("EHLO")
    flood = b"NOOP\r\n" * 2_000_000

    async def flood_it(stream: anyio.abc.ByteStream) -> None:
        await stream.send(EHLO)
        await held.wait()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.send, flood)
            await anyio.wait_all_tasks_blocked()
            assert server.connections[0].protocol.waiting_bytes < 300_000
            tasks.cancel_scope.cancel()
        held.release()
        assert await read_replies(stream, 3) != []

    if is_tcp:
        async with server, await anyio.connect_tcp(server.host, server.port) as stream:
            await flood_it(stream)
    else:
        async with await server.connect() as memory:
            await flood_it(memory)


# --- faults by one line, as a client sees them


@both
async def test_the_connection_is_dropped_behind_the_dot(opened: Opened) -> None:
    for performs, count in ((False, 0), (True, 1)):
        server = SMTPServer()
        server.reply("END_OF_DATA", b"", performs=performs, close=True)
        async with opened(server) as client:
            with pytest.raises(DeliveryUnknown):
                await client.send(message())
        assert len(server.messages) == count


@both
async def test_a_refusal_in_the_middle_of_the_content_arrives(opened: Opened) -> None:
    """R24."""
    server = SMTPServer()
    server.reply("CONTENT", "552 5.3.4 too big", after_bytes=100_000, close=True)
    async with opened(server) as client:
        with pytest.raises(MessageRefused) as caught:
            await client.send(
                b"Subject: x\r\n\r\n" + b"x" * 70 + b"\r\n" * 500_000,
                sender="a@example.org",
                recipients="b@example.org",
            )
        assert caught.value.reply is not None
        assert caught.value.reply.code == 552
    assert server.messages == []


# --- quirks through the shell


async def test_content_that_ran_as_commands_is_told_for_all_connections() -> None:
    server = SMTPServer(quirks=ServerQuirks(executes_refused_chunks=True))
    for word in (b"ONE\r\n", b"TWO\r\n"):
        async with await server.connect() as stream:
            await stream.send(EHLO + MAIL + b"BDAT 5 LAST\r\n" + word)
            await read_replies(stream, 5)
    assert server.executed_content == [b"ONE", b"TWO"]
    server.reset()
    assert server.executed_content == []


@pytest.mark.parametrize("is_tcp", [True, False])
@pytest.mark.exhaustive(keep=1)
async def test_long_replies_clog_the_stream_of_a_client_that_does_not_read(is_tcp: bool) -> None:
    """The server writes all of its replies before it reads on."""
    server = SMTPServer(quirks=ServerQuirks(rcpt_reply_bytes=4096))
    group = MAIL + b"".join(b"RCPT TO:<%d@example.org>\r\n" % number for number in range(5000)) + b"DATA\r\n"

    async def converse(stream: anyio.abc.ByteStream) -> None:
        await read_replies(stream, 1)
        await stream.send(EHLO)
        await read_replies(stream, 1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.send, group)
            await anyio.wait_all_tasks_blocked()
            assert len(server.connections[0].received) < len(group)
            codes = await read_replies(stream, 5002)
        assert (codes[:2], codes[-1], len(codes)) == ([250, 250], 354, 5002)

    if is_tcp:
        async with server, await anyio.connect_tcp(server.host, server.port) as stream:
            await converse(stream)
    else:
        async with await server.connect() as memory:
            await converse(memory)


# --- what arrives


async def test_on_message_may_store_what_arrives_and_say_that_it_could_not(tmp_path: Path) -> None:
    folder = tmp_path / "mail"

    def store(received: ReceivedMessage) -> str | None:
        try:
            (folder / f"{received.queue_id}.eml").write_bytes(received.content)
        except OSError:
            return "452 4.3.1 cannot store it"
        return None

    async with SMTPServer(on_message=store) as server, Client.from_url(server.url) as client:
        with pytest.raises(MessageRefused, match="cannot store it"):
            await client.send(message("one"))
        folder.mkdir()
        await client.send(message("two"))
        assert [path.read_bytes() for path in folder.iterdir()] == [server.messages[0].content]


async def test_an_exception_of_on_message_ends_the_server_with_it() -> None:
    def fail(received: ReceivedMessage) -> None:
        raise ZeroDivisionError(received.sender)

    async def serve() -> None:
        async with SMTPServer(on_message=fail) as server, await anyio.connect_tcp(server.host, server.port) as stream:
            await stream.send(EHLO + MAIL + BOB + b"BDAT 0 LAST\r\n")
            await anyio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        await serve()
    assert caught.group_contains(ZeroDivisionError, match=r"ann@example\.org")


@pytest.mark.parametrize("keep", [True, False])
async def test_arrivals_one_after_the_other(keep: bool) -> None:
    server = SMTPServer(keep=keep)
    seen: list[object] = []

    async def watch(arrivals: AsyncIterator[ReceivedMessage]) -> None:
        seen.extend([received.as_email()["Subject"] async for received in arrivals])

    async with anyio.create_task_group() as tasks:
        async with server, Client.from_url(server.url) as client:
            await client.send(message("before"))
            tasks.start_soon(watch, server.arrivals())
            tasks.start_soon(watch, server.arrivals())
            await client.send(message("one"))
            await client.send(message("two"))
            await server.wait_for_messages(3)
    # The watchers end with the server, and miss nothing
    assert sorted(map(str, seen)) == ["one", "one", "two", "two"]
    assert len(server.messages) == (3 if keep else 0)


@both
async def test_a_server_that_keeps_nothing(opened: Opened) -> None:
    server = SMTPServer(keep=False)
    async with opened(server) as client:
        await client.send(message())
        assert len(server.connections) == 1
        assert server.connections[0].transcript == []
    while server.connections:
        await anyio.lowlevel.checkpoint()
    assert (server.messages, server.committed) == ([], [])
    assert await server.wait_for_messages(1, timeout=0) == []


async def test_reset_forgets_what_happened_and_what_was_told() -> None:
    server = SMTPServer(replies=[ScriptedReply("RCPT", "550 5.1.1 always", to="nobody@example.org")])
    async with server, Client.from_url(server.url) as client:
        server.reply("MAIL", "451 4.3.0 later", times=5)
        held = server.hold("NOOP")
        async with await anyio.connect_tcp(server.host, server.port) as stream:
            await read_replies(stream, 1)
            await stream.send(b"BAD\r\nNOOP\r\n")
            await held.wait()
            assert len(server.violations) == 2
            server.reset()
            assert server.violations == []
            assert await read_replies(stream, 2) == [500, 250]
        await client.send(message())
        with pytest.raises(RecipientsRefused, match="always"):
            await client.send(message(to="nobody@example.org"))
        assert len(server.messages) == 1
        server.reset()
        assert (server.messages, server.committed) == ([], [])
        assert len(server.connections) == 1
        assert server.connections[0].received == b""
        assert (await client.send(message())).complete
        assert await server.wait_for_messages(1) == server.messages
    server.reset()
    assert server.connections == []


# --- URLs and clients


@pytest.fixture
def socket_path() -> Iterator[Path]:
    # Not tmp_path: the path of a Unix socket has little room
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "a b"


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


MODES = [None, "starttls", "implicit"]


@pytest.mark.exhaustive(keep=12)
@pytest.mark.parametrize("tls", MODES)
@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize("where", ["IPv4", "IPv6", "Unix"])
async def test_the_url_is_all_that_a_client_needs_but_the_trust(
    where: str, lmtp: bool, tls: str | None, socket_path: Path
) -> None:
    if where == "IPv6" and not has_ipv6():
        pytest.skip("this host has no IPv6")
    server = SMTPServer(
        host="::1" if where == "IPv6" else "127.0.0.1",
        socket_path=socket_path if where == "Unix" else None,
        lmtp=lmtp,
        tls=tls,  # type: ignore[arg-type]  # one of MODES
    )
    trust = {} if tls is None else {"tls_context": server.ca_context()}
    async with server, Client.from_url(server.url, **trust) as client:
        receipt = await client.send(message())
    assert receipt.complete
    assert (server.messages[0].tls is None) is (tls is None)
    assert server.violations == []


async def test_what_a_url_looks_like() -> None:
    async with SMTPServer() as server:
        assert server.url == f"smtp://127.0.0.1:{server.port}?tls=none"
    with pytest.raises(RuntimeError, match="does not listen"):
        _ = server.url
    async with SMTPServer(extensions=ServerExtensions(starttls=True)) as server:
        assert server.url == f"smtp://127.0.0.1:{server.port}"
    async with SMTPServer(tls="implicit") as server:
        assert server.url == f"smtps://127.0.0.1:{server.port}"


async def test_it_listens_on_loopback_only_unless_told_otherwise() -> None:
    async with SMTPServer() as server:
        assert server.host == "127.0.0.1"


@pytest.mark.parametrize("tls", MODES)
@pytest.mark.parametrize("lmtp", [False, True])
async def test_a_client_in_memory(lmtp: bool, tls: str | None) -> None:
    server = SMTPServer(lmtp=lmtp, tls=tls, users={"me": "secret"})  # type: ignore[arg-type]  # one of MODES
    options = {"username": "me", "password": "secret", "allow_insecure_auth": tls is None}
    async with server.client(**options) as client:
        receipt = await client.send(message())
    assert receipt.complete
    assert server.messages[0].authenticated_as == "me"
    assert (server.messages[0].tls is None) is (tls is None)
    assert server.violations == []


async def test_the_options_of_a_client_in_memory_go_first() -> None:
    server = SMTPServer(tls="implicit", ssl_context=server_context("mx.example"))
    with pytest.raises(TLSError):
        await server.client().send(message())
    async with server.client(hostname="mx.example", local_hostname="me.example") as client:
        await client.send(message())
    assert server.messages[0].helo == "me.example"
    with pytest.raises(TLSError):
        await server.client(hostname="mx.example", tls_context=ssl.create_default_context()).send(message())
    assert len(server.messages) == 1


async def test_an_outbox() -> None:
    outbox = Outbox(SMTPServer(), local_hostname="me.example")
    await outbox.client.send(message())
    assert [received.helo for received in outbox.messages] == ["me.example"]
    assert repr(outbox).startswith("Outbox([<Q1: <ann@example.org> to bob@example.org, 'hello', ")
    outbox.server.reply("MAIL", "451 4.3.0 later")
    outbox.reset()
    assert outbox.messages == []
    await outbox.client.send(message())
    await outbox.client.aclose()


async def test_a_hold_that_is_shared_by_two_servers() -> None:
    hold = Hold()
    servers = [SMTPServer(replies=[ScriptedReply("END_OF_DATA", hold=hold)]) for _ in range(2)]
    async with anyio.create_task_group() as tasks:
        for server in servers:
            tasks.start_soon(server.client().send, message())
        for server in servers:
            await server.wait_for_messages(1)
        assert hold.count == 2
        hold.release()
