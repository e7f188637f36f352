"""Each small program runs over aiosmtplib and over smtplite, and both do the same, or differ as the page says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import smtplite
from smtplite.compat.aiosmtplib import SMTPConnectError, SMTPException, SMTPNotSupported
from tests.compat import programs
from tests.compat.differences import DIFFERENCES
from tests.compat.world import PROGRAMS, Program, Run, run, violations

pytestmark = [
    # aiosmtplib leaves connections for the garbage collector where connecting fails.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::smtplite.compat.aiosmtplib.CompatWarning"),
]

SAME = [program for program in PROGRAMS if program.differs is None]
DIFFERENT = [program for program in PROGRAMS if program.differs is not None]


def test_there_are_programs_of_every_kind() -> None:
    assert len(SAME) + len(DIFFERENT) >= 40
    assert len({program.name for program in PROGRAMS}) == len(PROGRAMS)
    assert {program.differs for program in DIFFERENT} == set(DIFFERENCES) == set(HOLDS)


def in_common(error: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what can be compared of an error: more classes by which it can be caught are no difference."""
    return None if error is None else {name: value for name, value in error.items() if name not in ("all", "bases")}


@pytest.mark.exhaustive(keep=16)
@pytest.mark.parametrize("program", SAME, ids=lambda program: program.name)
@pytest.mark.asyncio
async def test_the_same_program_does_the_same(program: Program) -> None:
    """Results, classes of errors and what they hold, and what arrived."""
    theirs, ours = await run(program, "aiosmtplib"), await run(program, "smtplite")
    assert ours.result == theirs.result
    assert ours.messages == theirs.messages
    assert ours.connections == theirs.connections
    assert in_common(ours.error) == in_common(theirs.error), ours.raised
    if theirs.error is not None:
        assert set(theirs.error["all"]) <= set(ours.error["all"])
        assert set(theirs.error["bases"]) <= set(ours.error["bases"])
        assert ours.error["all"] == theirs.error["all"]
    assert violations(ours.server) <= violations(theirs.server)  # nothing that the program did not ask for


# The differences


def password(theirs: Run, ours: Run) -> None:
    assert theirs.error is None
    assert theirs.messages or theirs.result == ["sent"] * 3 or "sent" in theirs.result
    assert isinstance(ours.raised, SMTPException) or all(step["class"] == "SMTPException" for step in ours.result)
    if ours.raised is not None:
        assert "ALLOW_INSECURE_AUTH" in str(ours.raised)
    assert b"AUTH" not in ours.server.connections[0].received
    assert ours.messages == []


def unknown(theirs: Run, ours: Run) -> None:
    assert ours.error["class"] == theirs.error["class"]
    assert set(theirs.error["bases"]) <= set(ours.error["bases"])
    assert isinstance(ours.raised, smtplite.DeliveryUnknown)
    assert (ours.raised.delivered, ours.raised.unknown) == (None, (programs.GRACE,))
    assert ours.messages == theirs.messages
    assert len(ours.messages) == 1  # and it was delivered


def tls_errors(theirs: Run, ours: Run) -> None:
    assert theirs.error["all"] == []
    assert set(theirs.error["bases"]) <= set(ours.error["bases"])
    assert isinstance(ours.raised, SMTPConnectError)
    assert isinstance(ours.raised, type(theirs.raised))


def one_try(theirs: Run, ours: Run) -> None:
    assert theirs.result[0]["class"] == ours.result[0]["class"] == "SMTPAuthenticationError"
    assert (theirs.result[0]["code"], theirs.result[1]) == (535, 3)
    assert (ours.result[0]["code"], ours.result[1]) == (535, 1)


def cancelled(theirs: Run, ours: Run) -> None:
    assert theirs.result[0] == 250  # the reply to NOOP: VRFY's is a 252
    assert ours.result["class"] == "SMTPServerDisconnected"


def added_fields(theirs: Run, ours: Run) -> None:
    assert ours.result == theirs.result
    (_, _, (their_fields, their_body)), (_, _, (our_fields, our_body)) = theirs.messages[0], ours.messages[0]
    assert [field for field in our_fields if field[0] not in ("date", "message-id")] == their_fields
    assert len(our_fields) == len(their_fields) + 2
    assert our_body == their_body


def bcc(theirs: Run, ours: Run) -> None:
    assert ours.result == theirs.result
    assert ours.messages[0][:2] == theirs.messages[0][:2]
    assert ("bcc", programs.ALAN) in theirs.messages[0][2][0]
    assert ours.messages[0][2][0] == [field for field in theirs.messages[0][2][0] if field[0] != "bcc"]


def no_header(theirs: Run, ours: Run) -> None:
    assert theirs.result == [b"Hello World\r\n", b"Subject: testing\r\nHello World\r\n"]
    assert ours.result == [b"\r\nHello World\r\n", b"Subject: testing\r\n\r\nHello World\r\n"]
    assert [message[2] for message in ours.messages] == [message[2] for message in theirs.messages]  # as it is read


def not_supported(theirs: Run, ours: Run) -> None:
    assert theirs.result["class"] != "SMTPNotSupported" if isinstance(theirs.result, dict) else theirs.result
    assert ours.result["class"] == SMTPNotSupported.__name__
    assert ours.messages == []


def address(theirs: Run, ours: Run) -> None:
    if theirs.error is None:  # Python 3.11: somebody got it, whoever was meant
        assert theirs.messages[0][1] == ("x@example.net",)
    else:  # Python 3.13
        assert "ValueError" in theirs.error["bases"]
    assert "ValueError" in ours.error["bases"]
    assert b"RCPT" not in ours.server.connections[0].received


def encoded_addresses(theirs: Run, ours: Run) -> None:
    assert ours.result == theirs.result
    assert ours.messages[0][:2] == theirs.messages[0][:2]
    assert ("from", f"Jürgen <{programs.ADA}>") in ours.messages[0][2][0]
    assert ("from", f'"Jürgen <{programs.ADA}>"') in theirs.messages[0][2][0]  # a name of that spelling


def no_address(theirs: Run, ours: Run) -> None:
    assert len(theirs.messages) == 1
    assert "ValueError" in ours.error["bases"]
    assert ours.messages == []


def nul(theirs: Run, ours: Run) -> None:
    assert theirs.result["class"] == "SMTPDataError"  # the testing server's answer to it
    assert "ValueError" in ours.result["bases"]
    assert ours.messages == []


def out_of_order(theirs: Run, ours: Run) -> None:
    for their, our in zip(theirs.result, ours.result, strict=True):
        if isinstance(their, dict):
            assert (our["class"], our["code"]) == (their["class"], 503)
            assert our["message"].startswith("not sent: ")
        else:
            assert our == their


HOLDS: dict[str, Callable[[Run, Run], None]] = {
    "no-password-in-clear": password,
    "unknown": unknown,
    "tls-errors": tls_errors,
    "one-password-one-try": one_try,
    "cancelled": cancelled,
    "added-fields": added_fields,
    "bcc": bcc,
    "no-header": no_header,
    "eight-bit": not_supported,
    "address": address,
    "encoded-addresses": encoded_addresses,
    "no-address": no_address,
    "nul": nul,
    "options-not-offered": not_supported,
    "out-of-order": out_of_order,
    "more-than-a-line": not_supported,
}


@pytest.mark.parametrize("program", DIFFERENT, ids=lambda program: program.name)
@pytest.mark.asyncio
async def test_what_differs_differs_as_the_page_says(program: Program) -> None:
    theirs, ours = await run(program, "aiosmtplib"), await run(program, "smtplite")
    HOLDS[program.differs or ""](theirs, ours)
