"""The server's own reading of paths and parameters.

It shares nothing with `smtplite.protocol`: the server judges what the client built, and a mistake in common would go
unseen. It is a scanner where the client has regular expressions.
"""

from __future__ import annotations

import ipaddress
import re
import string

__all__ = [
    "BadSyntax",
    "is_domain",
    "read_parameters",
    "read_parameters_anyhow",
    "read_path",
    "read_path_anyhow",
]

_ATEXT = frozenset(string.ascii_letters + string.digits + "!#$%&'*+-/=?^_`{|}~")
_ALNUM = frozenset(string.ascii_letters + string.digits)
_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")


class BadSyntax(ValueError):
    """What the client sent is not what the grammar allows."""


def _is_atext(char: str) -> bool:
    # RFC 6531 section 3.3: atext and sub-domain gain UTF8-non-ascii. Whether it was allowed here is asked elsewhere
    return char in _ATEXT or char > "\x7f"


def _is_let_dig(char: str) -> bool:
    return char in _ALNUM or char > "\x7f"


def _is_label(label: str) -> bool:
    return (
        bool(label)
        and _is_let_dig(label[0])
        and _is_let_dig(label[-1])
        and all(_is_let_dig(char) or char == "-" for char in label)
    )


def _is_dcontent(char: str) -> bool:
    return "!" <= char <= "~" and char not in "[\\]"


def _is_address_literal(text: str) -> bool:
    if not (text.startswith("[") and text.endswith("]")):
        return False
    tag, colon, content = text[1:-1].partition(":")
    try:
        if not colon:
            ipaddress.IPv4Address(tag)
        elif tag.lower() == "ipv6":
            ipaddress.IPv6Address(content)
        else:
            # General-address-literal: Standardized-tag ":" 1*dcontent
            return _is_label(tag) and bool(content) and all(map(_is_dcontent, content))
    except ValueError:
        return False
    return True


def is_domain(text: str, *, of_mailbox: bool = False) -> bool:
    """Say whether `text` is a Domain or an address-literal; that of a mailbox may hold underscores, as servers take it.

    RFC 5321 sections 4.1.2 and 4.1.3.
    """
    if _is_address_literal(text):
        return True
    labels = text.replace("_", "x") if of_mailbox else text
    return all(_is_label(label) for label in labels.split("."))


def _end_of_local_part(text: str, start: int) -> int:
    """Return where the local part that begins at `start` ends."""
    position = start
    if text.startswith('"', start):
        position += 1
        while position < len(text) and text[position] != '"':
            # quoted-pairSMTP: a backslash and one of %d32-126
            position += 2 if text[position] == "\\" else 1
        if position >= len(text):
            raise BadSyntax("a quoted local part without its end")
        return position + 1
    while position < len(text) and (_is_atext(text[position]) or text[position] == "."):
        position += 1
    local_part = text[start:position]
    if not all(local_part.split(".")):
        raise BadSyntax("not a local part")
    return position


def read_path(text: str, *, may_be_null: bool = False) -> tuple[str, str]:
    """Read the path that `text` begins with.

    Args:
        text: what follows ``FROM:`` or ``TO:``.
        may_be_null: ``<>`` is a path: the reverse-path of a notification. Without it ``<Postmaster>`` is one.

    Returns:
        The mailbox without angle brackets, and what follows the path.

    Raises:
        BadSyntax: it does not begin with a path.

    RFC 5321 section 4.1.2.
    """
    if text.startswith(" "):
        raise BadSyntax("a space after the colon")
    if not text.startswith("<"):
        raise BadSyntax("a path without angle brackets")
    if text.startswith("<>"):
        if not may_be_null:
            raise BadSyntax("a null forward-path")
        return "", text[2:]
    if text.startswith("<@"):
        # RFC 5321 section 3.3 and appendix C: clients SHOULD NOT generate source routes
        raise BadSyntax("a source route")
    end = _end_of_local_part(text, 1)
    if not may_be_null and text.startswith(">", end) and text[1:end].lower() == "postmaster":
        return text[1:end], text[end + 1 :]
    if not text.startswith("@", end):
        raise BadSyntax("a path without a domain")
    close = text.find(">", end)
    if close < 0:
        raise BadSyntax("a path without its closing bracket")
    if not is_domain(text[end + 1 : close], of_mailbox=True):
        raise BadSyntax("a path whose domain is none")
    return text[1:close], text[close + 1 :]


_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')


def read_path_anyhow(text: str, *, may_be_null: bool = False) -> tuple[str, str]:
    """Read a path as servers do that are not strict.

    Spaces may stand before it, the angle brackets may be missing, and so may the domain; a source route is dropped.
    Whatever the mailbox is, it is one word: without spaces and angle brackets, unless they are quoted.

    Returns:
        What `read_path` returns.

    Raises:
        BadSyntax: not even that.
    """
    text = text.lstrip(" ")
    # What is quoted counts as one letter, so that nothing in it can be taken for a bracket or the end
    masked = _QUOTED.sub(lambda match: "x" * len(match[0]), text)
    if masked.startswith("<"):
        close = masked.find(">")
        if close < 0:
            raise BadSyntax("a path without its closing bracket")
        path, rest = text[1:close], text[close + 1 :]
        masked = masked[1:close]
    else:
        end = masked.find(" ")
        path, rest = (text, "") if end < 0 else (text[:end], text[end:])
        masked = masked[: len(path)]
        if not path:
            raise BadSyntax("a path that is missing")
    if masked.startswith("@"):
        route = masked.find(":")
        path, masked = path[route + 1 :], masked[route + 1 :]
    if any(char <= " " or char in '<>"' for char in masked):
        raise BadSyntax("a path that is more than a mailbox")
    if not path and not may_be_null:
        raise BadSyntax("a null forward-path")
    return path, rest


def read_parameters_anyhow(text: str) -> dict[str, str | None]:
    """Read parameters that follow the path directly, or each other after several spaces.

    Raises:
        BadSyntax: one of them is none.
    """
    return read_parameters("".join(f" {parameter}" for parameter in text.split(" ") if parameter))


def read_parameters(text: str) -> dict[str, str | None]:
    """Read ``*(SP keyword ["=" value])``.

    Raises:
        BadSyntax: it is something else, or a keyword stands twice.

    RFC 5321 section 4.1.2.
    """
    parameters: dict[str, str | None] = {}
    if not text:
        return parameters
    if not text.startswith(" "):
        raise BadSyntax("bytes directly after the path")
    for parameter in text[1:].split(" "):
        keyword, equals, value = parameter.partition("=")
        if _KEYWORD.fullmatch(keyword) is None:
            raise BadSyntax("a parameter without a keyword")
        if equals and (not value or any(char <= " " or char in "=\x7f" for char in value)):
            raise BadSyntax("a parameter whose value is none")
        if keyword.upper() in parameters:
            raise BadSyntax(f"parameter {keyword.upper()} twice")
        parameters[keyword.upper()] = value if equals else None
    return parameters
