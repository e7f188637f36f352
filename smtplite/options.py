"""The options of a Client: its timeouts, the checks of its options, and its URL.

A URL may hold a password, so no error shows any part of it but the names of its query options.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
import ssl
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import attrs
import idna

from smtplite.callbacks import check_function
from smtplite.errors import ConfigurationError, MessageError
from smtplite.protocol.paths import Domain
from smtplite.sasl import Mechanism, password_mechanisms
from smtplite.system.sockets import unix_family

if TYPE_CHECKING:
    from anyio.abc import ByteStream

    from smtplite.message.signing import Sign
    from smtplite.trace import Trace

__all__ = ["Options", "Security", "TLSMode", "Timeouts", "check_flag", "check_number", "check_timeout", "options_of"]

TLSMode: TypeAlias = Literal["implicit", "starttls", "none"]
#: "verified": TLS, with a verified certificate that names the server; or a Unix socket, where nobody can listen in.
#: "encrypted": TLS, with a server that was not verified. "clear": no TLS.
Security: TypeAlias = Literal["verified", "encrypted", "clear"]

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


def _file(file: str) -> ssl.SSLContext:
    """Return a context that trusts the CAs of a file, and no other."""
    if not file:  # it would be one that trusts the system's
        raise ValueError("no name")
    context = ssl.create_default_context(cafile=file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False
    return context


def _positive(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ConfigurationError(f"timeout {attribute.name} must be a positive number of seconds, not {_shown(value)}")


@attrs.frozen(kw_only=True)
class Timeouts:
    """How long each phase may take, in seconds; `math.inf` for no limit.

    People wait for the first ones, so their defaults are short. The default for the verdict is the RFC's: if you give
    up on it early and send again, you may deliver twice. `Timeouts.rfc5321` has all values of the RFC (RFC 5321
    4.5.3.2).

    Attributes:
        pool: waiting for a connection while others use all of them.
        connect: opening the connection, and once more the same time for its TLS handshake.
        greeting: the server's greeting.
        command: the reply to each command.
        data_init: the reply to DATA.
        data_block: each piece of content, until it is written to the network.
        end_of_data: the verdict. A short timeout duplicates mail: the server may already be delivering.
        quit: the reply to QUIT; nothing depends on it.
    """

    pool: float = attrs.field(default=60.0, validator=_positive)
    connect: float = attrs.field(default=10.0, validator=_positive)
    greeting: float = attrs.field(default=30.0, validator=_positive)
    command: float = attrs.field(default=60.0, validator=_positive)
    data_init: float = attrs.field(default=120.0, validator=_positive)
    data_block: float = attrs.field(default=180.0, validator=_positive)
    end_of_data: float = attrs.field(default=600.0, validator=_positive)
    quit: float = attrs.field(default=5.0, validator=_positive)

    @classmethod
    def rfc5321(cls) -> Timeouts:
        """Return what RFC 5321 4.5.3.2 asks for: five minutes for the greeting and for each command.

        For servers that are slow on purpose, and for programs that nobody waits for. What the RFC does not mention
        keeps its default.
        """
        return cls(greeting=300.0, command=300.0, data_init=120.0, data_block=180.0, end_of_data=600.0)


def _timeouts(timeouts: Timeouts | None) -> Timeouts:
    if timeouts is not None and not isinstance(timeouts, Timeouts):
        raise ConfigurationError(
            f"timeouts must be a smtplite.Timeouts, not {type(timeouts).__name__}: to limit the whole call use timeout="
        )
    return Timeouts() if timeouts is None else timeouts


@attrs.define(kw_only=True, eq=False, repr=False)
class Options:
    """The arguments of Client, by their names there, checked and completed; see Client for what each means.

    One job, although long: each attribute is an argument. Those with "text" in their metadata may also stand in a URL,
    and "text" says how the value is made from what stands there; "name" gives another name in the URL, if there is one.

    Attributes:
        mode: when TLS begins: `tls`, or what follows from the others.
        mechanisms: with which to authenticate, the preferred one first; empty: not at all.
        local_domain: `local_hostname`, parsed; None: not known yet.
        address: host and port; not used with `socket_path` or `connect`.
        server: what it connects to, for display.

    Raises:
        ConfigurationError: an option is wrong; says which.
    """

    hostname: str | None = None
    port: int | None = None
    tls: TLSMode | None = attrs.field(default=None, metadata={"text": str})
    tls_context: ssl.SSLContext | None = attrs.field(default=None, metadata={"name": "ca", "text": _file})
    tls_hostname: str | None = attrs.field(default=None, metadata={"text": str})
    username: str | None = None
    password: str | None = None
    auth: Mechanism | Iterable[Mechanism] | None = None
    allow_insecure_auth: bool = attrs.field(default=False, metadata={"text": _boolean})
    local_hostname: str | None = attrs.field(default=None, metadata={"text": str})
    source_address: tuple[str, int] | None = None
    socket_path: str | None = None
    connect: Callable[[], Awaitable[ByteStream]] | None = None
    lmtp: bool = False
    pipelining: bool = attrs.field(default=True, metadata={"text": _boolean})
    chunking: bool = False
    max_connections: int = attrs.field(default=5, metadata={"text": int})
    max_messages_per_connection: int | None = attrs.field(default=None, metadata={"text": int})
    idle_timeout: float = attrs.field(default=30.0, metadata={"text": float})
    max_age: float | None = attrs.field(default=None, metadata={"text": float})
    timeouts: Timeouts = attrs.field(default=None, converter=_timeouts)
    timeout: float | None = attrs.field(default=None, metadata={"text": float})
    rate_limit: AbstractAsyncContextManager[object] | None = None
    sign: Sign | None = None
    trace: Trace | None = None

    mode: TLSMode = attrs.field(init=False)
    mechanisms: tuple[Mechanism, ...] = attrs.field(init=False)
    local_domain: Domain | None = attrs.field(init=False)
    address: tuple[str, int] = attrs.field(init=False)
    server: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        if self.hostname is None and self.socket_path is None and self.connect is None:
            raise ConfigurationError("client has no server: pass hostname, socket_path= or connect=")
        if self.socket_path is not None and self.connect is not None:
            raise ConfigurationError("client has two servers: pass socket_path= or connect=, not both")
        for name in ("allow_insecure_auth", "lmtp", "pipelining", "chunking"):
            check_flag(name, getattr(self, name))
        self.hostname = _host("hostname", self.hostname)
        self.socket_path = _path(self.socket_path)
        if self.connect is not None:
            check_function("connect", self.connect, "an async function without arguments", 0)
        self.mode = _tls_mode(self)
        self.tls_hostname = _tls_hostname(self.mode, _host("tls_hostname", self.tls_hostname) or self.hostname)
        self.tls_context = _tls_context(self.mode, self.tls_context)
        self.mechanisms = _mechanisms(self.username, self.password, self.auth, is_secure=self.is_secure)
        self.local_domain = _domain(self.local_hostname)
        port = self.port if self.port is not None else _default_port(self.mode, lmtp=self.lmtp)
        check_number("port", port, 1, 65535, whole=True)
        self.address = (self.hostname or "", port)
        self.server = self.socket_path or f"{self.hostname or 'connect='}:{port}"
        self.source_address = _source(self.source_address)
        self.timeout = check_timeout(self.timeout)
        self.rate_limit = _check_rate_limit(self.rate_limit)
        if self.sign is not None:
            check_function("sign", self.sign, "a function of a message's bytes", 1, is_async=False)
        if self.trace is not None:
            check_function("trace", self.trace, "a function of an event", 1, is_async=False)
        check_number("max_connections", self.max_connections, 1, math.inf, whole=True)
        if self.max_messages_per_connection is not None:
            check_number("max_messages_per_connection", self.max_messages_per_connection, 1, math.inf, whole=True)
        check_number("idle_timeout", self.idle_timeout, 0, math.inf)
        if self.max_age is not None:
            check_number("max_age", self.max_age, 0, math.inf)

    @property
    def is_local(self) -> bool:
        """True on a Unix socket, where nobody can listen in."""
        return self.socket_path is not None

    @property
    def is_secure(self) -> bool:
        """True if nobody can listen in when credentials and messages are sent."""
        return self.mode != "none" or self.is_local

    @property
    def security(self) -> Security:
        """What protects the connection when credentials and messages are sent."""
        if self.mode == "none":
            return "verified" if self.is_local else "clear"
        context = self.tls_context
        is_verified = context is None or (context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname)
        return "verified" if is_verified else "encrypted"


_MODES: Final = ("implicit", "starttls", "none")


def _tls_mode(options: Options) -> TLSMode:
    if options.tls is not None:
        if options.tls not in _MODES:
            raise ConfigurationError(f'tls must be "implicit", "starttls" or "none", not {_shown(options.tls)}')
        return options.tls
    if options.socket_path is not None:
        return "none"
    if options.port == 465:
        return "implicit"
    if options.lmtp and options.connect is None and options.hostname is not None and _is_loopback(options.hostname):
        return "none"
    return "starttls"


def _tls_hostname(mode: TLSMode, hostname: str | None) -> str:
    if mode == "none":
        return ""
    if hostname is None:
        raise ConfigurationError(f"tls={mode!r} has no name to verify: pass hostname or tls_hostname=")
    return hostname.removesuffix(".").partition("%")[0]  # the zone is for us alone


def _tls_context(mode: TLSMode, context: ssl.SSLContext | None) -> ssl.SSLContext | None:
    if context is not None and not isinstance(context, ssl.SSLContext):
        raise ConfigurationError(f"tls_context must be an ssl.SSLContext, not {type(context).__name__}")
    if context is not None and mode == "none":
        raise ConfigurationError(
            'tls_context is given and tls is "none": leave one of them out (in a URL, ca gives a tls_context)'
        )
    return context


#: What a resolver accepts; labels with an underscore occur in container networks.
_HOST: Final = re.compile(r"(?=.{1,254}$)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")


def _host(name: str, host: str | None) -> str | None:
    """Check a host's name or address; say what to write instead of what only looks like one (rule R33)."""
    if host is None:
        return None
    if not isinstance(host, str):
        raise ConfigurationError(f"{name} must be a str, not {type(host).__name__}")
    what = f"{name} must be only a host name or an address, not {_shown(host)}"
    if "://" in host:
        raise ConfigurationError(f"{what}: take off all but the name, or pass all of it to Client.from_url")
    if host[:1] == "[" and host[-1:] == "]":
        raise ConfigurationError(f"{what}: write {_shown(host[1:-1])}, without the brackets")
    if host.count(":") == 1 or "]:" in host:
        bare, _, port = host.rpartition(":")
        raise ConfigurationError(f"{what}: write {_shown(bare.strip('[]'))}, and port={port[:5] or 587}")
    if "@" in host:
        raise ConfigurationError(f"{what}: write what comes after the @")
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ConfigurationError(f"{what}: it is not an IPv6 address") from None
        return host
    if not host.isascii():
        try:
            idna.encode(host, uts46=True)  # as it will be done again, for the look-up and for the certificate
        except UnicodeError as error:
            raise ConfigurationError(f"{what}: {error}") from None
    elif _HOST.fullmatch(host) is None:
        # A resolver may cut it short at what does not belong there, and find another host.
        raise ConfigurationError(f"{what}: letters, digits, hyphens and dots, or an IP address")
    return host


def _path(path: str | None) -> str | None:
    """Check the path of a Unix socket: the system must get all of it."""
    if path is None:
        return None
    unix_family()
    if not isinstance(path, str):
        raise ConfigurationError(f"socket_path must be a str, not {type(path).__name__}")
    if not path or "\0" in path:
        raise ConfigurationError(f"socket_path must be a path without NUL, and not empty, not {_shown(path)}")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ConfigurationError(f"socket_path {_shown(path)} cannot be encoded: it holds a surrogate") from None
    return path


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."


_SHOWN_CHARACTERS: Final = 80


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
        if not isinstance(auth, (Mechanism, Iterable)):
            raise ConfigurationError(
                f"auth must be a mechanism of smtplite.sasl, or several, not {type(auth).__name__}"
            )
        mechanisms = (auth,) if isinstance(auth, Mechanism) else tuple(auth)
        if not mechanisms or not all(isinstance(mechanism, Mechanism) for mechanism in mechanisms):
            raise ConfigurationError("auth must be a mechanism of smtplite.sasl, or several")
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
            raise ConfigurationError(f"source_address must be (address, port), not {_shown(address)}")
        if address[0]:  # "": any, from a port of one's own
            try:
                ipaddress.ip_address(address[0])
            except ValueError:  # a name would have to be looked up, while the event loop stands still
                raise ConfigurationError(
                    f'source_address must be (IP address of this host, or "", and port), not {_shown(address[0])}'
                ) from None
        check_number("source_address's port", address[1], 0, 65535, whole=True)
    return address


def check_flag(name: str, value: object) -> None:
    """Raise ConfigurationError unless the value is True or False: a "no" from a file would count as True."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be True or False, not {_shown(value)}")


def check_number(name: str, value: object, least: float, most: float, *, whole: bool = False) -> None:
    """Raise ConfigurationError unless the value is a number within these limits."""
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
        limit = f"at least {least:g}" if most == math.inf else f"{least:g} to {most:g}"
        raise ConfigurationError(f"{name} must be a {'whole ' if whole else ''}number, {limit}, not {_shown(value)}")


def _check_rate_limit(limit: object) -> AbstractAsyncContextManager[object] | None:
    if limit is not None and not isinstance(limit, AbstractAsyncContextManager):
        raise ConfigurationError(f"rate_limit must be an async context manager, not {type(limit).__name__}")
    return limit


def check_timeout(timeout: float | None, name: str = "timeout") -> float | None:
    """Return the timeout of a call; raise ConfigurationError if it is not a number of seconds."""
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0):
        raise ConfigurationError(f"{name} must be a number of seconds, or None, not {_shown(timeout)}")
    return timeout


# The URL

_SCHEMES: Final[dict[str, dict[str, Any]]] = {
    "smtp": {},
    "smtps": {"tls": "implicit"},
    "lmtp": {"lmtp": True},
    "smtp+unix": {},
    "lmtp+unix": {"lmtp": True},
}


def options_of(url: str) -> dict[str, Any]:
    """Return the options of Client that the URL gives.

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
                "URL: only ?options may come after the host (percent-encode a / in a username or password)"
            )
    options.update(_query(parts.query))
    return options


#: As `smtplite.routes.Route.from_url` takes it.
_ROUTE: Final = re.compile(r"\s*[A-Za-z-]+\s*\(")


def _split(url: str) -> SplitResult:
    if not isinstance(url, str):
        raise ConfigurationError(f"URL must be a str, not {type(url).__name__}")
    if _ROUTE.match(url):
        raise ConfigurationError("URL names several servers: pass it to smtplite.routes.Route.from_url")
    if any(character <= " " or character == "\x7f" for character in url):  # urlsplit would drop some of them
        raise ConfigurationError("URL holds a space or a control character: percent-encode it")
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = None
    if parts is None or parts.scheme.lower() not in _SCHEMES:  # `from` would show the URL
        raise ConfigurationError(
            f"URL begins with none of {', '.join(f'{name}://' for name in _SCHEMES)}, or is not a URL"
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
        raise ConfigurationError("URL has no host, or no valid port, after the //")
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
        raise ConfigurationError("URL: an @ comes after the ?; percent-encode a ? before it as %3F, and the @ as %40")
    options: dict[str, Any] = {}
    fields = {
        field.metadata.get("name", field.name): field for field in attrs.fields(Options) if "text" in field.metadata
    }
    for name, text in parse_qsl(query, keep_blank_values=True):
        field = fields.get(name)
        if field is None:
            raise ConfigurationError(f"URL option {name!r} is not one of {', '.join(fields)}")
        if field.name in options:
            raise ConfigurationError(f"URL option {name!r} is given twice")
        convert = field.metadata["text"]
        try:
            options[field.name] = convert(text)
        except ssl.SSLError:
            raise ConfigurationError(f"URL option {name!r}: the file holds no CA certificate") from None
        except OSError as error:
            raise ConfigurationError(f"URL option {name!r}: the file cannot be read: {error.strerror}") from None
        except (ValueError, KeyError):
            raise ConfigurationError(
                f"URL option {name!r} has a value that is not a valid {convert.__name__.strip('_')}"
            ) from None
    return options
