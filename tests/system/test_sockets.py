"""What is different about sockets: driven on the system that we have, under the names of the others."""

from __future__ import annotations

import errno
import os
import socket
import struct
from contextlib import suppress

import anyio
import pytest

from smtplite import Client, ConfigurationError
from smtplite.net import SocketStream
from smtplite.net.failures import failure_of
from smtplite.system import sockets

from .conftest import As


@pytest.mark.parametrize(
    "make",
    [lambda: Client(socket_path="/run/smtp"), lambda: Client.from_url("smtp+unix:///run/smtp")],
)
def test_without_unix_sockets_a_client_of_one_is_refused_when_it_is_made(
    monkeypatch: pytest.MonkeyPatch, make: object
) -> None:
    monkeypatch.delattr(socket, "AF_UNIX", raising=False)
    assert callable(make)
    with pytest.raises(ConfigurationError, match="socket_path needs Unix sockets, and Python has none on Windows"):
        make()


def test_a_connection_under_way_has_another_number_on_windows(load_as: As) -> None:
    assert not sockets.is_under_way(errno.EWOULDBLOCK)
    assert sockets.is_under_way(errno.EINPROGRESS)
    assert load_as("sockets", "win32").is_under_way(errno.EWOULDBLOCK)


def test_a_refused_connection_is_named_as_windows_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """os.strerror does not know these numbers."""
    assert sockets.connect_error(errno.ECONNREFUSED).strerror == os.strerror(errno.ECONNREFUSED)
    monkeypatch.setattr(socket, "errorTab", {10061: "Connection refused."}, raising=False)
    assert sockets.connect_error(10061).strerror == "Connection refused"
    assert sockets.connect_error(1).strerror == os.strerror(1)


def test_the_struct_of_a_reset_is_that_of_the_system(load_as: As) -> None:
    assert struct.pack("ii", 1, 0) == sockets.RESET_ON_CLOSE
    assert load_as("sockets", "win32").RESET_ON_CLOSE == b"\1\0\0\0"


def test_a_write_to_an_ending_connection_says_so_on_macos(load_as: As, monkeypatch: pytest.MonkeyPatch) -> None:
    error = OSError(errno.EPROTOTYPE, "Protocol wrong type for socket")
    monkeypatch.setattr("smtplite.net.failures.sockets", load_as("sockets", "darwin"))
    assert str(failure_of(error)) == "connection lost: Broken pipe"
    assert str(failure_of(OSError(errno.ECONNRESET, "reset"))) == "connection lost: reset"


def test_a_socket_that_takes_no_options_any_more_is_still_read() -> None:
    """macOS refuses TCP_NODELAY (EINVAL) once the server has closed the connection; what it said is there."""

    class Closed(socket.socket):
        def setsockopt(self, *_: object) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = Closed(socket.AF_INET, socket.SOCK_STREAM)
        ours.connect(listener.getsockname())
        theirs, _ = listener.accept()
        stream = SocketStream(ours)
        with theirs:
            theirs.sendall(b"554 no\r\n")
        assert anyio.run(stream.receive) == b"554 no\r\n"
        stream.abort()
        assert ours.fileno() < 0


@pytest.mark.parametrize("end", ["octets", "end", "reset"])
def test_a_peek_sees_whatever_has_arrived_and_takes_nothing(end: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as ours:
        theirs, _ = listener.accept()
        ours.settimeout(0)
        assert not sockets.has_arrived(ours)
        if end == "octets":
            theirs.sendall(b"421")
        if end == "reset":
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, sockets.RESET_ON_CLOSE)
        if end != "octets":
            theirs.close()
        ours.settimeout(30)
        with suppress(ConnectionResetError):
            ours.recv(9, socket.MSG_PEEK)  # it is there now
        ours.settimeout(0)
        assert sockets.has_arrived(ours)
        if end == "octets":
            assert ours.recv(9) == b"421"
        theirs.close()
