"""TLSStream: TLS, verified, over another stream."""

from __future__ import annotations

import ssl
from typing import Any, Final, NoReturn

import anyio
import anyio.abc
from anyio.streams import tls as tls_streams

from smtplite.errors import ConnectionLost, TLSError
from smtplite.net.failures import SHOWN_BYTES, failure_of, handshake_failure
from smtplite.net.stream import MAX_RECEIVE_BYTES, Meanwhile, Stream

__all__ = ["TLSStream"]

#: TLS records (RFC 8446 5): the text of a full one, and the most that any cipher adds.
_MAX_RECORD_BYTES: Final = 16_384
_MAX_RECORD_OVERHEAD_BYTES: Final = 320


class Ciphertext(anyio.abc.ByteStream):
    """The side of a stream that anyio's TLS writes to and reads from. It hides write errors from anyio.

    anyio stops reading as well when a write fails. Then what the server said before it closed would be lost.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._lock: anyio.Lock | None = None  # exists only during a write: it belongs to an event loop
        self._meanwhile: Meanwhile | None = None
        #: True once bytes of the last write, encrypted, were given to the stream below.
        self.has_begun = True
        self.is_looking = False
        #: The first bytes that arrived: they show whether the server speaks something else.
        self.first = b""
        self.write_error: ConnectionLost | None = None
        self._reading: anyio.Event | None = None

    def begin_send(self, meanwhile: Meanwhile | None) -> None:
        """Say that what is written next is the caller's; `meanwhile` runs while it waits."""
        self._meanwhile = meanwhile
        self.has_begun = False

    async def send(self, item: bytes) -> None:
        meanwhile, self._meanwhile = self._meanwhile, None  # what TLS itself writes is short
        # Records must leave in the order in which they were made. Reading writes too: TLS 1.2 renegotiates, TLS 1.3
        # updates keys.
        lock = self._lock = self._lock or anyio.Lock(fast_acquire=True)
        try:
            async with lock:
                if self.write_error is None:
                    self.has_begun = True
                    await self._stream.send(item, meanwhile)
        except ConnectionLost as error:
            self.write_error = error
        finally:
            if not lock.locked():
                self._lock = None

    async def receive(self, max_bytes: int = MAX_RECEIVE_BYTES) -> bytes:  # noqa: ARG002 (one record is smaller)
        if self.is_looking:
            data = await self._stream.look()
            if data is None:
                raise anyio.WouldBlock
        elif self._reading is not None:
            await self._reading.wait()
            return b""  # another task read: check again what TLS has now
        else:
            reading = self._reading = anyio.Event()
            try:
                data = await self._stream.receive()
            finally:
                self._reading = None
                reading.set()
        if not data:
            raise anyio.EndOfStream
        if len(self.first) < SHOWN_BYTES:
            self.first += data[:SHOWN_BYTES]
        return data

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        await self._stream.aclose()


class TLSStream:
    """TLS, verified, over another stream."""

    def __init__(
        self, stream: Stream, ciphertext: Ciphertext, tls: tls_streams.TLSStream, *, is_verified: bool
    ) -> None:
        self._stream = stream
        self._ciphertext = ciphertext
        self._tls = tls
        #: True if the server's certificate was verified, and its name was checked (rule R29).
        self.is_verified = is_verified
        self._failure: TLSError | None = None  # what ended TLS; found by whichever call meets it first
        self._object = tls.extra(tls_streams.TLSAttribute.ssl_object)
        self._length = 0  # of the current write, or the last one

    @classmethod
    async def wrap(cls, stream: Stream, context: ssl.SSLContext, hostname: str, *, is_first: bool = True) -> TLSStream:
        """Do the handshake, and verify that the server is `hostname`.

        Args:
            stream: connected.
            context: what to trust, and which client certificate to show.
            hostname: the name that the certificate must cover.
            is_first: whether the handshake comes first: nothing was sent unencrypted before. False after STARTTLS.

        Raises:
            TLSError: it failed; says why. The stream cannot be used any more.
            ConnectionLost: the connection ended meanwhile.
        """
        ciphertext = Ciphertext(stream)
        # What holds for this handshake; the caller may change the context before the next one.
        is_verified = context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
        try:
            tls = await tls_streams.TLSStream.wrap(
                ciphertext, server_side=False, hostname=hostname, ssl_context=context, standard_compatible=False
            )
        except (ssl.SSLError, anyio.EndOfStream, anyio.BrokenResourceError, OSError) as error:
            failure = handshake_failure(error, ciphertext.first, ciphertext.write_error, hostname, is_first=is_first)
            raise failure from failure.__cause__
        except (ValueError, TypeError) as error:  # the context cannot check this hostname, or is the user's own class
            raise TLSError(f"TLS handshake failed: {error}", phase="tls") from error
        return cls(stream, ciphertext, tls, is_verified=is_verified)

    @property
    def unsent(self) -> int:
        """How many bytes the server certainly cannot read: it cannot decrypt a record that is not whole."""
        if not self._ciphertext.has_begun:  # the write did not get that far: nothing was sent
            return self._length
        unsent = self._stream.unsent
        if not unsent:
            return 0
        # What the kernel did not accept is ciphertext, which includes what TLS adds to each record.
        return min(self._length, max(1, unsent - _MAX_RECORD_OVERHEAD_BYTES * (unsent // _MAX_RECORD_BYTES + 1)))

    async def send(self, data: bytes, meanwhile: Meanwhile | None = None) -> None:
        """Write all of `data`; see `Stream.send`."""
        ciphertext = self._ciphertext
        self._length = len(data)
        ciphertext.begin_send(meanwhile)
        try:
            await self._tls.send(data)
        except (ssl.SSLError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            self._fail(error)
        if ciphertext.write_error is not None:
            raise ciphertext.write_error

    async def receive(self) -> bytes:
        """Return what has arrived; see `Stream.receive`."""
        try:
            return await self._tls.receive(MAX_RECEIVE_BYTES)
        except anyio.EndOfStream:
            return b""
        except (ssl.SSLError, anyio.BrokenResourceError) as error:
            self._fail(error)

    def _fail(self, error: Exception) -> NoReturn:
        """Raise what ended the connection: an alert, whatever comes after it."""
        if self._failure is None:
            failure = failure_of(error)
            if isinstance(failure, ConnectionLost):
                failure = self._ciphertext.write_error or failure
                raise failure from failure.__cause__
            self._failure = failure
        raise self._failure from self._failure.__cause__

    async def look(self) -> bytes | None:
        """Return what has arrived, or None; see `Stream.look`."""
        self._ciphertext.is_looking = True
        try:
            return await self.receive()
        except anyio.WouldBlock:
            return None
        except ConnectionLost:  # the next receive reports it
            return b""
        finally:
            self._ciphertext.is_looking = False

    def watch(self) -> None:
        """Do nothing: compared with the cost of TLS, it would save nothing."""

    def rest(self) -> None:
        """Do nothing; see `watch`."""

    def is_stale(self) -> bool:
        """Return True if anything arrived, or TLS ended; also in a record that was already read."""
        try:
            self._object.read(1)
        except ssl.SSLWantReadError:
            return self._stream.is_stale()
        except (ssl.SSLError, ValueError):
            pass
        return True

    def abort(self) -> None:
        """Close at once, without close_notify; see `Stream.abort`."""
        self._stream.abort()

    def close(self) -> None:
        """Close our end; see `Stream.close`."""
        self._stream.close()

    async def aclose(self) -> None:
        """Close, without close_notify: nothing is owed, and a server may be slow to answer it."""
        await self._stream.aclose()

    @property
    def local_address(self) -> str | None:
        """The IP address of our end."""
        return self._stream.local_address

    @property
    def version(self) -> str:
        """The protocol's version, such as "TLSv1.3"."""
        return str(self._object.version())

    @property
    def cipher(self) -> str:
        """The cipher suite's name."""
        cipher = self._object.cipher()
        return cipher[0] if cipher else ""

    @property
    def certificate(self) -> dict[str, Any]:
        """The server's certificate as `ssl.SSLSocket.getpeercert` describes it; {} if it was not verified."""
        return dict(self._object.getpeercert() or {})
