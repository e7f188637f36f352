"""Routes: a message that one relay certainly did not accept goes to another, and never to both.

::

    from smtplite.routes import Route

    async with Route(["smtp://relay-a.example.com", "smtp://relay-b.example.com"]) as route:
        receipt = await route.send(message)
        receipt.hops  # what each relay said

A `Route` has the methods of a `Client`: send, send_many, check, aclose. It uses clients as any program could.
"""

from smtplite.routes.events import BreakerClosed, BreakerHalfOpened, BreakerOpened, MovedOn, RouteEvent, RouteTrace
from smtplite.routes.member import Member, StreamingMember
from smtplite.routes.policies import Policy
from smtplite.routes.route import RelayInfo, Route, RouteInfo
from smtplite.routes.stream import RouteDeliveries

__all__ = [
    "BreakerClosed",
    "BreakerHalfOpened",
    "BreakerOpened",
    "Member",
    "MovedOn",
    "Policy",
    "RelayInfo",
    "Route",
    "RouteDeliveries",
    "RouteEvent",
    "RouteInfo",
    "RouteTrace",
    "StreamingMember",
]
