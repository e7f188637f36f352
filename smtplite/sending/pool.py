"""Pool: a bounded number of sessions, lent first come, first served. No background task, no lock.

While nothing is lent and nobody waits, it holds nothing of any event loop.
"""

from __future__ import annotations

import copy
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel

from smtplite.errors import LocalProtocolError, SMTPError
from smtplite.options import Options
from smtplite.sending.deadline import Deadline
from smtplite.sending.session import Session

__all__ = ["Pool"]


class _Waiter:
    """Somebody who waits for a session: is given one, or leave to open one, or an error."""

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.called = anyio.Event()
        self.session: Session | None = None
        self.error: SMTPError | None = None


class Pool:
    """Lends sessions.

    Args:
        open_session: opens one, within the caller's deadline.
        options: the client's: how many at the same time, and for how long.
    """

    def __init__(self, open_session: Callable[[Deadline], Awaitable[Session]], options: Options) -> None:
        self._open_session = open_session
        self._max_connections = options.max_connections  # lent and idle
        self._idle_timeout = options.idle_timeout
        self._max_age = options.max_age
        self._wait_timeout = options.timeouts.pool
        self._idle: list[Session] = []  # the one used last at the end: the others may grow old and go
        self._lent = 0  # sessions lent, and sessions being opened
        self._waiters: deque[_Waiter] = deque()
        self._token: object = None  # the event loop's, while anything is lent
        self._process = os.getpid()
        self._is_closed = False

    async def acquire(self, deadline: Deadline, *, fresh: bool = False, owner: object = None) -> Session:
        """Return a session for the caller alone; give it back with `release`.

        Args:
            deadline: of the whole call.
            fresh: open a new one, whatever is idle.
            owner: for whom; see `is_wanted_beside`.

        Raises:
            SMTPError: none can be had; nothing is lent.
        """
        self._enter()
        try:
            return await self._acquire(deadline, fresh=fresh, owner=owner)
        except BaseException:
            self._leave()
            raise

    async def _acquire(self, deadline: Deadline, *, fresh: bool, owner: object) -> Session:
        if not self._waiters:
            if fresh:
                await self._make_room()
            elif (session := await self._take_idle()) is not None:
                return session
            if not self._waiters and self._lent + len(self._idle) < self._max_connections:
                self._lent += 1
                return await self._open(deadline)
        waited = await self._wait(deadline, owner)
        if waited is None:
            return await self._open(deadline)
        if not fresh and not waited.is_stale():
            return waited
        try:
            await waited.discard("it ended while it was idle")
        except BaseException:
            self._free_place()
            raise
        return await self._open(deadline)

    def is_wanted_beside(self, owner: object) -> bool:
        """Return True if somebody waits for a session on behalf of another owner, or of none."""
        return any(waiter.owner is not owner for waiter in self._waiters)

    async def release(self, session: Session) -> None:
        """Take a session back: for the next in the queue, or to idle, or to be closed."""
        if self._is_lendable(session) and session.is_reusable:
            session.idle_since = time.monotonic()
            session.is_reused = True
            if self._waiters:
                waiter = self._waiters.popleft()
                waiter.session = session
                waiter.called.set()
            else:
                self._idle.append(session)
                self._lent -= 1
                self._leave()
            return
        try:
            await session.dismiss()
        finally:
            self._free_place()

    async def aclose(self) -> None:
        """End the idle sessions; those that are lent end when they come back. Idempotent, from any task."""
        self._is_closed = True
        while self._waiters:
            waiter = self._waiters.popleft()
            waiter.error = LocalProtocolError("client is closed")
            waiter.called.set()
        idle, self._idle = self._idle, []
        if self._process != os.getpid():
            for session in idle:
                session.forget()
        elif idle:
            async with anyio.create_task_group() as tasks:
                for session in idle:
                    tasks.start_soon(session.quit)

    def _enter(self) -> None:
        if self._is_closed:
            raise LocalProtocolError("client is closed: make a new one")
        process = os.getpid()
        if process != self._process:  # after a fork: the idle connections are the parent's
            self._process = process
            idle, self._idle = self._idle, []
            for session in idle:
                session.forget()
            self._lent = 0
            self._waiters.clear()
            self._token = None
        token = anyio.lowlevel.current_token()
        if self._token is None:
            self._token = token
        elif self._token != token:
            raise LocalProtocolError("client is in use by another event loop: make one client for each")

    def _leave(self) -> None:
        if not self._lent and not self._waiters:
            self._token = None

    def _is_lendable(self, session: Session) -> bool:
        now = time.monotonic()
        return not self._is_closed and (self._max_age is None or now - session.opened_at < self._max_age)

    async def _take_idle(self) -> Session | None:
        now = time.monotonic()
        while self._idle:
            oldest = self._idle[0]
            if now - oldest.idle_since < self._idle_timeout and self._is_lendable(oldest):
                break
            del self._idle[0]
            await oldest.dismiss()
        while self._idle:
            session = self._idle.pop()
            if not self._is_lendable(session):
                await session.dismiss()
            elif session.is_stale():
                await session.discard("it ended while it was idle")
            else:
                self._lent += 1
                return session
        return None

    async def _make_room(self) -> None:
        while self._idle and not self._waiters and self._lent + len(self._idle) >= self._max_connections:
            await self._idle.pop(0).dismiss()

    async def _wait(self, deadline: Deadline, owner: object) -> Session | None:
        """Wait for a session, or for leave to open one; either counts as lent then."""
        waiter = _Waiter(owner)
        self._waiters.append(waiter)
        deadline.arm(self._wait_timeout, f"no connection became free within {self._wait_timeout:g} s", "pool")
        try:
            await waiter.called.wait()
        except BaseException:
            if not waiter.called.is_set():
                self._waiters.remove(waiter)
            elif waiter.session is not None:  # called and cancelled at the same moment: the next one's turn
                with anyio.CancelScope(shield=True):
                    await self.release(waiter.session)
            elif waiter.error is None:
                self._free_place()
            raise
        if waiter.error is not None:
            raise waiter.error
        return waiter.session

    async def _open(self, deadline: Deadline) -> Session:
        """Open a session in a place that is already ours."""
        try:
            return await self._open_session(deadline)
        except SMTPError as error:
            # Whoever waits now waits for the same server: they learn at once what it says. The next caller tries again.
            while self._waiters:
                waiter = self._waiters.popleft()
                waiter.error = copy.copy(error)
                waiter.error.__cause__ = error.__cause__
                waiter.called.set()
            self._free_place()
            raise
        except BaseException:
            self._free_place()
            raise

    def _free_place(self) -> None:
        """Hand a place on: somebody who waits may open a session."""
        if self._waiters:
            self._waiters.popleft().called.set()
        else:
            self._lent -= 1
            self._leave()
