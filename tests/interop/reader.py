"""A reader of stored messages that shares no code with what it judges.

It splits a message into fields, parts and bodies by the grammar of RFC 5322 and RFC 2046. What stands in a field is
read by the readers of `tests/message/test_headers.py`.
"""

from __future__ import annotations

import base64
import quopri
import re

import attrs

from tests.message.test_headers import read_parameters

__all__ = ["Part", "read"]


@attrs.frozen
class Part:
    """A message, or a part of one.

    Attributes:
        fields: names and values, unfolded: the line ends taken out, everything else left.
        body: its octets as they stand there; line endings LF.
        parts: what a multipart or a message/rfc822 holds.
    """

    fields: list[tuple[str, str]]
    body: bytes
    parts: list[Part]

    def value(self, name: str) -> str:
        """Return the one field of a name, without the blank behind the colon."""
        (found,) = (value for known, value in self.fields if known.lower() == name.lower())
        return found.removeprefix(" ")

    def parameters(self, name: str) -> dict[str, str]:
        """Return the parameters of a field; none if there is no such field."""
        if not any(known.lower() == name.lower() for known, _ in self.fields):
            return {}
        value = self.value(name)
        return {known.lower(): text.strip() for known, text in read_parameters(value).items()}

    @property
    def kind(self) -> str:
        """The media type, lower case."""
        found = [value for known, value in self.fields if known.lower() == "content-type"]
        return found[0].partition(";")[0].strip().lower() if found else "text/plain"

    @property
    def encoding(self) -> str:
        """The transfer encoding, lower case."""
        found = [value for known, value in self.fields if known.lower() == "content-transfer-encoding"]
        return found[0].strip().lower() if found else "7bit"

    @property
    def decoded(self) -> bytes:
        """The body, its transfer encoding undone; line endings LF in text."""
        if self.encoding == "base64":
            octets = base64.b64decode(self.body.replace(b"\n", b""), validate=True)
            return octets.replace(b"\r\n", b"\n") if self.kind.startswith("text/") else octets
        if self.encoding == "quoted-printable":
            return quopri.decodestring(self.body).replace(b"\r\n", b"\n")
        assert self.encoding in ("7bit", "8bit", "binary")
        return self.body

    @property
    def text(self) -> str:
        """The body as text, in the charset that its type names."""
        return self.decoded.decode(self.parameters("Content-Type").get("charset", "us-ascii"))

    def leaves(self) -> list[Part]:
        """Return the parts that hold no others, in their order."""
        return [leaf for part in self.parts for leaf in part.leaves()] if self.parts else [self]


def read(content: bytes) -> Part:
    """Read a message or a part, line endings LF, after a look at what must be true of any."""
    assert b"\r" not in content
    header, separator, body = content.partition(b"\n\n")
    if content.startswith(b"\n"):
        header, separator, body = b"", b"\n", content[1:]
    assert separator, "a header section without an end"
    fields: list[tuple[str, str]] = []
    for line in header.decode("utf-8", "surrogateescape").split("\n") if header else ():
        assert len(line.encode("utf-8", "surrogateescape")) <= 998
        if line[0] in " \t":
            assert line.strip(" \t"), "a line of white space alone"
            name, value = fields.pop()
            fields.append((name, value + line))
        else:
            name, colon, value = line.partition(":")
            assert colon
            assert re.fullmatch("[!-9;-~]+", name), f"{line!r} is no field"
            fields.append((name, value))
    part = Part(fields, body, [])
    if part.kind.startswith("multipart/"):
        part.parts.extend(read(each) for each in split(body, part.parameters("Content-Type")["boundary"].encode()))
    elif part.kind == "message/rfc822":
        assert part.encoding in ("7bit", "8bit", "binary")
        part.parts.append(read(body))
    return part


def split(body: bytes, boundary: bytes) -> list[bytes]:
    """Return the parts of a multipart (RFC 2046 5.1.1): without what stands around them."""
    delimiter = re.compile(rb"(?:\A|\n)--" + re.escape(boundary) + rb"(--)?[ \t]*(?:\n|\Z)")
    found: list[bytes] = []
    begun: int | None = None
    at = 0
    while (match := delimiter.search(body, at)) is not None:
        if begun is not None:
            found.append(body[begun : max(begun, match.start())])
        if match[1]:
            return found
        begun = match.end()
        at = match.end() - 1  # the line end may belong to the next delimiter
    raise AssertionError("a multipart without an end")
