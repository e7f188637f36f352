"""What the testing server accepted: messages, and the mailbox that keeps them."""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import Callable, Mapping
from email.message import EmailMessage
from itertools import zip_longest
from typing import Literal, Self

import attrs

__all__ = [
    "Commitment",
    "Dialogue",
    "Mailbox",
    "Parameters",
    "ReceivedMessage",
    "Refusal",
    "RefusedMessage",
    "Violation",
]

#: What client ("C") and server ("S") said, one command or reply an entry; without content, and without what was said
#: to prove who the client is.
Dialogue = tuple[tuple[Literal["C", "S"], bytes], ...]

#: Parameters of MAIL or RCPT: the keyword in upper case, and its value as it was on the wire (None: no ``=``).
Parameters = Mapping[str, str | None]

#: Of each part of a message in its `repr`.
MAX_SHOWN_CHARS = 60
MAX_SHOWN_RECIPIENTS = 3
MAX_SHOWN_REFUSAL_CHARS = 200
_XTEXT_ESCAPE = re.compile(r"\+([0-9A-F]{2})")
_SUBJECT = re.compile(rb"^subject:[ \t]*(.*)$", re.IGNORECASE | re.MULTILINE)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}..."


def decode_xtext(value: str) -> str:
    """Undo xtext: ``+2B`` becomes ``+``.

    RFC 3461 section 4.
    """
    return _XTEXT_ESCAPE.sub(lambda match: chr(int(match[1], 16)), value)


class Violation(str):
    """One mistake of a client. It is its own text, so it can be compared with a str.

    Args:
        text: what the client did.
        at: where in the dialogue: see `at`.
        number: see `number`.
        rfc: see `rfc`.
    """

    __slots__ = ("at", "number", "rfc")

    #: A verb, such as ``MAIL``; ``GREETING``, ``CONTENT`` or ``TLS``.
    at: str
    #: The number of the command in its session, from 1; 0: before the first (`ServerConfig.numbered`).
    number: int
    #: What it breaks, such as ``RFC 5321 section 2.3.8``.
    rfc: str

    def __new__(cls, text: str, *, at: str = "", number: int = 0, rfc: str = "") -> Self:
        """Make a mistake out of its text."""
        self = super().__new__(cls, text)
        self.at = at
        self.number = number
        self.rfc = rfc
        return self


@attrs.frozen(kw_only=True)
class Refusal:
    """Something that the server refused, on the way of one message."""

    #: A verb, such as ``RCPT``; ``END_OF_DATA``, ``CONTENT``, ``TLS``.
    at: str
    #: What the client was told, such as ``550 5.1.1 no such user``; empty: the connection ended instead.
    reply: str = ""
    #: Who was refused, if it was a recipient.
    recipient: str | None = None

    def __str__(self) -> str:
        where = {"END_OF_DATA": "after the content", "CONTENT": "within the content"}.get(self.at, f"at {self.at}")
        what = self.reply or "the connection ended"
        return f"{what} ({where})" if self.recipient is None else f"{what} ({where}: {self.recipient})"


@attrs.frozen(kw_only=True, repr=False)
class RefusedMessage:
    """One message that was not accepted: what the client had said about it, and why the server did not accept it.

    It exists for messages that were refused at MAIL, for all recipients, or after their content; for those whose
    connection ended in the middle of the content; and for sessions without a message because something was refused.
    """

    #: What was refused, in order; never empty.
    refusals: tuple[Refusal, ...]
    #: The reverse-path; None: MAIL was not said, or could not be read.
    sender: str | None = None
    #: The forward-paths that were accepted.
    recipients: tuple[str, ...] = ()
    #: The parameters of MAIL.
    parameters: Parameters = attrs.field(factory=dict)
    #: The content, as far as it came; empty if it was over the limit.
    content: bytes = b""
    #: The argument of the last EHLO, HELO or LHLO.
    helo: str = ""
    #: The version of TLS; None: unencrypted.
    tls: str | None = None
    #: Who sent it, by AUTH.
    authenticated_as: str | None = None
    #: The client's mistakes since the message before it.
    violations: tuple[Violation, ...] = attrs.field(default=(), eq=False)
    #: What opened the session, and what was said about this message.
    dialogue: Dialogue = attrs.field(default=(), eq=False)

    def __repr__(self) -> str:
        sender = "no MAIL" if self.sender is None else f"<{_cut(self.sender)}>"
        return f"<{sender}: {str(self.decisive)[:MAX_SHOWN_REFUSAL_CHARS]}>"

    @property
    def decisive(self) -> Refusal:
        """Why it was not accepted: what refused the content, else the sender or the recipients, else the session."""
        for kinds, refusals in (
            ({"END_OF_DATA", "CONTENT"}, reversed(self.refusals)),
            ({"MAIL", "RCPT"}, self.refusals),
            ({"AUTH", "TLS"}, reversed(self.refusals)),
        ):
            for refusal in refusals:
                if refusal.at in kinds:
                    return refusal
        return self.refusals[0]

    @property
    def refused_recipients(self) -> dict[str, str]:
        """Who was refused, and with which reply."""
        return {refusal.recipient: refusal.reply for refusal in self.refusals if refusal.recipient is not None}


@attrs.frozen(kw_only=True, repr=False)
class ReceivedMessage:
    """One message as the server accepted it: envelope and content.

    It exists only for messages that the server answered with a positive reply (or would have, had the reply not been
    scripted away), and only with the recipients that it accepted.

    Its `repr` is short; `differences` says how two of them differ.
    """

    #: The reverse-path without its angle brackets; empty for the null reverse-path.
    sender: str
    #: The accepted forward-paths without angle brackets, in the order of RCPT; in LMTP those delivered to.
    recipients: tuple[str, ...]
    #: The parameters of MAIL.
    parameters: Parameters = attrs.field(factory=dict)
    #: The parameters of each RCPT, in the order of `recipients`.
    recipient_parameters: tuple[Parameters, ...] = attrs.field(default=())
    #: Every byte of the content: transparency undone, the final CRLF included, the lone dot not.
    content: bytes = b""
    via: Literal["DATA", "BDAT"] = "DATA"
    #: The argument of the last EHLO, HELO or LHLO.
    helo: str = ""
    #: What the reply to end of data named: ``250 2.0.0 ok: queued as Q1``.
    queue_id: str = ""
    #: The version of TLS that it came over, such as ``TLSv1.3``; None: unencrypted.
    tls: str | None = None
    #: Who sent it, by AUTH; None: nobody said. Empty: a scripted 235 ended the exchange before the server knew.
    authenticated_as: str | None = None
    #: The client's mistakes since the message before it. Not compared.
    violations: tuple[Violation, ...] = attrs.field(default=(), eq=False)
    #: What was refused on the way: recipients, and what came before MAIL. Not compared.
    refusals: tuple[Refusal, ...] = attrs.field(default=(), eq=False)
    #: What opened the session, and what was said about this message, up to the verdict. Not compared.
    dialogue: Dialogue = attrs.field(default=(), eq=False)

    def __repr__(self) -> str:
        shown = ", ".join(self.recipients[:MAX_SHOWN_RECIPIENTS])
        more = len(self.recipients) - MAX_SHOWN_RECIPIENTS
        subject = _SUBJECT.search(self.content.partition(b"\r\n\r\n")[0])
        parts = [
            f"{self.queue_id or 'ReceivedMessage'}:",
            f"<{_cut(self.sender)}>",
            f"to {_cut(shown)}{f' and {more} more' if more > 0 else ''},",
            f"{_cut(subject[1].decode('utf-8', 'replace').strip())!r}," if subject else "no subject,",
            f"{len(self.content)} bytes",
        ]
        return f"<{' '.join(parts)}>"

    def differences(self, other: ReceivedMessage) -> list[str]:
        """Say in which attributes the two differ, one line each, and two more for the first line of content that does.

        The pytest plugin shows it where ``assert message == other`` fails.
        """
        lines = [
            f"{name}: {getattr(self, name)!r} != {getattr(other, name)!r}"
            for name in (field.name for field in attrs.fields(ReceivedMessage) if field.eq)
            if name != "content" and getattr(self, name) != getattr(other, name)
        ]
        if self.content != other.content:
            pairs = zip_longest(self.content.splitlines(keepends=True), other.content.splitlines(keepends=True))
            number, (ours, theirs) = next(pair for pair in enumerate(pairs, 1) if pair[1][0] != pair[1][1])
            lines += [
                f"content: {len(self.content)} and {len(other.content)} bytes; line {number} is the first to differ:",
                f"  {ours!r}",
                f"  {theirs!r}",
            ]
        return lines

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


@attrs.frozen
class Commitment:
    """The server is responsible for one message to one recipient."""

    message: ReceivedMessage
    recipient: str

    @property
    def content(self) -> bytes:
        """The bytes of the message."""
        return self.message.content

    @property
    def queue_id(self) -> str:
        """The name that the server gave the message."""
        return self.message.queue_id


class Mailbox:
    """The messages that one server accepted, over all its connections, in the order in which they were committed.

    It also has those that the server refused.

    Args:
        on_delivery: called after each message is added; the server uses it to wake the tasks that wait.
        on_message: called before a message is added. What it returns is the reply to the message, which is then not
            added; None: it is added.
        on_refusal: called with each message that was refused, and each session without a message.
        keeps: whether messages are kept. If not, only `count` counts them.
    """

    def __init__(
        self,
        on_delivery: Callable[[ReceivedMessage], None] | None = None,
        *,
        on_message: Callable[[ReceivedMessage], str | None] | None = None,
        on_refusal: Callable[[RefusedMessage], None] | None = None,
        keeps: bool = True,
    ) -> None:
        self.messages: list[ReceivedMessage] = []
        #: What was refused, in the order in which it came to its end.
        self.refused: list[RefusedMessage] = []
        #: What the server is responsible for: one entry for each recipient of each message, in order.
        #:
        #: It is the truth to judge a client by: an entry is here before the reply that says so exists.
        self.committed: list[Commitment] = []
        #: Messages that were accepted since the beginning or the last `clear`, kept or not.
        self.count = 0
        self._on_delivery = on_delivery
        self._on_message = on_message
        self._on_refusal = on_refusal
        self._keeps = keeps
        self._last_id = 0

    def new_queue_id(self) -> str:
        """Return a name that no other message of this mailbox has."""
        self._last_id += 1
        return f"Q{self._last_id}"

    def deliver(self, message: ReceivedMessage) -> str | None:
        """Commit `message`: from here on the server is responsible for it.

        Returns:
            The reply with which it was refused instead, or None if it was committed.
        """
        refusal = self._on_message(message) if self._on_message is not None else None
        if isinstance(refusal, str):
            return refusal
        if refusal is not None:
            raise TypeError(f"on_message returns a reply or None, not {refusal!r}")
        self.count += 1
        if self._keeps:
            self.messages.append(message)
            self.committed += [Commitment(message, recipient) for recipient in message.recipients]
        if self._on_delivery is not None:
            self._on_delivery(message)
        return None

    def refuse(self, message: RefusedMessage) -> None:
        """Record a message that was not accepted."""
        if self._keeps:
            self.refused.append(message)
        if self._on_refusal is not None:
            self._on_refusal(message)

    def clear(self) -> None:
        """Forget all messages."""
        self.messages.clear()
        self.refused.clear()
        self.committed.clear()
        self.count = 0
