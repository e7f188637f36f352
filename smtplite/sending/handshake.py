"""From an opened connection to one that may send: greeting, hello, TLS, authentication.

A connection on which any of it fails is closed and never used (rule R12). Nothing is tried again unencrypted.
"""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Sequence
from typing import Final

import anyio
import anyio.to_thread
import attrs

from smtplite import sasl
from smtplite.callbacks import result_of
from smtplite.errors import (
    AuthenticationError,
    ConnectionLost,
    MessageError,
    RemoteProtocolError,
    ServiceUnavailable,
    SMTPError,
    TLSError,
)
from smtplite.net import Stream, connect_foreign, connect_tcp, connect_unix
from smtplite.options import Options, TLSMode
from smtplite.protocol.commands import Auth, AuthCancel, AuthResponse, Command, Ehlo, Greeting, Helo, Lhlo, StartTls
from smtplite.protocol.events import ChallengeReceived, Disconnected, Event, Replied, ServiceClosing, TlsReady
from smtplite.protocol.paths import Domain
from smtplite.protocol.reply import Reply
from smtplite.protocol.state import RULES
from smtplite.protocol.window import ServerTraits
from smtplite.sending.deadline import Deadline
from smtplite.sending.session import Session
from smtplite.trace import Tracer

__all__ = ["Handshake", "Opener", "TokenSource", "reply_of"]


_CALLBACK: Final = "token callback"


class TokenSource:
    """Asks a callback for access tokens; several connections whose tokens were rejected at once ask it once."""

    def __init__(self, callback: sasl.TokenCallback) -> None:
        self._callback = callback
        self._refreshed = ""
        self._refreshes = 0  # how many were finished
        self._refreshing: anyio.Event | None = None

    async def token(self) -> tuple[str, int]:
        """Return the token in use, and its age as `refresh` wants it."""
        age = self._refreshes
        return await result_of(_CALLBACK, self._callback(False)), age

    async def refresh(self, age: int) -> str:
        """Return a new token, in place of one that was rejected."""
        while self._refreshes == age and self._refreshing is not None:
            await self._refreshing.wait()
        if self._refreshes != age:  # somebody else has had it renewed since ours was given
            return self._refreshed
        refreshing = self._refreshing = anyio.Event()
        try:
            self._refreshed = await result_of(_CALLBACK, self._callback(True))
            self._refreshes += 1
        finally:
            self._refreshing = None
            refreshing.set()
        return self._refreshed


@attrs.define(kw_only=True, eq=False)
class Handshake:
    """How to begin a session.

    Attributes:
        local_domain: who we are; None: found out, without a look-up that could block.
        tls: whether, and when, TLS begins.
        tls_hostname: whom the certificate must name.
        tls_context: made at first use, once: that takes 20 ms.
        mechanisms: with which to authenticate, the preferred one first; empty: not at all.
        is_local: on a Unix socket, where nobody can listen.
        allow_insecure_auth: authenticate even unencrypted.
    """

    local_domain: Domain | None = None
    tls: TLSMode = "none"
    tls_hostname: str = ""
    tls_context: ssl.SSLContext | None = attrs.field(default=None, repr=False)
    mechanisms: Sequence[sasl.Mechanism] = ()
    is_local: bool = False
    allow_insecure_auth: bool = False
    _token_sources: dict[int, TokenSource] = attrs.field(factory=dict, init=False, repr=False)

    async def run(self, session: Session, deadline: Deadline, *, greeting_only: bool = False) -> None:
        """Do all of it; on any failure the session is dead.

        Args:
            session: just opened.
            deadline: of the whole call.
            greeting_only: leave what comes after the greeting to the caller.

        Raises:
            ServiceUnavailable: the server takes no mail.
            TLSError: TLS is wanted, and cannot be had.
            AuthenticationError: credentials are given, and do not lead in.
            TransportError: the connection failed.
            RemoteProtocolError: the server broke the protocol.
        """
        try:
            if self.tls == "implicit":
                await self._begin_tls(session, deadline)
            greeting = reply_of(await session.next_event(deadline))
            if greeting.is_negative:
                raise ServiceUnavailable(f"server accepts no mail: {greeting}", reply=greeting, phase="greeting")
            session.greeting = greeting.text
            if greeting_only:
                return
            await self._say_hello(session, deadline)
            if self.tls == "starttls":
                await self.start_tls(session, deadline)
                await self._say_hello(session, deadline)
            if self.mechanisms:
                await self.authenticate(session, deadline, self.mechanisms)
        except BaseException as error:
            if isinstance(error, SMTPError):
                error.transcript = session.transcript
                error.phase = error.phase or session.phase
            await session.discard(str(error) or type(error).__name__)
            raise

    # Hello

    def domain_for(self, session: Session) -> Domain:
        """Return who we say we are on this session."""
        return self.local_domain or local_domain(session.local_address)

    async def _say_hello(self, session: Session, deadline: Deadline) -> None:
        domain = self.domain_for(session)
        hello: Command = Lhlo(domain) if session.lmtp else Ehlo(domain)
        reply = reply_of(await session.ask(hello, deadline))
        if reply.code in (500, 502, 504) and not session.lmtp:  # it knows no extensions (RFC 5321 3.2)
            if self.tls == "starttls" and not session.is_tls:
                raise TLSError(
                    f'server does not know EHLO, and so has no STARTTLS: pass tls="none" to send unencrypted: {reply}',
                    phase="starttls",
                )
            hello = Helo(domain)
            reply = reply_of(await session.ask(hello, deadline))
        if reply.is_negative:
            raise ServiceUnavailable(
                f"server refused {hello.verb}: {reply}", command=str(hello), reply=reply, phase="hello"
            )

    # TLS

    async def start_tls(self, session: Session, deadline: Deadline) -> Reply:
        """Ask for TLS, and begin it; return what the server said to STARTTLS.

        Raises:
            TLSError: it cannot be had; the session must be discarded.
            ConnectionLost: the connection ended meanwhile; likewise.
        """
        if "STARTTLS" not in session.extensions:
            raise TLSError('server does not offer STARTTLS: pass tls="none" to send unencrypted', phase="starttls")
        try:
            event = await session.ask(StartTls(), deadline)
            if isinstance(event, TlsReady) and await session.has_unasked():
                await session.next_event(deadline)  # raises: unencrypted bytes after the 220
        except RemoteProtocolError as error:
            raise TLSError(f"STARTTLS failed: {error}", phase="starttls") from error
        if not isinstance(event, TlsReady):
            reply = reply_of(event)
            raise TLSError(f"server refused STARTTLS: {reply}", reply=reply, phase="starttls")
        await self._begin_tls(session, deadline)
        return event.reply

    async def _begin_tls(self, session: Session, deadline: Deadline) -> None:
        if self.tls_context is None:
            self.tls_context = ssl.create_default_context()
            self.tls_context.minimum_version = ssl.TLSVersion.TLSv1_2
            # A name in the subject alone proves nothing (RFC 9525 2).
            self.tls_context.hostname_checks_common_name = False
        await session.begin_tls(self.tls_context, self.tls_hostname, deadline)

    # Authentication

    def is_secure(self, session: Session) -> bool:
        """Return True if credentials may be sent on this session: nobody can listen, or the caller allowed it."""
        return session.is_tls or self.is_local or self.allow_insecure_auth

    async def authenticate(self, session: Session, deadline: Deadline, mechanisms: Sequence[sasl.Mechanism]) -> Reply:
        """Authenticate by the first of these mechanisms that the server takes; return its last word.

        Raises:
            AuthenticationError: none leads in, or none may be tried.
        """
        candidates = sasl.choose(
            mechanisms,
            session.extensions.auth,
            is_secure=session.is_tls or self.is_local,
            allow_insecure=self.allow_insecure_auth,
        )
        for mechanism in candidates:
            exchange, reply, was_challenged = await self._attempt(session, mechanism, deadline)
            if reply.is_positive:
                break
            # "Not this one" is no "no": the same credentials may be tried by another mechanism (rule R15). A server
            # that does not know it says 500, 501 or 502 at once (QQ Mail: 502 to PLAIN, and takes LOGIN); later in the
            # exchange they mean something else.
            is_unusable = reply.code in (504, 534, 538) or (reply.code in (500, 501, 502) and not was_challenged)
            if not is_unusable or mechanism is candidates[-1]:
                raise _refused(exchange, reply)
        return reply

    async def _attempt(
        self, session: Session, mechanism: sasl.Mechanism, deadline: Deadline
    ) -> tuple[sasl.Exchange, Reply, bool]:
        """Run one mechanism, an OAuth one a second time if its token was rejected and can be renewed."""
        if not isinstance(mechanism, sasl.TokenMechanism) or mechanism.callback is None:
            return await _exchange(session, mechanism, deadline)
        source = self._token_sources.setdefault(id(mechanism), TokenSource(mechanism.callback))
        deadline.arm(math.inf, "the token callback", "auth")  # the user's own: no deadline of the server's holds for it
        token, age = await source.token()
        attempt = await _exchange(session, mechanism.with_token(token), deadline)
        if attempt[1].code == 535:
            deadline.arm(math.inf, "the token callback", "auth")
            renewed = await source.refresh(age)
            try:
                attempt = await _exchange(session, mechanism.with_token(renewed), deadline)
            except (ConnectionLost, TLSError, ServiceUnavailable):
                raise _refused(attempt[0], attempt[1]) from None  # the refusal, not the end that followed it
        return attempt


async def _exchange(
    session: Session, mechanism: sasl.Mechanism, deadline: Deadline
) -> tuple[sasl.Exchange, Reply, bool]:
    """Run one exchange; return it, the reply that ended it, and whether there were challenges."""
    exchange = mechanism.exchange()
    event = await session.ask(Auth(exchange.name, exchange.initial_response), deadline)
    was_challenged = isinstance(event, ChallengeReceived)
    while isinstance(event, ChallengeReceived):
        try:
            if exchange.is_costly(event.challenge):
                response = await anyio.to_thread.run_sync(exchange.respond, event.challenge, abandon_on_cancel=True)
            else:
                response = exchange.respond(event.challenge)
        except AuthenticationError as error:
            try:
                await session.ask(AuthCancel(), deadline)
            except SMTPError:
                raise error from None  # why we gave up says more than how the server took it
            raise
        event = await session.ask(AuthResponse(response), deadline)
    reply = reply_of(event)
    if reply.is_positive:
        exchange.finish(reply.text)
    return exchange, reply, was_challenged


def _refused(exchange: sasl.Exchange, reply: Reply) -> AuthenticationError | ServiceUnavailable:
    command = f"AUTH {exchange.name}"
    if reply.code == 421:
        return ServiceUnavailable(f"server closes the connection: {reply}", command=command, reply=reply, phase="auth")
    error = AuthenticationError(f"server refused {command}: {reply}", command=command, reply=reply, phase="auth")
    error.error_data = exchange.error_data
    return error


class Opener:
    """Opens sessions: connects, and does the handshake.

    Args:
        options: the client's.
        tracer: is told what happens.
    """

    def __init__(self, options: Options, tracer: Tracer) -> None:
        self._options = options
        self._tracer = tracer
        self._traits = ServerTraits()
        #: What each connection begins with.
        self.handshake = Handshake(
            local_domain=options.local_domain,
            tls=options.mode,
            tls_hostname=options.tls_hostname or "",
            tls_context=options.tls_context,
            mechanisms=options.mechanisms,
            is_local=options.is_local,
            allow_insecure_auth=options.allow_insecure_auth,
        )

    async def __call__(self, deadline: Deadline, *, greeting_only: bool = False) -> Session:
        """Return a session that may send.

        Args:
            deadline: of the whole call.
            greeting_only: leave what comes after the greeting to the caller.

        Raises:
            SMTPError: there is none to be had.
        """
        options = self._options
        seconds = options.timeouts.connect
        deadline.arm(seconds, f"no connection to {options.server} within {seconds:g} s", "connect")
        stream: Stream
        if options.connect is not None:
            stream = await connect_foreign(options.connect)
        elif options.socket_path is not None:
            stream = await connect_unix(options.socket_path)
        else:
            stream = await connect_tcp(*options.address, options.source_address)
        session = Session(
            stream,
            server=options.server,
            lmtp=options.lmtp,
            pipelining=options.pipelining,
            chunking=options.chunking,
            max_messages=options.max_messages_per_connection,
            traits=self._traits,
            timeouts=options.timeouts,
            tracer=self._tracer,
        )
        await self.handshake.run(session, deadline, greeting_only=greeting_only)
        return session


def reply_of(event: Event) -> Reply:
    """Return the reply that an event brings; raise what it means if it brings none."""
    if isinstance(event, (Replied, TlsReady, ChallengeReceived)):
        return event.reply
    if isinstance(event, ServiceClosing):
        raise ServiceUnavailable(f"server closes the connection: {event.reply}", reply=event.reply)
    if not isinstance(event, Disconnected):
        raise RemoteProtocolError(f"server refused content that nobody sent: {event.reply}", reply=event.reply)
    if not event.unanswered:
        raise ConnectionLost("server closed the connection", phase="hello")
    command = event.unanswered[0]
    rule = RULES[type(command)]
    owed = "its greeting" if isinstance(command, Greeting) else f"a reply to {rule.verb}"
    raise ConnectionLost(f"server closed the connection without {owed}", phase=rule.phase)


_NO_HOSTS: Final = ("localhost", "localhost4", "localhost6")
_NO_DOMAINS: Final = (*_NO_HOSTS, "localdomain", "localdomain4", "localdomain6")


def local_domain(address: str | None) -> Domain:
    """Return this host's name if it is a full one, else the address literal of our end (RFC 5321 4.1.4)."""
    name = socket.gethostname().removesuffix(".")  # the kernel's; getfqdn would ask the DNS, and block
    first, *others = name.lower().split(".")
    # Every host may be called localhost.localdomain, so it is nobody's name; filters take it for a spammer's.
    if others and first not in _NO_HOSTS and others[-1] not in _NO_DOMAINS and not others[-1].isdigit():
        try:
            return Domain.parse(name)
        except MessageError:
            pass  # a host may have any name; the literal is as good
    address = (address or "127.0.0.1").partition("%")[0].removeprefix("::ffff:")
    return Domain.parse(f"[IPv6:{address}]" if ":" in address else f"[{address}]")
