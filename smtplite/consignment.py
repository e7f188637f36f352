"""Consignment: one message on its way from the caller to its outcome, over as many connections as that takes."""

from __future__ import annotations

from smtplite.content import OctetBody
from smtplite.errors import SMTPError
from smtplite.message import Prepared, Receipt
from smtplite.protocol.transaction import Outcome
from smtplite.session import Parcel, Session
from smtplite.trace import MessageFinished, Tracer, logger

__all__ = ["Consignment"]


class Consignment:
    """What a message sends, how far it came, and what is said of it at the end. The `Source` of a session for `send`.

    Args:
        prepared: the message, read and checked.
        tracer: is told the outcome.
        require_all: send to nobody unless every recipient is accepted.
    """

    def __init__(self, prepared: Prepared, tracer: Tracer, *, require_all: bool = False) -> None:
        self.prepared = prepared
        self._tracer = tracer
        self._session: Session | None = None
        self._is_waiting = False  # to be taken by the session
        #: True once it was sent again, or a connection was not enough for it: the next must be a fresh one.
        self.was_tried = False
        self._was_resent = False
        #: For a session, once `fit` was called.
        self.parcel = Parcel(len(prepared.forward_paths), require_all=require_all)

    @property
    def is_done(self) -> bool:
        """True once every recipient is decided, as far as that is up to us."""
        return self.parcel.is_done

    def fit(self, session: Session) -> None:
        """Fit it to what this session's server can take.

        Raises:
            ExtensionRequired: it cannot; nothing was sent.
        """
        mail, rcpts, content = self.prepared.for_server(session.extensions, is_tls=session.is_tls)
        self.parcel.body = OctetBody(content)
        self.parcel.fit(mail, rcpts, self.parcel.body.size)
        self._session = session
        self._is_waiting = True

    # For the session

    def take(self) -> Parcel | None:
        """Return the parcel, unless it is under way or done."""
        if not self._is_waiting:
            return None
        self._is_waiting = False
        return self.parcel

    def put_back(self, parcel: Parcel) -> None:
        """Take the parcel back."""
        assert parcel is self.parcel
        self._is_waiting = True

    def finished(self, parcel: Parcel) -> None:
        """Decide what comes next: another transaction, another connection, or nothing."""
        self.was_tried = True
        if not parcel.is_done:
            self._is_waiting = True
        elif self._may_be_resent:
            self._was_resent = True
            parcel.reopen()
            if not parcel.transactions:  # a try that counts for nothing: what comes now decides
                self._session = None

    @property
    def _may_be_resent(self) -> bool:
        """True in the cases (a) and (c) of rule R11: a connection that had died idle, and chunks that do not do."""
        parcel, session = self.parcel, self._session
        assert session is not None
        if self._was_resent or not parcel.is_repeatable:
            return False
        transaction = parcel.transaction
        if transaction.refuses_chunks:
            return all(outcome.outcome in (Outcome.NOT_SENT, Outcome.REFUSED) for outcome in transaction.outcomes)
        return session.is_reused and parcel.transactions == 1 and transaction.died_idle

    # What is said of it

    def result(self, error: SMTPError | None = None) -> Receipt:
        """Return the receipt, or raise what there is to raise.

        Args:
            error: what kept it from going on, if anything did; of no interest if somebody was delivered.
        """
        parcel, session = self.parcel, self._session
        outcomes = parcel.outcomes
        if not any(outcome.outcome is Outcome.ACCEPTED for outcome in outcomes):
            if parcel.failure is not None and not isinstance(parcel.failure, SMTPError):
                self._finished(None)
                raise parcel.failure
            failure = parcel.error or parcel.failure or error
            assert isinstance(failure, SMTPError)
            raise self._completed(failure) from failure.__cause__
        assert session is not None
        receipt = Receipt(
            **self.prepared.sets(outcomes),
            reply=parcel.transaction.reply,
            replies=self.prepared.replies(outcomes),
            message_id=self.prepared.message_id,
            server=session.extensions.greeting.partition(" ")[0],
            tls=session.tls_version,
        )
        self._finished(None)
        return receipt

    def _completed(self, error: SMTPError) -> SMTPError:
        """Complete an error: the four sets of recipients, and the transcript."""
        for name, value in self.prepared.sets(self.parcel.outcomes).items():
            setattr(error, name, value)
        error.message_id = self.prepared.message_id
        if self._session is not None and not error.transcript:
            error.transcript = self._session.transcript
        if error.reply is None and self.parcel.transactions:
            error.reply = self.parcel.transaction.reply
        self._finished(error)
        return error

    def was_cancelled(self) -> None:
        """Say what became of a message whose `send` was cancelled, to those who can still hear it."""
        self._finished(None)
        unknown = self.prepared.sets(self.parcel.outcomes)["unknown"]
        if unknown:
            logger.warning(
                "send was cancelled after message %s was handed over: delivery unknown for %s",
                self.prepared.message_id,
                ", ".join(unknown),
            )

    def _finished(self, error: SMTPError | None) -> None:
        if self._tracer.is_on:
            self._tracer(
                MessageFinished(
                    connection=None if self._session is None else self._session.number,
                    message_id=self.prepared.message_id,
                    error=error,
                    **self.prepared.sets(self.parcel.outcomes),
                )
            )
