"""A fuzz of the core: ``python -m tests.fuzz --seconds 3600``. Ends by itself; exit status 1 if anything was found.

An input is a seed of a dialogue, the octets of its server, and how they are cut. It begins as a valid dialogue and is
changed at random; where ``sys.monitoring`` can tell (Python 3.12 and later), inputs that reach new lines of
`smtplite.protocol` are kept and changed further. What must hold for every input:

1. nothing but RemoteProtocolError comes out of the connection, and it always ends;
2. any other cut of what arrives between two writes gives the same events;
3. every message has exactly one outcome for each recipient, and "accepted" only where a 2yz answered an end of data
   that had been handed over, "unknown" only where it had been; neither where the stream took nothing;
4. no buffer holds more than its limit.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, Self

from smtplite.errors import RemoteProtocolError, SMTPTimeout
from smtplite.protocol import (
    Connection,
    Ehlo,
    Event,
    Lhlo,
    Mail,
    Outcome,
    Rcpt,
    Replied,
    State,
    Submission,
    Window,
)
from smtplite.protocol.reply import MAX_CHALLENGE_LINE_BYTES, MAX_REPLY_BYTES

MAX_CORPUS: Final = 4096
#: What a connection may hold of what it read: a reply's lines, and one line.
MAX_HELD_BYTES: Final = MAX_REPLY_BYTES + MAX_CHALLENGE_LINE_BYTES

#: As `unsent`: no octet of any dialogue here was taken.
NOTHING_TAKEN: Final = 10_000

TOKENS: Final = [
    *(b"%d " % code for code in (220, 221, 235, 250, 251, 252, 334, 354, 421, 450, 451, 452, 500, 502, 503, 521, 530)),
    *(b"%d " % code for code in (550, 552, 554, 571, 999, 199)),
    *(b"250-", b"550-", b"421-", b"\r\n", b"\n", b"\r", b"\0", b"\xff", b" ", b"-", b"4.5.3 ", b"2.0.0 ", b"5.5.1 "),
    *(b"PIPELINING\r\n", b"CHUNKING\r\n", b"250 ok\r\n", b"354 go\r\n", b"503 no\r\n", b"421 bye\r\n"),
    *(b"LIMITS RCPTMAX=1\r\n", b"LIMITS MAILMAX=2\r\n", b"SIZE 7\r\n", b"x" * 600, b"250-x\r\n" * 50),
]


class Case(NamedTuple):
    """One input."""

    lmtp: bool
    chunking: bool
    require_all: bool
    pipelining: bool
    messages: int
    recipients: int
    unsent: int  # octets of each write that the stream has not taken when the next reply is read
    ends: bool  # by the server's close; else by a timeout
    octets: bytes
    turns: int  # seeds after how many octets, each time, the client writes


def valid(rng: random.Random, *, lmtp: bool, chunking: bool, messages: int, recipients: int) -> bytes:
    """Return the octets of a server that takes everything."""
    keywords = [b"PIPELINING"] * (rng.random() < 0.9) + [b"CHUNKING"] * chunking + [b"ENHANCEDSTATUSCODES", b"SIZE 99"]
    said = [b"220 mx\r\n", b"".join(b"250-" + word + b"\r\n" for word in keywords) + b"250 HELP\r\n"]
    for n in range(messages):
        if chunking and n == 0:
            said += [b"250 2.1.0 a\r\n", b"503 5.5.1 x\r\n", b"250 2.0.0 r\r\n"]
        said += [b"250 2.0.0 r\r\n"] * (chunking and n > 1)
        said += [b"250 2.1.0 a\r\n"] + [b"250 2.1.5 b\r\n"] * recipients
        said += [] if chunking else [b"354 go\r\n"]
        said += [b"250 2.0.0 queued\r\n"] * (recipients if lmtp else 1)
    return b"".join(said)


def generated(rng: random.Random) -> Case:
    lmtp, chunking = rng.random() < 0.25, rng.random() < 0.5
    messages, recipients = rng.randint(1, 4), rng.choice((1, 1, 2, 3))
    octets = valid(rng, lmtp=lmtp, chunking=chunking, messages=messages, recipients=recipients)
    case = Case(
        lmtp,
        chunking,
        rng.random() < 0.2,
        rng.random() < 0.9,
        messages,
        recipients,
        rng.choice((0, 0, 0, 1, 10, 60, NOTHING_TAKEN)),
        rng.random() < 0.7,
        octets,
        rng.getrandbits(32),
    )
    return changed(rng, case)


def changed(rng: random.Random, case: Case) -> Case:
    octets = bytearray(case.octets)
    for _ in range(rng.choice((0, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(octets) + 1)
        kind = rng.randrange(7)
        if kind == 0:
            octets[at : at + rng.choice((1, 3, 20))] = b""
        elif kind == 1:
            octets[at:at] = rng.choice(TOKENS)
        elif kind == 2:
            token = rng.choice(TOKENS)
            octets[at : at + len(token)] = token
        elif kind == 3 and octets:
            octets[at % len(octets)] = rng.randrange(256)
        elif kind == 4:
            lines = bytes(octets).splitlines(keepends=True)
            if lines:
                one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
                lines[one], lines[other] = lines[other], lines[one]
            octets[:] = b"".join(lines)
        elif kind == 5:  # another code for a line
            starts = [0] + [n + 1 for n, octet in enumerate(octets[:-3]) if octet == 10]
            start = rng.choice(starts)
            octets[start : start + 4] = rng.choice(TOKENS[:23])
        else:
            del octets[at:]
    flags: dict[str, Any] = {"octets": bytes(octets[:20_000]), "turns": rng.getrandbits(32)}
    if rng.random() < 0.1:
        flags["require_all"] = not case.require_all
    if rng.random() < 0.1:
        flags["ends"] = not case.ends
    if rng.random() < 0.1:
        flags["unsent"] = rng.choice((0, 1, 30, NOTHING_TAKEN))
    return case._replace(**flags)


class Server:
    """Hands the case's octets out in turns: mostly as many replies as are owed, then the client writes again."""

    def __init__(self, case: Case) -> None:
        self._rng = random.Random(case.turns)
        self._lines = case.octets.splitlines(keepends=True)

    def next_turn(self, owed: int) -> bytes:
        rng = self._rng
        replies = max(1, owed) if rng.random() < 0.9 else rng.choice((1, 2, 50))
        turn: list[bytes] = []
        while self._lines and replies:
            turn.append(self._lines.pop(0))
            replies -= turn[-1][3:4] != b"-"
        octets = b"".join(turn)
        if rng.random() < 0.05 and len(octets) > 1:
            at = rng.randrange(1, len(octets))
            self._lines.insert(0, octets[at:])
            octets = octets[:at]
        return octets


def pieces(octets: bytes, rng: random.Random) -> Iterator[bytes]:
    at = 0
    while at < len(octets):
        size = rng.choice((1, 2, 5, 30, 200, 5000))
        yield octets[at : at + size]
        at += size


class Run:
    """Plays a case: a client that writes whenever it may, and reads the case's octets."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.connection = Connection(lmtp=case.lmtp)
        self.window: Window[Submission] = Window(
            self.connection, chunking=case.chunking, pipelining=case.pipelining, in_flight=3
        )
        self.messages = [Submission(case.recipients, require_all=case.require_all) for _ in range(case.messages)]
        for message in self.messages:
            message.fit(Mail("a@b.example"), [Rcpt(f"r{n}@c.example") for n in range(case.recipients)], 5)
        self.waiting = list(self.messages)
        self.events: list[str] = []
        self.positive_ends = 0
        self.handed_over: set[int] = set()
        self.said_hello = False

    def play(self, seed: int) -> None:
        error: Exception = SMTPTimeout("no reply")
        try:
            rng = random.Random(seed)
            server = Server(self.case)
            while turn := server.next_turn(self.connection.owed):
                for piece in pieces(turn, rng):
                    self.connection.receive_data(piece)
                    self.read()
                self.write()
            if self.case.ends:
                self.connection.receive_data(b"")
                self.read()
        except RemoteProtocolError as raised:
            self.events.append("broke")  # what it shows of the octets depends on how many were there
            error = raised
        self.window.fail(error, unsent=self.case.unsent)  # type: ignore[arg-type]

    def read(self) -> None:
        while (event := self.connection.next_event()) is not None:
            said = (getattr(event, "command", None), getattr(event, "reply", None), getattr(event, "partial", b""))
            self.events.append(f"{type(event).__name__} {said[0]} {said[1]!r} {said[2]!r}")
            self.take(event)
        held = len(self.connection._parser.unread) + self.connection._parser._reply_octets
        assert held <= MAX_HELD_BYTES + 5000, held

    def take(self, event: Event) -> None:
        if not self.said_hello:
            return
        if isinstance(event, Replied) and event.command.verb in (".", "BDAT", "") and event.reply.is_positive:
            self.positive_ends += 1
        for message in self.window.receive(event, unsent=self.case.unsent):
            if not message.is_done:
                self.waiting.insert(0, message)

    def write(self) -> None:
        connection = self.connection
        if connection.awaiting is None and connection.has_unread:
            return  # what comes unasked comes first
        if not self.said_hello:
            if connection.awaiting is None and connection.state is State.HELLO:
                connection.send(Lhlo("c.example") if self.case.lmtp else Ehlo("c.example"))
            elif connection.awaiting is None and connection.state is State.READY:
                self.said_hello = True
            else:
                return
        if (newest := self.window.newest) is not None:
            self.write_more(newest)
        while self.waiting and self.window.has_room_for(self.waiting[0]):
            message = self.waiting.pop(0)
            self.window.begin(message)
            self.write_more(message)

    def write_more(self, message: Submission) -> None:
        transaction = message.transaction
        transaction.next_flight()
        if transaction.wants_content:
            transaction.send_content(b"hello", last=True)
            self.handed_over.add(id(message))

    def check(self) -> None:
        accepted = 0
        for message in self.messages:
            outcomes = message.outcomes
            assert len(outcomes) == self.case.recipients
            kinds = {outcome.outcome for outcome in outcomes}
            accepted += Outcome.ACCEPTED in kinds
            for outcome in outcomes:
                if outcome.outcome is Outcome.ACCEPTED:
                    assert outcome.reply is not None
                    assert outcome.reply.is_positive
                if outcome.outcome is Outcome.REFUSED:
                    assert outcome.reply is not None
                    assert outcome.reply.is_negative
            if kinds & {Outcome.ACCEPTED, Outcome.UNKNOWN}:
                assert id(message) in self.handed_over
                assert self.case.unsent < NOTHING_TAKEN
            if Outcome.ACCEPTED not in kinds and message.transactions:
                assert message.error is not None or not message.is_done
        assert accepted <= self.positive_ends


def play(case: Case) -> None:
    """Play a case in two cuts; an AssertionError says what did not hold."""
    runs = [Run(case), Run(case)]
    for run, seed in zip(runs, (case.turns, case.turns + 1), strict=True):
        run.play(seed)
        run.check()
    assert runs[0].events == runs[1].events
    assert [m.outcomes for m in runs[0].messages] == [m.outcomes for m in runs[1].messages]


class Lines:
    """Which lines of the core were reached while it is entered; knows whether an input reached a new one."""

    def __init__(self) -> None:
        self.count = 0
        self._monitoring: Any = getattr(sys, "monitoring", None)

    def __enter__(self) -> Self:
        if (monitoring := self._monitoring) is not None:
            monitoring.use_tool_id(monitoring.COVERAGE_ID, "smtplite.fuzz")
            monitoring.register_callback(monitoring.COVERAGE_ID, monitoring.events.LINE, self._reached)
            monitoring.set_events(monitoring.COVERAGE_ID, monitoring.events.LINE)
            monitoring.restart_events()  # a former run disabled them, line by line
        return self

    def __exit__(self, *exception: object) -> None:
        if (monitoring := self._monitoring) is not None:
            monitoring.set_events(monitoring.COVERAGE_ID, monitoring.events.NO_EVENTS)
            monitoring.register_callback(monitoring.COVERAGE_ID, monitoring.events.LINE, None)
            monitoring.free_tool_id(monitoring.COVERAGE_ID)

    def _reached(self, code: Any, line: int) -> object:
        if "protocol" in code.co_filename:
            self.count += 1
        return self._monitoring.DISABLE


def fuzz(seed: int, *, seconds: float | None = None, inputs: int | None = None) -> tuple[int, int, Case | None]:
    """Play random cases; return how many, how many lines of the core they reached, and one that failed, if one did."""
    with Lines() as lines:
        return _fuzz(random.Random(seed), lines, seconds, inputs)


def _fuzz(rng: random.Random, lines: Lines, seconds: float | None, inputs: int | None) -> tuple[int, int, Case | None]:
    corpus: list[Case] = []
    started, played = time.monotonic(), 0
    while (inputs is None or played < inputs) and (seconds is None or time.monotonic() - started < seconds):
        case = changed(rng, rng.choice(corpus)) if corpus and rng.random() < 0.5 else generated(rng)
        before = lines.count
        try:
            play(case)
        except Exception as error:  # noqa: BLE001 (whatever it is, it was found)
            traceback.print_exc()
            print(f"FOUND: {error!r}\n{case!r}", file=sys.stderr)
            return played, lines.count, case
        played += 1
        if lines.count > before and len(corpus) < MAX_CORPUS:
            corpus.append(case)
    return played, lines.count, None


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz smtplite.protocol.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().getrandbits(32)
    played, lines, failed = fuzz(seed, seconds=arguments.seconds)
    reached = f"{lines} lines of the core reached; " if lines else ""
    print(f"seed {seed}: {played:,} inputs, each in two cuts; {reached}{'1' if failed else 'none'} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
