"""Consignment: one message on its way from the caller to its outcome, over as many connections as that takes."""

from __future__ import annotations

from smtplite.errors import SMTPError
from smtplite.message.content import in_thread
from smtplite.message.prepared import Prepared
from smtplite.protocol.transaction import Outcome
from smtplite.results import Receipt
from smtplite.sending.session import Parcel, Session
from smtplite.trace import MessageFinished, Tracer, logger

__all__ = ["Consignment", "Single"]


class Consignment(Parcel):
    """What a message sends, how far it came, and what is said of it at the end.

    Args:
        prepared: the message, read and checked.
        tracer: is told the outcome.
        require_all: send to nobody unless every recipient is accepted.
        in_stream: whether it is one of many on its connections, any of which may end at any message (rule R11 b).
    """

    def __init__(
        self, prepared: Prepared, tracer: Tracer, *, require_all: bool = False, in_stream: bool = False
    ) -> None:
        super().__init__(len(prepared.forward_paths), require_all=require_all, is_repeatable=prepared.is_repeatable)
        self._prepared = prepared
        self._tracer = tracer
        self._in_stream = in_stream
        self._session: Session | None = None
        self._was_resent = False

    @property
    def was_tried(self) -> bool:
        """True once a connection was not enough for it: the next must be a fresh one."""
        return self._was_resent or self.transactions > 0

    def fit_to(self, session: Session) -> None:
        """Fit it to what this session's server can take.

        Raises:
            ExtensionRequired: it cannot; nothing was sent.
        """
        mail, rcpts, body = self._prepared.for_server(
            session.extensions, is_tls=session.is_verified, binary_ok=session.window.may_chunk
        )
        self.body = body
        self.fit(mail, rcpts, body.size, is_binary=body.is_binary)
        self._session = session

    def flattens_anew(self, session: Session) -> bool:
        """Return True if `fit_to` would keep the event loop from others: await `narrow` before."""
        return self._prepared.flattens_anew(session.extensions)

    async def narrow(self) -> None:
        """Make the 7-bit form of a large message, in a worker thread."""
        await in_thread(self._prepared.narrow)

    def goes_on(self) -> bool:
        """Decide, once a transaction of it is done, whether another one is to come."""
        if not self.is_done:
            return True  # recipients that were too many for one
        if not self._may_be_resent:
            return False
        self._was_resent = True
        self.reopen()
        if not self.transactions:  # a try that counts for nothing: what comes now decides
            self._session = None
        return True

    @property
    def _may_be_resent(self) -> bool:
        """True in the three cases of rule R11; at most once in all."""
        if self._was_resent or not self.is_repeatable or self.failure is not None:
            return False
        transaction, session = self.transaction, self._session
        assert session is not None
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
        session, outcomes = self._session, self.outcomes
        if not any(outcome.outcome is Outcome.ACCEPTED for outcome in outcomes):
            if self.failure is not None and not isinstance(self.failure, SMTPError):
                self._say(None)
                raise self.failure
            failure = self.error or self.failure or error
            assert isinstance(failure, SMTPError)
            self._say(self.completed(failure))
            raise failure from failure.__cause__
        assert session is not None
        receipt = Receipt(
            **self._prepared.sets(outcomes),
            reply=self.transaction.reply,
            replies=self._prepared.replies(outcomes),
            message_id=self._prepared.message_id,
            server=session.extensions.greeting.partition(" ")[0],
            tls=session.tls_version,
        )
        self._say(None)
        return receipt

    def completed(self, error: SMTPError) -> SMTPError:
        """Complete an error: the four sets of recipients, and the transcript."""
        for name, value in self._prepared.sets(self.outcomes).items():
            setattr(error, name, value)
        error.message_id = self._prepared.message_id
        if self._session is not None and not error.transcript:
            error.transcript = self._session.transcript
        if error.reply is None and self.transactions:
            error.reply = self.transaction.reply
        return error

    def was_cancelled(self) -> None:
        """Say what became of a message whose `send` was cancelled, to those who can still hear it."""
        self._say(None)
        unknown = self._prepared.sets(self.outcomes)["unknown"]
        if unknown:
            logger.warning(
                "send was cancelled after message %s was handed over: delivery unknown for %s",
                self._prepared.message_id,
                ", ".join(unknown),
            )

    def _say(self, error: SMTPError | None) -> None:
        if self._tracer.is_on:
            self._tracer(
                MessageFinished(
                    connection=None if self._session is None else self._session.number,
                    message_id=self._prepared.message_id,
                    error=error,
                    **self._prepared.sets(self.outcomes),
                )
            )


class Single:
    """The source of a session that sends one message."""

    def __init__(self, consignment: Consignment) -> None:
        self._next: Parcel | None = consignment

    def take(self) -> Parcel | None:
        """Return the message, unless it is under way or done."""
        parcel, self._next = self._next, None
        return parcel

    def put_back(self, parcel: Parcel) -> None:
        """Take the message back."""
        self._next = parcel

    def finished(self, parcel: Parcel) -> None:
        """Keep the message for another transaction, if one is to come here: what is sent again goes elsewhere."""
        assert isinstance(parcel, Consignment)
        if not parcel.is_done:
            self._next = parcel
        else:
            parcel.goes_on()
