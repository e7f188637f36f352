"""Submission: one message to all its recipients, in one mail transaction or several, and what became of it so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

from smtplite.errors import DeliveryUnknown, LocalProtocolError, RecipientsRefused, SMTPError
from smtplite.protocol.commands import EndOfData, Mail, Rcpt
from smtplite.protocol.connection import Connection
from smtplite.protocol.envelope import EnvelopeCommands
from smtplite.protocol.extensions import Limits
from smtplite.protocol.outcomes import Outcome, RecipientOutcome
from smtplite.protocol.reply import Reply
from smtplite.protocol.transaction import Transaction
from smtplite.protocol.whole import Whole

__all__ = ["Submission"]

_ACCEPTED: Final = Outcome.ACCEPTED
_NOT_SENT: Final = RecipientOutcome(Outcome.NOT_SENT)


class Submission:
    """One message to all its recipients: envelope and content (RFC 5321 2.3.1), and what became of it so far.

    Provisional until 1.0.

    Args:
        recipients: how many; they are known by their position.
        require_all: send to nobody unless every recipient is accepted; never more than one transaction.
        is_repeatable: False: the content can be read but once; never more than one transaction.
    """

    #: What was written of it, while each reply was the usual one and nobody asked for its transaction; else None.
    whole: Whole | None = None
    _transaction: Transaction
    _connection: Connection  # of `whole`, or of `_usual`
    _usual: tuple[Whole, Sequence[Reply]] | None = None  # how the last transaction went, if nobody asked for it since

    def __init__(self, recipients: int, *, require_all: bool = False, is_repeatable: bool = True) -> None:
        self.require_all = require_all
        self.is_repeatable = is_repeatable
        self._may_split = is_repeatable and not require_all
        self._rest = list(range(recipients))  # whose transaction is still to come
        self._batch: list[int] = []  # whose transaction is under way, or was the last
        self._outcomes = [_NOT_SENT] * recipients
        self._errors: list[SMTPError] = []
        self._is_stopped = False
        #: What `fit_envelope` was given; None: `fit` was called.
        self.envelope: EnvelopeCommands | None = None
        self._commands: tuple[Mail, Sequence[Rcpt]] | None = None
        #: The content's octets on the wire, dots not doubled; None if that is not known.
        self.size: int | None = None
        #: True if it can travel in chunks alone (RFC 3030 3: BINARYMIME).
        self.is_binary = False
        self._transactions: list[Transaction] = []  # begun, on whatever connection

    def fit(self, mail: Mail, recipients: Sequence[Rcpt], size: int | None, *, is_binary: bool = False) -> None:
        """Set the commands as the server of the next transaction can take them: one RCPT for each recipient.

        Args:
            mail: the MAIL command.
            recipients: the RCPT commands, in the order of the recipients.
            size: the content's octets on the wire, dots not doubled; None if that is not known.
            is_binary: it can travel in chunks alone (RFC 3030 3: BINARYMIME).
        """
        self.envelope = None
        self._commands = mail, recipients
        self.size = size
        self.is_binary = is_binary

    def fit_envelope(self, envelope: EnvelopeCommands, size: int) -> None:
        """Do what `fit` does, with commands that are made when somebody asks for them."""
        self.envelope = envelope
        self._commands = None
        self.size = size
        self.is_binary = False

    @property
    def transaction(self) -> Transaction:
        """The transaction under way, or the last one that counts; not set before the first."""
        if self.whole is not None:
            whole, self.whole = self.whole, None
            self.begin(Transaction.of_whole(self._connection, whole))
        elif self._usual is not None:
            (whole, replies), self._usual = self._usual, None
            self.begin(Transaction.of_whole(self._connection, whole))
            self._transaction.note_usual(replies)
        return self._transaction

    @property
    def transactions(self) -> int:
        """How many were begun and count."""
        return len(self._transactions) + (self.whole is not None or self._usual is not None)

    @property
    def went_as_usual(self) -> bool:
        """True if it was written whole, and each reply was the usual one: everybody was accepted."""
        return self._usual is not None

    @property
    def reply(self) -> Reply | None:
        """The reply that ended the last transaction: the verdict, or a refusal."""
        return self.transaction.reply if self._usual is None else self._usual[1][-1]

    def begin(self, transaction: Transaction) -> None:
        """Say that this is the transaction under way."""
        self._transactions.append(transaction)
        self._transaction = transaction

    def begin_whole(self, connection: Connection, whole: Whole) -> None:
        """Say that all its commands were written at once, in its first transaction."""
        self._connection = connection
        self.whole = whole
        self._batch, self._rest = self._rest, []

    def send_content(self, whole: Whole, content: bytes, *, is_normalized: bool = False) -> bytes:
        """Return all of its content in its wire form, once what was written `whole` wants it; it is handed over then.

        Args:
            whole: of this message.
            content: all of it.
            is_normalized: as in `Connection.send_content`.
        """
        connection = self._connection
        octets = connection.send_content(content, is_normalized=is_normalized)
        end = EndOfData()
        octets += connection.send(end)
        whole.hand_over(end, connection.octets_sent)
        return octets

    def accept(self, whole: Whole, replies: Sequence[Reply]) -> None:
        """Take note that what was written whole was accepted, with these replies, for everybody."""
        self._usual = whole, replies
        self.whole = None
        self._outcomes = [RecipientOutcome(_ACCEPTED, replies[-1])] * len(self._outcomes)

    @property
    def commands(self) -> tuple[Mail, Sequence[Rcpt]]:
        """MAIL, and an RCPT for each recipient, as they were given to `fit`.

        Raises:
            LocalProtocolError: it was fitted to no server.
        """
        if self.envelope is not None:
            return self.envelope.commands
        if self._commands is None:
            raise LocalProtocolError("a message cannot begin before it is fitted to a server: call fit() first")
        return self._commands

    def next_transaction(self, limits: Limits) -> tuple[Mail, list[Rcpt]]:
        """Return MAIL and the RCPTs of the transaction that comes next; it has begun.

        Raises:
            LocalProtocolError: it was fitted to no server; nothing changed.
        """
        first_mail, rcpts = self.commands
        count = len(self._rest)
        if self._may_split and limits.rcptmax is not None:
            count = min(count, limits.rcptmax)
        self._batch, self._rest = self._rest[:count], self._rest[count:]
        # Commands are told apart by identity: one that was sent before must not be sent again.
        mail = attrs.evolve(first_mail) if self.transactions else first_mail
        return mail, [rcpts[index] for index in self._batch]

    def conclude(self, transaction: Transaction) -> None:
        """Take what became of the recipients of the transaction that is done."""
        for index, outcome in zip(self._batch, transaction.outcomes, strict=True):
            self._outcomes[index] = outcome
        error = transaction.error
        if error is not None:
            self._errors.append(error)
            self._is_stopped = not isinstance(error, RecipientsRefused)  # what befell it would befall it again
        elif self._may_split:
            self._rest = [self._batch[index] for index in transaction.deferred] + self._rest

    def reopen(self) -> None:
        """Forget the last transaction, of which certainly nothing was sent: its recipients' turn is still to come.

        Raises:
            LocalProtocolError: somebody was delivered, or may have been; nothing changed.
        """
        if any(self._outcomes[index].outcome in (Outcome.ACCEPTED, Outcome.UNKNOWN) for index in self._batch):
            raise LocalProtocolError("a message cannot be sent again: it was delivered, or may have been")
        for index in self._batch:
            self._outcomes[index] = _NOT_SENT
        self._rest = self._batch + self._rest
        self._batch = []
        self._is_stopped = False
        self._transactions.pop()
        if self._transactions:
            self._transaction = self._transactions[-1]
        del self._errors[-1:]

    def stop(self) -> None:
        """Say that no further transaction is to come: the caller's content failed, or the caller gave up."""
        self._is_stopped = True

    @property
    def is_done(self) -> bool:
        """True once no further transaction is to come."""
        return self._is_stopped or not self._rest

    @property
    def outcomes(self) -> tuple[RecipientOutcome, ...]:
        """What became of each recipient so far, in the order in which they were given."""
        return tuple(self._outcomes)

    @property
    def error(self) -> SMTPError | None:
        """What to raise; None if somebody was certainly delivered, or nothing failed."""
        if any(outcome.outcome is Outcome.ACCEPTED for outcome in self._outcomes) or not self._errors:
            return None
        return next((error for error in self._errors if isinstance(error, DeliveryUnknown)), self._errors[-1])
