"""A connection to a server that offers less than it does: what stands in its reply to EHLO is made unreadable.

So one running server is also the one without 8BITMIME, and Dovecot has no other way to be that. All that the client
writes is kept: what a server without 8BITMIME may get is ASCII.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
import anyio.abc

from smtplite import Client

from .launcher import HOST, Server

__all__ = ["Masked", "masked_client"]


class Masked(anyio.abc.ByteStream):
    """A stream to a server, some of whose extensions are not seen.

    Attributes:
        sent: everything that was written.
    """

    def __init__(self, stream: anyio.abc.ByteStream, hidden: tuple[str, ...], sent: bytearray) -> None:
        self._stream = stream
        self._hidden = [keyword.encode() for keyword in hidden]
        self.sent = sent

    async def receive(self, max_bytes: int = 65536) -> bytes:
        lines = await self._stream.receive(max_bytes)
        while not lines.endswith(b"\n"):  # a keyword may be cut in two
            lines += await self._stream.receive(max_bytes)
        for keyword in self._hidden:
            lines = lines.replace(keyword, b"X" * len(keyword))
        return lines

    async def send(self, item: bytes) -> None:
        self.sent += item
        await self._stream.send(item)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Any]:
        return self._stream.extra_attributes


def masked_client(server: Server, service: str, hidden: tuple[str, ...], **options: Any) -> tuple[Client, bytearray]:
    """Return a Client of a service without TLS, to which some extensions are not offered, and what it writes."""
    sent = bytearray()

    async def connect() -> anyio.abc.ByteStream:
        return Masked(await anyio.connect_tcp(HOST, server.ports[service]), hidden, sent)

    kind = server.services[service]
    assert kind.tls == "none"
    return Client(connect=connect, tls="none", lmtp=kind.lmtp, **options), sent
