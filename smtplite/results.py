"""Results: what the caller gets. Receipt, Delivery, ServerInfo."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import attrs

from smtplite.errors import LocalProtocolError, RecipientsRefused, SMTPError
from smtplite.message.envelope import AnyMessage, Outgoing
from smtplite.message.prepared import Prepared
from smtplite.protocol.extensions import Extensions, Limits
from smtplite.protocol.reply import Reply

__all__ = ["Delivery", "Hop", "Receipt", "ServerInfo"]


@attrs.frozen(kw_only=True)
class Hop:
    """What one relay of a `smtplite.routes.Route` said about a message: its recipients in four sets, as in a Receipt.

    Attributes:
        relay: the relay, such as "mx.example.com:587".
        accepted: recipients for whom the relay accepted the message.
        refused: recipient -> the reply that refused it.
        unknown: recipients for whom nobody can know.
        not_sent: recipients for whom it was certainly not accepted: they may go to another relay.
        reply: the reply that decided the outcome, if one did.
        error: why the relay accepted it for nobody; None: it accepted it for somebody.
    """

    relay: str
    accepted: tuple[str, ...] = ()
    refused: dict[str, Reply] = attrs.field(factory=dict)
    unknown: tuple[str, ...] = ()
    not_sent: tuple[str, ...] = ()
    reply: Reply | None = None
    error: SMTPError | None = None

    def __str__(self) -> str:
        said = self.error or self.reply
        return f"{self.relay}: {said}"


@attrs.frozen(slots=False)  # made for each message, and without slots that takes three quarters of the time
class Receipt:
    """What the server said about a message that it accepted for at least one recipient.

    Every recipient, as you gave it, is in exactly one of the first four attributes.

    Attributes:
        accepted: recipients for whom the server accepted the message.
        refused: recipient -> the reply that refused it.
        unknown: recipients for whom nobody can know (LMTP, when the connection ended between the verdicts).
        not_sent: recipients for whom it was certainly not accepted.
        reply: the last transaction's final reply.
        replies: recipient -> the last reply about it.
        message_id: the message's Message-ID, if it has one.
        server: the server's own name, from its reply to EHLO.
        tls: the TLS version, such as "TLSv1.3"; None: unencrypted.
        hops: what each relay said, if it was sent over a `smtplite.routes.Route`; `reply`, `server` and `tls` are then
            those of the last relay that accepted it for anyone.
    """

    accepted: tuple[str, ...]
    refused: dict[str, Reply] = attrs.field(factory=dict, kw_only=True)
    unknown: tuple[str, ...] = attrs.field(default=(), kw_only=True)
    not_sent: tuple[str, ...] = attrs.field(default=(), kw_only=True)
    reply: Reply | None = attrs.field(default=None, kw_only=True)
    replies: dict[str, Reply] = attrs.field(factory=dict, kw_only=True)
    message_id: str | None = attrs.field(default=None, kw_only=True)
    server: str = attrs.field(default="", kw_only=True)
    tls: str | None = attrs.field(default=None, kw_only=True)
    hops: tuple[Hop, ...] = attrs.field(default=(), kw_only=True)

    @property
    def complete(self) -> bool:
        """True if the server accepted the message for every recipient."""
        return not (self.refused or self.unknown or self.not_sent)

    def raise_for_refused(self) -> None:
        """Raise RecipientsRefused, with the same four sets, if any recipient was refused; the others stay accepted."""
        if not self.refused:
            return
        first = next(iter(self.refused.values()))
        count = len(self.accepted) + len(self.refused) + len(self.unknown) + len(self.not_sent)
        error = RecipientsRefused(
            f"server refused {len(self.refused)} of {count} recipients: {first}",
            reply=first,
            phase="rcpt",
            accepted=self.accepted,
            refused=self.refused,
            unknown=self.unknown,
            not_sent=self.not_sent,
        )
        error.message_id, error.hops = self.message_id, self.hops
        raise error


@attrs.frozen(slots=False)
class Delivery:
    """What became of one item of `Client.send_many`: a receipt, or an error.

    Attributes:
        item: the item of the caller's messages: an Outgoing, or a message itself.
        receipt: says for whom the message was accepted, for one recipient at least; None: there is an error.
        error: what `Client.send` would have raised: the message was refused, not sent, or nobody can know; None: there
            is a receipt.
    """

    item: Outgoing | AnyMessage | Prepared
    receipt: Receipt | None = None
    error: SMTPError | None = attrs.field(default=None, kw_only=True)

    def result(self) -> Receipt:
        """Return the receipt, or raise the error, as `Client.send` would have done."""
        if self.error is not None:
            raise self.error
        if self.receipt is None:
            raise LocalProtocolError("this delivery holds neither a receipt nor an error: there is no result to return")
        return self.receipt


@attrs.frozen(kw_only=True)
class ServerInfo:
    """What a server offers, as `Client.check` finds it.

    Attributes:
        server: what the client connected to, such as "mx.example.com:587".
        greeting: the text of its greeting.
        extensions: its service extensions, with typed properties for those that are known.
        tls: the TLS version, such as "TLSv1.3"; None: unencrypted.
        cipher: the cipher suite; None: unencrypted.
        certificate_subject: the name in its certificate; None: unencrypted, or not verified.
        certificate_expires: when its certificate expires, in UTC.
    """

    server: str
    greeting: str
    extensions: Extensions
    tls: str | None = None
    cipher: str | None = None
    certificate_subject: str | None = None
    certificate_expires: datetime | None = None

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """The authentication mechanisms that it offers."""
        return self.extensions.auth

    @property
    def limits(self) -> Limits:
        """The limits that it announces (RFC 9422)."""
        return self.extensions.limits


def _subject(certificate: dict[str, Any]) -> str | None:
    """Return the common name, or the first name that the certificate is for."""
    for attribute in certificate.get("subject", ()):
        for name, value in attribute:
            if name == "commonName":
                return str(value)
    names = certificate.get("subjectAltName", ())
    return str(names[0][1]) if names else None
