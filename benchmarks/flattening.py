"""What it costs to make octets of an EmailMessage: `wire_bytes`, against the standard library's `as_bytes`.

Run: ``python -m benchmarks --rows flattening``.

CPU time for one message, built just before, as applications do; both must give the same octets. The kinds:

- small text: From, To, Subject, Date, Message-ID and ten lines of ASCII. The goal is for this kind alone.
- beyond ASCII: the same, with a name, a subject and a text in German and Japanese.
- alternative: text and HTML, and a PDF of 30 kB attached.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from email import policy
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
    "alternative": alternative,
}


def by_stdlib(message: EmailMessage) -> bytes:
    return message.as_bytes(policy=policy.SMTP)


WORKS: Final[dict[str, Callable[[EmailMessage], bytes]]] = {"wire_bytes": wire_bytes, "as_bytes": by_stdlib}


@cache
def check(kind: str) -> None:
    """Compare the octets: a wrong flattening is fast for nothing."""
    message = KINDS[kind]()
    assert wire_bytes(message) == by_stdlib(message), "wire_bytes does not do what it should"


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
