"""The reply to EHLO as typed properties."""

from __future__ import annotations

import copy
import pickle
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtplite.protocol.extensions import Extensions, Limits
from smtplite.protocol.reply import Reply


def ehlo(*lines: bytes) -> Extensions:
    return Extensions.from_reply(Reply(250, (b"mx.example at your service", *lines)))


def test_a_server_that_offers_nothing() -> None:
    for extensions in (Extensions(), ehlo()):
        assert len(extensions) == 0
        assert list(extensions) == []
        assert not any(
            (
                extensions.pipelining,
                extensions.chunking,
                extensions.enhanced_status_codes,
                extensions.starttls,
                extensions.eight_bit_mime,
                extensions.binarymime,
                extensions.smtputf8,
                extensions.dsn,
                extensions.requiretls,
            )
        )
        assert (extensions.size, extensions.auth, extensions.limits) == (None, (), Limits())
        assert "" not in extensions
    assert Extensions().greeting == ""
    assert ehlo().greeting == "mx.example at your service"
    assert ehlo().server_name == "mx.example"
    assert Extensions().server_name == ""


def test_the_greeting_may_be_of_any_octets() -> None:
    assert Extensions.from_reply(Reply(250, (b"",))).greeting == ""
    assert Extensions.from_reply(Reply(250, (b"\xff",))).greeting == "\ufffd"


@pytest.mark.parametrize(
    ("attribute", "lines"),
    [
        ("pipelining", (b"PIPELINING",)),
        ("chunking", (b"CHUNKING",)),
        ("enhanced_status_codes", (b"ENHANCEDSTATUSCODES",)),
        ("starttls", (b"STARTTLS",)),
        ("eight_bit_mime", (b"8BITMIME",)),
        ("binarymime", (b"BINARYMIME", b"CHUNKING")),
        ("smtputf8", (b"SMTPUTF8", b"8BITMIME")),
        ("dsn", (b"DSN",)),
        ("requiretls", (b"REQUIRETLS",)),
    ],
)
def test_each_extension_is_offered_by_its_keyword_in_any_case(attribute: str, lines: tuple[bytes, ...]) -> None:
    assert getattr(ehlo(*lines), attribute) is True
    assert getattr(ehlo(*(line.lower() for line in lines)), attribute) is True
    assert getattr(ehlo(*(line + b" parameter" for line in lines)), attribute) is True
    assert getattr(ehlo(*lines[1:]), attribute) is False
    assert getattr(ehlo(lines[0] + b"X"), attribute) is False


def test_binarymime_and_smtputf8_are_nothing_alone() -> None:
    """RFC 3030 3 wants CHUNKING with it, RFC 6531 3.1 8BITMIME."""
    extensions = ehlo(b"BINARYMIME", b"SMTPUTF8")
    assert "BINARYMIME" in extensions
    assert "SMTPUTF8" in extensions
    assert not extensions.binarymime
    assert not extensions.smtputf8


@pytest.mark.parametrize(
    ("line", "size"),
    [
        (b"SIZE 10485760", 10_485_760),
        (b"size 1", 1),
        (b"SIZE=35882577", 35_882_577),
        (b"SIZE 99999999999999999999", 99_999_999_999_999_999_999),
        (b"SIZE", None),
        (b"SIZE 0", None),
        (b"SIZE 999999999999999999999", None),
        (b"SIZE -1", None),
        (b"SIZE 1_0", None),
        (b"SIZE +1", None),
        (b"SIZE ten", None),
        (b"SIZE ten 20", None),
        (b"SIZE 20 30", 20),
    ],
)
def test_size_is_a_plain_decimal_or_unknown(line: bytes, size: int | None) -> None:
    """RFC 1870 4: absent or 0 is no limit."""
    assert ehlo(line).size == size


@pytest.mark.parametrize(
    ("lines", "mechanisms"),
    [
        ((b"AUTH PLAIN LOGIN",), ("PLAIN", "LOGIN")),
        ((b"AUTH=PLAIN LOGIN",), ("PLAIN", "LOGIN")),
        ((b"AUTH PLAIN LOGIN", b"AUTH=PLAIN LOGIN"), ("PLAIN", "LOGIN")),
        ((b"AUTH=LOGIN", b"AUTH PLAIN"), ("LOGIN", "PLAIN")),
        ((b"AUTH plain scram-sha-256",), ("PLAIN", "SCRAM-SHA-256")),
        ((b"AUTH  PLAIN\tLOGIN ",), ("PLAIN", "LOGIN")),
        ((b"AUTH= PLAIN",), ("PLAIN",)),
        ((b"AUTH",), ()),
    ],
)
def test_auth_in_both_of_its_forms(lines: tuple[bytes, ...], mechanisms: tuple[str, ...]) -> None:
    """RFC 4954 3, and the form of 2007 that the article recorded."""
    assert ehlo(*lines).auth == mechanisms


def test_the_article_s_reply() -> None:
    extensions = Extensions.from_reply(
        Reply(
            250,
            (
                b"mwinf2344.orange.fr",
                b"PIPELINING",
                b"SIZE 10485760",
                b"AUTH PLAIN LOGIN",
                b"AUTH=PLAIN LOGIN",
                b"8BITMIME",
            ),
        )
    )
    assert extensions.greeting == "mwinf2344.orange.fr"
    assert list(extensions) == ["PIPELINING", "SIZE", "AUTH", "8BITMIME"]
    assert extensions.pipelining
    assert extensions.size == 10_485_760
    assert extensions.auth == ("PLAIN", "LOGIN")
    assert extensions.eight_bit_mime


@pytest.mark.parametrize(
    ("line", "limits"),
    [
        (b"LIMITS MAILMAX=100 RCPTMAX=20 RCPTDOMAINMAX=1", Limits(100, 20, 1)),
        (b"LIMITS rcptmax=20", Limits(rcptmax=20)),
        (b"LIMITS RCPTMAX=20 FUTURE=7 OTHER", Limits(rcptmax=20)),
        (b"LIMITS RCPTMAX", Limits()),
        (b"LIMITS RCPTMAX=", Limits()),
        (b"LIMITS RCPTMAX=0", Limits()),
        (b"LIMITS RCPTMAX=many", Limits()),
        (b"LIMITS RCPTMAX=1=2", Limits()),
        (b"LIMITS RCPTMAX=-5 MAILMAX=2", Limits(mailmax=2)),
        (b"LIMITS", Limits()),
    ],
)
def test_limits(line: bytes, limits: Limits) -> None:
    assert ehlo(line).limits == limits


def test_lines_that_fit_no_grammar_are_passed_over() -> None:
    extensions = ehlo(b"", b" ", b"-X", b"PIPELINING", b"\xff", b"X\xc3\xa9 y", b"SIZE \xff", b"=", b"@")
    assert dict(extensions) == {"PIPELINING": ()}


def test_white_space_around_a_line_does_not_count() -> None:
    assert dict(ehlo(b" PIPELINING ", b"SIZE  5 ")) == {"PIPELINING": (), "SIZE": ("5",)}


def test_it_is_a_mapping_whose_look_up_ignores_case() -> None:
    extensions = ehlo(b"x-Thing a B", b"PIPELINING")
    assert extensions["X-THING"] == extensions["x-thing"] == ("a", "B")
    assert "pipelining" in extensions
    assert "Pipelining" in extensions
    nothing: tuple[object, ...] = (1, None, b"PIPELINING")
    assert not any(key in extensions for key in nothing)
    assert extensions.get("absent") is None
    with pytest.raises(KeyError):
        extensions["absent"]
    assert dict(extensions) == {"X-THING": ("a", "B"), "PIPELINING": ()}
    assert extensions == ehlo(b"PIPELINING", b"X-THING a B")
    assert extensions != ehlo(b"PIPELINING")
    assert repr(extensions) == "Extensions({'X-THING': ('a', 'B'), 'PIPELINING': ()})"


def test_it_keeps_no_reference_to_what_it_was_made_of() -> None:
    keywords: dict[str, tuple[str, ...]] = {"size": ("5",)}
    extensions = Extensions(keywords, greeting="me")
    keywords["PIPELINING"] = ()
    assert dict(extensions) == {"SIZE": ("5",)}


def test_it_survives_pickle_and_copy() -> None:
    extensions = ehlo(b"SIZE 5", b"AUTH PLAIN", b"PIPELINING")
    assert extensions.size == 5
    for again in (pickle.loads(pickle.dumps(extensions)), copy.copy(extensions), copy.deepcopy(extensions)):
        assert again == extensions
        assert (again.greeting, again.size, again.pipelining) == (extensions.greeting, 5, True)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=30), max_size=6))
def test_no_line_of_a_server_raises(lines: list[bytes]) -> None:
    extensions = ehlo(*lines, b"SIZE " + b" ".join(lines[:1]), b"LIMITS RCPTMAX=" + b"".join(lines[1:2]))
    assert extensions.size is None or extensions.size > 0
    assert extensions.limits.rcptmax is None or extensions.limits.rcptmax > 0
    assert all(keyword == keyword.upper() and keyword.isascii() for keyword in extensions)
    assert isinstance(extensions.auth, tuple)


def test_a_hostile_reply_of_the_largest_size_is_read_in_linear_time() -> None:
    """Quadratic, as they were once: 4 s for the first, 0.1 s for the second."""
    before = time.process_time()
    for _ in range(10):
        ehlo(*[b"X" + b"=" * 4000 + b"\x80"] * 25)
        ehlo(*[b"A x"] * 11_000)
    assert time.process_time() - before < 2.0
