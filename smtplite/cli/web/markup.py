"""HTML mail for a browser: what keeps it harmless, its pictures, and its links as text.

The headers of its response (`POLICY`) forbid what it must not do, and its frame is also sandboxed. This module deals
with what no header can forbid: Chromium opens a connection for ``<link rel=preconnect>``, for ``<iframe src>`` and for
a click on a link in the frame, and only then finds that the policy lets it load nothing; and ``<meta
http-equiv=x-dns-prefetch-control>`` lets links be looked up. All of them tell a sender that the mail was read.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Iterator
from typing import Final

import attrs

from smtplite.cli.parts import Attachment, visible

__all__ = ["MAX_MARKUP_CHARS", "POLICY", "Link", "links_of", "shown"]

#: Of a response with HTML mail. ``img-src 'self'`` would let the mail GET each of our paths.
POLICY: Final = (
    "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)

#: HTML that is shown without a click: more of it keeps a browser busy.
MAX_MARKUP_CHARS: Final = 2_000_000
#: Of all pictures that are put into the HTML. A mail may name one a million times.
MAX_PICTURE_BYTES: Final = 32 * 1024 * 1024
MAX_LINKS: Final = 500
MAX_LINK_CHARS: Final = 4096
#: Of a text, or an HTML text, in which links are looked for.
MAX_SEARCHED_CHARS: Final = 1_000_000

_PICTURES: Final = {
    "image/png",
    "image/jpeg",
    "image/gif",
    "image/webp",
    "image/avif",
    "image/bmp",
    "image/svg+xml",  # as a picture it runs nothing and loads nothing
}
#: Elements that are replaced by others that may stand in the same places and do nothing: the rest keeps its structure.
_REPLACED: Final = re.compile(r"<(?:link|meta|base|frame)(?=[\s/>])|(</?)iframe(?=[\s/>])", re.IGNORECASE)
_INERT: Final = "<bgsound"
_INERT_FRAME: Final = "noembed"
#: A click on a link would replace the mail by an error. It may not open a new window either, so nothing happens. Of two
#: attributes with one name a browser uses the first; and links of SVG ignore <base>.
_LINK: Final = re.compile(r"<(a|area)(?=[\s/>])", re.IGNORECASE)
_BLANK: Final = ' target="_blank"'
#: What would change an attribute while the mail is shown, also that one.
_ANIMATION: Final = re.compile(r"(</?)(?:set|animate(?:motion|transform|color)?)(?=[\s/>])", re.IGNORECASE)
_CID: Final = re.compile(r"""cid:([^\s"'<>()&;]{1,250})""", re.IGNORECASE)

_ANCHOR: Final = re.compile(r"<(?:a|area)(?=[\s/])", re.IGNORECASE)
_ATTRIBUTE: Final = re.compile(r"""[\s/]*([^\s/>=]{1,100})(?:\s*=\s*("[^"]*"|'[^']*'|[^\s>]*))?""")
_URL: Final = re.compile(r"""https?://[^\s<>"'\x00-\x20]{1,4000}""", re.IGNORECASE)
_OPENS: Final = re.compile(r"https?://[^/\s]", re.IGNORECASE)


@attrs.frozen
class Link:
    """A link of a message.

    Attributes:
        url: as it is, without invisible characters.
        opens: whether a browser may go there: only http and https.
    """

    url: str
    opens: bool


def shown(markup: str, attachments: Iterable[Attachment]) -> str:
    """Return the HTML of a message as it is shown: with its pictures, and without links to elsewhere in its head.

    Args:
        markup: the HTML.
        attachments: of the same message, for what it names by ``cid:``.
    """
    pictures = {each.content_id: each for each in attachments if each.content_id and each.content_type in _PICTURES}
    left = MAX_PICTURE_BYTES
    uris: dict[str, str] = {}

    def picture(match: re.Match[str]) -> str:
        nonlocal left
        name = match[1]
        found = pictures.get(name) or pictures.get(_unquoted(name))
        if found is None or len(found.data) > left:
            return match[0]
        left -= len(found.data)
        if name not in uris:
            uris[name] = f"data:{found.content_type};base64,{base64.b64encode(found.data).decode('ascii')}"
        return uris[name]

    inert = _REPLACED.sub(lambda match: _INERT if match[1] is None else f"{match[1]}{_INERT_FRAME}", markup)
    inert = _ANIMATION.sub(r"\1metadata", _LINK.sub(lambda match: match[0] + _BLANK, inert))
    return _CID.sub(picture, inert) if pictures else inert


def _unquoted(name: str) -> str:
    return re.sub("%([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), name)


def links_of(text: str | None, markup: str | None) -> tuple[Link, ...]:
    """Return the links of a message, each once, those of the HTML first; in linear time, whatever it is given."""
    found: dict[str, None] = {}
    for url in (*_of_markup((markup or "")[:MAX_SEARCHED_CHARS]), *_of_text((text or "")[:MAX_SEARCHED_CHARS])):
        if url and len(found) < MAX_LINKS:
            found.setdefault(url)
    return tuple(Link(url, _OPENS.match(url) is not None) for url in found)


def _of_markup(markup: str) -> Iterator[str]:
    position = 0
    while (start := _ANCHOR.search(markup, position)) is not None:
        tag = markup[start.end() : start.end() + MAX_LINK_CHARS]
        position, at = start.end(), 0
        while (match := _ATTRIBUTE.match(tag, at)) is not None:
            at = match.end()
            if match[1].lower() in {"href", "xlink:href"} and match[2] is not None:
                # A browser also leaves these out of a URL.
                yield visible(re.sub(r"[\t\r\n]", "", html.unescape(match[2].strip("\"'")))).strip()
        position += at


def _of_text(text: str) -> Iterator[str]:
    for match in _URL.finditer(text):
        yield visible(match[0].rstrip(".,;:!?)]}"))
