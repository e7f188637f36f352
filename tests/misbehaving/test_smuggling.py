"""R21, and section 1.3 of the rules: one message stays one message at every server, also at those that read laxly.

`server.Honest` fails the test at a bare CR or LF in what it receives. Here is added that no line within the content is
a dot alone, for whatever a server takes as the end of a line; and that the message arrives as it was meant.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage, Message
from typing import Any

import pytest

from smtplite import Content, MessageError

from .dialogue import ASYNCIO_AND_TRIO, SECOND, client_at
from .server import Honest, Server

pytestmark = pytest.mark.anyio

EVENT_LOOPS = ASYNCIO_AND_TRIO

HEADER = b"From: me@example.org\r\nTo: you@example.org\r\nSubject: x\r\n\r\n"
SMUGGLED = b"MAIL FROM:<evil@example.org>\r\nRCPT TO:<them@example.org>\r\nDATA\r\nSubject: smuggled\r\n\r\nevil"

ENDS = {
    "LF.LF": b"\n.\n",
    "LF.CRLF": b"\n.\r\n",
    "CRLF.LF": b"\r\n.\n",
    "CR.CR": b"\r.\r",
    "CRLF.CR": b"\r\n.\r",
    "CR.CRLF": b"\r.\r\n",
    "LF.CR": b"\n.\r",
    "CR.LF": b"\r.\n",
    "CRLF.CRLF": b"\r\n.\r\n",
    "CRCRLF.CRCRLF": b"\r\r\n.\r\r\n",
    "CRLF.CRCRLF": b"\r\n.\r\r\n",
    "LFCR.LFCR": b"\n\r.\n\r",
    "CRLF..CRLF": b"\r\n..\r\n",
    "CRLF.CRLF.CRLF": b"\r\n.\r\n.\r\n",
    "CRLF. CRLF": b"\r\n. \r\n",
    "CRLF.NEL": b"\r\n.\xc2\x85",
    "VT.VT": b"\x0b.\x0b",
    "FF.FF": b"\x0c.\x0c",
}
ID_OF = {
    # The sequences that the advisories name, and whose servers took them for the end.
    "LF.LF": "VU#302671-CVE-2023-51765",
    "LF.CRLF": "VU#302671-CVE-2023-51766",
    "CRLF.LF": "VU#302671-CVE-2023-51764",
    "CR.CR": "VU#302671-CVE-2023-51747",
}
SEQUENCES = [pytest.param(end, id=f"R21-{name}-{ID_OF.get(name, 'VU#302671')}") for name, end in ENDS.items()]


def normalized(content: bytes) -> bytes:
    """Return the content with the line endings that the wire has, with a last one."""
    content = re.sub(rb"\r\n|\r|\n", b"\r\n", content)
    return content if content.endswith(b"\r\n") else content + b"\r\n"


def assert_one_message(honest: Honest, contents: list[bytes]) -> None:
    assert [message.content for message in honest.messages] == [normalized(content) for content in contents]
    for message in honest.messages:
        body = message.wire.removesuffix(b".\r\n")
        # Whatever ends a line, for whomever: no dot stands alone between two of them.
        assert not re.search(rb"(?:^|[\r\n])\.(?:[\r\n]|$)", body)
        assert not re.search(rb"(?:^|\r\n)\.(?!\.)", body)
        assert b"evil@" not in message.mail
    assert sum(command.startswith(b"MAIL") for command in honest.commands) == len(contents)


@pytest.mark.parametrize("end", SEQUENCES)
async def test_octets(end: bytes) -> None:
    """R21, CVE-2021-38189, RUSTSEC-2021-0069, async-smtp #49, CloudMeet#42, mail-send 0.4.4: as smtplib passes them on.

    CRLF, CR and LF become CRLF in one pass; only then are dots doubled, and only behind CRLF.
    """
    content = HEADER + b"body" + end + SMUGGLED + end + b"rest"
    honest = Honest("PIPELINING", "8BITMIME")
    async with Server(honest) as server, client_at(server) as client:
        for octets in (content, bytearray(content), memoryview(content), Content.from_bytes(content)):
            receipt = await client.send(octets, sender="me@example.org", recipients="you@example.org")
            assert receipt.complete
        assert (await client.send(SECOND)).complete
    assert_one_message(honest, [content] * 4 + [SECOND])


def objects_with(text: str) -> Iterator[Any]:
    """Yield message objects that hold the text, made in every way."""
    yield message_from_bytes(HEADER + text.encode(), policy=policy.SMTP)
    for how in ("set_content", "attachment", "payload", "compat32"):
        message: Any = Message() if how == "compat32" else EmailMessage()
        message["From"], message["To"], message["Subject"] = "me@example.org", "you@example.org", "x"
        if how == "set_content":
            message.set_content(text)
        elif how == "attachment":
            message.set_content("see below\n")
            message.add_attachment(text, filename="x.txt")
        else:
            message.set_payload(text)
        yield message


@pytest.mark.parametrize("end", [end for end in SEQUENCES if end.values[0].isascii()])  # type: ignore[union-attr]
async def test_message_objects(end: bytes) -> None:
    """R21: whatever the stdlib makes of it."""
    honest = Honest()
    async with Server(honest) as server, client_at(server) as client:
        for message in objects_with((b"body" + end + SMUGGLED + end + b"rest").decode()):
            assert (await client.send(message)).complete
            assert (await client.send(SECOND)).complete
        assert len(server.peers) == 1
    assert len(honest.messages) == 10
    assert_one_message(honest, [message.content for message in honest.messages])
    assert all(b"rest" in message.content for message in honest.messages[::2])
    assert all(message.content == SECOND for message in honest.messages[1::2])


@pytest.mark.parametrize("end", SEQUENCES)
async def test_streams(end: bytes) -> None:
    """R21: however the caller's chunks are cut: octet by octet, and once within each end and beside it."""
    content = HEADER + b"body" + end + SMUGGLED + end + b"rest"
    begin = content.index(end)
    cuts = [range(1, len(content)), *([place] for place in range(begin, begin + len(end) + 1))]

    async def chunks(places: Iterable[int]) -> AsyncIterator[bytes]:
        start = 0
        for place in [*places, len(content)]:
            yield content[start:place]
            start = place

    honest = Honest("PIPELINING", "8BITMIME")
    async with Server(honest) as server, client_at(server) as client:
        for places in cuts:
            stream = Content.from_stream(chunks(places))
            assert (await client.send(stream, sender="me@example.org", recipients="you@example.org")).complete
        assert len(server.peers) == 1
    assert_one_message(honest, [content] * len(cuts))


@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize("end", [b"\r\n.\r\n", b"\n.\n", b"\r.\r", b"\r\r\n.\r\n"], ids=["CRLF", "LF", "CR", "CRCRLF"])
async def test_large_streams(end: bytes) -> None:
    """R21: in chunks that are pieces of their own, cut within each end and beside it."""
    line = b"x" * 70 + b"\r\n"

    def chunks_of(place: int) -> list[bytes]:
        filled = line * 2000
        return [HEADER + filled + end[:place], *[end[place:] + filled + end[:place]] * 3, end[place:] + b"rest"]

    async def stream(chunks: list[bytes]) -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    contents = []
    honest = Honest()
    async with Server(honest) as server, client_at(server) as client:
        for place in range(len(end) + 1):
            chunks = chunks_of(place)
            contents.append(b"".join(chunks))
            content = Content.from_stream(stream(chunks))
            assert (await client.send(content, sender="me@example.org", recipients="you@example.org")).complete
    assert_one_message(honest, contents)


def all_texts(length: int) -> Iterator[bytes]:
    for size in range(length + 1):
        for octets in itertools.product(b"\r\n.x", repeat=size):
            yield bytes(octets)


async def test_every_text_of_up_to_four_octets() -> None:
    """R21: of CR, LF, dot and a letter, behind the header section, all in one connection."""
    contents = [HEADER + text for text in all_texts(4)]
    honest = Honest()
    async with Server(honest) as server, client_at(server) as client:
        for content in contents:
            assert (await client.send(content)).complete
        assert len(server.peers) == 1
    assert_one_message(honest, contents)


async def test_texts_of_many_ends() -> None:
    """R21: whatever follows whatever."""
    choose = random.Random(302671)
    contents = [
        HEADER + b"".join(choose.choice([*ENDS.values(), b"x", SMUGGLED]) for _ in range(choose.randrange(40)))
        for _ in range(100)
    ]
    honest = Honest("PIPELINING", "8BITMIME")
    async with Server(honest) as server, client_at(server) as client:
        for content in contents:
            assert (await client.send(content)).complete
    assert_one_message(honest, contents)


@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize("end", [b"\r\n.\r\n", b"\n.\n", b"\r.\r", b"\r\r\n.\r\n"], ids=["CRLF", "LF", "CR", "CRCRLF"])
async def test_a_dot_at_the_border_of_two_pieces(end: bytes) -> None:
    """R21: large content is encoded in pieces; the state survives their borders."""
    size = 400_000
    # Pieces of 128 KiB, and one of 64 KiB at the end.
    borders = [131_072, 262_144, size - 65_536]
    contents = []
    for shift in range(len(end) + 1):
        built = bytearray(HEADER + (b"x" * 70 + b"\r\n") * (size // 72 + 1))[:size]
        for border in borders:
            start = border - shift
            built[start - 5 : start + len(end) + 5] = b"\r\nxxx" + end + b"xxx\r\n"
        contents.append(bytes(built))
    honest = Honest()
    async with Server(honest) as server, client_at(server) as client:
        for content in contents:
            assert len(content) == size
            assert (await client.send(content)).complete
    assert_one_message(honest, contents)


async def test_content_of_dots() -> None:
    """R21, CVE-2018-0500: curl's escaping wrote beyond its buffer where nearly every octet was escaped."""
    contents = [
        HEADER + b".\r\n" * 100_000,
        HEADER + b"\n".join(b"." * n for n in range(500)),
        HEADER + (b"." * 998 + b"\r\n") * 200,
        b"\r\n.",
        b"\r\n..",
        b"\r\n.\r\n",
    ]
    honest = Honest()
    async with Server(honest) as server, client_at(server) as client:
        for content in contents:
            assert (await client.send(content, sender="me@example.org", recipients="you@example.org")).complete
    assert_one_message(honest, contents)


@pytest.mark.parametrize("text", [b"", b"x", b"x\r", b"x\n", b"x\r\n", b"x\r\n\r", b".", b"\r\n.", b"x\r\n."])
async def test_the_end_of_data_stands_on_a_line_of_its_own(text: bytes) -> None:
    """R21: the CRLF that is missing is added, none that is there is doubled."""
    honest = Honest()
    async with Server(honest) as server, client_at(server) as client:
        for _ in range(2):
            assert (await client.send(HEADER + text)).complete
    assert_one_message(honest, [HEADER + text] * 2)


# What is refused


REFUSED = {
    "NUL in the body": HEADER + b"x\0y\r\n",
    "NUL before a dot": HEADER + b"x\r\n\0.\r\n" + SMUGGLED,
    "NUL behind a dot": HEADER + b"x\r\n.\0\r\n" + SMUGGLED,
    "NUL in the header section": b"X: a\0b\r\n" + HEADER,
    "CR in the header section": b"X: a\rBcc: b@example.org\r\n" + HEADER,
    "CRCRLF in the header section": b"X: a\r\r\n" + HEADER,
    "CR under a signature": b"DKIM-Signature: v=1\r\n" + HEADER + b"a\rb\r\n",
    "CR.CR under a signature": b"dkim-signature : v=1\r\n" + HEADER + b"a\r.\rb\r\n",
}


@pytest.mark.parametrize("content", REFUSED.values(), ids=[f"R21-{name}".replace(" ", "_") for name in REFUSED])
async def test_what_no_server_may_get_is_refused(content: bytes) -> None:
    """R21: before a connection is opened."""
    honest = Honest()
    async with Server(honest) as server, client_at(server) as client:
        with pytest.raises(MessageError):
            await client.send(content)
        assert server.peers == []


@pytest.mark.parametrize("text", ["a\0b", "a\r\n\0.\r\nb"])
async def test_a_nul_in_a_message_object_is_refused_or_encoded(text: str) -> None:
    """R21."""
    message = EmailMessage()
    message["From"], message["To"] = "me@example.org", "you@example.org"
    message.set_content(text)
    honest = Honest()
    async with Server(honest) as server, client_at(server) as client:
        try:
            await client.send(message)
        except MessageError:
            assert server.peers == []
    assert all(b"\0" not in each.wire for each in honest.messages)
