"""The steps of a dialogue, with times and round trips: from a Client's `trace`, and from a watched TLS handshake."""

from __future__ import annotations

import ipaddress
import ssl
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

import attrs

from smtplite.cli.server_options import explain

if TYPE_CHECKING:
    from smtplite.errors import SMTPError
    from smtplite.protocol.extensions import Extensions
    from smtplite.protocol.reply import Reply
    from smtplite.trace import TraceEvent

__all__ = ["Step", "TLSFacts", "Timeline", "WatchedContext"]

#: Phase of an error -> the step that failed before it had begun, because the server does not offer it.
_STEP_OF_PHASE: Final = {"connect": "connect", "tls": "TLS", "starttls": "STARTTLS", "auth": "AUTH", "mail": "MAIL"}

_SECONDS_PER_DAY: Final = 86_400


@attrs.define(eq=False)
class Step:
    """One step of the dialogue.

    Attributes:
        name: "connect", "TLS", "greeting", or a verb.
        began: by the clock of the timeline.
        round_trips: how often we had to wait for the server.
        subject: what it is about, such as an address, or a mechanism.
        seconds: how long it took.
        ok: whether it succeeded; None while it is under way.
        reply: what the server said.
        detail: used if there is no reply.
    """

    name: str
    began: float
    round_trips: int = 1
    subject: str = ""
    seconds: float = 0.0
    ok: bool | None = None
    reply: Reply | None = None
    detail: str = ""


class Timeline:
    """Turns the events of a Client's `trace`, and a TLS handshake that it watches, into steps.

    Args:
        on_step: called with each step as it ends.
    """

    def __init__(self, on_step: Callable[[Step], None]) -> None:
        self._on_step = on_step
        self._open: Step | None = None
        self._began = 0.0
        self.seconds = 0.0
        self.steps: list[Step] = []
        self.server = ""
        self.greeting: Reply | None = None
        self.extensions: Extensions | None = None
        self.tls: TLSFacts | None = None
        #: The step within which the dialogue was cut off.
        self.failed: Step | None = None

    def start(self) -> None:
        """Start the clock."""
        self.begin("connect")
        self._began = time.perf_counter()

    def __call__(self, event: TraceEvent) -> None:
        """Note an event of `trace`."""
        from smtplite.trace import ConnectionOpened, FlightSent, ReplyReceived

        if isinstance(event, ConnectionOpened):
            self.server = event.server
            self.end(detail=event.server)
            self.begin("greeting")
        elif isinstance(event, FlightSent):
            self._sent(event.commands[0])
        elif isinstance(event, ReplyReceived):
            self._received(event.reply)

    def _sent(self, command: str) -> None:
        if self._open is not None and self._open.name == "AUTH" and not command.startswith("AUTH"):
            self._open.round_trips += 1  # the exchange goes on
            return
        verb, _, argument = command.partition(" ")
        subject = ""
        if verb in ("MAIL", "RCPT"):
            subject = argument.partition(":")[2]
        elif verb == "AUTH":
            subject = argument.partition(" ")[0]
        self.begin(verb, subject=subject)

    def _received(self, reply: Reply) -> None:
        from smtplite.protocol.extensions import Extensions

        step = self._open
        if step is None:  # unasked: the error that follows says more
            return
        if step.name == "greeting":
            self.greeting = reply
        elif step.name in ("EHLO", "LHLO") and reply.is_positive:
            self.extensions = Extensions.from_reply(reply)
        if not (step.name == "AUTH" and reply.is_intermediate):
            self.end(ok=not reply.is_negative, reply=reply)

    def begin(self, name: str, *, round_trips: int = 1, subject: str = "") -> None:
        """Open a step; one that is open and whose end was not noted has succeeded."""
        if self._open is not None:
            self.end()
        self._open = Step(name, time.perf_counter(), round_trips, subject)

    def end(self, *, ok: bool = True, reply: Reply | None = None, detail: str = "") -> None:
        """Close the open step."""
        step = self._open
        if step is None:
            return
        self._open = None
        step.seconds = time.perf_counter() - step.began
        step.ok = ok
        step.reply = reply
        step.detail = detail
        self.steps.append(step)
        self._on_step(step)

    def tls_begins(self) -> None:
        """Note that a TLS handshake begins: what came before it is over."""
        if self._open is not None and self._open.name == "greeting":  # with implicit TLS it comes after the handshake
            self._open = None
        self.begin("TLS", round_trips=0)

    def tls_waits(self) -> None:
        """Note that the handshake waits for the server."""
        if self._open is not None:
            self._open.round_trips += 1

    def tls_is_up(self, facts: TLSFacts) -> None:
        """Note that the handshake is done."""
        self.tls = facts
        self.end(detail=f"{facts.version}, {facts.cipher}")
        if self.greeting is None:
            self.begin("greeting")

    def fail(self, error: SMTPError) -> None:
        """Note what ended the dialogue."""
        if self._open is None:
            last = self.steps[-1] if self.steps else None
            if last is not None and not last.ok:  # its reply is the error
                self.failed = last
                return
            self.begin(_STEP_OF_PHASE.get(error.phase or "", (error.phase or "session").upper()), round_trips=0)
        self.failed = self._open
        self.end(ok=False, detail=explain(error))

    def finish(self) -> None:
        """Stop the clock."""
        self._open = None  # QUIT, whose reply nobody waited for
        self.seconds = time.perf_counter() - self._began


@attrs.frozen(kw_only=True)
class TLSFacts:
    """What a handshake agreed on.

    Attributes:
        version: such as "TLSv1.3".
        cipher: the cipher suite.
        certificate: as `ssl.SSLSocket.getpeercert` has it.
    """

    version: str
    cipher: str
    certificate: dict[str, Any]

    @property
    def subject(self) -> str | None:
        """The common name of its subject."""
        return _name(self.certificate.get("subject", ()), "commonName")

    @property
    def issuer(self) -> str | None:
        """Who signed it: the common name, else the organization."""
        issuer = self.certificate.get("issuer", ())
        return _name(issuer, "commonName") or _name(issuer, "organizationName")

    @property
    def names(self) -> tuple[str, ...]:
        """The names that it is valid for."""
        return tuple(_short(value) for _, value in self.certificate.get("subjectAltName", ()))

    @property
    def not_before(self) -> datetime:
        """The moment from which it is valid, in UTC."""
        return _moment(self.certificate["notBefore"])

    @property
    def not_after(self) -> datetime:
        """The moment until which it is valid, in UTC."""
        return _moment(self.certificate["notAfter"])

    @property
    def days_left(self) -> int:
        """Whole days until `not_after`."""
        return int((self.not_after - datetime.now(UTC)).total_seconds() // _SECONDS_PER_DAY)


def _name(parts: Sequence[Sequence[tuple[str, str]]], wanted: str) -> str | None:
    return next((value for part in parts for kind, value in part if kind == wanted), None)


def _short(name: str) -> str:
    try:
        return str(ipaddress.ip_address(name))  # OpenSSL writes IPv6 addresses at full length
    except ValueError:
        return name


def _moment(text: str) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), tz=UTC)


class _WatchedObject(ssl.SSLObject):
    """Tells the timeline about its handshake."""

    timeline: Timeline
    outgoing: ssl.MemoryBIO

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except ssl.SSLWantReadError:
            if self.outgoing.pending:  # else it only waits for the rest of what the server was already asked for
                self.timeline.tls_waits()
            raise
        cipher = self.cipher()
        self.timeline.tls_is_up(
            TLSFacts(
                version=self.version() or "TLS",
                cipher="" if cipher is None else cipher[0],
                certificate=dict(self.getpeercert() or {}),
            )
        )


class WatchedContext(ssl.SSLContext):
    """A context whose handshakes tell the timeline about themselves."""

    timeline: Timeline
    sslobject_class = _WatchedObject

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> _WatchedObject:
        """Begin a handshake; see `ssl.SSLContext.wrap_bio`."""
        self.timeline.tls_begins()
        # sslobject_class makes it one
        made = cast("_WatchedObject", super().wrap_bio(incoming, outgoing, server_side, server_hostname, session))
        made.timeline = self.timeline
        made.outgoing = outgoing
        return made
