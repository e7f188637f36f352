"""A route over Postfix and Exim, each killed and restarted in turn: no message is lost, and none is taken by both."""

from __future__ import annotations

import anyio.abc
import pytest

from smtplite import Client
from smtplite.routes import Route

from .conftest import Launch
from .in_turn import Way, killed_in_turn, messages_to_nobody
from .launcher import Postfix
from .secure import Exim

pytestmark = [pytest.mark.interop, pytest.mark.asyncio]

MESSAGES = 500


@pytest.mark.parametrize("way", ["send", "send_many"])
async def test_relays_killed_in_turn_lose_nothing_and_take_nothing_twice(launch: Launch, way: Way) -> None:
    found = await killed_in_turn([(launch(Postfix), "smtp"), (launch(Exim), "plain")], MESSAGES, way)
    assert found.wrong == []
    assert found.kills == 4
    assert found.outcomes["not_sent"] == 0
    assert found.outcomes["accepted"] >= MESSAGES * 0.9
    assert len(found.servers) == 2


async def test_a_dead_relay_is_connected_to_a_few_times_and_then_left_alone(launch: Launch) -> None:
    """Counted, not timed: `python -m tests.interop.in_turn` measures what it costs."""
    tries = 0

    async def connect() -> anyio.abc.ByteStream:
        nonlocal tries
        tries += 1
        raise ConnectionRefusedError("nobody listens")

    dead, alive = Client(connect=connect, tls="none"), launch(Postfix).client("smtp")
    async with Route([dead, alive], clock=lambda: 0.0) as route:  # its pause is never over
        async with route.send_many(messages_to_nobody(MESSAGES)) as deliveries:
            hops = [len(delivery.result().hops) async for delivery in deliveries]
    assert len(hops) == MESSAGES
    assert 1 <= tries <= 10
    assert set(hops) == {1, 2}  # who was on the way to it by then went to the other one
