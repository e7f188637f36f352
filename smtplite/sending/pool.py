"""Pool: a bounded number of sessions, lent in turn. No background task, no lock.

Whoever finds no session free opens one, or waits for one in the queue. A connection that cannot be opened says little
while others work: whoever opened it goes on waiting for those, and the pool makes itself smaller for a while (rule
R26). While nothing is lent and nobody waits, it holds nothing of any event loop.
"""

from __future__ import annotations

import copy
import math
import os
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import anyio
import anyio.lowlevel

from smtplite.errors import LocalProtocolError, SMTPError, SMTPTimeout
from smtplite.options import Options
from smtplite.sending.deadline import Deadline
from smtplite.sending.session import Session

__all__ = ["Pool"]

#: A connection that takes longer to open: whoever opens it takes another one, too, if that comes first.
_PATIENCE_SECONDS: Final = 1.0
#: How long no further connection is tried after one was refused beside others; doubled each time.
_FIRST_PAUSE_SECONDS: Final = 1.0
_MAX_PAUSE_SECONDS: Final = 60.0


class _Waiter:
    """Somebody who wants a session: is given one, or opens one, or is told an error."""

    def __init__(self, owner: object) -> None:
        self.owner = self if owner is None else owner
        #: Set whenever there is something to look at: one of the below, or a place to open a session in.
        self.called = anyio.Event()
        #: Lent by somebody else.
        self.session: Session | None = None
        #: What was learnt by somebody else.
        self.error: SMTPError | None = None
        #: True while it opens a session of its own.
        self.is_opening = False
        #: True while it wants nobody else's: that it opens may be there in a moment.
        self.is_busy = False


class _Queue:
    """Those who wait. Owners come in turn: one with several waiters gets one session, then come the others."""

    def __init__(self) -> None:
        self._owners: dict[object, deque[_Waiter]] = {}

    def __bool__(self) -> bool:
        return bool(self._owners)

    def __iter__(self) -> Iterator[_Waiter]:
        """Yield those who may be given a session, in the order in which they come."""
        for waiters in self._owners.values():
            yield from (waiter for waiter in waiters if not waiter.is_busy)

    def __contains__(self, waiter: _Waiter) -> bool:
        return waiter in self._owners.get(waiter.owner, ())

    def add(self, waiter: _Waiter) -> None:
        self._owners.setdefault(waiter.owner, deque()).append(waiter)

    def remove(self, waiter: _Waiter) -> None:
        """Take out one who was served, or gave up; the owner's others go behind those of the others."""
        waiters = self._owners.pop(waiter.owner)
        waiters.remove(waiter)
        if waiters:
            self._owners[waiter.owner] = waiters

    def next(self) -> _Waiter | None:
        """Return whose turn it is."""
        return next(iter(self), None)

    def idlers(self) -> list[_Waiter]:
        """Return those who wait and do nothing else."""
        return [waiter for waiters in self._owners.values() for waiter in waiters if not waiter.is_opening]


class _Limit:
    """How many connections the server takes at present, as far as refusals tell.

    Attributes:
        connections: so many were open, or being opened, when one more was refused; `math.inf`: none was.
        refusal: the last of them.
    """

    def __init__(self) -> None:
        self.connections: float = math.inf
        self.refusal: Exception | None = None
        self._pause = 0.0
        self._retry_at = 0.0
        self._is_tried = False  # one more than allowed is being opened

    def note_refusal(self, others: int, error: Exception) -> None:
        """Say that a connection could not be opened beside so many others."""
        self.connections = others
        self.refusal = error
        self._is_tried = False
        # What another try would not change is not tried again as long as there are others: a password, a certificate.
        may_change = not isinstance(error, SMTPError) or error.retryable
        self._pause = min(self._pause * 2 or _FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS) if may_change else math.inf
        self._retry_at = time.monotonic() + self._pause * random.uniform(0.75, 1.25)  # noqa: S311 (no secret)

    def note_success(self, count: int) -> None:
        """Say that a connection was opened, and how many are open now; if it was one more, another may be tried."""
        if count > self.connections:
            self.connections = count
            self._is_tried = False
            self._pause = self._retry_at = 0.0

    def note_end(self) -> None:
        """Say that the one that was tried was given up, for reasons of our own."""
        self._is_tried = False

    def forget(self) -> None:
        """Forget all of it: nothing is open any more."""
        self.connections = math.inf
        self._pause = self._retry_at = 0.0
        self._is_tried = False

    @property
    def wait(self) -> float:
        """Seconds until one more may be tried; `math.inf`: nobody knows."""
        if self.connections == math.inf or self._is_tried:
            return math.inf
        return max(0.0, self._retry_at - time.monotonic())

    def allows(self, count: int) -> bool:
        """Return True if one may be opened beside so many; then it is being opened."""
        if count < self.connections:
            return True
        if self.wait > 0:
            return False
        self._is_tried = True
        return True


class Pool:
    """Lends sessions.

    Args:
        open_session: opens one, within the deadline that it is given.
        options: the client's: how many at the same time, and for how long.
    """

    def __init__(self, open_session: Callable[[Deadline], Awaitable[Session]], options: Options) -> None:
        self._open_session = open_session
        self._options = options
        self._idle: list[Session] = []  # the one used last at the end: the others may grow old and go
        self._lent: set[Session] = set()
        self._apart: set[Session] = set()  # of those, the ones that others do not wait for
        self._opening = 0
        self._closing = 0  # sessions that are being closed; they keep their place until then
        self._queue = _Queue()
        self._limit = _Limit()
        self._token: object = None  # the event loop's, while anything is lent
        self._process = os.getpid()
        self._is_closed = False

    async def acquire(
        self, deadline: Deadline, *, fresh: bool = False, apart: bool = False, owner: object = None
    ) -> Session:
        """Return a session for the caller alone; give it back with `release`.

        Args:
            deadline: of the whole call.
            fresh: open a new one, whatever is idle.
            apart: it will be kept for long, and not be given back to be used again: others do not wait for it.
            owner: for whom, if for one who wants several; see `is_wanted_beside`.

        Raises:
            SMTPError: none can be had; nothing is lent.
        """
        self._enter()
        if not fresh and not apart and self._idle and self._queue.next() is None:
            session = await self._take_idle()
            if session is not None:
                return session
        waiter = _Waiter(owner)
        self._queue.add(waiter)
        try:
            session = await self._acquire(waiter, deadline, fresh=fresh)
        except BaseException:
            self._give_up(waiter)
            if waiter.session is not None:  # lent and cancelled at the same moment: the next one's turn
                with anyio.CancelScope(shield=True):
                    await self.release(waiter.session)
            self._leave()
            raise
        self._give_up(waiter)
        if apart:
            self._apart.add(session)
        return session

    async def _acquire(self, waiter: _Waiter, deadline: Deadline, *, fresh: bool) -> Session:
        is_armed = False
        while True:
            if waiter.error is not None:
                raise waiter.error
            if self._is_closed:
                raise LocalProtocolError("client is closed")
            if (session := waiter.session) is not None:
                if not fresh and not session.is_stale():
                    return session
                waiter.session = None
                self._queue.add(waiter)
                await self._close(session)
                continue
            if self._queue.next() is waiter:
                if self._idle and not (fresh and self._has_place):
                    waiter.is_busy = True
                    try:
                        if fresh:
                            await self._close(self._idle.pop(0), is_word_due=True)
                        elif (session := await self._take_idle()) is not None:
                            return session
                    finally:
                        waiter.is_busy = False
                    continue
                if self._may_open():
                    opened = await self._open(waiter, deadline)
                    if opened is not None:
                        return opened
                    continue
            if not is_armed:
                seconds = self._options.timeouts.pool
                deadline.arm(
                    seconds, f"no connection became free within {seconds:g} s", "pool", cause=self._last_refusal
                )
                is_armed = True
            await self._wait(waiter)

    def _last_refusal(self) -> Exception | None:
        return self._limit.refusal

    def _give_up(self, waiter: _Waiter) -> None:
        """Take one out who has a session, or wants none any more."""
        if waiter in self._queue:
            self._queue.remove(waiter)
        self._call_next()

    async def _wait(self, waiter: _Waiter) -> None:
        """Wait until there is something to look at, or until one more connection may be tried."""
        if waiter.called.is_set():
            waiter.called = anyio.Event()
        # One of those who wait keeps the time for all.
        seconds = self._limit.wait if self._queue.next() is waiter else math.inf
        if self._count >= self._options.max_connections:
            seconds = math.inf
        with anyio.move_on_after(seconds):
            await waiter.called.wait()

    def is_wanted_beside(self, owner: object) -> bool:
        """Return True if somebody waits for a session on behalf of another owner, or of none."""
        return any(waiter.owner is not owner for waiter in self._queue)

    async def release(self, session: Session) -> None:
        """Take a session back: for the next in the queue, or to idle, or to be closed."""
        self._apart.discard(session)
        if not (self._is_lendable(session) and session.is_reusable):
            await self._close(session, is_word_due=True)
            return
        session.idle_since = time.monotonic()
        session.is_reused = True
        waiter = self._queue.next()
        if waiter is None:
            self._lent.discard(session)
            self._idle.append(session)
            self._leave()
        else:
            self._lend(session, waiter)

    def _lend(self, session: Session, waiter: _Waiter) -> None:
        self._queue.remove(waiter)
        waiter.session = session
        waiter.called.set()
        self._call_next()

    async def aclose(self) -> None:
        """End the idle sessions; those that are lent end when they come back. Idempotent, from any task."""
        self._is_closed = True
        self._tell_all(LocalProtocolError("client is closed"))
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
        if process != self._process:  # after a fork: the connections are the parent's, and so is what they taught
            self._process = process
            idle, self._idle = self._idle, []
            for session in idle:
                session.forget()
            self._lent.clear()
            self._apart.clear()
            self._opening = self._closing = 0
            self._queue = _Queue()
            self._limit = _Limit()
            self._token = None
        token = anyio.lowlevel.current_token()
        if self._token is None:
            self._token = token
        elif self._token != token:
            raise LocalProtocolError("client is in use by another event loop: make one client for each")

    def _leave(self) -> None:
        if not (self._lent or self._opening or self._closing or self._queue):
            self._token = None

    def _is_lendable(self, session: Session) -> bool:
        age = time.monotonic() - session.opened_at
        return not self._is_closed and (self._options.max_age is None or age < self._options.max_age)

    # Idle sessions

    async def _take_idle(self) -> Session | None:
        now = time.monotonic()
        while self._idle:
            oldest = self._idle[0]
            if now - oldest.idle_since < self._options.idle_timeout and self._is_lendable(oldest):
                break
            del self._idle[0]
            await self._close(oldest, is_word_due=True)
        while self._idle:
            session = self._idle.pop()
            if self._is_lendable(session) and not session.is_stale():
                self._lent.add(session)
                return session
            await self._close(session, is_word_due=not self._is_lendable(session))
        return None

    async def _close(self, session: Session, *, is_word_due: bool = False) -> None:
        """Close a session that is neither lent nor idle any more; then its place is free."""
        self._lent.discard(session)
        self._closing += 1
        try:
            if is_word_due:
                await session.dismiss()
            else:
                await session.discard("it ended while it was idle")
        finally:
            self._closing -= 1
            self._call_next()
            self._leave()

    # Opening

    @property
    def _count(self) -> int:
        return len(self._lent) + len(self._idle) + self._opening + self._closing

    @property
    def _has_others(self) -> bool:
        """True if a session may come free: one is open, and to be used again, or is being opened."""
        if self._opening or self._idle:
            return True
        return any(session not in self._apart and not session.is_closing for session in self._lent)

    @property
    def _has_place(self) -> bool:
        """True if one more would not be too many."""
        return self._count < min(self._options.max_connections, self._limit.connections)

    def _may_open(self) -> bool:
        """Decide whether one more may be opened now; if so, it is."""
        if self._count >= self._options.max_connections:
            return False
        return not self._has_others or self._limit.allows(self._count)

    async def _open(self, waiter: _Waiter, deadline: Deadline) -> Session | None:
        """Open a session; return None if the caller has to look again: another one came first, or this one was refused.

        Raises:
            SMTPError: none can be had, and none may come free. Whoever else waits learns it, too.
        """
        opened: list[Session] = []
        failed: list[BaseException] = []
        within = deadline.within()

        async def run() -> None:
            try:
                with within.scope:
                    opened.append(await self._open_session(within))
                if not opened and within.has_expired:
                    failed.append(within.error())
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # noqa: BLE001 (raised below, by itself and not in a group)
                failed.append(error)
            waiter.called.set()

        waiter.called = anyio.Event()
        waiter.is_busy = waiter.is_opening = True
        self._opening += 1
        deadline.arm(math.inf, "", "connect")
        self._call_next()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                with anyio.move_on_after(_PATIENCE_SECONDS):
                    await waiter.called.wait()
                if not waiter.called.is_set():  # others may be faster
                    waiter.is_busy = False
                    if self._idle and (idle := await self._take_idle()) is not None:
                        if waiter.session is None:
                            self._lend(idle, waiter)
                        else:
                            await self.release(idle)
                    await waiter.called.wait()
                tasks.cancel_scope.cancel()
        except BaseException:
            self._limit.note_end()
            waiter.session = waiter.session or self._was_opened(waiter, opened)
            raise
        session = self._was_opened(waiter, opened)
        if session is not None:
            self._limit.note_success(self._count)
            if waiter.session is None:
                return session
            await self.release(session)
        elif failed:
            self._note_refusal(failed[0])
        elif waiter.session is not None:
            self._note_refusal(SMTPTimeout("connection was not open in time: another one was free", phase="connect"))
        return None

    def _was_opened(self, waiter: _Waiter, opened: list[Session]) -> Session | None:
        """Take note that this waiter opens no more; return what it opened."""
        waiter.is_busy = waiter.is_opening = False
        self._opening -= 1
        self._lent.update(opened)
        return opened[0] if opened else None

    def _note_refusal(self, error: BaseException) -> None:
        if isinstance(error, Exception) and self._has_others:
            self._limit.note_refusal(self._count, error)
            self._call_next()
            return
        self._limit.forget()
        if isinstance(error, SMTPError):
            # Whoever waits now waits for the same server: they learn at once what it says. The next caller tries again.
            self._tell_all(error)
        raise error

    def _tell_all(self, error: SMTPError) -> None:
        for waiter in self._queue.idlers():
            self._queue.remove(waiter)
            waiter.error = copy.copy(error)
            waiter.error.__cause__ = error.__cause__
            waiter.called.set()

    def _call_next(self) -> None:
        """Let whose turn it is look again, if one more could be opened: now, or after a while."""
        if self._queue and self._count < self._options.max_connections:
            waiter = self._queue.next()
            if waiter is not None:
                waiter.called.set()
