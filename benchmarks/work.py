"""What a client is asked to do, with which messages: the same for all of them."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final, Literal

import attrs

#: How messages are sent: one `await` after another; as many as the client has a way for; all at once, each by a task of
#: its own; one large message, from octets or from a file.
Way = Literal["sequence", "bulk", "concurrent", "large", "large-path"]

SENDER: Final = "sender@example.org"
MESSAGES: Final = 200  # different ones; then they come again
MESSAGE_BYTES: Final = 1024

WORD_TEXT = """
the of and to in a is that for it was on with as be by at this from have or not are but had his they which one
you were all her she there would their we him been has when who will no more if out so said what up its about
into than them can only other time new some could these two may first then do any like my now over such our man
me even most made after also did many before must through back years where much your way well down should
because each people those state long little very message server recipient delivery transaction
"""
WORDS: Final = WORD_TEXT.split()


@attrs.frozen(kw_only=True)
class Work:
    """One thing to do, timed.

    Attributes:
        way: see `Way`.
        port: where the server is, on loopback.
        count: messages.
        warm: messages sent before, on the same connection, untimed. 0: connecting is timed, too.
        recipients: of each message.
        form: "octets", ready to be sent; or "objects": EmailMessage objects, each its own, built before the clock
            starts; or what the client has in their place.
        chunking: BDAT with the envelope, where the client can.
        connections: at most.
        size: octets of a large message.
        path: the file that it is in. What is sent from memory is read from there, so that making it leaves no trace.
        watch: look for the longest stall of the event loop meanwhile.
        trace: have the client call a function that does nothing, for each event.
    """

    way: Way
    port: int = 0
    count: int = 1
    warm: int = 0
    recipients: int = 1
    form: Literal["octets", "objects"] = "octets"
    chunking: bool = False
    connections: int = 1
    size: int = 0
    path: str = ""
    watch: bool = False
    trace: bool = False

    def messages(self) -> Iterator[Letter]:
        """Yield `warm` messages, then `count`."""
        return islice(cycle(letters(self.recipients)), self.warm + self.count)

    def large(self) -> bytes:
        """Return the large message."""
        return Path(self.path).read_bytes()


@attrs.frozen
class Letter:
    """A message and its envelope."""

    sender: str
    recipients: list[str]
    octets: bytes

    def parsed(self) -> EmailMessage:
        message = BytesParser(policy=policy.SMTP).parsebytes(self.octets)
        assert isinstance(message, EmailMessage)
        return message

    def built(self) -> EmailMessage:
        """Return the same message, built as a program builds one: each header set, and the text."""
        parsed = self.parsed()
        message = EmailMessage()
        for name in ("From", "To", "Subject", "Date", "Message-ID"):
            message[name] = str(parsed[name])
        message.set_content(parsed.get_content())
        return message


@cache
def letters(recipients: int) -> list[Letter]:
    """Return MESSAGES different messages of the same size: MESSAGE_BYTES, or more if the header section needs it."""
    source = random.Random(recipients)
    return [_letter(number, recipients, source) for number in range(MESSAGES)]


def _letter(number: int, recipients: int, source: random.Random) -> Letter:
    addresses = [f"recipient-{number:03}-{index:02}@example.com" for index in range(recipients)]
    to = ",\r\n ".join(addresses)
    header = (
        f"From: {SENDER}\r\nTo: {to}\r\nSubject: Message number {number:03}\r\n"
        f"Date: Mon, 01 Jan 2024 00:00:00 +0000\r\nMessage-ID: <20240101000000.{number:03}@example.org>\r\n"
        'MIME-Version: 1.0\r\nContent-Type: text/plain; charset="utf-8"\r\nContent-Transfer-Encoding: 7bit\r\n\r\n'
    )
    left = max(MESSAGE_BYTES - len(header), 200)
    body = prose(source, left - 2)[: left - 2].rstrip().ljust(left - 2, "s")
    return Letter(SENDER, addresses, f"{header}{body}\r\n".encode("ascii"))


def prose(source: random.Random, least: int) -> str:
    """Return CRLF lines of words, none of which opens with a dot."""
    lines: list[str] = []
    length = 0
    while length < least:
        line = ""
        while len(line) < 68:
            line += source.choice(WORDS) + " "
        lines.append(line.rstrip())
        length += len(lines[-1]) + 2
    return "\r\n".join(lines)


def large(size: int) -> bytes:
    """Return a message of `size` octets: CRLF lines, one in a hundred opens with a dot."""
    header = (
        f"From: {SENDER}\r\nTo: recipient@example.com\r\nSubject: A large message\r\n"
        "Date: Mon, 01 Jan 2024 00:00:00 +0000\r\nMessage-ID: <20240101000000.large@example.org>\r\n\r\n"
    ).encode("ascii")
    return b"".join((header, text(size - len(header) - 2, is_prose=False), b"\r\n"))


def text(size: int, *, is_prose: bool = True) -> bytes:
    """Return `size` octets of CRLF lines, one in a hundred with a dot at its start; 4 MiB, then the same again.

    With `is_prose` there are commas and full stops, too: about a dot a line.
    """
    return fill(_text_block(is_prose), size)


@cache
def _text_block(is_prose: bool) -> bytes:
    source = random.Random(5321)
    lines: list[str] = []
    length = 0
    while length < 4 << 20:
        line = "." if source.random() < 0.01 else ""
        while len(line) < 68:
            line += source.choice(WORDS) + (source.choices((" ", ", ", ". "), (79, 14, 7))[0] if is_prose else " ")
        line = line.rstrip()
        lines.append(line)
        length += len(line) + 2
    return "\r\n".join(lines).encode("ascii") + b"\r\n"


def fill(block: bytes, size: int) -> bytes:
    """Return `size` octets of a block repeated."""
    return (block * (size // len(block) + 1))[:size]


def write_letters(path: Path, recipients: int) -> None:
    """Write the messages for a client that is not written in Python."""
    rows: list[dict[str, Any]] = [
        {
            "sender": letter.sender,
            "recipients": letter.recipients,
            "octets": base64.b64encode(letter.octets).decode("ascii"),
            "subject": str(letter.parsed()["Subject"]),
            "text": letter.parsed().get_content(),
        }
        for letter in letters(recipients)
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
