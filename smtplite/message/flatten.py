"""Flattening: from a message object of `email` to its bytes on the wire (RFC 5322, RFC 2045).

One job, although long: one walk over the parts of a message, with a short way for the usual ones.
What a receiver reads is what the caller built (rule R32): a field that was parsed, or that fits its line, is sent byte
for byte; what must be folded or encoded is written by `headers`; and each address field is read before and after,
because a mailbox must not become another one on its way. A body is changed only if no server could accept it as it is.

Nothing here changes the message, or the parts in it: it may be flattened in a worker thread while others send it. Every
single step of the work is small, so a large message in a worker thread leaves the event loop its turns.
"""

from __future__ import annotations

import binascii
import random
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from email import charset as email_charset
from email import headerregistry as registry
from email import policy as email_policy
from email.errors import FirstHeaderLineIsContinuationDefect, InvalidHeaderDefect, MissingHeaderBodySeparatorDefect
from email.header import Header
from email.headerregistry import Address, BaseHeader, Group
from email.message import Message
from email.mime.base import MIMEBase
from enum import Enum
from functools import lru_cache
from io import BytesIO
from typing import Any, Final

import attrs

from smtplite.errors import MessageError, SMTPError
from smtplite.message.addresses import mailboxes_of
from smtplite.message.headers import (
    LINE_CHARACTERS,
    MAX_LINE_BYTES,
    FieldNeedsUtf8,
    Kind,
    check_field,
    encoded_words,
    field,
    is_field_name,
    kind_of,
    mailbox_source,
    parameters_of,
    phrase_source,
    unfold,
    utf8_of,
    without_parameter,
)
from smtplite.message.objects import attributes_of, has_encoded_word, source_of_tokens
from smtplite.protocol.paths import Domain
from smtplite.protocol.transparency import Normalizer

__all__ = ["LARGE_BYTES", "flattened", "is_dkim_signed", "is_large", "signed_names", "wire_bytes"]

#: A message of at least this size is better flattened in a worker thread: a millisecond of work, ten for the slowest.
LARGE_BYTES: Final = 524_288

_DROPPED: Final = frozenset({"bcc", "resent-bcc"})
#: What one step may take of a large body: well below a millisecond.
_STEP_CHARACTERS: Final = 131_072
#: So many parts are counted to recognize a large message; one with more is large.
_MAX_PARTS: Final = 1000
#: A header that must be folded takes at least so many times as long as a body of the same length.
_HEADER_WEIGHT: Final = 512


def wire_bytes(message: Message[Any, Any], *, utf8: bool = False, seven_bit: bool = False) -> bytes:
    r"""Flatten a message for the wire: what a receiver reads is what was built.

    Line endings are CRLF; dots are not doubled; Bcc and Resent-Bcc are left out. The message is not changed. Header
    fields stay as they are if they can; else they are folded and encoded by their grammar. Bodies stay as they are,
    except those with lines of more than 998 bytes, which are encoded.

    Args:
        message: what `email` made or parsed.
        utf8: headers as UTF-8 (RFC 6532), for a transaction with SMTPUTF8.
        seven_bit: 8-bit bodies re-encoded, for a server without 8BITMIME.

    Raises:
        MessageError: the message cannot be sent in this form; says which field or part, and why.
    """
    try:
        return flattened(message, utf8=utf8, seven_bit=seven_bit)
    except FieldNeedsUtf8 as error:
        raise MessageError(f"{error}: only SMTPUTF8 can send it") from error


def flattened(
    message: Message[Any, Any],
    *,
    utf8: bool = False,
    seven_bit: bool = False,
    sends_long_lines: bool = False,
    added: Sequence[tuple[str, str]] = (),
) -> bytes:
    """Flatten a message, as `wire_bytes` does.

    Args:
        message: what `email` made or parsed.
        utf8: headers may be UTF-8.
        seven_bit: 8-bit bodies re-encoded.
        sends_long_lines: lines of more than 998 bytes stay if they cannot be encoded.
        added: fields that are put after the message's own.

    Raises:
        FieldNeedsUtf8: it can be sent only with `utf8`.
        MessageError: it cannot be sent.
    """
    pieces: list[str] = []
    try:
        if message.defects:
            _check_defects(message)
        form = _form(utf8, seven_bit, sends_long_lines)
        if is_dkim_signed(message):
            form = attrs.evolve(form, frozen="a DKIM-Signature", policy=message.policy.clone(linesep="\r\n"))
        _write_part(pieces, message, form, added, is_top=True)
        return _joined(pieces)
    except (SMTPError, MemoryError):
        raise
    except Exception as error:  # whatever is in the message that should not be, and whatever the stdlib makes of it
        raise MessageError(f"message cannot be flattened: {error}") from error


def is_large(message: Message[Any, Any]) -> bool:
    """Return True if flattening this message may take so long that it is better done in a worker thread.

    An estimate, from the lengths of its bodies and header values; takes microseconds.
    """
    estimate = count = 0
    waiting: list[object] = [message]
    while waiting:
        part = waiting.pop()
        if not isinstance(part, Message):
            continue
        count += 1
        payload = part._payload  # type: ignore[attr-defined]
        if isinstance(payload, str):
            estimate += len(payload)
        elif isinstance(payload, list):
            waiting += payload
        for _, value in part._headers:  # type: ignore[attr-defined]
            length = len(value if isinstance(value, str) else str(value))
            if length > LINE_CHARACTERS:
                estimate += _HEADER_WEIGHT * length
        if estimate >= LARGE_BYTES or count > _MAX_PARTS:
            return True
    return False


def is_dkim_signed(message: Message[Any, Any]) -> bool:
    """Return True if the message has a DKIM-Signature, which any change could break (RFC 6376)."""
    for name, _ in message._headers:  # type: ignore[attr-defined]  # noqa: SIM110 (any() takes twice as long)
        if len(name) == 14 and name.lower() == "dkim-signature":
            return True
    return False


_SIGNED_NAMES: Final = re.compile(r"(?:^|;)\s*h\s*=([^;]*)")


def signed_names(message: Message[Any, Any]) -> frozenset[str]:
    """Return the names of the fields that the message's DKIM-Signatures cover, also those that are not there."""
    names: set[str] = set()
    for name, value in message.raw_items():
        if name.lower() == "dkim-signature":
            for match in _SIGNED_NAMES.finditer(str(value)):
                names.update(signed.strip().lower() for signed in match[1].split(":"))
    return frozenset(names)


@attrs.frozen
class _Form:
    """How it is written.

    Attributes:
        utf8: headers may be UTF-8.
        seven_bit: bodies must be ASCII.
        sends_long_lines: lines over 998 bytes may stay if they cannot be encoded.
        frozen: what forbids any change, for errors; None: nothing does.
        policy: how the stdlib writes what is frozen; None: the message's own, without folding.
    """

    utf8: bool
    seven_bit: bool
    sends_long_lines: bool = False
    frozen: str | None = None
    policy: Any = None


@lru_cache(maxsize=8)
def _form(utf8: bool, seven_bit: bool, sends_long_lines: bool) -> _Form:
    return _Form(utf8=utf8, seven_bit=seven_bit, sends_long_lines=sends_long_lines)


def _check_defects(message: Message[Any, Any]) -> None:
    """Refuse a message that was parsed, and whose header section was not one."""
    for defect in message.defects:
        if isinstance(defect, FirstHeaderLineIsContinuationDefect):
            line = str(defect.line)  # type: ignore[attr-defined]
            raise MessageError(f"message has something before its first header: line 1, {line[:80]!r}")
        if isinstance(defect, MissingHeaderBodySeparatorDefect):
            lines = sum(1 + str(value).count("\n") for _, value in message.raw_items())
            payload = message._payload  # type: ignore[attr-defined]
            text = payload.partition("\n")[0].rstrip("\r") if isinstance(payload, str) else ""
            hint = ": remove the white space before the colon" if _SPACE_BEFORE_COLON.match(text) else ""
            raise MessageError(
                f"message has a line among its headers that is not a header: line {lines + 1}, {text[:80]!r}{hint}"
            )
        if isinstance(defect, InvalidHeaderDefect):
            raise MessageError(f"message has a line among its headers that is not a header: {str(defect)[:80]}")


_SPACE_BEFORE_COLON: Final = re.compile(r"[\x21-\x39\x3b-\x7e]+[ \t]+:")


def _joined(pieces: list[str]) -> bytes:
    if sum(map(len, pieces)) <= _STEP_CHARACTERS:
        return "".join(pieces).encode("utf-8", "surrogateescape")
    buffer = BytesIO()
    for piece in pieces:
        buffer.write(piece.encode("utf-8", "surrogateescape"))
    return buffer.getvalue()


def _steps(text: str) -> Iterator[str]:
    for begun in range(0, len(text), _STEP_CHARACTERS):
        yield text[begun : begun + _STEP_CHARACTERS]


def _write_text(pieces: list[str], text: str) -> None:
    """Write a body, a preamble or an epilogue, which may have any line endings."""
    if len(text) <= _STEP_CHARACTERS:
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        pieces.append(text.replace("\n", "\r\n"))
        return
    ends_with_cr = False
    for step in _steps(text):
        rest = step[1:] if ends_with_cr and step[0] == "\n" else step  # its CRLF is written
        ends_with_cr = step[-1] == "\r"
        if "\r" in rest:
            rest = rest.replace("\r\n", "\n").replace("\r", "\n")
        pieces.append(rest.replace("\n", "\r\n"))


# Parts


def _write_part(
    pieces: list[str],
    message: Any,
    form: _Form,
    added: Sequence[tuple[str, str]] = (),
    *,
    is_top: bool = False,
    is_message: bool = True,
) -> None:
    """Write a message, or a part of one, and all that is in it."""
    payload = message._payload
    fields = list(message.raw_items())
    if added:
        fields += added
    header = _Header(fields, form, is_top=is_top, is_built=isinstance(message, MIMEBase))
    if (
        type(payload) is str
        and payload.isascii()
        and not message.defects
        and (len(payload) <= MAX_LINE_BYTES or _long_line(payload) is None)
    ):  # nearly every text, whatever its type
        header.write(pieces)
        _write_text(pieces, payload)
        return
    content_type = _content_type(message, fields)
    main, _, sub = content_type.partition("/")
    if payload is None or isinstance(payload, str):
        if payload and main == "multipart" and not is_message and message.defects:
            # In a multipart without parts, the parser leaves the line end before the next delimiter.
            payload = payload[: -2 if payload.endswith("\r\n") else -1] if payload.endswith("\n") else payload
        if not (payload is None and main == "multipart"):
            _write_leaf(pieces, payload or "", header, content_type, is_message=is_message)
            return
        payload = []
    if main == "multipart":
        parts = payload if isinstance(payload, list) else [payload]
        _write_multipart(pieces, message, parts, header, content_type)
        return
    if main != "message" or not isinstance(payload, list) or not payload:
        raise MessageError(f"part {content_type} has a payload of {type(payload).__name__}: a str is expected")
    header.relabel_as_seven_bit()
    header.write(pieces)
    if sub == "delivery-status":
        _write_blocks(pieces, payload, form)
        return
    _require_part(payload[0], content_type)
    _write_part(pieces, payload[0], form)


def _require_part(part: object, content_type: str) -> None:
    if not isinstance(part, Message):
        raise MessageError(f"message cannot be flattened: part {content_type} has a {type(part).__name__} in it")


def _write_blocks(pieces: list[str], blocks: list[Any], form: _Form) -> None:
    """Write a delivery status: blocks of fields, with an empty line between (RFC 3464 2.1)."""
    for number, block in enumerate(blocks):
        _require_part(block, "message/delivery-status")
        written: list[str] = []
        _write_part(written, block, form)
        text = "".join(written)
        if number:
            pieces.append("\r\n")
        if any(isinstance(defect, MissingHeaderBodySeparatorDefect) for defect in block.defects):
            # Lines that are not fields, as in base64: an empty line would begin another block.
            text = text[2:] if text.startswith("\r\n") else text.replace("\r\n\r\n", "\r\n", 1)
            pieces.append(text)
        else:
            pieces.append(text.removesuffix("\r\n"))


#: What is in these is written byte for byte: it is signed, or hashed (RFC 1847).
_FROZEN_PARTS: Final = frozenset({"multipart/signed", "multipart/encrypted"})


def _write_multipart(pieces: list[str], message: Any, parts: list[Any], header: _Header, content_type: str) -> None:
    form = header.form
    inner = form
    if form.frozen is None and content_type in _FROZEN_PARTS:
        inner = attrs.evolve(form, frozen=content_type, policy=None)
    bodies: list[list[str]] = []
    for part in parts:
        _require_part(part, content_type)
        body: list[str] = []
        _write_part(body, part, inner, is_message=False)
        bodies.append(body)
    boundary = header.boundary()
    if not boundary:
        boundary = _new_boundary(bodies)
        header.add_boundary(boundary)
    header.relabel_as_seven_bit()
    header.write(pieces)
    if message.preamble is not None:
        _write_around(pieces, message.preamble, form, content_type)
        pieces.append("\r\n")
    pieces.append(f"--{boundary}\r\n")
    for number, body in enumerate(bodies):
        if number:
            pieces.append(f"\r\n--{boundary}\r\n")
        pieces += body
    pieces.append(f"\r\n--{boundary}--\r\n")
    if message.epilogue is not None:
        _write_around(pieces, message.epilogue, form, content_type)


def _write_around(pieces: list[str], text: str, form: _Form, content_type: str) -> None:
    """Write what stands before the first part, or after the last one; nobody reads it, and nothing can encode it."""
    _check_unencoded(text, form, f"the text around the parts of {content_type}")
    _write_text(pieces, text)


def _check_unencoded(text: str, form: _Form, what: str) -> None:
    """Refuse a text that would have to be encoded, and cannot be."""
    if not form.sends_long_lines and (found := _long_line(text)) is not None:
        line, length = found
        raise MessageError(
            f"{what} has a line of {length} bytes, line {line} of it, and cannot be encoded: a line has at most "
            f"{MAX_LINE_BYTES} (long_lines='send' sends it anyway)"
        )
    if form.seven_bit and not text.isascii():
        raise MessageError(f"{what} holds 8-bit data, and cannot be encoded")


def _long_line(text: str) -> tuple[int, int] | None:
    """Return the number and the bytes of the first line that is too long; None if none is."""
    if not text.isascii() and not _has_octets(text):
        text = text.encode("utf-8", "surrogateescape").decode("ascii", "surrogateescape")
    start, length = 0, len(text)
    while length - start > MAX_LINE_BYTES:
        # Every line that ends inside this window is short enough: one look for each thousand bytes.
        end = text.rfind("\n", start, start + MAX_LINE_BYTES + 1)
        if end < 0 and text[start + MAX_LINE_BYTES : start + MAX_LINE_BYTES + 2] == "\r\n":
            end = start + MAX_LINE_BYTES + 1
        if end < 0:
            end = text.rfind("\r", start, start + MAX_LINE_BYTES + 1)
        if end < 0:
            ends = [at for at in (text.find("\n", start), text.find("\r", start)) if at >= 0]
            before = _normalized(text[:start])
            return before.count("\n") + 1, min(ends, default=length) - start
        start = end + 1
    return None


def _new_boundary(bodies: list[list[str]]) -> str:
    """Return a boundary of the form that the stdlib makes; one that no body contains."""
    while True:
        boundary = f"{'=' * 15}{random.randrange(sys.maxsize):019d}=="  # noqa: S311 (a mark, not a secret)
        if not any(boundary in piece for body in bodies for piece in body):
            return boundary


# Leaves


def _write_leaf(pieces: list[str], text: str, header: _Header, content_type: str, *, is_message: bool) -> None:
    """Write a part that has no parts, encoded if it must be."""
    form = header.form
    is_ascii = text.isascii()
    if is_ascii and (len(text) <= MAX_LINE_BYTES or _long_line(text) is None):
        header.write(pieces)
        _write_text(pieces, text)
        return
    if not is_ascii:
        text = _as_octets(text, header, content_type)
    must_be_encoded = _long_line(text) is not None or (form.seven_bit and not is_ascii)
    if not must_be_encoded:
        header.write(pieces)
        _write_text(pieces, text)
        return
    is_composite = content_type.startswith(("multipart/", "message/"))
    if form.frozen is not None or is_composite:
        what = f"part {content_type}"
        _check_unencoded(text, form, what if form.frozen is None else f"{what}, which {form.frozen} leaves as it is,")
        header.write(pieces)
        _write_text(pieces, text)
        return
    encoding, body = _encoded_body(text, header.transfer_encoding(), content_type)
    header.set_transfer_encoding(encoding, is_message=is_message)
    header.write(pieces)
    pieces += body


def _as_octets(text: str, header: _Header, content_type: str) -> str:
    """Return a body whose bytes beyond ASCII are surrogates, as a parser makes them."""
    if _has_octets(text):
        return text
    charset = parameters_of(header.content_type() or "").get("charset")
    if charset is None:
        raise MessageError(
            f"part {content_type} cannot be flattened: it is text that is not ASCII, without a charset: "
            "give it one, as with set_payload(text, 'utf-8')"
        )
    try:
        octets = text.encode(email_charset.Charset(charset).output_codec or charset, "surrogateescape")
    except (LookupError, UnicodeError) as error:
        raise MessageError(
            f"part {content_type} cannot be flattened: it is not text in {charset[:40]!r}: {error}"
        ) from error
    return octets.decode("ascii", "surrogateescape")


def _encoded_body(text: str, encoding: str, content_type: str) -> tuple[str, list[str]]:
    """Return the encoding of a body that must be encoded, and the body in it."""
    if encoding == "base64":
        if not text.isascii():
            raise MessageError(f"part {content_type} is not base64: it holds 8-bit data")
        return encoding, _rows("".join("".join(step.split()) for step in _steps(text)))
    if encoding == "quoted-printable":
        chunks = [binascii.a2b_qp(step) for step in _steps_of_lines(text)]
    elif encoding in ("", "7bit", "8bit", "binary"):
        chunks = [step.encode("ascii", "surrogateescape") for step in _steps(text)]
    else:
        raise MessageError(
            f"part {content_type} in {encoding[:40]!r} has a line of more than {MAX_LINE_BYTES} bytes, or 8-bit data"
        )
    if not content_type.startswith("text/"):
        return "base64", _base64(b"".join(chunks))
    size = sum(map(len, chunks))
    escaped = sum(len(chunk.translate(None, _QP_SAFE)) for chunk in chunks)
    if (size + 2 * escaped) * 77 // 75 > size * 4 // 3 * 78 // 76:
        return "base64", _base64(b"".join(chunks))  # with the line ends that it has, as the stdlib encodes text
    normalizer = Normalizer()
    return "quoted-printable", _quoted_printable(b"".join([normalizer.encode(chunk) for chunk in chunks]))


def _steps_of_lines(text: str) -> Iterator[bytes]:
    """Yield the bytes of a text in steps that end with a line, if its lines are of a usual length."""
    begun = 0
    while begun < len(text):
        end = text.rfind("\n", begun, begun + _STEP_CHARACTERS) + 1 or len(text)
        yield _normalized(text[begun:end]).encode("ascii", "surrogateescape")
        begun = end


_QP_SAFE: Final = bytes(octet for octet in (9, 10, 13, *range(32, 127)) if octet != 0x3D)
#: Bytes that make a row of base64, and characters of it (RFC 2045 6.8).
_ROW_BYTES: Final = 57
_ROW_CHARACTERS: Final = 76


def _normalized(text: str) -> str:
    return (
        text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n") if "\r" in text or "\n" in text else text
    )


def _rows(digits: str) -> list[str]:
    rows = (digits[at : at + _ROW_CHARACTERS] for at in range(0, len(digits), _ROW_CHARACTERS))
    return [f"{row}\r\n" for row in rows]


def _base64(octets: bytes) -> list[str]:
    view = memoryview(octets)
    rows = range(0, len(view), _ROW_BYTES)
    return [str(binascii.b2a_base64(view[at : at + _ROW_BYTES], newline=False), "ascii") + "\r\n" for at in rows]


def _quoted_printable(octets: bytes) -> list[str]:
    pieces: list[str] = []
    at = 0
    while at < len(octets):
        end = at + _STEP_CHARACTERS
        if end < len(octets):
            line_end = octets.rfind(b"\n", at, end)
            is_cut = line_end < 0
            end = end if is_cut else line_end + 1
            while is_cut and octets[end - 1] in b" \t\r":  # white space at a line's end, or half of a line end
                end -= 1
                if end == at:
                    raise MessageError("message has a line of white space too long to be encoded")
        else:
            end, is_cut = len(octets), False
        # Its soft line breaks are LF where the text has no line break to learn from.
        pieces.append(_normalized(binascii.b2a_qp(octets[at:end], istext=True).decode("ascii")))
        if is_cut:
            pieces.append("=\r\n")
        at = end
    return pieces


# Header sections

_PLAIN_TYPE: Final = re.compile(r"[ \t]*([A-Za-z0-9.+-]+/[A-Za-z0-9.+-]+)[ \t]*")


def _content_type(message: Any, fields: Iterable[tuple[str, Any]]) -> str:
    for name, value in fields:
        if len(name) == 12 and name.lower() == "content-type":
            found = _reading(value).partition(";")[0].strip().lower()
            return found if found.count("/") == 1 else "text/plain"
    return str(message.get_default_type())


class _Header:
    """The header section of one part, with the few changes that its body may need.

    Args:
        fields: names and values.
        form: how it is written.
        is_top: it is the message's own: Bcc is dropped.
        is_built: its text was set, not parsed: parsers do not make this class.
    """

    def __init__(self, fields: list[tuple[str, Any]], form: _Form, *, is_top: bool, is_built: bool) -> None:
        self._fields = fields
        self._is_top = is_top
        self._is_built = is_built
        self.form = form

    def _first(self, name: str) -> int:
        for number, (known, _) in enumerate(self._fields):
            if len(known) == len(name) and known.lower() == name:
                return number
        return -1

    def content_type(self) -> str | None:
        """Return the source of Content-Type."""
        at = self._first("content-type")
        return None if at < 0 else unfold(source_of(self._fields[at][1]))

    def boundary(self) -> str | None:
        """Return the boundary that stands there.

        Raises:
            MessageError: it cannot be a boundary.
        """
        value = self.content_type()
        if value is None:
            return None
        boundary = parameters_of(value).get("boundary")
        if boundary is not None:
            boundary = boundary.rstrip()
            if "\r" in boundary or "\n" in boundary:  # RFC 2231 can encode them; they would stand in the body
                raise MessageError(f"boundary holds a line break: {boundary[:80]!r}")
            if len(boundary) > MAX_LINE_BYTES - 4 or not boundary.isascii():
                raise MessageError(f"boundary is not ASCII of at most 70 characters: {boundary[:80]!r}")
        return boundary

    def add_boundary(self, boundary: str) -> None:
        """Add a boundary if there is none, or an empty one."""
        at = self._first("content-type")
        name, value = ("Content-Type", "multipart/mixed") if at < 0 else self._fields[at]
        source = source_of(value)
        check_field(name, source)
        if "boundary" in source.lower():  # two of them, and a reader would take the first
            source = without_parameter(unfold(source), "boundary").rstrip(" \t")
        line = f'{source}; boundary="{boundary}"'
        if len(name) + 2 + len(line) > LINE_CHARACTERS:
            line = f'{source};\r\n boundary="{boundary}"'
        if at < 0:
            self._fields.append((name, line))
        else:
            self._fields[at] = name, line

    def transfer_encoding(self) -> str:
        """Return Content-Transfer-Encoding, in small letters; "" where there is none."""
        at = self._first("content-transfer-encoding")
        return "" if at < 0 else unfold(_reading(self._fields[at][1])).partition("(")[0].strip().lower()

    def set_transfer_encoding(self, encoding: str, *, is_message: bool) -> None:
        """Say how the body is encoded."""
        at = self._first("content-transfer-encoding")
        if at < 0:
            if is_message and self._first("mime-version") < 0:
                self._fields.append(("MIME-Version", "1.0"))
            self._fields.append(("Content-Transfer-Encoding", encoding))
        else:
            self._fields[at] = self._fields[at][0], encoding

    def relabel_as_seven_bit(self) -> None:
        """Say that the parts are not 8-bit any more, after they were made 7-bit (RFC 2045 6.4)."""
        if self.form.seven_bit and self.form.frozen is None and self.transfer_encoding() in ("8bit", "binary"):
            self.set_transfer_encoding("7bit", is_message=False)

    def write(self, pieces: list[str]) -> None:
        """Write it, and the empty line after it."""
        form = self.form
        is_parsed = not self._is_built
        limit = MAX_LINE_BYTES if is_parsed else LINE_CHARACTERS
        for name, value in self._fields:
            if self._is_top and len(name) in (3, 10) and name.lower() in _DROPPED:
                continue
            if form.frozen is not None:
                pieces.append(_frozen_field(name, value, form))
            elif type(value) is str:
                # One line of printable ASCII cannot be anything but this field.
                if (
                    value.isascii()
                    and value.isprintable()
                    and len(name) + 2 + len(value) <= limit
                    and is_field_name(name)
                ):
                    pieces.append(f"{name}: {value}\r\n")
                else:
                    pieces.append(_text_field(name, value, form, is_parsed=is_parsed))
            elif (
                _OBJECTS.get(type(value).__bases__) is _Object.TOKENS
                and (text := str.__str__(value)).isascii()
                and text.isprintable()
                and len(name) + 2 + len(text) <= LINE_CHARACTERS
                and (known := attributes_of(value))["_name"] == name
                and not known["_defects"]
                and is_field_name(name)
            ):
                pieces.append(f"{name}: {text}\r\n")
            else:
                pieces.append(_object_field(name, value, form))
        pieces.append("\r\n")


def _text_field(name: str, value: str, form: _Form, *, is_parsed: bool, is_literal: bool = False) -> str:
    """Write a field whose source we have, and compare its mailboxes before and after (rule R32)."""
    if not isinstance(name, str):
        raise MessageError(f"a header name must be a str, not {type(name).__name__}")
    if value.isascii() or kind_of(name) is not Kind.ADDRESSES:
        return field(name, value, utf8=form.utf8, is_parsed=is_parsed, is_literal=is_literal)
    if form.utf8:
        written = field(name, value, utf8=True, is_parsed=is_parsed, is_literal=is_literal)
        if unfold(written[len(name) + 1 : -2]).lstrip(" \t") == unfold(utf8_of(name, value)).lstrip(" \t"):
            return written  # as it stood, whatever it is
        expected = _mailboxes(name, value)
    else:
        expected = _mailboxes(name, value)
        written = field(name, value, is_parsed=is_parsed, is_literal=is_literal)
    _compare(name, expected, written)
    return written


def _mailboxes(name: str, value: str) -> list[tuple[str, str]]:
    return [_mailbox(found.local_part, found.domain) for found in mailboxes_of(value, what=f"header {name}")]


def _mailbox(local: str, domain: str) -> tuple[str, str]:
    """Return what tells a mailbox from others."""
    if local.startswith('"'):
        local = re.sub(r"\\(.)", r"\1", local[1:-1], flags=re.DOTALL)
    if not domain.isascii():
        try:
            domain = Domain.parse(domain).wire.decode("ascii")
        except MessageError:  # it stays as it is, with SMTPUTF8
            return local, domain
    return local, domain.lower()


def _compare(name: str, expected: list[tuple[str, str]], written: str) -> None:
    """Refuse a field that names others than it should."""
    found = _mailboxes(name, unfold(written[len(name) + 1 : -2]))
    if found != expected:
        raise MessageError(
            f"header {name} would name other mailboxes than it should: {_shown(found)} instead of {_shown(expected)}"
        )


def _shown(mailboxes: list[tuple[str, str]]) -> str:
    return repr(", ".join("@".join(mailbox) for mailbox in mailboxes)[:80])


# Header objects


class _Object(Enum):
    """What is known of the registry's header objects."""

    ADDRESSES = "what it reads as is nicer than what it was made of"
    TEXT = "it reads as it was made, but for encoded words"
    PARAMETERS = "it leaves out what could not be read, and quotes the rest anew"
    TOKENS = "it reads as it was made, unless that has defects"


_OBJECTS: Final[dict[tuple[type, ...], _Object]] = {
    (cls, BaseHeader): kind
    for cls, kind in (
        (registry.AddressHeader, _Object.ADDRESSES),
        (registry.UniqueAddressHeader, _Object.ADDRESSES),
        (registry.SingleAddressHeader, _Object.ADDRESSES),
        (registry.UniqueSingleAddressHeader, _Object.ADDRESSES),
        (registry.UnstructuredHeader, _Object.TEXT),
        (registry.UniqueUnstructuredHeader, _Object.TEXT),
        (registry.ContentTypeHeader, _Object.PARAMETERS),
        (registry.ContentDispositionHeader, _Object.PARAMETERS),
        (registry.ContentTransferEncodingHeader, _Object.TOKENS),
        (registry.MIMEVersionHeader, _Object.TOKENS),
        (registry.MessageIDHeader, _Object.TOKENS),
        (registry.DateHeader, _Object.TOKENS),
        (registry.UniqueDateHeader, _Object.TOKENS),
    )
}


def _reading(value: Any) -> str:
    """Return what a header value reads as."""
    if type(value) is str:
        return value
    return str.__str__(value) if type(value).__bases__ in _OBJECTS else str(value)


def source_of(value: Any) -> str:
    """Return what a header value was made from, as far as it still shows that."""
    if type(value) is str:
        return value
    if type(value).__bases__ in _OBJECTS and attributes_of(value).get("_parse_tree"):
        return source_of_tokens(attributes_of(value)["_parse_tree"])
    if isinstance(value, Header):
        return _source_of_header(value, Kind.TEXT)
    return str(value)


def _object_field(name: str, value: Any, form: _Form) -> str:
    """Write a field whose value is an object."""
    kind = _OBJECTS.get(type(value).__bases__)
    if kind is None:
        return _foreign_field(name, value, form)
    attributes = attributes_of(value)
    known = attributes["_name"]
    if known != name and known.lower() != name.lower():
        raise MessageError(f"header {name} would be written as {known[:80]!r}")
    if kind is _Object.ADDRESSES:
        return _address_field(name, value, attributes, form)
    text = str.__str__(value)
    if kind is _Object.PARAMETERS:
        text = source_of_tokens(attributes["_parse_tree"])
    elif kind is _Object.TOKENS:
        if attributes["_defects"]:
            text = source_of(value)
    elif "\ufffd" in text or has_encoded_word(attributes["_parse_tree"]):
        text = source_of(value)
    if text.isascii() and text.isprintable() and len(name) + 2 + len(text) <= LINE_CHARACTERS and is_field_name(name):
        return f"{name}: {text}\r\n"
    return _text_field(name, text, form, is_parsed=False)


_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
#: One mailbox, and nothing that could be read in two ways.
_PLAIN_MAILBOX: Final = re.compile(
    rf"(?:{_ATOM}++ )*+(?:(?P<angle><))?+({_ATOM}++(?:\.{_ATOM}++)*+)@([A-Za-z0-9.-]++)(?(angle)>)"
)


def _address_field(name: str, value: Any, attributes: dict[str, Any], form: _Form) -> str:
    """Write an address field that was set: from Address objects, or from text.

    The object does not say which of the two. If it has defects, it was text. Otherwise the objects decide who is named,
    and the text must say the same.
    """
    decoded = str.__str__(value)
    source = source_of_tokens(attributes["_parse_tree"])
    groups: Sequence[Any] = attributes["_groups"]
    if attributes["_defects"]:
        return _text_field(name, source, form, is_parsed=False)
    if source != decoded:
        expected = [_mailbox(address.username, address.domain) for group in groups for address in group.addresses]
        _compare(name, expected, f"{name}:{source}\r\n")
        return _text_field(name, source, form, is_parsed=False)
    if len(groups) == 1 and (match := _PLAIN_MAILBOX.fullmatch(source)) is not None and "=?" not in source:
        addresses = groups[0]._addresses
        if (
            len(name) + 2 + len(source) <= LINE_CHARACTERS
            and len(addresses) == 1
            and match[2] == addresses[0]._username
            and match[3] == addresses[0]._domain
            and is_field_name(name)
        ):
            return f"{name}: {source}\r\n"
    expected = [(address._username, address._domain) for group in groups for address in group._addresses]
    if source.isascii() and "=?" not in source and "  " not in source:
        written = field(name, source, utf8=form.utf8)
        _compare(name, [_mailbox(*mailbox) for mailbox in expected], written)
        return written
    written = field(name, _groups_source(groups), utf8=form.utf8, is_literal=True)
    _compare(name, [_mailbox(*mailbox) for mailbox in expected], written)
    return written


def _groups_source(groups: Iterable[Group]) -> str:
    members = []
    for group in groups:
        mailboxes = ", ".join(_address_source(address) for address in group.addresses)
        if group.display_name is None:
            members.append(mailboxes)
        else:
            members.append(f"{phrase_source(group.display_name)}: {mailboxes};")
    return ", ".join(members)


def _address_source(address: Address) -> str:
    spec = address.addr_spec
    return mailbox_source(address.display_name, spec) if spec != "<>" else f"{phrase_source(address.display_name)} <>"


def _source_of_header(value: Header, kind: Kind) -> str:
    """Return the source of a Header object; in an address field, a name that it encodes stays one name."""
    texts: list[str] = []
    was_ascii: bool | None = None
    for text, charset in value._chunks:  # type: ignore[attr-defined]
        is_ascii = charset in (None, "us-ascii")
        # As it reads: between what is encoded and what is not there is white space.
        if texts and text and is_ascii != was_ascii and not (texts[-1][-1:].isspace() or text[:1].isspace()):
            texts.append(" ")
        if kind not in (Kind.ADDRESSES, Kind.PHRASE) or is_ascii or "<" in text or "@" in text:
            texts.append(text)
        elif text:
            texts.append(phrase_source(text) if text.isascii() else encoded_words(text))
        was_ascii = is_ascii
    return "".join(texts)


def _foreign_field(name: str, value: Any, form: _Form) -> str:
    """Write a field whose value is not an object of the registry."""
    if isinstance(value, Header):
        kind = kind_of(name)
        source = _source_of_header(value, kind)
        return _text_field(name, source, form, is_parsed=False, is_literal=kind is Kind.TEXT)
    check_field(name, value)
    if not hasattr(value, "fold"):
        if isinstance(value, str):
            return _text_field(name, str.__str__(value), form, is_parsed=False)
        raise MessageError(f"message cannot be flattened: header {name} has a value of {type(value).__name__}")
    folded = str(value.fold(policy=email_policy.SMTPUTF8.clone(max_line_length=0)))
    return _text_field(name, _value_of(name, folded), form, is_parsed=False)


# A field of the header section, after folding: every CRLF but the last is followed by white space (RFC 5322 2.2.3).
_FOLDED_FIELD: Final = re.compile(r"([\x21-\x39\x3b-\x7e]+):[ \t]?([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)\r\n")


def _value_of(name: str, folded: str) -> str:
    """Return the value of a field that the stdlib wrote.

    Raises:
        MessageError: it is more than one field, or another one.
    """
    match = _FOLDED_FIELD.fullmatch(folded)
    if match is None:
        raise MessageError(f"header {name} holds a line break: {folded[:80]!r}")
    if match[1].lower() != name.lower():
        raise MessageError(f"header {name} would be written as {folded[:80]!r}")
    return match[2]


# What may not be changed

_UNFOLDED: Final = email_policy.SMTP.clone(max_line_length=0)
_UNFOLDED_COMPAT32: Final = email_policy.compat32.clone(linesep="\r\n", max_line_length=0)


def _frozen_field(name: str, value: Any, form: _Form) -> str:
    """Write a field below a signature: as the stdlib does, because that was signed; bytes as they are."""
    check_field(name, value)
    if type(value) is str and (value.isascii() or _has_octets(value)):
        folded = f"{name}: " if value[:1] not in ("\r", "\n") else f"{name}:"
        folded += value.replace("\r\n", "\n").replace("\n", "\r\n") + "\r\n"
    else:
        policy = form.policy or (_UNFOLDED if hasattr(value, "fold") else _UNFOLDED_COMPAT32)
        if not hasattr(value, "fold"):
            policy = _UNFOLDED_COMPAT32.clone(max_line_length=policy.max_line_length)
        folded = policy.fold(name, value)
        source = unfold(source_of(value))
        if source.isascii() and unfold(_value_of(name, folded)) != source:  # it encodes what is long, signatures too
            folded = field(name, source)
    _value_of(name, folded)
    if not folded.isascii() and not form.utf8:
        raise FieldNeedsUtf8(name, f"is not ASCII, and {form.frozen} leaves it as it is")
    if not form.sends_long_lines and _long_line(folded) is not None:
        raise MessageError(
            f"header {name} has a line of more than {MAX_LINE_BYTES} bytes, and {form.frozen} leaves it as it is"
        )
    if kind_of(name) is Kind.ADDRESSES and isinstance(value, BaseHeader):
        addresses = getattr(value, "addresses", ())
        expected = [_mailbox(address.username, address.domain) for address in addresses]
        if not value.defects:
            _compare(name, expected, folded)
    return folded


def _has_octets(value: str) -> bool:
    """Return True if all characters beyond ASCII are bytes, which stand there as surrogates."""
    try:
        for step in _steps(value):
            step.encode("ascii", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True
