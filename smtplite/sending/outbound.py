"""Outbound: one message on its way, from the caller to its outcome, over as many connections as that takes.

It is the core's `Submission`, with its content, the caller's item, and what is said of it at the end. Whether a message
is sent again is decided here, by `goes_on`, and nowhere else.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from smtplite.errors import ConnectionLost, SMTPError
from smtplite.message.content import Body
from smtplite.message.prepared import Prepared
from smtplite.message.threads import in_thread
from smtplite.protocol.outcomes import Outcome
from smtplite.protocol.reply import Reply
from smtplite.protocol.submission import Submission
from smtplite.results import Receipt
from smtplite.trace import MessageFinished, Tracer, logger

if TYPE_CHECKING:
    from smtplite.sending.session import Session

__all__ = ["Outbound", "Queue"]

#: Connections that end before MAIL was written count for nothing, but somebody must stop.
_MAX_VAIN_CONNECTIONS: Final = 2
_ACCEPTED: Final = Outcome.ACCEPTED


class Outbound(Submission):
    """What a message sends, how far it came, and what is said of it at the end.

    Args:
        prepared: the message, read and checked.
        tracer: is told the outcome.
        item: what the caller gave.
        require_all: send to nobody unless every recipient is accepted.
        in_stream: whether it is one of many on its connections, any of which may end at any message (rule R11 b).
        timeout: seconds from its first octet to its verdict; None: no limit of its own.
    """

    #: The content as the session's server takes it: there once `fit_to` was called.
    fitted_body: Body

    # What most messages never change stands here, and not in each of them.

    #: What reading the content raised.
    failure: Exception | None = None
    #: The time, on the event loop's clock, by which it must be done: what follows from `timeout` once it began.
    limit = math.inf
    #: True once its first octet was about to be written, on whatever connection.
    has_begun = False
    #: True once the MAIL of the transaction under way was given to the stream: until then it was no try.
    was_written = False
    #: The time (`time.monotonic`) at which it was cut off unsent; only connections opened later will do.
    cut_at = -math.inf
    #: True while it waits for such a connection.
    is_cut = False
    _session: Session | None = None
    _was_resent = False
    _vain = 0  # connections that ended before its MAIL was written

    def __init__(
        self,
        prepared: Prepared,
        tracer: Tracer,
        *,
        item: Any = None,
        require_all: bool = False,
        in_stream: bool = False,
        timeout: float | None = None,
    ) -> None:
        super().__init__(len(prepared.forward_paths), require_all=require_all, is_repeatable=prepared.is_repeatable)
        self.prepared = prepared
        self.item = item
        self.timeout = timeout
        self._tracer = tracer
        self._in_stream = in_stream

    @property
    def was_tried(self) -> bool:
        """True once a connection was not enough for it: the next must be a fresh one."""
        return self._was_resent or self._vain > 0 or self.transactions > 0

    def fit_to(self, session: Session) -> None:
        """Fit it to what this session's server can take.

        Raises:
            ExtensionRequired: it cannot; nothing was sent.
        """
        prepared, extensions = self.prepared, session.extensions
        if prepared.is_plain:
            self.fitted_body = prepared.plain_body
            self.fit_envelope(prepared.plain_envelope(extensions), len(prepared.content))
        else:
            mail, rcpts, body = prepared.for_server(
                extensions, is_tls=session.is_verified, binary_ok=session.window.may_chunk
            )
            self.fitted_body = body
            self.fit(mail, rcpts, body.size, is_binary=body.is_binary)
        self._session = session
        self.is_cut = False

    def flattens_anew(self, session: Session) -> bool:
        """Return True if `fit_to` would keep the event loop from others: await `narrow` before."""
        return self.prepared.flattens_anew(session.extensions)

    async def narrow(self) -> None:
        """Make the 7-bit form of a large message, in a worker thread."""
        await in_thread(self.prepared.narrow)

    def goes_on(self) -> bool:
        """Decide, once a transaction of it is done, whether another one is to come.

        That is so for recipients who were too many for one transaction, and in the three cases of rule R11 for what is
        certainly not sent: at most once in all, on another connection.
        """
        if not self.is_done:
            return True
        if self._is_accepted or not self._may_be_resent:
            return False
        if self.was_written:
            self._was_resent = True
        else:
            self._vain += 1
        self.was_written = False
        self.cut_at, self.is_cut = time.monotonic(), True
        self.reopen()
        if not self.transactions:  # a try that counts for nothing: what comes now decides
            self._session = None
        return True

    @property
    def _is_accepted(self) -> bool:
        """True if the server took it for everybody: nothing is left to be decided."""
        for outcome in self._outcomes:  # noqa: SIM110 (all() takes three times as long)
            if outcome.outcome is not _ACCEPTED:
                return False
        return True

    @property
    def _may_be_resent(self) -> bool:
        session = self._session
        if self._vain > _MAX_VAIN_CONNECTIONS:
            return False
        if self._was_resent or not self.is_repeatable or self.failure is not None or session is None:
            return False
        transaction = self.transaction
        if transaction.refuses_chunks:
            return all(outcome.outcome in (Outcome.NOT_SENT, Outcome.REFUSED) for outcome in transaction.outcomes)
        if self._in_stream:
            return transaction.was_cut
        return session.is_reused and self.transactions == 1 and transaction.died_idle

    # What is said of it

    def result(self, error: SMTPError | None = None) -> Receipt:
        """Return the receipt, or raise what there is to raise.

        Args:
            error: what kept it from going on, if anything did; of no interest if somebody was delivered.
        """
        session, outcomes = self._session, self._outcomes
        prepared = self.prepared
        is_accepted = self.went_as_usual or self._is_accepted
        if session is None or not (is_accepted or any(decided.outcome is _ACCEPTED for decided in outcomes)):
            if self.failure is not None and not isinstance(self.failure, SMTPError):
                self._say(None)
                raise self.failure
            failure = self.error or self.failure or error or ConnectionLost("not sent: its turn never came")
            self._say(self.completed(failure))
            raise failure from failure.__cause__
        sets: dict[str, Any] = {"accepted": prepared.recipients, "refused": {}} if is_accepted else self._sets()
        receipt = Receipt(
            **sets,
            reply=self.reply,
            replies=self._replies(),
            message_id=prepared.message_id,
            server=session.extensions.server_name,
            tls=session.tls_version,
        )
        self._say(None)
        return receipt

    def completed(self, error: SMTPError) -> SMTPError:
        """Complete an error: the four sets of recipients, and the transcript."""
        for name, value in self._sets().items():
            setattr(error, name, value)
        error.message_id = self.prepared.message_id
        if self._session is not None and not error.transcript:
            error.transcript = self._session.transcript
        if error.reply is None and self.transactions:
            error.reply = self.reply
        return error

    def was_cancelled(self) -> None:
        """Say what became of a message whose `send` was cancelled, to those who can still hear it."""
        self._say(None)
        unknown = self._sets()["unknown"]
        if unknown:
            logger.warning(
                "send was cancelled after message %s was handed over: delivery unknown for %s",
                self.prepared.message_id,
                ", ".join(unknown),
            )

    def _sets(self) -> dict[str, Any]:
        """Return the four sets of recipients, as they were given: keyword arguments of a Receipt, or of an error."""
        prepared, outcomes = self.prepared, self._outcomes
        if self._is_accepted:
            return {"accepted": prepared.recipients, "refused": {}, "unknown": (), "not_sent": ()}
        by_outcome: dict[Outcome, list[str]] = {outcome: [] for outcome in Outcome}
        refused: dict[str, Reply] = {}
        for address, position in zip(prepared.recipients, prepared.positions, strict=True):
            decided = outcomes[position]
            if decided.outcome is Outcome.REFUSED and decided.reply is not None:
                refused[address] = decided.reply
            else:
                by_outcome[decided.outcome].append(address)
        return {
            "accepted": tuple(by_outcome[Outcome.ACCEPTED]),
            "refused": refused,
            "unknown": tuple(by_outcome[Outcome.UNKNOWN]),
            "not_sent": tuple(by_outcome[Outcome.NOT_SENT]),
        }

    def _replies(self) -> dict[str, Reply]:
        """Return recipient -> the last reply about it."""
        if self._usual is not None:
            return dict.fromkeys(self.prepared.recipients, self._usual[1][-1])
        outcomes = self._outcomes
        replies: dict[str, Reply] = {}
        for address, position in zip(self.prepared.recipients, self.prepared.positions, strict=True):
            reply = outcomes[position].reply
            if reply is not None:
                replies[address] = reply
        return replies

    def _say(self, error: SMTPError | None) -> None:
        if self._tracer.is_on:
            self._tracer(
                MessageFinished(
                    connection=None if self._session is None else self._session.number,
                    message_id=self.prepared.message_id,
                    error=error,
                    **self._sets(),
                )
            )


class Queue(Protocol):
    """Where a session gets what it sends, and reports to. Nothing here waits."""

    def take(self) -> Outbound | None:
        """Return a message that comes next, fitted to the session's server; None: there is none now."""

    def put_back(self, outbound: Outbound) -> None:
        """Take back a message for which there is no room yet."""

    def begins(self, outbounds: list[Outbound]) -> None:
        """Take note that the first octets of these messages are about to be written, in one flight.

        What this raises ends the session, with nothing of that flight written.
        """

    def finished(self, outbound: Outbound) -> None:
        """Take note that a transaction of this message is done; unless it `is_done`, another one is to come."""
