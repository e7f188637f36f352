"""`send`: one message, over sessions of the pool, or over one of the caller's, until its outcome is decided."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio

from smtplite.callbacks import pass_through
from smtplite.errors import SMTPError
from smtplite.message.envelope import AnyMessage
from smtplite.message.prepared import Prepared, is_large, prepare
from smtplite.message.threads import in_thread
from smtplite.options import Options
from smtplite.results import Receipt
from smtplite.sending.deadline import Deadline
from smtplite.sending.outbound import Outbound
from smtplite.sending.pool import Pool
from smtplite.sending.session import Session
from smtplite.trace import Tracer

__all__ = ["deliver", "deliver_here", "send_one"]


async def send_one(
    message: AnyMessage | Prepared,
    envelope: dict[str, Any],
    carry: Callable[[Outbound, Deadline], Awaitable[None]],
    *,
    options: Options,
    tracer: Tracer,
    deadline: Deadline,
    require_all: bool,
) -> Receipt:
    """Read and check a message, carry it, and say what became of it.

    Args:
        message: what `Client.send` takes.
        envelope: its sender, recipients, envelope, by these names.
        carry: `deliver`, or `deliver_here`.
        options: the client's.
        tracer: the client's.
        deadline: of the whole call.
        require_all: send to nobody unless every recipient is accepted.

    Raises:
        SMTPError: nobody was certainly delivered.
    """
    ready = partial(prepare, message, **envelope, sign=options.sign)
    outbound: Outbound | None = None
    error: SMTPError | None = None
    try:
        with deadline.scope:
            # Read and checked before anything is sent; in a worker thread where the event loop would stand still.
            prepared = await in_thread(ready, abandon_on_cancel=True) if is_large(message) else ready()
            outbound = Outbound(prepared, tracer, require_all=require_all)
            await prepared.check()
            if options.rate_limit is not None:
                deadline.arm(math.inf, "", "rate limit")
                await pass_through(options.rate_limit)
            await carry(outbound, deadline)
    except SMTPError as raised:
        error = raised
    except BaseException:
        if outbound is not None:
            outbound.was_cancelled()
        raise
    finally:
        if outbound is not None and outbound.prepared.reader is not None:
            with anyio.move_on_after(options.timeouts.quit, shield=True):  # a stream of the caller's may hang
                await outbound.prepared.aclose()
    if error is None and deadline.has_expired:
        error = deadline.error()
    if outbound is None:
        raise error or deadline.error()
    return outbound.result(error)


async def deliver(outbound: Outbound, deadline: Deadline, *, pool: Pool, ready_at: float = math.inf) -> None:
    """Send the message over one session after another until it is done; `Outbound.result` says what became of it.

    Args:
        outbound: the message.
        deadline: of the whole call.
        pool: lends sessions.
        ready_at: the time, on the event loop's clock, by which a session must be ready.

    Raises:
        SMTPError: no session can be had, or its server cannot take the message.
    """
    while not outbound.is_done:
        deadline.session_limit = ready_at
        session = await pool.acquire(deadline, fresh=outbound.was_tried)
        if ready_at < math.inf:
            deadline.lift_session_limit()
        try:
            await deliver_here(outbound, deadline, session=session)
        finally:
            await pool.release(session)


async def deliver_here(outbound: Outbound, deadline: Deadline, *, session: Session) -> None:
    """Send the message over this session, as far as it comes; `Outbound.result` says how far that was.

    Raises:
        SMTPError: the server cannot take the message.
    """
    if outbound.flattens_anew(session):
        await outbound.narrow()
    outbound.fit_to(session)
    await session.run(_Alone(outbound), deadline)


class _Alone:
    """The queue of a session that sends one message."""

    def __init__(self, outbound: Outbound) -> None:
        self._next: Outbound | None = outbound

    def take(self) -> Outbound | None:
        """Return the message, unless it is under way or done."""
        outbound, self._next = self._next, None
        return outbound

    def put_back(self, outbound: Outbound) -> None:
        """Take the message back."""
        self._next = outbound

    def begins(self, outbounds: list[Outbound]) -> None:
        """Nobody is to know."""

    def finished(self, outbound: Outbound) -> None:
        """Keep the message for another transaction, if one is to come here: what is sent again goes elsewhere."""
        if not outbound.is_done:
            self._next = outbound
        else:
            outbound.goes_on()
