"""R8: an octet that nobody asked for: 421 says that the server closes, anything else breaks the protocol.

In the pool it is found before the next message is written, and nobody hears of it.
"""

from __future__ import annotations

import anyio
import pytest

from smtplite import RemoteProtocolError, ServiceUnavailable

from .dialogue import ASYNCIO_AND_TRIO, FIRST, SECOND, assert_next_arrives, client_at, failure_of, tls_contexts, up_to
from .server import Honest, Peer, Server, ehlo_reply, turns

pytestmark = pytest.mark.anyio

EVENT_LOOPS = ASYNCIO_AND_TRIO

UNASKED = {
    "421": b"421 4.4.2 idle for too long\r\n",
    "421 in two lines": b"421-4.3.2 closing\r\n421 4.3.2 bye\r\n",
    "half a 421": b"42",
    "421 without its end": b"421 4.4.2 idle",
    "junk": b"junk\r\n",
    "one octet": b"\0",
    "250": b"250 taken\r\n",
    "220": b"220 mx.example ESMTP\r\n",
    "354": b"354 go\r\n",
    "554": b"554 5.7.1 no\r\n",
    "a TLS record": b"\x15\x03\x03\x00\x02\x01\x00",
    "much": b"250 again\r\n" * 2000,
    "nothing, then the end": b"",
}


@pytest.mark.exhaustive(keep=12)
@pytest.mark.parametrize("said", UNASKED.values(), ids=[f"R8-{name}".replace(" ", "_") for name in UNASKED])
@pytest.mark.parametrize("mode", ["none", "implicit"])
async def test_what_arrives_in_the_pool_takes_the_connection_out_of_use(said: bytes, mode: str) -> None:
    """R8: silently: the next message goes on a new connection at once, and nothing more on the old one."""
    theirs, ours = tls_contexts()
    speak, spoken = anyio.Event(), anyio.Event()
    honest = Honest()

    async def misbehave(peer: Peer) -> None:
        if mode == "implicit":
            await peer.begin_tls(theirs)
        await up_to(peer, "end of data", "PIPELINING")
        await peer.write(b"250 2.0.0 taken\r\n")
        await speak.wait()
        if not said:
            peer.close()
            spoken.set()
            return
        await peer.write(said)
        await peer.wait_until_delivered()
        spoken.set()
        assert await peer.read_to_the_end() == b""

    async def serve(peer: Peer) -> None:
        if mode == "implicit":
            await peer.begin_tls(theirs)
        await honest(peer)

    tls = {"tls": mode, "tls_context": ours} if mode == "implicit" else {}
    async with Server(misbehave, serve) as server, client_at(server, max_connections=1, **tls) as client:
        assert (await client.send(FIRST)).complete
        speak.set()
        await spoken.wait()
        await turns()
        await assert_next_arrives(client, server, honest)
        assert (await client.send(FIRST)).complete
        assert len(server.peers) == 2


async def test_a_clear_record_inside_tls_takes_the_connection_out_of_use() -> None:
    """R8: octets that are no TLS at all."""
    theirs, ours = tls_contexts()
    speak, spoken = anyio.Event(), anyio.Event()
    honest = Honest()

    async def misbehave(peer: Peer) -> None:
        await peer.begin_tls(theirs)
        await up_to(peer, "end of data", "PIPELINING")
        await peer.write(b"250 2.0.0 taken\r\n")
        await speak.wait()
        await peer.write_to_the_wire(b"421 4.4.2 in clear\r\n")
        await peer.wait_until_delivered()
        spoken.set()
        await peer.read_to_the_end()

    async def serve(peer: Peer) -> None:
        await peer.begin_tls(theirs)
        await honest(peer)

    async with Server(misbehave, serve) as server:
        async with client_at(server, tls="implicit", tls_context=ours) as client:
            assert (await client.send(FIRST)).complete
            speak.set()
            await spoken.wait()
            await assert_next_arrives(client, server, honest)


GAPS = ["greeting", "hello", "auth", "mail", "rcpt", "second rcpt", "data"]
REPLIES = {
    "greeting": b"220 mx\r\n",
    "hello": ehlo_reply(),
    "auth": b"235 welcome\r\n",
    "mail": b"250 sender\r\n",
    "rcpt": b"250 a\r\n",
    "second rcpt": b"250 b\r\n",
    "data": b"354 go\r\n",
}


IN_THE_GAP = {
    "421": (b"421 4.3.2 closing\r\n", ServiceUnavailable),
    "250": (b"250 ok\r\n", RemoteProtocolError),
    "2": (b"2", RemoteProtocolError),  # between 354 and the dot it may begin a refusal: see test_r03_early_replies
    "junk": (b"junk\r\n", RemoteProtocolError),
}


@pytest.mark.parametrize(
    ("gap", "said", "expected"),
    [
        pytest.param(gap, *IN_THE_GAP[name], id=f"R8-behind_{gap}-{name}".replace(" ", "_"))
        for gap in GAPS
        for name in IN_THE_GAP
        if (gap, name) != ("data", "2")
    ],
)
async def test_before_every_command_it_is_looked_for(gap: str, said: bytes, expected: type[Exception]) -> None:
    """R8: in lockstep there is a gap behind every reply; the next command is not written."""
    recipients = ["a@example.org", "b@example.org"]

    async def misbehave(peer: Peer) -> None:
        for phase in GAPS:
            if phase == "auth" and gap != "auth":
                continue
            if phase != "greeting":
                await peer.read_line()
            reply = ehlo_reply("AUTH PLAIN") if phase == "hello" and gap == "auth" else REPLIES[phase]
            if phase == gap:
                await peer.write(reply + said)
                assert await peer.read_to_the_end() == b""
                return
            await peer.write(reply)

    honest = Honest("AUTH PLAIN")
    options = {"username": "me", "password": "secret", "allow_insecure_auth": True} if gap == "auth" else {}
    async with Server(misbehave, honest) as server, client_at(server, **options) as client:
        error = await failure_of(client, recipients=recipients)
        assert type(error) is expected
        assert error.retryable is (expected is ServiceUnavailable)
        assert error.not_sent == tuple(recipients)
        assert (await client.send(SECOND)).complete
    assert [message.content for message in honest.messages] == [SECOND]


async def test_a_connection_that_check_left_idle_is_looked_at_too() -> None:
    """R8: whoever put it into the pool."""
    spoken = anyio.Event()

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "hello")
        await peer.write(ehlo_reply())
        assert await peer.read_line() == b"NOOP"
        await peer.write(b"250 ok\r\n")
        await turns()
        await peer.write(b"421 idle\r\n")
        await peer.wait_until_delivered()
        spoken.set()
        assert await peer.read_to_the_end() == b""

    honest = Honest()
    async with Server(misbehave, honest) as server, client_at(server) as client:
        await client.check()
        await spoken.wait()
        await assert_next_arrives(client, server, honest)
