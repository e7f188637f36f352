"""The reply to EHLO as typed properties (RFC 5321 4.1.1.1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Final

import attrs

from smtplite.protocol.grammar import EHLO_LINE
from smtplite.protocol.reply import Reply

__all__ = ["Extensions", "Limits"]

_MAX_DIGITS: Final = 20  # of a number in a keyword's parameter: RFC 1870 4 has the longest


@attrs.frozen
class Limits:
    """The limits that the server announces (RFC 9422 4); None: it does not say."""

    #: Mail transactions in one session.
    mailmax: int | None = None
    #: RCPT commands in one mail transaction, including refused ones.
    rcptmax: int | None = None
    #: Different domains among the recipients of one transaction.
    rcptdomainmax: int | None = None


class Extensions(Mapping[str, tuple[str, ...]]):
    """What the server offers: upper-case keyword -> its parameters, and a typed property for each that we know.

    Look-up ignores case: ``"pipelining" in extensions``. A keyword that stands twice has the parameters of both lines.
    """

    def __init__(self, keywords: Mapping[str, Sequence[str]] | None = None, *, greeting: str = "") -> None:
        #: The first line's text: the server's own name, and whatever it adds.
        self.greeting = greeting
        self._keywords: Mapping[str, tuple[str, ...]] = MappingProxyType(
            {keyword.upper(): tuple(parameters) for keyword, parameters in (keywords or {}).items()}
        )
        # Asked at every message: plain attributes.
        self.pipelining: bool = "PIPELINING" in self._keywords
        self.chunking: bool = "CHUNKING" in self._keywords
        self.enhanced_status_codes: bool = "ENHANCEDSTATUSCODES" in self._keywords
        self.burl: bool = "BURL" in self._keywords
        #: True if MAIL may say how large the message is (RFC 1870 3).
        self.announces_size: bool = "SIZE" in self._keywords
        #: True if chunks may be written ahead of the replies that are owed. Not where BURL is offered: Dovecot's
        #: submission server, which offers it, does not pass on the RSET of the window's proof in time.
        self.chunks_ahead: bool = self.chunking and self.pipelining and not self.burl

    @classmethod
    def from_reply(cls, reply: Reply) -> Extensions:
        """Read a positive reply to EHLO or LHLO; lines that fit no grammar are passed over."""
        keywords: dict[str, list[str]] = {}
        for line in reply.lines[1:]:
            match = EHLO_LINE.fullmatch(line.strip())
            if match is None:
                continue
            keyword, parameters = match.groups(b"")
            name = keyword.decode("ascii").upper()
            keywords.setdefault(name, []).extend(parameters.decode("ascii").split())
        return cls(keywords, greeting=reply.lines[0].decode("utf-8", "replace"))

    def __getitem__(self, keyword: str) -> tuple[str, ...]:
        return self._keywords[keyword.upper()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keywords)

    def __len__(self) -> int:
        return len(self._keywords)

    def __contains__(self, keyword: object) -> bool:
        return isinstance(keyword, str) and keyword.upper() in self._keywords

    def __repr__(self) -> str:
        return f"Extensions({dict(self._keywords)!r})"

    def __reduce__(self) -> tuple[object, ...]:
        # A mapping proxy cannot be pickled; the keywords can.
        return _extensions, (dict(self._keywords), self.greeting)

    @property
    def starttls(self) -> bool:
        """RFC 3207."""
        return "STARTTLS" in self

    @property
    def eight_bit_mime(self) -> bool:
        """RFC 6152."""
        return "8BITMIME" in self

    @property
    def binarymime(self) -> bool:
        """RFC 3030 3: only together with CHUNKING."""
        return "BINARYMIME" in self and self.chunking

    @property
    def smtputf8(self) -> bool:
        """RFC 6531: only together with 8BITMIME."""
        return "SMTPUTF8" in self and self.eight_bit_mime

    @property
    def dsn(self) -> bool:
        """RFC 3461."""
        return "DSN" in self

    @property
    def requiretls(self) -> bool:
        """RFC 8689: has a meaning only inside TLS."""
        return "REQUIRETLS" in self

    @cached_property
    def server_name(self) -> str:
        """The server's name for itself: the first word of its greeting."""
        return self.greeting.partition(" ")[0]

    @cached_property
    def size(self) -> int | None:
        """The largest message that the server accepts, in bytes; None: it does not say (RFC 1870 4: absent, or 0)."""
        return _number(self.get("SIZE", ())[:1]) or None

    @cached_property
    def auth(self) -> tuple[str, ...]:
        """The authentication mechanisms, upper case, in the server's order, each once (RFC 4954 3)."""
        # "AUTH=PLAIN" beside "AUTH PLAIN" is met in the field: EHLO_LINE reads both forms as one keyword.
        return tuple(dict.fromkeys(mechanism.upper() for mechanism in self.get("AUTH", ())))

    @cached_property
    def limits(self) -> Limits:
        """RFC 9422; names that we do not know are ignored."""
        values: dict[str, int] = {}
        for item in self.get("LIMITS", ()):
            name, _, value = item.partition("=")
            number = _number((value,))
            if number and name.upper() in ("MAILMAX", "RCPTMAX", "RCPTDOMAINMAX"):
                values[name.lower()] = number
        return Limits(**values)


def _extensions(keywords: dict[str, tuple[str, ...]], greeting: str) -> Extensions:
    return Extensions(keywords, greeting=greeting)


def _number(words: tuple[str, ...]) -> int:
    """Return the only word as a number; 0 if there is none or it is no plain decimal of a sane length."""
    for word in words:
        if len(word) <= _MAX_DIGITS and word.isascii() and word.isdigit():
            return int(word)
    return 0
