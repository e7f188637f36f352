"""``smtplite job FILE``: the program of the article that started the project (Benjamin Roux, "Le protocole SMTP").

The file: the server, the domain for EHLO, the reverse-path, the forward-paths separated by commas, each on a line of
its own; then the message. It prints the first line of each reply: greeting, EHLO (the one inside TLS, if there is
TLS), MAIL, each RCPT, DATA, end of data, QUIT.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import anyio
import attrs

from smtplite.cli.files import MAX_MESSAGE_BYTES, FileError, read_file
from smtplite.cli.server_options import PASSWORD_VARIABLE, password_of
from smtplite.cli.terminal import HelpFormatter, Output, port
from smtplite.client import Client
from smtplite.errors import MessageError, SMTPError
from smtplite.message.envelope import Envelope
from smtplite.options import TLSMode
from smtplite.protocol.paths import Domain, ForwardPath, ReversePath
from smtplite.sasl import Mechanism, password_mechanisms
from smtplite.trace import ReplyReceived, TraceEvent

__all__ = ["add_to"]

_HEAD = ("server", "domain for EHLO", "reverse-path", "forward-paths")


@attrs.frozen(kw_only=True)
class Job:
    """What a job file says."""

    server: str
    domain: str
    sender: str
    recipients: tuple[str, ...]
    content: bytes

    @classmethod
    def parse(cls, text: bytes) -> Job:
        """Read a job file.

        Raises:
            ValueError: it is too short, or one of its first lines is not what it should be; says which.
        """
        lines = text.split(b"\n", len(_HEAD))
        if len(lines) <= len(_HEAD):
            missing = _HEAD[len(lines) - (not lines[-1].strip()) :] or ("message",)
            raise ValueError(f"the file ends too early: it has no {missing[0]}")
        head = []
        for number, (name, line) in enumerate(zip(_HEAD, lines, strict=False), 1):
            try:
                head.append(line.decode("utf-8").strip())
            except UnicodeDecodeError as error:
                raise ValueError(f"line {number} ({name}) is not UTF-8") from error
        content = lines[-1]
        if not content.strip():
            raise ValueError("the file ends too early: it has no message")
        server, domain, sender, recipients = head
        if not server:
            raise ValueError("line 1 (server) is empty")
        if server.count(":") == 1:
            raise ValueError(f"line 1 (server) must be only a host name, not {server!r}: give the port with --port")
        for number, check in ((2, lambda: Domain.parse(domain)), (3, lambda: ReversePath.parse(sender))):
            try:
                check()
            except MessageError as error:
                raise ValueError(f"line {number}: {error}") from error
        addresses = tuple(recipients.split(","))
        for address in addresses:
            try:
                ForwardPath.parse(address)
            except MessageError as error:
                raise ValueError(f"line 4: {error}") from error
        return cls(server=server, domain=domain, sender=sender, recipients=addresses, content=content)


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Add the command to the command line; `summary` is what the list of commands says of it."""
    parser = commands.add_parser(
        "job",
        help=summary,
        usage="smtplite job [options] FILE",
        description="Send the message of a job file. Its lines are: the server; the domain for EHLO; the reverse-path; "
        "the forward-paths, separated by commas; then the message: header fields, an empty line, text.",
        epilog="example: smtplite job mail.txt --port 2525",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the job file")
    parser.add_argument("--port", type=port, default=25, metavar="N", help="the server's port (default: 25)")
    parser.add_argument(
        "--tls",
        choices=("none", "starttls", "implicit"),
        default="none",
        metavar="WHEN",
        help="none, starttls or implicit (default: none)",
    )
    parser.add_argument(
        "--user",
        metavar="NAME",
        help=f"authenticate, with the password from {PASSWORD_VARIABLE} or typed in; only with --tls",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    try:
        job = Job.parse(read_file(options.file, MAX_MESSAGE_BYTES))
    except FileError as error:
        return _fail(str(error))
    except ValueError as error:
        return _fail(f"{options.file}: {error}")
    auth = None
    if options.user is not None:
        if options.tls == "none":
            return _fail("--user needs --tls starttls or --tls implicit: a password is never sent unencrypted")
        try:
            auth = password_mechanisms(options.user, password_of(options.user), is_secure=True)
        except SMTPError as error:
            return _fail(str(error))
    return anyio.run(partial(_send, job, options.port, options.tls, auth))


async def _send(job: Job, port: int, tls: TLSMode, auth: tuple[Mechanism, ...] | None) -> int:
    output = Output()
    trace = _Printer(output, hellos_before_tls=1 if tls == "starttls" else 0)
    try:
        async with Client(job.server, port, tls=tls, auth=auth, local_hostname=job.domain, trace=trace) as client:
            # As the article's program does: whether a line is too long is for the server to decide.
            envelope = Envelope(job.sender, job.recipients, long_lines="send")
            receipt = await client.send(job.content, envelope=envelope)
    except SMTPError as error:
        return _fail(str(error))
    output.check()
    if receipt.complete:
        return 0
    refused = "; ".join(f"{address}: {reply}" for address, reply in receipt.refused.items())
    return _fail(f"the message was not accepted for {refused}")


class _Printer:
    """Prints the first line of each reply that the article's program prints."""

    def __init__(self, output: Output, hellos_before_tls: int) -> None:
        self._output = output
        self._hellos_to_skip = hellos_before_tls

    def __call__(self, event: TraceEvent) -> None:
        if not isinstance(event, ReplyReceived):
            return
        command = event.command or ""
        if command.startswith(("AUTH", "STARTTLS", "[redacted]", "*")):
            return
        if command.startswith("EHLO") and self._hellos_to_skip:
            self._hellos_to_skip -= 1
            return
        reply = event.reply
        separator = "-" if len(reply.lines) > 1 else " "
        self._output.print(f"{reply.code}{separator}{reply.text.partition(chr(10))[0]}".rstrip())


def _fail(problem: str) -> int:
    print(f"smtplite job: {problem}", file=sys.stderr)
    return 1
