"""What a person reads of a message on a terminal: its main fields, its text, and a line for each attachment.

Of a message that is very long, only the beginning is read: nobody wants to wait for a terminal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from html.parser import HTMLParser
from typing import Final

import attrs

from smtplite.cli import parts

__all__ = ["Attachment", "Reading", "read", "text_of_html"]

#: The fields that people look at, in this order.
_SHOWN: Final = ("From", "Reply-To", "To", "Cc", "Subject", "Date")
#: So much of a message is read.
MAX_BYTES: Final = 8 * 1024 * 1024
MAX_LINES: Final = 150_000
#: So much HTML is turned into text: the stdlib's parser takes quadratic time for some of it.
MAX_HTML_CHARS: Final = 100_000


@attrs.frozen(kw_only=True)
class Attachment:
    """A part of a message that is not its text.

    Attributes:
        name: of the file.
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
        is_text_of_html: whether `text` was made from HTML.
        attachments: in the order of the message.
        problems: what could not be read.
    """

    fields: tuple[tuple[str, str], ...] = ()
    text: str = ""
    html: str | None = None
    is_text_of_html: bool = False
    attachments: tuple[Attachment, ...] = ()
    problems: tuple[str, ...] = ()

    def field(self, name: str) -> str:
        """Return the text of a field; empty if it is not there."""
        return next((text for known, text in self.fields if known == name), "")


def read(content: bytes, *, only_header: bool = False) -> Reading:
    """Read a message.

    Args:
        content: the message.
        only_header: whether only the header section is of interest, which costs less.
    """
    if only_header:
        return Reading(fields=_fields(parts.fields_of(content)))
    looked_at = content[:MAX_BYTES]
    lines = looked_at.split(b"\n", MAX_LINES)
    if len(lines) > MAX_LINES:
        looked_at = b"\n".join(lines[:MAX_LINES])
    message = parts.read(looked_at)
    text, html = message.text or "", message.markup
    is_text_of_html = html is not None and not text.strip()
    if html is not None and is_text_of_html:
        text = text_of_html(html)
    problems = message.problems
    if len(looked_at) < len(content):
        problems = (*problems, f"only its first {len(looked_at):,} bytes were read")
    return Reading(
        fields=_fields(message.headers),
        text=text,
        html=html,
        is_text_of_html=is_text_of_html,
        attachments=tuple(
            Attachment(name=one.name, type=one.content_type, size=len(one.data), is_inline=bool(one.content_id))
            for one in message.attachments
        ),
        problems=problems,
    )


def _fields(headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return the fields that people look at, each once, in this order."""
    first: dict[str, str] = {}
    for name, text in headers:
        first.setdefault(name.lower(), text)
    return tuple((name, first[name.lower()]) for name in _SHOWN if name.lower() in first)


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
    """Return roughly what a page says, for a terminal, where the page cannot be shown."""
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
