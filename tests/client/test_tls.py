"""TLS with a server that keeps the rules: what works inside it, how it ends, and what `check` tells of it.

What a server does wrong with TLS, certificates included, stands in `tests/misbehaving/test_starttls.py`.
"""

from __future__ import annotations

import datetime
import socket
import ssl
import struct
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
import trustme

import smtplite
from smtplite import Client, Timeouts
from smtplite.net import ForeignStream, TLSStream
from smtplite.testing import ServerExtensions, SMTPServer, client_context, server_context
from smtplite.testing.tls import TlsServerSide

pytestmark = pytest.mark.anyio

RAW = b"From: me@example.org\r\nTo: you@example.org\r\nSubject: hi\r\n\r\nbody\r\n"
MODES = ("implicit", "starttls")

RawServer = Callable[[Callable[[socket.socket], None]], int]


def client_of(server: SMTPServer, mode: str, **options: object) -> Client:
    options.setdefault("tls_context", server.ca_context())
    return Client(server.host, server.port, tls=mode, **options)  # type: ignore[arg-type]


async def tls_failure(client: Client) -> smtplite.TLSError:
    with pytest.raises(smtplite.TLSError) as caught:
        await client.send(RAW)
    assert caught.value.not_sent == ("you@example.org",)
    return caught.value


def nothing_was_sent(server: SMTPServer) -> bool:
    return all(b"MAIL" not in connection.received for connection in server.connections)


# It works


async def test_a_url_names_the_one_authority_that_is_trusted(tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    async with SMTPServer(tls="starttls") as server:
        ca = server.write_ca(tmp_path / "ca.pem")
        async with Client.from_url(f"smtp://localhost:{server.port}?ca={ca}") as client:
            assert (await client.send(RAW)).tls
        for url in (
            f"smtp://localhost:{server.port}?ca={other}",  # nobody knows who signed it
            f"smtp://localhost:{server.port}",
            f"smtp://localhost:{server.port}?ca={ca}&tls_hostname=other.example",  # another's certificate
        ):
            async with Client.from_url(url) as client:
                await tls_failure(client)
        async with Client.from_url(
            f"smtp://localhost:{server.port}?ca={other}", tls_context=server.ca_context()
        ) as client:
            assert (await client.send(RAW)).tls  # an argument wins over the URL
        assert len(server.messages) == 2


@pytest.mark.parametrize("mode", MODES)
async def test_messages_travel_inside_tls(mode: str) -> None:
    async with SMTPServer(tls=mode) as server, client_of(server, mode) as client:  # type: ignore[arg-type]
        for _ in range(2):
            receipt = await client.send(RAW)
            assert receipt.complete
            assert receipt.tls == "TLSv1.3"
        large = RAW + b"".join(b".%d\r\n" % i for i in range(200_000))
        assert (await client.send(large)).complete
    assert [m.content for m in server.messages] == [RAW, RAW, large]
    assert {m.tls for m in server.messages} == {"TLSv1.3"}
    assert len(server.connections) == 1
    assert server.violations == []


@pytest.mark.parametrize("mode", MODES)
async def test_tls_over_a_stream_of_the_users_own(mode: str) -> None:
    server = SMTPServer(tls=mode)  # type: ignore[arg-type]
    async with Client("localhost", connect=server.connect, tls=mode, tls_context=server.ca_context()) as client:  # type: ignore[arg-type]
        for _ in range(2):
            assert (await client.send(RAW)).complete
    assert len(server.connections) == 1


async def test_tls_1_2_with_a_client_certificate() -> None:
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    ours = ssl.create_default_context()
    ca.configure_trust(ours)
    ca.issue_cert("me@example.org").configure_cert(ours)
    async with SMTPServer(tls="starttls", ssl_context=context) as server:
        async with client_of(server, "starttls", tls_context=ours) as client:
            assert (await client.send(RAW)).tls == "TLSv1.2"


async def test_another_name_to_verify() -> None:
    async with SMTPServer(tls="implicit") as server:
        async with client_of(server, "implicit", tls_hostname="localhost") as client:
            assert (await client.send(RAW)).complete


@pytest.mark.exhaustive(keep=0)
async def test_five_thousand_recipients_inside_tls() -> None:
    """Reader and writer run together: the records of both must leave in order."""
    recipients = [f"recipient-{i:05}@example.org" for i in range(5000)]
    async with SMTPServer(tls="starttls") as server, client_of(server, "starttls") as client:
        server.reply("RCPT", "250 2.1.5 " + "y" * 900)
        assert len((await client.send(RAW, recipients=recipients, timeout=60)).accepted) == 5000


# STARTTLS, and how it ends


async def test_inside_tls_helo_will_do() -> None:
    async with SMTPServer(tls="starttls") as server, client_of(server, "starttls") as client:
        server.reply("EHLO", "502 5.5.1 what", in_tls=True)
        assert (await client.send(RAW)).tls


async def test_starttls_offered_inside_tls_is_ignored() -> None:
    async with SMTPServer(tls="implicit") as server, client_of(server, "implicit") as client:
        server.reply("EHLO", b"250-mx\r\n250 STARTTLS\r\n")
        assert (await client.send(RAW)).complete
        assert b"STARTTLS" not in server.connections[0].received


async def test_tls_spoken_to_a_clear_port_says_what_to_pass() -> None:
    async with SMTPServer(tls="starttls") as server, client_of(server, "implicit") as client:
        error = await tls_failure(client)
        assert "server speaks SMTP without TLS here, it said b'220 mail.example.com" in str(error)
        assert 'pass tls="starttls"' in str(error)
        assert not error.retryable
        assert nothing_was_sent(server)


@pytest.mark.parametrize("said", [b"2", b"220 a\r\n", b"220-" + b"x" * 5000 + b"\r\n", b"554 no\r\n", b"421\r\n"])
@pytest.mark.parametrize("ends", [True, False])
async def test_a_clear_greeting_is_told_however_much_of_it_comes(
    said: bytes, ends: bool, raw_server: RawServer
) -> None:
    def handle(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(said)
        while not ends and len(said) >= 5 and connection.recv(65536):
            pass

    async with Client("127.0.0.1", raw_server(handle), tls="implicit") as client:
        error = await tls_failure(client)
    assert ('pass tls="starttls"' in str(error)) is (len(said) > 1)
    assert len(str(error)) < 300


async def test_another_protocol_where_tls_should_begin(raw_server: RawServer) -> None:
    def handle(connection: socket.socket) -> None:
        connection.sendall(b"* OK IMAP4rev1 ready\r\n")
        while connection.recv(65536):
            pass

    async with Client("127.0.0.1", raw_server(handle), tls="implicit") as client:
        error = str(await tls_failure(client))
    assert "server does not speak TLS here, it said b'* OK IMAP4rev1 ready" in error


async def test_words_in_clear_in_place_of_the_handshake_of_starttls(raw_server: RawServer) -> None:
    def handle(connection: socket.socket) -> None:
        connection.sendall(b"220 raw\r\n")
        connection.recv(65536)
        connection.sendall(b"250-raw\r\n250 STARTTLS\r\n")
        connection.recv(65536)
        connection.sendall(b"220 go\r\n")
        connection.recv(65536)
        connection.sendall(b"500 what?\r\n")
        while connection.recv(65536):
            pass

    async with Client("127.0.0.1", raw_server(handle), tls="starttls") as client:
        error = str(await tls_failure(client))
    assert "server answered b'500 what?' unencrypted after its 220 to STARTTLS" in error
    assert 'tls="starttls"' not in error


async def test_the_handshake_has_a_deadline(raw_server: RawServer) -> None:
    """The built-in server would read the handshake as commands, and answer one in which a CRLF happens to be."""

    def handle(connection: socket.socket) -> None:
        connection.sendall(b"220 raw\r\n")
        connection.recv(65536)
        connection.sendall(b"250-raw\r\n250 STARTTLS\r\n")
        connection.recv(65536)
        connection.sendall(b"220 go\r\n")
        while connection.recv(65536):
            pass  # and says nothing

    async with Client("127.0.0.1", raw_server(handle), timeouts=Timeouts(connect=0.5)) as client:
        with pytest.raises(smtplite.SMTPTimeout, match=r"no TLS within 0\.5 s") as caught:
            await client.send(RAW)
    assert caught.value.not_sent == ("you@example.org",)


async def test_a_server_that_leaves_during_the_handshake_is_a_lost_connection() -> None:
    """R30: the next try may go well."""
    async with SMTPServer(tls="starttls") as server, client_of(server, "starttls") as client:
        server.reply("STARTTLS", "220 go", performs=False, close=True, times=1)
        with pytest.raises(smtplite.ConnectionLost, match="connection lost in the TLS handshake: ") as caught:
            await client.send(RAW)
        assert (caught.value.retryable, caught.value.phase) == (True, "tls")
        assert caught.value.not_sent == ("you@example.org",)
        assert (await client.send(RAW)).complete


@pytest.mark.parametrize("how", ["closed", "reset", "closed in a record"])
async def test_a_connection_lost_in_the_handshake(how: str, raw_server: RawServer) -> None:
    """R30: whatever ends it, at whatever octet, it is no failure of TLS."""

    def handle(connection: socket.socket) -> None:
        connection.recv(65536)
        if how == "closed in a record":
            connection.sendall(b"\x16\x03\x03\x00\x7a\x02")
        if how == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async with Client("127.0.0.1", raw_server(handle), tls="implicit") as client:
        with pytest.raises(smtplite.ConnectionLost, match="in the TLS handshake: ") as caught:
            await client.send(RAW)
    assert caught.value.retryable
    assert "Operation not permitted" not in str(caught.value)
    assert ("reset" in str(caught.value)) is (how == "reset")


# Alerts (rule R30)


def trusting_our_authority() -> ssl.SSLContext:
    """Return a context for a server that wants a certificate of somebody's whom no client of ours has."""
    context = server_context()
    trustme.CA().configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_server_that_wants_a_client_certificate(mode: str, version: ssl.TLSVersion) -> None:
    """R30: in TLS 1.3 the handshake looks done, and the alert comes behind it."""
    context = server_context(requires_client_certificate=True, only_version=version)
    async with SMTPServer(tls=mode, ssl_context=context) as server:  # type: ignore[arg-type]
        async with client_of(server, mode) as client:
            for call in (client.send(RAW), client.check()):
                with pytest.raises(smtplite.TLSError) as caught:
                    await call
                assert not caught.value.retryable
                assert "Operation not permitted" not in str(caught.value)
                assert "client certificate" in str(caught.value)
                assert "tls_context=" in str(caught.value)
                if version is ssl.TLSVersion.TLSv1_3:
                    assert 'the alert "certificate required"' in str(caught.value)
        assert nothing_was_sent(server)
        context = server.ca_context(certificate="me@example.org")
        async with client_of(server, mode, tls_context=context) as client:
            assert (await client.send(RAW)).complete


@pytest.mark.parametrize("mode", MODES)
async def test_a_server_that_does_not_know_who_signed_our_certificate(mode: str) -> None:
    async with SMTPServer(tls=mode, ssl_context=trusting_our_authority()) as server:  # type: ignore[arg-type]
        context = server.ca_context(certificate="me@example.org")
        async with client_of(server, mode, tls_context=context) as client:
            error = await tls_failure(client)
    assert 'the alert "unknown ca": it does not accept our client certificate' in str(error)
    assert not error.retryable


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("verb", ["EHLO", "MAIL", "RCPT", "DATA", "CONTENT", "QUIT"])
async def test_an_alert_before_the_hand_over_is_a_failure_of_tls(mode: str, verb: str) -> None:
    """R30: at whatever moment it comes; and the message is certainly not sent."""
    content = RAW + b"x" * 70 + b"\r\n" if verb != "CONTENT" else RAW + b"line of the body\r\n" * 200_000
    async with SMTPServer(tls=mode) as server, client_of(server, mode) as client:  # type: ignore[arg-type]
        server.reply(verb, b"", performs=False, alert=True, in_tls=True)
        if verb == "QUIT":
            assert (await client.send(content)).complete
            return
        with pytest.raises(smtplite.TLSError) as caught:
            await client.send(content)
        assert 'server sent the alert "bad record mac"' in str(caught.value)
        assert (caught.value.retryable, caught.value.not_sent) == (False, ("you@example.org",))
        assert len(server.connections) == 1
        assert server.messages == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("chunking", [False, True])
async def test_an_alert_behind_the_hand_over_is_the_cause_of_delivery_unknown(mode: str, chunking: bool) -> None:
    """R30."""
    async with SMTPServer(tls=mode) as server, client_of(server, mode, chunking=chunking) as client:  # type: ignore[arg-type]
        server.reply("END_OF_DATA", b"", performs=True, alert=True, times=1)
        with pytest.raises(smtplite.DeliveryUnknown) as caught:
            await client.send(RAW)
        assert type(caught.value.__cause__) is smtplite.TLSError
        assert "bad record mac" in str(caught.value.__cause__)
        assert not caught.value.retryable
        assert (await client.send(RAW)).complete
    assert len(server.messages) == 2


async def test_an_alert_in_a_stream_of_messages() -> None:
    """R30: who was handed over is unknown, the others go over the next connection."""
    messages = [RAW.replace(b"hi", b"%d" % i) for i in range(20)]
    async with SMTPServer(tls="implicit") as server, client_of(server, "implicit") as client:
        server.reply("END_OF_DATA", times=4)
        server.reply("END_OF_DATA", b"", performs=True, alert=True, times=1)
        async with client.send_many(messages, connections=1) as deliveries:
            outcomes = [delivery async for delivery in deliveries]
    unknown = [delivery for delivery in outcomes if delivery.error is not None]
    assert [type(delivery.error) for delivery in unknown] == [smtplite.DeliveryUnknown]
    assert isinstance(unknown[0].error, smtplite.DeliveryUnknown)
    assert type(unknown[0].error.__cause__) is smtplite.TLSError
    assert len(server.messages) == 20


async def test_a_connection_that_an_alert_ended_while_it_was_idle_is_replaced_silently() -> None:
    async with SMTPServer(tls="implicit") as server, client_of(server, "implicit") as client:
        assert (await client.send(RAW)).complete
        connection = server.connections[0]
        assert connection._tls is not None
        connection.outgoing += connection._tls.alert()
        await connection.flush()
        assert (await client.send(RAW)).complete
        assert len(server.connections) == 2


async def test_an_alert_of_a_stream_of_the_users_own_tls() -> None:
    """R30: the seam is one, whoever speaks TLS."""

    async def connect() -> anyio.abc.ByteStream:
        raise ssl.SSLCertVerificationError(1, "certificate verify failed: self-signed certificate")

    async with Client(connect=connect, tls="none") as client:
        error = await tls_failure(client)
    assert "self-signed certificate" in str(error)
    assert not error.retryable


# What is wrong with a certificate

Make = Callable[[], ssl.SSLContext]

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("make", "says", "remedy"),
    [
        pytest.param(
            lambda: server_context("other.example"), "is not valid for 127.0.0.1: ", "tls_hostname=", id="name"
        ),
        pytest.param(
            lambda: server_context(ca=trustme.CA()), "has an issuer that is not trusted: ", "tls_context=", id="issuer"
        ),
        pytest.param(
            lambda: server_context(is_self_signed=True), "has an issuer that is not trusted: ", "--ca", id="itself"
        ),
        pytest.param(lambda: server_context(not_after=NOW - DAY), "has expired: ", "operator", id="expired"),
        pytest.param(lambda: server_context(not_before=NOW + DAY), "is not yet valid: ", "clock", id="not yet valid"),
    ],
)
async def test_the_error_names_what_is_wrong_with_the_certificate_and_nothing_else(
    mode: str, make: Make, says: str, remedy: str
) -> None:
    async with SMTPServer(tls=mode, ssl_context=make()) as server, client_of(server, mode) as client:  # type: ignore[arg-type]
        error = str(await tls_failure(client))
    assert says in error
    assert remedy in error
    assert ("is not valid for 127.0.0.1" in error) is (says.startswith("is not valid for"))
    assert ("--ca" in error) is ("issuer" in says)


# REQUIRETLS (rule R29)


def unverifying(context: ssl.SSLContext, *, certificate: bool) -> ssl.SSLContext:
    context.check_hostname = False
    if not certificate:
        context.verify_mode = ssl.CERT_NONE
    return context


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["127.0.0.1", "other.example"])
@pytest.mark.parametrize("certificate", [True, False])
async def test_requiretls_needs_certificate_and_name_verified(mode: str, name: str, certificate: bool) -> None:
    """R29: whatever context the caller gave; nothing of the message is sent."""
    extensions = ServerExtensions(requiretls=True)
    envelope = smtplite.Envelope("me@example.org", ["you@example.org"], require_tls=True)
    async with SMTPServer(tls=mode, ssl_context=server_context(name), extensions=extensions) as server:  # type: ignore[arg-type]
        context = unverifying(server.ca_context(), certificate=certificate)
        async with client_of(server, mode, tls_context=context) as client:
            with pytest.raises(smtplite.ExtensionRequired, match="verified") as caught:
                await client.send(RAW, envelope=envelope)
            assert caught.value.keyword == "REQUIRETLS"
            assert nothing_was_sent(server)
            async with client.send_many([smtplite.Outgoing(RAW, envelope=envelope)]) as deliveries:
                assert [type(d.error) async for d in deliveries] == [smtplite.ExtensionRequired]
            assert nothing_was_sent(server)
            assert (await client.send(RAW)).complete  # without it, what the caller asked for is enough
        if name == "127.0.0.1":
            async with client_of(server, mode) as client:
                assert (await client.send(RAW, envelope=envelope)).complete


async def test_what_the_handshake_verified_counts_and_not_what_the_context_says_later() -> None:
    extensions = ServerExtensions(requiretls=True)
    envelope = smtplite.Envelope("me@example.org", ["you@example.org"], require_tls=True)
    async with SMTPServer(tls="implicit", extensions=extensions) as server:
        context = unverifying(server.ca_context(), certificate=True)
        async with client_of(server, "implicit", tls_context=context) as client:
            assert (await client.send(RAW)).complete
            context.check_hostname = True
            with pytest.raises(smtplite.ExtensionRequired):
                await client.send(RAW, envelope=envelope)


# The connection's end, inside TLS


@pytest.mark.parametrize("mode", MODES)
async def test_lost_behind_the_end_of_data_is_unknown(mode: str) -> None:
    async with SMTPServer(tls=mode) as server, client_of(server, mode) as client:  # type: ignore[arg-type]
        server.reply("END_OF_DATA", b"", performs=True, close=True, times=1)
        with pytest.raises(smtplite.DeliveryUnknown) as caught:
            await client.send(RAW)
        assert isinstance(caught.value.__cause__, smtplite.ConnectionLost)
        assert (await client.send(RAW)).complete


async def test_a_verdict_before_the_end_of_data_is_none() -> None:
    """R3: looked for in its own TLS record, before the dot is written."""
    async with SMTPServer(tls="implicit") as server, client_of(server, "implicit") as client:
        server.reply("DATA", b"354 go\r\n250 queued\r\n")
        with pytest.raises(smtplite.RemoteProtocolError) as caught:
            await client.send(RAW)
        assert caught.value.not_sent == ("you@example.org",)
    assert server.messages == []


@pytest.mark.parametrize("mode", MODES)
async def test_an_idle_connection_that_the_server_closed_is_replaced_silently(mode: str) -> None:
    async with SMTPServer(tls=mode) as server, client_of(server, mode) as client:  # type: ignore[arg-type]
        assert (await client.send(RAW)).complete
        assert await server.close_idle() == 1
        assert (await client.send(RAW)).complete
        assert len(server.connections) == 2
    assert len(server.messages) == 2


async def test_a_421_in_a_record_that_was_read_already_is_seen() -> None:
    """R8: taken off the socket together with the verdict, it is invisible to poll."""
    server = TlsServerSide(server_context("localhost"))
    wire = bytearray()

    class Wire(anyio.abc.ByteStream):
        async def send(self, item: bytes) -> None:
            server.receive(item)
            wire.extend(server.outgoing())

        async def receive(self, max_bytes: int = 65536) -> bytes:
            data = bytes(wire)
            wire.clear()
            return data

        async def send_eof(self) -> None:
            raise NotImplementedError

        async def aclose(self) -> None:
            pass

        def is_readable(self) -> bool:
            return bool(wire)

    stream = await TLSStream.wrap(ForeignStream(Wire()), client_context(), "localhost")
    await stream.send(b"x")
    wire.extend(server.send(b"250 queued\r\n") + server.send(b"421 closing\r\n"))
    assert await stream.receive() == b"250 queued\r\n"
    assert not wire  # both records were taken
    assert stream.is_stale()


# Knowing what is there


async def test_check_says_what_the_server_offers() -> None:
    async with SMTPServer(tls="starttls", users={"me": "secret"}) as server:
        async with client_of(server, "starttls", username="me", password="secret") as client:
            info = await client.check()
            assert (await client.send(RAW)).complete
        assert len(server.connections) == 1
        assert info.server == f"127.0.0.1:{server.port}"
    assert info.greeting.startswith("mail.example.com")
    assert info.tls == "TLSv1.3"
    assert info.cipher is not None
    assert info.cipher.startswith("TLS_")
    assert info.certificate_expires is not None
    assert info.certificate_expires > datetime.datetime.now(datetime.UTC)
    assert info.certificate_subject is not None
    assert "PLAIN" in info.mechanisms
    assert info.extensions.pipelining
    assert info.limits.mailmax is None


async def test_check_in_clear_and_against_a_server_that_closes() -> None:
    async with SMTPServer() as server, Client(server.host, server.port, tls="none") as client:
        info = await client.check()
        assert (info.tls, info.cipher, info.certificate_subject, info.certificate_expires) == (None,) * 4
        server.reply("NOOP", "421 4.3.2 closing")
        with pytest.raises(smtplite.ServiceUnavailable):
            await client.check()
        server.reply("MAIL", b"", performs=False)
    async with SMTPServer() as server, Client(server.host, server.port, tls="none", timeout=0.2) as client:
        server.reply("GREETING", b"")
        with pytest.raises(smtplite.SMTPTimeout):
            await client.check()
