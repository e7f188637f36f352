"""What one `SMTP` object is connected to: its settings, its connection, and the commands that go over it."""

from __future__ import annotations

import inspect
import math
import socket
import ssl
import warnings
from collections.abc import Awaitable, Callable
from functools import cache
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias

import anyio
import anyio.abc
import anyio.to_thread

from smtplite import Client, DeliveryUnknown, RawSession, SMTPError, Timeouts
from smtplite.compat.aiosmtplib.exceptions import (
    SMTPException,
    SMTPHeloError,
    SMTPResponseException,
    SMTPServerDisconnected,
    SMTPTimeoutError,
    still_unknown,
    translated,
)
from smtplite.compat.aiosmtplib.parts import command_of, parse_esmtp_extensions
from smtplite.compat.aiosmtplib.sockets import ConnectedSocket
from smtplite.compat.aiosmtplib.values import (
    Default,
    SMTPResponse,
    SMTPStatus,
    SMTPTokenGenerator,
    SocketPathType,
    response_of,
)
from smtplite.protocol import Auth, AuthResponse, Command, Domain, Ehlo, Helo, Quit

__all__ = ["DEFAULT_TIMEOUT", "CompatWarning", "Connected", "Timeout"]

DEFAULT_TIMEOUT: Final = 60
#: The verdict is worth a longer wait: giving up on it and sending again may deliver twice (RFC 5321 4.5.3.2.6).
_VERDICT_SECONDS: Final = 600.0

_GIVEN_ELSEWHERE: Final = Default.token
Timeout: TypeAlias = float | Literal[Default.token] | None
_Unset: TypeAlias = Literal[Default.token]

_REMEDY: Final = (
    "pass use_tls=True if the port is for TLS from the start; if nobody can listen, set SMTP.ALLOW_INSECURE_AUTH = True"
)


class CompatWarning(UserWarning):
    """Something is less safe than it could be; says which setting decides it. Each is shown once in a process."""


_said: set[str] = set()


def _say_once(setting: str, text: str) -> None:
    if setting not in _said:
        _said.add(setting)
        warnings.warn(text, CompatWarning, stacklevel=_level_of_caller())


def _level_of_caller() -> int:
    """Return how far up the stack the program stands, whose line the warning shows: await keeps it there."""
    level, frame = 0, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith("smtplite."):
        level, frame = level + 1, frame.f_back
    return level


@cache
def _usual_context() -> ssl.SSLContext:
    return _new_context(None)


def _new_context(cert_bundle: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert_bundle is not None:  # beside the system's: that is how aiosmtplib reads it
        context.load_verify_locations(cafile=cert_bundle)
    return context


class Connected:
    """A connection, and its settings.

    One job, although long: each attribute is a setting, or part of what is known of the server, by aiosmtplib's names.

    Raises:
        ValueError: two settings cannot be combined.
    """

    #: Set it to True, on the class or on an object, to send a password unencrypted; only where nobody can listen in.
    ALLOW_INSECURE_AUTH: bool = False

    def __init__(
        self,
        *,
        hostname: str | None = None,
        port: int | None = None,
        username: str | bytes | None = None,
        password: str | bytes | None = None,
        oauth_token_generator: SMTPTokenGenerator | None = None,
        local_hostname: str | None = None,
        source_address: tuple[str, int] | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        use_tls: bool = False,
        start_tls: bool | None = None,
        validate_certs: bool = True,
        client_cert: str | None = None,
        client_key: str | None = None,
        tls_context: ssl.SSLContext | None = None,
        cert_bundle: str | None = None,
        socket_path: SocketPathType | None = None,
        sock: socket.socket | None = None,
    ) -> None:
        self.hostname = hostname
        self.port = port
        self._login_username = username
        self._login_password = password
        self._oauth_token_generator = oauth_token_generator
        self.local_hostname = local_hostname
        self.source_address = source_address
        self.timeout = timeout
        self.use_tls = use_tls
        self._start_tls_on_connect = start_tls
        self.validate_certs = validate_certs
        self.client_cert = client_cert
        self.client_key = client_key
        self.tls_context = tls_context
        self.cert_bundle = cert_bundle
        self.socket_path = socket_path
        self.sock = sock
        self._check_settings()

        self.last_helo_response: SMTPResponse | None = None
        self._last_ehlo_response: SMTPResponse | None = None
        self.esmtp_extensions: dict[str, str] = {}
        self.supports_esmtp = False
        self.server_auth_methods: list[str] = []

        self._session: RawSession | None = None
        self._end: Callable[[None, None, None], Awaitable[object]] | None = None  # of the session's block
        self._context: ssl.SSLContext | None = None  # of the TLS in use
        self._in_exchange = False  # the server waits for the response to a challenge
        self._unknown: SMTPException | None = None  # what the last connection was lost with
        # Made at the first use: it belongs to an event loop. Held from connect() to close().
        self._connecting: anyio.Semaphore | None = None
        self._is_held = False
        self._turn: anyio.Lock | None = None  # one command at a time
        self._message_turn: anyio.Lock | None = None  # one message at a time

    def _check_settings(self) -> None:
        has_socket = self.sock is not None or self.socket_path is not None
        if self._login_password is not None and self._oauth_token_generator is not None:
            raise ValueError("password and oauth_token_generator cannot be combined")
        if self._start_tls_on_connect and self.use_tls:
            raise ValueError("start_tls and use_tls cannot be combined")
        if self.tls_context is not None and self.client_cert is not None:
            raise ValueError("tls_context and client_cert cannot be combined")
        if self.sock is not None and self.socket_path is not None:
            raise ValueError("sock and socket_path cannot be combined")
        if has_socket and self.port is not None:
            raise ValueError("port has no meaning with sock or socket_path")
        if has_socket and self.use_tls and self.hostname is None:
            raise ValueError("use_tls with sock or socket_path needs hostname, to verify the certificate")
        if self.local_hostname is not None:
            self.local_hostname = self.local_hostname.strip()
            Domain.parse(self.local_hostname)
        if self.hostname is not None and ("\r" in self.hostname or "\n" in self.hostname):
            raise ValueError("hostname holds a line break")

    # What it is

    @property
    def is_connected(self) -> bool:
        """True while there is a connection, as far as is known without asking the server."""
        return self._session is not None and self._session.is_open

    @property
    def last_ehlo_response(self) -> SMTPResponse | None:
        """The last reply to EHLO; set it, and the extensions are read from it."""
        return self._last_ehlo_response

    @last_ehlo_response.setter
    def last_ehlo_response(self, response: SMTPResponse) -> None:
        self._last_ehlo_response = response
        self.esmtp_extensions, self.server_auth_methods = parse_esmtp_extensions(response.message)
        self.supports_esmtp = True

    @property
    def is_ehlo_or_helo_needed(self) -> bool:
        """True until the server has accepted EHLO or HELO on this connection."""
        return self.last_ehlo_response is None and self.last_helo_response is None

    def supports_extension(self, extension: str, /) -> bool:
        """Return True if the server offers this extension, in whatever case."""
        return extension.lower() in self.esmtp_extensions

    def get_transport_info(self, key: str) -> Any:
        """Return "sslcontext" or "cipher" of the connection; None for all else, and without TLS.

        Raises:
            SMTPServerDisconnected: there is no connection.
        """
        session = self._live()
        if key == "sslcontext":
            return self._context
        if key == "cipher" and session.info.tls is not None:
            return session.info.cipher, session.info.tls, None
        return None

    # Connecting

    async def __aenter__(self) -> Self:
        if not self.is_connected:
            await self.connect()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if not isinstance(exc, (ConnectionError, TimeoutError)):
                await self.quit()
        except (SMTPServerDisconnected, SMTPResponseException, SMTPTimeoutError):
            pass  # the messages were decided before
        finally:
            self.close()

    async def connect(
        self,
        *,
        hostname: str | _Unset | None = _GIVEN_ELSEWHERE,
        port: int | _Unset | None = _GIVEN_ELSEWHERE,
        username: str | bytes | _Unset | None = _GIVEN_ELSEWHERE,
        password: str | bytes | _Unset | None = _GIVEN_ELSEWHERE,
        oauth_token_generator: SMTPTokenGenerator | _Unset | None = _GIVEN_ELSEWHERE,
        local_hostname: str | _Unset | None = _GIVEN_ELSEWHERE,
        source_address: tuple[str, int] | _Unset | None = _GIVEN_ELSEWHERE,
        timeout: Timeout = _GIVEN_ELSEWHERE,
        use_tls: bool | None = None,
        start_tls: bool | _Unset | None = _GIVEN_ELSEWHERE,
        validate_certs: bool | None = None,
        client_cert: str | _Unset | None = _GIVEN_ELSEWHERE,
        client_key: str | _Unset | None = _GIVEN_ELSEWHERE,
        tls_context: ssl.SSLContext | _Unset | None = _GIVEN_ELSEWHERE,
        cert_bundle: str | _Unset | None = _GIVEN_ELSEWHERE,
        socket_path: SocketPathType | _Unset | None = _GIVEN_ELSEWHERE,
        sock: socket.socket | _Unset | None = _GIVEN_ELSEWHERE,
    ) -> SMTPResponse:
        """Connect, begin TLS and authenticate, as the settings say; return the greeting.

        Settings that are passed here replace earlier ones, except `timeout`, which applies to this call.

        Raises:
            ValueError: two settings cannot be combined.
            SMTPException: it is already connected, or something failed: then it is not connected.
        """
        self._settle(
            hostname=hostname,
            port=port,
            _login_username=username,
            _login_password=password,
            _oauth_token_generator=oauth_token_generator,
            local_hostname=local_hostname,
            source_address=source_address,
            use_tls=_GIVEN_ELSEWHERE if use_tls is None else use_tls,
            _start_tls_on_connect=start_tls,
            validate_certs=_GIVEN_ELSEWHERE if validate_certs is None else validate_certs,
            client_cert=client_cert,
            client_key=client_key,
            tls_context=tls_context,
            cert_bundle=cert_bundle,
            socket_path=socket_path,
            sock=sock,
        )
        if self.is_connected:
            raise SMTPException("SMTP object is already connected: call quit first")
        if self._session is not None:  # the server ended it
            self.close()
        if self._connecting is None:
            self._connecting = anyio.Semaphore(1)
        await self._connecting.acquire()
        self._is_held = True
        self._unknown = None
        try:
            greeting = await self._open(self.timeout if timeout is Default.token else timeout)
            await self._begin_tls_if_wanted()
            await self._log_in_if_wanted()
        except BaseException:
            self.close()
            raise
        return greeting

    def _settle(self, **settings: Any) -> None:
        """Take the settings that are given, and check all of them together."""
        for name, value in settings.items():
            if value is not _GIVEN_ELSEWHERE:
                setattr(self, name, value)
        self._check_settings()

    async def _open(self, timeout: float | None) -> SMTPResponse:
        options: dict[str, Any] = {"hostname": self.hostname}
        if self.sock is not None:
            options["connect"] = self._stream
        elif self.socket_path is not None:
            path = self.socket_path
            options["socket_path"] = path.decode() if isinstance(path, bytes) else str(path)
        else:
            options["hostname"] = self.hostname or "localhost"
            options["port"] = self._default_port if self.port is None else int(self.port)  # "587", of a variable
            options["source_address"] = self.source_address
        if self.use_tls:
            options["tls_context"] = self._context = await self._tls_context()
        try:
            client = Client(
                **options,
                tls="implicit" if self.use_tls else "none",
                local_hostname=self.local_hostname,
                allow_insecure_auth=self.ALLOW_INSECURE_AUTH,
                timeouts=_timeouts(timeout),
                max_connections=1,
            )
            block = client.session(greeting_only=True)
            self._session = await block.__aenter__()
        except SMTPError as error:
            raise translated(error, is_connecting=True) from error.__cause__
        self._end = block.__aexit__
        self._turn = anyio.Lock()
        self._message_turn = anyio.Lock()
        return SMTPResponse(SMTPStatus.ready, self._session.info.greeting)

    async def _stream(self) -> anyio.abc.ByteStream:
        sock = self.sock
        if sock is None:
            raise SMTPException("there is no socket any more")
        return ConnectedSocket(sock)

    @property
    def _default_port(self) -> int:
        if self.use_tls:
            return 465
        return 587 if self._start_tls_on_connect else 25

    async def _tls_context(self) -> ssl.SSLContext:
        if self.tls_context is not None:
            return self.tls_context
        if not self.validate_certs:
            _say_once(
                "validate_certs",
                "validate_certs=False: anyone between you and the mail server can read and change the mail, and "
                "learn the password; pass cert_bundle= with the server's CA instead",
            )
        return await anyio.to_thread.run_sync(self._make_context)  # it reads all CAs of the system

    def _make_context(self) -> ssl.SSLContext:
        if self.validate_certs and self.cert_bundle is None and self.client_cert is None:
            return _usual_context()
        context = _new_context(self.cert_bundle)
        if not self.validate_certs:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.client_cert is not None:
            context.load_cert_chain(self.client_cert, keyfile=self.client_key)
        return context

    async def _begin_tls_if_wanted(self) -> None:
        if self._start_tls_on_connect is True:
            await self.starttls()
        elif self._start_tls_on_connect is None and not self.use_tls:
            await self._ehlo_or_helo_if_needed()
            is_local = self.socket_path is not None
            if self.supports_extension("starttls") and (self.hostname is not None or not is_local):
                await self.starttls()
            elif is_local:
                pass  # nobody can listen
            elif self._has_credentials and not self.ALLOW_INSECURE_AUTH:
                raise SMTPException(f"server offers no STARTTLS, and a password is not sent unencrypted: {_REMEDY}")
            else:
                _say_once(
                    "start_tls",
                    "start_tls=None: the server offers no STARTTLS, so the mail is sent unencrypted; pass "
                    "start_tls=True to require TLS, or start_tls=False if that is what you want",
                )

    @property
    def _has_credentials(self) -> bool:
        return self._login_username is not None

    @property
    def _is_secure(self) -> bool:
        """True if a password may be sent."""
        return self._context is not None or self.socket_path is not None or self.ALLOW_INSECURE_AUTH

    def _refuse_in_clear(self) -> None:
        if not self._is_secure:
            raise SMTPException(f"a password is not sent unencrypted: call starttls, or {_REMEDY}")

    def close(self) -> None:
        """Close at once, without QUIT; idempotent."""
        if self._session is not None:
            self._session.close()
        self._forget()

    def _forget(self) -> None:
        self._session = self._end = self._context = None
        self._in_exchange = False
        self._forget_server()
        if self._connecting is not None and self._is_held:  # not what another task holds by now
            self._is_held = False
            self._connecting.release()

    def _forget_server(self) -> None:
        self.last_helo_response = self._last_ehlo_response = None
        self.esmtp_extensions = {}
        self.supports_esmtp = False
        self.server_auth_methods = []

    # Commands

    def _live(self) -> RawSession:
        if self._session is not None and self._session.is_closed:
            self.close()
            raise SMTPServerDisconnected("not connected: the connection was lost")
        if self._session is None:
            raise SMTPServerDisconnected("not connected: call connect first")
        return self._session

    async def _do(self, step: Callable[[RawSession], Any], timeout: Timeout, *, sender: Callable[[], str] = str) -> Any:
        """Do one step on the connection, when nobody else does; close it if the step ended it."""
        turn = self._turn
        self._live()
        if turn is None:
            raise SMTPServerDisconnected("not connected: call connect first")
        async with turn:
            session = self._live()  # others had it meanwhile
            if turn is not self._turn:
                raise SMTPServerDisconnected("not connected: closed while this call waited for its turn")
            session.timeouts = _timeouts(self.timeout if timeout is Default.token else timeout)
            try:
                return await step(session)
            except SMTPError as error:
                if not session.is_open and session is self._session:
                    self.close()
                made = translated(error, sender=sender)
                if isinstance(made, SMTPException) and isinstance(made, DeliveryUnknown):
                    self._unknown = made
                raise made from (error.__cause__ if made is error else error)

    async def _say(self, command: Command, timeout: Timeout = Default.token) -> SMTPResponse:
        response: SMTPResponse = response_of(await self._do(lambda session: session.command(command), timeout))
        if response.code == SMTPStatus.domain_unavailable:
            self.close()
        return response

    async def execute_command(self, *args: bytes, timeout: Timeout = Default.token) -> SMTPResponse:
        """Send a line of one command, and return the reply, whatever it says.

        Args:
            args: the parts of the line, joined by spaces: ``b"AUTH", b"XOAUTH2", token``, ``b"EHLO me.example"``.
            timeout: in seconds.

        Raises:
            ValueError: it is not a line of one command.
            SMTPNotSupported: it takes more than a line and its reply: DATA, BDAT, STARTTLS.
            SMTPServerDisconnected: there is no connection, or it ended.
        """
        self._live()
        command = command_of(args, in_exchange=self._in_exchange)
        if isinstance(command, Auth):
            self._refuse_in_clear()
        response = await self._say(command, timeout)
        self._in_exchange = isinstance(command, (Auth, AuthResponse)) and response.code == SMTPStatus.auth_continue
        if isinstance(command, Quit):
            self.close()
        return response

    def _domain(self, hostname: str | None) -> Domain:
        if hostname is not None:
            return Domain.parse(hostname.strip())
        return self._live().local_domain

    async def ehlo(self, *, hostname: str | None = None, timeout: Timeout = Default.token) -> SMTPResponse:
        """Say who we are, and learn what the server offers.

        Raises:
            SMTPHeloError: the server refused it.
        """
        response = await self._say(Ehlo(self._domain(hostname)), timeout)
        if response.code >= 400:
            raise SMTPHeloError(*response)
        self.last_ehlo_response = response
        return response

    async def helo(self, *, hostname: str | None = None, timeout: Timeout = Default.token) -> SMTPResponse:
        """Say who we are to a server that knows no extensions.

        Raises:
            SMTPHeloError: the server refused it.
        """
        response = await self._say(Helo(self._domain(hostname)), timeout)
        if response.code >= 400:
            raise SMTPHeloError(*response)
        self.last_helo_response = response
        return response

    async def _ehlo_or_helo_if_needed(self) -> None:
        if self.is_ehlo_or_helo_needed:
            try:
                await self.ehlo()
            except SMTPHeloError:
                if not self.is_connected:
                    raise
                await self.helo()

    async def starttls(
        self,
        *,
        server_hostname: str | None = None,
        validate_certs: bool | None = None,
        client_cert: str | _Unset | None = _GIVEN_ELSEWHERE,
        client_key: str | _Unset | None = _GIVEN_ELSEWHERE,
        cert_bundle: str | _Unset | None = _GIVEN_ELSEWHERE,
        tls_context: ssl.SSLContext | _Unset | None = _GIVEN_ELSEWHERE,
        timeout: Timeout = Default.token,
    ) -> SMTPResponse:
        """Begin TLS on this connection; the next command says EHLO again first.

        Raises:
            SMTPException: the server does not offer it, or TLS is in use already.
            SMTPConnectError: TLS failed; also an `ssl.SSLError`. The connection is closed.
        """
        self._live()
        if self._context is not None:
            raise SMTPException("connection already uses TLS: start_tls=None began it when connecting")
        self._settle(
            validate_certs=_GIVEN_ELSEWHERE if validate_certs is None else validate_certs,
            client_cert=client_cert,
            client_key=client_key,
            cert_bundle=cert_bundle,
            tls_context=tls_context,
        )
        await self._ehlo_or_helo_if_needed()
        context = await self._tls_context()
        if not self.supports_extension("starttls"):
            raise SMTPException("server does not offer STARTTLS: pass start_tls=False to send unencrypted")
        hostname = server_hostname or self.hostname or "localhost"
        reply = await self._do(lambda session: session.start_tls(context, hostname), timeout)
        self._context = context
        self._forget_server()
        return response_of(reply)

    async def quit(self, *, timeout: Timeout = Default.token) -> SMTPResponse:
        """Say QUIT, and close the connection.

        Raises:
            SMTPServerDisconnected: there is no connection. If it was lost with a message whose delivery is unknown, the
                error also says that: raised in a ``finally``, it replaces the error that said it first.
        """
        if self._session is None and self._unknown is not None:
            unknown, self._unknown = self._unknown, None
            raise still_unknown(unknown) from unknown
        response = await self._say(Quit(), timeout)
        if response.code != SMTPStatus.closing:
            raise SMTPResponseException(*response)
        if self._end is not None:
            await self._end(None, None, None)
        self.close()
        return response

    async def _log_in_if_wanted(self) -> None:
        raise NotImplementedError


def _timeouts(timeout: float | None) -> Timeouts:
    """Return the timeouts that a number of seconds for each operation means."""
    seconds = math.inf if timeout is None else max(float(timeout), 1e-6)
    verdict = max(seconds, _VERDICT_SECONDS) if timeout == DEFAULT_TIMEOUT else seconds
    return Timeouts(
        pool=seconds,
        connect=seconds,
        greeting=seconds,
        command=seconds,
        data_init=seconds,
        data_block=seconds,
        end_of_data=verdict,
        quit=seconds,
    )
