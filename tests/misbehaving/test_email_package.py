"""R22, and section 1.6 of the rules: what the stdlib's `email` lets through, or makes of it, ends here."""

from __future__ import annotations

import re
from collections.abc import Callable
from email import message_from_bytes, message_from_string, policy
from email.charset import Charset
from email.header import Header
from email.headerregistry import Address
from email.message import EmailMessage, Message
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText

import pytest

from smtplite import MessageError, SMTPError

from .dialogue import ASYNCIO_AND_TRIO, client_at
from .server import Honest, Server

pytestmark = pytest.mark.anyio

EVENT_LOOPS = ASYNCIO_AND_TRIO


async def sent(message: Message | bytes, **options: object) -> tuple[bytes | None, list[bytes]]:
    """Send; return the header section as the server got it (None: refused), and the paths of RCPT."""
    honest = Honest("PIPELINING", "SMTPUTF8", "8BITMIME")
    async with Server(honest) as server, client_at(server) as client:
        try:
            await client.send(message, **options)  # type: ignore[arg-type]
        except MessageError:
            assert server.peers == []
            return None, []
    (taken,) = honest.messages
    header, _, _ = taken.content.partition(b"\r\n\r\n")
    return header, [rcpt.split(b" ")[1].removeprefix(b"TO:") for rcpt in taken.rcpts]


def names_in(header: bytes) -> list[str]:
    """Return the names of the fields, as the strictest reader sees them."""
    names = []
    for line in header.split(b"\r\n"):
        if line[:1] in (b" ", b"\t"):
            assert line.strip(), "a line of white space alone ends the header section for some"
            continue
        found = re.match(rb"([\x21-\x39\x3b-\x7e]+):", line)
        assert found is not None, line
        names.append(found[1].decode().lower())
    return names


# Header injection


def from_headers(make: Callable[[], Message], name: str, value: object) -> Message:
    message = make()
    message["From"], message["To"] = "me@example.org", "you@example.org"
    message._headers.append((name, value))  # type: ignore[attr-defined]  # past whatever check this Python has
    message.set_payload("body\n")
    return message


INJECTIONS: dict[str, Callable[[], Message]] = {
    "CVE-2024-6923 compat32": lambda: from_headers(Message, "Subject", "x\nX-Injected: y"),
    "CVE-2024-6923 CRLF": lambda: from_headers(Message, "Subject", "x\r\nX-Injected: y"),
    "CVE-2024-6923 CR": lambda: from_headers(Message, "Subject", "x\rX-Injected: y"),
    "CVE-2024-6923 EmailMessage": lambda: from_headers(EmailMessage, "Subject", "x\nX-Injected: y"),
    "CVE-2024-6923 body": lambda: from_headers(EmailMessage, "Subject", "x\n\nX-Injected: y"),
    "CVE-2024-6923 Header": lambda: from_headers(Message, "Subject", Header("x\nX-Injected: y")),
    "CVE-2024-6923 long Header": lambda: from_headers(
        Message, "Subject", Header("x " * 200 + "\nX-Injected: y", "utf-8")
    ),
    "CVE-2026-1299 name": lambda: from_headers(EmailMessage, "X-A: x\nX-Injected", "y"),
    "CVE-2026-1299 name of CR": lambda: from_headers(Message, "X-A: x\rX-Injected", "y"),
    "CVE-2026-1299 value": lambda: from_headers(Message, "X-A", "x\r\nX-Injected:y"),
    "CVE-2026-1299 part": lambda: with_part("X-A", "x\nX-Injected: y"),
    "CVE-2026-1299 boundary": lambda: with_boundary("x\r\n\r\nX-Injected: y"),
    "encoded word": lambda: message_from_string(
        "From: me@example.org\nTo: you@example.org\nSubject: =?us-ascii?q?x=0AX-Injected:_y?=\n\nbody\n",
        policy=policy.SMTP,
    ),
    "encoded word CRLF": lambda: message_from_string(
        "From: me@example.org\nTo: you@example.org\nSubject: =?utf-8?b?eA0KWC1JbmplY3RlZDogeQ==?=\n\nbody\n",
        policy=policy.SMTP,
    ),
    "encoded word in a display name": lambda: message_from_string(
        "From: =?utf-8?q?x=0D=0AX-Injected:_y?= <me@example.org>\nTo: you@example.org\n\nbody\n", policy=policy.SMTP
    ),
    "encoded word in an address": lambda: message_from_string(
        "From: me@example.org\nTo: =?utf-8?q?you=0D=0AX-Injected:_y?=@example.org\n\nbody\n", policy=policy.SMTP
    ),
    "RFC 2231": lambda: message_from_string(
        "From: me@example.org\nTo: you@example.org\n"
        "Content-Disposition: attachment; filename*=utf-8''x%0D%0AX-Injected:%20y\n\nbody\n",
        policy=policy.SMTP,
    ),
    "charset": lambda: with_charset("utf-8\r\nX-Injected: y"),
}


def with_part(name: str, value: str) -> Message:
    message = MIMEMultipart()
    message["From"], message["To"] = "me@example.org", "you@example.org"
    part = MIMEText("body\n")
    part._headers.append((name, value))  # type: ignore[attr-defined]
    message.attach(part)
    return message


def with_boundary(boundary: str) -> Message:
    message = MIMEMultipart()
    message["From"], message["To"] = "me@example.org", "you@example.org"
    message.attach(MIMEText("body\n"))
    message.replace_header("Content-Type", f'multipart/mixed; boundary="{boundary}"')
    return message


def with_charset(name: str) -> Message:
    message = Message()
    message["From"], message["To"] = "me@example.org", "you@example.org"
    message.set_payload("body\n")
    message.set_charset(Charset(name))
    return message


@pytest.mark.parametrize("make", INJECTIONS.values(), ids=[f"R22-{name}".replace(" ", "_") for name in INJECTIONS])
async def test_no_header_comes_out_of_another_one(make: Callable[[], Message]) -> None:
    """R22: refused by our own check, or written in a form in which it is one field."""
    try:
        message = make()
    except (ValueError, SMTPError):
        return  # this Python refuses to make it
    header, _ = await sent(message, sender="me@example.org", recipients="you@example.org")
    if header is not None:
        assert "x-injected" not in names_in(header)
        assert not re.search(rb"[\r\n][ \t]*X-Injected", header)


# Bcc


BCC = ["Bcc", "bcc", "BCC", "Resent-Bcc", "rEsEnT-bCc"]


@pytest.mark.parametrize("name", BCC)
async def test_a_blind_copy_is_sent_and_not_told(name: str) -> None:
    """R22: to those it names, and without the field; the caller's object keeps it."""
    message = EmailMessage()
    message["From"], message["To"], message[name] = "me@example.org", "you@example.org", "secret@example.org"
    expected = [b"<you@example.org>", b"<secret@example.org>"]
    if name.lower().startswith("resent-"):  # that block of fields is the envelope's, then (RFC 5322 3.6.6)
        message["Resent-From"] = "me@example.org"
        expected = [b"<secret@example.org>"]
    message.set_content("body\n")
    header, rcpts = await sent(message)
    assert header is not None
    assert rcpts == expected
    assert b"secret" not in header
    assert message[name] == "secret@example.org"


@pytest.mark.parametrize("field", [b"Bcc: x@y.org", b"BCC:x@y.org", b"bcc : x@y.org", b"Resent-Bcc: x@y.org", b"Bcc:"])
@pytest.mark.parametrize("place", ["first", "last", "bare LF"])
async def test_a_blind_copy_in_octets_is_refused(field: bytes, place: str) -> None:
    """R22: octets are sent as they are, so that the field would be told."""
    lines = [b"From: me@example.org", b"To: you@example.org"]
    lines.insert(0 if place == "first" else 2, field)
    content = (b"\n" if place == "bare LF" else b"\r\n").join([*lines, b"", b"body", b""])
    header, _ = await sent(content)
    assert header is None


async def test_a_bcc_in_the_body_is_text() -> None:
    """R22: the header section ends at the first empty line."""
    header, _ = await sent(b"From: me@example.org\r\nTo: you@example.org\r\n\r\nBcc: x@example.org\r\n")
    assert header is not None


# Addresses in headers


ADDRESSES = {
    "CVE-2019-16056": "me@malicious.org@important.example",
    "CVE-2019-16056 bracketed": "<me@malicious.org@important.example>",
    "CVE-2023-27043 parenthesis": "alice@example.org)bob@example.net",
    "CVE-2023-27043 bracket": "alice@example.org<bob@example.net>",
    "CVE-2023-27043 closing bracket": "alice@example.org>bob@example.net",
    "CVE-2023-27043 at": "alice@example.org@bob@example.net",
    "CVE-2023-27043 colon": "alice@example.org:bob@example.net",
    "CVE-2023-27043 semicolon": "alice@example.org;bob@example.net",
    "CVE-2023-27043 square": "alice@example.org[bob@example.net]",
    "CVE-2023-27043 backslash": "alice@example.org\\bob@example.net",
    "CVE-2023-27043 quote": 'alice@example.org"bob@example.net',
    "display name with an address": '"real@example.net" <fake@example.org>',
    "display name with a comma": '"x, real@example.net" <fake@example.org>',
    "encoded comma": "=?utf-8?q?x=2C_real=40example=2Enet?= <fake@example.org>",
    "encoded address": "=?utf-8?q?real=40example=2Enet?=",
    "encoded angle": "=?utf-8?q?=3Creal=40example=2Enet=3E?= <fake@example.org>",
    "comment": "fake@example.org (real@example.net)",
    "comment inside": "fa(real@example.net)ke@example.org",
    "quoted local part": '"real@example.net> <x"@example.org',
    "space in the domain": "fake@exam ple.org",
    "two in one": "fake@example.org real@example.net",
    "empty": "",
    "no address": "undisclosed-recipients:;",
    "group": "us: a@example.org, b@example.org;",
    "route": "<@evil.example:fake@example.org>",
}


@pytest.mark.parametrize("value", ADDRESSES.values(), ids=[name.replace(" ", "_") for name in ADDRESSES])
async def test_who_receives_stands_literally_in_the_header(value: str) -> None:
    """R19, section 1.6: parse or refuse; nobody gets mail whom no reader of the header would name."""
    octets = f"From: me@example.org\r\nTo: {value}\r\n\r\nbody\r\n".encode()
    # No quoted display names, and no comments.
    outside = re.sub(r'"(?:[^"\\]|\\.)*"(?!@)|\((?:[^()\\]|\\.)*\)', " ", value)
    for message in (octets, message_from_bytes(octets, policy=policy.SMTP), message_from_bytes(octets)):
        _, rcpts = await sent(message)
        for rcpt in rcpts:
            address = rcpt.decode()[1:-1]
            assert re.search(rf"(?:^|[\s<,:]){re.escape(address)}(?:$|[\s>,;])", outside), address
            assert address != "real@example.net" or address in outside


async def test_an_address_object_with_a_line_break() -> None:
    """CVE-2026-32178's kind: it is made by the stdlib, if it lets it be made, and refused by us."""
    for username in ("you\r\nX", "you\nX", "you\rX", "you\0X"):
        address = Address(username="you", domain="example.org")
        object.__setattr__(address, "_username", username)
        message = EmailMessage()
        message["From"] = "me@example.org"
        message.set_content("body\n")
        header, _ = await sent(message, recipients=[address])
        assert header is None
