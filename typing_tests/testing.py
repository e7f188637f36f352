"""The testing kit."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Literal, assert_type

import anyio.abc
import pytest

from smtplite import Client
from smtplite.testing import (
    Commitment,
    HeldReply,
    Hold,
    Mailbox,
    Outbox,
    Parameters,
    ReceivedMessage,
    ScramFault,
    Script,
    ScriptedReply,
    ServedConnection,
    ServerConfig,
    ServerConnection,
    ServerExtensions,
    ServerQuirks,
    SMTPServer,
    ThreadedHeldReply,
    ThreadedServer,
    Violation,
    client_context,
    server_context,
)


def refuse_all(message: ReceivedMessage) -> str | None:
    """An `on_message`."""
    return None if message.sender else "550 5.7.1 no"


def making() -> None:
    """A server's options."""
    SMTPServer(host="::1", port=1025, name="mail.example.org", lmtp=True, numbered=True, keep=False)
    SMTPServer(socket_path=Path("/run/socket"), on_message=refuse_all, replies=[ScriptedReply("RCPT", "550 no")])
    SMTPServer(tls="implicit", ssl_context=server_context("localhost"), require_tls=True)
    SMTPServer(users={"me": "secret"}, tokens={"me": "token"}, mechanisms=["PLAIN"], require_auth=True)
    SMTPServer(extensions=ServerExtensions(dsn=False), quirks=ServerQuirks(max_messages=1))
    fault: ScramFault = "nonce"
    SMTPServer(scram_faults={fault, "no-signature"})
    SMTPServer(scram_faults={"none"})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(client_context(), ssl.SSLContext)

    SMTPServer("localhost")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    SMTPServer(tls="none")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    SMTPServer(port="1025")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    SMTPServer(users=["me"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    SMTPServer(on_message=len)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ServerExtensions(eightbitmime=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def running() -> None:
    """An asynchronous server."""
    async with SMTPServer() as server:
        assert_type(server, SMTPServer)
        assert_type(server.host, str)
        assert_type(server.port, int)
        assert_type(server.url, str)
        assert_type(server.messages, list[ReceivedMessage])
        assert_type(server.violations, list[Violation])
        assert_type(server.connections, list[ServedConnection])
        assert_type(server.committed, list[Commitment])
        assert_type(server.executed_content, list[bytes])
        assert_type(server.config, ServerConfig)
        assert_type(server.script, Script)
        assert_type(server.mailbox, Mailbox)
        assert_type(server.tls_mode, Literal["implicit", "starttls", "none"])
        assert_type(server.client(chunking=True), Client)
        assert_type(server.ca_context(), ssl.SSLContext)
        assert_type(await server.connect(), anyio.abc.ByteStream)
        assert_type(await server.wait_for_messages(2, timeout=1), list[ReceivedMessage])
        assert_type(await server.close_idle(), int)
        assert_type(server.arrivals(), AsyncIterator[ReceivedMessage])
        server.reply("RCPT", "550 5.1.1 no", to="b@example.com", times=1)
        server.reply("END_OF_DATA", b"", performs=True, close=True)
        server.reply("EHLO", lambda octets: octets[:20], close=True)
        held = server.hold("END_OF_DATA")
        assert_type(held, HeldReply)
        await held.wait(2, timeout=None)
        assert_type(held.count, int)
        held.release()
        await server.connections[0].say(b"421 bye\r\n", close=True)
        assert_type(server.connections[0].transcript, list[tuple[Literal["C", "S"], bytes]])
        assert_type(server.connections[0].flights, int)
        Client(connect=server.connect, tls="none")

        server.reply("RCPT", 550)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        server.reply("RCPT", "550 no", recipient="b@c")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        server.reply("RCPT", "550 no", times="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with SMTPServer():  # type: ignore[attr-defined]  # pyright: ignore
        pass


def in_a_thread() -> None:
    """The same server, for code that is not asynchronous."""
    assert_type(SMTPServer().in_thread(), ThreadedServer)
    with SMTPServer().in_thread() as server:
        assert_type(server, ThreadedServer)
        assert_type(server.messages, list[ReceivedMessage])
        assert_type(server.wait_for_messages(1, timeout=1), list[ReceivedMessage])
        assert_type(server.url, str)
        assert_type(server.server, SMTPServer)
        server.reply("MAIL", "451 4.3.0 later", times=1)
        held = server.hold("RCPT")
        assert_type(held, ThreadedHeldReply)
        held.wait()
        held.release()
        assert_type(server.close_idle(), int)
        server.reply("RCPT", "550 no", recipient="b@c")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def messages(message: ReceivedMessage) -> None:
    """What was received."""
    assert_type(message.sender, str)
    assert_type(message.recipients, tuple[str, ...])
    assert_type(message.content, bytes)
    assert_type(message.parameters, Parameters)
    assert_type(message.parameters["SIZE"], str | None)
    assert_type(message.parameters_of("b@example.com"), Parameters)
    assert_type(message.notify_of("b@example.com"), tuple[str, ...])
    assert_type(message.orcpt_of("b@example.com"), tuple[str, str] | None)
    assert_type(message.ret, str | None)
    assert_type(message.envid, str | None)
    assert_type(message.via, Literal["DATA", "BDAT"])
    assert_type(message.tls, str | None)
    assert_type(message.authenticated_as, str | None)
    assert_type(message.as_email(), EmailMessage)
    assert_type(message.differences(message), list[str])
    message.sender = "x"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.smtp_server(tls="starttls", users={"me": "secret"})
async def fixtures(smtp_server: ThreadedServer, smtp_outbox: Outbox) -> None:
    """What the plugin's fixtures give."""
    assert_type(await smtp_server.wait_for_messages_async(2, timeout=1), list[ReceivedMessage])
    assert_type(smtp_outbox.client, Client)
    assert_type(smtp_outbox.messages, list[ReceivedMessage])
    assert_type(smtp_outbox.server, SMTPServer)
    smtp_outbox.reset()
    Outbox(SMTPServer(), max_connections=1)


def plugin() -> None:
    """The plugin is a module that one may name."""
    from smtplite.testing.pytest_plugin import smtp_outbox_options, smtp_server_options

    options: Any = (smtp_outbox_options, smtp_server_options)
    print(options)


def without_io() -> None:
    """The protocol half."""
    hold = Hold()
    replies = (ScriptedReply("END_OF_DATA", hold=hold),)
    connection = ServerConnection(ServerConfig(numbered=True, replies=replies))
    assert_type(connection.greeting(), bytes)
    assert_type(connection.feed(b"NOOP\r\n"), bytes)
    assert_type(connection.resume(), bytes)
    assert_type(connection.closing, bool)
    assert_type(connection.violations, list[Violation])
    for commitment in connection.committed:
        assert_type(commitment, Commitment)
        assert_type(commitment.message, ReceivedMessage)
        assert_type(commitment.recipient, str)
    connection.feed("NOOP\r\n")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
