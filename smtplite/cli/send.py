"""``smtplite send FILE|DIR|- ...``: send messages from files, as they are, one or 100,000, by `Client.send_many`."""

from __future__ import annotations

import argparse
import json
import os
import ssl
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import attrs

from smtplite.cli.dry_run import dry_run
from smtplite.cli.files import FileError
from smtplite.cli.outbox import SUFFIX, Job, jobs_of, outgoing_of
from smtplite.cli.pace import Pace, rate
from smtplite.cli.progress import Lines, Progress, Tally, show_progress
from smtplite.cli.results import Record, Result, Results, begun_lines, results_of
from smtplite.cli.server_options import add_server_options, client_options, explain, tls_context
from smtplite.cli.terminal import HelpFormatter, UserError, count, on_stop, plural, printable, seconds

if TYPE_CHECKING:
    import anyio

    from smtplite.client import Client
    from smtplite.message.envelope import Outgoing
    from smtplite.results import Delivery
    from smtplite.routes import Route, RouteDeliveries
    from smtplite.sending.stream import Deliveries

__all__ = ["add_to"]

_STOPPED: Final = 1
_SOME_REFUSED: Final = 3
_SOME_UNKNOWN: Final = 4
#: What shells report for a program that a signal ended; the signal's number is added.
_SIGNALLED: Final = 128

_CONNECTIONS: Final = 4
_IN_FLIGHT: Final = 32
#: How long the verdicts that are still owed are awaited after Ctrl-C.
_DRAIN_SECONDS: Final = 30.0
#: How many recipients who got nothing are named on the terminal; the results file names them all.
_SHOWN_PROBLEMS: Final = 20

_EPILOG: Final = """\
exit code: 0 all were accepted; 1 it could not go on (connection, TLS, AUTH);
  2 wrong usage; 3 some were refused or not sent; 4 some are unknown;
  130 Ctrl-C (it waits for what is under way; press it again to stop at once)

example:
  smtplite send --server smtp://ada@mail.example.com --results log.jsonl outbox/"""


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Add the command to the command line; `summary` is what the list of commands says of it."""
    parser = commands.add_parser(
        "send",
        help=summary,
        usage="smtplite send [options] [URL] FILE|FOLDER|- ...",
        description="Send messages from files as they are. Sender and recipients are read from the headers of each "
        "message, unless --from and --to name others.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help=f"a message; a folder: its *{SUFFIX} files; -: stdin")
    parser.add_argument("--from", dest="sender", metavar="ADDRESS", help="the sender of all messages; '' is <>")
    parser.add_argument("--to", action="append", metavar="ADDRESS", help="a recipient of all messages; may be repeated")
    parser.add_argument("--results", type=Path, metavar="FILE", help="add a JSON line for each recipient to this file")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="results of an earlier run: send only the rest")
    parser.add_argument("--resend-unknown", action="store_true", help="with --resume: also to those who may have it")
    parser.add_argument("--connections", type=count, metavar="N", help=f"use at most N (default: {_CONNECTIONS})")
    parser.add_argument(
        "--in-flight",
        type=count,
        default=_IN_FLIGHT,
        metavar="N",
        help=f"with --chunking: under way on each (default: {_IN_FLIGHT})",
    )
    parser.add_argument("--rate", type=rate, metavar="N/s", help="no faster than this: 10/s, 600/min or 1000/h")
    parser.add_argument("--chunking", action="store_true", help="use BDAT: faster, for servers that you trust")
    parser.add_argument(
        "--long-lines",
        choices=("send",),
        help="send: also send lines of more than 998 bytes, which servers may fold or refuse",
    )
    parser.add_argument(
        "--timeout", type=seconds, metavar="SECONDS", help="for a whole message (default: each step has a limit)"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be sent, without a connection")
    parser.add_argument("--json", action="store_true", help="print a JSON line for each recipient, then a summary")
    add_server_options(parser, takes_several=True)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    import anyio

    if options.resend_unknown and options.resume is None:
        raise UserError("--resend-unknown needs --resume FILE, which says what is unknown")
    url = None
    if "://" in options.files[0]:  # as with check; a file of that name is ./NAME
        url, *options.files = options.files
        if not options.files:
            raise UserError("no message: name a file, a folder, or - for stdin")
    with ExitStack() as stack:
        if options.dry_run:
            known = {} if options.resume is None else stack.enter_context(Results(options.resume, read_only=True)).known
            return anyio.run(dry_run, options, known)
        results, known = (None, {}) if options.resume is None else _earlier(options.resume, options.results, stack)
        jobs, unknown = jobs_of(options, known)
        client = _relays(url, options)
        # With --json, stdout is for programs
        say = partial(print, file=sys.stderr if options.json else sys.stdout)
        if unknown:
            say(f"{plural(unknown, 'message')} may have arrived: not sent again, unless you pass --resend-unknown")
        if not jobs:
            say("nothing is left to send")
            return _SOME_UNKNOWN if unknown else 0
        if options.results is not None and results is None:
            results = stack.enter_context(Results(options.results))
        work = _Work(client, jobs, options, results)
        code = anyio.run(work.run)
        return _SOME_UNKNOWN if unknown and code in (0, _SOME_REFUSED) else code


def _earlier(resume: Path, results: Path | None, stack: ExitStack) -> tuple[Results, dict[str, Record]]:
    """Read the results of earlier runs; return also the file to write to. Nobody else has them until we end."""
    if results is None or _is_same(resume, results):
        earlier = stack.enter_context(Results(resume, must_exist=True))
        return earlier, earlier.known
    known = stack.enter_context(Results(resume, read_only=True)).known
    return stack.enter_context(Results(results, known=known)), known


def _is_same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them is not there
        return False


def _relays(url: str | None, options: argparse.Namespace) -> Client | Route:
    """Return the client of the server, or the route over all of them, if there are several."""
    servers: list[str | None] = options.server or [None]
    options.server = None if url is None else servers[0]  # named in two ways: an error
    pace = None if options.rate is None else Pace(options.rate)
    clients, connections = [], []
    for server in servers:
        arguments = client_options(server if url is None else url, options)
        if pace is not None:
            arguments["rate_limit"] = pace
        if options.connections is not None:
            arguments["max_connections"] = options.connections
        connections.append(arguments.setdefault("max_connections", _CONNECTIONS))  # the URL may also say it
        if options.chunking:
            arguments["chunking"] = True
        clients.append(_client(arguments, options.ca))
    options.connections = min(connections)
    if len(clients) == 1:
        return clients[0]
    from smtplite.routes import Route

    return Route(clients)


def _client(arguments: dict[str, Any], ca: Path | None) -> Client:
    from smtplite.client import Client
    from smtplite.errors import ConfigurationError

    if ca is not None:
        arguments = {**arguments, "tls_context": tls_context(ca, ssl.SSLContext)}
    try:
        return Client(**arguments)
    except ConfigurationError as error:
        raise UserError(explain(error)) from None


# Sending


class _Work:
    """One run of the command.

    Args:
        client: to the server, or to several.
        jobs: what to send.
        options: of the command line.
        results: where to write down what is begun, and what became of each; None: nowhere.
    """

    def __init__(
        self, client: Client | Route, jobs: Sequence[Job], options: argparse.Namespace, results: Results | None
    ) -> None:
        self._client = client
        self._jobs = jobs
        self._options = options
        self._results = results
        self._tally = Tally(len(jobs))
        self._progress: Progress = Lines(self._tally)
        self._problems = 0
        self._signal: int | None = None  # the first that asked us to stop
        self._error: Exception | None = None  # what stopped us
        self._taking: anyio.CancelScope | None = None  # while messages are begun

    async def run(self) -> int:
        """Send; return the exit code."""
        import anyio

        self._tally = Tally(len(self._jobs))  # its clock starts now
        self._progress = show_progress(self._tally)
        try:
            async with anyio.create_task_group() as tasks:
                sending = anyio.CancelScope()
                await tasks.start(on_stop, partial(self._stop, sending))
                with sending:
                    await self._send()
                tasks.cancel_scope.cancel()
        finally:
            self._progress.close()
        return self._finish()

    async def _send(self) -> None:
        """Send, and write down all outcomes. Errors are kept: the task group would put them into a group."""
        options = self._options
        deliveries: Deliveries | RouteDeliveries | None = None
        try:
            async with self._client:
                try:
                    async with self._client.send_many(
                        self._outgoing(),
                        connections=options.connections,
                        in_flight=options.in_flight,
                        timeout=options.timeout,
                        drain=_DRAIN_SECONDS,
                        on_begin=None if self._results is None else self._begin,
                    ) as deliveries:
                        await self._take(deliveries)
                finally:
                    # What was under way when it ended, by Ctrl-C or by an error.
                    for delivery in deliveries.rest if deliveries is not None else ():
                        self._record(delivery)
        except Exception as error:  # noqa: BLE001 (raised, or said, by _finish)
            self._error = self._error or error

    async def _take(self, deliveries: Deliveries | RouteDeliveries) -> None:
        """Write down the outcomes, until there are no more, we are asked to stop, or something fails.

        In all these cases the block of `send_many` is left as by `break`: what is under way still gets its verdict.
        """
        import anyio

        with anyio.CancelScope() as self._taking:
            if self._signal is not None:
                return
            try:
                async for delivery in deliveries:
                    self._record(delivery)
                    if self._error is not None:
                        return
            except UserError as error:
                self._error = self._error or error

    def _begin(self, items: list[Any]) -> None:
        """Write down what is about to be sent. If that fails nothing of it is sent, and nothing more is begun."""
        if self._error is not None:
            raise self._error
        lines = b"".join([begun_lines(item.tag.file, item.tag.recipients) for item in items])
        cast("Results", self._results).begin(lines)

    def _outgoing(self) -> Iterator[Outgoing]:
        """Yield the messages, each read when its turn comes; no more once we are asked to stop."""
        for job in self._jobs:
            if self._signal is not None:
                return
            try:
                content = job.read()
            except FileError as error:
                reason = f"cannot be read: {error.reason}"
                self._decided([Result(file=job.file, recipient=None, outcome="not_sent", error=reason)])
                continue
            outgoing = outgoing_of(job, content, sender=self._options.sender, long_lines=self._options.long_lines)
            if outgoing is not None:
                yield outgoing

    def _record(self, delivery: Delivery) -> None:
        outgoing = cast("Outgoing", delivery.item)  # like everything that _outgoing yields
        error = delivery.error
        explanation = None if error is None else explain(error)
        self._decided(results_of(cast("Job", outgoing.tag).file, delivery.receipt, error, explanation))

    def _decided(self, results: list[Result]) -> None:
        if self._results is not None:
            try:
                self._results.write(results)
            except UserError as error:  # counted and shown anyway
                self._error = self._error or error
        self._tally.add(results)
        if self._options.json:
            for result in results:
                print(json.dumps(attrs.asdict(result)), flush=True)
        for result in results:
            if result.outcome != "accepted":
                self._problems += 1
                if self._problems <= _SHOWN_PROBLEMS:
                    self._progress.say(_problem(result))
                elif self._problems == _SHOWN_PROBLEMS + 1:
                    self._progress.say("further ones are only counted; --results FILE names all")
        self._progress.update()

    def _stop(self, sending: anyio.CancelScope, number: int) -> None:
        import anyio

        if self._signal is not None:
            sending.cancel()
            return
        self._signal = number
        sending.deadline = anyio.current_time() + _DRAIN_SECONDS
        if self._taking is not None:  # else we would wait for a message that is still being read
            self._taking.cancel()
        self._progress.say("stopping: waiting for what is under way; Ctrl-C again stops at once")

    def _finish(self) -> int:
        from smtplite.errors import SMTPError

        if isinstance(self._error, (SMTPError, UserError)):
            print(f"smtplite send: {printable(explain(self._error))}", file=sys.stderr)
        elif self._error is not None:
            raise self._error
        left = len(self._jobs) - self._tally.done
        code = self._exit_code()
        if self._options.json:
            error = None if self._error is None else explain(self._error)
            print(json.dumps({**self._tally.as_json(), "not_begun": left, "error": error, "exit_code": code}))
            return code
        print(self._tally.summary())
        if left:
            print(f"{plural(left, 'message')} not begun")
        return code

    def _exit_code(self) -> int:
        outcomes = self._tally.outcomes
        if self._signal is not None:
            return _SIGNALLED + self._signal
        if outcomes["unknown"]:
            return _SOME_UNKNOWN
        if self._error is not None:
            return _STOPPED
        is_complete = not (outcomes["refused"] or outcomes["not_sent"] or self._tally.without_recipients)
        return 0 if is_complete else _SOME_REFUSED


def _problem(result: Result) -> str:
    """Return a line for the terminal."""
    whom = f" for {result.recipient}" if result.recipient is not None else ""
    outcome = {"refused": "refused", "unknown": "unknown", "not_sent": "not sent"}[result.outcome]
    return printable(f"{result.file}: {outcome}{whom}: {result.error or result.reply}")
