"""Connection: dialogues at any split, the end at every octet, 421 anywhere, and every way to break the protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import combinations, pairwise
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from smtplite.errors import LocalProtocolError, RemoteProtocolError
from smtplite.protocol import (
    MAX_CHALLENGES,
    RULES,
    Auth,
    AuthCancel,
    AuthResponse,
    Bdat,
    BdatLast,
    ChallengeReceived,
    Command,
    Connection,
    ContentRefused,
    Custom,
    Data,
    Disconnected,
    Ehlo,
    EndOfData,
    Event,
    Expn,
    Greeting,
    Helo,
    Help,
    Lhlo,
    Mail,
    Noop,
    Quit,
    Rcpt,
    Replied,
    Rset,
    ServiceClosing,
    StartTls,
    State,
    TlsReady,
    Vrfy,
)
from tests.exhaustive import examples

Make = dict[type[Command], Callable[[], Command]]
Show = Callable[[Event], tuple[Any, ...]]


class Reach(Protocol):
    def __call__(self, state: State, *, lmtp: bool = ..., keywords: tuple[str, ...] = ...) -> Connection: ...


def drain(connection: Connection) -> list[Event]:
    events = []
    while (event := connection.next_event()) is not None:
        events.append(event)
    return events


def take(connection: Connection, data: bytes) -> list[Event]:
    connection.receive_data(data)
    return drain(connection)


def feed(connection: Connection, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        take(connection, piece)


def singly(data: bytes) -> list[bytes]:
    return [data[n : n + 1] for n in range(len(data))]


# Whole dialogues


class Content:
    def __init__(self, content: bytes) -> None:
        self.content = content


class Tls:
    """The handshake."""


#: A command or some content is sent, octets are received.
Step = Command | Content | Tls | bytes
Cut = Callable[[int, bytes], Iterable[bytes]]  # (offset in all that is received, octets) -> pieces

EHLO = b"250-mx.example\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-ENHANCEDSTATUSCODES\r\n250 8BITMIME\r\n"
HELLO: tuple[Step, ...] = (b"220 mx.example ESMTP\r\n", Ehlo("client.example"), EHLO)
LMTP: tuple[Step, ...] = (b"220 mx.example LMTP\r\n", Lhlo("client.example"), EHLO)


def two_rcpt() -> tuple[Step, ...]:
    return Rcpt("r1@x.example"), Rcpt("r2@x.example")


DIALOGUES: dict[str, tuple[tuple[Step, ...], str]] = {
    "pipelined DATA, the next message behind the dot": (
        (
            *HELLO,
            *(Mail("a@b"), *two_rcpt(), Data()),
            b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n550-5.1.1 no\r\n550 5.1.1 such user\r\n354 go\r\n",
            *(Content(b".hello\n"), EndOfData(), Mail("c@d"), *two_rcpt(), Data()),
            b"250 2.0.0 queued\r\n250 ok\r\n251 ok\r\n252\r\n354 go\r\n",
            *(Content(b"no line end"), EndOfData(), Quit()),
            b"554 5.6.0 no\r\n221 2.0.0 bye\r\n",
        ),
        "220 250 250 250 550 354 250 250 251 252 354 554 221",
    ),
    "lockstep": (
        (
            *(b"220 mx\r\n", Ehlo("c.example"), b"250-mx\r\n250 SIZE 1000\r\n"),
            *(Mail("a@b"), b"250 ok\r\n", Rcpt("c@d"), b"451-4.3.0 later\r\n451 please\r\n", Rset(), b"250 ok\r\n"),
            *(Mail("a@b"), b"550 no\r\n", Mail("a@b"), b"250\r\n", Rcpt("c@d"), b"250 ok\r\n"),
            *(Data(), b"354 go\r\n", Content(b"x\r\n"), EndOfData(), b"250 ok\r\n", Quit(), b"221 bye\r\n"),
        ),
        "220 250 250 451 250 550 250 250 354 250 221",
    ),
    "no EHLO, and questions": (
        (
            *(
                b"220 mx\r\n",
                Noop(),
                b"250 ok\r\n",
                Ehlo("c.example"),
                b"502 what?\r\n",
                Helo("c.example"),
                b"250 mx\r\n",
            ),
            *(Vrfy("x"), b"252 try\r\n", Expn("x"), b"550 no\r\n", Help(), b"214-MAIL\r\n214 RCPT\r\n"),
            *(Custom("XFOO"), b"211 fine\r\n", Noop(), b"250\r\n", Quit(), b"221 bye\r\n"),
        ),
        "220 250 502 250 252 550 214 211 250 221",
    ),
    "BDAT, messages in flight with RSET between": (
        (
            *HELLO,
            *(Mail("a@b"), Rcpt("c@d"), BdatLast(5), Content(b"hello"), Rset()),
            *(Mail("a@b"), Rcpt("c@d"), BdatLast(0), Rset()),
            *(Mail("a@b"), Rcpt("c@d"), Bdat(3), Content(b"a"), Content(b"bc"), BdatLast(1), Content(b".")),
            b"250 ok\r\n250 ok\r\n250 2.0.0 taken\r\n250 ok\r\n",
            b"250 ok\r\n550 5.1.1 no\r\n554 5.5.1 none\r\n250-2.0.0\r\n250 reset\r\n",
            b"250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n",
            *(Mail("a@b"), Rcpt("c@d"), Bdat(1), Content(b"x"), b"250 ok\r\n250 ok\r\n552 5.3.4 full\r\n"),
            *(Rset(), b"250 ok\r\n", Quit(), b"221 bye\r\n"),
        ),
        "220 250 250 250 250 250 250 550 554 250 250 250 250 250 250 250 552 250 221",
    ),
    "LMTP, RCPT* and BDAT LAST in one group": (
        (
            *LMTP,
            *(Mail("a@b"), *two_rcpt(), Rcpt("r3@x.example"), BdatLast(2), Content(b"hi")),
            b"250 ok\r\n250 ok\r\n550 5.1.1 no\r\n250 ok\r\n250 2.0.0 first\r\n452 4.2.2 third\r\n",
            *(Rset(), Mail("a@b"), Rcpt("r1@x.example"), BdatLast(0)),
            b"250 ok\r\n250 ok\r\n550 no\r\n503 5.5.1 nobody\r\n",
            *(Rset(), b"250 ok\r\n", Quit(), b"221 bye\r\n"),
        ),
        "220 250 250 250 550 250 250 452 250 250 550 503 250 221",
    ),
    "LMTP, DATA with several recipients": (
        (
            *LMTP,
            *(Mail("a@b"), *two_rcpt(), Rcpt("r3@x.example"), Data()),
            b"250 ok\r\n250 ok\r\n550 no\r\n250 ok\r\n354 go\r\n",
            *(Content(b"hi\r\n"), EndOfData()),
            b"250-2.0.0 first\r\n250 2.0.0 taken\r\n452 4.2.2 third\r\n",
            *(Mail("a@b"), Rcpt("r1@x.example"), Data(), b"250 ok\r\n250 ok\r\n354 go\r\n", EndOfData(), b"250 ok\r\n"),
            *(Quit(), b"221 bye\r\n"),
        ),
        "220 250 250 250 550 250 354 250 452 250 250 354 250 221",
    ),
    "LMTP, one 503 for all (Dovecot)": (
        (
            *(b"220 mx\r\n", Lhlo("c.example"), b"250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n"),
            *(Mail("a@b"), *two_rcpt(), BdatLast(2), Content(b"hi")),
            b"250 ok\r\n250 ok\r\n250 ok\r\n503 5.5.1 what?\r\n",
        ),
        "220 250 250 250 250 503",
    ),
    "AUTH with challenges": (
        (
            *(b"220 mx\r\n", Ehlo("c.example"), b"250-mx\r\n250 AUTH LOGIN X\r\n"),
            *(Auth("X"), b"334\r\n", AuthCancel(), b"501 5.7.0 cancelled\r\n"),
            *(Auth("X", b""), b"535 5.7.8 no\r\n", Auth("X"), b"334 =\r\n", AuthCancel(), b"501 cancelled\r\n"),
            *(Auth("LOGIN"), b"334 VXNlcm5hbWU6\r\n", AuthResponse(b"me"), b"334 UGFzc3dvcmQ6\r\n"),
            *(AuthResponse(b"secret"), b"235 2.7.0 welcome\r\n"),
            *(Mail("a@b"), b"250 ok\r\n", Quit(), b"221 bye\r\n"),
        ),
        "220 250 334 501 535 334 501 334 334 235 250 221",
    ),
    "STARTTLS": (
        (
            *(b"220 mx\r\n", Ehlo("c.example"), b"250-mx\r\n250-PIPELINING\r\n250 STARTTLS\r\n"),
            *(StartTls(), b"454 4.7.0 later\r\n", StartTls(), b"220 2.0.0 go\r\n", Tls()),
            *(Ehlo("c.example"), b"250-mx\r\n250 AUTH PLAIN\r\n", Auth("PLAIN", b"\0a\0b"), b"235 ok\r\n"),
            *(Quit(), b"221 bye\r\n"),
        ),
        "220 250 454 220 250 235 221",
    ),
}


class Stopped(Exception):
    """All that is to be received was received."""


def play(dialogue: tuple[Step, ...], show: Show, cut: Cut, *, lmtp: bool = False) -> tuple[Connection, list[Any]]:
    """Play a dialogue, with the received octets cut into pieces; each piece is judged before the next comes."""
    connection = Connection(lmtp=lmtp)
    events: list[Any] = []
    offset = 0
    try:
        for step in dialogue:
            if isinstance(step, bytes):
                for piece in cut(offset, step):
                    connection.receive_data(piece)
                    events.extend(map(show, drain(connection)))
                offset += len(step)
            elif isinstance(step, Content):
                connection.send_content(step.content)
            elif isinstance(step, Tls):
                connection.tls_established()
            else:
                connection.send(step)
    except Stopped:
        pass
    return connection, events


def whole(offset: int, data: bytes) -> list[bytes]:
    return [data]


def at(*places: int) -> Cut:
    def cut(offset: int, data: bytes) -> list[bytes]:
        inside = sorted({place - offset for place in places if offset < place < offset + len(data)})
        return [data[a:b] for a, b in pairwise([0, *inside, len(data)]) if a < b]  # b"" would be the end

    return cut


def received(dialogue: tuple[Step, ...]) -> bytes:
    return b"".join(step for step in dialogue if isinstance(step, bytes))


ALL_DIALOGUES = pytest.mark.parametrize("name", DIALOGUES)


@ALL_DIALOGUES
def test_a_dialogue_gives_these_replies_in_this_order(name: str, show: Show) -> None:
    dialogue, codes = DIALOGUES[name]
    connection, events = play(dialogue, show, whole, lmtp="LMTP" in name)
    assert " ".join(str(event[2]) for event in events) == codes
    assert connection.pending == ()
    assert connection.awaiting is None
    assert connection.state is State.CLOSING


@ALL_DIALOGUES
def test_any_single_split_and_single_octets_give_the_same_events(name: str, show: Show) -> None:
    dialogue, _ = DIALOGUES[name]
    lmtp = "LMTP" in name
    _, expected = play(dialogue, show, whole, lmtp=lmtp)
    assert play(dialogue, show, lambda _, data: singly(data), lmtp=lmtp)[1] == expected
    for place in range(len(received(dialogue))):
        assert play(dialogue, show, at(place), lmtp=lmtp)[1] == expected


@pytest.mark.parametrize("name", ["LMTP, one 503 for all (Dovecot)", "STARTTLS"])
def test_any_two_splits_give_the_same_events(name: str, show: Show) -> None:
    dialogue, _ = DIALOGUES[name]
    lmtp = "LMTP" in name
    _, expected = play(dialogue, show, whole, lmtp=lmtp)
    for pair in combinations(range(len(received(dialogue))), 2):
        assert play(dialogue, show, at(*pair), lmtp=lmtp)[1] == expected


@ALL_DIALOGUES
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(places=st.lists(st.integers(0, 600), max_size=20))
def test_any_splits_give_the_same_events(name: str, show: Show, places: list[int]) -> None:
    dialogue, _ = DIALOGUES[name]
    lmtp = "LMTP" in name
    assert play(dialogue, show, at(*places), lmtp=lmtp)[1] == play(dialogue, show, whole, lmtp=lmtp)[1]


@ALL_DIALOGUES
def test_the_end_at_every_octet(name: str, show: Show, make: Make) -> None:
    """Whatever was read stays read; what is owed is named; nothing goes out and nothing comes in any more."""
    dialogue, _ = DIALOGUES[name]
    lmtp = "LMTP" in name
    _, full = play(dialogue, show, whole, lmtp=lmtp)
    for end in range(len(received(dialogue)) + 1):

        def cut(offset: int, data: bytes, end: int = end) -> Iterable[bytes]:
            if offset + len(data) < end:
                yield data
                return
            if end > offset:
                yield data[: end - offset]
            raise Stopped

        connection, events = play(dialogue, show, cut, lmtp=lmtp)
        assert events == full[: len(events)]
        owed = tuple(map(str, connection.pending))
        connection.receive_data(b"")
        closed = show(connection.next_event() or pytest.fail("the end was not reported"))
        assert closed[:2] == ("Disconnected", owed)
        # What came in answer to AUTH is not shown, whatever it is (rule R28).
        assert received(dialogue)[:end].endswith(closed[2]) or closed[2] == b"[redacted]"
        assert b"\n" not in closed[2]
        assert_ended(connection, make)


def assert_ended(connection: Connection, make: Make) -> None:
    """Hold that nothing but errors, None and Disconnected comes from a connection that is closed."""
    assert connection.state is State.CLOSED
    assert not connection.wants_content
    for create in make.values():
        with pytest.raises(LocalProtocolError):
            connection.send(create())
    with pytest.raises(LocalProtocolError):
        connection.send_content(b"x")
    with pytest.raises(LocalProtocolError):
        connection.tls_established()
    for data in (b"250 ok\r\n", b"421 x\r\n", b"\xff\0", b""):
        connection.receive_data(data)
        try:
            event = connection.next_event()
        except RemoteProtocolError:
            event = None
        assert event is None or isinstance(event, Disconnected)
        assert connection.state is State.CLOSED


# What is sent


def test_the_first_example_of_the_design() -> None:
    connection = Connection()
    take(connection, b"220 mx\r\n")
    connection.send(Ehlo("client.example"))
    take(connection, b"250 mx\r\n")
    assert connection.send(Mail("a@b.example")) == b"MAIL FROM:<a@b.example>\r\n"


def test_a_new_connection_owes_the_greeting_and_knows_nothing() -> None:
    connection = Connection()
    assert connection.state is State.GREETING
    assert isinstance(connection.awaiting, Greeting)
    assert connection.owed == 1
    assert not connection.lmtp
    assert not connection.is_tls
    assert not connection.is_authenticated
    assert not connection.has_unread
    assert not connection.wants_content
    assert len(connection.extensions) == 0
    assert connection.next_event() is None
    with pytest.raises(LocalProtocolError, match=r"before the reply to \(greeting\) is read"):
        connection.send(Ehlo("client.example"))


def test_an_event_carries_the_command_that_it_answers(reach: Reach) -> None:
    """RFC 2920 3.1: by counting only; two equal commands are two."""
    connection = reach(State.MAIL)
    recipients = [Rcpt("same@x.example") for _ in range(3)]
    for rcpt in recipients:
        connection.send(rcpt)
    assert connection.pending == tuple(recipients)
    events = take(connection, b"250 one\r\n550 two\r\n250 three\r\n")
    answered = [event.command for event in events if isinstance(event, Replied)]
    assert [command is rcpt for command, rcpt in zip(answered, recipients, strict=True)] == [True] * 3


def test_a_refusal_names_what_is_in_the_way(reach: Reach) -> None:
    connection = reach(State.READY, keywords=())
    connection.send(Mail("a@b"))
    with pytest.raises(
        LocalProtocolError, match="RCPT cannot be sent before the reply to MAIL is read: the server does"
    ):
        connection.send(Rcpt("c@d"))
    with pytest.raises(LocalProtocolError, match="MAIL cannot be sent now: a recipient was accepted"):
        reach(State.RCPT).send(Mail("a@b"))
    with pytest.raises(LocalProtocolError, match="STARTTLS cannot be sent: the server does not offer STARTTLS"):
        reach(State.READY, keywords=()).send(StartTls())
    with pytest.raises(LocalProtocolError, match="EHLO cannot be sent in LMTP: LHLO is"):
        reach(State.HELLO, lmtp=True).send(Ehlo("client.example"))
    with pytest.raises(LocalProtocolError, match="LHLO cannot be sent in SMTP: EHLO is"):
        reach(State.HELLO).send(Lhlo("client.example"))


def test_auth_is_sent_once_only(reach: Reach) -> None:
    """RFC 4954 4: after 235, no AUTH."""
    connection = reach(State.READY)
    connection.send(Auth("PLAIN", b"x"))
    take(connection, b"235 ok\r\n")
    assert connection.is_authenticated
    with pytest.raises(LocalProtocolError, match="is authenticated"):
        connection.send(Auth("PLAIN", b"x"))


@pytest.mark.parametrize(
    ("content", "end"), [(b"", b".\r\n"), (b"x\r\n", b".\r\n"), (b"x", b"\r\n.\r\n"), (b"x\r", b".\r\n")]
)
def test_the_dot_stands_on_a_line_of_its_own(content: bytes, end: bytes, reach: Reach) -> None:
    """R21."""
    connection = reach(State.DATA)
    assert connection.wants_content
    connection.send_content(content)
    assert connection.send(EndOfData()) == end
    assert not connection.wants_content
    with pytest.raises(LocalProtocolError):
        connection.send_content(b"more")


def test_the_content_of_data_is_normalised_and_stuffed_across_pieces_and_afresh_for_each_message(reach: Reach) -> None:
    connection = reach(State.DATA)
    assert connection.send_content(b".a\r") == b"..a\r\n"
    assert connection.send_content(b"\n.") == b".."
    assert connection.send(EndOfData()) == b"\r\n.\r\n"
    connection.send(Mail("a@b"))
    connection.send(Rcpt("c@d"))
    connection.send(Data())
    take(connection, b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    assert connection.send_content(b"\n.") == b"\r\n.."


def test_content_that_is_known_to_be_normalized_has_only_its_dots_doubled(reach: Reach) -> None:
    one, other = reach(State.DATA), reach(State.DATA)
    for piece in (b".a\r\n", b".", b"b\r\n\r\n.", b"\r\n"):
        assert one.send_content(piece, is_normalized=True) == other.send_content(piece)
    assert one.octets_sent == other.octets_sent
    assert one.send(EndOfData()) == other.send(EndOfData())


def test_a_chunk_goes_as_it_is_and_to_its_last_octet(reach: Reach) -> None:
    connection = reach(State.RCPT)
    connection.send(Bdat(5))
    assert connection.wants_content
    chunk = b".\n\r"
    assert connection.send_content(chunk) is chunk
    with pytest.raises(LocalProtocolError, match="3 bytes of content cannot be sent now: 2 are awaited"):
        connection.send_content(b"abc")
    for command in (Bdat(1), BdatLast(0), Rset(), Quit()):
        with pytest.raises(LocalProtocolError, match="2 bytes of the chunk are missing"):
            connection.send(command)
    assert connection.send_content(b"") == b""
    assert connection.send_content(b"x") == b"x"
    assert connection.wants_content
    assert connection.send_content(b"y") == b"y"
    assert not connection.wants_content
    assert connection.send_content(b"") == b""
    with pytest.raises(LocalProtocolError, match="content cannot be sent now: a recipient was accepted"):
        connection.send_content(b"z")
    connection.send(BdatLast(0))
    assert not connection.wants_content
    assert [type(event) for event in take(connection, b"250 ok\r\n250 ok\r\n")] == [Replied, Replied]
    assert connection.state is State.READY


def test_nothing_is_sent_while_octets_nobody_asked_for_are_held(reach: Reach, make: Make) -> None:
    """R8: checked before every command group."""
    for state in (State.HELLO, State.READY, State.MAIL, State.RCPT, State.CHUNK, State.FAILED, State.AUTH):
        connection = reach(state)
        connection.receive_data(b"4")
        for create in make.values():
            with pytest.raises(LocalProtocolError):
                connection.send(create())
        assert drain(connection) == []
        assert connection.has_unread
        (event,) = take(connection, b"21 too long idle\r\n")
        assert isinstance(event, ServiceClosing)


def test_the_end_of_data_is_not_sent_while_an_early_reply_is_held(reach: Reach) -> None:
    """R3: a reply that was there before the last octet cannot be the verdict."""
    connection = reach(State.DATA)
    connection.receive_data(b"2")
    with pytest.raises(LocalProtocolError, match="bytes that nobody asked for"):
        connection.send(EndOfData())
    assert connection.wants_content
    connection.receive_data(b"50 ok\r\n")
    with pytest.raises(RemoteProtocolError, match="before the end of data"):
        connection.next_event()


# What nobody asked for


@pytest.mark.parametrize(
    "state", [State.HELLO, State.READY, State.MAIL, State.RCPT, State.CHUNK, State.FAILED, State.AUTH]
)
@pytest.mark.parametrize(
    "data", [b"250 ok\r\n", b"2", b"5", b"550 no\r\n", b"40", b"422", b"x", b"\r\n", b"\0", b"4210"]
)
def test_octets_nobody_asked_for_break_the_protocol_as_soon_as_they_are_no_421(
    state: State, data: bytes, reach: Reach, make: Make
) -> None:
    """R8; nobody waits for their end."""
    for pieces in ([data], singly(data)):
        connection = reach(state)
        with pytest.raises(RemoteProtocolError):
            feed(connection, [*pieces, b"\r\n"])
        assert_ended(connection, make)


@pytest.mark.parametrize(
    "state", [State.HELLO, State.READY, State.MAIL, State.RCPT, State.CHUNK, State.FAILED, State.AUTH]
)
def test_421_out_of_turn_is_the_end_in_good_order(state: State, reach: Reach, make: Make) -> None:
    data = b"421-4.4.2 idle\r\n421 4.4.2 too long\r\n"
    for pieces in ([data], singly(data)):
        connection = reach(state)
        events = [event for piece in pieces for event in take(connection, piece)]
        (event,) = events
        assert isinstance(event, ServiceClosing)
        assert event.reply.lines == (b"4.4.2 idle", b"4.4.2 too long")
        assert str(event.reply.enhanced) == ("None" if state is State.HELLO else "4.4.2")
        assert connection.state is State.CLOSING
        assert take(connection, b"250 whatever\r\nxyz") == []
        (closed,) = take(connection, b"")
        assert isinstance(closed, Disconnected)
        assert (closed.unanswered, closed.partial) == ((), b"")
        assert_ended(connection, make)


def test_a_421_that_is_cut_short_is_no_421(reach: Reach) -> None:
    connection = reach(State.READY)
    assert take(connection, b"421-4.4.2 idle\r\n42") == []
    (closed,) = take(connection, b"")
    assert isinstance(closed, Disconnected)
    assert closed.partial == b"42"


@pytest.mark.parametrize("code", [421, 450, 452, 550, 552, 554, 571])
def test_a_refusal_while_the_content_is_sent_is_a_real_one(code: int, reach: Reach, make: Make) -> None:
    """R3."""
    connection = reach(State.DATA)
    connection.send_content(b"x")
    (event,) = take(connection, b"%d 5.3.4 too big\r\n" % code)
    assert isinstance(event, ContentRefused)
    assert event.reply.code == code
    assert connection.state is State.CLOSING
    assert not connection.wants_content
    with pytest.raises(LocalProtocolError, match="the connection is being closed"):
        connection.send_content(b"more")
    for create in make.values():
        with pytest.raises(LocalProtocolError):
            connection.send(create())
    take(connection, b"")
    assert_ended(connection, make)


@pytest.mark.parametrize("data", [b"250 ok\r\n", b"354 again\r\n", b"220 x\r\n", b"x\r\n", b"250 ok\n"])
def test_success_before_the_end_of_data_breaks_the_protocol(data: bytes, reach: Reach, make: Make) -> None:
    """R3: all three peers report a false delivery here."""
    connection = reach(State.DATA)
    connection.send_content(b"x")
    with pytest.raises(RemoteProtocolError):
        take(connection, data)
    assert_ended(connection, make)


@pytest.mark.parametrize("last", [False, True])
def test_success_before_the_last_octet_of_a_chunk_breaks_the_protocol(last: bool, reach: Reach, make: Make) -> None:
    """R3."""
    connection = reach(State.RCPT)
    connection.send(BdatLast(3) if last else Bdat(3))
    connection.send_content(b"ab")
    with pytest.raises(RemoteProtocolError, match="before the chunk was sent"):
        take(connection, b"250 ok\r\n")
    assert_ended(connection, make)


@pytest.mark.parametrize("code", [421, 452, 503, 554])
def test_a_refusal_before_the_last_octet_of_a_chunk_ends_the_connection(code: int, reach: Reach, make: Make) -> None:
    connection = reach(State.RCPT)
    command = BdatLast(3)
    connection.send(command)
    connection.send_content(b"ab")
    (event,) = take(connection, b"%d no\r\n" % code)
    assert isinstance(event, Replied)
    assert event.command is command
    assert connection.state is State.CLOSING
    assert connection.pending == ()
    assert not connection.wants_content
    with pytest.raises(LocalProtocolError, match="content cannot be sent now: the connection is being closed"):
        connection.send_content(b"c")
    take(connection, b"")
    assert_ended(connection, make)


def test_earlier_replies_may_come_while_a_chunk_is_being_sent(reach: Reach) -> None:
    connection = reach(State.READY)
    for command in (Mail("a@b"), Rcpt("c@d"), BdatLast(3)):
        connection.send(command)
    connection.send_content(b"a")
    assert len(take(connection, b"250 ok\r\n550 no\r\n")) == 2
    assert connection.wants_content
    connection.send_content(b"bc")
    assert len(take(connection, b"554 none\r\n")) == 1
    assert connection.state is State.FAILED


@pytest.mark.parametrize("end", [b"", b"xyz\r\n", b"421 x\r\n"])
def test_a_half_sent_chunk_is_not_gone_on_with_once_the_connection_ends(end: bytes, reach: Reach) -> None:
    connection = reach(State.READY)
    for command in (Mail("a@b"), Rcpt("c@d"), BdatLast(3)):
        connection.send(command)
    connection.send_content(b"a")
    connection.receive_data(end)
    try:
        drain(connection)
    except RemoteProtocolError:
        assert end == b"xyz\r\n"
    assert not connection.wants_content
    with pytest.raises(LocalProtocolError, match="content cannot be sent now"):
        connection.send_content(b"b")


# 421, and the end of all sending


PAIRS = [
    (state, kind)
    for kind in sorted(RULES, key=lambda kind: kind.__name__)
    for state in sorted(RULES[kind].legal_in, key=lambda state: state.name)
]


@pytest.mark.parametrize(("state", "kind"), [*PAIRS, (State.GREETING, Greeting)])
def test_421_to_every_command_in_every_state_and_counting_goes_on(
    state: State, kind: type[Command], reach: Reach, make: Make
) -> None:
    """RFC 5321 3.8; section 4: if replies follow the 421, counting goes on."""
    connection = reach(state, lmtp=kind is Lhlo)
    if kind is not Greeting:
        connection.send(make[kind]())
    if state is State.VERDICT:
        take(connection, b"250 ok\r\n")
    command = connection.awaiting
    assert type(command) is kind
    events = take(connection, b"421 4.3.2 closing\r\n")
    assert [type(event) for event in events] == [Replied]
    assert isinstance(events[0], Replied)
    assert (events[0].command, events[0].reply.code) == (command, 421)
    assert connection.state is State.CLOSING
    for create in make.values():
        with pytest.raises(LocalProtocolError):
            connection.send(create())
    assert take(connection, b"250 junk\r\n") == []
    (closed,) = take(connection, b"")
    assert isinstance(closed, Disconnected)
    assert closed.unanswered == ()
    assert_ended(connection, make)


def test_behind_a_421_replies_are_counted_and_the_state_stays(reach: Reach, make: Make) -> None:
    connection = reach(State.READY)
    for command in (Mail("a@b"), Rcpt("c@d"), Data()):
        connection.send(command)
    events = take(connection, b"421 closing\r\n250 ok\r\n354 go\r\n")
    assert [event.reply.code for event in events if isinstance(event, Replied)] == [421, 250, 354]
    assert connection.state is State.CLOSING
    assert not connection.wants_content
    with pytest.raises(LocalProtocolError, match="content cannot be sent now: the connection is being closed"):
        connection.send_content(b"x")


def test_behind_a_421_nothing_more_is_pipelined(reach: Reach, make: Make) -> None:
    connection = reach(State.READY)
    connection.send(Mail("a@b"))
    connection.send(Rcpt("c@d"))
    take(connection, b"421 closing\r\n")
    assert connection.owed == 1
    for create in make.values():
        with pytest.raises(LocalProtocolError):
            connection.send(create())


def test_behind_a_421_a_challenge_does_not_open_the_exchange_again(reach: Reach) -> None:
    connection = reach(State.READY)
    connection.send(Rset())
    connection.send(Auth("LOGIN"))
    take(connection, b"421 closing\r\n334 VXNlcm5hbWU6\r\n")
    assert connection.state is State.CLOSING
    with pytest.raises(LocalProtocolError):
        connection.send(AuthResponse(b"me"))


def test_after_a_violation_nothing_more_is_sent_though_replies_are_owed(reach: Reach, make: Make) -> None:
    """It was possible once: the newest command's optimistic state hid that the connection was closed."""
    connection = reach(State.READY)
    for command in (Mail("a@b"), Rcpt("c@d"), Rcpt("e@f")):
        connection.send(command)
    with pytest.raises(RemoteProtocolError):
        take(connection, b"354 what?\r\n")
    assert connection.owed == 3
    assert_ended(connection, make)


# STARTTLS


def test_starttls_forgets_everything(reach: Reach) -> None:
    """R13."""
    connection = reach(State.READY)
    connection.send(Auth("PLAIN", b"x"))
    take(connection, b"235 ok\r\n")
    command = StartTls()
    connection.send(command)
    (event,) = take(connection, b"220 go\r\n")
    assert isinstance(event, TlsReady)
    assert (event.command, event.reply.code) == (command, 220)
    assert connection.state is State.TLS
    assert not connection.is_tls
    connection.tls_established()
    assert connection.is_tls
    assert not connection.is_authenticated
    assert len(connection.extensions) == 0
    assert connection.state is State.HELLO
    with pytest.raises(LocalProtocolError):
        connection.send(Mail("a@b"))
    connection.send(Ehlo("client.example"))
    take(connection, b"250-mx\r\n250 STARTTLS\r\n")
    with pytest.raises(LocalProtocolError, match="inside TLS"):
        connection.send(StartTls())
    with pytest.raises(LocalProtocolError):
        connection.tls_established()


@pytest.mark.parametrize(
    "injected", [b"250-mx\r\n250 AUTH PLAIN\r\n", b"2", b"\r\n", b"\0", b"421 x\r\n", b"\x16\x03\x01"]
)
@pytest.mark.parametrize("piece_bytes", [1, 1000])
def test_octets_behind_the_220_in_the_same_read_are_an_attack(
    injected: bytes, piece_bytes: int, reach: Reach, make: Make
) -> None:
    """R13, CVE-2011-0411 and its family."""
    connection = reach(State.READY)
    connection.send(StartTls())
    data = b"220 go\r\n" + injected
    for n in range(0, len(data), piece_bytes):
        connection.receive_data(data[n : n + piece_bytes])
    with pytest.raises(RemoteProtocolError, match="unencrypted after its 220"):
        connection.next_event()  # no TlsReady first, upon which somebody would begin the handshake
    assert not connection.is_tls
    assert_ended(connection, make)


@pytest.mark.parametrize("injected", [b"250-mx\r\n250 AUTH PLAIN\r\n", b"2", b"421 x\r\n"])
def test_octets_behind_the_220_in_a_later_read_are_an_attack(injected: bytes, reach: Reach, make: Make) -> None:
    """R13."""
    connection = reach(State.TLS)
    connection.receive_data(injected)
    with pytest.raises(LocalProtocolError, match="sent unencrypted"):
        connection.tls_established()
    assert not connection.is_tls
    with pytest.raises(RemoteProtocolError, match="unencrypted after its 220"):
        connection.next_event()
    assert_ended(connection, make)


def test_the_end_instead_of_a_handshake(reach: Reach) -> None:
    connection = reach(State.TLS)
    (closed,) = take(connection, b"")
    assert isinstance(closed, Disconnected)


def test_a_220_that_was_there_before_the_command_does_not_answer_it(reach: Reach) -> None:
    """R13, CVE-2026-42246: neither read, nor held, nor behind the reply that is still owed."""
    connection = reach(State.READY)
    connection.receive_data(b"220 go\r\n")
    with pytest.raises(LocalProtocolError):
        connection.send(StartTls())
    with pytest.raises(RemoteProtocolError):
        connection.next_event()

    connection = reach(State.READY)
    connection.send(Rset())
    connection.receive_data(b"250 ok\r\n220 go\r\n")
    with pytest.raises(LocalProtocolError, match="unread"):
        connection.send(StartTls())
    with pytest.raises(RemoteProtocolError):
        drain(connection)

    connection = reach(State.HELLO)
    connection.send(Ehlo("client.example"))
    with pytest.raises(RemoteProtocolError):
        take(connection, b"250 STARTTLS\r\n220 go\r\n")


def test_implicit_tls_before_the_greeting() -> None:
    connection = Connection()
    connection.tls_established()
    assert connection.is_tls
    assert connection.state is State.GREETING
    with pytest.raises(LocalProtocolError):
        connection.tls_established()
    take(connection, b"220 mx\r\n")
    connection.send(Ehlo("client.example"))
    take(connection, b"250-mx\r\n250 STARTTLS\r\n")
    with pytest.raises(LocalProtocolError, match="inside TLS"):
        connection.send(StartTls())


def test_a_greeting_in_clear_where_tls_was_to_begin() -> None:
    connection = Connection()
    connection.receive_data(b"220 mx\r\n")
    with pytest.raises(LocalProtocolError, match="sent unencrypted"):
        connection.tls_established()
    assert not connection.is_tls


# AUTH


@pytest.mark.parametrize(
    ("line", "challenge"),
    [
        (b"334 VXNlcm5hbWU6\r\n", b"Username:"),
        (b"334 \r\n", b""),
        (b"334\r\n", b""),
        (b"334\tbWU=\r\n", b"me"),
        (b"334  bWU= \r\n", b"me"),
        (b"334 bWU\r\n", None),
        (b"334 b!WU=\r\n", None),
        (b"334 =\r\n", None),
        (b"334 bW\xffU=\r\n", None),
        (b"334-bWU=\r\n334 bWU=\r\n", None),
    ],
)
def test_a_challenge_is_decoded_or_none(line: bytes, challenge: bytes | None, reach: Reach) -> None:
    connection = reach(State.READY)
    command = Auth("LOGIN")
    connection.send(command)
    (event,) = take(connection, line)
    assert isinstance(event, ChallengeReceived)
    assert (event.command, event.challenge) == (command, challenge)
    connection.send(AuthCancel())
    take(connection, b"501 ok\r\n")
    assert connection.state is State.READY
    assert not connection.is_authenticated


def test_challenges_are_counted_in_each_exchange() -> None:
    """R6."""
    connection = Connection()
    take(connection, b"220 mx\r\n")
    connection.send(Ehlo("client.example"))
    take(connection, b"250-mx\r\n250 AUTH X\r\n")
    for _ in range(2):
        connection.send(Auth("X"))
        for _ in range(MAX_CHALLENGES):
            take(connection, b"334 bWU=\r\n")
            connection.send(AuthResponse(b"x"))
        take(connection, b"535 no\r\n")
    assert MAX_CHALLENGES == 6
    connection.send(Auth("X"))
    for _ in range(MAX_CHALLENGES):
        take(connection, b"334 bWU=\r\n")
        connection.send(AuthResponse(b"x"))
    with pytest.raises(RemoteProtocolError, match="more than 6 challenges"):
        take(connection, b"334 bWU=\r\n")


def test_an_error_of_the_server_shows_no_secret_of_ours(reach: Reach) -> None:
    """R17."""
    connection = reach(State.READY)
    connection.send(Auth("PLAIN", b"s3cr3t"))
    with pytest.raises(RemoteProtocolError) as caught:
        take(connection, b"250 eh?\r\n")
    assert "s3cr3t" not in str(caught.value)
    assert "czNjcjN0" not in str(caught.value)


# EHLO


def test_each_hello_replaces_what_is_known(reach: Reach) -> None:
    connection = reach(State.READY)
    assert connection.extensions.size == 1000
    connection.send(Ehlo("client.example"))
    take(connection, b"250-mx\r\n250 SIZE 5\r\n")
    assert dict(connection.extensions) == {"SIZE": ("5",)}
    connection.send(Ehlo("client.example"))
    take(connection, b"550 no\r\n")
    assert dict(connection.extensions) == {"SIZE": ("5",)}
    connection.send(Helo("client.example"))
    take(connection, b"250-mx\r\n250 SIZE 5\r\n")
    assert dict(connection.extensions) == {}


def test_enhanced_codes_are_read_where_offered_and_never_in_the_reply_to_hello(reach: Reach) -> None:
    """RFC 2034 3."""
    connection = reach(State.READY)
    connection.send(Mail("a@b"))
    (event,) = take(connection, b"550 5.7.1 no\r\n")
    assert isinstance(event, Replied)
    assert str(event.reply.enhanced) == "5.7.1"
    connection.send(Ehlo("client.example"))
    (event,) = take(connection, b"250 2.0.0 mx\r\n")
    assert isinstance(event, Replied)
    assert event.reply.enhanced is None
    connection.send(Mail("a@b"))
    (event,) = take(connection, b"550 5.7.1 no\r\n")
    assert isinstance(event, Replied)
    assert event.reply.enhanced is None


# LMTP


def lmtp_in_flight(reach: Reach, codes: tuple[int, ...], *, chunking: bool) -> tuple[Connection, list[Rcpt]]:
    """Return a connection to which the end of data was sent, and the recipients that were accepted."""
    connection = reach(State.READY, lmtp=True)
    recipients = [Rcpt(f"r{n}@x.example") for n in range(len(codes))]
    connection.send(Mail("a@b"))
    for rcpt in recipients:
        connection.send(rcpt)
    connection.send(BdatLast(0) if chunking else Data())
    take(connection, b"250 ok\r\n" + b"".join(b"%d x\r\n" % code for code in codes) + b"354 go\r\n" * (not chunking))
    if not chunking:
        connection.send(EndOfData())
    return connection, [rcpt for rcpt, code in zip(recipients, codes, strict=True) if code < 300]


BOTH = pytest.mark.parametrize("chunking", [False, True])


@BOTH
def test_in_lmtp_each_accepted_recipient_has_a_verdict_in_order(chunking: bool, reach: Reach) -> None:
    """RFC 2033 4.2."""
    connection, accepted = lmtp_in_flight(reach, (250, 550, 251), chunking=chunking)
    assert connection.owed == 1
    events = take(connection, b"250 ok\r\n")
    assert connection.owed == 1
    events += take(connection, b"452 full\r\n")
    assert connection.owed == 0
    verdicts = [event for event in events if isinstance(event, Replied)]
    assert [event.recipient for event in verdicts] == accepted
    assert [event.reply.code for event in verdicts] == [250, 452]
    assert [event.is_final for event in verdicts] == [False, True]
    assert len({event.command for event in verdicts}) == 1
    assert connection.state is (State.FAILED if chunking else State.READY)


@BOTH
def test_in_lmtp_the_end_of_data_ends_its_group(chunking: bool, reach: Reach, make: Make) -> None:
    connection, _ = lmtp_in_flight(reach, (250,), chunking=chunking)
    for create in make.values():
        with pytest.raises(LocalProtocolError):
            connection.send(create())


@BOTH
@pytest.mark.parametrize("code", [500, 501, 502, 503, 504, 509, 530])
def test_in_lmtp_a_first_50z_or_530_answers_for_all_and_nothing_comes_behind_it(
    code: int, chunking: bool, reach: Reach, make: Make
) -> None:
    connection, _ = lmtp_in_flight(reach, (250, 250, 250), chunking=chunking)
    (event,) = take(connection, b"%d 5.5.1 what?\r\n" % code)
    assert isinstance(event, Replied)
    assert event.is_final
    assert event.recipient is None
    assert connection.owed == 0
    assert connection.state is State.CLOSING
    for create in make.values():
        with pytest.raises(LocalProtocolError):
            connection.send(create())
    assert take(connection, b"503 again\r\n503 and again\r\n") == []


@BOTH
@pytest.mark.parametrize(("codes", "count"), [((451, 503, 530), 3), ((250, 503, 250), 3), ((510, 250, 250), 3)])
def test_in_lmtp_a_later_50z_or_another_code_answers_for_one(
    codes: tuple[int, ...], count: int, chunking: bool, reach: Reach
) -> None:
    connection, accepted = lmtp_in_flight(reach, (250, 250, 250), chunking=chunking)
    events = take(connection, b"".join(b"%d x\r\n" % code for code in codes))
    assert [event.recipient for event in events if isinstance(event, Replied)] == accepted
    assert len(events) == count
    assert connection.state is not State.CLOSING


def test_in_lmtp_the_only_recipient_s_503_is_its_own(reach: Reach) -> None:
    connection, accepted = lmtp_in_flight(reach, (250,), chunking=False)
    (event,) = take(connection, b"503 no\r\n")
    assert isinstance(event, Replied)
    assert event.recipient is accepted[0]
    assert connection.state is State.READY


def test_in_lmtp_with_nobody_accepted_a_chunk_has_one_reply_and_data_no_dot(reach: Reach) -> None:
    connection, _ = lmtp_in_flight(reach, (550, 550), chunking=True)
    (event,) = take(connection, b"503 nobody\r\n")
    assert isinstance(event, Replied)
    assert event.is_final
    assert event.recipient is None
    assert connection.state is State.FAILED

    connection = reach(State.READY, lmtp=True)
    for command in (Mail("a@b"), Rcpt("c@d"), Data()):
        connection.send(command)
    take(connection, b"250 ok\r\n550 no\r\n354 go\r\n")
    with pytest.raises(LocalProtocolError, match="without a recipient"):
        connection.send(EndOfData())


@BOTH
def test_in_lmtp_421_as_a_verdict_is_counted_as_one(chunking: bool, reach: Reach) -> None:
    connection, accepted = lmtp_in_flight(reach, (250, 250), chunking=chunking)
    events = take(connection, b"421 closing\r\n250 ok\r\n")
    assert [event.recipient for event in events if isinstance(event, Replied)] == accepted
    assert connection.state is State.CLOSING


@BOTH
def test_in_lmtp_the_end_with_verdicts_owed(chunking: bool, reach: Reach) -> None:
    connection, _ = lmtp_in_flight(reach, (250, 250), chunking=chunking)
    take(connection, b"250 ok\r\n")
    (command,) = connection.pending
    (closed,) = take(connection, b"")
    assert isinstance(closed, Disconnected)
    assert closed.unanswered == (command,)


def test_in_lmtp_recipients_are_counted_anew_in_each_transaction(reach: Reach) -> None:
    connection = reach(State.RCPT, lmtp=True)  # one recipient taken
    connection.send(Rset())
    connection.send(Mail("a@b"))
    connection.send(Rcpt("r1@x.example"))
    connection.send(BdatLast(0))
    assert len(take(connection, b"250 ok\r\n" * 4)) == 4
    assert connection.owed == 0


def test_in_lmtp_a_refused_lhlo_leaves_the_recipients_as_they_were(reach: Reach) -> None:
    """It did not once, and the verdicts were counted wrong."""
    connection = reach(State.RCPT, lmtp=True)
    connection.send(Lhlo("client.example"))
    take(connection, b"503 in mid-transaction\r\n")
    assert connection.state is State.RCPT
    connection.send(Rcpt("r2@x.example"))
    connection.send(BdatLast(0))
    events = take(connection, b"250 ok\r\n250 one\r\n250 two\r\n")
    assert [event.is_final for event in events if isinstance(event, Replied)] == [True, False, True]

    connection = reach(State.RCPT, lmtp=True)
    connection.send(Lhlo("client.example"))
    take(connection, b"250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n")
    for command in (Mail("a@b"), Rcpt("r1@x.example"), BdatLast(0)):
        connection.send(command)
    assert len(take(connection, b"250 ok\r\n" * 3)) == 3
    assert connection.owed == 0


# The article


def test_the_article_s_recorded_opening() -> None:
    connection = Connection()
    (greeting,) = take(connection, b"220 mwinf2344.orange.fr ESMTP ABO *****\r\n")
    assert isinstance(greeting, Replied)
    assert isinstance(greeting.command, Greeting)
    assert connection.send(Ehlo("skyrunner.home")) == b"EHLO skyrunner.home\r\n"
    lines = "250-mwinf2344.orange.fr|250-PIPELINING|250-SIZE 10485760|250-AUTH PLAIN LOGIN|250-AUTH=PLAIN LOGIN"
    take(connection, lines.replace("|", "\r\n").encode() + b"\r\n250 8BITMIME\r\n")
    assert connection.extensions.auth == ("PLAIN", "LOGIN")
    assert connection.send(Quit()) == b"QUIT\r\n"
    (bye,) = take(connection, b"221 Bye\r\n")
    assert isinstance(bye, Replied)
    assert str(bye.reply) == "221 Bye"


# Anything at all

COMMANDS: dict[str, Callable[[], Command]] = {
    "EHLO": lambda: Ehlo("client.example"),
    "HELO": lambda: Helo("client.example"),
    "LHLO": lambda: Lhlo("client.example"),
    "STARTTLS": StartTls,
    "AUTH": lambda: Auth("LOGIN"),
    "response": lambda: AuthResponse(b"x"),
    "*": AuthCancel,
    "MAIL": lambda: Mail("a@b"),
    "RCPT": lambda: Rcpt("c@d"),
    "DATA": Data,
    ".": EndOfData,
    "BDAT": lambda: Bdat(3),
    "BDAT 0": lambda: Bdat(0),
    "LAST": lambda: BdatLast(2),
    "LAST 0": lambda: BdatLast(0),
    "RSET": Rset,
    "NOOP": Noop,
    "VRFY": lambda: Vrfy("x"),
    "QUIT": Quit,
    "greeting": Greeting,
    "custom": lambda: Custom("XFOO"),
    "HELP": Help,
    "EXPN": lambda: Expn("x"),
}

server_octets = st.lists(
    st.sampled_from(
        [
            *(
                b"220 mx\r\n",
                b"250 ok\r\n",
                b"250-mx\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-STARTTLS\r\n250 AUTH X\r\n",
            ),
            *(
                b"354 go\r\n",
                b"334 bWU=\r\n",
                b"235 ok\r\n",
                b"421 bye\r\n",
                b"450 later\r\n",
                b"550 no\r\n",
                b"503 ?\r\n",
            ),
            *(b"221 bye\r\n", b"250", b"42", b"1", b"\r\n", b"\n", b"\0", b"250-", b"999 x\r\n", b"250-a\r\n251 b\r\n"),
        ]
    )
    | st.binary(max_size=6),
    max_size=12,
)


@examples(150)
@given(
    octets=server_octets,
    places=st.lists(st.integers(0, 200), max_size=6),
    state=st.sampled_from(State),
    lmtp=st.booleans(),
    sent=st.lists(st.sampled_from(sorted(COMMANDS)), max_size=5),
)
def test_arbitrary_octets_raise_only_remote_protocol_error_and_end_closed(
    reach: Reach, make: Make, octets: list[bytes], places: list[int], state: State, lmtp: bool, sent: list[str]
) -> None:
    connection = reach(state, lmtp=lmtp)
    for name in sent:
        try:
            connection.send(COMMANDS[name]())
        except LocalProtocolError:
            continue
    data = b"".join(octets)
    try:
        for piece in at(*places)(0, data):
            take(connection, piece)
        assert_last_is_closed(take(connection, b""), state)
    except RemoteProtocolError:
        pass
    assert_ended(connection, make)


def assert_last_is_closed(events: list[Event], state: State) -> None:
    if state is State.CLOSED:  # reported before
        assert events == []
    else:
        assert isinstance(events[-1], Disconnected)


@examples(100)
@given(octets=server_octets, places=st.lists(st.integers(0, 200), max_size=6), lmtp=st.booleans())
def test_arbitrary_octets_give_the_same_events_and_error_at_any_split(
    reach: Reach, show: Show, octets: list[bytes], places: list[int], lmtp: bool
) -> None:
    """Nothing depends on the split, for a pipelined group whose replies are all owed."""

    def run(pieces: Iterable[bytes]) -> tuple[list[Any], bool, State]:
        connection = reach(State.READY, lmtp=lmtp)
        for command in (Mail("a@b"), Rcpt("c@d"), Rcpt("e@f"), BdatLast(0)):
            connection.send(command)
        events: list[Any] = []
        try:
            for piece in [*pieces, b""]:
                connection.receive_data(piece)
                while (event := connection.next_event()) is not None:
                    events.append(show(event))
        except RemoteProtocolError:
            return events, True, connection.state
        # What a connection that closes still sends is dropped when it is read: how much is in `partial` may differ.
        return [event[:2] if event[0] == "Disconnected" else event for event in events], False, connection.state

    data = b"".join(octets)
    assert run(at(*places)(0, data)) == run([data])


class ConnectionMachine(RuleBasedStateMachine):
    """Any commands and any octets in any order: refused calls change nothing, and the count is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.connection = Connection()
        self.owed: list[Command] = list(self.connection.pending)
        self.dead = False

    def public(self) -> tuple[Any, ...]:
        connection = self.connection
        return (
            *(connection.state, tuple(map(id, connection.pending)), connection.owed, connection.has_unread),
            *(connection.wants_content, dict(connection.extensions), connection.is_tls, connection.is_authenticated),
        )

    @rule(name=st.sampled_from(sorted(COMMANDS)))
    def send(self, name: str) -> None:
        before = self.public()
        command = COMMANDS[name]()
        try:
            octets = self.connection.send(command)
        except LocalProtocolError:
            assert self.public() == before
        else:
            assert not self.dead
            assert octets.endswith(b"\r\n")
            self.owed.append(command)

    @rule(content=st.sampled_from([b"", b"a", b"ab", b".\r\n"]))
    def send_content(self, content: bytes) -> None:
        before = self.public()
        wanted = self.connection.wants_content
        try:
            self.connection.send_content(content)
        except LocalProtocolError:
            assert self.public() == before
        else:
            assert wanted or not content

    @rule()
    def tls(self) -> None:
        before = self.public()
        try:
            self.connection.tls_established()
        except LocalProtocolError:
            assert self.public() == before
        else:
            assert before[0] in (State.GREETING, State.TLS)
            assert len(self.connection.extensions) == 0

    @rule(octets=server_octets.map(b"".join))
    def receive(self, octets: bytes) -> None:
        if octets:
            self.take(octets)

    @precondition(lambda self: self.owed and not self.dead)
    @rule(negative=st.booleans())
    def answer(self, negative: bool) -> None:
        """What a sane server says."""
        good = {Greeting: b"220", StartTls: b"220", Auth: b"334", AuthResponse: b"235", Data: b"354", Quit: b"221"}
        kind = type(self.owed[0])
        code = b"550" if negative and kind is not Rset else good.get(kind, b"250")
        if kind is Ehlo and not negative:
            self.take(b"250-mx\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-STARTTLS\r\n250 AUTH X\r\n")
        else:
            self.take(code + b" bWU=\r\n")

    @rule()
    def end(self) -> None:
        self.take(b"")

    def take(self, octets: bytes) -> None:
        self.connection.receive_data(octets)
        try:
            while (event := self.connection.next_event()) is not None:
                assert not self.dead
                if isinstance(event, Disconnected):
                    assert event.unanswered == tuple(self.owed)
                    self.owed = []
                    self.dead = True
                elif not isinstance(event, (ServiceClosing, ContentRefused)):
                    assert event.command is self.owed[0]
                    del self.owed[0]
        except RemoteProtocolError:
            self.dead = True

    @invariant()
    def the_count_is_kept(self) -> None:
        assert self.connection.pending == tuple(self.owed)
        assert self.connection.owed == len(self.owed)
        assert self.connection.awaiting is (self.owed[0] if self.owed else None)
        assert (self.connection.state is State.CLOSED) is self.dead
        assert not (self.dead and self.connection.wants_content)


TestConnectionMachine = ConnectionMachine.TestCase
TestConnectionMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize(
    ("commands", "reply", "shown"),
    [
        ([Auth("PLAIN", b"\0me\0hunter2")], b"535 no: AUTH PLAIN AG1lAGh1bnRlcjI=", b"no: AUTH PLAIN [redacted]"),
        ([Auth("PLAIN", b"\0me\0hunter2")], b"535 me: hunter2 is wrong", b"me: [redacted] is wrong"),
        ([Auth("XOAUTH2", b"user=me\x01auth=Bearer t0ken.1\x01\x01")], b"535 t0ken.1 expired", b"[redacted] expired"),
        ([Auth("XOAUTH2", b"user=me\x01auth=Bearer t0ken\x01\x01")], b"535 expired", b"[redacted]"),
        ([Auth("PLAIN", b"\0me\0hunter2")], b"535 me: HUNTER2 is wrong", b"me: [redacted] is wrong"),
        ([Auth("PLAIN", b"\0me\0hunter2")], b"535 no: AG1lAGh1bnR...", b"no: [redacted]..."),
        ([Auth("PLAIN", b"\0me\0hunter2")], b"535 aHVudGVyMg== is wrong", b"[redacted] is wrong"),
        ([Auth("PLAIN", b"\0me\0correct horse")], b"535 not 'correct' 'horse'", b"not '[redacted]' 'horse'"),
        ([Auth("PLAIN", b"\0me\0me")], b"535 5.7.8 me is unknown", b"[redacted]"),
        ([Auth("PLAIN", b"\0me\0me")], b"235 welcome me", b"[redacted]"),
        ([Auth("PLAIN", b"\0me\0hunter2")], b"235 welcome hunter2", b"welcome [redacted]"),
        ([Auth("PLAIN"), AuthResponse(b"\0me\0me")], b"535 me is unknown", b"[redacted]"),
        ([Auth("LOGIN"), AuthResponse(b"me"), AuthResponse(b"abc")], b"535 abc is wrong", b"[redacted]"),
        ([Auth("LOGIN"), AuthResponse(b"me"), AuthCancel()], b"501 me cancelled", b"me cancelled"),
        ([Auth("LOGIN"), AuthResponse(b"me"), AuthResponse(b"hunter2"), AuthCancel()], b"501 hunter2", b"[redacted]"),
        ([Auth("LOGIN"), AuthResponse(b"me")], b"535 me is unknown", b"me is unknown"),
        ([Auth("EXTERNAL", b"me")], b"535 me is unknown", b"me is unknown"),
        ([Auth("LOGIN"), AuthResponse(b"hunter2")], b"535 aHVudGVyMg==?", b"[redacted]?"),
        ([Auth("LOGIN"), AuthResponse(b"")], b"535 what?", b"what?"),
        ([Auth("LOGIN")], b"504 LOGIN?", b"LOGIN?"),
    ],
)
def test_what_a_server_repeats_of_our_credentials_is_not_in_its_reply(
    commands: list[Command], reply: bytes, shown: bytes
) -> None:
    """R17: the reply stands in errors, logs and the trace."""
    connection = Connection()
    connection.receive_data(b"220 hi\r\n")
    connection.next_event()
    connection.send(Ehlo("a.example"))
    connection.receive_data(b"250-hi\r\n250 AUTH PLAIN LOGIN XOAUTH2 EXTERNAL\r\n")
    connection.next_event()
    for number, command in enumerate(commands):
        connection.send(command)
        connection.receive_data(reply + b"\r\n" if number == len(commands) - 1 else b"334 \r\n")
        event = connection.next_event()
    assert isinstance(event, Replied)
    assert event.reply.lines == (shown,)
