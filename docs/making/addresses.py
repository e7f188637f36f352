"""Addresses and address fields: which are accepted, and what is read of them."""

from __future__ import annotations

import re
from typing import Final

from making.markdown import code, prose, table
from making.paths import DOCS, tables
from smtplite import MessageError
from smtplite.message.addresses import forward_path, mailboxes_of
from smtplite.protocol import ForwardPath

#: Where the table ADDRESSES stands: accepted and refused addresses.
ADDRESS_TABLE: Final = DOCS.parent / "tests" / "protocol" / "test_paths.py"
#: Where the tables NAMED, FIELDS and REFUSED stand: what is read of names and of address fields.
FIELD_TABLE: Final = DOCS.parent / "tests" / "message" / "test_addresses.py"
#: A longer address is shown without its middle.
MAX_LITERAL_CHARACTERS: Final = 72
_Row = tuple[str, bytes | None, str]


def _addresses() -> list[_Row]:
    rows: list[_Row] = tables(ADDRESS_TABLE, "ADDRESSES|_[A-Z0-9_]+")["ADDRESSES"]
    return rows


def _literal(text: str) -> str:
    """Return the text as a Python literal, which shows what cannot be seen; a long one without its middle."""
    literal = repr(text)
    if len(literal) > MAX_LITERAL_CHARACTERS:
        literal = f"{literal[:30]} ... {literal[-20:]}"
    return code(literal)


def accepted_addresses() -> str:
    """Return the table of addresses that are accepted, each with the path that the code makes of it."""
    rows = []
    for address, wire, reason in _addresses():
        if wire is None:
            continue
        path = ForwardPath.parse(address)
        if path.wire != wire:
            raise ValueError(f"{address!r} is sent as {path.wire!r}, and {ADDRESS_TABLE.name} says {wire!r}")
        shown = wire.decode()
        if len(shown) > MAX_LITERAL_CHARACTERS:
            shown = f"{shown[:30]} ... {shown[-20:]}"
        rows.append((_literal(address), code(shown), "yes" if path.needs_smtputf8 else "", prose(reason)))
    return table(("Address, as a Python literal", "Path as it is sent", "Needs SMTPUTF8", "Remark"), rows)


def refused_addresses() -> str:
    """Return the table of addresses that are refused; the code is asked, too."""
    rows = []
    for address, wire, reason in _addresses():
        if wire is not None:
            continue
        try:
            path = ForwardPath.parse(address)
        except MessageError:
            rows.append((_literal(address), prose(reason)))
        else:
            raise ValueError(f"{address[:80]!r} is sent as {path.wire[:80]!r}, and {ADDRESS_TABLE.name} refuses it")
    return table(("Address, as a Python literal", "Why it is refused"), rows)


def named_addresses() -> str:
    """Return the table of what is read off an address that is passed with a name."""
    rows = []
    for given, address in tables(FIELD_TABLE, "NAMED")["NAMED"]:
        path = forward_path(given)
        if path.wire != f"<{address}>".encode():
            raise ValueError(f"{given!r} is sent as {path.wire!r}, and {FIELD_TABLE.name} says {address!r}")
        rows.append((_literal(given), code(path.wire.decode())))
    return table(("Address, as a Python literal", "Path as it is sent"), rows)


def read_fields() -> str:
    """Return the table of address fields that are read, each with what the code reads."""
    rows = []
    for text, expected in tables(FIELD_TABLE, "FIELDS")["FIELDS"]:
        read = [(mailbox.display_name, mailbox.addr_spec) for mailbox in mailboxes_of(text)]
        if read != expected:
            raise ValueError(f"{text!r} is read as {read!r}, and {FIELD_TABLE.name} says {expected!r}")
        shown = ", ".join(f"{_literal(name)} {code(address)}" if name else code(address) for name, address in read)
        rows.append((_literal(text), shown or "nobody"))
    return table(("Value of the field, as a Python literal", "Names and addresses"), rows)


def refused_fields() -> str:
    """Return the table of address fields that are refused, each with what the error says."""
    rows = []
    for text, _ in tables(FIELD_TABLE, "REFUSED")["REFUSED"]:
        try:
            read = mailboxes_of(text, what="it")
        except MessageError as error:
            problem = _SHOWN.sub("", str(error))
            rows.append((_literal(text), prose(problem)))
        else:
            raise ValueError(f"{text!r} is read as {read!r}, and {FIELD_TABLE.name} refuses it")
    return table(("Value of the field, as a Python literal", "What the error says"), rows)


#: What an error shows of the field, in front of what it says.
_SHOWN: Final = re.compile(r"^it is not a list of addresses: ('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"): ")
