"""Content that comes as octets: checked and brought into wire form piece by piece, whatever it comes from.

Rules R20 to R22, and `design.md` section 4 "What is altered". `judge` is a second, plain account of those rules, which
the streaming one is held to.
"""

from __future__ import annotations

import email
import gc
import io
import os
import pickle
import re
import tempfile
import tracemalloc
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, BinaryIO

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtplite.errors import ExtensionRequired, MessageError
from smtplite.message import content as content_module
from smtplite.message import prepared as message_module
from smtplite.message import wire as wire_module
from smtplite.message.content import WHOLE_BYTES, Body, Content, OctetBody
from smtplite.message.envelope import Envelope
from smtplite.message.prepared import Prepared, prepare
from smtplite.message.threads import in_thread
from smtplite.message.wire import MAX_HEADER_SECTION_BYTES, MAX_TEXT_LINE_BYTES, PIECE_BYTES, ContentChecker
from smtplite.protocol.extensions import Extensions
from tests.exhaustive import examples

ME, YOU = "me@client.example", "you@server.example"
HEADER = b"From: me@client.example\r\nMessage-ID: <1@client.example>\r\n\r\n"
OFFERED = Extensions({"SIZE": (), "8BITMIME": (), "SMTPUTF8": (), "CHUNKING": (), "BINARYMIME": ()})
NOTHING = Extensions({})
MIB = 1 << 20


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


def judge(raw: bytes) -> bytes | None:
    """Return the wire form of a message; None if it must be refused."""
    lines = re.split(rb"\r\n|\n", raw)
    header = lines[: lines.index(b"")] if b"" in lines else lines
    is_signed = any(re.match(rb"dkim-signature[ \t]*:", line, re.IGNORECASE) for line in header)
    if any(b"\r" in line or re.match(rb"(resent-)?bcc[ \t]*:", line, re.IGNORECASE) for line in header):
        return None
    if b"" not in lines and raw.endswith(b"\r"):
        return None
    if b"\0" in raw or (is_signed and re.search(rb"\r(?!\n)", raw)):
        return None
    lines = re.split(rb"\r\n|\r|\n", raw)
    for number, line in enumerate(lines):
        if not line:
            break
        if not (number and line[:1] in b" \t") and not re.match(rb"[!-9;-~]+[ \t]*:", line):
            return None
    return None if any(len(line) > MAX_TEXT_LINE_BYTES for line in lines) else b"\r\n".join(lines)


def encoded(chunks: list[bytes]) -> bytes:
    checker = ContentChecker()
    wire = b"".join([*map(checker.encode, chunks), checker.finish()])
    assert checker.size == len(wire)
    assert checker.is_ascii is wire.isascii()
    assert checker.ends_line is (not wire or wire.endswith(b"\r\n"))
    return wire


TOKENS = st.sampled_from(
    [
        *(b"\r", b"\n", b"\r\n", b"\r\n\r\n", b".", b"A: 1", b" x", b"Bcc: x", b"bcc", b" :", b"Resent-Bcc:"),
        *(b"DKIM-Signature: v=1", b"\0", b"\xc3\xbc", b"y" * 300, b"y" * 498, b"y" * 998),
    ]
)
RAW = st.tuples(st.sampled_from([b"", b"X: ", b"X :"]), st.lists(TOKENS, max_size=14).map(b"".join)).map(b"".join)


def chunks_of(raw: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(cut, len(raw)) for cut in cuts})
    return [raw[a:b] for a, b in zip([0, *places], [*places, len(raw)], strict=True)]


@examples(200)
@given(RAW, st.lists(st.integers(0, 3000), max_size=8))
def test_the_same_comes_out_however_it_is_cut(raw: bytes, cuts: list[int]) -> None:
    for chunks in ([raw], chunks_of(raw, cuts)):
        expected = judge(raw)
        if expected is None:
            with pytest.raises(MessageError):
                encoded(chunks)
        else:
            assert encoded(chunks) == expected


@examples(150)
@given(RAW)
def test_octet_by_octet_and_at_once_by_prepare(raw: bytes) -> None:
    expected = judge(raw)
    if expected is None:
        with pytest.raises(MessageError):
            encoded([raw[i : i + 1] for i in range(len(raw))])
        with pytest.raises(MessageError):
            prepare(raw, sender=ME, recipients=YOU)
    else:
        assert encoded([raw[i : i + 1] for i in range(len(raw))]) == expected
        assert prepare(raw, sender=ME, recipients=YOU).content == expected


# --- Sources


async def stream_of(raw: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for begun in range(0, len(raw), size):
        yield raw[begun : begun + size]


def open_file(path: Path) -> BinaryIO:
    return path.open("rb")


def size_of(path: Path) -> int:
    return path.stat().st_size


class Unseekable(io.RawIOBase):
    def __init__(self, raw: bytes) -> None:
        self._file = io.BytesIO(raw)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._file.read(min(size, 70_000))


def from_path(raw: bytes, folder: Path) -> Content:
    path = folder / "message.eml"
    path.write_bytes(raw)
    return Content.from_path(path)


def from_file_within(raw: bytes, folder: Path) -> Content:
    file = io.BytesIO(b"not ours" + raw)
    file.seek(8)
    return Content.from_file(file)


SOURCES: dict[str, Callable[[bytes, Path], Content]] = {
    "bytes": lambda raw, folder: Content.from_bytes(raw),
    "bytearray": lambda raw, folder: Content.from_bytes(bytearray(raw)),
    "memoryview": lambda raw, folder: Content.from_bytes(memoryview(b"x" + raw)[1:]),
    "reversed memoryview": lambda raw, folder: Content.from_bytes(memoryview(raw[::-1])[::-1]),
    "path": from_path,
    "path as str": lambda raw, folder: Content.from_path(from_path(raw, folder)._source.path.__fspath__()),  # type: ignore[attr-defined]
    "file": from_file_within,
    "unseekable": lambda raw, folder: Content.from_file(Unseekable(raw)),  # type: ignore[arg-type]
    "stream": lambda raw, folder: Content.from_stream(stream_of(raw)),
    "stream of large chunks": lambda raw, folder: Content.from_stream(stream_of(raw, 300_000)),
    "stream with size": lambda raw, folder: Content.from_stream(
        stream_of(raw), len(re.sub(rb"\r\n|\r|\n", b"\r\n", raw))
    ),
}
ONE_SHOT = ("unseekable", "stream", "stream of large chunks", "stream with size")
EACH_SOURCE = pytest.mark.parametrize("source", SOURCES)
#: For what is the same on each event loop.
ONE_LOOP = pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])
BODIES = {
    "small": b"Hello,\r\n.\r\nbye\r\n",
    "small, LF": b"Hello,\n.\nbye",
    "empty": b"",
    "one write": b"x" * 62 + b"\r\n" * 1000,
    "large": b"word word word word\r\n.\r\n" * 30_000,
    "large, LF": b"word word word word\n.\n" * 30_000,
    "large, CR": b"word word word word\r.\r" * 30_000,
    "all CRLF": b"\r\n" * 200_000,
    "8-bit": "Grüße\r\n".encode() * 40_000,
}


async def prepared_of(content: Any, **envelope: Any) -> Prepared:
    prepared = prepare(content, envelope=Envelope(ME, YOU, **envelope))
    await prepared.check()
    assert prepared.is_checked
    return prepared


async def read(body: Body) -> list[bytes]:
    async with aclosing(body.pieces()) as pieces:
        return [piece async for piece in pieces]


async def read_into(sent: list[bytes], body: Body) -> None:
    """Read as far as it comes."""
    async with aclosing(body.pieces()) as pieces:
        async for piece in pieces:
            sent.append(piece)  # noqa: PERF401 (a comprehension would lose them to the error)


def assert_pieces(pieces: list[bytes], wire: bytes) -> None:
    assert b"".join(pieces) == wire
    assert all(type(piece) is bytes and 0 < len(piece) <= PIECE_BYTES for piece in pieces)
    assert not any(piece.endswith(b"\r") for piece in pieces)


@pytest.mark.exhaustive(keep=20)
@EACH_SOURCE
@pytest.mark.parametrize("name", ["small", "large, LF"])
@pytest.mark.anyio
async def test_the_pieces_are_the_wire_form_from_every_source(source: str, name: str, tmp_path: Path) -> None:
    await check_the_pieces(source, name, tmp_path)


@pytest.mark.exhaustive(keep=20)
@EACH_SOURCE
@pytest.mark.parametrize("name", sorted({*BODIES} - {"small", "large, LF"}))
@ONE_LOOP
@pytest.mark.anyio
async def test_the_pieces_are_the_wire_form_whatever_the_body(source: str, name: str, tmp_path: Path) -> None:
    await check_the_pieces(source, name, tmp_path)


async def check_the_pieces(source: str, name: str, tmp_path: Path) -> None:
    raw = HEADER + BODIES[name]
    wire = judge(raw)
    assert wire is not None
    content = SOURCES[source](raw, tmp_path)
    assert content.is_repeatable is (source not in ONE_SHOT)
    prepared = await prepared_of(content)
    await prepared.check()  # again: it does nothing
    mail, _, body = prepared.for_server(OFFERED, is_tls=False)
    assert body.is_repeatable is prepared.is_repeatable is content.is_repeatable
    assert not body.is_binary
    if content.is_repeatable:
        assert body.size == len(wire)
        assert body.whole == (wire if len(wire) <= WHOLE_BYTES else None)
        size = len(wire) + 2 * (not wire.endswith(b"\r\n"))
        kind = b"" if wire.isascii() else b" BODY=8BITMIME"
        assert mail.to_bytes() == b"MAIL FROM:<me@client.example> SIZE=%d%b\r\n" % (size, kind)
    else:
        assert body.size == (len(wire) if source == "stream with size" else None)
        assert body.whole is None
        assert (b" SIZE=" in mail.to_bytes()) is (source == "stream with size")
    assert_pieces(await read(body), wire)
    if content.is_repeatable:  # for another server, and for another message
        assert_pieces(await read(prepared.for_server(OFFERED, is_tls=False)[2]), wire)
        assert_pieces(await read((await prepared_of(content)).for_server(OFFERED, is_tls=False)[2]), wire)
    await prepared.aclose()


WRONG = {
    "NUL": b"x\r\n" * 60_000 + b"\0",
    "line too long": b"x\r\n" * 60_000 + b"y" * 999,
    "line too long, across chunks": b"x\r\n" * 60_000 + b"y" * 500_000,
}
WRONG_HEADERS = {
    "bare CR": b"A: 1\rB: 2\r\n",
    "Bcc": b"Bcc: x@y\r\n",
    "Resent-Bcc": b"A: 1\nRESENT-BCC : x@y\r\n",
    "NUL": b"A: \0\r\n",
    "line too long": b"A: " + b"y" * 999 + b"\r\n",
    "too much": b"A: 1\r\n" * (MAX_HEADER_SECTION_BYTES // 6 + 1),
}


@EACH_SOURCE
@pytest.mark.parametrize("what", WRONG_HEADERS)
@ONE_LOOP
@pytest.mark.anyio
async def test_r20_what_is_wrong_with_the_header_section_is_known_before_anything_is_sent(
    source: str, what: str, tmp_path: Path
) -> None:
    content = SOURCES[source](WRONG_HEADERS[what] + HEADER + b"body\r\n", tmp_path)
    with pytest.raises(MessageError):
        await prepared_of(content)


@EACH_SOURCE
@pytest.mark.parametrize("what", [*WRONG, "bare CR, signed"])
@ONE_LOOP
@pytest.mark.anyio
async def test_r20_what_is_wrong_with_the_body_is_known_before_or_in_the_middle(
    source: str, what: str, tmp_path: Path
) -> None:
    raw = HEADER + WRONG[what] if what in WRONG else b"DKIM-Signature: v=1\r\n" + HEADER + b"x\r\n" * 60_000 + b"a\rb"
    content = SOURCES[source](raw, tmp_path)
    if source not in ONE_SHOT:
        with pytest.raises(MessageError):
            await prepared_of(content)
        return
    prepared = await prepared_of(content)
    body = prepared.for_server(OFFERED, is_tls=False)[2]
    sent: list[bytes] = []
    with pytest.raises(MessageError):
        await read_into(sent, body)
    assert raw.startswith(b"".join(sent)[:100_000])
    assert not any(b"\0" in piece for piece in sent)


@pytest.mark.anyio
async def test_a_bare_cr_is_found_under_a_signature_wherever_the_chunks_end() -> None:
    signed = b"DKIM-Signature: v=1\r\n\r\n"
    for chunks in ([b"a\r", b"b"], [b"a\r"], [b"\r", b"\r\n"], [b"a\r\n\r", b"\r\n"], [b"a\rb"]):
        with pytest.raises(MessageError, match="signed"):
            encoded([signed, *chunks])
    for chunks in ([b"a\r", b"\nb"], [b"\r", b"\n\r", b"\n"], [b"a\nb"], [b"", b"a\r", b"", b"\n"]):
        assert encoded([signed, *chunks]) == signed + b"".join(chunks).replace(b"a\nb", b"a\r\nb")


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a: b", b"\r\n\r\n"]), max_size=12).map(b"".join))
def test_the_header_section_ends_with_the_first_empty_line_whatever_ends_its_lines(octets: bytes) -> None:
    empty = re.search(rb"(?:\A|\n)\r?\n", octets)
    end = len(octets) if empty is None else empty.end()
    assert wire_module.header_section(octets) == octets[:end]
    assert wire_module.header_section(memoryview(octets)) == octets[:end]


@given(
    st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a: b", b"Bcc: c", b"resent-BCC :d"]), max_size=12).map(b"".join)
)
def test_r20_a_bare_cr_and_a_bcc_field_are_found_wherever_they_stand(header: bytes) -> None:
    is_bare = b"\r" in header.replace(b"\r\n", b"")
    lines = [line.lower() for line in header.replace(b"\r\n", b"\n").split(b"\n")]
    if is_bare or any(line.startswith((b"bcc:", b"resent-bcc :")) for line in lines):
        with pytest.raises(MessageError):
            wire_module.check_header_section(header)
    else:
        section = re.match(rb"(?:a: b(?:a: b|[^\n])*(?:\n|\Z)|[Bbr][^\n]*:[^\n]*(?:\n|\Z))*(?:\r?\n)?", header)
        assert section is not None
        wire_module.check_header_section(section[0])


def test_a_header_section_of_just_the_limit_passes_and_one_octet_more_does_not() -> None:
    line = b"A: " + b"x" * 993 + b"\r\n"
    header = line * (MAX_HEADER_SECTION_BYTES // len(line))
    room = MAX_HEADER_SECTION_BYTES - len(header) - 4
    for end, is_taken in ((b"Y:" + b"y" * (room - 2), True), (b"Y:" + b"y" * (room - 1), False)):
        raw = header + end + b"\r\n\r\n" + b"body\r\n" * 10
        for chunks in ([raw], chunks_of(raw, [*range(0, len(raw), 99_999)])):
            if is_taken:
                assert encoded(chunks) == raw
            else:
                with pytest.raises(MessageError, match="header section of more than 1048576 bytes"):
                    encoded(chunks)
        if is_taken:
            assert prepare(raw, sender=ME, recipients=YOU).recipients == (YOU,)
        else:
            with pytest.raises(MessageError, match="header section of more than 1048576 bytes"):
                prepare(raw, sender=ME, recipients=YOU)


# --- What MAIL says of it


@pytest.mark.anyio
async def test_a_stream_is_8bitmime_whenever_that_is_offered() -> None:
    for body in (b"ascii\r\n", "Grüße\r\n".encode()):
        prepared = await prepared_of(Content.from_stream(stream_of(HEADER + body)))
        mail, _, sent = prepared.for_server(OFFERED, is_tls=False)
        assert mail.to_bytes() == b"MAIL FROM:<me@client.example> BODY=8BITMIME\r\n"
        assert_pieces(await read(sent), HEADER + body)


@pytest.mark.anyio
async def test_an_8bit_octet_in_a_stream_without_8bitmime_is_met_in_the_middle() -> None:
    raw = HEADER + b"xx\r\n" * 75_000 + "ü\r\nend\r\n".encode()
    prepared = await prepared_of(Content.from_stream(stream_of(raw)))
    mail, _, body = prepared.for_server(NOTHING, is_tls=False)
    assert mail.to_bytes() == b"MAIL FROM:<me@client.example>\r\n"
    sent: list[bytes] = []
    with pytest.raises(ExtensionRequired, match="8-bit data") as caught:
        await read_into(sent, body)
    assert caught.value.keyword == "8BITMIME"
    assert sent
    assert raw.startswith(b"".join(sent))
    assert b"".join(sent).isascii()


@pytest.mark.anyio
async def test_a_stream_that_begins_8bit_needs_8bitmime_before_mail() -> None:
    """R20: what was read to know the header section is not forgotten."""
    for raw, envelope in (
        (HEADER + "ü\r\n".encode(), {}),
        ("Subject: Grüße\r\n".encode() + HEADER, {"smtputf8": False}),
    ):
        prepared = await prepared_of(Content.from_stream(stream_of(raw)), **envelope)
        with pytest.raises(ExtensionRequired) as caught:
            prepared.for_server(NOTHING, is_tls=False)
        assert caught.value.keyword == "8BITMIME"
        assert await read(prepared.for_server(OFFERED, is_tls=False)[2]) == [raw]
        with pytest.raises(MessageError, match="body='7BIT'"):
            await prepared_of(Content.from_stream(stream_of(raw)), **envelope, body="7BIT")


@pytest.mark.anyio
async def test_an_8bit_octet_that_body_7bit_forbids_is_met_in_the_middle_of_a_stream() -> None:
    raw = HEADER + b"xx\r\n" * 75_000 + "ü\r\n".encode()
    prepared = await prepared_of(Content.from_stream(stream_of(raw)), body="7BIT")
    with pytest.raises(MessageError, match="body='7BIT'"):
        await read(prepared.for_server(OFFERED, is_tls=False)[2])


@EACH_SOURCE
@ONE_LOOP
@pytest.mark.anyio
async def test_8bit_octets_that_body_7bit_forbids_are_a_message_error(source: str, tmp_path: Path) -> None:
    content = SOURCES[source](HEADER + "Grüße\r\n".encode(), tmp_path)
    with pytest.raises(MessageError, match="body='7BIT'"):
        await read((await prepared_of(content, body="7BIT")).for_server(OFFERED, is_tls=False)[2])
    content = SOURCES[source](HEADER + b"ascii\r\n", tmp_path)
    mail, _, body = (await prepared_of(content, body="7BIT")).for_server(OFFERED, is_tls=False)
    assert b" BODY=7BIT" in mail.to_bytes()
    assert await read(body) == [HEADER + b"ascii\r\n"]


@EACH_SOURCE
@ONE_LOOP
@pytest.mark.anyio
async def test_8bit_content_that_is_known_to_be_so_needs_8bitmime_before_mail(source: str, tmp_path: Path) -> None:
    prepared = await prepared_of(SOURCES[source](HEADER + "Grüße\r\n".encode(), tmp_path))
    with pytest.raises(ExtensionRequired) as caught:
        prepared.for_server(NOTHING, is_tls=False)
    assert caught.value.keyword == "8BITMIME"
    await prepared.aclose()


@EACH_SOURCE
@ONE_LOOP
@pytest.mark.anyio
async def test_an_8bit_header_needs_smtputf8_and_the_message_id_is_told(source: str, tmp_path: Path) -> None:
    raw = "Subject: Grüße\r\nmessage-id:\r\n <2@client.example>\r\n\r\nx\r\n".encode()
    prepared = await prepared_of(SOURCES[source](raw, tmp_path))
    assert prepared.needs_smtputf8 == "header Subject"
    assert prepared.message_id == "<2@client.example>"
    mail, _, body = prepared.for_server(OFFERED, is_tls=False)
    assert mail.to_bytes().endswith(b" BODY=8BITMIME SMTPUTF8\r\n")
    assert await read(body) == [raw]
    prepared = await prepared_of(SOURCES[source](raw, tmp_path), smtputf8=False)
    assert prepared.needs_smtputf8 is None
    prepared = await prepared_of(SOURCES[source](raw, tmp_path))
    with pytest.raises(ExtensionRequired, match="header Subject needs SMTPUTF8"):
        prepared.for_server(Extensions({"8BITMIME": ()}), is_tls=False)
    await prepared.aclose()
    prepared = await prepared_of(SOURCES[source](b"A: 1\r\n\r\nMessage-ID: <3@x>\r\n", tmp_path))
    assert prepared.message_id is None
    await prepared.aclose()


# --- Sizes


@pytest.mark.parametrize(("declared", "body"), [(0, b"x"), (90, b"x" * 200), (100_000, b"x\r\n" * 100_000)])
@pytest.mark.anyio
async def test_a_stream_longer_than_its_size_is_refused_before_more_is_sent(declared: int, body: bytes) -> None:
    content = Content.from_stream(stream_of(HEADER + body), declared)
    sent: list[bytes] = []

    async def send() -> None:
        await read_into(sent, (await prepared_of(content)).for_server(OFFERED, is_tls=False)[2])

    with pytest.raises(MessageError, match=rf"size= that was given, {declared}: it has more than {declared} bytes"):
        await send()
    assert sum(map(len, sent)) <= declared


@pytest.mark.anyio
async def test_a_stream_shorter_than_its_size_is_refused_in_place_of_its_end() -> None:
    raw = HEADER + b"x\r\n" * 50_000
    body = (await prepared_of(Content.from_stream(stream_of(raw), len(raw) + 1))).for_server(OFFERED, is_tls=False)[2]
    sent: list[bytes] = []
    with pytest.raises(MessageError, match=f"it has {len(raw)} bytes"):
        await read_into(sent, body)
    assert_pieces(sent, raw)


@pytest.mark.anyio
async def test_the_size_of_a_stream_counts_octets_on_the_wire() -> None:
    raw = HEADER.replace(b"\r\n", b"\n") + b"x\n"
    with pytest.raises(MessageError, match="more than"):
        await read((await prepared_of(Content.from_stream(stream_of(raw), len(raw)))).for_server(
            OFFERED, is_tls=False
        )[2])  # fmt: skip
    mail, _, body = (await prepared_of(Content.from_stream(stream_of(raw), len(raw) + 4))).for_server(
        OFFERED, is_tls=False
    )
    assert b" SIZE=%d " % (len(raw) + 4) in mail.to_bytes()
    assert b"".join(await read(body)) == HEADER + b"x\r\n"


@pytest.mark.anyio
async def test_a_stream_over_the_size_offered_is_refused_where_it_gets_longer_or_before() -> None:
    offered = Extensions({"SIZE": ("200000",), "8BITMIME": ()})
    raw = HEADER + b"x\r\n" * 100_000
    body = (await prepared_of(Content.from_stream(stream_of(raw)))).for_server(offered, is_tls=False)[2]
    sent: list[bytes] = []
    with pytest.raises(ExtensionRequired, match="more than the 200000 bytes") as caught:
        await read_into(sent, body)
    assert caught.value.keyword == "SIZE"
    assert sum(map(len, sent)) <= 200_000
    prepared = await prepared_of(Content.from_stream(stream_of(raw), len(raw)))
    with pytest.raises(ExtensionRequired, match="300"):
        prepared.for_server(offered, is_tls=False)
    await prepared.aclose()
    tiny = Extensions({"SIZE": ("10",), "8BITMIME": ()})
    body = (await prepared_of(Content.from_stream(stream_of(raw)))).for_server(tiny, is_tls=False)[2]
    with pytest.raises(ExtensionRequired, match="more than the 10 bytes"):
        await read(body)


@pytest.mark.parametrize("size", [-1, True, 1.0, "1"])
def test_a_size_that_is_none_is_refused(size: Any) -> None:
    with pytest.raises(MessageError, match="number of bytes"):
        Content.from_stream(stream_of(b""), size)


# --- Files change


@pytest.mark.parametrize(
    "now",
    [
        HEADER + b"x\r\n" * 40_000 + b"more\r\n",
        HEADER + b"x\r\n" * 39_999,
        HEADER.replace(b"<1@", b"<2@") + b"x\r\n" * 40_000,
        HEADER + "ü\n".encode() * 40_000,
        HEADER + b"\0\r\n" * 40_000,
        HEADER[:-2] + b"Bcc: x@y\r\n\r\n" + b"x\r\n" * 40_000,
        b"",
    ],
    ids=["longer", "shorter", "header", "8-bit", "NUL", "Bcc", "empty"],
)
@pytest.mark.anyio
async def test_a_file_that_changed_after_it_was_checked_is_not_sent(now: bytes, tmp_path: Path) -> None:
    content = from_path(HEADER + b"x\r\n" * 40_000, tmp_path)
    body = (await prepared_of(content)).for_server(OFFERED, is_tls=False)[2]
    (tmp_path / "message.eml").write_bytes(now)
    with pytest.raises(MessageError):
        await read(body)


@pytest.mark.anyio
async def test_a_bytearray_that_changed_after_it_was_checked_is_not_sent() -> None:
    raw = bytearray(HEADER + b"x\r\n" * 40_000)
    body = (await prepared_of(Content.from_bytes(raw))).for_server(OFFERED, is_tls=False)[2]
    raw[-3] = 0xFC
    with pytest.raises(MessageError, match="changed since it was checked"):
        await read(body)


# --- Files that are none


@pytest.mark.anyio
@pytest.mark.needs("named pipes")
async def test_a_path_that_cannot_be_read_is_a_message_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "pipe", tmp_path / "nul\0"):
        with pytest.raises(MessageError, match=r"cannot be read|not a regular file"):
            await prepared_of(Content.from_path(path))


class Failing(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise OSError("the disk is gone")


class Async(io.BytesIO):
    async def read(self, size: int | None = -1) -> bytes:  # type: ignore[override]
        return b""


class Awaitable(io.BytesIO):
    def read(self, size: int | None = -1) -> Any:
        return Async().read()


class NotBlocking(io.BytesIO):
    def read(self, size: int | None = -1) -> Any:
        return None


class Lost(io.BytesIO):
    def tell(self) -> int:
        raise OSError("no position")


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: io.StringIO("text"), "binary mode"),
        (Failing, "the disk is gone"),
        (Async, "from_stream"),
        (Awaitable, "from_stream"),
        (NotBlocking, "NoneType"),
        (Lost, "no position"),
        (lambda: b"octets", "bytes has none"),
        (lambda: None, "NoneType has none"),
    ],
)
@pytest.mark.anyio
async def test_a_file_that_gives_no_octets_is_a_message_error(make: Callable[[], Any], match: str) -> None:
    with pytest.raises(MessageError, match=match):
        await prepared_of(Content.from_file(make()))


@pytest.mark.anyio
async def test_a_file_that_was_closed_is_a_message_error() -> None:
    file = io.BytesIO(HEADER)
    content = Content.from_file(file)
    file.close()
    with pytest.raises(MessageError, match="closed file"):
        await prepared_of(content)


@pytest.mark.anyio
async def test_the_disk_may_fail_while_a_path_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = from_path(HEADER + b"x\r\n" * 40_000, tmp_path)
    body = (await prepared_of(content)).for_server(OFFERED, is_tls=False)[2]
    monkeypatch.setattr(content_module, "_READ_BYTES", 50_000)
    file = open_file(tmp_path / "message.eml")
    monkeypatch.setattr(type(content._source), "_open", lambda self: Breaking(file))
    with pytest.raises(MessageError, match=r"message\.eml' cannot be read: .*gone"):
        await read(body)
    assert file.closed


class Breaking:
    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        if self._file.tell() > 60_000:
            raise OSError("the disk is gone")
        return self._file.read(size)  # type: ignore[no-any-return]

    def close(self) -> None:
        self._file.close()


@pytest.mark.anyio
async def test_one_open_file_may_be_sent_by_several_tasks_at_the_same_time() -> None:
    raw = HEADER + b"".join(b"%d\r\n" % n for n in range(400_000))
    content = Content.from_file(io.BytesIO(raw))
    results = []

    async def send() -> None:
        body = (await prepared_of(content)).for_server(OFFERED, is_tls=False)[2]
        results.append(b"".join(await read(body)))

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(send)
    assert results == [raw] * 4


def times_open(path: Path) -> int:
    """Return how many times this process has a file open, where the system tells."""
    folder = Path("/proc/self/fd")
    return sum(each.exists() and each.samefile(path) for each in folder.iterdir()) if folder.exists() else 0


@pytest.mark.anyio
async def test_files_are_closed_whenever_reading_ends(tmp_path: Path) -> None:
    """A ResourceWarning is an error in these tests; and the descriptors are counted."""
    content = from_path(HEADER + b"x\r\n" * 1_000_000, tmp_path)
    body = (await prepared_of(content)).for_server(OFFERED, is_tls=False)[2]
    async with aclosing(body.pieces()) as pieces:
        async for _ in pieces:
            break
    with anyio.CancelScope() as scope:
        async with aclosing(body.pieces()) as pieces:
            async for _ in pieces:
                scope.cancel()
    assert scope.cancelled_caught
    gc.collect()
    assert times_open(tmp_path / "message.eml") == 0


# --- Streams


@pytest.mark.parametrize("wrong", [b"octets", "text", [b"x"], iter([b"x"]), io.BytesIO(), None])
def test_a_stream_is_an_async_iterable(wrong: Any) -> None:
    with pytest.raises(MessageError, match="async iterable of bytes"):
        Content.from_stream(wrong)


@pytest.mark.parametrize("chunk", ["text", None, 5, [b"x"]])
@pytest.mark.anyio
async def test_a_chunk_of_a_stream_is_bytes(chunk: Any) -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield HEADER
        yield chunk

    with pytest.raises(MessageError, match=f"not {type(chunk).__name__}"):
        await prepared_of(Content.from_stream(stream()))


@pytest.mark.anyio
async def test_chunks_may_be_anything_like_bytes_and_may_change_once_the_next_is_asked_for() -> None:
    buffer = bytearray(100)

    async def stream() -> AsyncIterator[Any]:
        yield HEADER[:10]
        yield bytearray(HEADER[10:])
        yield b""
        for n in range(30):
            buffer[:] = b"%098d\r\n" % n
            yield buffer
        large = bytearray(b"y" * 98 + b"\r\n") * 3000
        yield memoryview(large)
        large[:] = b"z" * len(large)
        yield memoryview(b"ab\r\nab\r\n").cast("H")

    body = (await prepared_of(Content.from_stream(stream()))).for_server(OFFERED, is_tls=False)[2]
    expected = HEADER + b"".join(b"%098d\r\n" % n for n in range(30)) + (b"y" * 98 + b"\r\n") * 3000
    assert_pieces(await read(body), expected + b"ab\r\nab\r\n")


@pytest.mark.anyio
async def test_small_chunks_share_a_piece() -> None:
    """Each piece is a write: of a stream of lines it would be one for each line."""
    raw = HEADER + b"x\r\n" * 100_000
    prepared = await prepared_of(Content.from_stream(stream_of(raw, 3)))
    pieces = await read(prepared.for_server(OFFERED, is_tls=False)[2])
    assert_pieces(pieces, raw)
    assert len(pieces) <= len(raw) // WHOLE_BYTES + 1


@pytest.mark.anyio
async def test_small_chunks_of_a_slow_stream_are_not_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server would think that we are gone."""
    now = 0.0
    monkeypatch.setattr(anyio, "current_time", lambda: now)
    seen = []

    async def stream() -> AsyncIterator[bytes]:
        nonlocal now
        yield HEADER
        for n in range(6):
            now += 0.4
            seen.append(len(received))
            yield b"%d\r\n" % n

    received: list[bytes] = []
    body = (await prepared_of(Content.from_stream(stream()))).for_server(OFFERED, is_tls=False)[2]
    await read_into(received, body)
    assert received == [HEADER + b"0\r\n1\r\n2\r\n", b"3\r\n4\r\n5\r\n"]
    assert seen == [0, 0, 0, 1, 1, 1]


@pytest.mark.anyio
async def test_a_stream_can_be_sent_once() -> None:
    for content in (Content.from_stream(stream_of(HEADER)), Content.from_file(Unseekable(HEADER))):  # type: ignore[arg-type]
        prepared = await prepared_of(content)
        bodies = [prepared.for_server(OFFERED, is_tls=False)[2] for _ in range(2)]
        assert await read(bodies[0]) == [HEADER]
        for body in bodies:
            with pytest.raises(MessageError, match="read only once"):
                await read(body)
        with pytest.raises(MessageError, match="read only once"):
            await prepared_of(content)


class Trouble(Exception):
    pass


@pytest.mark.parametrize("after", [0, 1, 200])
@pytest.mark.anyio
async def test_what_the_callers_stream_raises_comes_out_as_it_is(after: int) -> None:
    async def stream() -> AsyncIterator[bytes]:
        for n in range(after):
            yield b"word\r\n" * 1000 if n else HEADER
        raise Trouble

    with pytest.raises(Trouble):
        await read((await prepared_of(Content.from_stream(stream()))).for_server(OFFERED, is_tls=False)[2])


@pytest.mark.anyio
async def test_a_stream_that_is_not_read_to_its_end_is_closed() -> None:
    closed = []

    async def stream() -> AsyncIterator[bytes]:
        try:
            yield HEADER
            while True:
                yield b"x\r\n" * 50_000
        finally:
            await anyio.lowlevel.checkpoint()
            closed.append(True)

    prepared = await prepared_of(Content.from_stream(stream()))
    assert not closed
    await prepared.aclose()
    await prepared.aclose()
    assert closed == [True]
    body = (await prepared_of(Content.from_stream(stream()))).for_server(OFFERED, is_tls=False)[2]
    async with aclosing(body.pieces()) as pieces:
        async for _ in pieces:
            break
    assert closed == [True, True]


@pytest.mark.anyio
async def test_an_iterator_that_is_no_generator_is_left_to_the_caller() -> None:
    class Source(AsyncIterable[bytes]):
        closed = False

        def __init__(self) -> None:
            self._chunks = iter([HEADER, b"x\r\n"])

        def __aiter__(self) -> Source:
            return self

        async def __anext__(self) -> bytes:
            for chunk in self._chunks:
                return chunk
            raise StopAsyncIteration

        async def aclose(self) -> None:
            self.closed = True

    source = Source()
    body = (await prepared_of(Content.from_stream(source))).for_server(OFFERED, is_tls=False)[2]
    assert b"".join(await read(body)) == HEADER + b"x\r\n"
    assert not source.closed


# --- BINARYMIME


BINARY = HEADER + b"\0\r\n\n\r" + bytes(range(256)) * 1500


@EACH_SOURCE
@ONE_LOOP
@pytest.mark.anyio
async def test_binarymime_goes_octet_for_octet_from_every_source(source: str, tmp_path: Path) -> None:
    if source == "stream with size":
        content = Content.from_stream(stream_of(BINARY), len(BINARY))
    else:
        content = SOURCES[source](BINARY, tmp_path)
        if source in ONE_SHOT:
            with pytest.raises(MessageError, match="pass size="):
                await prepared_of(content, body="BINARYMIME")
            return
    prepared = await prepared_of(content, body="BINARYMIME")
    mail, _, body = prepared.for_server(OFFERED, is_tls=False, binary_ok=True)
    assert mail.to_bytes() == b"MAIL FROM:<me@client.example> SIZE=%d BODY=BINARYMIME\r\n" % len(BINARY)
    assert body.is_binary
    assert body.size == len(BINARY)
    assert b"".join(await read(body)) == BINARY
    assert prepared.message_id == "<1@client.example>"


@EACH_SOURCE
@ONE_LOOP
@pytest.mark.anyio
async def test_the_header_section_of_binarymime_is_still_checked(source: str, tmp_path: Path) -> None:
    for header in (b"A: 1\n", b"A: 1\rB: 2\r\n", b"Bcc: x@y\r\n", b"A: \0\r\n", b"A: " + b"x" * 999 + b"\r\n"):
        raw = header + BINARY
        content = (
            Content.from_stream(stream_of(raw), len(raw)) if source in ONE_SHOT else SOURCES[source](raw, tmp_path)
        )
        with pytest.raises(MessageError):
            await prepared_of(content, body="BINARYMIME")


# --- Envelope, misuse


def test_a_content_needs_both_sender_and_recipients() -> None:
    content = Content.from_bytes(HEADER)
    with pytest.raises(MessageError, match="pass sender="):
        prepare(content)
    with pytest.raises(MessageError, match="pass sender="):
        prepare(content, recipients=YOU)
    with pytest.raises(MessageError, match="pass recipients="):
        prepare(content, sender=ME)
    with pytest.raises(MessageError, match="not both"):
        prepare(content, sender=ME, envelope=Envelope(ME, YOU))
    assert prepare(content, sender="", recipients=[YOU]).sender.wire == b"<>"
    assert prepare(content, envelope=Envelope(ME, YOU)).recipients == (YOU,)
    with pytest.raises(MessageError):
        prepare(content, sender=ME, recipients="a\r\nb@x")


@pytest.mark.parametrize("wrong", ["From: a@x\n\n", None, 5, [b"x"], object()])
def test_content_from_anything_else_is_a_message_error(wrong: Any) -> None:
    with pytest.raises(MessageError, match="content must be bytes, not"):
        Content.from_bytes(wrong)
    with pytest.raises(MessageError, match="make a Content with from_bytes"):
        Content(wrong)
    if not isinstance(wrong, str):
        with pytest.raises(MessageError, match="a path must be a str"):
            Content.from_path(wrong)


def test_content_is_a_value_whose_octets_are_not_in_its_repr() -> None:
    for content in (Content.from_bytes(b"secret"), Content.from_path("message.eml")):
        again = pickle.loads(pickle.dumps(content))
        assert again == content
        assert repr(again) == repr(content)
        assert "secret" not in repr(content)
    assert "message.eml" in repr(Content.from_path("message.eml"))
    with pytest.raises(AttributeError):
        content.size = 5  # type: ignore[attr-defined]


# --- Bytes in place of a message: in steps, if they are many


@examples(150)
@given(RAW)
def test_many_octets_are_checked_in_steps_with_the_same_result(raw: bytes) -> None:
    expected = judge(raw)

    async def checked() -> bytes:
        prepared = prepare(raw, sender=ME, recipients=YOU)
        assert prepared.reader is not None or len(raw) <= 3
        await prepared.check()
        return b"".join(await read(prepared.for_server(OFFERED, is_tls=False)[2]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(message_module, "_AT_ONCE_BYTES", 3)
        patch.setattr(wire_module, "_MAX_PLAIN_BYTES", 3)
        if expected is None:
            with pytest.raises(MessageError):
                anyio.run(checked)
        else:
            assert anyio.run(checked) == expected


@pytest.mark.anyio
async def test_many_octets_tell_their_envelope_and_message_id_as_few_do() -> None:
    raw = b"To: you@server.example\r\n" + HEADER + b"x\r\n" * MIB
    prepared = prepare(raw)
    assert (prepared.envelope.sender, prepared.recipients) == (ME, (YOU,))
    assert not prepared.is_checked
    await prepared.check()
    assert prepared.message_id == "<1@client.example>"
    body = prepared.for_server(OFFERED, is_tls=False)[2]
    assert isinstance(body, OctetBody)
    assert body.octets is raw  # no copy
    for wrong in (b"Bcc: x@y\r\n" + raw, b"A: 1\rB: 2\r\n" + raw, b"A: 1\r\n" * MIB):
        with pytest.raises(MessageError):
            prepare(wrong)


@pytest.mark.anyio
async def test_few_octets_and_message_objects_need_no_check() -> None:
    for message in (HEADER, email.message_from_bytes(HEADER)):
        prepared = prepare(message, sender=ME, recipients=YOU)
        assert prepared.is_checked
        assert prepared.is_repeatable
        assert not prepared.flattens_anew(NOTHING)
        await prepared.check()
        await prepared.aclose()


def test_a_large_8bit_message_object_is_flattened_anew_for_a_server_without_8bitmime() -> None:
    """Its caller does that in a worker thread then."""
    raw = b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n" + HEADER
    large = prepare(email.message_from_bytes(raw + "Grüße\r\n".encode() * 60_000), sender=ME, recipients=YOU)
    assert large.flattens_anew(NOTHING)
    assert not large.flattens_anew(OFFERED)
    small = prepare(email.message_from_bytes(raw + "Grüße\r\n".encode()), sender=ME, recipients=YOU)
    ascii_ = prepare(email.message_from_bytes(raw + b"word\r\n" * 100_000), sender=ME, recipients=YOU)
    octets = prepare(raw + "Grüße\r\n".encode() * 60_000, sender=ME, recipients=YOU)
    for other in (small, ascii_, octets):
        assert not other.flattens_anew(NOTHING)


# --- The event loop goes on meanwhile


async def turns_during(work: Callable[[], Any]) -> int:
    """Return how many times another task was run while this was awaited."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        await work()
        tasks.cancel_scope.cancel()
    return turns


@pytest.mark.anyio
async def test_checking_many_octets_lets_others_run() -> None:
    """At most a mebibyte at a time: a millisecond or so of the 20 that the event loop may be held."""
    raw = HEADER + b"word\r\n" * (24 * MIB // 6)
    assert await turns_during(prepare(raw, sender=ME, recipients=YOU).check) >= 20
    content = Content.from_bytes(bytearray(raw.replace(b"\r\n", b"\n")))
    assert await turns_during(content.reader().check) >= 15


@pytest.mark.anyio
async def test_files_are_read_in_threads_of_our_own(tmp_path: Path) -> None:
    """Those of anyio may all be busy: with code that waits for us to send, in a web backend."""
    content = from_path(HEADER, tmp_path)
    limiter = anyio.to_thread.current_default_thread_limiter()
    borrowers = [object() for _ in range(int(limiter.total_tokens))]
    for borrower in borrowers:
        limiter.acquire_on_behalf_of_nowait(borrower)
    try:
        with anyio.fail_after(20):
            await prepared_of(content)
            assert await in_thread(len, b"abc") == 3
    finally:
        for borrower in borrowers:
            limiter.release_on_behalf_of(borrower)


# --- Memory


@pytest.fixture(scope="module")
def large_file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "large.eml")
        with path.open("wb") as file:
            file.write(HEADER)
            for _ in range(8):
                file.write((b"word " * 12 + b"\r\n") * (MIB // 62))
        yield path


def octets_for(kind: str, path: Path) -> bytes:
    raw = path.read_bytes() if "byte" in kind else b""
    return raw.replace(b"\r\n", b"\n") if kind == "LF bytes" else raw


@pytest.mark.exhaustive(keep=4)
@pytest.mark.parametrize("kind", ["path", "file", "stream", "bytes", "LF bytes", "bytearray"])
@pytest.mark.anyio
async def test_content_goes_through_in_constant_memory(kind: str, large_file: Path) -> None:
    raw = octets_for(kind, large_file)

    async def stream() -> AsyncIterator[bytes]:
        with open_file(large_file) as file:
            while chunk := file.read(10_000):
                yield chunk

    size = size_of(large_file)
    file = open_file(large_file)
    contents: dict[str, Callable[[], Any]] = {
        "path": lambda: Content.from_path(large_file),
        "file": lambda: Content.from_file(file),
        "stream": lambda: Content.from_stream(stream()),
        "bytes": lambda: raw,
        "LF bytes": lambda: raw,
        "bytearray": lambda: raw,
    }
    mutable = bytearray(raw) if kind == "bytearray" else b""
    gc.collect()
    tracemalloc.start()
    try:
        prepared = await prepared_of(mutable or contents[kind]())
        body = prepared.for_server(OFFERED, is_tls=False)[2]
        octets = 0
        async with aclosing(body.pieces()) as pieces:
            async for piece in pieces:
                octets += len(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        file.close()
    assert octets == size
    assert peak < 3 * MIB
