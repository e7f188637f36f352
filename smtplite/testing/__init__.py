"""An ESMTP and LMTP server to test SMTP clients against.

It speaks every extension that the client speaks, says what it is told to (`SMTPServer.reply`), keeps what it took
(`SMTPServer.messages`) and writes down each mistake of the client (`SMTPServer.violations`)::

    async with SMTPServer() as server:
        server.reply("RCPT", "550 5.1.1 no such user", to="bob@example.org")
        ...
        assert not server.violations

``SMTPServer(tls="starttls", users={"me": "secret"})`` speaks TLS and takes passwords; ``server.ca_context()`` is what a
client trusts it by.

`ServerConnection` is its protocol half alone; it needs no I/O library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smtplite.testing.config import ScramFault, ServerConfig, ServerExtensions
from smtplite.testing.message import Mailbox, Parameters, ReceivedMessage
from smtplite.testing.protocol import ServerConnection
from smtplite.testing.script import Script, ScriptedReply

if TYPE_CHECKING:
    from smtplite.testing.server import ServedConnection, SMTPServer
    from smtplite.testing.tls import client_context, server_context

__all__ = [
    "Mailbox",
    "Parameters",
    "ReceivedMessage",
    "SMTPServer",
    "ScramFault",
    "Script",
    "ScriptedReply",
    "ServedConnection",
    "ServerConfig",
    "ServerConnection",
    "ServerExtensions",
    "client_context",
    "server_context",
]


def __getattr__(name: str) -> Any:
    # Only these need anyio or ssl: whoever drives the protocol half alone does not load them
    if name in {"SMTPServer", "ServedConnection"}:
        from smtplite.testing import server

        return getattr(server, name)
    if name in {"client_context", "server_context"}:
        from smtplite.testing import tls

        return getattr(tls, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
