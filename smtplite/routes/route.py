"""Route: several relays that are used as one client."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import AsyncIterable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from email.headerregistry import Address
from email.message import Message
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

import anyio
import attrs

from smtplite.client import Client
from smtplite.errors import ConfigurationError, ConnectionLost, DeliveryUnknown, SMTPError, SMTPTimeout
from smtplite.message import Prepared
from smtplite.message.envelope import AnyRecipients, Envelope, Outgoing
from smtplite.results import Hop, Receipt
from smtplite.routes.breaker import Breaker, BreakerState, Limits
from smtplite.routes.events import RouteTrace, Teller
from smtplite.routes.member import Member
from smtplite.routes.policies import Order, Policy
from smtplite.routes.relays import Relay, Relays
from smtplite.routes.routed import Routed
from smtplite.routes.stream import RouteDeliveries
from smtplite.routes.urls import parse
from smtplite.routes.verdicts import Refusals, refusals_of
from smtplite.routes.ways import Plan
from smtplite.types import AnyMessage

__all__ = ["RelayInfo", "Route", "RouteInfo"]

#: A stream of the caller's may hang.
_CLOSE_SECONDS: Final = 5.0
#: However the relays come and go, a message makes an end: so many tries for each of them.
_MAX_TRIES: Final = 3


@attrs.frozen(kw_only=True)
class RelayInfo:
    """What `Route.check` found out about one relay.

    Attributes:
        relay: the relay, such as "mx.example.com:587".
        info: what its check returned, for a Client a ServerInfo; None: it failed.
        error: what its check raised; None: it works.
        breaker: "closed", "open" or "half-open": whether messages go to it.
        failures: how many times in a row it has failed.
        last_error: what it failed with; None: it works, or was never used.
        retry_in: seconds until a message tries it again; None: its breaker is not open.
    """

    relay: str
    info: Any
    error: SMTPError | None
    breaker: BreakerState
    failures: int
    last_error: SMTPError | None
    retry_in: float | None


@attrs.frozen
class RouteInfo:
    """What `Route.check` found.

    Attributes:
        relays: each relay, in the order in which they were given.
    """

    relays: tuple[RelayInfo, ...]


class Route:
    """Sends messages through several relays: what one of them certainly did not accept goes to another.

    What a relay accepted, or may have accepted, never goes to another one. A relay that fails is left alone for a
    while, then tried again with one message. The methods are those of `Client`. A Route closes its members.

    Args:
        members: one or more Clients, URLs for `Client.from_url`, or other objects that are a
            `smtplite.routes.Member`.
        policy: "failover": the first relay that works; "round-robin": each in turn; "weighted": each by its weight.
        weights: for "weighted": a number for each member.
        fail_over_on: which refusals of recipients or content also go to another relay: reply codes, "4yz", "5yz", or a
            function of the reply. By default a refusal is final.
        timeout: the default `timeout` of `send`: seconds for all relays together; None: no limit but the members' own.
        failures: how many failures in a row it takes until a relay is left alone.
        pause: seconds until one message tries it again; doubled each time that fails.
        max_pause: the longest of these pauses; used at once after a wrong password or certificate.
        clock: returns the time in seconds, for these pauses.
        trace: is called with each `RouteEvent`, and with the events of the clients that are made from URLs.

    Raises:
        ConfigurationError: an argument is wrong; says which.
    """

    def __init__(
        self,
        members: Iterable[Member | str],
        *,
        policy: Policy = "failover",
        weights: Iterable[float] | None = None,
        fail_over_on: Refusals = (),
        timeout: float | None = None,
        failures: int = 3,
        pause: float = 5.0,
        max_pause: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
        trace: RouteTrace | None = None,
    ) -> None:
        if isinstance(members, (str, bytes)) or not isinstance(members, Iterable):
            raise ConfigurationError(
                f"members must be several Clients or URLs, not {type(members).__name__}: for one URL of all of them "
                "there is Route.from_url"
            )
        given = [Client.from_url(member, trace=trace) if isinstance(member, str) else member for member in members]
        for member in given:
            if not isinstance(member, Member):
                raise ConfigurationError(
                    "a member of a route must be a Client, a URL or a smtplite.routes.Member, not "
                    f"{type(member).__name__}"
                )
        if not given:
            raise ConfigurationError("route has no members: pass Clients or URLs")
        if trace is not None and not callable(trace):
            raise ConfigurationError(f"trace must be a function of an event, not {type(trace).__name__}")
        if not callable(clock):
            raise ConfigurationError(f"clock must be a function that returns seconds, not {type(clock).__name__}")
        if isinstance(failures, bool) or not isinstance(failures, int) or failures < 1:
            raise ConfigurationError(f"failures must be a whole number, at least 1, not {failures!r}")
        _check_seconds("pause", pause)
        _check_seconds("max_pause", max_pause)
        tell = Teller(trace)
        limits = Limits(failures=failures, pause=pause, max_pause=max(pause, max_pause), clock=clock)
        breaker = partial(Breaker, limits=limits, tell=tell, on_change=self._note_change)
        self._relays = Relays(
            [Relay.of(index, member, breaker) for index, member in enumerate(given)],
            Order(policy, len(given), weights),
            refusals_of(fail_over_on),
            tell,
        )
        self._timeout = timeout if timeout is None else _check_seconds("timeout", timeout)

    @classmethod
    def from_url(cls, url: str, **overrides: Any) -> Self:
        """Make a Route from one URL: ``failover(smtp://a smtp://b)``.

        Also ``round-robin(smtp://a smtp://b)``, ``weighted(smtp://a?weight=3 smtp://b?weight=1)``, and after the
        parenthesis ``?timeout=``, ``?failures=``, ``?pause=`` and ``?max_pause=``.

        Args:
            url: the URLs inside are those of `Client.from_url`.
            overrides: any of Route's arguments except the members; they win over the URL.

        Raises:
            ConfigurationError: the URL or an argument is wrong; never shows a part of the URL that could hold a
                password.
        """
        members, options = parse(url)
        return cls(members, **{**options, **overrides})

    def _note_change(self) -> None:
        self._relays.changed()

    def __repr__(self) -> str:
        return f"Route({[relay.name for relay in self._relays]!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all members; nothing can be sent after that."""
        failure: Exception | None = None
        for relay in self._relays:
            try:
                await relay.member.aclose()
            except Exception as error:  # noqa: BLE001 (the others are closed anyway; raised below)
                failure = failure or error
        if failure is not None:
            raise failure

    async def check(self) -> RouteInfo:
        """Check each relay, all at the same time, and return what was found, with the state of its breaker.

        If a relay works although its breaker is open, it gets the next message.

        Raises:
            SMTPError: no relay works: the error of the first one, with `hops` for what each of them said.
        """
        found: list[RelayInfo | None] = [None] * len(self._relays)
        failures: list[Exception] = []

        async def look(relay: Relay) -> None:
            info, error = None, None
            try:
                info = await relay.member.check()
            except SMTPError as raised:
                error = raised
            except Exception as raised:  # noqa: BLE001 (raised below, by itself and not in a group)
                failures.append(raised)
            else:
                relay.breaker.make_due()
            found[relay.index] = _info(relay, info, error)

        async with anyio.create_task_group() as tasks:
            for relay in self._relays:
                tasks.start_soon(look, relay)
        if failures:
            raise failures[0]
        infos = tuple([info for info in found if info is not None])
        if all(info.error is not None for info in infos):
            raise _no_relay(infos)
        return RouteInfo(infos)

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
        """Send one message, and return what became of it for each recipient.

        Args:
            message: as for `Client.send`.
            sender: the reverse-path; None: from Sender or From; "": the null reverse-path.
            recipients: one address, or several; None: from To, Cc and Bcc.
            envelope: instead of `sender` and `recipients`, to set more than addresses.
            require_all: send to nobody unless every recipient is accepted.
            timeout: seconds for all relays together. As long as there is another relay, each has at most its share of
                them until a connection is ready.

        Returns:
            The receipt, with `hops`. The message was certainly accepted for somebody; ``receipt.complete`` if for
            everybody.

        Raises:
            SMTPError: as `Client.send`, with `hops`; of several errors the one that tells most.
        """
        timeout = self._timeout if timeout is None else _check_seconds("timeout", timeout)
        expires = math.inf if timeout is None else anyio.current_time() + timeout
        with anyio.move_on_after(math.inf if timeout is None else timeout) as scope:
            prepared = await _prepared(message, sender, recipients, envelope)
        if scope.cancelled_caught:
            raise SMTPTimeout(f"timed out: timeout={timeout:g} s for the whole call")
        routed = self._relays.routed(prepared, require_all=require_all)
        error: SMTPError | None = None
        try:
            error = await self._deliver(routed, require_all=require_all, expires=expires)
        finally:
            if prepared.reader is not None:
                with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
                    await prepared.aclose()
        return routed.result(error)

    async def _deliver(self, routed: Routed, *, require_all: bool, expires: float) -> SMTPError | None:
        """Send the message to one relay after another; return why there was none, if that is the reason of its end."""
        for _ in range(_MAX_TRIES * len(self._relays)):
            if not routed.left or (routed.hops and anyio.current_time() >= expires):
                return None
            with anyio.CancelScope(deadline=expires) as scope:
                relay = await self._next(routed)
            if scope.cancelled_caught:
                return SMTPTimeout("timed out: timeout= of the call, while another message tried the relays")
            if relay is None:
                return None
            await self._hop(routed, relay, require_all=require_all, expires=expires)
        return None

    async def _next(self, routed: Routed) -> Relay | None:
        """Return where the message goes now; wait if others try the relays just now, and learn from them."""
        relays = self._relays
        while True:
            relay = relays.next(routed) or relays.next(routed, is_forced=True)
            if relay is not None:
                return relay
            tried = list(relays.candidates(routed))
            if not tried:
                return None
            changed = anyio.Event()
            relays.listen(changed.set)
            try:
                await changed.wait()
            finally:
                relays.unlisten(changed.set)
            for each in tried:
                breaker = each.breaker
                if breaker.state == "open" and not breaker.is_due and breaker.error is not None:
                    lost = ConnectionLost(
                        f"another message found that the relay fails: {breaker.error}", phase="connect"
                    )
                    lost.__cause__ = breaker.error
                    lost.not_sent = routed.left
                    routed.note(each.index, each.name, each.rank, breaker.generation, lost)

    async def _hop(self, routed: Routed, relay: Relay, *, require_all: bool, expires: float) -> None:
        """Send the message to one relay."""
        others = sum(1 for each in self._relays.candidates(routed) if each is not relay)
        seconds = max(0.0, expires - anyio.current_time())
        result: Receipt | SMTPError
        routed.has_begun_here = True  # for all that is known here
        try:
            result = await relay.member.send(
                routed.part(),
                require_all=require_all,
                timeout=None if seconds == math.inf else seconds,
                ready_within=seconds / (others + 1) if others and seconds < math.inf else None,
            )
        except SMTPError as error:
            result = error
        except BaseException as error:
            if routed.is_probe:
                relay.breaker.give_back()
            if not routed.has_taken or not isinstance(error, Exception):
                raise
            # Others have it already, and are reported; for those who are left here, nobody knows how far it came.
            result = DeliveryUnknown(f"relay failed with an unexpected error: {error!r:.80}", unknown=routed.left)
            result.__cause__ = error
        self._relays.note(routed, relay, result)

    def send_many(
        self,
        messages: Iterable[AnyMessage | Outgoing] | AsyncIterable[AnyMessage | Outgoing],
        *,
        connections: int | None = None,
        in_flight: int = 32,
        require_all: bool = False,
        timeout: float | None = None,
        drain: float = 30.0,
        reconnect: float = 30.0,
        on_begin: Callable[[list[Any]], None] | None = None,
    ) -> AbstractAsyncContextManager[RouteDeliveries]:
        """Send many messages, and report what became of each, in order of completion, as `Client.send_many` does.

        If a relay fails, the messages that it has not begun go to another one.

        Args:
            messages: what `send` accepts, or `Outgoing`; any iterable, also an asynchronous one, read lazily.
            connections: how many to use at most to each relay; None: one fewer than its client may have.
            in_flight: with `chunking`, how many messages may await their verdicts on one connection.
            require_all: for each message, send to nobody unless every recipient is accepted.
            timeout: seconds for each message and relay, from its first byte to its verdict; None: the client's.
            drain: seconds to wait for outstanding outcomes when the block is left early.
            reconnect: seconds to keep trying when no relay works. Before the first connection each is tried once.
            on_begin: called before each write with the items whose first byte is in it: once for each item, at the
                first relay that it is written to.

        Raises:
            ConfigurationError: an argument is wrong.
            SMTPError: (in the loop) no relay works. If one message could not be sent, its delivery says so.
        """
        if isinstance(messages, (str, bytes, bytearray, memoryview, Message, Outgoing)):
            raise ConfigurationError(
                "messages must be an iterable of messages, not one message: use send, or a list of one"
            )
        if not isinstance(messages, (Iterable, AsyncIterable)):
            raise ConfigurationError(f"messages must be an iterable of messages, not {type(messages).__name__}")
        if on_begin is not None and not callable(on_begin):
            raise ConfigurationError(f"on_begin must be a function of a list of items, not {type(on_begin).__name__}")
        plan = Plan(
            connections=connections,
            in_flight=in_flight,
            require_all=require_all,
            timeout=timeout if timeout is None else _check_seconds("timeout", timeout),
            drain=_check_seconds("drain", drain),
            reconnect=_check_seconds("reconnect", reconnect),
            on_begin=on_begin,
        )
        return RouteDeliveries(messages, self._relays, plan)


async def _prepared(
    message: AnyMessage | Prepared,
    sender: str | Address | None,
    recipients: AnyRecipients | None,
    envelope: Envelope | None,
) -> Prepared:
    if isinstance(message, Prepared):
        return message.signed_by(None)  # somebody else closes it
    return await Prepared.of(message, sender=sender, recipients=recipients, envelope=envelope)


def _check_seconds(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise ConfigurationError(f"{name} must be a number of seconds, not {value!r:.80}")
    return value


def _info(relay: Relay, info: object, error: SMTPError | None) -> RelayInfo:
    breaker = relay.breaker
    return RelayInfo(
        relay=relay.name,
        info=info,
        error=error,
        breaker=breaker.state,
        failures=breaker.failures,
        last_error=breaker.error,
        retry_in=breaker.retry_in,
    )


def _no_relay(infos: tuple[RelayInfo, ...]) -> SMTPError:
    first = infos[0].error
    error = ConnectionLost("no relay works") if first is None else copy.copy(first)
    error.__cause__ = None if first is None else first.__cause__
    error.hops = tuple([Hop(relay=info.relay, error=info.error) for info in infos])
    return error
