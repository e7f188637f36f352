"""Relays: the members of a route with their breakers, and which of them is next for a message."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import attrs

from smtplite.errors import SMTPError, TLSError
from smtplite.message import Prepared
from smtplite.protocol import Reply
from smtplite.results import Receipt
from smtplite.routes.breaker import Breaker
from smtplite.routes.events import MovedOn, Teller
from smtplite.routes.member import Member
from smtplite.routes.policies import Order
from smtplite.routes.routed import Routed
from smtplite.routes.verdicts import Verdict

__all__ = ["Relay", "Relays"]

#: How a connection to a relay can be protected, the safest last.
_RANKS: Final = ("clear", "encrypted", "verified")


@attrs.frozen(eq=False)
class Relay:
    """One member of a route.

    Attributes:
        index: its place among them.
        member: what sends.
        name: for display.
        rank: how well the connection to it is protected; more is safer.
        breaker: whether it is used.
    """

    index: int
    member: Member
    name: str
    rank: int
    breaker: Breaker

    @classmethod
    def of(cls, index: int, member: Member, breaker: Callable[[str], Breaker]) -> Relay:
        """Return the relay that a member is."""
        name = member.server
        return cls(index, member, name, _RANKS.index(member.security), breaker(name))


class Relays:
    """All relays of a route.

    Args:
        relays: in the order in which they were given.
        order: whose turn it is.
        is_chosen: tells which refusals are to be tried elsewhere.
        tell: is handed events.
    """

    def __init__(self, relays: Sequence[Relay], order: Order, is_chosen: Callable[[Reply], bool], tell: Teller) -> None:
        self._relays = relays
        self._order = order
        self._is_chosen = is_chosen
        self._tell = tell
        self._listeners: list[Callable[[], None]] = []

    def __len__(self) -> int:
        return len(self._relays)

    def __getitem__(self, index: int) -> Relay:
        return self._relays[index]

    def __iter__(self) -> Iterator[Relay]:
        return iter(self._relays)

    # Changes

    def listen(self, listener: Callable[[], None]) -> None:
        """Call this whenever a breaker changes."""
        self._listeners.append(listener)

    def unlisten(self, listener: Callable[[], None]) -> None:
        """Call it no more."""
        self._listeners.remove(listener)

    def changed(self) -> None:
        """Tell all who listen: a breaker has changed."""
        for listener in list(self._listeners):
            listener()

    # Who is next

    @property
    def are_all_out(self) -> bool:
        """True if no relay works, as far as is known."""
        return not any(relay.breaker.state == "closed" for relay in self._relays)

    @property
    def first(self) -> Relay | None:
        """The first relay that works; None: none does."""
        return next((relay for relay in self._relays if relay.breaker.state == "closed"), None)

    def has_as_safe(self, relay: Relay) -> bool:
        """Return True if there is another relay to which the way is as safe as to this one."""
        return any(other.rank >= relay.rank for other in self._relays if other is not relay)

    @property
    def is_fixed(self) -> bool:
        """True if all messages go to the first relay that works."""
        return self._order.is_fixed

    def routed(self, prepared: Prepared, *, require_all: bool, item: object = None) -> Routed:
        """Return a message that begins its way: whose turn it is, is decided now."""
        order = self._order.next(self._may_use)
        return Routed(prepared, order, self._is_chosen, require_all=require_all, item=item)

    def _may_use(self, index: int) -> bool:
        breaker = self._relays[index].breaker
        return breaker.state == "closed" or breaker.is_due

    def candidates(self, routed: Routed) -> Iterator[Relay]:
        """Yield the relays that the message may still go to, in its order, whatever their breakers say.

        A relay that is left alone because of a certificate excludes those after it whose connection is less safe.
        """
        least = routed.least_rank
        others: list[Relay] = []
        for index in routed.order:
            relay = self._relays[index]
            if relay.rank < least:
                continue
            if routed.may_try(index, relay.breaker.generation):
                yield relay
                if isinstance(relay.breaker.error, TLSError) and relay.breaker.state != "closed":
                    least = max(least, relay.rank)
            elif routed.may_try_again(index):
                others.append(relay)
        yield from [relay for relay in others if relay.rank >= least]

    def next(self, routed: Routed, *, is_forced: bool = False) -> Relay | None:
        """Return where the message goes now; None: nowhere.

        Args:
            routed: the message.
            is_forced: try also a relay whose pause is not over.
        """
        for relay in self.candidates(routed):
            was_closed = relay.breaker.state == "closed"
            if relay.breaker.enter(is_forced=is_forced):
                routed.is_probe = not was_closed
                return relay
        return None

    # What came of it

    def note(self, routed: Routed, relay: Relay, result: Receipt | SMTPError, *, is_certain: bool = False) -> Verdict:
        """Take in what a relay said of a message: the message, and the relay's breaker.

        Args:
            routed: the message.
            relay: the relay.
            result: what sending returned or raised.
            is_certain: one failure is enough to open the breaker.
        """
        breaker = relay.breaker
        verdict = routed.note(relay.index, relay.name, relay.rank, breaker.generation, result)
        is_probe, routed.is_probe = routed.is_probe, False
        if verdict.trouble is not None:
            breaker.note_failure(verdict.trouble, is_probe=is_probe, is_certain=is_certain)
        elif verdict.works:
            breaker.note_success(is_probe=is_probe)
        elif is_probe:
            breaker.give_back()
        if verdict.moves:
            error = None if isinstance(result, Receipt) else result
            self._tell(
                MovedOn(relay=relay.name, message_id=routed.prepared.message_id, recipients=verdict.moves, error=error)
            )
        return verdict
