"""The parameters of MAIL and RCPT: which extension brings each, and which values it has."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from smtplite.testing.config import ServerExtensions
from smtplite.testing.message import Parameters

__all__ = ["MAX_ENVID_OCTETS", "MAX_ORCPT_OCTETS", "PARAMETERS", "Parameter", "declared_size"]

MAX_ENVID_OCTETS = 100
"""RFC 3461 section 4.4."""
MAX_ORCPT_OCTETS = 500
"""RFC 3461 section 4.2."""

_HEX = frozenset("0123456789ABCDEF")


def _is_size(value: str | None) -> bool:
    # RFC 1870 section 3: 1*20DIGIT
    return value is not None and value.isascii() and value.isdigit() and len(value) <= 20


def declared_size(parameters: Parameters) -> int | None:
    """Return the octets that SIZE of MAIL announces, if it is there."""
    value = parameters.get("SIZE")
    return int(value) if value is not None and _is_size(value) else None


def _is_body(value: str | None) -> bool:
    return value is not None and value.upper() in {"7BIT", "8BITMIME"}


def _is_absent(value: str | None) -> bool:
    return value is None


def _is_ret(value: str | None) -> bool:
    return value is not None and value.upper() in {"FULL", "HDRS"}


def _is_xtext(text: str) -> bool:
    """Say whether a ``+`` stands only before two upper-case hexadecimal digits, and nothing outside ``!`` to ``~``.

    RFC 3461 section 4.
    """
    position = 0
    while position < len(text):
        char = text[position]
        if char == "+":
            pair = text[position + 1 : position + 3]
            if len(pair) != 2 or not _HEX.issuperset(pair):
                return False
            position += 3
        elif "!" <= char <= "~" and char != "=":
            position += 1
        else:
            return False
    return True


def _is_envid(value: str | None) -> bool:
    return value is not None and len(value) <= MAX_ENVID_OCTETS and _is_xtext(value)


def _is_notify(value: str | None) -> bool:
    # RFC 3461 section 4.1: NEVER stands alone
    wishes = (value or "").upper().split(",")
    is_list = len(set(wishes)) == len(wishes) and {"SUCCESS", "FAILURE", "DELAY"}.issuperset(wishes)
    return is_list or wishes == ["NEVER"]


def _is_orcpt(value: str | None) -> bool:
    address_type, semicolon, address = (value or "").partition(";")
    if not (address_type and semicolon and address) or len(value or "") > MAX_ORCPT_OCTETS:
        return False
    # RFC 6533 section 3: utf-8-addr-unitext may hold what xtext may not
    return address_type.lower() == "utf-8" or _is_xtext(address)


@attrs.frozen
class Parameter:
    """A parameter of MAIL or RCPT that the server knows."""

    is_offered: Callable[[ServerExtensions], bool]
    is_valid: Callable[[str | None], bool]


PARAMETERS = {
    ("MAIL", "SIZE"): Parameter(lambda extensions: extensions.size is not None, _is_size),
    ("MAIL", "BODY"): Parameter(lambda extensions: extensions.eight_bit_mime, _is_body),
    ("MAIL", "SMTPUTF8"): Parameter(lambda extensions: extensions.smtputf8, _is_absent),
    ("MAIL", "RET"): Parameter(lambda extensions: extensions.dsn, _is_ret),
    ("MAIL", "ENVID"): Parameter(lambda extensions: extensions.dsn, _is_envid),
    ("RCPT", "NOTIFY"): Parameter(lambda extensions: extensions.dsn, _is_notify),
    ("RCPT", "ORCPT"): Parameter(lambda extensions: extensions.dsn, _is_orcpt),
}
"""Each parameter that is known, by verb and keyword."""
