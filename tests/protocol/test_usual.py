"""What is usual goes at once: octets, outcomes, states and deadlines are those of each command and reply by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import pytest

from smtplite.errors import LocalProtocolError, RemoteProtocolError, SMTPError, SMTPTimeout
from smtplite.protocol import (
    Bdat,
    BdatLast,
    BdatProbe,
    Command,
    Connection,
    Data,
    EndOfData,
    Mail,
    Noop,
    Outcome,
    Quit,
    Rcpt,
    Rset,
    ServerTraits,
    State,
    Submission,
    Transaction,
    Transfer,
    Window,
)
from smtplite.protocol.envelope import EnvelopeCommands
from smtplite.protocol.state import RULES
from smtplite.protocol.transaction import Stage
from smtplite.protocol.usual import USUAL

from .conftest import KEYWORDS, Reach
from .test_window import greeted, message

MADE: dict[type[Command], Callable[[], Command]] = {
    Rset: Rset,
    Mail: lambda: Mail("a@b.example"),
    Rcpt: lambda: Rcpt("c@d.example"),
    Data: Data,
    EndOfData: EndOfData,
    Bdat: lambda: Bdat(3),
    BdatLast: lambda: BdatLast(3),
    BdatProbe: BdatProbe,
    Noop: Noop,
    Quit: Quit,
}


def looked_at(connection: Connection) -> tuple[object, ...]:
    """Return all that a connection says of itself, but whose octets are unread."""
    return (
        connection.state,
        connection.assumed_state,
        tuple(map(type, connection.pending)),
        connection.octets_sent,
        connection.last_reply,
        connection.has_unread,
        connection.wants_content,
    )


# Writing


def written(connection: Connection, kinds: Sequence[type[Command]], *, at_once: bool) -> tuple[object, ...]:
    """Send a group; return what it wrote or why it did not, and the connection."""
    connection._at_once = at_once
    said: object
    try:
        said = connection.send_group([MADE[kind]() for kind in kinds])
    except LocalProtocolError as error:
        said = str(error)
    return said, looked_at(connection)


@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize("keywords", [KEYWORDS, ("CHUNKING",), ("PIPELINING",)], ids=["all", "lockstep", "no BDAT"])
@pytest.mark.parametrize("state", State)
def test_a_group_is_legal_where_each_of_its_commands_is(
    reach: Reach, state: State, keywords: tuple[str, ...], lmtp: bool
) -> None:
    """Of every two or three commands, and of longer ones that begin as a transaction does."""
    groups = [*product(MADE, repeat=2), *product((Rset, Mail, Rcpt, Data, BdatLast, Bdat), repeat=3)]
    groups += [(Rset, Mail, Rcpt, Rcpt, last) for last in MADE]
    if lmtp and state is State.VERDICT:
        pytest.skip("in LMTP nothing goes behind it")
    try:
        reach(state, lmtp=lmtp, keywords=keywords)
    except (LocalProtocolError, AssertionError):
        pytest.skip("not reached with these keywords")
    for kinds in groups:
        one, other = (reach(state, lmtp=lmtp, keywords=keywords) for _ in range(2))
        assert written(one, kinds, at_once=True) == written(other, kinds, at_once=False), kinds


@pytest.mark.parametrize("behind", [(), (Mail,), (Mail, Rcpt), (Mail, Rcpt, Data), (Mail, Rcpt, Bdat)])
def test_a_group_behind_what_is_owed_is_legal_where_each_of_its_commands_is(
    reach: Reach, behind: tuple[type[Command], ...]
) -> None:
    for kinds in product((Rset, Mail, Rcpt, Data, BdatLast), repeat=2):
        results = []
        for at_once in (True, False):
            connection = reach(State.READY)
            if behind:
                connection.send_group([MADE[kind]() for kind in behind])
            results.append(written(connection, kinds, at_once=at_once))
        assert results[0] == results[1], kinds


def test_a_group_of_more_commands_than_are_remembered_is_sent_as_well(reach: Reach) -> None:
    many = (Rset, Mail, *[Rcpt] * 100, Data)
    assert written(reach(State.READY), many, at_once=True) == written(reach(State.READY), many, at_once=False)
    assert reach(State.READY).send_group([]) == b""


def test_nothing_is_written_at_once_where_octets_wait_that_nobody_asked_for(reach: Reach) -> None:
    """R8."""
    for kinds in [(Rset, Mail), (Mail, Rcpt)]:
        results = []
        for at_once in (True, False):
            connection = reach(State.READY)
            connection.receive_data(b"4")
            results.append(written(connection, kinds, at_once=at_once))
        assert results[0] == results[1]
        assert "bytes that nobody asked for" in str(results[0][0])


def whole(connection: Connection, kinds: Sequence[type[Command]], content: bytes = b"abc") -> bytes | None:
    before = looked_at(connection)
    octets = connection.send_whole([MADE[kind]() for kind in kinds], content)
    if octets is None:
        assert looked_at(connection) == before
    return octets


def test_a_whole_message_is_what_its_commands_and_its_chunk_are(reach: Reach) -> None:
    """RFC 2920 3.1, RFC 3030 4.2."""
    for kinds in [(Rset, Mail, Rcpt, BdatLast), (Mail, Rcpt, Rcpt, BdatLast)]:
        connection, other = reach(State.READY), reach(State.READY)
        octets = whole(connection, kinds)
        by_step = b"".join(other.send(MADE[kind]()) for kind in kinds) + other.send_content(b"abc")
        assert octets == by_step
        assert looked_at(connection) == looked_at(other)
        assert whole(connection, (Rset, Mail, Rcpt, BdatLast)) is not None  # and the next one behind it
        assert whole(connection, (Mail, Rcpt, BdatLast)) is None  # not without RSET (R23)


def test_a_message_is_not_written_as_a_whole_where_its_commands_could_not_be(reach: Reach) -> None:
    kinds = (Mail, Rcpt, BdatLast)
    assert whole(reach(State.READY, keywords=("PIPELINING",)), kinds) is None
    assert whole(reach(State.READY, keywords=("CHUNKING",)), kinds) is None
    assert whole(reach(State.READY, lmtp=True), kinds) is None
    assert whole(reach(State.MAIL), kinds) is None
    assert whole(reach(State.CLOSING), kinds) is None
    assert whole(reach(State.READY), kinds, b"abcd") is None
    assert whole(reach(State.READY), (Mail, Rcpt, Data)) is None
    assert whole(reach(State.READY), (Mail, BdatLast, Rset)) is None
    assert whole(reach(State.READY), (Mail, Rcpt, Noop)) is None
    unread = reach(State.READY)
    unread.receive_data(b"4")
    assert whole(unread, kinds) is None
    unfinished = reach(State.RCPT)
    unfinished.send(Bdat(3))
    assert whole(unfinished, (Rset, *kinds)) is None
    behind_data = reach(State.RCPT)
    behind_data.send(Data())
    assert whole(behind_data, (Rset, *kinds)) is None
    closing = reach(State.READY)
    closing.send_group([Mail("a@b.example"), Rcpt("c@d.example"), Rcpt("e@d.example")])
    closing.receive_data(b"421 closing\r\n")
    closing.next_event()
    assert whole(closing, (Rset, *kinds)) is None
    off = reach(State.READY)
    off._at_once = False
    assert whole(off, kinds) is None


# Reading


def test_replies_are_taken_at_once_only_if_each_is_there_and_the_usual_one(reach: Reach) -> None:
    group = (Mail, Rcpt, Data)
    usual = [b"250 a\r\n", b"250 b\r\n", b"354 c\r\n"]
    for index, (name, reply) in product(range(3), UNUSUAL.items()):
        if (index < 2 and name in ("code alone", "long")) or (index == 2 and name == "354 or 250"):
            continue  # these are the usual one
        connection = reach(State.READY)
        connection.send_group([MADE[kind]() for kind in group])
        octets = b"".join([*usual[:index], reply, *usual[index + 1 :]])
        connection.receive_data(octets)
        before = looked_at(connection)
        assert connection.take_usual(3) is None
        assert looked_at(connection) == before
        assert connection._parser.unread == octets
    connection = reach(State.READY)
    commands = [MADE[kind]() for kind in group]
    connection.send_group(commands)
    connection.receive_data(b"".join(usual) + b"4")
    assert connection.take_usual(4) is None
    taken = connection.take_usual(3)
    assert taken is not None
    assert taken[0] == commands
    assert [reply.code for reply in taken[1]] == [250, 250, 354]
    assert connection.state is State.DATA
    assert connection.has_unread
    assert connection.send_content(b".\n") == b"..\r\n"


def test_only_what_a_transaction_consists_of_has_usual_replies(reach: Reach) -> None:
    connection = reach(State.READY)
    connection.send(Noop())
    connection.receive_data(b"250 a\r\n")
    assert connection.take_usual(1) is None
    assert set(USUAL) == {Rset, Mail, Rcpt, Data, EndOfData, BdatLast}


def test_a_reply_to_a_chunk_that_is_not_written_whole_is_never_taken_for_usual(reach: Reach) -> None:
    """R3."""
    connection = reach(State.RCPT)
    connection.send(BdatLast(3))
    connection.send_content(b"ab")
    connection.receive_data(b"250 a\r\n")
    assert connection.take_usual(1) is None
    with pytest.raises(RemoteProtocolError, match="before the chunk was sent"):
        connection.next_event()
    assert connection.may_have_event


def test_a_line_longer_than_is_allowed_is_never_taken_for_usual(reach: Reach) -> None:
    """R6."""
    connection = reach(State.READY)
    connection.send(Rset())
    connection.receive_data(b"250 %b\r\n" % (b"x" * 5000))
    assert connection.take_usual(1) is None


#: What may stand in the place of a usual reply.
UNUSUAL = {
    "4yz": b"450 4.2.0 not now\r\n",
    "452 too many": b"452 4.5.3 too many\r\n",
    "5yz": b"550 5.1.1 no\r\n",
    "503": b"503 5.5.1 out of sequence\r\n",
    "530": b"530 5.7.0 first\r\n",
    "421": b"421 4.3.2 closing\r\n",
    "251": b"251 2.1.5 forwards\r\n",
    "252": b"252 2.1.5 tries\r\n",
    "in two lines": b"250-2.0.0 one\r\n250 2.0.0 two\r\n",
    "mixed codes": b"250-2.0.0 one\r\n251 2.0.0 two\r\n",
    "354 or 250": b"",  # the other one
    "another class": b"334 go on\r\n",
    "garbage": b"\x00garbage\r\n",
    "no CR": b"250 2.0.0 ok\n",
    "code alone": b"250\r\n",
    "long": b"250 2.0.0 %b\r\n" % (b"x" * 100),
    "empty line": b"\r\n",
    "surplus": b"250 2.0.0 ok\r\n250 2.0.0 surplus\r\n",
    "nothing": b"",
}
UNUSUAL["354 or 250"] = b"354 2.0.0 go on\r\n"


class Dialogue:
    """A window that is driven to its end, with a server whose reply number `index` is another.

    Args:
        at_once: whether what is usual is taken at once.
        whole: whether messages may be written whole.
        chunking: with BDAT, proved; else with DATA.
        in_flight: of the window.
        messages: how many there are.
        index: of the reply that is `reply`, counted from the first one to these messages; None: none is.
        reply: instead of the usual one.
        cut: so many octets of all replies come by themselves, then the rest; -1: octet by octet; None: as they are.
        end: what comes behind `reply`: "EOF", "silence", or "": the other replies.
    """

    def __init__(
        self,
        *,
        at_once: bool,
        whole: bool = False,
        chunking: bool,
        in_flight: int,
        messages: int,
        index: int | None = None,
        reply: bytes = b"",
        cut: int | None = None,
        end: str = "",
        recipients: int = 1,
    ) -> None:
        self.connection = greeted()
        self.connection._at_once = at_once
        self.traits = ServerTraits()
        self.window: Window[Submission] = Window(
            self.connection, chunking=chunking, in_flight=in_flight, traits=self.traits
        )
        self.window.is_proved = chunking
        self.waiting = [in_one_piece(recipients) if whole else message(recipients) for _ in range(messages)]
        self.all = tuple(self.waiting)
        self.index, self.reply, self.cut, self.end = index, reply, cut, end
        self.said = 0  # replies
        self.heard = 0  # octets
        self.wholes = 0
        #: What happened, step by step.
        self.record: list[object] = []
        self.ended = False

    def write(self) -> bytes:
        flight = b""
        newest = self.window.newest
        if newest is not None:
            flight += self.compose(newest)
        while self.waiting and self.window.may_begin:
            submission = self.waiting[0]
            octets = self.window.begin_whole(submission, b"x" * (submission.size or 0))
            if octets is None:
                if not self.window.fits(submission):
                    break
                self.window.begin(submission)
                octets = self.compose(submission)
            else:
                self.wholes += 1
            flight += octets
            del self.waiting[0]
        return flight

    @staticmethod
    def compose(submission: Submission) -> bytes:
        content = b"x" * (submission.size or 0)
        whole = submission.whole
        if whole is not None:
            return submission.send_content(whole, content) if whole.wants_content else b""
        transaction = submission.transaction
        if transaction.stage is Stage.HANDED_OVER:
            return b""
        flight = transaction.next_flight(content)
        if transaction.wants_content:
            flight += transaction.send_content(content, last=True)
        return flight

    def replies_to(self, commands: Sequence[Command]) -> bytes:
        replies = []
        for command in commands:
            code = 354 if type(command) is Data else 250
            reply = b"%d 2.0.0 reply %d\r\n" % (code, self.said)
            if self.said == self.index:
                reply = self.reply
                if reply == UNUSUAL["354 or 250"] and code == 354:
                    reply = b"250 2.0.0 ok\r\n"
            elif self.end and self.index is not None and self.said > self.index:
                reply = b""
            replies.append(reply)
            self.said += 1
        return b"".join(replies)

    def pieces(self, octets: bytes) -> Iterator[bytes]:
        if self.cut == -1:
            yield from (octets[at : at + 1] for at in range(len(octets)))
            return
        at = 0 if self.cut is None else self.cut - self.heard
        if 0 < at < len(octets):
            yield octets[:at]
            octets = octets[at:]
        if octets:
            yield octets

    def note(self, done: Sequence[Submission]) -> None:
        self.record += [(self.all.index(each), each.outcomes, repr(each.error), shown(each)) for each in done]

    def take_in(self, octets: bytes) -> None:
        """Take what came as a session does; note what is done, and what is awaited now."""
        connection, window = self.connection, self.window
        connection.receive_data(octets)
        try:
            while True:
                while (taken := window.receive_usual()) is not None:
                    self.note([] if taken[0] is None else [taken[0]])
                event = connection.next_event()
                if event is None:
                    break
                self.note(window.receive(event))
        except RemoteProtocolError as error:
            self.fail(error)
        self.record.append(self.looks())

    def looks(self) -> tuple[object, ...]:
        window = self.window
        return (
            looked_at(self.connection),
            type(self.connection.awaiting),  # whose deadline holds
            len(window),
            window.may_begin,
            window._allowed,
            window._unacknowledged,
            window._is_in_trouble,
            window._was_refused,
            window.must_close,
            window.reason,
            repr(self.traits),
            None if window.oldest is None else self.stands(window.oldest),
        )

    def stands(self, oldest: Submission) -> tuple[str, Stage]:
        whole = oldest.whole
        if whole is None:
            return oldest.transaction.phase, oldest.transaction.stage
        if whole.wants_content:
            return "content", Stage.CONTENT
        awaiting = self.connection.awaiting
        assert awaiting is not None
        assert type(awaiting) is self.connection.oldest_kind
        return RULES[type(awaiting)].phase, Stage.ENVELOPE if whole.content_end is None else Stage.HANDED_OVER

    def fail(self, error: SMTPError) -> None:
        self.ended = True
        self.note(self.window.fail(error))

    def run(self) -> Dialogue:
        while not self.ended and not self.window.must_close:
            before = self.connection.owed
            flight = self.write()
            self.record.append(flight)
            new = self.connection.pending[before:]
            octets = self.replies_to(new)
            for piece in self.pieces(octets):
                self.take_in(piece)
                if self.ended:
                    break
            self.heard += len(octets)
            if self.ended:
                break
            if not octets or (self.end and self.index is not None and self.said > self.index):
                if self.end == "EOF":
                    self.take_in(b"")
                if len(self.window):
                    self.fail(SMTPTimeout("time was up", phase="command"))
                break
            if not self.waiting and not len(self.window):
                break
        if len(self.window):
            self.fail(SMTPTimeout("time was up", phase="command"))
        self.record += [(repr(each.error), each.outcomes, each.transactions) for each in self.all]
        return self


def shown(submission: Submission) -> tuple[object, ...]:
    transaction: Transaction = submission.transaction
    error = transaction.error
    return (
        transaction.stage,
        transaction.reply,
        transaction.must_close,
        transaction.refuses_chunks,
        transaction.transfer,
        transaction.was_cut,
        transaction.died_idle,
        transaction.deferred,
        transaction.met_message_limit,
        transaction.is_behind_dot,
        (error.phase, getattr(error, "command", None), repr(error.__cause__)) if error is not None else None,
    )


def in_one_piece(recipients: int = 1) -> Submission:
    """Return what `message` does, as the messages are that most programs send."""
    made = message(recipients)
    mail, rcpts = made.commands
    made.fit_envelope(
        EnvelopeCommands(mail.reverse_path, mail.parameters, [rcpt.forward_path for rcpt in rcpts]), made.size or 0
    )
    return made


def compare(**options: Any) -> Dialogue:
    off = Dialogue(at_once=False, **options).run()
    assert off.window.at_once == 0
    ways = [Dialogue(at_once=True, whole=whole, **options).run() for whole in (False, True)]
    for one in ways:
        assert one.record == off.record, options
    assert ways[0].wholes == off.wholes == 0
    if options["chunking"]:
        assert ways[1].wholes or not ways[1].window.begun, options
    return ways[1]


def replies_of(chunking: bool, in_flight: int, messages: int, **options: int) -> tuple[int, list[int]]:
    """Return how many replies there are, if all is as usual, and where each begins."""
    usual = compare(chunking=chunking, in_flight=in_flight, messages=messages, **options)
    assert usual.window.at_once == messages
    # Behind a dot nothing goes whole before the verdict on the first that stood there; with one in flight none does.
    assert usual.wholes == (messages if chunking else max(0, messages - 3) if in_flight > 1 else 0)
    assert all(each.outcomes[0].outcome is Outcome.ACCEPTED for each in usual.all)
    starts, at = [], 0
    for number in range(usual.said):
        starts.append(at)
        at += len(b"250 2.0.0 reply %d\r\n" % number)
    return usual.said, [*starts, at]


@pytest.mark.parametrize("chunking", [False, True], ids=["DATA", "BDAT"])
@pytest.mark.exhaustive(keep=1)
def test_nothing_unusual_changes_in_a_full_window(chunking: bool) -> None:
    count, starts = replies_of(chunking, 32, 40)
    for index in range(0, count, 19):
        for name in ("4yz", "5yz", "421", "251", "in two lines", "garbage", "nothing"):
            for end in ("", "EOF"):
                compare(chunking=chunking, in_flight=32, messages=40, index=index, reply=UNUSUAL[name], end=end)
    for cut in range(0, starts[-1], 97):
        assert compare(chunking=chunking, in_flight=32, messages=40, cut=cut).window.at_once >= 39


def test_what_is_not_usual_in_itself_is_never_taken_at_once() -> None:
    """The proof, chunks with acknowledgements, a lone dot, and who was refused: each reply is looked at."""
    connection = greeted()
    window: Window[Submission] = Window(connection, chunking=True)
    first = message()
    window.begin(first).next_flight(b"xxxxx")
    assert first.transaction.transfer is Transfer.PROOF
    connection.receive_data(b"250 a\r\n" * 5)
    assert window.receive_usual() is None
    lone_dot = Transaction(greeted(), Mail("a@b.example"), [Rcpt("c@d.example")])
    assert lone_dot.receive_usual() is None  # nothing is owed
    connection = lone_dot._connection
    lone_dot.next_flight()
    connection.receive_data(b"250 a\r\n550 b\r\n354 c\r\n")
    while (event := connection.next_event()) is not None:
        lone_dot.receive(event)
    assert lone_dot.next_flight() == b".\r\n"
    connection.receive_data(b"250 taken\r\n")
    assert lone_dot.receive_usual() is None
    assert Window(greeted()).receive_usual() is None


def test_a_message_that_waits_for_all_its_recipients_is_not_written_as_a_whole() -> None:
    client_window: Window[Submission] = Window(greeted(), chunking=True)
    client_window.is_proved = True
    transaction = client_window.begin(message(2, require_all=True))
    assert b"BDAT" not in transaction.next_flight(b"xxxxx")
    assert not transaction.wants_content
    transaction._connection.receive_data(b"250 a\r\n250 b\r\n250 c\r\n")
    assert transaction.receive_usual() is None
