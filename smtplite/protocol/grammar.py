"""The regular expressions of the core, each under its ABNF and its RFC section; deviations say why.

All of them work on octets (or on ASCII text before it becomes octets), and all of them are meant for ``fullmatch``:
a pattern that only begins to match has let injections through in other clients.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = [
    "ADDRESS_LITERAL",
    "AUTH_MECHANISM",
    "DOMAIN",
    "DOT_STRING",
    "DOT_STRING_UTF8",
    "EHLO_LINE",
    "ENHANCED_STATUS",
    "KEYWORD",
    "MAILBOX_DOMAIN",
    "PLAIN_MAILBOX",
    "QUOTED_STRING",
    "QUOTED_STRING_UTF8",
    "REPLY_LINE",
    "TEXT_ARGUMENT",
    "VALUE",
    "VERB",
]

# Reply-line = *( Reply-code "-" [ textstring ] CRLF ) Reply-code [ SP textstring ] CRLF
# Reply-code = %x32-35 %x30-35 %x30-39;  textstring = 1*(%d09 / %d32-126)                     (RFC 5321 4.2)
# Deviations: any second digit (571 is a real refusal, met in the field); TAB where SP stands (met); any octet in the
# text but NUL, CR and LF (UTF-8 and latin-1 are met; a bare CR or LF is how replies are smuggled).
REPLY_LINE: Final = re.compile(rb"([2-5][0-9][0-9])(?:([- \t])([^\x00\r\n]*))?\r\n")

# status-code = class "." subject "." detail;  class = "2"/"4"/"5";  subject, detail = 1*3digit     (RFC 3463 2)
ENHANCED_STATUS: Final = re.compile(rb"([245])\.([0-9]{1,3})\.([0-9]{1,3})(?=[ \t]|$)")

# ehlo-line = ehlo-keyword *( SP ehlo-param )
# ehlo-keyword = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-");  ehlo-param = 1*(%d33-126)              (RFC 5321 4.1.1.1)
# Deviations: "_" in a keyword (X_PIPE_CONNECT is met) and "=" behind it (the legacy form "AUTH=PLAIN LOGIN").
# Possessive ("++"), or a line of 4,000 "=" with one wrong octet behind them takes 160 ms to be refused.
EHLO_LINE: Final = re.compile(rb"([A-Za-z0-9][A-Za-z0-9_-]*+)(?:[ \t=]++([\x21-\x7e \t]*+))?")

# command verb: no ABNF of its own in RFC 5321; all of them, and all registered extensions', are letters, digits, "-".
VERB: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,31}")

# String = Atom / Quoted-string for VRFY, EXPN, HELP, NOOP (RFC 5321 4.1.1.6 ff.).
# Deviation: any printable text, since servers take list names and addresses with spaces there; never a control octet.
TEXT_ARGUMENT: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")

# esmtp-keyword = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-")                                          (RFC 5321 4.1.2)
KEYWORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
# esmtp-value = 1*(%d33-60 / %d62-126)                                                            (RFC 5321 4.1.2)
# Deviation: neither "<" nor ">", for a server that looks for the last ">" of the line would read another path (R18).
VALUE: Final = re.compile(r"[\x21-\x3b\x3f-\x7e]+")

# sasl-mech = 1*20mech-char;  mech-char = UPPER-ALPHA / DIGIT / HYPHEN / UNDERSCORE               (RFC 4422 3.1)
AUTH_MECHANISM: Final = re.compile(r"[A-Z0-9_-]{1,20}")

# Domain = sub-domain *("." sub-domain);  sub-domain = Let-dig [Ldh-str]                          (RFC 5321 4.1.2)
# A label is at most 63 octets (RFC 1035 2.3.4).
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
DOMAIN: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
# Behind the @ of a mailbox.
# Deviation: "_" wherever a letter may stand (met: the networks of containers have such names, and mail goes there).
_MAILBOX_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
MAILBOX_DOMAIN: Final = re.compile(rf"{_MAILBOX_LABEL}(?:\.{_MAILBOX_LABEL})*")

# address-literal = "[" ( IPv4-address-literal / IPv6-address-literal / General-address-literal ) "]"
# General-address-literal = Standardized-tag ":" 1*dcontent;  dcontent = %d33-90 / %d94-126       (RFC 5321 4.1.3)
# The addresses themselves are checked by `ipaddress`, in `paths`.
# Deviation: neither "<" nor ">" outside of quotes (R18): a server that stops at the first ">" would read another path.
ADDRESS_LITERAL: Final = re.compile(r"\[(?:([A-Za-z0-9-]*[A-Za-z0-9]):)?([\x21-\x3b=\x3f-\x5a\x5e-\x7e]+)\]")

# Dot-string = Atom *("."  Atom);  atext = ALPHA / DIGIT / "!#$%&'*+-/=?^_`{|}~"       (RFC 5321 4.1.2, RFC 5322 3.2.3)
_ATEXT: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
DOT_STRING: Final = re.compile(rf"{_ATEXT}+(?:\.{_ATEXT}+)*")
# With SMTPUTF8, atext =/ UTF8-non-ascii (RFC 6531 3.3); which of them are refused is decided by category, in `paths`.
_UTEXT: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010ffff-]"
DOT_STRING_UTF8: Final = re.compile(rf"{_UTEXT}+(?:\.{_UTEXT}+)*")

# Quoted-string = DQUOTE *QcontentSMTP DQUOTE;  QcontentSMTP = qtextSMTP / quoted-pairSMTP
# quoted-pairSMTP = %d92 %d32-126;  qtextSMTP = %d32-33 / %d35-91 / %d93-126                      (RFC 5321 4.1.2)
QUOTED_STRING: Final = re.compile(r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\[\x20-\x7e])*"')
QUOTED_STRING_UTF8: Final = re.compile(r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e\u0080-\U0010ffff]|\\[\x20-\x7e])*"')

# What nearly every mailbox looks like, in one match: Dot-string "@" Domain. Lengths are checked behind it.
PLAIN_MAILBOX: Final = re.compile(rf"({_ATEXT}+(?:\.{_ATEXT}+)*)@({_MAILBOX_LABEL}(?:\.{_MAILBOX_LABEL})*)")
