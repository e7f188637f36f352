"""The extensions of the testing server that few servers offer: each is a switch, and off until it is on."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import pytest

from smtplite.testing import ReceivedMessage, ServerConfig, ServerConnection, ServerExtensions

EHLO = b"EHLO client.example\r\n"
MAIL = b"MAIL FROM:<ann@example.org>\r\n"
BOB = b"RCPT TO:<bob@example.org>\r\n"
EVE = b"RCPT TO:<eve@example.org>\r\n"


@attrs.frozen
class Outcome:
    sent: bytes
    messages: list[ReceivedMessage]
    violations: Sequence[str]
    closing: bool

    @property
    def codes(self) -> list[int]:
        """The code of each reply behind that to EHLO."""
        lines = self.sent.split(b"\r\n")[:-1]
        return [int(line[:3]) for line in lines if line[3:4] != b"-"][2:]


def talk(*lines: bytes, extensions: ServerExtensions, in_tls: bool = False) -> Outcome:
    server = ServerConnection(ServerConfig(extensions=extensions))
    if in_tls:
        server.tls_established("TLSv1.3")
    sent = server.greeting()
    for line in (EHLO, *lines):
        sent += server.feed(line)
    return Outcome(sent, server.mailbox.messages, server.violations, server.closing)


def mail(parameter: str) -> bytes:
    return f"MAIL FROM:<ann@example.org> {parameter}\r\n".encode()


KEYWORDS = [
    ({"binarymime": True}, "BINARYMIME"),
    ({"requiretls": True}, "REQUIRETLS"),
    ({"deliver_by": 0}, "DELIVERBY"),
    ({"deliver_by": 120}, "DELIVERBY 120"),
    ({"future_release": (60, "2030-01-01T00:00:00Z")}, "FUTURERELEASE 60 2030-01-01T00:00:00Z"),
    ({"mt_priority": True}, "MT-PRIORITY"),
    ({"mailmax": 3, "mailmax_code": 452}, "LIMITS MAILMAX=3"),
]


@pytest.mark.parametrize(("options", "line"), KEYWORDS, ids=[line for _, line in KEYWORDS])
def test_each_extension_is_offered_when_it_is_switched_on_and_else_not(options: dict[str, object], line: str) -> None:
    off = talk(extensions=ServerExtensions(), in_tls=True).sent.decode()
    on = talk(extensions=ServerExtensions(**options), in_tls=True).sent.decode()  # type: ignore[arg-type]
    keyword = line.split(" ")[0]
    assert keyword not in off
    assert f"-{line}\r\n" in on


def test_all_offers_everything_and_takes_changes() -> None:
    offered = talk(extensions=ServerExtensions.all(chunking=False), in_tls=True).sent.decode()
    for _, line in KEYWORDS[:-1]:
        assert line.split(" ")[0] in offered
    assert "CHUNKING" not in offered
    assert "LIMITS" not in offered
    assert "PIPELINING" in offered


@pytest.mark.parametrize(
    "parameter",
    ["BODY=BINARYMIME", "REQUIRETLS", "BY=60;R", "HOLDFOR=1", "HOLDUNTIL=2030-01-01T00:00:00Z", "MT-PRIORITY=1"],
)
def test_a_parameter_of_an_extension_that_is_off_is_refused(parameter: str) -> None:
    outcome = talk(mail(parameter), extensions=ServerExtensions(), in_tls=True)
    assert outcome.codes in ([501], [555])
    assert len(outcome.violations) == 1


FUTURE = {"future_release": (60, "2030-01-01T00:00:00Z")}


@pytest.mark.parametrize(
    ("options", "parameter", "is_taken"),
    [
        ({"deliver_by": 60}, "BY=60;R", True),
        ({"deliver_by": 60}, "BY=59;R", False),
        ({"deliver_by": 60}, "BY=59;N", True),
        ({"deliver_by": 0}, "BY=1;RT", True),
        ({"deliver_by": 0}, "BY=0;R", False),
        ({"deliver_by": 0}, "BY=-5;n", True),
        ({"deliver_by": 0}, "BY=-5;R", False),
        ({"deliver_by": 0}, "BY=5", False),
        ({"deliver_by": 0}, "BY=5;X", False),
        ({"deliver_by": 0}, "BY", False),
        ({"deliver_by": 0}, "BY=1234567890;R", False),
        (FUTURE, "HOLDFOR=60", True),
        (FUTURE, "HOLDFOR=61", False),
        (FUTURE, "HOLDFOR=0", False),
        (FUTURE, "HOLDFOR=-1", False),
        (FUTURE, "HOLDFOR", False),
        (FUTURE, "HOLDUNTIL=2030-01-01T00:00:00Z", True),
        (FUTURE, "HOLDUNTIL=2029-12-31T23:00:00-01:00", True),
        (FUTURE, "HOLDUNTIL=2029-12-31T23:00:01-01:00", False),
        (FUTURE, "HOLDUNTIL=2030-01-01T00:00:00", False),
        (FUTURE, "HOLDUNTIL=2029-13-01T00:00:00Z", False),
        (FUTURE, "HOLDUNTIL", False),
        (FUTURE, "HOLDFOR=1 HOLDUNTIL=2029-01-01T00:00:00Z", False),
        ({"mt_priority": True}, "MT-PRIORITY=-9", True),
        ({"mt_priority": True}, "MT-PRIORITY=0", True),
        ({"mt_priority": True}, "MT-PRIORITY=9", True),
        ({"mt_priority": True}, "MT-PRIORITY=-0", False),
        ({"mt_priority": True}, "MT-PRIORITY=10", False),
        ({"mt_priority": True}, "MT-PRIORITY", False),
        ({"requiretls": True}, "REQUIRETLS", True),
        ({"requiretls": True}, "REQUIRETLS=yes", False),
        ({"binarymime": True}, "BODY=BINARYMIME", True),
        ({"binarymime": True}, "BODY=8BITMIME", True),
    ],
)
def test_the_values_of_a_parameter(options: dict[str, object], parameter: str, is_taken: bool) -> None:
    extensions = ServerExtensions(**options)  # type: ignore[arg-type]
    outcome = talk(mail(parameter), BOB, b"BDAT 0 LAST\r\n", extensions=extensions, in_tls=True)
    if is_taken:
        assert outcome.codes == [250, 250, 250]
        assert outcome.violations == []
        keyword, _, value = parameter.partition("=")
        assert outcome.messages[0].parameters == {keyword: value or None}
    else:
        assert outcome.codes[0] == 501
        assert len(outcome.violations) == 1
        assert outcome.messages == []


def test_requiretls_is_offered_and_taken_inside_tls_only() -> None:
    """RFC 8689."""
    extensions = ServerExtensions(requiretls=True)
    outcome = talk(mail("REQUIRETLS"), extensions=extensions)
    assert b"REQUIRETLS" not in outcome.sent.split(b"\r\n555")[0]
    assert outcome.codes == [555]
    assert outcome.violations == ["parameter REQUIRETLS of MAIL, which is not offered"]


BINARY = b"Subject: x\r\n\r\n\0\n\r\xff" + b"y" * 5000 + b"\r"


def test_binary_content_is_taken_octet_for_octet() -> None:
    """RFC 3030 section 3."""
    extensions = ServerExtensions(binarymime=True)
    chunk = b"BDAT %d LAST\r\n" % len(BINARY) + BINARY
    outcome = talk(mail("BODY=BINARYMIME"), BOB, chunk, extensions=extensions)
    assert outcome.codes == [250, 250, 250]
    assert outcome.messages[0].content == BINARY
    assert outcome.violations == []
    # The same octets, not announced
    outcome = talk(MAIL, BOB, chunk, extensions=extensions)
    assert outcome.codes == [250, 250, 554]
    assert "NUL in content" in outcome.violations


def test_binary_content_does_not_go_by_data() -> None:
    """RFC 3030 section 3: 503."""
    outcome = talk(mail("BODY=BINARYMIME"), BOB, b"DATA\r\n", b"NOOP\r\n", extensions=ServerExtensions(binarymime=True))
    assert outcome.codes == [250, 250, 503, 250]
    assert outcome.violations == ["DATA with BODY=BINARYMIME"]


def test_mailmax_may_be_answered_452_and_the_connection_stays() -> None:
    """RFC 9422."""
    extensions = ServerExtensions(mailmax=1, mailmax_code=452)
    outcome = talk(MAIL, BOB, b"BDAT 0 LAST\r\n", MAIL, b"NOOP\r\n", extensions=extensions)
    assert outcome.codes == [250, 250, 250, 452, 250]
    assert not outcome.closing
    assert outcome.violations == ["MAIL beyond MAILMAX"]


def test_rcptmax_counts_those_that_failed_and_answers_452_4_5_3() -> None:
    """RFC 9422."""
    outcome = talk(MAIL, b"RCPT TO:<>\r\n", BOB, EVE, extensions=ServerExtensions(rcptmax=2))
    assert outcome.codes == [250, 501, 250, 452]
    assert b"452 4.5.3 " in outcome.sent


@pytest.mark.parametrize(
    ("extensions", "limit"),
    [
        (ServerExtensions.none(), 512),
        (ServerExtensions(), 512 + 26 + 17 + 10 + 116),
        (ServerExtensions.all(), 512 + 26 + 17 + 10 + 116 + 16 + 11 + 17 + 34 + 15),
    ],
    ids=["none", "default", "all"],
)
def test_each_extension_adds_to_the_length_of_mail(extensions: ServerExtensions, limit: int) -> None:
    """RFC 5321 section 4.5.3.1.4."""
    line = b"MAIL FROM:<ann@example.org> X="
    for length, is_too_long in ((limit, False), (limit + 1, True)):
        outcome = talk(line + b"x" * (length - len(line) - 2) + b"\r\n", extensions=extensions)
        assert outcome.codes == [500 if is_too_long else 555]
