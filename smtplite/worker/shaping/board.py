"""Board: what all workers of a relay share, and what each of them is given when it asks. Without I/O or a clock.

It is one small document in the engine's own store. A worker asks about once a second. It reports what became of the
messages that it sent, and gives back what it did not use. It is given tokens for the next second, and its share of the
connections. All times are the store's: the clock of a worker's machine is not used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final, Self

import attrs

from smtplite.worker.shaping.pace import Pace
from smtplite.worker.shaping.rules import Action, Automation
from smtplite.worker.shaping.units import Rate

__all__ = ["RELAY", "Ask", "Board", "Effect", "Grant", "Limit", "Match"]

#: What a limit of the whole relay is called, where others have the pattern of a rule. No pattern contains a space.
RELAY: Final = "the relay"

#: Tokens can be saved up for a burst: as many as this many seconds bring, and at least one.
_CAPACITY_SECONDS: Final = 1.25
#: A quota's period is counted in this many parts. What is older than the period and one part is forgotten.
_QUOTA_PARTS: Final = 60
#: A clock that goes back by more than this was set anew, and not only corrected a little.
_JUMP_SECONDS: Final = 5.0
#: How much is shown of the reply that triggered an automation.
_MAX_REASON_CHARACTERS: Final = 200


@attrs.frozen
class Limit:
    """What the rules allow.

    Attributes:
        rate: messages, evenly spread; None: as many as the relay accepts.
        quota: messages within any period of this length; None: no limit.
    """

    rate: Rate | None = None
    quota: Rate | None = None


@attrs.frozen
class Match:
    """Replies that matched an automation.

    Attributes:
        what: RELAY, or the pattern of the rule for recipients.
        automation: the automation.
        said: the last of the replies.
        count: how many replies there were.
    """

    what: str
    automation: Automation
    said: str
    count: int = 1


@attrs.frozen(kw_only=True)
class Effect:
    """What applies for a while: an automation's action, or what somebody did by hand.

    Attributes:
        what: RELAY, or the pattern of the recipients.
        action: what is done.
        until: when it ends.
        reason: the reply that triggered it, or the reason that somebody gave.
        by: the automation's name, or "hand".
    """

    what: str
    action: Action
    until: float
    reason: str
    by: str

    @property
    def suspends(self) -> bool:
        """True if nothing is sent meanwhile."""
        return self.action.setting == "suspend"


@attrs.frozen(kw_only=True)
class Ask:
    """What a worker reports, and what it asks for.

    Attributes:
        worker: its name; unique.
        seconds: how long its share of the connections is kept for it, if it does not ask again.
        is_active: whether it has something to send.
        connections: how many connections it may have open now.
        connection_limit: connections of all workers together; None: no limit.
        limits: what the rules allow, by what the limit is for.
        wants: how many tokens it could use within the next second, by what the limit is for.
        returns: how many tokens it had and did not use, by what the limit is for.
        accepted: messages that the relay accepted since this worker last asked.
        throttled: messages that the relay refused because there were too many.
        is_limited: whether it would have sent more if it had had more tokens.
        matches: replies that matched automations.
    """

    worker: str
    seconds: float
    is_active: bool = True
    connections: int = 0
    connection_limit: int | None = None
    limits: Mapping[str, Limit] = attrs.field(factory=dict)
    wants: Mapping[str, int] = attrs.field(factory=dict)
    returns: Mapping[str, int] = attrs.field(factory=dict)
    accepted: int = 0
    throttled: int = 0
    is_limited: bool = False
    matches: tuple[Match, ...] = ()


@attrs.frozen(kw_only=True)
class Grant:
    """What a worker is given.

    Attributes:
        now: the store's time.
        tokens: how many messages it may send, by what the limit is for.
        waits: if it got no token, the seconds until there may be one, by what the limit is for.
        rates: messages a second of all workers together, by what the limit is for.
        connections: how many connections it may have open; None: any number.
        workers: how many workers there are.
        pause: seconds for which nothing is sent, because the relay refused some. What it refuses meanwhile was sent
            before.
        effects: what applies for a while.
    """

    now: float
    tokens: Mapping[str, int]
    waits: Mapping[str, float]
    rates: Mapping[str, float]
    connections: int | None
    workers: int
    pause: float
    effects: tuple[Effect, ...]


@attrs.define
class _Worker:
    """A worker that asked.

    Attributes:
        until: when its share of the connections goes to others.
        asked: when it last asked.
        is_active: whether it has something to send.
        connections: how many connections it may have open.
    """

    until: float
    asked: float
    is_active: bool
    connections: int


@attrs.define
class _Bucket:
    """Tokens of one limit.

    Attributes:
        level: how many tokens there are.
        at: when `level` was right.
        used: (when a part of the quota's period began, messages in it), the oldest first.
    """

    level: float
    at: float
    used: list[tuple[float, int]] = attrs.field(factory=list)


@attrs.define
class Board:
    """The document.

    Attributes:
        at: when it was last changed.
        workers: name -> worker.
        buckets: what a limit is for -> its tokens.
        effects: what applies for a while.
        seen: automation -> the times of replies that matched it, as long as they count.
        pace: what is known about the relay's rate.
    """

    at: float = 0.0
    workers: dict[str, _Worker] = attrs.field(factory=dict)
    buckets: dict[str, _Bucket] = attrs.field(factory=dict)
    effects: list[Effect] = attrs.field(factory=list)
    seen: dict[str, list[float]] = attrs.field(factory=dict)
    pace: Pace = attrs.field(factory=Pace)

    # As text

    def to_json(self) -> bytes:
        """Return it as JSON, for a store to keep."""
        fields = attrs.asdict(self, filter=lambda field, _: field.name != "effects")
        fields["effects"] = [
            {**attrs.asdict(effect), "action": [effect.action.setting, _plain(effect.action.value)]}
            for effect in self.effects
        ]
        return json.dumps(fields, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes | str | None) -> Self:
        """Return the board that `to_json` wrote; an empty board if there is no text."""
        if not text:
            return cls()
        fields: dict[str, Any] = json.loads(text)
        return cls(
            at=fields["at"],
            workers={name: _Worker(**worker) for name, worker in fields["workers"].items()},
            buckets={
                what: _Bucket(bucket["level"], bucket["at"], [(at, count) for at, count in bucket["used"]])
                for what, bucket in fields["buckets"].items()
            },
            effects=[
                Effect(**{**effect, "action": Action(effect["action"][0], _value(effect["action"][1]))})
                for effect in fields["effects"]
            ],
            seen=fields["seen"],
            pace=Pace(**fields["pace"]),
        )

    # Operations

    def exchange(self, ask: Ask, now: float) -> Grant:
        """Note what a worker reports, and give it what it may have."""
        now = self._tick(now)
        known = self.workers.get(ask.worker)
        is_told = known is None or known.asked >= self.pace.paused_until - self.pace.pause
        worker = _Worker(now + ask.seconds, now, ask.is_active, ask.connections)
        self.workers[ask.worker] = worker
        for match in ask.matches:
            self._note(match, now)
        # If a worker did not know about the last pause, what was refused to it was sent at the rate before the pause.
        self._step(ask, now, is_told=is_told)
        rates = self._rates(ask.limits)
        tokens: dict[str, int] = {}
        waits: dict[str, float] = {}
        for what, limit in ask.limits.items():
            tokens[what], waits[what] = self._tokens(what, limit, rates.get(what), ask, now)
        return Grant(
            now=now,
            tokens=tokens,
            waits=waits,
            rates=rates,
            connections=self._connections(ask, worker),
            workers=max(1, sum(each.is_active for each in self.workers.values())),
            pause=max(0.0, self.pace.paused_until - now),
            effects=tuple(self.effects),
        )

    def add(self, effect: Effect, now: float) -> None:
        """Apply something for a while; the same thing again replaces it."""
        self._tick(now)
        self._add(effect)

    def resume(self, what: str, now: float) -> list[Effect]:
        """End all effects for the relay, or for these recipients; return them. The pace that was found stays."""
        self._tick(now)
        ended = [effect for effect in self.effects if effect.what == what]
        self.effects = [effect for effect in self.effects if effect.what != what]
        return ended

    def _tick(self, now: float) -> float:
        """Forget what is over; return the time, which never goes back."""
        if now < self.at - _JUMP_SECONDS:  # the store's clock was set back
            self._shift(now - self.at)
        self.at = now = max(now, self.at)
        self.workers = {name: worker for name, worker in self.workers.items() if worker.until > now}
        self.effects = [effect for effect in self.effects if effect.until > now]
        return now

    def _shift(self, seconds: float) -> None:
        self.at += seconds
        for worker in self.workers.values():
            worker.until += seconds
            worker.asked += seconds
        for bucket in self.buckets.values():
            bucket.at += seconds
            bucket.used = [(at + seconds, count) for at, count in bucket.used]
        self.effects = [attrs.evolve(effect, until=effect.until + seconds) for effect in self.effects]
        self.seen = {name: [at + seconds for at in times] for name, times in self.seen.items()}
        pace = self.pace
        self.pace = attrs.evolve(
            pace, at=pace.at + seconds, cut_at=pace.cut_at + seconds, paused_until=pace.paused_until + seconds
        )

    # Automation

    def _note(self, match: Match, now: float) -> None:
        automation, trigger = match.automation, match.automation.trigger
        key = f"{match.what} {automation.name}"
        times = [at for at in self.seen.get(key, []) if at > now - trigger.seconds]
        times = [*times, *[now] * match.count][-trigger.count :]
        if len(times) < trigger.count:
            self.seen[key] = times
            return
        self.seen.pop(key, None)
        for action in automation.actions:
            until = now + automation.duration
            reason = match.said[:_MAX_REASON_CHARACTERS]
            self._add(Effect(what=match.what, action=action, until=until, reason=reason, by=automation.name))

    def _add(self, effect: Effect) -> None:
        def is_same(other: Effect) -> bool:
            return (other.what, other.action.setting, other.by) == (effect.what, effect.action.setting, effect.by)

        self.effects = [*(other for other in self.effects if not is_same(other)), effect]

    def _suspends(self, what: str) -> bool:
        return any(effect.suspends and effect.what == what for effect in self.effects)

    def _settings(self, what: str, setting: str) -> list[Any]:
        return [
            effect.action.value for effect in self.effects if effect.what == what and effect.action.setting == setting
        ]

    # Rates

    def _step(self, ask: Ask, now: float, *, is_told: bool) -> None:
        """Learn about the relay's rate."""
        rule = ask.limits.get(RELAY, Limit()).rate
        pace = self.pace
        if not pace.at:
            pace = attrs.evolve(pace, at=now, cut_at=now)
        if rule is not None and pace.known is None:  # begin with the rate in the rules
            pace = attrs.evolve(pace, rate=rule.per_second)
        others = [
            now - worker.asked for name, worker in self.workers.items() if name != ask.worker and worker.is_active
        ]
        pace = pace.after(
            now,
            accepted=ask.accepted if is_told else 0,
            throttled=ask.throttled if is_told else 0,
            is_limited=ask.is_limited,
            lag=sum(others) / (len(others) + 1),
        )
        if rule is not None:
            pace = attrs.evolve(pace, rate=min(pace.rate, rule.per_second))
        self.pace = pace

    def _rates(self, limits: Mapping[str, Limit]) -> dict[str, float]:
        rates: dict[str, float] = {}
        for what, limit in limits.items():
            rates_here = [rate.per_second for rate in self._settings(what, "max_message_rate")]
            if limit.rate is not None:
                rates_here.append(limit.rate.per_second)
            if what == RELAY:
                rates_here.append(self.pace.rate)
            if rates_here:
                rates[what] = min(rates_here)
        return rates

    def _tokens(self, what: str, limit: Limit, rate: float | None, ask: Ask, now: float) -> tuple[int, float]:
        """Give tokens of a limit; return how many, or 0 and the seconds until there may be one."""
        bucket = self.buckets.get(what)
        if bucket is None:
            bucket = self.buckets[what] = _Bucket(1.0, now)
        capacity = math.inf if rate is None else max(1.0, rate * _CAPACITY_SECONDS)
        returned = ask.returns.get(what, 0)
        if rate is None:
            bucket.level = 0.0
        else:
            bucket.level = min(capacity, bucket.level + returned + rate * (now - bucket.at))
        bucket.at = now
        self._uncount(bucket, returned)
        if self._suspends(what):
            return 0, min(effect.until for effect in self.effects if effect.suspends and effect.what == what) - now
        if what == RELAY and now < self.pace.paused_until:
            bucket.level = 0.0  # otherwise all would begin at once when the pause is over
            return 0, self.pace.paused_until - now
        given = float(ask.wants.get(what, 0))
        wait = 0.0
        if rate is not None:
            given = min(given, bucket.level - self._reserved(ask.worker, rate, now))
            wait = max(0.0, 1 - bucket.level) / rate
        if limit.quota is not None:
            left = self._left(bucket, limit.quota, now)
            if left <= 0:
                wait = max(wait, bucket.used[0][0] + limit.quota.seconds * (1 + 1 / _QUOTA_PARTS) - now)
            given = min(given, left)
        count = max(0, math.floor(given + 1e-9))
        if rate is not None:
            bucket.level -= count
        if limit.quota is not None and count:
            self._count(bucket, limit.quota, count, now)
        return count, 0.0 if count else wait

    def _reserved(self, name: str, rate: float, now: float) -> float:
        """Return the tokens kept for other workers: each one's share of what was added since it last asked."""
        others = [worker for other, worker in self.workers.items() if other != name and worker.is_active]
        share = rate / (len(others) + 1)
        if share < 1:  # less than one token: the first that asks gets it
            return 0.0
        return sum(share * min(now - worker.asked, _CAPACITY_SECONDS) for worker in others)

    # Quotas

    def _left(self, bucket: _Bucket, quota: Rate, now: float) -> int:
        oldest = now - quota.seconds * (1 + 1 / _QUOTA_PARTS)
        bucket.used = [(at, count) for at, count in bucket.used if at > oldest and count]
        return quota.count - sum(count for _, count in bucket.used)

    def _count(self, bucket: _Bucket, quota: Rate, count: int, now: float) -> None:
        part = quota.seconds / _QUOTA_PARTS
        if bucket.used and now - bucket.used[-1][0] < part:
            at, before = bucket.used[-1]
            bucket.used[-1] = (at, before + count)
        else:
            bucket.used.append((now, count))

    def _uncount(self, bucket: _Bucket, returned: int) -> None:
        if bucket.used and returned:
            at, count = bucket.used[-1]
            bucket.used[-1] = (at, max(0, count - returned))

    # Connections

    def _connection_limit(self, ask: Ask) -> int | None:
        if self._suspends(RELAY):
            return 0
        limits = self._settings(RELAY, "connection_limit")
        if ask.connection_limit is not None:
            limits.append(ask.connection_limit)
        return min(limits) if limits else None

    def _connections(self, ask: Ask, worker: _Worker) -> int | None:
        """Return the share of a worker; None: any number. It grows only by connections that others have closed."""
        limit = self._connection_limit(ask)
        if limit is None:
            return None
        active = sorted(name for name, other in self.workers.items() if other.is_active)
        share = 0
        if ask.worker in active:
            share = limit // len(active) + (active.index(ask.worker) < limit % len(active))
        held = sum(other.connections for other in self.workers.values() if other is not worker)
        given = min(share, max(worker.connections, limit - held) if share > worker.connections else share)
        # A connection that it has open counts as its own until it reports that it is closed.
        worker.connections = max(worker.connections, given)
        return given


def _plain(value: int | Rate | None) -> int | str | None:
    return str(value) if isinstance(value, Rate) else value


def _value(plain: int | str | None) -> int | Rate | None:
    return Rate.of(plain) if isinstance(plain, str) else plain
