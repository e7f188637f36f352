"""Messages as octets: what stands in front, what is no field, and which line is too long (the wire form, octets)."""

from __future__ import annotations

import email
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from smtplite.errors import MessageError
from smtplite.message.content import Content, OctetBody
from smtplite.message.envelope import Envelope
from smtplite.message.prepared import Prepared, prepare
from smtplite.protocol.extensions import Extensions

ME, YOU = "me@client.example", "you@server.example"
HEADER = f"From: {ME}\r\nTo: {YOU}\r\n".encode()
SEND = Envelope(ME, YOU, long_lines="send")


def by_octets(raw: bytes, envelope: Envelope | None = None) -> bytes:
    return content_of(prepare(raw, envelope=envelope or Envelope(ME, YOU)))


def by_content(raw: bytes, envelope: Envelope | None = None) -> bytes:
    return content_of(prepare(Content.from_bytes(raw), envelope=envelope or Envelope(ME, YOU)))


def by_stream(raw: bytes, envelope: Envelope | None = None) -> bytes:
    async def octets() -> AsyncIterator[bytes]:
        for at in range(len(raw)):
            yield raw[at : at + 1]

    return content_of(prepare(Content.from_stream(octets()), envelope=envelope or Envelope(ME, YOU)))


def content_of(prepared: Prepared) -> bytes:
    async def read() -> bytes:
        await prepared.check()
        body = prepared.for_server(Extensions({"8BITMIME": ()}), is_tls=False)[2]
        if isinstance(body, OctetBody):
            return body.octets
        return b"".join([piece async for piece in body.pieces()])

    return anyio.run(read)


WAYS = pytest.mark.parametrize("way", [by_octets, by_content, by_stream])


@WAYS
@pytest.mark.parametrize(
    "front", [b"\xef\xbb\xbf", b"From me@x Mon Jan  1 00:00:00 2024\n", b"\xef\xbb\xbfFrom me\r\n"]
)
def test_a_byte_order_mark_and_the_from_line_of_an_mbox_are_dropped(way: Any, front: bytes) -> None:
    raw = HEADER + b"\r\nFrom here\r\n\xef\xbb\xbf"
    assert way(front + raw) == raw
    assert prepare(front + raw).recipients == (YOU,)


@WAYS
@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (b"just text", r"in front of its headers: line 1, b'just text'"),
        (b"just text\n\nmore: text\n", r"in front of its headers: line 1, b'just text'"),
        (b" From: a@x\n\n", r"in front of its headers: line 1, b' From: a@x'"),
        (b": x\n\n", r"in front of its headers: line 1, b': x'"),
        (b"From x\nFrom y\n\n", r"in front of its headers: line 2, b'From y'"),
        (HEADER + b"no field\r\nA: b\r\n\r\n", r"among its headers that is none: line 3, b'no field'"),
        (b"From x\n" + HEADER + b"From y\n\n", r"among its headers that is none: line 4, b'From y'"),
        (HEADER + "Grüße: x\n\n".encode(), r"among its headers that is none: line 3"),
    ],
)
def test_what_is_no_field_is_refused_with_its_line(way: Any, raw: bytes, match: str) -> None:
    with pytest.raises(MessageError, match=match):
        way(raw)


@WAYS
def test_white_space_in_front_of_a_colon_is_an_old_form_and_stays(way: Any) -> None:
    raw = f"From : {ME}\r\nSubject\t: y\r\nTo: {YOU}\r\n\r\nx".encode()
    assert way(raw) == raw
    assert prepare(raw).recipients == (YOU,)


PARTS = (
    HEADER + b'Content-Type: multipart/mixed;\r\n boundary="b"\r\n\r\npreamble\r\n'
    b"--b\r\nContent-Type: multipart/alternative; boundary=c\r\n\r\n--c\r\n\r\n1\r\n"
    b"--c\r\nContent-Type: text/html; charset=utf-8\r\n\r\n2\r\n--c--\r\n3\r\n"
    b"--b\r\ncontent-type:image/png\r\n\r\n4\r\n"
    b"--b--\r\n5\r\n"
)


@pytest.mark.parametrize(
    ("at", "line", "place"),
    [
        (b"preamble", 6, "part multipart/mixed"),
        (b"\r\n1\r\n", 12, "part text/plain"),
        (b"\r\n2\r\n", 16, "part text/html"),
        (b"\r\n3\r\n", 18, "part multipart/alternative"),
        (b"\r\n4\r\n", 22, "part image/png"),
        (b"\r\n5\r\n", 24, "part multipart/mixed"),
    ],
)
def test_a_line_too_long_is_named_by_its_number_its_length_and_its_part(at: bytes, line: int, place: str) -> None:
    raw = PARTS.replace(at, at.replace(at.strip(), b"x" * 1234))
    message = rf"a line of more than 998 octets: line {line}, 1234 octets, in {place}: encode it .*long_lines='send'"
    with pytest.raises(MessageError, match=message):
        by_octets(raw)
    with pytest.raises(MessageError, match=rf"998 octets: line {line}, 1234 octets, in the body"):
        by_content(raw)
    with pytest.raises(MessageError, match=rf"998 octets: line {line + 1}, 1234 octets, in {place}"):
        by_octets(b"From me\n" + raw)


@WAYS
def test_a_line_too_long_in_a_header_is_named_by_its_field(way: Any) -> None:
    for line, value in ((3, b"x" * 994), (4, b"x\r\n " + b"x" * 998)):
        with pytest.raises(MessageError, match=rf"line {line}, 999 octets, in header X-A:"):
            way(HEADER + b"X-A: " + value + b"\r\nB: c\r\n\r\n")


@WAYS
def test_long_lines_are_sent_where_the_envelope_says_so(way: Any) -> None:
    raw = HEADER + b"X-A: " + b"x" * 2000 + b"\r\n\r\n" + b"y" * 200_000 + b"\r\n"
    assert way(raw[: len(raw)], SEND) == raw if way is not by_stream else way(raw[:5000], SEND) == raw[:5000]
    with pytest.raises(MessageError):
        way(raw[:5000] + b"\0", SEND)


def test_long_lines_are_send_or_nothing() -> None:
    with pytest.raises(MessageError, match="long_lines is 'send' or None, not 'fold'"):
        Envelope(ME, YOU, long_lines="fold")  # type: ignore[arg-type]


def test_a_message_object_sends_the_long_lines_that_it_cannot_encode_where_the_envelope_says_so() -> None:
    raw = HEADER + b"Content-Type: multipart/signed; boundary=s\r\n\r\n--s\r\n\r\n" + b"x" * 2000 + b"\r\n--s--\r\n"
    message = email.message_from_bytes(raw)
    with pytest.raises(MessageError, match="multipart/signed leaves as it is, has a line of 2000 octets"):
        prepare(message)
    assert raw.partition(b"\r\n\r\n")[2] == prepare(message, envelope=SEND).content.partition(b"\r\n\r\n")[2]


def test_under_a_dkim_signature_no_field_is_added_that_it_names() -> None:
    signed = b"DKIM-Signature: v=1; h=from:to : message-id:\r\n Date; b=x\r\n"
    assert prepare(email.message_from_bytes(signed + HEADER + b"\r\n")).added == ()
    other = email.message_from_bytes(b"DKIM-Signature: v=1; h=from:to; b=x\r\n" + HEADER + b"\r\n")
    assert [name for name, _ in prepare(other).added] == ["Date", "Message-ID"]


def test_r27_a_place_is_found_in_linear_time() -> None:
    begun = time.process_time()
    for middle in (b"--b\r\n", b"--x\r\n", b"--c--\r\n", b"--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"):
        raw = PARTS + middle * (900_000 // len(middle) // 4)
        with pytest.raises(MessageError, match="line of more than 998 octets"):
            by_octets(raw + b"x" * 1000)
    assert time.process_time() - begun < 4
