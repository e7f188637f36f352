"""A route over Postfix and Exim, each killed and restarted in turn: no message is lost, and none is taken by both."""

from __future__ import annotations

import statistics

import pytest

from .conftest import Launch
from .in_turn import Way, killed_in_turn, throughput
from .launcher import Postfix
from .secure import Exim

pytestmark = [pytest.mark.interop, pytest.mark.asyncio]

MESSAGES = 500
#: `python -m tests.interop.in_turn` asks for 0.9; so short a run, beside others, says only that nothing is badly wrong.
LEAST_SPEED = 0.6


@pytest.mark.parametrize("way", ["send", "send_many"])
async def test_relays_killed_in_turn_lose_nothing_and_take_nothing_twice(launch: Launch, way: Way) -> None:
    found = await killed_in_turn([(launch(Postfix), "smtp"), (launch(Exim), "plain")], MESSAGES, way)
    assert found.wrong == []
    assert found.kills == 4
    assert found.outcomes["not_sent"] == 0
    assert found.outcomes["accepted"] >= MESSAGES * 0.9
    assert len(found.servers) == 2


async def test_a_dead_relay_costs_next_to_no_speed(launch: Launch) -> None:
    ratios = await throughput(launch(Postfix), "smtp", 200, 3)
    assert statistics.median(ratios) >= LEAST_SPEED
