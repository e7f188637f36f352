"""Typed events of a route, for `Route(trace=...)`, besides those of its clients; and what is logged."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, TypeAlias

import attrs

from smtplite.errors import AuthenticationError, SMTPError, TLSError
from smtplite.trace import TraceEvent

__all__ = [
    "BreakerClosed",
    "BreakerHalfOpened",
    "BreakerOpened",
    "MovedOn",
    "RouteEvent",
    "RouteTrace",
    "Teller",
]

logger: Final = logging.getLogger("smtplite.routes")


@attrs.frozen(kw_only=True)
class BreakerOpened:
    """A relay failed: it is not used for a while.

    Attributes:
        relay: the relay, such as "mx.example.com:587".
        error: what it failed with.
        failures: how many times in a row it has failed.
        pause: seconds after which one message tries it again.
    """

    relay: str
    error: SMTPError
    failures: int
    pause: float


@attrs.frozen(kw_only=True)
class BreakerHalfOpened:
    """One message tries a relay again.

    Attributes:
        relay: the relay.
    """

    relay: str


@attrs.frozen(kw_only=True)
class BreakerClosed:
    """A relay works again.

    Attributes:
        relay: the relay.
    """

    relay: str


@attrs.frozen(kw_only=True)
class MovedOn:
    """A relay certainly did not accept a message for these recipients: they go to another one, if there is one.

    Attributes:
        relay: the relay that did not accept it.
        message_id: the Message-ID of the message, if it has one.
        recipients: who moves on, as they were given.
        error: why; None: it accepted the message for others.
    """

    relay: str
    message_id: str | None
    recipients: tuple[str, ...]
    error: SMTPError | None


RouteEvent: TypeAlias = BreakerOpened | BreakerHalfOpened | BreakerClosed | MovedOn
#: Is called with what happens: the events of the route, and those of the clients that it makes from URLs.
RouteTrace: TypeAlias = Callable[[RouteEvent | TraceEvent], None]


class Teller:
    """Hands events to the user's hook and to the log; with a higher level if somebody has to correct something.

    Args:
        hook: the user's; its exceptions are logged and go no further.
    """

    def __init__(self, hook: RouteTrace | None) -> None:
        self._hook = hook

    def __call__(self, event: RouteEvent) -> None:
        """Hand an event out."""
        if isinstance(event, BreakerOpened):
            is_loud = isinstance(event.error, (AuthenticationError, TLSError)) and not event.error.retryable
            logger.log(
                logging.ERROR if is_loud else logging.WARNING,
                "relay %s is not used for %g s: %s: %s",
                event.relay,
                event.pause,
                type(event.error).__name__,
                event.error,
            )
        elif isinstance(event, BreakerClosed):
            logger.warning("relay %s works again", event.relay)
        else:
            logger.debug("%r", event)
        if self._hook is not None:
            try:
                self._hook(event)
            except Exception:
                logger.exception("trace hook failed on %r", event)
