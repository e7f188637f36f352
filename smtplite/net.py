"""The floor: a non-blocking socket over ``anyio.wait_readable`` and ``wait_writable``, on every event loop.

One job, although long: the one place where the network's libraries are called and where their errors become ours. It
opens connections, moves bytes and speaks TLS, and whoever takes one of these away takes its errors along.

`recv` and `send` are tried first, and waited for only if the kernel has nothing or takes nothing. So a reply that
arrived before a reset is never lost, a cancelled send goes no further than what the kernel took, and nothing is
registered with an event loop while nobody waits.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import select
import socket
import ssl
import struct
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Protocol

import anyio
import anyio.abc
from anyio.streams import tls as tls_streams

from smtplite.errors import ConnectError, ConnectionLost, TLSError

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
        """

    async def receive(self) -> bytes:
        """Return what has arrived, waiting if nothing has; b"" once the server closed its side.

        Raises:
            ConnectionLost: the connection failed.
        """

    async def look(self) -> bytes | None:
        """Return what has arrived, without waiting; b"" once the server closed its side; None if nothing is there."""

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
            raise _lost(error) from error
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
            raise _lost(error) from error

    async def receive(self) -> bytes:
        """Return what has arrived; see `Stream.receive`."""
        sock = self._socket
        try:
            while True:
                try:
                    return sock.recv(MAX_RECEIVE_BYTES)
                except BlockingIOError:
                    await anyio.wait_readable(sock)
        except (OSError, anyio.ClosedResourceError) as error:
            raise _lost(error) from error

    async def look(self) -> bytes | None:
        """Return what has arrived, or None; see `Stream.look`."""
        try:
            return self._socket.recv(MAX_RECEIVE_BYTES)
        except BlockingIOError:
            return None
        except OSError:  # the next receive says it
            return b""

    def is_stale(self) -> bool:
        """Return True if anything arrived, or ended; see `Stream.is_stale`."""
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
        except Exception as error:
            raise _lost(error) from error

    async def receive(self) -> bytes:
        """Return what has arrived; see `Stream.receive`."""
        try:
            return await self._stream.receive(MAX_RECEIVE_BYTES)
        except anyio.EndOfStream:
            return b""
        except Exception as error:
            raise _lost(error) from error

    async def look(self) -> bytes | None:
        """Return None: anyio's interface cannot tell without waiting."""
        return None

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
        address = self._stream.extra(anyio.abc.SocketAttribute.local_address, None)
        return str(address[0]) if isinstance(address, tuple) else None


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
        return data

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        await self._stream.aclose()


class TLSStream:
    """TLS, verified, over another stream."""

    def __init__(self, stream: Stream, ciphertext: _Ciphertext, tls: tls_streams.TLSStream) -> None:
        self._stream = stream
        self._ciphertext = ciphertext
        self._tls = tls
        self._object = tls.extra(tls_streams.TLSAttribute.ssl_object)
        self._length = 0  # of what is being sent, or was last

    @classmethod
    async def wrap(cls, stream: Stream, context: ssl.SSLContext, hostname: str) -> TLSStream:
        """Do the handshake, and verify that the server is `hostname`.

        Raises:
            TLSError: it failed; says why. The stream is of no further use.
        """
        ciphertext = _Ciphertext(stream)
        try:
            tls = await tls_streams.TLSStream.wrap(
                ciphertext, server_side=False, hostname=hostname, ssl_context=context, standard_compatible=False
            )
        except ssl.SSLCertVerificationError as error:
            reason = error.verify_message.removesuffix(".")
            raise TLSError(f"server's certificate is not valid for {hostname}: {reason}", phase="tls") from error
        except ssl.SSLError as error:
            raise TLSError(f"TLS handshake failed: {error.reason or error}", phase="tls") from error
        except (anyio.EndOfStream, anyio.BrokenResourceError, OSError) as error:
            cause = ciphertext.write_error or error.__cause__ or error
            raise TLSError("TLS handshake failed: server closed the connection", phase="tls") from cause
        except ValueError as error:  # a hostname that the context cannot check
            raise TLSError(f"TLS handshake failed: {error}", phase="tls") from error
        return cls(stream, ciphertext, tls)

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
            raise ciphertext.write_error or _lost(error) from error
        if ciphertext.write_error is not None:
            raise ciphertext.write_error

    async def receive(self) -> bytes:
        """Return what has arrived; see `Stream.receive`."""
        try:
            return await self._tls.receive(MAX_RECEIVE_BYTES)
        except anyio.EndOfStream:
            return b""
        except anyio.BrokenResourceError as error:
            raise _lost(error.__cause__ or error) from error
        except ssl.SSLError as error:
            raise _lost(error) from error

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
    def is_verified(self) -> bool:
        """True if the server's certificate was verified."""
        return self._object.context.verify_mode is ssl.CERT_REQUIRED

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


def _lost(error: BaseException) -> ConnectionLost:
    if isinstance(error, ConnectionLost):
        return error
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return ConnectionLost(f"connection lost: {reason or type(error).__name__}")


# Connecting


async def connect_tcp(host: str, port: int, source_address: tuple[str, int] | None = None) -> SocketStream:
    """Connect to the first of the host's addresses that answers, each tried a moment after the one before (RFC 8305).

    Raises:
        ConnectError: no address could be connected to.
    """
    addresses = await _resolve(host, port)
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
    """
    try:
        return ForeignStream(await connect())
    except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
        raise ConnectError(f"connect= failed: {error}", phase="connect") from error


async def _resolve(host: str, port: int) -> list[_Address]:
    """Return the host's addresses, the families in turn (RFC 8305 4)."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:
            found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise ConnectError(f"cannot resolve {host}: {error}", phase="connect") from error
    else:  # nothing to look up, so nothing to wait for in a thread
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)  # type: ignore[assignment]
        except OSError as error:  # its zone is no interface of this host
            raise ConnectError(f"cannot resolve {host}: {error}", phase="connect") from error
    addresses = [(family, sockaddr) for family, _, _, _, sockaddr in found]
    first = [address for address in addresses if address[0] == addresses[0][0]]
    others = [address for address in addresses if address[0] != addresses[0][0]]
    mixed: list[_Address] = []
    while first or others:
        mixed += first[:1] + others[:1]
        del first[:1], others[:1]
    return mixed


async def _connect(address: _Address, source_address: tuple[str, int] | None) -> socket.socket:
    family, sockaddr = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if source_address is not None:
            sock.bind(source_address)
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


def _refused(server: str, error: OSError) -> ConnectError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    return ConnectError(f"cannot connect to {server}: {reason}", phase="connect")
