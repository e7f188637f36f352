"""What compose makes, read by others: by Dovecot for a mail program (IMAP), and by a browser that shows the HTML."""

from __future__ import annotations

import email
import html
import json
import re
import shutil
import struct
import subprocess
import zlib
from email import policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.utils import decode_rfc2231
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from smtplite import Attachment, compose
from smtplite.message import wire_bytes

from .conftest import Launch
from .launcher import ensure_nothing_is_missing
from .others import DovecotLMTP
from .secure import INSTALL

pytestmark = pytest.mark.interop

LONG_NAME = 'Lovelace, "Ada", ' * 20 + "Countess"
LONG_UMLAUTS = "Größe, " * 40 + "Jürgen"
RED = (208, 48, 48)
BROWSER_SECONDS = 180


def picture(width: int, height: int) -> bytes:
    """Return a PNG, all of it red."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = (b"\0" + bytes(RED) * width) * height
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


# IMAP


def parsed(octets: bytes) -> Any:
    """Return what stands in the outer parentheses of an IMAP reply: lists, str, None for NIL."""
    tokens = re.compile(rb'\(|\)|"((?:[^"\\\\]|\\\\.)*)"|\{(\d+)\}|[^\s()"{]+|\s+')
    stack: list[list[Any]] = [[]]
    at = 0
    while at < len(octets):
        token = tokens.match(octets, at)
        assert token is not None, octets[at : at + 80]
        at = token.end()
        if token[0] == b"(":
            stack.append([])
        elif token[0] == b")":
            inner = stack.pop()
            stack[-1].append(inner)
        elif token[2] is not None:  # a literal, whose octets stand behind it
            stack[-1].append(octets[at : at + int(token[2])].decode())
            at += int(token[2])
        elif token[1] is not None:
            stack[-1].append(re.sub(rb"\\\\(.)", rb"\1", token[1]).decode())
        elif not token[0].isspace():
            stack[-1].append(None if token[0] == b"NIL" else token[0].decode())
    [[value]] = stack
    return value


def fetched(server: DovecotLMTP, recipient: str, message: EmailMessage) -> dict[str, Any]:
    """Return ENVELOPE and BODYSTRUCTURE of a message, as Dovecot tells a mail program."""
    with server.imap(recipient) as imap:
        _, [numbers] = imap.search(None, "HEADER", "Message-ID", message["Message-ID"])
        _, data = imap.fetch(numbers.decode(), "(ENVELOPE BODYSTRUCTURE)")
    # imaplib gives what stands before a literal and the literal as a pair.
    reply = b"".join(b"".join(item) if isinstance(item, tuple) else item or b"" for item in data)
    items = parsed(reply.partition(b" ")[2])
    return dict(zip(items[::2], items[1::2], strict=True))


def shape(body: list[Any]) -> Any:
    """Return the tree of a BODYSTRUCTURE: "type/subtype" for a leaf, (subtype, [parts]) for what has parts."""
    if not isinstance(body[0], list):
        return f"{body[0]}/{body[1]}".lower()
    parts = [part for part in body if isinstance(part, list)][: [isinstance(p, list) for p in body].index(False)]
    return body[len(parts)].lower(), [shape(part) for part in parts]


def leaves(body: list[Any]) -> list[list[Any]]:
    """Return what is said of each part that has no parts."""
    if not isinstance(body[0], list):
        return [body]
    count = [isinstance(part, list) for part in body].index(False)
    return [leaf for part in body[:count] for leaf in leaves(part)]


def disposition(leaf: list[Any]) -> tuple[str, str | None]:
    """Return how a part is to be shown, and its file name."""
    [(kind, parameters)] = [
        item for item in leaf if isinstance(item, list) and item[:1] in (["attachment"], ["inline"])
    ]
    values = dict(zip(parameters[::2], parameters[1::2], strict=True))
    if "filename*" in values:
        charset, _, text = decode_rfc2231(values["filename*"])
        return kind, unquote(text, encoding=charset or "ascii")
    return kind, values.get("filename")


@pytest.fixture
def dovecot(launch: Launch) -> DovecotLMTP:
    """A running Dovecot with IMAP."""
    ensure_nothing_is_missing(DovecotLMTP.imap_missing)
    server = launch(DovecotLMTP)
    assert isinstance(server, DovecotLMTP)
    return server


@pytest.mark.asyncio
async def test_dovecot_sees_bodies_pictures_attachments_and_names_as_they_were_given(dovecot: DovecotLMTP) -> None:
    message = compose(
        from_=('Lovelace, "Ada"', "ada@client.test"),
        to=[
            ("Größe, Jürgen", "reader@example.test"),
            "Grace Hopper <grace@example.test>",
            (LONG_NAME, "long@example.test"),
            (LONG_UMLAUTS, "umlauts@example.test"),
        ],
        reply_to="office@client.test",
        subject="Grüße",
        text="Grüße\n",
        html='<p>Grüße <img src="cid:logo">',
        inline={"logo": ("logo.png", picture(8, 8))},
        attachments=[
            ("Übung 1.pdf", b"%PDF"),
            Attachment("data.bin", bytes(256), "application/x-data"),
            ("inner.eml", b"From: inner@client.test\r\nSubject: inner\r\n\r\nHello\r\n"),
        ],
    )
    async with dovecot.client("lmtp") as client:
        await client.send(message, recipients="reader@example.test")
    found = fetched(dovecot, "reader@example.test", message)

    body = found["BODYSTRUCTURE"]
    assert shape(body) == (
        "mixed",
        [
            ("alternative", ["text/plain", ("related", ["text/html", "image/png"])]),
            "application/pdf",
            "application/x-data",
            "message/rfc822",
        ],
    )
    _, _, logo, pdf, data, inner = leaves(body)
    assert disposition(logo) == ("inline", "logo.png")
    assert logo[3] == "<logo>"
    assert disposition(pdf) == ("attachment", "Übung 1.pdf")
    assert disposition(data) == ("attachment", "data.bin")
    assert disposition(inner) == ("attachment", "inner.eml")
    assert inner[7][1] == "inner"  # its own envelope: Dovecot read it as a message

    date, subject, author, _, reply_to, to, *_ = found["ENVELOPE"]
    people = [
        (str(make_header(decode_header(name or ""))), f"{local}@{domain}")
        for name, _, local, domain in (*author, *reply_to, *to)
    ]
    assert people == [
        ('Lovelace, "Ada"', "ada@client.test"),
        ("", "office@client.test"),
        ("Größe, Jürgen", "reader@example.test"),
        ("Grace Hopper", "grace@example.test"),
        (LONG_NAME, "long@example.test"),
        (LONG_UMLAUTS, "umlauts@example.test"),
    ]
    assert str(make_header(decode_header(subject))) == "Grüße"
    assert date == message["Date"]


# A browser


def chromium_missing() -> str | None:
    """Say what this machine lacks to show a page."""
    return None if shutil.which("chromium") else f"Chromium is not installed: {INSTALL}"


#: Puts into the title what a reader sees: the text, and of each picture its size and the colour of its first point.
LOOK = """<script>addEventListener("load", () => {
const seen = [...document.images].map(image => {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 1;
    const context = canvas.getContext("2d");
    if (image.naturalWidth) context.drawImage(image, 0, 0);
    return [image.naturalWidth, image.naturalHeight, image.getBoundingClientRect().width,
            ...context.getImageData(0, 0, 1, 1).data];
});
document.title = JSON.stringify([document.body.innerText.trim(), seen]);
})</script>"""


def shown(page: str, folder: Path) -> Any:
    """Return what a browser shows of a page: its text and its pictures."""
    ensure_nothing_is_missing(chromium_missing)
    (folder / "page.html").write_text(f"<meta charset='utf-8'><body>{page}{LOOK}", encoding="utf-8")
    options = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
        # Nothing leaves this machine.
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={folder / 'profile'}",
    ]
    done = subprocess.run(
        ["chromium", *options, "--dump-dom", (folder / "page.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=BROWSER_SECONDS,
        check=False,
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None, done.stdout + done.stderr
    return json.loads(html.unescape(title[1]))


def with_pictures(message: EmailMessage) -> str:
    """Return the HTML of a message, its pictures in it: as a mail program resolves cid (RFC 2392)."""
    body = message.get_body(("related", "html"))
    assert body is not None
    [page, *pictures] = body.iter_parts() if body.is_multipart() else [body]
    assert isinstance(page, EmailMessage)
    sources = {
        str(part["Content-ID"]).strip("<>"): f"data:{part.get_content_type()};base64,{part.get_payload()}"
        for part in pictures
    }
    text: str = page.get_content()
    return re.sub(r"cid:([^\"'>\s]+)", lambda match: re.sub(r"\s", "", sources[match[1]]), text)


def test_a_browser_shows_the_html_and_the_pictures_in_it(tmp_path: Path) -> None:
    message = compose(
        from_="ada@client.test",
        to="reader@example.test",
        text="not this one",
        html=f'<p>Grüße, {"long " * 300}</p><img src="cid:logo"><img src=cid:b width=40>',
        inline={"logo": ("logo.png", picture(8, 6)), "b": Attachment("b", picture(300, 200), "image/png")},
    )
    received = email.message_from_bytes(wire_bytes(message), policy=policy.default)
    text, pictures = shown(with_pictures(received), tmp_path)
    assert text == f"Grüße, {'long ' * 300}".strip()
    assert pictures == [[8, 6, 8, *RED, 255], [300, 200, 40, *RED, 255]]
