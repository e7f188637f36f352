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
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import anyio
import anyio.lowlevel

from smtplite.errors import LocalProtocolError, SMTPError, SMTPTimeout
from smtplite.options import Options
from smtplite.sending.deadline import Deadline
from smtplite.sending.session import Session

__all__ = ["Pool"]

#: A connection that takes longer to open, and longer than others took: whoever opens it takes another one, too, if
#: that comes first.
_PATIENCE_SECONDS: Final = 1.0
#: How long no further connection is tried after one was refused beside others; doubled each time.
_FIRST_PAUSE_SECONDS: Final = 1.0
_MAX_PAUSE_SECONDS: Final = 60.0


class _Waiter:
    """Somebody who wants a session: is given one, or opens one, or is told an error."""

    def __init__(
        self, owner: object, *, is_fresh: bool, open_session: Callable[[Deadline], Awaitable[Session]]
    ) -> None:
        self.owner = self if owner is None else owner
        #: How it opens one.
        self.open_session = open_session
        #: True if only a session that was never used before will do.
        self.is_fresh = is_fresh
        #: Set whenever there is something to look at: one of the below, or a place to open a session in.
        self.called = anyio.Event()
        #: Lent by somebody else.
        self.session: Session | None = None
        #: What was learnt by somebody else.
        self.error: SMTPError | None = None
        #: The time (`time.monotonic`) since when it opens a session of its own; None: it opens none.
        self.opening_since: float | None = None
        #: True while it does something else, and looks again afterwards.
        self.is_busy = False


class _Queue:
    """Those who wait. Owners come in turn: one with several waiters gets one session, then come the others."""

    def __init__(self) -> None:
        self._owners: OrderedDict[object, deque[_Waiter]] = OrderedDict()
        #: The least time, in seconds, that opening a session took so far.
        self._fastest = math.inf

    def __bool__(self) -> bool:
        return bool(self._owners)

    def __iter__(self) -> Iterator[_Waiter]:
        """Yield all of them, in the order in which they come."""
        for waiters in self._owners.values():
            yield from waiters

    def __contains__(self, waiter: _Waiter) -> bool:
        return waiter in self._owners.get(waiter.owner, ())

    def add(self, waiter: _Waiter) -> None:
        self._owners.setdefault(waiter.owner, deque()).append(waiter)

    def add_first(self, waiter: _Waiter) -> None:
        """Add one whose turn it was, and who could not use what it was given."""
        self._owners.setdefault(waiter.owner, deque()).appendleft(waiter)
        self._owners.move_to_end(waiter.owner, last=False)

    def remove(self, waiter: _Waiter, *, is_served: bool) -> None:
        """Take out one who was served, or gave up; once served, the owner's others go behind those of the others."""
        waiters = self._owners[waiter.owner]
        waiters.remove(waiter)
        if not waiters:
            del self._owners[waiter.owner]
        elif is_served:
            self._owners.move_to_end(waiter.owner)

    # Whose turn it is

    @property
    def patience(self) -> float:
        """Seconds within which who opens a session wants nobody else's."""
        # A server that is far away, or greets late, is slow every time; one that is full is slow this time.
        return max(_PATIENCE_SECONDS, 2 * self._fastest) if self._fastest < math.inf else _PATIENCE_SECONDS

    def note_opened(self, seconds: float) -> None:
        """Say how long it took to open a session."""
        before = self.patience
        self._fastest = min(self._fastest, seconds)
        if self.patience > before:
            for waiter in self:
                waiter.called.set()  # who opens one has lost patience too early

    def takes_others(self, waiter: _Waiter) -> bool:
        """Return True if this one would take a session that comes free now."""
        if waiter.is_busy:
            return False
        since = waiter.opening_since
        # What is opened fresh is never given up for one that would have to be closed first.
        return since is None or not (waiter.is_fresh or time.monotonic() - since < self.patience)

    def next_taker(self) -> _Waiter | None:
        """Return whose turn it is to be given a session."""
        return next((waiter for waiter in self if self.takes_others(waiter)), None) if self._owners else None

    def next_opener(self) -> _Waiter | None:
        """Return whose turn it is to open a session."""
        return next((waiter for waiter in self if not waiter.is_busy and waiter.opening_since is None), None)

    def idlers(self) -> list[_Waiter]:
        """Return those who open no session themselves."""
        return [waiter for waiter in self if waiter.opening_since is None]


class _Limit:
    """How many connections the server takes at present, as far as refusals tell."""

    def __init__(self) -> None:
        #: So many were open, or being opened, when one more was refused; `math.inf`: none was.
        self.connections: float = math.inf
        #: The last of the refusals.
        self.refusal: Exception | None = None
        #: True while one more than that is being opened, to see whether it is taken now.
        self.is_tried = False
        self._pause = 0.0
        self._retry_at = 0.0

    def note_refusal(self, others: int, error: Exception, *, was_trial: bool) -> None:
        """Say that a connection could not be opened beside so many others."""
        self.connections = others
        self.refusal = error
        now = time.monotonic()
        if isinstance(error, SMTPError) and not error.retryable:
            # What another try would not change is not tried as long as there are others: a password, a certificate.
            self._pause = math.inf
        elif was_trial or now >= self._retry_at:  # else several were refused at once: that is one refusal
            self._pause = min(self._pause * 2 or _FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS)
        self._retry_at = now + self._pause * random.uniform(0.75, 1.25)  # noqa: S311 (no secret)

    def note_success(self, count: int) -> None:
        """Say that a connection was opened, and how many are open now; if it was one more, another may be tried."""
        if count > self.connections:
            self.connections = count
            self._pause = self._retry_at = 0.0

    def forget(self) -> None:
        """Forget all of it: nothing is open any more, or as many are as anybody wants."""
        self.connections = math.inf
        self.refusal = None
        self._pause = self._retry_at = 0.0

    @property
    def wait(self) -> float:
        """Seconds until one more may be tried; `math.inf`: nobody knows."""
        if self.connections == math.inf or self.is_tried:
            return math.inf
        return max(0.0, self._retry_at - time.monotonic())


class Pool:
    """Lends sessions.

    Args:
        open_session: opens one, within the deadline that it is given.
        options: the client's: how many at the same time, and for how long.
    """

    def __init__(self, open_session: Callable[[Deadline], Awaitable[Session]], options: Options) -> None:
        self._open_session = open_session
        self._options = options
        self._most = options.max_connections  # until somebody says otherwise
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
        self._shrunk: anyio.Event | None = None  # somebody waits until few enough are open

    async def acquire(
        self,
        deadline: Deadline,
        *,
        fresh: bool = False,
        apart: bool = False,
        owner: object = None,
        open_session: Callable[[Deadline], Awaitable[Session]] | None = None,
    ) -> Session:
        """Return a session for the caller alone; give it back with `release`.

        Args:
            deadline: of the whole call.
            fresh: open a new one, whatever is idle.
            apart: it will be kept for long, and not be given back to be used again: others do not wait for it.
            owner: for whom, if for one who wants several; see `is_wanted_beside`.
            open_session: opens it in another way than usual; then it is `fresh` and `apart`.

        Raises:
            SMTPError: none can be had; nothing is lent.
        """
        self._enter()
        if not fresh and not apart and self._idle and self._queue.next_taker() is None:
            session = await self._take_idle()
            if session is not None:
                return session
        waiter = _Waiter(owner, is_fresh=fresh, open_session=open_session or self._open_session)
        self._queue.add(waiter)
        try:
            session = await self._acquire(waiter, deadline)
        except BaseException:
            self._give_up(waiter)
            if waiter.session is not None:  # lent and cancelled at the same moment: the next one's turn
                with anyio.CancelScope(shield=True):
                    await self.release(waiter.session)
            self._leave()
            raise
        self._give_up(waiter, is_served=True)
        if apart:
            self._apart.add(session)
        return session

    async def _acquire(self, waiter: _Waiter, deadline: Deadline) -> Session:
        since: float | None = None  # on the event loop's clock: when it began to wait
        while True:
            if waiter.error is not None:
                raise waiter.error
            if self._is_closed:
                raise LocalProtocolError("client is closed")
            if (session := waiter.session) is not None:
                if not waiter.is_fresh and not session.is_stale():
                    return session
                waiter.session = None
                self._queue.add_first(waiter)  # it is still its turn: the place is its own
                waiter.is_busy = True
                try:
                    await self._close(session)
                finally:
                    waiter.is_busy = False
                continue
            if self._idle and not (waiter.is_fresh and self._has_place) and self._queue.next_taker() is waiter:
                waiter.is_busy = True
                try:
                    if waiter.is_fresh:
                        await self._close(self._idle.pop(0), is_word_due=True)
                    elif (session := await self._take_idle()) is not None:
                        return session
                finally:
                    waiter.is_busy = False
                continue
            if self._queue.next_opener() is waiter and self._may_open and (self._has_place or not self._has_others):
                deadline.arm(math.inf, "", "connect")
                if (session := await self._open(waiter, deadline.within())) is not None:
                    return session
                continue
            if since is None:
                since = anyio.current_time()
            self._arm(deadline, since)
            if self._queue.next_opener() is waiter and self._may_open:  # beside the wait, whose time goes on
                if (session := await self._open(waiter, Deadline(), is_trial=True)) is not None:
                    return session
            else:
                await self._wait(waiter)

    def _arm(self, deadline: Deadline, since: float) -> None:
        """Let a wait that began then end in time, however often something was tried meanwhile."""
        seconds = self._options.timeouts.pool
        deadline.arm(
            since + seconds - anyio.current_time(),
            f"no connection became free within {seconds:g} s",
            "pool",
            cause=self._last_refusal,
        )

    def _last_refusal(self) -> Exception | None:
        return self._limit.refusal

    def _give_up(self, waiter: _Waiter, *, is_served: bool = False) -> None:
        """Take one out who has a session, or wants none any more."""
        if waiter in self._queue:
            self._queue.remove(waiter, is_served=is_served)
        self._call_next()

    async def _wait(self, waiter: _Waiter) -> None:
        """Wait until there is something to look at, or until one more connection may be tried."""
        if waiter.called.is_set():
            waiter.called = anyio.Event()
        # One of those who wait keeps the time for all.
        is_first = self._count < self._most and self._queue.next_opener() is waiter
        with anyio.move_on_after(self._limit.wait if is_first else math.inf):
            await waiter.called.wait()

    def is_wanted_beside(self, owner: object) -> bool:
        """Return True if another owner, or none, has somebody waiting for a session; or if one too many is open."""
        queue = self._queue
        return self._is_too_many or (
            bool(queue) and any(waiter.owner is not owner and queue.takes_others(waiter) for waiter in queue)
        )

    async def release(self, session: Session) -> None:
        """Take a session back: for the next in the queue, or to idle, or to be closed."""
        self._apart.discard(session)
        if self._is_too_many or not (self._is_lendable(session) and session.is_reusable):
            await self._close(session, is_word_due=True)
            return
        session.idle_since = time.monotonic()
        session.is_reused = True
        waiter = self._queue.next_taker()
        if waiter is None:
            self._lent.discard(session)
            self._idle.append(session)
            self._leave()
        else:
            self._lend(session, waiter)

    def _lend(self, session: Session, waiter: _Waiter) -> None:
        self._queue.remove(waiter, is_served=True)
        waiter.session = session
        waiter.called.set()
        self._call_next()

    async def resize(self, connections: int) -> None:
        """Have at most so many sessions from now on; return when no more are open.

        Idle ones are closed at once, lent ones when they come back.
        """
        self._most = connections
        self._note_fewer()
        self._call_next()
        while self._is_too_many and self._idle:
            await self._close(self._idle.pop(0), is_word_due=True)
        while self._count > self._most:
            if self._shrunk is None:
                self._shrunk = anyio.Event()
            await self._shrunk.wait()

    @property
    def _is_too_many(self) -> bool:
        """True if a session is to be closed because fewer are wanted."""
        return self._count - self._closing > self._most

    def _note_fewer(self) -> None:
        """Wake who waits until few enough are open, if they are."""
        if self._shrunk is not None and self._count <= self._most:
            self._shrunk.set()
            self._shrunk = None

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
            self._note_fewer()
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
        return self._count < min(self._most, self._limit.connections)

    @property
    def _may_open(self) -> bool:
        """True if one more may be opened now."""
        if self._count >= self._most:
            return False
        return self._has_place or not self._has_others or self._limit.wait == 0

    async def _open(self, waiter: _Waiter, within: Deadline, *, is_trial: bool = False) -> Session | None:
        """Open a session; return None if the caller has to look again: another one came first, or this one was refused.

        Args:
            waiter: whose turn it is.
            within: for the opening alone.
            is_trial: whether it is one more than the server took last.

        Raises:
            SMTPError: none can be had, and none may come free. Whoever else waits learns it, too.
        """
        opened: list[Session] = []
        failed: list[BaseException] = []

        async def run() -> None:
            try:
                with within.scope:
                    opened.append(await waiter.open_session(within))
                if not opened:
                    failed.append(within.error())
            except anyio.get_cancelled_exc_class() as error:
                failed.append(error)  # of interest only if nobody cancelled us: `connect=` met somebody else's
                raise
            except BaseException as error:  # noqa: BLE001 (raised below, by itself and not in a group)
                failed.append(error)
            finally:
                waiter.called.set()

        begun = waiter.opening_since = time.monotonic()
        self._opening += 1
        self._limit.is_tried |= is_trial
        self._call_next()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                while not (opened or failed or waiter.session is not None):
                    await self._wait_for_opening(waiter, begun)
                is_given_up = not (opened or failed)
                tasks.cancel_scope.cancel()
        except BaseException:
            session = self._was_opened(waiter, opened, is_trial=is_trial)
            if session is not None and waiter.session is not None:
                with anyio.CancelScope(shield=True):
                    await self.release(session)
            waiter.session = waiter.session or session
            raise
        session = self._was_opened(waiter, opened, is_trial=is_trial)
        if session is not None:
            self._note_success(time.monotonic() - begun)
            if waiter.session is None:
                return session
            await self.release(session)
        elif is_given_up:
            late = SMTPTimeout("connection was not open in time: another one was free", phase="connect")
            self._note_refusal(late, is_trial=is_trial)
        else:
            self._note_refusal(failed[0], is_trial=is_trial)
        return None

    async def _wait_for_opening(self, waiter: _Waiter, begun: float) -> None:
        """Wait until something happens to who opens a session; later on, others may be faster."""
        left = math.inf if waiter.is_fresh else begun + self._queue.patience - time.monotonic()
        if left > 0 or not self._idle:
            if waiter.called.is_set():
                waiter.called = anyio.Event()
            with anyio.move_on_after(left if left > 0 else math.inf):
                await waiter.called.wait()
            return
        waiter.is_busy = True
        try:
            idle = await self._take_idle()
        finally:
            waiter.is_busy = False
        if idle is not None:
            self._lend(idle, waiter)

    def _was_opened(self, waiter: _Waiter, opened: list[Session], *, is_trial: bool) -> Session | None:
        """Take note that this waiter opens no more; return what it opened."""
        waiter.opening_since = None
        self._opening -= 1
        if is_trial:
            self._limit.is_tried = False
        self._lent.update(opened)
        self._note_fewer()
        return opened[0] if opened else None

    def _note_success(self, seconds: float) -> None:
        self._queue.note_opened(seconds)
        count = self._count - self._opening
        self._limit.note_success(count)
        if count >= self._most:
            self._limit.forget()

    def _note_refusal(self, error: BaseException, *, is_trial: bool) -> None:
        """Take note that a connection could not be opened.

        Raises:
            BaseException: the error, if nobody else has a session that may come free.
        """
        if not isinstance(error, Exception):
            raise error
        if self._has_others:
            self._limit.note_refusal(self._count, error, was_trial=is_trial)
            self._call_next()
            return
        self._limit.forget()
        if isinstance(error, SMTPError):
            # Whoever waits now waits for the same server: they learn at once what it says. The next caller tries again.
            self._tell_all(error)
        raise error

    def _tell_all(self, error: SMTPError) -> None:
        for waiter in self._queue.idlers():
            self._queue.remove(waiter, is_served=False)
            waiter.error = copy.copy(error)
            waiter.error.__cause__ = error.__cause__
            waiter.called.set()

    def _call_next(self) -> None:
        """Let whose turn it is look again, if something may be there for it."""
        if not self._queue:
            return
        if self._idle and (waiter := self._queue.next_taker()) is not None:
            waiter.called.set()
        if self._count < self._most and (waiter := self._queue.next_opener()) is not None:
            waiter.called.set()
