"""Every error that smtplite raises: one tree, with data on attributes.

::

    SMTPError
    ├── ConfigurationError (ValueError)   options of Client, URL
    ├── MessageError (ValueError)         the caller's input cannot be sent: address, header, message
    ├── ProtocolError
    │   ├── LocalProtocolError            smtplite was asked for something that is not allowed now
    │   └── RemoteProtocolError           the server broke the protocol
    ├── ReplyError                        the server said no
    │   ├── ServiceUnavailable            greeting, EHLO, 421
    │   ├── AuthenticationError
    │   │   └── TokenError                the provider gave no access token (`smtplite.oauth`)
    │   ├── SenderRefused
    │   ├── RecipientsRefused
    │   └── MessageRefused                DATA, BDAT, end of data
    ├── ExtensionRequired                 the message needs something that the server does not offer; nothing was sent
    ├── TransportError (OSError)
    │   ├── ConnectError
    │   ├── TLSError
    │   ├── ConnectionLost
    │   └── SMTPTimeout (TimeoutError)
    └── DeliveryUnknown                   the content was handed over, the verdict never came

The lowest module: it imports nothing else of smtplite at run time. Every error survives pickle and copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

if TYPE_CHECKING:
    from smtplite.protocol.reply import Reply
    from smtplite.results import Hop

__all__ = [
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
]


class _Details(TypedDict, total=False):
    """What every error may have besides its message; `SMTPError` says what each is."""

    phase: str | None
    accepted: Sequence[str]
    refused: Mapping[str, Reply] | None
    unknown: Sequence[str]
    not_sent: Sequence[str]
    reply: Reply | None
    transcript: Sequence[str]


class _CommandDetails(_Details, total=False):
    command: str | None


class SMTPError(Exception):
    """The base class of all errors: ``except SMTPError`` catches everything that smtplite raises.

    Attributes:
        phase: where the dialogue stood: "connect", "greeting", "hello", "mail", "rcpt", "data", "content",
            "end of data" and so on; None where there was no dialogue.
        accepted: recipients, as the caller gave them, for whom the server accepted the message.
        refused: recipient -> the reply that refused it.
        unknown: recipients for whom nobody can know whether the message was accepted.
        not_sent: recipients for whom the message was certainly not accepted.
        reply: the server's reply that decided the outcome, if one did.
        transcript: the last lines of the dialogue, secrets redacted.
        message_id: the Message-ID of the message, if it has one; keep it if you send the message again.
        hops: what each relay said, if it was sent over a `smtplite.routes.Route`.
    """

    message_id: str | None = None
    hops: tuple[Hop, ...] = ()

    def __init__(
        self,
        message: str,
        *,
        phase: str | None = None,
        accepted: Sequence[str] = (),
        refused: Mapping[str, Reply] | None = None,
        unknown: Sequence[str] = (),
        not_sent: Sequence[str] = (),
        reply: Reply | None = None,
        transcript: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.phase = phase
        self.accepted: tuple[str, ...] = tuple(accepted)
        self.refused: dict[str, Reply] = dict(refused or {})
        self.unknown: tuple[str, ...] = tuple(unknown)
        self.not_sent: tuple[str, ...] = tuple(not_sent)
        self.reply = reply
        self.transcript: tuple[str, ...] = tuple(transcript)

    @property
    def delivered(self) -> bool | None:
        """None if nobody can know, else False; True only in what `Receipt.raise_for_refused` raises: others got it."""
        return None if self.unknown else bool(self.accepted)

    @property
    def retryable(self) -> bool:
        """True only if sending again may succeed and cannot deliver twice: a 4yz, a lost connection, a timeout."""
        return not self.accepted and not self.unknown and self._is_transient()

    def _is_transient(self) -> bool:
        return False


class ConfigurationError(SMTPError, ValueError):
    """An option, an argument or a URL is wrong, or a configuration file; says which, and what to pass instead."""


class MessageError(SMTPError, ValueError):
    """The caller's input cannot be sent: an address, a header, a parameter, the message. Nothing was sent."""


class ProtocolError(SMTPError):
    """One of the two sides broke the protocol."""


class LocalProtocolError(ProtocolError):
    """smtplite was asked for something that is not allowed now; nothing was sent and nothing changed."""


class RemoteProtocolError(ProtocolError):
    """The server broke the protocol; the connection is closed and never used again."""


class ReplyError(SMTPError):
    """The server said no.

    Attributes:
        command: the command that was refused, secrets redacted; None for the greeting.
        reply: the server's reply; None if smtplite refused in its place (AuthenticationError only).
    """

    def __init__(self, message: str, *, command: str | None = None, **details: Unpack[_Details]) -> None:
        super().__init__(message, **details)
        self.command = command

    def _is_transient(self) -> bool:
        return self.reply is not None and self.reply.is_transient


class ServiceUnavailable(ReplyError):
    """The server accepts no mail now, or never: its greeting, its reply to EHLO or a 421 says so (RFC 5321 3.8)."""


class AuthenticationError(ReplyError):
    """Authentication failed. ``reply`` is None if smtplite, not the server, refused to go on.

    Attributes:
        error_data: what the server said about a rejected OAuth token: its JSON object (RFC 7628 3.2.2), if it sent one.
    """

    error_data: dict[str, Any] | None = None


class TokenError(AuthenticationError):
    """The provider gave no access token, so authentication was not tried at the server. See `smtplite.oauth`.

    Attributes:
        error_data: what the provider said, such as its ``error`` and ``error_description``, if it said anything.
        is_transient: it may work later: the provider was busy, or could not be reached.
    """

    def __init__(self, message: str, *, is_transient: bool = False, **details: Unpack[_CommandDetails]) -> None:
        super().__init__(message, **details)
        self.is_transient = is_transient

    def _is_transient(self) -> bool:
        return self.is_transient


class SenderRefused(ReplyError):
    """MAIL was refused.

    Attributes:
        sender: the reverse-path as the caller gave it.
    """

    sender: str = ""


class RecipientsRefused(ReplyError):
    """Recipients were refused: ``refused`` has each one's reply.

    Nobody got the message if `Client.send` raised it. If `Receipt.raise_for_refused` did, those in ``accepted`` got it.
    """

    def _is_transient(self) -> bool:
        return any(reply.is_transient for reply in self.refused.values())


class MessageRefused(ReplyError):
    """DATA, BDAT or the message itself was refused."""


class ExtensionRequired(SMTPError):
    """The message needs a service extension that the server does not offer; nothing was sent.

    Attributes:
        keyword: the EHLO keyword that is missing, e.g. "SMTPUTF8".
    """

    keyword: str = ""


class TransportError(SMTPError, OSError):
    """The network failed."""

    def _is_transient(self) -> bool:
        return True


class ConnectError(TransportError):
    """No connection could be opened; ``__cause__`` has the system's error."""


class TLSError(TransportError):
    """TLS is required but not possible, or it failed: a bad certificate, an alert, a wrong protocol."""

    def _is_transient(self) -> bool:
        return self.reply is not None and self.reply.is_transient


class ConnectionLost(TransportError):
    """The connection ended before the dialogue did, or during the TLS handshake."""


class SMTPTimeout(TransportError, TimeoutError):
    """The server did not answer within its deadline."""


class DeliveryUnknown(SMTPError):
    """The content was handed over and the verdict never came: it may have been delivered, or not.

    ``__cause__`` says why. Sending again may deliver twice; with the same Message-ID, receivers can recognize that.
    RFC 5321 4.5.3.2.6, 6.1.
    """
