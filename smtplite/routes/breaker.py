"""Breaker: whether a relay is used, or left alone for a while because it failed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import attrs

from smtplite.errors import AuthenticationError, SMTPError, TLSError
from smtplite.routes.events import BreakerClosed, BreakerHalfOpened, BreakerOpened, RouteEvent

__all__ = ["Breaker", "BreakerState", "Limits"]

#: "closed": the relay is used. "open": it failed, and is left alone. "half-open": one message tries it again.
BreakerState: TypeAlias = Literal["closed", "open", "half-open"]


@attrs.frozen(kw_only=True)
class Limits:
    """When breakers open, and for how long.

    Attributes:
        failures: how many in a row open one.
        pause: seconds until a message tries the relay again; doubled each time that fails.
        max_pause: the longest of these pauses; used at once after a wrong password or certificate, which is not
            corrected soon.
        clock: returns the time in seconds; it never goes back.
    """

    failures: int
    pause: float
    max_pause: float
    clock: Callable[[], float]


class Breaker:
    """The breaker of one relay. It has no tasks and never waits: `on_change` is called whenever its state changes.

    Args:
        relay: the relay, for events.
        limits: when it opens, and for how long.
        tell: is called with events.
        on_change: is called after each change of its state.
    """

    def __init__(
        self, relay: str, limits: Limits, tell: Callable[[RouteEvent], None], on_change: Callable[[], None]
    ) -> None:
        self._relay = relay
        self._limits = limits
        self._tell = tell
        self._on_change = on_change
        self._pause = 0.0
        self._due = -math.inf
        self._was_forced = False  # whether the message that tries it did not wait for the end of the pause
        self.state: BreakerState = "closed"
        #: How many times in a row the relay has failed.
        self.failures = 0
        #: What it failed with last; None: it works.
        self.error: SMTPError | None = None
        #: Grows with each sign that the relay works: what failed there before that may be tried there again.
        self.generation = 0

    @property
    def is_due(self) -> bool:
        """True if it is open, and its pause is over."""
        return self.state == "open" and self._limits.clock() >= self._due

    @property
    def retry_in(self) -> float | None:
        """Seconds until a message tries the relay again; None: it is not open."""
        return max(0.0, self._due - self._limits.clock()) if self.state == "open" else None

    def enter(self, *, is_forced: bool = False) -> bool:
        """Return True if a message may go to the relay now; if the breaker was open, as the one that tries it.

        Args:
            is_forced: do not wait for the end of the pause: there is no other relay.
        """
        if self.state == "closed":
            return True
        if self.state == "half-open" or not (is_forced or self.is_due):
            return False
        self._was_forced = not self.is_due
        self.state = "half-open"
        self._tell(BreakerHalfOpened(relay=self._relay))
        self._on_change()
        return True

    def note_success(self, *, is_probe: bool = False) -> None:
        """Say that the relay worked: the probe closes the breaker; messages from before it opened do not."""
        if self.state == "closed":
            self.failures = 0
            self.error = None
            self.generation += 1
        elif is_probe:
            self.state = "closed"
            self.failures = 0
            self._pause = 0.0
            self.error = None
            self.generation += 1
            self._tell(BreakerClosed(relay=self._relay))
            self._on_change()

    def note_failure(self, error: SMTPError, *, is_probe: bool = False, is_certain: bool = False) -> None:
        """Say that the relay failed.

        Args:
            error: what with.
            is_probe: it was the message that tried it again.
            is_certain: one failure is enough to open the breaker.
        """
        if self.state != "closed" and not is_probe:
            return  # begun before it opened: that is known
        self.failures += 1
        self.error = error
        is_lasting = isinstance(error, (AuthenticationError, TLSError)) and not error.retryable
        if not (is_probe or is_certain or is_lasting) and self.failures < self._limits.failures:
            return
        limits = self._limits
        if not (is_probe and self._was_forced):
            self._pause = min(max(limits.pause, self._pause * 2), limits.max_pause)
        if is_lasting:  # a wrong password that is tried often locks the account
            self._pause = limits.max_pause
        self._open(self._pause)
        self._tell(BreakerOpened(relay=self._relay, error=error, failures=self.failures, pause=self._pause))
        self._on_change()

    def give_back(self) -> None:
        """Say that the message that was to try the relay did not show whether it works: another one may try."""
        if self.state == "half-open":
            self._open(0.0)
            self._on_change()

    def make_due(self) -> None:
        """Let the next message try the relay: it may work again."""
        if self.state == "open":
            self._due = self._limits.clock()
            self._on_change()

    def _open(self, pause: float) -> None:
        self.state = "open"
        self._due = self._limits.clock() + pause
