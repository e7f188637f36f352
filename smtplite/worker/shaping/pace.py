"""Pace: finds out how many messages a second a relay takes that says so only by refusing. Without I/O and clock.

Connections alone cannot do it: over one connection, a relay that is 20 ms away takes 50 messages a second; one that
allows 10 would refuse 40 of them for ever. So it is the rate that is changed.

At first it grows by half each second, until a message is refused. From then on there is a rate that is known to be
near what the relay takes. Each refusal says what that is, see `_known_now`: then nothing is sent for half a second, and
after that `_HOLD` of what is known. The rate grows with the square of the time: it is back at what is known after
`_RETURN_SECONDS`, and at the double of it after a little more than three times as long. So the rate stays near what is
known for most of the time, goes through it fast enough to cost a refusal or two each time, and finds a relay that takes
more by now.

Relays count in different ways, and one law has to do for all of them. One that fills a bucket, drop by drop, takes more
than its rate for a while: there the rate at which it refused is too high, and what it took between two refusals is
right. One that counts within each second refuses at its rate, and what it took is too low, for less was sent. What is
known is between the two; if that was too high, it refuses again at once. One that counts within each minute takes
nothing until the minute is over: what it took between two refusals is what it takes a minute.
"""

from __future__ import annotations

import math
from typing import Final

import attrs

from smtplite.protocol.reply import Reply

__all__ = ["Pace", "is_throttling"]

#: Messages a second, before anything is known, and by how much that grows each second.
_FIRST_RATE: Final = 5.0
_FIRST_GROWTH: Final = 1.5
_LOWEST_RATE: Final = 1 / 60
_HIGHEST_RATE: Final = 1e6
#: Of what is known to be taken, the part that is sent after a refusal.
_HOLD: Final = 0.92
#: Until the rate is back at what is known. Longer where that is few messages, for each time costs one or two of them.
_RETURN_SECONDS: Final = 10.0
_RETURN_MESSAGES: Final = 75.0
_LONGEST_RETURN_SECONDS: Final = 60.0
#: After so many times that time nothing known stands in the way, and the rate grows by this a second.
_BEYOND: Final = 3.0
_GROWTH: Final = 1.1
#: A refusal so far beyond what was known says that the relay takes more by now.
_FAR_BEYOND: Final = 1.5
#: A refusal without trouble says that the relay takes this part of what was known, or more.
_DECAY: Final = 0.95
#: If it refuses again so soon after a pause, what seemed to be known is not. What was accepted since then is, if there
#: is enough of it. The first cut, the second, and all after it are not deeper than this; and than that, if it is not.
_TROUBLE_SECONDS: Final = 5.0
_ENOUGH: Final = 10
_DEEPEST_CUTS: Final = (0.7, 0.7, 0.5)
_DEEPEST_GUESSES: Final = (1.0, 0.8, 0.5)
#: So long after a pause all workers send again.
_START_SECONDS: Final = 0.3
#: After a cut, what was sent before it is answered first; doubled as long as nothing is accepted.
_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 60.0
#: After a pause so long one message is sent, and its answer waited for.
_ASKING_PAUSE_SECONDS: Final = 2.0
_ASKING_RATE: Final = 1.0
#: A relay that took nothing for so long counts within so long a time; beyond the longest pause it was away.
_WINDOW_PAUSE_SECONDS: Final = 4.0
#: Such a relay is tested more seldom: the return takes so many times the pause.
_RETURN_PAUSES: Final = 3.0
#: If nobody looked for longer than this, nobody sent.
_LONGEST_STEP_SECONDS: Final = 5.0


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
        cut_at: when it refused last, after it had taken some; before that, when the first message was sent.
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
            lag: for how many seconds it is not said yet what the relay took.
        """
        passed = min(max(0.0, now - max(self.at, self.paused_until)), _LONGEST_STEP_SECONDS)
        pace = attrs.evolve(self, at=now, accepted=self.accepted + accepted)
        if self.known is not None and accepted and not self.accepted:  # it takes something again
            pace = attrs.evolve(pace, rate=max(self.rate, self.known * _HOLD))
        if now < self.paused_until:  # what is refused now was sent before
            return pace
        if throttled:
            return pace._cut(now, lag)
        return pace._grow(passed) if is_limited and passed else pace

    def _cut(self, now: float, lag: float) -> Pace:
        if self.known is not None and not self.accepted:  # it still takes nothing: that says nothing of the rate
            pause = min(self.pause * 2, _LONGEST_PAUSE_SECONDS)
            rate = min(self.rate, _ASKING_RATE) if pause >= _ASKING_PAUSE_SECONDS else self.rate
            return attrs.evolve(self, rate=rate, pause=pause, paused_until=now + pause)
        is_trouble = self.known is not None and now - self.paused_until < _TROUBLE_SECONDS
        troubles = self.troubles + 1 if is_trouble else 0
        known = max(self._known_now(now, troubles, lag), _LOWEST_RATE)
        return attrs.evolve(
            self,
            rate=max(known * _HOLD, _LOWEST_RATE),
            known=known,
            cut_at=now,
            accepted=0,
            grown=0.0,
            troubles=troubles,
            pause=_FIRST_PAUSE_SECONDS,
            paused_until=now + _FIRST_PAUSE_SECONDS,
        )

    @property
    def _is_window(self) -> bool:
        """True if it took nothing for a while since the last refusal, and was not away."""
        return _WINDOW_PAUSE_SECONDS <= self.pause < _LONGEST_PAUSE_SECONDS

    def _known_now(self, now: float, troubles: int, lag: float) -> float:
        """Return what it takes, a second, as this refusal tells."""
        # What it gained during a pause, nobody knows.
        is_whole = self.known is None or self._is_window
        since = self.cut_at if is_whole else self.paused_until + _START_SECONDS
        seconds = max(now - since - lag, 0.1)
        taken = min(self.rate, self.accepted / seconds)
        if self.known is None:  # the workers are a second behind
            return max(taken, self.rate / _FIRST_GROWTH)
        if self._is_window:
            return taken
        if troubles:
            is_sure = self.accepted >= _ENOUGH and seconds >= lag
            deepest = _DEEPEST_CUTS if is_sure else _DEEPEST_GUESSES
            return max(taken, self.rate * deepest[min(troubles, len(deepest)) - 1])
        if self.rate > self.known * _FAR_BEYOND:
            return max(taken, self.rate / _GROWTH)
        return max(self.known * _DECAY, math.sqrt(taken * self.rate))

    def _grow(self, seconds: float) -> Pace:
        if self.known is None:
            return attrs.evolve(self, rate=min(self.rate * _FIRST_GROWTH**seconds, _HIGHEST_RATE))
        if not self.accepted:
            return self
        grown = self.grown + seconds
        back = min(max(_RETURN_SECONDS, _RETURN_MESSAGES / self.known), _LONGEST_RETURN_SECONDS)
        if self._is_window:
            back = max(back, self.pause * _RETURN_PAUSES)
        if grown < back * _BEYOND:
            rate = max(self.rate, self.known * (_HOLD + (1 - _HOLD) * (grown / back) ** 2))
        else:
            rate = self.rate * _GROWTH**seconds
        return attrs.evolve(self, rate=min(rate, _HIGHEST_RATE), grown=grown)
