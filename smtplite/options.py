"""What a Client is given: its timeouts, the checks of its options, and its URL.

A URL may hold a password, so no error shows any part of it but the names of its query options.
"""

from __future__ import annotations

import ipaddress
import math
import ssl
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import attrs

from smtplite.errors import ConfigurationError, MessageError
from smtplite.protocol.paths import Domain
from smtplite.sasl import Mechanism, password_mechanisms

__all__ = ["TLSMode", "Timeouts", "options_of"]

TLSMode: TypeAlias = Literal["implicit", "starttls", "none"]

_SCHEMES: Final[dict[str, dict[str, Any]]] = {
    "smtp": {},
    "smtps": {"tls": "implicit"},
    "lmtp": {"lmtp": True},
    "smtp+unix": {},
    "lmtp+unix": {"lmtp": True},
}

_TRUTH: Final = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def _boolean(text: str) -> bool:
    return _TRUTH[text.lower()]


#: The options of Client that a text can say, by their names there.
_QUERY: Final[dict[str, Callable[[str], object]]] = {
    "tls": str,
    "tls_hostname": str,
    "local_hostname": str,
    "allow_insecure_auth": _boolean,
    "pipelining": _boolean,
    "max_connections": int,
    "max_messages_per_connection": int,
    "idle_timeout": float,
    "max_age": float,
    "timeout": float,
}


def options_of(url: str) -> dict[str, Any]:
    """Return the options of Client that the URL says.

    Raises:
        ConfigurationError: the URL, or one of its query options, is not understood.
    """
    parts = _split(url)
    scheme = parts.scheme.lower()
    options = dict(_SCHEMES[scheme])
    if scheme.endswith("+unix"):
        if parts.netloc or not parts.path.startswith("/"):
            raise ConfigurationError(f"URL: write {scheme}:///path/to/socket, with three slashes")
        options["socket_path"] = unquote(parts.path)
    else:
        options.update(_server(parts))
        if parts.path not in ("", "/"):
            raise ConfigurationError(
                "URL: nothing may stand behind the host but ?options (percent-encode a / before it)"
            )
    options.update(_query(parts.query))
    return options


def _split(url: str) -> SplitResult:
    if not isinstance(url, str):
        raise ConfigurationError(f"URL is a str, not {type(url).__name__}")
    if any(character <= " " or character == "\x7f" for character in url):  # urlsplit would drop some of them
        raise ConfigurationError("URL holds a space or a control character: percent-encode it")
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = None
    if parts is None or parts.scheme.lower() not in _SCHEMES:  # `from` would show the URL
        raise ConfigurationError(
            f"URL begins with none of {', '.join(f'{name}://' for name in _SCHEMES)}, or is no URL"
        )
    if "#" in url:
        raise ConfigurationError("URL holds a #: percent-encode it as %23")
    return parts


def _server(parts: SplitResult) -> dict[str, Any]:
    options: dict[str, Any] = {}
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host:  # said here, and not above: there the error would carry what it could not parse
        raise ConfigurationError("URL has no host, or no valid port, behind the //")
    options["hostname"] = unquote(host)
    if port is not None:
        options["port"] = port
    for name, text in (("username", parts.username), ("password", parts.password)):
        if text is not None:
            try:
                options[name] = unquote(text, errors="strict")
            except UnicodeDecodeError:
                raise ConfigurationError(f"URL: the {name} is not UTF-8") from None
    return options


def _query(query: str) -> dict[str, Any]:
    if "@" in query:  # a ? inside the password: its rest would be named below
        raise ConfigurationError("URL: an @ stands behind the ?; percent-encode a ? before it as %3F, and the @ as %40")
    options: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        convert = _QUERY.get(name)
        if convert is None:
            raise ConfigurationError(f"URL option {name!r} is not one of {', '.join(_QUERY)}")
        if name in options:
            raise ConfigurationError(f"URL option {name!r} stands twice")
        try:
            options[name] = convert(text)
        except (ValueError, KeyError):
            raise ConfigurationError(
                f"URL option {name!r} has a value that is no {convert.__name__.strip('_')}"
            ) from None
    return options


def _positive(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ConfigurationError(f"timeout {attribute.name} is a positive number of seconds, not {value!r}")


@attrs.frozen(kw_only=True)
class Timeouts:
    """How long each phase may take, in seconds; `math.inf` for no limit (RFC 5321 4.5.3.2).

    Attributes:
        pool: waiting for a connection that others use.
        connect: opening the connection, and anew its TLS handshake.
        greeting: the server's first words.
        command: the reply to each command.
        data_init: the reply to DATA.
        data_block: each piece of content, until the network took it.
        end_of_data: the verdict. A short one duplicates mail: the server may be delivering already.
        quit: the reply to QUIT, of which nothing depends.
    """

    pool: float = attrs.field(default=60.0, validator=_positive)
    connect: float = attrs.field(default=30.0, validator=_positive)
    greeting: float = attrs.field(default=300.0, validator=_positive)
    command: float = attrs.field(default=300.0, validator=_positive)
    data_init: float = attrs.field(default=120.0, validator=_positive)
    data_block: float = attrs.field(default=180.0, validator=_positive)
    end_of_data: float = attrs.field(default=600.0, validator=_positive)
    quit: float = attrs.field(default=5.0, validator=_positive)


_MODES: Final = ("implicit", "starttls", "none")


def _tls_mode(
    tls: TLSMode | None,
    *,
    hostname: str | None,
    port: int | None,
    socket_path: str | None,
    connect: object,
    lmtp: bool,
) -> TLSMode:
    if tls is not None:
        if tls not in _MODES:
            raise ConfigurationError(f'tls is "implicit", "starttls" or "none", not {tls!r}')
        return tls
    if socket_path is not None:
        return "none"
    if port == 465:
        return "implicit"
    if lmtp and connect is None and hostname is not None and _is_loopback(hostname):
        return "none"
    return "starttls"


def _tls_hostname(mode: TLSMode, hostname: str | None) -> str:
    if mode == "none":
        return ""
    if hostname is None:
        raise ConfigurationError(f"tls={mode!r} has no name to verify: pass hostname or tls_hostname=")
    return hostname.removesuffix(".")


def _tls_context(mode: TLSMode, context: ssl.SSLContext | None) -> ssl.SSLContext | None:
    if context is not None and not isinstance(context, ssl.SSLContext):
        raise ConfigurationError(f"tls_context is an ssl.SSLContext, not {type(context).__name__}")
    if context is not None and mode == "none":
        raise ConfigurationError('tls_context is given and tls is "none": leave one of them out')
    return context


def _host(hostname: str | None) -> str | None:
    if hostname is not None and (not hostname or not hostname.isprintable() or " " in hostname):
        # A resolver may cut it short there, and find another host.
        raise ConfigurationError(f"hostname is a host's name or address, without spaces, not {hostname[:80]!r}")
    return hostname


def _mechanisms(
    username: str | None,
    password: str | None,
    auth: Mechanism | Iterable[Mechanism] | None,
    *,
    is_secure: bool,
) -> tuple[Mechanism, ...]:
    if auth is not None:
        if username is not None or password is not None:
            raise ConfigurationError("pass either auth= or username= and password=, not both")
        mechanisms = (auth,) if isinstance(auth, Mechanism) else tuple(auth)
        if not mechanisms or not all(isinstance(mechanism, Mechanism) for mechanism in mechanisms):
            raise ConfigurationError("auth is a mechanism of smtplite.sasl, or several")
        return mechanisms
    if username is None and password is None:
        return ()
    if username is None or password is None:
        raise ConfigurationError("username and password go together: one of them is missing")
    return password_mechanisms(username, password, is_secure=is_secure)


def _is_loopback(hostname: str) -> bool:
    try:
        return ipaddress.ip_address(hostname).is_loopback
    except ValueError:
        return hostname.lower() in ("localhost", "localhost.")


def _default_port(mode: TLSMode, *, lmtp: bool) -> int:
    if mode == "implicit":
        return 465
    if lmtp:
        return 24
    return 25 if mode == "none" else 587


def _domain(local_hostname: str | None) -> Domain | None:
    if local_hostname is None:
        return None
    try:
        return Domain.parse(local_hostname)
    except MessageError as error:
        raise ConfigurationError(f"local_hostname: {error}") from error


def _source(address: tuple[str, int] | None) -> tuple[str, int] | None:
    if address is not None:
        if not isinstance(address, tuple) or len(address) != 2 or not isinstance(address[0], str):
            raise ConfigurationError(f"source_address is (address, port), not {address!r}")
        _check_number("source_address's port", address[1], 0, 65535, whole=True)
    return address


def _check_number(name: str, value: object, least: float, most: float, *, whole: bool = False) -> None:
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
        limit = f"at least {least:g}" if most == math.inf else f"{least:g} to {most:g}"
        raise ConfigurationError(f"{name} is a {'whole ' if whole else ''}number, {limit}, not {value!r}")


def _check_rate_limit(limit: object) -> AbstractAsyncContextManager[object] | None:
    if limit is not None and not isinstance(limit, AbstractAsyncContextManager):
        raise ConfigurationError(f"rate_limit is an async context manager, not {type(limit).__name__}")
    return limit


def _check_timeout(timeout: float | None) -> float | None:
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0):
        raise ConfigurationError(f"timeout is a number of seconds, or None, not {timeout!r}")
    return timeout
