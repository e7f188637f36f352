"""A socket that the event loop watches without a break: nothing is lost, nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Iterator

import anyio
import pytest

from smtplite.errors import ConnectionLost
from smtplite.net import SocketStream

pytestmark = pytest.mark.anyio

RESET = struct.pack("ii", 1, 0)

Pair = tuple[SocketStream, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Give both ends of a TCP connection: a reset is what it is."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    theirs.settimeout(30)
    stream = SocketStream(ours)
    yield stream, theirs
    stream.close()
    theirs.close()


async def received_late(stream: SocketStream, peer: socket.socket, *pieces: bytes) -> list[bytes]:
    """Return what is received where each piece is sent only once somebody waits for it."""
    received = []

    async def receive() -> None:
        received.append(await stream.receive())

    for piece in pieces:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            peer.sendall(piece)
    return received


async def test_it_waits_again_and_again(pair: Pair) -> None:
    stream, peer = pair
    stream.watch()
    pieces = [b"one", b"two", b"three"]
    assert await received_late(stream, peer, *pieces) == pieces
    stream.rest()
    assert await received_late(stream, peer, *pieces) == pieces


async def test_what_came_before_a_reset_is_read_and_then_the_reset(pair: Pair) -> None:
    stream, peer = pair
    stream.watch()
    assert await received_late(stream, peer, b"first") == [b"first"]
    peer.sendall(b"last")
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    peer.close()
    with anyio.fail_after(30):
        assert await stream.receive() == b"last"
        with pytest.raises(ConnectionLost, match="reset"):
            await stream.receive()


async def test_a_reset_behind_unread_octets_ends_the_wait_that_follows(pair: Pair) -> None:
    """A loop that stops watching at the first error would wait for ever."""
    stream, peer = pair
    stream.watch()
    ends = []

    async def receive() -> None:
        try:
            while True:
                ends.append(await stream.receive())
        except ConnectionLost as error:
            ends.append(str(error).encode())

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            peer.sendall(b"last")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            peer.close()
    assert ends[0] == b"last"
    assert b"reset" in ends[1]


@pytest.mark.parametrize("end", ["closes", "says no more", "resets"])
@pytest.mark.parametrize("last", [b"", b"last"], ids=["behind nothing", "behind octets"])
async def test_an_end_ends_the_wait_for_it(pair: Pair, last: bytes, end: str) -> None:
    """Once what came before it was taken: whether it comes with that, or by itself."""
    stream, peer = pair
    stream.watch()
    taken: list[bytes | None] = []

    async def receive() -> None:
        try:
            while taken[-1:] != [b""]:
                taken.append(await stream.receive())
        except ConnectionLost:
            taken.append(None)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            peer.sendall(last)
            if end == "says no more":
                peer.shutdown(socket.SHUT_WR)
            else:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET if end == "resets" else b"\0" * len(RESET))
                peer.close()
    assert taken == [*([last] if last else []), None if end == "resets" else b""]


async def test_the_end_of_the_other_side_is_not_the_end_of_ours(pair: Pair) -> None:
    stream, peer = pair
    stream.watch()
    peer.sendall(b"last")
    peer.shutdown(socket.SHUT_WR)
    assert await stream.receive() == b"last"
    assert await stream.receive() == b""
    assert await stream.receive() == b""
    await stream.send(b"still")
    assert peer.recv(100) == b"still"


async def test_octets_are_received_while_a_write_waits(pair: Pair) -> None:
    stream, peer = pair
    stream.watch()
    data = b"x" * 20_000_000
    received = []

    async def meanwhile(writing: anyio.CancelScope) -> None:
        received.append(await stream.receive())
        peer.sendall(b"two")
        received.append(await stream.receive())
        writing.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, lambda: peer.sendall(b"one"))
        await stream.send(data, meanwhile)
    assert received == [b"one", b"two"]
    assert 0 < stream.unsent < len(data)


async def test_what_a_cancelled_wait_was_about_to_get_is_kept(pair: Pair) -> None:
    stream, peer = pair
    stream.watch()
    for round_number in range(5):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.receive)
                await anyio.wait_all_tasks_blocked()
                peer.sendall(b"kept")
                for _ in range(round_number):  # before it was read, behind, and behind the turn of who waits
                    await anyio.lowlevel.checkpoint()
                scope.cancel()
        if stream.is_stale():  # it was not handed over before the cancellation came
            stream.rest()
            assert stream.is_stale()
            stream.watch()
            assert await stream.look() == b"kept"
        assert not stream.is_stale()
        assert await stream.look() is None


async def until_it_was_read(stream: SocketStream) -> None:
    watch = stream._watch
    assert watch is not None
    while not watch.has_arrived:  # noqa: ASYNC110 (there is no event for it)
        await asyncio.sleep(0)


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"])
async def test_what_the_loop_has_read_belongs_to_the_next_who_asks(pair: Pair) -> None:
    stream, peer = pair
    stream.watch()
    waits = asyncio.ensure_future(stream.receive())
    await anyio.wait_all_tasks_blocked()
    peer.sendall(b"early")
    await until_it_was_read(stream)
    waits.cancel()  # read, but not yet handed over
    with pytest.raises(asyncio.CancelledError):
        await waits
    stream.rest()
    assert stream.is_stale()
    assert await stream.receive() == b"early"
    assert not stream.is_stale()
    assert await received_late(stream, peer, b"late") == [b"late"]
    assert stream._socket.fileno() not in watched_descriptors()


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"])
async def test_an_error_that_the_loop_has_read_is_said_once_by_whoever_asks(pair: Pair) -> None:
    stream, peer = pair
    stream.watch()
    waits = asyncio.ensure_future(stream.receive())
    await anyio.wait_all_tasks_blocked()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    peer.close()
    await until_it_was_read(stream)
    waits.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits
    assert stream.is_stale()
    with pytest.raises(ConnectionLost, match="reset"):
        await stream.receive()
    assert await stream.look() == b""


def watched_descriptors() -> set[int]:
    selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]  # there is no other way to ask
    return set(selector.get_map())


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"])
async def test_nothing_is_left_with_the_loop_once_it_rests_or_is_closed(pair: Pair) -> None:
    stream, peer = pair
    descriptor = stream._socket.fileno()
    for end in (stream.rest, stream.rest, stream.abort):
        stream.watch()
        assert await received_late(stream, peer, b"x") == [b"x"]
        assert descriptor in watched_descriptors()
        end()
        assert descriptor not in watched_descriptors()


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"])
async def test_what_nobody_waits_for_stays_in_the_kernel_and_does_not_keep_the_loop_busy(pair: Pair) -> None:
    stream, peer = pair
    stream.watch()
    assert await received_late(stream, peer, b"x") == [b"x"]
    peer.sendall(b"unasked")
    while stream._socket.fileno() in watched_descriptors():  # noqa: ASYNC110 (there is no event for it)
        await asyncio.sleep(0)
    assert stream._socket.recv(100, socket.MSG_PEEK) == b"unasked"
    assert await stream.look() == b"unasked"
    assert await received_late(stream, peer, b"y") == [b"y"]


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"])
@pytest.mark.needs("fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
async def test_a_forked_child_that_closes_its_end_leaves_the_parents_loop_alone(pair: Pair) -> None:
    stream, peer = pair
    stream.watch()
    assert await received_late(stream, peer, b"x") == [b"x"]
    child = os.fork()
    if child == 0:
        status = 1
        try:
            stream.close()
            status = 0
        finally:
            os._exit(status)
    assert await anyio.to_thread.run_sync(os.waitpid, child, 0) == (child, 0)
    with anyio.fail_after(30):
        assert await received_late(stream, peer, b"y") == [b"y"]


async def test_only_one_may_wait(pair: Pair) -> None:
    stream, peer = pair
    stream.watch()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.receive)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError):
            await stream.receive()
        peer.sendall(b"x")


async def test_closing_wakes_whoever_waits(pair: Pair) -> None:
    stream, _ = pair
    stream.watch()
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
    with pytest.raises(ConnectionLost):
        await stream.receive()
