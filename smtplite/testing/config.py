"""How a testing server behaves: what it offers, and what it was told to say."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from smtplite.testing.script import ScriptedReply

__all__ = ["DEFAULT_SIZE_LIMIT", "ServerConfig", "ServerExtensions"]

DEFAULT_SIZE_LIMIT = 128 * 1024 * 1024
"""Octets of content that a server takes unless told otherwise."""


def _upper(keywords: Iterable[str]) -> frozenset[str]:
    return frozenset(keyword.upper() for keyword in keywords)


@attrs.frozen(kw_only=True)
class ServerExtensions:
    """What the reply to EHLO or LHLO offers, and so what the server accepts; everything but LIMITS by default.

    What is not offered is not known: BDAT without `chunking` is answered 500 and its octets run as commands, a
    parameter of an extension that is off is answered 555. That is what servers without the extension do.
    """

    pipelining: bool = True
    """PIPELINING (RFC 2920). Off: more than one command in a write is answered all the same, and recorded."""
    chunking: bool = True
    """CHUNKING (RFC 3030)."""
    eight_bit_mime: bool = True
    """8BITMIME (RFC 6152)."""
    smtputf8: bool = True
    """SMTPUTF8 (RFC 6531)."""
    size: int | None = DEFAULT_SIZE_LIMIT
    """SIZE (RFC 1870): the limit in octets; 0: offered without a limit; None: not offered."""
    dsn: bool = True
    """DSN (RFC 3461)."""
    enhanced_status_codes: bool = True
    """ENHANCEDSTATUSCODES (RFC 2034)."""
    mailmax: int | None = None
    """LIMITS MAILMAX (RFC 9422): transactions in a session; the MAIL beyond is answered 421."""
    rcptmax: int | None = None
    """LIMITS RCPTMAX (RFC 9422): RCPT in a transaction, refused ones too; those beyond are answered 452 4.5.3."""
    help: bool = True
    """HELP (RFC 5321 section 4.1.1.8)."""
    extra_keywords: tuple[str, ...] = ()
    """Further lines of the reply, such as ``"AUTH=PLAIN LOGIN"``: said, and nothing else."""
    extra_parameters: frozenset[str] = attrs.field(default=frozenset(), converter=_upper)
    """Keywords of further parameters of MAIL and RCPT, taken with any value."""

    @classmethod
    def none(cls) -> ServerExtensions:
        """Return extensions of which not one is offered."""
        return cls(
            pipelining=False,
            chunking=False,
            eight_bit_mime=False,
            smtputf8=False,
            size=None,
            dsn=False,
            enhanced_status_codes=False,
            help=False,
        )

    def keywords(self) -> tuple[str, ...]:
        """Return the lines that follow the first one of the reply to EHLO."""
        limits = [
            f"{name}={value}"
            for name, value in (("MAILMAX", self.mailmax), ("RCPTMAX", self.rcptmax))
            if value is not None
        ]
        offered = [
            ("PIPELINING", self.pipelining),
            ("CHUNKING", self.chunking),
            ("8BITMIME", self.eight_bit_mime),
            ("SMTPUTF8", self.smtputf8),
            (f"SIZE {self.size}" if self.size else "SIZE", self.size is not None),
            ("DSN", self.dsn),
            ("ENHANCEDSTATUSCODES", self.enhanced_status_codes),
            (" ".join(["LIMITS", *limits]), bool(limits)),
            ("HELP", self.help),
        ]
        return (*(keyword for keyword, is_offered in offered if is_offered), *self.extra_keywords)


@attrs.frozen(kw_only=True)
class ServerConfig:
    """One testing server's behaviour, the same for each of its connections."""

    name: str = "mail.example.com"
    """The domain that greeting and EHLO reply begin with."""
    extensions: ServerExtensions = attrs.field(factory=ServerExtensions)
    lmtp: bool = False
    """Speak LMTP (RFC 2033): LHLO only, and one reply per accepted recipient after end of data."""
    numbered: bool = False
    """
    End the first line of each reply in the number of the command that it answers: ``250 2.1.0 sender ok #3``.

    The greeting is ``#0``. Content behind a 354 counts as a command of its own, a BDAT and its chunk as one.
    """
    replies: tuple[ScriptedReply, ...] = ()
    """Scripted replies that each connection starts with, where no common `Script` is given."""
