"""Each regular expression: what it takes, what it refuses, and that it takes nothing by its beginning alone."""

from __future__ import annotations

import re
import time

import pytest

from smtplite.protocol import grammar

TEXT: dict[str, tuple[list[str], list[str]]] = {
    "VERB": (["NOOP", "x", "X-1", "A" * 32], ["", "1X", "-X", "A B", "A\r\n", "A\n", "A" * 33, "É", "A_B"]),
    "TEXT_ARGUMENT": (
        ["a", "a b", "a@b.example", "<a@b.example>", "~"],
        ["", " ", " a", "a ", "a\tb", "a\r\nb", "a\n", "a\x7f", "é", "a\0b"],
    ),
    "KEYWORD": (["X", "x-y", "8BITMIME", "A" * 80], ["", "-X", "X Y", "X=Y", "X\n", "X_Y", "É"]),
    "VALUE": (
        ["a", "+2B", "rfc822;a@b", '"', "!", "~"],
        ["", "a b", "a=b", "a\n", "\x7f", "é", "a>b", "<a", "\0", "\t"],
    ),
    "AUTH_MECHANISM": (["PLAIN", "CRAM-MD5", "X_1", "A" * 20], ["", "plain", "A B", "A" * 21, "PLAIN\n", "É"]),
    "DOMAIN": (
        ["a", "localhost", "a.b", "a-b.c-d.e1", "1.2.3.4", "a" * 63 + ".b"],
        ["", ".", "a.", ".a", "a..b", "-a", "a-", "a.-b", "a_b", "a b", "a\n", "é", "a" * 64, "[1.2.3.4]"],
    ),
    "MAILBOX_DOMAIN": (
        ["a", "a_b.c", "_a._b", "a_", "a.b-c", "a" * 63 + ".b"],
        ["", ".", "a_.", ".a_", "a..b", "-a_", "a_-", "a b", "a_\n", "é", "a" * 64],
    ),
    "ADDRESS_LITERAL": (
        ["[1.2.3.4]", "[IPv6:::1]", "[Tag-1:x]", "[a:b:c]", "[!~]"],
        ["", "[]", "[a", "a]", "[a b]", "[a]b]", "[a[b]", "[a\\b]", "[a>b]", "[x:<a]", "[a]\n", "[é]", "[IPv6:]\n"],
    ),
    "DOT_STRING": (
        ["a", "a.b", "!#$%&'*+-/=?^_`{|}~", "1"],
        ["", ".", ".a", "a.", "a..b", "a b", 'a"b', "a@b", "a(b", "a,b", "a:b", "a;b", "a<b", "a\\b", "a\n", "é"],
    ),
    "DOT_STRING_UTF8": (["é", "用户.é", "a"], ["", ".é", "é.", "é..é", "é b", "é@é", "é\n", "é\x7f"]),
    "QUOTED_STRING": (
        ['""', '"a b"', '"a@b"', '"a\\"b"', '"\\\\"', '"<>"', '"a\\ b"'],
        ["", '"', '"a', 'a"', '"a"b"', '"\\"', '"a\n"', '"a\\\n"', '"\0"', '"\x7f"', '"\t"', '"é"', '""\n'],
    ),
    "QUOTED_STRING_UTF8": (['"é"', '"a b"', '"用 户"'], ['"\\é"', '"\r"', '"é', '"é"é"', '"\x7f"']),
    "PLAIN_MAILBOX": (
        ["a@b", "a.b@c.d", "a@b_c", "o'neil+tag@a-b.example"],
        ["", "a", "@b", "a@", "a@b@c", "a@[1.2.3.4]", '"a"@b', "a@b\n", "a@é", "é@b", "a @b", "<a@b>", "a@b_c-"],
    ),
}
OCTETS: dict[str, tuple[list[bytes], list[bytes]]] = {
    "REPLY_LINE": (
        [
            b"250 ok\r\n",
            b"250-ok\r\n",
            b"250\tok\r\n",
            b"250\r\n",
            b"250 \r\n",
            b"250-\r\n",
            b"571 x\r\n",
            b"599 \xff\r\n",
        ],
        [
            *(b"199 x\r\n", b"600 x\r\n", b"25 x\r\n", b"2500 x\r\n", b"+22 x\r\n", b"2_0 x\r\n", b" 250 x\r\n"),
            *(b"250 x\n", b"250 x\r", b"250 x", b"250 a\rb\r\n", b"250 a\nb\r\n", b"250 a\0\r\n", b"250 x\r\r\n"),
            *(b"250x\r\n", b"250+x\r\n", b"\r\n", b"", b"HTTP/1.1 400 Bad Request\r\n", "٢٥٠ x\r\n".encode()),
            *("２５０ x\r\n".encode(), b"250 x\r\n250 y\r\n"),
        ],
    ),
    "EHLO_LINE": (
        [b"PIPELINING", b"SIZE 1", b"AUTH=PLAIN LOGIN", b"AUTH PLAIN", b"X_PIPE_CONNECT", b"8bitmime", b"X\ty", b"X ="],
        [b"", b"-X", b"_X", b"X\xc3\xa9", b"X a\xc3\xa9", b"X a\x7f", b"X\n", b"X a\r\nb", b"X@y", b" X"],
    ),
}


def pairs(table: dict[str, tuple[list[str], list[str]]], which: int) -> list[tuple[str, str]]:
    return [(name, text) for name, row in table.items() for text in row[which]]


@pytest.mark.parametrize(("name", "text"), pairs(TEXT, 0))
def test_a_text_pattern_takes(name: str, text: str) -> None:
    assert getattr(grammar, name).fullmatch(text)


@pytest.mark.parametrize(("name", "text"), pairs(TEXT, 1))
def test_a_text_pattern_refuses(name: str, text: str) -> None:
    assert getattr(grammar, name).fullmatch(text) is None


@pytest.mark.parametrize("name", OCTETS)
def test_an_octet_pattern_takes_and_refuses(name: str) -> None:
    taken, refused = OCTETS[name]
    assert [line for line in taken if not getattr(grammar, name).fullmatch(line)] == []
    assert [line for line in refused if getattr(grammar, name).fullmatch(line)] == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"2.1.5 ok", b"2.1.5"),
        (b"5.7.999", b"5.7.999"),
        (b"4.3.0\tx", b"4.3.0"),
        (b"2.1.5ok", None),
        (b"3.1.5 x", None),
        (b"2.1 x", None),
        (b"2.1.1000 x", None),
        (b" 2.1.5 x", None),
        (b"ok 2.1.5", None),
    ],
)
def test_an_enhanced_status_code_stands_first_and_alone(text: bytes, code: bytes | None) -> None:
    match = grammar.ENHANCED_STATUS.match(text)
    assert (match and match.group()) == code


def test_the_module_exports_each_of_its_patterns() -> None:
    patterns = {name for name, value in vars(grammar).items() if isinstance(value, re.Pattern)}
    assert patterns == set(grammar.__all__)
    assert patterns == {*TEXT, *OCTETS, "ENHANCED_STATUS"}


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("EHLO_LINE", b"X" + b"=" * 4000 + b"\x80"),
        ("EHLO_LINE", b"X" * 4000 + b"\x80"),
        ("EHLO_LINE", b"X" + b" a" * 2000 + b"\x80"),
        ("REPLY_LINE", b"250 " + b"x" * 4000 + b"\n"),
        ("DOMAIN", "a-" * 2000),
        ("DOMAIN", "a." * 2000),
        ("MAILBOX_DOMAIN", "_" * 4000 + "-"),
        ("MAILBOX_DOMAIN", "a_." * 2000),
        ("PLAIN_MAILBOX", "a." * 2000 + "@"),
        ("DOT_STRING_UTF8", "é." * 2000),
        ("QUOTED_STRING", '"' + "\\a" * 2000),
        ("ADDRESS_LITERAL", "[" + "a:" * 2000),
        ("TEXT_ARGUMENT", "a " * 2000),
    ],
)
def test_a_line_is_refused_in_linear_time(name: str, line: bytes | str) -> None:
    """A quadratic pattern takes 100 ms and more for one of these; a linear one far less than one."""
    before = time.process_time()
    for _ in range(20):
        assert getattr(grammar, name).fullmatch(line) is None
    assert time.process_time() - before < 1.0
