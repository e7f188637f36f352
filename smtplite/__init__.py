"""An asyncio SMTP client that tells the truth about delivery, is safe by default, and counts round trips.

::

    async with smtplite.Client("smtp.example.com", username="me", password="...") as client:
        receipt = await client.send(message)

The names below are loaded when they are first used (PEP 562), so that `smtplite.protocol`, the sans-IO core, can be
imported without anyio, asyncio, ssl or socket.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smtplite import errors as errors
    from smtplite import message as message
    from smtplite import oauth as oauth
    from smtplite import protocol as protocol
    from smtplite import routes as routes
    from smtplite import sasl as sasl
    from smtplite import testing as testing
    from smtplite import trace as trace
    from smtplite import types as types
    from smtplite.client import Client, send
    from smtplite.errors import (
        AuthenticationError,
        ConfigurationError,
        ConnectError,
        ConnectionLost,
        DeliveryUnknown,
        ExtensionRequired,
        LocalProtocolError,
        MessageError,
        MessageRefused,
        ProtocolError,
        RecipientsRefused,
        RemoteProtocolError,
        ReplyError,
        SenderRefused,
        ServiceUnavailable,
        SMTPError,
        SMTPTimeout,
        TLSError,
        TokenError,
        TransportError,
    )
    from smtplite.message.composing import Attachment, compose
    from smtplite.message.content import Content
    from smtplite.message.envelope import Envelope, Outgoing, Recipient
    from smtplite.options import Timeouts
    from smtplite.protocol.reply import EnhancedStatusCode, Reply
    from smtplite.results import Delivery, Hop, Receipt, ServerInfo
    from smtplite.sending.raw import RawSession
    from smtplite.sending.stream import Deliveries
    from smtplite.sync import SyncClient, SyncDeliveries, SyncSession

__version__ = "0.1.0"

_HOME = {
    "smtplite.client": ("Client", "send"),
    "smtplite.message.composing": ("Attachment", "compose"),
    "smtplite.message.content": ("Content",),
    "smtplite.sending.stream": ("Deliveries",),
    "smtplite.errors": (
        "AuthenticationError",
        "ConfigurationError",
        "ConnectError",
        "ConnectionLost",
        "DeliveryUnknown",
        "ExtensionRequired",
        "LocalProtocolError",
        "MessageError",
        "MessageRefused",
        "ProtocolError",
        "RecipientsRefused",
        "RemoteProtocolError",
        "ReplyError",
        "SMTPError",
        "SMTPTimeout",
        "SenderRefused",
        "ServiceUnavailable",
        "TLSError",
        "TokenError",
        "TransportError",
    ),
    "smtplite.message.envelope": ("Envelope", "Outgoing", "Recipient"),
    "smtplite.results": ("Delivery", "Hop", "Receipt", "ServerInfo"),
    "smtplite.protocol.reply": ("EnhancedStatusCode", "Reply"),
    "smtplite.sending.raw": ("RawSession",),
    "smtplite.options": ("Timeouts",),
    "smtplite.sync": ("SyncClient", "SyncDeliveries", "SyncSession"),
}
#: Modules that work after ``import smtplite`` alone.
_MODULES = ("errors", "message", "oauth", "protocol", "routes", "sasl", "testing", "trace", "types")
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [  # noqa: RUF022 (grouped as the design lists them; tests/test_exports.py holds it to _HOME)
    "Client",
    "SyncClient",
    "send",
    "compose",
    "Attachment",
    "Envelope",
    "Recipient",
    "Content",
    "Outgoing",
    "Receipt",
    "Hop",
    "Delivery",
    "Deliveries",
    "RawSession",
    "SyncDeliveries",
    "SyncSession",
    "Reply",
    "EnhancedStatusCode",
    "Timeouts",
    "ServerInfo",
    "SMTPError",
    "ConfigurationError",
    "MessageError",
    "ProtocolError",
    "LocalProtocolError",
    "RemoteProtocolError",
    "ReplyError",
    "ServiceUnavailable",
    "AuthenticationError",
    "TokenError",
    "SenderRefused",
    "RecipientsRefused",
    "MessageRefused",
    "ExtensionRequired",
    "TransportError",
    "ConnectError",
    "TLSError",
    "ConnectionLost",
    "SMTPTimeout",
    "DeliveryUnknown",
]


if not TYPE_CHECKING:  # to a type checker, a name that is not above is an error

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return importlib.import_module(f"{__name__}.{name}")  # which sets the attribute, too
        module = _MODULE_OF.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(module), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES, "__version__"])
