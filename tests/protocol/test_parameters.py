"""Parameters of MAIL and RCPT: exact wire forms, and nothing smuggled in by a keyword or a value (R18, R23)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtplite.errors import ExtensionRequired, MessageError
from smtplite.protocol.extensions import Extensions
from smtplite.protocol.grammar import KEYWORD
from smtplite.protocol.parameters import (
    KNOWN_PARAMETERS,
    MAX_ENVID_CHARACTERS,
    NO_PARAMETERS,
    RESERVED,
    Parameters,
    negotiate,
    negotiate_size,
    require_offered,
    xtext,
)


@pytest.mark.parametrize(
    ("arguments", "wire", "keywords"),
    [
        ({}, b"", ()),
        ({"size": 0}, b" SIZE=0", ("SIZE",)),
        ({"size": 1234}, b" SIZE=1234", ("SIZE",)),
        ({"body": "7BIT"}, b" BODY=7BIT", ("8BITMIME",)),
        ({"body": "8BITMIME"}, b" BODY=8BITMIME", ("8BITMIME",)),
        ({"body": "BINARYMIME"}, b" BODY=BINARYMIME", ("BINARYMIME",)),
        ({"smtputf8": True}, b" SMTPUTF8", ("SMTPUTF8",)),
        ({"ret": "FULL"}, b" RET=FULL", ("DSN",)),
        ({"ret": "HDRS"}, b" RET=HDRS", ("DSN",)),
        ({"envid": "QQ314159"}, b" ENVID=QQ314159", ("DSN",)),
        ({"envid": "a+b=c d"}, b" ENVID=a+2Bb+3Dc+20d", ("DSN",)),
        ({"envid": "<a@b.example>"}, b" ENVID=+3Ca@b.example+3E", ("DSN",)),
        ({"envid": "x" * MAX_ENVID_CHARACTERS}, b" ENVID=" + b"x" * 100, ("DSN",)),
        ({"require_tls": True}, b" REQUIRETLS", ("REQUIRETLS",)),
        (
            {"size": 9, "body": "8BITMIME", "smtputf8": True, "ret": "HDRS", "envid": "e", "require_tls": True},
            b" SIZE=9 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=e REQUIRETLS",
            ("SIZE", "8BITMIME", "SMTPUTF8", "DSN", "REQUIRETLS"),
        ),
    ],
)
def test_the_parameters_of_mail(arguments: dict[str, Any], wire: bytes, keywords: tuple[str, ...]) -> None:
    parameters = Parameters.mail(**arguments)
    assert (parameters.wire, parameters.keywords) == (wire, keywords)


@pytest.mark.parametrize(
    "arguments",
    [
        {"size": -1},
        {"size": True},
        {"size": 1.0},
        {"size": "1"},
        {"size": "100\r\nRCPT TO:<evil@example.org>"},  # nodemailer, GHSA-c7w3-x93f-qmm8
        {"body": ""},
        {"body": "8bitmime"},
        {"body": "8BITMIME SIZE=1"},
        {"body": "8BITMIME\r\n"},
        {"body": 8},
        {"ret": ""},
        {"ret": "full"},
        {"ret": "FULL\r\n"},
        {"envid": ""},
        {"envid": "x" * (MAX_ENVID_CHARACTERS + 1)},
        {"envid": "a\r\nRSET"},
        {"envid": "a\0"},
        {"envid": "a\x7f"},
        {"envid": "a\tb"},
        {"envid": "é"},
        {"envid": 5},
        {"envid": b"x"},
    ],
)
def test_the_parameters_of_mail_refuse(arguments: dict[str, Any]) -> None:
    with pytest.raises(MessageError):
        Parameters.mail(**arguments)


@pytest.mark.parametrize(
    ("arguments", "wire"),
    [
        ({}, b""),
        ({"notify": "NEVER"}, b" NOTIFY=NEVER"),
        ({"notify": ["NEVER"]}, b" NOTIFY=NEVER"),
        ({"notify": "SUCCESS"}, b" NOTIFY=SUCCESS"),
        ({"notify": ("SUCCESS", "FAILURE", "DELAY")}, b" NOTIFY=SUCCESS,FAILURE,DELAY"),
        ({"notify": ["DELAY", "DELAY"]}, b" NOTIFY=DELAY"),
        ({"notify": ["DELAY", "SUCCESS"]}, b" NOTIFY=SUCCESS,DELAY"),  # a set has no order: ours is always the same
        ({"notify": {"DELAY", "FAILURE", "SUCCESS"}}, b" NOTIFY=SUCCESS,FAILURE,DELAY"),
        ({"notify": {"NEVER"}}, b" NOTIFY=NEVER"),
        ({"orcpt": "Bob@Example.COM"}, b" ORCPT=rfc822;Bob@Example.COM"),
        ({"orcpt": "a+b=c@x.example"}, b" ORCPT=rfc822;a+2Bb+3Dc@x.example"),
        ({"orcpt": '"a b"@x.example'}, b' ORCPT=rfc822;"a+20b"@x.example'),
        ({"orcpt": "a@x> SIZE=1"}, b" ORCPT=rfc822;a@x+3E+20SIZE+3D1"),
        ({"orcpt": "é+a@x.example"}, b" ORCPT=utf-8;\\x{E9}\\x{2B}a@x.example"),
        ({"orcpt": "é=\\@x.example", "smtputf8": True}, " ORCPT=utf-8;é\\x{3D}\\x{5C}@x.example".encode()),
        ({"orcpt": "用@x.example", "smtputf8": False}, b" ORCPT=utf-8;\\x{7528}@x.example"),
        ({"notify": "NEVER", "orcpt": "a@x"}, b" NOTIFY=NEVER ORCPT=rfc822;a@x"),
        ({"orcpt": "x" * 493}, b" ORCPT=rfc822;" + b"x" * 493),
        ({"orcpt": "é" * 247, "smtputf8": True}, b" ORCPT=utf-8;" + "é".encode() * 247),
    ],
)
def test_the_parameters_of_rcpt(arguments: dict[str, Any], wire: bytes) -> None:
    parameters = Parameters.rcpt(**arguments)
    assert (parameters.wire, parameters.keywords) == (wire, ("DSN",) if wire else ())


@pytest.mark.parametrize(
    "arguments",
    [
        {"notify": ""},
        {"notify": []},
        {"notify": "never"},
        {"notify": "SUCCESS,FAILURE"},
        {"notify": ["NEVER", "SUCCESS"]},
        {"notify": ["SUCCESS\r\n"]},
        {"notify": 5},
        {"notify": [5]},
        {"notify": [["SUCCESS"]]},
        {"notify": b"NEVER"},
        {"notify": ["NEVER", "SUCCESS", "FAILURE", "DELAY"]},
        {"orcpt": 5},
        {"orcpt": b"a@x"},
        {"notify": ["SUCCESS", "SUCCESS SIZE=1"]},
        {"orcpt": ""},
        {"orcpt": "a\r\nRSET"},
        {"orcpt": "a\0@x"},
        {"orcpt": "é\r\n"},
        {"orcpt": "é a"},
        {"orcpt": "é> SIZE=1"},
        {"orcpt": "<é"},
        {"orcpt": "é\u2028"},
        {"orcpt": "é\u200b"},
        {"orcpt": "\ud800"},
        {"orcpt": "x" * 494},
        {"orcpt": "é" * 248, "smtputf8": True},
        {"orcpt": "é" * 100},
    ],
)
def test_the_parameters_of_rcpt_refuse(arguments: dict[str, Any]) -> None:
    with pytest.raises(MessageError):
        Parameters.rcpt(**arguments)


@pytest.mark.parametrize(
    ("given_", "wire", "keywords"),
    [
        ({}, b"", ()),
        ({"MT-PRIORITY": "-9"}, b" MT-PRIORITY=-9", ("MT-PRIORITY",)),
        ({"mt-priority": "3"}, b" mt-priority=3", ("MT-PRIORITY",)),
        ({"XVERP": None}, b" XVERP", ("XVERP",)),
        ({"BY": "120;R"}, b" BY=120;R", ("DELIVERBY",)),
        ({"HOLDFOR": "60"}, b" HOLDFOR=60", ("FUTURERELEASE",)),
        ({"holduntil": "2030-01-01T00:00:00Z"}, b" holduntil=2030-01-01T00:00:00Z", ("FUTURERELEASE",)),
        ({"A": "1", "B": None}, b" A=1 B", ("A", "B")),
        ({"HOLDFOR": "1", "HOLDUNTIL": "2"}, b" HOLDFOR=1 HOLDUNTIL=2", ("FUTURERELEASE",)),
    ],
)
def test_other_parameters_and_the_keyword_that_must_be_offered_for_them(
    given_: dict[str, str | None], wire: bytes, keywords: tuple[str, ...]
) -> None:
    """R23."""
    parameters = Parameters.custom(given_)
    assert (parameters.wire, parameters.keywords) == (wire, keywords)


def test_the_reserved_keywords_are_those_of_the_rule() -> None:
    rule = "BODY, SIZE, SMTPUTF8, AUTH, PRDR, RET, ENVID, NOTIFY, ORCPT, REQUIRETLS"
    assert sorted(RESERVED) == sorted(rule.split(", "))


@pytest.mark.parametrize("keyword", sorted(RESERVED))
@pytest.mark.parametrize("value", ["x", None, "<>"])
def test_a_reserved_keyword_is_refused_in_any_case(keyword: str, value: str | None) -> None:
    """R23."""
    for spelling in (keyword, keyword.lower(), keyword.capitalize()):
        with pytest.raises(MessageError, match=keyword):
            Parameters.custom({spelling: value})


BAD = [*map(chr, range(0x21)), "\x7f", "=", "<", ">", "é", "\x85", "\xa0", "\u2028", "\u200b", "\ud800", "٣"]


@pytest.mark.parametrize("character", BAD, ids=ascii)
def test_nothing_is_smuggled_in_by_a_keyword_or_a_value(character: str) -> None:
    """R18."""
    for text in (f"A{character}B", f"{character}A", f"A{character}"):
        with pytest.raises(MessageError):
            Parameters.custom({text: "1"})
        with pytest.raises(MessageError):
            Parameters.custom({text: None})
        with pytest.raises(MessageError):
            Parameters.custom({"A": text})


@pytest.mark.parametrize("parameters", [{"": None}, {"A": ""}, {"A": 1}, {1: "a"}, {None: None}, {b"A": b"1"}])
def test_keywords_and_values_are_text_and_not_empty(parameters: dict[Any, Any]) -> None:
    with pytest.raises(MessageError):
        Parameters.custom(parameters)


def test_a_keyword_that_stands_twice_is_refused() -> None:
    with pytest.raises(MessageError, match="twice"):
        Parameters.custom({"a": "1", "A": "2"})


def test_parameters_add_up() -> None:
    both = Parameters.mail(size=1, ret="FULL") + Parameters.custom({"X": "1"}) + Parameters.rcpt(notify="NEVER")
    assert both.wire == b" SIZE=1 RET=FULL X=1 NOTIFY=NEVER"
    assert both.keywords == ("SIZE", "DSN", "X")
    some = Parameters.mail(size=1)
    assert some + NO_PARAMETERS is some
    assert (NO_PARAMETERS + some).wire == some.wire
    assert NO_PARAMETERS.wire == b""


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)))
def test_xtext_holds_no_special_octet_and_can_be_undone(text: str) -> None:
    encoded = xtext(text)
    assert not set(encoded) & set(" =<>")
    undone, rest = "", encoded
    while rest:
        if rest[0] == "+":
            assert rest[1:3] == rest[1:3].upper()
            undone, rest = undone + chr(int(rest[1:3], 16)), rest[3:]
        else:
            undone, rest = undone + rest[0], rest[1:]
    assert undone == text


@pytest.mark.parametrize("text", ["\r", "\n", "\0", "\t", "\x7f", "é", "\u2028"])
def test_xtext_is_for_printable_ascii(text: str) -> None:
    with pytest.raises(MessageError):
        xtext(f"a{text}b")


anything = st.text(max_size=12)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(anything, st.none() | anything, max_size=3), anything, anything, st.booleans())
def test_whatever_is_taken_is_words_behind_single_spaces(
    parameters: dict[str, str | None], envid: str, orcpt: str, smtputf8: bool
) -> None:
    """R18: the count of spaces is the count of parameters, and no control octet stands anywhere."""
    makers: list[Callable[[], Parameters]] = [
        lambda: Parameters.custom(parameters),
        lambda: Parameters.mail(envid=envid),
        lambda: Parameters.rcpt(orcpt=orcpt, smtputf8=smtputf8),
    ]
    wires = []
    for make in makers:
        try:
            wires.append(make().wire)
        except MessageError:
            continue
    for wire in wires:
        assert wire.count(b" ") == len(wire.split())
        assert not set(wire) & {*range(0x20), 0x7F, *b"<>"}


# What a message needs, at a server that offers some of it

NOTHING = Extensions()
ALL = Extensions(
    {
        "SIZE": ("1000",),
        "8BITMIME": (),
        "SMTPUTF8": (),
        "DSN": (),
        "REQUIRETLS": (),
        "CHUNKING": (),
        "BINARYMIME": (),
        "DELIVERBY": (),
        "FUTURERELEASE": (),
        "MT-PRIORITY": (),
    }
)


def without(*keywords: str) -> Extensions:
    return Extensions({keyword: ALL[keyword] for keyword in ALL if keyword not in keywords})


PLAIN: dict[str, Any] = {"size": 10, "is_eight_bit": False}


@pytest.mark.parametrize(
    ("extensions", "arguments", "wire"),
    [
        (NOTHING, PLAIN, b""),
        (NOTHING, {**PLAIN, "size": 10**9}, b""),
        (NOTHING, {**PLAIN, "body": "7BIT"}, b""),
        (NOTHING, {**PLAIN, "ret": "FULL", "envid": "x", "drop_dsn": True}, b""),
        (ALL, PLAIN, b" SIZE=10"),
        (ALL, {**PLAIN, "size": None}, b""),
        (ALL, {**PLAIN, "size": 1000}, b" SIZE=1000"),
        (Extensions({"SIZE": ()}), {**PLAIN, "size": 10**9}, b" SIZE=1000000000"),
        (ALL, {**PLAIN, "is_eight_bit": True}, b" SIZE=10 BODY=8BITMIME"),
        (ALL, {**PLAIN, "body": "7BIT"}, b" SIZE=10 BODY=7BIT"),
        (ALL, {**PLAIN, "body": "8BITMIME"}, b" SIZE=10 BODY=8BITMIME"),
        (ALL, {**PLAIN, "body": "BINARYMIME", "may_chunk": True}, b" SIZE=10 BODY=BINARYMIME"),
        (ALL, {**PLAIN, "body": "BINARYMIME", "may_chunk": True, "is_eight_bit": True}, b" SIZE=10 BODY=BINARYMIME"),
        (ALL, {**PLAIN, "needs_smtputf8": "the sender"}, b" SIZE=10 SMTPUTF8"),
        (ALL, {**PLAIN, "ret": "HDRS", "envid": "x", "drop_dsn": True}, b" SIZE=10 RET=HDRS ENVID=x"),
        (ALL, {**PLAIN, "require_tls": True, "is_tls": True}, b" SIZE=10 REQUIRETLS"),
        (ALL, {**PLAIN, "custom": Parameters.custom({"BY": "9;R"})}, b" SIZE=10 BY=9;R"),
    ],
)
def test_each_parameter_is_sent_only_where_it_is_needed_and_offered(
    extensions: Extensions, arguments: dict[str, Any], wire: bytes
) -> None:
    assert negotiate(extensions, **arguments).wire == wire


@pytest.mark.parametrize(
    ("extensions", "arguments", "keyword"),
    [
        (ALL, {**PLAIN, "size": 1001}, "SIZE"),
        (without("8BITMIME"), {**PLAIN, "is_eight_bit": True}, "8BITMIME"),
        (without("8BITMIME"), {**PLAIN, "body": "8BITMIME"}, "8BITMIME"),
        (without("BINARYMIME"), {**PLAIN, "body": "BINARYMIME", "may_chunk": True}, "BINARYMIME"),
        (without("BINARYMIME", "CHUNKING"), {**PLAIN, "body": "BINARYMIME", "may_chunk": True}, "BINARYMIME"),
        (without("CHUNKING"), {**PLAIN, "body": "BINARYMIME", "may_chunk": True}, "CHUNKING"),
        (ALL, {**PLAIN, "body": "BINARYMIME", "may_chunk": False}, "CHUNKING"),
        (without("SMTPUTF8"), {**PLAIN, "needs_smtputf8": "the sender"}, "SMTPUTF8"),
        (without("8BITMIME"), {**PLAIN, "needs_smtputf8": "the sender"}, "SMTPUTF8"),
        (without("DSN"), {**PLAIN, "ret": "FULL"}, "DSN"),
        (without("DSN"), {**PLAIN, "envid": "x"}, "DSN"),
        (without("REQUIRETLS"), {**PLAIN, "require_tls": True, "is_tls": True}, "REQUIRETLS"),
        (ALL, {**PLAIN, "require_tls": True, "is_tls": False}, "REQUIRETLS"),
        (without("DELIVERBY"), {**PLAIN, "custom": Parameters.custom({"BY": "9;R"})}, "DELIVERBY"),
        (without("FUTURERELEASE"), {**PLAIN, "custom": Parameters.custom({"HOLDFOR": "9"})}, "FUTURERELEASE"),
        (ALL, {**PLAIN, "custom": Parameters.custom({"XFOO": "9"})}, "XFOO"),
    ],
)
def test_what_is_needed_and_not_offered_is_extension_required(
    extensions: Extensions, arguments: dict[str, Any], keyword: str
) -> None:
    """R23; section 4: before MAIL, so nothing was sent."""
    with pytest.raises(ExtensionRequired) as caught:
        negotiate(extensions, **arguments)
    assert caught.value.keyword == keyword
    assert keyword in str(caught.value) or keyword == "SIZE"
    assert not caught.value.retryable


def test_the_parameters_of_rcpt_are_checked_alone() -> None:
    notify = Parameters.rcpt(notify="NEVER")
    require_offered(ALL, notify)
    require_offered(NOTHING, NO_PARAMETERS)
    with pytest.raises(ExtensionRequired) as caught:
        require_offered(without("DSN"), notify)
    assert caught.value.keyword == "DSN"


def test_8_bit_content_cannot_be_called_7bit() -> None:
    with pytest.raises(MessageError, match="says that it holds none"):
        negotiate(ALL, size=10, is_eight_bit=True, body="7BIT")


# The table of known parameters, from which the documentation's is made


def test_the_table_of_known_parameters_says_who_sets_each_of_them() -> None:
    assert len({(known.keyword, known.extension) for known in KNOWN_PARAMETERS}) == len(KNOWN_PARAMETERS)
    for known in KNOWN_PARAMETERS:
        assert KEYWORD.fullmatch(known.keyword)
        assert KEYWORD.fullmatch(known.extension)
        assert known.commands in ("MAIL", "RCPT", "MAIL, RCPT")
        assert known.meaning
        assert known.rfc
        assert known.set_by in ("the client", "parameters", "never") or known.set_by.startswith(
            ("Envelope", "Recipient")
        )


@pytest.mark.parametrize("known", KNOWN_PARAMETERS, ids=lambda known: f"{known.keyword} {known.extension}")
def test_a_known_parameter_is_taken_by_parameters_if_the_table_says_so_and_needs_its_extension(known: Any) -> None:
    """R23."""
    if known.set_by == "parameters":
        assert Parameters.custom({known.keyword: "1"}).keywords == (known.extension,)
        assert known.keyword not in RESERVED
    else:
        assert known.keyword in RESERVED
        with pytest.raises(MessageError, match="not for `parameters`"):
            Parameters.custom({known.keyword: "1"})


def test_only_parameters_of_another_name_than_their_extensions_are_those_of_the_rule() -> None:
    """R23: BY -> DELIVERBY, HOLDFOR and HOLDUNTIL -> FUTURERELEASE, others by their own name."""
    others = {
        known.keyword: known.extension
        for known in KNOWN_PARAMETERS
        if known.set_by == "parameters" and known.keyword != known.extension
    }
    assert others == {"BY": "DELIVERBY", "HOLDFOR": "FUTURERELEASE", "HOLDUNTIL": "FUTURERELEASE"}
    assert Parameters.custom({"X-ANYTHING": None}).keywords == ("X-ANYTHING",)


def test_requiretls_outside_of_verified_tls_is_refused_and_says_why() -> None:
    """R29, RFC 8689 2: not before the session is inside TLS, and the server's certificate and name verified."""
    with pytest.raises(ExtensionRequired, match="was not verified, certificate and name"):
        negotiate(ALL, **PLAIN, require_tls=True, is_tls=False)
    with pytest.raises(ExtensionRequired, match="does not offer it"):
        negotiate(without("REQUIRETLS"), **PLAIN, require_tls=True, is_tls=True)


def test_a_size_alone_is_negotiated_as_with_everything_else() -> None:
    offered, silent = Extensions({"SIZE": ("100",)}), Extensions({})
    assert negotiate_size(offered, 100).wire == b" SIZE=100"
    assert negotiate_size(silent, 100) is NO_PARAMETERS
    with pytest.raises(ExtensionRequired, match="101"):
        negotiate_size(offered, 101)
