"""Prepared: a message and its envelope, read and checked before the first byte is written, and fitted to a server.

One job, although long: each form of a message, and each usual case with a short way of its own, ends in one `Prepared`.
From the caller's message to its envelope and its wire form: `prepare` reads and checks everything before the first
byte of a transaction is written (rule R20), and `Prepared.for_server` fits it to what one server offers.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import aclosing
from email import policy as email_policy
from email.headerregistry import Address
from email.message import Message
from email.parser import BytesHeaderParser
from email.utils import formatdate, make_msgid
from functools import lru_cache, partial
from typing import Any, Final, Self

import attrs

from smtplite.errors import ExtensionRequired, MessageError, SMTPError
from smtplite.message import flatten
from smtplite.message.addresses import (
    envelope_fields,
    forward_path,
    recipients_of,
    reverse_path,
    sender_of,
)
from smtplite.message.content import Body, Content, ContentReader, OctetBody
from smtplite.message.envelope import AnyMessage, AnyRecipients, Envelope, Recipient
from smtplite.message.flatten import LARGE_BYTES, flattened, signed_names
from smtplite.message.headers import FieldNeedsUtf8, unfold
from smtplite.message.signing import Sign, Signing
from smtplite.message.threads import in_thread
from smtplite.message.wire import (
    MAX_TEXT_LINE_BYTES,
    check_header_section,
    check_text,
    dropped_size,
    eight_bit_field,
    ends_within,
    fields_of,
    header_section,
    plain_header,
    wire_form,
)
from smtplite.protocol.commands import Mail, Rcpt
from smtplite.protocol.envelope import EnvelopeCommands
from smtplite.protocol.extensions import Extensions
from smtplite.protocol.parameters import (
    NO_PARAMETERS,
    Parameters,
    extension_required,
    negotiate,
    negotiate_size,
    require_offered,
)
from smtplite.protocol.paths import ForwardPath, ReversePath

__all__ = ["Prepared", "envelope_of", "is_large", "prepare"]

#: A header section that may hold so many addresses that reading them takes milliseconds.
_LONG_HEADER_BYTES: Final = 4096
#: Bytes that are checked at once, before anything is awaited: about 2 ms. More are checked in steps.
_AT_ONCE_BYTES: Final = 1_048_576

_MESSAGE_ID: Final = re.compile(rb"^message-id[ \t]*:([^\r\n]*(?:\r?\n[ \t][^\r\n]*)*)", re.IGNORECASE | re.MULTILINE)


#: Nothing is asked for but the addresses.
_NO_WISHES: Final = Envelope("", ())
#: A recipient, its RCPT's parameters, and those of them that do not depend on the server; None: nothing is asked.
_Addressee = tuple[ForwardPath, Recipient | None, Parameters]


@attrs.define(eq=False)
class Prepared:
    """A message and its envelope, read and checked, ready for any server.

    ``await Prepared.of(message)`` is for programs that send one message through several clients: it keeps its
    Message-ID, and is flattened once. `Client.send` accepts it instead of a message. At the end await `aclose`.

    (For code that sends it: await `check` before anything is sent. Then call `for_server` for each server that is
    tried.)

    Attributes:
        message: the caller's message object; None if it came as bytes.
        content: the wire form, if it is at hand; of a message object, the 8-bit one. Else b"", and `reader` has it.
        added: header fields that the message object lacked.
        sender: the reverse-path.
        recipients: the recipients as they were given.
        forward_paths: each different recipient once, with the parameters that do not depend on the server.
        positions: for each of `recipients`, its index in `forward_paths`.
        is_eight_bit: whether `content` holds a byte above 127.
        reader: reads the content, if it is not at hand; None: it is.
        signing: puts a signature before it; None: there is none.
        is_shared: somebody else closes it.
    """

    _wishes: Envelope  # its parameters count, its addresses need not be there
    message: Message[Any, Any] | None
    content: bytes = attrs.field(repr=False)
    added: tuple[tuple[str, str], ...]
    sender: ReversePath
    recipients: tuple[str, ...]
    forward_paths: tuple[_Addressee, ...]
    positions: tuple[int, ...]
    is_eight_bit: bool
    _message_id: str | None
    _needs_smtputf8: str | None
    reader: ContentReader | None = attrs.field(default=None, repr=False)
    signing: Signing | None = attrs.field(default=None, repr=False)
    is_shared: bool = attrs.field(default=False, repr=False)
    _narrowed: list[bytes] = attrs.field(factory=list, init=False, repr=False)  # the 7-bit form, once it is made

    @classmethod
    async def of(
        cls,
        message: AnyMessage,
        *,
        sender: str | Address | None = None,
        recipients: AnyRecipients | None = None,
        envelope: Envelope | None = None,
    ) -> Prepared:
        """Read and check a message that is to be sent through more than one client; in a thread, if it is large.

        Args:
            message: a message object of `email`, the message as bytes, or a Content.
            sender: the reverse-path; None: from the headers.
            recipients: None: from the headers.
            envelope: instead of both.

        Raises:
            MessageError: it cannot be sent; says what to change. Or what a stream of the caller's raises.
        """
        ready = partial(prepare, message, sender=sender, recipients=recipients, envelope=envelope)
        prepared = await in_thread(ready, abandon_on_cancel=True) if is_large(message) else ready()
        try:
            await prepared.check()
        except BaseException:
            await prepared.aclose()
            raise
        return prepared

    def only(self, recipients: Collection[str]) -> Prepared:
        """Return it for some of its recipients, as they were given. The new one shares the content; close this one."""
        kept = set(recipients)
        found = [(to, at) for to, at in zip(self.recipients, self.positions, strict=True) if to in kept]
        index = {at: new for new, at in enumerate(sorted({at for _, at in found}))}
        wishes = self._wishes
        if wishes is not _NO_WISHES:
            wishes = attrs.evolve(wishes, recipients=tuple(to for to in wishes.recipients if to.address in kept))
        another = attrs.evolve(
            self,
            wishes=wishes,
            recipients=tuple([to for to, _ in found]),
            forward_paths=tuple([self.forward_paths[at] for at in index]),
            positions=tuple([index[at] for _, at in found]),
            is_shared=True,
        )
        another._narrowed = self._narrowed
        return another

    def signed_by(self, sign: Sign | None) -> Prepared:
        """Return it for one client, which signs it or does not. The new one shares the content."""
        another = attrs.evolve(self, signing=None if sign is None else Signing(sign), is_shared=True)
        if sign is None:
            another._narrowed = self._narrowed
        return another

    @property
    def is_whole(self) -> bool:
        """False once a part of its content has been read to be sent, and it cannot be read again."""
        return self.reader is None or self.reader.is_whole

    async def read(self) -> bytes:
        """Return all of its content in wire form: for programs that send it by other means than SMTP.

        Raises:
            MessageError: it can be read only once, and was. Or what a stream of the caller's raises.
        """
        if self.reader is None:
            return self.content
        async with aclosing(self.reader.body().pieces()) as pieces:
            return b"".join([piece async for piece in pieces])

    @property
    def envelope(self) -> Envelope:
        """Who sends and who receives."""
        return Envelope(self.sender.address, self.recipients) if self._wishes is _NO_WISHES else self._wishes

    @property
    def message_id(self) -> str | None:
        """Its Message-ID, if it has one; of a Content, once it is checked."""
        if self._message_id is None and self.reader is not None:
            return _message_id_in(self.reader.header)
        return self._message_id

    @property
    def needs_smtputf8(self) -> str | None:
        """Which address or header needs SMTPUTF8; None if none does. Of a Content, once it is checked."""
        if self._needs_smtputf8 is None and self.reader is not None and self._wishes.smtputf8 is None:
            return eight_bit_field(self.reader.header)
        return self._needs_smtputf8

    @property
    def is_checked(self) -> bool:
        """True if `check` has nothing to do."""
        if self.signing is not None and (self.reader is not None or len(self.content) >= LARGE_BYTES):
            return False
        return self.reader is None or self.reader.is_checked

    @property
    def is_repeatable(self) -> bool:
        """False if the content can be read only once: then it is never sent again."""
        return self.reader is None or self.reader.is_repeatable

    async def check(self) -> None:
        """Read and check, in steps, what was too much to be done at once; for most messages that is nothing.

        Raises:
            MessageError: it cannot be sent. Or what the caller's own stream raises.
        """
        if self.reader is not None:
            await self.reader.check()
            if self.reader.is_eight_bit and self._wishes.body == "7BIT":
                await self.aclose()
                raise _not_seven_bit()
            if self.signing is not None and self.signing.gathered is None:
                await self._gather(self.reader, self.signing)
        if self.signing is not None and len(self._octets) >= LARGE_BYTES:
            await in_thread(self.signing.signed, self._octets)

    async def _gather(self, reader: ContentReader, signing: Signing) -> None:
        """Read all of the content: what is signed must be at hand as a whole."""
        eight_bit_error = _not_seven_bit if self._wishes.body == "7BIT" else None
        async with aclosing(reader.body(eight_bit_error=eight_bit_error, limit=None).pieces()) as pieces:
            signing.gathered = b"".join([piece async for piece in pieces])

    @property
    def _octets(self) -> bytes:
        """The content, if it is at hand as a whole."""
        gathered = None if self.signing is None else self.signing.gathered
        return self.content if gathered is None else gathered

    async def aclose(self) -> None:
        """Close the caller's stream, if it was begun and not read to its end."""
        if self.reader is not None and not self.is_shared:
            await self.reader.aclose()

    def flattens_anew(self, extensions: Extensions) -> bool:
        """Return True if `for_server` has much to do for this server: call `narrow` first, in a worker thread."""
        return len(self.content) >= LARGE_BYTES and not self._narrowed and self._must_be_narrowed(extensions)

    def narrow(self) -> bytes:
        """Return the content in its 7-bit form, which is made once (RFC 6152 3).

        If that is impossible, because what is signed must stay as it is, it is the 8-bit form.
        """
        if not self._narrowed:
            assert self.message is not None
            try:
                self._narrowed.append(
                    flattened(
                        self.message,
                        seven_bit=True,
                        sends_long_lines=self._wishes.long_lines == "send",
                        added=self.added,
                    )
                )
            except MessageError:
                self._narrowed.append(self.content)
            if self.signing is not None:
                self.signing.signed(self._narrowed[0], is_narrowed=True)
        return self._narrowed[0]

    def _must_be_narrowed(self, extensions: Extensions) -> bool:
        # UTF-8 headers cannot be made 7-bit.
        return (
            self.message is not None
            and self.is_eight_bit
            and not extensions.eight_bit_mime
            and self.needs_smtputf8 is None
        )

    def for_server(
        self, extensions: Extensions, *, is_tls: bool, binary_ok: bool = False
    ) -> tuple[Mail, list[Rcpt], Body]:
        """Return MAIL, the RCPTs and the content, as this server can take them.

        Args:
            extensions: what the server offers.
            is_tls: whether the session is inside TLS, and the server's certificate was verified.
            binary_ok: whether content may go with BDAT there.

        Raises:
            ExtensionRequired: it cannot; nothing was sent.
        """
        if self.is_plain:
            return *self.plain_envelope(extensions).commands, self.plain_body
        wishes = self._wishes
        is_eight_bit = self.is_eight_bit
        kind = wishes.body
        body: Body
        if self.reader is None or self.signing is not None:
            content = self._octets
            if self.reader is not None and kind != "BINARYMIME":
                is_eight_bit = not content.isascii()
            is_narrowed = self._must_be_narrowed(extensions)
            if is_narrowed:
                content = self.narrow()
                is_eight_bit = not check_text(content, allows_long_lines=wishes.long_lines == "send")
            if self.signing is not None:
                content = self.signing.signed(content, is_narrowed=is_narrowed)
            body = OctetBody(content, is_binary=kind == "BINARYMIME")
            ends_line = not content or content.endswith(b"\n")
        else:
            body = self._body(self.reader, extensions)
            ends_line = self.reader.ends_line
            is_eight_bit = self.reader.is_eight_bit or False
            if kind is None and self.reader.is_eight_bit is None and extensions.eight_bit_mime:
                kind = "8BITMIME"  # nobody knows yet what comes
        size = body.size
        adds_line_end = size is not None and not ends_line and not body.is_binary
        if size is not None and adds_line_end:
            size += 2  # DATA ends the last line (RFC 5321 4.1.1.4)
        drop_dsn = wishes.dsn == "drop" and not extensions.dsn
        mail = Mail(
            self.sender,
            negotiate(
                extensions,
                size=size,
                is_size_exact=not (adds_line_end and binary_ok),  # in chunks the last line stays as it is
                is_eight_bit=is_eight_bit,
                needs_smtputf8=self.needs_smtputf8,
                is_tls=is_tls,
                body=kind,
                ret=wishes.ret,
                envid=wishes.envid,
                drop_dsn=drop_dsn,
                require_tls=wishes.require_tls,
                may_chunk=binary_ok,
                custom=Parameters.custom(wishes.parameters) if wishes.parameters else NO_PARAMETERS,
            ),
        )
        rcpts = []
        for path, recipient, custom in self.forward_paths:
            parameters = custom
            if recipient is not None and not drop_dsn and _asks_for_dsn(recipient):
                parameters = _dsn(recipient, smtputf8=self.needs_smtputf8 is not None) + custom
            if parameters.keywords:
                require_offered(extensions, parameters)
            rcpts.append(Rcpt(path, parameters))
        return mail, rcpts, body

    def plain_envelope(self, extensions: Extensions) -> EnvelopeCommands:
        """Return MAIL and the RCPTs of a message that `is_plain`, as `for_server` does.

        Raises:
            ExtensionRequired: this server does not accept a message of this size; nothing was sent.
        """
        parameters = negotiate_size(extensions, len(self.content))
        return EnvelopeCommands(self.sender, parameters, [path for path, _, _ in self.forward_paths])

    @property
    def plain_body(self) -> Body:
        """The content of a message that `is_plain`, as `for_server` returns it."""
        return OctetBody(self.content)

    @property
    def is_plain(self) -> bool:
        """True if only its size has to be negotiated."""
        return (
            self._wishes is _NO_WISHES
            and self._needs_smtputf8 is None
            and not self.is_eight_bit
            and self.reader is None
            and self.signing is None
            and self.content.endswith(b"\n")
        )

    def _body(self, reader: ContentReader, extensions: Extensions) -> Body:
        error: Callable[[], SMTPError] | None = None
        limit = None
        if self._wishes.body == "7BIT":
            error = _not_seven_bit
        elif not extensions.eight_bit_mime:
            error = _no_eight_bit_mime
        if reader.size is None and extensions.size is not None:
            limit = extensions.size, partial(_over_size, extensions.size)
        return reader.body(eight_bit_error=error, limit=limit)


def _not_seven_bit() -> MessageError:
    return MessageError("message holds 8-bit data, which body='7BIT' forbids: encode them, or leave body= out")


def _no_eight_bit_mime() -> ExtensionRequired:
    return extension_required("8BITMIME", "the message holds 8-bit data, and the server does not offer 8BITMIME")


def _over_size(offered: int) -> ExtensionRequired:
    return extension_required("SIZE", f"the message has more than the {offered} bytes that the server accepts")


def _asks_for_dsn(recipient: Recipient) -> bool:
    return recipient.notify is not None or recipient.orcpt is not None


def _dsn(recipient: Recipient, *, smtputf8: bool) -> Parameters:
    return Parameters.rcpt(notify=recipient.notify, orcpt=recipient.orcpt, smtputf8=smtputf8)


def is_large(message: object) -> bool:
    """Return True if `prepare` may take so long with this message that it is better called in a worker thread.

    "Long" is milliseconds: because a message object is large, or because there is a long list of recipients to read.
    An estimate, which itself takes microseconds. The size of a message as bytes does not count: it is read in steps
    (see `Prepared.check`).
    """
    if isinstance(message, Message):
        return flatten.is_large(message)
    if isinstance(message, (bytes, bytearray, memoryview)):
        return len(message) > _LONG_HEADER_BYTES and not ends_within(message, _LONG_HEADER_BYTES)
    return False


def prepare(
    message: AnyMessage | Prepared,
    *,
    sender: str | Address | None = None,
    recipients: AnyRecipients | None = None,
    envelope: Envelope | None = None,
    sign: Sign | None = None,
) -> Prepared:
    """Read and check a message and its envelope, before anything is sent.

    If `is_large` is true for the message, call it in a worker thread. Then await the result's `check`.

    Args:
        message: a message object of `email`, the message as bytes, or a Content; or a Prepared.
        sender: the reverse-path; None: from the headers.
        recipients: None: from the headers.
        envelope: instead of both.
        sign: returns the header fields that are put before it.

    Raises:
        MessageError: it cannot be sent; says what to change.
    """
    if isinstance(message, Prepared):
        if sender is not None or recipients is not None or envelope is not None:
            raise MessageError("a Prepared has its envelope: pass sender=, recipients= or envelope= to Prepared.of")
        return message.signed_by(sign)
    prepared = _prepare(message, sender, recipients, envelope)
    if sign is not None:
        prepared.signing = Signing(sign)
    return prepared


def envelope_of(
    message: Message[Any, Any] | bytes,
    sender: str | Address | None = None,
    recipients: AnyRecipients | None = None,
) -> Envelope:
    """Return the envelope of a message that is sent later: what is None is read from its headers, as `send` does.

    Args:
        message: a message object of `email`, or bytes.
        sender: the reverse-path.
        recipients: one address, or several.

    Raises:
        MessageError: the headers do not say it.
    """
    if sender is None or recipients is None:
        if isinstance(message, Message):
            fields: Iterable[tuple[str, object]] = message.raw_items()
        else:
            header = header_section(message)
            fields = _fields(header[dropped_size(header) :])
        sender, recipients = _complete(fields, sender, recipients)
    return Envelope(sender, recipients)


def _prepare(
    message: AnyMessage,
    sender: str | Address | None,
    recipients: AnyRecipients | None,
    envelope: Envelope | None,
) -> Prepared:
    if envelope is not None and (sender is not None or recipients is not None):
        raise MessageError("pass either envelope= or sender= and recipients=, not both")
    if isinstance(message, Message):
        return _prepare_object(message, sender, recipients, envelope)
    if isinstance(message, (bytes, bytearray, memoryview)):
        return _prepare_octets(message, sender, recipients, envelope)
    if isinstance(message, Content):
        return _prepare_content(message, sender, recipients, envelope)
    hint = ": encode it, as with text.encode()" if isinstance(message, str) else ""
    raise MessageError(
        f"a message must be an email.message.Message, bytes or Content, not {type(message).__name__}{hint}"
    )


def _prepare_object(
    message: Message[Any, Any],
    sender: str | Address | None,
    recipients: AnyRecipients | None,
    envelope: Envelope | None,
) -> Prepared:
    header = list(message.raw_items())
    if envelope is None:
        sender, recipients = _complete(header, sender, recipients)
    elif envelope.body == "BINARYMIME":
        raise MessageError("body='BINARYMIME' is for a message as bytes: a message object is written as text")
    reading = _Reading.of(envelope, sender, recipients)
    wishes = reading.wishes
    needs_smtputf8 = reading.needs_smtputf8
    added = []
    first: dict[str, object] = {}
    for name, value in header:
        first.setdefault(name.lower(), value)
    forbidden = signed_names(message) if "dkim-signature" in first else frozenset()
    if "date" not in first and "date" not in forbidden:
        added.append(("Date", _date(int(time.time()))))
    message_id = unfold(str(first["message-id"])).strip() or None if "message-id" in first else None
    if "message-id" not in first and "message-id" not in forbidden:
        # The domain is given, or make_msgid would look this host's name up, and block.
        domain = reading.sender.wire[1:-1].rpartition(b"@")[2].decode("ascii") or "localhost"
        message_id = make_msgid(domain=domain)
        added.append(("Message-ID", message_id))
    is_seven_bit = wishes.body == "7BIT"
    long_lines = wishes.long_lines == "send"
    try:
        content = flattened(
            message,
            utf8=needs_smtputf8 is not None,
            seven_bit=is_seven_bit,
            sends_long_lines=long_lines,
            added=added,
        )
    except FieldNeedsUtf8 as error:
        if wishes.smtputf8 is False:
            raise MessageError(f"{error}: only SMTPUTF8 could send it, and smtputf8=False forbids that") from error
        needs_smtputf8 = error.field
        content = flattened(message, utf8=True, seven_bit=is_seven_bit, sends_long_lines=long_lines, added=added)
    is_eight_bit = not check_text(content, allows_long_lines=long_lines)
    if is_eight_bit and is_seven_bit:
        raise _not_seven_bit()
    return reading.prepared(
        content=content,
        is_eight_bit=is_eight_bit,
        message=message,
        added=tuple(added),
        message_id=message_id,
        needs_smtputf8=needs_smtputf8,
    )


def _prepare_octets(
    octets: bytes | bytearray | memoryview,
    sender: str | Address | None,
    recipients: AnyRecipients | None,
    envelope: Envelope | None,
) -> Prepared:
    plain = plain_header(octets) if type(octets) is bytes else None
    if plain is not None:
        if envelope is None and (sender is None or recipients is None):
            sender, recipients = _complete(_fields(plain), sender, recipients)
        reading = _Reading.of(envelope, sender, recipients)
        return reading.prepared(content=bytes(octets), message_id=_message_id_in(plain))
    is_large = memoryview(octets).nbytes > _AT_ONCE_BYTES
    raw = octets if is_large else bytes(octets)  # what is large is not copied
    header = header_section(raw)
    is_binary = envelope is not None and envelope.body == "BINARYMIME"
    dropped = 0 if is_binary else dropped_size(header)
    first_line = 1 + header.count(b"\n", 0, dropped)
    header = header[dropped:]
    is_signed = check_header_section(header, is_binary=is_binary, first_line=first_line)
    if envelope is None:
        if len(header) > MAX_TEXT_LINE_BYTES:  # before anything of it is read: no field has a line that is too long
            check_text(header, first_line=first_line)
        envelope = envelope_of(header, sender, recipients)
    reading = _Reading.of(envelope)
    long_lines = envelope.long_lines == "send"
    if is_large:
        reader = Content.from_bytes(raw).reader(is_binary=is_binary, allows_long_lines=long_lines)
        return reading.prepared(reader=reader)
    content = bytes(raw)
    is_eight_bit = False
    if not is_binary:
        content = wire_form(content[dropped:], is_signed=is_signed)
        is_eight_bit = not check_text(content, allows_long_lines=long_lines, first_line=first_line)
        if is_eight_bit and envelope.body == "7BIT":
            raise _not_seven_bit()
    needs_smtputf8 = reading.needs_smtputf8
    if needs_smtputf8 is None and envelope.smtputf8 is None:
        needs_smtputf8 = eight_bit_field(header)
    return reading.prepared(
        content=content,
        is_eight_bit=is_eight_bit,
        message_id=_message_id_in(header),
        needs_smtputf8=needs_smtputf8,
    )


def _prepare_content(
    content: Content,
    sender: str | Address | None,
    recipients: AnyRecipients | None,
    envelope: Envelope | None,
) -> Prepared:
    if envelope is None and (sender is None or recipients is None):
        missing = "sender=" if sender is None else "recipients="
        raise MessageError(f"a Content's headers are not read for addresses: pass {missing}, or envelope=")
    reading = _Reading.of(envelope, sender, recipients)
    wishes = reading.wishes
    reader = content.reader(is_binary=wishes.body == "BINARYMIME", allows_long_lines=wishes.long_lines == "send")
    return reading.prepared(reader=reader)


def _complete(
    header: Iterable[tuple[str, object]],
    sender: str | Address | None,
    recipients: AnyRecipients | None,
) -> tuple[str | Address, AnyRecipients]:
    """Read from the header fields what the caller did not pass."""
    if sender is None or recipients is None:
        fields = envelope_fields(header)
        if sender is None:
            sender = sender_of(fields)
        if recipients is None:
            recipients = recipients_of(fields)
    return sender, recipients


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    """Return the value of a Date field; made once for all messages of a second."""
    return formatdate(second, localtime=True)


_NOTHING_ASKED: Final[frozenset[bytes]] = frozenset()


#: Bulk mail has the same sender in every message.
_plain_sender: Final = lru_cache(maxsize=256)(reverse_path)


@attrs.define(eq=False)
class _Reading:
    """An envelope whose addresses and parameters were validated."""

    wishes: Envelope
    sender: ReversePath
    recipients: tuple[str, ...]
    forward_paths: tuple[_Addressee, ...]
    positions: tuple[int, ...]
    needs_smtputf8: str | None

    @classmethod
    def of(
        cls,
        envelope: Envelope | None,
        sender: str | Address | None = None,
        recipients: AnyRecipients | None = None,
    ) -> Self:
        if envelope is None:
            assert sender is not None
            assert recipients is not None
            if type(recipients) is str:  # one address: never split
                recipients = (recipients,)
            if type(sender) is str and type(recipients) in (list, tuple):
                plain = cls._of_plain(sender, recipients)  # type: ignore[arg-type]  # mypy sees no type in `in`
                if plain is not None:
                    return plain
            envelope = Envelope(sender, recipients)
        return cls._of_envelope(envelope)

    @classmethod
    def _of_plain(cls, sender: str, recipients: Sequence[object]) -> Self | None:
        """Read addresses of which each is a str, different from the others, in ASCII; None: they are not."""
        if not recipients:
            return None
        path = _plain_sender(sender)
        paths = []
        for recipient in recipients:
            if type(recipient) is not str:
                return None
            paths.append(forward_path(recipient))
            if paths[-1].needs_smtputf8:
                return None
        count = len(paths)
        if path.needs_smtputf8 or (count > 1 and len({to.mailbox for to in paths}) < count):
            return None
        return cls(
            _NO_WISHES,
            path,
            tuple(recipients),  # type: ignore[arg-type]  # each is a str
            tuple([(to, None, NO_PARAMETERS) for to in paths]),
            tuple(range(count)),
            None,
        )

    @classmethod
    def _of_envelope(cls, envelope: Envelope) -> Self:
        if not envelope.recipients:
            raise MessageError("message has no recipients")
        sender = reverse_path(envelope.sender)
        # Validated now, all of them, although the server decides later which of them are sent (rule R20).
        if envelope.ret is not None or envelope.envid is not None or envelope.parameters:
            Parameters.mail(ret=envelope.ret, envid=envelope.envid)
            Parameters.custom(envelope.parameters)
        needs = f"address {sender.address!r}" if sender.needs_smtputf8 else None
        paths: list[_Addressee] = []
        index: dict[bytes, tuple[int, frozenset[bytes]]] = {}
        positions = []
        for recipient in envelope.recipients:
            path = forward_path(recipient.address)
            custom = Parameters.custom(recipient.parameters) if recipient.parameters else NO_PARAMETERS
            asked = _NOTHING_ASKED
            if _asks_for_dsn(recipient) or custom.keywords:
                asked = frozenset((_dsn(recipient, smtputf8=False).wire + custom.wire).split())
            position, asked_before = index.setdefault(path.mailbox, (len(paths), asked))
            if asked != asked_before:  # two RCPTs, and the server could give two answers to one question
                raise MessageError(f"recipient {path.address!r} is given twice with different parameters")
            if position == len(paths):  # the same recipient twice is one RCPT, reported for each
                paths.append((path, recipient, custom))
                if path.needs_smtputf8 and needs is None:
                    needs = f"address {path.address!r}"
            positions.append(position)
        if envelope.smtputf8 and needs is None:
            needs = "the envelope"
        if envelope.smtputf8 is False and needs is not None:
            raise MessageError(f"{needs} needs SMTPUTF8, and smtputf8=False forbids it")
        recipients = tuple(recipient.address for recipient in envelope.recipients)
        return cls(envelope, sender, recipients, tuple(paths), tuple(positions), needs)

    def prepared(
        self,
        *,
        content: bytes = b"",
        is_eight_bit: bool = False,
        reader: ContentReader | None = None,
        message: Message[Any, Any] | None = None,
        added: tuple[tuple[str, str], ...] = (),
        message_id: str | None = None,
        needs_smtputf8: str | None = None,
    ) -> Prepared:
        return Prepared(
            self.wishes,
            message,
            content,
            added,
            self.sender,
            self.recipients,
            self.forward_paths,
            self.positions,
            is_eight_bit,
            message_id,
            needs_smtputf8 or self.needs_smtputf8,
            reader,
        )


_header_parser: Final = BytesHeaderParser(policy=email_policy.compat32)
_SPACE_BEFORE_COLON: Final = re.compile(rb"^([\x21-\x39\x3b-\x7e]+)[ \t]+:", re.MULTILINE)


def _fields(header: bytes) -> Iterable[tuple[str, object]]:
    """Return the fields of a header section; if some of its lines are not fields, what a parser makes of it."""
    fields = fields_of(header)
    if fields is not None:
        return fields
    # White space before a colon is an old form (RFC 5322 4.5), at which the stdlib ends the header section.
    return _header_parser.parsebytes(_SPACE_BEFORE_COLON.sub(rb"\1:", header)).raw_items()


def _message_id_in(header: bytes) -> str | None:
    at = header.lower().find(b"message-id")  # many times as fast as the pattern
    match = None if at < 0 else _MESSAGE_ID.search(header, at)
    return None if match is None else unfold(match[1].decode("ascii", "surrogateescape")).strip() or None
