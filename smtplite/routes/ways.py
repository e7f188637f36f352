"""Way: what is on its way to one relay, within a stream; and how a stream is to be sent."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import attrs

from smtplite.errors import ConnectionLost, DeliveryUnknown, SMTPError
from smtplite.message import Prepared
from smtplite.results import Delivery
from smtplite.routes.relays import Relay
from smtplite.routes.routed import Routed

if TYPE_CHECKING:
    from smtplite.routes.stream import RouteDeliveries

__all__ = ["Plan", "Way", "untold", "was_left"]


@attrs.frozen(kw_only=True)
class Plan:
    """How a stream is to be sent: the arguments of `Route.send_many`."""

    connections: int | None
    in_flight: int
    require_all: bool
    timeout: float | None
    drain: float
    reconnect: float
    on_begin: Callable[[list[Any]], None] | None


class Way:
    """What is on its way to one relay, and the source of its stream.

    Args:
        stream: the whole.
        relay: the relay.
    """

    def __init__(self, stream: RouteDeliveries, relay: Relay) -> None:
        self._stream = stream
        self.relay = relay
        #: Placed here, and not yet given.
        self.waiting: deque[Routed] = deque()
        #: Given to the stream of the member, which owes their outcomes.
        self.given: dict[Prepared, Routed] = {}
        #: True once the relay was tried by this stream.
        self.was_tried = False

    def __aiter__(self) -> AsyncIterator[Prepared]:
        return self

    async def __anext__(self) -> Prepared:
        """Return what comes next; to be cancelled here loses nothing."""
        routed = await self._stream.next_for(self)
        if routed is None:
            raise StopAsyncIteration
        part = routed.part()
        self.given[part] = routed
        return part

    def begins(self, parts: list[Prepared]) -> None:
        """Take note that the first bytes of these are about to be written."""
        self._stream.begins([self.given[part] for part in parts])


def untold(routed: Routed) -> SMTPError:
    """Return the outcome of a message that began, and of which the member said nothing."""
    return DeliveryUnknown("relay did not say what became of the message", unknown=routed.left)


def was_left(delivery: Delivery, routed: Routed) -> bool:
    """Return True if this says nothing of the relay: the message was given back because we left the stream."""
    error = delivery.error
    if not isinstance(error, ConnectionLost) or error.phase is not None or error.unknown:
        return False
    return not routed.has_begun_here or set(error.not_sent) == set(routed.left)
