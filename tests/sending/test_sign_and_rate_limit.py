"""`Client(sign=...)` and `Client(rate_limit=...)`, in both ways of sending, on every event loop."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from email.message import EmailMessage
from pathlib import Path
from types import TracebackType

import anyio
import pytest

import smtplite
from smtplite import Client, Content, Envelope, Outgoing
from smtplite.message.flatten import LARGE_BYTES
from smtplite.testing import ServerExtensions, SMTPServer

pytestmark = pytest.mark.anyio

RAW = b"From: me@example.org\r\nTo: you@example.org\r\nSubject: hi\r\n\r\nbody\r\n"
ME, YOU = "me@example.org", "you@example.org"


def signature_of(octets: bytes) -> bytes:
    return b"Signature: %d\r\n of octets\r\n" % sum(octets)


def client_of(server: SMTPServer, **options: object) -> Client:
    return Client(server.host, server.port, tls="none", **options)  # type: ignore[arg-type]


async def send(client: Client, way: str, *items: Outgoing) -> list[smtplite.Receipt | smtplite.SMTPError]:
    said: list[smtplite.Receipt | smtplite.SMTPError] = []
    if way == "send_many":
        async with client.send_many(items) as deliveries:
            return [delivery.receipt or delivery.error or pytest.fail("neither") async for delivery in deliveries]
    for item in items:
        try:
            said.append(await client.send(item.message, sender=item.sender, recipients=item.recipients))
        except smtplite.SMTPError as error:
            said.append(error)
    return said


each_way = pytest.mark.parametrize("way", ["send", "send_many"])


# Signing


def text(body: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = ME, YOU, "hi"
    message["Message-ID"], message["Date"] = "<1@example.org>", "Mon, 23 Nov 2026 10:00:00 +0000"
    message.set_content(body, cte="8bit")
    return message


def in_file(folder: Path) -> Content:
    (folder / "message.eml").write_bytes(RAW)
    return Content.from_path(folder / "message.eml")


def in_stream(_: Path) -> Content:
    async def chunks() -> AsyncIterator[bytes]:
        yield RAW[:30]
        yield RAW[30:]

    return Content.from_stream(chunks())


@each_way
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda _: RAW, id="octets"),
        pytest.param(lambda _: RAW.replace(b"\r\n", b"\n"), id="octets with LF"),
        pytest.param(lambda _: text("body\n"), id="message"),
        pytest.param(in_file, id="path"),
        pytest.param(in_stream, id="stream"),
        pytest.param(lambda _: RAW + b"x" * 70 + b"\r\n" + b"y\r\n" * LARGE_BYTES, id="much"),
    ],
)
async def test_the_octets_that_travel_are_signed_and_the_signature_stands_in_front(
    way: str, make: Callable[[Path], smtplite.message.envelope.AnyMessage], tmp_path: Path
) -> None:
    signed: list[bytes] = []
    threads: list[bool] = []

    def sign(octets: bytes) -> bytes:
        signed.append(octets)
        threads.append(threading.current_thread() is threading.main_thread())
        return signature_of(octets)

    async with SMTPServer() as server, client_of(server, sign=sign) as client:
        (said,) = await send(client, way, Outgoing(make(tmp_path), sender=ME, recipients=[YOU]))
    assert isinstance(said, smtplite.Receipt)
    (message,) = server.messages
    (octets,) = signed
    assert message.content == signature_of(octets) + octets
    assert b"Subject: hi\r\n" in octets
    assert threads == [len(octets) < LARGE_BYTES]  # else the event loop would stand still


@each_way
async def test_each_wire_form_has_its_own_signature(way: str) -> None:
    """Without 8BITMIME a message object is made 7-bit: other octets, another signature."""
    forms = []
    for offers_it in (True, False):
        extensions = ServerExtensions(eight_bit_mime=offers_it)
        async with SMTPServer(extensions=extensions) as server, client_of(server, sign=signature_of) as client:
            (said,) = await send(client, way, Outgoing(text("Grüße\n")))
        assert isinstance(said, smtplite.Receipt)
        signature, found, rest = server.messages[0].content.partition(b" of octets\r\n")
        assert signature + found == signature_of(rest)
        forms.append(rest)
    assert [form.isascii() for form in forms] == [False, True]


@each_way
async def test_eight_bits_in_a_file_that_is_signed_need_8bitmime(way: str, tmp_path: Path) -> None:
    (tmp_path / "message.eml").write_bytes(RAW + "Grüße\r\n".encode())
    content = Content.from_path(tmp_path / "message.eml")
    extensions = ServerExtensions(eight_bit_mime=False)
    async with SMTPServer(extensions=extensions) as server, client_of(server, sign=signature_of) as client:
        (said,) = await send(client, way, Outgoing(content, sender=ME, recipients=[YOU]))
    assert isinstance(said, smtplite.ExtensionRequired)
    assert server.messages == []


async def test_a_message_that_goes_in_two_transactions_is_signed_once() -> None:
    signed: list[bytes] = []

    def sign(octets: bytes) -> bytes:
        signed.append(octets)
        return signature_of(octets)

    recipients = [f"you{n}@example.org" for n in range(5)]
    async with (
        SMTPServer(extensions=ServerExtensions(rcptmax=2)) as server,
        client_of(server, sign=sign) as client,
    ):
        receipt = await client.send(RAW, sender=ME, recipients=recipients)
    assert receipt.complete
    assert len(server.messages) == 3
    assert signed == [RAW]


async def test_what_is_bound_to_seven_bits_is_so_in_a_stream_too() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield RAW + b"\xff\r\n"

    async with SMTPServer() as server, client_of(server, sign=signature_of) as client:
        envelope = Envelope(ME, [YOU], body="7BIT")
        with pytest.raises(smtplite.MessageError, match="7BIT"):
            await client.send(Content.from_stream(chunks()), envelope=envelope)
    assert server.connections == []


def fails(octets: bytes) -> bytes:
    raise KeyError("no key")


@each_way
@pytest.mark.parametrize(
    ("sign", "text"),
    [
        (fails, "KeyError('no key')"),
        (lambda _: "A: b\r\n", "not str"),
        (lambda _: b"A: b", "end with CRLF"),
        (lambda _: b"A: b\n", "end with CRLF"),
        (lambda _: b"A: b\nc: d\r\n", "bare CR or a bare LF"),
        (lambda _: b"A: b\rc: d\r\n", "bare CR"),
        (lambda _: b"A: b\r\n\r\n", "empty line"),
        (lambda _: b"\r\n", "empty line"),
        (lambda _: b" A: b\r\n", "a name and a colon"),
        (lambda _: b"A: b\r\nbody\r\n", "a name and a colon"),
        (lambda _: b"Bcc: b@example.org\r\n", "Bcc"),
        (lambda _: b"A: \xff\r\n", "ASCII"),
        (lambda _: b"A: \0\r\n", "NUL"),
    ],
)
async def test_a_signature_that_is_none_is_refused_and_nothing_is_sent(
    way: str, sign: Callable[[bytes], bytes], text: str
) -> None:
    async with SMTPServer() as server, client_of(server, sign=sign) as client:
        (said,) = await send(client, way, Outgoing(RAW))
    assert isinstance(said, smtplite.MessageError)
    assert text in str(said)
    assert said.not_sent == (YOU,)
    assert server.messages == []
    assert all(b"MAIL" not in connection.received for connection in server.connections)


async def test_no_signature_is_none() -> None:
    async with SMTPServer() as server, client_of(server, sign=lambda _: b"") as client:
        await client.send(RAW)
    assert server.messages[0].content == RAW


async def test_sign_is_a_function() -> None:
    with pytest.raises(smtplite.ConfigurationError, match="sign must be a function"):
        Client("localhost", sign=b"key")  # type: ignore[arg-type]


# Rate limit


class Gate:
    """Lets through as many as were allowed."""

    def __init__(self, allowed: int = 0) -> None:
        self._permits = anyio.Semaphore(allowed)
        self.entered = 0
        self.left = 0
        self.is_wanted = anyio.Event()

    def allow(self) -> None:
        self.is_wanted = anyio.Event()
        self._permits.release()

    async def __aenter__(self) -> None:
        self.entered += 1
        self.is_wanted.set()
        await self._permits.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.left += 1


@each_way
async def test_each_message_passes_the_limit_once_before_its_first_octet(way: str) -> None:
    gate = Gate(3)
    async with SMTPServer() as server, client_of(server, rate_limit=gate) as client:
        said = await send(client, way, *[Outgoing(RAW)] * 3)
    assert all(isinstance(each, smtplite.Receipt) for each in said)
    assert (gate.entered, gate.left) == (3, 3)
    assert len(server.messages) == 3


async def test_nothing_is_sent_before_the_limit_lets_it_pass() -> None:
    gate = Gate()
    async with SMTPServer() as server, client_of(server, rate_limit=gate) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.send, RAW)
            await gate.is_wanted.wait()
            assert server.connections == []
            gate.allow()
    assert len(server.messages) == 1


async def test_send_many_takes_one_message_after_another_as_the_limit_lets_them_pass() -> None:
    gate = Gate()
    taken: list[int] = []

    def items() -> list[Outgoing]:
        return [Outgoing(RAW, tag=n) for n in range(3)]

    async with SMTPServer() as server, client_of(server, rate_limit=gate) as client:
        async with client.send_many(items(), connections=1) as deliveries:
            for n in range(3):
                await gate.is_wanted.wait()
                assert len(server.messages) == n
                gate.allow()
                delivery = await anext(deliveries)
                assert delivery.result().complete
                assert isinstance(delivery.item, Outgoing)
                taken.append(delivery.item.tag)
    assert taken == [0, 1, 2]


async def test_what_waits_for_the_limit_when_the_block_is_left_is_among_the_rest() -> None:
    gate = Gate()
    async with SMTPServer() as server, client_of(server, rate_limit=gate) as client:
        async with client.send_many([Outgoing(RAW, tag=n) for n in range(3)], drain=0) as deliveries:
            await gate.is_wanted.wait()
    (delivery,) = deliveries.rest
    assert isinstance(delivery.item, Outgoing)
    assert delivery.item.tag == 0
    assert delivery.error is not None
    assert delivery.error.not_sent == ()  # it was not even read
    assert server.messages == []


@each_way
async def test_a_limit_that_fails_is_the_callers_own_affair(way: str) -> None:
    class Broken(Gate):
        async def __aenter__(self) -> None:
            raise KeyError("no limit")

    async with SMTPServer() as server, client_of(server, rate_limit=Broken()) as client:
        with pytest.raises(KeyError, match="no limit"):
            await send(client, way, Outgoing(RAW))
    assert server.messages == []


async def test_the_wait_for_the_limit_is_within_the_calls_own_time() -> None:
    async with SMTPServer() as server, client_of(server, rate_limit=Gate()) as client:
        with pytest.raises(smtplite.SMTPTimeout, match=r"timeout=0\.01") as caught:
            await client.send(RAW, timeout=0.01)
    assert caught.value.phase == "rate limit"
    assert caught.value.not_sent == (YOU,)


async def test_a_rate_limit_is_an_async_context_manager() -> None:
    with pytest.raises(smtplite.ConfigurationError, match="rate_limit must be an async context manager, not int"):
        Client("localhost", rate_limit=5)  # type: ignore[arg-type]
