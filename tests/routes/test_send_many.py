"""`Route.send_many` keeps the promises of `Client.send_many`: one Delivery for each item, read lazily, and `rest`."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

import smtplite
from smtplite import (
    ConfigurationError,
    ConnectError,
    Content,
    Delivery,
    DeliveryUnknown,
    ExtensionRequired,
    LocalProtocolError,
    MessageError,
    Outgoing,
    Receipt,
    TLSError,
)
from smtplite.message import Prepared
from smtplite.routes import BreakerOpened, Policy, Route, RouteDeliveries
from smtplite.routes.routed import Routed
from smtplite.testing import ServerExtensions
from smtplite.types import Security
from tests.exhaustive import part

from .relays import Clock, Relay, later, many, octets_of, raw, route_of, take

pytestmark = pytest.mark.asyncio


async def sent(route: Route, messages: Any, **options: Any) -> list[Delivery]:
    """Send all of them; return what came of each."""
    async with route.send_many(messages, **options) as deliveries:
        found = [delivery async for delivery in deliveries]
    assert deliveries.rest == []
    return found


def ids(count: int) -> list[str]:
    return sorted(f"<{number}@example.org>" for number in range(count))


@pytest.mark.parametrize("is_async", [False, True], ids=["list", "async"])
@pytest.mark.parametrize("policy", ["failover", "round-robin"])
async def test_each_item_has_one_delivery(policy: Policy, *, is_async: bool) -> None:
    one, two = Relay(), Relay()
    count = many(300, 60)
    items = [raw(number) for number in range(count)]
    async with route_of(one, two, policy=policy) as route:
        found = await sent(route, later(items) if is_async else items)
    assert octets_of(found) == sorted(items)
    assert all(delivery.receipt is not None and len(delivery.receipt.hops) == 1 for delivery in found)
    assert sorted(one.names + two.names) == ids(count)
    shares = (count, 0) if policy == "failover" else (count // 2, count // 2)
    assert (len(one.names), len(two.names)) == shares


async def test_a_dead_relay_costs_nothing_but_a_try() -> None:
    one, two = Relay(), Relay()
    one.is_off = True
    async with route_of(one, two) as route:
        found = await sent(route, [raw(number) for number in range(40)])
    assert sorted(two.names) == ids(40)
    assert one.connects <= 3
    assert all(delivery.receipt is not None for delivery in found)


async def test_what_has_not_begun_goes_to_another_when_a_breaker_opens() -> None:
    """The relay says 421 from the 20th message on: nothing is sent twice, nothing is lost."""
    one, two = Relay(max_connections=1), Relay(max_connections=1)
    count = many(400, 100)

    def messages() -> Iterator[bytes]:
        for number in range(count):
            if number == 20:
                one.server.reply("MAIL", "421 closing")
            yield raw(number)

    events: list[object] = []
    async with route_of(one, two, trace=events.append) as route:
        found = await sent(route, messages(), in_flight=2)
    assert all(delivery.receipt is not None and delivery.receipt.complete for delivery in found)
    assert sorted(one.names + two.names) == ids(count)
    assert one.names
    assert len(two.names) > 20
    assert any(isinstance(event, BreakerOpened) for event in events)


async def test_what_may_have_arrived_stays() -> None:
    """Connections that end after the content: unknown, with one hop, and nobody has it twice."""
    one, two = Relay(), Relay()
    one.server.reply("END_OF_DATA", b"", close=True, performs=True)
    async with route_of(one, two) as route:
        found = await sent(route, [raw(number) for number in range(50)], connections=2)
    unknown = [delivery for delivery in found if isinstance(delivery.error, DeliveryUnknown)]
    assert unknown
    assert all(len(delivery.error.hops) == 1 for delivery in unknown if delivery.error is not None)
    assert sorted(one.names + two.names) == ids(50)
    assert len(found) == 50


async def test_what_one_relay_lacks_leads_to_the_other() -> None:
    without, two = Relay(server={"extensions": ServerExtensions(smtputf8=False, size=500)}), Relay()
    items: list[Any] = [raw(number) for number in range(20)]
    items.append(Outgoing(raw(20), sender="a@example.org", recipients="j\u00f6rg@example.net"))
    items.append(raw(21, size=2000))
    async with route_of(without, two) as route:
        found = await sent(route, items)
    assert all(delivery.receipt is not None for delivery in found)
    assert sorted(two.names) == ["<20@example.org>", "<21@example.org>"]
    assert len(without.names) == 20


async def test_what_no_relay_has_is_an_error_of_its_own() -> None:
    without = [Relay(server={"extensions": ServerExtensions(smtputf8=False)}) for _ in range(2)]
    async with route_of(*without) as route:
        items = [raw(1), Outgoing(raw(2), sender="a@example.org", recipients="j\u00f6rg@example.net"), raw(3), b"x"]
        found = {str(delivery.item)[:60]: delivery for delivery in await sent(route, items)}
    errors = [delivery.error for delivery in found.values() if delivery.error is not None]
    assert {type(error) for error in errors} == {ExtensionRequired, MessageError}
    assert len(found) == 4


async def test_no_relay_at_all_is_said_once_and_nothing_more_is_read() -> None:
    one, two = Relay(), Relay()
    one.is_off = two.is_off = True
    read = []

    def messages() -> Iterator[bytes]:
        for number in range(100_000):
            read.append(number)
            yield raw(number)

    found: list[Delivery] = []
    async with route_of(one, two) as route:
        with pytest.raises(ConnectError):
            await take(route.send_many(messages()), found)
    assert len(read) < 1_000
    assert octets_of(found) == sorted(raw(number) for number in read)
    assert all(delivery.error is not None and not delivery.error.unknown for delivery in found)


async def test_leaving_early_takes_nothing_more_and_leaves_the_rest() -> None:
    one, two = Relay(), Relay()
    read = []

    def messages() -> Iterator[bytes]:
        for number in range(100_000):
            read.append(number)
            yield raw(number)

    found = []
    async with route_of(one, two, policy="round-robin") as route, route.send_many(messages()) as deliveries:
        async for delivery in deliveries:
            found.append(delivery)
            if len(found) == 20:
                break
    found += deliveries.rest
    assert octets_of(found) == sorted(raw(number) for number in read)
    accepted = [delivery for delivery in found if delivery.receipt is not None]
    assert len(accepted) == len(one.names) + len(two.names)
    assert len(read) < 2_000


@pytest.mark.parametrize("leaves", ["exception", "cancel"])
async def test_leaving_by_force_tells_of_each_what_is_true(leaves: str) -> None:
    one, two = Relay(), Relay()
    found: list[Delivery] = []
    read = []

    def messages() -> Iterator[bytes]:
        for number in range(10_000):
            read.append(number)
            yield raw(number)

    deliveries = None
    async with route_of(one, two, policy="round-robin") as route:
        with anyio.CancelScope() as scope:
            try:
                async with route.send_many(messages()) as deliveries:
                    async for delivery in deliveries:
                        found.append(delivery)
                        if len(found) == 30:
                            if leaves == "exception":
                                raise KeyError("mine")
                            scope.cancel()
            except KeyError:
                pass
    assert deliveries is not None
    found += deliveries.rest
    assert octets_of(found) == sorted(raw(number) for number in read)
    taken = set(one.names + two.names)
    for delivery in found:
        name = str(delivery.item).split("Message-ID: ")[1].split("\\r")[0]
        if delivery.receipt is not None:
            assert name in taken
        elif delivery.error is not None and not delivery.error.unknown:
            assert name not in taken


async def test_the_iterables_own_error_is_raised_bare_and_the_rest_is_there() -> None:
    one, two = Relay(), Relay()

    def messages() -> Iterator[bytes]:
        yield raw(1)
        raise KeyError("mine")

    found: list[Delivery] = []
    async with route_of(one, two) as route:
        with pytest.raises(KeyError, match="mine"):
            await take(route.send_many(messages()), found)
    assert len(found) == 1


@pytest.mark.parametrize("is_dead", [False, True])
async def test_the_callers_async_generator_survives_the_end_of_a_relay(*, is_dead: bool) -> None:
    """It waits for its next item while the relay's stream is cancelled: it must not be cancelled with it."""
    one, two = Relay(), Relay()
    go_on = anyio.Event()

    async def messages() -> AsyncIterator[bytes]:
        for number in range(10):
            yield raw(number)
        await go_on.wait()
        for number in range(10, 20):
            yield raw(number)

    one.is_off = is_dead
    async with route_of(one, two) as route, route.send_many(messages()) as deliveries:
        count = 0
        async for delivery in deliveries:
            assert delivery.receipt is not None
            count += 1
            if count == 10:
                one.is_off = True
                one.server.reply("MAIL", "421 closing")
                go_on.set()
    assert count == 20
    assert sorted(one.names + two.names) == ids(20)


async def test_begun_is_said_once_for_each_item_by_the_item() -> None:
    one, two = Relay(), Relay()
    one.server.reply("MAIL", "421 closing")
    begun: list[Any] = []
    items = [Outgoing(raw(number), tag=number) for number in range(40)]
    async with route_of(one, two) as route:
        await sent(route, items, on_begin=begun.extend)
    assert sorted(item.tag for item in begun) == list(range(40))


async def test_an_objection_at_the_beginning_ends_it_with_nothing_sent() -> None:
    one, two = Relay(), Relay()

    def object_to(items: list[Any]) -> None:
        raise OSError("disk full")

    found: list[Delivery] = []
    async with route_of(one, two) as route:
        with pytest.raises(OSError, match="disk full"):
            await take(route.send_many([raw(number) for number in range(10)], on_begin=object_to), found)
        assert all(info.breaker == "closed" for info in (await route.check()).relays)
    assert not one.names
    assert not two.names
    assert len(found) == 10
    assert all(delivery.error is not None and delivery.error.unknown == () for delivery in found)


async def test_a_relay_that_is_back_is_tried_with_one_message_and_goes_on() -> None:
    clock = Clock()
    one, two = Relay(max_connections=2), Relay(max_connections=2)
    one.is_off = True
    count = many(300, 80)

    def messages() -> Iterator[bytes]:
        for number in range(count):
            if number == 30:
                one.is_off = False
                clock.now += 5
            yield raw(number)

    async with route_of(one, two, clock=clock, pause=5) as route:
        found = await sent(route, messages(), in_flight=2)
    assert all(delivery.receipt is not None for delivery in found)
    assert sorted(one.names + two.names) == ids(count)
    assert len(one.names) > 10


async def test_a_certificate_never_leads_to_a_relay_in_clear() -> None:
    one = Relay(server={"tls": "implicit"}, tls="implicit", tls_hostname="other.example")
    two = Relay()
    async with route_of(one, two) as route:
        with pytest.raises(TLSError):
            await sent(route, [raw(number) for number in range(10)])
    assert not two.connects


async def test_streams_that_are_read_once_move_if_nothing_was_read() -> None:
    one, two = Relay(), Relay()
    one.is_off = True

    async def pieces(number: int) -> AsyncIterator[bytes]:
        yield raw(number)

    def outgoing(number: int) -> Outgoing:
        content = Content.from_stream(pieces(number))
        return Outgoing(content, sender="a@example.org", recipients="b@example.net")

    async with route_of(one, two) as route:
        found = await sent(route, (outgoing(number) for number in range(20)))
    assert [delivery.error for delivery in found if delivery.error is not None] == []
    assert sorted(two.names) == ids(20)


async def test_it_is_read_lazily_however_long_it_is() -> None:
    """What is read and not yet handed out stays below a constant: so does memory."""
    one, two = Relay(server={"keep": False}), Relay(server={"keep": False}, max_connections=2)
    count = many(1_500, 300)
    one.is_off = True
    read = handed = most = 0

    def messages() -> Iterator[bytes]:
        nonlocal read, most
        for number in range(count):
            read += 1
            most = max(most, read - handed)
            yield raw(number)

    async with (
        route_of(one, two, policy="round-robin") as route,
        route.send_many(messages(), in_flight=2) as deliveries,
    ):
        async for _ in deliveries:
            handed += 1
            if handed == 20:  # slow for a while: nothing more is read than there is room for
                for _ in range(100):
                    await anyio.lowlevel.checkpoint()
        gc.collect()
        assert sum(type(each) is Routed for each in gc.get_objects()) == 0
    assert read == handed == count
    assert most < 700


async def test_a_consumer_that_sends_itself_does_not_hang() -> None:
    one, two = Relay(max_connections=1), Relay(max_connections=1)
    async with route_of(one, two) as route, route.send_many([raw(number) for number in range(60)]) as deliveries:
        count = 0
        async for _ in deliveries:
            count += 1
            if count in (1, 40):
                assert (await route.send(raw(1000 + count))).complete
    assert count == 60


async def test_what_is_wrong_is_said() -> None:
    one = Relay()
    async with route_of(one) as route:
        for wrong in (raw(), Outgoing(raw()), 5):
            with pytest.raises(ConfigurationError, match="messages must be an iterable"):
                route.send_many(wrong)  # type: ignore[arg-type]  # on purpose
        with pytest.raises(ConfigurationError, match="drain must be"):
            route.send_many([], drain=-1)
        with pytest.raises(ConfigurationError, match="on_begin must be"):
            route.send_many([], on_begin=5)  # type: ignore[arg-type]  # on purpose
        deliveries = route.send_many([])
        with pytest.raises(LocalProtocolError, match="nothing is sent yet"):
            aiter(cast("RouteDeliveries", deliveries))
        async with deliveries:
            with pytest.raises(LocalProtocolError, match="already begun"):
                await deliveries.__aenter__()


# A member of another kind


class Api:
    """A transport over something else: the smallest thing that is a member."""

    server = "api.example"
    security: Security = "verified"

    def __init__(self) -> None:
        self.taken: list[tuple[tuple[str, ...], bytes]] = []
        self.error: smtplite.SMTPError | None = None
        self.is_closed = False

    async def send(
        self,
        message: Prepared,
        *,
        require_all: bool = False,
        timeout: float | None = None,
        ready_within: float | None = None,
    ) -> Receipt:
        await anyio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        self.taken.append((message.recipients, await message.read()))
        return Receipt(message.recipients, server=self.server, message_id=message.message_id)

    async def check(self) -> object:
        return "fine"

    async def aclose(self) -> None:
        self.is_closed = True


async def test_a_member_is_whatever_can_send() -> None:
    one, api = Relay(), Api()
    one.is_off = True
    async with Route([one.client, api]) as route:
        receipt = await route.send(raw(1))
        assert receipt.server == "api.example"
        assert (await route.check()).relays[1].info == "fine"
        found = await sent(route, [raw(number) for number in range(50)])
    assert api.is_closed
    assert len(api.taken) == 51
    assert api.taken[0] == (("reader1@example.net",), raw(1))
    assert all(delivery.receipt is not None for delivery in found)


@pytest.mark.parametrize(
    ("way", "policy", "weights"),
    [("send", "round-robin", None), ("send_many", "round-robin", None), ("send_many", "weighted", [5, 3, 2])],
)
async def test_shares_hold_within_two_percent(policy: Policy, weights: list[int] | None, way: str) -> None:
    """Over 10,000 messages, and over the part of them that is sent by default."""
    members = [Api() for _ in weights or range(4)]
    numbers = part(range(10_000), keep=60)
    async with Route(members, policy=policy, weights=weights) as route:
        if way == "send":
            for number in numbers:
                await route.send(raw(number))
        else:
            await sent(route, map(raw, numbers))
    parts = weights or [1] * len(members)
    for member, weight in zip(members, parts, strict=True):
        share = len(numbers) * weight / sum(parts)
        assert abs(len(member.taken) - share) <= max(1, 0.02 * share)


async def test_a_member_that_does_not_say_whether_it_has_it_is_not_believed() -> None:
    """An error without sets of recipients, after it began: nobody can know, and nobody else gets it."""
    api, two = Api(), Relay()
    api.error = smtplite.ConnectionLost("connection lost", phase="content")
    async with Route([api, two.client]) as route:
        with pytest.raises(DeliveryUnknown):
            await route.send(raw())
        found = await sent(route, [raw(number) for number in range(5)])
    assert any(isinstance(delivery.error, DeliveryUnknown) for delivery in found)
    taken = {delivery.item for delivery in found if delivery.receipt is not None}
    assert len(two.names) == len(taken)


async def test_a_check_that_breaks_down_is_heard_as_itself() -> None:
    api, two = Api(), Relay()

    async def broken() -> object:
        raise KeyError("a bug")

    api.check = broken  # type: ignore[method-assign]  # on purpose
    async with Route([api, two.client]) as route:
        with pytest.raises(KeyError, match="a bug"):
            await route.check()


async def test_a_member_that_breaks_down_is_heard() -> None:
    api, two = Api(), Relay()

    async def broken(message: Prepared, **_: object) -> Receipt:
        raise KeyError("a bug")

    api.send = broken  # type: ignore[method-assign]  # on purpose
    async with Route([api, two.client]) as route:
        with pytest.raises(KeyError, match="a bug"):
            await route.send(raw())
        with pytest.raises(KeyError, match="a bug"):
            await sent(route, [raw(1)])
