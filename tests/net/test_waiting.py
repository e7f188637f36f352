"""Waiting on an event loop that watches no sockets, as asyncio's default on Windows."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterator

import anyio
import pytest

from smtplite.errors import ConnectionLost
from smtplite.net import SocketStream
from tests.loops import LikeProactor

Pair = tuple[SocketStream, socket.socket]

#: More than a socket takes.
LARGE = b"x" * 20_000_000


def run(function: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with anyio.fail_after(20):
            await function()

    anyio.run(bounded, backend_options={"loop_factory": LikeProactor})


def read_all(peer: socket.socket) -> int:
    read = 0
    while data := peer.recv(1 << 20):
        read += len(data)
    return read


@pytest.fixture
def pair() -> Iterator[Pair]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    theirs.settimeout(30)
    stream = SocketStream(ours)
    yield stream, theirs
    stream.close()
    theirs.close()


def test_a_reader_is_woken_while_a_writer_waits_and_the_writer_after_it(pair: Pair) -> None:
    """anyio's thread loses one of the two, if they wait for the same socket."""
    stream, peer = pair
    received: list[bytes] = []
    taken = bytearray()

    def take_all() -> None:
        while len(taken) < len(LARGE):
            taken.extend(peer.recv(1 << 20))

    async def main() -> None:
        async def meanwhile(_writing: anyio.CancelScope) -> None:
            for said in (b"one", b"two"):
                peer.sendall(said)
                received.append(await stream.receive())
                await anyio.wait_all_tasks_blocked()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.receive)  # nothing comes
                await anyio.to_thread.run_sync(take_all)
                await anyio.sleep_forever()

        await stream.send(LARGE, meanwhile)

    run(main)
    assert received == [b"one", b"two"]
    assert stream.unsent == 0
    assert taken == LARGE


def test_closing_wakes_the_writer_and_ends_the_connection(pair: Pair) -> None:
    """A duplicate that stayed open would keep the connection, and the server would wait for the rest."""
    stream, peer = pair
    lost: list[ConnectionLost] = []

    async def main() -> None:
        async def write() -> None:
            with pytest.raises(ConnectionLost) as caught:
                await stream.send(LARGE)
            lost.append(caught.value)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            await anyio.wait_all_tasks_blocked()
            stream.abort()

    run(main)
    assert lost
    assert 0 < stream.unsent < len(LARGE)
    with pytest.raises(ConnectionResetError):
        read_all(peer)


def test_a_cancelled_write_leaves_nothing_open(pair: Pair) -> None:
    stream, peer = pair

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.send, LARGE)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        stream.close()

    run(main)
    assert read_all(peer) == len(LARGE) - stream.unsent
