"""Each reply of a conversation is another one, in whatever way the messages go: it ends as if each was read by itself.

What is compared is all that can be told from outside: octets, outcomes, whose reply is waited for, and whether and how
the connection is used again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, Final
from unittest import mock

import attrs
import pytest

from smtplite.errors import ConnectionLost, SMTPTimeout
from smtplite.protocol import (
    BdatLast,
    Command,
    Connection,
    Data,
    Ehlo,
    EndOfData,
    Lhlo,
    Mail,
    Outcome,
    Rcpt,
    Submission,
    Transfer,
    Window,
)
from tests.exhaustive import WHOLE, part

from .conftest import ehlo_reply
from .test_usual import Dialogue, in_one_piece
from .test_window import message

#: What is written and read in pieces where messages are larger than this, for the time of these tests.
_ONE_CHUNK_BYTES: Final = 64


@attrs.frozen(kw_only=True)
class Way:
    """How messages go.

    Attributes:
        chunking: with BDAT, else with DATA.
        in_flight: messages under way at the same time.
        count: how many there are, before the one that shows whether the connection is used again.
        recipients: of each.
        size: of the content of each.
        lmtp: LMTP, with a verdict for each recipient.
        is_proved: whether the server has shown before that it swallows chunks.
        reads_behind_dot: whether the server has shown before that it goes on behind an end of data.
        has_rested: whether the connection was idle for long before the first.
        require_all: whether each waits for all its recipients.
        pipelining: whether the client wants it.
        keywords: what the server offers beside the usual extensions.
        without: which of these it does not offer.
    """

    chunking: bool = False
    in_flight: int = 2
    count: int = 3
    recipients: int = 1
    size: int = 5
    lmtp: bool = False
    is_proved: bool = True
    reads_behind_dot: bool | None = None
    has_rested: bool = False
    require_all: bool = False
    pipelining: bool = True
    keywords: tuple[str, ...] = ()
    without: str = ""


def _of_each_window() -> dict[str, Way]:
    return {
        f"{'BDAT' if chunking else 'DATA'}, {in_flight} in flight": Way(
            chunking=chunking, in_flight=in_flight, count=3 if chunking else 2
        )
        for chunking in (False, True)
        for in_flight in (1, 2, 32)
    }


WAYS: Final[dict[str, Way]] = {
    **_of_each_window(),
    "DATA, two recipients": Way(recipients=2, count=2),
    "DATA, whole": Way(reads_behind_dot=True),
    "DATA, whole, two recipients": Way(reads_behind_dot=True, recipients=2),
    "DATA, whole behind one that proves it": Way(count=4),
    "DATA, whole, no enhanced codes": Way(reads_behind_dot=True, without="ENHANCEDSTATUSCODES"),
    "DATA, whole, MAILMAX": Way(reads_behind_dot=True, keywords=("LIMITS MAILMAX=2",)),
    "DATA, whole, chunks refused before": Way(chunking=True, without="CHUNKING", reads_behind_dot=True),
    "BDAT, two recipients": Way(chunking=True, recipients=2, count=2),
    "LMTP": Way(lmtp=True, recipients=2, count=2),
    "LMTP, BDAT": Way(lmtp=True, chunking=True, recipients=2, count=2),
    "the proof": Way(chunking=True, is_proved=False, in_flight=32, count=2),
    "BDAT, idle before": Way(chunking=True, has_rested=True, in_flight=32, count=2),
    "DATA, all or nobody": Way(require_all=True, recipients=2, count=2),
    "BDAT, all or nobody": Way(chunking=True, require_all=True, recipients=2, count=2),
    "BDAT, two chunks": Way(chunking=True, size=2 * _ONE_CHUNK_BYTES, count=2),
    "BDAT, several chunks": Way(chunking=True, size=3 * _ONE_CHUNK_BYTES, count=2),
    "DATA, RCPTMAX": Way(recipients=2, count=2, keywords=("LIMITS RCPTMAX=1",)),
    "BDAT, RCPTMAX": Way(chunking=True, recipients=2, count=2, keywords=("LIMITS RCPTMAX=1",)),
    "BDAT, MAILMAX": Way(chunking=True, in_flight=32, keywords=("LIMITS MAILMAX=2",)),
    "no enhanced codes": Way(without="ENHANCEDSTATUSCODES", count=2),
    "no PIPELINING": Way(without="PIPELINING", count=2),
    "one command at a time": Way(pipelining=False, count=2),
}
#: Reads end at each octet around the reply that is another one; elsewhere at some.
_SPLIT: Final = frozenset({*_of_each_window(), "DATA, whole"})
#: None of their messages is taken at once: the number of replies depends on the replies.
_ONE_BY_ONE: Final = frozenset({"LMTP", "LMTP, BDAT"})

#: What may come in the place of a reply; short, for reads end at each octet of it.
INSTEAD: Final[dict[str, bytes]] = {
    "4yz": b"450 a\r\n",
    "5yz": b"550 b\r\n",
    "421": b"421 c\r\n",
    "251": b"251 d\r\n",
    "252": b"252 e\r\n",
    "250": b"250 f\r\n",
    "354": b"354 g\r\n",
    "too many": b"452 4.5.3 h\r\n",
    "timed out": b"451 4.4.2 i\r\n",
    "out of sequence": b"503 j\r\n",
    "not known": b"500 k\r\n",
    "reserved": b"221 C\r\n",
    "in lines": b"250-l\r\n250 m\r\n",
    "refused in lines": b"550-n\r\n550 o\r\n",
    "354 in lines": b"354-p\r\n354 q\r\n",
    "mixed": b"250-r\r\n251 s\r\n",
    "another class": b"334 t\r\n",
    "code alone": b"250\r\n",
    "no CR": b"250 u\n",
    "CR alone": b"250 v\r",
    "garbage": b"\x00w\r\n",
    "TLS": b"\x15\x03\x01x\n",
    "empty": b"\r\n",
    "long": b"250 %b\r\n" % (b"x" * 50),
    "two": b"250 y\r\n250 z\r\n",
    "and a 421": b"250 A\r\n421 B\r\n",
    "nothing": b"",
}
#: Those that are read like another one.
_LIKE_ANOTHER: Final = frozenset(
    {
        "252",
        "too many",
        "timed out",
        "out of sequence",
        "not known",
        "reserved",
        "refused in lines",
        "another class",
        "TLS",
        "long",
    }
)
ENDS: Final = ("EOF", "reset", "silence", "cancellation")
#: Those behind which it ends in each of these ways.
_AND_ENDS: Final = frozenset({"250", "354", "5yz", "421", "251", "in lines", "CR alone", "nothing"})


def greeted(way: Way) -> Connection:
    connection = Connection(lmtp=way.lmtp)
    keywords = ["PIPELINING", "CHUNKING", "SIZE 1000000", "ENHANCEDSTATUSCODES", *way.keywords]
    connection.receive_data(b"220 mx\r\n")
    connection.next_event()
    connection.send(Lhlo("client.example") if way.lmtp else Ehlo("client.example"))
    connection.receive_data(ehlo_reply(*(keyword for keyword in keywords if keyword != way.without)))
    connection.next_event()
    return connection


class Conversation(Dialogue):
    """A dialogue in one of many ways; behind it comes one more message, if the connection allows.

    Args:
        way: how messages go.
        at_once: whether what is usual is written and taken at once.
        whole: whether messages may be written whole.
        index: of the reply that is another one.
        reply: instead of it.
        cut: as in `Dialogue`.
        end: how the connection ends behind that reply; "": it goes on.
    """

    def __init__(
        self,
        way: Way,
        *,
        at_once: bool,
        whole: bool = False,
        index: int | None = None,
        reply: bytes = b"",
        cut: int | None = None,
        end: str = "",
    ) -> None:
        super().__init__(
            at_once=at_once, chunking=way.chunking, in_flight=way.in_flight, messages=0, index=index, reply=reply
        )
        self.cut, self.end = cut, end
        self.way = way
        self.connection = greeted(way)
        self.connection._at_once = at_once
        self.traits.reads_behind_dot = way.reads_behind_dot
        self.window: Window[Submission] = Window(
            self.connection,
            pipelining=way.pipelining,
            chunking=way.chunking,
            in_flight=way.in_flight,
            traits=self.traits,
        )
        self.window.is_proved = way.chunking and way.is_proved
        may_be_whole = whole and not way.require_all and way.size <= _ONE_CHUNK_BYTES
        self.waiting = [
            in_one_piece(way.recipients)
            if may_be_whole
            else message(way.recipients, way.size, require_all=way.require_all)
            for _ in range(way.count)
        ]
        self.all = (*self.waiting, message())
        self.has_rested = way.has_rested
        self.given: Counter[Submission] = Counter()  # octets of their content
        self.accepted = 0  # LMTP: recipients of this transaction
        #: Where the replies begin, of each connection's octets.
        self.starts: list[int] = []
        self.length = 0

    def write(self) -> bytes:
        flight = b""
        newest = self.window.newest
        if newest is not None:
            flight += self.compose_in_pieces(newest)
        while self.waiting and self.window.may_begin:
            submission = self.waiting[0]
            content = b"x" * (submission.size or 0)
            octets = self.window.begin_whole(submission, content, has_rested=self.has_rested)
            if octets is None:
                if not self.window.fits(submission):
                    break
                self.window.begin(submission, has_rested=self.has_rested)
                self.has_rested = False
                octets = self.compose_in_pieces(submission)
            else:
                self.wholes += 1
            flight += octets
            del self.waiting[0]
        return flight

    def compose_in_pieces(self, submission: Submission) -> bytes:
        if submission.size is None or submission.size <= _ONE_CHUNK_BYTES:
            return self.compose(submission)
        transaction = submission.transaction
        flight = transaction.next_flight()
        while transaction.wants_content:
            size = _ONE_CHUNK_BYTES if transaction.transfer is not Transfer.DATA else submission.size
            self.given[submission] += size
            flight += transaction.send_content(b"x" * size, last=self.given[submission] >= submission.size)
        return flight

    def replies_to(self, commands: Sequence[Command]) -> bytes:
        replies = b""
        for command in commands:
            is_end = type(command) in (EndOfData, BdatLast)
            for _ in range(self.accepted if is_end and self.way.lmtp else 1):
                self.starts.append(self.length + len(replies))
                reply = b"%d 2.0.0 %d\r\n" % (354 if type(command) is Data else 250, self.said)
                if self.said == self.index:
                    reply = self.reply
                elif self.end and self.index is not None and self.said > self.index:
                    reply = b""
                self.said += 1
                replies += reply
            if type(command) is Mail:
                self.accepted = 0
            elif type(command) is Rcpt:
                self.accepted += reply.startswith(b"2")
        self.length += len(replies)
        return replies

    @property
    def is_over(self) -> bool:
        """True once nothing more comes."""
        return bool(self.end) and self.index is not None and self.said > self.index

    def run(self) -> Conversation:
        with mock.patch("smtplite.protocol.window.MAX_ONE_CHUNK_BYTES", _ONE_CHUNK_BYTES):
            while not self.ended and not self.window.must_close:
                owed = self.connection.owed
                flight = self.write()
                self.record.append(flight)
                octets = self.replies_to(self.connection.pending[owed:])
                for piece in self.pieces(octets):
                    if not self.ended:
                        self.take_in(piece)
                self.heard += len(octets)
                if self.is_over or not (flight or octets):
                    break
                if not self.waiting and not len(self.window):
                    if self.all[-1].transactions:
                        break
                    self.waiting.append(self.all[-1])
        self.finish()
        self.record += [(repr(each.error), each.outcomes, each.transactions, each.is_done) for each in self.all]
        return self

    def finish(self) -> None:
        """End what is not over; what is, may end as it likes."""
        if self.ended:
            return
        if self.is_over and self.end == "EOF":
            self.take_in(b"")
        elif self.is_over and self.end == "reset":
            self.fail(ConnectionLost("connection lost: reset", phase="command"))
        elif self.is_over and self.end == "cancellation":
            self.note(self.window.fail(ConnectionLost("send was cancelled"), is_our_own=True))
        elif len(self.window):
            self.fail(SMTPTimeout("time was up", phase="command"))
        self.record.append(self.looks())


def compare(way: Way, **options: Any) -> Conversation:
    other = Conversation(way, at_once=False, **options).run()
    assert other.window.at_once == 0
    one = Conversation(way, at_once=True, **options).run()
    assert one.record == other.record, (way, options)
    whole = Conversation(way, at_once=True, whole=True, **options).run()
    assert whole.record == other.record, (way, options, whole.wholes)
    return one


def undisturbed(name: str) -> Conversation:
    """Return a conversation of which nothing is unusual, so that it goes through what the others may spoil."""
    way = WAYS[name]
    conversation = compare(way)
    outcomes = {each.outcomes[0].outcome for each in conversation.all if each.transactions}
    assert outcomes == {Outcome.ACCEPTED}
    assert conversation.window.begun >= way.count or "MAILMAX" in name
    assert conversation.window.at_once == (0 if name in _ONE_BY_ONE else conversation.window.begun)
    if "whole" in name:
        assert Conversation(way, at_once=True, whole=True).run().wholes
    return conversation


def cases(conversation: Conversation, *, splits: bool) -> Iterator[dict[str, Any]]:
    """Each reply another one; behind it the conversation goes on, or ends; reads end around it."""
    for (index, start), (name, reply) in product(enumerate(conversation.starts), INSTEAD.items()):
        end = start + len(reply)
        cuts = range(start, end + 2) if splits and name not in _LIKE_ANOTHER else (start + 3, end - 1)
        yield from ({"index": index, "reply": reply, "cut": cut} for cut in (-1, *cuts))
        if name in _AND_ENDS:
            yield from ({"index": index, "reply": reply, "end": end} for end in ENDS)


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.exhaustive(keep=WHOLE)
def test_what_comes_of_it_is_the_same(name: str) -> None:
    """R1, R3, R7, R9: octets, outcomes, what is waited for, and whether the connection is used again."""
    conversation = undisturbed(name)
    for case in part(list(cases(conversation, splits=name in _SPLIT)), keep=12):
        compare(WAYS[name], **case)


@pytest.mark.parametrize("chunking", [False, True], ids=["DATA", "BDAT"])
def test_what_comes_of_one_message_is_the_same(chunking: bool) -> None:
    """R1, R3, R9: each reply each other one, in one piece, and octet by octet."""
    way = Way(chunking=chunking, count=1)
    replies = len(compare(way).starts)
    for index, reply, cut in product(range(replies // 2), INSTEAD.values(), (None, -1)):
        compare(way, index=index, reply=reply, cut=cut)


def test_what_comes_of_a_full_window_is_the_same() -> None:
    """R1, R3, R7, R9: each reply to 34 messages another one, of which the last two wait for room."""
    way = Way(chunking=True, in_flight=32, count=34)
    conversation = compare(way)
    assert conversation.window.at_once == 35
    assert Conversation(way, at_once=True, whole=True).run().wholes == 34
    instead = [
        ("5yz", ""),
        ("421", ""),
        ("251", ""),
        ("in lines", ""),
        ("garbage", ""),
        ("250", "EOF"),
        ("421", "reset"),
    ]
    for index, (name, end) in part(list(product(range(len(conversation.starts)), instead)), keep=12):
        compare(way, index=index, reply=INSTEAD[name], end=end)


@pytest.mark.parametrize("name", part(sorted(_SPLIT), keep=3))
def test_however_usual_replies_are_read_all_is_the_same(name: str) -> None:
    """Wherever a read ends, and read octet by octet."""
    conversation = undisturbed(name)
    for cut in part(range(-1, conversation.length + 1), keep=12):
        compare(WAYS[name], cut=cut)
