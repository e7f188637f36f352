"""Flattening: what a receiver reads is what the caller built (rule R32), whatever made the message.

The stdlib's parser reads the structure and the bodies of what we write; header fields are read by the readers of
`tests/message/test_headers.py`, which are written from the RFCs.
"""

from __future__ import annotations

import base64
import email
import email.policy
import importlib.util
import random
import re
import threading
import time
from collections.abc import Callable
from email.header import Header
from email.headerregistry import Address, Group
from email.message import EmailMessage, Message, MIMEPart
from email.mime.application import MIMEApplication
from email.mime.image import MIMEImage
from email.mime.message import MIMEMessage
from email.mime.multipart import MIMEMultipart
from email.mime.nonmultipart import MIMENonMultipart
from email.mime.text import MIMEText
from email.utils import formataddr
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtplite.errors import MessageError
from smtplite.message import flatten, prepared
from smtplite.message.addresses import decode_words, mailboxes_of
from smtplite.message.flatten import LARGE_BYTES, is_large, wire_bytes
from smtplite.message.headers import parameters_of
from tests.exhaustive import examples
from tests.message.test_headers import lines_of, read_list, read_parameters, read_text

if TYPE_CHECKING:
    AnyMessage = Message[Any, Any]

POLICIES = {"default": email.policy.default, "SMTP": email.policy.SMTP, "compat32": email.policy.compat32}
EACH_FORM = [(False, False), (True, False), (False, True), (True, True)]


def parsed(data: bytes | str, policy: Any = email.policy.default) -> AnyMessage:
    message: AnyMessage = email.message_from_bytes(data if isinstance(data, bytes) else data.encode(), policy=policy)
    return message


def state(message: AnyMessage) -> object:
    payload: Any = message._payload  # type: ignore[attr-defined]
    parts = (
        [state(part) if isinstance(part, Message) else part for part in payload]
        if payload.__class__ is list
        else payload
    )
    fields = [(name, type(value), str(value)) for name, value in message.raw_items()]
    return fields, parts, message.policy, message.preamble, message.epilogue, list(vars(message))


def fields_of(wire: bytes) -> list[tuple[str, str]]:
    """Read a header section, apart from the stdlib: names and unfolded values, after a look at each line."""
    section = wire.partition(b"\r\n\r\n")[0].decode("utf-8", "surrogateescape") if wire[:2] != b"\r\n" else ""
    found = re.findall(r"([^\r\n:]+):((?:[^\r\n]|\r\n[ \t])*)\r\n", section + "\r\n")
    assert "".join(f"{name}:{value}\r\n" for name, value in found) == (section + "\r\n" if section else "")
    for name, value in found:
        assert all(len(line.encode("utf-8", "surrogateescape")) <= 998 for line in f"{name}:{value}".split("\r\n"))
    return [(name, value.replace("\r\n", "").removeprefix(" ")) for name, value in found]


def value_in(wire: bytes, name: str) -> str:
    (value,) = (value for known, value in fields_of(wire) if known == name)
    return value


def bodies(message: AnyMessage) -> list[object]:
    """Return the types and contents of a message's parts; which line ends they have does not count."""
    found: list[object] = []
    for part in message.walk():
        kind = part.get_content_type()
        payload = None if part.is_multipart() else part.get_payload(decode=True) or b""
        if isinstance(payload, bytes):
            payload = re.sub(rb"\r\n?", b"\n", payload)
            if kind.startswith("multipart/"):  # one without parts has a line end more for the parser
                payload = payload.strip()
        found.append((kind, payload))
    return found


def assert_sendable(wire: bytes, *, seven_bit: bool = False) -> None:
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", wire)
    assert max(map(len, wire.split(b"\r\n"))) <= 998
    assert not seven_bit or wire.isascii()


def assert_read_as_built(message: AnyMessage) -> None:
    """Each form: the same fields in the same order, the same parts; the message untouched; and again the same."""
    before = state(message)
    names = [name for name, _ in message.raw_items() if name.lower() not in ("bcc", "resent-bcc")]
    for utf8, seven_bit in EACH_FORM:
        wire = wire_bytes(message, utf8=utf8, seven_bit=seven_bit)
        assert_sendable(wire, seven_bit=seven_bit and not utf8)
        written = [name for name, _ in fields_of(wire)]
        extra = ["MIME-Version", "Content-Transfer-Encoding"] if seven_bit else []
        assert [name for name in written if name in names or name not in extra] == names
        again = parsed(wire, email.policy.compat32)
        assert bodies(again) == bodies(message)
        assert wire_bytes(again, utf8=utf8, seven_bit=seven_bit) == wire
    assert state(message) == before


# --- What people really send


def fields(message: Any, **more: Any) -> Any:
    values = {
        "From": "Me <me@client.example>",
        "To": "You <you@server.example>, other@server.example",
        "Subject": "Hello",
        "Date": "Mon, 23 Nov 2026 06:00:00 +0000",
        "Message-ID": "<1@client.example>",
        **more,
    }
    for name, value in values.items():
        if value is not None:
            message[name] = value
    return message


def text() -> EmailMessage:
    message: EmailMessage = fields(EmailMessage())
    message.set_content("Hello,\n.\nFrom me\n")
    return message


def with_html() -> EmailMessage:
    message = text()
    message.add_alternative("<p>Hello</p>\n", subtype="html")
    return message


def with_attachments() -> EmailMessage:
    message = with_html()
    message.add_attachment(bytes(range(256)) * 30, maintype="application", subtype="pdf", filename="invoice.pdf")
    message.add_attachment("text\n", filename="a.txt")
    message.add_attachment(text())
    return message


def with_8bit_text() -> EmailMessage:
    message: EmailMessage = fields(EmailMessage())
    message.set_content("Grüße\n", cte="8bit")
    message.add_alternative("<p>größer</p>\n" * 50, subtype="html")
    return message


def old(subtype: str = "mixed", **arguments: Any) -> MIMEMultipart:
    message: MIMEMultipart = fields(MIMEMultipart(subtype, **arguments), Bcc="secret@server.example")
    message.attach(MIMEText("Hello\n"))
    message.attach(MIMEText("<p>größer</p>", "html"))
    message.attach(MIMEApplication(b"\0\1\2" * 100, Name="x.bin"))
    message.attach(MIMEImage(b"\x89PNG", "png"))
    message.attach(MIMEMessage(MIMEText("inner")))
    return message


def with_text_around() -> MIMEMultipart:
    message = old(boundary="==b==")
    message.preamble = "a preamble\r\nof two\rlines"
    message.epilogue = "\nan epilogue"
    return message


COMMON: dict[str, Callable[[], AnyMessage]] = {
    "text": text,
    "Bcc": lambda: fields(EmailMessage(), Bcc="secret@server.example"),
    "html": with_html,
    "attachments": with_attachments,
    "8-bit": with_8bit_text,
    "no body": EmailMessage,
    "old text": lambda: fields(MIMEText("Hello\n")),
    "old utf-8 text": lambda: fields(MIMEText("Grüße\n", "plain", "utf-8")),
    "old multipart": old,
    "old multipart with a boundary": lambda: old(boundary="==b=="),
    "old alternative": lambda: old("alternative"),
    "digest": lambda: old("digest"),
    "signed": lambda: old("signed", boundary="s"),
    "text around": with_text_around,
    "a part without fields": lambda: MIMEMultipart(boundary="b", _subparts=[Message()]),
    "group of addresses": lambda: fields(EmailMessage(), To=[Group("friends", [Address("a", "b", "c.example")])]),
    "text read back": lambda: parsed(text().as_bytes()),
    "text read back, compat32": lambda: parsed(text().as_bytes(), email.policy.compat32),
    "multipart read back": lambda: parsed(with_attachments().as_bytes()),
    "multipart read back, compat32": lambda: parsed(with_attachments().as_bytes(), email.policy.compat32),
    "CRLF read back": lambda: parsed(with_8bit_text().as_bytes(policy=email.policy.SMTP)),
    "folded Content-Type": lambda: parsed('Content-Type: multipart/mixed;\n boundary="b"\n\n--b\n\nx\n--b--\n'),
}


@pytest.mark.parametrize("name", COMMON)
def test_what_people_really_send_is_read_as_it_was_built(name: str) -> None:
    assert_read_as_built(COMMON[name]())


@pytest.mark.parametrize("name", ["text", "old text", "text read back", "text read back, compat32"])
def test_a_text_whose_fields_fit_their_lines_is_not_folded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes it fast."""

    def fail(*arguments: object, **keywords: object) -> Any:
        raise AssertionError("a field was folded")

    message = COMMON[name]()
    monkeypatch.setattr(flatten, "_text_field", fail)
    assert b"\r\nSubject: Hello\r\n" in wire_bytes(message)


def boundary_of(wire: bytes) -> str:
    boundary = parsed(wire).get_boundary()
    assert boundary is not None
    return boundary


def test_a_boundary_that_stands_in_a_body_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter([7, 7, 8])
    monkeypatch.setattr(random, "randrange", lambda limit: next(numbers))
    taken = "===============0000000000000000007=="
    message = MIMEMultipart(_subparts=[MIMEText(f"--{taken}\n")])
    assert boundary_of(wire_bytes(message)) == taken.replace("7", "8")


# --- What is unusual


class Django(MIMEText):
    """As frameworks have them: a class of their own that answers as its base does."""

    def as_bytes(self, unixfrom: bool = False, policy: Any = None) -> bytes:
        raise AssertionError("not asked")


class Text(str):
    __slots__ = ()


def with_payload(payload: Any, **more: Any) -> AnyMessage:
    message: AnyMessage = fields(Message(), **more)
    message._payload = payload  # type: ignore[attr-defined]
    return message


def of_type(value: str, payload: Any = None) -> AnyMessage:
    return with_payload([MIMEText("x")] if payload is None else payload, **{"Content-Type": value})


def related() -> AnyMessage:
    message = MIMEMultipart("related", type="text/html", start="<a@b>")
    message.attach(MIMEText("x", "html"))
    return message


UNUSUAL: dict[str, Callable[[], AnyMessage]] = {
    "no parts": lambda: MIMEMultipart(boundary="b"),
    "a framework's class": lambda: fields(Django("Hello\n")),
    "str of a class of its own": lambda: with_payload(Text("a\nb")),
    "two Content-Types": lambda: parsed("Content-Type: multipart/mixed\nContent-Type: text/plain\n\nx\n"),
    "two Content-Types, no boundary": lambda: fields(
        with_payload([MIMEText("x")]), **{"Content-Type": "multipart/mixed", "content-type": "multipart/alternative"}
    ),
    "a boundary that is quoted oddly": lambda: of_type('multipart/mixed; boundary="a\\"b"'),
    "a boundary in RFC 2231": lambda: of_type("multipart/mixed; boundary*=us-ascii''a%20b"),
    "two boundaries": lambda: of_type("multipart/mixed; boundary=a; boundary=b"),
    "a boundary of another parameter": lambda: of_type("multipart/mixed; x-boundary=a"),
    "parameters and no boundary": related,
    "a comment in the type": lambda: of_type("multipart/(c)mixed; boundary=a"),
    "no subtype": lambda: with_payload("x", **{"Content-Type": "text"}),
    "two slashes": lambda: with_payload("x", **{"Content-Type": "multipart/mixed/x"}),
    "an empty type": lambda: with_payload("x", **{"Content-Type": ""}),
    "a type of no handler": lambda: with_payload("x", **{"Content-Type": "chemical/x-pdb"}),
    "a type in capitals": lambda: of_type("MULTIPART/Mixed; BOUNDARY=a"),
    "a type with a space in front": lambda: with_payload("x", **{"Content-Type": " text/plain"}),
    "a Header object as type": lambda: with_payload("x", **{"Content-Type": Header("text/plain")}),
    "multipart without parts": lambda: with_payload(None, **{"Content-Type": "multipart/mixed; boundary=a"}),
    "multipart that is one part": lambda: of_type("multipart/mixed; boundary=a", MIMEText("x")),
    "multipart that is a str": lambda: with_payload("a\n", **{"Content-Type": "multipart/mixed; boundary=a"}),
    "an 8-bit preamble": lambda: parsed("Content-Type: multipart/mixed; boundary=b\n\nü\n--b\n\nx\n--b--\nü\n"),
    "delivery status": lambda: parsed(
        "Content-Type: multipart/report; boundary=r; report-type=delivery-status\n\n--r\n\nFailed\n"
        "--r\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; x\n\nAction: failed\n\n--r--\n"
    ),
    "message that is a str": lambda: with_payload("Subject: x\r\n\r\na\r\n", **{"Content-Type": "message/rfc822"}),
    "message of no message": lambda: with_payload([], **{"Content-Type": "message/rfc822"}),
    "message/partial": lambda: parsed("Content-Type: message/partial; number=1\n\nSubject: x\n\nbody\n"),
    "default type of a digest": lambda: parsed(
        "Content-Type: multipart/digest; boundary=d\n\n--d\n\nSubject: x\n\nb\n--d--\n"
    ),
    "8-bit text of no charset": lambda: parsed("Content-Type: text/plain\n\nü\n"),
    "8-bit text, as str": lambda: with_payload("ü"),
    "part of a str": lambda: with_payload(["x"], **{"Content-Type": "multipart/mixed; boundary=a"}),
    "empty values": lambda: fields(EmailMessage(), Subject="", **{"X-Empty": "", "Reply-To": ""}),
    "empty values, old": lambda: fields(Message(), Subject="", **{"X-Empty": "", "Reply-To": ""}),
    "values of white space": lambda: fields(EmailMessage(), Subject=" a ", **{"X-Tab": "a\tb", "X-Space": "  "}),
    "values of white space, old": lambda: fields(Message(), Subject=" a ", **{"X-Tab": "a\tb", "X-Space": "  "}),
    "a date that is none": lambda: fields(EmailMessage(), Date="yesterday"),
    "encoded words of ASCII": lambda: fields(
        EmailMessage(),
        Subject="=?utf-8?q?a?= =?utf-8?q?b?=",
        To='=?utf-8?q?a=2Cb?= =?utf-8?q?c?= <you@x.example>, "q" <z@y>',
    ),
    "comments": lambda: fields(EmailMessage(), To="you@x.example (a (nested) comment), (c) other@x.example"),
    "quoted local parts": lambda: fields(EmailMessage(), To='"a b"@x.example, "\\"" <"c,d"@x.example>'),
    "a field named otherwise": lambda: fields(EmailMessage(), SUBJECT=text()["Subject"], Subject=None),
    "a filename to fold": lambda: fields(
        EmailMessage(), **{"Content-Disposition": 'attachment; filename="' + "long " * 20 + '.pdf"'}
    ),
    "a part of an old class in a new message": lambda: fields(
        with_payload([text(), MIMEText("x"), MIMEPart()], **{"Content-Type": 'multipart/mixed; boundary="b"'})
    ),
    "8-bit fields": lambda: parsed(b"Subject: Gr\xfc\xdfe\nX-Long: " + "ü".encode() * 60 + b"\n\nx\n"),
    "signed, to fold": lambda: parsed(
        "Content-Type: multipart/signed; boundary=sig; protocol=application/x; micalg=sha-256; x-more=yes-a-lot\n\n"
        "--sig\nContent-Type: text/plain\nX-Long: " + "word " * 40 + "\n\nbody  \n"
        "--sig\nContent-Type: application/x\n\ns\n--sig--\n"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNUSUAL)
def test_the_unusual_is_sent_so_that_it_can_be_read_or_refused(name: str) -> None:
    message = UNUSUAL[name]()
    before = state(message)
    for utf8, seven_bit in EACH_FORM:
        try:
            wire = wire_bytes(message, utf8=utf8, seven_bit=seven_bit)
        except MessageError:
            continue
        assert_sendable(wire, seven_bit=seven_bit and not utf8)
        again = wire_bytes(parsed(wire), utf8=utf8, seven_bit=seven_bit)  # parsers drop white space, and add a part
        assert wire_bytes(parsed(again), utf8=utf8, seven_bit=seven_bit) == again
    assert state(message) == before


def test_parts_in_many_layers_are_written() -> None:
    message: AnyMessage = MIMEText("innermost\n")
    for number in range(60):
        outer = MIMEMultipart(boundary=f"b{number}")
        outer.attach(message)
        message = outer
    assert wire_bytes(message).count(b"--b0--\r\n") == 1
    assert b"\r\n\r\ninnermost\r\n" in wire_bytes(message)


# --- Any message at all


WORD = st.sampled_from(
    ["word", "Grüße", "a@b.example", "=?utf-8?q?=C3=BC?=", "=?utf-8?b?eA==?=", ",", '"', "(c)", "<", ">"]
)
VALUE = st.lists(WORD | st.sampled_from([" ", "\t", "  ", "w" * 80, "\udcfc"]), max_size=12).map("".join)
#: No folding, so that the short way is gone as often as the long one.
SHORT = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=60)
NAME = st.sampled_from(
    ["Subject", "X-A", "Comments", "List-Id", "To", "Cc", "Reply-To", "Bcc", "Resent-Bcc", "References"]
)
LINES = st.lists(
    st.sampled_from(
        ["\n", "\r\n", "\r", ".", "From x", "word ", "--b", "--b--", "=", "\udcc3\udcbc", "ü", "\0", "x" * 70]
    )
).map("".join)
TYPES = st.sampled_from(
    [
        "text/plain",
        "text/html; charset=utf-8",
        'text/plain; charset="us-ascii"; format=flowed',
        "TEXT/x",
        "application/octet-stream",
        "image/png; name=x",
        "text",
        "x/y/z",
        "",
    ]
)
CONTAINERS = st.sampled_from(
    [
        "multipart/mixed",
        "multipart/alternative",
        'multipart/related; boundary="b"',
        "multipart/mixed; boundary=b; type=x",
        "multipart/related; type=text/html",
        "multipart/signed; boundary=b",
        "multipart/digest",
        "Multipart/Mixed; Boundary=b",
        "multipart/mixed; boundary=\"b b\"",
        "message/rfc822",
        "message/delivery-status",
        "message/external-body",
    ]
)  # fmt: skip


@st.composite
def part(draw: st.DrawFn, depth: int = 2) -> AnyMessage:
    message: Any = draw(st.sampled_from([EmailMessage, MIMEPart, Message]))()
    for name in draw(st.lists(NAME, max_size=4)):
        value: Any = draw(SHORT | VALUE)
        try:
            message[name] = value
        except Exception:  # noqa: BLE001 (the stdlib refuses some, and fails on others)
            message.set_raw(name, value)
    is_container = depth and draw(st.booleans())
    kind = draw(st.none() | (CONTAINERS if is_container else TYPES))
    if kind is not None:
        if draw(st.booleans()):
            message["Content-Type"] = kind
        else:
            message.set_raw("Content-Type", kind)
    if draw(st.booleans()):
        message["Content-Transfer-Encoding"] = draw(st.sampled_from(["7bit", "8bit", "base64", "quoted-printable"]))
    if is_container:
        message._payload = draw(st.lists(part(depth=depth - 1), max_size=3) | st.none() | LINES)
        message.preamble = draw(st.none() | LINES)
        message.epilogue = draw(st.none() | LINES)
    else:
        message._payload = draw(st.none() | LINES)
    return message  # type: ignore[no-any-return]


@examples(300)
@given(part(), st.booleans(), st.booleans())
def test_any_message_is_sendable_and_flattened_twice_the_same_or_refused(
    message: AnyMessage, utf8: bool, seven_bit: bool
) -> None:
    before = state(message)
    try:
        wire = wire_bytes(message, utf8=utf8, seven_bit=seven_bit)
    except MessageError:
        return
    finally:
        assert state(message) == before
    assert_sendable(wire, seven_bit=seven_bit and not utf8)
    fields_of(wire)
    if b"delivery-status" in wire:  # the parser drops an empty line at its end, each time
        return
    try:
        again = wire_bytes(parsed(wire), utf8=utf8, seven_bit=seven_bit)  # parsers drop white space, and add a part
        assert wire_bytes(parsed(again), utf8=utf8, seven_bit=seven_bit) == again
    except MessageError:
        assert any(part.defects for part in parsed(wire).walk())


@pytest.mark.parametrize(
    ("value", "left"),
    [
        ('multipart/mixed; boundary=""', {}),
        ('multipart/mixed; charset=x; BOUNDARY = "  "; type="text/html"', {"charset": "x", "type": "text/html"}),
        ("multipart/mixed; boundary", {}),
        ("multipart/mixed; boundary*=utf-8'';", {}),
        ('multipart/mixed; boundary*0=""; x="; boundary=1"', {"x": "; boundary=1"}),
    ],
)
@pytest.mark.parametrize("policy", ["default", "compat32"])
def test_a_boundary_that_is_empty_gives_way_to_a_new_one(value: str, left: dict[str, str], policy: str) -> None:
    """A reader takes the first of two."""
    message: AnyMessage = Message(policy=POLICIES[policy])
    message["MIME-Version"] = "1.0"
    message["Content-Type"] = value
    message.set_payload([MIMEText("one"), MIMEText("two")])
    before = state(message)
    wire = wire_bytes(message)
    assert state(message) == before
    written = parameters_of(value_in(wire, "Content-Type"))
    assert len(written.pop("boundary")) > 10
    assert written == left
    assert bodies(parsed(wire))[1:] == [("text/plain", b"one"), ("text/plain", b"two")]
    assert value_in(wire, "Content-Type").lower().count("boundary=") == 1 + ("; boundary=1" in value)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "status",
    [
        "A: b\n\nC: d\n",
        "A: b\n\n\nC: d\n\n",
        "QTogYg==",
        "QTog\nYg==\n\n",
        "no field\n\nnor this",
        "A: b\nno field\n\nC: d\n",
        "A: b\n\nno field",
    ],
)
def test_a_delivery_status_that_was_read_leaves_octet_for_octet(status: str, policy: str) -> None:
    """Some write it as base64, or as text: its blocks must stay those that they are."""
    raw = (
        "From: a@b.example\nMIME-Version: 1.0\nContent-Type: multipart/report; boundary=x\n\n"
        f"--x\nContent-Type: message/delivery-status\n\n{status}\n--x--\n"
    )
    assert wire_bytes(parsed(raw, POLICIES[policy])) == raw.replace("\n", "\r\n").encode()


@examples(200)
@given(st.binary(max_size=300), st.sampled_from(sorted(POLICIES)))
def test_octets_that_were_read_are_sendable_or_refused(raw: bytes, policy: str) -> None:
    message = parsed(raw, POLICIES[policy])
    try:
        wire = wire_bytes(message)
    except MessageError:
        return
    assert_sendable(wire)


ASCII_LINES = st.lists(
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=120), min_size=1, max_size=3
).filter(lambda lines: all(line.strip() for line in lines) and not lines[0].startswith(" "))
RAW_NAMES = st.sampled_from(
    ["Subject", "To", "X-A", "References", "DKIM-Other", "Content-Description", "Date", "List-Id"]
)


@examples(200)
@given(
    st.lists(st.tuples(RAW_NAMES, ASCII_LINES), min_size=1, max_size=5),
    st.sampled_from(sorted(POLICIES)),
    st.sampled_from([None, 30, 200]),
)
def test_a_parsed_message_that_needs_no_change_leaves_octet_for_octet(
    fields: list[tuple[str, list[str]]], policy: str, length: int | None
) -> None:
    section = "".join(f"{name}: " + "\r\n ".join(lines) + "\r\n" for name, lines in fields)
    raw = f"{section}\r\nbody\r\n.\r\n  \r\n".encode()
    chosen = POLICIES[policy] if length is None else POLICIES[policy].clone(max_line_length=length)
    assert wire_bytes(parsed(raw, chosen)) == raw


# --- Fields, by every maker and policy


TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=120
).map(lambda text: " ".join(text.split())).filter(lambda text: "=?" not in text and "?=" not in text)  # fmt: skip
MAKERS: dict[str, Callable[[str, str], AnyMessage]] = {
    "set": lambda name, text: put_into(EmailMessage(), name, text),
    "set, SMTP": lambda name, text: put_into(EmailMessage(policy=email.policy.SMTP), name, text),
    "set, SMTPUTF8": lambda name, text: put_into(EmailMessage(policy=email.policy.SMTPUTF8), name, text),
    "set, short lines": lambda name, text: put_into(
        EmailMessage(policy=email.policy.default.clone(max_line_length=40)), name, text
    ),
    "set, compat32": lambda name, text: put_into(Message(), name, text),
    "MIMEText": lambda name, text: put_into(MIMEText("x"), name, text),
    "MIMEMultipart": lambda name, text: put_into(MIMEMultipart(boundary="b"), name, text),
    "Header": lambda name, text: put_into(MIMEText("x"), name, Header(text, "utf-8")),
    "Header of chunks": lambda name, text: put_into(MIMEText("x"), name, header_of(text)),
    "parsed": lambda name, text: parsed(f"{name}: {text}\n\nx\n"),
    "parsed, compat32": lambda name, text: parsed(f"{name}: {text}\n\nx\n", email.policy.compat32),
    "add_header": lambda name, text: added_to(EmailMessage(), name, text),
}


def put_into(message: Any, name: str, value: object) -> Any:
    message[name] = value
    return message


def added_to(message: Any, name: str, value: str) -> Any:
    message.add_header(name, value)
    return message


def header_of(text: str) -> Header:
    header = Header()
    for number, word in enumerate(text.split(" ")):
        header.append(word, "utf-8" if number % 2 or not word.isascii() else "us-ascii")
    return header


@examples(400)
@given(TEXTS, st.sampled_from(sorted(MAKERS)), st.sampled_from(["Subject", "X-Any", "Comments"]), st.booleans())
def test_text_is_read_as_it_was_given_whatever_made_the_field(text: str, maker: str, name: str, utf8: bool) -> None:
    message = MAKERS[maker](name, text)
    wire = wire_bytes(message, utf8=utf8)
    read = read_text(value_in(wire, name))
    if maker == "Header of chunks":  # Header knows no white space between what it encodes
        assert read.replace(" ", "") == text.replace(" ", "")
    else:
        assert read == text
    lines_of(f"{name}: {value_in(wire, name)}\r\n"[:0] or f"{name}: x\r\n", name)


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Zl", "Zp", "Zs", "Cf"]), max_size=30) | (
    st.sampled_from(
        [
            "Doe, Jane, ceo@bank.example, Head of " + "Everything and All the Rest of it " * 3 + "PhD",
            "Müller, Jörg <evil@evil.example>",
            "x> , evil@evil.example, <y",
            'q"\\',
            "(c)",
            "=?utf-8?q?=2C_evil=40evil.example=2C?=",
            "日本 語" * 30,
            "J.  Q. Public",
        ]
    )
)
SPECS = st.tuples(st.from_regex(r"[a-z0-9+_-]{1,30}", fullmatch=True), st.sampled_from(["x.example", "bücher.example"]))
ADDRESS_FIELDS = st.sampled_from(["From", "To", "Cc", "Reply-To", "Resent-To", "Resent-From"])


@examples(300)
@given(st.lists(st.tuples(NAMES, SPECS), min_size=1, max_size=5), ADDRESS_FIELDS, st.booleans())
def test_r32_address_objects_are_the_same_mailboxes_on_the_wire(
    mailboxes: list[tuple[str, tuple[str, str]]], name: str, utf8: bool
) -> None:
    message = EmailMessage()
    message[name] = [Address(display, *spec) for display, spec in mailboxes]
    wire = wire_bytes(message, utf8=utf8)
    domains = {"x.example": "x.example", "bücher.example": "bücher.example" if utf8 else "xn--bcher-kva.example"}
    expected = [(display, f"{local}@{domains[domain]}") for display, (local, domain) in mailboxes]
    assert read_list(value_in(wire, name)) == expected


@examples(200)
@given(st.lists(st.tuples(NAMES, SPECS), min_size=1, max_size=5), ADDRESS_FIELDS, st.booleans())
def test_r32_what_formataddr_made_are_the_same_mailboxes_on_the_wire(
    mailboxes: list[tuple[str, tuple[str, str]]], name: str, old: bool
) -> None:
    mailboxes = [(display, (local, "x.example")) for display, (local, _) in mailboxes]
    message: Any = MIMEText("x") if old else EmailMessage()
    message[name] = ", ".join(formataddr((display, "@".join(spec))) for display, spec in mailboxes)
    wire = wire_bytes(message)
    found = mailboxes_of(value_in(wire, name))
    assert [(mailbox.local_part, mailbox.domain) for mailbox in found] == [spec for _, spec in mailboxes]
    for mailbox, (display, _) in zip(found, mailboxes, strict=True):
        assert mailbox.display_name.split() == decode_words(display).split()


HOSTILE = [
    Address("x", "a", "y.example>, <evil@z.example"),
    Address("x", "a", "y.example, evil@z.example"),
    Address("", "a", "y.example, evil@z.example"),
    Address("x", "a", "y.example> (c"),
    Address("", "a@y.example, evil", "z.example"),
    Address("x", "a", "y.example>\t, <evil@z.example"),
]


@pytest.mark.parametrize("address", HOSTILE)
@pytest.mark.parametrize("name", ["To", "From", "Reply-To", "Cc", "Resent-To"])
@pytest.mark.parametrize("frozen", [False, True])
def test_r32_address_parts_that_would_name_somebody_else_are_refused(address: Address, name: str, frozen: bool) -> None:
    message = EmailMessage()
    message[name] = address
    if frozen:
        message["DKIM-Signature"] = "v=1; h=from"
    for utf8 in (False, True):
        try:
            wire = wire_bytes(message, utf8=utf8)
        except MessageError as error:
            assert name in str(error)  # noqa: PT017 (one of two right outcomes)
        else:
            assert "evil" not in [found.local_part for found in mailboxes_of(value_in(wire, name))]


def test_r32_a_field_that_would_name_somebody_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    message = fields(Message(), To="Jörg <you@bücher.example>")
    monkeypatch.setattr(flatten, "field", lambda name, value, **form: f"{name}: evil@evil.example\r\n")
    with pytest.raises(MessageError, match=r"header To would name other mailboxes than it should: 'evil@evil.example'"):
        wire_bytes(message)


@pytest.mark.parametrize("maker", ["set", "parsed", "MIMEText", "parsed, compat32", "Header"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("References", " ".join(f"<{'x' * (number % 70)}.{number}@mail.example>" for number in range(40))),
        ("In-Reply-To", f"<{'a' * 200}@mail.example>"),
        ("Message-ID", f"<{'a' * 68}@mail.example>"),
        ("List-Unsubscribe", f"<mailto:x@y.example?subject={'u' * 300}>, <https://x.example/{'p' * 400}>"),
        ("Authentication-Results", "mx.example; dkim=pass header.d=x.example; spf=pass smtp.mailfrom=" + "y" * 90),
        ("X-Token", "z" * 300),
        ("To", ", ".join(f"{'n' * 70}{number}@mail.example" for number in range(20))),
    ],
)
def test_a_long_token_arrives_as_it_is(name: str, value: str, maker: str) -> None:
    assert value_in(wire_bytes(MAKERS[maker](name, value)), name) == value


@pytest.mark.parametrize("name", ["Übung Plan.pdf", "Grüße an alle, und zwar alle auf einmal, so ist das eben.pdf"])
@pytest.mark.parametrize("form", ["attachment; filename= {}", 'attachment; filename="{}"'])
def test_a_file_name_is_not_cut(name: str, form: str) -> None:
    for message in (EmailMessage(), Message(), MIMENonMultipart("application", "pdf")):
        message.add_header("Content-Disposition", form.format(name))
        wire = wire_bytes(message)
        assert read_parameters(value_in(wire, "Content-Disposition")) == {"filename": name}
    message = EmailMessage()
    message.add_attachment(b"x", maintype="application", subtype="pdf", filename=name)
    part = parsed(wire_bytes(message), email.policy.compat32).get_payload(0)
    assert isinstance(part, Message)
    assert part.get_filename() == name


def test_a_set_field_that_fits_its_line_is_sent_as_it_was_given() -> None:
    for name, value in [
        ("To", '"Me" <me@x.example> (a comment),   =?utf-8?q?J=C3=B6rg?= <you@x.example>'),
        ("Subject", "a  =?utf-8?q?b?=  =?utf-8?q?c?="),
        ("Content-Type", "text/plain; charset=us-ascii; (a comment) x=y"),
        ("Content-Disposition", "attachment; filename= my plan.pdf"),
        ("Content-Type", 'application/pdf; name="=?utf-8?q?=C3=BC?="'),
    ]:
        message = EmailMessage()
        message[name] = value
        assert value_in(wire_bytes(message), name) == value


def test_a_field_that_was_set_is_folded_and_one_that_was_parsed_is_not() -> None:
    value = "word " * 30 + "end"
    for message in (put_into(EmailMessage(), "X-A", value), put_into(MIMEText("x"), "X-A", value)):
        wire = wire_bytes(message)
        assert value_in(wire, "X-A") == value
        assert all(len(line) <= 78 for line in wire.split(b"\r\n"))
    assert f"X-A: {value}\r\n".encode() in wire_bytes(parsed(f"X-A: {value}\n\n"))


def test_an_internationalized_domain_in_a_message_inside_the_message_gets_its_a_label_too() -> None:
    inner = fields(MIMEText("x"), Bcc="kept@bücher.example", **{"Reply-To": "r@bücher.example"})
    wire = wire_bytes(MIMEMessage(inner))
    assert b"\r\nBcc: kept@xn--bcher-kva.example\r\n" in wire
    assert b"\r\nReply-To: r@xn--bcher-kva.example\r\n" in wire


def test_a_domain_that_has_no_a_label_is_refused_and_the_field_is_named() -> None:
    for message in (parsed("Reply-To: a@-ü.example\n\n"), parsed(f"Reply-To: a@{'ü' * 64}.example\n\n")):
        with pytest.raises(MessageError, match=r"header Reply-To: domain '-?ü.* is not an internationalized domain"):
            wire_bytes(message)
        assert wire_bytes(message, utf8=True)


# --- Bodies


LONG = "Zeile ohne Ende, " * 70
LONG_BODIES: dict[str, Callable[[], AnyMessage]] = {
    "MIMEText": lambda: MIMEText(f"<p>{'x' * 20_000}</p>", "html"),
    "ASCII text": lambda: with_payload("short\n" + LONG + "\nshort\n"),
    "8-bit text": lambda: parsed("Content-Type: text/plain; charset=utf-8\n\n" + "ü" * 600 + "\nx\n"),
    "text in Japanese": lambda: parsed("Content-Type: text/html; charset=utf-8\n\n" + "日本語" * 400 + "\n"),
    "JSON": lambda: parsed('Content-Type: application/json\nContent-Transfer-Encoding: 8bit\n\n{"a": "ü"}\n'),
    "long JSON": lambda: parsed("Content-Type: application/json\n\n" + '"a",' * 900 + "\n"),
    "one line of base64": lambda: parsed(
        "Content-Type: image/png\nContent-Transfer-Encoding: base64\n\n" + base64.b64encode(b"\x89PNG" * 900).decode()
    ),
    "quoted-printable of long lines": lambda: parsed(
        "Content-Type: text/plain\nContent-Transfer-Encoding: Quoted-Printable\n\n" + "=C3=BC " * 400 + "\n"
    ),
    "inside of a message": lambda: MIMEMessage(MIMEText("x" * 5000)),
    "inside of a multipart": lambda: MIMEMultipart(boundary="b", _subparts=[MIMEText("x" * 5000), MIMEText("y")]),
    "white space": lambda: MIMEText("a" + " " * 3000 + "\nb\t\n"),
    "no line end": lambda: MIMEText("x" * 998 + "\r\n" + "x" * 1000),
}


@pytest.mark.parametrize("name", LONG_BODIES)
@pytest.mark.parametrize("seven_bit", [False, True])
def test_a_body_that_no_server_could_take_is_encoded_and_is_the_same_body(name: str, seven_bit: bool) -> None:
    message = LONG_BODIES[name]()
    before = state(message)
    wire = wire_bytes(message, seven_bit=seven_bit)
    assert_sendable(wire, seven_bit=seven_bit)
    assert bodies(parsed(wire)) == bodies(message)
    assert state(message) == before
    assert wire_bytes(parsed(wire), seven_bit=seven_bit) == wire


@examples(150)
@given(
    st.lists(
        st.sampled_from(["\n", "\r\n", ".", "=", " ", "\t", "\udcc3\udcbc", "\udcff", "x" * 70, "y" * 997, "\n.\n"])
    ).map("".join),
    st.sampled_from(["text/plain", "text/html; charset=utf-8", "application/json", "chemical/x-pdb"]),
    st.integers(7, 200),
)
def test_any_body_is_the_same_body_when_it_is_encoded(body: str, kind: str, step: int) -> None:
    message: Any = Message()
    message["Content-Type"] = kind
    message._payload = body
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flatten, "_STEP_CHARACTERS", step)
        try:
            wire = wire_bytes(message, seven_bit=True)
        except MessageError:
            assert " " * step in body.replace("\t", " ").replace("\r", " ")
            return
    assert_sendable(wire, seven_bit=True)
    content = parsed(wire).get_payload(decode=True)
    assert isinstance(content, bytes)
    octets = body.encode("ascii", "surrogateescape")
    if b"\r\nContent-Transfer-Encoding: base64\r\n" in wire:
        assert content == octets
    else:
        assert content == re.sub(rb"\r\n?|\n", b"\r\n", octets)


def test_text_is_encoded_by_what_is_shorter() -> None:
    assert b"\r\nContent-Transfer-Encoding: quoted-printable\r\n" in wire_bytes(MIMEText("x" * 5000))
    assert b"\r\nContent-Transfer-Encoding: base64\r\n" in wire_bytes(LONG_BODIES["text in Japanese"]())


def test_a_body_that_fits_is_untouched_and_so_is_every_other_part() -> None:
    body = "x" * 998 + "\n.\n  \nFrom here\n\n\n"
    assert wire_bytes(parsed("A: b\n\n" + body)) == b"A: b\r\n\r\n" + body.replace("\n", "\r\n").encode()
    message = MIMEMultipart(boundary="b", _subparts=[MIMEText("x" * 5000), MIMEText("  as it is \t\n")])
    assert b"7bit\r\n\r\n  as it is \t\r\n\r\n--b--" in wire_bytes(message)


def test_a_message_of_no_mime_gets_the_fields_that_its_encoding_needs() -> None:
    wire = wire_bytes(parsed("From: a@x\n\n" + "x" * 1000 + "\n"))
    assert [name for name, _ in fields_of(wire)] == ["From", "MIME-Version", "Content-Transfer-Encoding"]


def test_text_that_is_no_octets_is_written_in_its_charset_or_refused() -> None:
    for charset, octets in (("utf-8", "ü".encode()), ("iso-8859-1", b"\xfc")):
        message = with_payload("ü\n", **{"Content-Type": f"text/plain; charset={charset}"})
        assert wire_bytes(message).endswith(b"\r\n\r\n" + octets + b"\r\n")
    for kind in ("text/plain", "text/plain; charset=us-ascii", "text/plain; charset=no-such"):
        with pytest.raises(MessageError, match="part text/plain cannot be flattened"):
            wire_bytes(with_payload("ü", **{"Content-Type": kind}))


@pytest.mark.parametrize(
    "message",
    [
        parsed("Content-Type: multipart/mixed; boundary=b\n\n" + "x" * 1000 + "\n--b\n\nx\n--b--\n"),
        parsed("Content-Type: multipart/mixed; boundary=b\n\n--b\n\nx\n--b--\n" + "x" * 1000 + "\n"),
        parsed("Content-Type: multipart/mixed\n\n" + "x" * 1000 + "\n"),
    ],
)
def test_a_long_line_that_cannot_be_encoded_is_named_and_refused(message: AnyMessage) -> None:
    with pytest.raises(MessageError, match=r"multipart/mixed.* has a line of 1000 bytes, line 1 of it"):
        wire_bytes(message)
    assert b"x" * 1000 in flatten.flattened(message, sends_long_lines=True)


# --- What is signed


SIGNED = (
    "From: Jörg <j@x.example>\nContent-Type: multipart/{kind}; boundary=s; protocol=application/x\n\n"
    "--s\nContent-Type: multipart/mixed; boundary=i\nX-Long: " + "word " * 40 + "\n\n--i\n"
    "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\nX-Folded: a\n\tb\n\n{body}\n"
    "--i\nContent-Type: message/rfc822\n\nTo: a,\n b\nBcc: c@x\n\nx  \n--i--\n"
    "--s\nContent-Type: application/x\n\nsignature\n--s--\n"
)


@pytest.mark.parametrize("kind", ["signed", "encrypted", "SIGNED"])
@pytest.mark.parametrize("policy", POLICIES)
def test_below_a_signature_every_octet_is_what_the_stdlib_writes_without_folding(kind: str, policy: str) -> None:
    message = parsed(SIGNED.format(kind=kind, body="Grüße\n\n  "), POLICIES[policy])
    signed = message.get_payload(0)
    assert isinstance(signed, Message)
    expected = signed.as_bytes(policy=POLICIES[policy].clone(max_line_length=0, linesep="\r\n"))
    assert b"--s\r\n" + expected + b"\r\n--s\r\n" in wire_bytes(message)
    with pytest.raises(MessageError, match=f"part text/plain, which multipart/{kind.lower()} leaves as it is, holds 8"):
        wire_bytes(message, seven_bit=True)


def test_below_a_signature_of_objects_every_octet_is_what_the_stdlib_writes_without_folding() -> None:
    inner = EmailMessage()
    inner.set_content("Grüße\n", cte="8bit")
    inner["X-Long"] = "wörd " * 40
    inner.add_attachment(b"x" * 100, maintype="application", subtype="x", filename="ü" * 40)
    inner.set_boundary("i")
    message = MIMEMultipart("signed", boundary="s", _subparts=[inner, MIMEText("signature")])
    expected = inner.as_bytes(policy=email.policy.SMTP.clone(max_line_length=0))
    assert b"--s\r\n" + expected + b"\r\n--s\r\n" in wire_bytes(message)


def test_below_a_signature_a_long_line_is_refused_and_utf8_in_a_field_needs_smtputf8() -> None:
    with pytest.raises(MessageError, match="which multipart/signed leaves as it is, has a line of 1000 bytes"):
        wire_bytes(parsed(SIGNED.format(kind="signed", body="x" * 1000)))
    message = parsed(SIGNED.format(kind="signed", body="x").replace("X-Folded: a", "X-Folded: ü"))
    with pytest.raises(MessageError, match="header X-Folded is not ASCII, and multipart/signed leaves it as it is"):
        wire_bytes(message)
    assert "X-Folded: ü\r\n\tb\r\n".encode() in wire_bytes(message, utf8=True)


DKIM = "DKIM-Signature: v=1; a=rsa-sha256; d=x.example; h=From:To : Subject:\n date; bh=x; b=y\n"


@pytest.mark.parametrize("policy", POLICIES)
def test_under_a_dkim_signature_nothing_is_changed(policy: str) -> None:
    raw = (
        DKIM + "From: =?utf-8?q?x?= <a@x.example>\nSubject: a\n \n  b\nX-Long: " + "word " * 60 + "\nTo: b@y.example\n"
        "Content-Type: text/plain; charset=utf-8\n\nGrüße\n\n"
    )
    message = parsed(raw, POLICIES[policy])
    expected = raw.replace("\n", "\r\n").encode()
    assert wire_bytes(message) == expected
    assert wire_bytes(parsed("Bcc: c@x\n" + raw)) == expected
    with pytest.raises(MessageError, match="which a DKIM-Signature leaves as it is, holds 8-bit data"):
        wire_bytes(message, seven_bit=True)


def test_under_a_dkim_signature_no_a_label_is_made_and_utf8_needs_smtputf8() -> None:
    message = parsed(DKIM + "From: a@bücher.example\n\nx\n")
    with pytest.raises(MessageError, match="header From is not ASCII, and a DKIM-Signature leaves it as it is: only"):
        wire_bytes(message)
    assert "From: a@bücher.example\r\n".encode() in wire_bytes(message, utf8=True)
    with pytest.raises(MessageError, match="a DKIM-Signature leaves as it is, has a line of 1000"):
        wire_bytes(parsed(DKIM + "\n" + "x" * 1000))
    with pytest.raises(MessageError, match="header X-A has a line of more than 998 bytes"):
        wire_bytes(parsed(DKIM + "X-A: " + "x" * 1000 + "\n\n"))


def test_a_dkim_signature_that_was_set_is_not_encoded_and_other_fields_are_folded_as_who_signed_them_saw() -> None:
    message = EmailMessage()
    message["DKIM-Signature"] = "v=1; h=from:subject; b=" + "x" * 300
    message["Subject"] = "word " * 30 + "end"
    message["X-A"] = "wörd " * 30
    wire = wire_bytes(message)
    assert value_in(wire, "DKIM-Signature") == message["DKIM-Signature"]
    seen = message.as_bytes(policy=email.policy.SMTP)
    for name in (b"\r\nSubject: ", b"\r\nX-A: "):
        field = re.search(name + rb"[^\r]*(?:\r\n [^\r]*)*\r\n", seen)
        assert field is not None
        assert field[0] in wire


@pytest.mark.parametrize("value", ["Jörg, <c@d.example>", "Jörg: <c@d.example>", "Jörg", "a@b@ü"])
def test_an_address_field_beyond_ascii_that_cannot_be_read_is_refused_or_kept(value: str) -> None:
    message = parsed(f"Reply-To: {value}\n\n")
    with pytest.raises(MessageError, match="header Reply-To is not a list of addresses"):
        wire_bytes(message)
    assert f"Reply-To: {value}\r\n".encode() in wire_bytes(message, utf8=True)


def test_the_names_that_a_dkim_signature_covers() -> None:
    assert flatten.signed_names(parsed(DKIM + "\n")) == {"from", "to", "subject", "date"}


# --- What was read with defects


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        ("From: a@x\nno field\nTo: b@y\n\nx\n", r"among its headers that is not a header: line 2, 'no field'"),
        ("From: a@x\nSubject : y\nTo: b@y\n\nx\n", r"line 2, 'Subject : y': remove the white space before"),
        ("just text\n", r"line 1, 'just text'"),
        (" junk\nFrom: a@x\n\nx\n", r"before its first header: line 1, ' junk"),
    ],
)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_message_read_with_a_line_that_is_no_field_is_refused(raw: str, match: str, policy: str) -> None:
    with pytest.raises(MessageError, match=match):
        wire_bytes(parsed(raw, POLICIES[policy]))


@pytest.mark.parametrize("policy", POLICIES)
def test_the_stdlibs_own_test_messages_are_sendable_or_refused(policy: str) -> None:
    messages = stdlib_messages()
    if not messages:
        pytest.skip("this Python came without test.test_email")
    refused = []
    for path in messages:
        message = parsed(path.read_bytes(), POLICIES[policy])
        try:
            wire = wire_bytes(message)
        except MessageError:
            refused.append(path.name)
            continue
        assert_sendable(wire)
        assert bodies(parsed(wire)) == bodies(message), path.name
    assert len(refused) <= 3, refused


def stdlib_messages() -> list[Path]:
    """Return the messages that the stdlib's own tests read, where this Python came with them."""
    spec = importlib.util.find_spec("test")
    for root in () if spec is None else spec.submodule_search_locations or ():
        found = sorted(Path(root, "test_email", "data").glob("msg_*.txt"))
        if found:
            return found
    return []


@pytest.mark.parametrize("mark", ['"', ",", "(", ")", "<", ";", "=", "\\", "ü,", '"ü', "=?utf-8?q?x?= "])
@pytest.mark.parametrize("name", ["From", "To", "Subject", "Content-Type", "References", "X-Any"])
def test_r27_no_field_of_a_parsed_message_takes_longer_than_its_length(mark: str, name: str) -> None:
    begun = time.process_time()
    try:
        wire_bytes(parsed(f"{name}: {mark * 30_000}\n\nx\n", email.policy.compat32))
    except MessageError as error:
        assert name in str(error)  # noqa: PT017 (one of two right outcomes)
    assert time.process_time() - begun < 2


# --- Nobody else's objects are touched


def test_many_threads_may_flatten_one_message_at_the_same_time() -> None:
    message = old()
    del message["Subject"]
    message["Subject"] = "Grüße " * 30
    message.set_boundary("b")
    expected = wire_bytes(message)
    before = state(message)
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.extend(wire_bytes(message) for _ in range(5))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 20
    assert state(message) == before


# --- R22, on the short way too


@pytest.mark.parametrize("character", [*map(chr, range(0x20)), "\x7f", "\x85", "\u2028", "\u2029"])
def test_a_control_character_in_a_value_never_goes_the_short_way(character: str) -> None:
    for make in (EmailMessage, Message):
        message = make()
        message.set_raw("X-A", f"a{character}Injected: b")
        try:
            wire = wire_bytes(message)
        except MessageError:
            continue
        assert wire.count(b"\r\n") == 2
        assert wire.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("name", ["X A", "X:", "X\n", "X\r\nY", "", "Ü", "X\0", "Bcc "])
def test_a_name_that_is_none_never_goes_the_short_way(name: str) -> None:
    for container in (Message(), MIMEMultipart(boundary="b")):
        part: Any = container if not container.is_multipart() else Message()
        part.set_raw(name, "value")
        if container is not part:
            container.attach(part)
        with pytest.raises(MessageError, match="header name"):
            wire_bytes(container)


@pytest.mark.parametrize("value", ["a\nInjected: b", "a\r\n\r\nbody"])
def test_a_line_break_in_the_type_of_a_multipart_without_boundary_is_refused(value: str) -> None:
    message: Any = MIMEMultipart(_subparts=[MIMEText("x")])
    message.replace_header("Content-Type", f"multipart/mixed; x={value}")
    with pytest.raises(MessageError):
        wire_bytes(message)


# --- Large messages


def test_a_message_is_large_by_its_bodies_or_by_headers_that_take_long_to_fold() -> None:
    """Such a one is flattened in a worker thread, so that the event loop does not stall."""
    assert not is_large(text())
    assert not is_large(with_attachments())
    assert not is_large(MIMEText("x" * (LARGE_BYTES - 1)))
    assert is_large(MIMEText("x" * LARGE_BYTES))
    halves = [MIMEText("x" * (LARGE_BYTES // 2)) for _ in range(2)]
    assert is_large(MIMEMultipart(_subparts=[MIMEMultipart(_subparts=[halves[0]]), MIMEMessage(halves[1])]))
    many = ", ".join(f"user{n}@server.example" for n in range(200))
    assert is_large(fields(EmailMessage(), To=many))
    assert is_large(fields(Message(), To=many))
    assert is_large(fields(Message(), To=Header(many)))
    assert is_large(MIMEMultipart(_subparts=[fields(Message(), Subject="ü" * 3000)]))
    assert not is_large(fields(EmailMessage(), References="<1@x.example> " * 20))


def test_a_message_of_very_many_parts_or_in_itself_is_large() -> None:
    assert is_large(MIMEMultipart(_subparts=[MIMEText("x")] * 2000))
    loop: Any = MIMEMultipart()
    loop.attach(loop)
    assert is_large(loop)
    with pytest.raises(MessageError, match="cannot be flattened"):
        wire_bytes(loop)
    assert not is_large(with_payload(["no part", None, 5]))


def test_octets_are_large_only_by_a_header_section_that_may_take_long_to_read() -> None:
    header = b"To: " + b", ".join(b"user%d@server.example" % n for n in range(1000))
    assert prepared.is_large(header + b"\r\n\r\nx")
    assert not prepared.is_large(b"To: you@x.example\r\n\r\n" + b"x" * 10_000_000)
    assert not prepared.is_large(bytearray(b"short"))
    assert prepared.is_large(MIMEText("x" * LARGE_BYTES))
    assert not prepared.is_large("text")
