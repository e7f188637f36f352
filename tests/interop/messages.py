"""Messages for the interop tests, and what a server should have stored of them."""

from __future__ import annotations

import email.policy
import uuid
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


def as_stored(message: bytes | EmailMessage) -> bytes:
    """Return a message as a Unix server stores it: a message object flattened by the stdlib, line endings LF."""
    if isinstance(message, EmailMessage):
        message = message.as_bytes(policy=email.policy.SMTP)
    return message.replace(b"\r\n", b"\n")
