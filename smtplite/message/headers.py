"""Header fields: from what the caller built, or a parser read, to the lines on the wire (RFC 5322 2.2, RFC 2047, 2231).

One job, although long: how one field is written, by its kind; text, mailboxes, parameters and tokens share the folding.
What a receiver reads is what the caller built (rule R32). So a field stays as it is if it can. Else it is folded, only
at white space, and only what is not ASCII is encoded, by the grammar of the field: text, addresses, parameters, or
tokens, which may not be changed. What cannot be written in this way is refused, never shortened.

Everything here is a function of text, and takes linear time (rule R27).
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Iterator
from enum import Enum
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from smtplite.errors import MessageError
from smtplite.protocol.paths import Domain

__all__ = [
    "LINE_CHARACTERS",
    "MAX_LINE_BYTES",
    "FieldNeedsUtf8",
    "Kind",
    "check_field",
    "encoded_words",
    "field",
    "is_field_name",
    "kind_of",
    "mailbox_source",
    "parameters_of",
    "phrase_source",
    "unfold",
    "utf8_of",
]

#: A line of a header section as it should be (RFC 5322 2.1.1).
LINE_CHARACTERS: Final = 78
#: A line as it must be, in bytes without CRLF (RFC 5322 2.1.1).
MAX_LINE_BYTES: Final = 998
#: An encoded word (RFC 2047 2).
MAX_ENCODED_WORD_CHARACTERS: Final = 75


class FieldNeedsUtf8(MessageError):
    """A field can be written only with SMTPUTF8 (RFC 6531): what is not ASCII in it cannot be encoded.

    Attributes:
        field: its name, for errors.
    """

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"header {name} {problem}")
        self.field = f"header {name}"


class Kind(Enum):
    """The grammar of a field, as far as it matters for folding and encoding."""

    TEXT = "words, any of which can be encoded"
    ADDRESSES = "mailboxes and groups: display names and comments can be encoded"
    PHRASE = "words and something in angle brackets: all but that can be encoded"
    PARAMETERS = "a MIME type or disposition, with parameters"
    TOKENS = "msg-ids, URIs, dates, signatures: comments alone can be encoded"


_ADDRESS_NAMES: Final = frozenset(
    re.findall(
        r"\S+",
        "from sender reply-to to cc bcc return-path apparently-to disposition-notification-to errors-to "
        "return-receipt-to generate-delivery-report x-confirm-reading-to mail-followup-to mail-reply-to "
        "delivered-to x-original-to x-forwarded-to abuse-reports-to x-beenthere prevent-nondelivery-report",
    )
)
_TOKEN_NAMES: Final = frozenset(
    re.findall(
        r"\S+",
        "message-id in-reply-to references original-message-id supersedes obsoletes content-id "
        "date delivery-date expires expiry-date reply-by deferred-delivery date-received injection-date "
        "received received-spf authentication-results dkim-signature domainkey-signature autocrypt "
        "list-help list-subscribe list-unsubscribe list-unsubscribe-post list-post list-owner list-archive "
        "mime-version content-transfer-encoding content-location content-base content-md5 content-language "
        "content-duration content-features auto-submitted precedence importance priority sensitivity "
        "tls-required tls-report-domain tls-report-submitter require-recipient-valid-since "
        "x-google-dkim-signature x-priority x-msmail-priority dkim-adsp feedback-id x-feedback-id encrypted "
        "mt-priority original-recipient hp-outer arc-seal arc-message-signature arc-authentication-results "
        "bimi-selector bimi-location bimi-indicator reporting-mta final-recipient remote-mta "
        "arrival-date last-attempt-date will-retry-until action status original-envelope-id",
    )
)


@lru_cache(maxsize=1024)
def kind_of(name: str) -> Kind:
    """Return which grammar a field of this name has."""
    lowered = name.lower().removeprefix("resent-")
    if lowered in _ADDRESS_NAMES:
        return Kind.ADDRESSES
    if lowered in _TOKEN_NAMES:
        return Kind.TOKENS
    if lowered in ("content-type", "content-disposition"):
        return Kind.PARAMETERS
    return Kind.PHRASE if lowered == "list-id" else Kind.TEXT


# What a field may be at all

_FIELD_NAME: Final = re.compile(r"[\x21-\x39\x3b-\x7e]+")
# A value may come to us folded; then each line break is followed by white space. Anything else is an injection.
_FOLDED_VALUE: Final = re.compile(r"[^\r\n]*(?:\r?\n[ \t][^\r\n]*)*")


@lru_cache(maxsize=1024)
def is_field_name(name: str) -> bool:
    """Return True if this is the name of a field (RFC 5322 3.6.8)."""
    return len(name) < MAX_LINE_BYTES and _FIELD_NAME.fullmatch(name) is not None


def check_field(name: str, value: object) -> None:
    """Refuse a field that would become more than one, or none.

    Raises:
        MessageError: the name is not a field name, or the value holds a line break that is not folding.
    """
    if not is_field_name(name):
        raise MessageError(f"header name {name[:80]!r} is not printable ASCII without space and colon")
    text = value if isinstance(value, str) else str(value)
    if ("\n" in text or "\r" in text) and _FOLDED_VALUE.fullmatch(text) is None:
        raise MessageError(f"header {name} holds a line break: {text[:80]!r}")


def unfold(value: str) -> str:
    """Return a value without the line breaks that it was folded with."""
    return value.replace("\r\n", "").replace("\n", "") if "\n" in value else value


_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def utf8_of(name: str, value: str) -> str:
    """Return a value with its bytes read as UTF-8 (RFC 6532); those that are not UTF-8 stay surrogates, as in `email`.

    Raises:
        MessageError: it holds a surrogate that does not stand for a byte.
    """
    if value.isascii() or _SURROGATE.search(value) is None:
        return value
    try:
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise MessageError(f"header {name} holds a lone surrogate, which is no character: {value[:80]!r}") from None


# Lines

_WORDS: Final = re.compile(r"([ \t]*+)([^ \t]++)")


class _Lines:
    """The lines of one field: white space and words in, folded where they would be too long.

    Args:
        name: of the field.
        utf8: whether it may hold UTF-8.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._done: list[str] = []
        self._line = name + ":"
        self._is_begun = False  # whether the line holds anything that may stay there when the rest goes to the next
        # A word, or a run, waits until we know what is joined to it.
        self._space = " "
        self._word: list[str] = []
        self._run: list[tuple[str, str]] | None = None
        self._behind: list[str] = []

    def add(self, space: str, word: str) -> None:
        """Add a word, and the white space before it; without white space it is joined to what is there."""
        if space or not (self._word or self._run is not None):
            self._flush()
            self._space = self._space + space if not self._is_begun and self._line.endswith(":") else space
            self._word.append(word)
        elif self._run is not None:
            self._behind.append(word)
        else:
            self._word.append(word)

    def add_run(self, space: str, run: list[tuple[str, str]]) -> None:
        """Add a run of text that is encoded, each stretch with its charset; white space or "(" comes before it."""
        if space or not self._word or self._run is not None:
            self._flush()
            self._space = self._space + space if not self._is_begun and self._line.endswith(":") else space
        self._run = run

    def finish(self, rest: str = "") -> str:
        """Return the field, with its CRLF; `rest` is white space at its end.

        Raises:
            MessageError: a line of it is too long.
        """
        self._flush()
        self._done.append(self._line + rest)
        longest = max(map(_octets, self._done))
        if longest > MAX_LINE_BYTES:
            raise MessageError(
                f"header {self._name} has {longest} bytes without white space to fold it at: a line has at most "
                f"{MAX_LINE_BYTES}"
            )
        return "\r\n".join(self._done) + "\r\n"

    def _flush(self) -> None:
        if self._run is not None:
            self._put_run(self._space, "".join(self._word), self._run, "".join(self._behind))
        elif self._word:
            word = "".join(self._word)
            if len(word) >= LINE_CHARACTERS and (" " in word or "\t" in word):  # a quoted string that is too long
                space = self._space
                end = 0
                for match in _WORDS.finditer(word.rstrip(" \t")):
                    self._put(space + match[1], match[2])
                    space = ""
                    end = match.end()
                self._line += word[end:]
            else:
                self._put(self._space, word)
        else:
            return
        self._word = []
        self._behind = []
        self._run = None
        self._space = ""

    def _put(self, space: str, word: str) -> None:
        size = len(space) + len(word)
        if space and len(self._line) + size > LINE_CHARACTERS:
            # Directly after the colon a line is broken only if that makes it short enough.
            octets = _octets(space) + _octets(word)
            if self._is_begun or size <= LINE_CHARACTERS or _octets(self._line) + octets > MAX_LINE_BYTES:
                self._break()
        self._line += space + word
        self._is_begun = True

    def _break(self) -> None:
        self._done.append(self._line)
        self._line = ""

    def _put_run(self, space: str, before: str, run: list[tuple[str, str]], behind: str) -> None:
        around = len(before) + len(behind)
        for charset, text in run:
            overhead = len(charset) + 7
            encoded = _Encoded.of(charset, text)
            at = 0
            while at < encoded.size:
                room = min(LINE_CHARACTERS - len(self._line) - len(space) - around, MAX_ENCODED_WORD_CHARACTERS)
                end, word = encoded.take(at, room - overhead)
                if end == at or (room < 32 and end < encoded.size):
                    if space and self._line:
                        self._break()
                    room = min(LINE_CHARACTERS - len(space) - around, MAX_ENCODED_WORD_CHARACTERS)
                    end, word = encoded.take(at, max(room, 40) - overhead)
                at = end
                self._line += f"{space}{before}=?{charset}?{encoded.form}?{word}?="
                self._is_begun = True
                space, before = " ", ""
        self._line += behind


def _octets(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))


# Encoded words (RFC 2047)

_UTF8: Final = "utf-8"
_UNKNOWN: Final = "unknown-8bit"  # RFC 1428
#: What "Q" leaves as it is everywhere, also in a phrase (RFC 2047 5 (3)).
_Q_SAFE: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")


class _QTable(dict[str, str]):
    """Each character as "Q" writes it."""

    def __missing__(self, character: str) -> str:
        if character in _Q_SAFE:
            written = character
        elif character == " ":
            written = "_"
        else:
            written = "".join(f"={octet:02X}" for octet in character.encode("utf-8", "surrogateescape"))
        if len(self) < 4096:
            self[character] = written
        return written


_q: Final = _QTable()


class _Encoded:
    """Text in one of the two encodings, which gives it in pieces of whole characters."""

    __slots__ = ("_octets", "_text", "form", "size")

    def __init__(self, text: list[str], octets: bytes, form: str, size: int) -> None:
        self._text = text
        self._octets = octets
        #: "q" or "b".
        self.form = form
        #: How much there is: characters of "q", bytes of "b".
        self.size = size

    @classmethod
    def of(cls, charset: str, text: str) -> _Encoded:
        """Encode text in the shorter of the two encodings."""
        octets = text.encode("utf-8", "surrogateescape")
        if charset == _UNKNOWN:
            text = octets.decode("ascii", "surrogateescape")
        written = [_q[character] for character in text]
        if sum(map(len, written)) < (len(octets) + 2) // 3 * 4 + 5:  # easier to read, for those who must
            return cls(written, b"", "q", len(written))
        return cls([], octets, "b", len(octets))

    def take(self, at: int, room: int) -> tuple[int, str]:
        """Return where the piece that begins here and fits into so many characters ends, and its text."""
        if self.form == "q":
            end, used = at, 0
            written = self._text
            while end < self.size and (used := used + len(written[end])) <= room:
                end += 1
            return end, "".join(written[at:end])
        octets = self._octets
        end = min(at + max(room, 0) // 4 * 3, self.size)
        while at < end < self.size and octets[end] & 0xC0 == 0x80:
            end -= 1
        return end, b2a_base64(octets[at:end], newline=False).decode("ascii")


_ENCODED_WORD: Final = re.compile(r"=\?[^?\s]+\?[bBqQ]\?[^?\s]*\?=")
_ATOM: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]++")
_ATOM_UTF8: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]++")


def _write_words(
    lines: _Lines, text: str, *, space: str = "", utf8: bool = False, keeps_words: bool = False, is_phrase: bool = False
) -> str:
    """Write text, with whatever cannot stay as it is in encoded words; return the white space left at its end.

    Whoever decodes two encoded words drops the white space between them (RFC 2047 6.2). So the white space that stood
    there goes into them, and so does all but one character of the white space beside them.

    Args:
        lines: where to.
        text: unfolded.
        space: white space before it that does not belong to the text.
        utf8: UTF-8 may stay.
        keeps_words: what looks like an encoded word is one.
        is_phrase: also encode words that are not atoms, and white space that is not one space.
    """
    atom = _ATOM_UTF8 if utf8 else _ATOM

    def is_plain(word: str, gap: int) -> bool:
        if not (word.isascii() or (utf8 and _SURROGATE.search(word) is None)):
            return False
        if "=?" in word or "?=" in word:
            return keeps_words and word.isascii()
        if is_phrase and atom.fullmatch(word) is None:
            return False
        return gap + _octets(word) <= MAX_LINE_BYTES

    run: list[tuple[str, str]] = []
    run_space = ""
    is_run = False  # whether the last word was encoded, or is an encoded word of the caller's
    is_first = True
    body = text.rstrip(" \t")  # the pattern would look for a word from each white space at the end
    for match in _WORDS.finditer(body):
        gap, word = match[1], match[2]
        charset = _UTF8 if word.isascii() or _SURROGATE.search(word) is None else _UNKNOWN
        is_long_gap = len(gap) > 2 and len(gap) + len(word) > MAX_LINE_BYTES
        is_odd = is_phrase and gap not in ("", " ") if is_first else is_phrase and gap != " "
        if is_plain(word, 1 if is_long_gap else len(gap)) and not (is_odd and not run):
            is_word = _ENCODED_WORD.fullmatch(word) is not None
            if run:
                inner = gap if is_word else gap[:-1]
                if inner:
                    run.append((_UTF8, inner))
                lines.add_run(run_space, _joined(run))
                run = []
                gap = " " if is_word else gap[-1:]
            elif is_long_gap:
                lines.add_run(space + gap[0], [(_UTF8, gap[1:-1])])
                space, gap = "", gap[-1]
            lines.add(space + gap, word)
            space = ""
            is_run = is_word
        else:
            if run:
                run += [(charset, gap + word)]
            elif is_run:  # after an encoded word of the caller's
                run_space = " "
                run = [(charset, gap + word)]
            elif is_first:
                run_space = space
                run = [(charset, gap + word)]
            else:
                run_space = space + gap[:1]
                run = [(charset, gap[1:] + word)]
            space = ""
            is_run = True
        is_first = False
    rest = text[len(body) :]
    if run:
        if rest:
            run.append((_UTF8, rest))
        lines.add_run(run_space, _joined(run))
        return ""
    return rest


def encoded_words(text: str) -> str:
    """Return text as encoded words, separated by white space."""
    lines = _Lines("")
    lines.add_run("", [(_UTF8 if _SURROGATE.search(text) is None else _UNKNOWN, text)])
    return unfold(lines.finish()[1:-2]).strip(" \t")


def _joined(run: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Join stretches of one charset; white space goes with what stands before it."""
    joined: list[tuple[str, list[str]]] = []
    for charset, text in run:
        if joined and (joined[-1][0] == charset or not text.strip(" \t")):
            joined[-1][1].append(text)
        else:
            joined.append((charset, [text]))
    return [(charset, "".join(texts)) for charset, texts in joined]


# A field


def field(name: str, value: str, *, utf8: bool = False, is_parsed: bool = False, is_literal: bool = False) -> str:
    """Return a field as it is sent, with its CRLF.

    Args:
        name: of the field.
        value: folded or not; bytes beyond ASCII as surrogates.
        utf8: it may hold UTF-8 (RFC 6532), for a transaction with SMTPUTF8.
        is_parsed: it was read from bytes: lines of up to 998 bytes stay, and encoded words are encoded words.
        is_literal: what looks like an encoded word is not one, even if all of it is ASCII.

    Raises:
        FieldNeedsUtf8: it can be written only with SMTPUTF8.
        MessageError: it cannot be written.
    """
    check_field(name, value)
    text = utf8_of(name, value)
    written = _as_it_is(name, text, utf8=utf8, is_parsed=is_parsed, is_literal=is_literal)
    if written is not None:
        return written
    text = unfold(text)
    kind = kind_of(name)
    is_clean = text.isascii() or (utf8 and _SURROGATE.search(text) is None)
    lines = _Lines(name)
    if kind is Kind.TEXT:
        rest = _write_words(lines, text, utf8=utf8, keeps_words=is_parsed or (text.isascii() and not is_literal))
        if len(rest) > LINE_CHARACTERS:
            lines.add_run(rest[0], [(_UTF8, rest[1:])])
            rest = ""
        return lines.finish(rest)
    if is_clean and not (is_literal and "=?" in text):
        return _folded(lines, text)
    if kind is Kind.PARAMETERS:
        _write_parameters(lines, name, text)
    else:
        _write_structured(lines, name, text, kind, utf8=utf8, is_parsed=is_parsed, is_literal=is_literal)
    return lines.finish()


_LINE_BREAK: Final = re.compile(r"\r?\n")


def _as_it_is(name: str, text: str, *, utf8: bool, is_parsed: bool, is_literal: bool) -> str | None:
    """Return a field that does not have to be changed; None if it does."""
    is_ascii = text.isascii()
    if not is_ascii and (not utf8 or _SURROGATE.search(text) is not None):
        return None
    if "=?" in text and not is_parsed and (is_literal or not is_ascii):
        return None
    limit = MAX_LINE_BYTES if is_parsed else LINE_CHARACTERS
    if "\n" not in text:
        size = len(name) + 2 + (_octets(text) if is_parsed else len(text))
        return f"{name}: {text}\r\n" if size <= limit else None
    first, *others = _LINE_BREAK.split(text)
    colon = ":" if not first else ": "
    if not is_parsed and not (first.strip(" \t") and all(line.strip(" \t") for line in others)):
        return None
    measure = _octets if is_parsed else len
    if len(name) + len(colon) + measure(first) > limit or max(map(measure, others)) > limit:
        return None
    return "\r\n".join([name + colon + first, *others]) + "\r\n"


# White space that is not in a quoted string; a text whose quotes do not pair is folded anywhere.
_PAIRED: Final = re.compile(r'(?:[^"\\]|\\.|"(?:[^"\\]|\\.)*+")*+', re.DOTALL)
_QUOTED_WORDS: Final = re.compile(r'([ \t]*+)((?:[^ \t"\\]|\\.|"(?:[^"\\]|\\.)*+")++)', re.DOTALL)


def _folded(lines: _Lines, text: str) -> str:
    """Fold a structured field at white space, and leave it otherwise as it is."""
    body = text.rstrip(" \t")
    pattern = _WORDS if _PAIRED.fullmatch(body) is None else _QUOTED_WORDS
    for match in pattern.finditer(body):
        lines.add(match[1], match[2])
    return lines.finish(text[len(body) :])


# Addresses, phrases and comments

_TOKEN: Final = re.compile(
    r"""(?P<space>[ \t]++)
      | (?P<quoted>"(?:[^"\\]|\\.)*+")
      | (?P<comment>\()
      | (?P<angle><(?:"(?:[^"\\]|\\.)*+"|[^<>"])*+>)
      | (?P<special>[,:;])
      | (?P<word>(?:\[[^][]*+]|[^ \t<>(),:;"[\]])++)
    """,
    re.VERBOSE | re.DOTALL,
)
_IN_COMMENT: Final = re.compile(r"\\.|[()]", re.DOTALL)
_QUOTED_PAIR: Final = re.compile(r"\\(.)", re.DOTALL)


def _tokens(name: str, text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise MessageError(
                f"header {name} can neither be read nor sent as it is, because it is not ASCII: {text[:80]!r}"
            )
        kind = str(match.lastgroup)
        end = match.end()
        if kind == "comment":
            depth = 1
            while depth:
                inner = _IN_COMMENT.search(text, end)
                if inner is None:
                    raise MessageError(f"header {name} has a comment that does not end: {text[at : at + 80]!r}")
                end = inner.end()
                depth += {"(": 1, ")": -1}.get(inner[0], 0)
        yield kind, text[at:end]
        at = end


def _write_structured(
    lines: _Lines, name: str, text: str, kind: Kind, *, utf8: bool, is_parsed: bool, is_literal: bool
) -> None:
    """Write a field that is not ASCII, and encode what its grammar allows to encode."""
    space = ""
    pending: list[tuple[str, str, str]] = []  # of one phrase or addr-spec: white space, kind, text
    for form, part in [*_tokens(name, text), ("end", "")]:
        if form == "space":
            space += part
        elif form in ("word", "quoted"):
            pending.append((space, form, part))
            space = ""
        else:
            if pending:
                if kind is Kind.TOKENS:
                    _write_tokens(lines, name, pending, utf8=utf8)
                elif _is_phrase(pending, form, part):
                    keeps_words = is_parsed and not is_literal
                    if _write_phrase(lines, pending, utf8=utf8, keeps_words=keeps_words, is_literal=is_literal):
                        space = space or " "
                else:
                    _write_addr_spec(lines, name, pending, utf8=utf8)
                pending = []
            if form == "comment":
                _write_comment(lines, space, part, utf8=utf8, is_parsed=is_parsed)
            elif form == "angle":
                if kind is Kind.ADDRESSES and not utf8:
                    part = _angle(name, part)
                _require_ascii(name, part, utf8=utf8)
                lines.add(space, part)
            elif form == "special":
                lines.add(space, part)
            space = ""


def _is_phrase(pending: list[tuple[str, str, str]], form: str, part: str) -> bool:
    if any("@" in text for _, kind, text in pending if kind == "word"):
        return False
    return form in ("angle", "end", "comment") or part == ":"


def _write_tokens(lines: _Lines, name: str, pending: list[tuple[str, str, str]], *, utf8: bool) -> None:
    for space, _, part in pending:
        _require_ascii(name, part, utf8=utf8)
        lines.add(space, part)


def _write_phrase(
    lines: _Lines, pending: list[tuple[str, str, str]], *, utf8: bool, keeps_words: bool, is_literal: bool
) -> bool:
    """Write the name of a mailbox or of a group; return True if it may end with an encoded word."""
    source = "".join(space + part for space, _, part in pending)
    if source.isascii() and not (is_literal and "=?" in source):
        for space, _, part in pending:
            lines.add(space, part)
        return False
    text = "".join(
        (space if number else "") + (_QUOTED_PAIR.sub(r"\1", part[1:-1]) if form == "quoted" else part)
        for number, (space, form, part) in enumerate(pending)
    )
    _write_words(lines, text, space=pending[0][0], utf8=utf8, keeps_words=keeps_words, is_phrase=True)
    return True


def _write_addr_spec(lines: _Lines, name: str, pending: list[tuple[str, str, str]], *, utf8: bool) -> None:
    """Write an address that is not in angle brackets."""
    if utf8 or all(part.isascii() or "@" not in part for _, _, part in pending):
        _write_tokens(lines, name, pending, utf8=utf8)
        return
    source = "".join(space + part for space, _, part in pending)
    text = source.lstrip(" \t")
    lines.add(source[: len(source) - len(text)], _addr_spec(name, text))


def _require_ascii(name: str, text: str, *, utf8: bool) -> None:
    if text.isascii():
        return
    if _SURROGATE.search(text) is not None:
        raise MessageError(f"header {name} holds bytes that are neither ASCII nor UTF-8: {text[:80]!r}")
    if not utf8:
        raise FieldNeedsUtf8(name, f"is not ASCII where it cannot be encoded: {text[:80]!r}")


def _angle(name: str, part: str) -> str:
    """Return what stands in angle brackets, its domain with A-labels."""
    if part.isascii():
        return part
    inner = part[1:-1]
    return f"<{_addr_spec(name, inner)}>"


def _addr_spec(name: str, text: str) -> str:
    """Return an addr-spec as it is sent without SMTPUTF8: the domain with A-labels, the local part never changed."""
    local, at, domain = text.rpartition("@")
    _require_ascii(name, local, utf8=False)
    if domain.isascii():
        return text
    _require_ascii(name, domain, utf8=True)
    try:
        return local + at + Domain.parse(domain.strip(" \t")).wire.decode("ascii")
    except MessageError as error:
        raise MessageError(f"header {name}: {error}") from error


def _write_comment(lines: _Lines, space: str, part: str, *, utf8: bool, is_parsed: bool) -> None:
    """Write a comment, and the comments in it."""
    if part.isascii() or (utf8 and _SURROGATE.search(part) is None):
        lines.add(space, part)
        return
    begun = 0
    for match in _IN_COMMENT.finditer(part):
        if match[0] not in ("(", ")"):
            continue
        text = part[begun : match.start()]
        if text.strip(" \t"):
            text = _QUOTED_PAIR.sub(r"\1", text)
            space = _write_words(lines, text, space=space, utf8=utf8, keeps_words=is_parsed, is_phrase=True)
        else:
            space += text
        lines.add(space, match[0])
        space = ""
        begun = match.end()


def phrase_source(text: str) -> str:
    """Return a display name as it is written if all of it is ASCII: atoms, or a quoted string."""
    words = text.split(" ")
    if all(_ATOM_UTF8.fullmatch(word) for word in words):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def mailbox_source(display_name: str, addr_spec: str) -> str:
    """Return a mailbox as the source of a field."""
    return f"{phrase_source(display_name)} <{addr_spec}>" if display_name else addr_spec


# Parameters (RFC 2045 5.1, RFC 2231)

_SEGMENT: Final = re.compile(r'(?:"(?:[^"\\]|\\.)*+"|[^;"])*+', re.DOTALL)
_PARAMETER: Final = re.compile(r"[ \t]*+([^ \t=\"';()<>@,:/\[\]?\x80-\U0010ffff]++)[ \t]*+=[ \t]*+(.*+)", re.DOTALL)
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*+)"[ \t]*+', re.DOTALL)


def _write_parameters(lines: _Lines, name: str, text: str) -> None:
    """Write a field of parameters that is not ASCII; the parameters that are not are written by RFC 2231."""
    main, *segments = _segments(name, text)
    _require_ascii(name, main, utf8=False)
    parameters: list[tuple[str, str, str]] = []  # name, text, as it stood
    for segment in segments:
        match = _PARAMETER.fullmatch(segment)
        if match is not None:
            parameters.append((match[1], match[2].rstrip(" \t"), segment.strip(" \t")))
        elif parameters and not parameters[-1][1].startswith('"') and segment.strip(" \t"):
            known, value, source = parameters.pop()  # "; " in a name that ought to have been quoted
            parameters.append((known, f"{value};{segment.rstrip()}", f"{source};{segment.rstrip()}"))
        elif segment.strip(" \t"):
            raise MessageError(f"header {name} has something that is not a parameter: {segment[:80]!r}")
    pieces = [main.strip(" \t")]
    extended = {known.lower() for known, _, _ in parameters if "*" in known}
    for known, value, source in parameters:
        if source.isascii():
            pieces.append(source)
        elif "*" in known:
            _require_ascii(name, value, utf8=True)
            if not value.lower().startswith("utf-8'"):
                raise MessageError(f"header {name} has a parameter that is encoded and yet not ASCII: {source[:80]!r}")
            pieces.append(f"{known}={quote(value, safe=_RFC2231_SAFE + _PERCENT)}")
        else:
            pieces += _rfc2231(name, known, _parameter_value(name, value), extended)
    for number, piece in enumerate(pieces):
        lines.add(" " if number else "", piece + (";" if number < len(pieces) - 1 else ""))


def _segments(name: str, text: str) -> Iterator[str]:
    at = 0
    while True:
        match = _SEGMENT.match(text, at)
        end = at if match is None else match.end()
        yield text[at:end]
        if end == len(text):
            return
        if text[end] != ";":
            raise MessageError(f"header {name} has a quote that does not end: {text[end : end + 80]!r}")
        at = end + 1


def _parameter_value(name: str, value: str) -> str:
    _require_ascii(name, value, utf8=True)
    if not value.startswith('"'):
        return value
    match = _QUOTED.fullmatch(value)
    if match is None:
        raise MessageError(f"header {name} has something after a quoted value: {value[:80]!r}")
    return _QUOTED_PAIR.sub(r"\1", match[1])


#: attribute-char of RFC 2231 7, beside letters, digits and ``_.-~``.
_RFC2231_SAFE: Final = "!#$&+^`{|}"
_PERCENT: Final = "%'"


def _rfc2231(name: str, known: str, value: str, extended: set[str]) -> list[str]:
    """Return a parameter in the extended form, in pieces that fit into lines of 78."""
    if f"{known.lower()}*" in extended or f"{known.lower()}*0*" in extended:
        raise MessageError(f"header {name} has the parameter {known} twice, and once not in ASCII: leave that one out")
    whole = f"{known}*=utf-8''{quote(value, safe=_RFC2231_SAFE)}"
    if len(whole) + 2 <= LINE_CHARACTERS:
        return [whole]
    pieces: list[str] = []
    begun = f"{known}*0*=utf-8''"
    for character in value:
        written = quote(character, safe=_RFC2231_SAFE)
        if len(begun) + len(written) + 2 > LINE_CHARACTERS:
            pieces.append(begun)
            begun = f"{known}*{len(pieces)}*="
        begun += written
    pieces.append(begun)
    return pieces


def parameters_of(value: str) -> dict[str, str]:
    """Read the parameters of a MIME field, tolerantly: the first of each name, in small letters."""
    found: dict[str, str] = {}
    pieces: dict[str, dict[int, str]] = {}
    at = value.find(";")
    while 0 <= at < len(value):
        segment = _SEGMENT.match(value, at + 1)
        end = at + 1 if segment is None else segment.end()
        match = _PARAMETER.fullmatch(value, at + 1, end)
        if match is not None:
            name, star, number = match[1].lower().partition("*")
            text = match[2].strip(" \t")
            quoted = _QUOTED.match(text)
            text = text if quoted is None else _QUOTED_PAIR.sub(r"\1", quoted[1])
            number = number.rstrip("*")
            if not star:
                found.setdefault(name, text)
            elif number.isdecimal() or not number:
                pieces.setdefault(name, {})[int(number[:6] or 0)] = text
        at = value.find(";", end)
    for name, parts in pieces.items():
        text = "".join(parts[number] for number in sorted(parts))
        charset, mark, encoded = text.partition("'")
        if mark:
            try:
                text = unquote_to_bytes(encoded.partition("'")[2]).decode(charset or "ascii")
            except (LookupError, UnicodeError):
                continue
        found.setdefault(name, text)
    return found


def without_parameter(value: str, name: str) -> str:
    """Return a MIME field without one of its parameters, in whatever form it is there; also without an empty one."""
    at = value.find(";")
    kept = [value if at < 0 else value[:at]]
    while at >= 0:
        segment = _SEGMENT.match(value, at + 1)
        following = value.find(";", at + 1 if segment is None else segment.end())
        part = value[at:] if following < 0 else value[at:following]
        known = part[1:].partition("=")[0].partition("*")[0].strip(" \t").lower()
        if known not in (name, ""):
            kept.append(part)
        at = following
    return "".join(kept)
