"""Deliveries: a stream of messages over several connections of the pool, and what became of each.

Each connection has a worker: a task that borrows a session, lets it send what comes next, and gives it back when
somebody else waits for one, when the caller is slow to take the outcomes, or when nothing is left. Nobody is given
items beforehand: they are taken from the caller's iterable one by one, when there is room to send them.
"""

from __future__ import annotations

import copy
import itertools
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import anyio
import anyio.abc

from smtplite.errors import ConnectionLost, MessageError, SMTPError
from smtplite.message.content import in_thread
from smtplite.message.envelope import Outgoing
from smtplite.message.prepared import Prepared, is_large, prepare
from smtplite.message.signing import Sign
from smtplite.results import Delivery
from smtplite.sending.deadline import Deadline
from smtplite.sending.outbound import Consignment
from smtplite.sending.pool import Pool
from smtplite.sending.session import Parcel, Session

__all__ = ["Deliveries"]

#: Outcomes that the caller may leave lying, for each connection, before no more is sent.
_OUTCOMES_PER_CONNECTION: Final = 64

Items = Iterable[Any] | AsyncIterable[Any]


class _Shipment:
    """An item of the caller's and its consignment."""

    def __init__(self, item: Any, prepared: Prepared, consignment: Consignment) -> None:
        self.item = item
        self.prepared = prepared
        self.consignment = consignment


class Deliveries:
    """What `Client.send_many` gives: iterate it for the outcomes, in order of completion.

    Args:
        items: the caller's messages.
        consign: makes a consignment of a message that was read and checked.
        pool: lends sessions.
        connections: the most to use at the same time.
        in_flight: the most messages under way on one of them, where they travel in chunks.
        timeout: seconds for each message, from its first octet to its verdict.
        drain: seconds to wait for outcomes when the block is left early.
        rate_limit: entered and left before an item is taken.
        sign: signs each message.
    """

    def __init__(
        self,
        items: Items,
        consign: Callable[[Prepared], Consignment],
        pool: Pool,
        *,
        connections: int,
        in_flight: int,
        timeout: float | None,
        drain: float,
        rate_limit: AbstractAsyncContextManager[object] | None = None,
        sign: Sign | None = None,
    ) -> None:
        self._items = items
        self._rate_limit = rate_limit
        self._sign = sign
        self._consign = consign
        self._pool = pool
        self._connections = connections
        self._in_flight = in_flight
        self._timeout = timeout
        self._drain = drain
        # What must be waited for is taken by a task of its own: the items, or leave to send them.
        self._iterator: Iterator[Any] | None = (
            None if isinstance(items, AsyncIterable) or rate_limit is not None else iter(items)
        )
        self._is_exhausted = False  # nothing more is taken from the caller's iterable
        self._is_leaving = False  # nothing more is begun
        self._fetched: deque[Any] = deque()  # taken from an asynchronous iterable, not yet looked at
        self._at_limit: list[Any] = []  # the item that waits for the caller's rate limit
        self._waiting: deque[_Shipment] = deque()  # sent before, in part or in vain; these come first
        self._in_work: dict[int, Any] = {}  # items that are being read and checked, by a number of their own
        self._narrowing = 0  # shipments that are made 7-bit
        self._shipments: dict[Parcel, _Shipment] = {}  # taken and undecided
        self._to_close: list[Prepared] = []  # whose caller's stream may still be open
        self._outcomes: deque[Delivery] = deque()
        self._working = 0  # workers that have not ended
        self._acquiring = 0  # of those, the ones that wait for a session
        self._holding = 0  # ... and the ones that have one
        self._failure: Exception | None = None  # what the loop raises once nothing more can be done
        self._left: SMTPError = ConnectionLost("not sent: the block of send_many was left before its turn came")
        self._changed = anyio.Event()  # for the caller: an outcome, or the end
        self._numbers = itertools.count()
        self._tasks: anyio.abc.TaskGroup  # while the block runs
        self._room = anyio.Event()  # for workers: something may be sent again
        self._rest: list[Delivery] = []

    # For the caller

    @property
    def rest(self) -> list[Delivery]:
        """After the block: what the loop did not hand out. Each item taken is in the loop or here, once."""
        return self._rest

    def __aiter__(self) -> AsyncIterator[Delivery]:
        return self

    async def __anext__(self) -> Delivery:
        """Return the next outcome.

        Raises:
            SMTPError: no connection could be opened; said once.
            Exception: what the caller's iterable raised.
        """
        while not self._outcomes:
            if self._working == 0:
                if self._failure is not None:
                    failure, self._failure = self._failure, None
                    raise failure
                raise StopAsyncIteration
            self._changed = anyio.Event()
            await self._changed.wait()
        outcome = self._outcomes.popleft()
        if len(self._outcomes) == self._backlog // 2:
            self._call_workers()
        return outcome

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Deliveries]:
        """Send within this block."""
        failure: BaseException | None = None
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                self._working = self._connections
                for _ in range(self._connections):
                    tasks.start_soon(self._work)
                if self._iterator is None:
                    tasks.start_soon(self._fetch)
                try:
                    yield self
                except anyio.get_cancelled_exc_class():
                    raise  # the task group's affair, too
                except BaseException as error:  # noqa: BLE001 (goes on as itself, never in an ExceptionGroup)
                    failure = error
                else:
                    await self._finish()
                tasks.cancel_scope.cancel()
        finally:
            self._collect()
            if self._to_close:
                with anyio.move_on_after(self._drain, shield=True):  # a stream of the caller's may hang
                    await self._close_streams()
        if failure is not None:
            raise failure

    async def _finish(self) -> None:
        """Take nothing more; wait for what is under way, but not for ever."""
        self._is_leaving = True
        self._call_workers()
        with anyio.move_on_after(self._drain):
            while self._holding:
                self._changed = anyio.Event()
                await self._changed.wait()

    def _collect(self) -> None:
        """Make an outcome of everything that was taken."""
        for shipment in list(self._shipments.values()):
            self._decide(shipment, self._left)
        for item in [*self._in_work.values(), *self._fetched, *self._at_limit]:
            self._outcomes.append(Delivery(item, error=_copy(self._left)))
        self._in_work.clear()
        self._at_limit.clear()
        self._fetched.clear()
        self._rest = list(self._outcomes)
        self._outcomes.clear()

    # Items

    @property
    def _backlog(self) -> int:
        return self._connections * max(_OUTCOMES_PER_CONNECTION, self._in_flight)

    async def _fetch(self) -> None:
        """Take items for which has to be waited, a few ahead."""
        limit = self._rate_limit
        ahead = self._connections * (max(2, self._in_flight) if limit is None else 1)
        try:
            async for item in self._items if isinstance(self._items, AsyncIterable) else _Each(self._items):
                self._at_limit.append(item)  # taken, and nowhere else yet
                if limit is not None:
                    async with limit:
                        pass
                self._at_limit.clear()
                self._fetched.append(item)
                self._call_workers()
                while len(self._fetched) >= ahead:
                    await self._wait_for_room()
        except Exception as error:  # noqa: BLE001 (the caller's own: raised by the loop)
            self._failure = error
        self._is_exhausted = True
        self._call_workers()

    def _next_item(self) -> tuple[bool, Any]:
        """Return whether there is an item now, and the item."""
        if self._iterator is None:
            return (True, self._fetched.popleft()) if self._fetched else (False, None)
        if self._is_exhausted:
            return False, None
        try:
            return True, next(self._iterator)
        except StopIteration:
            pass
        except Exception as error:  # noqa: BLE001 (the caller's own: raised by the loop)
            self._failure = error
        self._is_exhausted = True
        self._call_workers()
        return False, None

    def next_shipment(self) -> _Shipment | None:
        """Return what comes next, or None if there is nothing now, or there are too many outcomes already."""
        if self._is_leaving or len(self._outcomes) >= self._backlog:
            return None
        return self._waiting.popleft() if self._waiting else self._new_shipment()

    def _new_shipment(self) -> _Shipment | None:
        """Make a shipment of the next item. One that cannot be sent is decided at once."""
        while len(self._outcomes) < self._backlog and len(self._in_work) < self._connections:
            found, item = self._next_item()
            if not found:
                break
            if self._iterator is None:
                self._call_workers()  # there is room to fetch more
            if is_large(item.message if isinstance(item, Outgoing) else item):
                self._prepare_slowly(item, None)
                continue
            try:
                prepared = _prepare(item, self._sign)
            except SMTPError as error:
                self._add(Delivery(item, error=error))
                continue
            if prepared.is_checked:
                return self._ship(item, prepared)
            self._prepare_slowly(item, prepared)
        return None

    def _ship(self, item: Any, prepared: Prepared) -> _Shipment:
        consignment = self._consign(prepared)
        consignment.timeout = self._timeout
        shipment = self._shipments[consignment] = _Shipment(item, prepared, consignment)
        return shipment

    def _prepare_slowly(self, item: Any, prepared: Prepared | None) -> None:
        """Read and check in a task of its own what would take too long here."""
        number = next(self._numbers)
        self._in_work[number] = item
        self._tasks.start_soon(self._prepare_in_task, number, item, prepared)

    async def _prepare_in_task(self, number: int, item: Any, prepared: Prepared | None) -> None:
        try:
            if prepared is None:
                prepared = await in_thread(_prepare, item, self._sign)
            await prepared.check()
        except Exception as error:  # noqa: BLE001 (an SMTPError, or what the source of the content raised)
            del self._in_work[number]
            self._add(Delivery(item, error=error if isinstance(error, SMTPError) else _unread(error)))
            if prepared is not None:
                self._to_close.append(prepared)
        else:
            del self._in_work[number]
            self._waiting.append(self._ship(item, prepared))
        self._call_workers()

    def narrow(self, shipment: _Shipment) -> None:
        """Have a large message made 7-bit in a task of its own; then it comes first."""
        self._narrowing += 1
        self._tasks.start_soon(self._narrow_in_task, shipment)

    async def _narrow_in_task(self, shipment: _Shipment) -> None:
        try:
            await shipment.consignment.narrow()
        except SMTPError as error:
            self._decide(shipment, error)
        else:
            self._waiting.append(shipment)
        self._narrowing -= 1
        self._call_workers()

    async def _close_streams(self) -> None:
        while self._to_close:
            await self._to_close.pop().aclose()

    def put_back(self, shipment: _Shipment) -> None:
        """Take back what there was no room for, or what goes on elsewhere; it comes first."""
        self._waiting.appendleft(shipment)
        self._call_workers()

    # Outcomes

    def finished(self, parcel: Parcel) -> None:
        """Decide what becomes of a message whose transaction is done."""
        shipment = self._shipments[parcel]
        if shipment.consignment.goes_on():
            self._waiting.append(shipment)
            self._call_workers()
        else:
            self._decide(shipment)

    def refuse(self, shipment: _Shipment, error: SMTPError) -> None:
        """Decide a message that cannot go on, for this reason."""
        self._decide(shipment, error)

    def _decide(self, shipment: _Shipment, error: SMTPError | None = None) -> None:
        del self._shipments[shipment.consignment]
        if shipment.prepared.reader is not None:
            self._to_close.append(shipment.prepared)
        try:
            receipt = shipment.consignment.result(None if error is None else _copy(error))
        except SMTPError as failure:
            self._add(Delivery(shipment.item, error=failure))
        except Exception as failure:  # noqa: BLE001 (what the source of its content raised)
            self._add(Delivery(shipment.item, error=shipment.consignment.completed(_unread(failure))))
        else:
            self._add(Delivery(shipment.item, receipt))

    def _add(self, outcome: Delivery) -> None:
        self._outcomes.append(outcome)
        self._changed.set()

    def _call_workers(self) -> None:
        self._room.set()
        self._changed.set()

    # Workers

    async def _wait_for_room(self) -> None:
        if self._room.is_set():
            self._room = anyio.Event()
        await self._room.wait()

    async def _work(self) -> None:
        try:
            while await self._wait_for_work() and await self._send_some():
                pass
        finally:
            self._working -= 1
            self._call_workers()

    async def _wait_for_work(self) -> bool:
        """Wait until there is something for one more session; return False if there will be nothing any more."""
        while not self._is_leaving:
            # Whoever waits for a session has something for it: no connection is opened for nothing.
            if len(self._waiting) <= self._acquiring and (shipment := self._new_shipment()) is not None:
                self._waiting.append(shipment)
            if len(self._waiting) > self._acquiring:
                return True
            if self._is_dry and not (self._acquiring or self._holding):
                break  # as long as others send, what they cannot finish comes back to whoever is there
            await self._wait_for_room()
        return False

    @property
    def _is_dry(self) -> bool:
        return self._is_exhausted and not self._fetched and not self._in_work and not self._narrowing

    async def _send_some(self) -> bool:
        """Borrow a session and send; return False if none can be had."""
        deadline = Deadline()
        session: Session | None = None
        failure: Exception | None = None
        self._acquiring += 1
        try:
            with deadline.scope:
                session = await self._pool.acquire(deadline, owner=self)
                self._acquiring -= 1
                self._holding += 1
                try:
                    session.window.in_flight = self._in_flight
                    await session.run(_Lane(self, session), deadline)
                finally:
                    await self._pool.release(session)
            await self._close_streams()
        except Exception as error:  # noqa: BLE001 (no connection: an SMTPError, or what connect= or a token raised)
            failure = error
        finally:
            if session is None:
                self._acquiring -= 1
            else:
                self._holding -= 1
            self._call_workers()
        if session is not None and failure is None:
            return True
        failure = failure or deadline.error()
        if not self._holding:  # nobody else has a connection, either
            self._fail(failure)
        return False

    def _fail(self, failure: Exception) -> None:
        """Give up: no connection can be had, and what was taken cannot be sent."""
        if self._failure is None:
            self._failure = failure
            if isinstance(failure, SMTPError):
                self._left = failure
        self._is_leaving = True
        self._call_workers()

    @property
    def is_wanted(self) -> bool:
        """True if somebody else waits for a session."""
        return self._pool.is_wanted_beside(self)


class _Each:
    """The items of an iterable, to a loop that has to wait between them."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._iterator = iter(items)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        try:
            return next(self._iterator)
        except StopIteration:
            raise StopAsyncIteration from None


class _Lane:
    """The source of one session."""

    def __init__(self, deliveries: Deliveries, session: Session) -> None:
        self._deliveries = deliveries
        self._session = session
        self._taken = 0

    def take(self) -> Parcel | None:
        """Return the next message that this session's server can take."""
        deliveries = self._deliveries
        while not (self._taken and deliveries.is_wanted):
            shipment = deliveries.next_shipment()
            if shipment is None:
                break
            if shipment.consignment.flattens_anew(self._session):
                deliveries.narrow(shipment)
                continue
            try:
                shipment.consignment.fit_to(self._session)
            except SMTPError as error:
                deliveries.refuse(shipment, error)
            else:
                self._taken += 1
                return shipment.consignment
        return None

    def put_back(self, parcel: Parcel) -> None:
        """Give back a message for which there is no room yet."""
        self._taken -= 1
        self._deliveries.put_back(self._deliveries._shipments[parcel])

    def finished(self, parcel: Parcel) -> None:
        """Pass it on."""
        self._deliveries.finished(parcel)


def _prepare(item: Any, sign: Sign | None) -> Prepared:
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
