"""R33: whatever is passed as an argument, and whatever a callback returns or raises, is an error that names it.

Never a bare TypeError of a line of ours, a hang, or an ExceptionGroup.
"""

from __future__ import annotations

import math
import os
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import attrs
import pytest

import smtplite
from smtplite import Client, ConfigurationError, SMTPError, Timeouts, sasl
from smtplite.testing import SMTPServer

RAW = b"From: me@example.org\r\nTo: you@example.org\r\nSubject: hi\r\n\r\nbody\r\n"

JUNK: list[Any] = [
    True,
    0,
    -1,
    1.5,
    math.nan,
    2**70,
    "",
    " ",
    "\0",
    "a\0b",
    "a\r\nb",
    "\ud800",
    "\udc80",
    "x" * 70_000,
    b"",
    b"host",
    [],
    ["x"],
    {},
    (),
    ("127.0.0.1",),
    ("127.0.0.1", "25"),
    ("\0", 0),
    ("\ud800", 0),
    ("localhost", 0),
    (b"127.0.0.1", 0),
    ("127.0.0.1", -1),
    object(),
    int,
    lambda: None,
    lambda *_: None,
    ssl,
    Timeouts,
]

ARGUMENTS = [
    "hostname",
    "port",
    "tls",
    "tls_context",
    "tls_hostname",
    "username",
    "password",
    "auth",
    "allow_insecure_auth",
    "local_hostname",
    "source_address",
    "socket_path",
    "connect",
    "lmtp",
    "pipelining",
    "chunking",
    "max_connections",
    "max_messages_per_connection",
    "idle_timeout",
    "max_age",
    "timeouts",
    "timeout",
    "rate_limit",
    "sign",
    "trace",
]


def test_every_argument_is_here() -> None:
    from inspect import signature

    assert [*signature(Client).parameters] == ARGUMENTS


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_an_argument_that_is_nonsense_is_taken_or_named(argument: str) -> None:
    """R33."""
    refused = 0
    for value in JUNK:
        options: dict[str, Any] = {"hostname": "mx.example.com", argument: value}
        if argument == "password":
            options["username"] = "me"
        if argument == "username":
            options["password"] = "secret"
        if argument in ("socket_path", "connect"):
            options.update(hostname=None, tls="none")
        error = refusal(options)
        if error is not None:
            refused += 1
            assert argument in str(error), (value, error)
            assert str(error).isprintable(), (value, error)
            assert len(str(error)) < 400, (value, error)
            assert not error.retryable
    assert refused >= len(JUNK) // 2


def refusal(options: dict[str, Any]) -> ConfigurationError | None:
    try:
        Client(**options)
    except ConfigurationError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("[::1]", "write '::1', without the brackets"),
        ("mx.example.com:25", "write 'mx.example.com', and port=25"),
        ("127.0.0.1:2525", "write '127.0.0.1', and port=2525"),
        ("[::1]:25", "write '::1', and port=25"),
        ("smtp://mx.example.com", "Client.from_url"),
        ("smtps://mx.example.com:465/", "Client.from_url"),
        ("me@mx.example.com", "write what comes after the @"),
        ("mx.example.com/", "letters, digits, hyphens and dots"),
        ("mx..example.com", "letters, digits, hyphens and dots"),
        (".", "letters, digits, hyphens and dots"),
        ("mx.example.com\0", "letters, digits, hyphens and dots"),
        ("a" * 64, "letters, digits, hyphens and dots"),
        ("a." * 128, "letters, digits, hyphens and dots"),
        ("::1::", "it is not an IPv6 address"),
        ("::1%", "it is not an IPv6 address"),
        ("\xfc" * 64, "Label too long"),
        ("a\ud800.example", "hostname"),
        ("\u2028.example", "hostname"),
    ],
)
@pytest.mark.parametrize("argument", ["hostname", "tls_hostname"])
def test_what_looks_like_a_host_says_what_to_write_instead(argument: str, host: str, says: str) -> None:
    """R33."""
    with pytest.raises(ConfigurationError) as caught:
        Client(**{"hostname": "mx.example.com", argument: host})  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"{argument} must be only a host name or an address, not ")
    assert says.replace("hostname", argument) in str(caught.value)


@pytest.mark.parametrize(
    "host",
    [
        "mx.example.com",
        "mx.example.com.",
        "localhost",
        "mail_server",
        "mx-1",
        "127.0.0.1",
        "::1",
        "fe80::1%eth0",
        "::ffff:127.0.0.1",
        "b\xfccher.example",
        "xn--bcher-kva.example",
    ],
)
def test_what_is_a_host(host: str) -> None:
    Client(host)
    Client("mx.example.com", tls_hostname=host)


def test_of_an_address_with_a_zone_the_certificate_names_the_address() -> None:
    assert Client("fe80::1%eth0")._options.tls_hostname == "fe80::1"


@pytest.mark.parametrize("path", ["\0", "\0abstract", "/run/a\0b", "", "/run/\ud800"])
def test_a_path_of_which_the_system_would_see_a_part_is_none(path: str) -> None:
    with pytest.raises(ConfigurationError, match="socket_path"):
        Client(socket_path=path)


def test_a_path_that_is_no_utf_8_is_one() -> None:
    Client(socket_path=os.fsdecode(b"/run/\xff"))


@pytest.mark.parametrize("value", ["no", "false", 0, 1, None])
@pytest.mark.parametrize("flag", ["allow_insecure_auth", "lmtp", "pipelining", "chunking"])
def test_a_no_that_would_count_as_true_is_refused(flag: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"{flag} must be True or False"):
        Client("mx.example.com", **{flag: value})  # type: ignore[arg-type]


async def asynchronous(*_: object) -> bytes:
    return b""


class AsynchronousObject:
    async def __call__(self, *_: object) -> bytes:
        return b""


@pytest.mark.parametrize("argument", ["sign", "trace"])
@pytest.mark.parametrize("function", [asynchronous, AsynchronousObject(), lambda: None, lambda _a, _b: None])
def test_a_function_that_would_never_run_is_refused(argument: str, function: object) -> None:
    with pytest.raises(ConfigurationError, match=f"{argument} must be a function of"):
        Client("mx.example.com", **{argument: function})  # type: ignore[arg-type]


def test_a_function_that_cannot_be_called_as_it_will_be_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"connect must be an async function without arguments; .* 'host'"):
        Client(connect=lambda host: None, tls="none")  # type: ignore[arg-type, misc]
    with pytest.raises(ConfigurationError, match="token must be a str, or an async function of one argument"):
        sasl.XOAuth2("me", lambda: None)  # type: ignore[arg-type, misc]


def test_a_function_that_does_not_tell_its_arguments_is_taken() -> None:
    Client("mx.example.com", trace=print, sign=bytes)


# What callbacks return and raise


class Own(Exception):
    """The caller's."""


class Fake(anyio.abc.ByteStream):
    """A stream that greets, and then gives what it should not."""

    def __init__(self, then: object) -> None:
        self._then = [b"220 hi\r\n", then]

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await anyio.lowlevel.checkpoint()
        value = self._then.pop(0) if len(self._then) > 1 else self._then[0]
        if isinstance(value, BaseException):
            raise value
        return value  # type: ignore[return-value]

    async def send(self, item: bytes) -> None:
        await anyio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        pass


def returning(value: object) -> Callable[..., Awaitable[Any]]:
    async def function(*_: object) -> object:
        await anyio.lowlevel.checkpoint()
        if isinstance(value, BaseException):
            raise value
        return value

    return function


class NoTypes:
    """Has the methods of a stream, and none of their results."""

    async def receive(self, *_: object) -> None:
        return None

    async def send(self, *_: object) -> None:
        return None

    async def aclose(self) -> None:
        raise Own("does not close, either")


CONNECTS: list[tuple[str, Callable[..., Any], type[BaseException], str]] = [
    ("None", returning(None), ConfigurationError, "connect= returned NoneType, which has no send"),
    ("an object", returning(object()), ConfigurationError, "connect= returned object, which has no send"),
    ("octets", returning(b"220"), ConfigurationError, "connect= returned bytes, which has no send"),
    ("a class", returning(Fake), ConfigurationError, "connect= returned a class, not a stream: call it"),
    ("no coroutine", lambda: Fake(b""), ConfigurationError, "connect= returned Fake, which cannot be awaited"),
    ("None at once", lambda: None, ConfigurationError, "connect= returned NoneType, which cannot be awaited"),
    ("no types", returning(NoTypes()), SMTPError, "connect="),
    ("a str to read", returning(Fake("250 hi\r\n")), SMTPError, "connect="),
    ("None to read", returning(Fake(None)), SMTPError, "connect="),
    ("an end", returning(Fake(b"")), SMTPError, "closed"),
    ("an error of its own", returning(Fake(Own("mine"))), SMTPError, "mine"),
    ("its own error", returning(Own("mine")), Own, "mine"),
    ("a group", returning(ExceptionGroup("theirs", [Own("mine")])), ExceptionGroup, "theirs"),
    ("an OSError", returning(OSError(111, "refused")), smtplite.ConnectError, "refused"),
    ("an end at once", returning(anyio.EndOfStream()), smtplite.ConnectError, "EndOfStream"),
    ("a TypeError of its own", returning(TypeError("mine")), TypeError, "mine"),
]

CALLS: dict[str, Callable[[Client], Awaitable[object]]] = {
    "send": lambda client: client.send(RAW),
    "check": lambda client: client.check(),
    "session": lambda client: _session(client),
    "send_many": lambda client: _send_many(client),
}


async def _session(client: Client) -> None:
    async with client.session():
        pass


async def _send_many(client: Client) -> None:
    async with client.send_many([RAW, RAW], reconnect=0) as deliveries:
        async for delivery in deliveries:
            delivery.result()


async def failure(call: str, client: Client) -> BaseException:
    with anyio.fail_after(20):
        with pytest.raises(BaseException) as caught:  # noqa: PT011 (which one it is, is what is asked)
            await CALLS[call](client)
    return caught.value


@pytest.mark.anyio
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("connect", "kind", "text"), [case[1:] for case in CONNECTS], ids=[c[0] for c in CONNECTS])
async def test_what_connect_returns_and_raises(
    call: str, connect: Callable[..., Any], kind: type[BaseException], text: str
) -> None:
    """R33."""
    async with Client(connect=connect, tls="none", timeouts=Timeouts(command=1, greeting=1)) as client:
        error = await failure(call, client)
    assert isinstance(error, kind), error
    assert text in str(error)
    assert not isinstance(error, ExceptionGroup) or kind is ExceptionGroup


TOKENS: list[tuple[str, Callable[..., Any], type[BaseException], str]] = [
    ("None", returning(None), smtplite.AuthenticationError, "token callback gave a value that is NoneType"),
    ("octets", returning(b"token"), smtplite.AuthenticationError, "token callback gave a value that is bytes"),
    ("nothing", returning(""), smtplite.AuthenticationError, "token callback gave a value that is empty"),
    ("a space", returning("Bearer x"), smtplite.AuthenticationError, "token callback gave a value that"),
    ("a surrogate", returning("\ud800"), smtplite.AuthenticationError, "token callback gave a value that"),
    ("no coroutine", lambda _: "token", ConfigurationError, "token callback returned str, which cannot be awaited"),
    ("its own error", returning(Own("mine")), Own, "mine"),
    ("a TypeError of its own", returning(TypeError("mine")), TypeError, "mine"),
]


@pytest.mark.anyio
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("token", "kind", "text"), [case[1:] for case in TOKENS], ids=[case[0] for case in TOKENS])
async def test_what_a_token_callback_returns_and_raises(
    call: str, token: Callable[..., Any], kind: type[BaseException], text: str
) -> None:
    """R33."""
    async with SMTPServer(tls="starttls", tokens={"me": "t0ken"}) as server:
        options = {"tls_context": server.ca_context(), "auth": sasl.XOAuth2("me", token)}
        async with Client(server.host, server.port, **options) as client:  # type: ignore[arg-type]
            error = await failure(call, client)
    assert type(error) is kind
    assert text in str(error)


class Limit:
    """A rate limit that does what it is told."""

    def __init__(self, enters: object, leaves: object) -> None:
        self._enters, self._leaves = enters, leaves

    def __aenter__(self) -> Any:
        return self._enters(self) if callable(self._enters) else self._enters

    def __aexit__(self, *_: object) -> Any:
        return self._leaves(self) if callable(self._leaves) else self._leaves


FINE = returning(None)


@pytest.mark.anyio
@pytest.mark.parametrize("call", ["send", "send_many"])
@pytest.mark.parametrize(
    ("limit", "kind", "text"),
    [
        (Limit(None, FINE), ConfigurationError, "__aenter__ of rate_limit= returned NoneType"),
        (Limit(FINE, None), ConfigurationError, "__aexit__ of rate_limit= returned NoneType"),
        (Limit(returning(Own("mine")), FINE), Own, "mine"),
        (Limit(FINE, returning(Own("mine"))), Own, "mine"),
        (Limit(returning(TypeError("mine")), FINE), TypeError, "mine"),
    ],
)
async def test_what_a_rate_limit_returns_and_raises(
    call: str, limit: Any, kind: type[BaseException], text: str
) -> None:
    """R33."""
    async with SMTPServer() as server, Client(server.host, server.port, tls="none", rate_limit=limit) as client:
        error = await failure(call, client)
        assert type(error) is kind
        assert text in str(error)
        assert server.messages == []


@pytest.mark.anyio
@pytest.mark.parametrize("call", ["send", "send_many"])
@pytest.mark.parametrize(
    "returned", [None, "X: y\r\n", bytearray(b"X: y\r\n"), 5, b"X: y", b"\r\n", b"X: \xff\r\n", Own("mine")]
)
async def test_what_sign_returns_and_raises(call: str, returned: object) -> None:
    """R33."""

    def sign(octets: bytes) -> Any:
        if isinstance(returned, BaseException):
            raise returned
        return returned

    async with SMTPServer() as server, Client(server.host, server.port, tls="none", sign=sign) as client:
        error = await failure(call, client)
        assert type(error) is smtplite.MessageError
        assert "sign=" in str(error)
        assert server.messages == []


@pytest.mark.anyio
@pytest.mark.parametrize("call", CALLS)
async def test_what_trace_raises_changes_nothing(call: str) -> None:
    """R33."""

    def trace(event: object) -> None:
        raise Own("mine")

    async with SMTPServer() as server, Client(server.host, server.port, tls="none", trace=trace) as client:
        await CALLS[call](client)


@attrs.frozen
class Mechanism(sasl.Mechanism):
    """One of the user's own, that yields what it is told to."""

    name = "XYZ"
    values: tuple[object, ...]

    def steps(self) -> sasl.Steps:
        for value in self.values:
            if isinstance(value, BaseException):
                raise value
            yield value  # type: ignore[misc]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("mechanism", "kind", "text"),
    [
        (Mechanism(()), ConfigurationError, "Mechanism.steps() ended before it gave a response"),
        (Mechanism(("x",)), ConfigurationError, "Mechanism.steps() gave str, not bytes"),
        (Mechanism((5,)), ConfigurationError, "Mechanism.steps() gave int, not bytes"),
        (Mechanism((None, None)), ConfigurationError, "Mechanism.steps() gave NoneType, not bytes"),
        (Mechanism((Own("mine"),)), Own, "mine"),
        (Mechanism((None, Own("mine"))), Own, "mine"),
    ],
)
@pytest.mark.parametrize("call", CALLS)
async def test_what_a_mechanism_of_the_users_own_gives(
    call: str, mechanism: sasl.Mechanism, kind: type[BaseException], text: str
) -> None:
    """R33."""
    async with SMTPServer(replies=(), users={"me": "x"}) as server:
        server.reply("EHLO", b"250-mx\r\n250 AUTH XYZ\r\n")
        server.reply("AUTH", "334 ")
        options = {"tls": "none", "allow_insecure_auth": True, "auth": mechanism}
        async with Client(server.host, server.port, **options) as client:  # type: ignore[arg-type]
            error = await failure(call, client)
    assert type(error) is kind
    assert text in str(error)


# The address that one connects from


@pytest.mark.anyio
async def test_a_source_address_that_is_not_ours_is_named() -> None:
    async with SMTPServer() as server:
        async with Client(server.host, server.port, tls="none", source_address=("192.0.2.1", 0)) as client:
            with pytest.raises(smtplite.ConnectError, match=r"source_address \('192\.0\.2\.1', 0\) cannot be used: "):
                await client.send(RAW)


@pytest.mark.anyio
async def test_a_source_address_of_the_other_family_is_named() -> None:
    async with SMTPServer() as server:
        async with Client(server.host, server.port, tls="none", source_address=("::1", 0)) as client:
            with pytest.raises(smtplite.ConnectError, match="it has no IPv6 address, but source_address is one"):
                await client.send(RAW)
        async with Client(server.host, server.port, tls="none", source_address=("", 0)) as client:
            assert (await client.send(RAW)).complete
