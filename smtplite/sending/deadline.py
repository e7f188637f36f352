"""Deadline: the one cancel scope of a public call."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.lowlevel

from smtplite.errors import SMTPTimeout
from smtplite.protocol.commands import Command, Greeting
from smtplite.protocol.state import RULES

if TYPE_CHECKING:
    import asyncio

__all__ = ["Deadline", "silence"]

#: After so long without an await, the event loop has to have its turn before anything is believed.
_MAX_STALL_SECONDS: Final = 0.05


def _asyncio_task() -> asyncio.Task[Any] | None:
    if "asyncio" not in sys.modules:  # nor is it loaded for this
        return None
    try:
        return sys.modules["asyncio"].current_task()  # type: ignore[no-any-return]
    except RuntimeError:  # on trio
        return None


class Deadline:
    """The one cancel scope of a public call; each wait moves its deadline.

    Use it as ``with deadline.scope: ...``; after that, ``deadline.has_expired`` says whether time was up, and
    `error` what for.

    Args:
        timeout: seconds for the whole call; None: no limit beside those of each wait.
    """

    def __init__(self, timeout: float | None = None) -> None:
        self._timeout = timeout
        self._task = _asyncio_task()
        self._cancelling = 0 if self._task is None else self._task.cancelling()
        #: The event loop's clock. anyio would look up what runs here each time that it is asked.
        self._clock = anyio.current_time if self._task is None else self._task.get_loop().time
        self._armed_at = self._clock()
        self._overall = math.inf if timeout is None else self._armed_at + timeout
        self._armed = self._overall
        self._exact = math.inf  # of the wait that was armed last, until the next write: the scope's own is coarse
        #: The time, on the event loop's clock, by which the message that is waited for must be done.
        self.message_limit = math.inf
        #: The time, on the event loop's clock, by which there must be a session; math.inf once there is one.
        self.session_limit = math.inf
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
        self._armed_at = self._clock()
        deadline = min(self._armed_at + seconds, self._overall, self.message_limit, self.session_limit)
        self._exact = deadline
        self._reason = reason
        self._phase = phase
        self._cause = cause
        if self._parent is not None:
            self._parent._phase = phase
        # Moving a scope's deadline costs more than a message has to spare: a little too early is good enough.
        if not -min(1.0, seconds / 20) <= self._armed - deadline <= 0:
            self._armed = self.scope.deadline = deadline

    def lift_session_limit(self) -> None:
        """Say that there is a session: from now on the limits of the call and of the message hold alone."""
        self.session_limit = math.inf
        self._armed = self._exact = self.scope.deadline = min(self._overall, self.message_limit)

    def is_proved(self, limit: float) -> bool:
        """Return True if this call is not late, as far as can be told without an await; else `prove` it.

        Args:
            limit: as in `prove`.
        """
        now = self._clock()
        return now - self._armed_at <= _MAX_STALL_SECONDS and self._is_in_time(now, limit)

    def _is_in_time(self, now: float, limit: float) -> bool:
        if now >= self._exact or now >= self._overall or now >= limit or now >= anyio.current_effective_deadline():
            return False
        if self._task is not None and self._task.cancelling() > self._cancelling:
            return False
        self._exact = math.inf
        self._armed_at = now
        return True

    async def prove(self, limit: float) -> None:
        """Return only if this call is not late, whatever the event loop has told it by now (rule R25).

        A loop that stood still has not looked at its clock, and a reply that is read late looks like any other. So this
        is awaited before a write that cannot be taken back; between its return and the write nothing is awaited.

        Args:
            limit: the time, on the event loop's clock, by which the message itself must be done.
        """
        now = self._clock()
        if now - self._armed_at > _MAX_STALL_SECONDS:
            # `asyncio.timeout` is seen in no other way: one pass for its timer, one for what that does.
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            now = self._clock()
        if self._is_in_time(now, limit):
            return
        if now >= min(self._exact, self._overall, limit):
            if now >= limit:
                self._armed = self.message_limit = limit
            elif now >= self._overall:
                self._armed = self._overall
            self.scope.cancel()
        await anyio.lowlevel.checkpoint()
        await anyio.sleep(_MAX_STALL_SECONDS)  # the scope around us whose time is up has yet to say so
        self.scope.cancel()
        await anyio.lowlevel.checkpoint()

    @property
    def has_expired(self) -> bool:
        """True once time was up, within the scope or behind it."""
        return self.scope.cancel_called

    def error(self) -> SMTPTimeout:
        """Return what to raise when time was up."""
        if self._armed == self.message_limit:
            return SMTPTimeout("timed out: timeout= of the message", phase=self._phase)
        if self._armed == self.session_limit and self._armed < self._overall:
            error = SMTPTimeout("timed out: ready_within= of the call", phase=self._phase)
        elif self._timeout is not None and self._armed == self._overall:
            error = SMTPTimeout(f"timed out: timeout={self._timeout:g} s for the whole call", phase=self._phase)
        else:
            error = SMTPTimeout(f"timed out: {self._reason}", phase=self._phase)
        if self._cause is not None:
            error.__cause__ = self._cause()
        return error


@lru_cache(maxsize=64)
def silence(kind: type[Command], seconds: float, *, is_tls: bool) -> str:
    """Return what to say of a reply to a command of this kind that did not come in time."""
    if kind is not Greeting:
        return f"no reply to {RULES[kind].verb} within {seconds:g} s"
    # Where TLS comes first, the server waits for the client.
    hint = "" if is_tls else '; if this port is for TLS from the start, pass tls="implicit"'
    return f"no greeting within {seconds:g} s{hint}"
