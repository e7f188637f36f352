"""The wire form: octets checked and brought to CRLF line endings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from smtplite.errors import MessageError, SMTPError
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
    "eight_bit_field",
    "ends_within",
    "header_section",
    "wire_form",
]


Octets = bytes | bytearray | memoryview

#: Larger content goes in pieces of this size: what the CPU's caches hold, and what one encoding step may take.
PIECE_BYTES: Final = 131_072
#: A line of the content, without its CRLF (RFC 5321 4.5.3.1.6, RFC 5322 2.1.1).
MAX_TEXT_LINE_BYTES: Final = 998
#: The header section of content that comes as octets: it is read, and held, before anything is sent.
MAX_HEADER_SECTION_BYTES: Final = 1_048_576
_END_OF_HEADER: Final = re.compile(rb"(?:\A|\n)\r?\n")
_BARE_CR: Final = re.compile(rb"\r(?!\n)")
_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_BCC_FIELD: Final = re.compile(rb"^(?:resent-)?bcc[ \t]*:", re.IGNORECASE | re.MULTILINE)
_DKIM_FIELD: Final = re.compile(rb"^dkim-signature[ \t]*:", re.IGNORECASE | re.MULTILINE)


def cut(octets: Octets) -> Iterator[bytes]:
    """Yield the octets in pieces, none of which ends between CR and LF."""
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


def header_section(octets: Octets) -> bytes:
    """Return the header section of a message, the empty line behind it included.

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
    """Return where the header section ends, if that is with CRLF CRLF; -1: who knows. Faster than the pattern."""
    end = octets.find(b"\r\n\r\n", 0, MAX_HEADER_SECTION_BYTES)
    if end < 0 or octets.startswith((b"\n", b"\r\n")):
        return -1
    is_first = octets.find(b"\n\n", 0, end) < 0 and octets.find(b"\n\r\n", 0, end + 2) < 0
    return end + 4 if is_first else -1


def ends_within(octets: Octets, size: int) -> bool:
    """Return True if the header section of a message ends within so many octets."""
    return len(octets) <= size or _END_OF_HEADER.search(octets, 0, size) is not None


def _header_too_long() -> MessageError:
    return MessageError(
        f"message has a header section of more than {MAX_HEADER_SECTION_BYTES} octets: does an empty line end it?"
    )


def check_header_section(header: bytes, *, is_binary: bool = False) -> bool:
    """Check the header section of content that is sent as it is; return True if it has a DKIM-Signature.

    Args:
        header: up to the empty line and with it.
        is_binary: it is sent octet for octet.

    Raises:
        MessageError: it has a bare CR, or a Bcc field; if `is_binary`, also for what would be mended elsewhere.
    """
    if header.count(b"\r") != header.count(b"\r\n"):
        raise MessageError("message has a bare CR in its header section: it could hide a header from some servers")
    lowered = header.lower()  # the patterns take several times as long as looking for their words
    if b"bcc" in lowered and _BCC_FIELD.search(header):
        raise MessageError("message has a Bcc field: remove it, and name its recipients in recipients=")
    if is_binary:
        if _BARE_LF.search(header):
            raise MessageError("message has a bare LF in its header section, which BINARYMIME leaves there: use CRLF")
        check_text(header)
    return b"dkim-signature" in lowered and _DKIM_FIELD.search(header) is not None


def wire_form(content: bytes, *, is_signed: bool) -> bytes:
    """Return all of a message with each of its line endings as CRLF.

    Raises:
        MessageError: it `is_signed`, and has a bare CR, which cannot be sent unchanged.
    """
    if is_signed and _BARE_CR.search(content):
        raise _signed_with_bare_cr()
    return normalize(content)


def check_text(content: bytes, *, allows_long_lines: bool = False) -> bool:
    """Refuse what no server may get as text, whatever it offers; return True if all of it is ASCII.

    Args:
        content: all of it, line endings CRLF.
        allows_long_lines: a line may be of any length.

    Raises:
        MessageError: it holds a NUL, or a line of more than MAX_TEXT_LINE_BYTES.
    """
    lines = _LineLengths()
    if len(content) <= PIECE_BYTES:
        if not allows_long_lines:
            lines.check(content)
        return _check_octets(content)
    is_ascii = True
    for piece in cut(content):
        is_ascii = _check_octets(piece) and is_ascii
        if not allows_long_lines:
            lines.check(piece)
    return is_ascii


def _check_octets(piece: bytes) -> bool:
    if b"\0" in piece:
        raise MessageError("message holds a NUL octet")
    return piece.isascii()


class _LineLengths:
    """Refuses a line that is too long, wherever the text is cut; but not between CR and LF."""

    def __init__(self) -> None:
        self._unfinished = 0  # octets of the line that has not ended yet

    def check(self, text: bytes) -> None:
        start = -self._unfinished
        length = len(text)
        while length - start > MAX_TEXT_LINE_BYTES:
            # Every line that ends inside this window is short enough: one look for each thousand octets.
            end = text.rfind(b"\n", max(start, 0), start + MAX_TEXT_LINE_BYTES + 2)
            if end < 0:
                raise MessageError(f"message has a line of more than {MAX_TEXT_LINE_BYTES} octets: encode it")
            start = end + 1
        last = text.rfind(b"\n", max(start, 0))
        self._unfinished = length - start if last < 0 else length - last - 1


def eight_bit_field(header: bytes) -> str | None:
    """Return which field of a header section needs SMTPUTF8, for people; None: none does."""
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
    """Octets of a message in, their wire form out, checked as they pass: the same however they are cut into chunks.

    Nothing comes out before the header section is complete.

    Args:
        is_binary: octet for octet; the header section alone is checked.
        size: what the wire form must come to; None: anything.
        size_error: what to say where it does not.
    """

    def __init__(self, *, is_binary: bool = False, size: int | None = None, size_error: str = "") -> None:
        self._is_binary = is_binary
        self._wanted = size
        self._size_error = size_error
        self._normalizer = Normalizer()
        self._lines = _LineLengths()
        self._begun = bytearray()  # of the header section
        self._is_signed = False
        self._ends_with_cr = False
        self._eight_bit_error: Callable[[], SMTPError] | None = None
        self._limit: tuple[int, Callable[[], SMTPError]] | None = None
        #: The header section, with its empty line, as it was read; None until it is complete.
        self.header: bytes | None = None
        #: Octets that came out.
        self.size = 0
        #: True if none of them was above 127.
        self.is_ascii = True
        #: True if they came out as they went in.
        self.is_clean = True
        #: True if what came out is empty, or ends with a line end.
        self.ends_line = True

    def forbid_eight_bit(self, error: Callable[[], SMTPError]) -> None:
        """Raise this error at the first octet above 127; at once, if there was one."""
        self._eight_bit_error = error
        if not self.is_ascii:
            raise error()

    def forbid_more(self, limit: int, error: Callable[[], SMTPError]) -> None:
        """Raise this error where more than so many octets would come out; at once, if they have."""
        self._limit = limit, error
        if self.size > limit:
            raise error()

    def encode(self, chunk: bytes) -> bytes:
        """Return the wire form of a chunk, so far as it is complete.

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
            MessageError: what there was cannot be sent.
        """
        data = b"" if self.header is not None else self._pass(self._end_header(len(self._begun)))
        if self._ends_with_cr and self._is_signed:
            raise _signed_with_bare_cr()
        if self._wanted is not None and self.size != self._wanted:
            raise self._wrong_size()
        return data

    def _end_header(self, size: int) -> bytes:
        octets = bytes(self._begun)
        self._begun = bytearray()
        self.header = octets[:size]
        self._is_signed = check_header_section(self.header, is_binary=self._is_binary) and not self._is_binary
        return octets

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
        return MessageError(f"{self._size_error}: it has {more}{min(self.size, self._wanted or 0)} octets")


def _signed_with_bare_cr() -> MessageError:
    return MessageError("message is signed (DKIM-Signature) and has a bare CR, which cannot be sent unchanged")
