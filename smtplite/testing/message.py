"""What the testing server took: messages, and the mailbox that keeps them."""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import Callable, Mapping
from email.message import EmailMessage
from typing import Literal

import attrs

__all__ = ["Mailbox", "Parameters", "ReceivedMessage"]

Parameters = Mapping[str, str | None]
"""Parameters of MAIL or RCPT: the keyword in upper case, and its value as it stood on the wire (None: no ``=``)."""

MAX_REPR_OCTETS = 400
_XTEXT_ESCAPE = re.compile(r"\+([0-9A-F]{2})")


def _cut(content: bytes) -> str:
    if len(content) <= MAX_REPR_OCTETS:
        return repr(content)
    return f"{content[:MAX_REPR_OCTETS]!r}... ({len(content)} octets)"


def decode_xtext(value: str) -> str:
    """Undo xtext: ``+2B`` becomes ``+``.

    RFC 3461 section 4.
    """
    return _XTEXT_ESCAPE.sub(lambda match: chr(int(match[1], 16)), value)


@attrs.frozen(kw_only=True)
class ReceivedMessage:
    """One message as the server took it: envelope and content.

    It exists only for messages that the server answered for with a positive reply (or would have, had the reply not
    been scripted away), and only with the recipients that it accepted.
    """

    sender: str
    """The reverse-path without its angle brackets; empty for the null reverse-path."""
    recipients: tuple[str, ...]
    """The accepted forward-paths without angle brackets, in the order of RCPT; in LMTP those delivered to."""
    parameters: Parameters = attrs.field(factory=dict)
    """The parameters of MAIL."""
    recipient_parameters: tuple[Parameters, ...] = attrs.field(default=())
    """The parameters of each RCPT, in the order of `recipients`."""
    content: bytes = attrs.field(default=b"", repr=_cut)
    """Every octet of the content: transparency undone, the final CRLF included, the lone dot not."""
    via: Literal["DATA", "BDAT"] = "DATA"
    helo: str = ""
    """The argument of the last EHLO, HELO or LHLO."""
    queue_id: str = ""
    """What the reply to end of data named: ``250 2.0.0 ok: queued as Q1``."""
    tls: str | None = None
    """The version of TLS that it came by, such as ``TLSv1.3``; None: in clear."""
    authenticated_as: str | None = None
    """Who sent it, by AUTH; None: nobody said. Empty: a scripted 235 ended the exchange before the server knew."""

    @property
    def ret(self) -> str | None:
        """RET of MAIL: ``FULL`` or ``HDRS`` (RFC 3461 section 4.3)."""
        value = self.parameters.get("RET")
        return value.upper() if value else None

    @property
    def envid(self) -> str | None:
        """ENVID of MAIL, its xtext decoded (RFC 3461 section 4.4)."""
        value = self.parameters.get("ENVID")
        return decode_xtext(value) if value else None

    def parameters_of(self, recipient: str) -> Parameters:
        """Return the parameters of the first RCPT that named `recipient`.

        Raises:
            KeyError: it is not among the accepted recipients.
        """
        try:
            return self.recipient_parameters[self.recipients.index(recipient)]
        except ValueError:
            raise KeyError(recipient) from None

    def notify_of(self, recipient: str) -> tuple[str, ...]:
        """Return NOTIFY of `recipient`, in upper case; empty if it was not given (RFC 3461 section 4.1)."""
        value = self.parameters_of(recipient).get("NOTIFY")
        return tuple(value.upper().split(",")) if value else ()

    def orcpt_of(self, recipient: str) -> tuple[str, str] | None:
        """Return ORCPT of `recipient` as (address type, decoded address), or None (RFC 3461 section 4.2)."""
        value = self.parameters_of(recipient).get("ORCPT")
        if not value:
            return None
        address_type, _, address = value.partition(";")
        return address_type.lower(), decode_xtext(address)

    def as_email(self) -> EmailMessage:
        """Parse the content.

        Returns:
            A message under `email.policy.SMTPUTF8` if MAIL carried SMTPUTF8, else under `email.policy.SMTP`.
        """
        policy = email.policy.SMTPUTF8 if "SMTPUTF8" in self.parameters else email.policy.SMTP
        return email.message_from_bytes(self.content, policy=policy)


class Mailbox:
    """The messages that one server took, over all of its connections, in the order in which they were committed.

    Args:
        on_delivery: Called after each message was added; the server's shell wakes those who wait with it.
    """

    def __init__(self, on_delivery: Callable[[ReceivedMessage], None] | None = None) -> None:
        self.messages: list[ReceivedMessage] = []
        self._on_delivery = on_delivery
        self._last_id = 0

    def new_queue_id(self) -> str:
        """Return a name that no other message of this mailbox has."""
        self._last_id += 1
        return f"Q{self._last_id}"

    def deliver(self, message: ReceivedMessage) -> None:
        """Commit `message`: from here on the server answers for it."""
        self.messages.append(message)
        if self._on_delivery is not None:
            self._on_delivery(message)
