"""How many round trips pass before the first MAIL, through a delay line, beside aiosmtplib.

Run: ``python -m benchmarks --rows handshake``; it needs trustme.

*The trips*, for a client that wastes none:

- plain, 3: TCP; greeting; EHLO.
- implicit TLS 1.3 + AUTH PLAIN, 5: TCP; TLS; greeting (the server speaks once it has our Finished); EHLO; AUTH.
- STARTTLS + AUTH PLAIN, 7: TCP; greeting; EHLO; STARTTLS; TLS; EHLO (it goes with our Finished); AUTH.

Then MAIL leaves the client; it is at the server half a round trip later, which is not counted.

*The delay line* is a TCP proxy in a process of its own. What comes out of a client is with the server half a round trip
(25 ms) later, and the other way round. The server is `smtplite.testing.SMTPServer`, in memory behind the line, and what
it computes costs nothing: its replies leave at the moment at which the command was due.

Loopback connects at once, and TCP must not come for nothing. So once per connection both directions are held back by
one round trip more: what the client says first counts as said a round trip after the connect, and the server sees the
connection, and greets, when the client's ACK would be there, half a round trip after that. A greeting is then with the
client two round trips after the connect, as on a real line. What a client computes between its connect and its first
octets (the ClientHello of implicit TLS) costs nothing here.

*By time*: from the connect until the write that holds MAIL is in the line, divided by the round trip. *Counted*: one
for TCP, and one each time that octets of the server reach a client which has said something since the last, or has just
connected; no clock has a part in that. By what the time exceeds the count is what the client computes, twice as slow as
usual after a sleep of 50 ms, and 0.4 ms a trip for waking up both processes. *Blocking sockets* are the floor: the same
dialogue from the standard library's `socket` and `ssl`, every octet known beforehand, no reply understood.

PLAIN is the only mechanism offered. The TLS context is made before, the name for EHLO is given (left to itself,
aiosmtplib asks the DNS for it), the host is an IP address, the message is octets. What a client does before it connects
is not measured: smtplite looks through the message then, which takes it about a millisecond.

With real-time priority where we may have it (as root), and then also on a busy machine; without it, on an idle one
alone.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import json
import selectors
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from functools import cache
from typing import Any, Final, Literal

import anyio
import anyio.abc

import smtplite
from benchmarks import native
from benchmarks.common import HOST, LOCAL_HOSTNAME, ROOT, prefer
from benchmarks.common import versions as versions_of
from benchmarks.worker import NotAvailable, Turn
from smtplite import Client
from smtplite.testing import SMTPServer, server_context

try:
    import aiosmtplib
except ImportError:
    aiosmtplib = None  # type: ignore[assignment]

RTT_SECONDS: Final = 0.050
SPIN_SECONDS: Final = 0.001  # a sleep ends some 0.2 ms late: the last millisecond is not slept
LINE_SECONDS: Final = 300  # after which the line's process ends whatever happens
ANSWER_SECONDS: Final = 30.0

USER, PASSWORD = "me", "secret"
SENDER, RECIPIENT = "sender@example.org", "recipient@example.com"
MESSAGE = (
    b"From: sender@example.org\r\nTo: recipient@example.com\r\nSubject: hello\r\n"
    b"Date: Mon, 01 Jan 2024 00:00:00 +0000\r\nMessage-ID: <20240101000000.1@example.org>\r\n\r\nhello\r\n"
)

Mode = Literal["none", "implicit", "starttls"]


# --- the line, in another process ------------------------------------------------------------------------------------


async def until(moment: float) -> None:
    await asyncio.sleep(moment - time.monotonic() - SPIN_SECONDS)
    while time.monotonic() < moment:  # noqa: ASYNC110 (no event comes for a moment)
        await asyncio.sleep(0)


class Line(asyncio.Protocol):
    """One connection: once MAIL is at the server, prints when it left the client, and after how many round trips."""

    def __init__(self, server: SMTPServer) -> None:
        self.server = server
        self.upward: asyncio.Queue[tuple[float, int, bytes]] = asyncio.Queue()  # left at, trips before, octets
        self.downward: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        self.trips = 1  # TCP's
        self.client_spoke = True  # by its ACK
        self.tasks: list[asyncio.Task[None]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.opened_at = time.monotonic()
        self.established_at = self.opened_at + RTT_SECONDS
        self.server_time = self.established_at + RTT_SECONDS / 2  # when what the server hears now was due there
        self.tasks.append(asyncio.create_task(self.carry_up()))

    def data_received(self, data: bytes) -> None:
        self.client_spoke = True
        self.upward.put_nowait((max(time.monotonic(), self.established_at), self.trips, data))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        self.upward.put_nowait((time.monotonic(), self.trips, b""))

    async def carry_up(self) -> None:
        await until(self.server_time)
        async with await self.server.connect() as stream:
            connection = self.server.connections[-1]
            self.tasks.append(asyncio.create_task(self.listen(stream)))
            self.tasks.append(asyncio.create_task(self.carry_down()))
            is_reported = False
            while True:
                left_at, trips, data = await self.upward.get()
                await until(left_at + RTT_SECONDS / 2)
                if not data:
                    break
                self.server_time = left_at + RTT_SECONDS / 2
                await stream.send(data)  # the server reads and answers within it
                if not is_reported and b"\r\nMAIL FROM:" in connection.received:
                    is_reported = True
                    print(json.dumps([left_at - self.opened_at, trips, connection.tls]), flush=True)
        for violation in connection.violations:
            print(f"violation: {violation}", file=sys.stderr)

    async def listen(self, stream: anyio.abc.ByteStream) -> None:
        try:
            while True:
                data = await stream.receive()
                self.downward.put_nowait((self.server_time, data))
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            self.downward.put_nowait((self.server_time, b""))

    async def carry_down(self) -> None:
        while True:
            left_at, data = await self.downward.get()
            await until(left_at + RTT_SECONDS / 2)
            if not data:
                self.transport.close()
                return
            self.trips += self.client_spoke
            self.client_spoke = False
            self.transport.write(data)


async def serve() -> None:
    """Print the ports and the authority's certificate; serve until stdin ends: that is when our parent does."""
    import trustme

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def wait_for_parent() -> None:
        sys.stdin.buffer.read()
        loop.call_soon_threadsafe(stop.set)

    ca = trustme.CA()
    context = server_context(HOST, ca=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    servers: dict[Mode, SMTPServer] = {
        "none": SMTPServer(),
        "implicit": SMTPServer(tls="implicit", ssl_context=context, users={USER: PASSWORD}, mechanisms=["PLAIN"]),
        "starttls": SMTPServer(tls="starttls", ssl_context=context, users={USER: PASSWORD}, mechanisms=["PLAIN"]),
    }
    lines = [await loop.create_server(lambda server=server: Line(server), HOST, 0) for server in servers.values()]  # type: ignore[misc]
    ports = [line.sockets[0].getsockname()[1] for line in lines]
    print(json.dumps([dict(zip(servers, ports, strict=True)), ca.cert_pem.bytes().decode("ascii")]), flush=True)
    threading.Thread(target=wait_for_parent, daemon=True).start()
    loop.call_later(LINE_SECONDS, stop.set)
    await stop.wait()
    for line in lines:
        line.close()


class DelayLine:
    """Our end of the line's process."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "benchmarks.handshake"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        self._buffer = bytearray()
        self.ports: dict[Mode, int]
        self.ports, certificate = json.loads(self._read())
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.load_verify_locations(cadata=certificate)

    def _read(self) -> bytes:
        return native.read_line(self._process, ANSWER_SECONDS, self._buffer)

    def trips_before_mail(self, mode: Mode) -> tuple[float, int]:
        """Return the round trips before MAIL on the connection that was just used: by time, and counted."""
        seconds, trips, tls = json.loads(self._read())
        assert tls == (None if mode == "none" else "TLSv1.3"), tls
        return seconds / RTT_SECONDS, trips

    def close(self) -> None:
        native.end(self._process)


# --- the clients -----------------------------------------------------------------------------------------------------

Send = Callable[[Mode, DelayLine], Coroutine[Any, Any, None]]


async def by_smtplite(mode: Mode, line: DelayLine) -> None:
    client = Client(
        HOST,
        line.ports[mode],
        tls=mode,
        tls_context=None if mode == "none" else line.context,
        username=None if mode == "none" else USER,
        password=None if mode == "none" else PASSWORD,
        local_hostname=LOCAL_HOSTNAME,
    )
    async with client:
        receipt = await client.send(MESSAGE)
        assert receipt.complete


async def by_aiosmtplib(mode: Mode, line: DelayLine) -> None:
    client = aiosmtplib.SMTP(
        hostname=HOST,
        port=line.ports[mode],
        use_tls=mode == "implicit",
        start_tls=mode == "starttls",
        tls_context=None if mode == "none" else line.context,
        username=None if mode == "none" else USER,
        password=None if mode == "none" else PASSWORD,
        local_hostname=LOCAL_HOSTNAME,
        timeout=30,
    )
    await client.connect()
    await client.sendmail(SENDER, [RECIPIENT], MESSAGE)
    await client.quit()


async def by_blocking_sockets(mode: Mode, line: DelayLine) -> None:
    hello = f"EHLO {LOCAL_HOSTNAME}\r\n".encode("ascii")
    auth = b"AUTH PLAIN " + base64.b64encode(f"\0{USER}\0{PASSWORD}".encode("ascii")) + b"\r\n"
    sock = socket.create_connection((HOST, line.ports[mode]))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if mode == "implicit":
        sock = line.context.wrap_socket(sock, server_hostname=HOST)
    sock.recv(65_536)
    ask(sock, hello)
    if mode == "starttls":
        ask(sock, b"STARTTLS\r\n")
        sock = line.context.wrap_socket(sock, server_hostname=HOST)
        ask(sock, hello)
    if mode != "none":
        ask(sock, auth)
    ask(sock, f"MAIL FROM:<{SENDER}>\r\n".encode("ascii"))
    ask(sock, b"QUIT\r\n")
    sock.close()


def ask(sock: socket.socket, command: bytes) -> None:
    sock.sendall(command)
    sock.recv(65_536)  # one reply, which the server sends whole


# --- the worker ------------------------------------------------------------------------------------------------------

CLIENTS: Final[dict[str, Send]] = {
    "smtplite": by_smtplite,
    "aiosmtplib": by_aiosmtplib,
    "blocking sockets": by_blocking_sockets,
}


@cache
def the_line() -> DelayLine:
    prefer()  # and the line with us
    line = DelayLine()
    atexit.register(line.close)
    return line


@cache
def the_runner() -> asyncio.Runner:
    runner = asyncio.Runner()
    atexit.register(runner.close)
    return runner


def versions() -> dict[str, str]:
    """Return what runs here."""
    return {"smtplite": smtplite.__version__} | versions_of("anyio", "attrs", "aiosmtplib")


def run(request: dict[str, Any], turn: Turn, option: str) -> None:  # noqa: ARG001 (it has none)
    """Send one message by ``request["client"]`` in ``request["mode"]``; the result has the trips before MAIL."""
    name, mode = request["client"], request["mode"]
    if name == "aiosmtplib" and aiosmtplib is None:
        raise NotAvailable("aiosmtplib is not installed")
    line, runner = the_line(), the_runner()
    turn.begin()
    runner.run(CLIENTS[name](mode, line))
    turn.end()
    turn.result["round_trips"], turn.result["counted"] = line.trips_before_mail(mode)


if __name__ == "__main__":
    # epoll, and so asyncio's default, waits for whole milliseconds; select does not.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as the_loop:
        the_loop.run(serve())
