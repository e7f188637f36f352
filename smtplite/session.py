"""Session: one live connection. It drives a `Connection` over a stream, and keeps its time.

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
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import anyio
import anyio.lowlevel
import attrs

from smtplite.errors import (
    ConfigurationError,
    ConnectionLost,
    RemoteProtocolError,
    SMTPError,
    SMTPTimeout,
)
from smtplite.protocol.commands import Command, Mail, Quit, Rcpt
from smtplite.protocol.connection import Connection
from smtplite.protocol.events import ConnectionClosed, ContentRefused, Event, Replied, ServiceClosing
from smtplite.protocol.extensions import Extensions, Limits
from smtplite.protocol.state import RULES, State
from smtplite.protocol.transaction import Transaction
from smtplite.stream import Stream, TLSStream
from smtplite.trace import ConnectionClosed as ConnectionClosedEvent
from smtplite.trace import ConnectionOpened, FlightSent, ReplyReceived, Tracer

__all__ = ["Deadline", "ServerInfo", "Session", "Timeouts"]

#: Content up to this size goes in one write with its end of data.
_ONE_WRITE_BYTES: Final = 65_536
#: Larger content goes in pieces of this size: what the CPU's caches hold, and what one encoding step may take.
_PIECE_BYTES: Final = 131_072
#: Replies that fit any socket buffer; where more are owed, they are read while we write, or both sides may block.
_MAX_REPLIES_UNREAD: Final = 100
_TRANSCRIPT_REPLIES: Final = 20

_numbers: Final = itertools.count(1)


def _positive(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ConfigurationError(f"timeout {attribute.name} is a positive number of seconds, not {value!r}")


@attrs.frozen(kw_only=True)
class Timeouts:
    """How long each phase may take, in seconds; `math.inf` for no limit (RFC 5321 4.5.3.2).

    Attributes:
        pool: waiting for a connection that others use.
        connect: opening the connection, and anew its TLS handshake.
        greeting: the server's first words.
        command: the reply to each command.
        data_init: the reply to DATA.
        data_block: each piece of content, until the network took it.
        end_of_data: the verdict. A short one duplicates mail: the server may be delivering already.
        quit: the reply to QUIT, of which nothing depends.
    """

    pool: float = attrs.field(default=60.0, validator=_positive)
    connect: float = attrs.field(default=30.0, validator=_positive)
    greeting: float = attrs.field(default=300.0, validator=_positive)
    command: float = attrs.field(default=300.0, validator=_positive)
    data_init: float = attrs.field(default=120.0, validator=_positive)
    data_block: float = attrs.field(default=180.0, validator=_positive)
    end_of_data: float = attrs.field(default=600.0, validator=_positive)
    quit: float = attrs.field(default=5.0, validator=_positive)


class Deadline:
    """The one cancel scope of a public call; each wait moves its deadline.

    Use it as ``with deadline.scope: ...``; after that, ``deadline.has_expired`` says whether time was up, and
    `error` what for.

    Args:
        timeout: seconds for the whole call; None: no limit beside those of each wait.
    """

    def __init__(self, timeout: float | None = None) -> None:
        self._timeout = timeout
        self._overall = math.inf if timeout is None else anyio.current_time() + timeout
        self._armed = self._overall
        self._reason = ""
        self._phase: str | None = None
        self.scope = anyio.CancelScope(deadline=self._overall)

    def arm(self, seconds: float, reason: str, phase: str) -> None:
        """Let the wait that begins now take `seconds` at most, within the whole call's limit."""
        deadline = min(anyio.current_time() + seconds, self._overall)
        self._reason = reason
        self._phase = phase
        # Moving a scope's deadline costs more than a message has to spare: a little too early is good enough.
        if not -min(1.0, seconds / 20) <= self._armed - deadline <= 0:
            self._armed = self.scope.deadline = deadline

    @property
    def has_expired(self) -> bool:
        """True once time was up, within the scope or behind it."""
        return self.scope.cancel_called

    def error(self) -> SMTPTimeout:
        """Return what to raise when time was up."""
        if self._timeout is not None and self._armed == self._overall:
            return SMTPTimeout(f"time was up: timeout={self._timeout:g} s for the whole call", phase=self._phase)
        return SMTPTimeout(f"time was up: {self._reason}", phase=self._phase)


@attrs.frozen(kw_only=True)
class ServerInfo:
    """What a server offers, as `Client.check` finds it.

    Attributes:
        server: what was connected to, such as "mx.example.com:587".
        greeting: the text of its first words.
        extensions: its service extensions; typed properties for those that are known.
        tls: the TLS version, such as "TLSv1.3"; None in clear.
        cipher: the cipher suite; None in clear.
        certificate_subject: whom its certificate names; None in clear, or where it was not verified.
        certificate_expires: when its certificate ends, in UTC.
    """

    server: str
    greeting: str
    extensions: Extensions
    tls: str | None = None
    cipher: str | None = None
    certificate_subject: str | None = None
    certificate_expires: datetime | None = None

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """The authentication mechanisms it offers."""
        return self.extensions.auth

    @property
    def limits(self) -> Limits:
        """What it limits, where it says so (RFC 9422)."""
        return self.extensions.limits


def _subject(certificate: dict[str, Any]) -> str | None:
    """Return the common name, or the first name that the certificate is for."""
    for attribute in certificate.get("subject", ()):
        for name, value in attribute:
            if name == "commonName":
                return str(value)
    names = certificate.get("subjectAltName", ())
    return str(names[0][1]) if names else None


class Session:
    """One connection to a server, between its greeting and its end.

    Args:
        stream: connected.
        server: what it is connected to, for people.
        lmtp: speak LMTP.
        pipelining: False: one command at a time, whatever the server offers.
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
        timeouts: Timeouts | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._stream = stream
        self._timeouts = timeouts or Timeouts()
        self._tracer = tracer or Tracer()
        self._pipelining = pipelining
        self._connection = Connection(lmtp=lmtp)
        self._events: deque[Event] = deque()  # read while we were writing
        self._read_error: SMTPError | None = None  # what ended that reading
        self._write_error: ConnectionLost | None = None
        self._replies: deque[Replied] = deque(maxlen=_TRANSCRIPT_REPLIES)
        self._tls: TLSStream | None = None
        self.server = server
        #: The text of the server's first words.
        self.greeting = ""
        self.number = next(_numbers)
        #: Messages whose transaction was begun here.
        self.messages = 0
        self.opened_at = self.idle_since = time.monotonic()
        #: True once it was given back: it may have ended since then without our notice.
        self.is_reused = False
        self.is_dead = False
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
    def tls_version(self) -> str | None:
        """The TLS version, such as "TLSv1.3"; None in clear."""
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
    def is_reusable(self) -> bool:
        """True if nothing is owed, nothing unread, and another transaction may begin (rule R9)."""
        connection = self._connection
        return (
            not self.is_dead
            and connection.awaiting is None
            and not connection.has_unread
            and connection.state in (State.READY, State.MAIL, State.RCPT, State.FAILED)
        )

    def is_stale(self) -> bool:
        """Return True if the idle connection ended, or if the server said anything meanwhile (rule R8)."""
        return not self.is_reusable or self._stream.is_stale()

    @property
    def transcript(self) -> tuple[str, ...]:
        """The last commands and replies, secrets left out."""
        return tuple(self._transcript())

    def _transcript(self) -> Iterator[str]:
        for event in self._replies:
            yield f"C: {event.command}"
            yield f"S: {event.reply}"
        for command in self._connection.pending:
            yield f"C: {command}"

    # One command

    async def ask(self, command: Command, deadline: Deadline) -> Event:
        """Send one command, alone, and return what comes back for it."""
        if await self.has_unasked():
            return await self.next_event(deadline)  # it answers nothing: a 421, or a breach of the protocol (rule R8)
        owed = self._connection.owed
        await self._write(self._connection.send(command), owed, deadline)
        return await self.next_event(deadline)

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
        """
        seconds = self._timeouts.connect
        deadline.arm(seconds, f"no TLS within {seconds:g} s", "tls")
        self._tls = self._stream = await TLSStream.wrap(self._stream, context, hostname)
        self._connection.tls_established()

    # A message

    def begin(self, mail: Mail, recipients: list[Rcpt], *, require_all: bool) -> Transaction:
        """Return the transaction for a message; hand it to `deliver`."""
        return Transaction(self._connection, mail, recipients, require_all=require_all, pipelining=self._pipelining)

    async def deliver(self, transaction: Transaction, content: bytes, deadline: Deadline) -> None:
        """Run the transaction until it is done; its outcomes say the rest. Raises only what is no error of ours."""
        self.messages += 1
        self._replies.clear()
        try:
            await self._run(transaction, content, deadline)
        except RemoteProtocolError as error:
            self._cut_off(transaction, error)
        except ConnectionLost as error:
            self._cut_off(transaction, self._write_error or error)
        except BaseException:
            # The stream first: a message that goes on being written must not outlive its outcome (rule R10).
            self._cut_off(
                transaction, deadline.error() if deadline.has_expired else ConnectionLost("send was cancelled")
            )
            raise
        finally:
            if transaction.must_close:
                self.abort(str(transaction.reply or transaction.error or "the dialogue cannot go on"))
            if self.is_dead:
                await self.discard("")

    def _cut_off(self, transaction: Transaction, error: SMTPError) -> None:
        self.abort(str(error))
        self._take_back(transaction)
        transaction.fail(error)

    def _take_back(self, transaction: Transaction) -> None:
        if self._stream.unsent:  # and never will be: what is missing are the last octets of the last write
            transaction.take_back()

    async def _run(self, transaction: Transaction, content: bytes, deadline: Deadline) -> None:
        connection = self._connection
        while not transaction.is_done:
            if (
                self._events
                or self._read_error is not None
                or (connection.awaiting is None and await self.has_unasked())
            ):
                pass  # what comes unasked comes first (rules R3, R8)
            elif transaction.wants_content:
                await self._send_content(transaction, content, deadline)
            else:
                owed = connection.owed
                flight = transaction.next_flight()
                if flight:
                    await self._write(flight, owed, deadline)
            event = await self.next_event(deadline)
            if isinstance(event, ConnectionClosed):
                self.abort("server closed the connection")
                self._take_back(transaction)
            transaction.receive(event)

    async def _send_content(self, transaction: Transaction, content: bytes, deadline: Deadline) -> None:
        """Write the content and its end, unless the server refuses it meanwhile."""
        begun = 0
        if len(content) > _ONE_WRITE_BYTES:
            # The last piece is a write of its own, so that a cut in the bulk is certainly before the end of data.
            begun = len(content) - _ONE_WRITE_BYTES
            await self._send_bulk(transaction, content, begun, deadline)
            if self._events or self._read_error or self._write_error or await self.has_unasked():
                return
        owed = self._connection.owed
        piece = transaction.send_content(content[begun:] if begun else content)
        end = transaction.end_content()
        await self._write(piece + end, owed, deadline, content_bytes=len(piece))
        if self._write_error is not None:
            self._take_back(transaction)

    async def _send_bulk(self, transaction: Transaction, content: bytes, until: int, deadline: Deadline) -> None:
        """Write the content up to `until`, reading meanwhile: a server may refuse early, and then stop reading."""
        view = memoryview(content)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read_meanwhile, tasks.cancel_scope)
            for begun in range(0, until, _PIECE_BYTES):
                if not self._connection.wants_content:  # refused, and the reader could not stop us in time
                    break
                data = transaction.send_content(bytes(view[begun : min(begun + _PIECE_BYTES, until)]))
                self._trace_flight(self._connection.owed, len(data))
                await self._send(data, deadline)
                if self._write_error is not None:
                    break
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()

    # Octets and time

    async def _write(self, data: bytes, owed: int, deadline: Deadline, *, content_bytes: int = 0) -> None:
        """Write one flight; if that fails, what the server said before is still read (rule R24).

        Args:
            data: the octets.
            owed: how many replies were owed before the commands in `data`.
            deadline: of the whole call.
            content_bytes: octets of content in `data`.
        """
        self._trace_flight(owed, content_bytes)
        if self._connection.owed > _MAX_REPLIES_UNREAD:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._read_meanwhile, tasks.cancel_scope)
                await self._send(data, deadline)
                tasks.cancel_scope.cancel()
        else:
            await self._send(data, deadline)

    async def _send(self, data: bytes, deadline: Deadline) -> None:
        deadline.arm(self._timeouts.data_block, "the server does not take what is written", "content")
        try:
            await self._stream.send(data)
        except ConnectionLost as error:
            self._write_error = error

    async def _read_meanwhile(self, writing: anyio.CancelScope) -> None:
        """Keep what arrives while we write; stop the writing once it is of no more use."""
        connection = self._connection
        try:
            while True:
                data = await self._stream.receive()
                connection.receive_data(data)
                while (event := connection.next_event()) is not None:
                    self._events.append(event)
                if not data or connection.state in (State.CLOSING, State.CLOSED):
                    break
        except (ConnectionLost, RemoteProtocolError) as error:
            self._read_error = error
        writing.cancel()

    async def next_event(self, deadline: Deadline) -> Event:
        """Return the next event, in order, waiting for it within its own time (rule R7)."""
        connection = self._connection
        event = self._events.popleft() if self._events else connection.next_event()
        if event is None:
            if self._read_error is not None:
                raise self._read_error
            # From here, whatever arrives: octets of a reply that does not end do not move its deadline.
            self._arm_for_reply(deadline)
            while event is None:
                connection.receive_data(await self._stream.receive())
                event = connection.next_event()
        if isinstance(event, Replied):
            self._replies.append(event)
            if self._tracer.is_on:
                self._tracer(ReplyReceived(connection=self.number, command=str(event.command), reply=event.reply))
        elif self._tracer.is_on and isinstance(event, (ServiceClosing, ContentRefused)):
            self._tracer(ReplyReceived(connection=self.number, command=None, reply=event.reply))
        return event

    def _arm_for_reply(self, deadline: Deadline) -> None:
        command = self._connection.awaiting
        if command is None:
            deadline.arm(self._timeouts.command, "the server began a reply nobody asked for", "command")
        else:
            rule = RULES[type(command)]
            seconds: float = getattr(self._timeouts, rule.timeout)
            deadline.arm(seconds, f"no reply to {rule.verb} within {seconds:g} s", rule.phase)

    def _trace_flight(self, owed: int, content_bytes: int = 0) -> None:
        if self._tracer.is_on:
            commands = tuple(str(command) for command in self._connection.pending[owed:])
            self._tracer(FlightSent(connection=self.number, commands=commands, content_bytes=content_bytes))

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
            self._tracer(ConnectionClosedEvent(connection=self.number, reason=reason))
