"""The floor: sockets, cut and full and cancelled."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import anyio
import pytest
from anyio.streams.stapled import StapledObjectStream

from smtplite.errors import ConnectError, ConnectionLost
from smtplite.net import ForeignStream, SocketStream, connect_tcp

pytestmark = pytest.mark.anyio


class Watched(SocketStream):
    """As a session's is while it runs: the event loop watches it, where it can, from the first `receive` on."""

    async def receive(self) -> bytes:
        self.watch()
        return await super().receive()


@pytest.fixture(params=[SocketStream, Watched])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[SocketStream, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(30)
    stream = request.param(ours)
    yield stream, theirs
    stream.close()
    theirs.close()


Pair = tuple[SocketStream, socket.socket]


async def test_octets_go_both_ways(pair: Pair) -> None:
    stream, peer = pair
    await stream.send(b"hello")
    assert stream.unsent == 0
    assert peer.recv(100) == b"hello"
    peer.sendall(b"world")
    assert await stream.receive() == b"world"
    peer.close()
    assert await stream.receive() == b""


async def test_receive_waits_and_look_does_not(pair: Pair) -> None:
    stream, peer = pair
    assert await stream.look() is None
    received = []

    async def receive() -> None:
        received.append(await stream.receive())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        peer.sendall(b"late")
    assert received == [b"late"]
    stream.rest()
    peer.sendall(b"now")
    await anyio.wait_readable(stream._socket)
    assert await stream.look() == b"now"
    peer.close()
    assert await stream.look() == b""


async def test_a_large_write_waits_for_its_reader(pair: Pair) -> None:
    stream, peer = pair
    data = bytes(range(256)) * 20_000
    received = bytearray()

    def read() -> None:
        while len(received) < len(data):
            received.extend(peer.recv(65536))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, read)
        await stream.send(data)
    assert bytes(received) == data
    assert stream.unsent == 0


async def test_a_cancelled_write_goes_no_further_and_says_how_far_it_went(pair: Pair) -> None:
    stream, peer = pair
    data = b"x" * 20_000_000
    with anyio.move_on_after(0.1) as scope:
        await stream.send(data)
    assert scope.cancelled_caught
    assert 0 < stream.unsent < len(data)
    taken = len(data) - stream.unsent
    stream.close()
    received = 0
    while piece := peer.recv(1 << 20):
        received += len(piece)
    assert received == taken


async def test_a_cancelled_receive_loses_nothing(pair: Pair) -> None:
    stream, peer = pair
    with anyio.move_on_after(0.01):
        await stream.receive()
    peer.sendall(b"still here")
    assert await stream.receive() == b"still here"


async def test_what_the_peer_said_before_it_left_is_read(pair: Pair) -> None:
    """R24: a write that fails does not end reading."""
    stream, peer = pair
    peer.sendall(b"552 too much\r\n")
    peer.close()
    with pytest.raises(ConnectionLost, match="connection lost: "):
        await stream.send(b"x" * 10_000_000)
    assert stream.unsent > 0
    assert await stream.receive() == b"552 too much\r\n"


async def test_staleness_without_a_round_trip(pair: Pair) -> None:
    stream, peer = pair
    assert not stream.is_stale()
    peer.sendall(b"4")
    assert stream.is_stale()
    assert await stream.receive() == b"4"
    assert not stream.is_stale()
    peer.shutdown(socket.SHUT_WR)
    assert stream.is_stale()


async def test_staleness_of_a_stream_that_we_closed(pair: Pair) -> None:
    stream, _ = pair
    stream.abort()
    stream.abort()
    assert stream.is_stale()
    assert await stream.look() == b""
    assert stream.local_address is None
    with pytest.raises(ConnectionLost):
        await stream.receive()
    with pytest.raises(ConnectionLost):
        await stream.send(b"x")


async def test_abort_wakes_whoever_waits(pair: Pair) -> None:
    stream, _ = pair
    errors = []

    async def receive() -> None:
        try:
            await stream.receive()
        except ConnectionLost as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        stream.abort()
    assert len(errors) == 1


def test_abort_needs_no_event_loop(pair: Pair) -> None:
    stream, _ = pair
    stream.abort()
    assert stream.is_stale()


async def test_abort_resets_the_connection() -> None:
    """What the kernel still holds is not sent either: a server must not find the end of data there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stream = await connect_tcp("127.0.0.1", listener.getsockname()[1])
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(30)
            assert stream.local_address == "127.0.0.1"
            stream.abort()
            with pytest.raises(ConnectionResetError):
                peer.recv(1)


async def test_the_next_address_is_tried_when_one_fails(
    monkeypatch: pytest.MonkeyPatch, unused_port: Callable[[], int]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, other = listener.getsockname()[1], unused_port()

        async def two_addresses(*_: object, **__: object) -> list[object]:
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", other)),
                (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", other)),
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
            ]

        monkeypatch.setattr(anyio, "getaddrinfo", two_addresses)
        stream = await connect_tcp("mx.example.org", port)
        stream.close()

        async def one_address(*_: object, **__: object) -> list[object]:
            return (await two_addresses())[:2]

        monkeypatch.setattr(anyio, "getaddrinfo", one_address)
        with pytest.raises(ConnectError, match=r"cannot connect to mx\.example\.org:\d+: "):
            await connect_tcp("mx.example.org", port)


async def test_an_unspecified_ipv6_address_literal_needs_no_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise AssertionError("looked up")

    monkeypatch.setattr(anyio, "getaddrinfo", fail)
    with pytest.raises(ConnectError, match="cannot connect to ::1:1"):
        await connect_tcp("::1", 1)


async def test_a_stream_of_the_users_own_is_mapped_at_one_seam() -> None:
    send, receive = anyio.create_memory_object_stream[bytes](1)
    ours = StapledObjectStream(send, receive)

    class Loop(anyio.abc.ByteStream):
        """Gives back what it was given."""

        async def send(self, item: bytes) -> None:
            await ours.send(item)

        async def receive(self, max_bytes: int = 65536) -> bytes:
            return await ours.receive()

        async def send_eof(self) -> None:
            await ours.send_eof()

        async def aclose(self) -> None:
            await ours.aclose()

    stream = ForeignStream(Loop())
    await stream.send(b"x")
    assert await stream.receive() == b"x"
    assert await stream.look() is None
    assert not stream.is_stale()
    assert stream.local_address is None
    await ours.send_eof()
    assert await stream.receive() == b""
    with pytest.raises(ConnectionLost):
        await stream.send(b"x")
    stream.abort()
    assert stream.is_stale()
    await stream.aclose()
    await stream.aclose()
    with pytest.raises(ConnectionLost):
        await stream.receive()
