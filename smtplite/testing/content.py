"""The server's own reading of content: transparency undone as it arrives, and what is wrong with it.

Independent of `smtplite.protocol.transparency`, which it judges.
"""

from __future__ import annotations

from enum import Enum, auto

__all__ = ["BARE_LF", "MAX_TEXT_LINE_BYTES", "ContentCheck", "DotDecoder"]

BARE_LF = "bare LF in content"
EIGHT_BIT_CONTENT = "8-bit content without 8BITMIME or SMTPUTF8"

#: Of a line of content, its CRLF and a doubled dot not counted (RFC 5321 section 4.5.3.1.6).
MAX_TEXT_LINE_BYTES = 998


class ContentCheck:
    """Watches content for what a client must not send.

    The faults are the same however the content is cut. Bytes are counted and searched in bulk, never one by one.

    Args:
        allow_8bit: Bytes over 127 are no fault in the body.
        allow_utf8: nor are they in the header section.
        allow_binary: nothing is a fault.
    """

    def __init__(self, *, allow_8bit: bool, allow_utf8: bool = False, allow_binary: bool = False) -> None:
        self.faults: list[str] = []
        self._allow_8bit = allow_8bit
        self._allow_utf8 = allow_utf8
        self._is_in_header = True
        # The end of what came so far, as long as it is header section; its first byte has a line before it
        self._header_end = b"\n"
        self._allow_binary = allow_binary
        self._ends_in_cr = False
        # Bytes since the last LF, a CR that may open the line's end among them
        self._line_bytes = 0

    def feed(self, piece: bytes) -> None:
        """Look at the next piece of content, of at least one byte."""
        if self._allow_binary:
            return
        if b"\0" in piece:
            self._found("NUL in content")
        if not piece.isascii():
            if not self._allow_8bit:
                self._found(EIGHT_BIT_CONTENT)
            if self._is_in_header and not self._allow_utf8 and not piece[: self._header_bytes(piece)].isascii():
                self._found("8-bit header section without SMTPUTF8")
        if self._is_in_header:
            self._header_bytes(piece, goes_on=True)
        self._look_at_line_ends(piece)
        self._look_at_line_lengths(piece)

    def _header_bytes(self, piece: bytes, *, goes_on: bool = False) -> int:
        """Return how much of a piece is header section, which an empty line ends."""
        seen = self._header_end + piece
        found = min((end for end in (seen.find(b"\n\r\n"), seen.find(b"\n\n")) if end >= 0), default=-1)
        length = len(piece) if found < 0 else max(0, found + 1 - len(self._header_end))
        if goes_on:
            self._is_in_header = found < 0
            self._header_end = seen[-2:]
        return length

    def finish(self) -> None:
        """Look at what only the end shows."""
        if self._ends_in_cr:
            self._found("bare CR in content")
        if self._line_bytes > MAX_TEXT_LINE_BYTES:
            self._found(f"line over {MAX_TEXT_LINE_BYTES} bytes")

    def _look_at_line_ends(self, piece: bytes) -> None:
        pairs = piece.count(b"\r\n")
        bare_lf = piece.count(b"\n") - pairs
        bare_cr = piece.count(b"\r") - pairs
        if self._ends_in_cr:
            if piece[:1] == b"\n":
                bare_lf -= 1
            else:
                self._found("bare CR in content")
        self._ends_in_cr = piece[-1:] == b"\r"
        if self._ends_in_cr:
            bare_cr -= 1
        if bare_lf:
            self._found(BARE_LF)
        if bare_cr:
            self._found("bare CR in content")

    def _look_at_line_lengths(self, piece: bytes) -> None:
        # The CR of the line's end is counted here
        limit = MAX_TEXT_LINE_BYTES + 1
        if b"\n" not in piece:
            longest = self._line_bytes = self._line_bytes + len(piece)
        else:
            first = self._line_bytes + piece.index(b"\n")
            self._line_bytes = len(piece) - piece.rindex(b"\n") - 1
            longest = max(first, self._line_bytes)
            if len(piece) > limit:
                longest = max(longest, max(map(len, piece[piece.index(b"\n") + 1 :].split(b"\n"))))
        if longest > limit:
            self._found(f"line over {MAX_TEXT_LINE_BYTES} bytes")

    def _found(self, fault: str) -> None:
        if fault not in self.faults:
            self.faults.append(fault)


class _At(Enum):
    LINE_START = auto()
    DOT = auto()  # after a dot that opens a line
    DOT_CR = auto()  # after such a dot and CR
    TEXT = auto()  # within a line
    TEXT_CR = auto()  # within a line, after a CR


class DotDecoder:
    """Undoes transparency and finds the lone dot, for the content of one DATA.

    Only CRLF ends a line here, so nothing but ``CRLF . CRLF`` ends the content.

    RFC 5321 section 4.5.2.
    """

    def __init__(self) -> None:
        #: Whether a line began with one dot and went on with something else: the client did not double it.
        self.single_dot = False
        self._at = _At.LINE_START

    def decode(self, data: bytes, position: int) -> tuple[list[bytes], int, bool]:
        """Decode from `position` on.

        Returns:
            The pieces of content, where decoding stopped, and whether the lone dot was read. Without it all of `data`
            was used up.
        """
        pieces: list[bytes] = []
        end = len(data)
        while position < end:
            if self._at is _At.TEXT:
                position = self._text(data, position, pieces)
            elif self._at is _At.LINE_START:
                if data[position : position + 1] == b".":
                    position += 1
                    self._at = _At.DOT
                else:
                    self._at = _At.TEXT
            elif self._at is _At.TEXT_CR:
                if data[position : position + 1] == b"\n":
                    pieces.append(b"\n")
                    position += 1
                    self._at = _At.LINE_START
                else:
                    self._at = _At.TEXT
            elif self._at is _At.DOT:
                following = data[position : position + 1]
                if following == b"\r":
                    position += 1
                    self._at = _At.DOT_CR
                else:
                    self.single_dot |= following != b"."
                    self._at = _At.TEXT
            else:
                if data[position : position + 1] == b"\n":
                    return pieces, position + 1, True
                # A dot and a CR that ends nothing: the dot is dropped like any that opens a line, the CR is content
                self.single_dot = True
                pieces.append(b"\r")
                self._at = _At.TEXT
        return pieces, position, False

    def _text(self, data: bytes, position: int, pieces: list[bytes]) -> int:
        """Take everything up to the next line that opens with a dot."""
        dot_line = data.find(b"\r\n.", position)
        if dot_line >= 0:
            pieces.append(data[position : dot_line + 2])
            self._at = _At.LINE_START
            return dot_line + 2
        pieces.append(data[position:])
        if data.endswith(b"\r\n", position):
            self._at = _At.LINE_START
        elif data.endswith(b"\r", position):
            self._at = _At.TEXT_CR
        return len(data)
