"""R6, and section 1.4 of the rules: what a server writes without end costs little memory and little time.

Memory is what Python allocates in the whole test, the server's share included, beyond what was there before.
"""

from __future__ import annotations

import base64
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from typing import Any

import anyio
import pytest

from smtplite import (
    AuthenticationError,
    DeliveryUnknown,
    MessageError,
    RemoteProtocolError,
    SMTPError,
    TLSError,
    sasl,
)

from .dialogue import (
    ASYNCIO_AND_TRIO,
    FIRST,
    LARGE,
    SECOND,
    Fault,
    client_at,
    failure_of,
    flood,
    options_for,
    skips_time,
    tls_contexts,
    up_to,
)
from .server import Honest, Peer, Server, ehlo_reply

pytestmark = pytest.mark.anyio

EVENT_LOOPS = ASYNCIO_AND_TRIO

MAX_MEMORY_BYTES = 8 * 1024 * 1024
#: Of CPU; what is quadratic, or exponential, takes much more.
MAX_CPU_SECONDS = 5.0


@contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < MAX_MEMORY_BYTES


@contextmanager
def little_cpu() -> Iterator[None]:
    begun = time.process_time()
    yield
    assert time.process_time() - begun < MAX_CPU_SECONDS


def of(piece: bytes, *, size: int = 60_000) -> bytes:
    """Return the piece often enough to make a large write of it."""
    return piece * (size // len(piece))


FLOODS = {
    "lettre #1143 line": (b"250 ", b"x" * 60_000),
    "lettre #1143 reply": (b"", of(b"250-" + b"x" * 500 + b"\r\n")),
    "CVE-2013-1752 line of NUL": (b"", b"\0" * 60_000),
    ".NET #131596 short lines": (b"", of(b"250-\r\n")),
    "go-smtp #80 line ends": (b"", of(b"\r\n")),
    "tinymux#1802 LF": (b"", of(b"\n")),
    "aiosmtplib 5.1.2 line of CR": (b"250 ", b"\r" * 60_000),
    "junk lines": (b"", of(b"junk\r\n")),
    "telnet": (b"", b"\xff\xfb\x01" * 20_000),
}


@pytest.mark.exhaustive(keep=12)
@pytest.mark.parametrize(
    ("phase", "beginning", "piece"),
    [
        pytest.param(phase, *FLOODS[name], id=f"R6-{phase}-{name}".replace(" ", "_"))
        for name in FLOODS
        for phase in ("greeting", "hello", "auth", "mail", "content", "end of data")
        if name.startswith("lettre") or phase in ("greeting", "mail")
    ],
)
async def test_what_never_ends_is_ended(phase: str, beginning: bytes, piece: bytes) -> None:
    """R6: lettre #1143, CVE-2013-1752, .NET #131596, go-smtp #80, tinymux#1802, aiosmtplib 5.1.2."""
    if phase == "greeting":
        beginning, piece = beginning.replace(b"250", b"220"), piece.replace(b"250-", b"220-")
    honest = Honest("PIPELINING", "AUTH PLAIN")

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, phase, "PIPELINING")
        await flood(piece, beginning)(peer)

    content = LARGE if phase == "content" else FIRST
    with little_memory():
        async with Server(misbehave, honest) as server, client_at(server, **options_for(phase)) as client:
            error = await failure_of(client, content)
            cause = error.__cause__ if phase == "end of data" else error
            assert type(error) is (DeliveryUnknown if phase == "end of data" else RemoteProtocolError)
            assert type(cause) is RemoteProtocolError
            assert len(str(cause)) < 500
            assert len(repr(error.transcript)) < 50_000
            assert (await client.send(SECOND)).complete


@pytest.mark.parametrize("lines", [5_000, 50_000], ids=["R6-5000_capabilities", "R6-50000_capabilities"])
async def test_capabilities_by_the_thousand(lines: int) -> None:
    """R6: as long as the reply has its size, they are taken; then it is an attack."""
    honest = Honest(says={"EHLO": ehlo_reply(*(f"X{n}" for n in range(lines)), "PIPELINING")})
    with little_memory(), little_cpu():
        async with Server(honest) as server, client_at(server) as client:
            if lines == 5_000:
                for _ in range(3):
                    assert (await client.send(FIRST)).complete
            else:
                assert type(await failure_of(client)) is RemoteProtocolError
    assert len(honest.messages) == (3 if lines == 5_000 else 0)


CPU = {
    "a line of equals signs": [b"X" + b"=" * 4000 + b"\x01"] * 24,
    "a line of spaces": [b"X" + b" " * 4000 + b"\x01"] * 24,
    "a keyword of dashes": [b"X" + b"-" * 4000 + b"\x01"] * 24,
    "10,000 mechanisms": [b"AUTH " + b" ".join(b"X%d" % n for n in range(500))] * 20,
    "a SIZE of 4000 digits": [b"SIZE " + b"9" * 4000],
    "LIMITS without end": [b"LIMITS " + b"MAILMAX=1 " * 400] * 20,
    "LIMITS of 4000 digits": [b"LIMITS RCPTMAX=" + b"9" * 4000],
    "one keyword 8,000 times": [b"AUTH X"] * 8_000,
}


@pytest.mark.parametrize("keywords", CPU.values(), ids=[f"R6-{name}".replace(" ", "_") for name in CPU])
async def test_a_reply_within_its_limits_costs_no_time(keywords: list[bytes]) -> None:
    """R6: no expression that is exponential, no number that is converted in quadratic time."""
    assert len(ehlo_reply(*keywords)) <= 102_400
    honest = Honest(says={"EHLO": ehlo_reply(*keywords)})
    with little_memory(), little_cpu():
        async with Server(honest) as server, client_at(server) as client:
            assert (await client.send(FIRST)).complete


async def test_a_reply_in_single_octets_costs_linear_time() -> None:
    """R6: 100 KiB of them; no octet is looked at twice."""

    async def drip(peer: Peer) -> None:
        await up_to(peer, "hello")
        for n in range(100):
            line = b"250-" + b"%d" % n * 400 + b"\r\n"
            for octet in range(0, len(line), 8):
                await peer.write(line[octet : octet + 8])
        await peer.write(b"250 HELP\r\n")
        await honest.go_on(peer)

    honest = Honest()
    with little_cpu():
        async with Server(drip) as server, client_at(server) as client:
            assert (await client.send(FIRST)).complete


# Between messages, and at the end


async def test_a_flood_between_messages_is_not_even_read() -> None:
    """R6, R8: the connection is dropped."""
    flooding = anyio.Event()

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "end of data", "PIPELINING")
        await peer.write(b"250 taken\r\n")
        with anyio.CancelScope():
            await peer.write(b"250 again\r\n" * 1000)
            flooding.set()
            await peer.flood(of(b"250 again\r\n"), limit=30_000_000)

    honest = Honest()
    with little_memory():
        async with Server(misbehave, honest) as server, client_at(server) as client:
            assert (await client.send(FIRST)).complete
            await flooding.wait()
            assert (await client.send(SECOND)).complete
            assert len(server.peers) == 2
    assert [message.content for message in honest.messages] == [SECOND]


@skips_time
@pytest.mark.parametrize(
    "piece",
    [
        pytest.param(b"x" * 60_000, id="R6-line"),
        pytest.param(of(b"221-bye\r\n"), id="R6-reply"),
        pytest.param(of(b"221 bye\r\n"), id="R6-replies"),
    ],
)
async def test_a_flood_during_quit(piece: bytes) -> None:
    """R6, R2: is bounded in memory, and in time."""

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "end of data", "PIPELINING")
        await peer.write(b"250 taken\r\n")
        assert await peer.read_line() == b"QUIT"
        await peer.flood(piece, limit=30_000_000)

    with little_memory():
        async with Server(misbehave) as server:
            client = client_at(server)
            assert (await client.send(FIRST)).complete
            begun = anyio.current_time()
            await client.aclose()
            assert anyio.current_time() - begun < 5.1


async def test_refusals_of_many_recipients_at_full_length() -> None:
    """R6: each reply has its limit, and they are kept, for they are the outcome."""
    recipients = [f"r{n}@example.org" for n in range(500)]
    honest = Honest(says={"RCPT": b"550 " + b"x" * 4000 + b"\r\n"})
    with little_memory():
        async with Server(honest) as server, client_at(server) as client:
            error = await failure_of(client, recipients=recipients)
    assert len(error.refused) == 500
    assert len(str(error)) < 1000


@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize("surplus", [b"250 more\r\n", b"550-x\r\n", b"junk\r\n"])
async def test_replies_without_end_to_a_group_of_many(surplus: bytes) -> None:
    """R6: they are read while the group is written; what is beyond the last one owed is not kept."""
    recipients = [f"r{n}@example.org" for n in range(2000)]

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "hello")
        await peer.write(ehlo_reply("PIPELINING"))
        await peer.read_some()
        await peer.write(b"250 ok\r\n" * 2001 + b"354 go\r\n")
        await peer.flood(of(surplus), limit=30_000_000)

    with little_memory():
        async with Server(misbehave) as server, client_at(server) as client:
            error = await failure_of(client, recipients=recipients)
    assert type(error) is RemoteProtocolError
    assert not error.unknown


# AUTH


def auth_flood(first: bytes, forever: bytes, *, in_turn: bool = False) -> Fault:
    async def misbehave(peer: Peer) -> None:
        await peer.write(b"220 mx\r\n")
        await peer.read_line()
        await peer.write(ehlo_reply("AUTH LOGIN SCRAM-SHA-256 XOAUTH2"))
        await peer.read_line()
        await peer.write(first)
        if not in_turn:
            await peer.flood(forever, limit=30_000_000)
            return
        for _ in range(200):
            await peer.read_line()
            await peer.write(forever)
        raise AssertionError("the client is still there")

    return misbehave


CHALLENGES: dict[str, tuple[Fault, type[SMTPError]]] = {
    "challenges in turn": (auth_flood(b"334 \r\n", b"334 \r\n", in_turn=True), RemoteProtocolError),
    "challenges at once": (auth_flood(b"334 \r\n", of(b"334 \r\n")), RemoteProtocolError),
    "a challenge without end": (auth_flood(b"334 ", b"QUFB" * 15_000), RemoteProtocolError),
    "a challenge of lines": (auth_flood(b"", of(b"334-QUFB\r\n")), RemoteProtocolError),
}


@pytest.mark.parametrize(
    ("misbehave", "expected"), CHALLENGES.values(), ids=[f"R6-{name}".replace(" ", "_") for name in CHALLENGES]
)
@pytest.mark.parametrize("auth", [sasl.Login("me", "s3cret"), sasl.XOAuth2("me", "t0ken")], ids=["LOGIN", "XOAUTH2"])
async def test_challenges_without_end(misbehave: Fault, expected: type[SMTPError], auth: sasl.Mechanism) -> None:
    """R6: in number, in size, in lines."""
    with little_memory():
        async with Server(misbehave) as server:
            async with client_at(server, auth=auth, allow_insecure_auth=True) as client:
                error = await failure_of(client)
    # A mechanism that is finished answers a further challenge by "*"; both ends are certain.
    assert isinstance(error, (expected, AuthenticationError))
    assert error.not_sent == ("you@example.org",)


@pytest.mark.parametrize(
    ("auth", "challenge"),
    [
        pytest.param(sasl.XOAuth2("me", "t0ken"), b'{"a":' * 1800, id="JSON_deep"),
        pytest.param(sasl.XOAuth2("me", "t0ken"), b"[" * 9000, id="JSON_arrays"),
        pytest.param(sasl.XOAuth2("me", "t0ken"), b"1" * 9000, id="JSON_number"),
        pytest.param(sasl.ScramSha256("me", "s3cret"), b"r=" + b"x" * 9000, id="SCRAM_nonce"),
        pytest.param(sasl.ScramSha256("me", "s3cret"), b"r=x,s=QUFB,i=4096" + b",a=b" * 2000, id="SCRAM_extensions"),
        pytest.param(sasl.ScramSha256("me", "s3cret"), b"r=x,s=QUFB,i=" + b"9" * 9000, id="SCRAM_i"),
        pytest.param(sasl.CramMd5("me", "s3cret"), b"<" * 9000, id="CRAM-MD5"),
    ],
)
async def test_a_challenge_within_its_limits_costs_no_time(auth: sasl.Mechanism, challenge: bytes) -> None:
    """R6, R16: whatever stands in it."""

    async def misbehave(peer: Peer) -> None:
        await peer.write(b"220 mx\r\n")
        await peer.read_line()
        await peer.write(ehlo_reply(f"AUTH {auth.name}"))
        await peer.read_line()
        await peer.write(b"334 " + base64.b64encode(challenge) + b"\r\n")
        await peer.read_line()
        await peer.write(b"535 5.7.8 no\r\n")
        await peer.read_to_the_end()

    with little_memory(), little_cpu():
        async with Server(misbehave) as server:
            async with client_at(server, auth=auth, allow_insecure_auth=True) as client:
                assert type(await failure_of(client)) is AuthenticationError


# TLS


@pytest.mark.parametrize("piece", [b"x" * 16_000, of(b"220-x\r\n", size=16_000)], ids=["R6-line", "R6-reply"])
async def test_a_flood_inside_tls(piece: bytes) -> None:
    """R6: records are read one by one."""
    theirs, ours = tls_contexts()

    async def misbehave(peer: Peer) -> None:
        await peer.begin_tls(theirs)
        await peer.write(b"220 " if piece.startswith(b"x") else b"")
        await peer.flood(piece, limit=30_000_000)

    with little_memory():
        async with Server(misbehave) as server, client_at(server, tls="implicit", tls_context=ours) as client:
            assert type(await failure_of(client)) is RemoteProtocolError


async def test_a_flood_in_place_of_a_handshake() -> None:
    """R6."""
    _, ours = tls_contexts()

    async def misbehave(peer: Peer) -> None:
        await peer.flood(b"220 clear text\r\n" * 4000, limit=30_000_000)

    with little_memory():
        async with Server(misbehave) as server, client_at(server, tls="implicit", tls_context=ours) as client:
            assert type(await failure_of(client)) is TLSError


# Replies that have crashed others


@pytest.mark.parametrize(
    "said",
    [
        b"2\r\n",
        b"25\r\n",
        b"250-\r\n25\r\n",
        b"250-\r\n\r\n",
        b"250-a\r\n2\r\n",
        b"-\r\n",
        b"250-a\r\n250-b\r\n4\r\n",
        b"\r\r\n",
    ],
)
@pytest.mark.parametrize("phase", ["greeting", "mail", "end of data"])
async def test_a_line_shorter_than_a_code(said: bytes, phase: str) -> None:
    """R5, CVE-2020-8794 and CVE-2019-3823: read beyond its end by OpenSMTPD's client, and by curl."""

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, phase)
        await peer.write(said)
        assert await peer.read_to_the_end() == b""

    async with Server(misbehave) as server, client_at(server) as client:
        error = await failure_of(client)
    assert type(error) is (DeliveryUnknown if phase == "end of data" else RemoteProtocolError)


# What the caller passes


HEADERS: dict[str, Callable[[int], str]] = {
    "comments": lambda n: "(" * n + "a@example.org",
    "comments that close": lambda n: "(" * n + ")" * n + " a@example.org",
    "groups": lambda n: "a:" * n + "a@example.org" + ";" * n,
    "angle brackets": lambda n: "<" * n + "a@example.org" + ">" * n,
    "quotes": lambda n: '"' * n + "a@example.org",
    "backslashes": lambda n: '"' + "\\" * n + '"@example.org',
    "at signs": lambda n: "@" * n,
    "commas": lambda n: "," * n + "a@example.org",
    "dots": lambda n: "a." * n + "@example.org",
    "routes": lambda n: "<" + "@a," * n + ":a@example.org>",
}


@pytest.mark.parametrize("make", HEADERS.values(), ids=[f"GHSA-9h6g-{name}".replace(" ", "_") for name in HEADERS])
async def test_an_address_field_of_no_depth_crashes_the_parser(make: Callable[[int], str]) -> None:
    """GHSA-9h6g-pr28-7cqp: nodemailer's address parser recursed without end."""
    honest = Honest()
    message: Any
    async with Server(honest) as server, client_at(server) as client:
        for n in (10, 800):
            message = EmailMessage()
            message["From"] = "me@example.org"
            message._headers.append(("To", make(n)))
            message.set_content("body\n")
            with little_cpu():
                try:
                    await client.send(message)
                except MessageError:
                    pass
            raw = b"From: me@example.org\r\nTo: " + make(n).encode() + b"\r\n\r\nbody\r\n"
            with little_cpu():
                try:
                    await client.send(raw)
                except MessageError:
                    pass
    for each in honest.messages:
        assert all(rcpt.startswith(b"RCPT TO:<") and rcpt.endswith(b"@example.org>") for rcpt in each.rcpts)
