"""SyncClient.send_many: a plain iterator, read lazily in the caller's thread, and an outcome for each message taken."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import smtplite
from smtplite import ConnectError, ConnectionLost, Delivery, LocalProtocolError, Outgoing, SyncClient
from smtplite.testing import ThreadedServer

RAW = b"From: me@example.org\r\nTo: you@example.org\r\nSubject: hi\r\n\r\nbody\r\n"
#: More than this is never taken ahead: of both clients, for each message and its outcome.
AHEAD = 700


class Messages:
    """An iterable that notes what is taken from it, and in which thread."""

    def __init__(self, count: int, error: BaseException | None = None) -> None:
        self.count = count
        self.error = error
        self.taken: list[int] = []
        self.threads: set[int] = set()

    def __iter__(self) -> Iterator[Outgoing]:
        for number in range(self.count):
            self.taken.append(number)
            self.threads.add(threading.get_ident())
            yield Outgoing(RAW, tag=number)
        if self.error is not None:
            raise self.error


def tags(deliveries: list[Delivery]) -> list[int]:
    return [delivery.item.tag for delivery in deliveries if isinstance(delivery.item, Outgoing)]


def test_a_plain_loop_gets_an_outcome_for_each_message(server: ThreadedServer, client: SyncClient) -> None:
    messages = Messages(300)
    deliveries = client.send_many(messages)
    outcomes = list(deliveries)
    assert sorted(tags(outcomes)) == list(range(300))
    assert all(outcome.result().complete for outcome in outcomes)
    assert deliveries.rest == []
    assert list(deliveries) == []
    assert len(server.messages) == 300
    assert messages.threads == {threading.get_ident()}  # not the loop's: a database cursor may be behind it


def test_a_stream_of_nothing_opens_nothing(server: ThreadedServer, client: SyncClient) -> None:
    assert list(client.send_many([])) == []
    assert server.connections == []


def test_a_message_that_is_at_hand_costs_one_round_trip(server: ThreadedServer, client: SyncClient) -> None:
    held = server.hold("GREETING")

    def messages() -> Iterator[bytes]:
        yield from [RAW] * 20
        held.release()  # all of them have been read

    assert len(list(client.send_many(messages(), connections=1))) == 20
    client.close()
    # EHLO, the first envelope, 20 messages, QUIT
    assert server.connections[0].flights == 23


def test_what_cannot_be_sent_is_its_own_delivery(server: ThreadedServer, client: SyncClient) -> None:
    server.reply("RCPT", "550 5.1.1 no such user", to="nobody@example.net")
    refused = Outgoing(RAW, recipients=["nobody@example.net"])
    errors = {type(one.error) for one in client.send_many([RAW, b"no header", refused])}
    assert errors == {type(None), smtplite.MessageError, smtplite.RecipientsRefused}


def test_nothing_is_taken_before_the_first_step_and_no_more_than_a_few_ahead(
    server: ThreadedServer, client: SyncClient
) -> None:
    messages = Messages(10_000)
    stream = client.send_many(messages)
    assert messages.taken == []
    with stream:
        assert messages.taken == []
        outcomes = list(itertools.islice(stream, 5))
        server.wait_for_messages(len(outcomes))
    assert len(messages.taken) <= AHEAD
    assert sorted(tags(outcomes) + tags(stream.rest)) == messages.taken


def test_a_consumer_that_stops_stops_the_reading(server: ThreadedServer, client: SyncClient) -> None:
    """Whatever time the consumer takes for one outcome, what is under way is bounded."""
    messages = Messages(10_000)
    with client.send_many(messages) as stream:
        next(stream)
        before = len(messages.taken)
        assert client.send(RAW).complete  # a consumer that sends does not wait for itself
        assert len(messages.taken) == before


def test_leaving_early_takes_nothing_more_and_leaves_every_outcome_in_rest(
    server: ThreadedServer, client: SyncClient
) -> None:
    messages = Messages(5_000)
    got: list[Delivery] = []
    with client.send_many(messages) as stream:
        for delivery in stream:
            got.append(delivery)
            if len(got) == 10:
                break
    assert sorted(tags(got) + tags(stream.rest)) == messages.taken
    for delivery in stream.rest:
        assert delivery.receipt is not None or isinstance(delivery.error, ConnectionLost)
    sent = [delivery for delivery in got + stream.rest if delivery.receipt is not None]
    assert len(server.messages) == len(sent)
    assert list(stream) == []
    taken = len(messages.taken)
    assert client.send(RAW).complete
    assert len(messages.taken) == taken


def test_outcomes_that_are_owed_are_awaited_but_not_longer_than_drain(server: ThreadedServer) -> None:
    held = server.hold("END_OF_DATA")
    with SyncClient(server.host, server.port, tls="none") as client:
        with client.send_many([RAW], drain=0.1) as stream:
            stepping = threading.Thread(target=lambda: list(stream))
            stepping.start()
            held.wait()
        stepping.join()
        [delivery] = stream.rest
        assert isinstance(delivery.error, smtplite.DeliveryUnknown)
        held.release()


def test_an_exception_in_the_block_gives_up_what_is_under_way_and_leaves_as_itself(server: ThreadedServer) -> None:
    held = server.hold("END_OF_DATA", to="held@example.org")
    messages: list[bytes | Outgoing] = [RAW, Outgoing(RAW, recipients=["held@example.org"]), *[RAW] * 100]
    with SyncClient(server.host, server.port, tls="none") as client:
        with pytest.raises(ZeroDivisionError):
            with client.send_many(messages, connections=1) as stream:
                next(stream)
                held.wait()
                raise ZeroDivisionError
        kinds = [type(delivery.error) for delivery in stream.rest]
        assert kinds.count(smtplite.DeliveryUnknown) == 1
        held.release()
        assert client.send(RAW).complete


@pytest.mark.parametrize("error", [KeyError("mine"), ValueError("mine")])
def test_an_error_of_the_callers_iterable_is_raised_after_the_outcomes(
    server: ThreadedServer, client: SyncClient, error: Exception
) -> None:
    messages = Messages(20, error)
    got: list[Delivery] = []
    with pytest.raises(type(error)) as caught:
        for delivery in client.send_many(messages):
            got.append(delivery)  # noqa: PERF402 (a list would be lost with the error)
    assert caught.value is error
    assert sorted(tags(got)) == list(range(20))
    assert len(server.messages) == 20


def test_an_interrupt_out_of_the_callers_iterable_is_raised_at_once(server: ThreadedServer, client: SyncClient) -> None:
    stream = client.send_many(Messages(3, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        list(stream)
    assert list(stream) == []
    assert client.send(RAW).complete


def test_no_connection_is_said_once_and_what_was_taken_is_in_rest(unused_port: Callable[[], int]) -> None:
    messages = Messages(1_000)
    with SyncClient("127.0.0.1", unused_port(), tls="none") as client:
        with client.send_many(messages) as stream:
            with pytest.raises(ConnectError):
                list(stream)
            assert list(stream) == []
    assert sorted(tags(stream.rest)) == messages.taken
    assert all(isinstance(delivery.error, ConnectError) for delivery in stream.rest)


def test_several_threads_take_from_one_stream(server: ThreadedServer, client: SyncClient) -> None:
    stream = client.send_many(Messages(400))
    got: list[list[Delivery]] = [[] for _ in range(4)]
    threads = [threading.Thread(target=one.extend, args=(stream,)) for one in got]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(tags([delivery for one in got for delivery in one])) == list(range(400))


def test_messages_that_ask_for_outcomes_of_their_own_stream_are_refused(client: SyncClient) -> None:
    def messages() -> Iterator[bytes]:
        yield RAW
        next(stream)

    stream = client.send_many(messages())
    with pytest.raises(LocalProtocolError, match="its own stream"):
        list(stream)


def test_messages_may_send_others_meanwhile(server: ThreadedServer, client: SyncClient) -> None:
    def messages() -> Iterator[bytes]:
        for _ in range(5):
            client.send(RAW)
            yield RAW

    assert len(list(client.send_many(messages()))) == 5
    assert len(server.messages) == 10


def test_an_asynchronous_iterable_is_read_in_the_loop(server: ThreadedServer, client: SyncClient) -> None:
    async def messages() -> AsyncIterator[bytes]:
        for _ in range(10):
            await asyncio.sleep(0)
            yield RAW

    assert len([one.result() for one in client.send_many(messages())]) == 10


def test_a_consumer_that_stops_stops_the_reading_of_an_asynchronous_iterable(server: ThreadedServer) -> None:
    taken: list[int] = []

    async def messages() -> AsyncIterator[bytes]:
        for number in range(4_000):
            taken.append(number)
            yield RAW

    with SyncClient(server.host, server.port, tls="none", max_connections=2) as client:
        with client.send_many(messages(), connections=1) as stream:
            next(stream)
            for _ in range(400):  # as many round trips as it takes to read a thousand messages
                client.check()
        assert len(taken) <= AHEAD
        assert len(stream.rest) == len(taken) - 1


@pytest.mark.parametrize("messages", [RAW, Outgoing(RAW), "text", 3, None], ids=lambda m: type(m).__name__)
def test_what_is_no_stream_is_refused_at_once(client: SyncClient, messages: Any) -> None:
    with pytest.raises(smtplite.ConfigurationError, match="iterable of messages"):
        client.send_many(messages)
    with pytest.raises(smtplite.ConfigurationError, match="connections"):
        client.send_many([RAW], connections=0)


def test_closing_the_client_ends_its_streams_and_says_so(server: ThreadedServer) -> None:
    messages = Messages(5_000)
    client = SyncClient(server.host, server.port, tls="none")
    stream = client.send_many(messages)
    got = [next(stream)]
    client.close()
    with pytest.raises(LocalProtocolError, match="client was closed"):
        next(stream)
    assert sorted(tags(got) + tags(stream.rest)) == messages.taken
    assert all(connection.received.endswith(b"QUIT\r\n") for connection in server.connections)


def test_a_stream_that_was_never_begun_can_be_closed(server: ThreadedServer, client: SyncClient) -> None:
    messages = Messages(10)
    stream = client.send_many(messages)
    stream.close()
    assert list(stream) == []
    assert messages.taken == []
    assert server.connections == []
