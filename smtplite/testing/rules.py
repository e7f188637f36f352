"""Which rule each mistake of a client breaks: one table, by the words that the mistake begins with."""

from __future__ import annotations

import re

__all__ = ["RULES", "rule_of"]

#: What a violation says, and the RFC section that it breaks. The first pattern that matches counts.
RULES: tuple[tuple[str, str], ...] = (
    ("8-bit content", "RFC 6152 section 3"),
    ("8-bit header section", "RFC 6532 section 3"),
    ("8-bit (MAIL|RCPT|VRFY|EXPN)", "RFC 6531 section 3.3"),
    ("8-bit command", "RFC 5321 section 2.4"),
    ("NUL in content|NUL in a command", "RFC 5321 section 2.3.8"),
    ("bare (CR|LF)", "RFC 5321 section 2.3.8"),
    ("line over", "RFC 5321 section 4.5.3.1.6"),
    ("a line of content that begins with a dot", "RFC 5321 section 4.5.2"),
    (r"[0-9]+ bytes of content, SIZE", "RFC 1870 section 6.3"),
    ("command line too long", "RFC 5321 section 4.5.3.1.4"),
    ("AUTH response too long", "RFC 4954 section 4"),
    ("control character in|command that is not UTF-8", "RFC 5321 section 4.1.2"),
    ("space at the end", "RFC 5321 section 4.1.1"),
    ("(EHLO|HELO|LHLO) without a domain", "RFC 5321 section 4.1.1.1"),
    (".* after a negative greeting", "RFC 5321 section 3.1"),
    ("STARTTLS|unencrypted bytes where TLS begins|bytes after STARTTLS", "RFC 3207 section 4"),
    ("AUTH|initial response|.*response", "RFC 4954 section 4"),
    ("BDAT, which|BDAT without a chunk size|BDAT without MAIL|MAIL without RSET|RCPT after BDAT", "RFC 3030 section 2"),
    ("DATA after BDAT", "RFC 3030 section 2"),
    ("DATA with BODY=BINARYMIME", "RFC 3030 section 3"),
    ("(MAIL|RCPT) beyond", "RFC 9422 section 4"),
    ("MAIL before EHLO|MAIL within|DATA without|RCPT without", "RFC 5321 section 4.1.4"),
    ("parameter .* which is not offered|unknown command|[A-Z]+, which is not offered", "RFC 5321 section 2.2.1"),
    ("bad parameter|a parameter|parameter|HOLDFOR and HOLDUNTIL", "RFC 5321 section 4.1.1.11"),
    (
        "a space after the colon|a path |a null forward-path|not a local part|a quoted local part",
        "RFC 5321 section 4.1.2",
    ),
    ("MAIL without FROM:", "RFC 5321 section 4.1.1.2"),
    ("RCPT without TO:", "RFC 5321 section 4.1.1.3"),
    ("a source route", "RFC 5321 section 3.3"),
    ("bytes directly after the path", "RFC 5321 section 4.1.2"),
    ("bytes before the greeting", "RFC 5321 section 4.3.1"),
    ("bytes after .* ends its group|pipelining", "RFC 2920 section 3.1"),
    ("[A-Z]+ (takes no|with an|without an) argument", "RFC 5321 section 4.1.1"),
)

_RULES = tuple((re.compile(pattern), rfc) for pattern, rfc in RULES)


def rule_of(what: str) -> str:
    """Return the RFC section that a mistake breaks; empty: the table does not know it."""
    return next((rfc for pattern, rfc in _RULES if pattern.match(what)), "")
