"""Sender and recipients out of header fields."""

from __future__ import annotations

from email import policy as email_policy
from email.errors import InvalidHeaderDefect, NonPrintableDefect
from email.header import Header
from email.message import Message
from typing import Any, Final

from smtplite.errors import MessageError, SMTPError
from smtplite.message.flatten import check_field, unfold

__all__ = ["addresses_in", "envelope_fields", "recipients_of", "sender_of"]

_RESENT_ONCE: Final = frozenset(
    {"resent-date", "resent-from", "resent-sender", "resent-to", "resent-cc", "resent-bcc", "resent-message-id"}
)

#: Defects of an address field that make it no list of addresses. Others say that the form is old, that an address
#: needs SMTPUTF8, or that a display name cannot be read.
_FATAL_DEFECTS: Final = (InvalidHeaderDefect, NonPrintableDefect)


def envelope_fields(message: Message[Any, Any]) -> dict[str, list[object]]:
    """Return the fields that name sender and recipients, by the part of their name behind "resent-", if any.

    Of several Resent- blocks, the topmost is the one that counts (RFC 5322 3.6.6): it ends where another field stands
    between, or where a field comes again.
    """
    resent: dict[str, list[object]] = {}
    for name, value in message.raw_items():
        lowered = name.lower()
        if lowered in _RESENT_ONCE:
            if lowered[7:] in resent:
                break
            resent[lowered[7:]] = [value]
        elif resent and not lowered.startswith("resent-"):
            break
    if resent:
        return resent
    fields: dict[str, list[object]] = {}
    for name, value in message.raw_items():
        lowered = name.lower()
        if lowered in ("from", "sender", "to", "cc", "bcc"):
            fields.setdefault(lowered, []).append(value)
    return fields


def addresses_in(name: str, value: object) -> list[str]:
    """Return the addresses of one address field, groups resolved; parse or refuse, never guess (rule R19)."""
    header: Any = value
    try:
        if not hasattr(value, "addresses"):
            # Of a Header, what stands on the wire: its text without encoding may read as more addresses than it has.
            text = value.encode(maxlinelen=0, linesep="\n") if isinstance(value, Header) else str(value)
            # Octets beyond ASCII come out of the stdlib's parser as lone surrogates.
            text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            check_field(name, text)
            text = unfold(text)
            header = email_policy.SMTP.header_factory(name, text)
        addresses = [address.addr_spec for address in header.addresses]
        # The header's own reading drops comments, unquotes, decodes, and takes some spaces out of a domain.
        source = text if header is not value else str(getattr(header, "_parse_tree", header))
    except (SMTPError, MemoryError):
        raise
    except Exception as error:  # the stdlib's parser has raised even UnboundLocalError
        raise MessageError(f"header {name} is no list of addresses: {str(value)[:80]!r}: {error}") from error
    for defect in header.defects:
        if isinstance(defect, _FATAL_DEFECTS):
            raise MessageError(f"header {name} is no list of addresses: {str(header)[:80]!r}: {defect}")
    at = 0
    for address in addresses:
        at = _find(address, source, at)
        if at < 0 or "\ufffd" in address:
            raise MessageError(f"header {name} has an address that does not stand there as such: {address[:80]!r}")
    return addresses


def _find(address: str, text: str, at: int) -> int:
    """Return where the address ends in the text, from `at` on; -1 if it stands there only as a part of another."""
    while (start := text.find(address, at)) >= 0:
        end = start + len(address)
        if (start == 0 or text[start - 1] in " \t,<:;)") and (end == len(text) or text[end] in " \t,>;("):
            return end
        at = start + 1
    return -1


def sender_of(fields: dict[str, list[object]]) -> str:
    """Return the sender: Sender, or else the only From address (RFC 5322 3.6.2)."""
    for name in ("sender", "from"):
        candidates = [address for value in fields.get(name, ()) for address in addresses_in(name, value)]
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            problem = "several Sender addresses" if name == "sender" else "several From addresses and no Sender"
            raise MessageError(f"message has {problem}: pass sender=")
    raise MessageError("message has no From: pass sender=")


def recipients_of(fields: dict[str, list[object]]) -> list[str]:
    """Return the recipients, from To, Cc and Bcc."""
    names = ("to", "cc", "bcc")
    recipients = [a for name in names for value in fields.get(name, ()) for a in addresses_in(name, value)]
    if not recipients:
        raise MessageError("message names nobody in To, Cc and Bcc: pass recipients=")
    return recipients
