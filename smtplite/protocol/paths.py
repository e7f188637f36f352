"""Reverse-paths, forward-paths and domains: validated once, into values that know their wire form.

Nothing is ever rewritten, with one exception: a domain in another script becomes its A-label (RFC 5890). What cannot
be sent as it stands is refused. Parsing an address "as a mail client would" has sent mail to another mailbox than the
caller's, and reported it as delivered.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from typing import Final, Self

import attrs
import idna

from smtplite.errors import MessageError
from smtplite.protocol.grammar import (
    ADDRESS_LITERAL,
    DOMAIN,
    DOT_STRING,
    DOT_STRING_UTF8,
    MAILBOX_DOMAIN,
    PLAIN_MAILBOX,
    QUOTED_STRING,
    QUOTED_STRING_UTF8,
)

__all__ = [
    "MAX_COMMAND_BYTES",
    "MAX_DOMAIN_BYTES",
    "MAX_LOCAL_PART_BYTES",
    "MAX_QUOTED_LOCAL_PART_BYTES",
    "Domain",
    "ForwardPath",
    "Path",
    "ReversePath",
]

# A local part without quotes. RFC 5321 4.5.3.1.1 has 64; SRS, VERP and list tokens are longer; servers accept them.
MAX_LOCAL_PART_BYTES: Final = 255
# A local part with its quotes (RFC 5321 4.5.3.1.1).
MAX_QUOTED_LOCAL_PART_BYTES: Final = 64
# A domain, as it is sent (RFC 5321 4.5.3.1.2).
MAX_DOMAIN_BYTES: Final = 255
# MAIL or RCPT with its parameters, without CRLF: a server that cuts a longer line would read another mailbox.
MAX_COMMAND_BYTES: Final = 998

#: Above this an address has no chance, and is not looked at: characters may be more than the octets of their A-labels.
_MAX_CHARACTERS: Final = 2048

# Control, format and surrogate characters, and every kind of separator: none can be seen, all can mislead.
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp", "Zs"})


@attrs.frozen
class Domain:
    """A domain or an address literal: the argument of EHLO, the right side of a mailbox (RFC 5321 4.1.2, 4.1.3)."""

    #: Its bytes as they are sent.
    wire: bytes

    @classmethod
    def parse(cls, domain: str | Domain) -> Domain:
        """Return the validated domain; a name in another script becomes its A-labels.

        Raises:
            MessageError: it is neither a domain nor an address literal.
        """
        if isinstance(domain, Domain):
            return domain
        if not isinstance(domain, str):
            raise MessageError(f"a domain must be a str, not {type(domain).__name__}")
        return cls(_domain(domain, f"domain {domain[:80]!r}").encode("ascii"))

    @classmethod
    def of_mailbox(cls, domain: str) -> Domain:
        """Return the validated domain of a mailbox, whose labels may hold an underscore.

        Raises:
            MessageError: it is neither a domain nor an address literal.
        """
        return cls(_domain(domain, f"domain {domain[:80]!r}", of_mailbox=True).encode("ascii"))


@attrs.frozen(eq=False)
class Path:
    """What reverse-path and forward-path have in common."""

    #: The address as it was given.
    address: str
    #: The path as it is sent, angle brackets included.
    wire: bytes
    #: True if the local part is not ASCII (RFC 6531).
    needs_smtputf8: bool = False

    @classmethod
    def _of_mailbox(cls, address: str) -> Self:
        """Parse ``Mailbox = Local-part "@" ( Domain / address-literal )``."""
        plain = PLAIN_MAILBOX.fullmatch(address)
        if plain is not None:  # nearly every address
            if len(address) <= MAX_LOCAL_PART_BYTES:  # shorter than each of the limits
                return cls(address, b"<" + address.encode("ascii") + b">")
            local, domain = plain.groups()
        else:
            if len(address) > _MAX_CHARACTERS:
                raise MessageError(f"address {_shown(address)} has more than {_MAX_CHARACTERS} characters")
            local, domain = _split(address)
            domain = _domain(domain, f"domain of {_shown(address)}", of_mailbox=True)
        octets = local.encode("utf-8")
        is_quoted = local.startswith('"')
        limit = MAX_QUOTED_LOCAL_PART_BYTES if is_quoted else MAX_LOCAL_PART_BYTES
        if len(octets) > limit:
            kind = "quoted local part" if is_quoted else "local part"
            raise MessageError(f"{kind} of {_shown(address)} has more than {limit} bytes")
        if len(domain) > MAX_DOMAIN_BYTES:
            raise MessageError(f"domain of {_shown(address)} has more than {MAX_DOMAIN_BYTES} bytes")
        wire = b"<" + octets + b"@" + domain.encode("ascii") + b">"
        return cls(address, wire, len(octets) != len(local))


class ReversePath(Path):
    """Where notifications about the message go: the argument of MAIL (RFC 5321 4.1.2, 4.5.5)."""

    @classmethod
    def parse(cls, address: str | ReversePath) -> ReversePath:
        """Return the validated path; "" is the null reverse-path.

        Raises:
            MessageError: the address cannot be sent in a MAIL command; says why.
        """
        if isinstance(address, ReversePath):
            return address
        if not isinstance(address, str):
            raise MessageError(f"the sender's address must be a str, not {type(address).__name__}")
        if not address:
            return cls("", b"<>")
        return cls._of_mailbox(address)


class ForwardPath(Path):
    """A recipient: the argument of RCPT (RFC 5321 4.1.1.3, 4.1.2)."""

    @classmethod
    def parse(cls, address: str | ForwardPath) -> ForwardPath:
        """Return the validated path; ``postmaster`` needs no domain.

        Raises:
            MessageError: the address cannot be sent in a RCPT command; says why.
        """
        if isinstance(address, ForwardPath):
            return address
        if not isinstance(address, str):
            raise MessageError(f"a recipient's address must be a str, not {type(address).__name__}")
        if address.lower() == "postmaster":  # RFC 5321 4.1.1.3: the one recipient without a domain
            return cls(address, b"<" + address.encode("ascii") + b">")
        return cls._of_mailbox(address)

    @property
    def mailbox(self) -> bytes:
        """What tells two recipients apart: the local part byte for byte, the domain without case (RFC 5321 2.4)."""
        local, at, domain = self.wire.rpartition(b"@")
        return local + at + domain.lower()


def _shown(address: str) -> str:
    return f"{address[:80]!r}"


def _split(address: str) -> tuple[str, str]:
    """Return the validated local part, and whatever stands behind the "@"."""
    _refuse_invisible(address, f"address {_shown(address)}")
    if address.startswith('"'):
        # The "@" that counts is the one behind the closing quote; QUOTED_STRING cannot match past an inner quote.
        quoted = (QUOTED_STRING if address.isascii() else QUOTED_STRING_UTF8).match(address)
        if quoted is None or address[quoted.end() : quoted.end() + 1] != "@":
            raise MessageError(f"address {_shown(address)} has a quoted local part that does not end before an @")
        return quoted.group(), address[quoted.end() + 1 :]
    local, at, domain = address.rpartition("@")
    if not at:
        raise MessageError(f"address {_shown(address)} has no @: give a full address, such as user@example.com")
    dot_string = DOT_STRING if local.isascii() else DOT_STRING_UTF8
    if dot_string.fullmatch(local) is None:
        if dot_string.fullmatch(local.replace(".", "")) is not None:  # docomo's, of old: dots are all that is wrong
            raise MessageError(
                f"address {_shown(address)} has two dots in a row, or one at an end, in its local part, which needs "
                f'quotes: write "{local[:80]}"@{domain[:80]}'
            )
        raise MessageError(
            f"address {_shown(address)} has a local part that is neither a dot-string nor quoted; "
            "pass the bare address, without a display name or angle brackets"
        )
    return local, domain


def _refuse_invisible(text: str, name: str) -> None:
    for character in text:
        # A space is legal inside a quoted local part; the grammar refuses it everywhere else.
        if character != " " and unicodedata.category(character) in _INVISIBLE:
            raise MessageError(f"{name} contains {character!r}")


#: What stands between labels: the full stops of other scripts too (UTS 46 2.3).
_FULL_STOP: Final = re.compile("[.\u3002\uff0e\uff61]")


def _domain(domain: str, name: str, *, of_mailbox: bool = False) -> str:
    """Return the domain as it is sent; `name` says in errors whose domain it is."""
    if domain.startswith("["):
        _check_address_literal(domain, name)
        return domain
    if not domain.isascii():
        if len(domain) > _MAX_CHARACTERS:  # the codec takes more than linear time
            raise MessageError(f"{name} has more than {_MAX_CHARACTERS} characters")
        _refuse_invisible(domain, name)  # the mapping to A-labels would drop some of them without a word
        try:
            # Label by label: one that is ASCII stays as it is, and an underscore in it spoils no other.
            domain = ".".join([label if label.isascii() else _a_label(label) for label in _FULL_STOP.split(domain)])
        except idna.IDNAError as error:
            raise MessageError(f"{name} is not an internationalized domain name: {error}") from error
        except UnicodeError as error:  # lone surrogates, and labels beyond what the codec takes
            raise MessageError(f"{name} is not an internationalized domain name") from error
    if (MAILBOX_DOMAIN if of_mailbox else DOMAIN).fullmatch(domain) is None:
        raise MessageError(f"{name} is neither a domain name nor an address literal such as [192.0.2.1]")
    if len(domain) > MAX_DOMAIN_BYTES:
        raise MessageError(f"{name} has more than {MAX_DOMAIN_BYTES} bytes")
    return domain


def _a_label(label: str) -> str:
    encoded = idna.encode(label, uts46=True, transitional=False).decode("ascii")
    if "." in encoded:  # a character that is mapped to a dot would end the label where nobody sees it
        raise idna.IDNAError(f"label {label[:80]!r} would become {encoded[:80]!r}")
    return encoded


def _check_address_literal(literal: str, name: str) -> None:
    match = ADDRESS_LITERAL.fullmatch(literal)
    if match is None:
        raise MessageError(f"{name} is not an address literal")
    tag, content = match.groups()
    try:
        if tag is None:
            ipaddress.IPv4Address(content)
        elif tag.lower() == "ipv6":
            if "%" in content:  # a scope is this host's business; RFC 5321 4.1.3 has none
                raise ValueError("it has a scope")
            ipaddress.IPv6Address(content)
    except ValueError as error:
        raise MessageError(f"{name} is not an address literal: {error}") from error
    if tag is not None and _is_ipv6(literal[1:-1]):  # "2001" would pass for a tag
        raise MessageError(f"{name} is an IPv6 address without its tag: write [IPv6:{literal[1:]}")


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True
