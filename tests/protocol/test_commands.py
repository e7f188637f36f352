"""Commands: their exact octets, and nothing that a caller passes can become a command (R17, R18)."""

from __future__ import annotations

import copy
import pickle
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtplite.errors import MessageError
from smtplite.protocol import commands
from smtplite.protocol.commands import (
    Auth,
    AuthCancel,
    AuthResponse,
    Bdat,
    BdatLast,
    BdatProbe,
    Command,
    Custom,
    Data,
    Ehlo,
    EndOfData,
    Expn,
    Greeting,
    Helo,
    Help,
    Lhlo,
    Mail,
    Noop,
    Quit,
    Rcpt,
    Rset,
    StartTls,
    Vrfy,
)
from smtplite.protocol.parameters import NO_PARAMETERS, Parameters
from smtplite.protocol.paths import MAX_COMMAND_BYTES, Domain, ForwardPath, ReversePath
from tests.exhaustive import WHOLE

pytestmark = pytest.mark.exhaustive(keep=WHOLE)

SECRET = b"\0me\0s3cr3t"

EXACT: list[tuple[Command, bytes, str | None]] = [
    (Greeting(), b"", "(connect)"),
    (Ehlo("client.example"), b"EHLO client.example\r\n", None),
    (Ehlo("[192.0.2.1]"), b"EHLO [192.0.2.1]\r\n", None),
    (Ehlo(Domain.parse("bücher.example")), b"EHLO xn--bcher-kva.example\r\n", None),
    (Helo("skyrunner.home"), b"HELO skyrunner.home\r\n", None),
    (Lhlo("client.example"), b"LHLO client.example\r\n", None),
    (StartTls(), b"STARTTLS\r\n", None),
    (Auth("LOGIN"), b"AUTH LOGIN\r\n", None),
    (Auth("PLAIN", SECRET), b"AUTH PLAIN AG1lAHMzY3IzdA==\r\n", "AUTH PLAIN [redacted]"),
    (Auth("EXTERNAL", b""), b"AUTH EXTERNAL =\r\n", "AUTH EXTERNAL [redacted]"),
    (AuthResponse(b"me"), b"bWU=\r\n", "[redacted]"),
    (AuthResponse(b""), b"\r\n", "[redacted]"),
    (AuthResponse(b"x" * 600), b64encode(b"x" * 600) + b"\r\n", "[redacted]"),
    (AuthCancel(), b"*\r\n", None),
    (Mail("a@b.example"), b"MAIL FROM:<a@b.example>\r\n", None),
    (Mail(""), b"MAIL FROM:<>\r\n", None),
    (Mail(ReversePath.parse("a@b")), b"MAIL FROM:<a@b>\r\n", None),
    (Mail("a@b", Parameters.mail(size=5)), b"MAIL FROM:<a@b> SIZE=5\r\n", None),
    (Mail("a@b", {"X": "1", "Y": None}), b"MAIL FROM:<a@b> X=1 Y\r\n", None),
    (Mail("ü@b"), "MAIL FROM:<ü@b>\r\n".encode(), "MAIL FROM:<ü@b>"),
    (Rcpt("c@d.example"), b"RCPT TO:<c@d.example>\r\n", None),
    (Rcpt("Postmaster"), b"RCPT TO:<Postmaster>\r\n", None),
    (Rcpt(ForwardPath.parse('"c d"@e')), b'RCPT TO:<"c d"@e>\r\n', None),
    (Rcpt("c@d", Parameters.rcpt(notify="NEVER")), b"RCPT TO:<c@d> NOTIFY=NEVER\r\n", None),
    (Rcpt("c@d", {"X": "1"}), b"RCPT TO:<c@d> X=1\r\n", None),
    (Data(), b"DATA\r\n", None),
    (EndOfData(), b".\r\n", None),
    (Bdat(0), b"BDAT 0\r\n", None),
    (Bdat(65_536), b"BDAT 65536\r\n", None),
    (BdatLast(0), b"BDAT 0 LAST\r\n", None),
    (BdatLast(8), b"BDAT 8 LAST\r\n", None),
    (BdatProbe(), b"BDAT 8 LAST\r\nXPROBE\r\n", "BDAT 8 LAST"),
    (Rset(), b"RSET\r\n", None),
    (Noop(), b"NOOP\r\n", None),
    (Vrfy("Smith"), b"VRFY Smith\r\n", None),
    (Expn("staff-list"), b"EXPN staff-list\r\n", None),
    (Help(), b"HELP\r\n", None),
    (Help("MAIL"), b"HELP MAIL\r\n", None),
    (Quit(), b"QUIT\r\n", None),
    (Custom("ETRN", "example.com"), b"ETRN example.com\r\n", None),
    (Custom("xfoo"), b"XFOO\r\n", None),
    (Custom("XCLIENT", "NAME=a ADDR=192.0.2.1"), b"XCLIENT NAME=a ADDR=192.0.2.1\r\n", None),
]


@pytest.mark.parametrize(
    ("command", "octets", "shown"), EXACT, ids=[str(row[0]) + str(n) for n, row in enumerate(EXACT)]
)
def test_each_command_has_exactly_these_octets(command: Command, octets: bytes, shown: str | None) -> None:
    assert command.to_bytes() == octets
    assert str(command) == (shown if shown is not None else octets.decode()[:-2])


def test_each_command_stands_in_the_table_above() -> None:
    concrete = {getattr(commands, name) for name in commands.__all__} - {Command}
    assert {type(command) for command, _, _ in EXACT} == concrete


def test_a_bare_command_is_only_its_verb() -> None:
    assert Command().to_bytes() == b"\r\n"


@pytest.mark.parametrize("command", [row[0] for row in EXACT], ids=[type(row[0]).__name__ for row in EXACT])
def test_a_command_is_frozen_and_equal_only_to_itself(command: Command) -> None:
    """Replies are matched by identity: two RCPT of the same path are two commands."""
    twin = copy.copy(command)
    assert command == command
    assert twin is not command
    assert twin != command
    assert len({command, twin}) == 2
    assert twin.to_bytes() == command.to_bytes() == pickle.loads(pickle.dumps(command)).to_bytes()
    for field in attrs.fields(type(command)):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(command, field.name, "x")


@pytest.mark.parametrize(("command", "verb"), [(Mail, b"MAIL FROM:"), (Rcpt, b"RCPT TO:")])
def test_no_mail_or_rcpt_is_longer_than_a_line_may_be(command: type[Mail] | type[Rcpt], verb: bytes) -> None:
    """R18: a server that cuts a line must not be led to another mailbox."""
    room = MAX_COMMAND_BYTES - len(verb + b"<a@b> X=")
    longest = command("a@b", {"X": "x" * room}).to_bytes()
    assert len(longest) == 998 + len(b"\r\n")
    with pytest.raises(MessageError, match="more than 998 bytes") as caught:
        command("a@b", {"X": "x" * (room + 1)})
    assert "<a@b>" in str(caught.value)
    path = "l" * 255 + "@" + ".".join(["d" * 63] * 4)
    assert len(command(path).to_bytes()) < 998


def test_parameters_are_none_by_default() -> None:
    assert Mail("a@b").parameters is NO_PARAMETERS
    assert Rcpt("a@b").parameters is NO_PARAMETERS


@pytest.mark.parametrize(
    "command", [Auth("PLAIN", SECRET), Auth("X", b"s3cr3t"), AuthResponse(SECRET), AuthResponse(b"s3cr3t")]
)
@pytest.mark.parametrize("show", [str, repr, "{}".format, "{!r}".format, "%s".__mod__])
def test_no_text_of_a_command_shows_a_secret(command: Command, show: Callable[[object], str]) -> None:
    """R17."""
    shown = show(command)
    assert "s3cr3t" not in shown
    assert b64encode(SECRET).decode() not in shown
    assert b64encode(b"s3cr3t").decode() not in shown
    assert b64decode(command.to_bytes().split()[-1]) in (SECRET, b"s3cr3t")


def test_a_secret_is_not_shown_by_an_error_either() -> None:
    with pytest.raises(MessageError) as caught:
        Auth("plain", SECRET)
    assert "s3cr3t" not in str(caught.value)


Slot = Callable[[str], Command]
#: Where a caller's text gets into a command. Beside each: the characters of BAD that may stand there after all.
SLOTS: dict[str, tuple[Slot, str]] = {
    "EHLO": (lambda bad: Ehlo(f"a{bad}b.example"), ""),
    "EHLO, at the end": (lambda bad: Ehlo(f"a.example{bad}"), ""),
    "HELO": (lambda bad: Helo(f"a{bad}b.example"), ""),
    "LHLO": (lambda bad: Lhlo(f"{bad}a.example"), ""),
    "EHLO with a literal": (lambda bad: Ehlo(f"[x:a{bad}b]"), ""),
    "AUTH": (lambda bad: Auth(f"PLA{bad}IN"), ""),
    "MAIL, local part": (lambda bad: Mail(f"a{bad}b@x.example"), ""),
    "MAIL, quoted local part": (lambda bad: Mail(f'"a{bad}b"@x.example'), " <>="),
    "MAIL, domain": (lambda bad: Mail(f"a@x{bad}y.example"), ""),
    "MAIL, at the end": (lambda bad: Mail(f"a@x.example{bad}"), ""),
    "MAIL, at the start": (lambda bad: Mail(f"{bad}a@x.example"), ""),
    "MAIL, literal": (lambda bad: Mail(f"a@[x:y{bad}z]"), ""),
    "MAIL, keyword": (lambda bad: Mail("a@b", {f"X{bad}Y": "1"}), ""),
    "MAIL, value": (lambda bad: Mail("a@b", {"X": f"1{bad}2"}), ""),
    "MAIL, body": (lambda bad: Mail("a@b", Parameters.mail(body=f"8BITMIME{bad}")), ""),
    "MAIL, ret": (lambda bad: Mail("a@b", Parameters.mail(ret=f"FULL{bad}")), ""),
    "MAIL, envid": (lambda bad: Mail("a@b", Parameters.mail(envid=f"a{bad}b")), " <>"),
    "MAIL, size": (lambda bad: Mail("a@b", Parameters.mail(size=f"1{bad}")), ""),  # type: ignore[arg-type]
    "RCPT, local part": (lambda bad: Rcpt(f"a{bad}b@x.example"), ""),
    "RCPT, domain": (lambda bad: Rcpt(f"a@x{bad}y.example"), ""),
    "RCPT, at the end": (lambda bad: Rcpt(f"a@x.example{bad}"), ""),
    "RCPT, postmaster": (lambda bad: Rcpt(f"postmaster{bad}"), ""),
    "RCPT, keyword": (lambda bad: Rcpt("a@b", {f"X{bad}": None}), ""),
    "RCPT, value": (lambda bad: Rcpt("a@b", {"X": f"{bad}2"}), ""),
    "RCPT, notify": (lambda bad: Rcpt("a@b", Parameters.rcpt(notify=f"NEVER{bad}")), ""),
    "RCPT, orcpt": (lambda bad: Rcpt("a@b", Parameters.rcpt(orcpt=f"a{bad}b@x")), " <>"),
    "VRFY": (lambda bad: Vrfy(f"a{bad}b"), " <>"),
    "VRFY, at the end": (lambda bad: Vrfy(f"a{bad}"), "<>"),
    "EXPN": (lambda bad: Expn(f"a{bad}b"), " <>"),
    "HELP": (lambda bad: Help(f"a{bad}b"), " <>"),
    "custom, verb": (lambda bad: Custom(f"X{bad}Y"), ""),
    "custom, argument": (lambda bad: Custom("X", f"a{bad}b"), " <>"),
    "BDAT": (lambda bad: Bdat(f"1{bad}"), ""),  # type: ignore[arg-type]
}
BAD = [*map(chr, range(0x21)), "\x7f", "<", ">", "\x85", "\xa0", "\u2028", "\u200b", "\u202e", "\ufeff", "\ud800"]


@pytest.mark.parametrize("slot", SLOTS)
def test_every_part_of_a_command_refuses_what_would_end_or_extend_it(slot: str) -> None:
    """R18: CR, LF, NUL, space, DEL, every control, brackets, and what cannot be seen."""
    make, allowed = SLOTS[slot]
    for bad in BAD:
        if bad in allowed:
            # One space more, inside quotes or as text: still one line, and no octet below 0x20.
            octets = make(bad).to_bytes()
            assert octets.endswith(b"\r\n")
            assert not set(octets[:-2]) & {*range(0x20), 0x7F}
        else:
            with pytest.raises(MessageError):
                make(bad)


INJECTIONS = [
    "\r\nRSET",
    "\r\nRCPT TO:<evil@example.org>",
    "\nQUIT",
    "\rQUIT",
    "> SIZE=1",
    "> AUTH=<y",
    ">\r\nDATA\r\n.\r\n",
    "\0\r\n",
    "\u010d\u010a",
    "\u560d\u560a",
]


@pytest.mark.parametrize("slot", SLOTS)
def test_no_injection_of_the_advisories_gets_through(slot: str) -> None:
    """rules.md 1.1: whatever is made of it is one line, and a bracket only behind a quote or as text."""
    make, allowed = SLOTS[slot]
    for injection in INJECTIONS:
        try:
            octets = make(injection).to_bytes()
        except MessageError:
            continue
        assert octets.endswith(b"\r\n")
        assert not set(octets[:-2]) & {*range(0x20), 0x7F}
        assert octets.count(b">") <= 1 or ">" in allowed


NOT_ASCII = {
    "EHLO with a literal",
    "AUTH",
    "MAIL, literal",
    "MAIL, keyword",
    "MAIL, value",
    "MAIL, body",
    "MAIL, envid",
    "RCPT, keyword",
    "RCPT, value",
    "RCPT, notify",
    "VRFY",
    "EXPN",
    "HELP",
    "custom, verb",
    "custom, argument",
}


@pytest.mark.parametrize("slot", sorted(NOT_ASCII))
@pytest.mark.parametrize("letter", ["é", "用", "٣"])
def test_ascii_only_where_smtputf8_has_no_say(slot: str, letter: str) -> None:
    make, _ = SLOTS[slot]
    with pytest.raises(MessageError):
        make(letter)


WRONG: list[tuple[Callable[..., Command], tuple[Any, ...]]] = [
    (Ehlo, ("",)),
    (Ehlo, (None,)),
    (Ehlo, (b"a",)),
    (Auth, ("",)),
    (Auth, ("plain",)),
    (Auth, ("A" * 21,)),
    (Auth, (None,)),
    (Mail, (None,)),
    (Rcpt, ("",)),
    (Rcpt, (None,)),
    (Vrfy, ("",)),
    (Vrfy, (None,)),
    (Vrfy, (" a",)),
    (Expn, (None,)),
    (Expn, (b"a",)),
    (Help, ("",)),
    (Help, (1,)),
    (Custom, ("",)),
    (Custom, (None,)),
    (Custom, ("1X",)),
    (Custom, ("X", "")),
    (Custom, ("X", "a ")),
    (Bdat, (-1,)),
    (Bdat, (True,)),
    (Bdat, (1.0,)),
    (Bdat, (None,)),
    (BdatLast, (-1,)),
]


@pytest.mark.parametrize(("kind", "arguments"), WRONG)
def test_parts_of_the_wrong_type_or_empty_are_refused(kind: Callable[..., Command], arguments: tuple[Any, ...]) -> None:
    with pytest.raises(MessageError):
        kind(*arguments)


OWN = "EHLO HELO LHLO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP VRFY EXPN HELP QUIT TURN ATRN BURL"


@pytest.mark.parametrize("verb", [*OWN.split(), *OWN.lower().split()])
def test_a_custom_command_is_none_that_the_core_counts_differently(verb: str) -> None:
    with pytest.raises(MessageError, match=verb.upper()):
        Custom(verb, "x")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(SLOTS)), st.text(max_size=8))
def test_whatever_a_caller_passes_a_command_is_one_line(slot: str, text: str) -> None:
    """R18."""
    try:
        octets = SLOTS[slot][0](text).to_bytes()
    except MessageError:
        return
    assert octets[-2:] == b"\r\n"
    assert not set(octets[:-2]) & {*range(0x20), 0x7F}
