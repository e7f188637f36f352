"""Client options in a URL: ``smtp://me:p%40ss@host:587?max_connections=4``.

A URL may hold a password, so no error shows any part of it but the names of its query options.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from smtplite.errors import ConfigurationError

__all__ = ["options_of"]

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
