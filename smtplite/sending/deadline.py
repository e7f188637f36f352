"""Deadline: the one cancel scope of a public call."""

from __future__ import annotations

import math
from collections.abc import Callable

import anyio

from smtplite.errors import SMTPTimeout

__all__ = ["Deadline"]


class Deadline:
    """The one cancel scope of a public call; each wait moves its deadline.

    Use it as ``with deadline.scope: ...``; after that, ``deadline.has_expired`` says whether time was up, and
    `error` what for.

    Args:
        timeout: seconds for the whole call; None: no limit beside those of each wait.
    """

    def __init__(self, timeout: float | None = None) -> None:
        self._timeout = timeout
        self._overall = math.inf if timeout is None else anyio.current_time() + timeout
        self._armed = self._overall
        self._exact = math.inf  # of the wait that was armed last: the scope's own may be a little off
        #: The time, on the event loop's clock, by which the message that is waited for must be done.
        self.message_limit = math.inf
        self._reason = ""
        self._phase: str | None = None
        self._cause: Callable[[], Exception | None] | None = None
        self._parent: Deadline | None = None
        self.scope = anyio.CancelScope(deadline=self._overall)

    def within(self) -> Deadline:
        """Return one for a part of the call that may fail by itself; this one learns what it was waiting for."""
        part = Deadline()
        part._parent = self
        return part

    def arm(
        self, seconds: float, reason: str, phase: str, *, cause: Callable[[], Exception | None] | None = None
    ) -> None:
        """Let the wait that begins now take `seconds` at most, within the whole call's limit.

        Args:
            seconds: from now.
            reason: what to say if time is up.
            phase: what to say it of.
            cause: returns what is known of the reason by then.
        """
        deadline = min(anyio.current_time() + seconds, self._overall, self.message_limit)
        self._exact = deadline
        self._reason = reason
        self._phase = phase
        self._cause = cause
        if self._parent is not None:
            self._parent._phase = phase
        # Moving a scope's deadline costs more than a message has to spare: a little too early is good enough.
        if not -min(1.0, seconds / 20) <= self._armed - deadline <= 0:
            self._armed = self.scope.deadline = deadline

    @property
    def has_expired(self) -> bool:
        """True once time was up, within the scope or behind it."""
        return self.scope.cancel_called

    def error(self) -> SMTPTimeout:
        """Return what to raise when time was up."""
        if self._armed == self.message_limit:
            return SMTPTimeout("time was up: timeout= of the message", phase=self._phase)
        if self._timeout is not None and self._armed == self._overall:
            error = SMTPTimeout(f"time was up: timeout={self._timeout:g} s for the whole call", phase=self._phase)
        else:
            error = SMTPTimeout(f"time was up: {self._reason}", phase=self._phase)
        if self._cause is not None:
            error.__cause__ = self._cause()
        return error
