"""What is certain and what is not: connections that end badly (rules R1, R3, R4, R6, R7, R9, R10, R24)."""

from __future__ import annotations

import logging
import math
import socket
import threading
from collections.abc import Callable

import anyio
import pytest

import smtplite
from smtplite import Client, Timeouts
from smtplite.testing import SMTPServer
from smtplite.trace import MessageFinished, TraceEvent

pytestmark = pytest.mark.anyio

RAW = b"From: me@example.org\r\nTo: you@example.org\r\nSubject: hi\r\n\r\nbody\r\n"
RawServer = Callable[[Callable[[socket.socket], None]], int]

#: Short enough for a test that must wait for it, long enough for a machine that is busy.
SOON = 0.2


class Dialogue:
    """A blocking server's side of one connection: reads until what it expects has come, writes what it is told."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = b""

    def read_until(self, end: bytes) -> bytes:
        """Return everything up to and with `end`."""
        while end not in self._received:
            data = self._connection.recv(65536)
            if not data:
                raise ConnectionResetError("client left")
            self._received += data
        head, _, self._received = self._received.partition(end)
        return head + end

    def write(self, data: bytes) -> None:
        self._connection.sendall(data)

    def greet(self, *keywords: bytes) -> None:
        """Greet, and answer EHLO."""
        self.write(b"220 raw\r\n")
        self.read_until(b"\r\n")
        self.write(b"".join(b"250-%b\r\n" % keyword for keyword in (b"raw", *keywords)) + b"250 HELP\r\n")

    def take_envelope(self) -> None:
        """Answer MAIL, RCPT and DATA with success."""
        self.read_until(b"DATA\r\n")
        self.write(b"250 sender\r\n250 recipient\r\n354 go\r\n")

    def read_to_the_end(self) -> bytes:
        """Return what else comes until the client leaves."""
        while True:
            try:
                data = self._connection.recv(65536)
            except ConnectionError:
                return self._received
            if not data:
                return self._received
            self._received += data


def client_at(port: int, **options: object) -> Client:
    options.setdefault("timeouts", Timeouts(quit=SOON))
    return Client("127.0.0.1", port, tls="none", **options)  # type: ignore[arg-type]


async def happened(event: threading.Event) -> None:
    """Wait until the server's thread says that it is done."""
    assert await anyio.to_thread.run_sync(event.wait, 20)


async def failure_of(client: Client, content: bytes = RAW, **options: object) -> smtplite.SMTPError:
    with pytest.raises(smtplite.SMTPError) as caught:
        await client.send(content, **options)  # type: ignore[arg-type]
    return caught.value


# The connection ends


async def test_lost_behind_the_end_of_data_is_unknown() -> None:
    async with SMTPServer() as server, client_at(server.port) as client:
        server.reply("END_OF_DATA", b"", performs=True, close=True, times=1)
        error = await failure_of(client)
        assert isinstance(error, smtplite.DeliveryUnknown)
        assert isinstance(error.__cause__, smtplite.ConnectionLost)
        assert error.unknown == ("you@example.org",)
        assert error.delivered is None
        assert not error.retryable
        assert error.phase == "end of data"
        assert len(server.messages) == 1  # it was: nobody could know
        assert (await client.send(RAW)).complete


@pytest.mark.parametrize(
    "said", [b"", b"250 sender\r\n", b"250 sender\r\n250 recip", b"250 sender\r\n250 recipient\r\n35"]
)
async def test_lost_before_the_content_is_certainly_not_sent(raw_server: RawServer, said: bytes) -> None:
    def handle(connection: socket.socket) -> None:
        server = Dialogue(connection)
        server.greet(b"PIPELINING")
        server.read_until(b"DATA\r\n")
        server.write(said)

    async with client_at(raw_server(handle)) as client:
        error = await failure_of(client)
    assert isinstance(error, smtplite.ConnectionLost)
    assert error.not_sent == ("you@example.org",)
    assert error.retryable


@pytest.mark.parametrize("verdict", [b"2", b"250", b"250 o", b"250 ok\r", b"250-ok\r\n"])
async def test_half_a_verdict_is_none(raw_server: RawServer, verdict: bytes) -> None:
    def handle(connection: socket.socket) -> None:
        server = Dialogue(connection)
        server.greet(b"PIPELINING")
        server.take_envelope()
        server.read_until(b"\r\n.\r\n")
        server.write(verdict)

    async with client_at(raw_server(handle)) as client:
        assert isinstance(await failure_of(client), smtplite.DeliveryUnknown)


@pytest.mark.parametrize("junk", [b"junk\r\n", b"550 no\r\n", b"\0" * 70_000])
async def test_what_comes_behind_the_verdict_changes_nothing(raw_server: RawServer, junk: bytes) -> None:
    """R2: in the same segment; the connection is not used again."""

    def handle(connection: socket.socket) -> None:
        server = Dialogue(connection)
        server.greet(b"PIPELINING")
        server.take_envelope()
        server.read_until(b"\r\n.\r\n")
        server.write(b"250 queued\r\n" + junk)
        assert b"MAIL" not in server.read_to_the_end()

    async with client_at(raw_server(handle)) as client:
        for _ in range(2):
            assert (await client.send(RAW)).complete


async def test_a_verdict_before_the_end_of_data_is_none(raw_server: RawServer) -> None:
    """R3: the dot is never sent, so it is certain that nothing was delivered."""
    received = []
    done = threading.Event()

    def handle(connection: socket.socket) -> None:
        server = Dialogue(connection)
        server.greet(b"PIPELINING")
        server.read_until(b"DATA\r\n")
        server.write(b"250 sender\r\n250 recipient\r\n354 go\r\n250 queued\r\n")
        received.append(server.read_to_the_end())
        done.set()

    async with client_at(raw_server(handle)) as client:
        error = await failure_of(client)
    assert isinstance(error, smtplite.RemoteProtocolError)
    assert error.not_sent == ("you@example.org",)
    await happened(done)
    assert received == [b""]


async def test_an_early_refusal_ends_the_upload(raw_server: RawServer) -> None:
    """R3, R24: read although the server no longer takes what we write."""
    content = RAW + (b"z" * 70 + b"\r\n") * 400_000

    def handle(connection: socket.socket) -> None:
        server = Dialogue(connection)
        server.greet(b"PIPELINING")
        server.take_envelope()
        server.read_until(b"\r\n\r\n")
        server.write(b"552 5.3.4 too much\r\n")

    async with client_at(raw_server(handle)) as client:
        error = await failure_of(client, content)
    assert isinstance(error, smtplite.MessageRefused)
    assert error.reply is not None
    assert error.reply.code == 552
    assert list(error.refused) == ["you@example.org"]


async def test_a_cut_in_the_bulk_of_large_content_is_certainly_not_sent(raw_server: RawServer) -> None:
    def handle(connection: socket.socket) -> None:
        server = Dialogue(connection)
        server.greet(b"PIPELINING")
        server.take_envelope()
        server.read_until(b"\r\n\r\n")

    async with client_at(raw_server(handle)) as client:
        error = await failure_of(client, RAW + (b"z" * 70 + b"\r\n") * 400_000)
    assert isinstance(error, smtplite.ConnectionLost)
    assert error.not_sent == ("you@example.org",)


@pytest.mark.parametrize(
    ("replies", "sent_behind"),
    [
        (b"250 sender\r\n550 no\r\n354 go\r\n", b".\r\n"),  # the lone dot
        (b"250 sender\r\n550 no\r\n554 no recipients\r\n", b""),
        (b"550 no\r\n503 no\r\n354 go\r\n", b""),  # no transaction at all: closed without a dot
        (b"250 sender\r\n250 yes\r\n451 no\r\n", b""),
    ],
)
async def test_no_content_goes_to_nobody(raw_server: RawServer, replies: bytes, sent_behind: bytes) -> None:
    """R4."""
    received = []
    done = threading.Event()

    def handle(connection: socket.socket) -> None:
        server = Dialogue(connection)
        server.greet(b"PIPELINING")
        server.read_until(b"DATA\r\n")
        server.write(replies)
        if sent_behind:
            received.append(server.read_until(sent_behind))
            server.write(b"250 taken\r\n")
        received.append(server.read_to_the_end())
        done.set()

    async with client_at(raw_server(handle)) as client:
        error = await failure_of(client)
    assert isinstance(error, smtplite.ReplyError)
    assert not error.accepted
    assert not error.unknown
    await happened(done)
    assert b"".join(received).replace(b"QUIT\r\n", b"") == sent_behind


async def test_the_replies_of_another_class_end_the_connection(raw_server: RawServer) -> None:
    for replies in (b"354 go\r\n", b"250 a\r\n354 b\r\n", b"250 a\r\n250 b\r\n250 c\r\n", b"220 hello\r\n"):

        def handle(connection: socket.socket, replies: bytes = replies) -> None:
            server = Dialogue(connection)
            server.greet(b"PIPELINING")
            server.read_until(b"DATA\r\n")
            server.write(replies)
            assert server.read_to_the_end() == b""

        async with client_at(raw_server(handle)) as client:
            error = await failure_of(client)
            assert isinstance(error, smtplite.RemoteProtocolError), replies
            assert error.not_sent == ("you@example.org",)


# Time


@pytest.mark.parametrize("silent_at", ["GREETING", "EHLO", "MAIL", "RCPT", "DATA"])
async def test_no_reply_in_time_is_certainly_not_sent(silent_at: str) -> None:
    timeouts = Timeouts(greeting=SOON, command=SOON, data_init=SOON)
    # In lockstep: in a pipelined group, a reply left out shifts those behind it, and only the last one is missed.
    async with SMTPServer() as server, client_at(server.port, timeouts=timeouts, pipelining=False) as client:
        server.reply(silent_at, b"", performs=False)
        error = await failure_of(client)
        assert isinstance(error, smtplite.SMTPTimeout)
        assert isinstance(error, TimeoutError)
        assert "0.2 s" in str(error)
        assert error.not_sent == ("you@example.org",)
        assert error.retryable
        assert error.phase == {"EHLO": "hello", "END_OF_DATA": "end of data"}.get(silent_at, silent_at.lower())


async def test_no_verdict_in_time_is_unknown() -> None:
    async with SMTPServer() as server, client_at(server.port, timeouts=Timeouts(end_of_data=SOON)) as client:
        server.reply("END_OF_DATA", b"", performs=True)
        error = await failure_of(client)
        assert isinstance(error, smtplite.DeliveryUnknown)
        assert isinstance(error.__cause__, smtplite.SMTPTimeout)


async def test_octets_of_a_reply_that_does_not_end_do_not_move_its_deadline(raw_server: RawServer) -> None:
    """R7."""
    finished = threading.Event()

    def handle(connection: socket.socket) -> None:
        server = Dialogue(connection)
        server.write(b"220-")
        while not finished.wait(SOON / 10):
            server.write(b"x")

    async with client_at(raw_server(handle), timeouts=Timeouts(greeting=SOON)) as client:
        with anyio.fail_after(30):
            assert isinstance(await failure_of(client), smtplite.SMTPTimeout)
    finished.set()


@pytest.mark.parametrize("where", ["client", "send"])
async def test_a_limit_for_the_whole_call(where: str) -> None:
    async with SMTPServer() as server, client_at(server.port, timeout=SOON if where == "client" else None) as client:
        server.reply("DATA", b"", performs=False)
        error = await failure_of(client, timeout=SOON if where == "send" else None)
        assert isinstance(error, smtplite.SMTPTimeout)
        assert str(error) == "timed out: timeout=0.2 s for the whole call"


async def test_content_that_the_server_does_not_take(raw_server: RawServer) -> None:
    finished = threading.Event()

    def handle(connection: socket.socket) -> None:
        server = Dialogue(connection)
        server.greet(b"PIPELINING")
        server.take_envelope()
        finished.wait(20)

    async with client_at(raw_server(handle), timeouts=Timeouts(data_block=SOON)) as client:
        error = await failure_of(client, RAW + (b"z" * 70 + b"\r\n") * 400_000)
    finished.set()
    assert isinstance(error, smtplite.SMTPTimeout)
    assert error.not_sent == ("you@example.org",)


async def test_no_timeout_at_all_is_possible() -> None:
    timeouts = Timeouts(greeting=math.inf, command=math.inf, end_of_data=math.inf, data_block=math.inf)
    async with SMTPServer() as server, client_at(server.port, timeouts=timeouts) as client:
        assert (await client.send(RAW)).complete


async def test_a_quit_that_stalls_delays_nothing_for_long() -> None:
    async with SMTPServer() as server, client_at(server.port, timeouts=Timeouts(quit=SOON)) as client:
        server.reply("QUIT", b"", performs=False)
        assert (await client.send(RAW)).complete
        with anyio.fail_after(30):
            await client.aclose()


# Cancellation


@pytest.mark.parametrize("cancelled_at", ["MAIL", "RCPT", "DATA", "END_OF_DATA"])
async def test_a_cancelled_send_says_what_it_did_and_touches_no_other(
    cancelled_at: str, caplog: pytest.LogCaptureFixture
) -> None:
    """R9, R10: the next message goes on a connection of its own, and gets its own replies."""
    events: list[TraceEvent] = []
    async with SMTPServer() as server:
        async with client_at(server.port, trace=events.append, pipelining=cancelled_at == "END_OF_DATA") as client:
            held = server.hold(cancelled_at, times=1)
            with caplog.at_level(logging.WARNING, logger="smtplite"):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(client.send, RAW.replace(b"hi", b"first"))
                    await held.wait()
                    tasks.cancel_scope.cancel()
            held.release()
            (finished,) = (event for event in events if isinstance(event, MessageFinished))
            is_unknown = cancelled_at == "END_OF_DATA"
            assert finished.unknown == (("you@example.org",) if is_unknown else ())
            assert finished.not_sent == (() if is_unknown else ("you@example.org",))
            assert ("delivery unknown for you@example.org" in caplog.text) is is_unknown
            receipt = await client.send(RAW.replace(b"hi", b"second"))
            assert receipt.complete
            assert receipt.reply is not None
            assert server.messages[-1].queue_id in receipt.reply.text
        assert b"first" not in server.connections[-1].received
        assert len(server.connections) == 2
    assert len(server.messages) == (2 if is_unknown else 1)


async def test_cancelled_while_waiting_for_a_connection_leaks_no_place() -> None:
    async with SMTPServer() as server, client_at(server.port, max_connections=1) as client:
        held = server.hold("END_OF_DATA", times=1)
        async with anyio.create_task_group() as first, anyio.create_task_group() as others:
            first.start_soon(client.send, RAW)
            await held.wait()  # it has the only place
            for _ in range(2):
                others.start_soon(client.send, RAW)
            await anyio.wait_all_tasks_blocked()
            others.cancel_scope.cancel()
            first.cancel_scope.cancel()
        held.release()
        assert (await client.send(RAW)).complete


# Memory


@pytest.mark.parametrize("flood", ["line", "lines", "capabilities", "replies"])
async def test_a_flood_ends_in_an_error_and_little_memory(raw_server: RawServer, flood: str) -> None:
    """R6: the buffers have limits; what is sent beyond is not even read."""
    sent = []
    done = threading.Event()

    def handle(connection: socket.socket) -> None:
        server = Dialogue(connection)
        if flood == "capabilities":
            server.write(b"220 raw\r\n")
            server.read_until(b"\r\n")
        piece = {
            "line": b"x" * 65536,
            "lines": b"220-" + b"x" * 500 + b"\r\n",
            "capabilities": b"250-X" + b"y" * 500 + b"\r\n",
            "replies": b"220 hello\r\n",
        }[flood]
        if flood == "line":
            server.write(b"220 ")
        total = 0
        try:
            while total < 50_000_000:
                server.write(piece)
                total += len(piece)
        finally:
            sent.append(total)
            done.set()

    async with client_at(raw_server(handle)) as client:
        with anyio.fail_after(30):
            assert isinstance(await failure_of(client), smtplite.RemoteProtocolError)
    await happened(done)
    assert all(total < 50_000_000 for total in sent)
