"""Section 1.5 of the rules: no reply ever answers another message, and no place in the pool is lost.

Each message has a number, and the server repeats it in every reply. So a reply that strays is seen at once.
"""

from __future__ import annotations

import random
import re
from collections import Counter

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from smtplite import Client, ConnectError, DeliveryUnknown, Receipt, SMTPError, SMTPTimeout, Timeouts
from smtplite.trace import MessageFinished, TraceEvent

from .dialogue import client_at, skips_time, tls_contexts
from .server import Honest, Left, Peer, Server, ehlo_reply

pytestmark = pytest.mark.anyio


def message(number: int) -> bytes:
    return b"From: m%d@example.org\r\nTo: r%d@example.org\r\nSubject: x\r\n\r\nnumber %d\r\n" % ((number,) * 3)


class Echo:
    """A server that says the message's number in every reply, and takes its time over it.

    Args:
        withholds: the replies, by verb and number, that are not given; the next line ends the connection.
    """

    def __init__(self, *, withholds: frozenset[tuple[bytes, int]] = frozenset()) -> None:
        self._withholds = withholds
        #: The numbers of the messages that were taken, in order.
        self.taken: list[int] = []
        #: Set whenever a reply was withheld.
        self.withheld = anyio.Event()

    async def __call__(self, peer: Peer) -> None:
        await peer.write(b"220 mx\r\n")
        number = -1
        while True:
            line = await peer.read_line()
            verb = line.split(b" ")[0]
            await anyio.lowlevel.checkpoint()
            if verb == b"EHLO":
                await peer.write(ehlo_reply("PIPELINING"))
                continue
            if verb == b"QUIT":
                await peer.write(b"221 bye\r\n")
                return
            if verb == b"MAIL":
                found = re.fullmatch(rb"MAIL FROM:<m(\d+)@example\.org>", line)
                assert found is not None, line
                number = int(found[1])
            elif verb == b"RCPT":
                assert line == b"RCPT TO:<r%d@example.org>" % number
            else:
                assert verb in (b"DATA", b"RSET"), line
            if not await self._answer(peer, verb, number, b"354" if verb == b"DATA" else b"250"):
                return
            if verb == b"DATA":
                assert await peer.read_content() == message(number) + b".\r\n"
                self.taken.append(number)
                if not await self._answer(peer, b".", number, b"250"):
                    return

    async def _answer(self, peer: Peer, verb: bytes, number: int, code: bytes) -> bool:
        if (verb, number) in self._withholds:
            self.withheld.set()
            await peer.read_to_the_end()
            return False
        await peer.write(code + b" %b of %d\r\n" % (verb, number))
        return True


def assert_own_replies(said: Receipt | SMTPError | MessageFinished, number: int) -> None:
    replies = [*(said.replies.values() if isinstance(said, Receipt) else ()), *said.refused.values()]
    if isinstance(said, Receipt):
        assert said.accepted == (f"r{number}@example.org",)
        assert said.reply is not None
        assert said.reply.text == f". of {number}"
    for reply in replies:
        assert reply.text.endswith(f" of {number}")


ADVISORIES = ["redis-py_CVE-2023-28858", "redis-py_CVE-2023-28859", "aiosmtplib_cancellation"]


@pytest.mark.parametrize("verb", [b"MAIL", b"RCPT", b"DATA", b"."])
@pytest.mark.parametrize("advisory", ADVISORIES)
async def test_the_next_one_never_reads_the_reply_of_who_was_cancelled(advisory: str, verb: bytes) -> None:
    """R9, R10, CVE-2023-28858, CVE-2023-28859: one asks and is cancelled, another asks and gets the first one's answer.

    Three ways to give up: cancelled once it waits, cancelled at the same moment as the reply is written, and by time.
    """
    echo = Echo(withholds=frozenset({(verb, 1)}))
    if advisory == "redis-py_CVE-2023-28859":  # cancelled while the reply is on its way
        echo = Echo()
    async with Server(echo) as server, client_at(server, max_connections=1) as client:
        assert_own_replies(await client.send(message(0)), 0)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:

                async def cancel() -> None:
                    if advisory == "redis-py_CVE-2023-28859":
                        while verb not in b"".join(bytes(peer.received[-20:]) for peer in server.peers):
                            await anyio.lowlevel.checkpoint()
                    else:
                        await echo.withheld.wait()
                    scope.cancel()

                tasks.start_soon(cancel)
                await client.send(message(1))
                tasks.cancel_scope.cancel()
        for number in range(2, 5):
            assert_own_replies(await client.send(message(number)), number)
    assert Counter(echo.taken)[1] <= 1
    assert [number for number in echo.taken if number != 1] == [0, 2, 3, 4]


@skips_time
@pytest.mark.parametrize("verb", [b"MAIL", b"RCPT", b"DATA", b"."])
@pytest.mark.parametrize("advisory", ["Symfony_#54169", "Symfony_#65352", "aiosmtplib_5.1.2", "aiosmtplib_#15"])
async def test_after_a_timeout_no_command_reads_the_stale_reply(advisory: str, verb: bytes) -> None:
    """R9, Symfony #54169 and #65352, aiosmtplib #15 and 5.1.2: a timeout, and RSET, NOOP or QUIT read what came late.

    Here nothing more is said on that connection, so that there is nothing to read it.
    """
    timeouts = {"Symfony_#54169": Timeouts(command=5, data_init=5, end_of_data=5)}.get(advisory)
    echo = Echo(withholds=frozenset({(verb, 1)}))
    async with Server(echo) as server, client_at(server, max_connections=1, timeouts=timeouts) as client:
        assert_own_replies(await client.send(message(0)), 0)
        with pytest.raises(DeliveryUnknown if verb == b"." else SMTPTimeout) as caught:
            await client.send(message(1), timeout=7 if advisory == "aiosmtplib_#15" else None)
        assert_own_replies(caught.value, 1)
        for number in range(2, 4):
            assert_own_replies(await client.send(message(number)), number)
        assert len(server.peers) == 2
        assert not server.peers[0].received.endswith((b"RSET\r\n", b"NOOP\r\n", b"QUIT\r\n"))


@pytest.mark.parametrize("unasked", [b"250 . of 7\r\n", b"250 MAIL of 7\r\n", b"354 DATA of 7\r\n"])
async def test_a_line_that_nobody_asked_for_shifts_no_reply(unasked: bytes) -> None:
    """R8, aiosmtplib 320180e: in front of the next message, in the same segment as the last verdict."""

    async def script(peer: Peer) -> None:
        await peer.write(b"220 mx\r\n")
        await peer.read_line()
        await peer.write(ehlo_reply("PIPELINING"))
        await peer.read_until(b"DATA\r\n")
        await peer.write(b"250 MAIL of 0\r\n250 RCPT of 0\r\n354 DATA of 0\r\n")
        await peer.read_content()
        await peer.write(b"250 . of 0\r\n" + unasked)
        assert await peer.read_to_the_end() == b""

    echo = Echo()
    async with Server(script, echo) as server, client_at(server, max_connections=1) as client:
        for number in range(3):
            assert_own_replies(await client.send(message(number)), number)
    assert echo.taken == [1, 2]


@pytest.mark.exhaustive(keep=3)
@pytest.mark.parametrize("seed", range(4))
async def test_many_at_once_some_of_whom_give_up(seed: int) -> None:
    """R9, R10, R1: whoever is cancelled, and whenever: everybody else gets his own replies, and the trace is true."""
    choose = random.Random(seed)
    count = 60
    echo = Echo()
    said: dict[int, MessageFinished] = {}
    receipts: dict[int, Receipt] = {}
    patience = {number: choose.randrange(40) if choose.random() < 0.5 else None for number in range(count)}

    def trace(event: TraceEvent) -> None:
        if isinstance(event, MessageFinished):
            (recipient,) = (*event.accepted, *event.refused, *event.unknown, *event.not_sent)
            number = int(recipient[1:].partition("@")[0])
            assert number not in said
            said[number] = event

    async with Server(echo) as server, client_at(server, max_connections=3, trace=trace) as client:

        async def send(number: int) -> None:
            turns = patience[number]
            async with anyio.create_task_group() as tasks:

                async def give_up() -> None:
                    for _ in range(turns or 0):
                        await anyio.lowlevel.checkpoint()
                    tasks.cancel_scope.cancel()

                if turns is not None:
                    tasks.start_soon(give_up)
                receipts[number] = await client.send(message(number))
                tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            for number in range(count):
                tasks.start_soon(send, number)
        while not all(peer.is_idle for peer in server.peers):
            await anyio.lowlevel.checkpoint()
        taken = Counter(echo.taken)
    assert len(receipts) >= sum(turns is None for turns in patience.values())
    for number, receipt in receipts.items():
        assert_own_replies(receipt, number)
    assert max(taken.values()) == 1
    for number, event in said.items():
        assert_own_replies(event, number)
        if event.accepted:
            assert taken[number]
        if event.not_sent or event.refused:
            assert not taken[number]
    assert all(said[number].accepted for number in receipts)


# Places in the pool


async def give_up_once(client: Client, at: anyio.Event) -> None:
    """Send, and be cancelled at the event."""
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:

            async def cancel() -> None:
                await at.wait()
                scope.cancel()

            tasks.start_soon(cancel)
            await client.send(message(1))
    assert scope.cancelled_caught


async def test_cancelled_while_it_waits_for_a_place() -> None:
    """R9, httpcore #830: whoever gives up in the queue leaves it, and takes no place with him."""
    echo = Echo(withholds=frozenset({(b".", 0)}))
    async with Server(echo) as server, client_at(server, max_connections=1) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.send, message(0))
            await echo.withheld.wait()
            waiting = anyio.Event()
            async with anyio.create_task_group() as queue:
                for _ in range(10):
                    queue.start_soon(give_up_once, client, waiting)
                await anyio.wait_all_tasks_blocked()
                waiting.set()
            tasks.cancel_scope.cancel()
        for number in range(2, 5):
            assert_own_replies(await client.send(message(number)), number)
        assert len(server.peers) == 2


async def test_cancelled_while_it_connects() -> None:
    """R9, httpcore #1093: the place of a connection that never came to be is free again."""
    echo = Echo()
    is_connecting = anyio.Event()
    hangs = True

    async with Server(echo) as server:

        async def connect() -> anyio.abc.ByteStream:
            if hangs:
                is_connecting.set()
                await anyio.sleep_forever()
            return await anyio.connect_tcp(server.host, server.port)

        async with Client(connect=connect, tls="none", max_connections=1) as client:
            for _ in range(10):
                is_connecting = anyio.Event()
                await give_up_once(client, is_connecting)
            hangs = False
            assert_own_replies(await client.send(message(2)), 2)
        assert len(server.peers) == 1


@pytest.mark.parametrize("phase", ["greeting", "EHLO", "TLS"])
async def test_cancelled_while_it_is_set_up(phase: str) -> None:
    """R9, R12, httpcore #1099: in the middle of the handshake; the place is free again."""
    theirs, ours = tls_contexts()
    is_there = anyio.Event()
    honest = Honest()

    async def hang(peer: Peer) -> None:
        if phase == "EHLO":
            await peer.begin_tls(theirs)
            await peer.write(b"220 mx\r\n")
            await peer.read_line()
        elif phase == "greeting":
            await peer.begin_tls(theirs)
        else:
            await peer.read_some()  # the ClientHello
        is_there.set()
        assert b"MAIL" not in await peer.read_to_the_end()

    async def serve(peer: Peer) -> None:
        await peer.begin_tls(theirs)
        await honest(peer)

    async with Server(*[hang] * 5, serve) as server:
        async with client_at(server, max_connections=1, tls="implicit", tls_context=ours) as client:
            for _ in range(5):
                is_there = anyio.Event()
                await give_up_once(client, is_there)
            assert (await client.send(message(2))).complete
        assert len(server.peers) == 6


@pytest.mark.exhaustive(keep=1)
async def test_errors_of_all_kinds_leave_the_pool_as_large_as_it_was() -> None:
    """R9: no place is lost, none is won: two connections at once, before and after a hundred failures."""

    async def fail(peer: Peer) -> None:
        kind = peer.number % 4
        if kind == 0:
            raise Left
        if kind == 1:
            await peer.write(b"554 no\r\n")
        elif kind == 2:
            peer.reset()
        else:
            await peer.write(b"junk\r\n")
        await peer.read_to_the_end()

    together = 0
    most = 0
    echo = Echo()

    async def count(peer: Peer) -> None:
        nonlocal together, most
        together += 1
        most = max(most, together)
        try:
            await echo(peer)
        finally:
            together -= 1

    async with Server(*[fail] * 100, count) as server, client_at(server, max_connections=2) as client:

        async def send(number: int) -> None:
            for _ in range(200):
                try:
                    await client.send(message(number))
                except SMTPError:
                    continue
                return

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(send, number)
        assert most == 2
        assert sorted(echo.taken) == list(range(20))
        assert len(server.peers) <= 102
        server.stop_listening()
        assert_own_replies(await client.send(message(20)), 20)  # on one that is idle
    with pytest.raises(ConnectError):
        async with client_at(server) as client:
            await client.send(message(21))
