"""RouteDeliveries: a stream of messages over several relays, and what became of each.

Each relay has a task that runs a stream of its own over it (`Client.send_many`), as long as there is something for it.
What such a stream returns as certainly not sent is given to a relay again; a relay that fails ends its stream, and what
was not begun there goes to another one. One more task, the conductor, places what waits when relays come and go, and
tries them again, one message at a time, when none works.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeVarTuple

import anyio
import anyio.abc

from smtplite.errors import (
    ConfigurationError,
    ConnectionLost,
    LocalProtocolError,
    MessageError,
    SMTPError,
    TLSError,
)
from smtplite.message import Prepared
from smtplite.message.content import Content
from smtplite.message.envelope import Outgoing
from smtplite.results import Delivery, Receipt
from smtplite.routes.member import MemberDeliveries, stream_of
from smtplite.routes.relays import Relay, Relays
from smtplite.routes.routed import Routed
from smtplite.routes.source import Source, prepared_of
from smtplite.routes.ways import Plan, Way, untold, was_left

__all__ = ["RouteDeliveries"]

#: Outcomes that the caller may leave unread before sending stops.
_BACKLOG: Final = 256
#: Messages that may wait for each relay: a relay that is slower than its share holds up the others from there on.
_WAITING: Final = 64
#: How long to wait before relays are tried again when none works; doubled each time.
_FIRST_PAUSE_SECONDS: Final = 0.1
_MAX_PAUSE_SECONDS: Final = 1.0

_Ts = TypeVarTuple("_Ts")


class RouteDeliveries:
    """What `Route.send_many` returns: iterate over it for the outcomes, in order of completion.

    Args:
        messages: the caller's.
        relays: where to.
        plan: how they are to be sent.
    """

    def __init__(self, messages: Iterable[Any] | AsyncIterable[Any], relays: Relays, plan: Plan) -> None:
        self._relays = relays
        self._plan = plan
        self._source = Source(messages, _WAITING, self._call)
        self._ways = [Way(self, relay) for relay in relays]
        self._parked: deque[Routed] = deque()  # those that no relay takes at present
        self._open: set[Routed] = set()  # taken, and not decided
        self._in_work = 0  # items that are being read and checked
        self._to_close: list[Prepared] = []  # whose caller's stream may still be open
        self._outcomes: deque[Delivery] = deque()
        self._rest: list[Delivery] = []
        self._is_leaving = False
        self._was_connected = False
        self._running = 0  # tasks of relays
        self._failure: Exception | None = None  # what the loop raises once nothing more can be done
        self._crash: BaseException | None = None  # what ends the block at once
        self._left: SMTPError = ConnectionLost("not sent: the block of send_many was left before its turn came")
        # Set and forgotten at a change; None: nobody waits.
        self._changed: anyio.Event | None = None  # for the caller: an outcome, or the end
        self._news: anyio.Event | None = None  # for the tasks: something may be sent, or has ended
        self._block: AbstractAsyncContextManager[None] | None = None
        self._tasks: anyio.abc.TaskGroup  # while the block runs

    # For the caller

    @property
    def rest(self) -> list[Delivery]:
        """After the block: the outcomes that the loop did not get. Each item read is in the loop or here, once."""
        return self._rest

    async def __aenter__(self) -> Self:
        if self._block is not None:
            raise LocalProtocolError("this stream has already begun: call send_many again")
        self._block = self._run()
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
                "nothing is sent yet: write `async with route.send_many(...) as deliveries:`, "
                "and in that block `async for delivery in deliveries:`"
            )
        return self

    async def __anext__(self) -> Delivery:
        """Return the next outcome. Several tasks may ask; each outcome goes to one of them.

        Raises:
            SMTPError: no relay works; raised once.
            Exception: what the caller's iterable raised.
        """
        while not self._outcomes:
            if not self._running:
                failure = self._failure or self._source.failure
                self._failure = self._source.failure = None
                if failure is not None:
                    raise failure
                raise StopAsyncIteration
            await self._wait_for_outcome()
        outcome = self._outcomes.popleft()
        if len(self._outcomes) == _BACKLOG // 2:
            self._call()
        return outcome

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        failure: BaseException | None = None
        self._relays.listen(self._call)
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                self._running = len(self._ways)
                self._start(self._conduct)
                for way in self._ways:
                    self._start(self._serve, way)
                if self._source.must_be_fetched:
                    self._start(self._source.fetch)
                try:
                    yield
                except anyio.get_cancelled_exc_class():
                    self._is_leaving = True
                    raise  # the task group's affair, too
                except BaseException as error:  # noqa: BLE001 (goes on as itself, never in an ExceptionGroup)
                    failure = error
                    self._is_leaving = True
                else:
                    self._is_leaving = True
                    self._call()
                    while self._running:  # each relay's stream has its own limit
                        await self._wait_for_outcome()
                tasks.cancel_scope.cancel()
        finally:
            self._is_leaving = True
            self._relays.unlisten(self._call)
            self._collect()
            if self._to_close:
                with anyio.move_on_after(self._plan.drain, shield=True):  # a stream of the caller's may hang
                    await self._close_streams()
        if self._crash is not None:
            raise self._crash
        if failure is not None:
            raise failure

    def _start(self, function: Callable[[*_Ts], Awaitable[None]], *arguments: *_Ts) -> None:
        """Run this beside the caller, for as long as the block lasts."""

        async def run() -> None:
            try:
                await function(*arguments)
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # noqa: BLE001 (leaves the block as itself, never in an ExceptionGroup)
                self._crash = self._crash or error
                self._is_leaving = True
                self._tasks.cancel_scope.cancel()

        self._tasks.start_soon(run)

    async def _wait_for_outcome(self) -> None:
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()

    async def _wait(self) -> None:
        """Wait until something may be sent, or has ended."""
        if self._news is None:
            self._news = anyio.Event()
        await self._news.wait()

    def _call(self) -> None:
        """Wake all who wait."""
        news, self._news = self._news, None
        if news is not None:
            news.set()
        self._wake_caller()

    def _wake_caller(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()

    def _collect(self) -> None:
        """Make an outcome of everything that was taken."""
        for way in self._ways:
            for routed in way.given.values():  # its stream said nothing of it
                if routed.has_begun_here:
                    self._relays.note(routed, way.relay, untold(routed))
                self._decide(routed, self._left)
            way.given.clear()
            for routed in way.waiting:
                self._take_back_probe(routed, way)
            way.waiting.clear()
        for routed in list(self._open):
            self._decide(routed, self._left)
        for item in self._source.untaken:
            self._outcomes.append(Delivery(item, error=copy.copy(self._left)))
        self._rest = list(self._outcomes)
        self._outcomes.clear()
        self._call()

    @staticmethod
    def _take_back_probe(routed: Routed, way: Way) -> None:
        if routed.is_probe:
            routed.is_probe = False
            way.relay.breaker.give_back()

    @property
    def _is_over(self) -> bool:
        """True if there is nothing to send any more."""
        return self._is_leaving or (self._source.is_exhausted and not self._open and not self._in_work)

    # Messages

    async def next_for(self, way: Way) -> Routed | None:
        """Return what a relay is to send next; None: nothing more, for now."""
        breaker = way.relay.breaker
        while not self._is_over and breaker.state != "open":
            if way.waiting and (breaker.state == "closed" or way.waiting[0].is_probe):
                return way.waiting.popleft()
            if breaker.state != "closed" or not await self._take_one(way.relay):
                await self._wait()
        return None

    @property
    def _may_take(self) -> bool:
        if self._source.is_exhausted or len(self._outcomes) >= _BACKLOG:
            return False
        return self._in_work + sum(len(way.waiting) for way in self._ways) < _WAITING * len(self._ways)

    async def _take_one(self, asking: Relay | None = None) -> bool:
        """Take an item from the caller, and place it; return False if there is none now."""
        if not self._may_take:
            return False
        found, item = self._source.next()
        if not found:
            return False
        message = item.message if isinstance(item, Outgoing) else item
        if isinstance(message, Content):  # may be read only once: no relay's end may break that off
            self._in_work += 1
            self._start(self._take_slowly, item)
        else:
            self._in_work += 1
            try:
                await self._prepare(item, asking)
            except anyio.get_cancelled_exc_class():
                self._source.put_back(item)
                raise
            finally:
                self._in_work -= 1
        return True

    async def _take_slowly(self, item: Any) -> None:
        try:
            await self._prepare(item)
        except anyio.get_cancelled_exc_class():
            self._source.put_back(item)
            raise
        finally:
            self._in_work -= 1
            self._call()

    async def _prepare(self, item: Any, asking: Relay | None = None) -> None:
        """Read and check an item, and place it. One that cannot be sent is decided at once."""
        try:
            prepared = await prepared_of(item)
        except SMTPError as error:
            self._add(Delivery(item, error=error))
        except Exception as error:  # noqa: BLE001 (an object that is no message, or what its stream raised)
            unread = MessageError(f"message cannot be read: {error!r}")
            unread.__cause__ = error
            self._add(Delivery(item, error=unread))
        else:
            routed = self._relays.routed(prepared, require_all=self._plan.require_all, item=item)
            self._open.add(routed)
            self._place(routed, asking)

    def _place(self, routed: Routed, asking: Relay | None = None) -> None:
        """Find the relay for a message; if there is none at present, have it wait; if there is none at all, decide.

        Args:
            routed: the message.
            asking: who looks for it by itself.
        """
        relays = self._relays
        relay = relays.next(routed)
        if relay is None and not relays.are_all_out:
            relay = relays.next(routed, is_forced=True)
        if relay is not None:
            self._ways[relay.index].waiting.append(routed)
            if relay is not asking:
                self._call()
        elif any(relays.candidates(routed)) or (relays.are_all_out and (routed.is_hopeful or not routed.hops)):
            self._parked.append(routed)
            self._call()
        else:
            self._decide(routed)

    def begins(self, several: list[Routed]) -> None:
        """Tell the caller whose first bytes are about to be written, for the first time."""
        new = [routed.item for routed in several if not routed.has_begun]
        for routed in several:
            routed.has_begun = routed.has_begun_here = True
        if new and self._plan.on_begin is not None:
            try:
                self._plan.on_begin(new)
            except BaseException as error:
                self._fail(error)
                raise

    # Outcomes

    def _note(self, way: Way, delivery: Delivery) -> None:
        """Take in what a member said of a message."""
        routed = way.given.pop(delivery.item, None)  # type: ignore[arg-type]  # as all that it was given
        if routed is None:  # told twice
            return
        result = delivery.receipt or delivery.error or untold(routed)
        if isinstance(result, Receipt) or routed.has_begun_here:
            self._was_connected = True
        self._relays.note(routed, way.relay, result)
        routed.has_begun_here = False
        self._go_on(routed)

    def _go_on(self, routed: Routed) -> None:
        if routed.left and not self._is_leaving:
            self._place(routed)
        else:
            self._decide(routed)

    def _note_rest(self, way: Way, deliveries: MemberDeliveries, failure: SMTPError | None) -> None:
        """Take in what a stream left when it ended: by its own failure, or because we left it."""
        for delivery in deliveries.rest:
            routed = way.given.get(delivery.item)  # type: ignore[arg-type]  # as above
            if routed is None:
                continue
            if failure is None and was_left(delivery, routed):
                del way.given[delivery.item]  # type: ignore[arg-type]  # as above
                routed.has_begun_here = False
                self._take_back_probe(routed, way)
                self._go_on_untouched(routed)
            else:
                self._note(way, delivery)

    def _go_on_untouched(self, routed: Routed) -> None:
        if self._is_leaving:
            self._decide(routed, self._left)
        else:
            self._place(routed)

    def _decide(self, routed: Routed, error: SMTPError | None = None) -> None:
        self._open.discard(routed)
        if routed.prepared.reader is not None:
            self._to_close.append(routed.prepared)
        try:
            receipt = routed.result(error)
        except SMTPError as failure:
            self._add(Delivery(routed.item, error=failure))
        else:
            self._add(Delivery(routed.item, receipt))

    def _add(self, outcome: Delivery) -> None:
        self._outcomes.append(outcome)
        if self._is_over:
            self._call()
        else:
            self._wake_caller()

    async def _close_streams(self) -> None:
        while self._to_close:
            await self._to_close.pop().aclose()

    # Relays

    async def _serve(self, way: Way) -> None:
        """Run streams over one relay, whenever there is something for it."""
        try:
            while not self._is_over:
                if way.waiting or self._is_wanted(way.relay):
                    await self._stream(way)
                else:
                    await self._wait()
        finally:
            self._running -= 1
            self._call()

    def _is_wanted(self, relay: Relay) -> bool:
        """Return True if a stream over the relay should ask for items."""
        if relay.breaker.state != "closed" or not self._may_take:
            return False
        return not self._relays.is_fixed or self._relays.first is relay

    async def _stream(self, way: Way) -> None:
        """Run one stream, until there is nothing for it, or the relay fails."""
        relay, plan = way.relay, self._plan
        way.was_tried = True
        deliveries: MemberDeliveries | None = None
        failure: Exception | None = None
        try:
            async with stream_of(
                relay.member,
                way,
                connections=plan.connections,
                in_flight=plan.in_flight,
                require_all=plan.require_all,
                timeout=plan.timeout,
                drain=plan.drain,
                on_begin=way.begins,
            ) as deliveries:
                async for delivery in deliveries:
                    self._note(way, delivery)
                    while len(self._outcomes) >= _BACKLOG and not self._is_leaving:
                        await self._wait()
                    if self._is_leaving or relay.breaker.state == "open":
                        break
        except Exception as error:  # noqa: BLE001 (no connection: an SMTPError; or the caller's own)
            failure = error
        finally:
            trouble = self._trouble(way, failure)
            if deliveries is not None:
                self._note_rest(way, deliveries, trouble)
            self._call()

    def _trouble(self, way: Way, failure: Exception | None) -> SMTPError | None:
        """Say what a stream's failure means: the relay's trouble, or the end of everything."""
        if failure is None or self._failure is not None or self._is_leaving:
            return None
        if not isinstance(failure, SMTPError) or isinstance(failure, (LocalProtocolError, ConfigurationError)):
            self._fail(failure)
            return None
        breaker = way.relay.breaker
        is_probe = any(routed.is_probe for routed in way.given.values())
        breaker.note_failure(failure, is_probe=is_probe or breaker.state == "half-open", is_certain=True)
        for routed in way.given.values():
            routed.is_probe = False
        if isinstance(failure, TLSError) and not self._relays.has_as_safe(way.relay):
            self._fail(failure)  # nothing that would have gone there may go anywhere
        return failure

    def _fail(self, failure: BaseException) -> None:
        """Give up: nothing more can be sent."""
        if self._failure is None and isinstance(failure, Exception):
            self._failure = failure
            if isinstance(failure, SMTPError):
                self._left = failure
        self._is_leaving = True
        self._call()

    async def _conduct(self) -> None:
        """Place what waits when relays come and go; try them again when none works."""
        since: float | None = None
        pause = _FIRST_PAUSE_SECONDS
        while not self._is_over:
            await self._close_streams()
            self._place_anew()
            states = [relay.breaker.state for relay in self._relays]
            if "closed" in states:
                since, pause = None, _FIRST_PAUSE_SECONDS
            elif "half-open" not in states and self._has_work:
                now = anyio.current_time()
                since = now if since is None else since
                were_all_tried = all(way.was_tried for way in self._ways)
                is_vain = were_all_tried and not self._was_connected
                if self._parked and (is_vain or now - since >= self._plan.reconnect):
                    self._fail(self._no_relay())
                    break
                if were_all_tried:
                    await anyio.sleep(pause)
                    pause = min(pause * 2, _MAX_PAUSE_SECONDS)
                if await self._try_again():
                    continue
            await self._wait()

    @property
    def _has_work(self) -> bool:
        return bool(self._open) or not self._source.is_exhausted

    def _place_anew(self) -> None:
        """Place what waits for a relay that was given up, and what waits for any as soon as there is one."""
        homeless: list[Routed] = []
        for way in self._ways:
            if way.relay.breaker.state == "open":
                homeless += way.waiting
                way.waiting.clear()
        if not self._relays.are_all_out:
            homeless += self._parked
            self._parked.clear()
        for routed in homeless:
            self._place(routed)

    async def _try_again(self) -> bool:
        """Let one message try one relay, while none works: the one that was left alone for longest."""
        if not self._parked and not (await self._take_one() and self._parked):
            return False
        ways = sorted(self._ways, key=lambda way: (way.was_tried, way.relay.breaker.retry_in or 0.0))
        for way in ways:
            breaker = way.relay.breaker
            for routed in self._parked:
                if way.relay.rank < routed.least_rank or breaker.state != "open":
                    continue
                self._parked.remove(routed)
                breaker.enter(is_forced=True)
                routed.forget_try(way.relay.index)
                routed.is_probe = True
                way.waiting.append(routed)
                self._call()
                return True
        return False

    def _no_relay(self) -> SMTPError:
        """Return why no relay works: what may pass rather than what will not."""
        errors = [relay.breaker.error for relay in self._relays if relay.breaker.error is not None]
        told = next((error for error in errors if error.retryable), errors[0] if errors else self._left)
        another = copy.copy(told)
        another.__cause__ = told.__cause__
        another.__notes__ = [f"{relay.name}: {relay.breaker.error}" for relay in self._relays]
        return another
