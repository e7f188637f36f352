"""R24: a write that fails ends no reading: what the server said before it closed is what happened."""

from __future__ import annotations

import anyio
import pytest

from smtplite import (
    ConnectionLost,
    MessageRefused,
    RecipientsRefused,
    SenderRefused,
    ServiceUnavailable,
    SMTPError,
)

from .dialogue import ASYNCIO_AND_TRIO, FIRST, LARGE, assert_next_arrives, client_at, failure_of, tls_contexts, up_to
from .server import Honest, Peer, Script, Server, ehlo_reply

pytestmark = pytest.mark.anyio

EVENT_LOOPS = ASYNCIO_AND_TRIO

SAID: dict[str, tuple[bytes, type[SMTPError], int]] = {
    "552": (b"552 5.3.4 too much\r\n", MessageRefused, 552),
    "451": (b"451 4.3.0 cannot go on\r\n", MessageRefused, 451),
    "421": (b"421 4.3.2 closing\r\n", ServiceUnavailable, 421),
    "552 in lines": (b"552-5.3.4 too\r\n552 5.3.4 much\r\n", MessageRefused, 552),
}


def inside(mode: str, script: Script) -> Script:
    async def wrapped(peer: Peer) -> None:
        if mode == "TLS":
            await peer.begin_tls(tls_contexts()[0])
        await script(peer)

    return wrapped


def options_of(mode: str) -> dict[str, object]:
    return {"tls": "implicit", "tls_context": tls_contexts()[1]} if mode == "TLS" else {}


@pytest.mark.exhaustive(keep=8)
@pytest.mark.parametrize("mode", ["in clear", "TLS"])
@pytest.mark.parametrize("end", ["closes", "resets", "closes with octets unread"])
@pytest.mark.parametrize(
    ("said", "expected", "code"), SAID.values(), ids=[f"R24-{name}".replace(" ", "_") for name in SAID]
)
async def test_a_refusal_in_the_middle_of_content_is_the_error(
    said: bytes, expected: type[SMTPError], code: int, end: str, mode: str
) -> None:
    """R24, R3: and not the broken pipe that follows it (anyio's own stream lost it in 20 of 20 runs)."""

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "content", "PIPELINING")
        await peer.write(said)
        if end == "resets":
            peer.reset()
        elif end == "closes with octets unread":
            peer.close_at_once()
        # else the script's end closes

    honest = Honest()
    async with Server(inside(mode, misbehave), inside(mode, honest)) as server:
        async with client_at(server, **options_of(mode)) as client:
            error = await failure_of(client, LARGE)
            assert type(error) is expected
            assert error.reply is not None
            assert error.reply.code == code
            assert error.retryable is (code < 500)
            assert not error.unknown
            await assert_next_arrives(client, server, honest)


@pytest.mark.parametrize("mode", ["in clear", "TLS"])
async def test_small_content_refused_before_it_was_read(mode: str) -> None:
    """R24: the 354, the 552 and the reset at once, while content and dot are being written."""

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "data", "PIPELINING")
        await peer.write(b"354 go\r\n")
        await peer.write(b"552 5.3.4 no\r\n")
        peer.close_at_once()

    honest = Honest()
    async with Server(inside(mode, misbehave), inside(mode, honest)) as server:
        async with client_at(server, **options_of(mode)) as client:
            error = await failure_of(client)
            assert type(error) is MessageRefused
            assert list(error.refused) == ["you@example.org"]
            await assert_next_arrives(client, server, honest)


GROUPS: dict[str, tuple[bytes, type[SMTPError]]] = {
    "421 to MAIL": (b"421 4.3.2 closing\r\n", ServiceUnavailable),
    "421 in the group": (b"250 ok\r\n" * 100 + b"421 4.3.2 closing\r\n", ServiceUnavailable),
    "MAIL refused": (b"550 5.7.1 no\r\n", SenderRefused),
    "all refused": (b"250 ok\r\n" + b"550 5.1.1 no\r\n" * 5000, RecipientsRefused),
    "nothing": (b"", ConnectionLost),
}


@pytest.mark.exhaustive(keep=3)
@pytest.mark.parametrize("mode", ["in clear", "TLS"])
@pytest.mark.parametrize(
    ("said", "expected"), GROUPS.values(), ids=[f"R24-{name}".replace(" ", "_") for name in GROUPS]
)
async def test_a_refusal_while_a_large_group_is_written_is_the_error(
    said: bytes, expected: type[SMTPError], mode: str
) -> None:
    """R24: 5,000 recipients, of whom the server reads a few, answers, and closes."""
    recipients = [f"recipient-{n:04}-{'x' * 40}@example.org" for n in range(5000)]

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "hello")
        await peer.write(ehlo_reply("PIPELINING"))
        await peer.read_until(b"MAIL")
        await peer.write(said)
        await peer.wait_until_delivered()

    async with Server(inside(mode, misbehave)) as server, client_at(server, **options_of(mode)) as client:
        error = await failure_of(client, recipients=recipients)
    assert type(error) is expected
    assert not error.unknown
    assert error.retryable is (expected in (ServiceUnavailable, ConnectionLost))


async def test_what_was_said_before_the_command_that_could_not_be_written() -> None:
    """R24, R8: in lockstep: the 421 came behind a reply, then the end; the next write would fail."""
    is_gone = anyio.Event()

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "rcpt")
        await peer.write(b"250 recipient\r\n")
        await peer.write(b"421 4.3.2 closing\r\n")
        peer.reset()
        is_gone.set()

    honest = Honest()
    async with Server(misbehave, honest) as server, client_at(server) as client:
        error = await failure_of(client)
        await is_gone.wait()
        assert type(error) is ServiceUnavailable
        assert error.not_sent == ("you@example.org",)
        await assert_next_arrives(client, server, honest)


@pytest.mark.parametrize("end", ["closes", "resets"])
async def test_a_verdict_that_came_before_the_end_counts(end: str) -> None:
    """R24, R2: the server read everything, said 250 and was gone."""

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "end of data", "PIPELINING")
        await peer.write(b"250 taken\r\n")
        if end == "resets":
            peer.reset()

    async with Server(misbehave) as server, client_at(server) as client:
        for content in (FIRST, LARGE):
            assert (await client.send(content)).complete
