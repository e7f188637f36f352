"""Signing: the caller's hook that puts a signature, such as DKIM's, before a message (RFC 6376).

A signature covers the bytes as they are sent. So it is made last, and for each wire form: a message that is made 7-bit
for one server has another signature there than elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

from smtplite.errors import MessageError
from smtplite.message.wire import check_header_section, check_text

__all__ = ["Sign", "Signing"]

#: Called with a message's bytes, line endings CRLF; returns header fields to put before it, each with its CRLF.
Sign = Callable[[bytes], bytes]


class Signing:
    """The signatures of one message, each made once.

    Args:
        sign: the caller's.
    """

    def __init__(self, sign: Sign) -> None:
        self._sign = sign
        self._signatures: dict[bool, bytes] = {}
        #: The bytes of a Content, which are gathered to be signed; None: not a Content, or not yet gathered.
        self.gathered: bytes | None = None

    def signed(self, content: bytes, *, is_narrowed: bool = False) -> bytes:
        """Return the content with its signature before it.

        Args:
            content: in wire form.
            is_narrowed: whether it was made 7-bit.

        Raises:
            MessageError: the caller's function raised something, or returned no header fields.
        """
        signature = self._signatures.get(is_narrowed)
        if signature is None:
            signature = self._signatures[is_narrowed] = self._make(content)
        return signature + content

    def _make(self, content: bytes) -> bytes:
        try:
            signature = self._sign(content)
        except Exception as error:
            raise MessageError(f"message was not signed: sign= raised {error!r}") from error
        if not isinstance(signature, bytes):
            raise MessageError(f"sign= must return header fields as bytes, not {type(signature).__name__}")
        if signature:
            _check(signature)
        return signature


def _check(signature: bytes) -> None:
    """Refuse what would end the header section, or is not header fields at all."""
    lines = signature.split(b"\r\n")
    if lines.pop() or not all(lines) or b"\n" in b"".join(lines):
        raise MessageError(
            "sign= must return header fields that end with CRLF, without an empty line, a bare CR or a bare LF"
        )
    if lines[0][:1] in b" \t" or not all(line[:1] in b" \t" or b":" in line for line in lines):
        raise MessageError("sign= must return header fields, each with a name and a colon")
    check_header_section(signature)
    if not check_text(signature):
        raise MessageError("sign= must return header fields in ASCII")
