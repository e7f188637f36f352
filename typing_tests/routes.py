"""The types of `smtplite.routes`, as its users meet them. Type checkers read this file; nobody runs it."""

from __future__ import annotations

from typing import assert_type

from smtplite import Client, Delivery, Hop, Receipt
from smtplite.message import Prepared
from smtplite.routes import BreakerOpened, Member, MovedOn, RelayInfo, Route, RouteDeliveries, RouteEvent, RouteInfo
from smtplite.trace import TraceEvent
from smtplite.types import AnyMessage, Security


def hears(event: RouteEvent | TraceEvent) -> None:
    """Hear the events of the route, and those of its clients."""
    if isinstance(event, BreakerOpened):
        assert_type(event.pause, float)
    elif isinstance(event, MovedOn):
        assert_type(event.recipients, tuple[str, ...])


class Api:
    """A member of another kind."""

    @property
    def server(self) -> str:
        """What it is, for people."""
        return "api.example"

    @property
    def security(self) -> Security:
        """How safe the way to it is."""
        return "verified"

    async def send(
        self,
        message: Prepared,
        *,
        require_all: bool = False,
        timeout: float | None = None,
        ready_within: float | None = None,
    ) -> Receipt:
        """Send one message."""
        assert_type((require_all, timeout, ready_within), tuple[bool, float | None, float | None])
        return Receipt(message.recipients)

    async def check(self) -> object:
        """Say whether it can be used."""
        return None

    async def aclose(self) -> None:
        """End its connections."""
        return


async def routes(client: Client, message: AnyMessage) -> None:
    """Make routes, and use them."""
    member: Member = client
    async with Route([member, "smtp://b.example", Api()], policy="weighted", weights=[2, 1, 1], trace=hears) as route:
        assert_type(route, Route)
        receipt = await route.send(message, timeout=5, require_all=True)
        assert_type(receipt, Receipt)
        assert_type(receipt.hops, tuple[Hop, ...])
        async with route.send_many([message]) as deliveries:
            assert_type(deliveries, RouteDeliveries)
            async for delivery in deliveries:
                assert_type(delivery, Delivery)
        found = await route.check()
        assert_type(found, RouteInfo)
        assert_type(found.relays, tuple[RelayInfo, ...])
    assert_type(Route.from_url("failover(smtp://a smtp://b)", fail_over_on=[452, "4yz"]), Route)
    prepared = await Prepared.of(message)
    assert_type(await client.send(prepared, ready_within=1), Receipt)
