"""A route on every event loop."""

from __future__ import annotations

import pytest

from smtplite.routes import Route

from .relays import Relay, raw, route_of


async def _use(route: Route) -> None:
    assert (await route.send(raw(1))).complete
    async with route.send_many([raw(number) for number in range(10)]) as deliveries:
        found = [delivery async for delivery in deliveries]
    assert all(delivery.receipt is not None for delivery in found)
    assert (await route.check()).relays[1].error is None


@pytest.mark.anyio
async def test_a_route_works_here() -> None:
    one, two = Relay(), Relay()
    one.is_off = True
    async with route_of(one, two) as route:
        await _use(route)
    assert len(two.names) == 11
