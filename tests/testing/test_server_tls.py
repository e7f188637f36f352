"""The testing server's shell inside TLS, by TCP and in memory; AUTH with independent clients; what it says unasked.

Each scenario runs on asyncio, uvloop and trio.
"""

from __future__ import annotations

import datetime
import functools
import gc
import smtplib
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiosmtplib
import anyio
import anyio.abc
import anyio.to_thread
import pytest
import trustme
from anyio.streams.tls import TLSStream

from smtplite.testing import SMTPServer, client_context, server_context
from smtplite.testing.connection import ServedConnection
from smtplite.testing.tls import authority

EHLO = b"EHLO client.example\r\n"
MAIL = b"MAIL FROM:<ann@example.org>\r\n"
BOB = b"RCPT TO:<bob@example.org>\r\n"
CONTENT = b"Subject: hello\r\n\r\nhi\r\n"
MESSAGE = MAIL + BOB + b"BDAT %d LAST\r\n" % len(CONTENT) + CONTENT
CLOSING = b"421 4.3.2 closing\r\n"
USERS = {"me": "s3cret-kä7tsu"}

Opener = Callable[[SMTPServer], Awaitable[anyio.abc.ByteStream]]
Scenario = Callable[[], Awaitable[None]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function
    return function


async def by_tcp(server: SMTPServer) -> anyio.abc.ByteStream:
    return await anyio.connect_tcp(server.host, server.port)


async def in_memory(server: SMTPServer) -> anyio.abc.ByteStream:
    return await server.connect()


def on_each_wire(function: Callable[[Opener], Awaitable[None]]) -> None:
    for opener in (by_tcp, in_memory):
        SCENARIOS[f"{function.__name__}_{opener.__name__}"] = functools.partial(function, opener)


class Peer:
    """A client by hand: it counts replies, and can begin TLS."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self.stream = stream

    async def read(self, count: int = 1) -> list[int]:
        """Receive exactly `count` replies and return their codes."""
        octets = b""
        while True:
            *lines, rest = octets.split(b"\r\n")
            codes = [int(line[:3]) for line in lines if line[3:4] != b"-"]
            if len(codes) == count and not rest:
                return codes
            assert len(codes) < count, octets
            octets += await self.stream.receive()

    async def read_to_end(self) -> bytes:
        octets = b""
        while True:
            try:
                octets += await self.stream.receive()
            except anyio.EndOfStream:
                return octets

    async def say(self, octets: bytes, count: int = 1) -> list[int]:
        await self.stream.send(octets)
        return await self.read(count)

    async def begin_tls(self, context: ssl.SSLContext | None = None, hostname: str = "localhost") -> None:
        self.stream = await TLSStream.wrap(
            self.stream,
            server_side=False,
            hostname=hostname,
            ssl_context=client_context() if context is None else context,
            standard_compatible=False,
        )


@asynccontextmanager
async def served(opener: Opener, server: SMTPServer) -> AsyncIterator[Peer]:
    """Run `server` and connect to it; in clear, and the greeting is not read."""
    async with server:
        stream = await opener(server)
        try:
            yield Peer(stream)
        finally:
            await stream.aclose()


# --- TLS


@on_each_wire
async def implicit_tls(opener: Opener) -> None:
    server = SMTPServer(tls="implicit")
    async with served(opener, server) as peer:
        await peer.begin_tls()
        assert await peer.read() == [220]
        assert await peer.say(EHLO) == [250]
        assert await peer.say(MESSAGE, 3) == [250] * 3
        assert await peer.say(b"QUIT\r\n") == [221]
        assert await peer.read_to_end() == b""
    [message] = server.messages
    assert (message.tls, message.content) == ("TLSv1.3", CONTENT)
    assert server.violations == []
    [connection] = server.connections
    assert connection.tls == "TLSv1.3"
    assert connection.tls_error is None
    assert connection.received == EHLO + MESSAGE + b"QUIT\r\n"
    assert connection.flights == 3
    assert b"STARTTLS" not in connection.sent


@on_each_wire
async def starttls(opener: Opener) -> None:
    server = SMTPServer(tls="starttls", require_tls=True)
    async with served(opener, server) as peer:
        assert await peer.read() == [220]
        assert await peer.say(EHLO) == [250]
        assert await peer.say(MAIL) == [530]
        assert await peer.say(b"STARTTLS\r\n") == [220]
        await peer.begin_tls(hostname="mail.example.com")
        assert await peer.say(EHLO) == [250]
        assert await peer.say(MESSAGE, 3) == [250] * 3
        assert await peer.say(b"QUIT\r\n") == [221]
        assert await peer.read_to_end() == b""
    assert [message.tls for message in server.messages] == ["TLSv1.3"]
    assert server.violations == []
    [connection] = server.connections
    assert connection.received == EHLO + MAIL + b"STARTTLS\r\n" + EHLO + MESSAGE + b"QUIT\r\n"
    assert connection.sent.count(b"250 STARTTLS\r\n") == 1


@on_each_wire
async def tls_1_2_and_much_content(opener: Opener) -> None:
    context = client_context()
    server = SMTPServer(tls="implicit", ssl_context=server_context(only_version=ssl.TLSVersion.TLSv1_2))
    content = (b"x" * 98 + b"\r\n") * 5_000
    async with served(opener, server) as peer:
        await peer.begin_tls(context)
        assert await peer.read() == [220]
        assert await peer.say(EHLO) == [250]
        await peer.stream.send(MAIL + BOB + b"BDAT %d LAST\r\n" % len(content) + content)
        assert await peer.read(3) == [250] * 3
        assert await peer.say(b"HELP\r\n" * 1_000, 1_000) == [214] * 1_000
    assert [(message.tls, message.content) for message in server.messages] == [("TLSv1.2", content)]
    assert server.violations == []


@on_each_wire
async def a_reply_of_many_records(opener: Opener) -> None:
    """One write of the server can be larger than a TLS record."""
    server = SMTPServer(tls="implicit")
    server.reply("NOOP", b"250 " + b"x" * 50_000 + b"\r\n")
    async with served(opener, server) as peer:
        await peer.begin_tls()
        assert await peer.read() == [220]
        assert await peer.say(b"NOOP\r\n") == [250]


@on_each_wire
async def octets_behind_the_220(opener: Opener) -> None:
    """What a client must refuse: they arrive with the 220, in clear."""
    server = SMTPServer(tls="starttls")
    server.reply("STARTTLS", b"220 go\r\n250-evil\r\n")
    async with served(opener, server) as peer:
        await peer.read()
        await peer.say(EHLO)
        await peer.stream.send(b"STARTTLS\r\n")
        octets = await peer.stream.receive()
        assert octets == b"220 go\r\n250-evil\r\n"
        await peer.begin_tls()
        assert await peer.say(EHLO) == [250]
    assert server.violations == []


@on_each_wire
async def a_220_that_is_a_lie(opener: Opener) -> None:
    server = SMTPServer(tls="starttls")
    server.reply("STARTTLS", "220 2.0.0 go", performs=False)
    async with served(opener, server) as peer:
        await peer.read()
        await peer.say(EHLO)
        assert await peer.say(b"STARTTLS\r\n") == [220]
        assert await peer.say(MESSAGE, 3) == [250] * 3
    assert [message.tls for message in server.messages] == [None]


@on_each_wire
async def octets_in_clear_where_tls_begins(opener: Opener) -> None:
    for tls in ("implicit", "starttls"):
        server = SMTPServer(tls=tls)
        async with served(opener, server) as peer:
            if tls == "starttls":
                await peer.read()
                await peer.say(EHLO)
                await peer.say(b"STARTTLS\r\n")
            await peer.stream.send(EHLO + MESSAGE)
            await peer.read_to_end()
        expected = {"implicit": "unencrypted bytes where TLS begins", "starttls": "bytes after STARTTLS"}[tls]
        assert [violation[: len(expected)] for violation in server.violations] == [expected]
        assert server.messages == []
        assert server.connections[0].tls is None
        assert isinstance(server.connections[0].tls_error, ssl.SSLError)
        assert not server.connections[0].is_open


@on_each_wire
async def a_command_with_starttls_is_dropped(opener: Opener) -> None:
    """CVE-2011-0411 and its kin, from the other side."""
    server = SMTPServer(tls="starttls")
    async with served(opener, server) as peer:
        await peer.read()
        await peer.say(EHLO)
        assert await peer.say(b"STARTTLS\r\n" + MESSAGE) == [220]
        await peer.begin_tls()
        assert await peer.say(EHLO) == [250]
    assert server.violations == ["bytes after STARTTLS, which ends its group"]
    assert server.messages == []


@scenario
async def a_handshake_before_the_220_was_read() -> None:
    """Only memory can tell; the handshake goes on all the same."""
    server = SMTPServer(tls="starttls")
    stream = await server.connect()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    await stream.receive()
    await stream.send(EHLO)
    await stream.receive()
    await stream.send(b"STARTTLS\r\n")
    await stream.send(outgoing.read())
    assert await stream.receive(len(b"220 2.0.0 ready to start TLS\r\n")) == b"220 2.0.0 ready to start TLS\r\n"
    incoming.write(await stream.receive())
    client.do_handshake()
    await stream.send(outgoing.read())
    await stream.aclose()
    assert server.connections[0].tls == "TLSv1.3"
    assert server.violations == ["bytes after STARTTLS, which ends its group"]


@scenario
async def what_comes_with_the_end_of_the_handshake() -> None:
    """Implicit TLS: a command before the greeting can have been read."""
    server = SMTPServer(tls="implicit")
    stream = await server.connect()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    await stream.send(outgoing.read())
    incoming.write(await stream.receive())
    client.do_handshake()
    client.write(EHLO)
    await stream.send(outgoing.read())
    incoming.write(await stream.receive())
    greeting, *lines = client.read().split(b"\r\n")
    assert greeting == b"220 mail.example.com ESMTP ready"
    assert not lines[0] or lines[0].startswith(b"250-mail.example.com ")
    await stream.aclose()
    assert server.violations == ["bytes before the greeting was read"]
    assert [direction for direction, _ in server.connections[0].transcript] == ["S", "C", "S"]


@on_each_wire
async def a_handshake_octet_by_octet(opener: Opener) -> None:
    server = SMTPServer(tls="implicit")

    class Slow(anyio.abc.ByteStream):
        def __init__(self, stream: anyio.abc.ByteStream) -> None:
            self._stream = stream
            self.send_eof, self.receive, self.aclose = stream.send_eof, stream.receive, stream.aclose  # type: ignore[method-assign]

        async def receive(self, max_bytes: int = 65_536) -> bytes:
            raise AssertionError

        async def send_eof(self) -> None:
            raise AssertionError

        async def aclose(self) -> None:
            raise AssertionError

        async def send(self, item: bytes) -> None:
            for index in range(len(item)):
                await self._stream.send(item[index : index + 1])

    async with served(opener, server) as peer:
        peer.stream = Slow(peer.stream)
        await peer.begin_tls()
        assert await peer.read() == [220]
        assert await peer.say(EHLO) == [250]
    assert server.violations == []


# --- certificates


def days(count: int) -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=count)


CERTIFICATES: dict[str, Callable[[], ssl.SSLContext]] = {
    "wrong host": lambda: server_context("other.example"),
    "unknown authority": lambda: server_context("localhost", ca=trustme.CA()),
    "expired": lambda: server_context("localhost", not_before=days(-9), not_after=days(-1)),
    "not yet valid": lambda: server_context("localhost", not_before=days(1), not_after=days(9)),
    "common name only": lambda: server_context(common_name="localhost"),
    "self-signed": lambda: server_context(is_self_signed=True),
    "TLS 1.1": lambda: server_context("localhost", only_version=ssl.TLSVersion.TLSv1_1),
}


@on_each_wire
async def certificates_that_no_client_may_take(opener: Opener) -> None:
    for name, make_context in CERTIFICATES.items():
        server = SMTPServer(tls="implicit")
        server.ssl_context = make_context()
        async with served(opener, server) as peer:
            with pytest.raises((ssl.SSLError, anyio.BrokenResourceError)):
                await peer.begin_tls()
        assert server.violations == [], name
        assert server.connections[0].received == b"", name
        assert server.connections[0].tls is None, name


@scenario
async def why_the_client_refused_the_certificate() -> None:
    """Its alert is kept (anyio's TLSStream sends none)."""
    server = SMTPServer(tls="implicit", ssl_context=server_context("localhost", ca=trustme.CA()))
    stream = await server.connect()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    await stream.send(outgoing.read())
    incoming.write(await stream.receive())
    with pytest.raises(ssl.SSLCertVerificationError):
        client.do_handshake()
    await stream.send(outgoing.read())
    assert "ALERT_UNKNOWN_CA" in str(server.connections[0].tls_error)
    assert server.violations == []
    assert not server.connections[0].is_open
    await stream.aclose()


@on_each_wire
async def a_certificate_taken_by_a_client_that_verifies_nothing(opener: Opener) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    server = SMTPServer(tls="implicit", ssl_context=server_context(is_self_signed=True))
    async with served(opener, server) as peer:
        await peer.begin_tls(context)
        assert await peer.read() == [220]


@on_each_wire
async def old_tls_is_spoken_if_asked_for(opener: Opener) -> None:
    context = client_context()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    server = SMTPServer(tls="implicit", ssl_context=server_context(only_version=ssl.TLSVersion.TLSv1_1))
    async with served(opener, server) as peer:
        await peer.begin_tls(context)
        assert await peer.read() == [220]
    assert server.connections[0].tls == "TLSv1.1"


@scenario
async def the_default_certificate_is_trusted_by_its_own_clients_only() -> None:
    for hostname in ("localhost", "127.0.0.1", "mx.example"):
        async with served(by_tcp, server := SMTPServer(tls="implicit", name="mx.example")) as peer:
            await peer.begin_tls(server.ca_context(), hostname)
            assert await peer.read() == [220]
    async with served(by_tcp, server) as peer:
        with pytest.raises(ssl.SSLCertVerificationError):
            await peer.begin_tls(ssl.create_default_context())
    assert server.ssl_context is server.ssl_context


@on_each_wire
async def external_by_a_client_certificate(opener: Opener) -> None:
    requiring = server_context("localhost")
    requiring.verify_mode = ssl.CERT_REQUIRED
    authority().configure_trust(requiring)
    for certificate, identity in (
        (authority().issue_cert("me@example.org"), "me@example.org"),
        (authority().issue_cert(common_name="me"), "me"),
    ):
        context = client_context()
        certificate.configure_cert(context)
        server = SMTPServer(tls="implicit", ssl_context=requiring, mechanisms=["EXTERNAL"])
        async with served(opener, server) as peer:
            await peer.begin_tls(context)
            assert await peer.read() == [220]
            assert await peer.say(EHLO) == [250]
            assert await peer.say(b"AUTH EXTERNAL =\r\n") == [235]
            assert await peer.say(MESSAGE, 3) == [250] * 3
        assert server.connections[0].authenticated_as == identity
        assert [message.authenticated_as for message in server.messages] == [identity]
        assert server.violations == []


# --- the end


@on_each_wire
async def the_client_says_that_it_ends(opener: Opener) -> None:
    """close_notify is an end, and is answered by one."""
    server = SMTPServer(tls="implicit")
    async with served(opener, server) as peer:
        await peer.begin_tls()
        assert await peer.read() == [220]
        assert isinstance(peer.stream, TLSStream)
        await peer.stream.unwrap()
    [connection] = server.connections
    assert not connection.is_open
    assert connection.tls_error is None
    assert server.violations == []


@on_each_wire
async def the_client_is_gone_within_tls(opener: Opener) -> None:
    server = SMTPServer(tls="implicit")
    async with served(opener, server) as peer:
        await peer.begin_tls()
        assert await peer.read() == [220]
        assert await peer.say(MAIL) == [503]
        await peer.stream.send(MAIL)
    async with served(opener, server) as peer:
        pass  # and before it
    async with served(opener, server) as peer:
        await peer.begin_tls()
        assert await peer.read() == [220]
    assert set(server.violations) == {"MAIL before EHLO"}
    assert [connection.is_open for connection in server.connections] == [False] * 3


@on_each_wire
async def what_comes_behind_the_end_of_the_server(opener: Opener) -> None:
    server = SMTPServer(tls="implicit")
    async with served(opener, server) as peer:
        await peer.begin_tls()
        assert await peer.read() == [220]
        await peer.stream.send(b"QUIT\r\n" + b"NOOP\r\n" * 100)
        if opener is by_tcp:  # in memory the stream is broken by now, and with it anyio's TLSStream
            await peer.stream.send(b"NOOP\r\n")
        assert (await peer.read_to_end()).startswith(b"221 ")
    assert server.violations == ["bytes after QUIT, which ends its group"]


@scenario
async def a_record_that_is_broken() -> None:
    server = SMTPServer(tls="implicit")
    stream = await server.connect()
    peer = Peer(stream)
    await peer.begin_tls()
    assert await peer.read() == [220]
    await stream.send(b"\x17\x03\x03\x00\x20" + b"x" * 32)
    await stream.aclose()
    [connection] = server.connections
    assert connection.tls_error is not None
    assert not connection.is_open
    connection.receive(b"more")
    assert connection.received == b""


# --- said unasked


@on_each_wire
async def the_server_speaks_unasked(opener: Opener) -> None:
    for tls in ("implicit", "starttls", None):
        server = SMTPServer(tls=tls)
        async with served(opener, server) as peer:
            if tls == "implicit":
                await peer.begin_tls()
            assert await peer.read() == [220]
            assert await peer.say(EHLO) == [250]
            if tls == "starttls":
                assert await peer.say(b"STARTTLS\r\n") == [220]
                await peer.begin_tls()
                assert await peer.say(EHLO) == [250]
            [connection] = server.connections
            await connection.say(b"250 nobody asked\r\n")
            assert await peer.read() == [250]
            assert await peer.say(b"NOOP\r\n") == [250]
            await connection.say(CLOSING, close=True)
            assert not connection.is_open
            if opener is by_tcp:  # where the client cannot know yet
                await peer.stream.send(MAIL)
            assert await peer.read_to_end() == CLOSING
            with pytest.raises(RuntimeError, match="has ended"):
                await connection.say(b"")
        assert server.violations == []
        assert connection.sent.endswith(b"ok\r\n" + CLOSING)


@on_each_wire
async def a_reader_is_woken_by_what_is_said(opener: Opener) -> None:
    server = SMTPServer()
    heard: list[bytes] = []
    async with served(opener, server) as peer, anyio.create_task_group() as tasks:
        assert await peer.read() == [220]

        async def listen() -> None:
            heard.append(await peer.read_to_end())

        tasks.start_soon(listen)
        await anyio.wait_all_tasks_blocked()
        await server.connections[0].say(CLOSING, close=True)
    assert heard == [CLOSING]


@on_each_wire
async def closing_without_a_word(opener: Opener) -> None:
    server = SMTPServer()
    async with served(opener, server) as peer:
        assert await peer.read() == [220]
        await server.connections[0].say(b"", close=True)
        assert await peer.read_to_end() == b""


@on_each_wire
async def nothing_can_be_said_within_a_handshake(opener: Opener) -> None:
    server = SMTPServer(tls="starttls")
    async with served(opener, server) as peer:
        assert await peer.read() == [220]
        assert await peer.say(EHLO) == [250]
        assert await peer.say(b"STARTTLS\r\n") == [220]
        with pytest.raises(RuntimeError, match="within a TLS handshake"):
            await server.connections[0].say(CLOSING)


@on_each_wire
async def idle_connections_are_closed_and_others_are_not(opener: Opener) -> None:
    async with SMTPServer() as server:
        idle, busy, ended = [Peer(await opener(server)) for _ in range(3)]
        for peer in (idle, busy, ended):
            assert await peer.read() == [220]
            assert await peer.say(EHLO) == [250]
        assert await busy.say(MAIL) == [250]
        assert await ended.say(b"QUIT\r\n") == [221]
        assert await server.close_idle() == 1
        assert await idle.read_to_end() == b"421 4.4.2 idle for too long, closing\r\n"
        assert await server.close_idle() == 0
        assert await busy.say(b"RSET\r\n") == [250]
        assert await server.close_idle(b"") == 1
        assert await busy.read_to_end() == b""
        for peer in (idle, busy, ended):
            await peer.stream.aclose()
    assert server.violations == []


@on_each_wire
async def many_speak_at_once(opener: Opener) -> None:
    """Records go out in the order in which they were made, whoever sends them."""
    server = SMTPServer(tls="implicit")
    said = 100
    async with served(opener, server) as peer:
        await peer.begin_tls()
        assert await peer.read() == [220]
        async with anyio.create_task_group() as tasks:
            for _ in range(said):
                tasks.start_soon(server.connections[0].say, b"250 said " + b"x" * 10_000 + b"\r\n")
            tasks.start_soon(peer.stream.send, b"NOOP\r\n" * said)
            assert await peer.read(2 * said) == [250] * 2 * said
    assert server.connections[0].tls_error is None


# --- AUTH, with clients that are not ours


@scenario
async def the_standard_librarys_client_authenticates() -> None:
    def send(server: SMTPServer, mechanism: str, implicit: bool, initial: bool) -> None:
        context = server.ca_context()
        client: smtplib.SMTP
        if implicit:
            client = smtplib.SMTP_SSL("localhost", server.port, "client.example", timeout=30, context=context)
        else:
            client = smtplib.SMTP("localhost", server.port, "client.example", timeout=30)
        with client:
            if not implicit:
                client.starttls(context=context)
            client.ehlo()
            client.user, client.password = "me", "s3cret"
            method = getattr(client, "auth_" + mechanism.lower().replace("-", "_"))
            assert client.auth(mechanism, method, initial_response_ok=initial)[0] == 235
            client.sendmail("ann@example.org", ["bob@example.org"], CONTENT)

    for implicit in (True, False):
        for mechanism, initial in (("PLAIN", True), ("PLAIN", False), ("LOGIN", False), ("CRAM-MD5", False)):
            users = {"me": "s3cret"}
            async with SMTPServer(
                tls="implicit" if implicit else "starttls", require_tls=True, require_auth=True, users=users
            ) as server:
                await anyio.to_thread.run_sync(send, server, mechanism, implicit, initial)
            assert [message.authenticated_as for message in server.messages] == ["me"]
            assert server.violations == []


@scenario
async def the_standard_librarys_client_is_refused() -> None:
    def log_in(port: int) -> None:
        with smtplib.SMTP("localhost", port, "client.example", timeout=30) as client:
            with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
                client.login("me", "wrong")
            assert caught.value.smtp_code == 535

    async with SMTPServer(users=USERS, auth_in_clear=True) as server:
        await anyio.to_thread.run_sync(log_in, server.port)
    assert server.violations == []


async def aiosmtplib_authenticates() -> None:
    for implicit in (True, False):
        for mechanism in ("PLAIN", "LOGIN", "CRAM-MD5"):
            async with SMTPServer(
                tls="implicit" if implicit else "starttls",
                require_tls=True,
                require_auth=True,
                users=USERS,
                mechanisms=[mechanism],
            ) as server:
                client = aiosmtplib.SMTP(
                    hostname="localhost",
                    port=server.port,
                    local_hostname="client.example",
                    use_tls=implicit,
                    start_tls=not implicit,
                    tls_context=server.ca_context(),
                    username="me",
                    password=USERS["me"],
                    timeout=30,
                )
                async with client:
                    await client.sendmail("ann@example.org", ["bob@example.org"], CONTENT)
            assert [message.authenticated_as for message in server.messages] == ["me"]
            assert server.violations == []


@scenario
async def a_failed_login_shows_in_the_transcript_and_not_in_the_violations() -> None:
    server = SMTPServer(users=USERS, auth_in_clear=True)
    async with served(in_memory, server) as peer:
        await peer.read()
        await peer.say(EHLO)
        assert await peer.say(b"AUTH PLAIN AG1lAHMzY3JldA\r\n") == [501]
    assert b"AG1lAHMzY3JldA" in server.connections[0].received
    assert server.violations == ["AUTH initial response that is not base64"]


@scenario
async def every_option_reaches_the_protocol_half() -> None:
    server = SMTPServer(
        tokens={"me": "t"},
        external_identity="cert",
        auth_in_clear=True,
        auth_legacy_form=True,
        auth_nonce="nonce",
        scram_iterations=1,
        scram_salt=b"salt",
        scram_final_in_success=True,
        scram_faults=["error"],
        mechanisms=["SCRAM-SHA-1"],
    )
    async with served(in_memory, server) as peer:
        await peer.read()
        await peer.stream.send(EHLO)
        assert b"250 AUTH=SCRAM-SHA-1\r\n" in await peer.stream.receive()
        await peer.stream.send(b"AUTH SCRAM-SHA-1 biwsbj1tZSxyPWM=\r\n")
        # r=cnonce,s=c2FsdA==,i=1
        assert await peer.stream.receive() == b"334 cj1jbm9uY2Uscz1jMkZzZEE9PSxpPTE=\r\n"


each = pytest.mark.parametrize("function", SCENARIOS.values(), ids=SCENARIOS)


async def run(function: Scenario) -> None:
    with anyio.fail_after(30):
        await function()


@pytest.mark.asyncio
@each
async def test_on_asyncio(function: Scenario) -> None:
    await run(function)


@pytest.mark.asyncio
async def test_aiosmtplib_authenticates() -> None:
    await run(aiosmtplib_authenticates)


@each
def test_on_trio(function: Scenario) -> None:
    anyio.run(run, function, backend="trio")
    gc.collect(1)


@pytest.mark.needs("uvloop")
@each
def test_on_uvloop(function: Scenario) -> None:
    pytest.importorskip("uvloop")
    anyio.run(run, function, backend_options={"use_uvloop": True})
    gc.collect(1)


def test_the_kinds_of_tls_are_named() -> None:
    with pytest.raises(ValueError, match='"implicit", "starttls" or None'):
        SMTPServer(tls="none")  # type: ignore[arg-type]


def test_without_trustme_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['trustme'] = None\n"
        "from smtplite.testing import SMTPServer, ServerExtensions\n"
        "import ssl\n"
        "SMTPServer(); SMTPServer(tls='starttls', ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))\n"
        "for make in (lambda: SMTPServer(tls='implicit'), lambda: SMTPServer(tls='starttls'),\n"
        "             lambda: SMTPServer(extensions=ServerExtensions(starttls=True)), SMTPServer().ca_context):\n"
        "    try: make()\n"
        "    except ImportError as error: assert 'smtplite[testing]' in str(error), error\n"
        "    else: raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_connection_served_by_hand() -> None:
    """Without any stream: octets in, and what is to go out piles up."""
    from smtplite.testing import ServerConnection

    connection = ServedConnection(ServerConnection())
    connection.greet()
    connection.receive(b"QUIT\r\n")
    assert bytes(connection.outgoing) == connection.sent
    assert not connection.is_open
