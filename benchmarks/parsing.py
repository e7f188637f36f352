"""What it costs to read replies: ReplyParser, beside smtplib's own reading of the same lines.

Run: ``python -m benchmarks --rows parsing``.

CPU time for one reply, enhanced status codes looked for: of 96 replies of one line in one block, as 32 messages in
flight get them; of the reply to EHLO, seven lines; and of the 96 when each octet arrives by itself.
"""

from __future__ import annotations

import io
import smtplib
import time
from collections.abc import Callable
from typing import Final

from smtplite.protocol.reply import ReplyParser

ONE_LINE: Final = (
    b"250 2.1.0 Ok\r\n",
    b"250 2.1.5 Ok\r\n",
    b"250 2.0.0 Ok: queued as 4bXyZ12345z9QQ\r\n",
)
WINDOW: Final = b"".join(ONE_LINE) * 32
EHLO: Final = (
    b"250-mx.example.com\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n"
    b"250-CHUNKING\r\n250-SMTPUTF8\r\n250 ENHANCEDSTATUSCODES\r\n"
)
#: What arrives, in which pieces; and how many replies it is.
KINDS: Final[dict[str, tuple[list[bytes], int]]] = {
    "window": ([WINDOW], 96),
    "EHLO": ([EHLO], 1),
    "octets": ([WINDOW[at : at + 1] for at in range(len(WINDOW))], 96),
}


def by_reply_parser(pieces: list[bytes]) -> int:
    parser = ReplyParser()
    found = 0
    for piece in pieces:
        parser.receive_data(piece)
        while parser.next_reply(enhanced=True) is not None:
            found += 1
    return found


def by_smtplib(pieces: list[bytes]) -> int:
    client = smtplib.SMTP()
    client.file = io.BufferedReader(io.BytesIO(b"".join(pieces)))
    found = 0
    while client.file.peek(1):
        client.getreply()
        found += 1
    return found


WORKS: Final[dict[str, Callable[[list[bytes]], int]]] = {"ReplyParser": by_reply_parser, "smtplib": by_smtplib}


def cost(work: str, kind: str, count: int) -> dict[str, float]:
    """Return the µs of one reply."""
    pieces, replies = KINDS[kind]
    parse = WORKS[work]
    start = time.process_time()
    for _ in range(count):
        assert parse(pieces) == replies
    return {"us": (time.process_time() - start) / (count * replies) * 1e6}
