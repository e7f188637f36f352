"""What is sent, and what came of it.

From the caller's message to its envelope and its wire form: `prepare` reads and checks everything before the first
octet of a transaction is written (rule R20), and `Prepared.for_server` fits it to what one server offers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from email import policy as email_policy
from email.errors import InvalidHeaderDefect, NonPrintableDefect
from email.generator import BytesGenerator
from email.header import Header
from email.headerregistry import Address
from email.message import Message
from email.parser import BytesHeaderParser
from email.policy import Policy
from email.utils import formatdate, make_msgid
from io import BytesIO
from typing import Any, Final, Literal, Self

import attrs

from smtplite.errors import MessageError, RecipientsRefused, SMTPError
from smtplite.protocol.commands import Mail, Rcpt
from smtplite.protocol.extensions import Extensions
from smtplite.protocol.parameters import NO_PARAMETERS, Parameters, negotiate, require_offered
from smtplite.protocol.paths import ForwardPath, ReversePath
from smtplite.protocol.reply import Reply
from smtplite.protocol.transaction import Outcome, RecipientOutcome
from smtplite.protocol.transparency import normalize

__all__ = ["MAX_TEXT_LINE_BYTES", "Envelope", "Prepared", "Receipt", "Recipient", "prepare", "wire_bytes"]

#: A line of the content, without its CRLF (RFC 5321 4.5.3.1.6, RFC 5322 2.1.1).
MAX_TEXT_LINE_BYTES: Final = 998

# A field of the header section, after folding: every CRLF but the last is followed by white space (RFC 5322 2.2.3).
_FOLDED_FIELD: Final = re.compile(rb"([\x21-\x39\x3b-\x7e]+):[^\r\n]*(?:\r\n[ \t][^\r\n]*)*\r\n")
# A value may come to us folded; then each line break is followed by white space. Anything else is an injection.
_FOLDED_VALUE: Final = re.compile(r"[^\r\n]*(?:\r?\n[ \t][^\r\n]*)*")
_FIELD_NAME: Final = re.compile(r"[\x21-\x39\x3b-\x7e]+")

_END_OF_HEADER: Final = re.compile(rb"(?:\A|\n)\r?\n")
_BARE_CR: Final = re.compile(rb"\r(?!\n)")
_BCC_FIELD: Final = re.compile(rb"^(?:resent-)?bcc[ \t]*:", re.IGNORECASE | re.MULTILINE)
_DKIM_FIELD: Final = re.compile(rb"^dkim-signature[ \t]*:", re.IGNORECASE | re.MULTILINE)

_RESENT_ONCE: Final = frozenset(
    {"resent-date", "resent-from", "resent-sender", "resent-to", "resent-cc", "resent-bcc", "resent-message-id"}
)
_ADDRESS_FIELDS: Final = frozenset({"from", "sender", "reply-to", "to", "cc"})  # of those that leave
#: Defects of an address field that make it no list of addresses. Others say that the form is old, that an address
#: needs SMTPUTF8, or that a display name cannot be read.
_FATAL_DEFECTS: Final = (InvalidHeaderDefect, NonPrintableDefect)

_COMPAT32: Final = email_policy.compat32.clone(linesep="\r\n")


def _address(value: str | Address) -> str:
    if isinstance(value, Address):
        return value.addr_spec
    if not isinstance(value, str):
        raise MessageError(f"an address is a str or an email.headerregistry.Address, not {type(value).__name__}")
    return value


def _frozen_mapping(value: Mapping[str, str | None] | None) -> dict[str, str | None]:
    return dict(value or {})


@attrs.frozen
class Recipient:
    """One recipient with the parameters of its RCPT command.

    Attributes:
        address: a bare address, such as ``user@example.com``.
        notify: "NEVER", or some of "SUCCESS", "FAILURE", "DELAY" (RFC 3461 4.1).
        orcpt: the original recipient's address (RFC 3461 4.2).
        parameters: any other parameters: keyword -> value, or None for a keyword without one.
    """

    address: str = attrs.field(converter=_address)
    notify: str | Collection[str] | None = attrs.field(default=None, kw_only=True)
    orcpt: str | None = attrs.field(default=None, kw_only=True)
    parameters: Mapping[str, str | None] = attrs.field(factory=dict, kw_only=True, converter=_frozen_mapping)


def _recipients(
    value: str | Address | Recipient | Iterable[str | Address | Recipient],
) -> tuple[Recipient, ...]:
    if isinstance(value, (str, Address, Recipient)):  # one address: a str is never split
        value = (value,)
    if not isinstance(value, Iterable):
        raise MessageError(f"recipients is an address, or several, not {type(value).__name__}")
    return tuple(item if isinstance(item, Recipient) else Recipient(item) for item in value)


@attrs.frozen
class Envelope:
    """Who sends and who receives, with the parameters of the mail transaction (RFC 5321 2.3.1).

    Attributes:
        sender: the reverse-path; "" is the null reverse-path, for notifications.
        recipients: one address, or several; never split at commas.
        ret: what a bounce returns: "FULL" or "HDRS" (RFC 3461 4.3).
        envid: an identifier that bounces repeat (RFC 3461 4.4).
        dsn: "require": ExtensionRequired where DSN is wanted and not offered; "drop": send without it.
        require_tls: REQUIRETLS (RFC 8689).
        body: "7BIT" or "8BITMIME"; None: what the content needs.
        smtputf8: True or False to decide it; None: when an address or a header needs it.
        parameters: any other parameters of MAIL: keyword -> value, or None for a keyword without one.
    """

    sender: str = attrs.field(converter=_address)
    recipients: tuple[Recipient, ...] = attrs.field(converter=_recipients)
    ret: str | None = attrs.field(default=None, kw_only=True)
    envid: str | None = attrs.field(default=None, kw_only=True)
    dsn: Literal["require", "drop"] = attrs.field(default="require", kw_only=True)
    require_tls: bool = attrs.field(default=False, kw_only=True)
    body: str | None = attrs.field(default=None, kw_only=True)
    smtputf8: bool | None = attrs.field(default=None, kw_only=True)
    parameters: Mapping[str, str | None] = attrs.field(factory=dict, kw_only=True, converter=_frozen_mapping)

    def __attrs_post_init__(self) -> None:
        if self.dsn not in ("require", "drop"):
            raise MessageError(f"dsn is 'require' or 'drop', not {self.dsn!r}")
        if self.body not in (None, "7BIT", "8BITMIME"):
            raise MessageError(f"body is '7BIT', '8BITMIME' or None, not {self.body!r}")


@attrs.frozen
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


# Flattening


class _Flattener(BytesGenerator):
    """The stdlib's generator, with our own eye on every header field that it writes.

    On several Pythons it writes a line break from inside an encoded word as it stands: a header injection. The check
    stands where the octets are, so that it holds for every part of the message and whatever the stdlib does.
    """

    is_top = False  # parts are flattened by clones of us, which are not
    added: Sequence[tuple[str, str]] = ()  # fields for the header section of the message itself

    def _write(self, msg: Message[Any, Any]) -> None:
        # A str is written as it stands, without a boundary; parts may also be None, for none.
        if not isinstance(msg._payload, str) and msg.get_content_maintype() == "multipart":  # type: ignore[attr-defined]
            boundary = msg.get_boundary()
            if not boundary:
                msg = copy(msg)  # gets the boundary that the stdlib makes up, in place of the caller's object
            elif "\r" in boundary or "\n" in boundary:  # RFC 2231 can encode them; they would stand in the body as such
                raise MessageError(f"boundary holds a line break: {boundary[:80]!r}")
        super()._write(msg)  # type: ignore[misc]

    def _write_headers(self, msg: Message[Any, Any]) -> None:
        fields = list(msg.raw_items())
        if self.is_top:  # `msg` may be a copy of the caller's object
            fields = [(name, value) for name, value in fields if name.lower() not in ("bcc", "resent-bcc")]
            fields += self.added
        write = self._fp.write  # type: ignore[attr-defined]
        policy = self.policy
        assert policy is not None
        for name, value in fields:
            _check_field(name, value)
            folded = _fold(policy, name, value)
            match = _FOLDED_FIELD.fullmatch(folded)
            if match is None:
                raise MessageError(f"header {name} holds a line break: {folded[:80]!r}")
            if len(match[1]) != len(name) or match[1].lower() != name.lower().encode("ascii"):
                raise MessageError(f"header {name} would be written as {folded[:80]!r}")
            write(folded)
        write(b"\r\n")


def _check_field(name: str, value: object) -> None:
    if _FIELD_NAME.fullmatch(name) is None:
        raise MessageError(f"header name {name[:80]!r} is not printable ASCII without space and colon")
    text = value if isinstance(value, str) else str(value)
    if ("\n" in text or "\r" in text) and _FOLDED_VALUE.fullmatch(text) is None:
        raise MessageError(f"header {name} holds a line break: {text[:80]!r}")


def _fold(policy: Any, name: str, value: Any) -> bytes:
    """Return a field as the policy writes it; and what older code puts into messages, which it may not be able to."""
    if not isinstance(value, str):  # email.header.Header
        older = _COMPAT32.clone(cte_type=policy.cte_type, max_line_length=policy.max_line_length)
        return older.fold_binary(name, value)
    if not (value.isascii() or hasattr(value, "fold") or policy.utf8):
        try:  # octets that the parser met come as lone surrogates; those the policy can write
            value.encode("ascii", "surrogateescape")
        except UnicodeEncodeError:  # before 3.13 it could not write plain text beyond ASCII
            value = policy.header_factory(name, _unfold(value))
    folded: bytes = policy.fold_binary(name, value)
    return folded


def _unfold(value: str) -> str:
    return value.replace("\r\n", "").replace("\n", "") if "\n" in value else value


def wire_bytes(
    message: Message[Any, Any],
    *,
    utf8: bool = False,
    seven_bit: bool = False,
    _added: Sequence[tuple[str, str]] = (),
) -> bytes:
    r"""Flatten a message for the wire: as ``message.as_bytes(policy=email.policy.SMTP)``, without Bcc and Resent-Bcc.

    Line endings are CRLF; dots are not doubled. The message is not changed.

    Args:
        message: what `email` made or parsed.
        utf8: headers as UTF-8 (RFC 6532), for a transaction with SMTPUTF8.
        seven_bit: 8-bit bodies re-encoded, for a server without 8BITMIME.

    Raises:
        MessageError: a header name or value holds a line break, or the stdlib cannot flatten the message.
    """
    policy: Policy[Any] = email_policy.SMTPUTF8 if utf8 else email_policy.SMTP
    buffer = BytesIO()
    flattener = _Flattener(buffer, mangle_from_=False, policy=policy.clone(cte_type="7bit") if seven_bit else policy)
    flattener.is_top = True
    flattener.added = _added
    try:
        flattener.flatten(message)
    except (SMTPError, MemoryError):
        raise
    except Exception as error:  # whatever the stdlib meets: IndexError, RecursionError, email.errors.MessageError
        raise MessageError(f"message cannot be flattened: {error}") from error
    # A payload that is a str where the stdlib expects parts is written with the line endings it has.
    return normalize(buffer.getvalue())


# The envelope in the headers


def _fields(message: Message[Any, Any]) -> dict[str, list[object]]:
    """Return the fields that name sender and recipients, by the part of their name behind "resent-", if any.

    Of several Resent- blocks, the topmost is the one that counts (RFC 5322 3.6.6): it ends where another field stands
    between, or where a field comes again.
    """
    resent: dict[str, list[object]] = {}
    for name, value in message.raw_items():
        lowered = name.lower()
        if lowered in _RESENT_ONCE:
            if lowered[7:] in resent:
                break
            resent[lowered[7:]] = [value]
        elif resent and not lowered.startswith("resent-"):
            break
    if resent:
        return resent
    fields: dict[str, list[object]] = {}
    for name, value in message.raw_items():
        lowered = name.lower()
        if lowered in ("from", "sender", "to", "cc", "bcc"):
            fields.setdefault(lowered, []).append(value)
    return fields


def _addresses(name: str, value: object) -> list[str]:
    """Return the addresses of one address field, groups resolved; parse or refuse, never guess (rule R19)."""
    header: Any = value
    try:
        if not hasattr(value, "addresses"):
            # Of a Header, what stands on the wire: its text without encoding may read as more addresses than it has.
            text = value.encode(maxlinelen=0, linesep="\n") if isinstance(value, Header) else str(value)
            # Octets beyond ASCII come out of the stdlib's parser as lone surrogates.
            text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            _check_field(name, text)
            text = _unfold(text)
            header = email_policy.SMTP.header_factory(name, text)
        addresses = [address.addr_spec for address in header.addresses]
        # The header's own reading drops comments, unquotes, decodes, and takes some spaces out of a domain.
        source = text if header is not value else str(getattr(header, "_parse_tree", header))
    except (SMTPError, MemoryError):
        raise
    except Exception as error:  # the stdlib's parser has raised even UnboundLocalError
        raise MessageError(f"header {name} is no list of addresses: {str(value)[:80]!r}: {error}") from error
    for defect in header.defects:
        if isinstance(defect, _FATAL_DEFECTS):
            raise MessageError(f"header {name} is no list of addresses: {str(header)[:80]!r}: {defect}")
    at = 0
    for address in addresses:
        at = _find(address, source, at)
        if at < 0 or "\ufffd" in address:
            raise MessageError(f"header {name} has an address that does not stand there as such: {address[:80]!r}")
    return addresses


def _find(address: str, text: str, at: int) -> int:
    """Return where the address ends in the text, from `at` on; -1 if it stands there only as a part of another."""
    while (start := text.find(address, at)) >= 0:
        end = start + len(address)
        if (start == 0 or text[start - 1] in " \t,<:;)") and (end == len(text) or text[end] in " \t,>;("):
            return end
        at = start + 1
    return -1


def _sender_of(fields: dict[str, list[object]]) -> str:
    for name in ("sender", "from"):
        candidates = [address for value in fields.get(name, ()) for address in _addresses(name, value)]
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            problem = "several Sender addresses" if name == "sender" else "several From addresses and no Sender"
            raise MessageError(f"message has {problem}: pass sender=")
    raise MessageError("message has no From: pass sender=")


def _recipients_of(fields: dict[str, list[object]]) -> list[str]:
    names = ("to", "cc", "bcc")
    recipients = [a for name in names for value in fields.get(name, ()) for a in _addresses(name, value)]
    if not recipients:
        raise MessageError("message names nobody in To, Cc and Bcc: pass recipients=")
    return recipients


# Preparing


@attrs.frozen(eq=False)
class Prepared:
    """A message and its envelope, read and checked, ready for any server.

    Attributes:
        envelope: who sends and who receives.
        message: the caller's message object; None if it came as octets.
        content: the wire form; of a message object, the 8-bit one.
        added: header fields that the message object lacked.
        message_id: its Message-ID, if it has one.
        sender: the reverse-path.
        recipients: the recipients as they were given.
        forward_paths: each different recipient once, with the parameters that do not depend on the server.
        positions: for each of `recipients`, its index in `forward_paths`.
        needs_smtputf8: which address or header needs SMTPUTF8; None if none does.
    """

    envelope: Envelope
    message: Message[Any, Any] | None
    content: bytes = attrs.field(repr=False)
    added: tuple[tuple[str, str], ...]
    message_id: str | None
    sender: ReversePath
    recipients: tuple[str, ...]
    forward_paths: tuple[tuple[ForwardPath, Recipient, Parameters], ...]
    positions: tuple[int, ...]
    needs_smtputf8: str | None

    def for_server(self, extensions: Extensions, *, is_tls: bool) -> tuple[Mail, list[Rcpt], bytes]:
        """Return MAIL, the RCPTs and the content, as this server can take them.

        Raises:
            ExtensionRequired: it cannot; nothing was sent.
        """
        envelope = self.envelope
        content = self.content
        is_narrow = not extensions.eight_bit_mime and self.needs_smtputf8 is None  # UTF-8 headers cannot be made 7-bit
        if self.message is not None and is_narrow and not content.isascii():
            try:
                content = wire_bytes(self.message, seven_bit=True, _added=self.added)
            except MessageError:
                pass  # a text of no known charset, which the stdlib cannot encode: only 8BITMIME can carry it
            else:
                _check_content(content, body=envelope.body)
        drop_dsn = envelope.dsn == "drop" and not extensions.dsn
        ends_line = not content or content.endswith(b"\r\n")
        mail = Mail(
            self.sender,
            negotiate(
                extensions,
                size=len(content) if ends_line else len(content) + 2,  # DATA ends the last line (RFC 5321 4.1.1.4)
                is_eight_bit=not content.isascii(),
                needs_smtputf8=self.needs_smtputf8,
                is_tls=is_tls,
                body=envelope.body,
                ret=envelope.ret,
                envid=envelope.envid,
                drop_dsn=drop_dsn,
                require_tls=envelope.require_tls,
                custom=Parameters.custom(envelope.parameters) if envelope.parameters else NO_PARAMETERS,
            ),
        )
        rcpts = []
        for path, recipient, custom in self.forward_paths:
            parameters = custom
            if not drop_dsn and (recipient.notify is not None or recipient.orcpt is not None):
                parameters = _dsn(recipient, smtputf8=self.needs_smtputf8 is not None) + custom
            if parameters.keywords:
                require_offered(extensions, parameters)
            rcpts.append(Rcpt(path, parameters))
        return mail, rcpts, content

    def sets(self, outcomes: Sequence[RecipientOutcome]) -> dict[str, Any]:
        """Return the four sets of recipients, as they were given: keyword arguments of a Receipt, or of an error."""
        by_outcome: dict[Outcome, list[str]] = {outcome: [] for outcome in Outcome}
        refused: dict[str, Reply] = {}
        for address, position in zip(self.recipients, self.positions, strict=True):
            decided = outcomes[position]
            if decided.outcome is Outcome.REFUSED and decided.reply is not None:
                refused[address] = decided.reply
            else:
                by_outcome[decided.outcome].append(address)
        return {
            "accepted": tuple(by_outcome[Outcome.ACCEPTED]),
            "refused": refused,
            "unknown": tuple(by_outcome[Outcome.UNKNOWN]),
            "not_sent": tuple(by_outcome[Outcome.NOT_SENT]),
        }

    def replies(self, outcomes: Sequence[RecipientOutcome]) -> dict[str, Reply]:
        """Return recipient -> the last reply about it."""
        replies = ((address, outcomes[i].reply) for address, i in zip(self.recipients, self.positions, strict=True))
        return {address: reply for address, reply in replies if reply is not None}


def _dsn(recipient: Recipient, *, smtputf8: bool) -> Parameters:
    return Parameters.rcpt(notify=recipient.notify, orcpt=recipient.orcpt, smtputf8=smtputf8)


def prepare(
    message: Message[Any, Any] | bytes | bytearray | memoryview,
    *,
    sender: str | Address | None = None,
    recipients: str | Address | Recipient | Iterable[str | Address | Recipient] | None = None,
    envelope: Envelope | None = None,
) -> Prepared:
    """Read and check a message and its envelope, before anything is sent.

    Args:
        message: a message object of `email`, or the message as octets.
        sender: the reverse-path; None: from the headers.
        recipients: None: from the headers.
        envelope: in place of both.

    Raises:
        MessageError: it cannot be sent; says what to change.
    """
    if envelope is not None and (sender is not None or recipients is not None):
        raise MessageError("pass either envelope= or sender= and recipients=, not both")
    if isinstance(message, Message):
        return _prepare_object(message, sender, recipients, envelope)
    if isinstance(message, (bytes, bytearray, memoryview)):
        return _prepare_octets(bytes(message), sender, recipients, envelope)
    raise MessageError(f"a message is an email.message.Message or bytes, not {type(message).__name__}")


def _prepare_object(
    message: Message[Any, Any],
    sender: str | Address | None,
    recipients: str | Address | Recipient | Iterable[str | Address | Recipient] | None,
    envelope: Envelope | None,
) -> Prepared:
    envelope = envelope or _complete(message, sender, recipients)
    reading = _Reading.of(envelope)
    needs_smtputf8 = reading.needs_smtputf8
    if needs_smtputf8 is None and envelope.smtputf8 is None:
        needs_smtputf8 = _field_with_utf8_address(message)
    added = []
    if "Date" not in message:  # `in`: its value is not parsed, which may fail
        added.append(("Date", formatdate(localtime=True)))
    message_id = _message_id(message)
    if "Message-ID" not in message:
        # The domain is given, or make_msgid would look this host's name up, and block.
        domain = reading.sender.wire[1:-1].rpartition(b"@")[2].decode("ascii") or "localhost"
        message_id = make_msgid(domain=domain)
        added.append(("Message-ID", message_id))
    is_seven_bit = envelope.body == "7BIT"
    content = wire_bytes(message, utf8=needs_smtputf8 is not None, seven_bit=is_seven_bit, _added=added)
    _check_content(content, body=envelope.body)
    if needs_smtputf8 is None and envelope.smtputf8 is None and not content.isascii():
        needs_smtputf8 = _first_8bit_field(content[: _header_bytes(content)])
    return reading.prepared(envelope, message, content, tuple(added), message_id, needs_smtputf8)


def _prepare_octets(
    raw: bytes,
    sender: str | Address | None,
    recipients: str | Address | Recipient | Iterable[str | Address | Recipient] | None,
    envelope: Envelope | None,
) -> Prepared:
    header = raw[: _header_bytes(raw)]
    if _BARE_CR.search(header):
        raise MessageError("message has a bare CR in its header section: it could hide a header from some servers")
    if _BCC_FIELD.search(header):
        raise MessageError("message has a Bcc field: remove it, and name its recipients in recipients=")
    if _DKIM_FIELD.search(header) and _BARE_CR.search(raw):
        raise MessageError("message is signed (DKIM-Signature) and has a bare CR, which cannot be sent unchanged")
    parsed = BytesHeaderParser(policy=email_policy.compat32).parsebytes(header)
    envelope = envelope or _complete(parsed, sender, recipients)
    reading = _Reading.of(envelope)
    content = normalize(raw)
    _check_content(content, body=envelope.body)
    needs_smtputf8 = reading.needs_smtputf8
    if needs_smtputf8 is None and envelope.smtputf8 is None:
        needs_smtputf8 = _first_8bit_field(header)
    return reading.prepared(envelope, None, content, (), _message_id(parsed), needs_smtputf8)


def _complete(
    message: Message[Any, Any],
    sender: str | Address | None,
    recipients: str | Address | Recipient | Iterable[str | Address | Recipient] | None,
) -> Envelope:
    """Take from the headers what the caller did not say."""
    if sender is None or recipients is None:
        fields = _fields(message)
        if sender is None:
            sender = _sender_of(fields)
        if recipients is None:
            recipients = _recipients_of(fields)
    return Envelope(sender, recipients)


@attrs.frozen(eq=False)
class _Reading:
    """An envelope whose addresses and parameters were validated."""

    sender: ReversePath
    recipients: tuple[str, ...]
    forward_paths: tuple[tuple[ForwardPath, Recipient, Parameters], ...]
    positions: tuple[int, ...]
    needs_smtputf8: str | None

    @classmethod
    def of(cls, envelope: Envelope) -> Self:
        if not envelope.recipients:
            raise MessageError("message has no recipients")
        sender = ReversePath.parse(envelope.sender)
        # Validated now, all of them, although the server decides later which of them are sent (rule R20).
        Parameters.mail(ret=envelope.ret, envid=envelope.envid)
        Parameters.custom(envelope.parameters)
        needs = f"address {sender.address!r}" if sender.needs_smtputf8 else None
        paths: list[tuple[ForwardPath, Recipient, Parameters]] = []
        index: dict[tuple[bytes, bytes], int] = {}
        positions = []
        for recipient in envelope.recipients:
            path = ForwardPath.parse(recipient.address)
            custom = Parameters.custom(recipient.parameters) if recipient.parameters else NO_PARAMETERS
            dsn = _dsn(recipient, smtputf8=False)
            key = (path.mailbox, dsn.wire + custom.wire)
            if key not in index:  # the same recipient twice is one RCPT, reported for each
                index[key] = len(paths)
                paths.append((path, recipient, custom))
                if path.needs_smtputf8 and needs is None:
                    needs = f"address {path.address!r}"
            positions.append(index[key])
        if envelope.smtputf8 and needs is None:
            needs = "the envelope"
        if envelope.smtputf8 is False and needs is not None:
            raise MessageError(f"{needs} needs SMTPUTF8, and smtputf8=False forbids it")
        recipients = tuple(recipient.address for recipient in envelope.recipients)
        return cls(sender, recipients, tuple(paths), tuple(positions), needs)

    def prepared(
        self,
        envelope: Envelope,
        message: Message[Any, Any] | None,
        content: bytes,
        added: tuple[tuple[str, str], ...],
        message_id: str | None,
        needs_smtputf8: str | None,
    ) -> Prepared:
        return Prepared(
            envelope,
            message,
            content,
            added,
            message_id,
            self.sender,
            self.recipients,
            self.forward_paths,
            self.positions,
            needs_smtputf8,
        )


def _message_id(message: Message[Any, Any]) -> str | None:
    for name, value in message.raw_items():
        if name.lower() == "message-id":
            return _unfold(str(value)).strip() or None
    return None


def _header_bytes(content: bytes) -> int:
    """Return the length of the header section, the empty line included."""
    end = _END_OF_HEADER.search(content)
    return len(content) if end is None else end.end()


def _check_content(content: bytes, *, body: str | None) -> None:
    """Refuse what no server may get, whatever it offers."""
    if b"\0" in content:
        raise MessageError("message holds a NUL octet")
    if body == "7BIT" and not content.isascii():
        raise MessageError("message holds 8-bit octets, which body='7BIT' forbids: encode them, or leave body= out")
    start, length = 0, len(content)
    while length - start > MAX_TEXT_LINE_BYTES:
        # Every line that ends inside this window is short enough: one look for each thousand octets.
        end = content.rfind(b"\n", start, start + MAX_TEXT_LINE_BYTES + 2)
        if end < 0:
            raise MessageError(f"message has a line of more than {MAX_TEXT_LINE_BYTES} octets: encode it")
        start = end + 1


def _first_8bit_field(header: bytes) -> str | None:
    if header.isascii():
        return None
    name = b""
    for line in header.split(b"\n"):
        if not line.startswith((b" ", b"\t")):
            name = line.partition(b":")[0]
        if not line.isascii():
            break
    return f"header {name.decode('utf-8', 'replace')[:80]}"


def _field_with_utf8_address(message: Message[Any, Any]) -> str | None:
    """Return the address field with a local part beyond ASCII, which cannot be written without SMTPUTF8."""
    for name, value in message.raw_items():
        lowered = name.lower()
        if lowered.removeprefix("resent-") in _ADDRESS_FIELDS and not str(value).isascii():
            try:
                addresses = _addresses(lowered, value)
            except MessageError:  # it names nobody that the envelope was taken from
                continue
            if not all(address.rpartition("@")[0].isascii() for address in addresses):
                return f"header {name}"
    return None
