r"""How fast content gets its wire form for DATA (line endings made CRLF, dots doubled), against copying it.

Run: ``python -m benchmarks --rows transparency``.

A streamed ContentEncoder is given slices of 128 KiB (the slicing is counted; what comes out is thrown away). It is
compared with *one fresh copy* of the same octets, `bytearray(body)`: the pages of the copy are new, as they are in any
program that holds a second body. The kinds of body:

- words: CRLF lines of about 72 octets of English-like words, one in a hundred opens with a dot, and there is no other
  dot. The goal is for this kind alone.
- prose: the same with commas, and a full stop behind every fifteenth word or so: about a dot a line.
- LF prose: the same with LF, each of which must become CRLF; base64: lines of 76 without a dot.
- many dots: one in three octets is a dot, as in the dot leaders of a table of contents, few of them open a line.
- only dots: one line without an end. dot lines: nothing but lines of one dot, so that all of them are doubled. No mail
  looks like that: these two are the worst that somebody could make us send.

Beside them: the same text *sliced*, that is copied in the same slices of 128 KiB and dropped (it stays in the
processor's cache and needs no new pages: what the slicing costs above, and the least that any streaming can cost), and
aiosmtplib's own encoding of prose: its function for line endings and its pattern for dots, called as its DATA command
calls them, on the whole body at once.
"""

from __future__ import annotations

import base64
import random
import re
import time
from collections.abc import Callable
from functools import cache
from typing import Final

from benchmarks.common import MIB
from benchmarks.work import WORDS, fill, text
from benchmarks.worker import NotAvailable
from smtplite.protocol import ContentEncoder

CHUNK_BYTES: Final = 131_072
#: No less: below 32 MiB glibc begins to reuse pages, and the copy would no longer be a fresh one.
BODY_BYTES: Final = 40 * MIB

Work = Callable[[bytes], object]


# The bodies


@cache
def many_dots() -> bytes:
    """Return a table of contents with dot leaders: a third of it is dots."""
    source = random.Random(5322)
    lines = []
    for number in range(40_000):
        title = " ".join(source.choice(WORDS) for _ in range(6))
        lines.append(f"{number // 100}.{number % 100} {title:.40} {'.' * 24} {number}")
    return "\r\n".join(lines).encode("ascii") + b"\r\n"


@cache
def base64_text() -> bytes:
    return base64.encodebytes(random.Random(2045).randbytes(3 * MIB)).replace(b"\n", b"\r\n")


BODIES: Final[dict[str, Callable[[], bytes]]] = {
    "words": lambda: text(BODY_BYTES, is_prose=False),
    "prose": lambda: text(BODY_BYTES),
    "LF prose": lambda: text(BODY_BYTES).replace(b"\r\n", b"\n").ljust(BODY_BYTES, b"\n"),
    "base64": lambda: fill(base64_text(), BODY_BYTES),
    "many dots": lambda: fill(many_dots(), BODY_BYTES),
    "only dots": lambda: b"." * BODY_BYTES,
    "dot lines": lambda: fill(b".\r\n", BODY_BYTES),
}


# What is compared


def fresh_copy(body: bytes) -> object:
    return bytearray(body)


def sliced(body: bytes) -> object:
    for start in range(0, len(body), CHUNK_BYTES):
        body[start : start + CHUNK_BYTES]
    return None


def encoded(body: bytes) -> object:
    encoder = ContentEncoder()
    for start in range(0, len(body), CHUNK_BYTES):
        encoder.encode(body[start : start + CHUNK_BYTES])
    return None


def by_aiosmtplib(body: bytes) -> object:
    """Do to the octets what aiosmtplib does in `execute_data_command`."""
    try:
        from aiosmtplib.protocol import PERIOD_REGEX, normalize_message_line_endings
    except ImportError as error:
        raise NotAvailable(f"aiosmtplib has no such function here: {error}") from error
    return PERIOD_REGEX.sub(b"..", normalize_message_line_endings(body))


WORKS: Final[dict[str, Work]] = {
    "encode": encoded,
    "copy": fresh_copy,
    "slice": sliced,
    "aiosmtplib": by_aiosmtplib,
}


@cache
def check(kind: str) -> None:
    """Compare what is measured with the plain rule, on the first octets: a wrong encoder is fast for nothing."""
    body = BODIES[kind]()[: 3 * CHUNK_BYTES + 1000]
    encoder = ContentEncoder()
    got = b"".join(encoder.encode(body[start : start + CHUNK_BYTES]) for start in range(0, len(body), CHUNK_BYTES))
    expected = re.sub(rb"(?m)^\.", b"..", re.sub(rb"\r\n|\r|\n", b"\r\n", body))
    assert got == expected, "ContentEncoder does not do what it should"


def speed(work: str, kind: str) -> dict[str, float]:
    """Return GB a second, of CPU time."""
    check(kind)
    body = BODIES[kind]()
    start = time.process_time()
    WORKS[work](body)
    return {"gb_per_second": len(body) / (time.process_time() - start) / 1e9}
