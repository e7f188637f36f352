"""Pace: finds out how many messages a second a relay takes that says so only by refusing. Without I/O and clock.

Additive increase, multiplicative decrease, of the rate. Connections alone cannot do it: over one connection, a relay
that is 20 ms away takes 50 messages a second; one that allows 10 would refuse 40 of them for ever.

The rate doubles each second until a message is refused. From then on it is known to be near what was accepted between
two refusals: at the second one the relay's own allowance was used up, as it was at the first. The rate falls below
that, comes back within `_RETURN_SECONDS`, stays near it (a cube of the time, as in RFC 9438), and then goes beyond it,
so that a relay that takes more by now is found, too.
"""

from __future__ import annotations

from typing import Final

import attrs

from smtplite.protocol.reply import Reply

__all__ = ["Pace", "is_throttling"]

#: Messages a second, before anything is known.
_FIRST_RATE: Final = 5.0
_LOWEST_RATE: Final = 1 / 60
_HIGHEST_RATE: Final = 1e6
#: Of what is known to be taken, the part that is sent after a refusal.
_DECREASE: Final = 0.88
#: If it refuses again at once, what seemed to be known is not. What was accepted since then is, if there is enough of
#: it; else the first cut, the second, and all after it are not deeper than this.
_ENOUGH: Final = 10
_DEEPEST_CUTS: Final = (1.0, 0.8, 0.5)
#: Until it is back where it was refused. Longer where that is few messages, for each time costs one or two of them.
_RETURN_SECONDS: Final = 15.0
_RETURN_MESSAGES: Final = 75.0
_LONGEST_RETURN_SECONDS: Final = 60.0
#: After so much of that time nothing known stands in the way, and the rate grows by this a second.
_BEYOND: Final = 1.4
_GROWTH: Final = 1.2
#: A refusal so far beyond what was known says that the relay takes more by now.
_FAR_BEYOND: Final = 1.8
#: After a cut, what was sent before it is answered first; doubled as long as nothing is accepted.
_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 60.0
#: A refusal less far beyond it may be due to what the relay takes at once, for a moment: it is believed in part. One
#: that comes before says that it was a little less.
_BESIDE: Final = 1.1
_BELIEF: Final = 0.33
_DECAY: Final = 0.95
#: If nobody looked for longer than this, nobody sent.
_LONGEST_STEP_SECONDS: Final = 5.0
#: So soon after a pause is at once.
_TROUBLE_SECONDS: Final = 5.0


def is_throttling(reply: Reply) -> bool:
    """Say whether a reply means "too much": 421, 452, or 451 with an enhanced status code of 4.7.x."""
    if reply.code == 451:
        return reply.enhanced is not None and (reply.enhanced.class_, reply.enhanced.subject) == (4, 7)
    return reply.code in (421, 452)


@attrs.frozen(kw_only=True)
class Pace:
    """What is known of a relay's rate. Times are seconds of any one clock.

    Attributes:
        rate: messages a second, at present.
        at: when it was looked at last.
        known: what the relay takes, a second, as far as known; None: it never refused.
        cut_at: when it refused last, after it had taken some.
        accepted: what it took since then.
        grown: for how long the rate has been growing since then; while less is sent than it allows, it does not.
        troubles: how often it refused again at once.
        pause: how long the last pause was.
        paused_until: nothing is sent until then.
    """

    rate: float = _FIRST_RATE
    at: float = 0.0
    known: float | None = None
    cut_at: float = 0.0
    accepted: int = 0
    grown: float = 0.0
    troubles: int = 0
    pause: float = 0.0
    paused_until: float = 0.0

    def after(
        self, now: float, *, accepted: int = 0, throttled: int = 0, is_limited: bool = False, lag: float = 0.0
    ) -> Pace:
        """Return what is known after a while.

        Args:
            now: the time.
            accepted: messages that the relay took since it was looked at last.
            throttled: messages that it refused for now because they were too many.
            is_limited: whether more would have been sent if the rate had allowed it.
            lag: how many seconds later others may say what the relay took.
        """
        passed = min(max(0.0, now - max(self.at, self.paused_until)), _LONGEST_STEP_SECONDS)
        pace = attrs.evolve(self, at=now, accepted=self.accepted + accepted)
        if now < self.paused_until:  # what is refused now was sent before
            return pace
        if throttled:
            return pace._cut(now, lag)
        return pace._grow(passed) if is_limited and passed else pace

    def _cut(self, now: float, lag: float) -> Pace:
        if self.known is not None and not self.accepted:  # it still takes nothing: that says nothing of the rate
            pause = min(self.pause * 2, _LONGEST_PAUSE_SECONDS)
            return attrs.evolve(self, pause=pause, paused_until=now + pause)
        is_trouble = self.known is not None and now - self.paused_until < _TROUBLE_SECONDS
        troubles = self.troubles + 1 if is_trouble else 0
        known = max(self._known_now(now, troubles, lag), _LOWEST_RATE)
        return attrs.evolve(
            self,
            rate=max(known * _DECREASE, _LOWEST_RATE),
            known=known,
            cut_at=now,
            accepted=0,
            grown=0.0,
            troubles=troubles,
            pause=_FIRST_PAUSE_SECONDS,
            paused_until=now + _FIRST_PAUSE_SECONDS,
        )

    def _known_now(self, now: float, troubles: int, lag: float) -> float:
        """Return what it takes, a second, as this refusal tells."""
        if self.known is None or (not troubles and self.rate > self.known * _FAR_BEYOND):
            return self.rate  # at most; if it is less, the next refusal comes soon
        # Between two refusals it took all that it takes; or more than that, if less was sent, and nobody can say.
        # Whether it would have taken more during the pause, or takes that much more at once now, nobody can say either.
        taken = self.accepted / (now - self.cut_at - self.pause / 2)
        if troubles:
            is_sure = self.accepted >= _ENOUGH and now - self.cut_at >= 2 * lag
            least = self.rate * _DEEPEST_CUTS[-1 if is_sure else min(troubles, len(_DEEPEST_CUTS)) - 1]
        elif self.rate > self.known * _BESIDE:
            least = self.known * (self.rate / self.known) ** _BELIEF
        else:
            least = self.known * _DECAY
        return min(self.rate, max(taken, least))

    def _grow(self, seconds: float) -> Pace:
        if self.known is None:
            return attrs.evolve(self, rate=min(self.rate * 2.0**seconds, _HIGHEST_RATE))
        grown = self.grown + seconds
        back = min(max(_RETURN_SECONDS, _RETURN_MESSAGES / self.known), _LONGEST_RETURN_SECONDS)
        if grown < back * _BEYOND:
            rate = max(self.rate, self.known * (1 + (1 - _DECREASE) * (grown / back - 1) ** 3))
        else:
            rate = self.rate * _GROWTH**seconds
        return attrs.evolve(self, rate=min(rate, _HIGHEST_RATE), grown=grown)
