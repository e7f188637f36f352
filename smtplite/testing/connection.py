"""One connection of the testing server: its record, and its way from the wire to the protocol half and back.

Bytes as they came from the wire go in, bytes for the wire pile up in `ServedConnection.outgoing`. TLS happens here, so
that a socket and a stream in memory share it. `smtplite.testing.server` and `smtplite.testing.memory`
carry the bytes.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import Literal

import anyio
import anyio.lowlevel

from smtplite.testing.message import Violation
from smtplite.testing.protocol import ServerConnection
from smtplite.testing.script import Hold
from smtplite.testing.tls import TlsServerSide, server_context

__all__ = ["DEFAULT_WAIT_SECONDS", "HeldReply", "ServedConnection", "Waiters", "do_nothing"]

#: Of what a client sent after a reply that is held: from here on nothing more is read.
MAX_WAITING_BYTES = 1_048_576
#: `SMTPServer.wait_for_messages` and `HeldReply.wait` give up after this.
DEFAULT_WAIT_SECONDS = 10.0

#: RFC 8446 section 5.1: the byte that a TLS client begins with.
_TLS_HANDSHAKE_RECORD = 0x16


def do_nothing() -> None:
    """Stand in for a hook that nobody has set."""


class Waiters:
    """Lets tasks wait until something has happened often enough."""

    def __init__(self) -> None:
        self._events: set[anyio.Event] = set()

    def wake(self) -> None:
        """Let the tasks check again."""
        for event in self._events:
            event.set()

    async def wait(self, is_enough: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `is_enough`, at most `timeout` seconds, and say whether it is."""
        with anyio.move_on_after(timeout):
            while not is_enough():
                event = anyio.Event()
                self._events.add(event)
                try:
                    await event.wait()
                finally:
                    self._events.discard(event)
        return is_enough()


class HeldReply(Hold):
    """A reply that the server holds back until `release`, as `SMTPServer.hold` returns it.

    `wait` and `release` are for the event loop of the server; `ThreadedServer.hold` returns one for other threads.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiters = Waiters()

    def reached(self) -> None:
        """Note that a reply is held from now on, and wake those who wait for it."""
        super().reached()
        self._waiters.wake()

    async def wait(self, count: int = 1, *, timeout: float | None = DEFAULT_WAIT_SECONDS) -> None:
        """Wait until the server has reached the reply.

        Args:
            count: how often, over all connections.
            timeout: in seconds; None: wait without limit.

        Raises:
            TimeoutError: it has not, within `timeout`.
        """
        if not await self._waiters.wait(lambda: self.count >= count, timeout):
            raise TimeoutError(f"the server held {self.count} of {count} replies within {timeout} seconds")


def _what_failed(error: ssl.SSLError) -> str:
    return f"TLS failed: {(error.reason or str(error)).replace('_', ' ').lower()}"


class ServedConnection:
    """The record of one connection, and its way from the wire to the protocol half and back.

    A test reads its attributes and may `say` something; `greet` and `receive` are for what carries the bytes.

    Args:
        protocol: the sans-IO half.
        ssl_context: asked for the context when TLS begins.
        is_implicit: whether TLS comes first of all.
        keeps_transcript: whether `transcript` is written.
    """

    def __init__(
        self,
        protocol: ServerConnection,
        ssl_context: Callable[[], ssl.SSLContext] = server_context,
        *,
        is_implicit: bool = False,
        keeps_transcript: bool = True,
    ) -> None:
        #: The sans-IO half.
        self.protocol = protocol
        #: What came from the client ("C") and went to it ("S"), one entry per receive and per send.
        #:
        #: What was inside TLS is written down decrypted, credentials too.
        self.transcript: list[tuple[Literal["C", "S"], bytes]] = []
        #: Whether neither side has ended the connection yet.
        self.is_open = True
        #: Whether it was accepted and is not served yet, because the server has no place for it.
        self.is_waiting = False
        #: Why TLS failed, such as the alert by which the client refused the certificate.
        self.tls_error: ssl.SSLError | None = None
        #: What is still to be sent to the client, as it goes over the wire.
        self.outgoing = bytearray()
        #: Set by what carries the bytes: sends what is in `outgoing`, and the end if the connection is not open.
        self.flush: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint
        #: Set by what carries the bytes: makes sure that `flush` is called soon.
        self.wake: Callable[[], None] = do_nothing
        #: Called when the connection is no longer open.
        self.on_end: Callable[[], None] = do_nothing
        self._keeps_transcript = keeps_transcript
        self._waits_for: Hold | None = None
        self._ssl_context = ssl_context
        self._tls: TlsServerSide | None = None
        self._greets_in_tls = is_implicit
        self._refusal: bytes | None = None  # said instead of a greeting
        self._early = bytearray()  # what the client sent before it was served
        self._is_cut = False

    @property
    def violations(self) -> list[Violation]:
        """The client's mistakes on this connection."""
        return self.protocol.violations

    @property
    def executed_content(self) -> list[bytes]:
        """The lines of content that ran as commands (`ServerConnection.executed_content`)."""
        return self.protocol.executed_content

    @property
    def tls(self) -> str | None:
        """The version of TLS, such as ``TLSv1.3``; None: unencrypted."""
        return self.protocol.tls

    @property
    def authenticated_as(self) -> str | None:
        """Who the client is, by AUTH."""
        return self.protocol.authenticated_as

    @property
    def is_full(self) -> bool:
        """Whether so much waits unread because a reply is held that nothing more should be read."""
        return self.protocol.waiting_bytes >= MAX_WAITING_BYTES

    @property
    def flights(self) -> int:
        """How often the server received something, TLS handshakes not counted."""
        return sum(direction == "C" for direction, _ in self.transcript)

    @property
    def received(self) -> bytes:
        """Everything that the client sent."""
        return b"".join(data for direction, data in self.transcript if direction == "C")

    @property
    def sent(self) -> bytes:
        """Everything that the server sent."""
        return b"".join(data for direction, data in self.transcript if direction == "S")

    def forget(self) -> None:
        """Forget what happened so far; the dialogue goes on."""
        self.transcript.clear()
        self.violations.clear()
        self.executed_content.clear()

    async def say(self, data: bytes, *, close: bool = False) -> None:
        """Say something that nobody asked for, inside TLS if that is where the connection is.

        It is with the client's kernel (in memory: with its stream) when this returns.

        Args:
            data: sent as they are; empty: nothing.
            close: whether the server closes after that.

        Raises:
            RuntimeError: the connection has ended, or is within a TLS handshake.
        """
        if not self.is_open:
            raise RuntimeError("the connection has ended: nothing can be said on it")
        if self._tls is not None and not self._tls.is_established:
            raise RuntimeError("the connection is within a TLS handshake: nothing can be said on it")
        self._put(self.protocol.say(data, close=close))
        await self.flush()

    def greet(self) -> None:
        """Begin the dialogue: say the greeting, or wait for the TLS handshake that comes before it."""
        self.is_waiting = False
        if self._greets_in_tls:
            self._tls = TlsServerSide(self._ssl_context())
        else:
            self._put(self._first_words())
        if self._early:
            early = bytes(self._early)
            self._early.clear()
            self.receive(early)

    def turn_away(self, reply: bytes) -> None:
        """End the dialogue before it begins.

        Args:
            reply: said instead of a greeting, inside TLS if that comes first; empty: the connection ends at once.
        """
        if reply:
            self._refusal = reply
            self.greet()
        else:
            self._put(self.protocol.say(b"", close=True))

    def cut(self) -> None:
        """End the connection at once and without a word, as if the server had been killed."""
        if self.is_open:
            self.is_open = False
            self._is_cut = True
            self._put(self.protocol.feed(b""))  # content that was cut off is not accepted
            self.on_end()
            self.wake()

    def _first_words(self) -> bytes:
        if self._refusal is None:
            return self.protocol.greeting()
        return self.protocol.say(self._refusal, close=True)

    def receive(self, data: bytes, *, unread: bool = False) -> None:
        """Take `data` from the wire (empty: the client's end); the replies are added to `outgoing`.

        Args:
            data: the bytes.
            unread: whether the client sent them before it took all that was in `outgoing`.
        """
        if self.is_waiting:
            self._early += data
            if not data:
                self.cut()
            return
        if self._tls is None or not data:
            if self._tls is not None and self._tls.has_begun and not self._tls.is_established and self.is_open:
                self.protocol.refuse_tls("TLS failed: the client ended the connection within the handshake")
            self._hear(data, unread=unread)
            return
        tls, protocol = self._tls, self.protocol
        if not tls.has_begun and (unread or data[0] != _TLS_HANDSHAKE_RECORD):
            if protocol.begins_tls:
                protocol.feed(data)  # it does nothing but write them down
            else:
                protocol.violate("unencrypted bytes where TLS begins", at="TLS")
        decrypted = tls.receive(data)
        if tls.is_established and protocol.tls is None:
            protocol.tls_established(tls.version, tls.peer)
            if self._greets_in_tls:
                self._put(self._first_words())
                unread = True
        if decrypted:
            self._hear(decrypted, unread=unread)
        self.outgoing += tls.outgoing()
        if tls.error is not None or tls.is_ended:
            self.tls_error = tls.error
            if tls.error is not None:
                protocol.refuse_tls(_what_failed(tls.error))
            self._hear(b"")

    def _hear(self, data: bytes, *, unread: bool = False) -> None:
        if data and self._keeps_transcript:
            self.transcript.append(("C", data))
        self._put(self.protocol.feed(data, unread=unread))

    def _put(self, data: bytes) -> None:
        if data:
            if self._keeps_transcript:
                self.transcript.append(("S", data))
            self.outgoing += data if self._tls is None else self._tls.send(data)
        if self.protocol.begins_tls and self._tls is None:
            self._tls = TlsServerSide(self._ssl_context())
        if self.protocol.closing and self.is_open:
            self.is_open = False
            if self._tls is not None:
                self.outgoing += self._tls.alert() if self.protocol.alerts else self._tls.close()
            self.on_end()
        hold = self.protocol.held_by
        if hold is not None and hold is not self._waits_for:
            self._waits_for = hold
            hold.on_release(self._resume)

    def _resume(self) -> None:
        self._waits_for = None
        if self._is_cut:
            return
        self._put(self.protocol.resume())
        self.wake()
