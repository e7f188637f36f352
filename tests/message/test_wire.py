"""Messages as octets: what stands in front, what is no field, and which line is too long (the wire form, octets)."""

from __future__ import annotations

import email
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from typing import Any

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtplite.errors import MessageError, SMTPError
from smtplite.message import prepared as prepared_module
from smtplite.message import wire
from smtplite.message.content import Content, OctetBody
from smtplite.message.envelope import Envelope
from smtplite.message.headers import unfold
from smtplite.message.prepared import Prepared, prepare
from smtplite.message.wire import check_header_section, check_text, fields_of, header_section, plain_header
from smtplite.protocol.extensions import Extensions
from smtplite.protocol.transparency import normalize

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
        (b"just text", r"before its headers: line 1, b'just text'"),
        (b"just text\n\nmore: text\n", r"before its headers: line 1, b'just text'"),
        (b" From: a@x\n\n", r"before its headers: line 1, b' From: a@x'"),
        (b": x\n\n", r"before its headers: line 1, b': x'"),
        (b"From x\nFrom y\n\n", r"before its headers: line 2, b'From y'"),
        (HEADER + b"no field\r\nA: b\r\n\r\n", r"among its headers that is not a header: line 3, b'no field'"),
        (b"From x\n" + HEADER + b"From y\n\n", r"among its headers that is not a header: line 4, b'From y'"),
        (HEADER + "Grüße: x\n\n".encode(), r"among its headers that is not a header: line 3"),
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
    message = rf"a line of more than 998 bytes: line {line}, 1234 bytes, in {place}: encode it .*long_lines='send'"
    with pytest.raises(MessageError, match=message):
        by_octets(raw)
    with pytest.raises(MessageError, match=rf"998 bytes: line {line}, 1234 bytes, in the body"):
        by_content(raw)
    with pytest.raises(MessageError, match=rf"998 bytes: line {line + 1}, 1234 bytes, in {place}"):
        by_octets(b"From me\n" + raw)


@WAYS
def test_a_line_too_long_in_a_header_is_named_by_its_field(way: Any) -> None:
    for line, value in ((3, b"x" * 994), (4, b"x\r\n " + b"x" * 998)):
        with pytest.raises(MessageError, match=rf"line {line}, 999 bytes, in header X-A:"):
            way(HEADER + b"X-A: " + value + b"\r\nB: c\r\n\r\n")


@WAYS
def test_long_lines_are_sent_where_the_envelope_says_so(way: Any) -> None:
    raw = HEADER + b"X-A: " + b"x" * 2000 + b"\r\n\r\n" + b"y" * 200_000 + b"\r\n"
    assert way(raw[: len(raw)], SEND) == raw if way is not by_stream else way(raw[:5000], SEND) == raw[:5000]
    with pytest.raises(MessageError):
        way(raw[:5000] + b"\0", SEND)


def test_long_lines_are_send_or_nothing() -> None:
    with pytest.raises(MessageError, match="long_lines must be 'send' or None, not 'fold'"):
        Envelope(ME, YOU, long_lines="fold")  # type: ignore[arg-type]


def test_a_message_object_sends_the_long_lines_that_it_cannot_encode_where_the_envelope_says_so() -> None:
    raw = HEADER + b"Content-Type: multipart/signed; boundary=s\r\n\r\n--s\r\n\r\n" + b"x" * 2000 + b"\r\n--s--\r\n"
    message = email.message_from_bytes(raw)
    with pytest.raises(MessageError, match="multipart/signed leaves as it is, has a line of 2000 bytes"):
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
        with pytest.raises(MessageError, match="line of more than 998 bytes"):
            by_octets(raw + b"x" * 1000)
    assert time.process_time() - begun < 4


# The short way for what is plain, and the general one

PLAIN = HEADER + b"Subject: a\r\n b\r\nMessage-ID: <1@x>\r\n\r\nHello\r\n.\r\n\r\nBye\r\n"
#: Pieces of which each may spoil a plain message, or not.
LINES = [
    b"A: b",
    b"A : b",
    b"Message-ID: <2@x>",
    b"message-id:",
    b"Message-ID :<3@x>",
    b"X-Message-ID: <4@x>",
    b" message-id: folded",
    b"Message-ID: <5@x> \r\n\t(more)",
    b"Bcc: hidden@x",
    b"resent-bcc : hidden@x",
    b"X-Bcc: shown@x",
    b"Resent-To: other@x",
    b"Resent-From: someone@x",
    b"To: Name <third@x>, third@x",
    b"From: fourth@x",
    b"DKIM-Signature: v=1",
    b"Date: today",
    b"Received: x",
    b"From me@x today",
    b"no field",
    b"\xef\xbb\xbfA: b",
    b"A: \xc3\xa9",
    b"\xc3\xa9: b",
    b"A: \0",
    b"A:" + b"x" * 996,
    b"A:" + b"x" * 997,
    b"x" * 998,
    b"x" * 999,
    b" " + b"x" * 998,
    b".",
    b"",
    b" ",
    b":",
]
LINE_ENDS = [b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r", b""]
ENDED_LINE = st.tuples(st.sampled_from(LINES), st.sampled_from([b"\r\n"] * 40 + LINE_ENDS))
OCTETS = st.lists(ENDED_LINE, max_size=8).map(lambda lines: b"".join(a + b for a, b in lines))
ADDRESS = st.sampled_from([ME, YOU, "you@SERVER.example", "", "postmaster", f"You <{YOU}>", "not one", "ä@x", "a@ä.x"])
ADDRESSES = st.none() | ADDRESS | st.lists(ADDRESS, max_size=3) | st.lists(ADDRESS, max_size=3).map(tuple)
ENVELOPE = st.sampled_from(
    [
        None,
        SEND,
        Envelope(ME, YOU, body="7BIT"),
        Envelope(ME, YOU, body="BINARYMIME"),
        Envelope(ME, YOU, smtputf8=True),
        Envelope(ME, YOU, smtputf8=False),
        Envelope(ME, YOU, envid="1"),
    ]
)
OFFERED = st.sampled_from(
    [
        Extensions({"SIZE": ("0",), "8BITMIME": (), "SMTPUTF8": (), "CHUNKING": (), "BINARYMIME": ()}),
        Extensions({"SIZE": ("100",)}),
        Extensions(),
    ]
)


def everything_of(raw: bytes, sender: Any, recipients: Any, envelope: Any, offered: Extensions) -> Any:
    """Return all that is to be known of a message, or the error."""
    try:
        prepared = prepare(raw, sender=sender, recipients=recipients, envelope=envelope)
        known = (
            prepared.envelope,
            prepared.content,
            prepared.sender.wire,
            prepared.sender.address,
            prepared.recipients,
            [(path.wire, path.address, parameters.wire) for path, _, parameters in prepared.forward_paths],
            prepared.positions,
            prepared.is_eight_bit,
            prepared.message_id,
            prepared.needs_smtputf8,
            prepared.is_checked,
            prepared.is_repeatable,
        )
        fitted = []
        for binary_ok in (False, True):
            mail, rcpts, body = prepared.for_server(offered, is_tls=False, binary_ok=binary_ok)
            assert isinstance(body, OctetBody)
            fitted.append((mail.to_bytes(), [rcpt.to_bytes() for rcpt in rcpts], body.octets, body.is_binary))
    except SMTPError as error:
        return type(error), str(error)
    return known, fitted


@given(
    st.sampled_from([HEADER, PLAIN, b""]),
    OCTETS,
    st.none() | ADDRESS,
    ADDRESSES,
    ENVELOPE,
    OFFERED,
)
@example(PLAIN, b"", ME, [YOU, YOU], None, Extensions({"SIZE": ("100",)}))
@example(PLAIN, b"", "postmaster", [], None, Extensions())
def test_the_short_way_for_what_is_plain_says_what_the_general_one_says(
    front: bytes, octets: bytes, sender: Any, recipients: Any, envelope: Any, offered: Extensions
) -> None:
    raw = front + octets
    if envelope is not None:
        sender = recipients = None
    short = everything_of(raw, sender, recipients, envelope, offered)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(prepared_module, "plain_header", lambda _: None)
        patched.setattr(prepared_module, "fields_of", lambda _: None)  # the stdlib's parser reads them
        patched.setattr(prepared_module._Reading, "_of_plain", lambda *_: None)
        assert everything_of(raw, sender, recipients, envelope, offered) == short


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("line_end", LINE_ENDS)
def test_the_short_way_says_the_same_of_each_line_wherever_it_stands(line: bytes, line_end: bytes) -> None:
    before, empty, after = PLAIN.partition(b"\r\n\r\n")
    for raw in (
        line + line_end + PLAIN,
        before + b"\r\n" + line + line_end + empty[2:] + after,
        PLAIN + line + line_end,
    ):
        short = everything_of(raw, ME, [YOU], None, Extensions())
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(prepared_module, "plain_header", lambda _: None)
            assert everything_of(raw, ME, [YOU], None, Extensions()) == short


def header_fields(fields: Iterable[tuple[str, object]]) -> list[tuple[str, str]]:
    # Whether a value begins behind a line break of its folding depends on Python's version, and means nothing.
    return [(name, unfold(str(value)).strip(" \t")) for name, value in fields]


@given(st.sampled_from([HEADER, PLAIN, b""]), OCTETS)
@example(b"", b"To:\r\n a@b\r\n")
@example(b"", b"To: \xff,\n\ta@b")
@example(b"", b"To: a\r\n \r\nTo : b\r\n\r\n")
def test_fields_are_what_the_parser_of_the_stdlib_reads(front: bytes, octets: bytes) -> None:
    header = header_section(front + octets)
    fields = fields_of(header)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(prepared_module, "fields_of", lambda _: None)
        if fields is not None:
            assert header_fields(fields) == header_fields(prepared_module._fields(header))
    with suppress(MessageError):
        check_header_section(header)
        assert fields is not None  # so the parser is for what is refused


@given(st.lists(st.sampled_from([b"a", b"\r\n", b"\r", b"\0", b"\xff", b"x" * 997, b"x" * 998, b"x" * 999])))
def test_a_text_that_is_looked_at_at_once_is_judged_as_one_line_by_line(parts: list[bytes]) -> None:
    text = normalize(b"".join(parts))

    def judged(*, allows_long_lines: bool) -> bool | str:
        try:
            return check_text(text, allows_long_lines=allows_long_lines)
        except MessageError as error:
            return str(error)

    for allows_long_lines in (False, True):
        short = judged(allows_long_lines=allows_long_lines)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(wire, "_has_long_line", lambda _: True)
            assert judged(allows_long_lines=allows_long_lines) == short


def test_the_usual_message_takes_the_short_way_untouched() -> None:
    assert plain_header(PLAIN) == PLAIN[: PLAIN.index(b"\r\n\r\n") + 4]
    prepared = prepare(PLAIN, sender=ME, recipients=[YOU])
    assert prepared.content is PLAIN
    assert prepared.message_id == "<1@x>"


@pytest.mark.parametrize(
    "raw",
    [
        PLAIN.replace(b"\r\n", b"\n"),
        PLAIN + b"a\n",
        PLAIN.replace(b"Hello", b"Hel\nlo"),
        PLAIN.replace(b"Hello", b"Hel\rlo"),
        PLAIN.replace(b"From:", b"From\n:"),
        PLAIN.replace(b" b", b" \nb"),
        PLAIN + b"\xff\r\n",
        PLAIN + b"\0\r\n",
        PLAIN + b"x" * 999 + b"\r\n",
        PLAIN + b"no line end",
        b"From me\r\n" + PLAIN,
        b"\r\n" + PLAIN,
        b" " + PLAIN,
        b"BCC: x\r\n" + PLAIN,
        b"rESENT-bcc: x\r\n" + PLAIN,
        b"A : b\r\n" + PLAIN,
        HEADER,
        b"",
    ],
)
def test_what_is_not_plain_takes_the_general_way(raw: bytes) -> None:
    assert plain_header(raw) is None
