"""``smtplite check URL``: show what a server offers, step by step, with times and round trips; send no message."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from smtplite.cli.report import Report, StepPrinter
from smtplite.cli.server_options import add_server_options, client_options, explain, tls_context
from smtplite.cli.terminal import HelpFormatter, Output, UserError, seconds
from smtplite.cli.timeline import Timeline, WatchedContext

if TYPE_CHECKING:
    from smtplite.client import Client
    from smtplite.errors import SMTPError
    from smtplite.protocol.commands import Rcpt
    from smtplite.protocol.paths import ReversePath
    from smtplite.protocol.reply import Reply
    from smtplite.sending.raw import RawSession

__all__ = ["add_to"]

_STEP_SECONDS: Final = 30.0
#: The server closes the connection after this reply: nothing more can be asked.
_CLOSING: Final = 421

_EPILOG: Final = """\
exit code: 0 all is well; 2 wrong usage; otherwise the first step that failed:
  10 connect   11 TLS, STARTTLS   12 greeting   13 EHLO
  14 AUTH      15 MAIL            16 RCPT       17 any other

The server is URL, or --server URL, or the value of SMTPLITE_URL. smtp://
requires STARTTLS, smtps:// is TLS from the start, lmtp:// is LMTP.
Unencrypted: smtp://host:25?tls=none

example: smtplite check smtp://ada@mail.example.com --rcpt grace@example.net"""


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Add the command to the command line; `summary` is what the list of commands says of it."""
    parser = commands.add_parser(
        "check",
        help=summary,
        usage="smtplite check [options] [URL]",
        description="Connect, begin TLS, authenticate, and ask whether recipients would be accepted; show each step "
        "with its time and round trips. It ends with RSET; no message is ever sent.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("url", nargs="?", metavar="URL", help="the server, such as smtp://mail.example.com:587")
    parser.add_argument(
        "--rcpt", action="append", default=[], metavar="ADDRESS", help="ask for this recipient; may be repeated"
    )
    parser.add_argument("--from", dest="sender", metavar="ADDRESS", help="sender for --rcpt (default: the user, or <>)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=_STEP_SECONDS,
        metavar="SECONDS",
        help=f"for each step (default: {_STEP_SECONDS:g})",
    )
    add_server_options(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    import anyio

    from smtplite.options import Timeouts

    arguments = client_options(options.url, options)
    envelope = _envelope(options.sender, options.rcpt, arguments)
    output = Output()
    timeline = Timeline((lambda _: None) if options.json else StepPrinter(output))
    limit = options.timeout
    client = _client(
        {
            **arguments,
            "timeouts": Timeouts(connect=limit, greeting=limit, command=limit, quit=min(limit, 5.0)),
            "trace": timeline,
        },
        options.ca,
        timeline,
    )
    error = anyio.run(partial(_walk, client, timeline, envelope))
    report = Report.of(timeline, error, recipients=len(options.rcpt))
    output.check()
    if options.json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        report.print()
        if report.problem is not None:
            print(f"smtplite check: {report.problem}", file=sys.stderr)
    return report.exit_code


# What is asked


@attrs.frozen
class _Envelope:
    sender: ReversePath
    recipients: tuple[Rcpt, ...]


def _envelope(sender: str | None, recipients: Sequence[str], arguments: dict[str, Any]) -> _Envelope | None:
    from smtplite.errors import MessageError
    from smtplite.protocol.commands import Rcpt
    from smtplite.protocol.paths import ReversePath

    if sender is None and not recipients:
        return None
    if sender is None:
        # Many servers let a user send only under their own address.
        user = arguments["auth"].username if "auth" in arguments else arguments.get("username") or ""
        sender = user if "@" in user else ""
    try:
        return _Envelope(ReversePath.parse(sender), tuple(Rcpt(address) for address in recipients))
    except MessageError as error:
        raise UserError(explain(error)) from None


def _client(arguments: dict[str, Any], ca: Path | None, timeline: Timeline) -> Client:
    from smtplite.client import Client
    from smtplite.errors import ConfigurationError

    context = tls_context(ca, WatchedContext)
    context.timeline = timeline
    try:
        client = Client(**arguments)
        try:
            return Client(**arguments, tls_context=context)
        except ConfigurationError:  # only the context is wrong: this connection is unencrypted
            if ca is not None:
                raise
            return client
    except ConfigurationError as error:
        raise UserError(explain(error)) from None


async def _walk(client: Client, timeline: Timeline, envelope: _Envelope | None) -> SMTPError | None:
    from smtplite.errors import SMTPError
    from smtplite.protocol.commands import Noop, Rset

    timeline.start()
    try:
        async with client.session() as session:
            reply = await session.command(Noop())  # a bare round trip, to compare with
            if envelope is not None and reply.code != _CLOSING:
                reply = await _ask(session, envelope)
                if reply.code != _CLOSING:
                    await session.command(Rset())
    except SMTPError as error:
        timeline.fail(error)
        return error
    finally:
        timeline.finish()
    return None


async def _ask(session: RawSession, envelope: _Envelope) -> Reply:
    """Ask for the sender and, unless that is refused, for each recipient; return the last reply."""
    from smtplite.errors import ExtensionRequired
    from smtplite.protocol.commands import Mail
    from smtplite.protocol.parameters import negotiate

    paths = [envelope.sender, *(rcpt.forward_path for rcpt in envelope.recipients)]
    needs = next((f"address {path.address!r}" for path in paths if path.needs_smtputf8), None)
    try:
        parameters = negotiate(session.extensions, size=None, is_eight_bit=False, needs_smtputf8=needs)
    except ExtensionRequired as error:
        error.phase = "mail"
        raise
    reply = await session.command(Mail(envelope.sender, parameters))
    if not reply.is_negative:
        for rcpt in envelope.recipients:
            reply = await session.command(rcpt)
            if reply.code == _CLOSING:
                break
    return reply
