"""Names from other libraries: whoever uses one here is told what to write instead."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Final, ParamSpec, TypeVar

from smtplite.errors import SMTPError

__all__ = ["METHODS", "OPTIONS", "explained"]

P = ParamSpec("P")
T = TypeVar("T")

#: Arguments that a client, or its `send`, has in other libraries: what to write instead of them.
OPTIONS: Final = {
    # smtplib, aiosmtplib, smtpproto
    "host": "write hostname=",
    "server": "write hostname=",
    "use_tls": 'use_tls=True is tls="implicit", which port 465 means anyway',
    "start_tls": 'STARTTLS is required unless you say otherwise; start_tls=False is tls="none"',
    "starttls": 'STARTTLS is required unless you say otherwise; without TLS: tls="none"',
    "validate_certs": "certificates are always verified; for your own CA write tls_context=",
    "verify": "certificates are always verified; for your own CA write tls_context=",
    "cert_bundle": "write tls_context=ssl.create_default_context(cafile=...)",
    "client_cert": "write tls_context= with a context that load_cert_chain was called on",
    "client_key": "write tls_context= with a context that load_cert_chain was called on",
    "certfile": "write tls_context= with a context that load_cert_chain was called on",
    "keyfile": "write tls_context= with a context that load_cert_chain was called on",
    "context": "write tls_context=",
    "ssl_context": "write tls_context=",
    "oauth_token_generator": "write auth=smtplite.sasl.XOAuth2(username, token function)",
    "authenticator": "write username= and password=, or auth=",
    "sock": "write connect= with a function that opens a stream",
    "loop": "a client runs on the event loop that calls it",
    "domain": "write local_hostname=",
    "connect_timeout": "write timeouts=Timeouts(connect=...)",
    # nodemailer, Django and others
    "user": "write username=",
    "login": "write username= and password=",
    "secure": 'secure=True is tls="implicit"; STARTTLS is required unless you say otherwise',
    "ssl": 'ssl=True is tls="implicit", which port 465 means anyway',
    "use_ssl": 'use_ssl=True is tls="implicit", which port 465 means anyway',
    "requireTLS": "TLS is required unless you say otherwise",
    "ignoreTLS": 'write tls="none"',
    "opportunisticTLS": "there is no opportunistic TLS",
    "name": "write local_hostname=",
    "helo": "write local_hostname=",
    "pool": "there is always one: max_connections= sets its size",
    "maxConnections": "write max_connections=",
    "maxMessages": "write max_messages_per_connection=",
    "rateLimit": "write rate_limit= with an async context manager",
    "connectionTimeout": "write timeouts=Timeouts(connect=...)",
    "greetingTimeout": "write timeouts=Timeouts(greeting=...)",
    "socketTimeout": "write timeouts=Timeouts(command=...)",
    "dkim": "write sign= with a function that signs",
    "logger": "write trace= with a function; the logger smtplite says the same at DEBUG",
    "debug": "write trace= with a function; the logger smtplite says the same at DEBUG",
    "debuglevel": "write trace= with a function; the logger smtplite says the same at DEBUG",
    # What smtplite.send passes on
    "from_addr": "write sender=",
    "to_addrs": "write recipients=",
    "mail_options": "write envelope=Envelope(...)",
    "rcpt_options": "write recipients=[Recipient(address, notify=...)]",
    # What exists only in a URL
    "ca": "write tls_context=ssl.create_default_context(cafile=...)",
    "url": "write Client.from_url(...)",
}

_OPENED: Final = "connections are opened when they are needed; to try the server: await client.check()"
_CLOSED: Final = "write await client.aclose(), or async with"
_RAW: Final = "async with client.session() as session: await session.command(...)"
#: Methods of smtplib, aiosmtplib, smtpproto and nodemailer: what to write instead of them.
METHODS: Final = {
    "connect": _OPENED,
    "is_connected": _OPENED,
    "quit": _CLOSED,
    "close": _CLOSED,
    "login": "give username= and password= to Client",
    "auth": "give auth= to Client",
    "starttls": "TLS is required unless you say otherwise: see tls= of Client",
    "send_message": "write await client.send(message)",
    "sendmail": "write await client.send(data, sender=..., recipients=[...])",
    "sendMail": "write await client.send(message)",
    "ehlo": "write await client.check()",
    "helo": "write await client.check()",
    "verify": _RAW,
    "has_extn": "write (await client.check()).extensions",
    "supports_extension": "write (await client.check()).extensions",
    "esmtp_features": "write (await client.check()).extensions",
    "set_debuglevel": "give trace= to Client",
    "set_timeout": "give timeout= to Client, or to send",
    **dict.fromkeys(("noop", "rset", "vrfy", "expn", "mail", "rcpt", "data", "docmd", "execute_command"), _RAW),
}


def explained(
    error: type[SMTPError], name: str, hints: Mapping[str, str]
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make a function say what to write when it is called with an argument that it does not have.

    Type checkers and `inspect.signature` see the function as it is.

    Args:
        error: what is raised instead of TypeError.
        name: what the function is called in the error.
        hints: argument -> what to write; for others, the argument whose name is nearest.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        parameters = [each for each in inspect.signature(function).parameters.values() if each.name != "self"]
        known = [each.name for each in parameters]
        positional = [each.name for each in parameters if each.kind is not inspect.Parameter.KEYWORD_ONLY]
        required = [each.name for each in parameters if each.default is inspect.Parameter.empty]
        offset = len(inspect.signature(function).parameters) - len(parameters)  # 1: a method's self

        @wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> T:
            by_position = positional[: len(args) - offset]
            for argument in kwargs:
                if argument not in known:
                    raise error(f"{name} has no argument {argument}{_hint(argument, hints, known)}")
                if argument in by_position:
                    raise error(f"{name} is given {argument} twice: by position and by name")
            if len(args) - offset > len(positional):
                those = f"all but {' and '.join(positional)}" if positional else "all of them"
                raise error(f"{name} is given arguments without their names: name {those}")
            if missing := [f"{argument}=" for argument in required if argument not in (*kwargs, *by_position)]:
                raise error(f"{name} needs {', '.join(missing)}")
            return function(*args, **kwargs)

        return checked

    return decorate


def _hint(argument: str, hints: Mapping[str, str], known: list[str]) -> str:
    if argument in hints:
        return f": {hints[argument]}"
    import difflib

    near = difflib.get_close_matches(argument, known, 1)
    return f": did you mean {near[0]}=?" if near else f"; it has {', '.join(known)}"
