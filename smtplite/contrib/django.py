"""Django's mail over one shared `smtplite.SyncClient`: requests and threads share its connections.

::

    EMAIL_BACKEND = "smtplite.contrib.django.EmailBackend"

Django makes a backend for nearly every message. Therefore the connections do not belong to the backend: all backends of
a process with the same configuration share one SyncClient. Its event loop begins with the first message, so a server
may fork its workers before that; `smtplite.sync` takes care of this, and of the end of the process.
"""

from __future__ import annotations

import inspect
import logging
import ssl
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from email import message_from_bytes
from email.headerregistry import AddressHeader
from email.message import Message
from email.policy import SMTP
from typing import Any, ClassVar, Final, TypeVar

import attrs
import django  # type: ignore[import-untyped]
from django.conf import settings  # type: ignore[import-untyped]
from django.core import mail  # type: ignore[import-untyped]
from django.core.exceptions import ImproperlyConfigured  # type: ignore[import-untyped]
from django.core.mail.backends.base import BaseEmailBackend  # type: ignore[import-untyped]

from smtplite.client import Client
from smtplite.errors import (
    AuthenticationError,
    ConfigurationError,
    ConnectError,
    MessageError,
    ServiceUnavailable,
    SMTPError,
    SMTPTimeout,
    TLSError,
)
from smtplite.options import Timeouts
from smtplite.results import Receipt
from smtplite.sync.client import SyncClient, begin, run, run_from_loop
from smtplite.system.processes import after_fork

__all__ = ["EmailBackend", "ImproperMailer", "close_connections"]

_T = TypeVar("_T")

#: Configurations whose connections are kept: each user of a site may have a password of their own.
MAX_CONFIGURATIONS: Final = 64

#: Until Django 6.1 there are no mailers.
_BaseError: Any = getattr(mail, "InvalidMailer", ImproperlyConfigured)

#: What Client has to be told by the names that Django has for it.
_NAMED_BY_DJANGO: Final = {"hostname", "port", "tls", "username", "password", "timeout"}
_CLIENT_OPTIONS: Final = frozenset(inspect.signature(Client).parameters) - _NAMED_BY_DJANGO

_logger = logging.getLogger(__name__)


class ImproperMailer(ConfigurationError, _BaseError):  # type: ignore[misc]
    """The settings, or the OPTIONS of a mailer, are wrong: Django's ImproperlyConfigured (InvalidMailer), and ours."""


# What a process sends with


@attrs.define(eq=False)
class _Shared:
    """A SyncClient, and how many calls use it now."""

    client: SyncClient
    users: int = 0
    is_dropped: bool = False


class _Clients:
    """The SyncClients of this process by their configurations."""

    def __init__(self, inherited: Mapping[Hashable, _Shared] | None = None) -> None:
        self._lock = threading.Lock()
        # A client that was forked lets go of its parent's connections itself, when it is used first.
        self._shared: OrderedDict[Hashable, _Shared] = OrderedDict(
            (key, _Shared(shared.client)) for key, shared in (inherited or {}).items()
        )

    def after_fork(self) -> _Clients:
        """Return what the child has: the parent's lock may be held, and its calls are not the child's."""
        return _Clients(self._shared)

    @contextmanager
    def lent(self, key: Hashable, make: Callable[[], SyncClient]) -> Iterator[SyncClient]:
        """Lend the client for a configuration, for the block."""
        with self._lock:
            shared = self._shared.get(key)
            if shared is None:
                shared = self._shared[key] = _Shared(make())
            self._shared.move_to_end(key)
            shared.users += 1
            surplus = self._drop(len(self._shared) - MAX_CONFIGURATIONS)
        for client in surplus:
            begin(client, Client.aclose)
        try:
            yield shared.client
        finally:
            with self._lock:
                shared.users -= 1
                is_over = shared.is_dropped and not shared.users
            if is_over:
                begin(shared.client, Client.aclose)

    def _drop(self, count: int) -> list[SyncClient]:
        """Forget the configurations that were used least recently; return the clients that nobody uses."""
        unused = []
        for _ in range(count):
            _, shared = self._shared.popitem(last=False)
            shared.is_dropped = True
            if not shared.users:
                unused.append(shared.client)
        return unused

    def close(self) -> None:
        """End the connections that nobody uses now, and the others when their calls are done."""
        with self._lock:
            clients = self._drop(len(self._shared))
        for wait in [begin(client, Client.aclose) for client in clients]:
            wait()


_clients = _Clients()


def _begin_child() -> None:
    global _clients
    _clients = _clients.after_fork()


after_fork(_begin_child)


def close_connections() -> None:
    """Close the connections of this process, when their messages are done; the next message opens new ones.

    You do not have to call it: servers close connections that are idle for long, and the end of the interpreter closes
    the rest.
    """
    _clients.close()


# The backend


class EmailBackend(BaseEmailBackend):  # type: ignore[misc]
    """Sends Django's messages by a SyncClient that all backends with the same configuration share.

    The arguments are those of Django's own SMTP backend. Without `alias`, what is None comes from the settings
    ``EMAIL_HOST``, ``EMAIL_PORT`` and so on; with it, from defaults.

    Args:
        host: the server.
        port: None, with `alias`: 465 with `use_ssl`, 587 with `use_tls`, else 25.
        username: authenticate, if there is also a password.
        password: see `username`.
        use_tls: STARTTLS, required.
        fail_silently: do not raise errors of the server or of the network; return how many messages were sent. An error
            in a message or in the settings is still raised.
        use_ssl: TLS from the first byte. With neither: unencrypted, without authentication.
        timeout: seconds for each phase of the dialogue; None: Client's `Timeouts`.
        ssl_keyfile: of a client certificate.
        ssl_certfile: a client certificate; the server's is verified with the system's CAs as always.
        alias: the key in ``MAILERS``, given by Django.
        kwargs: any other option of `smtplite.Client`, such as ``allow_insecure_auth``, ``tls_context`` or
            ``max_connections``.

    Raises:
        ImproperMailer: the configuration is wrong; says which part.
    """

    #: Further options of `smtplite.Client`, for subclasses; arguments win.
    client_options: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        username: str | None = None,
        password: str | None = None,
        use_tls: bool | None = None,
        fail_silently: bool = False,
        use_ssl: bool | None = None,
        timeout: float | None = None,
        ssl_keyfile: str | None = None,
        ssl_certfile: str | None = None,
        *,
        alias: str | None = None,
        **kwargs: Any,
    ) -> None:
        own = {name: kwargs.pop(name) for name in _CLIENT_OPTIONS & kwargs.keys()}
        if alias is not None:
            kwargs["alias"] = alias
        super().__init__(**kwargs)  # which says what it thinks of the rest
        self.alias = alias
        self.fail_silently = fail_silently
        self.host = host
        self.port = port
        self.username = username
        self.password = password
        self.use_tls = use_tls
        self.use_ssl = use_ssl
        self.timeout = timeout
        self.ssl_keyfile = ssl_keyfile
        self.ssl_certfile = ssl_certfile
        self._options: dict[str, Any] = {**self.client_options, **own}
        if alias is None:
            self._read_settings()
        elif host is None and not {"socket_path", "connect"} & self._options.keys():
            raise self._improper("OPTIONS must define 'host'")
        if self.use_tls and self.use_ssl:
            raise self._improper("use_tls and use_ssl cannot be combined: set only one of them to True")
        if self.port is None:
            self.port = 465 if self.use_ssl else 587 if self.use_tls else 25
        self._check_credentials()
        self._is_open = False
        self._lock = threading.RLock()

    def _read_settings(self) -> None:
        self.host = self.host or settings.EMAIL_HOST
        self.port = self.port or settings.EMAIL_PORT
        for name, setting in (
            ("username", "EMAIL_HOST_USER"),
            ("password", "EMAIL_HOST_PASSWORD"),
            ("use_tls", "EMAIL_USE_TLS"),
            ("use_ssl", "EMAIL_USE_SSL"),
            ("timeout", "EMAIL_TIMEOUT"),
            ("ssl_keyfile", "EMAIL_SSL_KEYFILE"),
            ("ssl_certfile", "EMAIL_SSL_CERTFILE"),
        ):
            if getattr(self, name) is None:
                setattr(self, name, getattr(settings, setting))

    def _check_credentials(self) -> None:
        is_clear = not self.use_tls and not self.use_ssl and self._options.get("socket_path") is None
        has_credentials = bool(self.username and self.password) or self._options.get("auth") is not None
        if is_clear and has_credentials and not self._options.get("allow_insecure_auth"):
            raise self._improper(
                "a user name and a password would be sent unencrypted: set use_tls (EMAIL_USE_TLS) or use_ssl "
                "(EMAIL_USE_SSL) to True, or the option allow_insecure_auth"
            )

    def _improper(self, text: str) -> ImproperMailer:
        return ImproperMailer(text if self.alias is None else f"MAILERS[{self.alias!r}]: {text}")

    def open(self) -> bool | None:
        """Make sure that the server can be reached, and that it accepts our credentials.

        Returns:
            True if the server was asked, False if it had been asked before, None if it failed silently.

        Raises:
            SMTPError: as `smtplite.Client.check`, unless `fail_silently`.
        """
        with self._lock:
            if self._is_open:
                return False
            try:
                self._call(Client.check)
            except SMTPError as error:
                self._swallow(error)
                return None
            self._is_open = True
            return True

    async def aopen(self) -> bool | None:
        """Do what `open` does, in an asynchronous view."""
        if self._is_open:
            return False
        try:
            await self._acall(Client.check)
        except SMTPError as error:
            self._swallow(error)
            return None
        self._is_open = True
        return True

    def close(self) -> None:
        """Forget what `open` found. The connections stay open for the next message of any backend."""
        with self._lock:
            self._is_open = False

    async def aclose(self) -> None:
        """Do what `close` does, in an asynchronous view."""
        self._is_open = False

    async def __aenter__(self) -> EmailBackend:
        """`aopen`."""
        await self.aopen()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """`aclose`."""
        await self.aclose()

    def send_messages(self, email_messages: Iterable[Any]) -> int:
        """Send messages, one after another.

        Each message that was accepted for somebody has its receipt afterwards, as ``message.smtplite_receipt``.

        Returns:
            How many were sent; a message without recipients is not.

        Raises:
            SMTPError: as `smtplite.Client.send`, for the first message that failed, unless `fail_silently`; those
                after it are not sent.
            ValueError: a message cannot be sent as it is; MessageError among them.
        """
        sent = 0
        for message in email_messages or ():
            send = self._prepare(message)
            if send is None:
                continue
            try:
                receipt = self._call(send)
            except SMTPError as error:
                self._swallow(error)
                if _concerns_all(error):
                    break
                continue
            _record(message, receipt)
            sent += 1
        return sent

    async def asend_messages(self, email_messages: Iterable[Any]) -> int:
        """Do what `send_messages` does, in an asynchronous view: the event loop goes on meanwhile.

        If it is cancelled, it gives up the message that is under way: it may have been delivered, or not.
        """
        sent = 0
        for message in email_messages or ():
            send = self._prepare(message)
            if send is None:
                continue
            try:
                receipt = await self._acall(send)
            except SMTPError as error:
                self._swallow(error)
                if _concerns_all(error):
                    break
                continue
            _record(message, receipt)
            sent += 1
        return sent

    def _prepare(self, message: Any) -> Callable[[Client], Awaitable[Receipt]] | None:
        """Return what sends the message; None: there is nobody to send it to."""
        recipients = message.recipients()
        if not recipients:
            return None
        sender = _addr_spec(message.from_email)
        addresses = [_addr_spec(recipient) for recipient in recipients]
        content = _content(message)

        async def send(client: Client) -> Receipt:
            return await client.send(content, sender=sender, recipients=addresses)

        return send

    def _swallow(self, error: SMTPError) -> None:
        """Raise the error again, unless it is one to be silent about."""
        if isinstance(error, (ConfigurationError, MessageError)) or not self.fail_silently:
            raise error

    def _call(self, action: Callable[[Client], Awaitable[_T]]) -> _T:
        with _clients.lent(self._key(), self._make_client) as client:
            return run(client, action)

    async def _acall(self, action: Callable[[Client], Awaitable[_T]]) -> _T:
        with _clients.lent(self._key(), self._make_client) as client:
            return await run_from_loop(client, action)

    def _key(self) -> Hashable:
        key = (
            self.host,
            self.port,
            self.username,
            self.password,
            bool(self.use_tls),
            bool(self.use_ssl),
            self.timeout,
            self.ssl_keyfile,
            self.ssl_certfile,
            frozenset(
                (name, tuple(value) if isinstance(value, list) else value) for name, value in self._options.items()
            ),
        )
        hash(key)
        return key

    def _make_client(self) -> SyncClient:
        options = dict(self._options)
        if self.username and self.password:  # one without the other: as Django's own, no authentication
            options.update(username=self.username, password=self.password)
        if self.timeout is not None:
            options.setdefault("timeouts", _timeouts(self.timeout))
        if self.ssl_certfile or self.ssl_keyfile:
            if options.get("tls_context") is not None:
                raise self._improper("tls_context and ssl_certfile are given: load the certificate into tls_context")
            options["tls_context"] = self._client_certificate()
        try:
            return SyncClient(
                None if self.host is None else str(self.host),
                self.port,
                tls="implicit" if self.use_ssl else "starttls" if self.use_tls else "none",
                **options,
            )
        except ConfigurationError as error:
            raise self._improper(str(error)) from error

    def _client_certificate(self) -> ssl.SSLContext | None:
        if not self.use_tls and not self.use_ssl:
            return None
        if not self.ssl_certfile:
            raise self._improper("ssl_keyfile (EMAIL_SSL_KEYFILE) needs ssl_certfile (EMAIL_SSL_CERTFILE)")
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.ssl_certfile, self.ssl_keyfile)
        except (OSError, ssl.SSLError) as error:
            raise self._improper(f"the client certificate {self.ssl_certfile!r} cannot be read: {error}") from error
        return context


def _content(message: Any) -> Message:
    """Return the message as an object, not as bytes: Client writes it again for a server without 8BITMIME."""
    if django.VERSION >= (6, 0):
        return message.message(policy=SMTP)  # type: ignore[no-any-return]
    # What Django made until then has a charset of Django's, in which the standard library cannot write 7 bits.
    return message_from_bytes(message.message().as_bytes(linesep="\r\n"))


def _timeouts(seconds: float) -> Timeouts:
    usual = Timeouts().quit
    return Timeouts(
        pool=seconds,
        connect=seconds,
        greeting=seconds,
        command=seconds,
        data_init=seconds,
        data_block=seconds,
        end_of_data=seconds,
        quit=min(seconds, usual),
    )


def _addr_spec(address: object) -> str:
    """Return the address alone: ``ada@example.org`` of ``Ada <ada@example.org>``.

    Raises:
        MessageError: it is not one address; or there is a line break in it.
    """
    text = str(address)
    if "\r" in text or "\n" in text:
        raise MessageError(f"address has a line break: {text[:80]!r}")
    mailboxes = AddressHeader.value_parser(text).all_mailboxes
    if len(mailboxes) != 1:
        raise MessageError(f"not one address, but {len(mailboxes)}: {text[:80]!r}")
    return str(mailboxes[0].addr_spec)  # which Client checks


def _concerns_all(error: SMTPError) -> bool:
    """Return True if the next message would fail for the same reason: no connection could be opened."""
    return isinstance(error, (ConnectError, TLSError, SMTPTimeout, ServiceUnavailable, AuthenticationError))


def _record(message: Any, receipt: Receipt) -> None:
    message.smtplite_receipt = receipt
    if not receipt.complete:
        others = [f"{address}: {reply}" for address, reply in receipt.refused.items()]
        others += [f"{address}: unknown" for address in receipt.unknown]
        others += [f"{address}: not sent" for address in receipt.not_sent]
        _logger.warning("message %s was not accepted for everybody: %s", receipt.message_id, "; ".join(others))
