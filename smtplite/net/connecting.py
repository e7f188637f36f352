"""Connect to the first address of a host that answers, or to a Unix socket."""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Any, Final

import anyio

from smtplite.errors import ConnectError
from smtplite.net.failures import reason_of, refused
from smtplite.net.sockets import SocketStream
from smtplite.net.waiting import wait_writable
from smtplite.system.sockets import connect_error, is_under_way, unix_family

__all__ = ["connect_tcp", "connect_unix"]

#: The head start that each address has over the next: RFC 8305 5, "Connection Attempt Delay".
_ATTEMPT_DELAY_SECONDS: Final = 0.25
#: The pause before a Unix socket whose queue is full is tried again: nothing reports when it has room.
_UNIX_RETRY_SECONDS: Final = 0.02

_Address = tuple[socket.AddressFamily, Any]


async def connect_tcp(host: str, port: int, source_address: tuple[str, int] | None = None) -> SocketStream:
    """Connect to the first address of the host that answers; each is tried a moment after the previous one (RFC 8305).

    Raises:
        ConnectError: the host cannot be resolved, or none of its addresses accepted a connection.
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
        raise refused(f"{host}:{port}", error) from error
    finally:  # two connected at the same moment, or the call was cancelled at that moment
        for sock in winners:
            sock.close()


async def connect_unix(path: str) -> SocketStream:
    """Connect to a Unix socket.

    Raises:
        ConnectError: the connection failed.
        ConfigurationError: this system has no Unix sockets.
    """
    try:
        return SocketStream(await _connect((unix_family(), path), None))
    except OSError as error:
        raise refused(path, error) from error


async def _resolve(host: str, port: int) -> list[_Address]:
    """Return the host's addresses, with IPv6 and IPv4 alternating (RFC 8305 4)."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:
            found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise ConnectError(f"cannot resolve {host}: {reason_of(error)}", phase="connect") from error
    else:  # nothing to look up, so nothing to wait for in a thread
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)  # type: ignore[assignment]
        except OSError as error:  # its zone is not an interface of this host
            raise ConnectError(f"cannot resolve {host}: {reason_of(error)}", phase="connect") from error
    addresses = [(family, sockaddr) for family, _, _, _, sockaddr in found]
    first = [address for address in addresses if address[0] == addresses[0][0]]
    others = [address for address in addresses if address[0] != addresses[0][0]]
    mixed: list[_Address] = []
    while first or others:
        mixed += first[:1] + others[:1]
        del first[:1], others[:1]
    return mixed


def _reachable_from(source_address: tuple[str, int] | None, addresses: list[_Address], host: str) -> list[_Address]:
    """Return only the addresses in the family of `source_address`, if one was chosen."""
    if source_address is None or not source_address[0]:
        return addresses
    family = socket.AF_INET6 if ":" in source_address[0] else socket.AF_INET
    reachable = [address for address in addresses if address[0] == family]
    if not reachable:
        name = "IPv6" if family == socket.AF_INET6 else "IPv4"
        raise ConnectError(
            f"cannot connect to {host}: it has no {name} address, but source_address is one", phase="connect"
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
        while code == errno.EAGAIN and isinstance(sockaddr, str):  # a full queue: nothing is in progress
            await anyio.sleep(_UNIX_RETRY_SECONDS)
            code = sock.connect_ex(sockaddr)
        if is_under_way(code):
            await wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise connect_error(code)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind(sock: socket.socket, source_address: tuple[str, int]) -> None:
    try:
        sock.bind(source_address)
    except OSError as error:
        host, port = source_address
        raise OSError(error.errno, f"source_address ({host!r}, {port}) cannot be used: {reason_of(error)}") from error
