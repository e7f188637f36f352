"""SyncClient: the arguments and results of Client, without await."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from email.message import EmailMessage
from typing import assert_type

from smtplite import (
    Client,
    Delivery,
    Envelope,
    Outgoing,
    Receipt,
    Reply,
    ServerInfo,
    SMTPError,
    SyncClient,
    SyncDeliveries,
    SyncSession,
    Timeouts,
)
from smtplite.protocol import Extensions, Vrfy
from smtplite.sasl import Plain
from smtplite.trace import TraceEvent


def on_event(event: TraceEvent) -> None:
    """A hook."""


def made(password: str) -> None:
    """It is made as Client is."""
    assert_type(SyncClient("smtp.example.com", username="me", password=password), SyncClient)
    SyncClient("smtp.example.com", 465, tls="implicit", auth=Plain("me", password), timeouts=Timeouts(connect=5))
    SyncClient(socket_path="/run/smtp", lmtp=True, max_connections=2, trace=on_event)
    assert_type(SyncClient.from_url("smtp://localhost?tls=none", timeout=10), SyncClient)

    SyncClient("smtp.example.com", "25")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    SyncClient("smtp.example.com", tls="always")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    SyncClient("smtp.example.com", use_tls=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    SyncClient("smtp.example.com", 25, "none")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def sent(client: SyncClient, message: EmailMessage) -> None:
    """What a call gives."""
    with client as entered:
        assert_type(entered, SyncClient)
    assert_type(client.send(message), Receipt)
    assert_type(client.send(b"", sender="a@b.example", recipients=["c@d.example"], timeout=3), Receipt)
    assert_type(client.send(message, envelope=Envelope("a@b.example", ["c@d.example"]), require_all=True), Receipt)
    assert_type(client.check(), ServerInfo)
    client.close()

    client.send("text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.send(message, "a@b.example")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def many(client: SyncClient, messages: Iterator[Outgoing], others: AsyncIterator[EmailMessage]) -> None:
    """A plain iterator, and a block."""
    for delivery in client.send_many(messages, connections=2, drain=5):
        assert_type(delivery, Delivery)
        assert_type(delivery.receipt, Receipt | None)
        assert_type(delivery.error, SMTPError | None)
    with client.send_many(others) as deliveries:
        assert_type(deliveries, SyncDeliveries)
        assert_type(next(deliveries), Delivery)
    assert_type(deliveries.rest, list[Delivery])


def said(client: SyncClient) -> None:
    """A raw session."""
    with client.session() as session:
        assert_type(session, SyncSession)
        assert_type(session.command(Vrfy("x")), Reply)
        assert_type(session.extensions, Extensions)
        assert_type(session.info, ServerInfo)


def is_no_client(client: SyncClient) -> Client:
    """It does not stand for a Client: its calls cannot be awaited."""
    return client  # type: ignore[return-value]  # pyright: ignore[reportReturnType]
