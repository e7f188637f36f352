"""R25: late is late. What stood still, or was suspended, hands nothing over once its time is up."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import smtplite
from smtplite import Client, Outgoing
from smtplite.protocol.window import Window
from smtplite.testing import SMTPServer
from smtplite.trace import FlightSent, ReplyReceived, TraceEvent

RAW = b"From: me@example.org\r\nTo: you@example.org\r\nSubject: hi\r\n\r\nbody\r\n"
LARGE = RAW + b"".join(b"line %d\r\n" % number for number in range(20_000))
#: How much time a call has, and how long the loop stands still then, both in seconds. On a machine that is busy a call
#: may need more than the first of them to come so far as to be stalled: then the next one is taken.
TIMES = ((0.3, 0.4), (2.0, 2.1), (10.0, 10.1))
PATIENCE_SECONDS = 60


class Stall:
    """Makes the event loop stand still once, when something happens: as other code in it may do at any moment."""

    def __init__(self, when: Callable[[TraceEvent], bool], then: Callable[[], object] = lambda: None) -> None:
        self.when = when
        self.then = then
        self.seconds = TIMES[0][1]
        self.is_over = False
        self.is_armed = True

    def __call__(self, event: TraceEvent) -> None:
        if self.is_armed and not self.is_over and self.when(event):
            self.is_over = True
            time.sleep(self.seconds)
            self.then()


def rcpt_was_answered(event: TraceEvent) -> bool:
    """The reply to DATA, in the same segment, is still to be looked at: content comes next, and nothing is awaited."""
    return isinstance(event, ReplyReceived) and event.command is not None and event.command.startswith("RCPT")


def content_is_written(event: TraceEvent) -> bool:
    return isinstance(event, FlightSent) and event.content_bytes > 0


WAYS: dict[str, tuple[dict[str, object], bytes, Callable[[TraceEvent], bool]]] = {
    "DATA": ({}, RAW, rcpt_was_answered),
    "DATA, large": ({}, LARGE, content_is_written),
    "chunk": ({"chunking": True}, RAW, content_is_written),
    "LMTP": ({"lmtp": True}, RAW, rcpt_was_answered),
}


def server_of(options: dict[str, object]) -> SMTPServer:
    return SMTPServer(lmtp=bool(options.get("lmtp")))


async def expect_nothing_taken(
    server: SMTPServer, client: Client, stall: Stall, call: Callable[[float], Awaitable[object]]
) -> None:
    """Run a call that is to end without a delivery; then deliver, so that all that was written before is judged.

    Args:
        server: has to take nothing.
        client: whose trace the stall is.
        stall: has to happen within the call.
        call: gets its time, in seconds.
    """
    for seconds, stall.seconds in TIMES:
        await call(seconds)
        if stall.is_over:
            break
    assert stall.is_over
    assert (await client.send(RAW, sender="after@example.org")).complete
    assert [message.sender for message in server.messages] == ["after@example.org"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.anyio
async def test_the_calls_own_timeout(way: str) -> None:
    """R25."""
    options, raw, when = WAYS[way]
    stall = Stall(when)
    with server_of(options).in_thread() as server:
        async with Client(server.host, server.port, tls="none", trace=stall, **options) as client:  # type: ignore[arg-type]

            async def call(seconds: float) -> None:
                with pytest.raises(smtplite.SMTPTimeout) as caught:
                    await client.send(raw, timeout=seconds)
                assert caught.value.not_sent == ("you@example.org",)
                assert caught.value.retryable

            await expect_nothing_taken(server, client, stall, call)  # type: ignore[arg-type]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.anyio
async def test_a_scope_around_the_call(way: str) -> None:
    """R25."""
    options, raw, when = WAYS[way]
    stall = Stall(when)
    with server_of(options).in_thread() as server:
        async with Client(server.host, server.port, tls="none", trace=stall, **options) as client:  # type: ignore[arg-type]

            async def call(seconds: float) -> None:
                with anyio.move_on_after(seconds) as scope:
                    await client.send(raw)
                assert scope.cancelled_caught

            await expect_nothing_taken(server, client, stall, call)  # type: ignore[arg-type]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.asyncio
async def test_asyncios_own_timeout(way: str) -> None:
    """R25: it is no scope: a timer of the loop's, which has to have its turn."""
    options, raw, when = WAYS[way]
    stall = Stall(when)
    with server_of(options).in_thread() as server:
        async with Client(server.host, server.port, tls="none", trace=stall, **options) as client:  # type: ignore[arg-type]

            async def call(seconds: float) -> None:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await client.send(raw)

            await expect_nothing_taken(server, client, stall, call)  # type: ignore[arg-type]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.asyncio
async def test_a_task_that_was_cancelled_meanwhile(way: str) -> None:
    """R25."""
    options, raw, when = WAYS[way]
    task: asyncio.Task[object] | None = None
    stall = Stall(when, lambda: task is not None and task.cancel())
    with server_of(options).in_thread() as server:
        async with Client(server.host, server.port, tls="none", trace=stall, **options) as client:  # type: ignore[arg-type]

            async def call(seconds: float) -> None:
                nonlocal task
                task = asyncio.ensure_future(client.send(raw))
                with pytest.raises(asyncio.CancelledError):
                    await task

            await expect_nothing_taken(server, client, stall, call)  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ["DATA", "chunk"])
@pytest.mark.anyio
async def test_a_message_of_a_stream(way: str) -> None:
    """R25: its timeout counts from its first octet; the others of the stream are sent."""
    options, raw, when = WAYS[way]
    stall = Stall(when)
    stall.is_armed = False
    timeout, stall.seconds = TIMES[1]  # enough for the others
    with SMTPServer().in_thread() as server:
        async with Client(server.host, server.port, tls="none", trace=stall, **options) as client:  # type: ignore[arg-type]
            await client.send(raw, sender="before@example.org")
            stall.is_armed = True
            items = [Outgoing(raw, f"{number}@example.org", tag=number) for number in range(3)]
            async with client.send_many(items, connections=1, timeout=timeout) as deliveries:
                outcomes = [delivery async for delivery in deliveries]
        taken = {message.sender for message in server.messages}
    assert stall.is_over
    failed = [delivery for delivery in outcomes if delivery.receipt is None]
    assert failed
    assert all(isinstance(delivery.error, smtplite.SMTPTimeout) for delivery in failed[:1])
    for delivery in outcomes:
        assert isinstance(delivery.item, Outgoing)
        assert (delivery.item.sender in taken) == (delivery.receipt is not None)
        assert delivery.error is None or not delivery.error.unknown


@pytest.mark.parametrize("way", ["DATA", "chunk"])
@pytest.mark.anyio
async def test_a_message_of_a_stream_that_goes_whole(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """R25: where nobody traces, and no command is made, what stood still hands nothing over either."""
    is_chunk = way == "chunk"
    timeout, stall_seconds = TIMES[1]
    begun: list[bytes | None] = []
    begin_whole, receive_usual = Window.begin_whole, Window.receive_usual

    def stand_still() -> None:
        if len(begun) == 2:  # once, with one before it that is still to be accepted
            begun.append(b"")
            time.sleep(stall_seconds)

    def begins(window: Window[Any], submission: Any, content: bytes, **options: bool) -> bytes | None:
        octets = begin_whole(window, submission, content, **options)
        if octets is not None:
            begun.append(octets)
            if is_chunk:  # its content is in these octets, and comes next
                stand_still()
        return octets

    def receives(window: Window[Any]) -> Any:
        taken = receive_usual(window)
        newest = window.newest
        if newest is not None and newest.whole is not None and newest.whole.wants_content:
            stand_still()
        return taken

    monkeypatch.setattr(Window, "begin_whole", begins)
    monkeypatch.setattr(Window, "receive_usual", receives)
    with SMTPServer().in_thread() as server:
        async with Client(server.host, server.port, tls="none", chunking=is_chunk) as client:
            items = [Outgoing(RAW, f"{number}@example.org", tag=number) for number in range(8)]
            async with client.send_many(items, connections=1, timeout=timeout, in_flight=2) as deliveries:
                outcomes = [delivery async for delivery in deliveries]
            assert (await client.send(RAW, sender="after@example.org")).complete
        taken = [message.sender for message in server.messages]
    assert len(begun) > 2
    failed = [delivery for delivery in outcomes if delivery.receipt is None]
    assert any(isinstance(delivery.error, smtplite.SMTPTimeout) for delivery in failed)
    for delivery in outcomes:
        assert isinstance(delivery.item, Outgoing)
        # What was handed over before may be unknown: it was written, and its verdict was not read in time.
        times = taken.count(str(delivery.item.sender))
        assert times == 1 if delivery.receipt is not None else times <= bool(delivery.error and delivery.error.unknown)
    assert sum(bool(delivery.error and delivery.error.unknown) for delivery in failed) <= 1


@pytest.mark.anyio
async def test_a_loop_that_is_slow_and_in_time_hands_over() -> None:
    """Standing still is no failure by itself."""
    stall = Stall(rcpt_was_answered)
    with SMTPServer().in_thread() as server:
        async with Client(server.host, server.port, tls="none", trace=stall) as client:
            with anyio.move_on_after(30):
                assert (await client.send(RAW, timeout=30)).complete
    assert stall.is_over


@pytest.mark.anyio
async def test_a_task_that_survived_a_cancellation_can_send() -> None:
    """What it was asked before the call is no reason to refuse the call."""
    async with SMTPServer() as server, Client(server.host, server.port, tls="none") as client:
        with anyio.CancelScope() as scope:
            scope.cancel()
            try:
                await anyio.lowlevel.checkpoint()
            except anyio.get_cancelled_exc_class():
                with anyio.CancelScope(shield=True):
                    assert (await client.send(RAW)).complete
                raise
    assert len(server.messages) == 1


PROGRAM = """
    import anyio, sys, smtplite

    RAW = b"From: me@example.org\\r\\nTo: you@example.org\\r\\n\\r\\nbody\\r\\n"

    async def main():
        async with smtplite.Client("127.0.0.1", int(sys.argv[1]), tls="none") as client:
            try:
                await client.send(RAW, timeout=3.0)
            except smtplite.SMTPTimeout as error:
                print("not sent to", *error.not_sent)

    anyio.run(main)
"""


@pytest.mark.needs("signals for other processes")
def test_a_process_that_was_suspended() -> None:
    """R25."""
    with SMTPServer().in_thread() as server:
        held = server.hold("DATA")
        program = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(server.port)]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
            held.wait(timeout=PATIENCE_SECONDS)
            os.kill(process.pid, signal.SIGSTOP)
            try:
                held.release()
                time.sleep(3.1)  # its deadline passes while it cannot see it
            finally:
                os.kill(process.pid, signal.SIGCONT)
            said, _ = process.communicate(timeout=PATIENCE_SECONDS)
        assert server.messages == []
    assert said == "not sent to you@example.org\n"
