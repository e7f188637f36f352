"""What reads foreign text, and texts that make a careless reader slow (rule R27: no input costs more than linear time).

``python -m tests.misbehaving.linear`` prints what is slowest, by the time that it takes for 64 KiB.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from email import policy
from email.message import EmailMessage, Message
from email.mime.base import MIMEBase
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.parser import BytesParser
from typing import Any, Final

import anyio
import attrs

from smtplite import Content, Recipient, SMTPError, sasl
from smtplite.cli.job import Job
from smtplite.cli.results import Record, _take_in
from smtplite.message.addresses import decode_words, forward_path, read_address_list
from smtplite.message.composing import compose
from smtplite.message.flatten import wire_bytes
from smtplite.message.headers import field, parameters_of
from smtplite.message.prepared import prepare
from smtplite.options import options_of
from smtplite.protocol import Connection, Domain, ForwardPath, Parameters, ReversePath
from smtplite.protocol.commands import Ehlo, Greeting
from smtplite.protocol.reply import ReplyParser
from smtplite.protocol.transparency import ContentEncoder

__all__ = ["SUBJECTS", "TEXTS", "Subject", "assert_linear", "cases", "cost"]

#: The sizes that are compared, each four times the one before.
SIZES: Final = (1024, 4096, 16_384, 65_536)
#: Four times the input takes four times the time if that is linear, and sixteen times if it is quadratic.
MOST_TIMES: Final = 9
#: What takes less is not compared: a clock and a cache are not that exact.
LEAST_SECONDS: Final = 0.004


@attrs.frozen
class Subject:
    """Something that reads text.

    Attributes:
        name: for people.
        make: text -> what `read` is called with; not measured.
        read: reads it. That it refuses it is an outcome like any other.
    """

    name: str
    make: Callable[[str], Any]
    read: Callable[[Any], Any]


def octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def as_it_is(text: str) -> str:
    return text


# Texts

#: What is repeated.
UNITS: Final = (
    *'",.:;<>()[]\\@=?%&{}/',
    *(" ", "\t", "\r", "\n", "\r\n", "\r\n ", "\0", "a", "é", "\udce9", "\U0001f600"),
    *('""', '\\"', "()", ")(", "<>", "[]", "a.", "a,", "a@b,", "a <b@c>, ", "<@a:", "a:;", "a:", '"a" '),
    *(
        "=?",
        "?=",
        "=?utf-8?q?a?=",
        "=?utf-8?q?a?= ",
        "=?utf-8?b?YQ==?=",
        "=?utf-8?q?",
        "=41",
        "%41",
        "a=b; ",
        "a*0=b; ",
    ),
    *("a b ", "é ", "a\r\n b", ";a=", "a=1,", "250-", "\r\n\r\n", "\r\n.", "a: b\r\n", '{"', "[{", "+41", "xn--a."),
)

#: What stands in front of it and behind it.
FRAMES: Final = (
    ("", ""),
    ('"', ""),
    ("(", ""),
    ("", "a@b.example"),
    ("a@b.example", ""),
    ("<", ">"),
    ('"', '" <a@b.example>'),
)

#: Name -> size -> text.
TEXTS: Final[dict[str, Callable[[int], str]]] = {
    f"{before!r} {unit!r} {after!r}": lambda size, before=before, unit=unit, after=after: (
        before + unit * (size // len(unit)) + after
    )
    for unit in UNITS
    for before, after in FRAMES
} | {
    "nested ()": lambda size: "(" * (size // 2) + ")" * (size // 2) + "a@b.example",
    "nested (\\)": lambda size: "(\\)" * (size // 3) + ")" * (size // 3),
    "words of growing length": lambda size: " ".join("é" * length for length in range(1, int(size**0.5))),
    "words between quotes": lambda size: '"a" b ' * (size // 6),
}


# What reads them


def message_with(*headers: tuple[str, str], body: str = "Hi\n") -> Message[str, str]:
    """Return a message object that holds the fields as they are: its values are not parsed before we do."""
    message: Message[str, str] = Message()
    names = {name.lower() for name, _ in headers}
    for name, value in (("From", "a@b.example"), ("To", "c@d.example")):
        if name.lower() not in names:
            message[name] = value
    for name, value in headers:
        message._headers.append((name, value))  # type: ignore[attr-defined]  # past what this Python checks
    message.set_payload(body)
    return message


def parsed(header: str) -> Callable[[str], Message[str, str]]:
    """Return what parses a message whose field has the text, as one that was received."""

    def make(text: str) -> Message[str, str]:
        text = text.replace("\r", "").replace("\n", "")
        source = octets(f"From: a@b.example\r\nTo: c@d.example\r\n{header}: {text}\r\n\r\nHi\r\n")
        # The stdlib's parser asks for the type of a message, and is quadratic where its policy reads fields.
        message = BytesParser(EmailMessage, policy=policy.compat32).parsebytes(source)
        message.policy = policy.default
        return message

    return make


def nested(text: str) -> Message[str, str]:
    """Return as many parts in each other as the text is long, within what the stdlib's own recursion allows."""
    message: Message[str, str] = MIMEText("Hi")
    for _ in range(min(len(text) // 1024, 60)):
        outer = MIMEMultipart()
        outer.attach(message)
        message = outer
    message["From"], message["To"] = "a@b.example", "c@d.example"
    return message


def many_parts(text: str) -> Message[str, str]:
    message = MIMEMultipart()
    message["From"], message["To"] = "a@b.example", "c@d.example"
    for at in range(0, len(text), 64):
        part = MIMEBase("text", "plain")
        part.set_payload(text[at : at + 64].encode("ascii", "replace").decode())
        message.attach(part)
    return message


def many_headers(text: str) -> Message[str, str]:
    return message_with(*(("X-A", text[at : at + 16]) for at in range(0, len(text), 16)))


async def check(content: Content) -> None:
    await prepare(content, sender="a@b.example", recipients="c@d.example").check()


def check_content(content: Content) -> None:
    anyio.run(check, content)


def read_replies(data: bytes) -> None:
    parser = ReplyParser()
    for at in range(0, len(data), 64):
        parser.receive_data(data[at : at + 64])
        while parser.next_reply(enhanced=True) is not None:
            pass


def read_reply_bytewise(data: bytes) -> None:
    parser = ReplyParser()
    for at in range(len(data)):
        parser.receive_data(data[at : at + 1])
        parser.next_reply()


def read_ehlo(data: bytes) -> None:
    connection = Connection()
    for command, reply in ((Greeting(), b"220 a\r\n"), (Ehlo("b.example"), data)):
        connection.send(command)
        connection.receive_data(reply)
        connection.next_event()
    _ = connection.extensions.auth, connection.extensions.limits, connection.extensions.size


def ehlo(text: str) -> bytes:
    line = text.replace("\r", "").replace("\n", "")
    return octets(
        "250-a\r\n" + "".join(f"250-{line[at : at + 500]}\r\n" for at in range(0, len(line), 500)) + "250 b\r\n"
    )


def exchange(mechanism: sasl.Mechanism, *first: bytes) -> Callable[[bytes], object]:
    """Return what hands a challenge to this mechanism, after those before it."""

    def read(challenge: bytes) -> object:
        begun = mechanism.exchange()
        for earlier in (None, *first):
            begun.respond(earlier)
        return begun.respond(challenge)

    return read


def encode(data: bytes) -> bytes:
    encoder = ContentEncoder()
    return b"".join(encoder.encode(data[at : at + 100]) for at in range(0, len(data), 100))


def scram(text: str) -> bytes:
    return octets(f"r={text},s=YQ==,i=4096")


def read_results(lines: list[bytes]) -> None:
    known: dict[str, Record] = {}
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        for line in lines:
            _take_in(known, line)


_SCRAM: Final = sasl.ScramSha256("a", "b")
_XOAUTH2: Final = sasl.XOAuth2("a", "b")

SUBJECTS: Final = {
    subject.name: subject
    for subject in (
        Subject("address list", as_it_is, read_address_list),
        Subject("one address with a name", as_it_is, forward_path),
        Subject("encoded words", as_it_is, decode_words),
        Subject("reverse-path", as_it_is, ReversePath.parse),
        Subject("forward-path", as_it_is, ForwardPath.parse),
        Subject("local part", lambda text: f"{text}@b.example", ForwardPath.parse),
        Subject("domain", as_it_is, Domain.parse),
        Subject("domain of an address", lambda text: f"a@{text}", ForwardPath.parse),
        Subject("address literal", lambda text: f"[IPv6:{text}]", Domain.parse),
        Subject("parameters", lambda text: {"X-A": text}, Parameters.custom),
        Subject(
            "keywords",
            lambda text: dict.fromkeys(text[at : at + 8] for at in range(0, len(text), 8)),
            Parameters.custom,
        ),
        Subject("ENVID", as_it_is, lambda text: Parameters.mail(envid=text)),
        Subject("ORCPT", as_it_is, lambda text: Parameters.rcpt(orcpt=text)),
        Subject("NOTIFY", lambda text: text.split(","), lambda notify: Parameters.rcpt(notify=notify)),
        Subject("replies", octets, read_replies),
        Subject("a reply, byte by byte", lambda text: b"250-" + octets(text), read_reply_bytewise),
        Subject("a reply of many lines", lambda text: b"250-a\r\n" * (len(text) // 7) + b"250 a\r\n", read_replies),
        Subject("EHLO reply", ehlo, read_ehlo),
        Subject("content to wire form", octets, encode),
        Subject("URL", as_it_is, options_of),
        Subject("host of a URL", lambda text: f"smtp://{text}", options_of),
        Subject("user of a URL", lambda text: f"smtp://{text}@host", options_of),
        Subject("options of a URL", lambda text: f"smtp://host?{text}", options_of),
        Subject("SCRAM challenge", octets, exchange(_SCRAM)),
        Subject("SCRAM nonce", scram, exchange(_SCRAM)),
        Subject("CRAM-MD5 challenge", octets, exchange(sasl.CramMd5("a", "b"))),
        Subject("LOGIN challenge", octets, exchange(sasl.Login("a", "b"))),
        Subject("error of XOAUTH2", octets, lambda challenge: _XOAUTH2.error_data(challenge)),
        Subject("success of SCRAM", as_it_is, lambda text: _SCRAM.success_data(text)),
        Subject("user name", as_it_is, lambda text: sasl.ScramSha256(text, "b")),
        Subject("job file", lambda text: octets(f"host\nb.example\na@b.example\n{text}\n\nHi\n"), Job.parse),
        Subject("job file, all of it", octets, Job.parse),
        Subject("results file", lambda text: octets(text).split(b"\n"), read_results),
        Subject("octets", octets, prepare),
        Subject("From of octets", lambda text: octets(f"From: {text}\r\nTo: c@d.example\r\n\r\nHi\r\n"), prepare),
        Subject("To of octets", lambda text: octets(f"From: a@b.example\r\nTo: {text}\r\n\r\nHi\r\n"), prepare),
        Subject("body of octets", lambda text: octets(f"From: a@b.example\r\nTo: c@d.example\r\n\r\n{text}"), prepare),
        Subject("Content", lambda text: Content.from_bytes(octets(f"A: b\r\n\r\n{text}")), check_content),
        Subject("Content, headers", lambda text: Content.from_bytes(octets(text)), check_content),
        *(
            Subject(f"{name} of an object", lambda text, name=name: message_with((name, text)), prepare)  # type: ignore[misc]
            for name in (
                "Subject",
                "From",
                "To",
                "References",
                "Content-Type",
                "Content-Disposition",
                "Received",
                "Date",
            )
        ),
        *(
            Subject(f"{name} of a parsed object", parsed(name), prepare)
            for name in ("Subject", "Cc", "References", "Content-Type", "Content-Disposition")
        ),
        Subject("Message-ID of an object", lambda text: message_with(("Message-ID", text)), prepare),
        Subject("DKIM-Signature", lambda text: message_with(("DKIM-Signature", f"h={text}")), prepare),
        Subject("body of an object", lambda text: message_with(body=text), prepare),
        Subject(
            "body of an object, 7 bits", lambda text: message_with(body=text), lambda m: wire_bytes(m, seven_bit=True)
        ),
        Subject("nested parts", nested, prepare),
        Subject("many parts", many_parts, prepare),
        Subject("many fields", many_headers, prepare),
        Subject(
            "many recipients",
            lambda text: [f"a{n}@b.example" for n in range(len(text) // 16)],
            lambda to: prepare(b"A: b\r\n\r\n", sender="", recipients=to),
        ),
        Subject(
            "one recipient many times",
            lambda text: [Recipient("a@b.example")] * (len(text) // 16),
            lambda to: prepare(b"A: b\r\n\r\n", sender="", recipients=to),
        ),
        Subject("text of a field", as_it_is, lambda text: field("Subject", text)),
        Subject("parameters of a field", as_it_is, parameters_of),
        Subject(
            "subject of compose",
            as_it_is,
            lambda text: compose(from_="a@b.example", to="c@d.example", subject=text, text="Hi"),
        ),
        Subject(
            "name for compose",
            as_it_is,
            lambda text: compose(from_=(text, "a@b.example"), to="c@d.example", subject="s", text="Hi"),
        ),
        Subject(
            "text for compose",
            as_it_is,
            lambda text: compose(from_="a@b.example", to="c@d.example", subject="s", text=text),
        ),
        Subject(
            "html for compose",
            as_it_is,
            lambda text: compose(from_="a@b.example", to="c@d.example", subject="s", html=text, inline={}),
        ),
    )
}


def cases() -> Iterator[tuple[str, str]]:
    """Yield each subject with each text, by their names."""
    for subject in SUBJECTS:
        for text in TEXTS:
            yield subject, text


# Measuring


def cost(subject: Subject, text: str, times: int = 1) -> float:
    """Return the least CPU time of this thread, in seconds, for reading a text."""
    least = 1e9
    for _ in range(times):
        try:
            made = subject.make(text)
        except (SMTPError, ValueError):
            return 0.0
        began = time.thread_time()
        with suppress(SMTPError, ValueError):
            subject.read(made)
        least = min(least, time.thread_time() - began)
    return least


def assert_linear(subject: Subject, make: Callable[[int], str]) -> float:
    """Compare the times for texts of growing size, up to 64 KiB; return the last, in seconds.

    It grows step by step, so that what is quadratic is found before it takes minutes.
    """
    before = cost(subject, make(SIZES[0]))
    for size in SIZES[1:]:
        now = cost(subject, make(size))
        for times in (3, 9):  # a machine that is busy may have disturbed one of them
            if now <= max(LEAST_SECONDS, MOST_TIMES * before):
                break
            now, before = cost(subject, make(size), times), cost(subject, make(size // 4), times)
        assert now <= max(LEAST_SECONDS, MOST_TIMES * before), (
            f"{subject.name}: {size // 4} characters take {before * 1000:.2f} ms, {size} take {now * 1000:.2f} ms: "
            f"{make(20)!r}..."
        )
        before = now
    return before


def main() -> None:
    """Print the slowest cases."""
    found = []
    for name, text in cases():
        try:
            found.append((assert_linear(SUBJECTS[name], TEXTS[text]), name, text))
        except AssertionError as error:
            print(f"NOT LINEAR: {error}", flush=True)
    print(f"{len(found)} cases, {sum(seconds for seconds, _, _ in found):.1f} s for 64 KiB each; the slowest:")
    for seconds, name, text in sorted(found, reverse=True)[:20]:
        print(f"{seconds * 1000:8.2f} ms  {name}: {text}")


if __name__ == "__main__":
    main()
