"""Routed: one message on its way over relays, and what they said about it together."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs

from smtplite.errors import DeliveryUnknown, SMTPError, SMTPTimeout, TLSError
from smtplite.message import Prepared
from smtplite.protocol import Reply
from smtplite.results import Hop, Receipt
from smtplite.routes.verdicts import CONNECTING, Verdict, judge

__all__ = ["Routed"]

#: How often one relay is tried with the same message, if others failed in the middle of it.
_MAX_TRIES: Final = 2


class Routed:
    """One message, for whom it is still to be sent, and what the relays said.

    Args:
        prepared: the message, read and checked once for all relays.
        order: the relays, by index, in the order in which it tries them.
        is_chosen: tells which refusals are to be tried elsewhere.
        require_all: it is for everybody or nobody.
        item: what the caller gave.
    """

    def __init__(
        self,
        prepared: Prepared,
        order: Sequence[int],
        is_chosen: Callable[[Reply], bool],
        *,
        require_all: bool,
        item: Any = None,
    ) -> None:
        self.prepared = prepared
        self.order = order
        self.item = item
        #: To whom it is still to be sent.
        self.left: tuple[str, ...] = prepared.recipients
        #: What the relays said so far.
        self.hops: list[Hop] = []
        #: The least rank of a relay that it may go to, because a certificate was wrong on a safer connection.
        self.least_rank = 0
        #: True while it is the message that tries a relay again.
        self.is_probe = False
        #: True once its first byte was about to be written: to this relay; to any.
        self.has_begun_here = self.has_begun = False
        self._is_chosen = is_chosen
        self._require_all = require_all
        self._tried: dict[int, tuple[int, float]] = {}  # relay -> how often, and its generation then
        self._last = -1  # the last relay, by index
        #: True if the last relay failed, and not the message.
        self.is_hopeful = False
        self._died_midway = False
        self._receipt: Receipt | None = None  # of the last relay that took it for anyone
        self._accepted: set[str] = set()
        self._unknown: set[str] = set()
        self._refused: dict[str, Reply] = {}
        self._replies: dict[str, Reply] = {}

    def part(self) -> Prepared:
        """Return what the next relay is given."""
        prepared = self.prepared
        return prepared if self.left == prepared.recipients else prepared.only(self.left)

    def may_try(self, relay: int, generation: int) -> bool:
        """Return True if this relay was not tried yet, or has worked for others since."""
        tries, then = self._tried.get(relay, (0, 0))
        return not tries or generation > then

    def may_try_again(self, relay: int) -> bool:
        """Return True if this relay may be tried once more, when no other is left.

        A relay that died in the middle of a message says nothing about those that were tried before it.
        """
        return self._died_midway and relay != self._last and self._tried.get(relay, (0, 0))[0] < _MAX_TRIES

    def forget_try(self, relay: int) -> None:
        """Let a relay be tried again: enough time has passed."""
        self._tried.pop(relay, None)

    def note(self, relay: int, name: str, rank: int, generation: int, result: Receipt | SMTPError) -> Verdict:
        """Take in what a relay said, and return what is to be done.

        Args:
            relay: its index.
            name: its name.
            rank: how safe the way to it is.
            generation: its breaker's.
            result: what sending returned or raised.
        """
        result = self._complete(result)
        verdict = judge(result, self._is_chosen, require_all=self._require_all)
        if verdict.moves and not self.prepared.is_whole:
            verdict = attrs.evolve(verdict, moves=())
        self._take_in(relay, name, result)
        tries, _ = self._tried.get(relay, (0, 0))
        # What is not the relay's trouble is its answer: it would be the same again.
        self._tried[relay] = (tries + 1, generation) if verdict.trouble is not None else (_MAX_TRIES, math.inf)
        self.is_hopeful = verdict.trouble is not None
        self._died_midway = self.is_hopeful and isinstance(result, SMTPError) and result.phase not in CONNECTING
        if isinstance(result, TLSError):
            self.least_rank = max(self.least_rank, rank)
        moves = set(verdict.moves)
        self.left = tuple([address for address in self.prepared.recipients if address in moves])
        return verdict

    def _complete(self, result: Receipt | SMTPError) -> Receipt | SMTPError:
        """Return the result with each recipient in a set: those of whom nothing is told are not sent, or unknown."""
        told = {*result.accepted, *result.refused, *result.unknown, *result.not_sent}
        untold = tuple([address for address in self.left if address not in told])
        if not untold:
            return result
        if isinstance(result, Receipt):
            return attrs.evolve(result, unknown=(*result.unknown, *untold))
        if not self.has_begun_here or result.phase in CONNECTING:
            another = _copy(result)
            another.not_sent = (*result.not_sent, *untold)
            return another
        unknown = DeliveryUnknown(
            "relay did not say what became of the message",
            phase=result.phase,
            refused=result.refused,
            not_sent=result.not_sent,
            unknown=(*result.unknown, *untold),
        )
        unknown.__cause__ = result
        return unknown

    def _take_in(self, relay: int, name: str, result: Receipt | SMTPError) -> None:
        hop = Hop(
            relay=name,
            accepted=result.accepted,
            refused=result.refused,
            unknown=result.unknown,
            not_sent=result.not_sent,
            reply=result.reply,
            error=None if isinstance(result, Receipt) else result,
        )
        if self.hops and self._last == relay and _says_nothing(self.hops[-1]):
            self.hops.pop()  # a relay that is waited for is told once
        self._last = relay
        self.hops.append(hop)
        self._accepted.update(result.accepted)
        self._unknown.update(result.unknown)
        self._refused.update(result.refused)
        if isinstance(result, Receipt):
            self._receipt = result
            self._replies.update(result.replies)
        else:
            self._replies.update(result.refused)

    @property
    def has_taken(self) -> bool:
        """True if it was, or may have been, accepted for somebody."""
        return bool(self._accepted or self._unknown)

    # What came of it

    def result(self, error: SMTPError | None = None) -> Receipt:
        """Return the receipt, or raise what there is to raise.

        Args:
            error: why it went to no relay, if it did not.
        """
        receipt = self._receipt
        hops = tuple(self.hops)
        if receipt is not None:
            if len(hops) == 1:
                return attrs.evolve(receipt, hops=hops)
            return attrs.evolve(receipt, hops=hops, replies=self._replies, **self._sets())
        failure = self._failure(error)
        for name, value in self._sets().items():
            setattr(failure, name, value)
        failure.message_id = self.prepared.message_id
        failure.hops = hops
        if len(hops) > 1:
            failure.__notes__ = [str(hop) for hop in hops]
        raise failure from failure.__cause__

    def _sets(self) -> dict[str, Any]:
        everybody = self.prepared.recipients
        accepted, unknown, refused = self._accepted, self._unknown, self._refused
        decided = accepted | unknown
        return {
            "accepted": tuple([to for to in everybody if to in accepted]),
            "unknown": tuple([to for to in everybody if to in unknown]),
            "refused": {to: refused[to] for to in everybody if to in refused and to not in decided},
            "not_sent": tuple([to for to in everybody if to not in decided and to not in refused]),
        }

    def _failure(self, error: SMTPError | None) -> SMTPError:
        """Return the error that tells most: of what may have arrived, of a refusal, of what may pass; else the last."""
        errors = [hop.error for hop in self.hops if hop.error is not None]
        sets = self._sets()
        by_kind: list[Callable[[SMTPError], object]]
        if sets["unknown"]:
            by_kind = [lambda found: isinstance(found, DeliveryUnknown)]
        elif not sets["not_sent"]:
            by_kind = [lambda found: bool(found.refused)]
        else:
            by_kind = [lambda found: found.retryable]
        for is_telling in by_kind:
            for found in reversed(errors):
                if is_telling(found):
                    return _copy(found)
        if errors:
            return _copy(errors[-1])
        return _copy(error or SMTPTimeout("timed out before a relay could be tried"))


def _says_nothing(hop: Hop) -> bool:
    return not (hop.accepted or hop.refused or hop.unknown)


def _copy(error: SMTPError) -> SMTPError:
    """Return the error with sets of its own: the hop keeps those of its relay."""
    another = copy.copy(error)
    another.__cause__ = error.__cause__
    return another
