"""`send`: one message, over sessions of the pool until its outcome is decided."""

from __future__ import annotations

import math

from smtplite.sending.deadline import Deadline
from smtplite.sending.outbound import Outbound
from smtplite.sending.pool import Pool

__all__ = ["deliver"]


async def deliver(outbound: Outbound, pool: Pool, deadline: Deadline, *, ready_at: float = math.inf) -> None:
    """Send the message over one session after another until it is done; `Outbound.result` says what became of it.

    Args:
        outbound: the message.
        pool: lends sessions.
        deadline: of the whole call.
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
            if outbound.flattens_anew(session):
                await outbound.narrow()
            outbound.fit_to(session)
            await session.run(_Alone(outbound), deadline)
        finally:
            await pool.release(session)


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
