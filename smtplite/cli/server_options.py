"""The options that `check` and `send` share: which server, which user, which CA.

A password is never on the command line, where every user of the machine can read it: neither as an option of its own
nor in a URL.
"""

from __future__ import annotations

import argparse
import getpass
import os
import ssl
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from smtplite.cli.files import MAX_SMALL_BYTES, check_file, read_file
from smtplite.cli.terminal import UserError

if TYPE_CHECKING:
    from smtplite.protocol.reply import Reply
    from smtplite.sasl import Mechanism

__all__ = [
    "PASSWORD_VARIABLE",
    "add_server_options",
    "advice_on",
    "client_options",
    "explain",
    "password_of",
    "tls_context",
]

_Context = TypeVar("_Context", bound=ssl.SSLContext)

_URL: Final = "SMTPLITE_URL"
_AUTHENTICATION_REQUIRED: Final = 530
PASSWORD_VARIABLE: Final = "SMTPLITE_PASSWORD"  # noqa: S105 (its name)

_MECHANISMS: Final = {
    "plain": "Plain",
    "login": "Login",
    "cram-md5": "CramMd5",
    "scram-sha-1": "ScramSha1",
    "scram-sha-256": "ScramSha256",
    "xoauth2": "XOAuth2",
    "oauthbearer": "OAuthBearer",
}


#: What errors advise in Python -> the same advice for a command line.
_ADVICE: Final = {
    'pass tls="none"': "add ?tls=none to the URL",
    'use tls="starttls" or "implicit", or pass allow_insecure_auth=True': (
        "leave ?tls=none out of the URL, or add allow_insecure_auth=yes there"
    ),
    "pass a mechanism that it offers with auth=": "choose one that it offers with --mechanism",
    "pass sender=": "use --from",
    "pass recipients=": "use --to",
    "in recipients=": "with --to",
    'pass tls="starttls"': "write smtp:// instead of smtps://, for STARTTLS",
    'pass tls="implicit"': "write smtps:// instead of smtp://",
    "pass tls_context= that trusts its CA (on the command line: --ca)": "name the file of its CA with --ca",
    "or pass such a name as tls_hostname=": "or add ?tls_hostname=NAME to the URL",
    "the block of send_many was left before its turn came": "the command was stopped before its turn came",
}


def explain(error: Exception) -> str:
    """Return an error's text, with its advice put in terms of the command line."""
    text = str(error)
    for said, meant in _ADVICE.items():
        text = text.replace(said, meant)
    return text + advice_on(getattr(error, "reply", None))


def advice_on(reply: Reply | None) -> str:
    """Return what to do about a reply, to be added to the error; empty: nothing is known.

    530 is "authentication required" (RFC 4954 section 6), and also "must issue a STARTTLS command first" (RFC 3207).
    """
    if reply is None or reply.code != _AUTHENTICATION_REQUIRED or "TLS" in reply.text.upper():
        return ""
    return " (authenticate: --user NAME, or smtp://NAME@... in the URL)"


def add_server_options(parser: argparse.ArgumentParser, *, takes_several: bool = False) -> None:
    """Add these options; the URL itself is each command's own.

    Args:
        parser: of the command.
        takes_several: --server may be given again, and is a list.
    """
    group = parser.add_argument_group("server, authentication and trust")
    again, action = ("; repeat it for more relays", "append") if takes_several else ("", "store")
    help_text = f"such as smtp://ada@mail.example.com (default: ${_URL}){again}"
    group.add_argument("--server", action=action, metavar="URL", help=help_text)
    group.add_argument("--user", metavar="NAME", help="authenticate as this user; it may also be in the URL")
    group.add_argument(
        "--password-file",
        type=Path,
        metavar="FILE",
        help=f"its first line is the password (default: {PASSWORD_VARIABLE}, or ask)",
    )
    group.add_argument(
        "--mechanism",
        choices=_MECHANISMS,
        metavar="NAME",
        help="only this one, such as plain; xoauth2 takes a token",
    )
    group.add_argument("--ca", type=Path, metavar="FILE", help="trust only this CA (PEM), not the system's")


def client_options(url: str | None, options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of Client that follow from the command line, the environment and the user's answers.

    Args:
        url: the server, as an argument of its own; None: --server, else the environment.
        options: of the command line.

    Raises:
        UserError: something is missing or wrong, or a password is on the command line.
    """
    from smtplite.errors import ConfigurationError
    from smtplite.options import options_of

    if url is not None and options.server is not None:
        raise UserError(f"two servers: {url} and --server {options.server}; leave one of them out")
    url = options.server if url is None else url
    text = os.environ.get(_URL) if url is None else url
    if not text:
        raise UserError(f"no server: say which, such as smtp://mail.example.com, here or in the variable {_URL}")
    try:
        arguments = options_of(text if "://" in text else f"smtp://{text}")
    except ConfigurationError as error:
        raise UserError(explain(error)) from None
    if url is not None and "password" in arguments:
        raise UserError(
            "the URL holds a password, and every user of this machine can read a command line: put the URL into "
            f"{_URL}, or the password into {PASSWORD_VARIABLE} or a --password-file, or leave it out and be asked"
        )
    user = options.user or arguments.get("username")
    if user is None:
        if options.password_file is not None or options.mechanism is not None:
            raise UserError("whose password? Name the user: --user NAME, or smtp://NAME@...")
        return arguments
    secret = arguments.get("password")
    if secret is None or options.password_file is not None:
        secret = password_of(user, options.password_file)
    if options.mechanism is None:
        return {**arguments, "username": user, "password": secret}
    for name in ("username", "password"):
        arguments.pop(name, None)
    return {**arguments, "auth": _mechanism(options.mechanism, user, secret)}


def _mechanism(name: str, user: str, secret: str) -> Mechanism:
    from smtplite import sasl
    from smtplite.errors import ConfigurationError

    try:
        mechanism: Mechanism = getattr(sasl, _MECHANISMS[name])(user, secret)
    except ConfigurationError as error:
        raise UserError(explain(error)) from None
    return mechanism


def password_of(user: str, file: Path | None = None) -> str:
    """Return a password: from a file, else from the environment, else from the user.

    Raises:
        UserError: there is none.
    """
    if file is not None:
        return _first_line(file)
    secret = os.environ.get(PASSWORD_VARIABLE)
    return secret if secret is not None else _ask(user)


def _first_line(file: Path) -> str:
    try:
        text = read_file(file, MAX_SMALL_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8") from None
    line = text.partition("\n")[0].removesuffix("\r")
    if not line:
        raise UserError(f"{file} has no password in its first line")
    return line


def _ask(user: str) -> str:
    with warnings.catch_warnings():
        # Without a terminal getpass would warn, and read a line from stdin, which may be a message.
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            return getpass.getpass(f"Password of {user}: ")
        except (getpass.GetPassWarning, EOFError):
            raise UserError(f"no password for {user}, and no terminal to ask on: set {PASSWORD_VARIABLE}") from None


def tls_context(ca: Path | None, kind: type[_Context]) -> _Context:
    """Return a context that verifies as Client's own does, with the user's CA.

    Args:
        ca: a file in PEM, the only CA that is trusted; None: the system's.
        kind: of context.

    Raises:
        UserError: the file cannot be read, or holds no certificate.
    """
    context = kind(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A name in the subject alone proves nothing (RFC 9525 2).
    context.hostname_checks_common_name = False
    if sys.version_info >= (3, 13):  # what ssl.create_default_context does there
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    if ca is None:
        context.load_default_certs()
        return context
    check_file(ca)
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError:  # before OSError: it is also one
        raise UserError(f"{ca} holds no certificate in PEM") from None
    except OSError as error:
        raise UserError(f"cannot read {ca}: {error.strerror or error}") from None
    return context
