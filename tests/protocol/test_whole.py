"""Messages that are written whole: their commands are made when somebody asks, and are those that were written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtplite.errors import ConnectionLost, LocalProtocolError
from smtplite.protocol import (
    BdatLast,
    Connection,
    ContentRefused,
    Data,
    Disconnected,
    EndOfData,
    Mail,
    Outcome,
    Parameters,
    Rcpt,
    Rset,
    ServerTraits,
    State,
    Submission,
    Transfer,
    Window,
)
from smtplite.protocol.envelope import EnvelopeCommands
from smtplite.protocol.paths import ForwardPath, ReversePath
from smtplite.protocol.whole import Whole, octets_of, shape_of

from .test_usual import Dialogue
from .test_window import greeted, message

CONTENT = b"x" * 5
USUAL = b"250 2.0.0 ok\r\n"
GO_ON = b"354 go on\r\n"


def envelope(recipients: int = 1, *, parameters: Parameters | None = None) -> EnvelopeCommands:
    paths = [ForwardPath.parse(f"r{number}@c.example") for number in range(recipients)]
    return EnvelopeCommands(ReversePath.parse("a@b.example"), parameters or Parameters(), paths)


def in_one_piece(recipients: int = 1, **options: bool) -> Submission:
    made = message(recipients, **options)
    made.fit_envelope(envelope(recipients), len(CONTENT))
    return made


def proved(connection: Connection | None = None, *, in_flight: int = 32) -> Window[Submission]:
    window: Window[Submission] = Window(connection or greeted(), chunking=True, in_flight=in_flight)
    window.is_proved = True
    return window


@given(
    sender=st.sampled_from(["", "a@b.example", '"a b"@c.example', "ü@b.example"]),
    recipients=st.lists(st.sampled_from(["c@d.example", "postmaster", "x@[192.0.2.1]", "ö@d.example"]), min_size=1),
    size=st.none() | st.integers(0, 2**40),
    content=st.none() | st.binary(max_size=200),
    resets=st.booleans(),
)
def test_what_is_written_is_what_the_commands_write(
    sender: str, recipients: list[str], size: int | None, content: bytes | None, resets: bool
) -> None:
    parameters = Parameters.mail(size=size, body="8BITMIME")
    made = EnvelopeCommands(ReversePath.parse(sender), parameters, [ForwardPath.parse(each) for each in recipients])
    octets = octets_of(made, content, resets=resets)
    codes = (250,) * (len(recipients) + 2 + resets)
    is_data = content is None
    whole = Whole(made, codes, size=None if content is None else len(content), content_end=None)
    assert b"".join(command.to_bytes() for command in whole) + (content or b"") == octets
    assert len(whole) == len(list(whole))
    assert all(one is other for one, other in zip(whole, whole, strict=True))
    kinds = [*([Rset] if resets else []), Mail, *[Rcpt] * len(recipients), Data if is_data else BdatLast]
    assert [type(command) for command in whole] == kinds
    assert (whole.first_kind, whole.last_kind) == (kinds[0], kinds[-1])


def test_a_message_to_more_than_fit_a_group_is_not_written_whole() -> None:
    assert shape_of(13, has_chunk=True, resets=True) is not None
    assert shape_of(14, has_chunk=True, resets=True) is None
    assert shape_of(14, has_chunk=False, resets=False) is not None
    assert shape_of(15, has_chunk=False, resets=False) is None
    window = behind_dot()
    assert window.begin_whole(in_one_piece(15), CONTENT) is None
    assert len(window) == window.begun == 1
    window = proved()
    assert window.begin_whole(in_one_piece(15), CONTENT) is None
    assert len(window) == window.begun == 0
    assert window.begin_whole(in_one_piece(14), CONTENT) is not None


def behind_dot(connection: Connection | None = None, *, reads_behind_dot: bool | None = True) -> Window[Submission]:
    """Return a window with a message whose content was handed over behind the 354."""
    traits = ServerTraits(reads_behind_dot=reads_behind_dot)
    window: Window[Submission] = Window(connection or greeted(), traits=traits)
    first = message()
    window.begin(first).next_flight()
    hear(window, USUAL * 2 + GO_ON)
    first.transaction.send_content(CONTENT, last=True)
    return window


def hear(window: Window[Submission], octets: bytes) -> None:
    """Take in what came, as far as it can be."""
    window._connection.receive_data(octets)
    while True:
        if window.receive_usual() is None:
            event = window._connection.next_event()
            if event is None:
                break
            window.receive(event)


@pytest.mark.parametrize(
    ("why", "spoil"),
    [
        ("nothing stood behind a dot there", lambda window: setattr(window._traits, "reads_behind_dot", None)),
        ("nothing may stand behind a dot there", lambda window: setattr(window._traits, "reads_behind_dot", False)),
        ("the last one failed", lambda window: setattr(window, "_is_in_trouble", True)),
        ("the content of the last one was refused", lambda window: setattr(window, "_was_refused", True)),
        ("it is turned off", lambda window: setattr(window._connection, "_at_once", False)),
        ("chunks are to go", lambda window: setattr(window, "_chunking", True)),
        ("a single command is owed", lambda window: window._connection.send(Rset())),
        ("it is closing", lambda window: setattr(window._connection, "state", State.CLOSING)),
    ],
)
def test_nothing_changes_where_it_may_not_go_whole_behind_a_dot(
    why: str, spoil: Callable[[Window[Submission]], object]
) -> None:
    window = behind_dot()
    spoil(window)
    submission = in_one_piece()
    before = (window._connection.octets_sent, window._connection.pending, window.begun)
    assert window.begin_whole(submission, CONTENT) is None, why
    assert before == (window._connection.octets_sent, window._connection.pending, window.begun)
    assert submission.whole is None
    assert submission.transactions == 0
    assert len(window) == 1


def test_behind_the_354_content_is_wanted_once_and_then_the_next_may_begin() -> None:
    """RFC 5321 4.1.1.4, RFC 2920 3.1: dots are doubled, and the end of data has a line of its own."""
    window = behind_dot()
    connection = window._connection
    submission, following = in_one_piece(2), in_one_piece()
    octets = window.begin_whole(submission, CONTENT)
    assert octets == b"MAIL FROM:<a@b.example>\r\nRCPT TO:<r0@c.example>\r\nRCPT TO:<r1@c.example>\r\nDATA\r\n"
    whole = submission.whole
    assert whole is not None
    assert not whole.wants_content
    assert not window.may_begin
    assert window.begin_whole(following, CONTENT) is None
    connection.receive_data(USUAL * 4)
    assert window.receive_usual() is not None  # the verdict on the first
    assert window.receive_usual() is None  # the 354 is missing
    connection.receive_data(GO_ON)
    taken = window.receive_usual()
    assert taken is not None
    assert taken[0] is None
    assert [type(command) for command in taken[1]] == [Mail, Rcpt, Rcpt, Data]
    assert whole.wants_content
    assert not window.may_begin
    assert window.receive_usual() is None
    assert submission.send_content(whole, b".x\ny") == b"..x\r\ny\r\n.\r\n"
    assert not whole.wants_content
    assert window.may_begin
    assert connection.oldest_kind is EndOfData
    assert window.begin_whole(following, CONTENT) is not None
    connection.receive_data(USUAL)
    taken = window.receive_usual()
    assert taken is not None
    assert taken[0] is submission
    assert [outcome.outcome for outcome in submission.outcomes] == [Outcome.ACCEPTED] * 2
    transaction = submission.transaction
    assert (transaction.is_done, transaction.transfer, transaction.error) == (True, Transfer.DATA, None)
    assert transaction.outcomes == submission.outcomes
    assert connection.oldest_kind is Mail


def test_content_refused_before_it_was_sent_is_a_refusal() -> None:
    """A server that says 554 behind its 354 (R3)."""
    window = behind_dot()
    connection = window._connection
    submission = in_one_piece()
    assert window.begin_whole(submission, CONTENT) is not None
    connection.receive_data(USUAL * 3 + GO_ON + b"554 5.7.1 no\r\n")
    while window.receive_usual() is not None:
        pass
    event = connection.next_event()
    assert isinstance(event, ContentRefused)
    assert window.receive(event) == [submission]
    assert submission.outcomes[0].outcome is Outcome.REFUSED
    assert window.must_close


def compare_wherever_it_is_cut(
    converse: Callable[[Connection], tuple[Window[Submission], list[Submission], int]],
) -> None:
    """With each number of octets unsent, outcomes must be those without this way.

    Args:
        converse: is given a connection; returns the window, its messages, and where their first octet lies.
    """
    unsent = 0
    while True:
        results = []
        for at_once in (True, False):
            connection = greeted()
            connection._at_once = at_once
            window, submissions, begin = converse(connection)
            total = connection.octets_sent - begin
            window.fail(ConnectionLost("lost"), unsent=unsent)
            results.append(
                [
                    (each.outcomes, repr(each.error), bool(each.transactions) and each.transaction.was_cut)
                    for each in submissions
                ]
            )
        assert results[0] == results[1], unsent
        if unsent > total:
            break
        unsent += 1


def begin(window: Window[Submission], submission: Submission) -> None:
    """Begin it whole where that is turned on, and step by step where it is not."""
    if window.begin_whole(submission, CONTENT) is None:
        assert not window._connection._at_once
        window.begin(submission)
        Dialogue.compose(submission)


@pytest.mark.parametrize("heard", range(9))
def test_what_left_decides_wherever_the_connection_ends_behind_a_dot(heard: int) -> None:
    """After so many replies, and with each number of octets unsent."""

    def converse(connection: Connection) -> tuple[Window[Submission], list[Submission], int]:
        window = behind_dot(connection)
        submissions = [in_one_piece() for _ in range(2)]
        before = connection.octets_sent
        said = [*[USUAL] * 3, GO_ON, USUAL, USUAL, USUAL, GO_ON][:heard]
        for submission, octets in zip(submissions, (said[:4], said[4:]), strict=True):
            if window.may_begin:
                begin(window, submission)
            hear(window, b"".join(octets))
            if submission.transactions:
                Dialogue.compose(submission)
        return window, submissions, before

    compare_wherever_it_is_cut(converse)


@pytest.mark.parametrize(
    ("why", "spoil"),
    [
        ("chunking is not proved", lambda window: setattr(window, "is_proved", False)),
        ("the last one failed", lambda window: setattr(window, "_is_in_trouble", True)),
        ("the content of the last one was refused", lambda window: setattr(window, "_was_refused", True)),
        ("the server takes no chunks", lambda window: setattr(window._traits, "takes_chunks", False)),
        ("all that may be unacknowledged is", lambda window: setattr(window, "_unacknowledged", 262_144)),
        ("it is turned off", lambda window: setattr(window._connection, "_at_once", False)),
        ("octets are unread", lambda window: window._connection.receive_data(b"4")),
        ("a single command is owed", lambda window: window._connection.send(Rset())),
    ],
)
def test_nothing_changes_where_it_may_not_be_written_whole(
    why: str, spoil: Callable[[Window[Submission]], None]
) -> None:
    window = proved()
    spoil(window)
    submission = in_one_piece()
    before = (window._connection.octets_sent, window._connection.pending, window.begun, window._unacknowledged)
    assert window.begin_whole(submission, CONTENT) is None, why
    assert before == (
        window._connection.octets_sent,
        window._connection.pending,
        window.begun,
        window._unacknowledged,
    )
    assert submission.whole is None
    assert submission.transactions == 0
    assert not len(window)


def test_neither_for_all_or_nobody_nor_after_a_rest_nor_where_a_recipient_has_parameters_nor_a_second_time() -> None:
    assert proved().begin_whole(in_one_piece(2, require_all=True), CONTENT) is None
    assert proved().begin_whole(message(), CONTENT) is None
    assert proved().begin_whole(in_one_piece(), CONTENT, has_rested=True) is None
    window = proved()
    submission = in_one_piece()
    assert window.begin_whole(submission, CONTENT) is not None
    submission.transaction  # noqa: B018 (from now on it goes the general way)
    (cut,) = window.fail(ConnectionLost("lost"), unsent=window._connection.octets_sent)
    submission.reopen()
    assert cut is submission
    assert not submission.transactions
    assert proved().begin_whole(submission, CONTENT) is not None  # nothing of it counts


@pytest.mark.parametrize("chunking", [False, True], ids=["DATA", "BDAT"])
def test_what_is_left_of_a_message_does_not_go_to_all_of_its_recipients_again(chunking: bool) -> None:
    """RFC 5321 4.5.3.1.10: those who were too many are a transaction of their own."""
    window = proved() if chunking else behind_dot()
    submission = in_one_piece(2)
    assert window.begin_whole(submission, CONTENT) is not None
    envelope_replies = USUAL * 2 + b"452 4.5.3 too many\r\n"
    hear(window, envelope_replies + USUAL if chunking else USUAL + envelope_replies + GO_ON)
    if not chunking:
        submission.transaction.send_content(CONTENT, last=True)
        hear(window, USUAL)
    assert [each.outcome for each in submission.outcomes] == [Outcome.ACCEPTED, Outcome.REFUSED]
    assert not submission.is_done
    if not chunking:  # something else stands in front of it
        following = in_one_piece()
        window.begin(following)
        Dialogue.compose(following)
        hear(window, USUAL * 2 + GO_ON)
        Dialogue.compose(following)
    before = (window._connection.octets_sent, window.begun)
    assert window.begin_whole(submission, CONTENT) is None
    assert before == (window._connection.octets_sent, window.begun)
    octets = window.begin(submission).next_flight()
    assert b"r1@c.example" in octets
    assert b"r0@c.example" not in octets


def test_an_unfitted_message_cannot_begin() -> None:
    with pytest.raises(LocalProtocolError, match="call fit"):
        proved().begin(Submission(1))
    assert proved().begin_whole(Submission(1), CONTENT) is None


def test_single_commands_are_made_of_what_comes_next_alone_and_of_all_before_another_is_sent() -> None:
    window = proved(in_flight=4)
    connection = window._connection
    submissions = [in_one_piece() for _ in range(3)]
    for submission in submissions:
        assert window.begin_whole(submission, CONTENT) is not None
    owed = connection.pending
    assert connection.owed == len(owed) == 3 + 4 + 4
    assert connection.awaiting is owed[0]
    assert connection.newest_kind is BdatLast
    connection.receive_data(USUAL)  # of three
    assert window.receive_usual() is None
    event = connection.next_event()
    assert event is not None
    assert window.receive(event) == []
    assert [submission.whole is None for submission in submissions] == [True, False, False]
    assert connection.pending == owed[1:]
    assert len(connection._pending) == 2  # those of the oldest; the others are still whole
    connection.send(Rset())
    assert connection.pending[:-1] == owed[1:]
    assert [submission.whole is None for submission in submissions] == [True, False, False]
    connection.receive_data(USUAL * 10)
    done = []
    while (event := connection.next_event()) is not None:
        done += window.receive(event)
    assert done == submissions
    assert all(each.outcomes[0].outcome is Outcome.ACCEPTED for each in done)


def test_a_transaction_that_is_asked_for_afterwards_tells_how_it_went() -> None:
    window = proved()
    submission = in_one_piece(2)
    assert window.begin_whole(submission, CONTENT) is not None
    window._connection.receive_data(USUAL * 3 + b"250 2.0.0 queued\r\n")
    taken = window.receive_usual()
    assert taken is not None
    assert taken[0] is submission
    assert submission.went_as_usual
    assert submission.transactions == 1
    assert submission.reply is not None
    assert submission.reply.lines == (b"2.0.0 queued",)
    outcomes = submission.outcomes
    transaction = submission.transaction
    assert (transaction.is_done, transaction.reply, transaction.error) == (True, submission.reply, None)
    assert transaction.outcomes == outcomes
    assert submission.transactions == 1
    assert not submission.went_as_usual
    assert submission.transaction is transaction
    assert submission.is_done


@pytest.mark.parametrize("heard", range(12))
def test_what_left_decides_wherever_the_connection_ends(heard: int) -> None:
    """After so many replies, and with each number of octets unsent."""

    def converse(connection: Connection) -> tuple[Window[Submission], list[Submission], int]:
        window = proved(connection, in_flight=4)
        submissions = [in_one_piece() for _ in range(3)]
        before = connection.octets_sent
        for submission in submissions:
            begin(window, submission)
        hear(window, USUAL * heard)
        return window, submissions, before

    compare_wherever_it_is_cut(converse)


def test_a_reply_that_was_read_by_itself_is_not_read_again() -> None:
    """The session reads events while a write waits, and tells the window of them afterwards."""
    window = proved()
    connection = window._connection
    submissions = [in_one_piece() for _ in range(2)]
    for submission in submissions:
        assert window.begin_whole(submission, CONTENT) is not None
    connection.receive_data(USUAL * 3 + USUAL * 4)
    event = connection.next_event()
    assert window.receive_usual() is None  # nor are these the replies to the second
    assert event is not None
    assert window.receive(event) == []
    for submission in submissions:
        taken = window.receive_usual()
        assert taken is not None
        assert taken[0] is submission
        assert submission.outcomes[0].outcome is Outcome.ACCEPTED


def test_the_end_of_the_connection_names_every_command_and_forgets_it() -> None:
    window = proved(in_flight=4)
    connection = window._connection
    for _ in range(2):
        assert window.begin_whole(in_one_piece(), CONTENT) is not None
    owed = connection.pending
    connection.receive_data(b"")
    event = connection.next_event()
    assert isinstance(event, Disconnected)
    assert event.unanswered == owed
    assert connection.owed == 0
    assert connection.awaiting is None


def test_nothing_more_is_written_of_what_was_written_whole() -> None:
    window = proved(in_flight=4)
    submissions = [in_one_piece() for _ in range(2)]
    for submission in submissions:
        assert window.begin_whole(submission, CONTENT) is not None
    for submission in submissions:
        assert submission.transaction.next_flight(CONTENT) == b""
        assert not submission.transaction.wants_content
