"""Typed events about what happens, for `Client(trace=...)`: secrets are left out before an event exists.

A command is shown as `str(command)`, which never holds a credential; of content, only the size is shown.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import attrs

from smtplite.errors import SMTPError
from smtplite.protocol.reply import Reply

__all__ = [
    "ConnectionClosed",
    "ConnectionOpened",
    "FlightSent",
    "MessageFinished",
    "ReplyReceived",
    "Trace",
    "TraceEvent",
    "Tracer",
]

logger: Final = logging.getLogger("smtplite")


@attrs.frozen(kw_only=True)
class ConnectionOpened:
    """A connection to the server is open; nothing has been said yet.

    Attributes:
        connection: the number of the connection, in this process.
        server: what the client connected to, such as "mx.example.com:25".
    """

    connection: int
    server: str


@attrs.frozen(kw_only=True)
class FlightSent:
    """One write: everything in it shares a round trip.

    Attributes:
        connection: its number.
        commands: the commands, without CRLF and without secrets.
        content_bytes: bytes of message content in this write, before dots are doubled.
    """

    connection: int
    commands: tuple[str, ...]
    content_bytes: int = 0


@attrs.frozen(kw_only=True)
class ReplyReceived:
    """A reply was read.

    Attributes:
        connection: its number.
        command: what it answers, without secrets; None if it answers nothing.
        reply: the reply.
    """

    connection: int
    command: str | None
    reply: Reply


@attrs.frozen(kw_only=True)
class ConnectionClosed:
    """The connection was closed, by the client.

    Attributes:
        connection: its number.
        reason: "quit" after QUIT; else why it could not be used again.
    """

    connection: int
    reason: str


@attrs.frozen(kw_only=True)
class MessageFinished:
    """What became of a message; if a `send` was cancelled, this is the only place that says so.

    Attributes:
        connection: the last connection that it was sent on; None: it was sent on none.
        message_id: its Message-ID, if it has one.
        accepted: recipients, as they were given, for whom the server accepted it.
        refused: recipient -> the reply that refused it.
        unknown: recipients for whom nobody can know.
        not_sent: recipients for whom it was certainly not accepted.
        error: what `send` raised; None if it returned a receipt, or was cancelled.
    """

    connection: int | None
    message_id: str | None
    accepted: tuple[str, ...]
    refused: dict[str, Reply]
    unknown: tuple[str, ...]
    not_sent: tuple[str, ...]
    error: SMTPError | None = None


TraceEvent = ConnectionOpened | FlightSent | ReplyReceived | ConnectionClosed | MessageFinished
Trace = Callable[[TraceEvent], None]


class Tracer:
    """Hands events to the user's hook, and to the `smtplite` logger at DEBUG.

    Args:
        hook: the user's; its exceptions are logged and go no further.
    """

    def __init__(self, hook: Trace | None = None) -> None:
        self._hook = hook

    @property
    def is_on(self) -> bool:
        """False if nobody listens: then no event has to be made."""
        return self._hook is not None or logger.isEnabledFor(logging.DEBUG)

    def __call__(self, event: TraceEvent) -> None:
        """Hand an event out."""
        logger.debug("%r", event)
        if self._hook is not None:
            try:
                self._hook(event)
            except Exception:
                logger.exception("trace hook failed on %r", event)
