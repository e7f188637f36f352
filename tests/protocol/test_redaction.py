"""R28: what a server repeats of our credentials stands in nothing that is made of its octets."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtplite.errors import RemoteProtocolError
from smtplite.protocol import Auth, AuthCancel, AuthResponse, Connection, Ehlo, Mail, Rcpt
from smtplite.protocol.commands import Command
from smtplite.protocol.events import ChallengeReceived, Disconnected, Replied, ServiceClosing
from smtplite.protocol.redaction import MIN_SOUGHT_BYTES, REDACTED, Secrets
from smtplite.protocol.reply import Reply

PASSWORD = b"s3cret-P\xc3\xa4ss"
PLAIN = b"\0me@example.org\0" + PASSWORD
LINE = b"AUTH PLAIN " + b64encode(PLAIN)

#: What no text of ours may hold.
FORBIDDEN = (PASSWORD.decode(), repr(PASSWORD)[2:-1], b64encode(PLAIN).decode().rstrip("=")[-9:])


def connection_at(*commands: Command, challenged: bool = True) -> Connection:
    """Return a connection on which these were sent, and all but the last answered by a challenge."""
    connection = Connection()
    connection.receive_data(b"220 hi\r\n")
    connection.next_event()
    connection.send(Ehlo("a.example"))
    connection.receive_data(b"250-hi\r\n250 AUTH PLAIN LOGIN XOAUTH2\r\n")
    connection.next_event()
    for number, command in enumerate(commands):
        if number:
            connection.receive_data(b"334 \r\n")
            assert isinstance(connection.next_event(), ChallengeReceived)
        connection.send(command)
    return connection


def shown(connection: Connection, data: bytes, *, ends: bool = True) -> Iterator[str]:
    """Yield whatever can be made of these octets."""
    connection.receive_data(data)
    if ends:
        connection.receive_data(b"")
    try:
        while (event := connection.next_event()) is not None:
            yield repr(event)
            if isinstance(event, (Replied, ServiceClosing)):
                yield event.reply.text
                yield str(event.reply)
            if isinstance(event, Disconnected):
                yield repr(event.partial)
    except RemoteProtocolError as error:
        yield str(error)
        yield repr(vars(error))
        yield repr((error.__cause__, error.__context__))


STAGES: dict[str, list[Command]] = {
    "PLAIN": [Auth("PLAIN", PLAIN)],
    "PLAIN in two steps": [Auth("PLAIN"), AuthResponse(PLAIN)],
    "LOGIN": [Auth("LOGIN"), AuthResponse(b"me@example.org"), AuthResponse(PASSWORD)],
    "XOAUTH2": [Auth("XOAUTH2", b"user=me@example.org\x01auth=Bearer " + PASSWORD + b"\x01\x01")],
    "cancelled": [Auth("LOGIN"), AuthResponse(b"me@example.org"), AuthResponse(PASSWORD), AuthCancel()],
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    "said",
    [
        b"250 ok %b\r\n",
        b"354 %b\r\n",
        b"220 %b\r\n",
        b"421 %b\r\n",
        b"454 %b\r\n",
        b"535 %b\r\n",
        b"235 %b\r\n",
        b"535-%b\r\n535 no\r\n",
        b"535-no\r\n530 %b\r\n",
        b"535-no\r\n250-%b\r\n250 ok\r\n",
        b"235-%b\r\n535 no\r\n",
        b"%b\r\n",
        b"what? %b\r\n",
        b"%b",
        b"535 %b",
        b"535 no\r\n535 %b\r\n",
        b"535 no\r\n421 %b\r\n",
        b"535 no\r\n250 %b\r\n",
        b"535 no\r\n%b\r\n",
        b"235 ok\r\n250 %b\r\n",
        b"535 \x00%b\r\n",
        b"535 %b\n",
        b"535 " + b"x" * 4090 + b"%b\r\n",
    ],
)
def test_whatever_answers_auth_is_quoted_without_it(stage: str, said: bytes) -> None:
    for secret in (LINE, b64encode(PLAIN), PLAIN.replace(b"\0", b" "), PASSWORD, b64encode(PASSWORD)):
        texts = "\n".join(shown(connection_at(*STAGES[stage]), said % secret))
        assert texts  # it was looked at
        for forbidden in (*FORBIDDEN, b64encode(PASSWORD).decode().rstrip("=")[-9:]):
            assert forbidden not in texts, (secret, texts)


@pytest.mark.parametrize("stage", STAGES)
def test_what_comes_between_a_challenge_and_its_response_is_not_quoted_either(stage: str) -> None:
    connection = connection_at(*STAGES[stage])
    connection.receive_data(b"334 \r\n")
    assert isinstance(connection.next_event(), ChallengeReceived)
    for data in (b"250 " + LINE + b"\r\n", LINE + b"\r\n", PASSWORD):
        texts = "\n".join(shown(connection, data, ends=False))
        assert "although no reply was owed" in texts
        for forbidden in FORBIDDEN:
            assert forbidden not in texts


def test_behind_the_exchange_what_is_no_reply_is_shown_again_but_not_the_line() -> None:
    connection = connection_at(Auth("PLAIN", PLAIN))
    connection.receive_data(b"235 ok\r\n")
    connection.next_event()
    connection.send(Mail("me@example.org"))
    texts = "\n".join(shown(connection, b"garbage of the server: " + LINE + b"\r\n"))
    assert "garbage of the server: AUTH PLAIN [redacted]" in texts
    for forbidden in FORBIDDEN:
        assert forbidden not in texts


def test_before_any_authentication_octets_are_shown_as_they_are() -> None:
    connection = connection_at()
    connection.send(Mail("me@example.org"))
    assert "garbage" in "".join(shown(connection, b"garbage\r\n"))


@pytest.mark.parametrize("secret", [b"a", b"me", b"pass1"])
@pytest.mark.parametrize("code", [b"235", b"421", b"454", b"535"])
def test_where_a_short_secret_could_stand_the_text_is_left_out_whole(secret: bytes, code: bytes) -> None:
    """R28: its gaps would tell it."""
    assert len(secret) < MIN_SOUGHT_BYTES
    for commands in (
        [Auth("PLAIN", b"\0me@example.org\0" + secret)],
        [Auth("LOGIN"), AuthResponse(b"me@example.org"), AuthResponse(secret)],
    ):
        connection = connection_at(*commands)
        connection.receive_data(code + b"-5.7.8 an apple\r\n" + code + b" 5.7.8 some passport\r\n")
        event = connection.next_event()
        assert isinstance(event, Replied)
        assert (event.reply.code, event.reply.lines) == (int(code), (REDACTED,))


def test_a_short_secret_of_one_exchange_takes_no_text_from_the_next() -> None:
    connection = connection_at(Auth("PLAIN", b"\0me\0abc"))
    connection.receive_data(b"504 no\r\n")
    connection.next_event()
    connection.send(Auth("LOGIN"))
    connection.receive_data(b"504 no LOGIN either\r\n")
    event = connection.next_event()
    assert isinstance(event, Replied)
    assert event.reply.text == "no LOGIN either"


def test_the_proof_of_a_server_stays_readable() -> None:
    """SCRAM's final message may stand in the 235, and is judged by the mechanism."""
    proof = b64encode(b"v=" + b64encode(bytes(range(32))))
    connection = connection_at(Auth("SCRAM-SHA-256", b"n,,n=me,r=abc"), AuthResponse(b"c=biws,r=abcdef,p=" + b"x" * 44))
    connection.receive_data(b"235 " + proof + b"\r\n")
    event = connection.next_event()
    assert isinstance(event, Replied)
    assert event.reply.lines == (proof,)


_SECRET = st.binary(min_size=MIN_SOUGHT_BYTES, max_size=40).filter(lambda secret: not {0, 1} & set(secret))
_TEXT = st.binary(max_size=30)


@given(_SECRET, _TEXT, _TEXT, st.sampled_from(["", "line", "upper", "base64"]))
@example(b"hunter2", b"AUTH PLAIN ", b"", "line")
@example(b"auth=Bearer ", b"", b"", "")
def test_no_secret_is_left_in_a_text(secret: bytes, before: bytes, behind: bytes, form: str) -> None:
    secrets = Secrets()
    secrets.begin("PLAIN")
    sent = b"\0me@example.org\0" + secret
    secrets.add(sent)
    echo = {"": secret, "line": b64encode(sent), "upper": secret.upper(), "base64": b64encode(secret)}[form]
    hidden = secrets.hide(before + echo + behind)
    assert REDACTED in hidden
    if REDACTED.lower().find(secret.lower()) < 0 and secret.lower() not in (before + behind).lower():
        assert echo not in hidden
    assert secrets.hide_in(Reply(535, (before, echo, behind))).lines[1] == REDACTED


@given(st.integers(8, 60), st.integers(0, 60))
def test_an_echo_that_is_cut_is_found(length: int, start: int) -> None:
    secrets = Secrets()
    secrets.begin("PLAIN")
    secrets.add(PLAIN)
    encoded = b64encode(PLAIN)
    piece = encoded[start : start + length]
    hidden = secrets.hide(b"you said " + piece + b" ...")
    assert (piece in hidden) is (len(piece) < 8)


@given(_TEXT)
def test_without_secrets_a_text_is_left_alone(text: bytes) -> None:
    assert Secrets().hide(text) == text


def test_an_empty_password_hides_nothing() -> None:
    secrets = Secrets()
    secrets.begin("PLAIN")
    secrets.add(b"\x00user\x00")
    assert secrets.hide(b"535 no such user") == b"535 no such user"


@pytest.mark.parametrize("at_once", [True, False])
def test_the_replies_to_a_message_are_quoted_again_after_authentication(at_once: bool) -> None:
    """What stands behind the exchange is no echo of it, however its commands were written."""
    connection = Connection()
    connection._at_once = at_once
    connection.receive_data(b"220 x\r\n")
    connection.next_event()
    connection.send(Ehlo("client.example"))
    connection.receive_data(b"250-x\r\n250-PIPELINING\r\n250 AUTH PLAIN\r\n")
    connection.next_event()
    connection.send(Auth("PLAIN", b"\x00user\x00abc"))
    connection.receive_data(b"235 ok\r\n")
    connection.next_event()
    connection.send_group([Mail("me@x.example"), Rcpt("you@x.example")])
    connection.receive_data(b"550 5.1.8 bad sender abc\r\n")
    event = connection.next_event()
    assert isinstance(event, Replied)
    assert event.reply.text == "5.1.8 bad sender abc"
