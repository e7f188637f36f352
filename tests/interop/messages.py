"""Messages for the interop tests, and what a server should have stored of them."""

from __future__ import annotations

import email.policy
import re
import uuid
from collections.abc import Callable, Mapping
from email.message import EmailMessage

SENDER = "sender@client.test"
DATE = "Mon, 23 Nov 2026 06:00:00 +0000"


def new_message_id() -> str:
    """Return a Message-ID that no other message carries."""
    return f"<{uuid.uuid4()}@client.test>"


def simple_message(message_id: str, *recipients: str) -> EmailMessage:
    """Return a small text message, complete, so that nothing needs to be added before it is sent."""
    message = EmailMessage()
    message["From"] = SENDER
    message["To"] = ", ".join(recipients)
    message["Subject"] = "Grüße"
    message["Date"] = DATE
    message["Message-ID"] = message_id
    message.set_content("Guten Tag,\n\n.this line begins with a dot\nund schöne Grüße\n")
    return message


def nasty_message(message_id: str) -> bytes:
    """Return a message, CRLF line endings, of all that a client, a server or a mailbox format likes to alter."""
    header = [
        f"From: {SENDER}",
        "To: anyone@example.test",
        "Subject: nasty",
        " \tfolded, and blanks at the end \t ",
        f"Date: {DATE}",
        f"Message-ID: {message_id}",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 8bit",
    ]
    body = [
        ".the first line of the body begins with a dot",
        ".",
        "..",
        "...",
        ". ",
        " .",
        "a dot at the end.",
        ".",
        "",
        ".",
        "From the start of a line, which mbox would quote",
        ">From the start of a line",
        "trailing blanks   ",
        "\ttabs\t\tin and at the end\t",
        " ",
        "QUIT",
        "8-bit: Grüße, 中文, \u00a0no-break space",
        "x" * 998,
        "." * 998,
        "é" * 499,
        "",
        ".",
        "",
        "",
        "",
    ]
    return "".join(f"{line}\r\n" for line in [*header, "", *body]).encode()


def as_stored(message: bytes | EmailMessage, *, utf8: bool = False) -> bytes:
    """Return a message as a Unix server stores it, line endings LF.

    A message object is flattened by the stdlib, which is right for those of this file: their fields fit their lines.

    Args:
        message: as it is handed to smtplite.
        utf8: it goes with SMTPUTF8.
    """
    if isinstance(message, EmailMessage):
        message = message.as_bytes(policy=email.policy.SMTPUTF8 if utf8 else email.policy.SMTP)
    return re.sub(rb"\r\n?", b"\n", message)


def raw_message(message_id: str, body: bytes, *, content_type: str = "text/plain; charset=utf-8") -> bytes:
    """Return a message with a complete header section, line endings CRLF, and this body as it is."""
    header = [
        f"From: {SENDER}",
        "To: anyone@example.test",
        "Subject: raw",
        f"Date: {DATE}",
        f"Message-ID: {message_id}",
        "MIME-Version: 1.0",
        f"Content-Type: {content_type}",
        "Content-Transfer-Encoding: 8bit",
    ]
    return "".join(f"{line}\r\n" for line in header).encode() + b"\r\n" + body


def of_dots(message_id: str) -> bytes:
    """Return a message of lines of dots, from the first octet of its body to the last."""
    lines = [b"." * count for count in range(1, 100)]
    return raw_message(message_id, b".\r\n" + b"\r\n".join(lines) + b"\r\n.\r\n..\r\n.\r\n")


def without_final_newline(message_id: str) -> bytes:
    """Return a message whose last line does not end."""
    return raw_message(message_id, b"one line\r\n.and one that does not end")


def of_long_lines(message_id: str) -> bytes:
    """Return a message of the longest lines that may be sent, some beginning with a dot."""
    return raw_message(message_id, (b"x" * 998 + b"\r\n" + b"." + b"y" * 997 + b"\r\n") * 50)


def of_every_octet(message_id: str) -> bytes:
    """Return a message of every octet that may be sent, alone and in pairs with its neighbour."""
    octets = bytes(octet for octet in range(1, 256) if octet not in b"\r\n")
    lines = [octets, octets[::-1], *(octets[i : i + 1] for i in range(len(octets)))]
    return raw_message(message_id, b"\r\n".join(lines) + b"\r\n", content_type="text/plain; charset=iso-8859-1")


def without_body(message_id: str) -> bytes:
    """Return a message with an empty line behind its header section, and nothing more."""
    return raw_message(message_id, b"")


def of_empty_lines(message_id: str) -> bytes:
    """Return a message whose body is nothing but empty lines."""
    return raw_message(message_id, b"\r\n" * 20)


def with_bare_line_ends(message_id: str) -> bytes:
    """Return a message with bare CR and LF in its body, and with every false end of data made of them."""
    ends = (b"\r", b"\n", b"\r\n", b"\r\r", b"\n\n", b"\n\r", b"\r\r\n")
    false_ends = b"".join(b"text" + before + b"." + after for before in ends for after in ends)
    return raw_message(message_id, false_ends + b"MAIL FROM:<smuggled@client.test>\n.\nend\r\n")


def with_unix_line_ends(message_id: str) -> bytes:
    """Return a message as it lies in a file of Unix: LF alone, in the header section, too."""
    return nasty_message(message_id).replace(b"\r\n", b"\n")


def of_ten_mebibytes(message_id: str) -> bytes:
    """Return a message of 10 MiB, with dots at the start of some lines."""
    line = b"0123456789abcdef" * 4
    block = (line + b"\r\n") * 63 + b"." + line[1:] + b"\r\n"
    return raw_message(message_id, block * (10 * 1024 * 1024 // len(block) + 1))


def with_attachments(message_id: str) -> EmailMessage:
    """Return a message with alternatives, a binary attachment, a text one, and a message inside the message."""
    message = simple_message(message_id, "anyone@example.test")
    message.add_alternative("<p>Grüße</p>\n", subtype="html")
    message.add_attachment(
        bytes(range(256)) * 100, maintype="application", subtype="octet-stream", filename="Übung.bin"
    )
    message.add_attachment("From here on,\n.dots\nand ümlauts\n", filename="dots.txt")
    message.add_attachment(simple_message(new_message_id(), "somebody@example.test"))
    for number, part in enumerate(message.walk()):
        if part.is_multipart():  # or each flattening makes boundaries up
            part.set_boundary(f"=={number}==")
    return message


def with_utf8_headers(message_id: str) -> EmailMessage:
    """Return a message that needs SMTPUTF8: an address in its header section is beyond ASCII."""
    message = simple_message(message_id, "anyone@example.test")
    message["Reply-To"] = "Jürgen Grüß <jürgen@bücher.test>"
    message.replace_header("Subject", "Grüße, 中文")
    return message


_KINDS: tuple[Callable[[str], bytes | EmailMessage], ...] = (
    nasty_message,
    of_dots,
    without_final_newline,
    of_long_lines,
    of_every_octet,
    without_body,
    of_empty_lines,
    with_bare_line_ends,
    with_unix_line_ends,
    of_ten_mebibytes,
    with_attachments,
    with_utf8_headers,
)

MESSAGES: Mapping[str, Callable[[str], bytes | EmailMessage]] = {make.__name__: make for make in _KINDS}
"""Messages of all kinds, by name: each function makes one with a Message-ID."""
