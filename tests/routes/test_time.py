"""One deadline over all relays, and each relay's share of it; on an event loop whose clock jumps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import anyio
import pytest

from smtplite import ConnectError, Delivery, SMTPTimeout
from tests.client.fault_stream import run

from .relays import Relay, octets_of, raw, route_of, take


def jumping(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Run a test on such a loop."""

    def wrapped() -> None:
        run("asyncio", test)

    wrapped.__name__ = test.__name__
    wrapped.__doc__ = test.__doc__
    return wrapped


@jumping
async def test_a_relay_that_is_silent_gets_its_share_of_the_time_alone() -> None:
    silent, two = Relay(), Relay()
    silent.before = anyio.sleep_forever
    async with route_of(silent, two) as route:
        begun = anyio.current_time()
        receipt = await route.send(raw(), timeout=8)
        assert 3 <= anyio.current_time() - begun <= 4
    error = receipt.hops[0].error
    assert isinstance(error, SMTPTimeout)
    assert error.phase == "connect"
    assert "ready_within=" in str(error)


@jumping
async def test_a_relay_that_has_begun_may_use_all_of_the_time() -> None:
    """Its verdict comes after its share, but in time."""
    slow, two = Relay(), Relay()
    held = slow.server.hold("END_OF_DATA")
    async with route_of(slow, two) as route, anyio.create_task_group() as tasks:

        async def release() -> None:
            await anyio.sleep(1.5)
            held.release()

        tasks.start_soon(release)
        receipt = await route.send(raw(), timeout=1.6)
    assert len(receipt.hops) == 1


@jumping
async def test_the_whole_time_is_one() -> None:
    relays = [Relay(), Relay(), Relay()]
    for relay in relays:
        relay.before = anyio.sleep_forever
    async with route_of(*relays, timeout=9) as route:
        begun = anyio.current_time()
        with pytest.raises(SMTPTimeout) as caught:
            await route.send(raw())
        assert 8 <= anyio.current_time() - begun <= 9
    assert len(caught.value.hops) == 3
    assert caught.value.not_sent == ("reader0@example.net",)


@jumping
async def test_who_waits_for_one_that_tries_the_relay_waits_within_its_own_time() -> None:
    one = Relay()
    one.is_off = True
    async with route_of(one, failures=1) as route:
        with pytest.raises(ConnectError):
            await route.send(raw())
        one.before = anyio.sleep_forever
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(route.send, raw())
            await anyio.wait_all_tasks_blocked()
            begun = anyio.current_time()
            with pytest.raises(SMTPTimeout) as caught:
                await route.send(raw(), timeout=2)
            assert anyio.current_time() - begun <= 2
            assert caught.value.not_sent == ("reader0@example.net",)
            tasks.cancel_scope.cancel()


@jumping
async def test_a_client_alone_can_be_given_a_limit_until_it_is_ready() -> None:
    one = Relay()
    one.before = anyio.sleep_forever
    async with one.client as client:
        with pytest.raises(SMTPTimeout, match="ready_within="):
            await client.send(raw(), ready_within=1)
        one.before = None
        assert (await client.send(raw(), ready_within=1, timeout=0.5)).complete


@jumping
async def test_a_stream_waits_for_relays_that_come_back() -> None:
    """Both relays are restarted: for `reconnect` seconds what is to be sent waits; then it goes on."""
    one, two = Relay(), Relay()
    count = 120

    async def outage() -> None:
        await anyio.sleep(10)
        one.is_off = two.is_off = False

    def messages() -> Iterator[bytes]:
        for number in range(count):
            if number == 60:
                one.is_off = two.is_off = True
                for relay in (one, two):
                    relay.server.reply("MAIL", "421 restart", times=8)
            yield raw(number)

    async with route_of(one, two, pause=1000, clock=anyio.current_time) as route, anyio.create_task_group() as tasks:
        tasks.start_soon(outage)
        async with route.send_many(messages(), in_flight=2, reconnect=30) as deliveries:
            found = [delivery async for delivery in deliveries]
    assert all(delivery.receipt is not None for delivery in found)
    assert sorted(one.names + two.names) == sorted(f"<{number}@example.org>" for number in range(count))


@jumping
async def test_a_stream_gives_up_after_reconnect_seconds() -> None:
    one, two = Relay(), Relay()
    taken = []

    def messages() -> Iterator[bytes]:
        for number in range(10_000):
            if number == 30:
                one.is_off = two.is_off = True
                for relay in (one, two):
                    relay.server.reply("MAIL", "421 for good")
            taken.append(raw(number))
            yield taken[-1]

    async with route_of(one, two, clock=anyio.current_time) as route:
        begun = anyio.current_time()
        found: list[Delivery] = []
        with pytest.raises(ConnectError) as caught:
            await take(route.send_many(messages(), in_flight=2, reconnect=20), found)
        assert 19 <= anyio.current_time() - begun <= 60
        assert len(caught.value.__notes__) == 2
    assert octets_of(found) == sorted(taken)
    assert len(taken) < 1_000
