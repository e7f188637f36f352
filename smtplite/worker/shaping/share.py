"""Share: one worker's part of what all workers share, second by second. Without I/O or a clock."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from smtplite.protocol.reply import Reply
from smtplite.worker.shaping.board import RELAY, Ask, Effect, Grant, Limit, Match
from smtplite.worker.shaping.pace import Pace, is_throttling
from smtplite.worker.shaping.rules import RecipientRule, RelayRule, Rules

__all__ = ["Share"]

#: How often a worker asks while it sends; and while it has nothing to send, only to be counted.
_ASK_SECONDS: Final = 1.0
_IDLE_SECONDS: Final = 5.0
#: How long a share of the connections is kept for a worker that does not ask.
_KEPT_SECONDS: Final = 15.0
#: How soon a worker asks when it suddenly has something to send; and when it got few tokens, as at the beginning.
_SOONEST_SECONDS: Final = 0.02
_SOON_SECONDS: Final = 0.2
#: More than it can get: it asks for all there are.
_ALL: Final = 1_000_000
#: Tokens are spread over a little less than the time until the next ones come.
_SPREAD: Final = 0.97
#: How late a worker may use its tokens and still catch up.
_LATE_SECONDS: Final = 0.05
#: The longest time that a message is put off at once because it is not its recipient's turn.
_LONGEST_WAIT_SECONDS: Final = 3600.0


@attrs.define
class _Allowance:
    """Tokens of one limit in one worker.

    Attributes:
        tokens: how many messages may be sent.
        due: when the next one may be sent.
        step: seconds between two messages.
        used: how many were sent since the worker last asked.
        lacked: how many had to wait since then.
        minted_at: the time up to which tokens were given.
        turn: when the next of the waiting messages may ask again.
    """

    tokens: int = 0
    due: float = 0.0
    step: float = 0.0
    used: int = 0
    lacked: int = 0
    minted_at: float = 0.0
    turn: float = 0.0

    def wait(self, now: float) -> float | None:
        """Return the seconds until a token may be used; None: there is none."""
        return max(0.0, self.due - now) if self.tokens else None

    def take(self, now: float) -> None:
        self.tokens -= 1
        self.used += 1
        self.due = max(self.due, now - _LATE_SECONDS) + self.step

    def add(self, count: int, now: float, seconds: float, phase: float) -> None:
        self.tokens += count
        self.minted_at = now
        if self.tokens:
            self.step = seconds * _SPREAD / self.tokens
            # Workers that begin together do not send their first message at the same moment.
            first = now if self.due >= now - _LATE_SECONDS else now + self.step * phase
            self.due = min(max(self.due, first), now + self.step)

    def give_up(self, keep: int = 0) -> int:
        """Keep this many tokens; return how many are given back."""
        count = max(0, self.tokens - keep)
        self.tokens -= count
        return count


class Share:
    """One worker's side of the board. Times are from any clock that only goes forward.

    Args:
        worker: its name; unique.
        rules: what is allowed.
        host: the relay's host.
    """

    def __init__(self, worker: str, rules: Rules, host: str) -> None:
        self._worker = worker
        self._phase = zlib.crc32(worker.encode()) / 2**32
        self._rules = rules
        self._rule = rules.for_relay(host)
        self._allowances: dict[str, _Allowance] = {RELAY: _Allowance()}
        self._limits: dict[str, Limit] = {RELAY: Limit(self._rule.max_message_rate, self._rule.quota)}
        self._wanted: dict[str, int] = {}
        self._returned: dict[str, int] = {}
        self._grant: Grant | None = None
        self._offset = 0.0  # from this clock to the store's
        self._accepted = self._throttled = 0
        self._matches: list[Match] = []
        self._active_at = -math.inf
        self._ask_at = self._asked_at = -math.inf
        self._is_limited = False
        self._deaf_until = -math.inf
        #: How many connections may be open; None: any number.
        self.connections: int | None = None if self._rule.connection_limit is None else 0
        #: How many are open, at most.
        self.held = 0

    @property
    def rule(self) -> RelayRule:
        """What applies to the relay."""
        return self._rule

    @property
    def workers(self) -> int:
        """How many workers share the limits, as far as known."""
        return 1 if self._grant is None else self._grant.workers

    @property
    def rate(self) -> float:
        """Messages a second to the relay, of all workers together, as far as known."""
        return self._rate(RELAY)

    # Before sending

    def relay_wait(self, now: float) -> float:
        """Return the seconds until a message may be sent. 0: call `take` now; infinite: wait for a grant."""
        self._active_at = now
        if self.suspended_for(now) > 0:
            return math.inf
        allowance = self._allowances[RELAY]
        wait = allowance.wait(now)
        if wait is None:
            allowance.lacked += 1
            self._ask_soon()
            return math.inf
        return wait

    def take(self, now: float) -> None:
        """Use a token of the relay."""
        self._allowances[RELAY].take(now)

    def suspended_for(self, now: float, address: str | None = None) -> float:
        """Return for how many seconds the relay, or a recipient, is suspended; 0: it is not."""
        rules: Iterable[RecipientRule] = [self._rule] if address is None else self._rules.for_recipient(address)
        if any(rule.suspended for rule in rules):
            return _LONGEST_WAIT_SECONDS
        return max((effect.until - self._offset - now for effect in self._effects(now, address)), default=0.0)

    def _effects(self, now: float, address: str | None) -> list[Effect]:
        if self._grant is None or not self._grant.effects:
            return []
        found = [effect for effect in self._grant.effects if effect.suspends and effect.until - self._offset > now]
        if address is None:
            return [effect for effect in found if effect.what == RELAY]
        return [effect for effect in found if effect.what != RELAY and self._rules.matches(effect.what, address)]

    def limits_of(self, address: str) -> list[str]:
        """Return the limits that apply to a recipient."""
        names: list[str] = []
        for rule in self._rules.for_recipient(address):
            is_slowed = self._grant is not None and any(effect.what == rule.pattern for effect in self._grant.effects)
            if rule.max_message_rate or rule.quota or is_slowed:
                names.append(rule.pattern)
                if rule.pattern not in self._allowances:
                    self._allowances[rule.pattern] = _Allowance()
                    self._limits[rule.pattern] = Limit(rule.max_message_rate, rule.quota)
        return names

    def lacking(self, names: Iterable[str]) -> bool:
        """Return True if tokens are missing for these limits; note that they are wanted."""
        counts: dict[str, int] = {}
        for name in names:
            counts[name] = counts.get(name, 0) + 1
        for name, count in counts.items():
            missing = count - self._allowances[name].tokens
            if missing > 0:
                self._wanted[name] = missing
        return bool(self._wanted)

    def recipient_wait(self, names: Sequence[str], now: float) -> float:
        """Use a token of each of these limits, and return 0; or use none, and return the seconds until its turn."""
        allowances = [self._allowances[name] for name in names]
        lacking = [name for name in names if not self._allowances[name].tokens]
        if not lacking:
            for allowance in allowances:
                allowance.tokens -= 1
                allowance.used += 1
            return 0.0
        turn = now
        for name in lacking:
            allowance = self._allowances[name]
            allowance.lacked += 1
            rate = self._rate(name) / self.workers
            first = now + (self._grant.waits.get(name, 0.0) if self._grant is not None else 0.0)
            allowance.turn = max(allowance.turn, first) + 1 / max(rate, 1e-9)
            turn = max(turn, allowance.turn)
        return min(max(turn - now, _SOON_SECONDS), _LONGEST_WAIT_SECONDS)

    # After sending

    def observe(self, reply: Reply | None, address: str | None, now: float) -> None:
        """Learn what the relay said about a message; `address` None: about a new connection."""
        if reply is None:
            return
        if not reply.is_negative:
            self._accepted += 1
            return
        rules: list[tuple[str, RecipientRule]] = [(RELAY, self._rule)]
        if address is not None:
            rules += [(rule.pattern, rule) for rule in self._rules.for_recipient(address)]
        found = [
            Match(what, automation, str(reply))
            for what, rule in rules
            for automation in rule.automation
            if automation.fits(reply)
        ]
        if found:
            self._matches += found
            self._ask_at = now
        if is_throttling(reply) and now >= self._deaf_until:
            self._throttled += 1
            self._return(RELAY, self._allowances[RELAY].give_up())
            self._ask_at = now

    # Asking

    @property
    def ask_at(self) -> float:
        """When to ask next."""
        return self._ask_at

    @property
    def asked_at(self) -> float:
        """When it last asked."""
        return self._asked_at

    def ask(self, now: float, *, is_leaving: bool = False) -> Ask:
        """Return what to ask now. Call `granted` or `missed` afterwards."""
        is_active = not is_leaving and now - self._active_at < _ASK_SECONDS
        relay = self._allowances[RELAY]
        self._is_limited = is_active and bool(relay.lacked)
        wants = dict(self._wanted)
        if self._is_limited:
            wants[RELAY] = _ALL
        elif is_active:
            wants[RELAY] = max(2, math.ceil(relay.used * 1.5)) - relay.tokens
        for name, allowance in self._allowances.items():
            idle = name != RELAY and not (allowance.used or allowance.lacked or name in wants)
            # Keep what can be used until the answer arrives.
            self._return(name, allowance.give_up(0 if idle or not is_active else 1 + allowance.tokens // 4))
            allowance.used = allowance.lacked = 0
        names = {RELAY, *wants, *self._returned}
        ask = Ask(
            worker=self._worker,
            seconds=0.0 if is_leaving else _KEPT_SECONDS,
            is_active=is_active,
            connections=0 if is_leaving else self.held,
            connection_limit=self._rule.connection_limit,
            limits={name: limit for name, limit in self._limits.items() if name in names},
            wants=wants,
            returns=self._returned,
            accepted=self._accepted,
            throttled=self._throttled,
            is_limited=self._is_limited,
            matches=tuple(self._matches),
        )
        self._wanted, self._returned, self._asked_at = {}, {}, now
        return ask

    def granted(self, ask: Ask, grant: Grant, now: float) -> None:
        """Use what was granted."""
        self._grant = grant
        self._offset = grant.now - now
        self._deaf_until = now + grant.pause
        self._accepted -= ask.accepted
        self._throttled -= ask.throttled
        del self._matches[: len(ask.matches)]
        for name, tokens in grant.tokens.items():
            self._allowances[name].add(tokens, now, _ASK_SECONDS, self._phase)
        if grant.connections != self.connections:
            self.connections = grant.connections
            if grant.connections is not None:
                self.held = max(self.held, grant.connections)
        self._plan_next(now)

    def missed(self, now: float) -> None:
        """Go on without the board: use one worker's part of each limit."""
        for name in self._allowances:
            self._mint(name, now)
        self._ask_at = now + _ASK_SECONDS

    def _mint(self, name: str, now: float) -> None:
        allowance, limit = self._allowances[name], self._limits[name]
        rate = self._rate(name)
        if limit.quota is not None:
            rate = min(rate, limit.quota.per_second)
        seconds = min(now - allowance.minted_at, _ASK_SECONDS)
        # A fraction of a token is left for the next time.
        count = math.floor(rate / self.workers * (now - allowance.minted_at))
        if seconds > 0 and count > 0:
            most = max(1, math.floor(rate / self.workers * _ASK_SECONDS))
            allowance.tokens = min(allowance.tokens, most)
            allowance.add(min(count, most), now, _ASK_SECONDS, self._phase)

    def _rate(self, name: str) -> float:
        """Return the messages a second of all workers together, as far as known; infinite: any number."""
        if self._grant is not None and name in self._grant.rates:
            return self._grant.rates[name]
        limit = self._limits[name]
        if limit.rate is not None:
            return limit.rate.per_second
        return Pace().rate if name == RELAY else math.inf

    def _return(self, name: str, count: int) -> None:
        if count:
            self._returned[name] = self._returned.get(name, 0) + count

    def _plan_next(self, now: float) -> None:
        self._ask_at = now + (_ASK_SECONDS if now - self._active_at < _ASK_SECONDS else _IDLE_SECONDS)
        if self._matches or self._throttled:
            self._ask_at = now

    def _ask_soon(self) -> None:
        """Ask before the second is over, because nothing was left, or too little was asked for."""
        wait = _SOONEST_SECONDS
        if self._is_limited and self._grant is not None:
            if (tokens := self._grant.tokens.get(RELAY, 0)) >= self._rate(RELAY) / self.workers / 2:
                return  # it has already had its part for this second
            wait = _SOON_SECONDS if tokens else max(wait, self._grant.waits.get(RELAY, 0.0))
        self._ask_at = min(self._ask_at, self._asked_at + wait)
