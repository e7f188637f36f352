"""What the tests of this suite have in common: two messages, a client, and dialogues that go well up to some point."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

import smtplite
from smtplite import Client, Receipt
from smtplite.testing import client_context, server_context

from .server import Honest, Left, Peer, Server, ehlo_reply

#: The first message, the one that something happens to; and the one behind it, to which nothing may have happened.
FIRST: Final = b"From: one@example.org\r\nTo: you@example.org\r\nSubject: first\r\n\r\nfirst\r\n"
SECOND: Final = b"From: two@example.org\r\nTo: them@example.org\r\nSubject: second\r\n\r\nsecond\r\n"
#: More than the buffers of both ends hold while the server does not read: 4 MB on Linux.
LARGE: Final = FIRST + (b"first " * 12 + b"\r\n") * 110_000

PHASES: Final = ("greeting", "hello", "starttls", "auth", "mail", "rcpt", "data", "content", "end of data")

skips_time = pytest.mark.parametrize("anyio_backend", ["skipping asyncio", "skipping trio"], indirect=True)

#: For modules, and tests, with many cases that hardly depend on the event loop.
ASYNCIO_AND_TRIO: Final = ("asyncio", "trio")
asyncio_and_trio = pytest.mark.parametrize("anyio_backend", ASYNCIO_AND_TRIO, indirect=True)

#: What goes wrong, and how the peer does it.
Fault = Callable[[Peer], Awaitable[None]]


def client_at(server: Server, **options: Any) -> Client:
    options.setdefault("tls", "none")
    return Client(server.host, server.port, **options)


@functools.cache
def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a server's context, and a client's that trusts it."""
    return server_context(), client_context()


def options_for(phase: str) -> dict[str, Any]:
    """Return the client's options with which the dialogue comes to a phase."""
    if phase == "starttls":
        return {"tls": "starttls", "tls_context": tls_contexts()[1]}
    if phase == "auth":
        return {"username": "me", "password": "secret", "allow_insecure_auth": True}
    return {}


def content_for(phase: str) -> bytes:
    return LARGE if phase == "content" else FIRST


def server_for(phase: str, *keywords: str) -> Honest:
    """Return a good server that takes the client with `options_for` the phase."""
    if phase == "starttls":
        return Honest(*keywords, tls=tls_contexts()[0])
    return Honest(*keywords, *(("AUTH PLAIN",) if phase == "auth" else ()))


async def up_to(peer: Peer, phase: str, *keywords: str) -> None:
    """Say what is right until the reply of this phase is owed (for "content": until some of it has come)."""
    if phase == "greeting":
        return
    await peer.write(b"220 mx.example ESMTP\r\n")
    assert (await peer.read_line()).startswith((b"EHLO ", b"LHLO "))
    if phase == "hello":
        return
    if phase == "starttls":
        await peer.write(ehlo_reply(*keywords, "STARTTLS"))
        assert await peer.read_line() == b"STARTTLS"
        return
    if phase == "auth":
        await peer.write(ehlo_reply(*keywords, "AUTH PLAIN"))
        assert (await peer.read_line()).startswith(b"AUTH PLAIN ")
        return
    await peer.write(ehlo_reply(*keywords))
    replies = {"mail": b"250 2.1.0 sender\r\n", "rcpt": b"250 2.1.5 recipient\r\n", "data": b"354 go\r\n"}
    if "PIPELINING" in keywords:
        await peer.read_until(b"DATA\r\n")
        said = b""
        for each, reply in replies.items():
            if phase == each:
                break
            said += reply
        await peer.write(said)
        if phase in replies:
            return
    else:
        for each, reply in replies.items():
            line = await peer.read_line()
            assert line.startswith(each.upper().encode()), line
            if phase == each:
                return
            await peer.write(reply)
    if phase == "content":
        await peer.read_until(b"\r\n\r\n")
        return
    assert phase == "end of data"
    await peer.read_content()


async def failure_of(client: Client, content: Any = FIRST, **options: Any) -> smtplite.SMTPError:
    """Send, and return the error; every recipient must be in exactly one of its sets."""
    with pytest.raises(smtplite.SMTPError) as caught:
        await client.send(content, **options)
    error = caught.value
    assert_one_outcome_each(error, options.get("recipients", ["you@example.org"]))
    return error


def assert_one_outcome_each(said: smtplite.SMTPError | Receipt, recipients: Any) -> None:
    """R1."""
    expected = [recipients] if isinstance(recipients, str) else list(recipients)
    assert sorted([*said.accepted, *said.refused, *said.unknown, *said.not_sent]) == sorted(expected)


async def assert_next_arrives(client: Client, server: Server, honest: Honest) -> None:
    """The message behind a failure arrives as it is, on a connection of its own; nothing of the first one is in it."""
    failed = len(server.peers)
    receipt = await client.send(SECOND)
    assert receipt.complete
    assert receipt.reply is not None
    assert receipt.reply.text == f"2.0.0 taken {len(honest.messages) - 1}"
    message = honest.messages[-1]
    assert message.content == SECOND
    assert message.mail.startswith(b"MAIL FROM:<two@example.org>")
    assert [rcpt.split(b" ")[1] for rcpt in message.rcpts] == [b"TO:<them@example.org>"]
    assert message.connection == failed
    assert b"first" not in server.peers[-1].received


# Faults


async def close(peer: Peer) -> None:
    peer.close()


async def reset(peer: Peer) -> None:
    peer.reset()


async def nothing_follows(peer: Peer) -> None:
    """Wait until the client leaves, with or without QUIT; it must not say anything else."""
    rest = b""
    try:
        while True:
            rest += await peer.read_some()
            if rest == b"QUIT\r\n":
                await peer.write(b"221 bye\r\n")
    except Left:
        assert rest in (b"", b"QUIT\r\n"), rest


def say(*pieces: bytes) -> Fault:
    """Say this, then nothing; the client must not go on."""

    async def fault(peer: Peer) -> None:
        await peer.write(*pieces)
        await nothing_follows(peer)

    return fault


def flood(piece: bytes, beginning: bytes = b"") -> Fault:
    """Say it for ever; the client must not take it for long."""

    async def fault(peer: Peer) -> None:
        await peer.write(beginning)
        await peer.flood(piece, limit=30_000_000)

    return fault
