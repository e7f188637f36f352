"""Content to wire form: line endings made CRLF, and dots doubled, chunk by chunk (RFC 5321 2.3.8, 4.5.2).

The rule for line endings is one pass over ``CRLF | CR | LF``, each of which becomes CRLF; only then are dots doubled,
and only behind a CRLF. Clients that did it in another order let "LF . LF" through, and with it a second message.

Both encoders return clean input untouched, without a copy.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from io import IncrementalNewlineDecoder
from typing import Final

__all__ = ["ContentEncoder", "DotStuffer", "Normalizer", "has_only_crlf", "normalize"]

_CLEAN: Final = (None, "\r\n")  # what the newline decoder may have seen
_PIECE_BYTES: Final = 131_072

# `find` looks for one octet many times faster than any pattern does, but costs as much for each one that it finds as a
# pattern for a line. So it is for text in which dots are rare; the group is atomic to keep "\n." from becoming one
# literal, for which the search is slower.
_DOT_BEHIND_LF: Final = re.compile(rb"\n(?>\.)")
_SAMPLE_BYTES: Final = 2048
_RARE_DOTS: Final = 4  # in a sample
_MAX_FOUND_DOTS: Final = 512  # in a chunk; where a sample misled, the pattern takes over


def _double_leading_dots(chunk: bytes) -> bytes:
    if len(chunk) <= _SAMPLE_BYTES or chunk.count(b".", 0, _SAMPLE_BYTES) > _RARE_DOTS:
        return _DOT_BEHIND_LF.sub(b"\n..", chunk)
    pieces: list[bytes] = []
    begun = found = 0
    position = chunk.find(b".", 1)  # one at the chunk's start is the caller's
    while position > 0:
        if chunk[position - 1] == 0x0A:
            pieces.append(chunk[begun:position])
            begun = position
        found += 1
        if found > _MAX_FOUND_DOTS:
            return _DOT_BEHIND_LF.sub(b"\n..", chunk)
        position = chunk.find(b".", position + 1)
    if not pieces:
        return chunk
    pieces.append(chunk[begun:])
    return b".".join(pieces)


def has_only_crlf(content: bytes) -> bool:
    """Return True if CR and LF stand in the content only as CRLF; a CR at its very end is not clean."""
    # The stdlib's newline decoder keeps a record of the kinds it saw, at twice the speed of counting LF, CR and CRLF.
    decoder = IncrementalNewlineDecoder(None, translate=False)
    decode: Callable[[str], str] = decoder.decode  # without a decoder of its own, it takes text
    if len(content) <= _PIECE_BYTES:
        decode(str(content, "latin-1"))
    else:  # as text in pieces: never a copy of the whole
        view = memoryview(content)
        for start in range(0, len(content), _PIECE_BYTES):
            decode(str(view[start : start + _PIECE_BYTES], "latin-1"))
            if decoder.newlines not in _CLEAN:
                return False
    return decoder.newlines in _CLEAN and not content.endswith(b"\r")


def normalize(content: bytes) -> bytes:
    """Return the whole content with every CRLF, lone CR and lone LF as CRLF; untouched if it was clean."""
    if has_only_crlf(content):
        return content
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return content.replace(b"\n", b"\r\n")


class Normalizer:
    """`normalize`, streaming: the same octets come out however the content is cut into chunks."""

    _ends_with_cr = False  # ... the chunks so far; its CRLF is already written

    def encode(self, chunk: bytes) -> bytes:
        """Return the chunk's wire form; a CR at its end is written as CRLF at once."""
        if not chunk:
            return chunk
        if self._ends_with_cr and chunk[0] == 0x0A:  # the LF of a CRLF cut in two: it is written already
            chunk = chunk[1:]
            if not chunk:
                self._ends_with_cr = False
                return chunk
        self._ends_with_cr = chunk[-1] == 0x0D
        return normalize(chunk)


class DotStuffer:
    """Doubles each dot that opens a line; wants content whose line endings are CRLF (RFC 5321 4.5.2)."""

    _last = 0x0A  # the content's first octet opens a line

    @property
    def at_line_start(self) -> bool:
        """True if what was encoded is empty or ends with a line end: the dot behind it needs no CRLF."""
        return self._last == 0x0A

    def encode(self, chunk: bytes) -> bytes:
        """Return the chunk with its leading dots doubled."""
        if not chunk:
            return chunk
        opens_with_dot = chunk[0] == 0x2E and self._last == 0x0A
        self._last = chunk[-1]
        chunk = _double_leading_dots(chunk)
        return b"." + chunk if opens_with_dot else chunk


class ContentEncoder(DotStuffer):
    """Normalisation and dot-stuffing together: what DATA's content goes through."""

    _normalizer: Normalizer | None = None  # there is one once it is needed

    def encode(self, chunk: bytes, *, is_normalized: bool = False) -> bytes:
        """Return the chunk's wire form.

        Args:
            chunk: a piece of the content.
            is_normalized: the line endings of all the content are known to be CRLF: dots are doubled, and nothing else
                is looked at.
        """
        if not is_normalized:
            normalizer = self._normalizer = self._normalizer or Normalizer()
            chunk = normalizer.encode(chunk)
        return super().encode(chunk)
