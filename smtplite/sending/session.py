"""Session: one live connection. It drives a `Connection` and its `Window` over a stream, and keeps its time.

One job, although long: what is written, what is read and how long that may take depend on each other at every step.
What is written and what a reply means is decided in `smtplite.protocol`; here octets and time are moved. A session
whose dialogue was interrupted, by whatever, is dead at once: its stream is aborted before anything else is awaited,
and it is never used again (rules R9, R10).
"""

from __future__ import annotations

import itertools
import math
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import Final, Literal, TypeVar

import anyio
import anyio.lowlevel

from smtplite.errors import (
    ConnectionLost,
    RemoteProtocolError,
    SMTPError,
    TLSError,
)
from smtplite.net import Stream, TLSStream
from smtplite.options import Timeouts
from smtplite.protocol.commands import Command, EndOfData, Quit
from smtplite.protocol.connection import Connection
from smtplite.protocol.events import (
    ChallengeReceived,
    ContentRefused,
    Disconnected,
    Event,
    Replied,
    ServiceClosing,
    TlsReady,
)
from smtplite.protocol.extensions import Extensions
from smtplite.protocol.reply import Reply
from smtplite.protocol.state import RULES, State
from smtplite.protocol.transaction import MAX_CHUNK_BYTES, Stage, Transfer
from smtplite.protocol.window import ServerTraits, Window
from smtplite.results import ServerInfo, _subject
from smtplite.sending.deadline import Deadline, silence
from smtplite.sending.outbound import Outbound, Queue
from smtplite.trace import ConnectionClosed, ConnectionOpened, FlightSent, ReplyReceived, Tracer

__all__ = ["Session"]

_TRANSCRIPT_REPLIES: Final = 20
#: A connection that was idle for longer may have ended without our notice.
_MAX_REST_SECONDS: Final = 1.0

_CONTENT, _HANDED_OVER = Stage.CONTENT, Stage.HANDED_OVER

_T = TypeVar("_T")

_numbers: Final = itertools.count(1)


class _Flight:
    """What goes into one write."""

    __slots__ = "begun", "content_bytes", "limit", "octets", "outbounds"

    def __init__(self) -> None:
        self.octets: list[bytes] = []
        self.outbounds: list[Outbound] = []
        self.content_bytes = 0
        #: The messages whose first octets are in it.
        self.begun: list[Outbound] = []
        #: The time by which the messages whose content ends in it must be done; None: none does.
        self.limit: float | None = None

    def add(self, outbound: Outbound) -> None:
        """Add what this message has to write now."""
        begun = outbound.whole
        if begun is not None:
            content = outbound.fitted_body.whole if begun.wants_content else None
            if content is not None:
                is_normalized = not outbound.fitted_body.is_binary
                self.octets.append(outbound.send_content(begun, content, is_normalized=is_normalized))
                self._hand_over(outbound, content)
            return
        transaction = outbound.transaction
        stage = transaction.stage
        if stage is _HANDED_OVER:
            return
        body = outbound.fitted_body
        whole = body.whole
        if stage is not _CONTENT:
            octets = transaction.next_flight(whole)
            if octets:
                self._put(outbound, octets)
            stage = transaction.stage
        if whole is None:
            return
        if stage is _CONTENT and transaction.wants_content:
            # A body has no line ending but CRLF, unless it goes octet for octet.
            self.octets.append(transaction.send_content(whole, last=True, is_normalized=not body.is_binary))
            stage = transaction.stage
        if stage is _HANDED_OVER:
            self._hand_over(outbound, whole)

    def add_whole(self, outbound: Outbound, octets: bytes, content: bytes) -> None:
        """Add all that is written now of a message that begins with this flight."""
        self._put(outbound, octets)
        if outbound.whole is not None and outbound.whole.content_end is not None:
            self._hand_over(outbound, content)

    def _put(self, outbound: Outbound, octets: bytes) -> None:
        self.octets.append(octets)
        self.outbounds.append(outbound)
        if not outbound.has_begun:
            outbound.has_begun = True
            self.begun.append(outbound)

    def _hand_over(self, outbound: Outbound, content: bytes) -> None:
        self.content_bytes += len(content)
        limit = outbound.limit
        if self.limit is None or limit < self.limit:
            self.limit = limit


class _ObjectionError(Exception):
    """What the queue raised in `begins`: even if it is one of our errors, it says nothing of the connection.

    Args:
        error: what it raised.
        lost: what ended the connection meanwhile, before every verdict that was owed had come; None: nothing did.
    """

    def __init__(self, error: Exception, lost: SMTPError | None) -> None:
        self.error = error
        self.lost = lost


class Session:
    """One connection to a server, between its greeting and its end.

    Args:
        stream: connected.
        server: what it is connected to, for people.
        lmtp: speak LMTP.
        pipelining: False: one command at a time, whatever the server offers.
        chunking: use BDAT where the server proves that it can be trusted with it.
        max_messages: transactions before the connection is spent; None: any number.
        traits: what is known of the server from earlier connections.
        timeouts: see there.
        tracer: is told what happens.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        server: str,
        lmtp: bool = False,
        pipelining: bool = True,
        chunking: bool = False,
        max_messages: int | None = None,
        traits: ServerTraits | None = None,
        timeouts: Timeouts | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._stream = stream
        self._timeouts = timeouts or Timeouts()
        self._tracer = tracer or Tracer()
        self._traces = self._tracer.is_on  # asked once for many replies: it looks at the logger's level, too
        self._connection = Connection(lmtp=lmtp)
        #: The messages under way.
        self.window: Window[Outbound] = Window(
            self._connection, pipelining=pipelining, chunking=chunking, max_transactions=max_messages, traits=traits
        )
        self._events: deque[tuple[Event, int]] = deque()  # read while we were writing; octets unsent at that moment
        self._read_error: SMTPError | None = None  # what ended that reading
        self._write_error: ConnectionLost | TLSError | None = None
        self._held_back = 0  # octets that were made and not given to the stream
        #: Commands, and the replies to them: one entry for what was read together.
        self._replies: deque[tuple[Iterable[Command], Sequence[Reply]]] = deque(maxlen=_TRANSCRIPT_REPLIES)
        self._tls: TLSStream | None = None
        self.server = server
        #: The text of the server's first words.
        self.greeting = ""
        self.number = next(_numbers)
        self.opened_at = self.idle_since = time.monotonic()
        #: True once it was given back: it may have ended since then without our notice.
        self.is_reused = False
        self.is_dead = False
        #: True once `hand_over` began: what ends the session before the verdict leaves the delivery unknown.
        self.was_handed_over = False
        if self._tracer.is_on:
            self._tracer(ConnectionOpened(connection=self.number, server=server))

    @property
    def extensions(self) -> Extensions:
        """What the server offers."""
        return self._connection.extensions

    @property
    def lmtp(self) -> bool:
        """True if it speaks LMTP."""
        return self._connection.lmtp

    @property
    def is_tls(self) -> bool:
        """True inside TLS."""
        return self._connection.is_tls

    @property
    def is_verified(self) -> bool:
        """True inside TLS with a certificate that was verified, and that names the server (rule R29)."""
        return self._tls is not None and self._tls.is_verified

    @property
    def tls_version(self) -> str | None:
        """The TLS version, such as "TLSv1.3"; None: unencrypted."""
        return None if self._tls is None else self._tls.version

    @property
    def local_address(self) -> str | None:
        """The IP address of our end, if it has one."""
        return self._stream.local_address

    @property
    def info(self) -> ServerInfo:
        """What is known of the server."""
        certificate = {} if self._tls is None else self._tls.certificate
        expiry = certificate.get("notAfter")
        return ServerInfo(
            server=self.server,
            greeting=self.greeting,
            extensions=self.extensions,
            tls=self.tls_version,
            cipher=None if self._tls is None else self._tls.cipher,
            certificate_subject=_subject(certificate),
            certificate_expires=None
            if expiry is None
            else datetime.fromtimestamp(ssl.cert_time_to_seconds(expiry), tz=UTC),
        )

    @property
    def phase(self) -> str:
        """Where the dialogue stands, for errors."""
        awaiting = self._connection.awaiting
        if awaiting is not None:
            return RULES[type(awaiting)].phase
        return "hello" if not self.extensions else "command"

    @property
    def is_in_sync(self) -> bool:
        """True if nothing is owed and nothing unread: both sides know where they are (rule R9)."""
        connection = self._connection
        return (
            not self.is_dead
            and connection.awaiting is None
            and not connection.has_unread
            and connection.state in (State.READY, State.MAIL, State.RCPT, State.FAILED)
        )

    @property
    def is_closing(self) -> bool:
        """True if no further transaction begins: it ends once those under way are done."""
        return self.is_dead or self.window.must_close or self.window.is_spent

    @property
    def is_reusable(self) -> bool:
        """True if another transaction may begin."""
        return self.is_in_sync and not self.window.must_close and not self.window.is_spent

    def is_stale(self) -> bool:
        """Return True if the idle connection ended, or if the server said anything meanwhile (rule R8)."""
        return not self.is_in_sync or self._stream.is_stale()

    @property
    def transcript(self) -> tuple[str, ...]:
        """The last commands and replies, secrets left out."""
        return tuple(self._transcript())

    def _transcript(self) -> Iterator[str]:
        said = [pair for commands, replies in self._replies for pair in zip(commands, replies, strict=True)]
        for command, reply in said[-_TRANSCRIPT_REPLIES:]:
            yield f"C: {command}"
            yield f"S: {reply}"
        for command in self._connection.pending:
            yield f"C: {command}"

    @property
    def timeouts(self) -> Timeouts:
        """For each phase; others may be set at any time, for the waits that begin after that."""
        return self._timeouts

    @timeouts.setter
    def timeouts(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts

    @property
    def has_ended(self) -> bool:
        """True if the connection is closed, or was closed by the server while nobody was waiting for it."""
        if self.is_dead or self._connection.awaiting is not None:
            return self.is_dead
        if self.is_tls and self.state is State.HELLO:
            return False  # session tickets may be waiting: they are no word of the server's
        return self._stream.is_stale()

    @property
    def state(self) -> State:
        """What the replies read so far have made of the connection."""
        return self._connection.state

    # One command

    async def ask(self, command: Command, deadline: Deadline) -> Event:
        """Send one command, alone, and return what comes back for it."""
        if await self.has_unasked():
            return await self.next_event(deadline)  # it answers nothing: a 421, or a breach of the protocol (rule R8)
        owed = self._connection.owed
        await self._write(self._connection.send(command), owed, deadline)
        return await self.next_event(deadline)

    async def hand_over(self, content: bytes, deadline: Deadline) -> Event:
        """Write all of the content of a DATA that was answered 354, and its end; return what comes back for it.

        From the beginning of this write the message may have been delivered, however this ends.
        """
        connection = self._connection
        owed = connection.owed
        data = connection.send_content(content) + connection.send(EndOfData())
        self.was_handed_over = True
        await self._write(data, owed, deadline)
        event = await self.next_event(deadline)
        self.was_handed_over = False
        return event

    async def next_event(self, deadline: Deadline) -> Event:
        """Return the next event, in order, waiting for it within its own time (rule R7)."""
        return (await self._next_event(deadline))[0]

    async def has_unasked(self) -> bool:
        """Return True if octets have come that nobody asked for."""
        data = await self._stream.look()
        if data is not None:
            self._connection.receive_data(data)
        return data is not None or self._connection.has_unread

    async def begin_tls(self, context: ssl.SSLContext, hostname: str, deadline: Deadline) -> None:
        """Do the TLS handshake: before the greeting, or after `TlsReady`.

        Raises:
            TLSError: it failed; the session must be discarded.
            ConnectionLost: the connection ended meanwhile; likewise.
        """
        seconds = self._timeouts.connect
        deadline.arm(seconds, f"no TLS within {seconds:g} s", "tls")
        self._tls = self._stream = await TLSStream.wrap(
            self._stream, context, hostname, is_first=self._connection.state is State.GREETING
        )
        self._connection.tls_established()

    # Messages

    async def run(self, queue: Queue, deadline: Deadline) -> None:
        """Send what the queue has, until it has nothing more for now or the session ends.

        What became of each message the queue is told. Raises only what is no error of ours.
        """
        self._replies.clear()
        self._traces = self._tracer.is_on
        self._stream.watch()
        try:
            await self._run(queue, deadline)
        except _ObjectionError as objection:
            error = objection.error
            ended = objection.lost or ConnectionLost(f"not sent: {error!r} came before it")
            self._cut_off(queue, ended, is_our_own=objection.lost is None)
            raise error from error.__cause__
        except RemoteProtocolError as error:
            self._cut_off(queue, error)
        except ConnectionLost as error:
            self._cut_off(queue, self._write_error or error)
        except TLSError as error:  # an alert says more than the write that failed behind it
            self._cut_off(queue, error)
        except BaseException as error:
            # The stream first: a message that goes on being written must not outlive its outcome (rule R10).
            if deadline.has_expired:
                self._cut_off(queue, deadline.error())
            elif isinstance(error, anyio.get_cancelled_exc_class()):
                self._cut_off(queue, ConnectionLost("send was cancelled"), is_our_own=True)
            else:
                self._cut_off(queue, ConnectionLost(f"not sent: {error!r} came before it"), is_our_own=True)
            raise
        finally:
            self._stream.rest()
            if self.window.must_close:
                self.abort(self.window.reason)
            elif self._is_read_first:
                self.abort("connection lost")
            if self.is_dead:
                await self.discard("")

    def _cut_off(self, queue: Queue, error: SMTPError, *, is_our_own: bool = False) -> None:
        self.abort(str(error))
        # What was read while a write had to wait was read: a complete final reply decides, whatever comes (rule R2).
        while (event := self._take_event()) is not None:
            for outbound in self.window.receive(event[0], unsent=event[1]):
                queue.finished(outbound)
        for outbound in self.window.fail(error, unsent=self.unsent, is_our_own=is_our_own):
            queue.finished(outbound)

    async def _run(self, queue: Queue, deadline: Deadline) -> None:
        connection, window = self._connection, self.window
        has_rested = self.is_reused and time.monotonic() - self.idle_since > _MAX_REST_SECONDS
        under_way = window.under_way
        while under_way or window.may_begin:
            # What comes unasked comes first (rules R3, R8), and concerns the message that begins now, too; behind a
            # failed write there is only reading (R24).
            may_write = not self._is_read_first and (connection.oldest_kind is not None or not await self.has_unasked())
            flight = _Flight()
            if not under_way:
                if not self._begin_next(queue, deadline, flight if may_write else None, has_rested=has_rested):
                    return
                has_rested = False
            if may_write:
                await self._write_next(flight, queue, deadline)
                if not under_way:  # the caller's content failed: nothing is owed
                    continue
            await self._receive_next(queue, deadline)
            if not under_way and (window.must_close or self._is_read_first):
                return

    @property
    def unsent(self) -> int:
        """Octets at the end of all that was made to be written that certainly did not leave."""
        return self._stream.unsent + self._held_back

    @property
    def _is_read_first(self) -> bool:
        return bool(self._events) or self._read_error is not None or self._write_error is not None

    def _begin_next(
        self, queue: Queue, deadline: Deadline, flight: _Flight | None = None, *, has_rested: bool = False
    ) -> bool:
        """Begin the next message, if there is one, and room for it.

        Where there is a flight it may be added to that, whole; if not, nothing is to be written yet.
        """
        window = self.window
        if not window.may_begin:
            return False
        outbound = queue.take()
        if outbound is None:
            return False
        if outbound.timeout is not None:
            outbound.limit = anyio.current_time() + outbound.timeout
        whole = None if flight is None or self._traces else outbound.fitted_body.whole
        octets = None if whole is None else window.begin_whole(outbound, whole, has_rested=has_rested)
        if flight is not None and whole is not None and octets is not None:
            flight.add_whole(outbound, octets, whole)
        elif window.fits(outbound):
            window.begin(outbound, has_rested=has_rested)
        else:
            queue.put_back(outbound)
            return False
        if window.under_way[0] is outbound:
            deadline.message_limit = outbound.limit
        return True

    async def _write_next(self, flight: _Flight, queue: Queue, deadline: Deadline) -> None:
        """Write all that may be written now: to the message under way, and those that may begin beside it."""
        window = self.window
        owed = self._connection.owed if self._traces else 0  # for the trace alone
        under_way = window.under_way
        newest = under_way[-1] if under_way else None
        while newest is not None:
            flight.add(newest)
            if not self._begin_next(queue, deadline, flight):
                break
            newest = under_way[-1]
        if flight.octets:
            data = b"".join(flight.octets)
            self._held_back = len(data)
            if flight.begun:
                await self._say_begun(flight.begun, queue, deadline)
            await self._write(data, owed, deadline, flight)
        if newest is not None and newest.whole is None and newest.transaction.wants_content:
            await self._upload(newest, queue, deadline)

    async def _say_begun(self, begun: list[Outbound], queue: Queue, deadline: Deadline) -> None:
        """Tell the queue which messages this flight begins; if it objects, nothing of the flight is written."""
        try:
            queue.begins(begun)
        except BaseException as error:
            lost: SMTPError | None = None
            try:  # what was handed over before is owed its verdict
                while (oldest := self.window.oldest) is not None and oldest.transaction.has_left(self.unsent):
                    await self._receive_next(queue, deadline)
            except (ConnectionLost, TLSError, RemoteProtocolError) as ended:
                lost = ended  # it decides what becomes of that
            if isinstance(error, Exception):
                raise _ObjectionError(error, lost) from None
            raise

    async def _upload(self, outbound: Outbound, queue: Queue, deadline: Deadline) -> None:
        """Write content that is more than one write, unless the server refuses it meanwhile."""
        body, transaction = outbound.fitted_body, outbound.transaction
        # One piece is held back: the last is a write of its own, so that a cut in the bulk is certainly before the end.
        held: list[bytes] = []
        held_bytes = 0
        try:
            async with aclosing(body.pieces()) as pieces:
                async for piece in pieces:
                    is_full = transaction.transfer is Transfer.DATA or held_bytes + len(piece) > MAX_CHUNK_BYTES
                    if held and is_full:
                        if not await self._put(outbound, b"".join(held), queue, deadline, last=False):
                            return
                        held.clear()
                        held_bytes = 0
                    held.append(piece)
                    held_bytes += len(piece)
        except (ConnectionLost, TLSError, RemoteProtocolError):
            raise
        except Exception as error:  # noqa: BLE001 (the caller's own, or what is wrong with the content)
            outbound.failure = error
            for refused in self.window.refuse_content():
                queue.finished(refused)
            return
        await self._put(outbound, b"".join(held), queue, deadline, last=True)

    async def _put(self, outbound: Outbound, piece: bytes, queue: Queue, deadline: Deadline, *, last: bool) -> bool:
        """Write a piece of the content once it may be; return False if no more of it is wanted."""
        transaction = outbound.transaction
        while True:
            if self._write_error is not None or not transaction.is_open:
                return False
            if not (self._is_read_first or await self.has_unasked()) and transaction.wants_content:
                break
            await self._receive_next(queue, deadline)
        owed = self._connection.owed
        is_normalized = not outbound.fitted_body.is_binary
        octets = transaction.send_content(piece, last=last, is_normalized=is_normalized)
        self._held_back = len(octets)
        flight = _Flight()
        flight.content_bytes = len(piece)
        flight.limit = outbound.limit if last else None
        await self._write(octets, owed, deadline, flight)
        await anyio.lowlevel.checkpoint()  # a kernel that takes it all would let nobody else run
        return True

    async def _receive_next(self, queue: Queue, deadline: Deadline) -> None:
        """Wait for what happens next; take in that, and all that came with it."""
        await self._receive(partial(self._take_in, queue, deadline), deadline)

    def _take_in(self, queue: Queue, deadline: Deadline) -> Literal[True] | None:
        """Take in all that is at hand; return None if nothing is."""
        connection, window = self._connection, self.window
        is_anything: Literal[True] | None = None
        while True:
            if not self._events:
                if not connection.may_have_event:
                    return is_anything
                if not self.unsent and self._take_usual(queue, deadline):
                    is_anything = True
                    continue
            happened = self._next_event_at_hand()
            if happened is None:
                return is_anything
            is_anything = True
            event, unsent = happened
            if type(event) is Disconnected:
                self.abort("server closed the connection")
                unsent = self.unsent
            done = window.receive(event, unsent=unsent)
            if done:
                for outbound in done:
                    queue.finished(outbound)
                oldest = window.oldest
                deadline.message_limit = math.inf if oldest is None else oldest.limit

    def _take_usual(self, queue: Queue, deadline: Deadline) -> bool:
        """Take in, message by message, what is at hand as far as it is usual; return True if anything was.

        Call it only where nothing that was written is unsent.
        """
        connection, window = self._connection, self.window
        taken = window.receive_usual()
        if taken is None:
            return False
        is_done = False
        while taken is not None:
            outbound, commands, replies = taken
            if self._traces:
                for command, reply in zip(commands, replies, strict=True):
                    self._trace_reply(command, reply)
            if len(replies) > _TRANSCRIPT_REPLIES:
                commands, replies = list(commands)[-_TRANSCRIPT_REPLIES:], replies[-_TRANSCRIPT_REPLIES:]
            self._replies.append((commands, replies))
            if outbound is not None:
                is_done = True
                queue.finished(outbound)
            taken = window.receive_usual() if connection.has_unread else None
        if is_done:
            under_way = window.under_way
            deadline.message_limit = under_way[0].limit if under_way else math.inf
        return True

    # Octets and time

    async def _write(self, data: bytes, owed: int, deadline: Deadline, flight: _Flight | None = None) -> None:
        """Write one flight; if that fails, what the server said before is still read (rule R24).

        Args:
            data: the octets.
            owed: how many replies were owed before the commands in `data`.
            deadline: of the whole call.
            flight: what messages have in it.
        """
        if self._traces:
            commands = tuple(str(command) for command in self._connection.pending[owed:])
            content_bytes = 0 if flight is None else flight.content_bytes
            self._tracer(FlightSent(connection=self.number, commands=commands, content_bytes=content_bytes))
        if flight is not None:
            if flight.limit is not None and not deadline.is_proved(flight.limit):
                await deadline.prove(flight.limit)  # the last thing before the write: nothing comes between
            for outbound in flight.outbounds:
                outbound.was_written = True
        self._held_back = 0
        try:
            # A server that writes before it reads on would block us for ever, unless we read meanwhile.
            await self._stream.send(data, partial(self._read_meanwhile, deadline))
        except (ConnectionLost, TLSError) as error:
            self._write_error = error

    async def _read_meanwhile(self, deadline: Deadline, writing: anyio.CancelScope) -> None:
        """Keep what arrives while a write has to wait; stop the writing once it is of no more use."""
        connection = self._connection
        # Here, and not before each write: nearly all of them are taken at once.
        deadline.arm(self._timeouts.data_block, "the server does not read what is written", "content")
        try:
            while True:
                data = await self._stream.receive()
                connection.receive_data(data)
                while (event := connection.next_event()) is not None:
                    self._events.append((event, self._stream.unsent))
                if not data or connection.state in (State.CLOSING, State.CLOSED):
                    break
        except (ConnectionLost, TLSError, RemoteProtocolError) as error:
            self._read_error = error
        writing.cancel()

    async def _next_event(self, deadline: Deadline) -> tuple[Event, int]:
        """Return the next event, and how many octets of the last write were unsent when it was read."""
        return await self._receive(self._next_event_at_hand, deadline)

    async def _receive(self, take: Callable[[], _T | None], deadline: Deadline) -> _T:
        """Return what `take` makes of what is at hand; wait for more as long as that is None."""
        taken = take()
        if taken is None:
            if self._read_error is not None:
                raise self._read_error
            # From here, whatever arrives: octets of a reply that does not end do not move its deadline.
            self._arm_for_reply(deadline)
            while taken is None:
                data = await self._stream.receive()
                self._connection.receive_data(data)
                taken = take()
                if taken is None and not data:  # its end was reported before: nothing more will come
                    raise ConnectionLost("server closed the connection")
        return taken

    def _next_event_at_hand(self) -> tuple[Event, int] | None:
        """Return the next event, if it needs no more octets."""
        if self._events:
            return self._take_event()
        connection = self._connection
        event = connection.next_event() if connection.may_have_event else None
        if event is None:
            return None
        self._note(event)
        return event, self.unsent

    def _take_event(self) -> tuple[Event, int] | None:
        """Return the next of the events that were read while a write had to wait."""
        if not self._events:
            return None
        event, unsent = self._events.popleft()
        self._note(event)
        return event, unsent

    def _note(self, event: Event) -> None:
        if type(event) is Replied:
            self._replies.append(((event.command,), (event.reply,)))
        if self._traces:
            self._trace_event(event)

    def _trace_event(self, event: Event) -> None:
        if isinstance(event, (Replied, TlsReady)):
            self._trace_reply(event.command, event.reply)
        elif isinstance(event, ChallengeReceived):  # without what it says: it may tell of a secret
            reply = Reply(event.reply.code, (b"[redacted]",))
            self._tracer(ReplyReceived(connection=self.number, command=str(event.command), reply=reply))
        elif isinstance(event, (ServiceClosing, ContentRefused)):
            self._tracer(ReplyReceived(connection=self.number, command=None, reply=event.reply))

    def _trace_reply(self, command: Command, reply: Reply) -> None:
        self._tracer(ReplyReceived(connection=self.number, command=str(command), reply=reply))

    def _arm_for_reply(self, deadline: Deadline) -> None:
        kind = self._connection.oldest_kind
        if kind is None:
            deadline.arm(self._timeouts.command, "the server began a reply that nobody asked for", "command")
        else:
            rule = RULES[kind]
            seconds: float = getattr(self._timeouts, rule.timeout)
            # mypy looks for the hash of an instance, not of the class.
            reason = silence(kind, seconds, is_tls=self._connection.is_tls)  # type: ignore[arg-type]
            deadline.arm(seconds, reason, rule.phase)

    # The end

    def abort(self, reason: str) -> None:
        """Close at once, without a word: the dialogue was cut. The session is dead."""
        if not self.is_dead:
            self.is_dead = True
            self._stream.abort()
            self._trace_close(reason)

    def forget(self) -> None:
        """Close our end alone, after a fork: the connection is still the parent's. The session is dead."""
        self.is_dead = True
        self._stream.close()

    async def discard(self, reason: str) -> None:
        """Close at once, without a word, and have it done."""
        self.abort(reason)
        with anyio.CancelScope(shield=True):
            await self._stream.aclose()

    async def dismiss(self) -> None:
        """Close without waiting: says QUIT if nothing is owed, and does not stay for the reply."""
        await self._leave(stay=False)

    async def quit(self) -> None:
        """Say QUIT if nothing is owed, then close. Bounded; nothing depends on how it ends (rule R2)."""
        await self._leave(stay=True)

    async def _leave(self, *, stay: bool) -> None:
        if self.is_dead:
            return
        deadline = Deadline(self._timeouts.quit)
        try:
            if not self.is_stale():
                with deadline.scope:
                    owed = self._connection.owed
                    await self._write(self._connection.send(Quit()), owed, deadline)
                    if stay:
                        await self.next_event(deadline)
        except SMTPError:
            pass  # the messages were decided long before
        finally:
            self.is_dead = True
            self._trace_close("quit")
            with anyio.CancelScope(shield=True):
                await self._stream.aclose()

    def _trace_close(self, reason: str) -> None:
        if self._tracer.is_on:
            self._tracer(ConnectionClosed(connection=self.number, reason=reason))
