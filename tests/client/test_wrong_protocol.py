"""Waiting for the wrong protocol: the error says which option would have been right."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

import smtplite
from smtplite import Client, Timeouts
from smtplite.testing import SMTPServer

pytestmark = pytest.mark.anyio

RAW = b"From: me@example.org\r\nTo: you@example.org\r\nSubject: hi\r\n\r\nbody\r\n"
RawServer = Callable[[Callable[[socket.socket], None]], int]

#: A fatal alert, handshake_failure; and how a handshake begins.
ALERT = b"\x15\x03\x03\x00\x02\x02\x28"
HANDSHAKE = b"\x16\x03\x03\x00\x7a\x02\x00"


@pytest.mark.parametrize("tls", ["none", "starttls"])
async def test_a_clear_client_at_a_port_for_tls_from_the_start_is_told_so(tls: str) -> None:
    """Both sides wait for the other: the time for the greeting ends that."""
    async with SMTPServer(tls="implicit") as server:
        options = {"tls_context": server.ca_context()} if tls == "starttls" else {}
        timeouts = Timeouts(greeting=0.1)
        async with Client(server.host, server.port, tls=tls, timeouts=timeouts, **options) as client:  # type: ignore[arg-type]
            for call in (client.send(RAW), client.check()):
                with pytest.raises(smtplite.SMTPTimeout, match=r"no greeting within 0\.1 s; .* pass tls=\"implicit\""):
                    await call
        assert server.messages == []


async def test_a_greeting_that_is_late_inside_tls_is_just_late() -> None:
    async with SMTPServer(tls="implicit") as server:
        server.hold("GREETING")
        options = {"tls_context": server.ca_context(), "timeouts": Timeouts(greeting=0.1)}
        async with Client(server.host, server.port, tls="implicit", **options) as client:  # type: ignore[arg-type]
            with pytest.raises(smtplite.SMTPTimeout, match=r"no greeting within 0\.1 s$"):
                await client.send(RAW)


@pytest.mark.parametrize("said", [ALERT, HANDSHAKE, ALERT + b"\r\n", HANDSHAKE + b"\n" * 9, ALERT[:2]])
@pytest.mark.parametrize("stays", [True, False])
async def test_a_server_that_speaks_tls_to_a_clear_client_is_named(
    said: bytes, stays: bool, raw_server: RawServer
) -> None:
    """At once, too: a TLS record needs no CRLF, and the greeting's time would pass in vain."""

    def handle(connection: socket.socket) -> None:
        connection.sendall(said)
        while stays and connection.recv(65536):
            pass

    async with Client("127.0.0.1", raw_server(handle), tls="none") as client:
        with pytest.raises(smtplite.RemoteProtocolError, match=r'server speaks TLS .* pass tls="implicit"') as caught:
            await client.send(RAW)
    assert not caught.value.retryable
    assert caught.value.not_sent == ("you@example.org",)


async def test_a_server_that_leaves_without_a_greeting() -> None:
    async with SMTPServer() as server, Client(server.host, server.port, tls="none") as client:
        server.reply("GREETING", b"", close=True)
        with pytest.raises(smtplite.ConnectionLost, match="without its greeting"):
            await client.send(RAW)


async def test_how_long_the_client_waits_by_default() -> None:
    """Short where people wait, and the RFC's where a short one would deliver twice."""
    assert Timeouts() == Timeouts(
        pool=60, connect=10, greeting=30, command=60, data_init=120, data_block=180, end_of_data=600, quit=5
    )
    assert Timeouts.rfc5321() == Timeouts(greeting=300, command=300, data_init=120, data_block=180, end_of_data=600)
