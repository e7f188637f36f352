"""A stream in trouble: several consumers, hooks that raise, servers that are restarted, a forgotten `async with`."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest

import smtplite
from smtplite import Client, ConnectionLost, Delivery, LocalProtocolError, Outgoing, RemoteProtocolError, TLSError
from smtplite.testing import HeldReply, SMTPServer
from smtplite.trace import TraceEvent


class Stop(BaseException):
    """What is no Exception: as KeyboardInterrupt, but that no event loop treats it in a way of its own."""


RAW = b"From: me@example.org\r\nTo: you@example.org\r\nSubject: hi\r\n\r\nbody\r\n"


def items(count: int) -> list[Outgoing]:
    return [Outgoing(RAW, f"{number}@example.org", tag=number) for number in range(count)]


def client_of(server: SMTPServer, **options: object) -> Client:
    return Client(server.host, server.port, tls="none", **options)  # type: ignore[arg-type]


def tag_of(delivery: Delivery) -> int:
    assert isinstance(delivery.item, Outgoing)
    return int(delivery.item.tag)


# Consumers


@pytest.mark.anyio
async def test_two_tasks_share_the_outcomes() -> None:
    """Each outcome goes to one of them, and both learn of the end."""
    got: list[list[int]] = [[], []]
    async with SMTPServer() as server, client_of(server) as client:
        async with client.send_many(items(40)) as deliveries:

            async def consume(mine: list[int]) -> None:
                async for delivery in deliveries:
                    mine.append(tag_of(delivery))
                    await anyio.lowlevel.checkpoint()

            async with anyio.create_task_group() as tasks:
                for mine in got:
                    tasks.start_soon(consume, mine)
    assert sorted(got[0] + got[1]) == list(range(40))
    assert deliveries.rest == []


@pytest.mark.anyio
async def test_the_block_ends_while_another_task_iterates() -> None:
    """What it has not got is in `rest`; it is not left waiting."""
    got: list[int] = []
    async with SMTPServer() as server, client_of(server) as client, anyio.create_task_group() as tasks:
        held = server.hold("END_OF_DATA")
        async with client.send_many(items(3), connections=1, drain=0.05) as deliveries:

            async def consume() -> None:
                got.extend([tag_of(delivery) async for delivery in deliveries])

            tasks.start_soon(consume)
            await held.wait()
        held.release()
    everything = got + [tag_of(delivery) for delivery in deliveries.rest]
    assert 0 in everything
    assert len(everything) == len(set(everything))


@pytest.mark.anyio
async def test_without_async_with_it_says_what_to_write() -> None:
    async with SMTPServer() as server, client_of(server) as client:
        with pytest.raises(LocalProtocolError, match=r"async with client\.send_many"):
            async for _ in client.send_many(items(1)):  # type: ignore[attr-defined]
                pass
        stream = client.send_many(items(1))
        async with stream as deliveries:
            assert [delivery async for delivery in deliveries]
        with pytest.raises(LocalProtocolError, match="already begun"):
            async with stream:
                pass
    assert len(server.messages) == 1


# What raises


@pytest.mark.parametrize("argument", ["sign", "trace"])
@pytest.mark.anyio
async def test_what_is_no_exception_leaves_the_block_as_itself(argument: str) -> None:
    def stop(given: bytes | TraceEvent) -> bytes:
        if isinstance(given, bytes) or given.__class__.__name__ == "FlightSent":
            raise Stop
        return b""

    async with SMTPServer() as server, client_of(server, **{argument: stop}) as client:
        with pytest.raises(Stop):
            async with client.send_many(items(5)) as deliveries:
                async for _ in deliveries:
                    pass
    assert server.messages == []
    assert all(delivery.error is not None and not delivery.error.unknown for delivery in deliveries.rest)


# on_begin


@pytest.mark.parametrize("options", [{}, {"chunking": True}, {"pipelining": False}], ids=["DATA", "chunks", "lockstep"])
@pytest.mark.anyio
async def test_each_item_is_named_once_before_its_first_octet(options: dict[str, object]) -> None:
    begun: list[int] = []
    flights: list[list[int]] = []

    def on_begin(given: list[Outgoing]) -> None:
        tags = [int(item.tag) for item in given]
        assert not {message.sender for message in server.messages} & {f"{tag}@example.org" for tag in tags}
        flights.append(tags)
        begun.extend(tags)

    async with SMTPServer() as server, client_of(server, **options) as client:
        async with client.send_many(items(30), connections=2, on_begin=on_begin) as deliveries:
            async for delivery in deliveries:
                assert delivery.receipt is not None
                assert tag_of(delivery) in begun
    assert sorted(begun) == list(range(30))
    assert all(flights)


@pytest.mark.parametrize("options", [{}, {"chunking": True}], ids=["DATA", "chunks"])
@pytest.mark.parametrize("objection", [OSError, ConnectionLost, RemoteProtocolError, TLSError])
@pytest.mark.anyio
async def test_what_on_begin_objects_to_is_not_sent_and_ends_the_stream(
    options: dict[str, object], objection: type[Exception]
) -> None:
    """Messages handed over before it still get their verdicts. Whatever it is, it says nothing of the connection."""
    begun: list[int] = []
    got: list[Delivery] = []

    def on_begin(given: list[Outgoing]) -> None:
        if any(item.tag >= 5 for item in given):
            raise objection("No space left on device")
        begun.extend(int(item.tag) for item in given)

    async with SMTPServer() as server, client_of(server, **options) as client:
        with pytest.raises(objection, match="No space left"):
            async with client.send_many(items(10), connections=1, in_flight=3, on_begin=on_begin) as deliveries:
                async for delivery in deliveries:
                    got.append(delivery)  # noqa: PERF401 (the loop raises)
    got += deliveries.rest
    taken = {message.sender for message in server.messages}
    assert taken <= {f"{tag}@example.org" for tag in begun}
    for delivery in got:
        assert isinstance(delivery.item, Outgoing)
        assert (delivery.receipt is not None) == (delivery.item.sender in taken)
        assert delivery.error is None or delivery.error.not_sent == ("you@example.org",)
    assert any(delivery.receipt is not None for delivery in got)


@pytest.mark.anyio
async def test_a_connection_that_ends_while_on_begin_objects_decides_what_was_handed_over() -> None:
    """By what ended it, and not by the objection: this one breaks the protocol."""
    messages = [Outgoing(RAW, "me@example.org", recipients=f"{tag}@example.net", tag=tag) for tag in range(8)]
    held: list[tuple[int, HeldReply]] = []
    got: list[Delivery] = []
    async with SMTPServer() as server, client_of(server, chunking=True) as client:

        def on_begin(given: list[Outgoing]) -> None:
            if held:
                held[0][1].release()
                raise OSError("No space left on device")
            if len(given) > 1:  # the first one's verdict makes room for another flight, while the second one's is owed
                tag = int(given[1].tag)
                reply = server.hold("END_OF_DATA", b"354 go on\r\n", to=f"{tag}@example.net", performs=True)
                held.append((tag, reply))

        with pytest.raises(OSError, match="No space left"):
            async with client.send_many(messages, connections=1, in_flight=3, on_begin=on_begin) as deliveries:
                async for delivery in deliveries:
                    got.append(delivery)  # noqa: PERF401 (the loop raises)
    [unknown] = [each for each in (*got, *deliveries.rest) if tag_of(each) == held[0][0]]
    assert isinstance(unknown.error, smtplite.DeliveryUnknown)
    assert isinstance(unknown.error.__cause__, RemoteProtocolError)


# Servers that go and come back


@pytest.mark.exhaustive(keep=2)
@pytest.mark.needs("ports that are kept")
@pytest.mark.parametrize("options", [{}, {"chunking": True}], ids=["DATA", "chunks"])
@pytest.mark.anyio
async def test_a_server_that_is_restarted_twice_costs_no_message_that_was_not_handed_over(
    options: dict[str, object], unused_port: Callable[[], int]
) -> None:
    """R26."""
    taken: set[str] = set()
    port = unused_port()
    servers = [SMTPServer(port=port).in_thread()]
    servers[0].__enter__()
    outcomes: list[Delivery] = []

    async def restart() -> None:
        last = servers[-1]
        last.__exit__(None, None, None)
        taken.update(message.sender or "" for message in last.messages)
        await anyio.sleep(0.5)  # nobody listens: this is what is tested
        server = SMTPServer(port=port).in_thread()
        server.__enter__()
        servers.append(server)

    try:
        async with Client("127.0.0.1", port, tls="none", **options) as client:  # type: ignore[arg-type]
            async with client.send_many(items(300), connections=3, timeout=30) as deliveries:
                async for delivery in deliveries:
                    outcomes.append(delivery)
                    if len(outcomes) in (50, 150):
                        await restart()
    finally:
        servers[-1].__exit__(None, None, None)
    taken.update(message.sender or "" for message in servers[-1].messages)
    assert len(servers) == 3
    assert sorted(tag_of(delivery) for delivery in outcomes) == list(range(300))
    for delivery in outcomes:
        assert isinstance(delivery.item, Outgoing)
        if delivery.receipt is None:
            assert isinstance(delivery.error, smtplite.DeliveryUnknown), delivery.error
        else:
            assert delivery.item.sender in taken


@pytest.mark.anyio
async def test_before_the_first_connection_there_is_one_try(unused_port: Callable[[], int]) -> None:
    async with Client("127.0.0.1", unused_port(), tls="none") as client:
        with anyio.fail_after(30), pytest.raises(smtplite.ConnectError):
            async with client.send_many(items(3), reconnect=60) as deliveries:
                async for _ in deliveries:
                    pass


@pytest.mark.anyio
async def test_a_server_that_does_not_come_back_is_said_after_reconnect() -> None:
    """Until then it is tried again and again; what was not sent is in `rest`."""
    server = SMTPServer().in_thread()
    server.__enter__()
    outcomes: list[Delivery] = []
    async with Client(server.host, server.port, tls="none") as client:
        with anyio.fail_after(30), pytest.raises(smtplite.ConnectError):
            async with client.send_many(items(50), connections=1, reconnect=0.3) as deliveries:
                async for delivery in deliveries:
                    outcomes.append(delivery)
                    if len(outcomes) == 1:
                        server.__exit__(None, None, None)
                        since = anyio.current_time()
    assert anyio.current_time() - since >= 0.3
    assert len(outcomes) + len(deliveries.rest) < 50  # no more was taken than was in work
    for delivery in deliveries.rest:
        assert delivery.error is not None
        assert delivery.error.not_sent or isinstance(delivery.error, smtplite.DeliveryUnknown)
