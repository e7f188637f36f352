"""The options of `smtplite serve` for its page. The libraries of the extra ``web`` are imported when it is used."""

from __future__ import annotations

import argparse
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from smtplite.cli.server_options import client_options
from smtplite.cli.store import DEFAULT_KEEP, Store
from smtplite.cli.terminal import UserError, count, port
from smtplite.cli.web.address import is_loopback

if TYPE_CHECKING:
    import socket

    from anyio.abc import TaskGroup

    from smtplite.cli.web.guard import Token
    from smtplite.cli.web.release import Release

__all__ = ["Page", "add_to", "page_of", "store_of"]

_PORT: Final = 8025
_HOST: Final = "127.0.0.1"
_WILDCARDS: Final = {"0.0.0.0", "::"}  # noqa: S104 (compared with, not bound to)
_TOKEN_VARIABLE: Final = "SMTPLITE_WEB_TOKEN"  # noqa: S105 (its name)
_FEWEST_TOKEN_CHARS: Final = 16


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group("a web page that shows the mail")
    group.add_argument(
        "--web", nargs="?", const=str(_PORT), metavar="[HOST:]PORT", help=f"serve the page (default: {_HOST}:{_PORT})"
    )
    group.add_argument("--keep", type=count, metavar="N", help=f"keep the newest N messages (default: {DEFAULT_KEEP})")
    group.add_argument(
        "--web-host", action="append", default=[], metavar="NAME", help="a name of this machine that browsers may use"
    )
    group.add_argument(
        "--web-token",
        action="store_true",
        help=f"require a token: that in {_TOKEN_VARIABLE}, or a new one, which is printed",
    )
    group.add_argument("--release-to", metavar="URL", help="the server to which a message may be sent on from the page")
    group.add_argument(
        "--release-password", type=Path, metavar="FILE", help="read the password of the user in that URL from FILE"
    )


def store_of(options: argparse.Namespace) -> Store | None:
    """Return where messages are kept; None: nowhere.

    Raises:
        UserError: the folder cannot be used.
    """
    if options.web is None and options.store is None:
        return None
    return Store(keep=options.keep, folder=options.store)


def page_of(options: argparse.Namespace, store: Store | None) -> Page | None:
    """Return the page, listening; None: it was not asked for.

    Raises:
        UserError: an option is wrong, something is missing, or it cannot listen.
    """
    if options.web is None or store is None:
        for name in ("web_host", "web_token", "release_to", "release_password"):
            if getattr(options, name):
                raise UserError(f"--{name.replace('_', '-')} is for --web")
        if options.keep is not None and store is None:
            raise UserError("--keep is for --web and --store")
        return None
    host, number = _address(options.web)
    names = [name for name in (*options.web_host, host) if not is_loopback(name)]
    if names and not options.web_token:
        raise UserError(f"with {names[0]} other machines could read the mail: add --web-token")
    try:
        import jinja2  # noqa: F401 (to know whether it is there)
        import starlette
        import uvicorn  # noqa: F401 (likewise)
    except ImportError as error:
        raise UserError(f"--web needs {error.name}: pip install 'smtplite[web]'") from None
    del starlette
    from smtplite.cli.web.guard import Token
    from smtplite.cli.web.release import Release
    from smtplite.cli.web.server import listen

    secret = _token() if options.web_token else None
    release = None
    if options.release_to is not None:
        connection = argparse.Namespace(user=None, password_file=options.release_password, mechanism=None, server=None)
        try:
            arguments = client_options(options.release_to, connection)
        except UserError as error:
            raise UserError(f"--release-to: {error}") from None
        release = Release(options.release_to, arguments)
    listener = listen(host, number)
    token = None if secret is None else Token(secret, listener.getsockname()[1])
    return Page(store, listener, hosts=[name for name in names if name not in _WILDCARDS], token=token, release=release)


def _address(text: str) -> tuple[str, int]:
    host, _, number = text.rpartition(":")
    try:
        return host.strip("[]") or _HOST, port(number)
    except (ValueError, argparse.ArgumentTypeError):
        raise UserError(f"--web takes a port, or an address and a port, such as {_HOST}:{_PORT}") from None


def _token() -> str:
    token = os.environ.get(_TOKEN_VARIABLE)
    if token is None:
        return secrets.token_urlsafe(24)
    if len(token) < _FEWEST_TOKEN_CHARS:
        raise UserError(f"the token in {_TOKEN_VARIABLE} is too short: at least {_FEWEST_TOKEN_CHARS} characters")
    return token


class Page:
    """The page, listening and not served yet.

    Args:
        store: the messages.
        listener: where.
        hosts: names besides those of loopback.
        token: which must be shown; None: none.
        release: where messages may be sent on to; None: nowhere.
    """

    def __init__(
        self,
        store: Store,
        listener: socket.socket,
        *,
        hosts: list[str],
        token: Token | None,
        release: Release | None,
    ) -> None:
        self._store = store
        self._listener = listener
        self._hosts = hosts
        self._token = token
        self._release = release

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        host, number = self._listener.getsockname()[:2]
        name = self._hosts[0] if self._hosts else _HOST if host in _WILDCARDS else host
        return f"http://{f'[{name}]' if ':' in name else name}:{number}/"

    async def start(self, tasks: TaskGroup, smtp: str) -> None:
        """Serve it until the tasks are cancelled.

        Args:
            tasks: where.
            smtp: the URL of the mail server.
        """
        from smtplite.cli.web.app import Site
        from smtplite.cli.web.server import serve

        site = Site(self._store, hosts=self._hosts, token=self._token, release=self._release, smtp=smtp)
        await tasks.start(serve, site, self._listener)

    def lines(self) -> Iterator[str]:
        """Yield what to tell the user."""
        if self._token is not None and _TOKEN_VARIABLE not in os.environ:
            yield f"see your mail: {self.url}#token={self._token.secret}"
        else:
            yield f"see your mail: {self.url}"

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()
