"""Header fields: what comes out reads as what went in (rule R32), in lines that every server takes.

The readers here are written from the RFCs' grammar, apart from what they judge: `read_text` for RFC 2047, `read_list`
for RFC 5322 3.4, `read_parameters` for RFC 2231.
"""

from __future__ import annotations

import base64
import quopri
import re
import time
import urllib.parse

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtplite.errors import MessageError
from smtplite.message.headers import FieldNeedsUtf8, Kind, field, kind_of, mailbox_source
from tests.exhaustive import examples

# --- Readers of the wire form

ENCODED_WORD = re.compile(r"=\?([A-Za-z0-9-]+)\?([bq])\?([!->@-~]*)\?=")


def decoded(charset: str, form: str, text: str) -> bytes:
    assert charset in ("utf-8", "unknown-8bit")
    assert text, "an empty encoded word"
    if form == "b":
        return base64.b64decode(text, validate=True)
    assert re.fullmatch(r"(?:[A-Za-z0-9!*+/_-]|=[0-9A-F]{2})+", text)
    return quopri.decodestring(text.replace("_", "=20").encode())


def read_text(value: str) -> str:
    """Read unstructured text: white space between two encoded words is dropped, all else stays (RFC 2047 6.2)."""
    parts: list[str] = []
    is_encoded = False
    for space, word in re.findall(r"([ \t]*)([^ \t]*)", value):
        match = ENCODED_WORD.fullmatch(word)
        if match is None:
            parts += [space, word]
        else:
            assert len(word) <= 75
            octets = decoded(*match.groups())
            text = octets.decode("utf-8") if match[1] == "utf-8" else octets.decode("ascii", "surrogateescape")
            parts += ["" if is_encoded else space, text]
        is_encoded = match is not None
    return "".join(parts)


def lines_of(written: str, name: str) -> list[str]:
    """Return the lines of a field, after a look at all that must be true of any."""
    assert written.endswith("\r\n")
    lines = written[:-2].split("\r\n")
    assert not re.search("[\r\n]", "".join(lines))
    assert lines[0].startswith(f"{name}:")
    for line in lines:
        assert len(line.encode("utf-8", "surrogateescape")) <= 998
    for line in lines[1:]:
        assert line[0] in " \t"
        assert line.strip(" \t"), "a line of white space alone"
    return lines


def value_of(written: str, name: str) -> str:
    value = "".join(lines_of(written, name)).removeprefix(f"{name}:")
    return value.removeprefix(" ")


# --- Text

CHARACTERS = st.characters(codec="utf-8", exclude_categories=["Cs"], exclude_characters="\r\n")
SOME_WORDS = [
    "Grüße",
    "日本語",
    "שלום",
    "😀👩‍👩‍👧",
    "word",
    "Re:",
    "a@b.example",
    "<a@b>",
    "x" * 80,
    "ü" * 90,
    "y" * 1000,
]
WORDS = st.text(CHARACTERS.filter(lambda c: c not in " \t"), min_size=1, max_size=12) | st.sampled_from(SOME_WORDS)
SPACES = st.sampled_from([" ", " ", " ", "  ", "\t", " \t ", " " * 70, " " * 1100])
TEXT = st.lists(st.tuples(SPACES, WORDS), max_size=8).flatmap(
    lambda pairs: st.sampled_from(["", " ", "   "]).map(
        lambda rest: "".join(space + word for space, word in pairs).removeprefix(" ") + rest
    )
)


def is_plain(text: str) -> bool:
    return "=?" not in text and "?=" not in text


@examples(400)
@given(TEXT, st.booleans())
@example("Grüße  aus  Köln", False)
@example("a" + " " * 1200 + "b", False)
@example("a " + "b" * 1200, False)
@example(" ü ", False)
def test_text_is_read_as_it_was_given_space_for_space(text: str, utf8: bool) -> None:
    written = field("Subject", text, utf8=utf8)
    if text.isascii() and not is_plain(text):
        return  # it stays as it is, for it may have been encoded by whoever set it
    assert read_text(value_of(written, "Subject")) == text
    assert utf8 or written.isascii()


@examples(200)
@given(TEXT)
def test_an_ascii_word_is_never_encoded_split_or_joined(text: str) -> None:
    written = value_of(field("Subject", text), "Subject")
    words = [word for word in re.split("[ \t]+", text) if word and word.isascii() and len(word) < 990]
    left = re.split("[ \t]+", written)
    for word in words:
        if is_plain(word):
            assert word in left
            left.remove(word)


@examples(200)
@given(TEXT)
def test_a_line_is_over_78_only_where_it_has_no_other_place_to_be_folded(text: str) -> None:
    for number, line in enumerate(lines_of(field("Subject", text), "Subject")):
        if len(line.rstrip(" \t")) > 78:
            body = line.removeprefix("Subject:") if number == 0 else line
            assert len(re.findall("[^ \t]+", body)) == 1


@examples(200)
@given(TEXT, st.booleans())
def test_folding_twice_changes_nothing(text: str, utf8: bool) -> None:
    written = field("Subject", text, utf8=utf8)
    value = written.removeprefix("Subject:").removesuffix("\r\n")
    assert field("Subject", value.removeprefix(" "), utf8=utf8, is_parsed=True) == written


@examples(100)
@given(st.lists(st.sampled_from(["=?utf-8?q?x?=", "=?", "?=", "ü", "a"]), min_size=1).map(" ".join))
def test_what_looks_like_an_encoded_word_and_is_none_is_read_as_it_was_given(text: str) -> None:
    assert read_text(value_of(field("Subject", text, is_literal=True), "Subject")) == text
    if not text.isascii():
        assert read_text(value_of(field("Subject", text), "Subject")) == text


@examples(100)
@given(st.lists(st.sampled_from(["=?utf-8?q?x?=", "ü", "a", "=?utf-8?b?w7w=?="]), min_size=1).map(" ".join))
def test_an_encoded_word_that_was_parsed_means_what_it_meant(text: str) -> None:
    assert read_text(value_of(field("Subject", text, is_parsed=True), "Subject")) == read_text(text)


@examples(200)
@given(st.lists(st.sampled_from([b"ab", b"\xfc", b"\xc3\xbc", b" ", b"  ", b"\xff\xfe", b"x" * 70])).map(b"".join))
def test_octets_that_are_utf8_are_text_and_others_stay_octets(octets: bytes) -> None:
    """Rule 4 of the wire form; RFC 1428 for what has no name."""
    value = octets.decode("ascii", "surrogateescape")
    for utf8 in (False, True):
        written = field("Subject", value, is_parsed=True, utf8=utf8)
        assert read_text(value_of(written, "Subject")).encode("utf-8", "surrogateescape") == octets
        assert utf8 or written.isascii()


@pytest.mark.parametrize("name", ["Subject", "To", "X-Any", "Content-Type", "References"])
@pytest.mark.parametrize("value", ["\ud800", "x \udfff y", "ü\udbff"])
def test_a_lone_surrogate_is_refused(name: str, value: str) -> None:
    with pytest.raises(MessageError, match=rf"header {name} holds a lone surrogate"):
        field(name, value)


# --- What stays as it is


@pytest.mark.parametrize("name", ["Subject", "To", "References", "DKIM-Signature", "Content-Type", "X-Any"])
@pytest.mark.parametrize(
    "value",
    [
        "a" * 980,
        "a, b\r\n\tc\n d  " + "e" * 900,
        "\r\n  begins on the second line",
        "white space\r\n \r\n alone",
        "=?utf-8?q?x?= =?x?=",
        '"',
        "",
        "  ",
    ],
)
def test_a_parsed_field_of_ascii_is_sent_octet_for_octet(name: str, value: str) -> None:
    written = field(name, value, is_parsed=True)
    space = "" if value.startswith("\r") else " "
    assert written == f"{name}:{space}" + value.replace("\r\n", "\n").replace("\n", "\r\n") + "\r\n"


def test_a_set_field_that_fits_its_line_is_sent_octet_for_octet() -> None:
    for value in ("a" * 69, "=?utf-8?q?x?=", " a  b ", "a,\r\n b", '"x" <a@b>'):
        assert field("Subject", value) == f"Subject: {value}\r\n"


TOKENS = [
    ("References", " ".join(f"<{'x' * (number % 70)}.{number}@mail.example>" for number in range(40))),
    ("In-Reply-To", f"<{'a' * 200}@mail.example>"),
    ("Message-ID", f"<{'a' * 68}@mail.example>"),
    ("List-Unsubscribe", f"<mailto:x@y.example?subject={'u' * 300}>, <https://x.example/{'p' * 400}>"),
    (
        "DKIM-Signature",
        "v=1; a=rsa-sha256; d=x.example; s=s; h=From:To:Subject; bh=" + "Ab+/" * 11 + "; b=" + "x" * 344,
    ),
    ("Authentication-Results", "mx.example; dkim=pass header.d=x.example; spf=pass smtp.mailfrom=" + "y" * 90),
    ("X-Token", "z" * 300),
    ("Subject", "https://x.example/" + "q" * 500 + " and more"),
]


@pytest.mark.parametrize(("name", "value"), TOKENS, ids=[name for name, _ in TOKENS])
@pytest.mark.parametrize("is_parsed", [True, False])
def test_a_long_token_is_never_touched(name: str, value: str, is_parsed: bool) -> None:
    assert value_of(field(name, value, is_parsed=is_parsed), name) == value


@pytest.mark.parametrize("name", ["References", "DKIM-Signature", "List-Unsubscribe", "To", "Content-Type"])
def test_an_ascii_word_that_no_line_can_hold_is_refused_in_a_structured_field(name: str) -> None:
    for is_parsed in (True, False):
        with pytest.raises(MessageError, match=rf"header {name} has 1\d\d\d bytes without white space"):
            field(name, "<" + "a" * 1000 + "@x.example>", is_parsed=is_parsed)


@pytest.mark.parametrize("name", ["References", "In-Reply-To", "DKIM-Signature", "List-Post", "Date", "MIME-Version"])
def test_a_token_that_is_not_ascii_needs_smtputf8(name: str) -> None:
    with pytest.raises(FieldNeedsUtf8, match=f"header {name} is not ASCII"):
        field(name, "<ü@x.example>")
    assert field(name, "<ü@x.example>", utf8=True) == f"{name}: <ü@x.example>\r\n"
    with pytest.raises(MessageError, match="neither ASCII nor UTF-8"):
        field(name, "<\udcfc@x.example>", utf8=True, is_parsed=True)


def test_a_comment_can_be_encoded_anywhere() -> None:
    written = field("Received", "from a.example (größer (ganz) x) by b.example; date", is_parsed=True)
    assert value_of(written, "Received") == ("from a.example (=?utf-8?b?Z3LDtsOfZXIg?=(ganz) x) by b.example; date")


# --- Addresses


def read_list(value: str) -> list[tuple[str, str]]:
    """Read mailboxes of the forms written here: display name, decoded, and addr-spec; groups are flattened."""
    found: list[tuple[str, str]] = []
    words: list[tuple[str, str]] = []
    at = 0
    token = re.compile(
        r'([ \t]*)("(?:[^"\\]|\\.)*"(?:@[A-Za-z0-9.-]+)?|\(|<(?:"[^"]*"|[^<>"])*>|[,:;]|[^ \t<>(),:;"]+)'
    )

    def end() -> None:
        if words:
            assert len(words) == 1
            found.append(("", words.pop()[1]))

    while at < len(value):
        match = token.match(value, at)
        if match is None:
            assert not value[at:].strip()
            break
        at = match.end()
        word = match[2]
        if word == "(":
            depth = 1
            while depth:
                depth += {"(": 1, ")": -1}.get(value[at], 0)
                at += 2 if value[at] == "\\" else 1
        elif word in ",;":
            end()
        elif word == ":":
            words.clear()
        elif word.startswith("<"):
            found.append((read_phrase(words), word[1:-1]))
            words.clear()
        else:
            words.append((match[1], word))
    end()
    return found


def read_phrase(words: list[tuple[str, str]]) -> str:
    parts: list[str] = []
    was_encoded = False
    for space, word in words:
        encoded = ENCODED_WORD.fullmatch(word)
        if not (was_encoded and encoded) and parts:
            parts.append(" " if space else "")
        if encoded:
            assert len(word) <= 75
            octets = decoded(*encoded.groups())
            parts.append(octets.decode("utf-8" if encoded[1] == "utf-8" else "ascii", "surrogateescape"))
        elif word.startswith('"'):
            parts.append(re.sub(r"\\(.)", r"\1", word[1:-1], flags=re.DOTALL))
        else:
            assert re.fullmatch(r"[^\x00-\x20\x7f()<>@,;:\\\"\[\]]+", word)
            parts.append(word)
        was_encoded = encoded is not None
    return "".join(parts)


PRINTABLE = st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Zl", "Zp"])
NAMES = st.text(PRINTABLE, max_size=40).map(lambda name: " ".join(name.split())) | st.sampled_from(
    [
        "Doe, Jane, ceo@bank.example, Head of Everything that is Important in this Company, PhD",
        "Müller, Jörg <evil@evil.example>",
        "ü (c) \\ \" ; : x@y",
        "=?utf-8?q?x?=",
        "=?utf-8?q?=2C?= ü",
        "日本" * 40,
        "J. Q. Public",
    ]
)  # fmt: skip
LOCALS = st.from_regex(r"[a-z0-9+_-]{1,40}(\.[a-z0-9]{1,5})?", fullmatch=True) | st.sampled_from(
    ['"a b"', '"x@y"', '"<,>"']
)
MAILBOXES = st.tuples(NAMES, LOCALS.map(lambda local: f"{local}@x.example"))


@examples(300)
@given(
    st.lists(MAILBOXES, min_size=1, max_size=5), st.sampled_from(["To", "From", "Reply-To", "Resent-Cc", "Errors-To"])
)
def test_mailboxes_are_the_same_mailboxes_behind_folding_and_encoding(
    mailboxes: list[tuple[str, str]], name: str
) -> None:
    source = ", ".join(mailbox_source(*mailbox) for mailbox in mailboxes)
    for utf8 in (False, True):
        written = field(name, source, utf8=utf8, is_literal=True)
        assert read_list(value_of(written, name)) == mailboxes
        assert utf8 or written.isascii()
        value = written.removeprefix(f"{name}:").removesuffix("\r\n").removeprefix(" ")
        assert field(name, value, utf8=utf8, is_parsed=True) == written


@pytest.mark.parametrize(
    "name",
    [
        "From",
        "Sender",
        "To",
        "Reply-To",
        "Resent-From",
        "Disposition-Notification-To",
        "Errors-To",
        "Return-Receipt-To",
    ],
)
@pytest.mark.parametrize(
    ("value", "wire"),
    [
        ("you@bücher.example", "you@xn--bcher-kva.example"),
        ("You <you@bücher.example>", "You <you@xn--bcher-kva.example>"),
        ("Jörg <you@bücher.example>", "=?utf-8?q?J=C3=B6rg?= <you@xn--bcher-kva.example>"),
        ('"Müller, Jörg" <you@bücher.example>', "=?utf-8?q?M=C3=BCller=2C_J=C3=B6rg?= <you@xn--bcher-kva.example>"),
        ('"a b"@bücher.example', '"a b"@xn--bcher-kva.example'),
        ("a@x.example, b@BÜCHER.example", "a@x.example, b@xn--bcher-kva.example"),
        ("two: a@x.example, b@例え.テスト;", "two: a@x.example, b@xn--r8jz45g.xn--zckzah;"),
        ("<you@bücher.example> (Küche)", "<you@xn--bcher-kva.example> (=?utf-8?q?K=C3=BCche?=)"),
    ],
)
def test_an_internationalized_domain_is_written_with_its_a_labels(name: str, value: str, wire: str) -> None:
    assert value_of(field(name, value), name) == wire
    assert value_of(field(name, value, utf8=True), name) == value


def test_a_local_part_beyond_ascii_needs_smtputf8() -> None:
    for value in ("jörg@x.example", "J <jörg@bücher.example>"):
        with pytest.raises(FieldNeedsUtf8, match="header To"):
            field("To", value)
        with pytest.raises(MessageError, match="neither ASCII nor UTF-8"):
            field("To", value.replace("ö", "\udcf6"), is_parsed=True)


def test_an_ascii_mailbox_beside_one_that_is_not_stays_as_it_is() -> None:
    value = '"Doe, Jane"  <jane@x.example> (a  comment), =?utf-8?q?x?= <y@x.example>, Jörg <j@x.example>'
    assert value_of(field("Cc", value), "Cc") == value.replace("Jörg", "=?utf-8?q?J=C3=B6rg?=")


@pytest.mark.parametrize("value", ['ü "', "ü (", "ü <a@b", "[ü"])
def test_what_is_not_ascii_and_cannot_be_read_is_refused(value: str) -> None:
    with pytest.raises(MessageError, match=r"header (List-Id|To)"):
        field("List-Id", value)
    with pytest.raises(MessageError, match=r"header (List-Id|To)"):
        field("To", value)


# --- Parameters


def read_parameters(value: str) -> dict[str, str]:
    """Read parameters as RFC 2231 has them."""
    plain: dict[str, str] = {}
    pieces: dict[str, dict[int, str]] = {}
    for known, quoted, text in re.findall(r';[ \t]*([^ =;]+)=(?:"((?:[^"\\]|\\.)*)"|([^;]*))', value):
        name, star, number = known.partition("*")
        if not star:
            plain[name] = re.sub(r"\\(.)", r"\1", quoted) or text
        else:
            assert re.fullmatch(r"[A-Za-z0-9!#$&+.^_`{|}~%'-]*", text)
            pieces.setdefault(name, {})[int(number.rstrip("*") or 0)] = text
    for name, found in pieces.items():
        joined = "".join(found[number] for number in range(len(found)))
        charset, _, text = joined.split("'", 2)
        assert charset == "utf-8"
        plain[name] = urllib.parse.unquote(text, errors="strict")
    return plain


FILE_NAMES = st.text(PRINTABLE, min_size=1, max_size=80).map(str.strip).filter(lambda name: not name.isascii())


@examples(300)
@given(FILE_NAMES)
@example("Übung  Plan für alle und noch mehr, und noch länger als eine Zeile.pdf")
def test_a_file_name_beyond_ascii_is_read_as_it_was_given(name: str) -> None:
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    for value in (f'attachment; filename="{quoted}"; size=3', f'attachment; size=3; filename="{quoted}"'):
        written = field("Content-Disposition", value)
        assert written.isascii()
        assert all(len(line) <= 78 for line in lines_of(written, "Content-Disposition"))
        assert read_parameters(value_of(written, "Content-Disposition")) == {"filename": name, "size": "3"}
        assert field("Content-Disposition", written[21:-2], is_parsed=True) == written


@pytest.mark.parametrize("name", ["Übung Plan.pdf", "Plan für alle.pdf", "a; ü.pdf", "größe (neu).pdf"])
def test_a_file_name_that_ought_to_have_been_quoted_is_not_cut(name: str) -> None:
    written = field("Content-Disposition", f"attachment; filename= {name}")
    assert read_parameters(value_of(written, "Content-Disposition")) == {"filename": name}


def test_a_parameter_in_ascii_stays_as_it_is_beside_one_that_is_not() -> None:
    value = 'multipart/related; boundary="=_a b"; type=text/html; name="ü"; start="<a@b>"'
    wire = value.replace('name="ü"', "name*=utf-8''%C3%BC")
    assert value_of(field("Content-Type", value), "Content-Type") == wire


@pytest.mark.parametrize(
    "value",
    [
        'attachment; filename="ü',
        'attachment; filename="ü" x',
        "attachment; ü",
        "attachment; filename=ü; filename*=utf-8''x",
        "attachment; filename*=latin-1''ü",
        "attachment; filename=\udcfc",
    ],
)
def test_parameters_that_cannot_be_written_without_loss_are_refused(value: str) -> None:
    with pytest.raises(MessageError, match="header Content-Disposition"):
        field("Content-Disposition", value)


# --- Rule R27


MARKS = ['"', "'", "\\", "(", ")", "<", ">", ",", ";", ":", "=?", "?=", "[", "]", " ", "\t", "@", "\udcfc"]
HOSTILE = [*MARKS, '\\"', "a ", "ü ", 'ü"', "ü(", "ü,", "ü<", "; a=ü", "=?utf-8?q?x?= ", "a@b,", "\udcfc "]


@pytest.mark.parametrize("unit", HOSTILE)
@pytest.mark.parametrize("name", ["Subject", "To", "Content-Type", "List-Id", "References"])
def test_no_field_takes_longer_than_its_length(name: str, unit: str) -> None:
    """Twice the octets, twice the time: measured where a quadratic reader would need minutes."""
    assert kind_of(name) in Kind
    for value in (unit * 30_000, "ü " + unit * 30_000, unit * 30_000 + " ü", '"' + unit * 30_000 + "ü"):
        for is_parsed in (True, False):
            begun = time.process_time()
            try:
                written = field(name, value, is_parsed=is_parsed)
            except MessageError:
                pass
            else:
                lines_of(written, name)
            assert time.process_time() - begun < 3
