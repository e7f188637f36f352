"""R2: a complete final reply decides, whatever happens next; and nothing of that delays it."""

from __future__ import annotations

import anyio
import pytest

from smtplite import MessageRefused, Timeouts

from .dialogue import FIRST, SECOND, Fault, client_at, skips_time, up_to
from .server import Honest, Left, Peer, Server

pytestmark = pytest.mark.anyio

VERDICT = b"250 2.0.0 taken\r\n"
TLS_ALERT = b"\x15\x03\x03\x00\x02\x02\x28"


async def stay(peer: Peer) -> None:
    await peer.read_to_the_end()


async def reset(peer: Peer) -> None:
    peer.reset()


async def close(peer: Peer) -> None:
    peer.close()


async def flood(peer: Peer) -> None:
    await peer.flood(b"250 again\r\n" * 1000, limit=30_000_000)


BEHIND = {
    "junk": (b"junk\r\n", stay),
    "half a reply": (b"25", stay),
    "one octet": (b"\0", stay),
    "another 250": (VERDICT, stay),
    "a refusal": (b"554 5.7.1 no, after all\r\n", stay),
    "a 421": (b"421 4.3.2 closing\r\n", stay),
    "a 354": (b"354 go\r\n", stay),
    "a TLS alert": (TLS_ALERT, stay),
    "an endless line": (b"x" * 20_000, stay),
    "replies without end": (b"250 again\r\n", flood),
    "a reset": (b"", reset),
    "junk and a reset": (b"junk\r\n", reset),
    "a 421 and a reset": (b"421 4.3.2 closing\r\n", reset),
    "the end": (b"", close),
    "a 421 and the end": (b"421 4.3.2 closing\r\n", close),
}


@pytest.mark.exhaustive(keep=16)
@pytest.mark.parametrize("in_one_segment", [True, False], ids=["same_segment", "later"])
@pytest.mark.parametrize(("said", "then"), BEHIND.values(), ids=[f"R2-{name}".replace(" ", "_") for name in BEHIND])
async def test_what_comes_behind_a_250_changes_nothing(said: bytes, then: Fault, in_one_segment: bool) -> None:
    """R2: delivered stays delivered; the connection is not used again, and the next message is not harmed."""

    is_said = anyio.Event()

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "end of data", "PIPELINING")
        await peer.write(*((VERDICT + said,) if in_one_segment else (VERDICT, said)))
        await peer.wait_until_delivered()
        if then in (reset, close):
            await then(peer)
        is_said.set()
        await then(peer)

    honest = Honest()
    async with Server(misbehave, honest) as server:
        async with client_at(server, max_connections=1) as client:
            receipt = await client.send(FIRST)
            assert receipt.complete
            assert receipt.reply is not None
            assert receipt.reply.text == "2.0.0 taken"
            await is_said.wait()
            assert (await client.send(SECOND)).complete
            assert [message.content for message in honest.messages] == [SECOND]
        assert b"second" not in server.peers[0].received


@pytest.mark.parametrize("refusal", [b"554 5.7.1 no\r\n", b"452 4.3.1 full\r\n"], ids=["R2-554", "R2-452"])
@pytest.mark.parametrize("said", [b"250 taken, after all\r\n", b"junk\r\n"], ids=["then_250", "then_junk"])
async def test_what_comes_behind_a_refusal_changes_nothing_either(refusal: bytes, said: bytes) -> None:
    """R2, R3: no 250 that nobody waits for makes a refused message a delivered one."""

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "end of data", "PIPELINING")
        await peer.write(refusal + said)
        await peer.read_to_the_end()

    honest = Honest()
    async with Server(misbehave, honest) as server, client_at(server) as client:
        with pytest.raises(MessageRefused) as caught:
            await client.send(FIRST)
        assert caught.value.reply is not None
        assert caught.value.reply.code == int(refusal[:3])
        assert (await client.send(SECOND)).complete
        assert [message.content for message in honest.messages] == [SECOND]


# QUIT


async def stall(peer: Peer) -> None:
    await peer.read_to_the_end()


async def drip(peer: Peer) -> None:
    while True:
        await peer.write(b"2")
        await anyio.sleep(1)


def say(said: bytes) -> Fault:
    async def then(peer: Peer) -> None:
        await peer.write(said)
        await peer.read_to_the_end()

    return then


QUITS = {
    "stall": stall,
    "drip": drip,
    "flood": flood,
    "reset": reset,
    "close": close,
    "500": say(b"500 what\r\n"),
    "421": say(b"421 closing\r\n"),
    "354": say(b"354 go\r\n"),
    "junk": say(b"junk\r\n"),
    "endless line": say(b"221 " + b"x" * 100_000),
}


@skips_time
@pytest.mark.parametrize("ending", QUITS.values(), ids=[f"R2-{name}".replace(" ", "_") for name in QUITS])
async def test_a_quit_that_goes_wrong_turns_nothing_into_an_error(ending: Fault) -> None:
    """R2: neither at the end of the client, nor when a connection is replaced; and delays it by 5 s at most."""

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "end of data", "PIPELINING")
        await peer.write(VERDICT)
        assert await peer.read_line() == b"QUIT"
        await ending(peer)

    async with Server(misbehave) as server:
        client = client_at(server)
        assert (await client.send(FIRST)).complete
        begun = anyio.current_time()
        await client.aclose()
        assert anyio.current_time() - begun <= 5.1

        async with client_at(server, max_messages_per_connection=1) as client:
            begun = anyio.current_time()
            for _ in range(2):
                assert (await client.send(FIRST)).complete
            assert anyio.current_time() - begun <= 1  # QUIT is said and nobody stays for the reply
        assert len(server.peers) == 3


@skips_time
async def test_many_quits_that_stall_are_waited_for_together() -> None:
    """R2: the bound holds for the client, not for each connection one after another."""
    all_here = anyio.Event()
    count = 0

    async def misbehave(peer: Peer) -> None:
        nonlocal count
        await up_to(peer, "end of data", "PIPELINING")
        count += 1
        if count == 5:
            all_here.set()
        await all_here.wait()
        await peer.write(VERDICT)
        assert await peer.read_line() == b"QUIT"
        await peer.read_to_the_end()

    async with Server(misbehave) as server:
        client = client_at(server, max_connections=5, timeouts=Timeouts(quit=3))
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(client.send, FIRST)
        begun = anyio.current_time()
        await client.aclose()
        assert anyio.current_time() - begun <= 3.1
        assert len(server.peers) == 5


async def test_a_verdict_is_not_waited_for_to_be_followed_by_anything() -> None:
    """R2: `send` returns with the last octet of the reply, not with the next one, nor with the end."""
    returned = anyio.Event()

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "end of data", "PIPELINING")
        await peer.write(b"250-2.0.0 ta", b"ken\r\n250", b" 2.0.0 taken\r", b"\n")
        await returned.wait()
        assert await peer.read_line() == b"QUIT"
        await peer.write(b"221 bye\r\n")

    async with Server(misbehave) as server, client_at(server) as client:
        assert (await client.send(FIRST)).complete
        returned.set()


async def test_the_reset_of_a_server_that_said_250_and_died_is_no_error() -> None:
    """R2: both arrive together, and the octets in front of the reset are read."""

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "end of data", "PIPELINING")
        await peer.write(VERDICT)
        peer.reset()
        raise Left

    async with Server(misbehave) as server:
        async with client_at(server, max_messages_per_connection=1) as client:
            for _ in range(20):
                assert (await client.send(FIRST)).complete
        assert len(server.peers) == 20
