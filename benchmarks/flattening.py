"""What it costs to make octets of an EmailMessage: `wire_bytes`, against the standard library's `as_bytes`.

Run: ``python -m benchmarks --rows flattening``.

CPU time for one message, built just before, as applications do. Ours must read as the message that was built. The
kinds:

- small text: From, To, Subject, Date, Message-ID and ten lines of ASCII.
- beyond ASCII: the same, with a name, a subject and a text in German and Japanese.
- long and mixed: a subject of two lines in German, Japanese and English, five mailboxes with umlauts in their names,
  and a file name with umlauts.
- alternative: text and HTML, and a PDF of 30 kB attached.

The goals are for the first and the third.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from email import message_from_bytes, policy
from email.headerregistry import Address
from email.message import EmailMessage
from functools import cache
from typing import Final

from smtplite.message import wire_bytes

LINE: Final = "The quick brown fox jumps over the lazy dog, again and again and again.\n"


def _message(subject: str, to: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = "Sender <sender@example.org>"
    message["To"] = to
    message["Subject"] = subject
    message["Date"] = "Mon, 01 Jan 2024 00:00:00 +0000"
    message["Message-ID"] = "<20240101000000.1@example.org>"
    return message


def small_text() -> EmailMessage:
    message = _message("A small message", "Recipient <recipient@example.com>")
    message.set_content(LINE * 10)
    return message


def beyond_ascii() -> EmailMessage:
    message = _message("Grüße aus Köln: 今日は", "Jürgen Groß <recipient@example.com>")
    message.set_content("Schöne Grüße, 今日は.\n" * 10)
    return message


def long_and_mixed() -> EmailMessage:
    message = EmailMessage()
    message["From"] = Address("Jürgen Groß", "sender", "example.org")
    message["To"] = [
        Address("Jörg Müller", "joerg", "example.com"),
        Address("Übel, Ümit", "uemit", "example.com"),
        Address("Änne Öd", "aenne", "example.com"),
        Address("Zoë", "zoe", "example.com"),
    ]
    message["Subject"] = "Grüße aus Köln: 今日は, and some words in English, und noch mehr Wörter, damit es länger wird"
    message["Date"] = "Mon, 01 Jan 2024 00:00:00 +0000"
    message["Message-ID"] = "<20240101000000.1@example.org>"
    message.set_content(LINE)
    name = "Übersicht der größten Flüsse Europas, dritte Fassung.pdf"
    message.add_attachment(b"%PDF" * 100, maintype="application", subtype="pdf", filename=name)
    message.set_boundary("=-outer-=")
    return message


def alternative() -> EmailMessage:
    message = _message("Your invoice", "Recipient <recipient@example.com>")
    message.set_content(LINE * 10)
    message.add_alternative(f"<html><body><p>{LINE * 10}</p></body></html>", subtype="html")
    attached = random.Random(2045).randbytes(30_000)
    message.add_attachment(attached, maintype="application", subtype="pdf", filename="invoice.pdf")
    message.set_boundary("=-outer-=")
    for part in message.iter_parts():
        if part.is_multipart():
            part.set_boundary("=-inner-=")
    return message


KINDS: Final[dict[str, Callable[[], EmailMessage]]] = {
    "small text": small_text,
    "beyond ASCII": beyond_ascii,
    "long and mixed": long_and_mixed,
    "alternative": alternative,
}


def by_stdlib(message: EmailMessage) -> bytes:
    return message.as_bytes(policy=policy.SMTP)


WORKS: Final[dict[str, Callable[[EmailMessage], bytes]]] = {"wire_bytes": wire_bytes, "as_bytes": by_stdlib}


@cache
def check(kind: str) -> None:
    """Read what we write: a wrong flattening is fast for nothing."""
    message = KINDS[kind]()
    again = message_from_bytes(wire_bytes(message).replace(b"\r\n", b"\n"), policy=policy.default)
    for part, read in zip(message.walk(), again.walk(), strict=True):
        assert read.get_filename() == part.get_filename(), "wire_bytes loses a file name"
        for name, value in part.items():
            if not name.lower().startswith("content-"):
                assert read[name] == value, f"wire_bytes changes {name}"
        if not part.is_multipart():
            assert read.get_content() == part.get_content(), "wire_bytes changes a body"


def cost(work: str, kind: str, count: int) -> dict[str, float]:
    """Return the µs of one message, the median: each is built just before, and was never flattened."""
    check(kind)
    flatten = WORKS[work]
    build = KINDS[kind]
    costs = []
    for _ in range(count):
        message = build()
        start = time.process_time_ns()
        flatten(message)
        costs.append(time.process_time_ns() - start)
    return {"us": statistics.median(costs) / 1e3}
