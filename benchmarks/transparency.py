r"""How fast content gets its wire form for DATA (line endings made CRLF, dots doubled), against copying it.

Run::

    python benchmarks/transparency.py            # about half a minute, 350 MiB of memory; --quick: smaller bodies

It prints, for each kind of content, the throughput of a streamed ContentEncoder that is given slices of 128 KiB (the
slicing is counted; what comes out is thrown away), and its ratio to *one fresh copy* of the same octets,
`bytearray(body)`: the pages of the copy are new, as they are in any program that holds a second body. The kinds:

- words: CRLF lines of about 72 octets of English-like words, one in a hundred opens with a dot, and there is no other
  dot. The goal is a ratio of at least 0.6, for this kind alone.
- prose: the same with commas, and a full stop behind every fifteenth word or so: about a dot a line.
- LF prose: the same with LF, each of which must become CRLF; base64: lines of 76 without a dot.
- many dots: one in three octets is a dot, as in the dot leaders of a table of contents, few of them open a line.
- only dots: one line without an end. dot lines: nothing but lines of one dot, so that all of them are doubled. No mail
  looks like that: these two are the worst that somebody could make us send.

Beside them: the same text *sliced*, that is copied in the same slices of 128 KiB and dropped (it stays in the
processor's cache and needs no new pages: what the slicing costs above, and the least that any streaming can cost), and
aiosmtplib's own encoding of the same text, if it is installed: its function for line endings and its pattern for dots,
called as its DATA command calls them, on the whole body at once.

CPU time, A B A B ..., the median of the rounds' ratios and their spread. No absolute time is a test: the exit status is
0 whatever the numbers are.
"""

from __future__ import annotations

import argparse
import base64
import gc
import os
import platform
import random
import re
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from smtplite import __version__
from smtplite.protocol import ContentEncoder

ROUNDS = 5
MIB = 1 << 20
CHUNK_BYTES = 131_072
# A body is never smaller: below 32 MiB glibc begins to reuse pages, and the copy would no longer be a fresh one.
SMALL_MIB = 40

WORD_TEXT = """
the of and to in a is that for it was on with as be by at this from have or not are but had his they which one
you were all her she there would their we him been has when who will no more if out so said what up its about
into than them can only other time new some could these two may first then do any like my now over such our man
me even most made after also did many before must through back years where much your way well down should
because each people those state long little very message server recipient delivery transaction
"""
WORDS = WORD_TEXT.split()


def text(size: int, *, is_prose: bool = True, dot_share: float = 0.01) -> bytes:
    """Return `size` octets of CRLF lines; a few MiB that differ, then the same again."""
    source = random.Random(5321)
    lines: list[str] = []
    length = 0
    while length < min(size, 4 * MIB):
        line = "." if source.random() < dot_share else ""
        while len(line) < 68:
            line += source.choice(WORDS) + (source.choices((" ", ", ", ". "), (79, 14, 7))[0] if is_prose else " ")
        line = line.rstrip()
        lines.append(line)
        length += len(line) + 2
    return fill("\r\n".join(lines).encode("ascii") + b"\r\n", size)


def many_dots(size: int) -> bytes:
    """Return a table of contents with dot leaders: a third of it is dots."""
    source = random.Random(5322)
    lines = []
    for number in range(40_000):
        title = " ".join(source.choice(WORDS) for _ in range(6))
        lines.append(f"{number // 100}.{number % 100} {title:.40} {'.' * 24} {number}")
    return fill("\r\n".join(lines).encode("ascii") + b"\r\n", size)


def base64_text(size: int) -> bytes:
    return fill(base64.encodebytes(random.Random(2045).randbytes(3 * MIB)).replace(b"\n", b"\r\n"), size)


def fill(block: bytes, size: int) -> bytes:
    return (block * (size // len(block) + 1))[:size]


# --- what is compared ------------------------------------------------------------------------------------------------

Work = Callable[[bytes], object]


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


def aiosmtplib_encoding() -> Work | None:
    """Return what aiosmtplib does to the octets in `execute_data_command`, or None."""
    try:
        from aiosmtplib.protocol import PERIOD_REGEX, normalize_message_line_endings
    except ImportError:
        return None

    def encode(body: bytes) -> object:
        return PERIOD_REGEX.sub(b"..", normalize_message_line_endings(body))

    return encode


def check(body: bytes) -> None:
    """Compare what is measured with the plain rule, on the first octets: a wrong encoder is fast for nothing."""
    body = body[: 3 * CHUNK_BYTES + 1000]
    encoder = ContentEncoder()
    got = b"".join(encoder.encode(body[start : start + CHUNK_BYTES]) for start in range(0, len(body), CHUNK_BYTES))
    expected = re.sub(rb"(?m)^\.", b"..", re.sub(rb"\r\n|\r|\n", b"\r\n", body))
    assert got == expected, "ContentEncoder does not do what it should"


# --- measuring -------------------------------------------------------------------------------------------------------


def gigabytes_a_second(work: Work, body: bytes) -> float:
    gc.collect()
    start = time.process_time()
    work(body)
    return len(body) / (time.process_time() - start) / 1e9


def compare(name: str, work: Work, body: bytes, *, goal: float | None = None) -> None:
    """Print one line: the work's throughput, and its ratio to a fresh copy. The first round only warms up."""
    speeds, copies = [], []
    for number in range(ROUNDS + 1):
        copy = gigabytes_a_second(fresh_copy, body)
        speed = gigabytes_a_second(work, body)
        if number:
            copies.append(copy)
            speeds.append(speed)
    ratios = sorted(speed / copy for speed, copy in zip(speeds, copies, strict=True))
    ratio = statistics.median(ratios)
    judgement = "" if goal is None else f"   goal >= {goal}: {'met' if ratio >= goal else 'MISSED'}"
    print(
        f"{name:22} {len(body) // MIB:4} MiB {statistics.median(speeds):7.3f} GB/s, copy"
        f" {statistics.median(copies):6.3f} GB/s; ratio {ratio:6.3f}  ({ratios[0]:.3f} to {ratios[-1]:.3f}){judgement}",
        flush=True,
    )


def installed(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} (not installed)"


def pin() -> str:
    """Keep this process on one core."""
    if not hasattr(os, "sched_setaffinity"):
        return "not pinned"
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return f"pinned to core {core}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Dot-stuffing and line endings, against copying; see the docstring.")
    parser.add_argument("--quick", action="store_true", help=f"bodies of {SMALL_MIB} MiB, and the first kinds only")
    arguments = parser.parse_args()
    print(
        f"{platform.python_implementation()} {platform.python_version()}, {platform.platform()}, {pin()}\n"
        f"smtplite {__version__}, {installed('aiosmtplib')}\n"
        f"CPU time; medians of {ROUNDS} rounds (lowest to highest ratio)\n"
    )
    small = SMALL_MIB * MIB
    large = small if arguments.quick else 100 * MIB
    body = text(large, is_prose=False)
    check(body)
    compare("words, 1 % dot lines", encoded, body, goal=0.6)
    compare("the same, only sliced", sliced, body)
    body = text(large)
    check(body)
    compare("prose, 1 % dot lines", encoded, body)
    body = text(small).replace(b"\r\n", b"\n").ljust(small, b"\n")
    check(body)
    compare("LF prose", encoded, body)
    if arguments.quick:
        return
    for name, make in (
        ("base64", base64_text),
        ("many dots", many_dots),
        ("only dots", lambda size: b"." * size),
        ("dot lines", lambda size: fill(b".\r\n", size)),
    ):
        body = make(small)
        check(body)
        compare(name, encoded, body)
    encoding = aiosmtplib_encoding()
    if encoding is not None:
        compare("prose, by aiosmtplib", encoding, text(small))


if __name__ == "__main__":
    main()
