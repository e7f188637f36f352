"""What a person reads of a message: decoded header fields, its text, and a line for each attachment.

Anybody may have written the message: whatever it holds, reading it ends, and costs no more than its size.
"""

from __future__ import annotations

import base64
import email
import email.policy
import quopri
import re
from collections.abc import Iterator
from email.message import Message
from html.parser import HTMLParser
from typing import Final

import attrs

__all__ = ["Attachment", "Reading", "decoded", "read", "text_of_html"]

#: The fields that people look at, in this order.
_SHOWN: Final = ("From", "Reply-To", "To", "Cc", "Subject", "Date")
#: Of a message, what is looked at; and of its header section where nothing else is asked for; and how many parts.
MAX_BYTES: Final = 8 * 1024 * 1024
MAX_LINES: Final = 150_000
MAX_HEADER_BYTES: Final = 64 * 1024
MAX_PARTS: Final = 1_000
#: Of a field, and of one with parameters: the stdlib's parser takes quadratic time for these.
MAX_FIELD_CHARS: Final = 10_000
MAX_PARAMETER_BYTES: Final = 2_000
#: Of HTML, what is made text: the stdlib's parser takes quadratic time for some of it.
MAX_HTML_CHARS: Final = 100_000
_PARAMETERS: Final = re.compile(rb"^content-[a-z-]{1,30}[ \t]*:[^\n]*(?:\n[ \t][^\n]*)*", re.IGNORECASE | re.MULTILINE)
_WORD: Final = re.compile(r"=\?(?P<charset>[^?\s]{1,60})\?(?P<way>[bBqQ])\?(?P<text>[^?\s]*)\?=")
_FOLD: Final = re.compile(r"\r?\n(?=[ \t])")


@attrs.frozen(kw_only=True)
class Attachment:
    """A part of a message that is not its text.

    Attributes:
        name: of the file; empty if it has none.
        type: such as "application/pdf".
        size: in bytes, decoded.
        is_inline: whether the HTML text shows it.
    """

    name: str
    type: str
    size: int
    is_inline: bool = False


@attrs.frozen(kw_only=True)
class Reading:
    """A message as a person reads it.

    Attributes:
        fields: header fields with their decoded text.
        text: what it says; if there is only HTML, the text of that.
        html: its HTML, if it has any.
        is_text_of_html: whether `text` was made of HTML.
        attachments: in the order of the message.
        problem: what could not be read; None: nothing.
    """

    fields: tuple[tuple[str, str], ...] = ()
    text: str = ""
    html: str | None = None
    is_text_of_html: bool = False
    attachments: tuple[Attachment, ...] = ()
    problem: str | None = None

    def field(self, name: str) -> str:
        """Return the text of a field; empty if it is not there."""
        return next((text for known, text in self.fields if known == name), "")


def read(content: bytes, *, only_header: bool = False) -> Reading:
    """Read a message.

    Args:
        content: the message.
        only_header: whether only the header section is of interest, which costs less.
    """
    looked_at = content[: MAX_HEADER_BYTES if only_header else MAX_BYTES]
    if only_header:
        looked_at = looked_at.partition(b"\r\n\r\n")[0]
    lines = looked_at.split(b"\n", MAX_LINES)
    if len(lines) > MAX_LINES:
        looked_at = b"\n".join(lines[:MAX_LINES])
    try:
        clipped = _PARAMETERS.sub(lambda match: match[0][:MAX_PARAMETER_BYTES], looked_at)
        message = email.message_from_bytes(clipped, policy=email.policy.compat32)
        reading = _read(message)
    except Exception as error:  # noqa: BLE001 (whatever the stdlib's parser meets in what anybody may have written)
        return Reading(problem=f"cannot be read as a message: {type(error).__name__}")
    if only_header or len(looked_at) == len(content):
        return reading
    return attrs.evolve(reading, problem=f"only its first {len(looked_at):,} bytes were read")


def _read(message: Message) -> Reading:
    values: dict[str, str] = {}
    for name, value in message.raw_items():  # what the parser read: the other ways lose 8-bit bytes
        values.setdefault(name.lower(), str(value))
    fields = tuple((name, decoded(values[name.lower()])) for name in _SHOWN if name.lower() in values)
    texts: list[str] = []
    pages: list[str] = []
    attachments: list[Attachment] = []
    for part, is_alternative in _leaves(message):
        kind = part.get_content_type()
        name = _name(part)
        is_attached = part.get_content_disposition() == "attachment" or bool(name)
        if kind == "text/plain" and not is_attached:
            texts.append(_text(part))
        elif kind == "text/html" and not is_attached and (is_alternative or not pages):
            pages.append(_text(part))
        else:
            is_inline = part.get_content_disposition() == "inline" or part.get("Content-ID") is not None
            attachments.append(Attachment(name=name, type=kind, size=_size(part), is_inline=is_inline))
    html = "\n".join(pages) if pages else None
    text = "\n".join(texts)
    is_text_of_html = html is not None and not text.strip()
    if html is not None and is_text_of_html:
        text = text_of_html(html)
    return Reading(fields=fields, text=text, html=html, is_text_of_html=is_text_of_html, attachments=tuple(attachments))


def _leaves(message: Message) -> Iterator[tuple[Message, bool]]:
    """Yield the parts that hold something, and whether each is one of several ways to say the same."""
    waiting: list[tuple[Message, bool]] = [(message, False)]
    for _ in range(MAX_PARTS):
        if not waiting:
            return
        part, is_alternative = waiting.pop()
        payload = part.get_payload()
        if part.get_content_maintype() == "multipart" and isinstance(payload, list):
            inside = part.get_content_subtype() == "alternative"
            waiting += [(child, inside) for child in reversed(payload) if isinstance(child, Message)]
        else:
            yield part, is_alternative


def _size(part: Message) -> int:
    payload = part.get_payload(decode=True)
    if isinstance(payload, bytes):
        return len(payload)
    return sum(len(child.as_bytes()) for child in part.get_payload() if isinstance(child, Message))


def _text(part: Message) -> str:
    payload = part.get_payload(decode=True)
    data = payload if isinstance(payload, bytes) else b""
    for charset in (part.get_content_charset() or "us-ascii", "utf-8"):
        try:
            return data.decode(charset).replace("\r\n", "\n")
        except (LookupError, ValueError):  # a charset that nobody knows, or not the one that it says
            continue
    return data.decode("latin-1").replace("\r\n", "\n")


def _name(part: Message) -> str:
    name = part.get_filename()
    return decoded(name) if name else ""


def decoded(value: str) -> str:
    """Return the text of a header field: unfolded, its encoded words decoded (RFC 2047)."""
    text = _utf8(_FOLD.sub("", value[:MAX_FIELD_CHARS]).strip())
    pieces: list[str] = []
    position = 0
    charset, data = "", b""  # of the encoded words that follow each other: some mailers cut a character in two
    for match in _WORD.finditer(text):
        between = text[position : match.start()]
        position = match.end()
        own_charset, own = match["charset"].partition("*")[0].lower(), _octets(match["way"], match["text"])
        if (between.strip() or own_charset != charset) and data:
            pieces.append(_decoded_octets(data, charset))
            data = b""
        if between.strip():  # white space between two encoded words belongs to neither
            pieces.append(between)
        charset = own_charset
        data += own
    if data:
        pieces.append(_decoded_octets(data, charset))
    return "".join([*pieces, text[position:]])


def _octets(way: str, text: str) -> bytes:
    if way in "qQ":
        return quopri.decodestring(text.replace("_", "=20").encode("utf-8"), header=False)
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return text.encode("utf-8")


def _decoded_octets(data: bytes, charset: str) -> str:
    try:
        return data.decode(charset)
    except (LookupError, ValueError):  # a charset that nobody knows, or not the one that it says
        return data.decode("utf-8", "replace")


def _utf8(text: str) -> str:
    """Return text whose 8-bit bytes the parser kept as surrogates, read as UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class _Stripper(HTMLParser):
    """Collects the text of a page, with a line for each block and the target of each link."""

    _BLOCKS: Final = frozenset(
        (
            "p",
            "div",
            "br",
            "tr",
            "li",
            "h1",
            "h2",
            "h3",
            "h4",
            "h5",
            "h6",
            "table",
            "ul",
            "ol",
            "blockquote",
            "pre",
            "hr",
        )
    )
    _HIDDEN: Final = frozenset(("style", "script", "head", "title"))

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._hidden: list[str] = []
        self._link = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See `HTMLParser`."""
        if tag in self._HIDDEN:
            self._hidden.append(tag)
        elif tag == "body":
            self._hidden.clear()
        elif tag in self._BLOCKS:
            self.pieces.append("\n- " if tag == "li" else "\n")
        if tag == "a":
            self._link = dict(attrs).get("href") or ""

    def handle_endtag(self, tag: str) -> None:
        """See `HTMLParser`."""
        if self._hidden and tag == self._hidden[-1]:
            self._hidden.pop()
        elif tag == "a" and self._link:
            link, self._link = self._link, ""
            if not "".join(self.pieces[-3:]).strip().endswith(link):
                self.pieces.append(f" <{link}>")
        elif tag in ("p", "table", "ul", "ol", "h1", "h2", "h3"):
            self.pieces.append("\n\n")

    def handle_data(self, data: str) -> None:
        """See `HTMLParser`."""
        if not self._hidden:
            self.pieces.append(re.sub(r"\s+", " ", data))


def text_of_html(html: str) -> str:
    """Return what a page says, roughly: for a terminal, where the page cannot be shown."""
    stripper = _Stripper()
    try:
        stripper.feed(html[:MAX_HTML_CHARS])
        if len(html) <= MAX_HTML_CHARS:
            stripper.close()
    except AssertionError:  # the stdlib's parser gives up on some declarations, such as "<![x"
        stripper.pieces.append("\n(the rest of the HTML cannot be read)")
    if len(html) > MAX_HTML_CHARS:
        stripper.pieces.append("\n(the rest of the HTML is not shown)")
    lines = [line.strip() for line in "".join(stripper.pieces).split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
