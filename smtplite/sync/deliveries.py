"""SyncDeliveries: a stream of messages, read in the caller's thread and sent in that of the loop."""

from __future__ import annotations

import asyncio
import copy
import os
import threading
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from email.message import Message
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, cast

import anyio

from smtplite import ConnectionLost, Deliveries, Delivery, LocalProtocolError, Outgoing, SMTPError
from smtplite.sync.loop import INTERRUPT_SECONDS, Call, Loop

if TYPE_CHECKING:
    from smtplite.sync.client import SyncClient

__all__ = ["SyncDeliveries"]

#: Messages that are read from the caller's iterable before the loop has asked for them.
_ITEMS_AHEAD: Final = 16
#: Outcomes that the caller may leave unread, besides those of Client itself, before sending stops.
_OUTCOMES_AHEAD: Final = 64


class _Left(Exception):
    """The block of a stream was left by an exception: what is under way is given up."""


#: For the consumer: look whether more messages can be taken.
_MORE: Final = object()
#: For the consumer: nothing more comes.
_END: Final = object()


class _Feed:
    """The caller's messages on their way from the consumer's thread, which reads them, to the loop.

    Each attribute is changed by one thread in one step, and looked at again before anybody waits: no lock is needed.

    Args:
        iterator: the caller's.
        ask: called in the loop's thread: has the consumer look whether it may take more.
    """

    def __init__(self, iterator: Iterator[Any], ask: Callable[[], object]) -> None:
        self._iterator = iterator
        self._ask = ask
        self._items: deque[Any] = deque()
        self._error: Exception | None = None
        self._is_exhausted = False
        self._has_changed = asyncio.Event()  # in the loop's thread alone
        self._is_starving = False  # the loop waits for that

    # In the consumer's thread

    @property
    def can_take(self) -> bool:
        """True if one more message may be taken from the caller's iterable."""
        return not self._is_exhausted and len(self._items) < _ITEMS_AHEAD

    def take(self, loop: Loop) -> None:
        """Take a message, if the loop has room for it."""
        if not self.can_take:
            return
        try:
            self._items.append(next(self._iterator))
        except StopIteration:
            self._is_exhausted = True
        except Exception as error:  # noqa: BLE001 (the caller's own: raised by Client, after the outcomes)
            self._error = error
            self._is_exhausted = True
        if self._is_starving:
            self._is_starving = False
            loop.soon(self._has_changed.set)

    def stop(self) -> None:
        """Take nothing more."""
        self._is_exhausted = True

    def untaken(self) -> list[Any]:
        """Return, and forget, what was taken from the caller and not by Client."""
        items = list(self._items)
        self._items.clear()
        return items

    # In the loop's thread

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        while not self._items:
            self._has_changed.clear()
            self._is_starving = True
            if self._items:
                break
            if self._is_exhausted:
                error, self._error = self._error, None
                if error is not None:
                    raise error
                raise StopAsyncIteration
            self._ask()
            await self._has_changed.wait()
        self._is_starving = False
        item = self._items.popleft()
        if len(self._items) <= _ITEMS_AHEAD // 2:
            self._ask()
        return item


class SyncDeliveries:
    """What `SyncClient.send_many` returns: iterate over it for the outcomes, in order of completion.

    One job, although long: the hand-over between threads and a loop, and each attribute is what one side tells another.
    The stream begins with its block, or with the first step of the loop. Several threads may take outcomes from it.

    Args:
        client: sends them.
        messages: of the caller's.
        options: of `Client.send_many`.
    """

    def __init__(self, client: SyncClient, messages: Any, options: dict[str, Any]) -> None:
        self._client = client
        self._process = os.getpid()
        self._feed: _Feed | None = None  # None: the messages come from an asynchronous iterable
        source: Any = messages
        if isinstance(messages, Iterable) and not isinstance(
            messages, (str, bytes, bytearray, memoryview, Message, Outgoing, AsyncIterable)
        ):
            source = self._feed = _Feed(iter(messages), self._ask)
        # Which says what is wrong with the arguments, and sends nothing before it is entered.
        self._stream: AbstractAsyncContextManager[Deliveries] = client._client.send_many(source, **options)
        self._turn = threading.Lock()  # held by the consumer whose turn it is
        self._consumer: int | None = None  # that thread
        self._loop: Loop | None = None  # once it began
        self._call: Call[None] | None = None
        self._done = threading.Lock()  # free once the call is done
        #: Deliveries, _MORE and _END, from the loop to the consumer.
        self._outcomes: SimpleQueue[Any] = SimpleQueue()
        self._was_asked = False  # _MORE is among them
        self._was_told = False  # what the stream ended with was raised
        self._is_leaving = False
        self._failure: BaseException | None = None  # with what the block was left
        self._why: SMTPError | None = None  # the consumer has to be told that it was left
        self._unsent: SMTPError = ConnectionLost("not sent: the stream was left before its turn came")
        self._rest: list[Delivery] = []
        self._rest_of_loop: list[Delivery] = []
        self._scope: anyio.CancelScope | None = None  # in the loop's thread alone: around the wait for outcomes
        self._has_room = asyncio.Event()  # likewise
        self._is_full = False  # the loop waits for room

    # For the caller

    @property
    def rest(self) -> list[Delivery]:
        """After the end: the outcomes that the loop did not get. Each message read is in the loop or here, once."""
        return self._rest

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave(exc_value)

    def close(self) -> None:
        """Read no more messages, and wait for the outcomes of those under way: they are in `rest`. Idempotent."""
        self._leave(None)

    def __iter__(self) -> Iterator[Delivery]:
        return self

    def __next__(self) -> Delivery:
        """Return the next outcome.

        Raises:
            SMTPError: no connection could be opened; raised once.
            Exception: what the caller's iterable raised.
        """
        if self._process != os.getpid():
            raise LocalProtocolError("stream belongs to the process that this one was forked from: begin another one")
        if self._consumer == threading.get_ident():
            raise LocalProtocolError("messages= of send_many reads the outcomes of its own stream: read them elsewhere")
        with self._turn:
            self._consumer = threading.get_ident()
            try:
                return self._next()
            except BaseException as error:
                self._leave(None if isinstance(error, StopIteration) else error)
                raise
            finally:
                self._consumer = None

    def _next(self) -> Delivery:
        if self._call is None and self._is_leaving:
            raise StopIteration
        self._begin()
        self._take()
        while True:
            try:
                found = self._outcomes.get(block=not self._can_take)
            except Empty:
                self._take()
                continue
            if found is _MORE:
                self._was_asked = False
                self._take()
            elif found is _END:
                self._outcomes.put(_END)  # for whoever asks next
                self._end()
                raise StopIteration
            else:
                if self._is_full and self._outcomes.qsize() <= _OUTCOMES_AHEAD // 2:
                    self._is_full = False
                    self._soon(self._has_room.set)
                return cast("Delivery", found)

    @property
    def _can_take(self) -> bool:
        return self._feed is not None and not self._is_leaving and self._feed.can_take

    def _take(self) -> None:
        if self._can_take and self._feed is not None and self._loop is not None:
            self._feed.take(self._loop)

    def _soon(self, function: Callable[[], object]) -> None:
        if self._loop is not None:
            self._loop.soon(function)

    def _begin(self) -> None:
        if self._call is not None:
            return
        self._client._check()
        self._loop = self._client._known_loop()
        self._done.acquire()
        self._call = Call(self._drive, self._ended, self._leave_in_loop)
        self._client._streams.add(self)
        self._loop.hand_over(self._call)

    def _ended(self) -> None:
        self._outcomes.put(_END)
        self._done.release()

    def _end(self) -> None:
        """Raise what the stream ended with, once."""
        if self._call is None or self._was_told:
            return
        self._was_told = True
        if not self._call.is_cancelled:
            self._call.outcome()
        if self._why is not None:
            raise self._why

    # In the loop's thread

    async def _drive(self) -> None:
        deliveries: Deliveries | None = None
        try:
            async with self._stream as deliveries:
                with anyio.CancelScope() as self._scope:
                    if self._is_leaving:
                        self._scope.cancel()
                    async for delivery in deliveries:
                        self._outcomes.put(delivery)
                        if self._outcomes.qsize() >= _OUTCOMES_AHEAD:
                            await self._wait_for_room()
                if self._failure is not None:
                    raise _Left
        except _Left:
            pass
        except SMTPError as error:
            self._unsent = error
            raise
        finally:
            if deliveries is not None:
                self._rest_of_loop = list(deliveries.rest)

    async def _wait_for_room(self) -> None:
        self._has_room.clear()
        self._is_full = True
        if self._outcomes.qsize() <= _OUTCOMES_AHEAD // 2:  # the consumer was quicker
            self._is_full = False
        else:
            await self._has_room.wait()

    def _ask(self) -> None:
        if not self._was_asked:
            self._was_asked = True
            self._outcomes.put(_MORE)

    def _leave_in_loop(self) -> None:
        self._is_leaving = True
        if self._scope is not None:
            self._scope.cancel()

    # Leaving

    def _leave(self, failure: BaseException | None, *, why: SMTPError | None = None) -> None:
        """End the stream, wait for that, and see to `rest`."""
        if self._process != os.getpid():
            return  # what is under way is the parent's
        if self._feed is not None and (self._call is None or not self._call.is_done):
            self._feed.stop()
        if self._call is None or self._loop is None:
            self._is_leaving = True
            return
        if not self._call.is_done and not self._is_leaving:
            self._failure = failure
            self._why = why
            self._is_leaving = True
            self._soon(self._leave_in_loop)
        # What a signal's handler raised does not wait for long.
        is_interrupt = failure is not None and not isinstance(failure, (Exception, GeneratorExit))
        try:
            is_over = self._done.acquire(timeout=INTERRUPT_SECONDS if is_interrupt else -1)
        except BaseException:
            self._soon(self._call.cancel)
            if self._done.acquire(timeout=INTERRUPT_SECONDS):
                self._over()
            raise
        if is_over:
            self._over()

    def _over(self) -> None:
        """Make an outcome of everything that was taken and not handed out."""
        self._done.release()
        self._client._streams.discard(self)
        left: list[Delivery] = []
        while True:
            try:
                found = self._outcomes.get_nowait()
            except Empty:
                break
            if found is not _MORE and found is not _END:
                left.append(found)
        self._outcomes.put(_END)
        left += self._rest_of_loop
        self._rest_of_loop = []
        if self._feed is not None:
            left += [Delivery(item, error=copy.copy(self._unsent)) for item in self._feed.untaken()]
        self._rest += left
