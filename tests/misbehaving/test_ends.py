"""R2, R24: how a connection ends behind replies that were not read yet, while one message or many are under way.

The same on each event loop, in clear and inside TLS: the standard library's loops watch a socket in clear without a
break while a session runs, and the others do not.
"""

from __future__ import annotations

import socket

import anyio
import anyio.lowlevel
import pytest

from smtplite import Client, ConnectionLost, Outgoing
from smtplite.net import SocketStream
from tests.exhaustive import part

from .dialogue import FIRST, SECOND, assert_next_arrives, client_at, failure_of, up_to
from .server import Honest, Peer, Server, ehlo_reply
from .test_r24_failed_writes import inside, options_of

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("mode", ["in clear", "TLS"])]

#: What is in the kernel when the connection ends, and how it ends.
ENDS = {"resets": Peer.reset, "closes": Peer.close, "says no more": Peer.say_no_more}


@pytest.mark.exhaustive(keep=4)
@pytest.mark.parametrize("end", ENDS)
async def test_a_verdict_in_front_of_the_end_decides(end: str, mode: str) -> None:
    """R2: whether or not it was read before the end came."""

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "end of data", "PIPELINING")
        await peer.write(b"250 2.0.0 taken\r\n")
        ENDS[end](peer)
        await peer.read_to_the_end()

    honest = Honest()
    async with Server(inside(mode, misbehave), inside(mode, honest)) as server:
        async with client_at(server, **options_of(mode)) as client:
            with anyio.fail_after(30):
                receipt = await client.send(FIRST)
            assert receipt.complete
            await assert_next_arrives(client, server, honest)


@pytest.mark.exhaustive(keep=4)
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("phase", ["mail", "data", "end of data"])
async def test_the_end_while_a_reply_is_waited_for_ends_the_wait(phase: str, end: str, mode: str) -> None:
    """R24: at once, whatever is waited for; only what was handed over is unknown."""

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, phase, "PIPELINING")
        ENDS[end](peer)
        await peer.read_to_the_end()

    honest = Honest()
    async with Server(inside(mode, misbehave), inside(mode, honest)) as server:
        async with client_at(server, **options_of(mode)) as client:
            with anyio.fail_after(30):
                error = await failure_of(client, FIRST)
            assert isinstance(error.__cause__ if error.unknown else error, ConnectionLost)
            assert bool(error.unknown) is (phase == "end of data")
            await assert_next_arrives(client, server, honest)


@pytest.mark.exhaustive(keep=4)
@pytest.mark.parametrize("end", ENDS)
async def test_of_many_messages_those_behind_the_end_go_elsewhere(end: str, mode: str) -> None:
    """R11 b: the first was taken; the second, whose commands were answered together with it, was not."""

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "end of data", "PIPELINING")
        await peer.read_until(b"DATA\r\n")
        await peer.write(b"250 2.0.0 taken\r\n" + b"250 ok\r\n250 ok\r\n")
        ENDS[end](peer)
        await peer.read_to_the_end()

    honest = Honest()
    async with Server(inside(mode, misbehave), inside(mode, honest)) as server:
        async with client_at(server, **options_of(mode)) as client:
            with anyio.fail_after(30):
                messages = [FIRST, SECOND, SECOND]
                async with client.send_many(map(Outgoing, messages), connections=1) as deliveries:
                    outcomes = [delivery.error async for delivery in deliveries]
            assert outcomes == [None] * 3
            assert [message.content for message in honest.messages] == [SECOND, SECOND]


@pytest.mark.exhaustive(keep=4)
@pytest.mark.parametrize("many", [False, True])
async def test_cancelled_at_any_turn_of_the_event_loop(many: bool, mode: str) -> None:
    """R9, R10: whatever was being waited for, and whether or not the loop had read the reply."""
    for count in part(range(100), keep=8):
        honest = Honest()
        results: list[object] = []

        async def send(client: Client, results: list[object]) -> None:
            if not many:
                results.append(await client.send(FIRST))
                return
            messages = (Outgoing(FIRST) for _ in range(3))
            async with client.send_many(messages, connections=1) as deliveries:
                results += [delivery async for delivery in deliveries if delivery.error is None]

        async with Server(*[inside(mode, honest)] * 2) as server:
            async with client_at(server, **options_of(mode)) as client:
                with anyio.fail_after(30):
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(send, client, results)
                        for _ in range(count):
                            await anyio.lowlevel.checkpoint()
                        tasks.cancel_scope.cancel()
                    receipt = await client.send(SECOND)
                assert receipt.complete
        contents = [message.content for message in honest.messages]
        assert contents[-1:] == [SECOND]
        assert len(results) <= contents.count(FIRST) <= (3 if many else 1)
        assert len(contents) == contents.count(FIRST) + 1


@pytest.mark.exhaustive(keep=4)
@pytest.mark.parametrize("end", ["takes", "closes", "resets"])
async def test_many_messages_that_fill_the_buffers_of_the_kernel(
    end: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R24: a server that writes before it reads on: the replies to a window are read while its content has to wait."""
    begin, send_rest, waits = SocketStream.__init__, SocketStream._send_rest, []

    def with_small_buffer(stream: SocketStream, sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        begin(stream, sock)

    async def counted(stream: SocketStream, data: bytes) -> None:
        waits.append(len(data))
        await send_rest(stream, data)

    monkeypatch.setattr(SocketStream, "__init__", with_small_buffer)
    monkeypatch.setattr(SocketStream, "_send_rest", counted)
    content = FIRST + (b"y" * 70 + b"\r\n") * 830
    count, last = 40, 20
    taken = 0

    async def serve(peer: Peer) -> None:
        nonlocal taken
        await up_to(peer, "hello")
        await peer.write(ehlo_reply("PIPELINING", "CHUNKING", "8BITMIME"))
        is_open = False
        while taken < last or end == "takes":
            line = await peer.read_line()
            if line.startswith(b"BDAT"):
                await peer.read_exactly(int(line.split(b" ")[1]))
                if not is_open:
                    await peer.write(b"503 5.5.1 MAIL first\r\n")
                    continue
                taken += 1
            is_open = line.startswith(b"RCPT")
            # Not one octet of the next command is read before this was taken.
            await peer.write(b"250 " + b"x" * 400 + b"\r\n")
        await peer.read_line()
        await peer.write(b"421 4.3.2 closing\r\n")
        if end == "resets":
            peer.reset()

    honest = Honest()
    async with Server(inside(mode, serve), inside(mode, honest)) as server:
        async with client_at(server, chunking=True, **options_of(mode)) as client:
            with anyio.fail_after(20):
                messages = (Outgoing(content) for _ in range(count))
                async with client.send_many(messages, connections=1) as deliveries:
                    outcomes = [delivery.error async for delivery in deliveries]
    assert waits
    assert len(outcomes) == count
    assert outcomes.count(None) + sum(bool(error and error.unknown) for error in outcomes) == count
    assert taken + len(honest.messages) >= outcomes.count(None) >= (count if end == "takes" else last)
    if end == "takes":
        assert taken == count
