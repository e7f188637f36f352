"""Replies: their values, and the parser that makes them from bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

import attrs

from smtplite.errors import RemoteProtocolError
from smtplite.protocol.codes import ENHANCED_STATUS_CODES
from smtplite.protocol.grammar import ENHANCED_STATUS, REPLY_LINE

__all__ = [
    "MAX_CHALLENGE_LINE_BYTES",
    "MAX_LINE_BYTES",
    "MAX_REPLY_BYTES",
    "EnhancedStatusCode",
    "Reply",
    "ReplyParser",
]

#: One line of a reply, with its CRLF. RFC 5321 4.5.3.1.5 asks for 512; servers write more.
MAX_LINE_BYTES: Final = 4096
#: One line of a 334, with its CRLF (RFC 4954 4: 12,288 octets of base64).
MAX_CHALLENGE_LINE_BYTES: Final = 12_288 + 6
#: A whole reply: an EHLO reply of thousands of lines is an attack, not a server.
MAX_REPLY_BYTES: Final = 102_400

#: How an alert begins, and a handshake, whatever the version of TLS (RFC 8446 5.1).
_TLS_RECORDS: Final = (b"\x15\x03", b"\x16\x03")
_SPEAKS_TLS: Final = (
    'server speaks TLS where an unencrypted reply is due: pass tls="implicit" if this port is for TLS from the start'
)

_SHOWN_CHARACTERS: Final = 400
_SHORT_LINE_BYTES: Final = 48


@attrs.frozen
class EnhancedStatusCode:
    """``class.subject.detail`` of RFC 3463, as in ``550 5.1.1 no such user``."""

    class_: int
    subject: int
    detail: int

    @property
    def meaning(self) -> str:
        """What the registry says it means; if the detail is not registered, what its subject means; else ""."""
        known = ENHANCED_STATUS_CODES
        return known.get((self.subject, self.detail)) or known.get((self.subject, 0), "")

    def __str__(self) -> str:
        return f"{self.class_}.{self.subject}.{self.detail}"


_CONTROLS: Final = {code: 0xFFFD for code in (*range(0x20), *range(0x7F, 0xA0)) if code != 0x09}


def _readable(line: bytes) -> str:
    return line.decode("utf-8", "replace").translate(_CONTROLS)


@lru_cache(maxsize=512)  # a server says the same few codes all day; bounded, because the server chooses them
def _enhanced(code: bytes) -> EnhancedStatusCode:
    class_, subject, detail = code.split(b".")
    return EnhancedStatusCode(int(class_), int(subject), int(detail))


@attrs.frozen
class Reply:
    """One complete reply of the server."""

    #: The reply code, 200 to 599.
    code: int
    #: The text of each line, as bytes, without code, separator and CRLF; never empty.
    lines: tuple[bytes, ...] = (b"",)
    #: The enhanced status code, if the server offered ENHANCEDSTATUSCODES and sent one.
    enhanced: EnhancedStatusCode | None = None

    @property
    def text(self) -> str:
        """The lines for display, joined by newlines; U+FFFD for what is not UTF-8, or could control a terminal."""
        return "\n".join(_readable(line) for line in self.lines)

    @property
    def is_positive(self) -> bool:
        """2yz: success."""
        return self.code < 300

    @property
    def is_intermediate(self) -> bool:
        """3yz: the server waits for more."""
        return 300 <= self.code < 400

    @property
    def is_transient(self) -> bool:
        """4yz: a refusal for now; the same may succeed later."""
        return 400 <= self.code < 500

    @property
    def is_permanent(self) -> bool:
        """5yz: a refusal for good; do not repeat the same."""
        return self.code >= 500

    @property
    def is_negative(self) -> bool:
        """4yz or 5yz."""
        return self.code >= 400

    def __str__(self) -> str:
        text = " / ".join(line.decode("utf-8", "replace") for line in self.lines)
        if len(text) > _SHOWN_CHARACTERS:  # in an error's message, or a log; `text` has all of it
            text = text[:_SHOWN_CHARACTERS] + "..."
        if not text.isprintable():  # a server does not write escape sequences into our user's terminal or log
            text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
        return f"{self.code} {text}".rstrip()


def _make(code: bytes, lines: tuple[bytes, ...], enhanced: bool) -> Reply:
    status = None
    if enhanced and (match := ENHANCED_STATUS.match(lines[-1])) is not None:
        status = _enhanced(match.group())
    return Reply(int(code), lines, status)


def _one_line(line: bytes, enhanced: bool) -> Reply | None:
    """Return the reply that this line is, or None if it is none by itself."""
    match = REPLY_LINE.fullmatch(line)
    if match is None:
        return None
    code, separator, text = match.groups(b"")
    return None if separator == b"-" else _make(code, (text,), enhanced)


_short_reply: Final = lru_cache(maxsize=512)(_one_line)  # as above; and short lines alone, for the same reason


def _no_reply(line: bytes, shown: Callable[[bytes], bytes] | None) -> RemoteProtocolError:
    if line.startswith(_TLS_RECORDS):
        return RemoteProtocolError(_SPEAKS_TLS)
    if shown is not None:
        line = shown(line)
    return RemoteProtocolError(f"server sent a line that is not a reply: {line[:80]!r}")


class ReplyParser:
    """Bytes in, replies out; each byte is looked at once, and every buffer has a limit (RFC 5321 4.2).

    After `receive_data`, call `next_reply` until it returns None.
    """

    def __init__(self) -> None:
        self._data = b""
        self._start = 0  # of the line that comes next
        self._scanned = 0  # no LF before this offset
        self._code = b""  # of the reply whose lines stand in _lines
        self._lines: list[bytes] = []
        self._reply_octets = 0
        #: True if octets are held that belong to no reply yet handed out.
        self.has_data = False

    def receive_data(self, data: bytes) -> None:
        """Take octets from the server."""
        self.has_data = self.has_data or bool(data)
        if self._start == len(self._data):
            self._data = data
            self._scanned = 0
        else:
            self._scanned -= self._start
            self._data = self._data[self._start :] + data
        self._start = 0

    @property
    def unread(self) -> bytes:
        """The octets of a reply that is not complete, or not yet asked for (its finished lines excluded)."""
        return self._data[self._start :]

    @property
    def partial_code(self) -> bytes:
        """As much of the reply code of the next reply as has arrived: up to three octets."""
        return self._code or self._data[self._start : self._start + 3]

    def discard(self) -> None:
        """Forget all octets that are held."""
        self._data = self._code = b""
        self._start = self._scanned = self._reply_octets = 0
        self._lines.clear()
        self.has_data = False

    def next_reply(self, *, enhanced: bool = False, shown: Callable[[bytes], bytes] | None = None) -> Reply | None:
        """Return the next complete reply, or None if more data is needed.

        Args:
            enhanced: whether to look for an enhanced status code (RFC 2034).
            shown: makes of octets that are no reply what the error shows of them; None: they are shown.

        Raises:
            RemoteProtocolError: the bytes are not a reply; the parser cannot be used any more.
        """
        data = self._data
        while True:
            start = self._start
            newline = data.find(b"\n", self._scanned)
            if newline < 0:
                self._scanned = len(data)
                self._check_unfinished_line(len(data) - start)
                return None
            end = newline + 1
            if end - start <= _SHORT_LINE_BYTES and not self._lines:
                short = _short_reply(data[start:end], enhanced)
                if short is not None:
                    self._start = self._scanned = end
                    self.has_data = end < len(data)
                    return short
            match = REPLY_LINE.fullmatch(data, start, end)
            if match is None:
                raise _no_reply(data[start:end], shown)
            code, separator, text = match.groups(b"")
            if end - start > MAX_LINE_BYTES:
                self._check_line_length(code, end - start)
            self._start = self._scanned = end
            if not self._lines and separator != b"-":
                self.has_data = end < len(data)
                return _make(code, (text,), enhanced)
            if self._lines and code != self._code:
                raise RemoteProtocolError(f"server mixed codes {self._code.decode()} and {code.decode()} in one reply")
            self._code = code
            self._lines.append(text)
            self._reply_octets += end - start
            if self._reply_octets > MAX_REPLY_BYTES:
                raise RemoteProtocolError(f"server sent a reply of more than {MAX_REPLY_BYTES} bytes")
            if separator != b"-":
                lines = tuple(self._lines)
                self._lines.clear()
                self._code = b""
                self._reply_octets = 0
                self.has_data = end < len(data)
                return _make(code, lines, enhanced)

    def take(self, codes: Sequence[int], *, enhanced: bool) -> list[Reply] | None:
        """Return so many replies, if each is at hand, has this code, and is one line; else None, and nothing was taken.

        Args:
            codes: of the replies, in order.
            enhanced: as in `next_reply`.
        """
        if self._lines:
            return None
        data, start = self._data, self._start
        replies = []
        for code in codes:
            end = data.find(b"\n", start) + 1
            length = end - start
            if end == 0 or length > MAX_LINE_BYTES:
                return None
            line = data[start:end]
            # A long one is none that a server says all day.
            reply = _short_reply(line, enhanced) if length <= _SHORT_LINE_BYTES else _one_line(line, enhanced)
            if reply is None or reply.code != code:
                return None
            replies.append(reply)
            start = end
        self._start = self._scanned = start
        self.has_data = start < len(data)
        return replies

    def _check_unfinished_line(self, length: int) -> None:
        if self._data.startswith(_TLS_RECORDS, self._start):  # a line that may never end: who speaks TLS sends no CRLF
            raise RemoteProtocolError(_SPEAKS_TLS)
        if length > MAX_LINE_BYTES:
            self._check_line_length(self._data[self._start : self._start + 3], length)

    @staticmethod
    def _check_line_length(code: bytes, length: int) -> None:
        limit = MAX_CHALLENGE_LINE_BYTES if code == b"334" else MAX_LINE_BYTES
        if length > limit:
            raise RemoteProtocolError(f"server sent a line of more than {limit} bytes")
