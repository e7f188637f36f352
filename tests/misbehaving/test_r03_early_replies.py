"""R3: only the reply that answers the end of data can mean "delivered"."""

from __future__ import annotations

import anyio
import pytest

from smtplite import MessageRefused, RemoteProtocolError, ServiceUnavailable, SMTPError, SMTPTimeout

from .dialogue import FIRST, LARGE, assert_next_arrives, asyncio_and_trio, client_at, failure_of, skips_time, up_to
from .server import Honest, Peer, Server

pytestmark = pytest.mark.anyio

EARLY = {
    # said in front of the end of data -> what it means
    b"250 2.0.0 taken\r\n": (RemoteProtocolError, None),
    b"200 ok\r\n": (RemoteProtocolError, None),
    b"354 go on\r\n": (RemoteProtocolError, None),
    b"250-2.0.0 taken\r\n250 2.0.0 all of it\r\n": (RemoteProtocolError, None),
    b"250 2.0.0 taken\r\n552 no\r\n": (RemoteProtocolError, None),
    b"552 5.3.4 too much\r\n": (MessageRefused, 552),
    b"452 4.3.1 full\r\n": (MessageRefused, 452),
    b"550-5.7.1 spam\r\n550 5.7.1 in line 3\r\n": (MessageRefused, 550),
    b"552 5.3.4 too much\r\n250 taken, after all\r\n": (MessageRefused, 552),
    b"421 4.3.2 closing\r\n": (ServiceUnavailable, 421),
}
SAID = pytest.mark.parametrize(
    ("said", "expected", "code"),
    [(said, *meaning) for said, meaning in EARLY.items()],
    ids=["R3-" + said[:-2].decode().replace("\r\n", "+").replace(" ", "_") for said in EARLY],
)


def assert_meaning(error: SMTPError, expected: type[SMTPError], code: int | None) -> None:
    assert type(error) is expected
    assert not error.unknown  # the dot was never sent, so it is certain
    assert (error.reply and error.reply.code) == code
    assert error.retryable is (code in (421, 452))
    if expected is MessageRefused:
        assert list(error.refused) == ["you@example.org"]
    else:
        assert error.not_sent == ("you@example.org",)


@SAID
@pytest.mark.parametrize("keywords", [("PIPELINING",), ()], ids=["pipelined", "lockstep"])
async def test_a_reply_in_the_same_segment_as_the_354(
    said: bytes, expected: type[SMTPError], code: int | None, keywords: tuple[str, ...]
) -> None:
    """R3: it was there before the content; of which not one octet is sent."""

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "data", *keywords)
        await peer.write(b"354 go\r\n" + said)
        assert await peer.read_to_the_end() == b""

    honest = Honest(*keywords)
    async with Server(misbehave, honest) as server, client_at(server) as client:
        assert_meaning(await failure_of(client), expected, code)
        await assert_next_arrives(client, server, honest)


@pytest.mark.exhaustive(keep=12)
@asyncio_and_trio
@SAID
@pytest.mark.parametrize("then", ["reads_on", "reads_no_more", "closes", "resets"])
async def test_a_reply_while_the_content_is_written(
    said: bytes, expected: type[SMTPError], code: int | None, then: str
) -> None:
    """R3, R24: read though the write side is stuck, or died; and the dot is never sent."""
    is_over = anyio.Event()

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "content", "PIPELINING")
        await peer.write(said)
        if then == "reads_on":
            assert b"\r\n.\r\n" not in await peer.read_to_the_end()
        elif then == "reads_no_more":
            await is_over.wait()
        elif then == "closes":
            peer.close()
        else:
            peer.reset()

    honest = Honest()
    async with Server(misbehave, honest) as server, client_at(server) as client:
        assert_meaning(await failure_of(client, LARGE), expected, code)
        is_over.set()
        await assert_next_arrives(client, server, honest)


@skips_time
@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        pytest.param(b"0 taken\r\n", RemoteProtocolError, id="R3-250"),
        pytest.param(b"52 too much\r\n", RemoteProtocolError, id="R3-2552"),
        pytest.param(b"", SMTPTimeout, id="R3-nothing"),
    ],
)
async def test_a_reply_that_began_before_the_dot_is_waited_for_before_it(
    rest: bytes, expected: type[SMTPError]
) -> None:
    """R3, R7: the dot is not written behind the first octets of a reply; they would become its verdict."""

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "content", "PIPELINING")
        await peer.write(b"25")
        await anyio.sleep(1)  # skipped once the client has nothing left to do, or waits for us
        await peer.write(rest)
        assert not (await peer.read_to_the_end()).endswith(b"\r\n.\r\n")

    honest = Honest()
    async with Server(misbehave, honest) as server, client_at(server) as client:
        error = await failure_of(client, LARGE)
        assert type(error) is expected
        assert error.not_sent == ("you@example.org",)
        await assert_next_arrives(client, server, honest)


@pytest.mark.parametrize("keywords", [("PIPELINING",), ()], ids=["pipelined", "lockstep"])
async def test_a_verdict_for_a_message_before_its_mail_is_none(keywords: tuple[str, ...]) -> None:
    """R3, R8: a second 250 behind the first message's is not the second message's verdict."""
    both = b"250 taken\r\n250 and the next one, too\r\n"

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "end of data", *keywords)
        await peer.write(both)
        assert b"MAIL" not in await peer.read_to_the_end()

    honest = Honest(*keywords)
    async with Server(misbehave, honest) as server, client_at(server) as client:
        assert (await client.send(FIRST)).complete
        await assert_next_arrives(client, server, honest)


async def test_every_reply_shifted_by_one_delivers_nothing_falsely() -> None:
    """R3: a greeting said twice shifts all counts; no 250 to RCPT may be taken for the verdict."""

    async def misbehave(peer: Peer) -> None:
        await peer.write(b"220 one\r\n", b"220 two\r\n")
        await peer.read_to_the_end()

    async with Server(misbehave) as server, client_at(server) as client:
        error = await failure_of(client)
    assert type(error) is RemoteProtocolError
    assert error.not_sent == ("you@example.org",)


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        pytest.param(b"250 a\r\n250 b\r\n250 c\r\n354 go\r\n", RemoteProtocolError, id="R3-a_250_too_many"),
        pytest.param(b"250 a\r\n250 b\r\n354 go\r\n354 go\r\n", RemoteProtocolError, id="R3-a_354_too_many"),
        pytest.param(b"250 a\r\n354 go\r\n", RemoteProtocolError, id="R3-a_250_missing"),
    ],
)
async def test_a_group_answered_with_a_wrong_number_of_replies(group: bytes, expected: type[SMTPError]) -> None:
    """R3: replies are matched by counting; where the classes cannot be right, nothing was delivered."""

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "mail", "PIPELINING")
        await peer.write(group)
        assert await peer.read_to_the_end() == b""

    honest = Honest()
    async with Server(misbehave, honest) as server, client_at(server) as client:
        error = await failure_of(client)
        assert type(error) is expected
        assert error.not_sent == ("you@example.org",)
        await assert_next_arrives(client, server, honest)
