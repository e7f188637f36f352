"""Client.send_many: every rule of its section in the design, against the built-in server, on every event loop."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from email.message import EmailMessage
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import smtplite
from smtplite import Client, Content, Deliveries, Envelope, Outgoing, Timeouts
from smtplite.testing import ServerExtensions, ServerQuirks, SMTPServer
from smtplite.trace import ConnectionOpened, FlightSent, MessageFinished, ReplyReceived, TraceEvent

pytestmark = pytest.mark.anyio

RAW = b"From: me@example.org\r\nTo: you@example.org\r\nSubject: hi\r\n\r\nbody\r\n"


def numbered(n: int, recipient: str = "you@example.org") -> bytes:
    return b"From: me@example.org\r\nTo: %b\r\nMessage-ID: <%d@x>\r\n\r\nbody %d\r\n" % (recipient.encode(), n, n)


def outgoing(count: int) -> Iterator[Outgoing]:
    for n in range(count):
        yield Outgoing(numbered(n), tag=n)


def client_of(server: SMTPServer, **options: object) -> Client:
    return Client(server.host, server.port, tls="none", **options)  # type: ignore[arg-type]


def arrived(server: SMTPServer) -> list[str]:
    return [str(message.as_email()["Message-ID"]) for message in server.messages]


def tag(delivery: smtplite.Delivery) -> int:
    assert isinstance(delivery.item, Outgoing)
    return int(delivery.item.tag)


async def all_of(deliveries: Deliveries) -> list[smtplite.Delivery]:
    return [delivery async for delivery in deliveries]


# The way of the octets


async def test_content_and_the_next_envelope_share_a_write_so_a_message_costs_one_round_trip() -> None:
    async with SMTPServer() as server:
        async with client_of(server) as client, client.send_many(outgoing(20), connections=1) as deliveries:
            outcomes = await all_of(deliveries)
        assert [tag(outcome) for outcome in outcomes] == list(range(20))
        assert all(outcome.result().complete for outcome in outcomes)
        assert deliveries.rest == []
        assert arrived(server) == [f"<{n}@x>" for n in range(20)]
        (connection,) = server.connections
        # EHLO, the first envelope, 20 messages, QUIT
        assert connection.flights == 23


async def test_with_chunking_many_messages_share_a_round_trip() -> None:
    events: list[TraceEvent] = []
    async with SMTPServer() as server:
        client = client_of(server, chunking=True, trace=events.append)
        async with client, client.send_many(outgoing(200), connections=1) as deliveries:
            outcomes = await all_of(deliveries)
        assert [tag(outcome) for outcome in outcomes] == list(range(200))
        assert all(outcome.result().complete for outcome in outcomes)
        assert arrived(server) == [f"<{n}@x>" for n in range(200)]
        assert server.violations == []
    writes = [event for event in events if isinstance(event, FlightSent)]
    envelopes = [event.commands.count("RSET") for event in writes]
    assert max(envelopes) == 31  # the first of 32 needs none
    assert len(writes) <= 4 + 200 // 4


async def test_in_flight_is_the_most_that_is_outstanding() -> None:
    events: list[TraceEvent] = []
    async with SMTPServer() as server:
        client = client_of(server, chunking=True, trace=events.append)
        async with client, client.send_many(outgoing(30), connections=1, in_flight=3) as deliveries:
            assert all(one.result().complete for one in await all_of(deliveries))
        assert len(server.messages) == 30
    outstanding = most = 0
    for event in events:
        if isinstance(event, FlightSent):
            outstanding += sum(command.startswith("BDAT") and "8 LAST" not in command for command in event.commands)
            most = max(most, outstanding)
        elif isinstance(event, ReplyReceived) and event.command is not None and event.command.startswith("BDAT"):
            outstanding -= "8 LAST" not in event.command
    assert most == 3


async def test_without_pipelining_it_is_lockstep() -> None:
    async with SMTPServer(extensions=ServerExtensions(pipelining=False)) as server:
        async with client_of(server) as client, client.send_many(outgoing(3), connections=1) as deliveries:
            assert all(outcome.result().complete for outcome in await all_of(deliveries))
        assert server.violations == []
        assert server.connections[0].flights == 2 + 3 * 4


async def test_lmtp_too() -> None:
    async with SMTPServer(lmtp=True) as server:
        server.reply("RCPT", "550 5.1.1 no such user", to="nobody@example.org")
        items = [
            Outgoing(numbered(n), sender="me@example.org", recipients=["a@example.org", "nobody@example.org"])
            for n in range(5)
        ]
        async with client_of(server, lmtp=True) as client, client.send_many(items, connections=1) as deliveries:
            outcomes = await all_of(deliveries)
        assert [list(outcome.result().refused) for outcome in outcomes] == [["nobody@example.org"]] * 5
        assert len(server.messages) == 5


async def test_messages_are_spread_over_connections_but_one_of_the_pool_is_left() -> None:
    async with SMTPServer() as server:
        hold = server.hold("DATA")
        client = client_of(server, max_connections=4)
        async with client, client.send_many(outgoing(30)) as deliveries:
            await hold.wait(3)
            hold.release()
            outcomes = await all_of(deliveries)
        assert sorted(map(tag, outcomes)) == list(range(30))
        assert len(server.connections) == 3


async def test_no_connection_is_opened_for_nothing() -> None:
    async with SMTPServer() as server:
        async with client_of(server) as client, client.send_many([RAW]) as deliveries:
            assert len(await all_of(deliveries)) == 1
        assert len(server.connections) == 1
        async with client_of(server) as client, client.send_many([]) as deliveries:
            assert await all_of(deliveries) == []
        assert len(server.connections) == 1


# Items


async def test_every_item_that_send_takes_and_outgoing_with_its_tag() -> None:
    message = built_message()
    items: list[Any] = [
        RAW,
        message,
        Outgoing(RAW, sender="", recipients=["x@example.org"], tag="t"),
        Outgoing(RAW, envelope=Envelope("a@example.org", ["b@example.org"])),
        Outgoing(Content.from_bytes(RAW), sender="c@example.org", recipients="d@example.org"),
    ]
    async with SMTPServer() as server:
        async with client_of(server) as client, client.send_many(items, connections=1) as deliveries:
            outcomes = await all_of(deliveries)
        assert [outcome.item for outcome in outcomes] == items
        assert [outcome.result().accepted[0] for outcome in outcomes] == [
            "you@example.org",
            "you@example.org",
            "x@example.org",
            "b@example.org",
            "d@example.org",
        ]
        assert [message.sender for message in server.messages] == [
            "me@example.org",
            "me@example.org",
            "",
            "a@example.org",
            "c@example.org",
        ]


def built_message() -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"] = "me@example.org", "you@example.org"
    message.set_content("x\n")
    return message


async def test_an_item_that_cannot_be_sent_is_its_own_delivery() -> None:
    items: list[Any] = [
        RAW,
        b"no header\r\n",
        Outgoing(RAW, recipients=["a b@x"]),
        5,
        Outgoing(RAW, recipients=["ü@x.example"]),
    ]
    async with SMTPServer(extensions=ServerExtensions(smtputf8=False)) as server:
        async with client_of(server) as client, client.send_many([*items, RAW], connections=1) as deliveries:
            outcomes = await all_of(deliveries)
        assert len(server.messages) == 2
    errors = {str(outcome.item): outcome.error for outcome in outcomes if outcome.error is not None}
    assert len(errors) == 4
    kinds = Counter(type(error) for error in errors.values())
    assert kinds == {smtplite.MessageError: 3, smtplite.ExtensionRequired: 1}
    refused = next(error for error in errors.values() if isinstance(error, smtplite.ExtensionRequired))
    assert refused.not_sent == ("ü@x.example",)


async def test_items_are_read_lazily_from_any_iterable() -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        for n in itertools.count():
            taken += 1
            yield numbered(n)

    async with SMTPServer() as server:
        async with client_of(server) as client, client.send_many(endless(), connections=1) as deliveries:
            seen = 0
            async for delivery in deliveries:
                assert delivery.result().complete
                seen += 1
                if seen == 100:
                    break
        assert taken <= 100 + 64 + 4
        assert seen + len(deliveries.rest) == taken
        assert all(one.error is None or not one.error.unknown for one in deliveries.rest)
        delivered = seen + sum(one.receipt is not None for one in deliveries.rest)
        assert len(server.messages) == delivered


async def test_an_asynchronous_iterable_too() -> None:
    taken = 0

    async def items() -> AsyncIterator[Outgoing]:
        nonlocal taken
        for one in outgoing(300):
            await anyio.lowlevel.checkpoint()
            taken += 1
            yield one

    async with SMTPServer() as server:
        async with client_of(server) as client, client.send_many(items(), connections=2) as deliveries:
            outcomes = await all_of(deliveries)
        assert sorted(map(tag, outcomes)) == list(range(300))
        assert len(server.messages) == 300


async def test_an_asynchronous_iterable_that_waits_keeps_no_outcome_and_no_connection_back() -> None:
    more = anyio.Event()

    async def items() -> AsyncIterator[bytes]:
        yield numbered(1)
        await more.wait()
        yield numbered(2)

    async with SMTPServer() as server:
        client = client_of(server, max_connections=1)
        async with client, client.send_many(items()) as deliveries:
            assert (await anext(deliveries)).result().complete
            assert (await client.send(RAW)).complete  # the only connection is free
            more.set()
            assert (await anext(deliveries)).result().complete
            with pytest.raises(StopAsyncIteration):
                await anext(deliveries)
        assert len(server.connections) == 1


@pytest.mark.parametrize("is_async", [False, True])
async def test_an_error_of_the_iterable_is_raised_by_the_loop_bare_and_loses_no_outcome(is_async: bool) -> None:
    def items() -> Iterator[Outgoing]:
        yield from outgoing(3)
        raise LookupError("the database went away")

    async def asynchronous() -> AsyncIterator[Outgoing]:
        for one in items():
            yield one

    outcomes = []
    async with SMTPServer() as server:
        async with client_of(server) as client:
            with pytest.raises(LookupError, match="went away"):
                async with client.send_many(asynchronous() if is_async else items(), connections=1) as deliveries:
                    async for delivery in deliveries:
                        outcomes.append(delivery)
        assert sorted(map(tag, [*outcomes, *deliveries.rest])) == [0, 1, 2]
        assert all(outcome.result().complete for outcome in [*outcomes, *deliveries.rest])
        assert len(server.messages) == 3


@pytest.mark.parametrize("wrong", [RAW, "a string", Outgoing(RAW), 5, None])
async def test_what_is_no_iterable_of_messages(wrong: object) -> None:
    with pytest.raises(smtplite.ConfigurationError, match="messages"):
        Client("mx.example").send_many(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong", [{"connections": 0}, {"connections": 6}, {"in_flight": 0}, {"drain": -1}, {"timeout": -1}]
)
async def test_wrong_options(wrong: dict[str, int]) -> None:
    with pytest.raises(smtplite.ConfigurationError, match=next(iter(wrong))):
        Client("mx.example").send_many([], **wrong)  # type: ignore[arg-type]


# Leaving


async def test_leaving_by_break_takes_nothing_more_and_leaves_the_owed_outcomes_in_rest() -> None:
    async with SMTPServer() as server:
        async with client_of(server, chunking=True) as client:
            async with client.send_many(outgoing(1000), connections=1, in_flight=8) as deliveries:
                async for delivery in deliveries:
                    first = tag(delivery)
                    break
            tags = sorted([first, *map(tag, deliveries.rest)])
            assert tags == list(range(len(tags)))
            assert len(tags) < 100
            delivered = [tag(one) for one in deliveries.rest if one.receipt is not None]
            assert sorted(arrived(server)) == sorted(f"<{n}@x>" for n in [first, *delivered])
            for one in deliveries.rest:
                if one.error is not None:
                    assert one.error.not_sent == ("you@example.org",)
                    assert not one.error.unknown
            assert (await client.send(RAW)).complete


async def test_drain_ends_the_waiting_for_outcomes_and_says_unknown() -> None:
    async with SMTPServer() as server:
        hold = server.hold("END_OF_DATA")
        async with client_of(server) as client:
            async with client.send_many(outgoing(3), connections=1, drain=0.05) as deliveries:
                await hold.wait(1)
        outcomes = {tag(one): one.error for one in deliveries.rest}
        assert isinstance(outcomes[0], smtplite.DeliveryUnknown)
        assert outcomes[0].unknown == ("you@example.org",)
        for n in (1, 2):
            if n in outcomes:
                assert outcomes[n].not_sent == ("you@example.org",)  # type: ignore[union-attr]
        assert len(server.messages) == 1


async def test_leaving_by_an_exception_ends_all_at_once_and_leaves_the_exception_as_it_is() -> None:
    class Mine(Exception):
        pass

    async with SMTPServer() as server:
        hold = server.hold("END_OF_DATA")
        async with client_of(server, max_connections=1) as client:
            with pytest.raises(Mine) as caught:
                async with client.send_many(outgoing(3)) as deliveries:
                    await hold.wait(1)
                    raise Mine("body")
            assert str(caught.value) == "body"
            assert isinstance({tag(one): one.error for one in deliveries.rest}[0], smtplite.DeliveryUnknown)
            hold.release()
            assert (await client.send(RAW)).complete


async def test_cancelled_it_ends_all_at_once_and_the_outcomes_are_in_rest_and_in_the_trace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events: list[TraceEvent] = []
    async with SMTPServer() as server:
        hold = server.hold("END_OF_DATA")
        async with client_of(server, trace=events.append) as client:
            with anyio.CancelScope() as scope, caplog.at_level(logging.WARNING):
                async with client.send_many(outgoing(3), connections=1) as deliveries:
                    await hold.wait(1)
                    scope.cancel()
                    await anyio.sleep_forever()
            assert scope.cancelled_caught
        finished = {event.message_id: event for event in events if isinstance(event, MessageFinished)}
        assert finished["<0@x>"].unknown == ("you@example.org",)
        assert isinstance({tag(one): one.error for one in deliveries.rest}[0], smtplite.DeliveryUnknown)
        assert len({tag(one) for one in deliveries.rest}) == len(deliveries.rest)


async def test_every_item_is_handed_out_or_in_rest_once_wherever_the_block_is_left() -> None:
    for left_at in range(1, 12):
        taken: list[int] = []

        def items(taken: list[int] = taken) -> Iterator[Outgoing]:
            for one in outgoing(10):
                taken.append(one.tag)
                yield one

        seen: list[int] = []
        async with SMTPServer() as server, client_of(server) as client:
            async with client.send_many(items(), connections=2) as deliveries:
                async for delivery in deliveries:
                    seen.append(tag(delivery))
                    if len(seen) == left_at:
                        break
        assert sorted(seen + [tag(one) for one in deliveries.rest]) == sorted(taken)


# Sharing the pool


async def test_a_consumer_that_sends_itself_does_not_deadlock() -> None:
    async with SMTPServer() as server:
        client = client_of(server, max_connections=2)
        async with client, client.send_many(outgoing(20), connections=2) as deliveries:
            async for delivery in deliveries:
                assert delivery.result().complete
                assert (await client.send(RAW)).complete
        assert len(server.messages) == 40
        assert len(server.connections) <= 2


async def test_whoever_waits_for_a_connection_gets_his_turn_between_messages() -> None:
    async with SMTPServer() as server:
        client = client_of(server, max_connections=1)
        done = anyio.Event()

        def items() -> Iterator[bytes]:
            n = 0
            while not done.is_set():  # it never ends by itself
                n += 1
                assert n < 10_000
                yield numbered(n)

        async with client, client.send_many(items()) as deliveries:

            async def send() -> None:
                assert (await client.send(RAW)).complete
                done.set()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send)
                outcomes = await all_of(deliveries)
        assert len(server.messages) == len(outcomes) + 1
        assert len(server.connections) == 1


async def test_two_streams_share_one_connection() -> None:
    async with SMTPServer() as server, client_of(server, max_connections=1) as client:
        counts: list[int] = []

        async def stream() -> None:
            async with client.send_many(outgoing(50)) as deliveries:
                counts.append(len(await all_of(deliveries)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream)
            tasks.start_soon(stream)
        assert counts == [50, 50]
        assert len(server.messages) == 100


async def test_a_slow_consumer_holds_no_connection_and_bounds_what_is_sent() -> None:
    async with SMTPServer() as server:
        client = client_of(server, max_connections=1)
        async with client, client.send_many(outgoing(500)) as deliveries:
            assert (await anext(deliveries)).result().complete
            for _ in range(3):
                assert (await client.send(RAW)).complete
            await server.wait_for_messages(3)
            assert (await client.send(RAW)).complete  # nobody took an outcome meanwhile, and the connection is free
            assert len(server.messages) < 100
            assert len(await all_of(deliveries)) == 499
        assert len(server.messages) == 504


# Trouble


@pytest.mark.exhaustive(keep=3)
@pytest.mark.parametrize("chunking", [False, True])
@pytest.mark.parametrize("unasked", [False, True])
async def test_a_server_that_closes_with_421_every_100_messages(chunking: bool, unasked: bool) -> None:
    """Nothing unknown, nothing doubled."""
    quirks = ServerQuirks(max_messages=100, closes_unasked=unasked)
    async with SMTPServer(quirks=quirks) as server:
        async with client_of(server, chunking=chunking) as client:
            async with client.send_many(outgoing(450), connections=1) as deliveries:
                outcomes = await all_of(deliveries)
        assert sorted(map(tag, outcomes)) == list(range(450))
        assert [outcome.error for outcome in outcomes if outcome.error is not None] == []
        assert Counter(arrived(server)) == Counter(f"<{n}@x>" for n in range(450))
        assert len(server.connections) == 5


async def test_a_lost_connection_gives_each_message_its_true_outcome_and_sends_again_what_was_not_sent() -> None:
    """R11 b."""
    async with SMTPServer() as server:
        server.reply("END_OF_DATA", b"", after_bytes=0, close=True, times=1)
        async with client_of(server) as client, client.send_many(outgoing(5), connections=1) as deliveries:
            outcomes = {tag(one): one for one in await all_of(deliveries)}
        assert isinstance(outcomes[0].error, smtplite.DeliveryUnknown)
        for n in range(1, 5):
            assert outcomes[n].result().complete
        counts = Counter(arrived(server))
        assert all(counts[f"<{n}@x>"] == 1 for n in range(1, 5))
        assert counts["<0@x>"] <= 1


async def test_what_is_certainly_not_sent_is_sent_again_at_most_once() -> None:
    async with SMTPServer() as server:
        server.reply("MAIL", "421 4.3.2 not now")
        async with client_of(server) as client, client.send_many(outgoing(3), connections=1) as deliveries:
            outcomes = await all_of(deliveries)
        assert sorted(map(tag, outcomes)) == [0, 1, 2]
        assert all(isinstance(one.error, smtplite.ServiceUnavailable) for one in outcomes)
        assert all(one.error is not None and one.error.retryable for one in outcomes)
        assert len(server.connections) == 6


async def test_refusals_touch_no_other_message() -> None:
    async with SMTPServer() as server:
        server.reply("MAIL", "550 5.1.0 not you", sender="bad@example.org")
        server.reply("RCPT", "550 5.1.1 nobody", to="nobody@example.org")
        items = []
        for n in range(40):
            if n % 4 == 1:
                items.append(Outgoing(numbered(n), sender="bad@example.org", tag=n))
            elif n % 4 == 3:
                items.append(Outgoing(numbered(n), recipients="nobody@example.org", tag=n))
            else:
                items.append(Outgoing(numbered(n), tag=n))
        for chunking in (False, True):
            async with client_of(server, chunking=chunking) as client:
                async with client.send_many(items, connections=1, in_flight=4) as deliveries:
                    outcomes = {tag(one): one for one in await all_of(deliveries)}
            for n, one in outcomes.items():
                want = {1: smtplite.SenderRefused, 3: smtplite.RecipientsRefused}.get(n % 4)
                assert (type(one.error) if one.error else None) is want, n
            assert Counter(arrived(server)) == Counter(f"<{n}@x>" for n in range(0, 40, 2))
            assert server.violations == []
            server.messages.clear()


async def test_if_no_connection_can_be_opened_the_loop_says_so_once(unused_port: Callable[[], int]) -> None:
    taken = 0

    def items() -> Iterator[Outgoing]:
        nonlocal taken
        for one in outgoing(100_000):
            taken += 1
            yield one

    client = Client("127.0.0.1", unused_port(), tls="none")
    with pytest.raises(smtplite.ConnectError):
        async with client.send_many(items()) as deliveries:
            async for _ in deliveries:
                pytest.fail("nothing can come")
    assert taken < 10
    assert len(deliveries.rest) == taken
    for one in deliveries.rest:
        assert isinstance(one.error, smtplite.ConnectError)
        assert one.error.not_sent == ("you@example.org",)
        assert one.error.retryable


async def test_what_connect_raises_is_raised_bare() -> None:
    async def connect() -> object:
        raise RuntimeError("no proxy")

    client = Client(connect=connect, tls="none")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="no proxy"):
        async with client.send_many(outgoing(3)) as deliveries:
            await all_of(deliveries)
    assert len(deliveries.rest) >= 1


async def test_a_closed_client_says_so() -> None:
    client = Client("mx.example")
    await client.aclose()
    with pytest.raises(smtplite.LocalProtocolError, match="closed"):
        async with client.send_many([RAW]) as deliveries:
            await all_of(deliveries)


async def test_timeout_is_for_each_message_and_judges_its_session_alone() -> None:
    async with SMTPServer() as server:
        hold = server.hold("END_OF_DATA", times=1)
        async with client_of(server) as client:
            async with client.send_many(outgoing(4), connections=1, timeout=2) as deliveries:
                outcomes = {tag(one): one for one in await all_of(deliveries)}
        assert hold.count == 1
        assert isinstance(outcomes[0].error, smtplite.DeliveryUnknown)
        assert isinstance(outcomes[0].error.__cause__, smtplite.SMTPTimeout)
        assert all(outcomes[n].result().complete for n in (1, 2, 3))
        assert len(server.connections) == 2


async def test_a_reply_that_does_not_come_ends_its_session_alone() -> None:
    async with SMTPServer() as server:
        server.hold("RCPT", times=1)
        client = client_of(server, timeouts=Timeouts(command=2))
        async with client, client.send_many(outgoing(3), connections=1) as deliveries:
            outcomes = {tag(one): one for one in await all_of(deliveries)}
        assert isinstance(outcomes[0].error, smtplite.SMTPTimeout)
        assert outcomes[0].error.not_sent == ("you@example.org",)
        assert all(outcomes[n].result().complete for n in (1, 2))


async def test_haraka_gets_everything_once_and_nothing_behind_a_dot_any_more() -> None:
    async with SMTPServer(quirks=ServerQuirks(refuses_after_dot="after")) as server:
        async with client_of(server) as client:
            for _ in range(2):
                async with client.send_many(outgoing(5), connections=1) as deliveries:
                    assert all(one.result().complete for one in await all_of(deliveries))
        assert Counter(arrived(server)) == Counter([f"<{n}@x>" for n in range(5)] * 2)
        assert server.connections[0].received.count(b"RSET") == 1


async def test_mailmax_and_max_messages_per_connection_limit_each_connection() -> None:
    for extensions, options in (
        (ServerExtensions(mailmax=3), {}),
        (ServerExtensions(), {"max_messages_per_connection": 3}),
    ):
        for chunking in (False, True):
            async with SMTPServer(extensions=extensions) as server:
                client = client_of(server, chunking=chunking, **options)
                async with client, client.send_many(outgoing(9), connections=1) as deliveries:
                    assert all(one.result().complete for one in await all_of(deliveries))
                assert len(server.messages) == 9
                assert server.violations == []
                assert all(b"\r\n421" not in connection.sent for connection in server.connections)


async def test_recipients_that_are_too_many_for_one_transaction_go_into_the_next() -> None:
    recipients = [f"r{n}@example.org" for n in range(7)]
    async with SMTPServer(extensions=ServerExtensions(rcptmax=3)) as server:
        items = [Outgoing(numbered(n), recipients=recipients, tag=n) for n in range(3)]
        async with client_of(server) as client, client.send_many(items, connections=1) as deliveries:
            outcomes = await all_of(deliveries)
        assert all(one.result().accepted == tuple(recipients) for one in outcomes)
        assert Counter(
            (m, r) for m, one in zip(arrived(server), server.messages, strict=True) for r in one.recipients
        ) == {(f"<{n}@x>", recipient): 1 for n in range(3) for recipient in recipients}


async def test_large_messages_among_small_ones() -> None:
    large = RAW + (b"y" * 70 + b"\r\n") * 4000
    items = [large if n % 3 == 1 else numbered(n) for n in range(9)]
    for chunking in (False, True):
        async with SMTPServer() as server:
            async with client_of(server, chunking=chunking) as client:
                async with client.send_many(items, connections=1) as deliveries:
                    assert all(one.result().complete for one in await all_of(deliveries))
            assert [message.content for message in server.messages] == items
            assert server.violations == []


async def test_a_content_that_fails_is_its_own_delivery_and_closes_its_connection_without_a_dot() -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield RAW
        yield b"x" * 70_000 + b"\r\n"
        raise OSError("disk gone")

    items = [
        Outgoing(numbered(0), tag=0),
        Outgoing(Content.from_stream(stream()), sender="a@example.org", recipients="b@example.org", tag=1),
        Outgoing(numbered(2), tag=2),
    ]
    async with SMTPServer() as server:
        async with client_of(server) as client, client.send_many(items, connections=1) as deliveries:
            outcomes = {tag(one): one for one in await all_of(deliveries)}
        assert outcomes[0].result().complete
        assert outcomes[2].result().complete
        assert isinstance(outcomes[1].error, smtplite.MessageError)
        assert outcomes[1].error.not_sent == ("b@example.org",)
        assert len(server.messages) == 2


async def test_require_all_holds_for_each_message() -> None:
    async with SMTPServer() as server:
        server.reply("RCPT", "550 5.1.1 nobody", to="nobody@example.org")
        items = [
            Outgoing(numbered(0), recipients=["a@example.org", "nobody@example.org"], tag=0),
            Outgoing(numbered(1), recipients=["a@example.org", "b@example.org"], tag=1),
        ]
        for chunking in (False, True):
            async with client_of(server, chunking=chunking) as client:
                async with client.send_many(items, connections=1, require_all=True) as deliveries:
                    outcomes = {tag(one): one for one in await all_of(deliveries)}
            assert isinstance(outcomes[0].error, smtplite.RecipientsRefused)
            assert outcomes[1].result().complete
            assert arrived(server) == ["<1@x>"]
            server.messages.clear()


async def test_the_trace_names_the_outcome_of_every_message() -> None:
    events: list[TraceEvent] = []
    async with SMTPServer() as server:
        client = client_of(server, trace=events.append)
        async with client, client.send_many(outgoing(5), connections=1) as deliveries:
            await all_of(deliveries)
    assert [event.message_id for event in events if isinstance(event, MessageFinished)] == [
        f"<{n}@x>" for n in range(5)
    ]
    assert len([event for event in events if isinstance(event, ConnectionOpened)]) == 1


async def test_a_task_cancelled_by_asyncio_itself(anyio_backend: tuple[str, object]) -> None:
    if anyio_backend[0] != "asyncio":
        pytest.skip("asyncio's own cancellation")
    async with SMTPServer() as server:
        hold = server.hold("END_OF_DATA")
        async with client_of(server, max_connections=1) as client:
            kept: list[Deliveries] = []

            async def stream() -> None:
                async with client.send_many(outgoing(5)) as deliveries:
                    kept.append(deliveries)
                    await all_of(deliveries)

            task = asyncio.create_task(stream())
            await hold.wait(1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert kept[0].rest
            hold.release()
            assert (await client.send(RAW)).complete


async def test_a_large_message_is_made_seven_bit_in_a_thread_and_the_others_go_on() -> None:
    """RFC 6152 3: where 8BITMIME is not offered."""
    large = EmailMessage()
    large["From"], large["To"], large["Message-ID"] = "me@example.org", "you@example.org", "<large@x>"
    large.set_content("Grüße\n" * 60_000, cte="8bit")
    async with SMTPServer(extensions=ServerExtensions(eight_bit_mime=False)) as server:
        async with client_of(server) as client:
            async with client.send_many([large, *outgoing(3)], connections=1) as deliveries:
                outcomes = await all_of(deliveries)
    assert all(outcome.result().complete for outcome in outcomes)
    assert sorted(arrived(server)) == ["<0@x>", "<1@x>", "<2@x>", "<large@x>"]
    (stored,) = [message for message in server.messages if len(message.content) > 1000]
    assert stored.content.isascii()
    assert stored.as_email().get_content().replace("\r\n", "\n") == "Grüße\n" * 60_000
