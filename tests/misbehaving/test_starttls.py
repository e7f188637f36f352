"""R13, R14, and section 1.2 of the rules: TLS or nothing, and not one octet of the clear believed inside it.

The names "Buffering/B_1" and so on are those of EAST's fake-mail-server (USENIX Security 2021).
"""

from __future__ import annotations

import datetime
import ssl
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
import trustme

import smtplite
from smtplite import (
    AuthenticationError,
    Client,
    ExtensionRequired,
    RemoteProtocolError,
    SMTPError,
    SMTPTimeout,
    TLSError,
    sasl,
)
from smtplite.testing import server_context

from .dialogue import (
    ASYNCIO_AND_TRIO,
    FIRST,
    SECOND,
    client_at,
    failure_of,
    nothing_follows,
    skips_time,
    tls_contexts,
    up_to,
)
from .server import Honest, Left, Peer, Script, Server, ehlo_reply

pytestmark = pytest.mark.anyio

EVENT_LOOPS = ASYNCIO_AND_TRIO

CLIENT_HELLO = b"\x16\x03"
CREDENTIALS = {"username": "me@example.org", "password": "s3cret"}


def starttls_at(server: Server, **options: object) -> Client:
    options.setdefault("tls_context", tls_contexts()[1])
    return client_at(server, tls="starttls", **options)


async def assert_no_tls_no_mail(server: Server, client: Client, *, is_retryable: bool = False) -> TLSError:
    """Send; it must fail by TLSError, with one try, and with no octet of mail or of credentials anywhere."""
    error = await failure_of(client)
    assert type(error) is TLSError
    assert error.not_sent == ("you@example.org",)
    assert error.retryable is is_retryable
    assert len(server.peers) == 1  # no second try, in clear or otherwise
    for peer in server.peers:
        for word in (b"MAIL", b"RCPT", b"DATA", b"AUTH", b"s3cret"):
            assert word not in peer.received
    return error


# Injected behind the 220

INJECTED = {
    "EAST Buffering/B_1 step 2": ehlo_reply("AUTH PLAIN", "STARTTLS"),
    "CVE-2021-22947": b"250 evil\r\n250 sender\r\n250 recipient\r\n354 go\r\n250 taken\r\n",
    "CVE-2026-41319": ehlo_reply("AUTH PLAIN LOGIN"),
    "GHSA-vxj7-4xrp-5vr4": b"250-evil\r\n250 AUTH PLAIN\r\n",
    "libetpan #386": b"250-evil.example\r\n250-AUTH LOGIN PLAIN\r\n250 SIZE 1\r\n",
    "nodemailer #1835 fragment": b"250-AUTH",
    "one octet": b"2",
    "a line end": b"\r\n",
    "a NUL": b"\0",
    "a 421": b"421 4.3.2 closing\r\n",
    "much": b"250 x\r\n" * 5000,
}


@pytest.mark.parametrize("injected", INJECTED.values(), ids=[f"R13-{name}".replace(" ", "_") for name in INJECTED])
@pytest.mark.parametrize("credentials", [{}, CREDENTIALS], ids=["", "AUTH"])
async def test_an_octet_behind_the_220_is_an_attack(injected: bytes, credentials: dict[str, str]) -> None:
    """R13: not discarded, not kept for later: the handshake is not even begun."""

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "starttls", "PIPELINING")
        await peer.write(b"220 go ahead\r\n" + injected)
        assert await peer.read_to_the_end() == b""

    async with Server(misbehave) as server, starttls_at(server, **credentials) as client:
        error = await assert_no_tls_no_mail(server, client)
        assert type(error.__cause__) is RemoteProtocolError
        assert "unencrypted after its 220 to STARTTLS" in str(error)
        assert CLIENT_HELLO not in server.peers[0].received


@pytest.mark.parametrize("injected", INJECTED.values(), ids=[f"R13-{name}".replace(" ", "_") for name in INJECTED])
async def test_octets_in_clear_during_the_handshake_end_it(injected: bytes) -> None:
    """R13: whenever they come, they never reach the reply parser."""

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "starttls", "PIPELINING")
        await peer.write(b"220 go ahead\r\n")
        assert (await peer.read_some()).startswith(CLIENT_HELLO)
        await peer.write(injected + bytes(16))
        assert b"EHLO" not in await peer.read_to_the_end()

    async with Server(misbehave) as server, starttls_at(server, timeouts=smtplite.Timeouts(connect=5)) as client:
        await assert_no_tls_no_mail(server, client)


@skips_time
async def test_a_server_that_ignores_the_ehlo_inside_tls() -> None:
    """R13, EAST Buffering/B_1 step 1: what was offered in clear is not believed in its place."""
    theirs, _ = tls_contexts()

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "starttls", "PIPELINING", "AUTH PLAIN")
        await peer.write(b"220 go ahead\r\n")
        await peer.begin_tls(theirs)
        assert (await peer.read_line()).startswith(b"EHLO ")
        assert await peer.read_to_the_end() == b""

    async with Server(misbehave) as server, starttls_at(server, **CREDENTIALS) as client:
        error = await failure_of(client)
        assert type(error) is SMTPTimeout
        assert error.not_sent == ("you@example.org",)
        assert len(server.peers) == 1


@pytest.mark.parametrize(
    "early",
    [
        pytest.param(b"220 go ahead\r\n", id="CVE-2026-42246"),
        pytest.param(b"2", id="one_octet"),
        pytest.param(b"220 go ahead\r\n220 go ahead\r\n", id="twice"),
    ],
)
async def test_a_220_that_was_there_before_the_command_is_not_its_answer(early: bytes) -> None:
    """R13: STARTTLS is not even sent; nothing goes on in clear (Net::IMAP CVE-2026-42246)."""

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "hello")
        await peer.write(ehlo_reply("STARTTLS") + early)
        assert await peer.read_to_the_end() == b""

    async with Server(misbehave) as server, starttls_at(server, **CREDENTIALS) as client:
        error = await assert_no_tls_no_mail(server, client)
        assert "although no reply was owed" in str(error)


# What was learnt in clear


@pytest.mark.parametrize("mode", ["CVE-2026-41319", "CVE-2021-22946"])
async def test_what_was_offered_in_clear_is_forgotten(mode: str) -> None:
    """R13: EHLO again, and its reply alone counts: AUTH, SIZE, PIPELINING, SMTPUTF8 (MailKit: SCRAM became PLAIN)."""
    theirs, _ = tls_contexts()
    commands: list[bytes] = []

    async def serve(peer: Peer) -> None:
        await up_to(peer, "starttls", "PIPELINING", "AUTH PLAIN LOGIN", "SIZE 1", "SMTPUTF8", "8BITMIME", "CHUNKING")
        await peer.write(b"220 go ahead\r\n")
        await peer.begin_tls(theirs)
        commands.append(await peer.read_line())
        await peer.write(ehlo_reply("AUTH SCRAM-SHA-256") if mode == "CVE-2026-41319" else ehlo_reply("HELP"))
        while True:
            commands.append(await peer.read_line())
            await peer.write(b"535 5.7.8 no\r\n" if commands[-1].startswith(b"AUTH") else b"250 ok\r\n")

    async with Server(serve) as server:
        if mode == "CVE-2026-41319":
            async with starttls_at(server, **CREDENTIALS) as client:
                assert type(await failure_of(client)) is AuthenticationError
            assert [command.split(b" ")[:2] for command in commands[1:2]] == [[b"AUTH", b"SCRAM-SHA-256"]]
            assert not any(b"PLAIN" in command or b"LOGIN" in command for command in commands)
        else:
            async with starttls_at(server, **CREDENTIALS) as client:
                assert type(await failure_of(client)) is AuthenticationError
            assert commands[0].startswith(b"EHLO ")
            assert not any(command.startswith(b"AUTH") for command in commands)
            async with starttls_at(server) as client:
                with pytest.raises(ExtensionRequired):
                    await client.send(FIRST, recipients="jürgen@example.org")


async def test_the_limits_of_the_clear_do_not_hold_inside() -> None:
    """R13: neither its SIZE nor its PIPELINING."""
    theirs, _ = tls_contexts()
    honest = Honest("HELP")

    async def serve(peer: Peer) -> None:
        await up_to(peer, "starttls", "PIPELINING", "SIZE 1")
        await peer.write(b"220 go ahead\r\n")
        await peer.begin_tls(theirs)
        await honest.go_on(peer)

    async with Server(serve) as server, starttls_at(server) as client:
        assert (await client.send(FIRST)).complete
        assert b"SIZE=" not in server.peers[0].received
    assert [message.content for message in honest.messages] == [FIRST]


async def test_nothing_is_written_behind_starttls() -> None:
    """R13: a server that keeps its buffer would take it for said inside TLS (CVE-2011-0411, CVE-2024-34083)."""
    theirs, _ = tls_contexts()
    honest = Honest("PIPELINING")

    async def serve(peer: Peer) -> None:
        await up_to(peer, "starttls", "PIPELINING")
        await anyio.lowlevel.checkpoint()
        await peer.write(b"220 go ahead\r\n")
        # begin_tls fails the test if anything but a ClientHello came behind the command.
        await peer.begin_tls(theirs)
        await honest.go_on(peer)

    async with Server(serve) as server, starttls_at(server) as client:
        assert (await client.send(FIRST)).complete
        clear, _, rest = bytes(server.peers[0].received).partition(b"STARTTLS\r\n")
        assert clear.startswith(b"EHLO ")
        assert clear.count(b"\r\n") == 1
        assert rest == server.peers[0].received_in_tls


# Not offered, not given


async def o_1(peer: Peer) -> None:
    """Not advertised; asked for all the same, it would say 502."""
    await up_to(peer, "hello")
    await peer.write(ehlo_reply("PIPELINING", "AUTH PLAIN"))
    await nothing_follows(peer)


async def d_1(peer: Peer) -> None:
    """EHLO refused."""
    await up_to(peer, "hello")
    await peer.write(b"502 5.5.1 what\r\n")
    await nothing_follows(peer)


def refused_by(reply: bytes) -> Script:
    async def script(peer: Peer) -> None:
        await up_to(peer, "starttls", "PIPELINING", "AUTH PLAIN")
        await peer.write(reply)
        await nothing_follows(peer)

    return script


def offering(*keywords: str | bytes) -> Script:
    async def script(peer: Peer) -> None:
        await up_to(peer, "hello")
        await peer.write(ehlo_reply(*keywords))
        await nothing_follows(peer)

    return script


STRIPPED = 'server does not offer STARTTLS: pass tls="none" to send unencrypted'
REFUSED = [
    pytest.param(d_1, False, "server does not know EHLO, and so has no STARTTLS", id="R14-EAST_Negotiation/D_1"),
    pytest.param(o_1, False, STRIPPED, id="R14-EAST_Negotiation/O_1"),
    pytest.param(refused_by(b"502 5.5.1 what\r\n"), False, "refused STARTTLS: 502", id="R14-EAST_Negotiation/O_2"),
    pytest.param(refused_by(b"454 4.7.0 not now\r\n"), True, "refused STARTTLS: 454", id="R14-EAST_Negotiation/O_3"),
    pytest.param(refused_by(b"354 go\r\n"), False, "server answered '354", id="R14-EAST_Negotiation/O_4"),
    pytest.param(refused_by(b"250 ok\r\n"), False, "server answered '250", id="R14-CVE-2021-22946"),
    pytest.param(refused_by(b"421 4.3.2 closing\r\n"), True, "refused STARTTLS: 421", id="R14-421"),
    pytest.param(refused_by(b"235 welcome\r\n"), False, "server answered '235", id="R14-235"),
    pytest.param(refused_by(b"221 bye\r\n"), False, "server answered '221", id="R14-221"),
    pytest.param(refused_by(b"junk\r\n"), False, "a line that is not a reply", id="R14-no_reply"),
    pytest.param(offering("PIPELINING", "SIZE"), False, STRIPPED, id="R14-CVE-2016-0772"),
    pytest.param(offering("XXXXXXXA"), False, STRIPPED, id="R14-overwritten"),
    pytest.param(offering("STARTTLSX", "X-STARTTLS"), False, STRIPPED, id="R14-another_keyword"),
    pytest.param(offering(b"\xffSTARTTLS"), False, STRIPPED, id="R14-no_keyword"),
]


@pytest.mark.parametrize(("script", "is_retryable", "text"), REFUSED)
@pytest.mark.parametrize("credentials", [{}, CREDENTIALS], ids=["", "AUTH"])
async def test_without_tls_nothing_is_sent(
    script: Script, is_retryable: bool, text: str, credentials: dict[str, str]
) -> None:
    """R14: stripping leads to an error, never to clear text."""
    async with Server(script) as server, starttls_at(server, **credentials) as client:
        error = await assert_no_tls_no_mail(server, client, is_retryable=is_retryable)
    assert text in str(error)
    assert error.phase == "starttls"


async def test_64_odd_mechanisms_offered_in_clear() -> None:
    """R14, R15, EAST others/X_1: no mechanism tempts anybody to authenticate without TLS."""
    odd = [f"AUTH {' '.join(f'X-{n}-{m}' for m in range(8))} PLAIN LOGIN EXTERNAL ANONYMOUS" for n in range(8)]
    async with Server(offering(*odd)) as server, starttls_at(server, **CREDENTIALS) as client:
        await assert_no_tls_no_mail(server, client)
    async with Server(offering(*odd)) as server:
        for auth in (sasl.Plain("me", "s3cret"), sasl.External(), sasl.ScramSha256("me", "s3cret")):
            async with client_at(server, auth=auth) as client:  # tls="none", by the user's own wish
                assert type(await failure_of(client)) is AuthenticationError
        assert not any(b"AUTH" in peer.received for peer in server.peers)


async def test_in_lower_case_it_is_offered_all_the_same() -> None:
    """R14: keywords have no case (RFC 5321 2.4)."""
    theirs, _ = tls_contexts()
    honest = Honest()

    async def serve(peer: Peer) -> None:
        await up_to(peer, "hello")
        await peer.write(ehlo_reply("startTLS"))
        assert await peer.read_line() == b"STARTTLS"
        await peer.write(b"220 go\r\n")
        await peer.begin_tls(theirs)
        await honest.go_on(peer)

    async with Server(serve) as server, starttls_at(server) as client:
        assert (await client.send(FIRST)).tls == "TLSv1.3"


# EAST others


CODES = (220, 221, 354, 421, 454, 500, 501, 502, 504, 530, 550, 554)


def expected_of(verb: str, code: int) -> type[SMTPError] | None:
    if verb == "quit" or (verb, code) in (("greeting", 220), ("starttls", 220)):
        return None
    if verb == "starttls":
        return TLSError
    if verb == "rset":
        return None if code >= 400 else RemoteProtocolError  # refused in front of MAIL: once more, elsewhere (R11)
    if verb == "helo" or (verb == "ehlo" and code in (500, 502, 504)):
        return TLSError  # the EHLO before it was refused, and HELO offers no STARTTLS
    return smtplite.ServiceUnavailable if code >= 400 else RemoteProtocolError


@pytest.mark.exhaustive(keep=30)
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize(
    "verb", ["greeting", "ehlo", "helo", "quit", "rset", "starttls"], ids=lambda verb: f"EAST_others/{verb}"
)
async def test_every_odd_code_at_every_command(verb: str, code: int) -> None:
    """R14: never mail in clear, never a false claim, never a second try."""
    theirs, _ = tls_contexts()
    reply = b"%d odd\r\n" % code
    says: dict[str, bytes | list[bytes]] = {"helo": {"EHLO": b"502 what\r\n", "HELO": reply}}.get(
        verb, {verb if verb == "greeting" else verb.upper(): reply}
    )  # type: ignore[assignment]
    if verb == "rset":  # it goes in front of the message behind a refusal
        says["RCPT"] = [b"550 5.1.1 no\r\n"]
    odd = Honest(says=says, tls=theirs)
    good = Honest(tls=theirs)
    expected = expected_of(verb, code)
    async with Server(odd, good) as server:
        async with starttls_at(server) as client:
            if verb == "rset":
                assert type(await failure_of(client)) is smtplite.RecipientsRefused
            if expected is None:
                assert (await client.send(FIRST)).tls == "TLSv1.3"
            else:
                error = await failure_of(client)
                assert type(error) is expected
                assert error.not_sent == ("you@example.org",)
                assert len(server.peers) == 1
                assert b"HELO" not in server.peers[0].received.replace(b"EHLO", b"")
        assert len(odd.messages) + len(good.messages) == (expected is None)
        for peer in server.peers:
            assert peer.received.count(b"MAIL") == peer.received_in_tls.count(b"MAIL")


@pytest.mark.parametrize("code", CODES)
async def test_every_odd_code_to_helo_in_clear(code: int) -> None:
    """R5, EAST others/helo: where TLS is waived, HELO is tried, and judged like any other command."""
    honest = Honest(says={"EHLO": b"500 what\r\n", "HELO": b"%d odd\r\n" % code})
    async with Server(honest) as server, client_at(server) as client:
        error = await failure_of(client)
    assert type(error) is (smtplite.ServiceUnavailable if code >= 400 else RemoteProtocolError)
    assert honest.messages == []


# Certificates


NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
CA = trustme.CA()
MakeContext = Callable[[], ssl.SSLContext]

#: What is wrong with a certificate -> a context that serves it, and how the error puts it (OpenSSL's words).
CERTIFICATES: dict[str, tuple[MakeContext, str]] = {
    "EAST T_1 self-signed": (lambda: server_context(is_self_signed=True), "self-signed certificate"),
    "EAST T_2 unknown root": (lambda: server_context(ca=trustme.CA()), "unable to get local issuer"),
    "EAST T_3 wrong host": (lambda: server_context("mail.example.org", ca=CA), "IP address mismatch"),
    "EAST T_4 expired": (lambda: server_context(ca=CA, not_before=NOW - 9 * DAY, not_after=NOW - DAY), "expired"),
    "not yet valid": (lambda: server_context(ca=CA, not_before=NOW + DAY, not_after=NOW + 9 * DAY), "not yet valid"),
    # A name in the subject does not count (RFC 9525 2). From Python 3.13 on such a certificate is not even well formed.
    "common name alone": (
        lambda: server_context(ca=CA, common_name="127.0.0.1"),
        "IP address mismatch" if sys.version_info < (3, 13) else "Empty Subject Alternative Name",
    ),
    "TLS 1.1": (lambda: server_context(ca=CA, only_version=ssl.TLSVersion.TLSv1_1), "TLS handshake failed"),
}


@pytest.fixture
def system_that_trusts_our_ca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the client's own default context is what is tested."""
    path = tmp_path / "ca.pem"
    CA.cert_pem.write_to_path(path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))


@pytest.mark.parametrize("mode", ["implicit", "starttls"])
@pytest.mark.parametrize(
    ("make", "text"), CERTIFICATES.values(), ids=[f"R14-{name}".replace(" ", "_") for name in CERTIFICATES]
)
@pytest.mark.usefixtures("system_that_trusts_our_ca")
async def test_a_server_with_a_wrong_certificate_hears_nothing_more(mode: str, make: MakeContext, text: str) -> None:
    """R14: verified by default, without an option of the caller's."""
    theirs = make()

    async def serve(peer: Peer) -> None:
        if mode == "starttls":
            await up_to(peer, "starttls", "PIPELINING")
            await peer.write(b"220 go\r\n")
        try:
            await peer.begin_tls(theirs)
        finally:
            await peer.read_to_the_end()
            assert peer.received_in_tls == b""

    async with Server(serve) as server:
        async with Client(server.host, server.port, tls=mode, **CREDENTIALS) as client:  # type: ignore[arg-type]
            error = await assert_no_tls_no_mail(server, client)
    assert text in str(error)
    assert error.phase == "tls"


@pytest.mark.usefixtures("system_that_trusts_our_ca")
async def test_the_same_server_with_the_right_certificate_is_trusted() -> None:
    """R14: so that the test above fails for the reason that it names."""
    honest = Honest(tls=server_context(ca=CA))
    async with Server(honest) as server, Client(server.host, server.port) as client:  # STARTTLS, by default
        assert (await client.send(FIRST)).tls == "TLSv1.3"


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="CVE-2026-41132"),
        pytest.param({"username": "me", "password": "s3cret"}, id="CVE-2026-41016"),
        pytest.param({"tls": "starttls"}, id="CVE-2026-49267"),
        pytest.param({"auth": sasl.XOAuth2("me", "ya29.t0ken")}, id="GHSA-r7g4-qg5f-qqm2"),
    ],
)
async def test_no_option_is_needed_to_have_the_certificate_verified(options: dict[str, object]) -> None:
    """R14: CKAN, Airflow and nodemailer's OAuth2 trusted anybody because nobody had passed a context."""
    theirs = server_context()  # by an authority that this system does not know

    async def serve(peer: Peer) -> None:
        await up_to(peer, "starttls")
        await peer.write(b"220 go\r\n")
        try:
            await peer.begin_tls(theirs)
        finally:
            await peer.read_to_the_end()
            assert peer.received_in_tls == b""

    async with Server(serve) as server:
        async with Client(server.host, server.port, **options) as client:  # type: ignore[arg-type]
            await assert_no_tls_no_mail(server, client)
        assert b"ya29" not in server.peers[0].received


@pytest.mark.parametrize(
    ("name", "certified", "is_valid"),
    [
        ("mx.example.org", "mx.example.org", True),
        ("mx.example.org.", "mx.example.org", True),
        ("MX.example.org", "mx.example.org", True),
        ("bücher.example", "xn--bcher-kva.example", True),
        ("mx.example.org", "example.org", False),
        ("mx.example.org", "*.mx.example.org", False),
        ("a.b.example.org", "*.example.org", False),
        ("127.0.0.1", "localhost", False),
    ],
)
async def test_the_name_is_the_one_that_the_user_gave(name: str, certified: str, is_valid: bool) -> None:
    """R14: neither an alias that the DNS knows nor the address that it leads to; as an A-label."""
    ca = trustme.CA()
    honest = Honest()
    ours = ssl.create_default_context()
    ca.configure_trust(ours)
    theirs = server_context(certified, ca=ca)

    async def serve(peer: Peer) -> None:
        await peer.begin_tls(theirs)
        await honest(peer)

    async with Server(serve) as server:
        options = {"tls": "implicit", "tls_context": ours, "tls_hostname": name}
        async with client_at(server, **options) as client:
            if is_valid:
                assert (await client.send(FIRST)).tls
            else:
                await assert_no_tls_no_mail(server, client)


# Where TLS is the default, and where it is not


@skips_time
async def test_an_implicit_handshake_comes_first_on_a_stream_of_the_users_own() -> None:
    """R14, nodemailer #1835: with a socket of the caller's, `secure` was forgotten and all went out in clear."""

    async def serve(peer: Peer) -> None:
        assert (await peer.read_some()).startswith(CLIENT_HELLO)
        assert b"EHLO" not in await peer.read_to_the_end()

    async with Server(serve) as server:

        async def connect() -> anyio.abc.ByteStream:
            return await anyio.connect_tcp(server.host, server.port)

        async with Client("mx.example", connect=connect, tls="implicit", timeout=60) as client:
            error = await failure_of(client)
    assert isinstance(error, (TLSError, SMTPTimeout))


@pytest.mark.parametrize(
    "options",
    [
        {"hostname": "mx.example"},
        {"hostname": "mx.example", "port": 25},
        {"hostname": "mx.example", "port": 587},
        {"hostname": "localhost", "port": 2525},
        {"hostname": "lmtp.example", "lmtp": True},
        {"hostname": "mx.example", "username": "me", "password": "s3cret"},
    ],
    ids=lambda options: "R14-" + ",".join(f"{k}={v}" for k, v in options.items() if k != "password"),
)
async def test_tls_is_required_wherever_it_is_not_waived(options: dict[str, object]) -> None:
    """R14: by default, on every port."""

    async def serve(peer: Peer) -> None:
        await peer.write(b"220 mx\r\n")
        await peer.read_line()
        await peer.write(ehlo_reply("AUTH PLAIN"))
        await nothing_follows(peer)

    async with Server(serve) as server:

        async def connect() -> anyio.abc.ByteStream:
            return await anyio.connect_tcp(server.host, server.port)

        async with Client(connect=connect, **options) as client:  # type: ignore[arg-type]
            await assert_no_tls_no_mail(server, client)
    for url in ("smtp://mx.example", "smtp://me:s3cret@mx.example:25", "lmtp://mx.example"):
        assert Client.from_url(url)._options.mode == "starttls"
    assert Client.from_url("smtps://mx.example")._options.mode == "implicit"


async def test_a_unix_socket_and_lmtp_on_loopback_need_none(tmp_path: Path) -> None:
    """R14: the two exceptions."""
    honest = Honest()
    path = str(tmp_path / "smtp")
    async with Server(honest, path=path), Client(socket_path=path) as client:
        assert (await client.send(FIRST)).tls is None
    async with Server(honest) as server, Client(server.host, server.port, lmtp=True) as client:
        assert (await client.send(SECOND)).tls is None
    assert len(honest.messages) == 2


async def test_a_handshake_that_fails_is_not_gone_on_from() -> None:
    """R12, R14, F3#416: a hand-written client ignored it, and went on in clear."""

    async def serve(peer: Peer) -> None:
        await up_to(peer, "starttls", "PIPELINING")
        await peer.write(b"220 go\r\n")
        assert (await peer.read_some()).startswith(CLIENT_HELLO)
        await peer.write(b"\x15\x03\x03\x00\x02\x02\x28")  # alert: handshake_failure
        try:
            while True:
                assert b"MAIL" not in await peer.read_some()
        except Left:
            pass

    async with Server(serve) as server, starttls_at(server) as client:
        await assert_no_tls_no_mail(server, client)
