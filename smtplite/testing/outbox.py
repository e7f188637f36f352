"""The testing kit with the client: a client for a server in memory, and an outbox for tests.

Nothing else in the kit uses the client, because the protocol half judges it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smtplite.client import Client

if TYPE_CHECKING:
    from smtplite.testing.message import ReceivedMessage
    from smtplite.testing.server import SMTPServer

__all__ = ["Outbox", "client_of"]


def client_of(server: SMTPServer, **options: Any) -> Client:
    """Return a client whose connections to `server` are in memory.

    Args:
        server: it does not have to be entered.
        options: those of `smtplite.Client`; they have priority over what is chosen here.
    """
    chosen: dict[str, Any] = {"connect": server.connect, "tls": server.tls_mode, "lmtp": server.config.lmtp}
    chosen |= options
    if chosen["tls"] != "none":
        chosen.setdefault("hostname", "localhost")
        if chosen.get("tls_context") is None:
            chosen["tls_context"] = server.ca_context()
    return Client(**chosen)


class Outbox:
    """A client, and the messages that it sent: they never leave this process.

    It works in memory, on the event loop of the code that sends.

    Args:
        server: what receives the messages.
        options: those of `smtplite.Client`.
    """

    def __init__(self, server: SMTPServer, **options: Any) -> None:
        #: To script refusals and faults, and to see what happened on the wire.
        self.server = server
        #: For the code under test.
        self.client = client_of(server, **options)

    @property
    def messages(self) -> list[ReceivedMessage]:
        """The messages that were sent, in order."""
        return self.server.messages

    def reset(self) -> None:
        """Forget what was sent, and what the server was told."""
        self.server.reset()

    def __repr__(self) -> str:
        return f"Outbox({self.messages!r})"
