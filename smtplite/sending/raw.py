"""RawSession: a connection on which the caller decides what is sent, one step after another."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from email.headerregistry import Address
from functools import partial
from types import TracebackType
from typing import Final, TypeVar

import attrs

from smtplite.errors import (
    AuthenticationError,
    ConnectionLost,
    DeliveryUnknown,
    LocalProtocolError,
    RemoteProtocolError,
    SMTPError,
    TLSError,
)
from smtplite.message.envelope import AnyMessage, AnyRecipients, Envelope
from smtplite.message.prepared import Prepared
from smtplite.options import Options, Timeouts, check_timeout
from smtplite.protocol.commands import (
    Auth,
    AuthCancel,
    AuthResponse,
    Bdat,
    BdatProbe,
    Command,
    Data,
    EndOfData,
    Greeting,
    Rcpt,
    Rset,
    StartTls,
)
from smtplite.protocol.events import ContentRefused
from smtplite.protocol.extensions import Extensions
from smtplite.protocol.outcomes import delivery_unknown
from smtplite.protocol.paths import Domain
from smtplite.protocol.reply import Reply
from smtplite.protocol.state import State
from smtplite.results import Receipt, ServerInfo
from smtplite.sasl import Mechanism
from smtplite.sending.deadline import Deadline
from smtplite.sending.handshake import Handshake, Opener, reply_of
from smtplite.sending.pool import Pool
from smtplite.sending.session import Session
from smtplite.sending.single import deliver_here, send_one
from smtplite.trace import Tracer

__all__ = ["RawSession", "RawSessions"]

#: What takes more than a command and its reply: content, TLS, an exchange of which the session has to know.
_NOT_RAW: Final = (Greeting, Data, EndOfData, Bdat, BdatProbe, StartTls)
_AUTHENTICATION: Final = (Auth, AuthResponse, AuthCancel)
#: Which method does what `command` does not.
_INSTEAD: Final = {Data: "data", EndOfData: "data", StartTls: "start_tls"}
_IN_A_TRANSACTION: Final = (State.MAIL, State.RCPT, State.FAILED)

_T = TypeVar("_T")


def _is_refused(error: SMTPError) -> bool:
    """Return True if the server said no to AUTH, or nothing was sent; what we found wrong in the exchange is worse."""
    return isinstance(error, AuthenticationError) and (error.reply is not None or error.command is None)


class RawSession:
    """What `Client.session` returns: a connection that the caller controls.

    One thing at a time: it is for one task, or for several that take turns.

    Args:
        session: for its commands alone.
        handshake: how the client begins TLS and authenticates.
        options: the client's.
        tracer: the client's.
    """

    def __init__(self, session: Session, handshake: Handshake, options: Options, tracer: Tracer) -> None:
        self._session = session
        self._handshake = handshake
        self._options = options
        self._tracer = tracer
        self._recipients: list[str] = []  # accepted by hand, in the transaction under way

    # What it is

    @property
    def extensions(self) -> Extensions:
        """What the server offers."""
        return self._session.extensions

    @property
    def info(self) -> ServerInfo:
        """What is known about the server."""
        return self._session.info

    @property
    def transcript(self) -> tuple[str, ...]:
        """The last commands and replies, secrets left out."""
        return self._session.transcript

    @property
    def local_domain(self) -> Domain:
        """Our name in EHLO: ``await session.command(Ehlo(session.local_domain))``."""
        return self._handshake.domain_for(self._session)

    @property
    def is_open(self) -> bool:
        """True unless the connection is closed, or the server closed it, or sent something without being asked."""
        return not self._session.has_ended

    @property
    def is_closed(self) -> bool:
        """True once it was closed at our end: by `close`, or after what left the dialogue broken."""
        return self._session.is_dead

    @property
    def timeouts(self) -> Timeouts:
        """How long each phase may take; if you set others, they apply to all later calls."""
        return self._session.timeouts

    @timeouts.setter
    def timeouts(self, timeouts: Timeouts) -> None:
        self._session.timeouts = timeouts

    # What is said

    async def command(self, command: Command) -> Reply:
        """Send a command and return its reply, whatever it says.

        `Auth` and `AuthResponse` may also be sent by hand: a 334 is the reply that asks for the next response.

        Args:
            command: of `smtplite.protocol`, such as ``Vrfy("x")`` or ``Custom("XFOO", "bar")``.

        Raises:
            LocalProtocolError: the command is not allowed now, or not one for a raw session; nothing was sent.
            AuthenticationError: it would show a password to anyone who listens in; nothing was sent.
            ServiceUnavailable: the server closes the connection, unasked.
            ConnectionLost: the connection ended; it cannot be used any more.
            SMTPTimeout: no reply came in time; the connection cannot be used any more.
            RemoteProtocolError: the server broke the protocol; the connection cannot be used any more.
        """
        if isinstance(command, _NOT_RAW):
            instead = _INSTEAD.get(type(command), "send")
            raise LocalProtocolError(
                f"{command.verb or 'the greeting'} is not a command for a raw session: use RawSession.{instead}"
            )
        if isinstance(command, _AUTHENTICATION) and not self._handshake.is_secure(self._session):
            raise AuthenticationError(
                "raw session does not authenticate unencrypted: call start_tls, or pass allow_insecure_auth=True to "
                "the client if nobody can listen in",
                phase="auth",
            )
        return await self._call(partial(self._ask, command))

    async def _ask(self, command: Command, deadline: Deadline) -> Reply:
        reply = reply_of(await self._session.ask(command, deadline))
        if isinstance(command, Rcpt):
            if reply.is_positive:
                self._recipients.append(command.forward_path.address)
        elif self._session.state is State.READY:
            self._recipients.clear()
        return reply

    async def start_tls(self, tls_context: ssl.SSLContext | None = None, tls_hostname: str | None = None) -> Reply:
        """Begin TLS by STARTTLS; the server's extensions are unknown after that: EHLO comes next.

        Args:
            tls_context: None: the client's, or one that trusts the system's CAs.
            tls_hostname: the name that the certificate must have; None: the client's tls_hostname, or its hostname.

        Returns:
            The reply to STARTTLS.

        Raises:
            LocalProtocolError: TLS cannot begin now; nothing was sent.
            TLSError: the server refused it, or it failed; the connection is closed.
            TransportError: the network failed; the connection is closed.
        """
        hostname = tls_hostname or self._options.tls_hostname or self._options.hostname
        if hostname is None:
            raise LocalProtocolError("start_tls has no name to verify: pass tls_hostname=")
        handshake = attrs.evolve(
            self._handshake,
            tls_hostname=hostname.removesuffix(".").partition("%")[0],
            tls_context=tls_context or self._handshake.tls_context,
        )
        return await self._call(partial(handshake.start_tls, self._session))

    async def authenticate(self, *mechanisms: Mechanism) -> Reply:
        """Authenticate, by the first of these mechanisms that the server accepts.

        A refusal leaves the connection as it was: another mechanism, or another password, may be tried.

        Returns:
            The server's last reply.

        Raises:
            LocalProtocolError: it cannot be done now; nothing was sent.
            AuthenticationError: no mechanism succeeded, or none may be tried unencrypted.
            ServiceUnavailable: the server closes the connection.
            TransportError: the network failed; the connection is closed.
        """
        return await self._call(
            lambda deadline: self._handshake.authenticate(self._session, deadline, mechanisms),
            is_harmless=_is_refused,
        )

    async def data(self, content: bytes) -> Reply:
        """Send DATA and the content, after the caller's own MAIL and RCPT; return the last reply, whatever it says.

        A negative reply is that to DATA, or that to the content. Line endings become CRLF, and leading dots are
        doubled; nothing else is checked or changed: `send` does more.

        Raises:
            LocalProtocolError: no recipient was accepted, or this is LMTP; nothing was sent.
            DeliveryUnknown: the content was handed over and the verdict never came; the connection is closed.
            TransportError: the network failed before that; the connection is closed.
            RemoteProtocolError: the server broke the protocol; the connection is closed.
        """
        if self._session.lmtp:
            raise LocalProtocolError("data of a raw session is for SMTP: in LMTP each recipient has a reply; use send")
        try:
            return await self._call(partial(self._data, content))
        except SMTPError as error:
            if isinstance(error, DeliveryUnknown):
                error.unknown = tuple(self._recipients)
            else:
                error.not_sent = tuple(self._recipients)
            raise

    async def _data(self, content: bytes, deadline: Deadline) -> Reply:
        session = self._session
        reply = reply_of(await session.ask(Data(), deadline))
        if reply.is_negative:
            return reply
        await deadline.prove(float("inf"))
        try:
            event = await session.hand_over(content, deadline)
            return event.reply if isinstance(event, ContentRefused) else reply_of(event)
        except (ConnectionLost, TLSError, RemoteProtocolError) as error:
            session.abort(str(error))
            if session.unsent:  # the dot certainly never left
                raise
            raise delivery_unknown(error) from error
        finally:
            if session.state is State.READY:  # the transaction is done
                self._recipients.clear()

    async def send(
        self,
        message: AnyMessage | Prepared,
        *,
        sender: str | Address | None = None,
        recipients: AnyRecipients | None = None,
        envelope: Envelope | None = None,
        require_all: bool = False,
        timeout: float | None = None,
    ) -> Receipt:
        """Send one message over this connection: the arguments, the receipt and the errors of `Client.send`.

        It is sent over no other connection: if this one ends, so does the message. A transaction that was begun by hand
        is given up first, by RSET.

        Raises:
            SMTPError: what `Client.send` raises; LocalProtocolError before the server was greeted with EHLO.
        """
        options, session = self._options, self._session
        if session.is_dead:
            raise LocalProtocolError("connection is closed: open another session")
        if session.state in _IN_A_TRANSACTION:
            await self.command(Rset())
        if session.state is not State.READY:
            raise LocalProtocolError(f"a message cannot be sent now: {session.state.value}")
        deadline = Deadline(options.timeout if timeout is None else check_timeout(timeout))
        return await send_one(
            message,
            {"sender": sender, "recipients": recipients, "envelope": envelope},
            partial(deliver_here, session=session),
            options=options,
            tracer=self._tracer,
            deadline=deadline,
            require_all=require_all,
        )

    async def _call(
        self,
        step: Callable[[Deadline], Awaitable[_T]],
        *,
        is_harmless: Callable[[SMTPError], bool] = lambda _: False,
    ) -> _T:
        """Do one step within its time. Unless its error is harmless, or all was illegal, the connection is closed."""
        session = self._session
        if session.is_dead:
            raise LocalProtocolError("connection is closed: open another session")
        deadline = Deadline(self._options.timeout)
        try:
            with deadline.scope:
                return await step(deadline)
        except LocalProtocolError:
            raise
        except SMTPError as error:
            error.transcript = session.transcript
            if not (is_harmless(error) and session.is_in_sync):
                session.abort(str(error))
            raise
        except BaseException:
            session.abort("a command was interrupted")
            raise
        timeout: SMTPError = deadline.error()
        session.abort(str(timeout))
        if session.was_handed_over and not session.unsent:
            timeout = delivery_unknown(timeout)
        timeout.transcript = session.transcript
        raise timeout

    # Its end

    def close(self) -> None:
        """Close at once, without QUIT; idempotent, from any task."""
        self._session.abort("closed by its user")


class RawSessions:
    """The context manager that `Client.session` returns: opens the connection, and closes it.

    It holds nothing of the event loop between the two, so that they may be awaited in different tasks.

    Args:
        pool: of which the connection counts as one.
        opener: the client's.
        options: the client's.
        tracer: the client's.
        greeting_only: leave what comes after the greeting to the caller.
    """

    def __init__(self, pool: Pool, opener: Opener, options: Options, tracer: Tracer, *, greeting_only: bool) -> None:
        self._pool = pool
        self._opener = opener
        self._options = options
        self._tracer = tracer
        self._greeting_only = greeting_only
        self._session: Session | None = None

    async def __aenter__(self) -> RawSession:
        if self._session is not None:
            raise LocalProtocolError("session is open already: call Client.session() for another one")
        deadline = Deadline(self._options.timeout)
        session: Session | None = None
        with deadline.scope:
            session = await self._pool.acquire(
                deadline,
                fresh=True,
                apart=True,
                open_session=partial(self._opener, greeting_only=True) if self._greeting_only else None,
            )
        if session is None:
            raise deadline.error()
        self._session = session
        return RawSession(session, self._opener.handshake, self._options, self._tracer)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        if exc_type is not None:
            session.abort("the block of session() failed")
        try:
            await session.quit()
        finally:
            await self._pool.release(session)
