"""Transaction: every combination of replies, and the end at every octet, against an oracle that is written naively.

The oracle knows the rules as sentences (`expected`, `expected_if_cut`) and shares no code with the module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle, islice, product
from typing import NamedTuple, Protocol

import pytest

from smtplite.errors import (
    ConnectionLost,
    DeliveryUnknown,
    LocalProtocolError,
    MessageRefused,
    RecipientsRefused,
    RemoteProtocolError,
    SenderRefused,
    ServiceUnavailable,
    SMTPError,
    SMTPTimeout,
)
from smtplite.protocol import (
    Connection,
    ContentRefused,
    Disconnected,
    Ehlo,
    EndOfData,
    Event,
    Lhlo,
    Mail,
    Outcome,
    Quit,
    Rcpt,
    Replied,
    Reply,
    Rset,
    ServiceClosing,
    Stage,
    StartTls,
    State,
    TlsReady,
    Transaction,
)
from tests.exhaustive import part

A, R, N, U = Outcome.ACCEPTED, Outcome.REFUSED, Outcome.NOT_SENT, Outcome.UNKNOWN

CONTENT = b"Subject: x\r\n\r\n.dot\nend"
CONTENT_ON_THE_WIRE = b"Subject: x\r\n\r\n..dot\r\nend\r\n.\r\n"
LONE_DOT = b".\r\n"


class Server:
    """Answers by a script, whether it makes sense or not; keeps what it reads; says nothing more after a 421."""

    def __init__(self, mail: int, rcpts: tuple[int, ...], data: int, ends: tuple[int, ...]) -> None:
        self.mail, self.data, self.ends = mail, data, ends
        self.rcpts = iter(rcpts)
        self.received = b""
        self.replies: list[tuple[str, int, bytes]] = []  # verb, code, octets
        self.is_closed = False
        self._unread = b""
        self._in_content = False

    def feed(self, octets: bytes) -> bytes:
        self.received += octets
        self._unread += octets
        before = len(self.replies)
        while not self.is_closed and self._step():
            pass
        return b"".join(reply for _, _, reply in self.replies[before:])

    def _step(self) -> bool:
        if self._in_content:
            end = 3 if self._unread.startswith(LONE_DOT) else self._unread.find(b"\r\n.\r\n") + 5
            if end == 4:  # not found
                return False
            self._unread = self._unread[end:]
            self._in_content = False
            for code in self.ends:
                self._say(".", code)
            return True
        line, found, rest = self._unread.partition(b"\r\n")
        if not found:
            return False
        self._unread = rest
        verb = line[:4].decode()
        if verb == "RCPT":
            self._say(verb, next(self.rcpts))
        else:
            self._say(verb, {"MAIL": self.mail, "DATA": self.data}.get(verb, 250))
        self._in_content = verb == "DATA" and self.data == 354 and not self.is_closed
        return True

    def _say(self, verb: str, code: int) -> None:
        if not self.is_closed:
            self.replies.append((verb, code, b"%d-%s\r\n%d x\r\n" % (code, verb.encode(), code)))
            self.is_closed = code == 421


class Case(NamedTuple):
    mail: int
    rcpts: tuple[int, ...]
    data: int
    ends: tuple[int, ...]
    lmtp: bool
    pipelining: bool
    require_all: bool


def accepted_by(case: Case) -> int:
    return sum(code < 300 for code in case.rcpts)


def server_for(case: Case) -> Server:
    ends = tuple(islice(cycle(case.ends), accepted_by(case))) if case.lmtp else case.ends[:1]
    if len(ends) > 1 and (500 <= ends[0] <= 509 or ends[0] == 530):
        ends = ends[:1]  # Dovecot: once for all
    return Server(case.mail, case.rcpts, case.data, ends)


def greeted(*, lmtp: bool = False, pipelining: bool = True) -> Connection:
    connection = Connection(lmtp=lmtp)
    connection.receive_data(b"220 mx\r\n")
    connection.next_event()
    connection.send(Lhlo("client.example") if lmtp else Ehlo("client.example"))
    connection.receive_data(
        b"250-mx\r\n250-ENHANCEDSTATUSCODES\r\n" + b"250-PIPELINING\r\n" * pipelining + b"250 SIZE\r\n"
    )
    connection.next_event()
    return connection


def recipients(count: int) -> list[Rcpt]:
    return [Rcpt(f"r{n}@x.example") for n in range(count)]


class Driver:
    """What stands in the docstring of the module, with a server behind it whose octets may be cut."""

    def __init__(self, connection: Connection, server: Server, *, limit: int | None = None) -> None:
        self.connection, self.server, self.limit = connection, server, limit
        self.flights: list[bytes] = []
        self._incoming = b""

    def write(self, octets: bytes) -> None:
        if octets:
            self.flights.append(octets)
            self._incoming += self.server.feed(octets)

    def run(
        self, transaction: Transaction, content: bytes, on_cut: Callable[[Transaction], None] | None = None
    ) -> None:
        while not transaction.is_done:
            self.write(transaction.next_flight())
            if transaction.wants_content:
                piece = transaction.send_content(content)
                self.write(piece + transaction.send_content(b"", last=True))
            event = self.connection.next_event()
            if event is not None:
                transaction.receive(event)
                continue
            octets, self._incoming = self._incoming, b""
            if self.limit is not None:
                octets = octets[: self.limit]
                self.limit -= len(octets)
            if octets:
                self.connection.receive_data(octets)
            elif on_cut is not None:
                on_cut(transaction)
            else:
                assert self.server.is_closed or self.limit is not None, "both sides wait"
                self.connection.receive_data(b"")

    @property
    def written(self) -> bytes:
        return b"".join(self.flights)


def begin(connection: Connection, case: Case) -> Transaction:
    return Transaction(
        connection,
        Mail("me@x.example"),
        recipients(len(case.rcpts)),
        require_all=case.require_all,
        pipelining=case.pipelining,
    )


def seen(transaction: Transaction) -> list[tuple[Outcome, int | None]]:
    return [(o.outcome, None if o.reply is None else o.reply.code) for o in transaction.outcomes]


class Expected(NamedTuple):
    outcomes: list[tuple[Outcome, int | None]]
    error: type[SMTPError] | None
    phase: str | None
    must_close: bool
    wrote: str  # the verbs, "content" and "dot"


def expected(case: Case) -> Expected:
    count = len(case.rcpts)
    waits = case.require_all and count > 1
    ahead = case.pipelining and not waits  # DATA goes in the same write
    wrote = "MAIL" + (" RCPT" * count if case.pipelining else "") + (" DATA" if ahead else "")
    nobody: list[tuple[Outcome, int | None]] = [(N, None)] * count

    # 421 is the end, and certainly not (rule 3; nothing is handed over yet).
    if case.mail == 421:
        return Expected(nobody, ServiceUnavailable, "mail", True, wrote)
    if case.mail >= 400:
        everybody: list[tuple[Outcome, int | None]] = [(R, case.mail)] * count
        closes = False
        if case.pipelining:
            read = case.rcpts[: case.rcpts.index(421)] if 421 in case.rcpts else case.rcpts
            closes = 421 in case.rcpts or any(code < 300 for code in read)
            closes = closes or (ahead and case.data in (354, 421))
        return Expected(everybody, SenderRefused, "mail", closes, wrote)

    if not case.pipelining:
        wrote += " RCPT" * (case.rcpts.index(421) + 1 if 421 in case.rcpts else count)
    by_rcpt: list[tuple[Outcome, int | None]] = []
    for code in case.rcpts:
        if code == 421:
            by_rcpt += [(N, None)] * (count - len(by_rcpt))
            return Expected(by_rcpt, ServiceUnavailable, "rcpt", True, wrote)
        by_rcpt.append((N, None) if code < 300 else (R, code))
    accepted = accepted_by(case)
    if accepted == 0 or (waits and accepted < count):
        closes = False
        if ahead:
            closes = case.data == 421 or (case.data == 354 and case.lmtp)
            if case.data == 354 and not case.lmtp:  # R4: the lone dot
                wrote += " dot"
                closes = case.ends[0] == 421
        return Expected(by_rcpt, RecipientsRefused, "rcpt", closes, wrote)

    wrote += "" if ahead else " DATA"
    if case.data == 421:
        return Expected(by_rcpt, ServiceUnavailable, "data", True, wrote)
    if case.data >= 400:
        outcomes = [(R, case.data) if outcome is N else (outcome, code) for outcome, code in by_rcpt]
        return Expected(outcomes, MessageRefused, "data", False, wrote)

    wrote += " content"
    ends: Iterator[int] = iter(server_for(case).ends)
    verdicts: list[tuple[Outcome, int | None]] = []
    closes = False
    if not case.lmtp:
        code = next(ends)
        verdicts = [(A if code < 300 else R, code)] * accepted
        closes = code == 421
    elif len(server_for(case).ends) < accepted:  # one for all
        verdicts = [(R, next(ends))] * accepted
        closes = True
    else:
        for code in ends:
            verdicts.append((N, None) if closes else (A if code < 300 else R, code))
            closes = closes or code == 421
    by_verdict = iter(verdicts)
    outcomes = [next(by_verdict) if outcome is N else (outcome, code) for outcome, code in by_rcpt]
    delivered = any(outcome is A for outcome, _ in outcomes)
    return Expected(
        outcomes, None if delivered else MessageRefused, None if delivered else "end of data", closes, wrote
    )


def octets_of(wrote: str) -> bytes:
    names = iter(range(99))
    words: dict[str, Callable[[], bytes]] = {
        "MAIL": lambda: b"MAIL FROM:<me@x.example>\r\n",
        "RCPT": lambda: b"RCPT TO:<r%d@x.example>\r\n" % next(names),
        "RSET": lambda: b"RSET\r\n",
        "DATA": lambda: b"DATA\r\n",
        "content": lambda: CONTENT_ON_THE_WIRE,
        "dot": lambda: LONE_DOT,
    }
    return b"".join(words[word]() for word in wrote.split())


RCPTS = [codes for count in (1, 2, 3) for codes in product((250, 450, 550, 421), repeat=count)] + [(251, 252, 259)]
SMTP_ENDS = [(250,), (450,), (554,), (421,)]
LMTP_ENDS = [(250,), (250, 452), (452, 250), (554,), (250, 421), (421,), (503,), (530, 250)]


def cases(lmtp: bool, pipelining: bool, require_all: bool) -> Iterator[Case]:
    for mail, rcpts, data in product((250, 451, 550, 421), RCPTS, (354, 451, 554, 421)):
        verdicts = LMTP_ENDS if lmtp else SMTP_ENDS
        for ends in verdicts if mail == 250 and data == 354 else verdicts[:1]:
            yield Case(mail, rcpts, data, ends, lmtp, pipelining, require_all)


@pytest.mark.parametrize("require_all", [False, True])
@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize("lmtp", [False, True])
def test_every_combination_of_replies(lmtp: bool, pipelining: bool, require_all: bool) -> None:
    """R1, R4: one outcome for each recipient, the error, what was written, and the next message on the connection."""
    for case in part([*cases(lmtp, pipelining, require_all)], keep=60):
        connection, server, want = greeted(lmtp=lmtp), server_for(case), expected(case)
        driver, transaction = Driver(connection, server), begin(connection, case)
        driver.run(transaction, CONTENT)
        assert seen(transaction) == want.outcomes, case
        assert (None if transaction.error is None else type(transaction.error)) is want.error, case
        assert (None if transaction.error is None else transaction.error.phase) == want.phase, case
        assert driver.written == octets_of(want.wrote), case
        assert transaction.has_left(0) is ("content" in want.wrote), case
        assert transaction.reply is not None, case
        if transaction.error is not None:
            assert transaction.error.reply is transaction.reply, case
        # R1, I5: after any non-success the connection is closed or proven in sync.
        assert transaction.must_close is want.must_close, case
        assert_done_for_good(transaction)
        if not transaction.must_close:
            assert connection.pending == (), case
            assert not connection.has_unread, case
            behind_an_end = "content" in want.wrote or "dot" in want.wrote
            next_message(connection, reset=case.mail < 300 and not behind_an_end, case=case)


def next_message(connection: Connection, *, reset: bool, case: Case) -> None:
    """Hold that the next transaction succeeds, with RSET in front where one was left open, and never else (R9)."""
    ends = (250, 250) if case.lmtp else (250,)
    driver = Driver(connection, Server(250, (250, 250), 354, ends))
    transaction = begin(connection, Case(250, (250, 250), 354, ends, case.lmtp, case.pipelining, False))
    driver.run(transaction, CONTENT)
    assert seen(transaction) == [(A, 250), (A, 250)], case
    assert transaction.error is None
    assert not transaction.must_close
    assert driver.written == octets_of("RSET " * reset + "MAIL RCPT RCPT DATA content"), case
    assert connection.state is State.READY


def assert_done_for_good(transaction: Transaction) -> None:
    """Hold that nothing that comes after the outcome changes it (R2)."""
    before = (transaction.outcomes, transaction.error, transaction.reply, transaction.must_close)
    transaction.fail(SMTPTimeout("too late"))
    transaction.refuse_content()
    mail = transaction._envelope.mail
    for event in (
        Replied(mail, Reply(550)),
        Replied(EndOfData(), Reply(250)),
        ContentRefused(Reply(552)),
        ServiceClosing(Reply(421)),
        Disconnected((mail,)),
    ):
        transaction.receive(event)
    assert not transaction.wants_content
    transaction.fail(SMTPTimeout("too late"), unsent=1)
    assert (transaction.outcomes, transaction.error, transaction.reply, transaction.must_close) == before


def test_pipelined_a_message_takes_two_writes_and_in_lockstep_one_for_each_command() -> None:
    """Section 4: 2 round trips whatever the number of recipients."""
    case = Case(250, (250,) * 3, 354, (250,), False, True, False)
    driver = Driver(connection := greeted(), server_for(case))
    driver.run(begin(connection, case), CONTENT)
    assert len(driver.flights) == 2
    assert driver.flights[0] == octets_of("MAIL RCPT RCPT RCPT DATA")
    # ... one more where one refusal must keep the message from all (MailKit #1459),
    driver = Driver(connection := greeted(), server_for(case))
    driver.run(begin(connection, case._replace(require_all=True)), CONTENT)
    assert driver.flights == [octets_of("MAIL RCPT RCPT RCPT"), b"DATA\r\n", CONTENT_ON_THE_WIRE]
    # ... which with a single recipient goes without saying.
    one = Case(250, (250,), 354, (250,), False, True, True)
    driver = Driver(connection := greeted(), server_for(one))
    driver.run(begin(connection, one), CONTENT)
    assert len(driver.flights) == 2


@pytest.mark.parametrize(("offered", "wanted"), [(False, True), (True, False), (False, False)])
def test_without_pipelining_each_command_waits_for_the_reply_before(offered: bool, wanted: bool) -> None:
    case = Case(250, (250, 250), 354, (250,), False, wanted, False)
    driver = Driver(connection := greeted(pipelining=offered), server_for(case))
    driver.run(begin(connection, case), CONTENT)
    assert len(driver.flights) == 5
    assert driver.written == octets_of("MAIL RCPT RCPT DATA content")


def test_an_empty_flight_says_that_replies_must_be_read_first() -> None:
    transaction = begin(greeted(), Case(250, (250,), 354, (250,), False, True, False))
    assert transaction.next_flight()
    assert transaction.next_flight() == b""
    transaction = begin(greeted(), Case(250, (250,), 354, (250,), False, False, False))
    assert transaction.next_flight() == octets_of("MAIL")
    assert transaction.next_flight() == b""


# Errors and what they carry


def finish(case: Case) -> Transaction:
    driver = Driver(connection := greeted(lmtp=case.lmtp), server_for(case))
    transaction = begin(connection, case)
    driver.run(transaction, CONTENT)
    return transaction


def test_the_error_of_a_refused_sender() -> None:
    error = finish(Case(550, (550,), 503, (250,), False, True, False)).error
    assert isinstance(error, SenderRefused)
    assert (error.sender, error.command) == ("me@x.example", "MAIL FROM:<me@x.example>")
    assert str(error) == "server refused the sender: 550 MAIL / x"
    assert not error.retryable


def test_the_error_of_refused_recipients_is_the_first_refusal() -> None:
    error = finish(Case(250, (550, 450), 503, (250,), False, True, False)).error
    assert isinstance(error, RecipientsRefused)
    assert error.command == "RCPT TO:<r0@x.example>"
    assert str(error) == "server refused 2 of 2 recipients: 550 RCPT / x"
    error = finish(Case(250, (250, 450, 250), 354, (250,), False, True, True)).error
    assert isinstance(error, RecipientsRefused)
    assert error.command == "RCPT TO:<r1@x.example>"
    assert str(error) == "server refused 1 of 3 recipients: 450 RCPT / x"
    error = finish(Case(250, (550,), 354, (250,), False, True, False)).error
    assert str(error) == "server refused the recipient: 550 RCPT / x"


def test_the_error_of_a_refused_message() -> None:
    error = finish(Case(250, (250,), 451, (250,), False, True, False)).error
    assert isinstance(error, MessageRefused)
    assert (error.command, error.retryable) == ("DATA", True)
    assert str(error) == "server refused DATA: 451 DATA / x"
    error = finish(Case(250, (250,), 354, (554,), False, True, False)).error
    assert isinstance(error, MessageRefused)
    assert (error.command, error.retryable) == (".", False)
    assert str(error) == "server refused the message: 554 . / x"


@pytest.mark.parametrize(
    ("case", "command"),
    [
        (Case(421, (250,), 354, (250,), False, True, False), "MAIL FROM:<me@x.example>"),
        (Case(250, (421,), 354, (250,), False, True, False), "RCPT TO:<r0@x.example>"),
        (Case(250, (250,), 421, (250,), False, True, False), "DATA"),
    ],
)
def test_421_is_service_unavailable_before_the_content(case: Case, command: str) -> None:
    error = finish(case).error
    assert isinstance(error, ServiceUnavailable)
    assert error.command == command
    assert error.retryable
    assert error.reply is not None
    assert error.reply.code == 421


def test_421_as_the_verdict_is_message_refused() -> None:
    transaction = finish(Case(250, (250,), 354, (421,), False, True, False))
    assert isinstance(transaction.error, MessageRefused)
    assert transaction.error.retryable
    assert transaction.must_close


def test_421_to_rset_in_front_is_service_unavailable_and_nothing_was_sent() -> None:
    connection = greeted()
    connection.send(Mail("a@b"))
    connection.receive_data(b"250 ok\r\n")
    connection.next_event()
    transaction = begin(connection, Case(250, (250,), 354, (250,), False, True, False))
    assert transaction.next_flight().startswith(b"RSET\r\nMAIL")
    connection.receive_data(b"421 bye\r\n")
    transaction.receive(connection.next_event() or pytest.fail("no event"))
    assert isinstance(transaction.error, ServiceUnavailable)
    assert transaction.error.phase == "rset"
    assert seen(transaction) == [(N, None)]


@pytest.mark.parametrize("before", [State.MAIL, State.RCPT, State.CHUNK, State.FAILED, State.READY])
def test_rset_stands_in_front_where_a_transaction_was_left_open(before: State, reach: Reach) -> None:
    """R9, R23."""
    connection = reach(before)
    transaction = begin(connection, Case(250, (250,), 354, (250,), False, True, False))
    flight = transaction.next_flight()
    assert flight == octets_of("RSET " * (before is not State.READY) + "MAIL RCPT DATA")
    connection.receive_data(b"250 ok\r\n" * connection.owed)
    if before is not State.READY:
        event = connection.next_event()
        assert isinstance(event, Replied)
        assert isinstance(event.command, Rset)
        transaction.receive(event)
        assert not transaction.is_done


class Reach(Protocol):
    def __call__(self, state: State, *, lmtp: bool = ..., keywords: tuple[str, ...] = ...) -> Connection: ...


@pytest.mark.parametrize("code", [250, 251, 354, 220, 999])
def test_a_reply_out_of_its_class_fails_the_transaction(code: int) -> None:
    """R4: 250 to DATA."""
    connection = greeted()
    transaction = begin(connection, Case(250, (250,), 354, (250,), False, True, False))
    transaction.next_flight()
    connection.receive_data(b"250 ok\r\n%d ok\r\n%d ok\r\n" % (250 if code < 300 else 354, code))
    transaction.receive(connection.next_event() or pytest.fail("no event"))
    error = fails(connection, transaction)
    transaction.fail(error)
    assert transaction.error is error
    assert seen(transaction) == [(N, None)]
    assert transaction.must_close


def give(connection: Connection, transaction: Transaction) -> None:
    while (event := connection.next_event()) is not None:
        transaction.receive(event)


def fails(connection: Connection, transaction: Transaction) -> RemoteProtocolError:
    with pytest.raises(RemoteProtocolError) as caught:
        give(connection, transaction)
    return caught.value


# The end at every octet


def expected_if_cut(case: Case, replies: list[tuple[str, int]], error: type[SMTPError], taken_back: bool) -> Expected:
    """Judge by the four rules of section 4; `replies` are those that were read completely."""
    count = len(case.rcpts)
    mail = next((code for verb, code in replies if verb == "MAIL"), None)
    rcpts = [code for verb, code in replies if verb == "RCPT"]
    verdicts = [code for verb, code in replies if verb == "."]
    refused: list[tuple[Outcome, int | None]] = [(R, code) if code >= 400 else (N, None) for code in rcpts]
    refused += [(N, None)] * (count - len(rcpts))
    handed_over = ("DATA", 354) in replies and any(code < 300 for code in rcpts) and not taken_back
    if mail is not None and mail >= 400:
        return Expected([(R, mail)] * count, SenderRefused, None, True, "")
    if len(rcpts) == count and min(rcpts) >= 400:
        return Expected(refused, RecipientsRefused, None, True, "")
    if not handed_over:
        return Expected(refused, error, None, True, "")
    by_verdict: Iterator[int] = iter(verdicts)
    rest = N if replies[-1][1] == 421 else U
    outcomes: list[tuple[Outcome, int | None]] = []
    for outcome, code in refused:
        if outcome is N:
            verdict = next(by_verdict, None)
            outcomes.append((rest, None) if verdict is None else (A if verdict < 300 else R, verdict))
        else:
            outcomes.append((outcome, code))
    kinds = {outcome for outcome, _ in outcomes}
    if A in kinds:
        return Expected(outcomes, None, None, True, "")
    return Expected(outcomes, DeliveryUnknown if U in kinds else MessageRefused, None, True, "")


CUT: dict[str, Case] = {
    "taken": Case(250, (250, 250), 354, (250,), False, True, False),
    "one recipient refused": Case(250, (250, 550), 354, (250,), False, True, False),
    "all recipients refused": Case(250, (550, 450), 354, (250,), False, True, False),
    "sender refused": Case(550, (503, 503), 503, (250,), False, True, False),
    "require_all": Case(250, (250, 550), 354, (250,), False, True, True),
    "DATA refused": Case(250, (250, 550), 451, (250,), False, True, False),
    "message refused": Case(250, (250,), 354, (554,), False, True, False),
    "LMTP": Case(250, (250, 550, 250), 354, (250,), True, True, False),
    "LMTP, second verdict bad": Case(250, (250, 250), 354, (250, 452), True, True, False),
    "LMTP, first verdict bad": Case(250, (250, 250), 354, (452, 250), True, True, False),
    "LMTP, first verdict 421": Case(250, (250, 250), 354, (421,), True, True, False),
    "LMTP, all verdicts bad": Case(250, (250, 250), 354, (554,), True, True, False),
    "LMTP, one 503 for all": Case(250, (250, 250), 354, (503,), True, True, False),
}


@pytest.mark.exhaustive(keep=20)
@pytest.mark.parametrize("how", ["eof", "timeout", "timeout, taken back", "protocol error"])
@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize("name", CUT)
def test_the_end_at_every_octet_is_judged_by_the_four_rules(name: str, pipelining: bool, how: str) -> None:
    """R1, R2: what was read stays read, and what was not handed over was certainly not sent."""
    case = CUT[name]._replace(pipelining=pipelining)
    full = server_for(case)
    Driver(connection := greeted(lmtp=case.lmtp), full).run(begin(connection, case), CONTENT)
    lengths = [len(octets) for _, _, octets in full.replies]
    whole = sum(lengths)
    for limit in range(whole + 1):
        complete = next(n for n in range(len(lengths), -1, -1) if sum(lengths[:n]) <= limit)
        read = [(verb, code) for verb, code, _ in full.replies[:complete]]
        error: SMTPError = RemoteProtocolError("broke") if how == "protocol error" else SMTPTimeout("no reply")

        # What a server has given a verdict on was not taken back.
        take_back = how == "timeout, taken back" and "." not in dict(read)

        def cut(transaction: Transaction, error: SMTPError = error, take_back: bool = take_back) -> None:
            transaction.fail(error, unsent=1 if take_back and transaction.has_left(0) else 0)

        driver = Driver(connection := greeted(lmtp=case.lmtp), server_for(case), limit=limit)
        transaction = begin(connection, case)
        driver.run(transaction, CONTENT, None if how == "eof" else cut)
        kind = ConnectionLost if how == "eof" else type(error)
        if limit == whole and not (how != "eof" and case.ends == (421,)):
            want = expected(case)
        else:
            want = expected_if_cut(case, read, kind, take_back)
        assert seen(transaction) == want.outcomes, (limit, read)
        assert (None if transaction.error is None else type(transaction.error)) is want.error, (limit, read)
        assert transaction.must_close is want.must_close, (limit, read)
        if isinstance(transaction.error, DeliveryUnknown):
            assert transaction.error.delivered is False  # its sets are the caller's to fill in
            assert type(transaction.error.__cause__) is kind
            assert transaction.error.phase == "end of data"
        elif how != "eof" and want.error is kind:
            assert transaction.error is error
            assert error.phase == phase_behind(read, case)
        elif want.error is ConnectionLost:
            assert transaction.error is not None
            assert transaction.error.phase == phase_behind(read, case)
        assert_done_for_good(transaction)


def phase_behind(read: list[tuple[str, int]], case: Case) -> str:
    if not read:
        return "mail"
    rcpts = sum(verb == "RCPT" for verb, _ in read)
    if rcpts < len(case.rcpts):
        return "rcpt"
    return "data" if "DATA" not in dict(read) else "end of data"


def up_to_354(case: Case | None = None) -> tuple[Connection, Transaction]:
    case = case or Case(250, (250, 250, 550), 354, (250,), False, True, False)
    connection = greeted(lmtp=case.lmtp)
    transaction = begin(connection, case)
    transaction.next_flight()
    connection.receive_data(b"250 ok\r\n" + b"".join(b"%d x\r\n" % code for code in case.rcpts) + b"354 go\r\n")
    while (event := connection.next_event()) is not None:
        transaction.receive(event)
    assert transaction.wants_content
    assert transaction.phase == "content"
    return connection, transaction


def test_an_error_while_the_content_is_sent_names_that_phase() -> None:
    """It said "mail" once."""
    _, transaction = up_to_354()
    error = SMTPTimeout("the server does not read what is written")
    transaction.fail(error)
    assert error.phase == "content"
    assert transaction.error is error
    assert seen(transaction) == [(N, None), (N, None), (R, 550)]
    assert not transaction.wants_content


def test_the_end_while_the_content_is_sent_is_certain() -> None:
    connection, transaction = up_to_354()
    transaction.send_content(b"x")
    connection.receive_data(b"")
    transaction.receive(connection.next_event() or pytest.fail("no event"))
    assert isinstance(transaction.error, ConnectionLost)
    assert transaction.error.phase == "content"
    assert seen(transaction) == [(N, None), (N, None), (R, 550)]


def test_an_error_keeps_the_phase_that_it_came_with() -> None:
    _, transaction = up_to_354()
    transaction.fail(SMTPTimeout("no", phase="connect"))
    assert transaction.error is not None
    assert transaction.error.phase == "connect"


@pytest.mark.parametrize("code", [450, 552, 571])
def test_a_refusal_while_the_content_is_sent_is_a_real_one(code: int) -> None:
    """R3: it is the error, not the disconnect behind it."""
    connection, transaction = up_to_354()
    transaction.send_content(b"x")
    connection.receive_data(b"%d 5.3.4 too big\r\n" % code)
    connection.receive_data(b"")
    transaction.receive(connection.next_event() or pytest.fail("no event"))
    assert transaction.is_done
    assert seen(transaction) == [(R, code), (R, code), (R, 550)]
    assert isinstance(transaction.error, MessageRefused)
    assert (transaction.error.phase, transaction.error.command) == ("content", "DATA")
    assert transaction.reply is transaction.error.reply
    assert transaction.must_close
    assert not transaction.has_left(0)
    assert_done_for_good(transaction)


def test_421_while_the_content_is_sent_is_service_unavailable() -> None:
    """Section 3: in every phase but STARTTLS and the end of data."""
    connection, transaction = up_to_354()
    transaction.send_content(b"x")
    connection.receive_data(b"421 4.3.2 going down\r\n")
    transaction.receive(connection.next_event() or pytest.fail("no event"))
    assert seen(transaction) == [(N, None), (N, None), (R, 550)]
    assert isinstance(transaction.error, ServiceUnavailable)
    assert transaction.error.phase == "content"
    assert transaction.error.retryable
    assert transaction.must_close


@pytest.mark.parametrize("data", [b"250 ok\r\n", b"2", b"250 2.0.0 queued\r\n250 ok\r\n"])
def test_success_before_the_end_of_data_is_no_delivery(data: bytes) -> None:
    """R3: all three peers report a false delivery here."""
    connection, transaction = up_to_354()
    transaction.send_content(b"x")
    connection.receive_data(data)
    with pytest.raises(LocalProtocolError):
        transaction.send_content(b"", last=True)  # refused, and nothing changed: what is held must be read first
    assert transaction.wants_content
    assert not transaction.has_left(0)
    connection.receive_data(b"50 ok\r\n")
    error = fails(connection, transaction)
    transaction.fail(error)
    assert transaction.error is error
    assert seen(transaction) == [(N, None), (N, None), (R, 550)]
    assert transaction.must_close


def test_421_out_of_turn_between_commands_in_lockstep() -> None:
    connection = greeted()
    transaction = begin(connection, Case(250, (250, 250), 354, (250,), False, False, False))
    transaction.next_flight()
    connection.receive_data(b"250 ok\r\n421 4.4.2 idle\r\n")
    transaction.receive(connection.next_event() or pytest.fail("no event"))
    with pytest.raises(LocalProtocolError):
        transaction.next_flight()  # R8: read what is there first
    transaction.receive(connection.next_event() or pytest.fail("no event"))
    assert isinstance(transaction.error, ServiceUnavailable)
    assert transaction.error.command is None
    assert transaction.error.phase == "mail"
    assert transaction.reply is transaction.error.reply
    assert transaction.reply is not None
    assert seen(transaction) == [(N, None), (N, None)]
    assert transaction.next_flight() == b""


def test_a_refused_flight_changes_nothing() -> None:
    connection = greeted()
    transaction = begin(connection, Case(250, (250,), 354, (250,), False, False, False))
    connection.receive_data(b"4")
    with pytest.raises(LocalProtocolError):
        transaction.next_flight()
    connection._parser.discard()  # as if it had not been there
    assert transaction.next_flight() == octets_of("MAIL")


def test_the_source_of_the_content_fails() -> None:
    """Section 4: close without a dot."""
    _, transaction = up_to_354()
    transaction.send_content(b"x")
    transaction.refuse_content()
    assert transaction.is_done
    assert transaction.must_close
    assert transaction.error is None  # the source's own is raised
    assert seen(transaction) == [(N, None), (N, None), (R, 550)]
    assert not transaction.has_left(0)
    assert transaction.next_flight() == b""
    assert_done_for_good(transaction)


# Taken back


def test_what_was_taken_back_was_certainly_not_sent() -> None:
    _, transaction = up_to_354()
    transaction.send_content(b"", last=True)
    assert transaction.has_left(0)
    transaction.fail(ConnectionLost("reset"), unsent=1)
    assert not transaction.has_left(0)
    assert transaction.must_close
    assert isinstance(transaction.error, ConnectionLost)
    assert seen(transaction) == [(N, None), (N, None), (R, 550)]


@pytest.mark.parametrize(("code", "outcome"), [(552, R), (450, R)])
def test_a_refusal_that_was_sent_before_the_write_failed_is_read(code: int, outcome: Outcome) -> None:
    """R24: 552, and then RST."""
    connection, transaction = up_to_354()
    transaction.send_content(b"", last=True)
    connection.receive_data(b"%d 5.3.4 too big\r\n" % code)
    transaction.receive(connection.next_event() or pytest.fail("no event"), unsent=1)
    assert seen(transaction) == [(outcome, code), (outcome, code), (R, 550)]
    assert isinstance(transaction.error, MessageRefused)
    assert transaction.must_close


def test_success_for_what_was_taken_back_is_no_delivery() -> None:
    """R3: it answers something else."""
    connection, transaction = up_to_354()
    transaction.send_content(b"", last=True)
    connection.receive_data(b"250 queued\r\n")
    transaction.receive(connection.next_event() or pytest.fail("no event"), unsent=1)
    assert seen(transaction) == [(N, None), (N, None), (R, 550)]
    assert isinstance(transaction.error, RemoteProtocolError)
    assert transaction.must_close


# Sent again (R11)


def resent(*replies: bytes, error: SMTPError | None = None) -> bool:
    connection = greeted()
    transaction = begin(connection, Case(250, (250,), 354, (250,), False, True, False))
    transaction.next_flight()
    for octets in [*replies, *([b""] if error is None else [])]:  # b"" is the end
        connection.receive_data(octets)
    while not transaction.is_done and (event := connection.next_event()) is not None:
        transaction.receive(event)
    if error is not None:
        transaction.fail(error)
    assert transaction.is_done
    return transaction.died_idle


@pytest.mark.parametrize(
    ("replies", "error", "answer"),
    [
        ([], None, True),
        ([b"250 o"], None, True),
        ([b"421 4.4.2 idle\r\n"], None, True),
        ([b"451 4.4.2 idle\r\n", b"503 x\r\n", b"503 x\r\n"], None, True),
        ([b"451 4.4.2 idle\r\n"], None, True),
        ([], ConnectionLost("reset"), True),
        ([b"451 4.3.0 idle\r\n"], None, False),
        ([b"451 idle\r\n"], None, False),
        ([b"450 4.4.2 idle\r\n"], None, False),
        ([b"550 5.1.8 no\r\n"], None, False),
        ([b"250 ok\r\n"], None, False),
        ([b"250 ok\r\n", b"421 bye\r\n"], None, False),
        ([b"250 ok\r\n", b"550 no\r\n"], None, False),
        ([], SMTPTimeout("no reply"), False),
        ([], RemoteProtocolError("broke"), False),
    ],
)
def test_a_message_is_sent_again_only_where_mail_was_not_judged(
    replies: list[bytes], error: SMTPError | None, answer: bool
) -> None:
    """R11 (a): MAIL unanswered, or answered 421 or 451 4.4.2."""
    assert resent(*replies, error=error) is answer


def test_a_421_that_waited_on_an_idle_connection_has_judged_nothing() -> None:
    """R11 (a)."""
    connection = greeted()
    transaction = begin(connection, Case(250, (250,), 354, (250,), False, True, False))
    connection.receive_data(b"421 4.4.2 idle\r\n")
    transaction.receive(connection.next_event() or pytest.fail("no event"))
    assert seen(transaction) == [(N, None)]
    assert transaction.died_idle


def test_what_was_handed_over_or_has_no_error_is_not_sent_again() -> None:
    """R1."""
    connection, transaction = up_to_354()
    assert not transaction.died_idle
    transaction.send_content(b"", last=True)
    connection.receive_data(b"")
    transaction.receive(connection.next_event() or pytest.fail("no event"))
    assert isinstance(transaction.error, DeliveryUnknown)
    assert not transaction.died_idle
    _, transaction = up_to_354()
    transaction.refuse_content()
    assert not transaction.died_idle


# LMTP


def test_in_lmtp_fewer_verdicts_than_owed_leave_the_rest_unknown() -> None:
    """RFC 2033 4.2."""
    connection, transaction = up_to_354(Case(250, (250, 550, 250, 250), 354, (250,), True, True, False))
    transaction.send_content(CONTENT)
    transaction.send_content(b"", last=True)
    connection.receive_data(b"452 4.2.2 full\r\n")
    transaction.receive(connection.next_event() or pytest.fail("no event"))
    assert not transaction.is_done
    connection.receive_data(b"250 o")
    connection.receive_data(b"")
    transaction.receive(connection.next_event() or pytest.fail("no event"))
    assert seen(transaction) == [(R, 452), (R, 550), (U, None), (U, None)]
    assert isinstance(transaction.error, DeliveryUnknown)


def test_in_lmtp_a_421_with_nothing_behind_it_is_certain_for_the_rest_and_no_unknown() -> None:
    """Rule 3; 421 at the end of data is MessageRefused."""
    connection, transaction = up_to_354(Case(250, (250, 250), 354, (250,), True, True, False))
    transaction.send_content(b"", last=True)
    connection.receive_data(b"421 4.3.2 going down\r\n")
    connection.receive_data(b"")
    while not transaction.is_done:
        transaction.receive(connection.next_event() or pytest.fail("no event"))
    assert seen(transaction) == [(R, 421), (N, None)]
    assert isinstance(transaction.error, MessageRefused)
    assert transaction.error.retryable
    assert transaction.reply is transaction.error.reply


def test_in_lmtp_counting_goes_on_behind_a_421() -> None:
    connection, transaction = up_to_354(Case(250, (250, 250), 354, (250,), True, True, False))
    transaction.send_content(b"", last=True)
    connection.receive_data(b"421 4.3.2 going down\r\n250 ok\r\n")
    while not transaction.is_done:
        transaction.receive(connection.next_event() or pytest.fail("no event"))
    assert seen(transaction) == [(R, 421), (A, 250)]
    assert transaction.error is None
    assert transaction.must_close


# The next message behind the dot


def test_the_next_message_goes_in_the_write_of_the_dot_without_rset() -> None:
    """Section 4, R23: not needed behind content and dot of a DATA answered 354."""
    connection, first = up_to_354()
    first.send_content(b"x\r\n")
    assert first.send_content(b"", last=True) == b".\r\n"
    second = begin(connection, Case(250, (250,), 354, (250,), False, True, False))
    assert second.next_flight() == octets_of("MAIL RCPT DATA")
    connection.receive_data(b"250 queued\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    deal(connection, first, second)
    assert first.is_done
    assert first.error is None
    assert second.wants_content
    second.send_content(b"y")
    assert second.send_content(b"", last=True) == b"\r\n.\r\n"
    connection.receive_data(b"554 no\r\n")
    deal(connection, second)
    assert isinstance(second.error, MessageRefused)
    assert connection.send(Quit())


def deal(connection: Connection, *transactions: Transaction) -> None:
    """Give each event to the transaction whose command it answers; an event without one to all."""
    while (event := connection.next_event()) is not None:
        for transaction in transactions:
            command = getattr(event, "command", None)
            envelope = transaction._envelope
            own = [envelope.mail, *envelope.rcpts, envelope.data, transaction._end]
            if command is None or any(command is one for one in own):
                transaction.receive(event)


def test_a_421_to_the_dot_is_certain_for_the_messages_behind_it_too() -> None:
    """Rule 3, RFC 5321 3.8."""
    connection, first = up_to_354()
    first.send_content(b"", last=True)
    second = begin(connection, Case(250, (250,), 354, (250,), False, True, False))
    second.next_flight()
    connection.receive_data(b"421 4.3.2 going down\r\n")
    connection.receive_data(b"")
    deal(connection, first, second)
    assert seen(first) == [(R, 421), (R, 421), (R, 550)]
    assert isinstance(first.error, MessageRefused)
    assert seen(second) == [(N, None)]
    assert isinstance(second.error, ConnectionLost)
    assert second.error.retryable
    assert second.died_idle


def test_in_lmtp_nothing_goes_behind_the_dot() -> None:
    connection, first = up_to_354(Case(250, (250, 250), 354, (250,), True, True, False))
    first.send_content(b"", last=True)
    second = begin(connection, Case(250, (250,), 354, (250,), True, True, False))
    with pytest.raises(LocalProtocolError):
        second.next_flight()
    connection.receive_data(b"250 ok\r\n250 ok\r\n")
    deal(connection, first)
    assert first.error is None
    assert second.next_flight() == octets_of("MAIL RCPT DATA")


# The article

ARTICLE_EHLO = (
    b"250-mwinf2344.orange.fr\r\n250-PIPELINING\r\n250-SIZE 10485760\r\n"
    b"250-AUTH PLAIN LOGIN\r\n250-AUTH=PLAIN LOGIN\r\n250 8BITMIME\r\n"
)
ARTICLE_MESSAGE = (
    b"From: benja.roux@wanadoo.fr\r\nTo: skyrunner63@hotmail.com\r\nSubject: Test\r\n\r\n"
    b"Bonjour,\r\n.\r\nTest pour SMTP.\r\n"
)


@pytest.mark.parametrize("pipelining", [False, True])
def test_the_article_s_recorded_session(pipelining: bool) -> None:
    """Its telnet session byte for byte; pipelined, since its server offers that, the same octets in fewer writes."""
    connection = Connection()
    connection.receive_data(b"220 mwinf2344.orange.fr ESMTP ABO *****\r\n")
    connection.next_event()
    client = [connection.send(Ehlo("skyrunner.home"))]
    connection.receive_data(ARTICLE_EHLO)
    connection.next_event()
    assert connection.extensions.auth == ("PLAIN", "LOGIN")
    transaction = Transaction(
        connection, Mail("benja.roux@wanadoo.fr"), [Rcpt("skyrunner63@hotmail.com")], pipelining=pipelining
    )
    server = [
        b"250 Ok\r\n",
        b"250 Ok\r\n",
        b"354 End data with <CR><LF>.<CR><LF>\r\n",
        b"250 Ok: queued as 86A867000081\r\n",
    ]
    for line in server:
        client.append(transaction.next_flight())
        if transaction.wants_content:
            client.append(transaction.send_content(ARTICLE_MESSAGE) + transaction.send_content(b"", last=True))
        connection.receive_data(line)
        transaction.receive(connection.next_event() or pytest.fail("no event"))
    assert transaction.is_done
    assert seen(transaction) == [(A, 250)]
    assert str(transaction.reply) == "250 Ok: queued as 86A867000081"
    client.append(connection.send(Quit()))
    connection.receive_data(b"221 Bye\r\n")
    event: Event | None = connection.next_event()
    assert isinstance(event, Replied)
    assert str(event.reply) == "221 Bye"
    assert b"".join(client) == (
        b"EHLO skyrunner.home\r\n"
        b"MAIL FROM:<benja.roux@wanadoo.fr>\r\n"
        b"RCPT TO:<skyrunner63@hotmail.com>\r\n"
        b"DATA\r\n" + ARTICLE_MESSAGE.replace(b"\r\n.\r\n", b"\r\n..\r\n") + b".\r\n"
        b"QUIT\r\n"
    )
    assert len([flight for flight in client if flight]) == (4 if pipelining else 6)


def test_outcomes_are_there_only_once_it_is_done() -> None:
    transaction = begin(greeted(), Case(250, (250,), 354, (250,), False, True, False))
    assert not transaction.is_done
    with pytest.raises(LocalProtocolError, match="not decided yet"):
        _ = transaction.outcomes
    assert transaction.phase == "mail"
    assert not transaction.wants_content


def test_in_lmtp_of_several_refusals_one_that_allows_a_retry_is_the_error() -> None:
    connection, transaction = up_to_354(Case(250, (250, 250), 354, (250,), True, True, False))
    transaction.send_content(b"", last=True)
    connection.receive_data(b"452 4.2.2 full\r\n550 5.1.1 gone\r\n")
    while not transaction.is_done:
        transaction.receive(connection.next_event() or pytest.fail("no event"))
    assert seen(transaction) == [(R, 452), (R, 550)]
    assert isinstance(transaction.error, MessageRefused)
    assert transaction.error.retryable


def test_content_that_was_handed_over_cannot_be_refused() -> None:
    """R1: nothing turns what may have been delivered into what certainly was not."""
    connection, transaction = up_to_354()
    transaction.send_content(b"", last=True)
    with pytest.raises(LocalProtocolError, match="handed over"):
        transaction.refuse_content()
    assert not transaction.is_done
    connection.receive_data(b"250 taken\r\n")
    deal(connection, transaction)
    assert seen(transaction) == [(A, 250), (A, 250), (R, 550)]


def test_a_reply_to_somebody_elses_rcpt_is_refused() -> None:
    """R1: a reply that belongs to another message decides nothing here."""
    connection = greeted()
    transaction = begin(connection, Case(250, (250, 550), 354, (250,), False, True, False))
    transaction.next_flight()
    mine = [command for command in connection.pending if isinstance(command, Rcpt)]
    for other in (Rcpt("other@x.example"), mine[1]):
        with pytest.raises(LocalProtocolError, match="another one is awaited"):
            transaction.receive(Replied(other, Reply(250)))
    for rcpt in mine:
        transaction.receive(Replied(rcpt, Reply(250)))
    with pytest.raises(LocalProtocolError, match="another one is awaited"):
        transaction.receive(Replied(mine[1], Reply(250)))


def test_an_event_that_answers_no_command_of_a_transaction_is_refused() -> None:
    transaction = begin(greeted(), Case(250, (250,), 354, (250,), False, True, False))
    with pytest.raises(LocalProtocolError, match="TlsReady"):
        transaction.receive(TlsReady(StartTls(), Reply(220)))
    assert not transaction.is_done


def test_a_flight_that_is_refused_changes_nothing() -> None:
    """A group is checked as a whole before any of it is sent: then it can be sent where it is legal."""
    connection = greeted()
    transaction = begin(connection, Case(250, (250, 250), 354, (250,), False, True, False))
    connection.send(Quit())
    before = (connection.pending, connection.octets_sent, connection.state)
    with pytest.raises(LocalProtocolError, match="before the reply to QUIT"):
        transaction.next_flight()
    assert (connection.pending, connection.octets_sent, connection.state) == before
    assert transaction.phase == "quit"
    assert transaction.stage is Stage.ENVELOPE
