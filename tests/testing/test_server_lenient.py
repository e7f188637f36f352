"""What the testing server takes though it breaks the protocol, and a strict one refuses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtplite.testing import ReceivedMessage, ServerConfig, ServerConnection, ServerQuirks, Violation
from smtplite.testing.content import ContentCheck
from smtplite.testing.rules import rule_of
from tests.exhaustive import examples

EHLO = b"EHLO client.example\r\n"
MAIL = b"MAIL FROM:<ann@example.org>\r\n"
BOB = b"RCPT TO:<bob@example.org>\r\n"
DATA = b"DATA\r\n"
CONTENT = b"Subject: hello\r\n\r\nhi\r\n.\r\n"
PAGE = Path(__file__).parents[2] / "docs" / "howto" / "testing.md"


@attrs.frozen
class Outcome:
    codes: list[int]
    messages: list[ReceivedMessage]
    violations: list[Violation]


def talk(*lines: bytes, config: ServerConfig) -> Outcome:
    server = ServerConnection(config)
    server.greeting()
    sent = b"".join(server.feed(line) for line in lines)
    codes = [int(line[:3]) for line in sent.split(b"\r\n")[:-1] if line[3:4] != b"-"]
    return Outcome(codes, server.mailbox.messages, list(server.violations))


LENIENT = ServerConfig(strict=False)
STRICT = ServerConfig(strict=True)


@attrs.frozen
class Breach:
    """A message that breaks the protocol in one way, what a violation says of it, and the reply of a strict server."""

    lines: Sequence[bytes]
    violation: str
    refusal: int
    sender: str = "ann@example.org"
    recipient: str = "bob@example.org"
    rfc: str = "RFC 5321 section 4.1.2"


def mail(path: bytes, violation: str, sender: str = "ann@example.org", code: int = 501, rfc: str = "") -> Breach:
    lines = (EHLO, b"MAIL FROM:" + path + b"\r\n", BOB, DATA, CONTENT)
    return Breach(lines, violation, code, sender=sender, rfc=rfc or "RFC 5321 section 4.1.2")


def hello(line: bytes, violation: str, rfc: str = "RFC 5321 section 4.1.1.1") -> Breach:
    return Breach((line + b"\r\n", MAIL, BOB, DATA, CONTENT), violation, 501, rfc=rfc)


def body(content: bytes, violation: str, rfc: str) -> Breach:
    return Breach((EHLO, MAIL, BOB, DATA, content + b"\r\n.\r\n"), violation, 554, rfc=rfc)


BREACHES = [
    body(b"\r\nGr\xc3\xbc\xc3\x9fe", "8-bit content without 8BITMIME or SMTPUTF8", "RFC 6152 section 3"),
    Breach(
        (EHLO, MAIL[:-2] + b" BODY=8BITMIME\r\n", BOB, DATA, b"Subject: Gr\xc3\xbc\xc3\x9fe\r\n\r\nhi\r\n.\r\n"),
        "8-bit header section without SMTPUTF8",
        554,
        rfc="RFC 6532 section 3",
    ),
    body(b"\r\n" + b"x" * 999, "line over 998 bytes", "RFC 5321 section 4.5.3.1.6"),
    body(b"\r\na\0b", "NUL in content", "RFC 5321 section 2.3.8"),
    body(b"\r\na\rb", "bare CR in content", "RFC 5321 section 2.3.8"),
    mail(b" <ann@example.org>", "a space after the colon: 'MAIL FROM: <ann@example.org>'"),
    mail(b"ann@example.org", "a path without angle brackets: 'MAIL FROM:ann@example.org'"),
    mail(b"<root>", "a path without a domain: 'MAIL FROM:<root>'", "root"),
    mail(
        b"<@a.example,@b.example:ann@example.org>",
        "a source route: 'MAIL FROM:<@a.example,@b.example:ann@example.org>'",
        rfc="RFC 5321 section 3.3",
    ),
    mail(b"<ann..lee@example.org>", "not a local part: 'MAIL FROM:<ann..lee@example.org>'", "ann..lee@example.org"),
    mail(b"<ann@-x.example>", "a path whose domain is none: 'MAIL FROM:<ann@-x.example>'", "ann@-x.example"),
    mail(b"<ann@example.org>SIZE=9", "bytes directly after the path: 'MAIL FROM:<ann@example.org>SIZE=9'"),
    mail(
        b"<ann@example.org>  SIZE=9",
        "a parameter without a keyword: 'MAIL FROM:<ann@example.org>  SIZE=9'",
        rfc="RFC 5321 section 4.1.1.11",
    ),
    mail(
        "<änn@example.org>".encode(),
        "8-bit MAIL without SMTPUTF8: 'FROM:<änn@example.org>'",
        "änn@example.org",
        553,
        "RFC 6531 section 3.3",
    ),
    mail(b"<\xe4nn@example.org>", r"command that is not UTF-8: b'MAIL FROM:<\xe4nn@example.org>'", "änn@example.org"),
    Breach(
        (EHLO, MAIL, b"RCPT TO: bob@example.org\r\n", DATA, CONTENT),
        "a space after the colon: 'RCPT TO: bob@example.org'",
        501,
    ),
    hello(b"HELO ann's laptop", 'HELO without a domain: "ann\'s laptop"'),
    hello(b"EHLO my_host", "EHLO without a domain: 'my_host'"),
    hello("EHLO bürö".encode(), "8-bit command: 'EHLO bürö'", "RFC 5321 section 2.4"),
    Breach((MAIL, BOB, DATA, CONTENT), "MAIL before EHLO", 503, rfc="RFC 5321 section 4.1.4"),
    Breach(
        (b"HELO client.example\r\n", MAIL[:-2] + b" SIZE=22\r\n", BOB, DATA, CONTENT),
        "parameter SIZE of MAIL, which is not offered",
        555,
        rfc="RFC 5321 section 2.2.1",
    ),
    Breach(
        (EHLO, MAIL, BOB, b"NOOP " + b"x" * 2000 + b"\r\n", DATA, CONTENT),
        f"command line too long: {b'NOOP ' + b'x' * 75!r}",
        500,
        rfc="RFC 5321 section 4.5.3.1.4",
    ),
]

breaches = pytest.mark.parametrize("breach", BREACHES, ids=lambda breach: breach.violation[:40])


@breaches
def test_the_message_is_taken_and_the_mistake_is_written_down(breach: Breach) -> None:
    outcome = talk(*breach.lines, config=LENIENT)
    assert all(code < 400 for code in outcome.codes)
    [message] = outcome.messages
    assert (message.sender, message.recipients) == (breach.sender, (breach.recipient,))
    assert outcome.violations[0] == breach.violation
    assert message.violations == tuple(outcome.violations)
    assert outcome.violations[0].rfc == breach.rfc


@breaches
def test_a_strict_server_refuses_it(breach: Breach) -> None:
    outcome = talk(*breach.lines, config=STRICT)
    assert breach.refusal in outcome.codes
    assert breach.violation in outcome.violations


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ((EHLO, b"MAIL FROM:<Ann <ann@example.org>>\r\n"), 501),
        ((EHLO, b"MAIL FROM:Ann Lee <ann@example.org>\r\n"), 501),
        ((EHLO, b"MAIL FROM:<a@b.example><c@d.example>\r\n"), 501),
        ((EHLO, b"MAIL FROM:<a<b@c.example>\r\n"), 501),
        ((EHLO, b"MAIL FROM:a@b.example>\r\n"), 501),
        ((EHLO, b"MAIL FROM:\r\n"), 501),
        ((EHLO, b"MAIL TO:<ann@example.org>\r\n"), 501),
        ((EHLO, b"MAIL FROM:<ann@example.org> FOO=bar\r\n"), 555),
        ((EHLO, MAIL, b"RCPT TO:<>\r\n"), 501),
        ((EHLO, MAIL, b"RCPT TO:<bob@example.org\r\n"), 501),
        ((b"EHLO\r\n",), 501),
        ((EHLO, b"FOO\r\n"), 500),
        ((EHLO, MAIL, MAIL), 503),
        ((EHLO, BOB), 503),
        ((EHLO, MAIL, BOB, DATA, b"\r\na\nb\r\n.\r\n"), 554),
        ((EHLO, b"NOOP " + b"x" * 13_000 + b"\r\n"), 500),
    ],
)
def test_what_cannot_be_understood_is_refused_all_the_same(lines: Sequence[bytes], code: int) -> None:
    outcome = talk(*lines, config=LENIENT)
    assert outcome.codes[-1] == code
    assert len(outcome.violations) == 1
    assert not outcome.messages


@pytest.mark.parametrize("strict", [False, True])
def test_who_offers_auth_takes_its_parameter_of_mail(strict: bool) -> None:
    """RFC 4954 section 5. Without AUTH it is a parameter that nobody offered."""
    line = MAIL[:-2] + b" AUTH=<>\r\n"
    offered = talk(EHLO, line, config=ServerConfig(strict=strict, users={"ann": "secret"}, auth_in_clear=True))
    assert (offered.codes, offered.violations) == ([250, 250], [])
    assert talk(EHLO, line, config=ServerConfig(strict=strict)).codes == [250, 555]


# --- bare LF, by a quirk

BARE_LF = ServerConfig(strict=False, quirks=ServerQuirks(takes_bare_lf=True))
BY_HAND = b"HELO me\nMAIL FROM:<ann@example.org>\nRCPT TO:<bob@example.org>\nDATA\na\n.\nb\r\n.\r\nQUIT\n"


def test_a_bare_lf_ends_a_command_and_never_the_content() -> None:
    outcome = talk(BY_HAND, config=BARE_LF)
    assert outcome.codes == [250, 250, 250, 354, 250, 221]
    assert [message.content for message in outcome.messages] == [b"a\n.\nb\r\n"]
    assert "bare LF in content" in outcome.violations
    assert sum(violation == "bare LF at the end of a command" for violation in outcome.violations) == 5


def test_a_bare_lf_ends_a_command_however_it_is_cut() -> None:
    whole = talk(BY_HAND, config=BARE_LF)
    for cut in range(1, len(BY_HAND)):
        pieces = talk(BY_HAND[:cut], BY_HAND[cut:], config=BARE_LF)
        assert (pieces.codes, pieces.messages) == (whole.codes, whole.messages)


# --- the header section


@examples(200)
@given(st.lists(st.sampled_from([b"a", b"\xe4", b"\r\n", b"\n", b"\r", b":"]), min_size=1).map(b"".join), st.data())
def test_what_is_header_section_does_not_hang_on_how_it_is_cut(content: bytes, data: st.DataObject) -> None:
    header = re.split(rb"(?:^|\n)\r?\n", content, maxsplit=1)[0]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(content)), max_size=6)))
    check = ContentCheck(allow_8bit=True)
    for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
        if content[start:end]:
            check.feed(content[start:end])
    check.finish()
    assert ("8-bit header section without SMTPUTF8" in check.faults) == (not header.isascii())


# --- the rules, and the page


def violations_in_the_code() -> Iterator[str]:
    """Yield what a violation begins with, wherever one is written down."""
    source = Path(rule_of.__code__.co_filename).with_name("protocol.py").read_text(encoding="utf-8")
    for text in re.findall(r'(?:_violate|_out_of_sequence)\(\s*f?"([^"]+)"', source):
        yield re.sub(r"\{[^}]*\}", "7", text)


def test_each_mistake_has_its_rule() -> None:
    texts = list(violations_in_the_code())
    assert len(texts) > 15
    assert [text for text in (*texts, *(breach.violation for breach in BREACHES)) if not rule_of(text)] == []


def test_the_page_says_what_is_accepted() -> None:
    """Each row has a violation, its rule, and the reply of a strict server: those that the server gives."""
    [table] = re.findall(
        r"^\| What the client does \|.*\n\| ---.*\n((?:\|.*\n)+)", PAGE.read_text("utf-8"), re.MULTILINE
    )
    rows = [[cell.strip().strip("`") for cell in line.strip("|\n").split(" | ")] for line in table.splitlines()]
    told = {(violation, rfc, int(code)) for _, violation, rfc, code in rows}
    known = {(breach.violation.partition(": ")[0], breach.rfc, breach.refusal) for breach in BREACHES}
    assert told == known
