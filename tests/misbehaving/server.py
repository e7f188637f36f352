"""A server made of bytes: a test writes out each side of the dialogue, and breaks it where it wants.

It runs in the test's own event loop, over real loopback sockets. It knows nothing of the client: what counts as a
command or as the end of a message is written here a second time, on purpose. Of smtplite it uses the testing kit's side
of TLS alone, which knows nothing of the client either.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import re
import signal
import socket
import ssl
import struct
import termios
from collections.abc import Awaitable, Callable, Mapping
from types import FrameType, TracebackType
from typing import Final, Self

import anyio
import anyio.abc
import anyio.lowlevel
import attrs
import sniffio
import trio

from smtplite.testing.tls import TlsServerSide

from .clock import is_skipping

__all__ = ["Honest", "Left", "Message", "Peer", "Script", "Server", "ehlo_reply", "turns"]

HOST: Final = "127.0.0.1"

#: Longer than any test takes, on a machine that is busy, too: who still waits then waits for ever.
PATIENCE_SECONDS: Final = 60.0
#: How often it is looked for who does not even wait, and lets nobody else run; and how many looks in a row have to find
#: that the event loop had no turn since the one before. A machine that is busy makes a test long, and no single turn.
LOOK_SECONDS: Final = 3.0
LOOKS: Final = 3
#: The same on a clock that skips time: longer than every deadline of RFC 5321 together.
SKIPPED_PATIENCE_SECONDS: Final = 20_000.0

_RESET: Final = struct.pack("ii", 1, 0)  # struct linger: close with a reset
_TCP_CLOSE: Final = 7  # a state of tcp(7): reset, or closed by both
_TURNS: Final = 4  # of the event loop, for the other side to read what was written


class Left(Exception):
    """The client closed the connection, or reset it. Ends a script, quietly."""


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        sock.setblocking(False)
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self._tls: TlsServerSide | None = None
        self._unread = bytearray()
        #: Counts the connections of a server, from 0.
        self.number = number
        #: True once the client ended the connection by a reset.
        self.was_reset = False
        #: True once the script is at its end.
        self.is_over = False
        #: Every octet of the client's, inside TLS as it was meant.
        self.received = bytearray()
        #: The part of it that came inside TLS.
        self.received_in_tls = bytearray()

    @property
    def is_idle(self) -> bool:
        """True if everything from the client is read and answered, or the script is at its end."""
        if self.is_over:
            return True
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return not self._unread
        except OSError:
            pass
        return False

    @property
    def was_notified_of_the_end(self) -> bool:
        """True if the client ended TLS in order, by a close_notify."""
        return self._tls is not None and self._tls.is_ended

    # What the client says

    async def read_until(self, end: bytes) -> bytes:
        """Return everything up to and with `end`."""
        begin = 0
        while (found := self._unread.find(end, begin)) < 0:
            begin = max(0, len(self._unread) - len(end) + 1)
            await self._receive()
        return self._take(found + len(end))

    async def read_line(self) -> bytes:
        """Return the next line without its CRLF."""
        return (await self.read_until(b"\r\n"))[:-2]

    async def read_content(self) -> bytes:
        """Return the content of DATA as it stands on the wire, with the dot that ends it."""
        while len(self._unread) < 3:
            await self._receive()
        if self._unread.startswith(b".\r\n"):
            return self._take(3)
        return await self.read_until(b"\r\n.\r\n")

    async def read_some(self) -> bytes:
        """Return what has arrived and was not read, waiting for it if there is nothing."""
        if not self._unread:
            await self._receive()
        return self._take(len(self._unread))

    async def read_exactly(self, size: int) -> bytes:
        """Return the next `size` octets."""
        while len(self._unread) < size:
            await self._receive()
        return self._take(size)

    async def read_to_the_end(self) -> bytes:
        """Say nothing; return what else comes until the client leaves."""
        try:
            while True:
                await self._receive()
        except Left:
            return self._take(len(self._unread))

    def take_octets(self, size: int) -> bytes:
        """Take some octets off the socket if there are any, and leave all others there."""
        try:
            return self._socket.recv(size)
        except OSError:
            return b""

    def _take(self, size: int) -> bytes:
        data = bytes(self._unread[:size])
        del self._unread[:size]
        return data

    async def _receive(self) -> None:
        try:
            while True:
                try:
                    data = self._socket.recv(65_536)
                    break
                except BlockingIOError:
                    await anyio.wait_readable(self._socket)
        except OSError as error:
            self.was_reset = True
            raise Left from error
        if not data:
            raise Left
        if self._tls is not None:
            data = self._tls.receive(data)
            self.received_in_tls += data
            await self._send(self._tls.outgoing())
        self.received += data
        self._unread += data

    # What we say

    async def write(self, *pieces: bytes) -> None:
        """Write the pieces one by one, with time for the client to read each."""
        for n, piece in enumerate(pieces):
            if n:
                await turns()
            await self._send(piece if self._tls is None else self._tls.send(piece))

    async def write_to_the_wire(self, data: bytes) -> None:
        """Write octets that TLS knows nothing of."""
        await self._send(data)

    async def flood(self, piece: bytes, *, limit: int) -> int:
        """Write the piece again and again until the client leaves; return how many octets were written.

        Fails the test if the client takes more than `limit`.
        """
        sent = 0
        try:
            while sent <= limit:
                await self.write(piece)
                sent += len(piece)
                await anyio.lowlevel.checkpoint()
        except Left:
            return sent
        raise AssertionError(f"the client took {sent} octets and is still there")

    async def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                await anyio.wait_writable(self._socket)
            except OSError as error:
                raise Left from error

    async def wait_until_delivered(self) -> None:
        """Return once the client's kernel has everything that was written."""
        owed = array.array("i", [1])
        while True:
            fcntl.ioctl(self._socket, termios.TIOCOUTQ, owed)  # octets that were not acknowledged
            if not owed[0] or self._is_dead:
                return
            await anyio.lowlevel.checkpoint()

    @property
    def _is_dead(self) -> bool:
        if not hasattr(socket, "TCP_INFO"):
            return False
        return self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE

    async def begin_tls(self, context: ssl.SSLContext) -> None:
        """Do the server's part of the handshake.

        Raises:
            Left: the client gave up, or does not speak TLS.
        """
        assert not self._unread, f"in clear in front of the handshake: {bytes(self._unread)!r}"
        self._tls = TlsServerSide(context)
        while not self._tls.is_established:
            await self._receive()
            if self._tls.error is not None:
                raise Left

    # The end

    def close(self) -> None:
        """Close in order. (With octets unread, the kernel would reset.)"""
        try:
            while self._socket.recv(65_536):
                pass
        except OSError:
            pass  # all of it is read, or the connection is gone
        self._close()

    def reset(self) -> None:
        """Close by a reset."""
        if self._socket.fileno() >= 0:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._close()

    def say_no_more(self) -> None:
        """Close our side alone, as TCP can: what the client says is still read."""
        self._socket.shutdown(socket.SHUT_WR)

    def close_at_once(self) -> None:
        """Close with whatever is unread: the kernel resets the connection if there is anything."""
        self._close()

    def _close(self) -> None:
        if self._socket.fileno() >= 0:
            anyio.notify_closing(self._socket)
            self._socket.close()


Script = Callable[[Peer], Awaitable[None]]


async def turns() -> None:
    """Let everybody else go on, as far as they can without waiting."""
    for _ in range(_TURNS):
        await anyio.lowlevel.checkpoint()


class _Lookout:
    """Raises out of code of smtplite that has not let the event loop go on for long; called by a timer's signal."""

    def __init__(self) -> None:
        if sniffio.current_async_library() == "trio":
            self._call_soon: Callable[[Callable[[], None]], object] = trio.lowlevel.current_trio_token().run_sync_soon
        else:
            self._call_soon = asyncio.get_running_loop().call_soon_threadsafe
        self._in_a_row = 0

    def __call__(self, _: int, frame: FrameType | None) -> None:
        self._call_soon(self._had_a_turn)
        self._in_a_row += 1
        if self._in_a_row <= LOOKS:
            return
        while frame is not None:  # an event loop that waits is in no such code
            if frame.f_globals.get("__name__", "").startswith("smtplite."):
                raise AssertionError("the event loop stands still")
            frame = frame.f_back

    def _had_a_turn(self) -> None:
        self._in_a_row = 0


class Server:
    """Serves the first connection by the first script, the second by the second; the last script has all the others.

    It listens on loopback, or on the Unix socket at `path`.

    Leaving the block waits until each script is at its end, and raises what one of them raised: close the client first.
    """

    def __init__(self, *scripts: Script, path: str | None = None) -> None:
        self._scripts = scripts
        self._path = path
        self._failures: list[Exception] = []
        self._running = 0
        self._all_done = anyio.Event()
        self.peers: list[Peer] = []
        self.host = HOST
        self.port = 0

    async def __aenter__(self) -> Self:
        # A loop that never awaits cannot be cancelled, but a signal's handler can raise out of it.
        self._former_handler = signal.signal(signal.SIGALRM, _Lookout())
        signal.setitimer(signal.ITIMER_REAL, LOOK_SECONDS, LOOK_SECONDS)
        self._patience_seconds = SKIPPED_PATIENCE_SECONDS if is_skipping() else PATIENCE_SECONDS
        if self._path is None:
            self._listener = socket.create_server((HOST, 0), backlog=64)
            self.port = self._listener.getsockname()[1]
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(self._path)
            self._listener.listen()
        self._listener.setblocking(False)
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._accept)
        self._patience = anyio.fail_after(self._patience_seconds)
        self._patience.__enter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._former_handler)
        impatience: TimeoutError | None = None
        try:
            self._patience.__exit__(exc_type, exc_value, traceback)
            if exc_value is None:
                with anyio.fail_after(self._patience_seconds):
                    while self._running:
                        self._all_done = anyio.Event()
                        await self._all_done.wait()
        except TimeoutError as error:
            impatience = error
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(None, None, None)
        self._listener.close()
        for peer in self.peers:
            peer.reset()
        if self._failures:
            raise self._failures[0] from exc_value
        if impatience is not None:
            received = [bytes(peer.received[-200:]) for peer in self.peers]
            raise AssertionError(f"somebody waits for ever; received at last: {received}") from impatience

    def stop_listening(self) -> None:
        """Refuse all further connections."""
        anyio.notify_closing(self._listener)
        self._listener.close()

    async def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                try:
                    await anyio.wait_readable(self._listener)
                except anyio.ClosedResourceError:
                    return
                continue
            peer = Peer(sock, len(self.peers))
            self.peers.append(peer)
            self._running += 1
            self._tasks.start_soon(self._serve, peer)

    async def _serve(self, peer: Peer) -> None:
        script = self._scripts[min(peer.number, len(self._scripts) - 1)]
        try:
            await script(peer)
        except Left:
            pass
        except Exception as error:  # noqa: BLE001 (raised at the end of the block)
            self._failures.append(error)
        finally:
            peer.close()
            peer.is_over = True
            self._running -= 1
            self._all_done.set()


# A server as it should be

_LABEL = rb"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_DOMAIN = rb"(?:%b(?:\.%b)*|\[[^][\x00-\x20\x7f<>]+\])" % (_LABEL, _LABEL)
_ATOM = rb'[^\x00-\x20\x7f()<>\[\]:;@\\,."]+'
_LOCAL = rb'(?:%b(?:\.%b)*|"(?:[^\x00-\x1f\x7f"\\]|\\[\x20-\x7e])*")' % (_ATOM, _ATOM)
_PATH = rb"<(?:%b@%b|postmaster)?>" % (_LOCAL, _DOMAIN)
_PARAMETERS = rb"(?: [A-Za-z0-9][A-Za-z0-9-]*(?:=[^\x00-\x20\x7f=<>]+)?)*"

#: Every line that the client may ever write outside of content and of an authentication exchange.
_COMMAND: Final = re.compile(
    rb"(?:(?:EHLO|HELO|LHLO) %b|MAIL FROM:%b%b|RCPT TO:%b%b|AUTH [A-Z0-9_-]{1,20}(?: [A-Za-z0-9+/=]+)?"
    rb"|BDAT [0-9]+(?: LAST)?|STARTTLS|DATA|RSET|NOOP|QUIT)" % (_DOMAIN, _PATH, _PARAMETERS, _PATH, _PARAMETERS)
)
_LONE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")


@attrs.frozen
class Message:
    """What a server took: the commands' arguments and the content as they stood on the wire."""

    connection: int
    mail: bytes
    rcpts: tuple[bytes, ...]
    wire: bytes = attrs.field(repr=False)

    @property
    def content(self) -> bytes:
        """The content without the end of data and without the doubled dots."""
        lines = self.wire.removesuffix(b".\r\n").split(b"\r\n")
        return b"\r\n".join(line.removeprefix(b".") for line in lines)


class Honest:
    """A server as it should be, and a strict one: whatever is no command of RFC 5321 fails the test.

    Args:
        keywords: what it offers.
        says: verb ("MAIL", ".", "greeting", ...) -> the reply in place of a good one, for all time; or several, one for
            each time, then the good one.
        tls: for STARTTLS.
    """

    def __init__(
        self,
        *keywords: str,
        says: Mapping[str, bytes | list[bytes]] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._keywords = keywords or ("PIPELINING",)
        self._says = {verb: list(said) if isinstance(said, list) else said for verb, said in (says or {}).items()}
        self._tls = tls
        #: Every command line, in the order of arrival.
        self.commands: list[bytes] = []
        self.messages: list[Message] = []

    def _reply(self, verb: str, good: bytes) -> bytes:
        said = self._says.get(verb)
        if isinstance(said, list):
            return said.pop(0) if said else good
        return good if said is None else said

    async def __call__(self, peer: Peer) -> None:
        """Serve one connection to its end."""
        await peer.write(self._reply("greeting", b"220 mx.example ESMTP\r\n"))
        await self.go_on(peer)

    async def go_on(self, peer: Peer) -> None:
        """Serve a connection on which the client has the word."""
        mail, rcpts = b"", list[bytes]()
        is_tls = False
        while True:
            line = await peer.read_line()
            self.commands.append(line)
            assert _COMMAND.fullmatch(line), f"no command: {line!r}"
            verb = line.split(b" ")[0].decode()
            if verb in ("EHLO", "LHLO"):
                starttls = ("STARTTLS",) if self._tls is not None and not is_tls else ()
                await peer.write(self._reply(verb, ehlo_reply(*self._keywords, *starttls)))
            elif verb == "STARTTLS":
                assert self._tls is not None
                reply = self._reply(verb, b"220 go ahead\r\n")
                await peer.write(reply)
                if reply.startswith(b"220"):
                    await peer.begin_tls(self._tls)
                    is_tls = True
            elif verb == "AUTH":
                await peer.write(self._reply(verb, b"235 2.7.0 welcome\r\n"))
            elif verb == "MAIL":
                reply = self._reply(verb, b"250 2.1.0 sender\r\n")
                mail, rcpts = line if reply.startswith(b"2") else b"", []
                await peer.write(reply)
            elif verb == "RCPT":
                reply = self._reply(verb, b"250 2.1.5 recipient\r\n" if mail else b"503 5.5.1 MAIL first\r\n")
                if reply.startswith(b"2"):
                    rcpts.append(line)
                await peer.write(reply)
            elif verb == "DATA":
                reply = self._reply(verb, b"354 go\r\n" if rcpts else b"554 5.5.1 no valid recipients\r\n")
                await peer.write(reply)
                if not reply.startswith(b"354"):
                    continue
                wire = await peer.read_content()
                assert not _LONE.search(wire), f"a bare CR or LF: {wire!r}"
                reply = self._reply(".", b"250 2.0.0 taken %d\r\n" % len(self.messages))
                if reply.startswith(b"2"):  # taken before it is answered
                    self.messages.append(Message(peer.number, mail, tuple(rcpts), wire))
                mail, rcpts = b"", []
                await peer.write(reply)
            elif verb == "QUIT":
                await peer.write(self._reply(verb, b"221 bye\r\n"))
                return
            else:
                if verb == "RSET":
                    mail, rcpts = b"", []
                await peer.write(self._reply(verb, b"250 ok\r\n"))


def ehlo_reply(*keywords: bytes | str) -> bytes:
    """Return the reply to EHLO that offers these."""
    lines = [b"mx.example", *(k.encode() if isinstance(k, str) else k for k in keywords)]
    return b"".join(b"250%b%b\r\n" % (b" " if n == len(lines) else b"-", line) for n, line in enumerate(lines, 1))
