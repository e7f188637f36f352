"""``smtplite serve``: the built-in server as a development mail catcher. It delivers to nobody."""

from __future__ import annotations

import argparse
import ipaddress
import re
import ssl
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from smtplite.cli.files import check_file
from smtplite.cli.server_options import PASSWORD_VARIABLE, password_of
from smtplite.cli.showing import STYLES, show_message, show_refusal
from smtplite.cli.terminal import HelpFormatter, Output, Paint, UserError, count, on_stop, plural, port, printable
from smtplite.cli.web import options as web

if TYPE_CHECKING:
    from smtplite.cli.store import Store
    from smtplite.testing import ReceivedMessage, RefusedMessage, SMTPServer

__all__ = ["add_to"]

_FAILED: Final = 1
_PORT: Final = 1025
_HOST: Final = "127.0.0.1"

_NO_SUCH_USER: Final = "550 5.1.1 no such user here"
_TRY_AGAIN: Final = "451 4.3.0 try again later"
_EVERYBODY: Final = "*"
_REFUSE: Final = re.compile(r"(?P<address>.+?)(?:=(?P<reply>[45][0-9]{2}(?: .*)?))?")

#: Where --drop closes the connection -> the verbs whose reply is lost with it.
_DROPS: Final = {
    "greeting": ("GREETING",),
    "hello": ("EHLO", "HELO", "LHLO"),
    "mail": ("MAIL",),
    "rcpt": ("RCPT",),
    "data": ("DATA",),
    "dot": ("END_OF_DATA",),
}

_EPILOG: Final = f"""\
Stop it with Ctrl-C. The password for --auth: {PASSWORD_VARIABLE}, or typed in.

example: smtplite serve --store mail --tls starttls --refuse bob@example.org"""


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Add the command to the command line; `summary` is what the list of commands says of it."""
    parser = commands.add_parser(
        "serve",
        help=summary,
        usage="smtplite serve [options]",
        description="Accept every message, and print or store it: a mail catcher for development. It delivers "
        "to nobody.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--host", default=_HOST, metavar="ADDRESS", help=f"listen on this address (default: {_HOST})")
    parser.add_argument(
        "--port", type=port, default=_PORT, metavar="N", help=f"listen on this port (default: {_PORT}; 0: a free one)"
    )
    parser.add_argument("--lmtp", action="store_true", help="speak LMTP")
    parser.add_argument(
        "--print",
        choices=STYLES,
        metavar="WHAT",
        help="text, raw or summary (default: text; with --store or --web: summary)",
    )
    parser.add_argument("--strict", action="store_true", help="refuse what breaks the protocol, not only report it")
    parser.add_argument("--bare-lf", action="store_true", help="accept lines that end in a bare LF")
    parser.add_argument("--store", type=Path, metavar="FOLDER", help="write each message to NUMBER.eml in this folder")
    web.add_to(parser)
    group = parser.add_argument_group("TLS and authentication")
    group.add_argument(
        "--tls",
        choices=("none", "starttls", "implicit"),
        default="none",
        metavar="WHEN",
        help="require starttls, or implicit TLS (default: none)",
    )
    group.add_argument("--ca-file", type=Path, metavar="FILE", help="write the temporary CA to this file (PEM)")
    group.add_argument("--cert", type=Path, metavar="FILE", help="use this certificate (PEM) instead; needs --key")
    group.add_argument("--key", type=Path, metavar="FILE", help="the private key of --cert (PEM)")
    group.add_argument("--auth", metavar="USER", help="accept mail only from this user")
    group = parser.add_argument_group("faults")
    group.add_argument(
        "--refuse", action="append", default=[], metavar="ADDRESS[=REPLY]", help="refuse this recipient; *: everybody"
    )
    group.add_argument(
        "--fail-after-dot",
        nargs="?",
        const=_TRY_AGAIN,
        metavar="REPLY",
        help=f"refuse every message at its end (default: {_TRY_AGAIN})",
    )
    group.add_argument(
        "--drop",
        choices=tuple(_DROPS),
        metavar="AT",
        help=f"close the connection instead of replying, at: {', '.join(_DROPS)} (after accepting the message)",
    )
    group.add_argument("--times", type=count, metavar="N", help="how often each fault happens (default: always)")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    import anyio

    users = {} if options.auth is None else {options.auth: password_of(options.auth)}
    store = web.store_of(options)
    catcher = _Catcher(store, options.print or ("text" if store is None else "summary"), strict=options.strict)
    server = _server(options, users, catcher)
    with ExitStack() as stack:
        ca_file = stack.enter_context(_ca_file(options)) if options.tls != "none" and options.cert is None else None
        page = web.page_of(options, store)
        if page is not None:
            stack.callback(page.close)
        return anyio.run(_serve, server, catcher, ca_file, page)


async def _serve(server: SMTPServer, catcher: _Catcher, ca_file: Path | None, page: web.Page | None) -> int:
    import anyio

    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(server)
        except OSError as error:
            raise UserError(f"cannot listen on {server.host}: {error.strerror or error}", _FAILED) from None
        tasks = await stack.enter_async_context(anyio.create_task_group())
        catcher.watch(server, tasks.cancel_scope.cancel)
        await tasks.start(on_stop, catcher.stop)
        catcher.say(f"listening: {server.url} (stop it with Ctrl-C)")
        if ca_file is not None:
            catcher.say(f"clients must trust this CA: {ca_file}")
        if page is not None:
            await page.start(tasks, server.url)
            for line in page.lines():
                catcher.say(line)
        if not _is_loopback(server.host):
            print("smtplite serve: other machines can reach it", file=sys.stderr)
        await anyio.sleep_forever()
    catcher.finish()
    return 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# The server


def _server(options: argparse.Namespace, users: dict[str, str], catcher: _Catcher) -> SMTPServer:
    from smtplite.testing import ServerQuirks, SMTPServer

    is_clear = options.tls == "none"
    if (options.cert is None) != (options.key is None):
        raise UserError("--cert and --key go together: one of them is missing")
    if is_clear and (options.cert is not None or options.ca_file is not None):
        raise UserError("--cert and --ca-file are for --tls starttls and --tls implicit")
    try:
        server = SMTPServer(
            host=options.host,
            port=options.port,
            lmtp=options.lmtp,
            keep=False,
            on_message=catcher.take,
            on_refusal=catcher.refuse,
            strict=options.strict,
            quirks=ServerQuirks(takes_bare_lf=options.bare_lf),
            tls=None if is_clear else options.tls,
            ssl_context=None if options.cert is None else _own_context(options.cert, options.key),
            require_tls=not is_clear,
            users=users,
            require_auth=bool(users),
            auth_in_clear=is_clear,  # without TLS there is no other way
        )
    except ImportError as error:
        raise UserError(f"{error}; or --cert and --key") from None
    for verb, reply, faults in _faults(options):
        try:
            server.reply(verb, reply, times=options.times, **faults)
        except ValueError as error:
            raise UserError(str(error)) from None
    return server


def _faults(options: argparse.Namespace) -> Iterator[tuple[str, str | bytes, dict[str, Any]]]:
    for text in options.refuse:
        match = _REFUSE.fullmatch(text)
        if match is None:
            raise UserError("--refuse takes an address, or an address, = and a reply such as 550 no such user")
        to = None if match["address"] == _EVERYBODY else match["address"]
        yield "RCPT", match["reply"] or _NO_SUCH_USER, {"to": to}
    for verb in _DROPS.get(options.drop, ()):
        yield verb, b"", {"close": True, "performs": options.drop == "dot"}
    if options.fail_after_dot is not None:
        if re.fullmatch("[45][0-9]{2}( .*)?", options.fail_after_dot) is None:
            raise UserError(f"--fail-after-dot takes a reply such as {_TRY_AGAIN}")
        yield "END_OF_DATA", options.fail_after_dot, {}


def _own_context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for path in (certificate, key):
        check_file(path)
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError:  # before OSError: it is also one
        raise UserError(f"{certificate} and {key} are not a certificate and its key, in PEM") from None
    except OSError as error:
        raise UserError(f"cannot read {certificate} or {key}: {error.strerror or error}") from None
    return context


@contextmanager
def _ca_file(options: argparse.Namespace) -> Iterator[Path]:
    """Write the temporary CA where clients can find it, and remove it at the end."""
    from smtplite.testing.tls import authority

    with ExitStack() as stack:
        path = options.ca_file
        if path is None:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smtplite-"))) / "ca.pem"
        try:
            authority().cert_pem.write_to_path(path)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from None
        yield path


# What arrives


class _Catcher:
    """Stores and prints the messages.

    Args:
        store: where to put them; None: nowhere.
        style: how much to print: one of `STYLES`.
        strict: whether the server is.
    """

    def __init__(self, store: Store | None, style: str, *, strict: bool = False) -> None:
        self._store = store
        self._style = style
        self._strict = strict
        self._paint = Paint()
        self._count = 0
        self._refused = 0
        self._output = Output()
        self._server: SMTPServer | None = None
        self._stop: Callable[[], None] = lambda: None

    def watch(self, server: SMTPServer, stop: Callable[[], None]) -> None:
        """Forget what this server keeps of open connections; `stop` is called when it makes no sense to go on."""
        self._server = server
        self._stop = stop

    def stop(self, number: int = 0) -> None:
        """End the server."""
        del number
        self._stop()

    def take(self, message: ReceivedMessage) -> str | None:
        """Store and print a message that arrived; return the reply if it cannot be stored."""
        place = ""
        if self._store is not None:
            try:
                path = self._store.path(self._store.add(message))
                place = "" if path is None else str(path)
            except OSError as error:
                print(f"smtplite serve: cannot store a message: {error}", file=sys.stderr)
                return "452 4.3.1 message cannot be stored"
        self._count += 1
        self._forget()
        for line in show_message(message, self._count, place=place, style=self._style, paint=self._paint):
            self._print(line)
        return None

    def refuse(self, message: RefusedMessage) -> None:
        """Print a message that was refused, and why."""
        self._refused += 1
        self._forget()
        if self._store is not None:
            try:
                self._store.add(message)
            except OSError as error:
                print(f"smtplite serve: cannot store a message that was refused: {error}", file=sys.stderr)
        for line in show_refusal(message, style=self._style, strict=self._strict, paint=self._paint):
            self._print(line)

    def _forget(self) -> None:
        for connection in self._server.connections if self._server is not None else ():
            connection.forget()

    def say(self, line: str) -> None:
        """Print a line. If nobody reads it any more, the server ends."""
        self._print(printable(line))

    def _print(self, line: str) -> None:
        self._output.print(line)
        if self._output.problem is not None:
            self._stop()

    def finish(self) -> None:
        """Say how many there were; raise the error that printing ran into, if any."""
        refused = f", {self._refused:,} refused" if self._refused else ""
        self.say(f"{plural(self._count, 'message')} accepted{refused}")
        self._output.check()
