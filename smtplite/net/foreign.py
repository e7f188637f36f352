"""ForeignStream: a stream that the user provides, by ``Client(connect=...)``."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import anyio.abc

from smtplite.callbacks import result_of
from smtplite.errors import ConfigurationError, ConnectError, ConnectionLost, TLSError, TransportError
from smtplite.net.failures import fail, is_of_tls, reason_of, tls_reason
from smtplite.net.stream import MAX_RECEIVE_BYTES, Meanwhile, send_while

__all__ = ["ForeignStream", "connect_foreign"]

#: A write of at most this many bytes may take this long before reading begins beside it.
_FLIGHT_BYTES: Final = 65_536
_PATIENCE_SECONDS: Final = 0.05

_logger: Final = logging.getLogger("smtplite")


class ForeignStream:
    """A stream that the user provides, by `Client(connect=...)`: a proxy, a test, anything with anyio's interface."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self._stream = stream
        self._is_closed = False
        self.unsent = 0

    async def send(self, data: bytes, meanwhile: Meanwhile | None = None) -> None:
        """Write all of `data`. A stream that fails does not say how much it accepted: all of it may have been sent."""
        self.unsent = 0
        if meanwhile is None:
            await self._send(data)
        else:  # it does not tell whether it is waiting either
            await send_while(self._send(data), meanwhile, 0 if len(data) > _FLIGHT_BYTES else _PATIENCE_SECONDS)

    async def _send(self, data: bytes) -> None:
        try:
            await self._stream.send(data)
        except Exception as error:  # noqa: BLE001 (whatever a stream of the user's raises, the connection is gone)
            fail(error)

    async def receive(self) -> bytes:
        """Return what has arrived; see `Stream.receive`."""
        try:
            data: object = await self._stream.receive(MAX_RECEIVE_BYTES)
        except anyio.EndOfStream:
            return b""
        except Exception as error:  # noqa: BLE001 (whatever a stream of the user's raises, the connection is gone)
            fail(error)
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise ConnectionLost(f"connection lost: receive() of connect='s stream returned {type(data).__name__}")
        return bytes(data)

    async def look(self) -> bytes | None:
        """Return None: with anyio's interface, only waiting shows whether anything arrived."""
        return None

    def watch(self) -> None:
        """Do nothing: the stream itself decides how it waits."""

    def rest(self) -> None:
        """Do nothing; see `watch`."""

    def is_stale(self) -> bool:
        """Ask the stream's own ``is_readable()``, if it has one."""
        if self._is_closed:
            return True
        is_readable: Callable[[], bool] | None = getattr(self._stream, "is_readable", None)
        try:
            return is_readable is not None and is_readable()
        except Exception:  # noqa: BLE001 (a stream that cannot tell is not used again)
            return True

    def abort(self) -> None:
        """Call the stream's own ``abort()``, if it has one; `aclose` does the rest."""
        self._is_closed = True
        abort: Callable[[], None] | None = getattr(self._stream, "abort", None)
        if abort is not None:
            abort()

    def close(self) -> None:
        """Mark it as closed; `aclose` does the rest."""
        self._is_closed = True

    async def aclose(self) -> None:
        """Close at once, even if the stream still wants to send something or wait."""
        self._is_closed = True
        try:
            await anyio.aclose_forcefully(self._stream)
        except Exception:
            _logger.debug("closing a stream of connect= failed", exc_info=True)

    @property
    def local_address(self) -> str | None:
        """The address that the stream gives for our end, if it gives one."""
        try:
            address = self._stream.extra(anyio.abc.SocketAttribute.local_address, None)
        except Exception:  # noqa: BLE001 (a stream that cannot tell has no address)
            return None
        return str(address[0]) if isinstance(address, tuple) and address else None


async def connect_foreign(connect: Callable[[], Awaitable[anyio.abc.ByteStream]]) -> ForeignStream:
    """Ask the user's function for a stream.

    Raises:
        ConnectError: it failed with a network error; other errors are raised as they are.
        TLSError: it failed with a TLS error.
        ConfigurationError: it did not return a stream.
    """
    try:
        stream = await result_of("connect=", connect())
    except TransportError:
        raise
    except ssl.SSLError as error:
        if is_of_tls(error):
            raise TLSError(tls_reason(error, "connect= failed"), phase="connect") from error
        raise ConnectError(f"connect= failed: {reason_of(error)}", phase="connect") from error
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
