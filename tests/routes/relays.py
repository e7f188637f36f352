"""Relays for the tests of routes: servers in memory, relays that refuse every connection, and a clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio.abc
import anyio.lowlevel

from smtplite import Client, Delivery
from smtplite.routes import Route, RouteDeliveries
from smtplite.testing import SMTPServer
from tests.exhaustive import part


class Clock:
    """A clock that goes when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Relay:
    """A server in memory, that can be switched off, with a client."""

    def __init__(self, name: str = "relay.example", *, server: dict[str, Any] | None = None, **options: Any) -> None:
        self.server = SMTPServer(name=name, **(server or {}))
        self.is_off = False
        self.connects = 0
        #: Awaited before each connection; None: nothing is.
        self.before: Callable[[], Awaitable[None]] | None = None
        options = {"tls": "none", "max_connections": 3, "connect": self._connect, **options}
        if options["tls"] != "none":
            options = {"hostname": "localhost", "tls_context": self.server.ca_context(), **options}
        self.client = Client(**options)

    async def _connect(self) -> anyio.abc.ByteStream:
        self.connects += 1
        if self.before is not None:
            await self.before()
        if self.is_off:
            raise ConnectionRefusedError("refused")
        return await self.server.connect()

    @property
    def names(self) -> list[str]:
        """The Message-IDs of what it took, in that order."""
        return [str(message.as_email()["Message-ID"]) for message in self.server.messages]

    @property
    def recipients(self) -> list[str]:
        """To whom it took a message, in that order."""
        return [each.recipient for each in self.server.committed]


def route_of(*relays: Relay, **options: Any) -> Route:
    """Return a route over these relays."""
    return Route([relay.client for relay in relays], **options)


def raw(number: int = 0, *recipients: str, size: int = 0) -> bytes:
    """Return a message as octets."""
    to = ", ".join(recipients or (f"reader{number}@example.net",))
    body = "x" * 70 + "\r\n"
    return (
        f"From: ada@example.org\r\nTo: {to}\r\nMessage-ID: <{number}@example.org>\r\n\r\n"
        f"Number {number}.\r\n{body * (size // len(body))}"
    ).encode()


async def later(items: list[Any]) -> AsyncIterator[Any]:
    """Yield items, each after a pass of the event loop."""
    for item in items:
        await anyio.lowlevel.checkpoint()
        yield item


async def take(stream: AbstractAsyncContextManager[RouteDeliveries], into: list[Delivery]) -> None:
    """Send a stream, and add each outcome that the loop hands out, and the rest, to a list."""
    deliveries: RouteDeliveries | None = None
    try:
        async with stream as deliveries:
            async for delivery in deliveries:
                into.append(delivery)  # noqa: PERF401 (what came before an error is wanted, too)
    finally:
        into += [] if deliveries is None else deliveries.rest


def octets_of(found: Iterable[Delivery]) -> list[bytes]:
    """Return the messages that these are the outcomes of, sorted."""
    items = []
    for delivery in found:
        assert isinstance(delivery.item, bytes)
        items.append(delivery.item)
    return sorted(items)


def many(whole: int, keep: int) -> int:
    """Return how many messages to send: so many where everything is run, and fewer by default."""
    return len(part(range(whole), keep=keep))
