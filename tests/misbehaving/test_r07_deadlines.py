"""R7: one deadline for each reply, from its command to its last octet; and one for each piece of content.

The clocks here skip the time in which nothing happens, so the deadlines are those of RFC 5321, and no test waits.
"""

from __future__ import annotations

import anyio
import pytest

from smtplite import DeliveryUnknown, SMTPTimeout, Timeouts

from .dialogue import (
    FIRST,
    LARGE,
    assert_next_arrives,
    client_at,
    content_for,
    failure_of,
    options_for,
    server_for,
    skips_time,
    tls_contexts,
    up_to,
)
from .server import Honest, Peer, Server, ehlo_reply

pytestmark = [pytest.mark.anyio, skips_time]

LIMITS = [
    ("greeting", 30),
    ("hello", 60),
    ("starttls", 60),
    ("auth", 60),
    ("mail", 60),
    ("rcpt", 60),
    ("data", 120),
    ("end of data", 600),
]


@pytest.mark.exhaustive(keep=8)
@pytest.mark.parametrize(("phase", "seconds"), LIMITS, ids=[f"R7-{phase}".replace(" ", "_") for phase, _ in LIMITS])
@pytest.mark.parametrize(
    ("beginning", "piece"),
    [
        pytest.param(b"250-", b"x", id="one_octet"),
        pytest.param(b"", b"250-still working on it\r\n", id="one_line"),
    ],
)
async def test_a_reply_that_drips_does_not_move_its_deadline(
    phase: str, seconds: float, beginning: bytes, piece: bytes
) -> None:
    """R7: a deadline in total, not for each read."""

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, phase)
        await peer.write(beginning)
        for _ in range(20):
            await anyio.sleep(seconds / 12)
            await peer.write(piece)
        raise AssertionError("the client is still there")

    honest = server_for(phase)
    async with Server(misbehave, honest) as server, client_at(server, **options_for(phase)) as client:
        begun = anyio.current_time()
        error = await failure_of(client, content_for(phase))
        assert seconds - 1 <= anyio.current_time() - begun <= seconds + 1
        if phase == "end of data":
            assert type(error) is DeliveryUnknown
            assert type(error.__cause__) is SMTPTimeout
        else:
            assert type(error) is SMTPTimeout
        await assert_next_arrives(client, server, honest)


async def test_one_octet_every_quarter_of_a_second() -> None:
    """R7: keeps no client alive."""

    async def drip(peer: Peer) -> None:
        await peer.write(b"220-")
        while True:
            await anyio.sleep(0.25)
            await peer.write(b"x")

    async with Server(drip) as server, client_at(server, timeouts=Timeouts(greeting=3)) as client:
        begun = anyio.current_time()
        assert type(await failure_of(client)) is SMTPTimeout
        assert 2.8 <= anyio.current_time() - begun <= 3.1


async def test_each_reply_of_a_group_has_its_own_deadline_and_no_more() -> None:
    """R7: from the reply before it; a server that is slow and goes on is not given up."""

    async def slow(peer: Peer) -> None:
        await up_to(peer, "mail", "PIPELINING")
        for reply in (b"250 sender\r\n", *(b"250 recipient\r\n" for _ in range(5)), b"354 go\r\n"):
            await anyio.sleep(50)
            await peer.write(reply)
        await peer.read_content()
        await anyio.sleep(500)
        await peer.write(b"250 taken\r\n")
        await peer.read_line()
        await peer.write(b"221 bye\r\n")

    recipients = [f"{name}@example.org" for name in "abcde"]
    async with Server(slow) as server, client_at(server) as client:
        begun = anyio.current_time()
        assert (await client.send(FIRST, recipients=recipients)).complete
        assert 849 <= anyio.current_time() - begun <= 852


async def test_the_limit_for_the_whole_call_holds_over_all_replies() -> None:
    """R7: one overall deadline on top."""

    async def slow(peer: Peer) -> None:
        await up_to(peer, "mail")
        for reply in (b"250 sender\r\n", b"250 recipient\r\n", b"354 go\r\n"):
            await anyio.sleep(50)
            await peer.write(reply)
            await peer.read_line()

    honest = Honest()
    async with Server(slow, honest) as server, client_at(server) as client:
        begun = anyio.current_time()
        error = await failure_of(client, timeout=75)
        assert 74.9 <= anyio.current_time() - begun <= 75.2
        assert type(error) is SMTPTimeout
        assert error.phase == "rcpt"
        await assert_next_arrives(client, server, honest)


@pytest.mark.parametrize("timeout", [20, 700])
async def test_what_time_leaves_is_judged_by_what_was_handed_over(timeout: float) -> None:
    """R7, R1: the overall deadline behind the dot leaves it unknown, whichever deadline it was."""

    async def slow(peer: Peer) -> None:
        await up_to(peer, "end of data", "PIPELINING")
        await peer.read_to_the_end()

    async with Server(slow) as server, client_at(server) as client:
        begun = anyio.current_time()
        error = await failure_of(client, timeout=timeout)
        assert min(timeout, 600) - 1 <= anyio.current_time() - begun <= min(timeout, 600) + 1
    assert type(error) is DeliveryUnknown
    assert type(error.__cause__) is SMTPTimeout
    assert error.unknown == ("you@example.org",)


# Content


async def test_content_that_nobody_takes() -> None:
    """R7: 180 s for each piece."""
    is_over = anyio.Event()

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "content", "PIPELINING")
        await is_over.wait()

    honest = Honest()
    async with Server(misbehave, honest) as server, client_at(server) as client:
        begun = anyio.current_time()
        error = await failure_of(client, LARGE)
        is_over.set()
        assert 179 <= anyio.current_time() - begun <= 181
        assert type(error) is SMTPTimeout
        assert error.not_sent == ("you@example.org",)
        await assert_next_arrives(client, server, honest)


async def test_content_that_is_taken_octet_by_octet() -> None:
    """R7: an octet now and then is no progress."""
    is_over = anyio.Event()

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "content", "PIPELINING")
        while not is_over.is_set():
            peer.take_octets(1)
            await anyio.sleep(15)

    honest = Honest()
    async with Server(misbehave, honest) as server, client_at(server) as client:
        begun = anyio.current_time()
        error = await failure_of(client, LARGE)
        is_over.set()
        assert anyio.current_time() - begun <= 400
        assert type(error) is SMTPTimeout
        assert error.not_sent == ("you@example.org",)
        await assert_next_arrives(client, server, honest)


async def test_content_that_is_taken_slowly_but_taken_arrives() -> None:
    """R7: the deadline is that of a piece, not of the message."""

    async def slow(peer: Peer) -> None:
        await up_to(peer, "content", "PIPELINING")
        content = b""
        while not content.endswith(b"\r\n.\r\n"):
            content += await peer.read_some()
            if len(content) // 2_000_000 > (len(content) - 65_536) // 2_000_000:
                await anyio.sleep(100)
        await peer.write(b"250 taken\r\n")
        await peer.read_line()
        await peer.write(b"221 bye\r\n")

    async with Server(slow) as server, client_at(server) as client:
        begun = anyio.current_time()
        assert (await client.send(LARGE)).complete
        assert anyio.current_time() - begun > 500


# TLS


@pytest.mark.parametrize("mode", ["implicit", "starttls"])
async def test_a_handshake_that_drips(mode: str) -> None:
    """R7: 10 s for all of it."""
    _, ours = tls_contexts()

    async def drip(peer: Peer) -> None:
        if mode == "starttls":
            await up_to(peer, "starttls")
            await peer.write(b"220 go\r\n")
        await peer.read_some()  # the ClientHello: what comes before it, is an attack
        # The header of a handshake record of 16 KiB, and then one octet after another.
        await peer.write(b"\x16\x03\x03\x40\x00")
        while True:
            await anyio.sleep(2)
            await peer.write(b"\x02")

    async with Server(drip) as server, client_at(server, tls=mode, tls_context=ours) as client:
        begun = anyio.current_time()
        error = await failure_of(client)
        assert 9 <= anyio.current_time() - begun <= 11
    assert type(error) is SMTPTimeout
    assert error.phase == "tls"
    assert error.not_sent == ("you@example.org",)


async def test_records_without_a_word_do_not_move_the_deadline_either() -> None:
    """R7: inside TLS, octets that bring no reply."""
    theirs, ours = tls_contexts()

    async def drip(peer: Peer) -> None:
        await peer.begin_tls(theirs)
        await peer.write(b"220-")
        while True:
            await anyio.sleep(3)
            await peer.write(b"x")

    async with Server(drip) as server, client_at(server, tls="implicit", tls_context=ours) as client:
        begun = anyio.current_time()
        assert type(await failure_of(client)) is SMTPTimeout
        assert 29 <= anyio.current_time() - begun <= 31


async def test_challenges_that_drip_have_one_deadline_each() -> None:
    """R7: an exchange of a few slow steps is bounded by their number (R6)."""

    async def slow(peer: Peer) -> None:
        await peer.write(b"220 mx\r\n")
        await peer.read_line()
        await peer.write(ehlo_reply("AUTH LOGIN"))
        while True:
            await peer.read_line()
            await anyio.sleep(50)
            await peer.write(b"334 \r\n")

    options = {"username": "me", "password": "secret", "allow_insecure_auth": True}
    async with Server(slow) as server, client_at(server, **options) as client:
        begun = anyio.current_time()
        error = await failure_of(client)
        assert anyio.current_time() - begun <= 7 * 60
        assert error.not_sent == ("you@example.org",)
