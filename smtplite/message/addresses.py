"""Sender and recipients from header fields: a reader of mailbox lists of our own, in linear time.

One job, although long: the grammar of one kind of field, in one pass, with a name and a remedy for each mistake.
`read_address_list` reads what RFC 5322 3.4 describes, and the old forms that still occur. It is tolerant where the
mailbox is certain (odd spacing, comments, routes, doubled commas, dots in names), and refuses where it is not (an
unquoted comma or at sign in a name, two at signs, text after the bracket): mail to another mailbox than the one that
was meant is worse than an error (rule R19).

No input costs more than linear time (rule R27): every pattern is possessive and begins where the one before it ended,
nesting is counted and not entered, and what was read is not read again.
"""

from __future__ import annotations

import binascii
import re
import unicodedata
from collections.abc import Iterable, Iterator
from email.errors import InvalidHeaderDefect, NonPrintableDefect
from email.header import Header
from email.headerregistry import Address
from encodings.aliases import aliases
from typing import Any, Final, NoReturn, TypeAlias

import attrs

from smtplite.errors import MessageError, SMTPError
from smtplite.message.objects import ADDRESS_HEADERS, attributes_of, source_of_tokens
from smtplite.protocol.paths import Domain, ForwardPath, ReversePath

__all__ = [
    "Group",
    "Mailbox",
    "addresses_in",
    "decode_words",
    "envelope_fields",
    "forward_path",
    "mailboxes_in",
    "mailboxes_of",
    "read_address_list",
    "recipients_of",
    "reverse_path",
    "sender_of",
]


@attrs.frozen
class Mailbox:
    """One mailbox of an address field (RFC 5322 3.4).

    Attributes:
        display_name: the name before it, decoded and without quotes; "" if there is none. Bytes that are not UTF-8
            stand in it as surrogates, as in `email`.
        local_part: as it stands in the field; if it is quoted, with its quotes.
        domain: a domain, or a literal in brackets; as it was written, in any script.
        comments: the text of the comments in and around it, decoded, without their outer parentheses.
    """

    display_name: str
    local_part: str
    domain: str
    comments: tuple[str, ...] = ()

    @property
    def addr_spec(self) -> str:
        """The bare address: ``local_part@domain``."""
        return f"{self.local_part}@{self.domain}"

    @property
    def identity(self) -> tuple[str, str]:
        """A key that is equal for two spellings of one mailbox: needless quotes, case and script of the domain."""
        local_part = self.local_part
        if local_part.startswith('"'):
            local_part = _quoted_where_needed(_unquoted(local_part))
        domain = self.domain
        if not domain.isascii():
            try:
                domain = Domain.of_mailbox(domain).wire.decode("ascii")
            except MessageError:  # mail could not be sent to this domain: it is equal only to itself
                return local_part, domain
        return local_part, domain.lower()


@attrs.frozen
class Group:
    """A named group of mailboxes, which may be empty (RFC 5322 3.4).

    Attributes:
        name: the text before the colon, decoded and without quotes.
        mailboxes: what stands between colon and semicolon.
    """

    name: str
    mailboxes: tuple[Mailbox, ...]


def read_address_list(text: str, *, what: str = "text") -> tuple[Mailbox | Group, ...]:
    """Read the value of an address field: its mailboxes and groups, in their order.

    Args:
        text: the field's value, folded or not. Bytes beyond ASCII may come as surrogates, as in `email`: those that are
            UTF-8 are read as such (RFC 6532); others are refused, except in names and comments.
        what: names the text in errors, as in "header From".

    Raises:
        MessageError: it is not a list of addresses, or a mailbox is not certain; shows what stood there and what to do.
    """
    usual = _usual(text)
    return usual or tuple(_Reader(_readable(text, what), what).members())


def mailboxes_of(text: str, *, what: str = "text") -> tuple[Mailbox, ...]:
    """Read the value of an address field and return its mailboxes; those of a group stand in its place.

    Raises:
        MessageError: as `read_address_list`.
    """
    usual = _usual(text)
    if usual:
        return usual
    mailboxes: list[Mailbox] = []
    for member in _Reader(_readable(text, what), what).members():
        if isinstance(member, Group):
            mailboxes.extend(member.mailboxes)
        else:
            mailboxes.append(member)
    return tuple(mailboxes)


# Text

_LINE_BREAK: Final = re.compile(r"\r?\n(?=[ \t])")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp", "Zs"})


def _readable(text: str, what: str) -> str:
    """Return the text unfolded, with the bytes in it that are UTF-8 as characters."""
    if _CONTROL.search(text) is not None:
        unfolded = _LINE_BREAK.sub("", text)
        found = _CONTROL.search(unfolded)
        if found is not None:
            if found[0] in "\r\n":
                raise MessageError(f"{what} holds a line break: {text[:80]!r}")
            raise MessageError(f"{what} holds a control character, {found[0]!r}: {_around(unfolded, found.start())!r}")
        text = unfolded
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            try:
                text = text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
            except UnicodeEncodeError as error:
                at = error.start
                raise MessageError(f"{what} holds a lone surrogate, {text[at]!r}: {_around(text, at)!r}") from None
    return text


def _around(text: str, at: int) -> str:
    return text[max(0, at - 40) : at + 40]


def _unquoted(quoted: str) -> str:
    """Return what a quoted string or a comment, with its delimiters, stands for."""
    content = quoted[1:-1]
    return _QUOTED_PAIR.sub(r"\1", content) if "\\" in content else content


def _quoted_where_needed(local_part: str) -> str:
    if _is_dot_atom(local_part):
        return local_part
    return '"' + _MUST_BE_QUOTED.sub(r"\\\g<0>", local_part) + '"'


# dot-atom-text = 1*atext *("." 1*atext)                                              (RFC 5322 3.2.3, RFC 6532 3.2)
_ATEXT: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_UTEXT: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010ffff-]"
_DOT_ATOM: Final = rf"{_ATEXT}++(?:\.{_ATEXT}++)*+"
_ANY_DOT_ATOM: Final = re.compile(rf"{_UTEXT}++(?:\.{_UTEXT}++)*+")


def _is_dot_atom(text: str) -> bool:
    return _ANY_DOT_ATOM.fullmatch(text) is not None


_QUOTED_PAIR: Final = re.compile(r"\\(.)", re.DOTALL)
_UNCERTAIN_QUOTES: Final = re.compile(r'""|"(?:[^\\]++|\\["\\])*+\\[^"\\].*', re.DOTALL)
_MUST_BE_QUOTED: Final = re.compile(r'["\\]')

# Encoded words (RFC 2047 2). More lenient than the RFC, as mail programs are: they may also stand inside quotes and
# words, have spaces in them, and be of any length.
_ENCODED_WORD: Final = re.compile(r"=\?([^?*\s]++)(?:\*[^?\s]*+)?+\?([BbQq])\?([^?]*+)\?=")
_NOT_BASE64: Final = re.compile(r"[^A-Za-z0-9+/]+")

#: Codecs that turn bytes into other bytes, that do not occur in mail, or that take more than linear time.
_NO_CHARSETS: Final = frozenset(
    {"base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "rot_13", "uu_codec", "zlib_codec", "tactis", "mbcs"}
)
#: Names that occur in mail and that Python does not know, and codecs without an alias.
_FURTHER_CHARSETS: Final = {
    "unknown_8bit": "utf_8",  # RFC 1428: whatever it is; UTF-8 where it can be
    "iso_8859_8_i": "iso8859_8",
    "iso_8859_8_e": "iso8859_8",
    "iso_8859_6_i": "iso8859_6",
    "windows_874": "cp874",
    "x_sjis": "shift_jis",
    "x_euc_jp": "euc_jp",
    "x_gbk": "gbk",
    "x_mac_roman": "mac_roman",
    "koi8_u": "koi8_u",
    "koi8_t": "koi8_t",
    "cp720": "cp720",
    "cp737": "cp737",
    "cp856": "cp856",
    "cp874": "cp874",
    "cp875": "cp875",
    "cp1006": "cp1006",
    "utf_8_sig": "utf_8_sig",
}


def _charsets() -> dict[str, str]:
    known = {alias: codec for alias, codec in aliases.items() if codec not in _NO_CHARSETS}
    return known | {codec: codec for codec in known.values()} | _FURTHER_CHARSETS


# A table of our own: `codecs.lookup` looks for a file for each name that it does not know, and keeps the name for ever.
_CHARSETS: Final = _charsets()


def _charset(name: str) -> str | None:
    return _CHARSETS.get(name.lower().replace("-", "_").replace(" ", "_").replace(".", "_"))


def decode_words(text: str) -> str:
    """Return the text with its encoded words decoded; what cannot be decoded stays as it is (RFC 2047 6).

    White space between two encoded words is not part of the text; a character may begin in one and end in the next.
    """
    if "=?" not in text:
        return text
    pieces: list[str] = []
    octets: list[bytes] = []  # of the words before, as long as they have the same charset
    charset = ""
    end = 0
    for word in _ENCODED_WORD.finditer(text):
        codec = _charset(word[1])
        decoded = None if codec is None else _decoded_octets(word[2], word[3])
        if codec is None or decoded is None:
            continue
        between = text[end : word.start()]
        if not octets or between.strip(" \t") or codec != charset:
            if octets:
                pieces.append(_decoded(octets, charset))
                if not between.strip(" \t"):
                    between = ""
            pieces.append(between)
            octets = []
        octets.append(decoded)
        charset = codec
        end = word.end()
    if octets:
        pieces.append(_decoded(octets, charset))
    pieces.append(text[end:])
    return "".join(pieces)


def _decoded_octets(encoding: str, text: str) -> bytes | None:
    if not text.isascii():
        return None
    if encoding in "Qq":
        return binascii.a2b_qp(text, header=True)
    digits = _NOT_BASE64.sub("", text)
    try:
        return binascii.a2b_base64(digits + "=" * (-len(digits) % 4))
    except binascii.Error:
        return None


def _decoded(octets: list[bytes], codec: str) -> str:
    # What is not UTF-8 stays as it is, as surrogates; other charsets have no way back.
    return b"".join(octets).decode(codec, "surrogateescape" if codec == "utf_8" else "replace")


# The reader

_SPACE: Final = re.compile(r"[ \t]*+")
_BETWEEN: Final = re.compile(r"[ \t,]*+")
_ATOM, _QUOTED, _LITERAL, _SPECIAL = 1, 2, 3, 4
#: 1: atoms and dots; 2: quoted-string; 3: what stands in brackets; 4: what ends a phrase or an address.
_TOKEN: Final = re.compile(
    r"""([^ \t"(),:;<>@\[\]\\]++)|("(?:[^"\\]++|\\.)*+")|(\[[^\[\]\\]*+\])|([,:;<>@])""", re.DOTALL
)
_FLAT_COMMENT: Final = re.compile(r"\((?:[^()\\]++|\\.)*+\)", re.DOTALL)
_PARENTHESIS: Final = re.compile(r"[()]|\\.", re.DOTALL)
#: In a name, brackets must not hold anything that could be mistaken for a mailbox.
_AMBIGUOUS: Final = re.compile(r"[,:;<>@]")

# What nearly every mailbox looks like, in one match: "a.b@c", "Name <a.b@c>", '"Name, N." <a.b@c>'.
_NAME_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u00a1-\U0010ffff.-]++"
_ADDR_SPEC: Final = rf"({_DOT_ATOM})@({_DOT_ATOM})"
_NAME: Final = rf'(?:({_NAME_ATOM}(?: {_NAME_ATOM})*+)|"([^"\\\x00-\x1f\x7f]*+)")?+'
_USUAL: Final = re.compile(rf"(?:{_ADDR_SPEC}|{_NAME}[ \t]*+<{_ADDR_SPEC}>)[ \t]*+(?=[,;]|\Z)")


def _usual_groups(text: str) -> tuple[str | None, ...] | None:
    """Return the parts of a text that is one mailbox of the most usual form; None: it is not."""
    found = _USUAL.match(text)
    if found is None or found.end() != len(text) or not text.isascii() or "=?" in text:
        return None
    return found.groups()


def _usual(text: str) -> tuple[Mailbox, ...]:
    """Return the mailbox of a text that is one, of the most usual form; else nothing."""
    found = _usual_groups(text)
    if found is None:
        return ()
    local, domain, name, quoted, angle_local, angle_domain = found
    if local is not None:
        return (Mailbox("", local, domain or ""),)
    return (Mailbox(name or quoted or "", angle_local or "", angle_domain or ""),)


#: One word before an @, or of a name: its kind, its text, and whether white space comes before it.
_Word = tuple[int, str, bool]


class _Reader:
    """Reads one list, from left to right.

    Attributes:
        text: what is read.
        what: names it in errors.
        at: how far it is read.
    """

    __slots__ = ("at", "comments", "fast", "group_start", "is_in_group", "start", "text", "what")

    def __init__(self, text: str, what: str, *, fast: bool = True) -> None:
        self.text = text
        self.what = what
        self.fast = fast
        self.at = 0
        self.is_in_group = False
        self.group_start = 0
        #: Where the member that is being read begins, and the comments in it.
        self.start = 0
        self.comments: list[str] = []

    def members(self) -> Iterator[Mailbox | Group]:
        """Yield what the list holds. Empty members are legal (RFC 5322 4.4): they say nothing."""
        text = self.text
        while True:
            before = self.start
            member = self._next()
            if member is not None:
                yield member
            elif self.at >= len(text):
                return
            elif text[self.at] == ";":
                self.start = before
                self._refuse("there is a semicolon without a group: separate addresses by commas")

    def _next(self) -> Mailbox | Group | None:
        """Return the next member; None before a semicolon, at the end, and for a member that is only comments."""
        text = self.text
        self.start = self.at = at = _BETWEEN.match(text, self.at).end()  # type: ignore[union-attr]  # matches always
        usual = _USUAL.match(text, at) if self.fast else None
        if usual is not None and "=?" not in usual[0]:
            self.at = usual.end()
            local, domain, name, quoted, angle_local, angle_domain = usual.groups()
            if local is not None:
                return Mailbox("", local, domain)
            return Mailbox(name or quoted or "", angle_local, angle_domain)
        if at >= len(text) or text[at] == ";":
            return None
        return self._member()

    def _member(self) -> Mailbox | Group | None:
        self.comments = []
        words = self._words()
        special = self.text[self.at : self.at + 1]
        if special == "<":
            for kind, word, _ in words:
                if kind == _LITERAL and _AMBIGUOUS.search(word) is not None:
                    self._refuse("brackets in the name hold what could be an address: put the name in quotes")
            self.at += 1
            mailbox = self._angle_address(_phrase(words))
        elif special == "@":
            mailbox = self._bare_address(words)
        elif special == ":":
            return self._group(words)
        elif special == ">":
            self._refuse("there is a > without a <")
        elif not words:
            return None
        elif special == ",":
            self._refuse(
                "there is no address before the comma: put a name that holds a comma in quotes, "
                'as in "Doe, Jane" <jane@example.com>, or pass an email.headerregistry.Address'
            )
        else:
            self._refuse("it has no @: give a full address, such as user@example.com")
        return mailbox

    def _group(self, words: list[_Word]) -> Group:
        start = self.start
        name = _phrase(words)
        if not words:
            self._refuse("there is a colon without the name of a group")
        if self.is_in_group:  # here, and not where it ends: nesting would be recursion
            self.start = self.group_start
            self._refuse("there is a group inside a group: put a name that holds a colon in quotes")
        self.is_in_group = True
        self.group_start = start
        self.at += 1
        mailboxes: list[Mailbox] = []
        text = self.text
        while True:
            member = self._next()
            if isinstance(member, Mailbox):
                mailboxes.append(member)
            elif self.at >= len(text):
                if not mailboxes:  # "undisclosed-recipients:", as some write it; it is nobody in any case
                    break
                self.start = start
                self._refuse(
                    "a colon begins a group, and no semicolon ends it: put a name that holds a colon in quotes, "
                    'as in "Alert: Shop" <shop@example.com>, or pass an email.headerregistry.Address'
                )
            elif text[self.at] == ";":
                self.at += 1
                break
        self.is_in_group = False
        self._skip()
        if self.at < len(text) and text[self.at] != ",":
            self.start = start
            self._refuse("there is text after the semicolon of a group: separate addresses by commas")
        return Group(name, tuple(mailboxes))

    def _bare_address(self, words: list[_Word]) -> Mailbox:
        self.at += 1
        domain = self._words()
        special = self.text[self.at : self.at + 1]
        if special == "<":
            self._refuse(
                'the name holds an @: put the name in quotes, as in "jane@home" <jane@example.com>, '
                "or pass an email.headerregistry.Address"
            )
        if words and not _joins(words):
            self._refuse(
                "there is white space or a quote inside the address: put the address in angle brackets after the "
                "name, as in Name <user@example.com>"
            )
        if special and special not in ",;":
            self._refuse(_SECOND_AT if special == "@" else _unexpected(special))
        return self._mailbox("", words, domain)

    def _angle_address(self, name: str) -> Mailbox:
        words = self._words()
        text = self.text
        special = text[self.at : self.at + 1]
        if not words and special in ("@", ","):
            words = self._behind_route()
            special = text[self.at : self.at + 1]
        if special != "@":
            if special == "<":
                self._refuse("there is a second <: an address has one pair of angle brackets")
            if special == "":
                self._refuse("there is no > after the address")
            if special == ">":
                self._refuse("there is no address with an @ between the angle brackets")
            self._refuse(_unexpected(special))
        self.at += 1
        domain = self._words()
        special = text[self.at : self.at + 1]
        if special != ">":
            if special == "":
                self._refuse("there is no > after the address")
            self._refuse(_SECOND_AT if special == "@" else _unexpected(special))
        self.at += 1
        self._skip()
        if self.at < len(text) and text[self.at] not in ",;":
            self._refuse("there is text after the >: separate addresses by commas")
        return self._mailbox(name, words, domain)

    def _behind_route(self) -> list[_Word]:
        """Read a route, as in ``<@a.example,@b.example:user@c.example>``, and return the words that follow it.

        A route is read and not used, as RFC 5322 4.4 asks.
        """
        text = self.text
        while True:
            special = text[self.at : self.at + 1]
            self.at += 1
            if special == "@":
                if not self._words():
                    self._refuse("there is an @ before the address")
                if text[self.at : self.at + 1] not in (",", ":"):
                    self._refuse("there is no address before the @")
            elif special == ",":
                if self._words():
                    self._refuse("there is a comma inside the angle brackets")
                if text[self.at : self.at + 1] not in (",", ":", "@"):
                    self._refuse("there is no address with an @ between the angle brackets")
            else:  # the colon
                return self._words()

    def _mailbox(self, name: str, words: list[_Word], domain_words: list[_Word]) -> Mailbox:
        if not words:
            self._refuse("there is nothing before the @")
        if not domain_words:
            self._refuse("there is nothing after the @")
        if not _joins(words) or not _joins(domain_words):
            self._refuse("there is white space or a quote inside the address")
        local = words[0][1] if len(words) == 1 else "".join([word[1] for word in words])
        domain = domain_words[0][1] if len(domain_words) == 1 else "".join([word[1] for word in domain_words])
        kind = domain_words[0][0]
        if kind == _QUOTED:
            self._refuse("there are quotes after the @")
        if kind == _ATOM and not _is_dot_atom(domain):
            self._refuse("the domain has two dots in a row, or one at its end")
        if words[0][0] == _LITERAL:
            self._refuse("there are brackets before the @")
        if words[0][0] == _ATOM and not _is_dot_atom(local):
            self._refuse(
                "the local part has two dots in a row, or one at an end, and needs quotes: "
                f'write "{local[:80]}"@{domain[:80]}'
            )
        if words[0][0] == _QUOTED and _UNCERTAIN_QUOTES.fullmatch(local) is not None:
            # Servers differ in whether "a\b" is "ab", and in what they make of no local part.
            self._refuse("the quotes of the local part hold nothing, or a backslash in front of a plain character")
        if not (local.isprintable() and domain.isprintable()):  # quickly told; characters that are new are none either
            for character in local + domain:
                if unicodedata.category(character) in _INVISIBLE and character != " ":
                    if "\ud800" <= character <= "\udfff":
                        self._refuse(f"the address holds bytes that are not UTF-8: {character!r}")
                    self._refuse(f"the address contains {character!r}")
        if "=?" in local or "=?" in domain:
            for part in (local, domain):
                if _ENCODED_WORD.search(part) is not None:
                    self._refuse("the address holds an encoded word: only names may be encoded")
        return Mailbox(name, local, domain, tuple(self.comments))

    def _words(self) -> list[_Word]:
        """Read words and comments, up to what ends them; `at` is there."""
        text = self.text
        at = self.at
        words: list[_Word] = []
        match = _TOKEN.match
        skip = _SPACE.match
        is_spaced = False
        while True:
            token = match(text, at)
            if token is not None:
                kind = token.lastindex
                if kind == _SPECIAL:
                    break
                words.append((kind, token[0], is_spaced))  # type: ignore[arg-type]  # each alternative is a group
                at = token.end()
                is_spaced = False
                continue
            character = text[at : at + 1]
            if character in " \t":
                if not character:
                    break
                at = skip(text, at).end()  # type: ignore[union-attr]  # matches always
            elif character == "(":
                self.at = at
                at = self._comment()
            else:
                self.at = at
                self._refuse(_unexpected(character))
            is_spaced = True
        self.at = at
        return words

    def _skip(self) -> None:
        """Read white space and comments; `at` is after them."""
        text = self.text
        while (character := text[self.at : self.at + 1]) and character in " \t(":
            if character == "(":
                self.at = self._comment()
            else:
                self.at = _SPACE.match(text, self.at).end()  # type: ignore[union-attr]  # matches always

    def _comment(self) -> int:
        """Keep the text of the comment that begins here, and return where it ends."""
        text = self.text
        flat = _FLAT_COMMENT.match(text, self.at)
        end = _end_of_nested(text, self.at) if flat is None else flat.end()
        if end < 0:
            self._refuse(_unexpected("("))
        self.comments.append(decode_words(_unquoted(text[self.at : end])))
        return end

    def _refuse(self, problem: str) -> NoReturn:
        text = self.text
        start = self.start if self.at - self.start <= 80 else self.at - 60
        raise MessageError(f"{self.what} is not a list of addresses: {text[start : start + 80]!r}: {problem}")


def _end_of_nested(text: str, at: int) -> int:
    depth = 0
    for found in _PARENTHESIS.finditer(text, at):
        if found[0] == "(":
            depth += 1
        elif found[0] == ")":
            depth -= 1
            if not depth:
                return found.end()
    return -1


_SECOND_AT: Final = "the address has a second @: separate addresses by commas"


def _unexpected(character: str) -> str:
    return {
        '"': "a quote is never closed",
        "(": "a comment is never closed: a ) is missing",
        ")": "there is a ) without a (",
        "[": "a [ is never closed",
        "]": "there is a ] without a [",
        "\\": "there is a backslash outside quotes",
        ">": "there is a > without a <",
        "<": "there is a second <: an address has one pair of angle brackets",
        ":": "there is a colon inside the address",
        ",": "there is a comma inside the angle brackets",
        ";": "there is a semicolon inside the angle brackets",
    }[character]


def _joins(words: list[_Word]) -> bool:
    """Return True for words that make one local part, or one domain: white space stands only at dots."""
    if len(words) == 1:
        return True
    before = ""
    for kind, word, _ in words:
        if kind != _ATOM or (before and not before.endswith(".") and not word.startswith(".")):
            return False
        before = word
    return True


def _phrase(words: list[_Word]) -> str:
    """Return the text that a phrase stands for; white space between words is one space."""
    if len(words) == 1:
        kind, word, _ = words[0]
        return decode_words(_unquoted(word) if kind == _QUOTED else word)
    pieces: list[str] = []
    run: list[str] = []  # what is not quoted: encoded words side by side are one text
    is_first = True
    for kind, word, is_spaced in words:
        if is_spaced and not is_first:
            run.append(" ")
        is_first = False
        if kind == _QUOTED:
            pieces.append(decode_words("".join(run)))
            run = []
            pieces.append(decode_words(_unquoted(word)))
        else:
            run.append(word)
    pieces.append(decode_words("".join(run)))
    return "".join(pieces)


# Fields of a message

#: Defects with which an address field is not a list of addresses. Others say that the form is old, that an address
#: needs SMTPUTF8, or that a display name cannot be read.
_FATAL_DEFECTS: Final = (InvalidHeaderDefect, NonPrintableDefect)


def mailboxes_in(name: str, value: object) -> tuple[Mailbox, ...]:
    """Return the mailboxes of one address field, groups resolved; parse or refuse, never guess (rule R19).

    Args:
        name: the field's name.
        value: its value as a message of any policy holds it: text, a Header, or an object of the default policy. Then
            its Address objects count, and reading its text must give the same ones.

    Raises:
        MessageError: it is not a list of addresses; shows what stood there and what to do.
    """
    what = f"header {name.lower()}"
    if type(value) is str:
        return mailboxes_of(value, what=what)
    if type(value).__bases__ in ADDRESS_HEADERS:
        return _mailboxes_of_object(value, what)
    if isinstance(value, Header):
        # What is sent: its text without encoding may read as more addresses than it has.
        return mailboxes_of(value.encode(maxlinelen=0, linesep="\n"), what=what)
    if hasattr(value, "addresses"):
        return _mailboxes_of_object(value, what)
    return mailboxes_of(str(value), what=what)


def addresses_in(name: str, value: object) -> list[str]:
    """Return the bare addresses of one address field: those of `mailboxes_in`."""
    if type(value) is str and (usual := _usual_groups(value)) is not None:
        local, domain, _, _, angle_local, angle_domain = usual
        return [f"{angle_local}@{angle_domain}" if local is None else f"{local}@{domain}"]
    return [mailbox.addr_spec for mailbox in mailboxes_in(name, value)]


def _mailboxes_of_object(header: Any, what: str) -> tuple[Mailbox, ...]:
    """Return the mailboxes of a header object of the default policy: those of its Address objects.

    They may come from the caller, who can put anything into their parts, or from the stdlib's parser, which repairs and
    drops. Both are compared with our own reading of the text.
    """
    try:
        if (plain := _plain_mailbox(header)) is not None:
            return (plain,)
        text = str(header)
        mailboxes = tuple(_mailbox_of(address) for address in header.addresses)
        tree = getattr(header, "_parse_tree", None)
        # As it was given: the object's text has what the stdlib's parser made of it.
        source = text if tree is None else str(tree)
        defects = header.defects
    except (SMTPError, MemoryError):
        raise
    except Exception as error:  # whatever an object of the caller's raises; the stdlib has raised even RecursionError
        raise MessageError(f"{what} cannot be read: {error}") from error
    for mailbox in mailboxes:
        if not mailbox.domain:
            raise MessageError(f"{what} has an Address without a domain: {mailbox.local_part[:80]!r}")
    for defect in defects:
        if isinstance(defect, _FATAL_DEFECTS):
            raise MessageError(f"{what} is not a list of addresses: {source[:80]!r}: {defect}")
    read = mailboxes_of(text, what=what)
    if not _are_same(read, mailboxes):
        raise MessageError(f"{what} does not read as the Address objects that it has: {text[:80]!r}: check their parts")
    if source != text:
        try:
            read = mailboxes_of(_without_words(tree), what=what)
        except MessageError:
            read = ()
        if not _are_same(read, mailboxes):
            raise MessageError(f"{what} has an address that it does not spell out: {source[:80]!r}")
    # The names are the objects', the addresses as they stand.
    return tuple(
        mailbox if mailbox.display_name == own.display_name else attrs.evolve(mailbox, display_name=own.display_name)
        for mailbox, own in zip(read, mailboxes, strict=True)
    )


def _plain_mailbox(header: Any) -> Mailbox | None:
    """Return the mailbox of an address field's object that is plain; None: it is not, or may not be.

    A plain one has one Address; its text, and what the text was made of, are one mailbox, that of the Address, in the
    most usual form. What is read and compared for other objects has the same result.
    """
    if type(header).__bases__ not in ADDRESS_HEADERS:
        return None
    attributes = attributes_of(header)
    groups = attributes["_groups"]
    if attributes["_defects"] or len(groups) != 1:
        return None
    addresses = groups[0].addresses
    if len(addresses) != 1 or type(addresses[0]) is not Address:
        return None
    text = str.__str__(header)
    for mailbox in _usual(text):  # one, or none
        address = addresses[0]
        if (
            mailbox.local_part == address.username
            and mailbox.domain == address.domain
            and mailbox.display_name == address.display_name
            and source_of_tokens(attributes["_parse_tree"]) == text
        ):
            return mailbox
    return None


def _are_same(some: tuple[Mailbox, ...], others: tuple[Mailbox, ...]) -> bool:
    """Return True if these are the same mailboxes, in the same order."""
    return len(some) == len(others) and all(
        # Nearly all are written alike.
        (one.local_part == other.local_part and one.domain == other.domain) or one.identity == other.identity
        for one, other in zip(some, others, strict=True)
    )


def _mailbox_of(address: Address) -> Mailbox:
    return Mailbox(address.display_name, _quoted_where_needed(address.username), address.domain)


def _without_words(tree: Any) -> str:
    """Return the text of the stdlib's parse tree with a letter for each encoded word, which may hold anything."""
    pieces: list[str] = []
    stack = [tree]
    while stack:
        token = stack.pop()
        kind = getattr(token, "token_type", None)
        if kind == "encoded-word":
            pieces.append("x")
        elif isinstance(token, list) and kind not in ("bare-quoted-string", "comment"):  # these add their delimiters
            stack.extend(reversed(token))
        else:
            pieces.append(str(token))
    return "".join(pieces)


_NAMES_MAILBOXES: Final = frozenset({"from", "sender", "to", "cc", "bcc"})
_RESENT_ONCE: Final = frozenset(
    {"resent-date", "resent-from", "resent-sender", "resent-to", "resent-cc", "resent-bcc", "resent-message-id"}
)
#: By the part of the name after "resent-": the fields, each with its full name and its value.
EnvelopeFields: TypeAlias = "dict[str, list[tuple[str, object]]]"


def envelope_fields(header: Iterable[tuple[str, object]]) -> EnvelopeFields:
    """Return the fields that name sender and recipients, by their name without "resent-".

    Of several Resent- blocks, the topmost one counts (RFC 5322 3.6.6): it ends before another field, or before a field
    that it already has.

    Args:
        header: all fields of a header section, name and value, in order.
    """
    fields: EnvelopeFields = {}
    resent: EnvelopeFields = {}
    for name, value in header:
        lowered = name.lower()
        if lowered in _RESENT_ONCE:
            if lowered[7:] in resent:
                break
            resent[lowered[7:]] = [(name, value)]
        elif resent:
            if not lowered.startswith("resent-"):
                break
        elif lowered in _NAMES_MAILBOXES:
            fields.setdefault(lowered, []).append((name, value))
    return resent or fields


def _in_fields(fields: EnvelopeFields, kind: str, argument: str) -> list[str]:
    addresses: list[str] = []
    try:
        for name, value in fields.get(kind, ()):
            addresses += addresses_in(name, value)
    except MessageError as error:
        raise MessageError(f"{error}; or pass {argument}=") from error
    return addresses


def sender_of(fields: EnvelopeFields) -> str:
    """Return the sender: Sender, or else the only From address (RFC 5322 3.6.2).

    Raises:
        MessageError: there is none, or more than one; shows what stood there.
    """
    for kind in ("sender", "from"):
        candidates = _in_fields(fields, kind, "sender")
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            problem = "several Sender addresses" if kind == "sender" else "several From addresses and no Sender"
            shown = ", ".join(repr(address[:80]) for address in candidates[:3])
            more = f" and {len(candidates) - 3} more" if len(candidates) > 3 else ""
            raise MessageError(f"message has {problem}, {shown}{more}: pass sender=")
    raise MessageError("message has no From: pass sender=")


def recipients_of(fields: EnvelopeFields) -> list[str]:
    """Return the recipients, from To, Cc and Bcc.

    Raises:
        MessageError: there are none, or a field is not a list of addresses; shows what stood there.
    """
    recipients = [address for kind in ("to", "cc", "bcc") for address in _in_fields(fields, kind, "recipients")]
    if not recipients:
        raise MessageError("message names nobody in To, Cc and Bcc: pass recipients=")
    return recipients


# Addresses as the caller passes them

#: "Name <addr-spec>", strictly: only a name before it, quoted if it holds more than words, and only the address in the
#: brackets.
_NAMED: Final = re.compile(
    r'(?! )(?:[^\x00-\x1f\x7f"(),:;<>@\[\]\\]++|"(?:[^"\\\x00-\x1f\x7f]++|\\[ -~])*+")++'
    r'<((?:"(?:[^"\\]++|\\.)*+"|[^<>",:;@ \t]++)@[^<>"@ \t]++)>'
)


def reverse_path(address: str) -> ReversePath:
    """Return the sender's path; of ``Name <addr-spec>`` that of the address, without the name.

    Raises:
        MessageError: it is not an address; says what to pass instead.
    """
    try:
        return ReversePath.parse(address)
    except MessageError as error:
        return attrs.evolve(ReversePath.parse(_bare(address, "sender", error)), address=address)


def forward_path(address: str) -> ForwardPath:
    """Return a recipient's path; of ``Name <addr-spec>`` that of the address.

    Raises:
        MessageError: it is not an address; says what to pass instead.
    """
    try:
        return ForwardPath.parse(address)
    except MessageError as error:
        return attrs.evolve(ForwardPath.parse(_bare(address, "recipients", error)), address=address)


def _bare(address: str, argument: str, error: MessageError) -> str:
    """Return the address of ``Name <addr-spec>``, or raise the error, or one that says more."""
    named = _NAMED.fullmatch(address)
    if named is not None:
        return named[1]
    try:
        mailboxes = mailboxes_of(address)
    except MessageError:
        raise error from None
    if len(mailboxes) > 1:
        remedy = "pass one" if argument == "sender" else "pass a list of them"
        raise MessageError(f"{argument}={address[:80]!r} is {len(mailboxes)} addresses in one str: {remedy}") from None
    if mailboxes and address != mailboxes[0].addr_spec:
        bare = mailboxes[0].addr_spec
        raise MessageError(f"address {address[:80]!r} is more than an address: pass {bare[:80]!r}") from None
    raise error
