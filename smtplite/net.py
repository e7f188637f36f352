"""The floor: a non-blocking socket over ``anyio.wait_readable`` and ``wait_writable``, on every event loop.

One job, although long: the one place where the network's libraries are called and where their errors become ours. It
opens connections, moves bytes and speaks TLS, and whoever takes one of these away takes its errors along.

`recv` and `send` are tried first, and waited for only if the kernel has nothing or takes nothing. So a reply that
arrived before a reset is never lost, a cancelled send goes no further than what the kernel took, and nothing is
registered with an event loop while nobody waits; but for a socket between `watch` and `rest`, while a session runs.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import re
import select
import socket
import ssl
import struct
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, TypeGuard

import anyio
import anyio.abc
from anyio.streams import tls as tls_streams

from smtplite.callbacks import result_of
from smtplite.errors import ConfigurationError, ConnectError, ConnectionLost, TLSError, TransportError

if TYPE_CHECKING:
    import asyncio

__all__ = [
    "MAX_RECEIVE_BYTES",
    "ForeignStream",
    "Meanwhile",
    "SocketStream",
    "Stream",
    "TLSStream",
    "connect_foreign",
    "connect_tcp",
    "connect_unix",
]

#: The most that one `receive` returns.
MAX_RECEIVE_BYTES: Final = 65_536
#: The head start that each address has over the next: RFC 8305 5, "Connection Attempt Delay".
_ATTEMPT_DELAY_SECONDS: Final = 0.25
#: Between tries to connect to a Unix socket whose queue is full: nothing tells when it has room again.
_UNIX_RETRY_SECONDS: Final = 0.02
#: A write to a foreign stream of no more than this many octets has this long to finish before somebody reads meanwhile.
_FLIGHT_BYTES: Final = 65_536
_PATIENCE_SECONDS: Final = 0.05
#: A piece of a large write: as much as a kernel takes at once, so that nothing larger is copied.
_SEND_PIECE_BYTES: Final = 1 << 20

#: TLS records (RFC 8446 5): the text of a full one, and the most that any cipher adds.
_MAX_RECORD_BYTES: Final = 16_384
_MAX_RECORD_OVERHEAD_BYTES: Final = 320

#: Close at once, with a reset: struct linger of socket(7).
_LINGER_RESET: Final = struct.pack("ii", 1, 0)

_logger: Final = logging.getLogger("smtplite")

_Address = tuple[socket.AddressFamily, Any]

#: What runs while a write has to wait: a reader, which cancels the scope it is given once writing is of no more use.
Meanwhile = Callable[[anyio.CancelScope], Coroutine[Any, Any, None]]


class Stream(Protocol):
    """What a session needs of a connection."""

    @property
    def unsent(self) -> int:
        """Octets at the end of the last `send` that the kernel (or the stream below) has not taken."""

    async def send(self, data: bytes, meanwhile: Meanwhile | None = None) -> None:
        """Write all of `data`, or as much as there is when `meanwhile` ends it.

        Args:
            data: the octets.
            meanwhile: runs as long as the other side takes nothing.

        Raises:
            ConnectionLost: the connection failed; `unsent` says how much was not taken.
            TLSError: TLS did.
        """

    async def receive(self) -> bytes:
        """Return what has arrived, waiting if nothing has; b"" once the server closed its side.

        Raises:
            ConnectionLost: the connection failed.
            TLSError: TLS did, as by an alert of the server's.
        """

    async def look(self) -> bytes | None:
        """Return what has arrived, without waiting; b"" once the server closed its side; None if nothing is there.

        Raises:
            TLSError: TLS failed, as by an alert of the server's.
        """

    def watch(self) -> None:
        """Say that much will be received from now on, until `rest`: the event loop may watch without a break."""

    def rest(self) -> None:
        """Say that nothing will be received for a while: nothing of this is left with an event loop."""

    def is_stale(self) -> bool:
        """Return True if anything arrived, or ended, while the connection was idle."""

    def abort(self) -> None:
        """Close at once, without await and without a word to the server; octets not yet taken are never sent."""

    def close(self) -> None:
        """Close our end, and nothing more: after a fork the connection is still the parent's."""

    async def aclose(self) -> None:
        """Close; never raises."""

    @property
    def local_address(self) -> str | None:
        """The IP address of our end, if it has one."""


class SocketStream:
    """A connected, non-blocking stream socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            # Flights are composed by us: the kernel must not hold one back to wait for more.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self.unsent = 0
        self._is_watched = False  # between `watch` and `rest`
        self._watch: _Watch | None = None  # there from the first wait on, on event loops that can

    async def send(self, data: bytes, meanwhile: Meanwhile | None = None) -> None:
        """Write all of `data`; see `Stream.send`."""
        self.unsent = len(data)
        if self._try_send(data):
            return
        if meanwhile is None:
            await self._send_rest(data)
        else:
            await _send_while(self._send_rest(data), meanwhile)

    def _try_send(self, data: bytes) -> bool:
        """Give the kernel what it takes without waiting; return True if that is all."""
        try:
            if len(data) <= _SEND_PIECE_BYTES:
                self.unsent -= self._socket.send(data)
        except BlockingIOError:
            pass
        except OSError as error:
            _fail(error)
        return not self.unsent

    async def _send_rest(self, data: bytes) -> None:
        sock = self._socket
        view = memoryview(data)
        try:
            while self.unsent:
                start = len(data) - self.unsent
                try:
                    self.unsent -= sock.send(view[start : start + _SEND_PIECE_BYTES])
                except BlockingIOError:
                    await anyio.wait_writable(sock)
        except (OSError, anyio.ClosedResourceError) as error:
            _fail(error)

    async def receive(self) -> bytes:
        """Return what has arrived; see `Stream.receive`."""
        watch = self._watch
        if watch is not None and not self._is_watched and not watch.has_arrived:
            watch = self._watch = None
        try:
            while True:
                try:
                    return self._socket.recv(MAX_RECEIVE_BYTES) if watch is None else watch.take()
                except BlockingIOError:
                    if watch is None and self._is_watched:
                        watch = self._watch = _begin_watch(self._socket)
                    if watch is None:
                        await anyio.wait_readable(self._socket)
                    else:
                        await watch.wait()
        except (OSError, anyio.ClosedResourceError) as error:
            _fail(error)

    async def look(self) -> bytes | None:
        """Return what has arrived, or None; see `Stream.look`."""
        try:
            return self._socket.recv(MAX_RECEIVE_BYTES) if self._watch is None else self._watch.take()
        except BlockingIOError:
            return None
        except OSError:  # the next receive says it
            return b""

    def watch(self) -> None:
        """Have the event loop watch without a break, if it is one that can; see `Stream.watch`."""
        self._is_watched = True

    def rest(self) -> None:
        """Leave nothing with an event loop; see `Stream.rest`."""
        self._is_watched = False
        watch = self._watch
        if watch is not None:
            watch.stop()
            if not watch.has_arrived:
                self._watch = None

    def is_stale(self) -> bool:
        """Return True if anything arrived, or ended; see `Stream.is_stale`."""
        if self._watch is not None and self._watch.has_arrived:
            return True
        descriptor = self._socket.fileno()
        if descriptor < 0:
            return True
        if not hasattr(select, "poll"):  # Windows
            return bool(select.select([descriptor], [], [], 0)[0])
        poll = select.poll()
        poll.register(descriptor, select.POLLIN | getattr(select, "POLLRDHUP", 0))
        return bool(poll.poll(0))

    def abort(self) -> None:
        """Close at once; see `Stream.abort`."""
        if self._socket.fileno() < 0:
            return
        try:
            # A reset in place of an orderly end: what the kernel still holds is not sent either.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        except OSError:  # the peer's reset came first (macOS): nothing is left to discard
            pass
        self.close()

    async def aclose(self) -> None:
        """Close; see `Stream.aclose`."""
        self.close()

    def close(self) -> None:
        """Close our end; see `Stream.close`."""
        if self._socket.fileno() >= 0:
            if self._watch is not None:
                self._watch.close()
                self._watch = None
            try:
                # Wakes whoever waits on the socket; on a closed descriptor they would wait for ever.
                anyio.notify_closing(self._socket)
            except RuntimeError:
                pass  # no event loop is running here, so nobody waits
            self._socket.close()

    @property
    def local_address(self) -> str | None:
        """The IP address of our end; None for a Unix socket."""
        if self._socket.family not in (socket.AF_INET, socket.AF_INET6) or self._socket.fileno() < 0:
            return None
        try:
            return str(self._socket.getsockname()[0])
        except OSError:
            return None


class _Watch:
    """A socket that an asyncio event loop watches without a break, and what has arrived on it.

    To begin and end that for each wait, as anyio must, costs as much as all else about a message. The callback reads:
    then there is nothing more to be read when whoever waits has its turn. What it read is kept until it is taken: a
    cancelled wait loses nothing.

    Args:
        sock: connected, non-blocking.
        loop: it runs here.
    """

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self._socket = sock
        self._loop = loop
        self._process = os.getpid()
        self._is_watching = False
        self._waiter: asyncio.Future[None] | None = None
        self._arrived: bytes | OSError | None = None

    @property
    def has_arrived(self) -> bool:
        """True if something was read that nobody has taken."""
        return self._arrived is not None

    def take(self) -> bytes:
        """Return what has arrived.

        Raises:
            BlockingIOError: nothing has.
            OSError: the connection failed.
        """
        arrived = self._arrived
        if arrived is None:
            return self._socket.recv(MAX_RECEIVE_BYTES)
        self._arrived = None
        if isinstance(arrived, OSError):
            raise arrived
        return arrived

    async def wait(self) -> None:
        """Wait until something may have arrived.

        Raises:
            anyio.ClosedResourceError: the socket was closed meanwhile.
            anyio.BusyResourceError: somebody else waits.
        """
        if self._waiter is not None:
            raise anyio.BusyResourceError("reading from")
        if not self._is_watching:
            self._loop.add_reader(self._socket, self._read)
            self._is_watching = True
        waiter = self._waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    def _read(self) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():  # nobody waits: it stays in the kernel
            self.stop()
            return
        try:
            self._arrived = self._socket.recv(MAX_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._arrived = error
        waiter.set_result(None)

    def stop(self) -> None:
        """Watch no more, until somebody waits again."""
        # In the child of a fork it is still the parent's event loop that watches.
        if self._is_watching and self._process == os.getpid():
            self._loop.remove_reader(self._socket)
        self._is_watching = False

    def close(self) -> None:
        """Watch no more, and say so to whoever waits; the socket is about to be closed."""
        self.stop()
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_exception(anyio.ClosedResourceError())


def _begin_watch(sock: socket.socket) -> _Watch | None:
    """Return a watch on the socket if the event loop is one of the standard library's that can.

    Not uvloop, which stops watching at the first error: a reset behind octets that are still unread was waited for for
    ever.
    """
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:  # nor is it loaded for this
        return None
    try:
        task = asyncio.current_task()
    except RuntimeError:  # on trio
        return None
    if task is None:  # a callback, or trio as a guest
        return None
    loop = task.get_loop()
    return _Watch(sock, loop) if isinstance(loop, asyncio.SelectorEventLoop) else None


async def _send_while(sending: Coroutine[Any, Any, None], meanwhile: Meanwhile, patience: float = 0) -> None:
    """Run both, `meanwhile` after some seconds of patience, until the first of them ends the other."""
    failures: list[ConnectionLost] = []

    async def run() -> None:
        if patience:
            await anyio.sleep(patience)
        await meanwhile(tasks.cancel_scope)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        try:
            await sending
        except ConnectionLost as error:  # what left a task group would come out of it as an ExceptionGroup
            failures.append(error)
        tasks.cancel_scope.cancel()
    if failures:
        raise failures[0]


class ForeignStream:
    """A stream of the user's, from `Client(connect=...)`: a proxy, a test, anything with anyio's interface."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self._stream = stream
        self._is_closed = False
        self.unsent = 0

    async def send(self, data: bytes, meanwhile: Meanwhile | None = None) -> None:
        """Write all of `data`; a stream that fails does not say how much it took: all of it may be on its way."""
        self.unsent = 0
        if meanwhile is None:
            await self._send(data)
        else:  # it does not tell whether it waits, either
            await _send_while(self._send(data), meanwhile, 0 if len(data) > _FLIGHT_BYTES else _PATIENCE_SECONDS)

    async def _send(self, data: bytes) -> None:
        try:
            await self._stream.send(data)
        except Exception as error:  # noqa: BLE001 (whatever a stream of the user's raises, the connection is gone)
            _fail(error)

    async def receive(self) -> bytes:
        """Return what has arrived; see `Stream.receive`."""
        try:
            data: object = await self._stream.receive(MAX_RECEIVE_BYTES)
        except anyio.EndOfStream:
            return b""
        except Exception as error:  # noqa: BLE001 (whatever a stream of the user's raises, the connection is gone)
            _fail(error)
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise ConnectionLost(f"connection lost: receive() of connect='s stream returned {type(data).__name__}")
        return bytes(data)

    async def look(self) -> bytes | None:
        """Return None: anyio's interface cannot tell without waiting."""
        return None

    def watch(self) -> None:
        """How it waits is its own affair."""

    def rest(self) -> None:
        """How it waits is its own affair."""

    def is_stale(self) -> bool:
        """Ask the stream's own ``is_readable()``, where it has one."""
        if self._is_closed:
            return True
        is_readable: Callable[[], bool] | None = getattr(self._stream, "is_readable", None)
        try:
            return is_readable is not None and is_readable()
        except Exception:  # noqa: BLE001 (what cannot tell is of no use)
            return True

    def abort(self) -> None:
        """Use the stream's own ``abort()``, where it has one; `aclose` does the rest."""
        self._is_closed = True
        abort: Callable[[], None] | None = getattr(self._stream, "abort", None)
        if abort is not None:
            abort()

    def close(self) -> None:
        """Never use it again; `aclose` does the rest."""
        self._is_closed = True

    async def aclose(self) -> None:
        """Close by force: whatever the stream would like to say or wait for."""
        self._is_closed = True
        try:
            await anyio.aclose_forcefully(self._stream)
        except Exception:
            _logger.debug("closing a stream of connect= failed", exc_info=True)

    @property
    def local_address(self) -> str | None:
        """Whatever the stream says of its own end."""
        try:
            address = self._stream.extra(anyio.abc.SocketAttribute.local_address, None)
        except Exception:  # noqa: BLE001 (a stream that cannot tell has no address)
            return None
        return str(address[0]) if isinstance(address, tuple) and address else None


class _Ciphertext(anyio.abc.ByteStream):
    """The side of a stream that anyio's TLS writes to and reads from; its errors are kept from anyio.

    anyio takes a write that failed for the end of reading, too. What the server said before it closed would be lost.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._lock: anyio.Lock | None = None  # exists only while somebody writes: it belongs to an event loop
        self._meanwhile: Meanwhile | None = None
        #: True once octets of the last write, encrypted, were given to the stream below.
        self.has_begun = True
        self.is_looking = False
        #: The first octets that came: what they are tells a server that speaks something else.
        self.first = b""
        self.write_error: ConnectionLost | None = None
        self._reading: anyio.Event | None = None

    def begin_send(self, meanwhile: Meanwhile | None) -> None:
        """Say that what is written next is the caller's; `meanwhile` runs while it waits."""
        self._meanwhile = meanwhile
        self.has_begun = False

    async def send(self, item: bytes) -> None:
        meanwhile, self._meanwhile = self._meanwhile, None  # what TLS itself has to say is short
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
            return b""  # somebody else read: look again at what TLS has now
        else:
            reading = self._reading = anyio.Event()
            try:
                data = await self._stream.receive()
            finally:
                self._reading = None
                reading.set()
        if not data:
            raise anyio.EndOfStream
        if len(self.first) < _SHOWN_BYTES:
            self.first += data[:_SHOWN_BYTES]
        return data

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        await self._stream.aclose()


class TLSStream:
    """TLS, verified, over another stream."""

    def __init__(
        self, stream: Stream, ciphertext: _Ciphertext, tls: tls_streams.TLSStream, *, is_verified: bool
    ) -> None:
        self._stream = stream
        self._ciphertext = ciphertext
        self._tls = tls
        #: True if the server's certificate was verified, and that it names the server (rule R29).
        self.is_verified = is_verified
        self._failure: TLSError | None = None  # what ended TLS: it is told once, by whatever meets it first
        self._object = tls.extra(tls_streams.TLSAttribute.ssl_object)
        self._length = 0  # of what is being sent, or was last

    @classmethod
    async def wrap(cls, stream: Stream, context: ssl.SSLContext, hostname: str, *, is_first: bool = True) -> TLSStream:
        """Do the handshake, and verify that the server is `hostname`.

        Args:
            stream: connected.
            context: what to trust, and what to show.
            hostname: whom the certificate must name.
            is_first: nothing was said in clear before it: not after STARTTLS.

        Raises:
            TLSError: it failed; says why. The stream is of no further use.
            ConnectionLost: the connection ended meanwhile.
        """
        ciphertext = _Ciphertext(stream)
        # What this handshake holds to; the caller may change the context for the next.
        is_verified = context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
        try:
            tls = await tls_streams.TLSStream.wrap(
                ciphertext, server_side=False, hostname=hostname, ssl_context=context, standard_compatible=False
            )
        except (ssl.SSLError, anyio.EndOfStream, anyio.BrokenResourceError, OSError) as error:
            failure = _handshake_failure(error, ciphertext, hostname, is_first=is_first)
            raise failure from failure.__cause__
        except (ValueError, TypeError) as error:  # a hostname that the context cannot check, or a context of one's own
            raise TLSError(f"TLS handshake failed: {error}", phase="tls") from error
        return cls(stream, ciphertext, tls, is_verified=is_verified)

    @property
    def unsent(self) -> int:
        """Octets that certainly did not leave: a record that is not whole cannot be read."""
        if not self._ciphertext.has_begun:  # it never came so far: nothing of it left
            return self._length
        unsent = self._stream.unsent
        if not unsent:
            return 0
        # What the kernel did not take is ciphertext; some of it is what TLS adds to each record.
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
        """Raise what ended the connection: an alert, whatever comes behind it."""
        if self._failure is None:
            failure = _failure(error)
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
        except ConnectionLost:  # the next receive says it
            return b""
        finally:
            self._ciphertext.is_looking = False

    def watch(self) -> None:
        """Do nothing: beside what TLS costs, it would be nothing."""

    def rest(self) -> None:
        """Do nothing; see `watch`."""

    def is_stale(self) -> bool:
        """Return True if anything arrived, or ended; also inside a record that was already taken off the socket."""
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
        """Close, without close_notify: nothing is owed, and a server may take its time over it."""
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


# Errors of the system and of other libraries become ours here


def _fail(error: Exception) -> NoReturn:
    failure = _failure(error)
    raise failure from failure.__cause__


def _failure(error: BaseException) -> ConnectionLost | TLSError:
    """Return what ended an established connection, with its cause (rule R30)."""
    if isinstance(error, (ConnectionLost, TLSError)):
        return error
    inner = error.__cause__ if isinstance(error, anyio.BrokenResourceError) and error.__cause__ else error
    if isinstance(inner, (ConnectionLost, TLSError)):
        return inner
    failure: ConnectionLost | TLSError
    if _is_of_tls(inner):
        failure = TLSError(_tls_reason(inner, "TLS failed"))
    else:
        failure = ConnectionLost(f"connection lost: {_reason(inner)}")
    failure.__cause__ = error
    return failure


def _reason(error: BaseException) -> str:
    """Return what an error says of itself.

    Its number is no help: those of `ssl.SSLError` and `socket.gaierror` are not the system's, and look like them.
    """
    text = error.strerror if isinstance(error, OSError) else None
    return text or str(error) or type(error).__name__


#: What the connection's end looks like through TLS.
_ENDS_OF_TLS: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


def _is_of_tls(error: BaseException) -> TypeGuard[ssl.SSLError]:
    return (
        isinstance(error, ssl.SSLError)
        and not isinstance(error, _ENDS_OF_TLS)
        and "UNEXPECTED_EOF" not in _ssl_reason(error)
    )


def _ssl_reason(error: ssl.SSLError) -> str:
    """Return OpenSSL's name of the error, such as WRONG_VERSION_NUMBER; one made by hand has none."""
    return getattr(error, "reason", None) or ""


#: An alert (RFC 8446 6) as OpenSSL names it, such as TLSV13_ALERT_CERTIFICATE_REQUIRED or TLSV1_UNRECOGNIZED_NAME.
_ALERT: Final = re.compile(r"(?:SSLV3|TLSV1|TLSV13|SSL/TLS)_(?:ALERT_)?(\w+)")
_WANTS_A_CERTIFICATE: Final = "it wants a client certificate, pass tls_context= with one (load_cert_chain)"
_REFUSES_THE_CERTIFICATE: Final = "it does not take our client certificate, check the one in tls_context="
#: What to do about an alert, by its name.
_REMEDIES: Final = {
    "certificate required": _WANTS_A_CERTIFICATE,
    "no certificate": _WANTS_A_CERTIFICATE,
    "unknown ca": _REFUSES_THE_CERTIFICATE,
    "bad certificate": _REFUSES_THE_CERTIFICATE,
    "unsupported certificate": _REFUSES_THE_CERTIFICATE,
    "certificate revoked": _REFUSES_THE_CERTIFICATE,
    "certificate expired": _REFUSES_THE_CERTIFICATE,
    "certificate unknown": _REFUSES_THE_CERTIFICATE,
    "access denied": _REFUSES_THE_CERTIFICATE,
    "handshake failure": "both sides have no cipher in common, or it wants a client certificate (tls_context=)",
    "protocol version": "both sides have no version of TLS in common, see tls_context=",
    "unrecognized name": "it knows no server of that name, see hostname and tls_hostname=",
}


def _tls_reason(error: ssl.SSLError, what: str) -> str:
    """Say what went wrong in TLS: the server's alert by its name, else what OpenSSL says."""
    reason = _ssl_reason(error)
    alert = _ALERT.fullmatch(reason)
    if alert is None:
        return f"{what}: {reason.lower().replace('_', ' ') or _reason(error)}"
    name = alert[1].lower().replace("_", " ")
    return f'{what}: server sent the alert "{name}"{": " if name in _REMEDIES else ""}{_REMEDIES.get(name, "")}'


# X509_V_ERR_... of OpenSSL's x509_vfy.h
_WRONG_NAME: Final = (62, 63, 64)
_EXPIRED: Final = 10
_NOT_YET_VALID: Final = 9
_UNKNOWN_ISSUER: Final = (2, 18, 19, 20, 21, 27)


def _certificate_reason(error: ssl.SSLCertVerificationError, hostname: str) -> str:
    """Say what is wrong with the server's certificate, and what to do about it."""
    says = error.verify_message.removesuffix(".")
    if error.verify_code in _WRONG_NAME:
        return (
            f"server's certificate is not valid for {hostname}: {says}; connect by a name that it has, "
            "or pass that one as tls_hostname="
        )
    if error.verify_code in _UNKNOWN_ISSUER:
        return (
            f"server's certificate has an issuer that is not trusted: {says}; "
            "if it should be, pass tls_context= that trusts its CA (on the command line: --ca)"
        )
    if error.verify_code == _EXPIRED:
        return f"server's certificate, or one above it, has expired: {says}; its operator must renew it"
    if error.verify_code == _NOT_YET_VALID:
        return f"server's certificate is not yet valid: {says}; check the clock of this machine"
    return f"server's certificate was not accepted: {says}"


#: What the first octet of a TLS record says: an alert, or a handshake (RFC 8446 5.1).
_RECORDS_AT_FIRST: Final = (0x15, 0x16)
_CLEAR_GREETING: Final = re.compile(rb"[2-5][0-9][0-9](?:[- ]|$)")
_SHOWN_BYTES: Final = 80


def _handshake_failure(
    error: Exception, ciphertext: _Ciphertext, hostname: str, *, is_first: bool
) -> ConnectionLost | TLSError:
    """Return why there is no TLS, with its cause."""
    first = ciphertext.first[:_SHOWN_BYTES]
    failure: ConnectionLost | TLSError
    if first and first[0] not in _RECORDS_AT_FIRST:
        said = first.partition(b"\n")[0].rstrip(b"\r")
        if not is_first:
            why = f"server answered {said!r} unencrypted after its 220 to STARTTLS"
        elif _CLEAR_GREETING.match(said):
            why = f'server speaks SMTP without TLS here, it said {said!r}: pass tls="starttls", or another port'
        else:
            why = f"server does not speak TLS here, it said {said!r}: check the port"
        failure = TLSError(f"TLS handshake failed: {why}")
    elif isinstance(error, ssl.SSLCertVerificationError):
        failure = TLSError(_certificate_reason(error, hostname))
    elif _is_of_tls(error):
        failure = TLSError(_tls_reason(error, "TLS handshake failed"))
    else:
        cause: BaseException = ciphertext.write_error or error.__cause__ or error
        ended = isinstance(cause, (anyio.EndOfStream, *_ENDS_OF_TLS))
        failure = ConnectionLost(
            "connection lost in the TLS handshake: "
            + ("server closed it" if ended else _reason(cause).removeprefix("connection lost: "))
        )
        failure.__cause__ = cause
    failure.phase = "tls"
    failure.__cause__ = failure.__cause__ or error
    return failure


# Connecting


async def connect_tcp(host: str, port: int, source_address: tuple[str, int] | None = None) -> SocketStream:
    """Connect to the first of the host's addresses that answers, each tried a moment after the one before (RFC 8305).

    Raises:
        ConnectError: no address could be connected to.
    """
    addresses = _reachable_from(source_address, await _resolve(host, port), host)
    errors: list[OSError] = []
    winners: list[socket.socket] = []

    async def attempt(address: _Address, failed: anyio.Event) -> None:
        try:
            winners.append(await _connect(address, source_address))
            tasks.cancel_scope.cancel()
        except OSError as error:
            errors.append(error)
            failed.set()

    try:
        if len(addresses) == 1:  # no race to run
            winners.append(await _connect(addresses[0], source_address))
        else:
            async with anyio.create_task_group() as tasks:
                for address in addresses:
                    failed = anyio.Event()
                    tasks.start_soon(attempt, address, failed)
                    with anyio.move_on_after(_ATTEMPT_DELAY_SECONDS):
                        await failed.wait()
        if not winners:
            raise errors[0]
        return SocketStream(winners.pop(0))
    except OSError as error:
        raise _refused(f"{host}:{port}", error) from error
    finally:  # two at the same moment, or cancelled from outside at that moment
        for sock in winners:
            sock.close()


async def connect_unix(path: str) -> SocketStream:
    """Connect to a Unix socket.

    Raises:
        ConnectError: it cannot be connected to.
    """
    try:
        return SocketStream(await _connect((socket.AF_UNIX, path), None))
    except OSError as error:
        raise _refused(path, error) from error


async def connect_foreign(connect: Callable[[], Awaitable[anyio.abc.ByteStream]]) -> ForeignStream:
    """Ask the user's function for a stream.

    Raises:
        ConnectError: it failed with an error of the network; its other errors pass as they are.
        TLSError: it failed with an error of TLS.
        ConfigurationError: what it returned is no stream.
    """
    try:
        stream = await result_of("connect=", connect())
    except TransportError:
        raise
    except ssl.SSLError as error:
        if _is_of_tls(error):
            raise TLSError(_tls_reason(error, "connect= failed"), phase="connect") from error
        raise ConnectError(f"connect= failed: {_reason(error)}", phase="connect") from error
    except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream) as error:
        raise ConnectError(f"connect= failed: {str(error) or type(error).__name__}", phase="connect") from error
    if isinstance(stream, type):
        raise ConfigurationError("connect= returned a class, not a stream: call it")
    for method in ("send", "receive", "aclose"):
        if not callable(getattr(stream, method, None)):
            raise ConfigurationError(
                f"connect= returned {type(stream).__name__}, which has no {method}(): return an anyio.abc.ByteStream"
            )
    return ForeignStream(stream)


async def _resolve(host: str, port: int) -> list[_Address]:
    """Return the host's addresses, the families in turn (RFC 8305 4)."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:
            found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise ConnectError(f"cannot resolve {host}: {_reason(error)}", phase="connect") from error
    else:  # nothing to look up, so nothing to wait for in a thread
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)  # type: ignore[assignment]
        except OSError as error:  # its zone is no interface of this host
            raise ConnectError(f"cannot resolve {host}: {_reason(error)}", phase="connect") from error
    addresses = [(family, sockaddr) for family, _, _, _, sockaddr in found]
    first = [address for address in addresses if address[0] == addresses[0][0]]
    others = [address for address in addresses if address[0] != addresses[0][0]]
    mixed: list[_Address] = []
    while first or others:
        mixed += first[:1] + others[:1]
        del first[:1], others[:1]
    return mixed


def _reachable_from(source_address: tuple[str, int] | None, addresses: list[_Address], host: str) -> list[_Address]:
    """Return the addresses of the family that we connect from, if one was chosen."""
    if source_address is None or not source_address[0]:
        return addresses
    family = socket.AF_INET6 if ":" in source_address[0] else socket.AF_INET
    reachable = [address for address in addresses if address[0] == family]
    if not reachable:
        name = "IPv6" if family == socket.AF_INET6 else "IPv4"
        raise ConnectError(
            f"cannot connect to {host}: it has no {name} address, and source_address has", phase="connect"
        )
    return reachable


async def _connect(address: _Address, source_address: tuple[str, int] | None) -> socket.socket:
    family, sockaddr = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if source_address is not None:
            _bind(sock, source_address)
        code = sock.connect_ex(sockaddr)
        if sys.platform != "win32":
            while code == errno.EAGAIN and family == socket.AF_UNIX:  # its queue is full, and nothing is in progress
                await anyio.sleep(_UNIX_RETRY_SECONDS)
                code = sock.connect_ex(sockaddr)
        if code in (errno.EINPROGRESS, errno.EINTR) or (sys.platform == "win32" and code == errno.EWOULDBLOCK):
            await anyio.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock


def _bind(sock: socket.socket, source_address: tuple[str, int]) -> None:
    try:
        sock.bind(source_address)
    except OSError as error:
        host, port = source_address
        raise OSError(error.errno, f"source_address ({host!r}, {port}) cannot be used: {_reason(error)}") from error


def _refused(server: str, error: OSError) -> ConnectError:
    return ConnectError(f"cannot connect to {server}: {_reason(error)}", phase="connect")
