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
    """What one relay of a `smtplite.routes.Route` said of a message: its recipients in four sets, as in a Receipt.

    Attributes:
        relay: the relay, such as "mx.example.com:587".
        accepted: the relay took the message for these.
        refused: recipient -> the reply that refused it.
        unknown: nobody can know.
        not_sent: certainly not taken: these may go to another relay.
        reply: the reply that decided, if one did.
        error: why it was taken for nobody; None: it was, for somebody.
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


@attrs.frozen(slots=False)  # made for each message, and without slots in three quarters of the time
class Receipt:
    """What the server said of a message that it took for at least one recipient.

    Every recipient, as it was given, is in exactly one of the first four.

    Attributes:
        accepted: the server took the message for these.
        refused: recipient -> the reply that refused it.
        unknown: nobody can know (LMTP, when the connection ended between the verdicts).
        not_sent: certainly not taken.
        reply: the last transaction's final reply.
        replies: recipient -> the last reply about it.
        message_id: the message's Message-ID, if it has one.
        server: the server's name for itself, from its greeting to EHLO.
        tls: the TLS version, such as "TLSv1.3"; None in clear.
        hops: what each relay said, if it was sent over a `smtplite.routes.Route`; `reply`, `server` and `tls` are then
            those of the last relay that took it for anyone.
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
        """True if the server took the message for every recipient."""
        return not (self.refused or self.unknown or self.not_sent)

    def raise_for_refused(self) -> None:
        """Raise RecipientsRefused, with the same four sets, if any recipient was refused."""
        if not self.refused:
            return
        first = next(iter(self.refused.values()))
        count = len(self.accepted) + len(self.refused) + len(self.unknown) + len(self.not_sent)
        raise RecipientsRefused(
            f"server refused {len(self.refused)} of {count} recipients: {first}",
            reply=first,
            phase="rcpt",
            accepted=self.accepted,
            refused=self.refused,
            unknown=self.unknown,
            not_sent=self.not_sent,
        )


@attrs.frozen(slots=False)
class Delivery:
    """What became of one item of `Client.send_many`: a receipt, or an error.

    Attributes:
        item: what was taken from the caller's messages: an Outgoing, or a message as such.
        receipt: somebody was certainly delivered; None: nobody was.
        error: why nobody was certainly delivered; None: somebody was.
    """

    item: Outgoing | AnyMessage | Prepared
    receipt: Receipt | None = None
    error: SMTPError | None = attrs.field(default=None, kw_only=True)

    def result(self) -> Receipt:
        """Return the receipt, or raise the error: as `Client.send` would have done."""
        if self.error is not None:
            raise self.error
        if self.receipt is None:
            raise LocalProtocolError("this delivery holds neither a receipt nor an error: there is no result to return")
        return self.receipt


@attrs.frozen(kw_only=True)
class ServerInfo:
    """What a server offers, as `Client.check` finds it.

    Attributes:
        server: what was connected to, such as "mx.example.com:587".
        greeting: the text of its first words.
        extensions: its service extensions; typed properties for those that are known.
        tls: the TLS version, such as "TLSv1.3"; None in clear.
        cipher: the cipher suite; None in clear.
        certificate_subject: whom its certificate names; None in clear, or where it was not verified.
        certificate_expires: when its certificate ends, in UTC.
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
        """The authentication mechanisms it offers."""
        return self.extensions.auth

    @property
    def limits(self) -> Limits:
        """What it limits, where it says so (RFC 9422)."""
        return self.extensions.limits


def _subject(certificate: dict[str, Any]) -> str | None:
    """Return the common name, or the first name that the certificate is for."""
    for attribute in certificate.get("subject", ()):
        for name, value in attribute:
            if name == "commonName":
                return str(value)
    names = certificate.get("subjectAltName", ())
    return str(names[0][1]) if names else None
