"""Job: one message for one recipient, as it is queued; and Outcome, what became of it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import format_datetime, make_msgid
from typing import Any, Final, Literal, NamedTuple, Self, TypeAlias

import attrs

from smtplite.errors import MessageError
from smtplite.message import envelope_of, wire_bytes
from smtplite.message.envelope import AnyRecipients, Envelope, Recipient

__all__ = ["Identity", "Job", "Lease", "Outcome", "Status", "WhenUnknown", "has_identity_fields", "jobs_for"]

#: What to do when nobody can know whether a message was accepted. "retry": better twice than never. "record": better
#: never than twice.
WhenUnknown: TypeAlias = Literal["retry", "record"]

#: What became of a job; every status is final.
Status: TypeAlias = Literal["accepted", "refused", "failed", "expired", "unknown"]

#: How long to keep trying, by default (RFC 5321 4.5.4.1: "at least 4-5 days").
_DEFAULT_PATIENCE: Final = timedelta(days=4)

#: How much of the last try's result is kept in the queue: a server may say a lot.
_MAX_LAST_CHARACTERS: Final = 500

_MESSAGE_ID: Final = re.compile(rb"^Message-ID:[ \t]*(?:\r?\n[ \t]+)?([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_DATE: Final = re.compile(rb"^Date:", re.IGNORECASE | re.MULTILINE)
_END_OF_HEADER: Final = re.compile(rb"\r?\n\r?\n")


class Identity(NamedTuple):
    """What identifies a job, in the queue and in the store. It is chosen when the job is queued, and never changes.

    Attributes:
        key: the caller's own key; by default the Message-ID.
        recipient: the recipient's address.
    """

    key: str
    recipient: str


@attrs.define(eq=False)
class Lease:
    """A worker's right to a job, for a while. A source makes one for each job that it gives out.

    Attributes:
        name: marks carry it, so that no worker mistakes another's mark for its own. A job that is leased again gets a
            new one.
        until: when it ends, on the clock of `time.monotonic`. `Source.extend` moves it.
        handle: whatever the source needs to find the job again.
    """

    name: str
    until: float
    handle: Any = None


@attrs.frozen(kw_only=True, eq=False)
class Job:
    """One message for one recipient.

    Attributes:
        key: see `Identity`.
        envelope: the sender, and the one recipient.
        content: the message as bytes, with Message-ID and Date, so that every copy has the same; None: see `reference`.
        reference: used instead of `content`: the worker's `load` is called with it, and returns the bytes.
        when_unknown: "retry": send again when nobody can know whether it was accepted; "record": never send again.
        not_after: when to give up, in seconds since 1970, on the engine's clock.
        lane: the queue that it waits in. Lanes do not wait for each other.
        attempt: the number of the next try, from 1.
        is_uncertain: True if an earlier try may have delivered it.
        last: what became of the last try, in words; "" before the first.
        queued_at: when it was queued, in seconds since 1970, for metrics; None: not known.
        token: the lease; None outside a worker.

    Raises:
        MessageError: it is not a valid job; says why.
    """

    key: str = attrs.field()
    envelope: Envelope = attrs.field()
    content: bytes | None = attrs.field(default=None, repr=False)
    reference: str | None = None
    when_unknown: WhenUnknown = "retry"
    not_after: float = attrs.field(factory=lambda: time.time() + _DEFAULT_PATIENCE.total_seconds())
    lane: str = "bulk"
    attempt: int = 1
    is_uncertain: bool = False
    last: str = ""
    queued_at: float | None = attrs.field(factory=time.time)
    token: Lease | None = None

    def __attrs_post_init__(self) -> None:
        if not self.key or "\0" in self.key:
            raise MessageError(f"key of a job must be a text without NUL, and not empty, not {self.key!r:.80}")
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", self.lane):
            raise MessageError(f"lane must be up to 32 letters, digits, '-' and '_', not {self.lane!r:.80}")
        if self.when_unknown not in ("retry", "record"):
            raise MessageError(f"when_unknown must be 'retry' or 'record', not {self.when_unknown!r:.80}")
        if len(self.envelope.recipients) != 1:
            raise MessageError(
                f"a job must have one recipient, not {len(self.envelope.recipients)}: make a job for each, as jobs_for "
                "does"
            )
        if (self.content is None) == (self.reference is None):
            raise MessageError("a job must have either content or a reference: pass one of them")

    @property
    def identity(self) -> Identity:
        """What identifies it."""
        return Identity(self.key, self.envelope.recipients[0].address)

    @property
    def lease(self) -> Lease:
        """The lease of the worker that has it.

        Raises:
            MessageError: nobody leased it.
        """
        if self.token is None:
            raise MessageError("this job was not leased: a worker gets its jobs from Source.lease")
        return self.token

    def to_header(self) -> str:
        """Return everything except the content as JSON, for an engine to keep."""
        fields: dict[str, Any] = {
            "key": self.key,
            "envelope": _plain(self.envelope),
            "when_unknown": self.when_unknown,
            "not_after": self.not_after,
            "lane": self.lane,
            "attempt": self.attempt,
        }
        if self.queued_at is not None:
            fields["queued_at"] = self.queued_at
        if self.reference is not None:
            fields["reference"] = self.reference
        if self.is_uncertain:
            fields["is_uncertain"] = True
        if self.last:
            fields["last"] = self.last[:_MAX_LAST_CHARACTERS]
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def from_header(cls, header: str | Mapping[str, Any], content: bytes | None, token: Lease | None = None) -> Self:
        """Return the job that `to_header` wrote down.

        Raises:
            MessageError: it is not such a job; says what is wrong.
        """
        try:
            fields = {"queued_at": None, **(json.loads(header) if isinstance(header, str) else header)}
            envelope = dict(fields.pop("envelope"))
            recipients = [Recipient(**recipient) for recipient in envelope.pop("recipients")]
            fields["envelope"] = Envelope(**envelope, recipients=recipients)
            return cls(**fields, content=None if "reference" in fields else content, token=token)
        except MessageError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise MessageError(f"this is not a job that smtplite.worker queued: {error!r:.80}") from error


def _plain(value: Envelope | Recipient) -> dict[str, Any]:
    """Return the fields that differ from their defaults, for JSON."""
    plain: dict[str, Any] = {}
    for field in attrs.fields(type(value)):
        given = getattr(value, field.name)
        if field.name == "recipients":
            plain["recipients"] = [_plain(recipient) for recipient in given]
        elif isinstance(field.default, attrs.Factory):  # type: ignore[arg-type]  # attrs says it is a function; it is a class
            if given:
                plain[field.name] = dict(given)
        elif given != field.default:
            plain[field.name] = given if isinstance(given, (str, bool)) else list(given)
    return plain


@attrs.frozen(kw_only=True)
class Outcome:
    """What became of a job; final.

    Attributes:
        status: "accepted"; "refused": for good; "failed": it cannot be sent as it is; "expired": not accepted before
            its time was over; "unknown": this try, or an earlier one, may have delivered it.
        reply: the server's reply, if there was one.
        error: what happened, in words; "" if it was accepted.
        message_id: the Message-ID that every copy carries.
        attempt: the number of the last try, from 1.
        at: when, in seconds since 1970 on the engine's clock.
    """

    status: Status
    reply: str | None = None
    error: str = ""
    message_id: str | None = None
    attempt: int = 1
    at: float = 0.0

    def to_json(self) -> str:
        """Return it as JSON, for an engine to keep."""
        return json.dumps(attrs.asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return what `to_json` wrote down."""
        return cls(**json.loads(text))


def jobs_for(
    message: Message[Any, Any] | bytes,
    recipients: AnyRecipients | None = None,
    *,
    sender: str | None = None,
    envelope: Envelope | None = None,
    key: str | None = None,
    when_unknown: WhenUnknown = "retry",
    not_after: datetime | timedelta | None = None,
    lane: str = "bulk",
) -> list[Job]:
    """Make the jobs of a message, one for each recipient; pass them to the `enqueue` of an engine.

    If the message has no Message-ID or Date, it gets them here, so every copy that is ever sent has the same. The
    object that you pass is not changed.

    Args:
        message: a message object of `email`, or bytes.
        recipients: one address, or several; None: from the headers.
        sender: the reverse-path; None: from the headers.
        envelope: instead of both.
        key: identifies the message; two jobs with the same key and recipient are one. None: its Message-ID.
        when_unknown: what to do when nobody can know whether it was accepted. "retry": better twice than never
            (password resets, alarms). "record": better never than twice (invoices, orders).
        not_after: when to give up, as a time with its zone, or as a timedelta from now; None: after four days.
        lane: the queue that it waits in, such as "transactional" or "bulk".

    Raises:
        MessageError: no jobs can be made of it; says why.
    """
    if not isinstance(message, (Message, bytes, bytearray, memoryview)):
        hint = ": encode it, as with text.encode()" if isinstance(message, str) else ""
        raise MessageError(
            f"message of a job must be an email.message.Message or bytes, not {type(message).__name__}{hint}"
        )
    content = wire_bytes(message, seven_bit=True) if isinstance(message, Message) else bytes(message)
    given = envelope if envelope is not None else envelope_of(message, sender, recipients)
    content, message_id = _with_identity_fields(content, given.sender)
    if not_after is None:
        not_after = _DEFAULT_PATIENCE
    if isinstance(not_after, timedelta):
        not_after = datetime.now(UTC) + not_after
    if not_after.tzinfo is None:
        raise MessageError(f"not_after has no time zone: {not_after}; pass datetime.now(UTC) + ..., or a timedelta")
    return [
        Job(
            key=message_id if key is None else key,
            envelope=attrs.evolve(given, recipients=[recipient]),
            content=content,
            when_unknown=when_unknown,
            not_after=not_after.timestamp(),
            lane=lane,
        )
        for recipient in given.recipients
    ]


def _header_section(content: bytes) -> bytes:
    end = _END_OF_HEADER.search(content)
    return content if end is None else content[: end.start()]


def message_id_of(content: bytes) -> str | None:
    """Return the Message-ID of a message, if it has one."""
    found = _MESSAGE_ID.search(_header_section(content))
    text = "" if found is None else found[1].decode("ascii", "replace").strip()
    return text or None


def has_identity_fields(content: bytes) -> bool:
    """Return True if a message has Message-ID and Date: without them, two copies would be two messages."""
    return message_id_of(content) is not None and _DATE.search(_header_section(content)) is not None


def _with_identity_fields(content: bytes, sender: str) -> tuple[bytes, str]:
    message_id = message_id_of(content)
    added = b""
    if message_id is None:
        domain = sender.rpartition("@")[2]
        message_id = make_msgid(domain=domain if domain and domain.isascii() else "localhost")
        added += f"Message-ID: {message_id}\r\n".encode("ascii")
    if _DATE.search(_header_section(content)) is None:
        added += f"Date: {format_datetime(datetime.now(UTC))}\r\n".encode("ascii")
    return added + content, message_id
