"""Member: what a route is made of. A Client is one; a transport over an HTTP API can be another."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import Any, Final, Protocol, Self, runtime_checkable

import anyio
import anyio.abc

from smtplite.errors import ConnectionLost, DeliveryUnknown, SMTPError
from smtplite.message import Prepared
from smtplite.results import Delivery, Receipt
from smtplite.types import Security

__all__ = ["Member", "MemberDeliveries", "SendEach", "StreamingMember", "stream_of"]

#: How many messages of a stream a member without `send_many` is given at the same time.
_AT_ONCE: Final = 4


@runtime_checkable
class Member(Protocol):
    """One relay of a route: anything that can send a message, and say truly what became of it.

    A `smtplite.Client` is one. To write your own: `send` returns a Receipt if the message was accepted for anyone, and
    raises an `SMTPError` otherwise, with each recipient in exactly one of its four sets. If nobody can know whether it
    was accepted, for example because an answer never came, raise `DeliveryUnknown` with the recipients in `unknown`:
    such a message never goes to another relay. `ConnectError`, `ConnectionLost` and `SMTPTimeout`, with the recipients
    in `not_sent`, say that it was certainly not accepted: it goes to another relay.
    """

    @property
    def server(self) -> str:
        """Its name for display: in logs, events and `Hop.relay`."""

    @property
    def security(self) -> Security:
        """How safe the way to it is: "verified", "encrypted" or "clear"; see `Client.security`."""

    async def send(
        self,
        message: Prepared,
        *,
        require_all: bool = False,
        timeout: float | None = None,
        ready_within: float | None = None,
    ) -> Receipt:
        """Send one message, and return what became of it for each recipient.

        Args:
            message: has `sender`, `recipients` and `message_id`; ``await message.read()`` returns its content.
            require_all: send to nobody unless every recipient is accepted.
            timeout: seconds for the whole call; None: as long as it takes.
            ready_within: how many of these seconds may pass until it begins; after that the message goes elsewhere.

        Raises:
            SMTPError: it was accepted for nobody, or nobody can know.
        """

    async def check(self) -> object:
        """Say whether it can be used; what is returned is shown by `Route.check`.

        Raises:
            SMTPError: it cannot.
        """

    async def aclose(self) -> None:
        """Close its connections; nothing can be sent after that."""


class MemberDeliveries(Protocol):
    """What a member's `send_many` returns: it is like `smtplite.Deliveries`."""

    @property
    def rest(self) -> list[Delivery]:
        """After the block: what the loop did not hand out. Each message taken is in the loop or here, once."""

    def __aiter__(self) -> AsyncIterator[Delivery]: ...


@runtime_checkable
class StreamingMember(Member, Protocol):
    """A member with its own `send_many`, as Client has. To others, messages are given by `send`, a few at a time."""

    def send_many(
        self,
        messages: AsyncIterable[Prepared],
        *,
        connections: int | None = None,
        in_flight: int = 32,
        require_all: bool = False,
        timeout: float | None = None,
        drain: float = 30.0,
        reconnect: float = 30.0,
        on_begin: Callable[[list[Any]], None] | None = None,
    ) -> AbstractAsyncContextManager[MemberDeliveries]:
        """See `Client.send_many`; the items of its deliveries are those of `messages`."""


def stream_of(
    member: Member,
    messages: AsyncIterable[Prepared],
    *,
    connections: int | None,
    in_flight: int,
    require_all: bool,
    timeout: float | None,
    drain: float,
    on_begin: Callable[[list[Any]], None],
) -> AbstractAsyncContextManager[MemberDeliveries]:
    """Return a stream over one member, which gives up as soon as it has no connection."""
    if isinstance(member, StreamingMember):
        return member.send_many(
            messages,
            connections=connections,
            in_flight=in_flight,
            require_all=require_all,
            timeout=timeout,
            drain=drain,
            reconnect=0.0,
            on_begin=on_begin,
        )
    send = partial(member.send, require_all=require_all, timeout=timeout)
    return SendEach(send, messages, connections or _AT_ONCE, drain, on_begin)


class SendEach:
    """A stream for a member that has none of its own: so many calls of `send` at the same time.

    Args:
        send: the member's.
        messages: read lazily.
        at_once: how many calls.
        drain: seconds to wait for outcomes when the block is left early.
        on_begin: called before each call, with its message.
    """

    def __init__(
        self,
        send: Callable[[Prepared], Any],
        messages: AsyncIterable[Prepared],
        at_once: int,
        drain: float,
        on_begin: Callable[[list[Any]], None],
    ) -> None:
        self._send = send
        self._messages = aiter(messages)
        self._at_once = at_once
        self._drain = drain
        self._on_begin = on_begin
        self._tasks: anyio.abc.TaskGroup
        self._taking = anyio.CancelScope()
        self._outcomes: deque[Delivery] = deque()
        self._changed = anyio.Event()
        self._working = 0
        self._turn = anyio.Lock()  # one at a time asks for a message
        self._failure: BaseException | None = None
        self._is_leaving = False
        #: After the block: what the loop did not hand out.
        self.rest: list[Delivery] = []

    async def __aenter__(self) -> Self:
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._working = self._at_once
        for _ in range(self._at_once):
            self._tasks.start_soon(self._work)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_leaving = True
        try:
            if exc_type is None:
                with anyio.move_on_after(self._drain):
                    while self._working:
                        await self._wait()
        finally:
            self._tasks.cancel_scope.cancel()
            await self._tasks.__aexit__(None, None, None)
            self.rest = list(self._outcomes)

    def __aiter__(self) -> AsyncIterator[Delivery]:
        return self

    async def __anext__(self) -> Delivery:
        while not self._outcomes:
            if not self._working:
                failure, self._failure = self._failure, None
                if failure is not None:
                    raise failure
                raise StopAsyncIteration
            await self._wait()
        return self._outcomes.popleft()

    async def _wait(self) -> None:
        if self._changed.is_set():
            self._changed = anyio.Event()
        await self._changed.wait()

    async def _work(self) -> None:
        try:
            while not (self._is_leaving or self._failure is not None):
                try:
                    async with self._turn:
                        message = await anext(self._messages)
                except StopAsyncIteration:
                    return
                await self._send_one(message)
        finally:
            self._working -= 1
            self._changed.set()

    async def _send_one(self, message: Prepared) -> None:
        lost = ConnectionLost("not sent: the block of send_many was left before its turn came")
        lost.not_sent = message.recipients
        delivery = Delivery(message, error=lost)
        try:
            self._on_begin([message])
            delivery = Delivery(message, error=_unknown(message))  # until it says otherwise
            delivery = Delivery(message, await self._send(message))
        except SMTPError as error:
            delivery = Delivery(message, error=error)
        except anyio.get_cancelled_exc_class():
            raise
        except Exception as error:  # noqa: BLE001 (raised by the loop: the caller's own, or a member that is broken)
            self._failure = error
        finally:
            self._outcomes.append(delivery)
            self._changed.set()


def _unknown(message: Prepared) -> SMTPError:
    return DeliveryUnknown("the call was ended before the relay said what it did", unknown=message.recipients)
