"""The naive twin of `smtplite.sending.session`: it drives the core over a `Wire`, as the docstrings of the core say.

It shares no code with the session. Where that has tasks, deadlines and streams, it has a loop; a deadline that fires is
an exception of the wire.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple, Protocol

import attrs

from smtplite.errors import (
    AuthenticationError,
    ConnectionLost,
    LocalProtocolError,
    RemoteProtocolError,
    SMTPError,
    SMTPTimeout,
)
from smtplite.protocol.commands import (
    Auth,
    AuthCancel,
    AuthResponse,
    Command,
    Ehlo,
    Greeting,
    Helo,
    Lhlo,
    Mail,
    Rcpt,
    StartTls,
)
from smtplite.protocol.connection import Connection
from smtplite.protocol.envelope import EnvelopeCommands
from smtplite.protocol.events import ChallengeReceived, Disconnected, Event, Replied, ServiceClosing, TlsReady
from smtplite.protocol.extensions import Limits
from smtplite.protocol.outcomes import RecipientOutcome
from smtplite.protocol.parameters import NO_PARAMETERS
from smtplite.protocol.paths import ForwardPath, ReversePath
from smtplite.protocol.reply import Reply
from smtplite.protocol.state import State
from smtplite.protocol.submission import Submission
from smtplite.protocol.transaction import Stage, Transfer
from smtplite.protocol.whole import Whole
from smtplite.protocol.window import ServerTraits, Window
from smtplite.sasl import Exchange, Login, Mechanism, Plain, ScramSha256

from .wire import Wire

__all__ = [
    "PASSWORD",
    "USERNAME",
    "Client",
    "HandshakeFailed",
    "Hang",
    "Heard",
    "Message",
    "MessageSpec",
    "Options",
    "Source",
]

USERNAME, PASSWORD = "me", "secret"
_MECHANISMS: dict[str, Mechanism] = {
    "PLAIN": Plain(USERNAME, PASSWORD),
    "LOGIN": Login(USERNAME, PASSWORD),
    "SCRAM-SHA-256": ScramSha256(USERNAME, PASSWORD),
}
_DOMAIN = "client.example"


class Hang(AssertionError):
    """Client and server go on for ever."""


class HandshakeFailed(Exception):
    """There is no session; `__cause__` says why, if it was an error."""


@attrs.frozen(kw_only=True)
class Options:
    """Those of `smtplite.Client` that the core knows."""

    lmtp: bool = False
    pipelining: bool = True
    chunking: bool = False
    in_flight: int = 4
    starttls: bool = False
    auth: str | None = None


@attrs.frozen(kw_only=True)
class MessageSpec:
    """What a message is to be.

    Attributes:
        sender: the local part of its reverse-path; with the recipients' it tells the server what to do with it.
        to: the recipients' local parts.
        pieces: its content is so many pieces, written one by one; 0: it is at hand as a whole.
        require_all: send to nobody unless every recipient is accepted.
        is_repeatable: its content can be read more than once.
        has_rested: the connection was idle for long before it.
    """

    sender: str = "me"
    to: tuple[str, ...] = ("ok1",)
    pieces: int = 0
    require_all: bool = False
    is_repeatable: bool = True
    has_rested: bool = False


_reverse_path = cache(ReversePath.parse)
_forward_path = cache(ForwardPath.parse)


@cache
def _text(number: int, pieces: int) -> tuple[tuple[bytes, ...], bytes]:
    """Return the content of a message, in pieces and as a whole: lines that begin with dots, and one that is a dot."""
    head = b"number %d\r\n\r\n.dot\r\n" % number
    filler = b"%d.\r\n..\r\n.\r\n" % number
    parts = (head, *[filler * 3] * pieces)[: max(1, pieces)]
    return parts, b"".join(parts)


class Concluded(NamedTuple):
    """What became of one transaction.

    Attributes:
        recipients: of that transaction.
        outcomes: theirs.
        was_handed_over: whether the client's system took the last octet of the content.
        mails_before: how many MAIL were written before the one that counts.
    """

    recipients: tuple[str, ...]
    outcomes: tuple[RecipientOutcome, ...]
    was_handed_over: bool
    mails_before: int


class Message(Submission):
    """One message, and a record of what was done with it and said of it."""

    def __init__(self, number: int, spec: MessageSpec) -> None:
        super().__init__(len(spec.to), require_all=spec.require_all, is_repeatable=spec.is_repeatable)
        self.number = number
        self.spec = spec
        self.sender = f"{spec.sender}@{number}.example"
        self.recipients = tuple(f"{name}@{number}.example" for name in spec.to)
        self.pieces, self.content = _text(number, spec.pieces)
        #: Where the end of its content lies in what the client wrote, once this transaction wrote it.
        self.end: int | None = None
        #: How many replies the client had heard when this transaction began.
        self.begun_at = 0
        #: What became of each transaction that is done.
        self.history: list[Concluded] = []
        self.times_resent = 0
        self._batch_recipients: tuple[str, ...] = ()

    def address(self) -> None:
        """Give it its commands, new ones."""
        paths = [_forward_path(recipient) for recipient in self.recipients]
        self.fit_envelope(EnvelopeCommands(_reverse_path(self.sender), NO_PARAMETERS, paths), len(self.content))

    def next_transaction(self, limits: Limits) -> tuple[Mail, list[Rcpt]]:
        """Note whom the transaction that begins is for."""
        mail, rcpts = super().next_transaction(limits)
        self._batch_recipients = tuple(rcpt.forward_path.address for rcpt in rcpts)
        self.end = None
        return mail, rcpts

    def begin_whole(self, connection: Connection, whole: Whole) -> None:
        """Note that the transaction that begins is for all of them."""
        super().begin_whole(connection, whole)
        self._batch_recipients = self.recipients
        self.end = None

    def note(self, client: Client) -> None:
        """Write down what became of the transaction that is done."""
        transaction = self.transaction
        was_handed_over = self.end is not None and self.end <= client.wire.taken
        mails_before = (transaction.transfer is Transfer.PROOF) + transaction.was_ignored
        self.history.append(Concluded(self._batch_recipients, transaction.outcomes, was_handed_over, mails_before))


class Source(Protocol):
    """Where the messages come from, and where they are reported to."""

    def take(self) -> Message | None:
        """Return the message that comes next."""

    def put_back(self, message: Message) -> None:
        """Take it back."""

    def finished(self, message: Message, client: Client) -> None:
        """Take note that a transaction of this message is done."""


class Heard(NamedTuple):
    """One reply, as the client took it.

    Attributes:
        number: of the command that it answered, as the server counts them; the greeting is 0.
        command: that command.
        reply: itself.
        owed: how many commands are owed a reply behind it.
        message: that was the oldest in the window.
    """

    number: int
    command: Command
    reply: Reply
    owed: int
    message: Message | None


class Ended(NamedTuple):
    """What became of a message whose transaction was under way when the session ended.

    Attributes:
        message: it.
        concluded: its transaction.
        heard: the replies since that began, those to other messages' commands, too.
        is_clean: whether nothing but the end came behind them.
    """

    message: Message
    concluded: Concluded
    heard: list[Heard]
    is_clean: bool


class _Counting(Connection):
    """Keeps every command that was sent, and its number."""

    def __init__(self, *, lmtp: bool) -> None:
        super().__init__(lmtp=lmtp)
        greeting = self.awaiting
        assert isinstance(greeting, Greeting)
        self._kept: list[Command] = [greeting]  # no two of them may have the same id()
        self.numbers = {id(greeting): 0}
        self._number = 0

    def send(self, command: Command) -> bytes:
        octets = super().send(command)
        self._count(command)
        return octets

    def send_group(self, commands: Sequence[Command]) -> bytes:
        octets = super().send_group(commands)
        for command in commands:
            self._count(command)
        return octets

    def send_whole(self, commands: Sequence[Command], content: bytes) -> bytes | None:
        octets = super().send_whole(commands, content)
        if octets is not None:
            for command in commands:
                self._count(command)
        return octets

    def send_message(self, envelope: EnvelopeCommands, content: bytes | None) -> tuple[bytes, Whole] | None:
        sent = super().send_message(envelope, content)
        if sent is not None:
            for command in sent[1]:
                self._count(command)
        return sent

    def _count(self, command: Command) -> None:
        self._kept.append(command)
        if not isinstance(command, (AuthResponse, AuthCancel)):
            self._number += 1
        self.numbers[id(command)] = self._number


class Client:
    """One connection.

    Args:
        wire: to the server.
        options: how to speak.
        traits: what is known of the server.
    """

    def __init__(self, wire: Wire, options: Options, traits: ServerTraits) -> None:
        self.wire = wire
        self.options = options
        self._connection = _Counting(lmtp=options.lmtp)
        self.window: Window[Message] = Window(
            self._connection,
            pipelining=options.pipelining,
            chunking=options.chunking,
            in_flight=options.in_flight,
            traits=traits,
        )
        self._kept: deque[tuple[Event, int]] = deque()  # read while a write was blocked
        self._read_error: SMTPError | None = None
        self._write_error: ConnectionLost | None = None
        self._steps = 0
        self._messages: deque[Message] = deque()  # under way, oldest first
        #: How many of them were written whole.
        self.wholes = 0
        #: What happened, in order.
        self.happened: list[Event] = []
        #: Each reply to a command, in order; challenges, too.
        self.heard: list[Heard] = []
        self.is_closed = False
        self.is_reused = False
        #: Octets of replies and of commands behind the handshake.
        self.greeted_at = (0, 0)
        #: What became of the messages that were under way when the session ended.
        self.ended: list[Ended] = []
        #: The error that ended the session.
        self.error: SMTPError | None = None

    # Octets

    def _step(self) -> None:
        self._steps += 1
        if self._steps > 500 + 10 * len(self.wire.said) + 10 * self.wire.taken:
            raise Hang(f"more than {self._steps} steps")

    def _event(self, *, wait: bool) -> tuple[Event, int] | None:
        """Return what happened next, and how much of the last write was unsent when it was read."""
        if self._kept:
            return self._kept.popleft()
        while True:
            self._step()
            event = self._connection.next_event()
            if event is not None:
                return event, self.wire.unsent
            if not wait:
                return None
            if self._read_error is not None:
                raise self._read_error
            self._connection.receive_data(self.wire.read())

    def _write(self, octets: bytes) -> None:
        wire = self.wire
        wire.unsent = len(octets)
        try:
            while wire.unsent:
                self._step()
                wire.unsent -= wire.push(octets[len(octets) - wire.unsent :])
                if wire.unsent and not self._read_meanwhile():
                    return
        except ConnectionLost as error:
            self._write_error = error  # what the server said before is still read (R24)

    def _read_meanwhile(self) -> bool:
        """Read while the wire takes nothing; return False if it is of no use to write on.

        Raises:
            SMTPTimeout: neither goes on.
        """
        connection = self._connection
        try:
            while True:
                self._step()
                octets = self.wire.look() if self.wire.is_stalled else self.wire.read()
                if octets is None:
                    return True
                connection.receive_data(octets)
                while (event := connection.next_event()) is not None:
                    self._kept.append((event, self.wire.unsent))
                if not octets or connection.state in (State.CLOSING, State.CLOSED):
                    return False
        except (ConnectionLost, RemoteProtocolError) as error:
            self._read_error = error
            return False

    def _has_unasked(self) -> bool:
        octets = self.wire.look()
        if octets is not None:
            self._connection.receive_data(octets)
        return octets is not None or self._connection.has_unread

    def _note(self, event: Event) -> None:
        self.happened.append(event)
        if isinstance(event, (Replied, ChallengeReceived, TlsReady)):
            number = self._connection.numbers[id(event.command)]
            self.heard.append(Heard(number, event.command, event.reply, self._connection.owed, self.window.oldest))

    # The handshake

    def greet(self) -> None:
        """Say hello; begin TLS and authenticate, if that is wanted.

        Raises:
            HandshakeFailed: the connection is closed.
        """
        try:
            self._expect(self._next_alone(), 220)
            self._hello()
            if self.options.starttls:
                if not self._connection.extensions.starttls:
                    raise HandshakeFailed("no STARTTLS")
                event = self._ask(StartTls())
                if not isinstance(event, TlsReady) or self._has_unasked():
                    raise HandshakeFailed("no TLS")
                self.wire.begin_tls()
                self._connection.tls_established()
                self._hello()
            if self.options.auth is not None:
                self._authenticate(_MECHANISMS[self.options.auth])
            self.greeted_at = (self.wire.heard, self.wire.taken)
        except HandshakeFailed:
            self._close()
            raise
        except SMTPError as error:
            if isinstance(error, LocalProtocolError):
                raise
            self._close()
            raise HandshakeFailed from error

    def _next_alone(self) -> Event:
        happened = self._event(wait=True)
        assert happened is not None
        self._note(happened[0])
        return happened[0]

    def _ask(self, command: Command) -> Event:
        if not self._has_unasked():
            self._write(self._connection.send(command))
        return self._next_alone()

    def _expect(self, event: Event, code: int) -> None:
        if not isinstance(event, Replied) or event.reply.code != code:
            raise HandshakeFailed(str(event))

    def _hello(self) -> None:
        event = self._ask(Lhlo(_DOMAIN) if self.options.lmtp else Ehlo(_DOMAIN))
        if isinstance(event, Replied) and event.reply.code in (500, 502, 504) and not self.options.lmtp:
            event = self._ask(Helo(_DOMAIN))
        if not isinstance(event, Replied) or event.reply.is_negative:
            raise HandshakeFailed(str(event))

    def _authenticate(self, mechanism: Mechanism) -> None:
        if mechanism.name not in self._connection.extensions.auth:
            raise HandshakeFailed("no mechanism")
        if isinstance(mechanism, ScramSha256):
            exchange = Exchange(mechanism, mechanism.steps("not-random"))
        else:
            exchange = mechanism.exchange()
        event = self._ask(Auth(exchange.name, exchange.initial_response))
        while isinstance(event, ChallengeReceived):
            try:
                response = exchange.respond(event.challenge)
            except AuthenticationError:
                self._ask(AuthCancel())
                raise
            event = self._ask(AuthResponse(response))
        self._expect(event, 235)
        assert isinstance(event, Replied)
        exchange.finish(event.reply.text)

    # Messages

    @property
    def is_reusable(self) -> bool:
        """True if, as far as the client can tell without looking, another message may go here."""
        connection = self._connection
        return (
            not self.is_closed
            and connection.awaiting is None
            and not connection.has_unread
            and connection.state in (State.READY, State.MAIL, State.RCPT, State.FAILED)
            and not self.window.must_close
            and not self.window.is_spent
        )

    @property
    def is_stale(self) -> bool:
        """True if it can be seen that the server said something, or went, while nothing was asked."""
        return not self.is_reusable or self.wire.look() is not None

    def run(self, source: Source) -> None:
        """Send what the source has, until it has nothing more or the session ends."""
        try:
            self._converse(source)
        except (RemoteProtocolError, SMTPTimeout) as error:
            self._fail(error, source)
        except ConnectionLost as error:
            self._fail(self._write_error or error, source)
        if self.window.must_close or self._hears_first:
            self._close()

    def _converse(self, source: Source) -> None:
        window = self.window
        while len(window) or window.may_begin:
            # What comes unasked comes before anything is written (R3, R8), and concerns the message that begins.
            may_write = not self._hears_first and (self._connection.awaiting is not None or not self._has_unasked())
            flight = bytearray()
            if not len(window) and not self._begin_next(source, flight if may_write else None):
                return
            if may_write:
                self._write_next(flight, source)
                if not len(window):  # refused in the middle of its content
                    continue
            happened = self._event(wait=not self._hear_usual(source, wait=True))
            while happened is not None:
                self._take(happened, source)
                self._hear_usual(source, wait=False)
                happened = self._event(wait=False)
            if not len(window) and (window.must_close or self._hears_first):
                return

    def _hear_usual(self, source: Source, *, wait: bool) -> bool:
        """Take what is usual at once, as far as it is at hand; return True if anything was."""
        window = self.window
        if self._kept or self.wire.unsent or self._read_error is not None:
            return False
        if wait and not self._connection.may_have_event:
            self._connection.receive_data(self.wire.read())
        is_anything = False
        while (taken := window.receive_usual()) is not None:
            is_anything = True
            done, commands, replies = taken
            owed = self._connection.owed + len(replies)
            for command, reply in zip(commands, replies, strict=True):
                owed -= 1
                self.happened.append(Replied(command, reply))
                number = self._connection.numbers[id(command)]
                self.heard.append(Heard(number, command, reply, owed, self._messages[0]))
            if done is not None:
                self._finish([done], source)
        return is_anything

    @property
    def _hears_first(self) -> bool:
        return bool(self._kept) or self._read_error is not None or self._write_error is not None

    def _begin_next(self, source: Source, flight: bytearray | None = None) -> bool:
        """Begin the next message, if there is one, and room for it; nothing is written yet, but all of it may be."""
        window = self.window
        new = source.take() if window.may_begin else None
        if new is None:
            return False
        octets = None
        has_rested = new.spec.has_rested and self._connection.awaiting is None
        if flight is not None and not new.spec.pieces:
            octets = window.begin_whole(new, new.content, has_rested=has_rested)
        if flight is not None and octets is not None:
            flight += octets
            if new.whole is not None and new.whole.content_end is not None:
                new.end = self._written(flight)
            self.wholes += 1
        elif window.has_room_for(new):
            window.begin(new, has_rested=has_rested)
        else:
            source.put_back(new)
            return False
        new.begun_at = len(self.heard)
        self._messages.append(new)
        return True

    def _write_next(self, flight: bytearray, source: Source) -> None:
        """Put into one write what the newest message has to say, and all messages that may begin behind it."""
        self._compose(self._messages[-1], flight)
        while self._begin_next(source, flight):
            self._compose(self._messages[-1], flight)
        message = self._messages[-1]
        if flight:
            self._write(bytes(flight))
        if message.whole is None and message.transaction.wants_content:
            self._upload(message, source)

    def _compose(self, message: Message, flight: bytearray) -> None:
        begun = message.whole
        if begun is not None:
            if begun.wants_content:
                flight += message.send_content(begun, message.content)
                message.end = self._written(flight)
            return
        transaction = message.transaction
        if transaction.stage is Stage.HANDED_OVER:
            return
        whole = None if message.spec.pieces else message.content
        flight += transaction.next_flight(whole)
        if whole is not None and transaction.wants_content:
            flight += transaction.send_content(whole, last=True)
        if message.transaction.stage is Stage.HANDED_OVER:
            message.end = self._written(flight)

    def _written(self, flight: bytes | bytearray) -> int:
        """Return where the end of this flight will lie among all that was written."""
        return self.wire.taken + len(flight)

    def _upload(self, message: Message, source: Source) -> None:
        transaction = message.transaction
        for left, piece in zip(range(len(message.pieces) - 1, -1, -1), message.pieces, strict=True):
            while True:
                if self.is_closed or self._write_error is not None:
                    return
                if not (self._hears_first or self._has_unasked()):
                    if transaction.wants_content:
                        break
                    if not transaction.is_open:
                        return
                happened = self._event(wait=True)
                assert happened is not None
                self._take(happened, source)
            octets = transaction.send_content(piece, last=not left)
            if not left:
                message.end = self._written(octets)
            self._write(octets)

    def _take(self, happened: tuple[Event, int], source: Source) -> None:
        event, unsent = happened
        self._note(event)
        has_ended = isinstance(event, Disconnected)
        if has_ended:
            self._close()
            unsent = self.wire.unsent
        messages = self.window.receive(event, unsent=unsent)
        self._finish(messages, source)
        if has_ended or isinstance(event, ServiceClosing):
            self._note_end(messages, is_clean=not isinstance(event, Disconnected) or not event.partial)

    def _fail(self, error: SMTPError, source: Source) -> None:
        self.error = error
        self._close()
        while self._kept:  # a reply that was read decides, whatever happens next (R2)
            self._take(self._kept.popleft(), source)
        is_clean = not isinstance(error, RemoteProtocolError) and not self._connection.has_unread
        messages = self.window.fail(error, unsent=self.wire.unsent)
        self._finish(messages, source)
        self._note_end(messages, is_clean=is_clean)
        assert not len(self.window)

    def _note_end(self, messages: list[Message], *, is_clean: bool) -> None:
        for message in messages:
            self.ended.append(Ended(message, message.history[-1], self.heard[message.begun_at :], is_clean))

    def _finish(self, messages: list[Message], source: Source) -> None:
        for message in messages:
            assert message is self._messages.popleft(), "not the oldest"
            message.note(self)
            source.finished(message, self)

    def _close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.wire.abort()
