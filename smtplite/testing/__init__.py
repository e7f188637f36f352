"""An ESMTP and LMTP server to test SMTP clients against, and what tests need with it.

It speaks every extension that the client speaks, says what it is told to (`SMTPServer.reply`), keeps what it accepted
(`SMTPServer.messages`) and refused (`SMTPServer.refused`), and records each mistake of the client
(`SMTPServer.violations`); with ``strict=True`` it refuses them::

    async with SMTPServer() as server:
        server.reply("RCPT", "550 5.1.1 no such user", to="bob@example.org")
        ...
        assert not server.violations

``SMTPServer(tls="starttls", users={"me": "secret"})`` speaks TLS and accepts passwords; ``server.ca_context()`` makes a
client trust it. ``server.client()`` is a client without a socket; ``with server.in_thread():`` is for code that is
not asynchronous; `smtplite.testing.pytest_plugin` has both as fixtures.

`ServerConnection` is only its protocol half; it needs no I/O library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smtplite.testing.config import ScramFault, ServerConfig, ServerExtensions, ServerQuirks
from smtplite.testing.message import (
    Commitment,
    Dialogue,
    Mailbox,
    Parameters,
    ReceivedMessage,
    Refusal,
    RefusedMessage,
    Violation,
)
from smtplite.testing.protocol import ServerConnection
from smtplite.testing.script import Hold, Script, ScriptedReply

if TYPE_CHECKING:
    from smtplite.testing.capacity import WhenFull
    from smtplite.testing.connection import HeldReply, ServedConnection
    from smtplite.testing.outbox import Outbox
    from smtplite.testing.server import SMTPServer
    from smtplite.testing.threaded import ThreadedHeldReply, ThreadedServer
    from smtplite.testing.tls import client_context, server_context

__all__ = [
    "Commitment",
    "Dialogue",
    "HeldReply",
    "Hold",
    "Mailbox",
    "Outbox",
    "Parameters",
    "ReceivedMessage",
    "Refusal",
    "RefusedMessage",
    "SMTPServer",
    "ScramFault",
    "Script",
    "ScriptedReply",
    "ServedConnection",
    "ServerConfig",
    "ServerConnection",
    "ServerExtensions",
    "ServerQuirks",
    "ThreadedHeldReply",
    "ThreadedServer",
    "Violation",
    "WhenFull",
    "client_context",
    "server_context",
]

#: Only these need anyio, ssl or the client; if you use the protocol half alone, they are not loaded.
_MODULE_OF = {
    "HeldReply": "connection",
    "SMTPServer": "server",
    "ServedConnection": "connection",
    "Outbox": "outbox",
    "ThreadedHeldReply": "threaded",
    "ThreadedServer": "threaded",
    "WhenFull": "capacity",
    "client_context": "tls",
    "server_context": "tls",
}


if not TYPE_CHECKING:  # to a type checker, a name that is not above is an error

    def __getattr__(name: str) -> Any:
        if name in _MODULE_OF:
            from importlib import import_module

            return getattr(import_module(f"smtplite.testing.{_MODULE_OF[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
