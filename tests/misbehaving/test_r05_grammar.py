"""R5: what is a reply, and what is none: over the wire, at every place, in every segmentation."""

from __future__ import annotations

from itertools import pairwise

import pytest

from smtplite import DeliveryUnknown, MessageRefused, RecipientsRefused, RemoteProtocolError, SenderRefused

from .dialogue import ASYNCIO_AND_TRIO, FIRST, SECOND, client_at, failure_of, up_to
from .server import Honest, Peer, Server

pytestmark = pytest.mark.anyio

EVENT_LOOPS = ASYNCIO_AND_TRIO

LEGAL = {
    "code alone": b"250\r\n",
    "code and space": b"250 \r\n",
    "TAB": b"250\tok\r\n",
    "several lines, the last without text": b"250-one\r\n250\r\n",
    "empty lines": b"250-\r\n250-\r\n250 \r\n",
    "UTF-8": "250 größer\r\n".encode(),
    "latin-1": "250 größer\r\n".encode("latin-1"),
    "no text at all": b"250 \x80\xff\xfe\r\n",
    "control octets": b"250 \x1b[31mred\x07\x08\r\n",
    "an unknown code": b"299 odd\r\n",
    "251": b"251 user not local, will forward\r\n",
    "252": b"252 cannot verify, will try\r\n",
    "259": b"259 odd\r\n",
}


@pytest.mark.parametrize("reply", LEGAL.values(), ids=[f"R5-{name}".replace(" ", "_") for name in LEGAL])
async def test_an_odd_reply_that_is_one_counts_by_its_first_digit(reply: bytes) -> None:
    """R5: 252 and 259 to RCPT are acceptance, and so on; never a whitelist."""
    honest = Honest(says=dict.fromkeys(["MAIL", "RCPT", ".", "EHLO"], reply))
    async with Server(honest) as server, client_at(server) as client:
        for message in (FIRST, SECOND):
            receipt = await client.send(message)
            assert receipt.complete
            assert receipt.reply is not None
            # For people: never an octet that steers a terminal.
            assert all(character.isprintable() or character in "\t\n" for character in receipt.reply.text)
        assert len(server.peers) == 1
    assert [message.content for message in honest.messages] == [FIRST, SECOND]


@pytest.mark.parametrize("code", [400, 432, 451, 499, 500, 521, 550, 556, 571, 599])
@pytest.mark.parametrize(
    ("phase", "expected"), [("MAIL", SenderRefused), ("RCPT", RecipientsRefused), (".", MessageRefused)]
)
async def test_a_refusal_is_one_whatever_its_second_digit(code: int, phase: str, expected: type[Exception]) -> None:
    """R5: a 571 is a real refusal."""
    honest = Honest(says={phase: b"%d no\r\n" % code})
    async with Server(honest) as server, client_at(server) as client:
        error = await failure_of(client)
    assert type(error) is expected
    assert error.refused["you@example.org"].code == code
    assert error.retryable is (code < 500)


NO_REPLY = {
    "2_0": b"2_0 x\r\n",
    "plus": b"+22 x\r\n",
    "minus": b"-25 x\r\n",
    "superscript": "2\u00b5\u00b2 x\r\n".encode(),
    "Arabic digits": "\u0662\u0665\u0660 x\r\n".encode(),
    "space inside": b"25 0 x\r\n",
    "space in front": b" 250 x\r\n",
    "no separator": b"250ok\r\n",
    "four digits": b"2500 x\r\n",
    "two digits": b"25\r\n",
    "1yz": b"150 x\r\n",
    "6yz": b"650 x\r\n",
    "0yz": b"050 x\r\n",
    "empty line": b"\r\n",
    "bare LF": b"250 x\n",
    "bare LF inside": b"250-x\n250 y\r\n",
    "bare CR inside": b"250 x\r250 y\r\n",
    "bare CR at the end": b"250 x\r\r\n",
    "NUL": b"250 x\0\r\n",
    "mixed codes": b"250-x\r\n251 y\r\n",
    "refusal inside": b"250-x\r\n550 y\r\n",
    "text inside": b"250-x\r\ny\r\n250 z\r\n",
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n",
    "IMAP": b"* OK ready\r\n",
    "POP3": b"+OK ready\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.9\r\n",
    "FTP's form": b"250-x\r\n y\r\n250 z\r\n",
}


@pytest.mark.exhaustive(keep=12)
@pytest.mark.parametrize("line", NO_REPLY.values(), ids=[f"R5-{name}".replace(" ", "_") for name in NO_REPLY])
async def test_a_line_that_is_no_reply_ends_the_connection(line: bytes) -> None:
    """R5: nothing is read out of it, at any phase; behind the end of data it is unknown what it meant."""
    phases = ("greeting", "hello", "mail", "end of data")

    async def misbehave(peer: Peer) -> None:
        phase = phases[peer.number]
        await up_to(peer, phase, "PIPELINING")
        await peer.write(line.replace(b"25", b"22") if phase == "greeting" else line)
        assert await peer.read_to_the_end() == b""

    honest = Honest()
    async with Server(*[misbehave] * 4, honest) as server, client_at(server) as client:
        for phase in phases:
            error = await failure_of(client)
            cause = error.__cause__ if phase == "end of data" else error
            assert type(error) is (DeliveryUnknown if phase == "end of data" else RemoteProtocolError)
            assert type(cause) is RemoteProtocolError
            assert str(cause).isprintable()
        assert (await client.send(SECOND)).complete
    assert [message.content for message in honest.messages] == [SECOND]


# Segmentation

DIALOGUE = (
    b"220-mx.example\r\n220 ESMTP\r\n",
    b"250-mx.example\r\n250-SIZE 1000000\r\n250-8BITMIME\r\n250 PIPELINING\r\n",
    b"250 2.1.0 sender\r\n250-2.1.5 one\r\n250 2.1.5 more\r\n550 5.1.1 b\r\n354 go\r\n",
    b"250-2.0.0 taken\r\n250 2.0.0 as 12345\r\n",
)
RECIPIENTS = ("a@example.org", "b@example.org")


def cut(data: bytes, *places: int) -> list[bytes]:
    edges = [0, *sorted(place for place in places if 0 < place < len(data)), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


async def say_in_pieces(peer: Peer, pieces: list[list[bytes]]) -> None:
    ends = (None, b"\r\n", b"DATA\r\n", b"\r\n.\r\n")
    for end, said in zip(ends, pieces, strict=True):
        if end is not None:
            await peer.read_until(end)
        await peer.write(*said)
    assert await peer.read_line() == b"QUIT"
    await peer.write(b"2", b"21 bye\r\n")


async def converse(segmentations: list[list[list[bytes]]]) -> None:
    async def speak(peer: Peer) -> None:
        await say_in_pieces(peer, segmentations[peer.number])

    receipts = []
    async with Server(speak) as server:
        for _ in segmentations:
            async with client_at(server) as client:
                receipts.append(await client.send(FIRST, recipients=RECIPIENTS))
    for receipt in receipts:
        assert receipt == receipts[0]
        assert receipt.accepted == RECIPIENTS[:1]
        assert [reply.code for reply in receipt.refused.values()] == [550]
        assert receipt.reply is not None
        assert receipt.reply.text == "2.0.0 taken\n2.0.0 as 12345"


async def test_the_same_dialogue_octet_by_octet() -> None:
    """R5: a reply is complete with its last octet, wherever TCP cuts."""
    await converse([[[said] for said in DIALOGUE], [cut(said, *range(len(said))) for said in DIALOGUE]])


@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize("part", range(4), ids=["R5-greeting", "R5-hello", "R5-group", "R5-verdict"])
async def test_the_same_dialogue_at_every_cut(part: int) -> None:
    """R5: cut in two at each octet of each part."""
    segmentations = []
    for place in range(1, len(DIALOGUE[part])):
        pieces = [[said] for said in DIALOGUE]
        pieces[part] = cut(DIALOGUE[part], place)
        segmentations.append(pieces)
    await converse(segmentations)


@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize("part", range(4), ids=["R5-greeting", "R5-hello", "R5-group", "R5-verdict"])
async def test_the_end_at_every_octet(part: int) -> None:
    """R5, R1: a dialogue cut off behind each octet of each part: nothing is delivered but by the whole verdict."""
    whole = DIALOGUE[part]

    async def speak(peer: Peer) -> None:
        ends = (None, b"\r\n", b"DATA\r\n", b"\r\n.\r\n")
        for n, end in enumerate(ends):
            if end is not None:
                await peer.read_until(end)
            if n == part:
                await peer.write(whole[: peer.number])
                return
            await peer.write(DIALOGUE[n])

    async with Server(speak) as server, client_at(server) as client:
        for place in range(len(whole)):
            error = await failure_of(client, recipients=RECIPIENTS)
            assert len(server.peers) == place + 1
            if part < 3:
                assert not error.unknown
                assert error.retryable
            else:
                assert type(error) is DeliveryUnknown
                assert error.unknown == RECIPIENTS[:1]
