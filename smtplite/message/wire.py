"""The wire form: bytes, checked and with CRLF line endings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from smtplite.errors import MessageError, SMTPError
from smtplite.message.headers import parameters_of
from smtplite.protocol.transparency import Normalizer, normalize

__all__ = [
    "MAX_HEADER_SECTION_BYTES",
    "MAX_TEXT_LINE_BYTES",
    "PIECE_BYTES",
    "ContentChecker",
    "Octets",
    "check_header_section",
    "check_text",
    "cut",
    "dropped_size",
    "eight_bit_field",
    "ends_within",
    "fields_of",
    "header_section",
    "plain_header",
    "wire_form",
]


Octets = bytes | bytearray | memoryview

#: Larger content is handled in pieces of this size: it fits the CPU's caches, and one encoding step stays short.
PIECE_BYTES: Final = 131_072
#: A line of the content, without its CRLF (RFC 5321 4.5.3.1.6, RFC 5322 2.1.1).
MAX_TEXT_LINE_BYTES: Final = 998
#: The header section of content that comes as bytes: it is read, and held, before anything is sent.
MAX_HEADER_SECTION_BYTES: Final = 1_048_576
_END_OF_HEADER: Final = re.compile(rb"(?:\A|\n)\r?\n")
_BARE_CR: Final = re.compile(rb"\r(?!\n)")
_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_BCC_FIELD: Final = re.compile(rb"^(?:resent-)?bcc[ \t]*:", re.IGNORECASE | re.MULTILINE)
_DKIM_FIELD: Final = re.compile(rb"^dkim-signature[ \t]*:", re.IGNORECASE | re.MULTILINE)


def cut(octets: Octets) -> Iterator[bytes]:
    """Yield the bytes in pieces, none of which ends between CR and LF."""
    if isinstance(octets, bytes) and len(octets) <= PIECE_BYTES:
        if octets:
            yield octets
        return
    view = memoryview(octets)
    begun = 0
    while begun < len(view):
        end = begun + PIECE_BYTES
        if end < len(view) and view[end - 1] == 0x0D:
            end -= 1
        yield bytes(view[begun:end])
        begun = end


# Fields, each with its continuation lines (RFC 5322 2.2; white space before the colon: 4.5).
_FIELDS: Final = re.compile(
    rb"(?:[\x21-\x39\x3b-\x7e]++[ \t]*+:[^\n]*+(?:\n|\Z)(?:[ \t][^\n]*+(?:\n|\Z))*+)*+(?:\r?\n)?+"
)
_FIELD: Final = re.compile(rb"([\x21-\x39\x3b-\x7e]++)[ \t]*+:")
_WHOLE_FIELD: Final = re.compile(rb"([\x21-\x39\x3b-\x7e]++)[ \t]*+:([^\n]*+(?:\n|\Z)(?:[ \t][^\n]*+(?:\n|\Z))*+)")
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


def dropped_size(octets: Octets) -> int:
    """Return how many bytes before a message do not belong to it: a byte order mark, the ``From `` of an mbox."""
    begun = bytes(octets[:8])
    size = 3 if begun.startswith(_BYTE_ORDER_MARK) else 0
    if begun[size : size + 5] == b"From ":
        line = bytes(octets[size : size + MAX_TEXT_LINE_BYTES])
        if _FIELD.match(line) is not None:  # "From : "
            return size
        size += line.find(b"\n") + 1 if b"\n" in line else len(line)
    return size


def header_section(octets: Octets) -> bytes:
    """Return the header section of a message, including the empty line after it.

    Raises:
        MessageError: it does not end within MAX_HEADER_SECTION_BYTES.
    """
    size = _usual_end(octets) if type(octets) is bytes else -1
    if size < 0:
        end = _END_OF_HEADER.search(octets, 0, MAX_HEADER_SECTION_BYTES + 1)
        size = len(octets) if end is None else end.end()
    if size > MAX_HEADER_SECTION_BYTES:
        raise _header_too_long()
    return bytes(octets[:size])


def _usual_end(octets: bytes) -> int:
    """Return where the header section ends, if it ends with CRLF CRLF; -1: not known. Faster than the pattern."""
    end = octets.find(b"\r\n\r\n", 0, MAX_HEADER_SECTION_BYTES)
    if end < 0 or octets.startswith((b"\n", b"\r\n")):
        return -1
    is_first = octets.find(b"\n\n", 0, end) < 0 and octets.find(b"\n\r\n", 0, end + 2) < 0
    return end + 4 if is_first else -1


#: Larger content is read in the general way, which takes less for each byte, and more for each message.
_MAX_PLAIN_BYTES: Final = 65_536
# Fields without white space before the colon, none of them Bcc or of a Resent- block; the empty line; the body.
# Each line ends with CRLF, and is short enough. [^\r] is read several times as fast as [^\r\n].
_PLAIN: Final = re.compile(
    rb"((?:(?![BbRr](?:[Cc][Cc]|[Ee][Ss][Ee][Nn][Tt]-))"
    rb"[\x21-\x39\x3b-\x7e]{1,76}+:[^\r]{0,921}+\r\n(?:[ \t][^\r]{0,997}+\r\n)*+)++\r\n)(?:[^\r]{0,998}+\r\n)*+"
)


def plain_header(octets: bytes) -> bytes | None:
    """Return the header section of a message that is plain; None: it is not, or may not be.

    A plain message is its own wire form, is all ASCII, and has nothing in it that would be dropped, mended or refused:
    the functions below would have the same result, and take several times as long.
    """
    if len(octets) > _MAX_PLAIN_BYTES or not octets.isascii() or b"\0" in octets:
        return None
    plain = _PLAIN.fullmatch(octets)
    if plain is None or octets.count(b"\n") != octets.count(b"\r"):  # each CR has its LF, but one LF has no CR
        return None
    return plain[1]


def fields_of(header: bytes) -> list[tuple[str, str]] | None:
    """Return the fields of a header section, name and value; None: some line of it is not a field, or may not be.

    The values are what the stdlib's parser makes of them with its `compat32` policy, bytes as surrogates; but white
    space before a colon is read (RFC 5322 4.5), at which that parser ends the header section.
    """
    if header.count(b"\r") != header.count(b"\r\n"):  # a line end, too, there
        return None
    fields = []
    at = 0
    while (found := _WHOLE_FIELD.match(header, at)) is not None:
        name, value = found.groups()
        fields.append((name.decode("ascii"), value.decode("ascii", "surrogateescape").strip("\r\n").lstrip(" \t\r\n")))
        at = found.end()
    return fields if header[at:] in (b"", b"\n", b"\r\n") else None


def ends_within(octets: Octets, size: int) -> bool:
    """Return True if the header section of a message ends within so many bytes."""
    return len(octets) <= size or _END_OF_HEADER.search(octets, 0, size) is not None


def _header_too_long() -> MessageError:
    return MessageError(
        f"message has a header section of more than {MAX_HEADER_SECTION_BYTES} bytes: does an empty line end it?"
    )


def check_header_section(
    header: bytes, *, is_binary: bool = False, allows_long_lines: bool = False, first_line: int = 1
) -> bool:
    """Check the header section of content that is sent as it is; return True if it has a DKIM-Signature.

    Args:
        header: up to and including the empty line.
        is_binary: it is sent byte for byte.
        allows_long_lines: a line may be of any length.
        first_line: the number of its first line, for errors.

    Raises:
        MessageError: it has a line that is not a field, a bare CR, or a Bcc field; if `is_binary`, also for what would
            otherwise be mended.
    """
    if header.count(b"\r") != header.count(b"\r\n"):
        raise MessageError("message has a bare CR in its header section: it could hide a header from some servers")
    lowered = header.lower()  # the patterns take several times as long as a search for their words
    if b"bcc" in lowered and _BCC_FIELD.search(header):
        raise MessageError("message has a Bcc field: remove it, and name its recipients in recipients=")
    if _FIELDS.fullmatch(header) is None:
        raise _no_field(header, first_line)
    if is_binary:
        if _BARE_LF.search(header):
            raise MessageError("message has a bare LF in its header section, which BINARYMIME leaves there: use CRLF")
        check_text(header, allows_long_lines=allows_long_lines)
    return b"dkim-signature" in lowered and _DKIM_FIELD.search(header) is not None


def _no_field(header: bytes, first_line: int) -> MessageError:
    at = _FIELDS.match(header).end()  # type: ignore[union-attr]  # matches always
    line = bytes(header[at:].partition(b"\n")[0]).rstrip(b"\r")
    number = first_line + header.count(b"\n", 0, at)
    if number == first_line:
        return MessageError(
            f"message has something before its headers: line {number}, {line[:80]!r}: a message begins with a "
            'header field, such as b"From: "'
        )
    return MessageError(
        f"message has a line among its headers that is not a header: line {number}, {line[:80]!r}: an empty line ends "
        "them"
    )


def wire_form(content: bytes, *, is_signed: bool) -> bytes:
    """Return all of a message with each of its line endings as CRLF.

    Raises:
        MessageError: it `is_signed`, and has a bare CR, which cannot be sent unchanged.
    """
    if is_signed and _BARE_CR.search(content):
        raise _signed_with_bare_cr()
    return normalize(content)


def check_text(content: bytes, *, allows_long_lines: bool = False, first_line: int = 1) -> bool:
    """Refuse what may not be sent to any server as text, whatever it offers; return True if all of it is ASCII.

    Args:
        content: all of it, line endings CRLF.
        allows_long_lines: a line may be of any length.
        first_line: the number of its first line, for errors.

    Raises:
        MessageError: it holds a NUL, or a line of more than MAX_TEXT_LINE_BYTES.
    """
    if len(content) <= PIECE_BYTES and (allows_long_lines or not _has_long_line(content)):  # nearly every one
        return _check_octets(content)
    lines = None if allows_long_lines else _LineLengths(lambda at: _place(content, at), first_line=first_line)
    is_ascii = True
    for piece in cut(content):
        is_ascii = _check_octets(piece) and is_ascii
        if lines is not None:
            lines.check(piece)
    return is_ascii


def _check_octets(piece: bytes) -> bool:
    if b"\0" in piece:
        raise MessageError("message holds a NUL byte")
    return piece.isascii()


def _has_long_line(text: bytes) -> bool:
    start, length = 0, len(text)
    while length - start > MAX_TEXT_LINE_BYTES:
        # Every line that ends inside this window is short enough: one look for each thousand bytes.
        start = text.rfind(b"\n", start, start + MAX_TEXT_LINE_BYTES + 2) + 1
        if not start:
            return True
    return False


class _LineLengths:
    """Refuses a line that is too long, wherever the text is cut; but not between CR and LF.

    Args:
        place: returns what stands at an offset of the text, for the error.
        first_line: the number of its first line.
    """

    def __init__(self, place: Callable[[int], str], *, first_line: int = 1) -> None:
        self._place = place
        self._line = first_line
        self._read = 0
        self._unfinished = 0  # bytes of the line that has not ended yet

    def check(self, text: bytes) -> None:
        start = -self._unfinished
        length = len(text)
        while length - start > MAX_TEXT_LINE_BYTES:
            # Every line that ends inside this window is short enough: one look for each thousand bytes.
            end = text.rfind(b"\n", max(start, 0), start + MAX_TEXT_LINE_BYTES + 2)
            if end < 0:
                raise self._too_long(text, start)
            start = end + 1
        last = text.rfind(b"\n", max(start, 0))
        self._unfinished = length - start if last < 0 else length - last - 1
        self._line += text.count(b"\n")
        self._read += length

    def _too_long(self, text: bytes, start: int) -> MessageError:
        number = self._line + text.count(b"\n", 0, max(start, 0))
        end = text.find(b"\n", max(start, 0))
        size = f"{len(text) - start} bytes or more" if end < 0 else f"{end - start - (text[end - 1] == 13)} bytes"
        return MessageError(
            f"message has a line of more than {MAX_TEXT_LINE_BYTES} bytes: line {number}, "
            f"{size}{self._place(self._read + start)}: encode it as base64 or quoted-printable, or pass "
            "Envelope(long_lines='send')"
        )


#: Where a line stands is said only in an error: no more lines than this that begin with "--" are looked at for it.
_MAX_DELIMITERS: Final = 1000
#: So much of a part's header section is looked at.
_PART_HEADER_BYTES: Final = 4096
_FIELD_START: Final = re.compile(rb"^([^\s:]+)[ \t]*:", re.MULTILINE)
_TYPE_FIELD: Final = re.compile(rb"^content-type[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)", re.IGNORECASE | re.MULTILINE)
_DELIMITER: Final = re.compile(rb"^--([^\r\n]+)", re.MULTILINE)


def _place(content: bytes, at: int) -> str:
    """Return what stands at this offset of a message, for the error: a header field, or a part."""
    header = header_section(content)
    if at < len(header):
        name = b""
        for match in _FIELD_START.finditer(header, 0, at + MAX_TEXT_LINE_BYTES):
            if match.start() > at:
                break
            name = match[1]
        return f", in header {name[:80].decode('ascii', 'replace')}" if name else ""
    kind, boundary = _type_of(header)
    parts = [(kind, boundary)]  # those that are open, from the outermost
    current = kind
    for number, match in enumerate(_DELIMITER.finditer(content, len(header), at)):
        if number >= _MAX_DELIMITERS:
            return ", in the body"
        line = match[1].rstrip(b" \t")
        for depth in range(len(parts) - 1, -1, -1):
            boundary = parts[depth][1]
            if boundary and line in (boundary, boundary + b"--"):
                del parts[depth + 1 :]
                current = parts[depth][0]
                if line == boundary:
                    begun, limit = match.end(), match.end() + _PART_HEADER_BYTES
                    end = _END_OF_HEADER.search(content, begun, limit)
                    current, inner = _type_of(content[begun : limit if end is None else end.end()])
                    parts.append((current, inner))
                break
    return f", in part {current}"


def _type_of(header: bytes) -> tuple[str, bytes]:
    """Return the type of a part, and the boundary of the parts in it, if it has some."""
    match = _TYPE_FIELD.search(header)
    if match is None:
        return "text/plain", b""
    value = match[1].decode("latin-1").replace("\r", "").replace("\n", "")
    boundary = parameters_of(value).get("boundary", "") if "multipart" in value.lower() else ""
    return value.partition(";")[0].strip().lower()[:80], boundary.encode("latin-1", "replace")


def eight_bit_field(header: bytes) -> str | None:
    """Return which field of a header section needs SMTPUTF8, for the error; None: none does."""
    if header.isascii():
        return None
    name = b""
    for line in header.split(b"\n"):
        if not line.startswith((b" ", b"\t")):
            name = line.partition(b":")[0]
        if not line.isascii():
            break
    return f"header {name.decode('utf-8', 'replace')[:80]}"


class ContentChecker:
    """Bytes of a message in, their wire form out, checked as they pass; the same, however they are cut into chunks.

    Nothing comes out before the header section is complete.

    Args:
        is_binary: byte for byte; only the header section is checked.
        allows_long_lines: a line may be of any length.
        size: how large the wire form must be; None: any size.
        size_error: what the error says if it is not.
    """

    def __init__(
        self,
        *,
        is_binary: bool = False,
        allows_long_lines: bool = False,
        size: int | None = None,
        size_error: str = "",
    ) -> None:
        self._is_binary = is_binary
        self._allows_long_lines = allows_long_lines
        self._wanted = size
        self._size_error = size_error
        self._normalizer = Normalizer()
        self._lines = _LineLengths(self._place)
        self._begun = bytearray()  # of the header section
        self._is_signed = False
        self._ends_with_cr = False
        self._eight_bit_error: Callable[[], SMTPError] | None = None
        self._limit: tuple[int, Callable[[], SMTPError]] | None = None
        #: The header section, with its empty line, as it was read; None until it is complete.
        self.header: bytes | None = None
        #: How many bytes came out.
        self.size = 0
        #: True if none of them was above 127.
        self.is_ascii = True
        #: True if they came out as they went in.
        self.is_clean = True
        #: True if what came out is empty, or ends with a line end.
        self.ends_line = True

    def forbid_eight_bit(self, error: Callable[[], SMTPError]) -> None:
        """Raise this error at the first byte above 127; at once, if there was one."""
        self._eight_bit_error = error
        if not self.is_ascii:
            raise error()

    def forbid_more(self, limit: int, error: Callable[[], SMTPError]) -> None:
        """Raise this error when more than so many bytes would come out; at once, if they have."""
        self._limit = limit, error
        if self.size > limit:
            raise error()

    def encode(self, chunk: bytes) -> bytes:
        """Return the wire form of a chunk, as far as it is complete.

        Raises:
            MessageError: it cannot be sent.
        """
        if self.header is None:
            scanned = len(self._begun)
            self._begun += chunk
            end = _END_OF_HEADER.search(self._begun, max(0, scanned - 2))
            if (len(self._begun) if end is None else end.end()) > MAX_HEADER_SECTION_BYTES:
                raise _header_too_long()
            if end is None:
                return b""
            chunk = self._end_header(end.end())
        return self._pass(chunk)

    def finish(self) -> bytes:
        """Return what is left, once there is no more.

        Raises:
            MessageError: it cannot be sent.
        """
        data = b"" if self.header is not None else self._pass(self._end_header(len(self._begun)))
        if self._ends_with_cr and self._is_signed:
            raise _signed_with_bare_cr()
        if self._wanted is not None and self.size != self._wanted:
            raise self._wrong_size()
        return data

    def _end_header(self, size: int) -> bytes:
        dropped = 0 if self._is_binary else dropped_size(self._begun)
        first_line = 1 + self._begun.count(b"\n", 0, dropped)
        octets = bytes(self._begun[dropped:])
        self._begun = bytearray()
        self.header = octets[: size - dropped]
        self.is_clean = not dropped
        self._lines = _LineLengths(self._place, first_line=first_line)
        self._is_signed = (
            check_header_section(
                self.header,
                is_binary=self._is_binary,
                allows_long_lines=self._allows_long_lines,
                first_line=first_line,
            )
            and not self._is_binary
        )
        return octets

    def _place(self, at: int) -> str:
        header = self.header or b""
        return _place(normalize(header), at) if at < len(header) else ", in the body"

    def _pass(self, chunk: bytes) -> bytes:
        data = chunk
        if not self._is_binary:
            if self._is_signed:
                self._check_signed(chunk)
            data = self._normalizer.encode(chunk)
            self.is_clean = self.is_clean and data is chunk
        if not data:
            return data
        if not self._is_binary:
            if not _check_octets(data):
                self.is_ascii = False
                if self._eight_bit_error is not None:
                    raise self._eight_bit_error()
            if not self._allows_long_lines:
                self._lines.check(data)
            self.ends_line = data[-1] == 0x0A
        self.size += len(data)
        if self._wanted is not None and self.size > self._wanted:
            raise self._wrong_size()
        if self._limit is not None and self.size > self._limit[0]:
            raise self._limit[1]()
        return data

    def _check_signed(self, chunk: bytes) -> None:
        if chunk:
            is_bare = self._ends_with_cr and chunk[0] != 0x0A
            self._ends_with_cr = chunk[-1] == 0x0D
            if is_bare or (b"\r" in chunk and _BARE_CR.search(chunk, 0, len(chunk) - self._ends_with_cr)):
                raise _signed_with_bare_cr()

    def _wrong_size(self) -> MessageError:
        more = "more than " if self.size > (self._wanted or 0) else ""
        return MessageError(f"{self._size_error}: it has {more}{min(self.size, self._wanted or 0)} bytes")


def _signed_with_bare_cr() -> MessageError:
    return MessageError("message is signed (DKIM-Signature) and has a bare CR, which cannot be sent unchanged")
