"""R23, and section 1.7 of the rules: chunks only for servers that swallow what they refuse, and RSET between messages.

A server that does not swallow a refused chunk executes its text as commands. So every message here is full of
commands, and no server may ever execute one of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import attrs
import pytest

import smtplite
from smtplite import (
    Client,
    ConnectionLost,
    DeliveryUnknown,
    MessageRefused,
    RecipientsRefused,
    RemoteProtocolError,
    ServiceUnavailable,
    SMTPError,
    SMTPTimeout,
)

from .dialogue import ASYNCIO_AND_TRIO, Fault, client_at, close, failure_of, flood, reset, skips_time, tls_contexts
from .server import Left, Message, Peer, Server, ehlo_reply

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not hasattr(Client, "send_many"), reason="Client has no send_many and no chunking="),
]

EVENT_LOOPS = ASYNCIO_AND_TRIO


def message(number: int, *, size: int = 0) -> bytes:
    """Return a message that is full of commands."""
    head = b"From: m%d@example.org\r\nTo: you@example.org\r\nSubject: %d\r\n\r\n" % (number, number)
    body = b".\r\nRSET\r\nMAIL FROM:<evil@example.org>\r\nRCPT TO:<them@example.org>\r\nDATA\r\n..x\r\n.\r\nQUIT\r\n"
    return head + body * max(1, size // len(body))


FIRST, SECOND = message(1), message(2)


def _by_verb(replies: dict[str, bytes]) -> Callable[[bytes], bytes | None]:
    return lambda line: replies.get(line.split(b" ")[0].decode("latin-1"))


class Chunky:
    """A server that takes chunks, and lies about it in one way or another.

    Args:
        keywords: what it offers.
        swallows: whether a chunk that it refuses is taken off the stream.
        says: the reply to a line in place of a good one; None: none. Or verb -> reply.
        at_end_of_data: what it does at the end of data of that number, counted from 0, in place of taking the message.
    """

    def __init__(
        self,
        *keywords: str,
        swallows: bool = True,
        says: Callable[[bytes], bytes | None] | dict[str, bytes] | None = None,
        at_end_of_data: dict[int, Fault] | None = None,
    ) -> None:
        self._keywords = keywords or ("PIPELINING", "CHUNKING", "8BITMIME", "SIZE 10000000")
        self._swallows = swallows
        self.says = says if callable(says) else _by_verb(says or {})
        self._at_end_of_data = at_end_of_data or {}
        #: Every line that it took for a command.
        self.executed: list[bytes] = []
        self.messages: list[Message] = []
        self._ends = 0

    async def __call__(self, peer: Peer) -> None:
        await peer.write(b"220 mx\r\n")
        mail, rcpts, chunks = b"", list[bytes](), list[bytes]()
        while True:
            line = await peer.read_line()
            self.executed.append(line)
            verb, _, argument = line.partition(b" ")
            verb = verb.upper()
            said = self.says(line)
            if verb in (b"EHLO", b"LHLO"):
                reply = ehlo_reply(*self._keywords)
            elif verb == b"MAIL":
                reply = b"503 5.5.1 nested MAIL\r\n" if mail else b"250 2.1.0 sender\r\n"
            elif verb == b"RCPT":
                reply = b"250 2.1.5 recipient\r\n" if mail else b"503 5.5.1 MAIL first\r\n"
            elif verb in (b"RSET", b"NOOP"):
                reply = b"250 2.0.0 ok\r\n"
            elif verb == b"QUIT":
                await peer.write(b"221 bye\r\n")
                return
            elif verb == b"DATA":
                reply = b"354 go\r\n" if rcpts else b"503 5.5.1 RCPT first\r\n"
            elif verb == b"BDAT":
                reply = b"250 2.0.0 chunk\r\n" if rcpts else b"503 5.5.1 RCPT first\r\n"
            else:
                reply = b"500 5.5.2 what\r\n"
            reply = reply if said is None else said
            is_good = reply.startswith((b"2", b"3"))
            if verb == b"RSET" and is_good:
                mail, rcpts, chunks = b"", [], []
            elif verb == b"MAIL" and is_good:
                mail = line
            elif verb == b"RCPT" and is_good:
                rcpts.append(line)
            elif verb == b"BDAT":
                size = int(argument.split(b" ")[0])
                if is_good or self._swallows:
                    chunks.append(await peer.read_exactly(size))
                if is_good and argument.endswith(b"LAST"):
                    if await self._ended(peer, Message(peer.number, mail, tuple(rcpts), b"".join(chunks))):
                        return
                    reply = b"250 2.0.0 taken %d\r\n" % len(self.messages)
                    mail, rcpts, chunks = b"", [], []
            elif verb == b"DATA" and is_good:
                await peer.write(reply)
                wire = await peer.read_content()
                taken = Message(peer.number, mail, tuple(rcpts), wire)
                if await self._ended(peer, attrs.evolve(taken, wire=taken.content)):
                    return
                mail, rcpts = b"", []
                reply = b"250 2.0.0 taken %d\r\n" % len(self.messages)
            await peer.write(reply)

    async def _ended(self, peer: Peer, taken: Message) -> bool:
        """Take a message, or do what is to be done with this one; return True if the connection is at its end."""
        fault = self._at_end_of_data.get(self._ends)
        self._ends += 1
        if fault is None:
            self.messages.append(taken)
            return False
        await fault(peer)
        return True

    def assert_took(self, *contents: bytes) -> None:
        assert sorted(taken.wire for taken in self.messages) == sorted(contents)
        self.assert_executed_no_content()

    def assert_executed_no_content(self) -> None:
        for line in self.executed:
            assert b"evil" not in line
            assert b"them@" not in line
            assert line not in (b".", b"..x")


def chunking_at(server: Server, **options: Any) -> Client:
    return client_at(server, chunking=True, **options)


async def outcomes_of(client: Client, messages: Sequence[bytes], **options: Any) -> list[smtplite.Receipt | SMTPError]:
    """Send many over one connection at a time; return the outcome of each, in their order."""
    outcomes: dict[bytes, smtplite.Receipt | SMTPError] = {}
    async with client.send_many(messages, connections=1, **options) as deliveries:
        async for delivery in deliveries:
            item = delivery.item
            assert isinstance(item, bytes)
            assert item not in outcomes  # each once
            outcome = delivery.receipt if delivery.error is None else delivery.error
            assert outcome is not None
            outcomes[item] = outcome
    return [outcomes[each] for each in messages]


# Only if asked for, and only once it is proved


async def test_chunks_are_opt_in() -> None:
    """R23: offered by the server, they are not used; by `send` nor by `send_many`."""
    chunky = Chunky()
    async with Server(chunky) as server, client_at(server) as client:
        assert (await client.send(FIRST)).complete
        await outcomes_of(client, [SECOND])
        assert b"BDAT" not in server.peers[0].received
    chunky.assert_took(FIRST, SECOND)


async def test_each_connection_proves_that_it_swallows_chunks() -> None:
    """R23: with the first message, in the same write; and each connection anew."""
    chunky = Chunky()
    async with Server(chunky) as server:
        async with chunking_at(server, max_messages_per_connection=2) as client:
            for number in range(4):
                assert (await client.send(message(number))).complete
        assert len(server.peers) == 2
        for peer in server.peers:
            _, _, rest = bytes(peer.received).partition(b"\r\n")
            assert rest.count(b"BDAT 8 LAST\r\nXPROBE\r\nRSET\r\nMAIL FROM:") == 1
            assert rest.startswith(b"MAIL FROM:<m")
            # The proof's MAIL has no recipient: its chunk can only be refused.
            assert rest.index(b"BDAT 8 LAST") < rest.index(b"RCPT TO")
    assert b"DATA" not in chunky.executed
    chunky.assert_took(*map(message, range(4)))


NO_SERVERS_FOR_CHUNKS: dict[str, Callable[[], Chunky]] = {
    "go-smtp #315": lambda: Chunky(swallows=False),
    "500 to BDAT": lambda: Chunky(swallows=False, says={"BDAT": b"500 5.5.2 what\r\n"}),
    "502 to BDAT": lambda: Chunky(swallows=False, says={"BDAT": b"502 5.5.1 no\r\n"}),
    "521 to BDAT": lambda: Chunky(swallows=False, says={"BDAT": b"521 5.5.1 no\r\n"}),
    "530 to BDAT": lambda: Chunky(swallows=False, says={"BDAT": b"530 5.7.0 STARTTLS first\r\n"}),
    "503 to BDAT": lambda: Chunky(swallows=False, says={"BDAT": b"503 5.5.1 no\r\n"}),
    "swallows, and 500": lambda: Chunky(says={"BDAT": b"500 5.5.2 what\r\n"}),
    "swallows, and 502": lambda: Chunky(says={"BDAT": b"502 5.5.1 no\r\n"}),
    "swallows, and 530": lambda: Chunky(says={"BDAT": b"530 5.7.0 no\r\n"}),
}


@pytest.mark.parametrize(
    "make", NO_SERVERS_FOR_CHUNKS.values(), ids=[f"R23-{name}".replace(" ", "_") for name in NO_SERVERS_FOR_CHUNKS]
)
@pytest.mark.parametrize("how", ["send", "send_many"])
async def test_where_the_proof_fails_everything_goes_by_data(make: Callable[[], Chunky], how: str) -> None:
    """R23, go-smtp #315; Postfix and Dovecot with 530: no octet of content is executed; each message arrives once."""
    chunky = make()
    async with Server(chunky) as server:
        async with chunking_at(server) as client:
            messages = [message(number) for number in range(4)]
            if how == "send":
                for each in messages:
                    assert (await client.send(each)).complete
            else:
                assert all(outcome.accepted for outcome in await outcomes_of(client, messages))
            assert len(server.peers) == 2  # the one of the proof, and the one for all
            assert b"BDAT" not in server.peers[1].received
    chunky.assert_took(*messages)


async def test_a_server_that_wants_authentication_first_executes_nothing() -> None:
    """R23: Dovecot submission and Postfix, 530 to every command: a refusal, and no text of the message behind it."""
    no = b"530 5.7.0 Authentication required\r\n"
    chunky = Chunky(swallows=False, says=dict.fromkeys(["MAIL", "RCPT", "BDAT", "DATA", "XPROBE"], no))
    async with Server(chunky) as server, chunking_at(server) as client:
        for _ in range(2):
            error = await failure_of(client, FIRST)
            assert isinstance(error, (smtplite.SenderRefused, RecipientsRefused))
            assert error.refused["you@example.org"].code == 530
    assert chunky.messages == []
    chunky.assert_executed_no_content()


@skips_time
async def test_a_server_that_says_nothing_to_bdat() -> None:
    """R23, R7: Exchange hung on it: certainly not sent, for the content waits for the proof."""

    async def hang(peer: Peer) -> None:
        await peer.write(b"220 mx\r\n")
        await peer.read_line()
        await peer.write(ehlo_reply("PIPELINING", "CHUNKING"))
        await peer.read_line()
        await peer.write(b"250 sender\r\n")
        await peer.read_to_the_end()

    async with Server(hang) as server, chunking_at(server) as client:
        error = await failure_of(client, FIRST)
        assert type(error) is SMTPTimeout
        assert error.not_sent == ("you@example.org",)
        assert b"Subject" not in server.peers[0].received


@pytest.mark.parametrize(
    ("said", "is_421"),
    [
        pytest.param(b"250 a\r\n421 closing\r\n", True, id="R23-421"),
        pytest.param(b"250 a\r\njunk\r\n", False, id="R23-junk"),
        pytest.param(b"250 a\r\n354 go\r\n", False, id="R23-354"),
        pytest.param(b"250 a\r\n503 b\r\n", False, id="R23-end"),
        pytest.param(b"250 a\r\n503 b\r\n500 c\r\n250 d\r\n250 e\r\n250 f\r\n", False, id="R23-one_reply_more"),
    ],
)
async def test_a_proof_that_is_cut_off(said: bytes, is_421: bool) -> None:
    """R23, R11: not one octet of the message was written; by DATA then, and for ever. A 421 is any 421."""
    chunky = Chunky()

    async def misbehave(peer: Peer) -> None:
        await peer.write(b"220 mx\r\n")
        await peer.read_line()
        await peer.write(ehlo_reply("PIPELINING", "CHUNKING"))
        await peer.read_until(b"RCPT TO:<you@example.org>")
        await peer.write(said)

    async with Server(misbehave, chunky) as server, chunking_at(server) as client:
        if is_421:
            error = await failure_of(client, FIRST)
            assert type(error) is ServiceUnavailable
            assert error.not_sent == ("you@example.org",)
        else:
            assert (await client.send(FIRST)).complete
        assert (await client.send(SECOND)).complete
        assert (b"BDAT" in server.peers[1].received) is is_421
        assert b"Subject" not in server.peers[0].received
        assert len(server.peers) == 2
    chunky.assert_took(*([SECOND] if is_421 else [FIRST, SECOND]))


@pytest.mark.parametrize("rset", [b"500 no\r\n", b"421 no\r\n", b"354 go\r\n", b"junk\r\n"])
async def test_a_proof_whose_reset_fails_is_none(rset: bytes) -> None:
    """R23: its reply shows whether both sides agree where they are."""
    misbehaving, chunky = Chunky(says={"RSET": rset}), Chunky()
    async with Server(misbehaving, chunky) as server, chunking_at(server) as client:
        try:
            await client.send(FIRST)
        except SMTPError as error:
            assert error.not_sent == ("you@example.org",)  # noqa: PT017
            assert (await client.send(FIRST)).complete
        assert b"Subject" not in server.peers[0].received
    assert misbehaving.messages == []
    chunky.assert_took(FIRST)


# What travels in chunks


@pytest.mark.parametrize(
    ("keywords", "content", "in_chunks"),
    [
        pytest.param(("SIZE 10000000",), message(1, size=300_000), True, id="R23-within_SIZE"),
        pytest.param((), message(1, size=30_000), True, id="R23-small_without_SIZE"),
        pytest.param((), message(1, size=100_000), False, id="R23-large_without_SIZE"),
        pytest.param(("SIZE",), message(1, size=100_000), False, id="R23-SIZE_without_number"),
    ],
)
async def test_content_that_could_be_refused_for_its_size_goes_by_data(
    keywords: tuple[str, ...], content: bytes, in_chunks: bool
) -> None:
    """R23: Exim, over its size limit, executed MAIL and RCPT out of a body, and delivered it."""
    chunky = Chunky("PIPELINING", "CHUNKING", *keywords)
    async with Server(chunky) as server, chunking_at(server) as client:
        for _ in range(2):
            assert (await client.send(content)).complete
    assert sum(line == b"DATA" for line in chunky.executed) == (0 if in_chunks else 2)
    chunky.assert_took(content, content)


async def test_content_over_the_size_is_not_sent_at_all() -> None:
    """R23, R20."""
    chunky = Chunky("PIPELINING", "CHUNKING", "SIZE 1000")
    async with Server(chunky) as server, chunking_at(server) as client:
        for _ in range(2):
            with pytest.raises(smtplite.ExtensionRequired):
                await client.send(message(1, size=2000))
    assert not any(line.startswith((b"MAIL", b"BDAT")) for line in chunky.executed)


@pytest.mark.parametrize("text", [b".\r\n..\r\n", b"a\n.\nb\rc", b"no end", b"\r\n.\r\n", b"x\r\n."])
async def test_in_chunks_no_dot_is_doubled_and_no_line_end_is_bare(text: bytes) -> None:
    """R21, R23: the octets that were announced, line ends CRLF, and nothing behind them."""
    content = FIRST.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" + text
    expected = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    chunky = Chunky()
    async with Server(chunky) as server, chunking_at(server) as client:
        for _ in range(2):
            assert (await client.send(content)).complete
        assert sum(line.startswith(b"BDAT") for line in chunky.executed) == 3
        assert len(server.peers) == 1
    chunky.assert_took(expected, expected)


# Refusals behind the proof


@pytest.mark.parametrize(
    ("verb", "said", "expected"),
    [
        pytest.param("MAIL", b"550 5.7.1 no\r\n", smtplite.SenderRefused, id="R23-MAIL"),
        pytest.param("RCPT", b"550 5.1.1 no\r\n", RecipientsRefused, id="R23-RCPT"),
        pytest.param("BDAT", b"552 5.3.4 no\r\n", MessageRefused, id="R23-BDAT"),
        pytest.param("BDAT", b"452 4.3.1 no\r\n", MessageRefused, id="R23-BDAT_452"),
    ],
)
@pytest.mark.parametrize("size", [0, 300_000], ids=["small", "large"])
async def test_a_refusal_behind_the_proof_is_swallowed_with_its_chunk(
    verb: str, said: bytes, expected: type[SMTPError], size: int
) -> None:
    """R23: RSET stands in front of the next MAIL; nothing more of the content is written than was under way."""

    chunky = Chunky()
    async with Server(chunky) as server, chunking_at(server) as client:
        assert (await client.send(FIRST)).complete
        chunky.says = _by_verb({verb: said})
        error = await failure_of(client, message(5, size=size))
        assert type(error) is expected
        assert error.refused["you@example.org"].code == int(said[:3])
        chunky.says = _by_verb({})
        before = len(chunky.executed)
        assert (await client.send(SECOND)).complete
        if verb != "MAIL" and len(server.peers) == 1:
            assert chunky.executed[before] == b"RSET"
    chunky.assert_took(FIRST, SECOND)


async def test_every_mail_behind_an_owed_verdict_has_rset_in_front() -> None:
    """R23: without it Exim delivered the second message under the first one's sender."""
    messages = [message(number) for number in range(20)]
    window = b""

    async def withhold(peer: Peer) -> None:
        nonlocal window
        await peer.write(b"220 mx\r\n")
        await peer.read_line()
        await peer.write(ehlo_reply("PIPELINING", "CHUNKING"))
        await peer.read_until(b"RCPT TO:<you@example.org>\r\n")
        await peer.write(b"250 a\r\n503 b\r\n250 c\r\n250 d\r\n250 e\r\n")
        await peer.read_until(messages[0])
        await peer.write(b"250 taken\r\n")
        for each in messages[1:]:  # none of them is answered before the last has come
            window += await peer.read_until(each)
        await peer.write(b"250 mail\r\n250 rcpt\r\n250 taken\r\n")
        await peer.write(b"250 rset\r\n250 mail\r\n250 rcpt\r\n250 taken\r\n" * 18)
        assert await peer.read_line() == b"QUIT"
        await peer.write(b"221 bye\r\n")

    async with Server(withhold) as server, chunking_at(server) as client:
        assert all(outcome.accepted for outcome in await outcomes_of(client, messages))
    for each in messages:
        window = window.replace(each, b"")
    one = rb"MAIL FROM:<m%d@example\.org>(?: [A-Z0-9=]+)*\r\nRCPT TO:<you@example\.org>\r\nBDAT \d+ LAST\r\n"
    assert re.fullmatch(one % 1 + b"".join(b"RSET\r\n" + one % number for number in range(2, 20)), window)


async def test_behind_a_dot_none_is_needed() -> None:
    """R23: the end of data of a DATA that was answered 354 ends its transaction for certain."""
    chunky = Chunky("PIPELINING")
    messages = [message(number) for number in range(20)]
    async with Server(chunky) as server, client_at(server) as client:
        assert all(outcome.accepted for outcome in await outcomes_of(client, messages))
    assert b"RSET" not in chunky.executed
    chunky.assert_took(*messages)


@pytest.mark.parametrize("chunking", [False, True], ids=["DATA", "BDAT"])
async def test_a_refused_sender_in_a_window_costs_no_other_message(chunking: bool) -> None:
    """R23: whatever came of one, the others arrive under their own senders, once."""
    messages = [message(number) for number in range(12)]
    refused = {b"MAIL FROM:<m%d@example.org>" % number for number in (2, 5, 8, 11)}
    chunky = Chunky(says=lambda line: b"550 5.7.1 no\r\n" if line.split(b"> ")[0] + b">" in refused else None)
    async with Server(chunky) as server, client_at(server, chunking=chunking) as client:
        outcomes = await outcomes_of(client, messages)
    for number, outcome in enumerate(outcomes):
        if number % 3 == 2:
            assert type(outcome) is smtplite.SenderRefused
        else:
            assert outcome.accepted
    chunky.assert_took(*(each for number, each in enumerate(messages) if number % 3 != 2))
    for taken in chunky.messages:
        sender = taken.mail.partition(b"<")[2].partition(b">")[0]
        assert taken.wire.startswith(b"From: %b\r\n" % sender)


async def test_a_verdict_of_2yz_for_a_refused_sender_is_none() -> None:
    """R23, R3: whatever the server took there, nobody can know what it was."""
    taken = 0

    async def misbehave(peer: Peer) -> None:
        nonlocal taken
        await peer.write(b"220 mx\r\n")
        await peer.read_line()
        await peer.write(ehlo_reply("PIPELINING", "CHUNKING"))
        await peer.read_until(b"RCPT TO:<you@example.org>\r\n")
        await peer.write(b"250 a\r\n503 b\r\n250 c\r\n250 d\r\n250 e\r\n")
        await peer.read_until(b"LAST\r\n")
        await peer.read_exactly(len(message(1)))
        await peer.write(b"250 taken\r\n")
        line = await peer.read_line()
        assert line.startswith(b"MAIL FROM:<m3@")
        await peer.read_until(b"LAST\r\n")
        await peer.read_exactly(len(message(3)))
        taken += 1
        await peer.write(b"550 no\r\n250 yes\r\n250 taken\r\n")
        await peer.read_to_the_end()

    async with Server(misbehave) as server, chunking_at(server) as client:
        assert (await client.send(message(1))).complete
        error = await failure_of(client, message(3))
    assert taken == 1
    assert type(error) is DeliveryUnknown
    assert type(error.__cause__) is RemoteProtocolError


# Windows that end


def saying(said: bytes, *, stay: bool = True) -> Fault:
    async def fault(peer: Peer) -> None:
        await peer.write(said)
        if stay:  # what is under way is read, and not answered
            await peer.read_to_the_end()

    return fault


MODES: dict[str, tuple[tuple[str, ...], bool]] = {
    "BDAT": (("PIPELINING", "CHUNKING", "SIZE 10000000"), True),
    "DATA": (("PIPELINING",), False),
    "lockstep": (("SIZE",), False),
    "LMTP": (("PIPELINING", "CHUNKING", "SIZE 10000000"), True),
}
FAULTS: dict[str, Fault] = {
    "close": close,
    "reset": reset,
    "421": saying(b"421 4.3.2 closing\r\n", stay=False),
    "junk": saying(b"junk\r\n"),
    "354": saying(b"354 go\r\n"),
    "half": saying(b"250 tak", stay=False),
    "endless": flood(b"x" * 10_000, b"250 "),
}


@pytest.mark.exhaustive(keep=6)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", FAULTS)
async def test_a_window_that_ends_gives_each_message_its_true_outcome(mode: str, kind: str) -> None:
    """R1, R11, R23: accepted are those that were taken, once; of those not sent none was, and the rest is unknown.

    At several of the messages in turn; and the server may have taken that one, or not.
    """
    for at in (0, 1, 4):
        for took_it in (False, True) if kind != "421" else (False,):  # then it took nothing (RFC 5321 3.8)
            await assert_window_that_ends(mode, kind, at, took_it=took_it)


async def assert_window_that_ends(mode: str, kind: str, at: int, *, took_it: bool) -> None:
    keywords, chunking = MODES[mode]
    messages = [message(number) for number in range(10)]
    is_certain = kind == "421"
    taken_at_fault: list[bytes] = []

    async def fault(peer: Peer) -> None:
        if took_it:
            taken_at_fault.append(messages[at])
        await FAULTS[kind](peer)

    # With the proof's, at its refused chunk no end of data is counted: it has no recipient.
    misbehaving, honest = Chunky(*keywords, at_end_of_data={at: fault}), Chunky(*keywords)
    async with Server(misbehaving, honest) as server:
        async with client_at(server, chunking=chunking, lmtp=mode == "LMTP") as client:
            outcomes = await outcomes_of(client, messages)
            after = await outcomes_of(client, [message(99)])
    assert after[0].accepted
    truth = [taken.wire for taken in [*misbehaving.messages, *honest.messages]] + taken_at_fault
    for each, outcome in zip(messages, outcomes, strict=True):
        assert truth.count(each) <= 1, "delivered twice"
        if outcome.accepted:
            assert isinstance(outcome, smtplite.Receipt)
            assert each in truth
        elif outcome.unknown:
            assert isinstance(outcome, DeliveryUnknown)
        else:
            assert each not in truth
    # What stands before the fault was certainly taken; the message at the fault is unknown, but for a 421.
    assert all(outcome.accepted for outcome in outcomes[:at])
    if not is_certain:
        assert outcomes[at].unknown == ("you@example.org",)
    if mode != "BDAT":  # nothing else was handed over
        assert all(outcome.accepted for n, outcome in enumerate(outcomes) if n != at)
    misbehaving.assert_executed_no_content()
    honest.assert_executed_no_content()


@skips_time
@pytest.mark.parametrize("mode", MODES)
async def test_a_window_whose_verdicts_never_come(mode: str) -> None:
    """R7, R23: one deadline ends it, for all of them."""
    keywords, chunking = MODES[mode]
    messages = [message(number) for number in range(6)]

    async def fault(peer: Peer) -> None:
        await peer.read_to_the_end()

    misbehaving, honest = Chunky(*keywords, at_end_of_data={2: fault}), Chunky(*keywords)
    async with Server(misbehaving, honest) as server:
        async with client_at(server, chunking=chunking, lmtp=mode == "LMTP") as client:
            begun = anyio.current_time()
            outcomes = await outcomes_of(client, messages)
            assert 599 <= anyio.current_time() - begun <= 602
    assert all(outcome.accepted for outcome in outcomes[:2])
    assert outcomes[2].unknown == ("you@example.org",)
    truth = [taken.wire for taken in [*misbehaving.messages, *honest.messages]]
    for each, outcome in zip(messages, outcomes, strict=True):
        assert truth.count(each) == bool(outcome.accepted)
        assert outcome.accepted or outcome.unknown


@skips_time
async def test_a_421_in_a_window_and_then_nothing() -> None:
    """R23, R7: replies could follow it, so it is not yet the end; but the wait for them is."""
    messages = [message(number) for number in range(6)]
    misbehaving = Chunky(at_end_of_data={2: saying(b"421 4.3.2 closing\r\n")})
    honest = Chunky()
    async with Server(misbehaving, honest) as server, chunking_at(server) as client:
        begun = anyio.current_time()
        outcomes = await outcomes_of(client, messages)
        assert anyio.current_time() - begun <= 602
    truth = [taken.wire for taken in [*misbehaving.messages, *honest.messages]]
    for each, outcome in zip(messages, outcomes, strict=True):
        assert truth.count(each) <= 1
        assert bool(outcome.accepted) is (each in truth)


@pytest.mark.parametrize("chunking", [False, True], ids=["DATA", "BDAT"])
async def test_a_server_that_ends_every_connection_is_not_asked_for_ever(chunking: bool) -> None:
    """R11: each message is sent again once at most, so that the loop ends."""
    chunky = Chunky(at_end_of_data=dict.fromkeys(range(1000), close))
    messages = [message(number) for number in range(10)]
    async with Server(chunky) as server, client_at(server, chunking=chunking) as client:
        outcomes = await outcomes_of(client, messages)
        assert len(server.peers) <= 2 * len(messages)
    assert not any(outcome.accepted for outcome in outcomes)


# The end of a connection in the middle of a chunk


async def test_a_chunk_that_is_given_up_is_given_up_without_a_word() -> None:
    """R23, CVE-2026-45185: a close_notify in the middle of BDAT, and more data, crashed Exim."""
    theirs, ours = tls_contexts()
    is_there, scope = anyio.Event(), anyio.CancelScope()
    ended: list[bool] = []

    async def serve(peer: Peer) -> None:
        await peer.begin_tls(theirs)
        await peer.write(b"220 mx\r\n")
        await peer.read_line()
        await peer.write(ehlo_reply("PIPELINING", "CHUNKING", "SIZE 100000000"))
        await peer.read_until(b"RCPT TO:<you@example.org>\r\n")
        await peer.write(b"250 a\r\n503 b\r\n250 c\r\n250 d\r\n250 e\r\n")
        await peer.read_until(b"BDAT ")
        is_there.set()
        try:
            while True:
                await anyio.lowlevel.checkpoint()
                await peer.read_some()
        except Left:
            ended.append(peer.was_notified_of_the_end)

    async with Server(serve) as server:
        async with chunking_at(server, tls="implicit", tls_context=ours) as client:
            async with anyio.create_task_group() as tasks:

                async def cancel() -> None:
                    await is_there.wait()
                    scope.cancel()

                tasks.start_soon(cancel)
                with scope:
                    await client.send(message(1, size=8_000_000))
            assert scope.cancelled_caught
    assert ended == [False]


@pytest.mark.parametrize("end", [close, reset], ids=["R23-close", "R23-reset"])
async def test_a_cut_in_the_middle_of_the_chunks_is_certain(end: Fault) -> None:
    """R1, R23: the last octet of BDAT LAST was never written."""

    async def misbehave(peer: Peer) -> None:
        await peer.write(b"220 mx\r\n")
        await peer.read_line()
        await peer.write(ehlo_reply("PIPELINING", "CHUNKING", "SIZE 100000000"))
        await peer.read_until(b"RCPT TO:<you@example.org>\r\n")
        await peer.write(b"250 a\r\n503 b\r\n250 c\r\n250 d\r\n250 e\r\n")
        assert (await peer.read_until(b"\r\n")).startswith(b"BDAT ")
        await end(peer)

    chunky = Chunky()
    async with Server(misbehave, chunky) as server, chunking_at(server) as client:
        error = await failure_of(client, message(1, size=2_000_000))
        assert type(error) is ConnectionLost
        assert error.not_sent == ("you@example.org",)
        assert (await client.send(SECOND)).complete
    chunky.assert_took(SECOND)
