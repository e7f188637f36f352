"""The parameters of MAIL and RCPT: which extension brings each, and which values it has."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable

import attrs

from smtplite.testing.config import ServerExtensions
from smtplite.testing.message import Parameters

__all__ = ["MAX_ENVID_BYTES", "MAX_ORCPT_BYTES", "PARAMETERS", "Parameter", "declared_size"]

#: RFC 3461 section 4.4.
MAX_ENVID_BYTES = 100
#: RFC 3461 section 4.2.
MAX_ORCPT_BYTES = 500

_HEX = frozenset("0123456789ABCDEF")
_DELIVER_BY = re.compile(r"(-?[0-9]{1,9});([NR])T?", re.IGNORECASE)
_PRIORITY = re.compile(r"-?[1-9]|0")
_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE)


def _is_size(value: str | None) -> bool:
    # RFC 1870 section 3: 1*20DIGIT
    return value is not None and value.isascii() and value.isdigit() and len(value) <= 20


def declared_size(parameters: Parameters) -> int | None:
    """Return the bytes that SIZE of MAIL announces, if it is there."""
    value = parameters.get("SIZE")
    return int(value) if value is not None and _is_size(value) else None


def _is_body(value: str | None, extensions: ServerExtensions) -> bool:
    body = (value or "").upper()
    return body in {"7BIT", "8BITMIME"} if body != "BINARYMIME" else extensions.binarymime


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
    return value is not None and len(value) <= MAX_ENVID_BYTES and _is_xtext(value)


def _is_notify(value: str | None) -> bool:
    # RFC 3461 section 4.1: NEVER stands alone
    wishes = (value or "").upper().split(",")
    is_list = len(set(wishes)) == len(wishes) and {"SUCCESS", "FAILURE", "DELAY"}.issuperset(wishes)
    return is_list or wishes == ["NEVER"]


def _is_orcpt(value: str | None) -> bool:
    address_type, semicolon, address = (value or "").partition(";")
    if not (address_type and semicolon and address) or len(value or "") > MAX_ORCPT_BYTES:
        return False
    # RFC 6533 section 3: utf-8-addr-unitext may hold what xtext may not
    return address_type.lower() == "utf-8" or _is_xtext(address)


def _is_deliver_by(value: str | None, extensions: ServerExtensions) -> bool:
    # RFC 2852 section 4: a time that is up already can only be notified of
    match = _DELIVER_BY.fullmatch(value or "")
    if match is None:
        return False
    return match[2].upper() == "N" or int(match[1]) >= max(extensions.deliver_by or 0, 1)


def _is_hold_for(value: str | None, extensions: ServerExtensions) -> bool:
    text = value or ""
    limit = extensions.future_release[0] if extensions.future_release is not None else 0
    return text.isascii() and text.isdigit() and len(text) <= 9 and 0 < int(text) <= limit


def _is_hold_until(value: str | None, extensions: ServerExtensions) -> bool:
    moment = _date_time(value or "")
    latest = _date_time(extensions.future_release[1] if extensions.future_release is not None else "")
    return moment is not None and (latest is None or moment <= latest)


def _date_time(text: str) -> datetime.datetime | None:
    """Read a date-time of RFC 3339 section 5.6."""
    try:
        return datetime.datetime.fromisoformat(text.upper()) if _DATE_TIME.fullmatch(text) else None
    except ValueError:
        return None


def _is_priority(value: str | None) -> bool:
    # RFC 6710 section 5
    return _PRIORITY.fullmatch(value or "") is not None


@attrs.frozen
class Parameter:
    """A parameter of MAIL or RCPT that the server knows."""

    is_offered: Callable[[ServerExtensions], bool]
    is_valid: Callable[[str | None, ServerExtensions], bool]
    #: Whether the extension is offered inside TLS only.
    needs_tls: bool = False


def _plain(is_valid: Callable[[str | None], bool]) -> Callable[[str | None, ServerExtensions], bool]:
    """Make the check of a value that is valid whatever is offered."""

    def is_valid_anyway(value: str | None, extensions: ServerExtensions) -> bool:
        del extensions
        return is_valid(value)

    return is_valid_anyway


#: Each parameter that is known, by verb and keyword.
PARAMETERS = {
    ("MAIL", "SIZE"): Parameter(lambda extensions: extensions.size is not None, _plain(_is_size)),
    ("MAIL", "BODY"): Parameter(lambda extensions: extensions.eight_bit_mime or extensions.binarymime, _is_body),
    ("MAIL", "SMTPUTF8"): Parameter(lambda extensions: extensions.smtputf8, _plain(_is_absent)),
    ("MAIL", "RET"): Parameter(lambda extensions: extensions.dsn, _plain(_is_ret)),
    ("MAIL", "ENVID"): Parameter(lambda extensions: extensions.dsn, _plain(_is_envid)),
    ("MAIL", "REQUIRETLS"): Parameter(lambda extensions: extensions.requiretls, _plain(_is_absent), needs_tls=True),
    ("MAIL", "BY"): Parameter(lambda extensions: extensions.deliver_by is not None, _is_deliver_by),
    ("MAIL", "HOLDFOR"): Parameter(lambda extensions: extensions.future_release is not None, _is_hold_for),
    ("MAIL", "HOLDUNTIL"): Parameter(lambda extensions: extensions.future_release is not None, _is_hold_until),
    ("MAIL", "MT-PRIORITY"): Parameter(lambda extensions: extensions.mt_priority, _plain(_is_priority)),
    ("RCPT", "NOTIFY"): Parameter(lambda extensions: extensions.dsn, _plain(_is_notify)),
    ("RCPT", "ORCPT"): Parameter(lambda extensions: extensions.dsn, _plain(_is_orcpt)),
}
