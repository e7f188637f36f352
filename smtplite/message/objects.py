"""Header objects of `email`: what their values were made from, without look-ups that take long the first time.

Each header object has a class of its own, made by the registry. The first look-up in a class is slow, and here there is
never a second one. So what we know of the registry's classes is read from where they keep it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from email import _header_value_parser
from email._header_value_parser import TokenList
from email.headerregistry import (
    AddressHeader,
    BaseHeader,
    SingleAddressHeader,
    UniqueAddressHeader,
    UniqueSingleAddressHeader,
)
from typing import Any, Final

from smtplite.message.headers import encoded_words

__all__ = ["ADDRESS_HEADERS", "attributes_of", "has_encoded_word", "source_of_tokens"]

#: The bases of the class of an address field's object.
ADDRESS_HEADERS: Final[frozenset[tuple[type, ...]]] = frozenset(
    (cls, BaseHeader) for cls in (AddressHeader, UniqueAddressHeader, SingleAddressHeader, UniqueSingleAddressHeader)
)
#: The attributes of a header object, by name.
attributes_of: Final[Callable[[Any], dict[str, Any]]] = BaseHeader.__dict__["__dict__"].__get__

#: The tokens of a parse tree whose text is the text of what is in them.
_PLAIN_TOKENS: Final = frozenset(
    cls
    for cls in vars(_header_value_parser).values()
    if isinstance(cls, type)
    and issubclass(cls, TokenList)
    and (cls.__str__ is TokenList.__str__ or cls is _header_value_parser.MimeParameters)
    and cls is not _header_value_parser.EncodedWord
)
_TERMINALS: Final = frozenset(
    cls
    for cls in vars(_header_value_parser).values()
    if isinstance(cls, type) and issubclass(cls, _header_value_parser.Terminal)
)
_ENCODED_WORD_TOKEN: Final = _header_value_parser.EncodedWord
_QUOTED_TOKEN: Final = _header_value_parser.BareQuotedString


def source_of_tokens(tree: Any) -> str:
    """Return what a parse tree was made from: its text, with encoded words as they stood."""
    texts: list[str] = []
    _read(tree, texts)
    return "".join(texts)


def _read(tokens: Any, texts: list[str]) -> None:
    """Add what these tokens of a parse tree were made from."""
    for token in tokens:
        kind = type(token)
        while kind in _PLAIN_TOKENS:
            if len(token) != 1:
                _read(token, texts)
                break
            token = token[0]
            kind = type(token)
        else:
            texts.append(token if kind in _TERMINALS else _token_source(token))


def _token_source(token: Any) -> str:
    kind = type(token)
    if kind is _QUOTED_TOKEN and len(token) == 1 and type(token[0]) in _TERMINALS:
        text = token[0]
        if '"' not in text and "\\" not in text:
            return f'"{text}"'
    if kind is _ENCODED_WORD_TOKEN:
        return _encoded_word_source(token)
    if isinstance(token, TokenList) and has_encoded_word(token):
        mark = "()" if isinstance(token, _header_value_parser.Comment) else '""'
        return f"{mark[0]}{source_of_tokens(token)}{mark[1]}"
    return str(token)


def _encoded_word_source(token: Any) -> str:
    """Return an encoded word as it stood: its token keeps all of the value from there on."""
    rest = getattr(token, "cte", None)
    match = _ENCODED_WORD.match(rest) if isinstance(rest, str) else None
    if match is None:
        return encoded_words(str(token))
    return match[0]


# As the stdlib finds its end: an escape may follow the "?" of the encoding directly.
_ENCODED_WORD: Final = re.compile(r"=\?[^?]*\?[^?]?\?(?:=[0-9a-fA-F]{2})?.*?\?=", re.DOTALL)


def has_encoded_word(tokens: Any) -> bool:
    """Return True if one of these tokens is an encoded word."""
    for token in tokens:  # noqa: SIM110 (any() takes twice as long)
        if type(token) is _ENCODED_WORD_TOKEN:
            return True
    return False
