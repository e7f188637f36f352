"""R9, R10: a connection whose dialogue was cut is dead at once; the next message never meets what was left of it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest

from smtplite import (
    Client,
    DeliveryUnknown,
    MessageRefused,
    RecipientsRefused,
    RemoteProtocolError,
    SenderRefused,
    ServiceUnavailable,
    SMTPError,
)
from smtplite.trace import MessageFinished, TraceEvent

from .dialogue import (
    FIRST,
    LARGE,
    PHASES,
    SECOND,
    assert_next_arrives,
    client_at,
    content_for,
    failure_of,
    options_for,
    server_for,
    skips_time,
    up_to,
)
from .server import Honest, Peer, Server

pytestmark = pytest.mark.anyio


# What stays open is reset


@pytest.mark.parametrize(
    ("says", "expected", "first_command"),
    [
        pytest.param({"MAIL": [b"451 no\r\n"]}, SenderRefused, b"MAIL", id="R9-MAIL_refused"),
        pytest.param({"RCPT": [b"550 no\r\n"]}, RecipientsRefused, b"RSET", id="R9-nobody"),
        pytest.param({"DATA": [b"451 no\r\n"]}, MessageRefused, b"RSET", id="R9-DATA_refused"),
        pytest.param({".": [b"554 no\r\n"]}, MessageRefused, b"RSET", id="R9-content_refused"),
    ],
)
async def test_a_refusal_leaves_the_connection_in_use(
    says: dict[str, bytes | list[bytes]], expected: type[SMTPError], first_command: bytes
) -> None:
    """R9: a transaction that is, or may be, left open is ended by RSET in front of the next MAIL.

    Postfix leaves it open where a policy refused the content.
    """
    honest = Honest(says=says)
    async with Server(honest) as server, client_at(server) as client:
        assert type(await failure_of(client)) is expected
        before = len(honest.commands)
        assert (await client.send(SECOND)).complete
        assert honest.commands[before].split(b" ")[0] == first_command
        assert len(server.peers) == 1
    assert [message.content for message in honest.messages] == [SECOND]


@pytest.mark.parametrize("keywords", [("PIPELINING",), ("SIZE",)], ids=["pipelined", "lockstep"])
@pytest.mark.parametrize(
    ("said", "expected"),
    [
        pytest.param(b"451 no\r\n", RemoteProtocolError, id="R9-451"),
        pytest.param(b"503 no\r\n", RemoteProtocolError, id="R9-503"),
        pytest.param(b"354 go\r\n", RemoteProtocolError, id="R9-354"),
        pytest.param(b"220 mx\r\n", RemoteProtocolError, id="R9-220"),
        pytest.param(b"421 closing\r\n", ServiceUnavailable, id="R9-421"),
    ],
)
async def test_a_reset_that_fails_ends_the_connection(
    said: bytes, expected: type[SMTPError], keywords: tuple[str, ...]
) -> None:
    """R9: its reply must be 2yz: it is how both sides know where they are."""
    misbehaving = Honest(*keywords, says={"RCPT": [b"550 no\r\n"], "RSET": said})
    honest = Honest(*keywords)
    async with Server(misbehaving, honest) as server, client_at(server) as client:
        assert type(await failure_of(client)) is RecipientsRefused
        try:
            receipt = await client.send(SECOND)
        except SMTPError as error:
            # A 421 in front of MAIL may be tried again elsewhere; what breaks the protocol is told.
            assert type(error) is expected  # noqa: PT017
            assert error.not_sent == ("them@example.org",)  # noqa: PT017
            receipt = await client.send(SECOND)
        assert receipt.complete
        assert len(server.peers) == 2
    assert misbehaving.messages == []
    assert [message.content for message in honest.messages] == [SECOND]


# Cancellation, at each phase


async def send_until(client: Client, content: bytes, at: anyio.Event) -> None:
    """Begin to send, and cancel it when the server says so."""

    async def cancel_then(scope: anyio.CancelScope) -> None:
        await at.wait()
        scope.cancel()

    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            tasks.start_soon(cancel_then, scope)
            await client.send(content)
    assert scope.cancelled_caught


@pytest.mark.exhaustive(keep=12)
@pytest.mark.parametrize("phase", PHASES, ids=[f"R10-{phase}".replace(" ", "_") for phase in PHASES])
@pytest.mark.parametrize("keywords", [("PIPELINING",), ()], ids=["pipelined", "lockstep"])
async def test_a_send_that_is_cancelled_poisons_its_connection(
    phase: str, keywords: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """R9, R10: not one octet more is written, no QUIT either; the replies that come too late reach nobody."""
    is_there, is_cancelled = anyio.Event(), anyio.Event()
    events: list[TraceEvent] = []
    late = {
        "greeting": b"220 mx\r\n",
        "hello": b"250 mx\r\n",
        "starttls": b"220 go\r\n",
        "auth": b"235 welcome\r\n",
        "data": b"354 go\r\n",
    }.get(phase, b"250 ok\r\n")

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, phase, *keywords)
        is_there.set()
        await is_cancelled.wait()
        rest = await peer.read_to_the_end()
        assert rest == b"" or (phase == "content" and not rest.endswith(b".\r\n"))
        # So that what the kernel still holds of it is not sent either.
        assert peer.was_reset
        await peer.write(late)

    honest = server_for(phase, *keywords)
    async with Server(misbehave, honest) as server:
        async with client_at(server, max_connections=1, trace=events.append, **options_for(phase)) as client:
            with caplog.at_level(logging.WARNING, logger="smtplite"):
                await send_until(client, content_for(phase), is_there)
            is_cancelled.set()
            (finished,) = (event for event in events if isinstance(event, MessageFinished))
            is_unknown = phase == "end of data"
            assert finished.unknown == (("you@example.org",) if is_unknown else ())
            assert finished.not_sent == (() if is_unknown else ("you@example.org",))
            assert finished.error is None
            assert ("delivery unknown for you@example.org" in caplog.text) is is_unknown
            await assert_next_arrives(client, server, honest)
            assert len(server.peers) == 2


async def test_a_reply_and_a_cancellation_at_the_same_moment() -> None:
    """R9, R10: the verdict is there but was not read: the connection is not used again."""
    events: list[TraceEvent] = []
    scope = anyio.CancelScope()

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "end of data", "PIPELINING")
        await peer.write(b"250 taken\r\n")
        scope.cancel()
        assert b"MAIL" not in await peer.read_to_the_end()

    honest = Honest()
    async with Server(misbehave, honest) as server, client_at(server, trace=events.append) as client:
        with scope:
            await client.send(FIRST)
        finished = next(event for event in events if isinstance(event, MessageFinished))
        assert finished.accepted or finished.unknown  # it was taken: no other claim would be true
        if finished.unknown:
            await assert_next_arrives(client, server, honest)


@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize(
    ("content", "keywords"),
    [
        pytest.param(FIRST, ("PIPELINING",), id="R10-small-pipelined"),
        pytest.param(FIRST, ("SIZE",), id="R10-small-lockstep"),
        pytest.param(LARGE, ("PIPELINING",), id="R10-large-pipelined"),
    ],
)
async def test_cancelled_at_every_turn_of_the_event_loop(content: bytes, keywords: tuple[str, ...]) -> None:
    """R10, R1: whenever it is cancelled, what is said of it is true, and the next message arrives as it is."""
    honest = Honest(*keywords)
    was_cancelled = True
    turn = 0
    async with Server(honest) as server:
        events: list[TraceEvent] = []
        async with client_at(server, max_connections=1, trace=events.append) as client:
            while was_cancelled:
                events.clear()
                taken_before = sum(message.content == content for message in honest.messages)
                was_cancelled = await send_for(client, content, turn)
                receipt = await client.send(SECOND)
                assert receipt.complete
                assert receipt.reply is not None
                second = honest.messages[int(receipt.reply.text.rpartition(" ")[2])]
                assert second.content == SECOND
                assert second.mail.startswith(b"MAIL FROM:<two@example.org>")
                assert len(second.rcpts) == 1
                assert second.rcpts[0].startswith(b"RCPT TO:<them@example.org>")
                # The server may still be reading what the cancelled send had written; it is on a connection of its
                # own and comes to its end.
                await until(lambda: all(peer.is_idle for peer in server.peers))
                taken = sum(message.content == content for message in honest.messages) - taken_before
                said = [event for event in events if isinstance(event, MessageFinished)]
                assert len(said) <= 2
                if len(said) == 2:  # else it was cancelled before it began
                    first = said[0]
                    assert taken <= 1
                    assert not (taken and first.not_sent), f"taken, but not_sent is said, at turn {turn}"
                    assert not (first.accepted and not taken)
                turn += 1 if content is FIRST else 1 + turn // 2
    assert turn >= 2


async def send_for(client: Client, content: bytes, count: int) -> bool:
    """Send, cancelled after so many turns of the event loop; return whether it was."""

    async def cancel_after(scope: anyio.CancelScope) -> None:
        for _ in range(count):
            await anyio.lowlevel.checkpoint()
        scope.cancel()

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel_after, scope)
            await client.send(content)
            tasks.cancel_scope.cancel()
    return scope.cancelled_caught


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await anyio.lowlevel.checkpoint()


async def test_cancelled_while_others_wait_for_the_connection() -> None:
    """R9, R10: whoever waits gets a new connection, not the one with somebody else's replies on it."""
    is_there = anyio.Event()

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "end of data", "PIPELINING")
        is_there.set()
        assert await peer.read_to_the_end() == b""

    honest = Honest()
    async with Server(misbehave, honest) as server, client_at(server, max_connections=1) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send_until, client, FIRST, is_there)
            await is_there.wait()
            for _ in range(4):
                tasks.start_soon(client.send, SECOND)
        assert len(server.peers) == 2
    assert [message.content for message in honest.messages] == [SECOND] * 4


async def test_an_exception_of_the_trace_hook_is_no_failure_of_the_connection() -> None:
    """R9: it is the user's, is logged and goes no further."""

    def trace(event: TraceEvent) -> None:
        raise RuntimeError("broken hook")

    honest = Honest()
    async with Server(honest) as server, client_at(server, trace=trace) as client:
        for _ in range(2):
            assert (await client.send(SECOND)).complete
        assert len(server.peers) == 1


@skips_time
async def test_after_a_timeout_no_stale_reply_is_read() -> None:
    """R9: the reply that came too late is that of a connection which is gone."""
    gone = anyio.Event()

    async def misbehave(peer: Peer) -> None:
        await up_to(peer, "end of data", "PIPELINING")
        await gone.wait()
        await peer.write(b"250 2.0.0 taken 99\r\n")
        await peer.read_to_the_end()

    honest = Honest()
    async with Server(misbehave, honest) as server, client_at(server) as client:
        error = await failure_of(client, timeout=60)
        assert type(error) is DeliveryUnknown
        gone.set()
        await assert_next_arrives(client, server, honest)
