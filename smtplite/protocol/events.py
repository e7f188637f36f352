"""What comes back from the server, as values."""

from __future__ import annotations

import attrs

from smtplite.protocol.commands import Auth, AuthCancel, AuthResponse, Command, Rcpt, StartTls
from smtplite.protocol.reply import Reply

__all__ = [
    "ChallengeReceived",
    "ContentRefused",
    "Disconnected",
    "Event",
    "Replied",
    "ServiceClosing",
    "TlsReady",
]


@attrs.frozen(eq=False)
class Replied:
    """The reply to a command."""

    #: The command that it answers.
    command: Command
    #: The reply.
    reply: Reply
    #: In LMTP, at the end of data: the recipient whose verdict this is (RFC 2033 4.2).
    recipient: Rcpt | None = None
    #: False while the same command is owed further replies (LMTP's end of data).
    is_final: bool = True


@attrs.frozen(eq=False)
class ChallengeReceived:
    """A 334 in an authentication exchange: send AuthResponse, or AuthCancel (RFC 4954 4)."""

    #: The line that it answers.
    command: Auth | AuthResponse | AuthCancel
    #: The reply.
    reply: Reply
    #: Its decoded bytes; None if they are not base64: then send AuthCancel.
    challenge: bytes | None


@attrs.frozen(eq=False)
class TlsReady:
    """The 220 to STARTTLS: do the handshake, then call `Connection.tls_established` (RFC 3207 4)."""

    command: StartTls
    reply: Reply


@attrs.frozen(eq=False)
class ContentRefused:
    """A 4yz or 5yz while the content was still being sent: stop sending, and close.

    It is a real refusal: nothing was accepted, because the end of data was never sent.
    """

    reply: Reply


@attrs.frozen(eq=False)
class ServiceClosing:
    """A 421 that answers nothing: the server closes the connection (RFC 5321 3.8)."""

    reply: Reply


@attrs.frozen(eq=False)
class Disconnected:
    """The server closed the connection; what it still owed will never come."""

    #: The commands that were still owed a reply, in order.
    unanswered: tuple[Command, ...] = ()
    #: The bytes of a reply that was cut short, which is not a reply.
    partial: bytes = b""


Event = Replied | ChallengeReceived | TlsReady | ContentRefused | ServiceClosing | Disconnected
