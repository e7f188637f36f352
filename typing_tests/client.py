"""Client, what it sends, and what it says of it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage, Message
from email.mime.text import MIMEText
from io import BytesIO
from pathlib import Path
from typing import assert_type

import anyio.abc

import smtplite
from smtplite import (
    Attachment,
    Client,
    Content,
    Deliveries,
    Delivery,
    Envelope,
    Outgoing,
    RawSession,
    Receipt,
    Recipient,
    Reply,
    ServerInfo,
    SMTPError,
    Timeouts,
    compose,
)
from smtplite.protocol import Custom, Domain, Extensions, Limits, Vrfy
from smtplite.types import AnyMessage, AnyRecipients, AttachmentLike, People, Person, TLSMode

message = EmailMessage()


async def _connect() -> anyio.abc.ByteStream:
    return await anyio.connect_tcp("proxy.example.com", 1080)


def making(password: str) -> None:
    """Each option, and what a wrong one is called."""
    assert_type(Client("mail.example.com"), Client)
    Client("mail.example.com", 465, tls="implicit", tls_context=ssl.create_default_context(), tls_hostname="other")
    Client("mail.example.com", username="me", password=password, allow_insecure_auth=True, local_hostname="here")
    Client("localhost", 1025, tls="none", source_address=("127.0.0.1", 0), pipelining=False, chunking=True)
    Client(socket_path="/run/lmtp", lmtp=True, max_connections=3, max_messages_per_connection=100)
    Client(connect=_connect, tls="none", idle_timeout=10, max_age=60.5, timeouts=Timeouts(), timeout=None)
    assert_type(Client.from_url("smtp://mail.example.com?max_connections=4", timeout=10), Client)

    Client("mail.example.com", "587")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Client("mail.example.com", 587, "starttls")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Client("mail.example.com", tls="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Client("mail.example.com", tls=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Client("mail.example.com", tls_context=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Client("mail.example.com", timeout="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Client("mail.example.com", timeouts=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Client("mail.example.com", start_tls=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Client("mail.example.com", use_tls=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Client("mail.example.com", max_connections="4")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Client("mail.example.com", source_address="::1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Client(connect=lambda: None)  # type: ignore[arg-type, return-value]  # pyright: ignore[reportArgumentType]
    Client(socket_path=Path("/run/lmtp"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Client.from_url(b"smtp://host")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def subclassing() -> None:
    """What makes a client of a class makes one of its subclasses."""

    class Ours(Client):
        pass

    assert_type(Ours.from_url("smtp://host"), Ours)


def timeouts() -> None:
    """Seconds, by name."""
    limits = Timeouts(pool=1, connect=2.5, greeting=3, command=4, data_init=5, data_block=6, end_of_data=7, quit=8)
    assert_type(limits.end_of_data, float)
    Timeouts(data=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Timeouts(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Timeouts(connect=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    limits.quit = 1  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


async def contexts(client: Client) -> None:
    """A client is entered asynchronously, and as itself."""
    async with client as entered:
        assert_type(entered, Client)
        assert_type(await client.resize(3), None)
        assert_type(client.max_connections, int)
    with client:  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass
    await client.aclose()


def annotated(
    message: AnyMessage | None,
    recipients: AnyRecipients,
    tls: TLSMode,
    person: Person,
    to: People,
    file: AttachmentLike,
) -> None:
    """Names for annotations, and modules that need no import of their own."""
    Client("mail.example.com", tls=tls, auth=smtplite.sasl.Plain("me", "secret"))
    Outgoing(message or b"", recipients=recipients)
    compose(from_=person, to=to, attachments=[file])
    assert_type(smtplite.message.wire_bytes(EmailMessage()), bytes)
    smtplite.nonsense  # type: ignore[attr-defined]  # pyright: ignore  # noqa: B018


async def sending(client: Client, letter: Message, part: MIMEText, data: bytearray) -> None:
    """What a message, a sender and recipients may be."""
    assert_type(await client.send(message), Receipt)
    await client.send(letter)
    await client.send(part)
    await client.send(b"Subject: x\r\n\r\n", sender="a@example.com", recipients="b@example.com")
    await client.send(data, sender="", recipients=["b@example.com", Address("C", "c", "example.com")])
    await client.send(memoryview(data), sender=Address("A", "a", "example.com"), recipients=("b@example.com",))
    await client.send(Content.from_path("x.eml"), sender="a@example.com", recipients=Recipient("b@example.com"))
    await client.send(message, recipients=(f"{i}@example.com" for i in range(3)), require_all=True, timeout=5)
    await client.send(message, recipients={"b@example.com": 1})
    await client.send(message, envelope=Envelope("a@example.com", "b@example.com"))

    await client.send(123)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await client.send("Subject: x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await client.send(Path("x.eml"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await client.send(message, "a@example.com")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await client.send(message, sender=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await client.send(message, sender=["a@b"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await client.send(message, recipients=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await client.send(message, recipients=[5])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    await client.send(message, recipients=b"b@c")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await client.send(message, envelope="a@b")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await client.send(message, timeout="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await client.send_message(message)  # type: ignore[attr-defined]  # pyright: ignore
    await client.send(message, mail_options=())  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    client.send(message).complete  # type: ignore[attr-defined]  # pyright: ignore  # noqa: B018


async def sending_once() -> None:
    """`smtplite.send`: the client's options are keywords; they are not checked by type."""
    assert_type(await smtplite.send(message, hostname="mail.example.com", tls="none", timeout=5), Receipt)
    await smtplite.send(123, hostname="mail.example.com")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def composing(rows: Iterator[str]) -> None:
    """What a person, an attachment and a picture may be."""
    assert_type(compose(from_="a@example.com", text="Hello"), EmailMessage)
    compose(from_=("A", "a@example.com"), to="b@example.com", cc=["C <c@example.com>", ("D", "d@example.com")])
    compose(from_=Address("A", "a", "example.com"), to=Address("B", "b", "example.com"), bcc=rows, reply_to=("a@b.c",))
    compose(
        from_="a@example.com",
        subject="x",
        text=None,
        html="<img src='cid:x'>",
        attachments=[Path("a.pdf"), ("a.txt", b""), Attachment("a", b"", "text/csv"), Attachment("a", bytearray())],
        inline={"x": Path("x.png"), "y": Attachment("y.png", b"")},
        unsubscribe=["https://example.com/u", "mailto:off@example.com"],
        headers={"X-A": "1"},
    )
    assert_type(Attachment("a", b"").data, bytes)

    compose(text="Hello")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    compose(from_=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    compose("a@example.com")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    compose(from_="a", sender="b")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    compose(from_="a", to=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    compose(from_="a", attachments=["a.pdf"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    compose(from_="a", text=b"x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    compose(from_="a", headers={"X": 1})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]


async def sending_many(client: Client, queue: AsyncIterator[Outgoing]) -> None:
    """Any iterable, also an asynchronous one, of messages, `Outgoing`, or both."""

    def outgoing() -> Iterator[Outgoing]:
        yield Outgoing(message, "a@example.com", recipients=["b@example.com"], tag=1)

    assert_type(client.send_many(queue), AbstractAsyncContextManager[Deliveries])
    client.send_many(outgoing(), connections=2, in_flight=8, require_all=True, timeout=5, drain=1.5)
    client.send_many([message, message])
    client.send_many([message, Outgoing(b"")])
    client.send_many((b"", bytearray(), Content.from_bytes(b"")))
    async with client.send_many(outgoing()) as deliveries:
        assert_type(deliveries, Deliveries)
        async for delivery in deliveries:
            assert_type(delivery, Delivery)
            assert_type(delivery.receipt, Receipt | None)
            assert_type(delivery.error, SMTPError | None)
            assert_type(delivery.result(), Receipt)
    assert_type(deliveries.rest, list[Delivery])

    client.send_many(123)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.send_many(message)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.send_many(b"Subject: x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.send_many(["Subject: x"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    client.send_many([message], connections=1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.send_many([message], pool=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    async for _ in client.send_many([message]):  # type: ignore[attr-defined]  # pyright: ignore
        pass


def outgoing() -> None:
    """What `send` takes beside its message, and a tag of anything."""
    item = Outgoing(b"", "a@example.com", recipients="b@example.com", envelope=None, tag=object())
    assert_type(item.envelope, Envelope | None)
    Outgoing("Subject: x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Outgoing(message, recipients=[5])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    Outgoing(message, subject="x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    item.tag = 5  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def envelopes(parameters: Mapping[str, str | None]) -> None:
    """Whoever reads one finds strings and `Recipient`s, whatever it was made of."""
    envelope = Envelope(Address("A", "a", "example.com"), ["b@example.com", Recipient("c@example.com")])
    assert_type(envelope.sender, str)
    assert_type(envelope.recipients, tuple[Recipient, ...])
    Envelope("", "b@example.com", ret="FULL", envid="x", dsn="drop", require_tls=True, body="8BITMIME", smtputf8=None)
    Envelope("", (), parameters=parameters)
    assert_type(Recipient(Address("A", "a", "example.com")).address, str)
    Recipient("b@example.com", notify=("SUCCESS", "FAILURE"), orcpt="c@example.com", parameters=parameters)
    Recipient("b@example.com", notify="NEVER")

    Envelope("a@example.com")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Envelope(5, "b@example.com")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Envelope(None, "b@example.com")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Envelope("", "b@example.com", dsn="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Envelope("", "b@example.com", "FULL")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Recipient("b@example.com", notify=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Recipient("b@example.com", parameters=["X"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def receipts(receipt: Receipt) -> None:
    """The four sets, and the replies."""
    assert_type(receipt.accepted, tuple[str, ...])
    assert_type(receipt.refused, dict[str, Reply])
    assert_type(receipt.unknown, tuple[str, ...])
    assert_type(receipt.not_sent, tuple[str, ...])
    assert_type(receipt.reply, Reply | None)
    assert_type(receipt.replies, dict[str, Reply])
    assert_type(receipt.message_id, str | None)
    assert_type(receipt.server, str)
    assert_type(receipt.tls, str | None)
    assert_type(receipt.complete, bool)
    receipt.raise_for_refused()
    receipt.reply.code  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]  # noqa: B018


async def content(chunks: AsyncIterator[bytes], path: Path) -> None:
    """Octets from anywhere."""
    assert_type(Content.from_bytes(memoryview(b"")), Content)
    assert_type(Content.from_path(path), Content)
    assert_type(Content.from_stream(chunks, size=10), Content)
    assert_type(Content.from_stream(chunks).is_repeatable, bool)
    with path.open("rb") as file:
        assert_type(Content.from_file(file), Content)
    Content.from_file(BytesIO())

    Content.from_bytes("text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Content.from_path(b"x.eml")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Content.from_stream([b""])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with path.open() as text:
        Content.from_file(text)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def sessions(client: Client) -> None:
    """A raw session takes commands, and gives replies."""
    async with client.session() as session:
        assert_type(session, RawSession)
        assert_type(await session.command(Vrfy("postmaster")), Reply)
        assert_type(await session.command(Custom("XFOO", "bar")), Reply)
        assert_type(session.extensions, Extensions)
        assert_type(session.info, ServerInfo)
        assert_type(session.transcript, tuple[str, ...])
        await session.command("NOOP")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async with client.session(greeting_only=True) as session:
        assert_type(session.local_domain, Domain)
        assert_type(session.is_open, bool)
        session.timeouts = Timeouts(command=5)
        assert_type(await session.start_tls(), Reply)
        assert_type(await session.start_tls(ssl.create_default_context(), "mail.example"), Reply)
        assert_type(await session.authenticate(smtplite.sasl.Plain("me", "secret")), Reply)
        assert_type(await session.data(b""), Reply)
        assert_type(await session.send(b"", sender="", recipients=["you@example.org"], timeout=5), Receipt)
        session.close()
    await client.session()  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]


async def checking(client: Client) -> None:
    """What is known of a server."""
    info = await client.check()
    assert_type(info, ServerInfo)
    assert_type(info.server, str)
    assert_type(info.greeting, str)
    assert_type(info.tls, str | None)
    assert_type(info.cipher, str | None)
    assert_type(info.certificate_subject, str | None)
    assert_type(info.certificate_expires, datetime | None)
    assert_type(info.mechanisms, tuple[str, ...])
    assert_type(info.limits, Limits)
    assert_type(info.limits.rcptmax, int | None)
    assert_type(info.extensions["SIZE"], tuple[str, ...])
    assert_type(info.extensions.size, int | None)
    assert_type(info.extensions.pipelining, bool)
    assert_type("DSN" in info.extensions, bool)


def unknown_names() -> None:
    """A name that smtplite does not have is an error before it is run."""
    smtplite.Sender  # type: ignore[attr-defined]  # pyright: ignore  # noqa: B018
