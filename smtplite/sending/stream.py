"""Stream: many messages over several connections of the pool, and what became of each.

Each connection has a worker: a task that borrows a session, lets it send what comes next, and gives it back when
somebody else waits for one, when the caller is slow to take the outcomes, or when nothing is left. Nobody is given
items beforehand: they are taken from the caller's iterable one by one, when there is room to send them.
"""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeVarTuple

import anyio
import anyio.abc
import attrs

from smtplite.errors import ConnectionLost, LocalProtocolError, MessageError, SMTPError
from smtplite.message.envelope import Outgoing
from smtplite.message.prepared import Prepared, is_large, prepare
from smtplite.message.signing import Sign
from smtplite.message.threads import in_thread
from smtplite.results import Delivery
from smtplite.sending.deadline import Deadline
from smtplite.sending.items import Items, Ready
from smtplite.sending.outbound import Outbound
from smtplite.sending.pool import Pool
from smtplite.sending.session import Session
from smtplite.trace import Tracer

__all__ = ["Deliveries", "Plan"]

#: How long to wait before a connection is tried again when there is none; doubled each time, up to the second.
_FIRST_PAUSE_SECONDS: Final = 0.1
_MAX_PAUSE_SECONDS: Final = 1.0

_Ts = TypeVarTuple("_Ts")

#: Outcomes that the caller may leave lying, for each connection, before no more is sent.
_OUTCOMES_PER_CONNECTION: Final = 64


@attrs.frozen(kw_only=True)
class Plan:
    """How a stream is to be sent.

    Attributes:
        connections: the most to use at the same time.
        in_flight: the most messages under way on one of them, where they travel in chunks.
        require_all: for each message, send to nobody unless every recipient is accepted.
        timeout: seconds for each message, from its first octet to its verdict; None: no limit of its own.
        drain: seconds to wait for outcomes when the block is left early.
        reconnect: seconds to try again for, when no connection is left and none can be opened.
        on_begin: called before each write with the items whose first octet is in it.
        rate_limit: entered and left before an item is taken.
        sign: signs each message.
        tracer: is told what becomes of each.
        backlog: outcomes that the caller may leave lying before no more is sent.
    """

    connections: int
    in_flight: int
    require_all: bool
    timeout: float | None
    drain: float
    reconnect: float
    on_begin: Callable[[list[Any]], None] | None
    rate_limit: AbstractAsyncContextManager[object] | None
    sign: Sign | None
    tracer: Tracer
    backlog: int = attrs.field(
        init=False,
        default=attrs.Factory(
            lambda plan: plan.connections * max(_OUTCOMES_PER_CONNECTION, plan.in_flight), takes_self=True
        ),
    )


@attrs.define
class _Workers:
    """How many tasks send.

    Attributes:
        working: those that have not ended.
        acquiring: of those, the ones that wait for a session.
        holding: ... and the ones that have one.
    """

    working: int = 0
    acquiring: int = 0
    holding: int = 0


class _Outage:
    """For how long there has been no connection, and whether to try again.

    Args:
        reconnect: seconds to go on trying.
    """

    def __init__(self, reconnect: float) -> None:
        self._reconnect = reconnect
        self._was_connected = False
        self._since: float | None = None

    def note_connection(self) -> None:
        """Say that there is one."""
        self._was_connected = True
        self._since = None

    def pause(self, failure: Exception, *, is_alone: bool) -> float | None:
        """Return how many seconds to wait before another try; None: there is no use in it.

        Args:
            failure: why there was no connection to be had.
            is_alone: whether nobody else of the stream has one.
        """
        lasts = 0.0
        if is_alone:
            now = anyio.current_time()
            since = self._since = now if self._since is None else self._since
            lasts = now - since
            may_change = isinstance(failure, SMTPError) and failure.retryable
            if not (self._was_connected and may_change) or lasts >= self._reconnect:
                return None
        seconds = min(max(lasts, _FIRST_PAUSE_SECONDS), _MAX_PAUSE_SECONDS)
        return seconds * random.uniform(0.75, 1.25)  # noqa: S311 (no secret)


class Deliveries:
    """What `Client.send_many` returns: iterate over it for the outcomes, in order of completion.

    Args:
        items: the caller's messages.
        pool: lends sessions.
        plan: how they are to be sent.
    """

    def __init__(self, items: Iterable[Any] | AsyncIterable[Any], pool: Pool, plan: Plan) -> None:
        self._pool = pool
        self._plan = plan
        ahead = plan.connections * (max(2, plan.in_flight) if plan.rate_limit is None else 1)
        self._items = Items(items, plan.rate_limit, ahead, self._call)
        self._is_leaving = False  # nothing more is begun
        self._in_work: dict[object, Any] = {}  # items that are being read and checked, by a key of their own
        self._ready = Ready()
        self._narrowing = 0  # messages that are made 7-bit
        self._undecided: dict[Outbound, None] = {}  # in the caller's order
        self._to_close: list[Prepared] = []  # whose caller's stream may still be open
        self._outcomes: deque[Delivery] = deque()
        self._workers = _Workers()
        self._outage = _Outage(plan.reconnect)
        self._failure: Exception | None = None  # what the loop raises once nothing more can be done
        self._crash: BaseException | None = None  # what is no Exception, and ends the block at once
        self._left: SMTPError = ConnectionLost("not sent: the block of send_many was left before its turn came")
        # Set and forgotten at a change; None: nobody waits.
        self._changed: anyio.Event | None = None  # for the caller: an outcome, or the end
        self._room: anyio.Event | None = None  # for workers: something may be sent again
        self._block: AbstractAsyncContextManager[None] | None = None
        self._tasks: anyio.abc.TaskGroup  # while the block runs
        self._rest: list[Delivery] = []

    # For the caller

    @property
    def rest(self) -> list[Delivery]:
        """After the block: the outcomes that the loop did not get. Each item read is in the loop or here, once."""
        return self._rest

    async def __aenter__(self) -> Self:
        if self._block is not None:
            raise LocalProtocolError("this stream has already begun: call send_many again")
        self._block = self._running()
        await self._block.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        block = self._block
        return None if block is None else await block.__aexit__(exc_type, exc_value, traceback)

    def __aiter__(self) -> AsyncIterator[Delivery]:
        if self._block is None:
            raise LocalProtocolError(
                "nothing is sent yet: write `async with client.send_many(...) as deliveries:`, "
                "and in that block `async for delivery in deliveries:`"
            )
        return self

    async def __anext__(self) -> Delivery:
        """Return the next outcome. Several tasks may ask; each outcome goes to one of them.

        Raises:
            SMTPError: no connection could be opened; raised once.
            Exception: what the caller's iterable raised.
        """
        while not self._outcomes:
            if self._workers.working == 0:
                failure = self._failure or self._items.failure
                self._failure = self._items.failure = None
                if failure is not None:
                    raise failure
                raise StopAsyncIteration
            await self._wait_for_change()
        outcome = self._outcomes.popleft()
        if len(self._outcomes) == self._plan.backlog // 2:
            self._call()
        return outcome

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        failure: BaseException | None = None
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                self._workers.working = self._plan.connections
                for _ in range(self._plan.connections):
                    self._start(self._work)
                if self._items.must_be_fetched:
                    self._start(self._items.fetch)
                try:
                    yield
                except anyio.get_cancelled_exc_class():
                    raise  # the task group's affair, too
                except BaseException as error:  # noqa: BLE001 (goes on as itself, never in an ExceptionGroup)
                    failure = error
                else:
                    await self._finish()
                tasks.cancel_scope.cancel()
        finally:
            self._collect()
            self._call()
            if self._to_close:
                with anyio.move_on_after(self._plan.drain, shield=True):  # a stream of the caller's may hang
                    await self._close_streams()
        if self._crash is not None:
            raise self._crash
        if failure is not None:
            raise failure

    async def _finish(self) -> None:
        """Take nothing more; wait for what is under way, but not for ever."""
        self._is_leaving = True
        self._call()
        with anyio.move_on_after(self._plan.drain):
            while self._workers.holding:
                await self._wait_for_change()

    def _start(self, function: Callable[[*_Ts], Awaitable[None]], *arguments: *_Ts) -> None:
        """Run this beside the caller, for as long as the block lasts."""

        async def run() -> None:
            try:
                await function(*arguments)
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # noqa: BLE001 (leaves the block as itself, never in an ExceptionGroup)
                self._crash = self._crash or error
                self._tasks.cancel_scope.cancel()

        self._tasks.start_soon(run)

    async def _wait_for_change(self) -> None:
        if self._changed is None:  # else somebody waits for this one already
            self._changed = anyio.Event()
        await self._changed.wait()

    def _collect(self) -> None:
        """Make an outcome of everything that was taken."""
        for outbound in list(self._undecided):
            self._decide(outbound, self._left)
        for item in [*self._in_work.values(), *self._items.not_given]:
            self._outcomes.append(Delivery(item, error=_copy(self._left)))
        self._rest = list(self._outcomes)
        self._outcomes.clear()

    # Messages

    def next_outbound(self, session: Session) -> Outbound | None:
        """Return what comes next here, or None if there is nothing now, or there are too many outcomes already."""
        if self._is_leaving or len(self._outcomes) >= self._plan.backlog:
            return None
        return self._ready.take(session) or self._new_outbound()

    def _new_outbound(self) -> Outbound | None:
        """Read and check the next item. One that cannot be sent is decided at once."""
        while len(self._outcomes) < self._plan.backlog and len(self._in_work) < self._plan.connections:
            found, item = self._items.next()
            if not found:
                break
            if is_large(item.message if isinstance(item, Outgoing) else item):
                self._prepare_slowly(item, None)
                continue
            try:
                prepared = _prepared(item, self._plan.sign)
            except SMTPError as error:
                self._add(Delivery(item, error=error))
                continue
            if prepared.is_checked:
                return self._outbound(item, prepared)
            self._prepare_slowly(item, prepared)
        return None

    def _outbound(self, item: Any, prepared: Prepared) -> Outbound:
        plan = self._plan
        outbound = Outbound(
            prepared, plan.tracer, item=item, require_all=plan.require_all, in_stream=True, timeout=plan.timeout
        )
        self._undecided[outbound] = None
        return outbound

    def _prepare_slowly(self, item: Any, prepared: Prepared | None) -> None:
        """Read and check in a task of its own what would take too long here."""
        key = object()
        self._in_work[key] = item
        self._start(self._prepare_in_task, key, item, prepared)

    async def _prepare_in_task(self, key: object, item: Any, prepared: Prepared | None) -> None:
        try:
            if prepared is None:
                prepared = await in_thread(_prepared, item, self._plan.sign, abandon_on_cancel=True)
            await prepared.check()
        except Exception as error:  # noqa: BLE001 (an SMTPError, or what the source of the content raised)
            del self._in_work[key]
            self._add(Delivery(item, error=error if isinstance(error, SMTPError) else _unread(error)))
            if prepared is not None:
                self._to_close.append(prepared)
        else:
            del self._in_work[key]
            self._ready.add(self._outbound(item, prepared))
        self._call()

    def narrow(self, outbound: Outbound) -> None:
        """Have a large message made 7-bit in a task of its own; then it comes first."""
        self._narrowing += 1
        self._start(self._narrow_in_task, outbound)

    async def _narrow_in_task(self, outbound: Outbound) -> None:
        try:
            await outbound.narrow()
        except SMTPError as error:
            self._decide(outbound, error)
        else:
            self._ready.add(outbound)
        self._narrowing -= 1
        self._call()

    async def _close_streams(self) -> None:
        while self._to_close:
            await self._to_close.pop().aclose()

    def put_back(self, outbound: Outbound) -> None:
        """Take back what there was no room for; it comes first."""
        self._ready.put_back(outbound)
        self._call()

    # Outcomes

    def finished(self, outbound: Outbound) -> None:
        """Decide what becomes of a message whose transaction is done."""
        if not outbound.went_as_usual and outbound.goes_on():
            self._ready.add(outbound)
            self._call()
        else:
            self._decide(outbound)

    def refuse(self, outbound: Outbound, error: SMTPError) -> None:
        """Decide a message that cannot go on, for this reason."""
        self._decide(outbound, error)

    def _decide(self, outbound: Outbound, error: SMTPError | None = None) -> None:
        self._undecided.pop(outbound, None)
        if outbound.prepared.reader is not None:
            self._to_close.append(outbound.prepared)
        try:
            receipt = outbound.result(None if error is None else _copy(error))
        except SMTPError as failure:
            self._add(Delivery(outbound.item, error=failure))
        except Exception as failure:  # noqa: BLE001 (what the source of its content raised)
            self._add(Delivery(outbound.item, error=outbound.completed(_unread(failure))))
        else:
            self._add(Delivery(outbound.item, receipt))

    def _add(self, outcome: Delivery) -> None:
        self._outcomes.append(outcome)
        if self._changed is not None:
            self._wake_caller()

    def _wake_caller(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()

    def _call(self) -> None:
        """Wake all who wait: something may be sent again, or has ended."""
        room, self._room = self._room, None
        if room is not None:
            room.set()
        self._wake_caller()

    # Workers

    async def _work(self) -> None:
        try:
            while await self._wait_for_work() and await self._send_some():
                pass
        finally:
            self._workers.working -= 1
            self._call()

    async def _wait_for_work(self) -> bool:
        """Wait until there is something for one more session; return False if there will be nothing any more."""
        while not self._is_leaving:
            # Whoever waits for a session has something for it: no connection is opened for nothing.
            if len(self._ready) <= self._workers.acquiring and (outbound := self._new_outbound()) is not None:
                self._ready.add(outbound)
            if len(self._ready) > self._workers.acquiring:
                return True
            if self._is_dry and not (self._workers.acquiring or self._workers.holding):
                break  # as long as others send, what they cannot finish comes back to whoever is there
            if self._room is None:
                self._room = anyio.Event()
            await self._room.wait()
        return False

    @property
    def _is_dry(self) -> bool:
        return self._items.is_exhausted and not self._in_work and not self._narrowing

    async def _send_some(self) -> bool:
        """Borrow a session and send; return False if there will be none any more."""
        deadline = Deadline()
        session: Session | None = None
        failure: Exception | None = None
        self._workers.acquiring += 1
        try:
            with deadline.scope:
                session = await self._pool.acquire(deadline, fresh=self._ready.has_cut, owner=self)
                self._workers.acquiring -= 1
                self._workers.holding += 1
                self._outage.note_connection()
                try:
                    session.window.in_flight = self._plan.in_flight
                    await session.run(_Share(self, session), deadline)
                finally:
                    await self._pool.release(session)
            await self._close_streams()
        except Exception as error:  # noqa: BLE001 (no connection: an SMTPError, or what connect= or a token raised)
            failure = error
        finally:
            if session is None:
                self._workers.acquiring -= 1
            else:
                self._workers.holding -= 1
            self._call()
        if session is not None:
            if failure is not None:  # on_begin= objected, or the like
                self._fail(failure)
            return failure is None
        return await self._goes_on_without(failure or deadline.error())

    async def _goes_on_without(self, failure: Exception) -> bool:
        """Wait a moment, for no connection could be had; return False if there is no use in trying again."""
        pause = self._outage.pause(failure, is_alone=not self._workers.holding)
        if pause is None:
            self._fail(failure)
            return False
        await anyio.sleep(pause)
        return True

    def _fail(self, failure: Exception) -> None:
        """Give up: no connection can be had, and what was taken cannot be sent."""
        if self._failure is None:
            self._failure = failure
            if isinstance(failure, SMTPError):
                self._left = failure
        self._is_leaving = True
        self._call()

    def begins(self, outbounds: list[Outbound]) -> None:
        """Tell the caller whose first octets are about to be written."""
        if self._plan.on_begin is not None:
            self._plan.on_begin([outbound.item for outbound in outbounds])

    @property
    def is_wanted(self) -> bool:
        """True if somebody else waits for a session."""
        return self._pool.is_wanted_beside(self)


class _Share:
    """The queue of one session: its share of the stream."""

    def __init__(self, deliveries: Deliveries, session: Session) -> None:
        self._deliveries = deliveries
        self._session = session
        self._taken = 0

    def take(self) -> Outbound | None:
        """Return the next message that this session's server can take."""
        deliveries = self._deliveries
        while not (self._taken and deliveries.is_wanted):
            outbound = deliveries.next_outbound(self._session)
            if outbound is None:
                break
            if outbound.flattens_anew(self._session):
                deliveries.narrow(outbound)
                continue
            try:
                outbound.fit_to(self._session)
            except SMTPError as error:
                deliveries.refuse(outbound, error)
            else:
                self._taken += 1
                return outbound
        return None

    def put_back(self, outbound: Outbound) -> None:
        """Give back a message for which there is no room yet."""
        self._taken -= 1
        self._deliveries.put_back(outbound)

    def begins(self, outbounds: list[Outbound]) -> None:
        """Pass it on."""
        self._deliveries.begins(outbounds)

    def finished(self, outbound: Outbound) -> None:
        """Pass it on."""
        self._deliveries.finished(outbound)


def _prepared(item: Any, sign: Sign | None) -> Prepared:
    try:
        if isinstance(item, Outgoing):
            return prepare(
                item.message, sender=item.sender, recipients=item.recipients, envelope=item.envelope, sign=sign
            )
        return prepare(item, sign=sign)
    except SMTPError:
        raise
    except Exception as error:  # an object that is no message, whatever it does
        raise MessageError(f"message cannot be read: {error!r}") from error


def _unread(error: Exception) -> MessageError:
    """Return what a delivery says of content whose source failed."""
    unread = MessageError(f"content cannot be read: {error!r}")
    unread.__cause__ = error
    return unread


def _copy(error: SMTPError) -> SMTPError:
    """Return the error for one more message: each has its own sets of recipients."""
    another = copy.copy(error)
    another.__cause__ = error.__cause__
    return another
