"""What `benchmarks/handshake.py` measures, counted without a clock: the round trips before the first MAIL."""

from __future__ import annotations

from typing import Any, Literal

import anyio.abc
import pytest

from smtplite import Client
from smtplite.testing import SMTPServer
from smtplite.trace import FlightSent, TraceEvent

pytestmark = pytest.mark.anyio

RAW = b"From: me@example.org\r\nTo: you@example.org\r\nSubject: hi\r\n\r\nbody\r\n"
HOSTNAME = "client.example.org"
USER, PASSWORD = "me", "secret"

Mode = Literal["none", "implicit", "starttls"]

#: The commands of each flight before MAIL's, and the round trips with those of TCP, TLS and the greeting.
EXPECTED: dict[Mode, tuple[list[str], int]] = {
    "none": ([f"EHLO {HOSTNAME}"], 3),
    "implicit": ([f"EHLO {HOSTNAME}", "AUTH PLAIN [redacted]"], 5),
    "starttls": ([f"EHLO {HOSTNAME}", "STARTTLS", f"EHLO {HOSTNAME}", "AUTH PLAIN [redacted]"], 7),
}


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


def server_for(mode: Mode) -> SMTPServer:
    if mode == "none":
        return SMTPServer()
    return SMTPServer(tls=mode, users={USER: PASSWORD}, mechanisms=["PLAIN"])


def options_for(mode: Mode, server: SMTPServer) -> dict[str, Any]:
    options: dict[str, Any] = {"tls": mode, "local_hostname": HOSTNAME}
    if mode != "none":
        options.update(username=USER, password=PASSWORD, tls_context=server.ca_context())
    return options


@pytest.mark.parametrize("mode", EXPECTED)
async def test_each_command_before_mail_is_a_flight_and_none_is_too_many(mode: Mode) -> None:
    events: list[TraceEvent] = []
    async with server_for(mode) as server:
        async with Client(server.host, server.port, trace=events.append, **options_for(mode, server)) as client:
            assert (await client.send(RAW)).complete
    flights = [event.commands for event in events if isinstance(event, FlightSent)]
    before = [(command,) for command in EXPECTED[mode][0]]
    assert flights[: len(before)] == before
    mail, rcpt, data = flights[len(before)]  # one write, which the reply to the one before it let go
    assert mail.startswith("MAIL FROM:<me@example.org>")
    assert (rcpt, data) == ("RCPT TO:<you@example.org>", "DATA")
    assert server.violations == []


class Turns(anyio.abc.ByteStream):
    """A stream that counts how often the server answered: once for all that it says before the client speaks again."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self._stream = stream
        self._client_spoke = True  # connecting asks for the greeting
        self.count = 0

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        data = await self._stream.receive(max_bytes)
        self.count += self._client_spoke
        self._client_spoke = False
        return data

    async def send(self, item: bytes) -> None:
        self._client_spoke = True
        await self._stream.send(item)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


@pytest.mark.parametrize("mode", EXPECTED)
async def test_round_trips_before_mail_with_those_of_tcp_and_tls(mode: Mode) -> None:
    server = server_for(mode)
    turns: list[Turns] = []
    before_mail: list[int] = []

    async def connect() -> Turns:
        turns.append(Turns(await server.connect()))
        return turns[-1]

    def trace(event: TraceEvent) -> None:
        if isinstance(event, FlightSent) and event.commands[0].startswith("MAIL"):
            before_mail.append(turns[-1].count)

    async with Client("localhost", connect=connect, trace=trace, **options_for(mode, server)) as client:
        receipt = await client.send(RAW)
    assert receipt.tls == (None if mode == "none" else "TLSv1.3")
    assert [1 + count for count in before_mail] == [EXPECTED[mode][1]]  # TCP's is the first
    assert server.violations == []
