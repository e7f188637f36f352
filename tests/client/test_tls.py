"""TLS with a server that keeps the rules: what works inside it, how it ends, and what `check` tells of it.

What a server does wrong with TLS, certificates included, stands in `tests/misbehaving/test_starttls.py`.
"""

from __future__ import annotations

import datetime
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
import trustme

import smtplite
from smtplite import Client, Timeouts
from smtplite.net import ForeignStream, TLSStream
from smtplite.testing import SMTPServer, client_context, server_context
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


async def test_a_clear_greeting_where_tls_should_begin() -> None:
    async with SMTPServer() as server, Client(server.host, server.port, tls="implicit") as client:
        error = await tls_failure(client)
        assert "TLS handshake failed" in str(error)
        assert nothing_was_sent(server)


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


async def test_a_server_that_leaves_during_the_handshake() -> None:
    async with SMTPServer(tls="starttls") as server, client_of(server, "starttls") as client:
        server.reply("STARTTLS", "220 go", performs=False, close=True)
        assert "TLS handshake failed: server closed the connection" in str(await tls_failure(client))


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
