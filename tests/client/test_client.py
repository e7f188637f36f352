"""Client.send, end to end, against the built-in server: on asyncio, uvloop and trio."""

from __future__ import annotations

import logging
import pickle
import socket
import ssl
from collections.abc import Callable
from email.message import EmailMessage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from pathlib import Path

import anyio
import pytest

import smtplite
from smtplite import Client, Envelope, Recipient, Timeouts, sasl
from smtplite.testing import ServerExtensions, SMTPServer
from smtplite.trace import ConnectionOpened, FlightSent, MessageFinished, ReplyReceived, TraceEvent

pytestmark = pytest.mark.anyio

RAW = b"From: me@example.org\r\nTo: you@example.org\r\nSubject: hi\r\n\r\nbody\r\n"


def message(to: str = "you@example.org", text: str = "body\n") -> EmailMessage:
    built = EmailMessage()
    built["From"] = "Me <me@example.org>"
    built["To"] = to
    built["Subject"] = "hi"
    built.set_content(text)
    return built


def client_of(server: SMTPServer, **options: object) -> Client:
    return Client(server.host, server.port, tls="none", **options)  # type: ignore[arg-type]


def flights(server: SMTPServer, connection: int = 0) -> list[bytes]:
    return [data for side, data in server.connections[connection].transcript if side == "C" and data]


# A message


async def test_a_message_object_arrives_with_the_envelope_of_its_headers() -> None:
    sent = message("You <you@example.org>, she@example.org", "dots\n.\n..\nend\n")
    sent["Cc"] = "he@example.org"
    sent["Bcc"] = "secret@example.org"
    before = sent.as_bytes()
    async with SMTPServer() as server, client_of(server) as client:
        receipt = await client.send(sent)
        (arrived,) = server.messages
    assert receipt.complete
    assert receipt.accepted == ("you@example.org", "she@example.org", "he@example.org", "secret@example.org")
    assert arrived.sender == "me@example.org"
    assert arrived.recipients == receipt.accepted
    assert b"secret" not in arrived.content
    assert arrived.content.endswith(b"\r\n\r\ndots\r\n.\r\n..\r\nend\r\n")
    assert arrived.as_email()["Message-ID"] == receipt.message_id
    assert receipt.reply is not None
    assert arrived.queue_id in receipt.reply.text
    assert receipt.server.startswith("mail.example.com")
    assert receipt.tls is None
    assert server.violations == []
    assert sent.as_bytes() == before


@pytest.mark.parametrize("kind", ["text", "multipart"])
async def test_the_older_message_classes_are_sent_alike(kind: str) -> None:
    old: MIMEText | MIMEMultipart = MIMEText("grüße\n", "plain", "utf-8")
    if kind == "multipart":
        part, old = old, MIMEMultipart()
        old.attach(part)
    old["From"], old["To"], old["Subject"] = "me@example.org", "you@example.org", "grüße"
    async with SMTPServer() as server, client_of(server) as client:
        receipt = await client.send(old)
        arrived = server.messages[0].as_email()
    assert receipt.complete
    assert arrived["Subject"] == "grüße"
    text = next(iter(arrived.iter_parts()), arrived)
    assert text.get_payload(decode=True) == "grüße\n".encode()
    assert server.violations == []


async def test_bytes_are_sent_as_they_are() -> None:
    async with SMTPServer() as server, client_of(server) as client:
        await client.send(RAW)
        await client.send(b"\r\nno header section, no line end", sender="", recipients="a@example.org")
        await client.send(b"", sender="b@example.org", recipients=["c@example.org"])
    assert [m.content for m in server.messages] == [RAW, b"\r\nno header section, no line end\r\n", b""]
    assert [m.sender for m in server.messages] == ["me@example.org", "", "b@example.org"]
    assert server.violations == []


async def test_a_one_shot_send() -> None:
    async with SMTPServer() as server:
        receipt = await smtplite.send(RAW, hostname=server.host, port=server.port, tls="none")
        assert receipt.complete
        assert flights(server)[-1] == b"QUIT\r\n"


async def test_large_content_arrives_whole() -> None:
    body = b"".join(b".%d\r\n" % i for i in range(300_000))
    async with SMTPServer() as server, client_of(server) as client:
        receipt = await client.send(RAW + body)
        assert receipt.complete
        assert server.messages[0].content == RAW + body


async def test_envelope_with_parameters() -> None:
    envelope = Envelope(
        "me@example.org",
        [Recipient("you@example.org", notify=["SUCCESS", "FAILURE"], orcpt="old+you@example.org"), "he@example.org"],
        ret="HDRS",
        envid="id=1",
    )
    async with SMTPServer() as server, client_of(server) as client:
        receipt = await client.send(RAW, envelope=envelope)
        (arrived,) = server.messages
    assert receipt.complete
    assert (arrived.ret, arrived.envid) == ("HDRS", "id=1")
    assert list(arrived.notify_of("you@example.org")) == ["SUCCESS", "FAILURE"]
    assert arrived.orcpt_of("you@example.org") == ("rfc822", "old+you@example.org")
    assert server.violations == []


# Round trips


async def test_two_round_trips_a_message_whatever_the_number_of_recipients() -> None:
    recipients = [f"r{i}@example.org" for i in range(50)]
    async with SMTPServer() as server, client_of(server) as client:
        for _ in range(2):
            assert (await client.send(RAW, recipients=recipients)).accepted == tuple(recipients)
    group = b"MAIL FROM:<me@example.org> SIZE=%d\r\n" % len(RAW)
    group += b"".join(b"RCPT TO:<%b>\r\n" % address.encode() for address in recipients) + b"DATA\r\n"
    assert flights(server)[1:] == [group, RAW + b".\r\n", group, RAW + b".\r\n", b"QUIT\r\n"]


@pytest.mark.parametrize("switch", ["server", "client"])
async def test_lockstep_where_pipelining_is_not_to_be_used(switch: str) -> None:
    extensions = ServerExtensions(pipelining=False) if switch == "server" else ServerExtensions()
    async with (
        SMTPServer(extensions=extensions) as server,
        client_of(server, pipelining=switch == "server") as client,
    ):
        assert (await client.send(RAW, recipients=["a@example.org", "b@example.org"])).complete
    assert [flight.split(b" ")[0].strip() for flight in flights(server)[1:-2]] == [b"MAIL", b"RCPT", b"RCPT", b"DATA"]
    assert server.violations == []


async def test_five_thousand_recipients_against_a_server_that_fills_the_sockets_first() -> None:
    """Replies are read while the group is written, or both sides would wait for ever (RFC 2920 3.1)."""
    recipients = [f"recipient-{i:05}@example.org" for i in range(5000)]
    async with SMTPServer() as server, client_of(server) as client:
        server.reply("RCPT", "550 5.1.1 " + "x" * 900, to=recipients[7])
        server.reply("RCPT", "250 2.1.5 " + "y" * 900)
        receipt = await client.send(RAW, recipients=recipients, timeout=60)
    assert len(receipt.accepted) == 4999
    assert list(receipt.refused) == [recipients[7]]
    assert len(server.messages[0].recipients) == 4999


# Refusals


async def test_some_are_refused_and_the_others_get_it() -> None:
    async with SMTPServer() as server, client_of(server) as client:
        server.reply("RCPT", "550 5.1.1 no such user", to="bob@example.org")
        receipt = await client.send(RAW, recipients=["a@example.org", "bob@example.org", "c@example.org"])
        assert receipt.accepted == ("a@example.org", "c@example.org")
        assert not receipt.complete
        assert receipt.refused["bob@example.org"].code == 550
        assert receipt.replies["bob@example.org"].enhanced == smtplite.EnhancedStatusCode(5, 1, 1)
        with pytest.raises(smtplite.RecipientsRefused, match=r"1 of 3 recipients: 550 5\.1\.1 no such user") as caught:
            receipt.raise_for_refused()
        assert caught.value.accepted == receipt.accepted
        assert pickle.loads(pickle.dumps(receipt)) == receipt
        (await client.send(RAW)).raise_for_refused()
    assert [m.recipients for m in server.messages] == [("a@example.org", "c@example.org"), ("you@example.org",)]
    assert b"RSET" not in b"".join(flights(server))


async def test_all_are_refused_then_the_next_message_goes_behind_a_reset() -> None:
    async with SMTPServer() as server, client_of(server) as client:
        server.reply("RCPT", "451 4.3.0 later", to="a@example.org", times=1)
        server.reply("RCPT", "550 5.1.1 never", to="b@example.org", times=1)
        with pytest.raises(smtplite.RecipientsRefused) as caught:
            await client.send(RAW, recipients=["a@example.org", "b@example.org"])
        error = caught.value
        assert {address: reply.code for address, reply in error.refused.items()} == {
            "a@example.org": 451,
            "b@example.org": 550,
        }
        assert error.retryable
        assert error.delivered is False
        assert error.phase == "rcpt"
        assert error.transcript[-1].startswith("S: 5")
        assert (await client.send(RAW)).complete
        assert len(server.connections) == 1
    assert len(server.messages) == 1
    assert flights(server)[2].startswith(b"RSET\r\nMAIL FROM:")


@pytest.mark.parametrize("pipelining", [True, False])
async def test_require_all_sends_to_nobody_if_one_is_refused(pipelining: bool) -> None:
    async with SMTPServer() as server, client_of(server, pipelining=pipelining) as client:
        server.reply("RCPT", "550 5.1.1 no", to="b@example.org")
        with pytest.raises(smtplite.RecipientsRefused) as caught:
            await client.send(RAW, recipients=["a@example.org", "b@example.org"], require_all=True)
        assert caught.value.not_sent == ("a@example.org",)
        assert list(caught.value.refused) == ["b@example.org"]
        assert (await client.send(RAW, recipients=["a@example.org", "c@example.org"], require_all=True)).complete
    assert [m.recipients for m in server.messages] == [("a@example.org", "c@example.org")]
    assert b"".join(flights(server)).count(b"DATA\r\n") == 1


@pytest.mark.parametrize(
    ("verb", "reply", "error"),
    [
        ("MAIL", "550 5.7.1 not you", smtplite.SenderRefused),
        ("MAIL", "421 4.3.2 closing", smtplite.ServiceUnavailable),
        ("DATA", "451 4.3.0 not now", smtplite.MessageRefused),
        ("DATA", "421 4.3.2 closing", smtplite.ServiceUnavailable),
        ("END_OF_DATA", "554 5.6.0 spam", smtplite.MessageRefused),
        ("END_OF_DATA", "421 4.3.2 closing", smtplite.MessageRefused),
    ],
)
async def test_a_refusal_says_who_refused_what(verb: str, reply: str, error: type[smtplite.ReplyError]) -> None:
    async with SMTPServer() as server, client_of(server) as client:
        server.reply(verb, reply, times=1)
        with pytest.raises(error) as caught:
            await client.send(RAW)
        assert caught.value.reply is not None
        assert caught.value.reply.code == int(reply[:3])
        assert caught.value.retryable is reply.startswith("4")
        assert set(caught.value.refused) | set(caught.value.not_sent) == {"you@example.org"}
        if isinstance(caught.value, smtplite.SenderRefused):
            assert caught.value.sender == "me@example.org"
        assert (await client.send(RAW)).complete
    assert len(server.messages) == 1
    assert server.violations == []


async def test_a_message_that_the_server_cannot_take_is_not_begun() -> None:
    async with SMTPServer(extensions=ServerExtensions(size=100, eight_bit_mime=False)) as server:
        async with client_of(server) as client:
            for raw, recipient, keyword in [
                (RAW + b"x" * 90 + b"\r\n", "a@example.org", "SIZE"),
                (b"S: x\r\n\r\n\xff\r\n", "a@example.org", "8BITMIME"),
                (b"S: x\r\n\r\n", "ü@example.org", "SMTPUTF8"),
            ]:
                with pytest.raises(smtplite.ExtensionRequired) as caught:
                    await client.send(raw, sender="", recipients=recipient)
                assert caught.value.keyword == keyword
                assert caught.value.not_sent == (recipient,)
                assert not caught.value.retryable
    assert b"MAIL" not in b"".join(flights(server))


async def test_a_message_object_is_encoded_anew_where_8bitmime_is_missing() -> None:
    sent = message(text="grüße\n")
    sent.replace_header("Content-Transfer-Encoding", "8bit")
    async with SMTPServer(extensions=ServerExtensions(eight_bit_mime=False, smtputf8=False)) as server:
        async with client_of(server) as client:
            await client.send(sent)
        assert server.messages[0].content.isascii()
        assert server.messages[0].as_email().get_content() == "grüße\n"
    assert server.violations == []


@pytest.mark.parametrize(
    "address",
    [
        "a@b.example>\r\nRSET",
        "a@b.example> SIZE=1",
        '"a\r\nRSET"@x.example',
        "a b@c.example",
        "a\0@b.example",
        "<a@b.c>",
    ],
)
async def test_nothing_that_a_caller_passes_can_become_a_command(address: str) -> None:
    async with SMTPServer() as server, client_of(server) as client:
        for sender, recipients in [(address, "a@example.org"), ("a@example.org", ["b@example.org", address])]:
            with pytest.raises(smtplite.MessageError):
                await client.send(RAW, sender=sender, recipients=recipients)
        assert server.connections == []


# Connections


async def test_one_connection_is_reused() -> None:
    async with SMTPServer() as server, client_of(server) as client:
        for _ in range(3):
            await client.send(RAW)
    assert len(server.connections) == 1
    assert len(server.messages) == 3


async def test_many_tasks_share_a_few_connections() -> None:
    async with SMTPServer() as server, client_of(server, max_connections=3) as client:
        async with anyio.create_task_group() as tasks:
            for i in range(40):
                tasks.start_soon(client.send, RAW + b"%d\r\n" % i)
    assert len(server.messages) == 40
    assert len({m.content for m in server.messages}) == 40
    assert 1 <= len(server.connections) <= 3


async def test_a_connection_is_replaced_after_so_many_messages() -> None:
    async with SMTPServer() as server, client_of(server, max_messages_per_connection=2) as client:
        for _ in range(5):
            await client.send(RAW)
    assert len(server.connections) == 3
    assert flights(server)[-1] == b"QUIT\r\n"


async def test_idle_and_old_connections_are_not_used_again() -> None:
    for option in ("idle_timeout", "max_age"):
        async with SMTPServer() as server, client_of(server, **{option: 0}) as client:
            await client.send(RAW)
            await client.send(RAW)
        assert len(server.connections) == 2, option


async def test_a_connection_that_ended_while_it_was_idle_is_replaced_silently() -> None:
    async with SMTPServer() as server, client_of(server) as client:
        server.reply("END_OF_DATA", "250 2.0.0 fine, and bye", performs=True, close=True, times=1)
        assert (await client.send(RAW)).complete
        assert (await client.send(RAW)).complete
    assert len(server.messages) == 2
    assert len(server.connections) == 2


async def test_a_closed_client_sends_nothing() -> None:
    async with SMTPServer() as server:
        client = client_of(server)
        await client.send(RAW)
        await client.aclose()
        await client.aclose()
        with pytest.raises(smtplite.LocalProtocolError, match="client is closed") as caught:
            await client.send(RAW)
        assert caught.value.not_sent == ("you@example.org",)


async def test_no_server_there(unused_port: Callable[[], int]) -> None:
    async with Client("127.0.0.1", unused_port(), tls="none") as client:
        with pytest.raises(smtplite.ConnectError, match="Connection refused") as caught:
            await client.send(RAW)
    assert caught.value.retryable
    assert caught.value.phase == "connect"
    assert caught.value.not_sent == ("you@example.org",)


async def test_a_name_that_does_not_exist() -> None:
    async with Client("no-such-host.invalid", 25, tls="none", timeouts=Timeouts(connect=10)) as client:
        with pytest.raises(smtplite.ConnectError, match=r"cannot resolve no-such-host\.invalid"):
            await client.send(RAW)


async def test_a_name_with_several_addresses() -> None:
    async with SMTPServer() as server:
        async with Client("localhost", server.port, tls="none") as client:  # ::1 may come first, and is not there
            assert (await client.send(RAW)).complete


async def test_source_address() -> None:
    async with SMTPServer() as server:
        async with client_of(server, source_address=("127.0.0.1", 0), local_hostname="me.example.org") as client:
            await client.send(RAW)
        assert server.messages[0].helo == "me.example.org"


@pytest.mark.parametrize(
    ("greeting", "error", "text"),
    [
        ("554 5.3.2 no mail here", smtplite.ServiceUnavailable, "server accepts no mail: 554"),
        ("421 4.3.2 busy", smtplite.ServiceUnavailable, "server accepts no mail: 421"),
        ("354 go on", smtplite.RemoteProtocolError, "354"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", smtplite.RemoteProtocolError, "not a reply"),
    ],
)
async def test_a_server_that_does_not_greet(greeting: str | bytes, error: type[Exception], text: str) -> None:
    async with SMTPServer() as server, client_of(server) as client:
        server.reply("GREETING", greeting)
        with pytest.raises(error, match=text):
            await client.send(RAW)
        assert server.messages == []


async def test_helo_where_ehlo_is_not_known() -> None:
    async with SMTPServer() as server, client_of(server, local_hostname="me.example.org") as client:
        server.reply("EHLO", "502 5.5.1 what")
        assert (await client.send(RAW)).complete
    assert flights(server)[:3] == [
        b"EHLO me.example.org\r\n",
        b"HELO me.example.org\r\n",
        b"MAIL FROM:<me@example.org>\r\n",
    ]


async def test_hello_refused() -> None:
    async with SMTPServer() as server, client_of(server) as client:
        server.reply("EHLO", "550 5.7.1 not you")
        with pytest.raises(smtplite.ServiceUnavailable, match="server refused EHLO") as caught:
            await client.send(RAW)
        assert not caught.value.retryable


async def test_lmtp_has_a_verdict_for_each_recipient() -> None:
    async with SMTPServer(lmtp=True) as server:
        server.reply("END_OF_DATA", "452 4.2.2 full", to="b@example.org")
        async with client_of(server, lmtp=True) as client:
            receipt = await client.send(RAW, recipients=["a@example.org", "b@example.org", "c@example.org"])
            assert receipt.accepted == ("a@example.org", "c@example.org")
            assert receipt.refused["b@example.org"].code == 452
            with pytest.raises(smtplite.MessageRefused):
                await client.send(RAW, recipients=["b@example.org"])
            assert (await client.send(RAW)).complete
    assert flights(server)[0].startswith(b"LHLO ")
    assert server.violations == []


@pytest.mark.needs("Unix sockets")
async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "lmtp"
    async with SMTPServer(socket_path=path, lmtp=True) as server:
        async with Client(socket_path=str(path), lmtp=True) as client:
            assert (await client.send(RAW)).complete
        assert len(server.messages) == 1
    async with Client(socket_path=str(tmp_path / "none"), lmtp=True) as client:
        with pytest.raises(smtplite.ConnectError, match="No such file"):
            await client.send(RAW)


async def test_a_stream_of_the_users_own() -> None:
    server = SMTPServer()
    async with Client(connect=server.connect, tls="none") as client:
        for _ in range(2):
            assert (await client.send(message())).complete
    assert len(server.messages) == 2
    assert len(server.connections) == 1
    assert server.violations == []


async def test_connect_that_fails() -> None:
    async def connect() -> anyio.abc.ByteStream:
        raise ConnectionRefusedError("the proxy says no")

    async with Client(connect=connect, tls="none") as client:
        with pytest.raises(smtplite.ConnectError, match="connect= failed: the proxy says no"):
            await client.send(RAW)


# Trace


async def test_the_trace_shows_each_write_and_each_reply() -> None:
    events: list[TraceEvent] = []
    async with SMTPServer() as server, client_of(server, trace=events.append) as client:
        await client.send(RAW)
    kinds = [type(event) for event in events]
    assert kinds[0] is ConnectionOpened
    sent = [event for event in events if isinstance(event, FlightSent)]
    assert [len(event.commands) for event in sent] == [1, 3, 1, 1]
    assert sent[2] == FlightSent(connection=sent[0].connection, commands=(".",), content_bytes=len(RAW))
    assert sum(kind is ReplyReceived for kind in kinds) == 7
    (finished,) = (event for event in events if isinstance(event, MessageFinished))
    assert finished.accepted == ("you@example.org",)
    assert finished.error is None


async def test_a_trace_hook_that_fails_is_logged_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def hook(event: TraceEvent) -> None:
        raise RuntimeError("hook broke")

    with caplog.at_level(logging.ERROR, logger="smtplite"):
        async with SMTPServer() as server, client_of(server, trace=hook) as client:
            assert (await client.send(RAW)).complete
    assert "trace hook failed" in caplog.text


# Options


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Client(), "no server"),
        (lambda: Client("h", socket_path="/s", connect=SMTPServer().connect), "two servers"),
        (lambda: Client(connect=SMTPServer().connect), "tls='starttls' has no name to verify"),
        (lambda: Client("h", tls_context="x"), "tls_context must be an ssl.SSLContext"),  # type: ignore[arg-type]
        (lambda: Client("h", tls="none", tls_context=ssl.create_default_context()), "tls_context is given"),
        (lambda: Client("h", tls="maybe"), "tls must be "),  # type: ignore[arg-type]
        (lambda: Client("h", username="me"), "username and password go together"),
        (lambda: Client("h", password="x"), "username and password go together"),
        (lambda: Client("h", username="me", password="x", auth=sasl.External()), "pass either auth="),
        (lambda: Client("h", auth=[]), "auth must be a mechanism"),
        (lambda: Client("h", auth=["PLAIN"]), "auth must be a mechanism"),  # type: ignore[list-item]
        (lambda: Client("h", username="me", password="x\0"), "password"),
        (lambda: Client("h", 70000, tls="none"), "port must be a whole number, 1 to 65535"),
        (lambda: Client("h", 0, tls="none"), "port must be a whole number, 1 to 65535"),
        (lambda: Client("h", "25", tls="none"), "port must be a whole number"),  # type: ignore[arg-type]
        (lambda: Client("h", tls="none", local_hostname="a b"), "local_hostname: "),
        (lambda: Client("h", tls="none", local_hostname="a\r\nRSET"), "local_hostname: "),
        (lambda: Client("h", tls="none", max_connections=0), "max_connections must be a whole number, at least 1"),
        (lambda: Client("h", tls="none", max_messages_per_connection=0), "max_messages_per_connection"),
        (lambda: Client("h", tls="none", idle_timeout=-1), "idle_timeout"),
        (lambda: Client("h", tls="none", max_age=-1), "max_age"),
        (lambda: Client("h", tls="none", timeout=-1), "timeout must be a number of seconds"),
        (lambda: Timeouts(command=0), "timeout command must be a positive number"),
    ],
)
async def test_a_wrong_option_says_which(make: Callable[[], Client], text: str) -> None:
    with pytest.raises(smtplite.ConfigurationError, match=text) as caught:
        make()
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("options", "server"),
    [
        ({"hostname": "h"}, "h:587"),
        ({"hostname": "h", "tls": "implicit"}, "h:465"),
        ({"hostname": "h", "port": 465}, "h:465"),
        ({"hostname": "h", "tls": "none"}, "h:25"),
        ({"hostname": "127.0.0.1", "lmtp": True}, "127.0.0.1:24"),
        ({"hostname": "localhost", "lmtp": True, "port": 2003}, "localhost:2003"),
        ({"hostname": "h", "lmtp": True, "tls": "none"}, "h:24"),
        ({"socket_path": "/run/lmtp", "lmtp": True}, "/run/lmtp"),
    ],
)
async def test_ports_and_modes_that_are_understood(options: dict[str, object], server: str) -> None:
    assert repr(Client(**options)) == f"Client({server!r})"  # type: ignore[arg-type]


async def test_the_name_we_give_is_found_without_asking_the_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise AssertionError("asked the DNS")

    monkeypatch.setattr(socket, "getfqdn", fail)
    for name, helo in [
        ("host.example.org", "host.example.org"),
        ("host.example.org.", "host.example.org"),
        ("localhost.example.org", "[127.0.0.1]"),
        ("mac.local", "mac.local"),
        ("host", "[127.0.0.1]"),
        ("a_b.c", "[127.0.0.1]"),
        ("localhost", "[127.0.0.1]"),
        ("localhost.localdomain", "[127.0.0.1]"),
        ("LOCALHOST.LocalDomain", "[127.0.0.1]"),
        ("localhost6.localdomain6", "[127.0.0.1]"),
        ("web1.localdomain", "[127.0.0.1]"),
        ("10.0.0.7", "[127.0.0.1]"),
        ("", "[127.0.0.1]"),
    ]:
        monkeypatch.setattr(socket, "gethostname", lambda name=name: name)
        async with SMTPServer() as server, client_of(server) as client:
            await client.send(RAW)
        assert server.messages[0].helo == helo
