"""R6: each limit holds to the octet: what is just within is taken, what is just beyond is refused."""

from __future__ import annotations

import base64

import anyio
import pytest

from smtplite import DeliveryUnknown, RemoteProtocolError, sasl

from .dialogue import ASYNCIO_AND_TRIO, FIRST, SECOND, client_at, failure_of, up_to
from .server import Honest, Peer, Server, ehlo_reply

pytestmark = pytest.mark.anyio

EVENT_LOOPS = ASYNCIO_AND_TRIO

MAX_LINE_BYTES = 4096
MAX_REPLY_BYTES = 102_400
MAX_CHALLENGE_BASE64_BYTES = 12_288
MAX_CHALLENGES = 6


def line_of(size: int, code: bytes = b"250", separator: bytes = b" ") -> bytes:
    """Return a line of a reply with `size` octets, its CRLF included."""
    return code + separator + b"x" * (size - 6) + b"\r\n"


def reply_of(size: int, code: bytes = b"250") -> bytes:
    """Return a reply of several lines, with `size` octets in all."""
    count, rest = divmod(size - 10, 1000)
    return line_of(1000, code, b"-") * count + line_of(rest + 10, code)


@pytest.mark.parametrize("phase", ["greeting", "EHLO", "MAIL", "RCPT", "."])
@pytest.mark.parametrize("make", [line_of, reply_of], ids=["R6-line", "R6-reply"])
async def test_up_to_the_limit_it_is_a_reply(phase: str, make: object) -> None:
    """R6: 4 KiB a line, 100 KiB a reply."""
    limit = MAX_LINE_BYTES if make is line_of else MAX_REPLY_BYTES
    code = b"220" if phase == "greeting" else b"250"
    reply = (line_of if make is line_of else reply_of)(limit, code)
    assert len(reply) == limit
    honest = Honest(says={phase: reply})
    async with Server(honest) as server, client_at(server) as client:
        assert (await client.send(FIRST)).complete
        assert (await client.send(SECOND)).complete
    assert len(honest.messages) == 2


@pytest.mark.parametrize("phase", ["greeting", "hello", "mail", "rcpt", "data", "end of data"])
@pytest.mark.parametrize("make", [line_of, reply_of], ids=["R6-line", "R6-reply"])
@pytest.mark.parametrize("is_ended", [True, False], ids=["ended", "without_end"])
async def test_one_octet_beyond_the_limit_it_is_an_attack(phase: str, make: object, is_ended: bool) -> None:
    """R6: with or without an end."""
    limit = MAX_LINE_BYTES if make is line_of else MAX_REPLY_BYTES
    reply = (line_of if make is line_of else reply_of)(limit + 1, b"220" if phase == "greeting" else b"250")
    if not is_ended:
        reply = reply[:-2] + b"xx" if make is line_of else reply.replace(b"0 ", b"0-")

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, phase)
        await peer.write(reply)
        assert await peer.read_to_the_end() == b""

    honest = Honest()
    async with Server(misbehave, honest) as server, client_at(server) as client:
        error = await failure_of(client)
        assert type(error) is (DeliveryUnknown if phase == "end of data" else RemoteProtocolError)
        cause = error.__cause__ if phase == "end of data" else error
        assert f"of more than {limit} bytes" in str(cause)
        assert (await client.send(SECOND)).complete


class Patient(sasl.Mechanism):
    """Answers every challenge."""

    name = "X-PATIENT"

    def steps(self) -> sasl.Steps:
        response = None
        while True:
            challenge = yield response
            if challenge is None:
                return
            response = b"and"


async def challenge(peer: Peer, count: int, size: int) -> None:
    """Send challenges of `size` octets of base64, then success."""
    await peer.write(b"220 mx\r\n")
    await peer.read_line()
    await peer.write(ehlo_reply("AUTH X-PATIENT"))
    assert await peer.read_line() == b"AUTH X-PATIENT"
    for _ in range(count):
        await peer.write(b"334 " + base64.b64encode(bytes(size // 4 * 3)) + b"\r\n")
        assert await peer.read_line() == base64.b64encode(b"and")
    await peer.write(b"235 welcome\r\n")


@pytest.mark.parametrize(
    ("count", "size", "is_taken"),
    [
        pytest.param(1, MAX_CHALLENGE_BASE64_BYTES, True, id="R6-12288_octets"),
        pytest.param(1, MAX_CHALLENGE_BASE64_BYTES + 4, False, id="R6-12292_octets"),
        pytest.param(MAX_CHALLENGES, 4, True, id="R6-6_challenges"),
        pytest.param(MAX_CHALLENGES + 1, 4, False, id="R6-7_challenges"),
        pytest.param(MAX_CHALLENGES, MAX_CHALLENGE_BASE64_BYTES, True, id="R6-6_of_12288_octets"),
    ],
)
async def test_challenges_have_a_limit_in_size_and_in_number(count: int, size: int, is_taken: bool) -> None:
    """R6: RFC 4954 4 asks for 12,288 octets; no mechanism needs six rounds."""
    honest = Honest()
    ended = anyio.Event()

    async def misbehave(peer: Peer) -> None:
        try:
            await challenge(peer, count, size)
            await honest.go_on(peer)
        finally:
            ended.set()

    auth = Patient()
    async with Server(misbehave) as server, client_at(server, auth=auth, allow_insecure_auth=True) as client:
        if is_taken:
            assert (await client.send(FIRST)).complete
        else:
            assert type(await failure_of(client)) is RemoteProtocolError
            await ended.wait()
            assert honest.commands == []
