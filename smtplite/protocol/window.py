"""Window: the messages that are under way on one connection at the same time, and what may be begun beside them.

A `Submission` is one message to all its recipients; it takes one mail transaction, or several. Whoever drives a window
(`smtplite.sending.session`, or a simulation) goes through this again and again::

    if window.newest is not None:
        write(window.newest.transaction.next_flight())            # and as much of its content as it wants
    while window.has_room_for(next_submission):                   # fitted to the server: `Submission.fit`
        transaction = window.begin(next_submission)
        write(transaction.next_flight())                          # in the same write; its content, too, if it wants it
    for submission in window.receive(connection.next_event()):    # each is done with a transaction
        ...                                                       # is_done: with all; if not, it wants to begin again

and calls `window.fail(error)` when the session ends. A transaction that wants content is given it as the example in
`transaction` says. A message whose content is at hand may begin by `begin_whole` instead, which takes less time; see
`usual`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, Generic, TypeVar

import attrs

from smtplite.errors import (
    ConnectionLost,
    DeliveryUnknown,
    MessageRefused,
    RemoteProtocolError,
    SenderRefused,
    SMTPError,
)
from smtplite.protocol.commands import BdatLast, Command, EndOfData, Mail, Rset
from smtplite.protocol.connection import Connection
from smtplite.protocol.events import Disconnected, Event, Replied, ServiceClosing
from smtplite.protocol.outcomes import Outcome, RecipientOutcome
from smtplite.protocol.reply import Reply
from smtplite.protocol.state import State
from smtplite.protocol.submission import Submission
from smtplite.protocol.transaction import Stage, Transaction, Transfer
from smtplite.protocol.whole import Whole

__all__ = ["MAX_ONE_CHUNK_BYTES", "MAX_UNACKNOWLEDGED_BYTES", "ServerTraits", "Window"]

#: Content up to this size may go in one chunk, written with its envelope.
MAX_ONE_CHUNK_BYTES: Final = 65_536
#: Content of all messages that were sent in chunks and wait for their replies.
MAX_UNACKNOWLEDGED_BYTES: Final = 262_144

_CONNECTIONS_UNTIL_FORGOTTEN: Final = 16

_ENDED: Final = (State.CLOSING, State.CLOSED)
_HANDED_OVER: Final = Stage.HANDED_OVER
_DONE: Final = Stage.DONE
_ACCEPTED: Final = Outcome.ACCEPTED
_NOT_SENT: Final = RecipientOutcome(Outcome.NOT_SENT)


@attrs.define
class ServerTraits:
    """What earlier connections taught about a server, for the next ones.

    Provisional until 1.0.
    """

    #: False once BDAT failed there in a way that says: never again.
    takes_chunks: bool = True
    #: False once it ignored what was written behind an end of data, or went away over it; True once it took a message
    #: there; None: nothing is known yet, and it is trusted.
    reads_behind_dot: bool | None = None
    #: After how many it closed the connection with a 421; None: it never did.
    max_transactions: int | None = None
    _kept: int = attrs.field(default=0, init=False)  # connections that ended at that number, of our own accord

    def note_limit(self, transactions: int) -> None:
        """Remember that a connection was closed, or of no more use, after so many."""
        self.max_transactions = transactions
        self._kept = 0

    def note_limit_kept(self) -> None:
        """Count a connection that we ended because of `max_transactions`; the server's reason may be long gone."""
        self._kept += 1
        if self._kept == _CONNECTIONS_UNTIL_FORGOTTEN:
            self.max_transactions = None


M = TypeVar("M", bound=Submission)


class Window(Generic[M]):
    """The transactions under way on one connection, oldest first.

    Provisional until 1.0.

    Args:
        connection: ready for mail.
        pipelining: False: one command at a time, whatever the server offers.
        chunking: use BDAT where the server offers it and proves that it swallows what it refuses.
        in_flight: the most messages whose verdicts are owed at the same time, where they travel in chunks.
        max_transactions: then the connection is spent; None: any number.
        traits: of the server, kept up to date.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        pipelining: bool = True,
        chunking: bool = False,
        in_flight: int = 32,
        max_transactions: int | None = None,
        traits: ServerTraits | None = None,
    ) -> None:
        self._connection = connection
        self._pipelining = pipelining
        self._chunking = chunking and pipelining
        self.in_flight = in_flight
        self._allowed = in_flight  # at present: less after trouble
        self._traits = traits or ServerTraits()
        #: The messages under way, oldest first; to be looked at only.
        self.under_way: deque[M] = deque()
        learnt = self._traits.max_transactions
        self._is_limit_learnt = learnt is not None and (max_transactions is None or learnt < max_transactions)
        self._max_transactions = learnt if self._is_limit_learnt else max_transactions
        self._unacknowledged = 0  # octets of content
        #: True once the server showed, on this connection, that it swallows a chunk that it refuses.
        self.is_proved = False
        #: Transactions begun on this connection.
        self.begun = 0
        #: Of these, the ones whose verdict was taken at once with all that was owed (see `usual`).
        self.at_once = 0
        self._mails = 0  # ... and MAIL commands: the proof has one of its own
        self._finished = 0
        self._has_met_limit = False
        self._was_refused = False  # the content of the message that was done last
        self._is_in_trouble = False  # that message failed, in whatever way
        #: True if nothing more may begin here: to be closed once nothing is under way.
        self.must_close = False
        #: Why, for people.
        self.reason = ""

    def __len__(self) -> int:
        return len(self.under_way)

    @property
    def newest(self) -> M | None:
        """The message that was begun last, if it is under way."""
        under_way = self.under_way
        return under_way[-1] if under_way else None

    @property
    def oldest(self) -> M | None:
        """The message whose replies come next."""
        under_way = self.under_way
        return under_way[0] if under_way else None

    @property
    def is_spent(self) -> bool:
        """True if the server, or the caller, wants no more transactions on this connection."""
        if self._max_transactions is not None and self.begun >= self._max_transactions:
            return True
        mailmax = self._connection.extensions.limits.mailmax
        return mailmax is not None and self._mails >= mailmax

    @property
    def may_chunk(self) -> bool:
        """True if content may travel in chunks here, once that is proved."""
        return self._chunking and self._traits.takes_chunks and self._connection.extensions.chunks_ahead

    @property
    def may_begin(self) -> bool:
        """True if a message of some size could begin now."""
        connection = self._connection
        if self.under_way:
            newest = self.under_way[-1]
            whole = newest.whole
            if whole.content_end is None if whole is not None else newest.transaction.stage is not _HANDED_OVER:
                return False
            if connection.lmtp:
                return False
            if not self._pipelining or not connection.extensions.pipelining:
                return False
        if self.must_close or connection.state in _ENDED or self.is_spent:
            return False
        if not self.under_way:
            return True
        if connection.newest_kind is BdatLast:
            return len(self.under_way) < min(self._allowed, self.in_flight)
        # Behind a dot: what stands there has content of its own only once the dot's reply is read.
        # BURL is offered by Dovecot's submission server alone, as far as is known: it crashes on what stands there.
        return self.in_flight > 1 and self._traits.reads_behind_dot is not False and not connection.extensions.burl

    def has_room_for(self, submission: Submission) -> bool:
        """Return True if this message may begin now."""
        return self.may_begin and self.fits(submission)

    def fits(self, submission: Submission) -> bool:
        """Return True if this message may begin where one of some size could."""
        if not self._chunking or not self.under_way or not self.may_chunk:
            return True
        size = submission.size
        if size is None or size > self._largest_chunks:
            return True  # with DATA: its content waits for the replies to all that is under way
        # A large one travels alone; so does one that has to wait for its own replies before its content.
        return self.is_proved and self._has_room_for_chunk(size) and not submission.require_all

    def begin(self, submission: M, *, has_rested: bool = False) -> Transaction:
        """Begin the next transaction of a message for which there is room.

        Args:
            submission: fitted to this server.
            has_rested: whether the connection was idle so long that it may have ended unnoticed: then the content waits
                for the replies to its envelope, so that what is lost is certainly not sent.
        """
        mail, rcpts = submission.next_transaction(self._connection.extensions.limits)
        # Behind a failure, too: servers count them, and end the session after some (Exim: at the tenth RSET).
        is_cautious = has_rested or self._is_in_trouble
        transaction = Transaction(
            self._connection,
            mail,
            rcpts,
            require_all=submission.require_all,
            pipelining=self._pipelining,
            transfer=self._transfer(submission, is_cautious=is_cautious),
            # Postfix keeps a transaction open whose end of data a policy refused.
            resets=self._was_refused and not self.under_way,
        )
        submission.begin(transaction)
        self.under_way.append(submission)
        self.begun += 1
        transfer = transaction.transfer
        self._mails += 2 if transfer is Transfer.PROOF else 1
        if transfer is not Transfer.DATA:
            self._unacknowledged += submission.size or 0
        return transaction

    def begin_whole(self, submission: M, content: bytes, *, has_rested: bool = False) -> bytes | None:
        """Begin the next message, if there is room for it, with all its commands; return what is to be written.

        In one chunk, the content is part of that, and handed over. Otherwise the message's `whole` wants it later: give
        it to `Submission.send_content`. None: see whether it `fits`, and `begin` it. Then nothing changed.

        Args:
            submission: fitted to this server; one could begin now.
            content: all of it.
            has_rested: as in `begin`.
        """
        connection, envelope = self._connection, submission.envelope
        if (
            envelope is None
            or has_rested
            or self._is_in_trouble
            or self._was_refused
            or submission.require_all
            or submission.transactions
            or connection.extensions.limits.rcptmax is not None
        ):
            return None
        size = 0
        if not self.may_chunk:
            sent = connection.send_message(envelope, None) if self._traits.reads_behind_dot else None
        else:
            size = len(content)
            is_right = self.is_proved and self._has_room_for_chunk(size)
            sent = connection.send_message(envelope, content) if is_right else None
        if sent is None:
            return None
        data, whole = sent
        submission.begin_whole(connection, whole)
        self.under_way.append(submission)
        self.begun += 1
        self._mails += 1
        self._unacknowledged += size
        return data

    def _has_room_for_chunk(self, size: int) -> bool:
        """Return True if content of this size may go in one chunk beside what is under way."""
        return (
            size <= MAX_ONE_CHUNK_BYTES
            and self._unacknowledged + size <= MAX_UNACKNOWLEDGED_BYTES
            # What exceeds the size that the server announced, it may refuse without swallowing it.
            and size <= (self._connection.extensions.size or MAX_ONE_CHUNK_BYTES)
        )

    @property
    def _largest_chunks(self) -> int:
        # What exceeds the size that the server announced, it may refuse without swallowing it.
        return self._connection.extensions.size or MAX_ONE_CHUNK_BYTES

    def _transfer(self, submission: Submission, *, is_cautious: bool) -> Transfer:
        if not self._chunking or not self.may_chunk:
            return Transfer.DATA
        size = submission.size
        if not (submission.is_binary or (size is not None and size <= self._largest_chunks)):
            return Transfer.DATA
        if not self.is_proved:
            mailmax = self._connection.extensions.limits.mailmax
            return Transfer.PROOF if mailmax is None or self._mails + 2 <= mailmax else Transfer.DATA
        fits_one = size is not None and size <= MAX_ONE_CHUNK_BYTES
        return Transfer.ONE_CHUNK if fits_one and not is_cautious else Transfer.CHUNKS

    # What comes back

    def receive(self, event: Event, *, unsent: int = 0) -> list[M]:
        """Take the next event of the connection; return the messages whose transactions are done now.

        Args:
            event: what `Connection.next_event` returned.
            unsent: octets at the end of all that was written to the stream that it had not taken by then.
        """
        if type(event) is not Replied:  # it concerns all of them
            return self._end(event, unsent)
        if not self.under_way:
            return []
        oldest = self.under_way[0].transaction
        if event.reply.code == 421 and isinstance(event.command, (Mail, Rset)):
            self._note_limit()
        oldest.receive(event, unsent=unsent)
        if oldest.stage is not _DONE:
            if oldest.was_ignored and not self._was_refused:
                self._traits.reads_behind_dot = False
            return []
        done = [self._decided()]
        if self.must_close:
            done += self._clear_up(oldest.error, unsent)
        return done

    def receive_usual(self) -> tuple[M | None, Iterable[Command], list[Reply]] | None:
        """Take all the replies that the oldest message is owed, if they are at hand and each is the usual one.

        Call it only while nothing that was written is unsent. If it is None, nothing changed: call `receive` with the
        next event. Otherwise: the message, if it is done with a transaction, the commands answered and the replies.
        """
        if not self.under_way:
            return None
        whole = self.under_way[0].whole
        if whole is not None:
            if whole.replies is not None and whole.content_end is not None:  # the verdict alone is left
                verdict = self._connection.take_usual(1)
                return None if verdict is None else (self._accepted(whole, verdict[1]), *verdict)
            replies = self._connection.take_whole()
            if replies is None:
                return None
            if whole.content_end is None:
                whole.replies = replies
                return None, whole, replies
            return self._accepted(whole, replies), whole, replies
        oldest = self.under_way[0].transaction
        taken = oldest.receive_usual()
        if taken is None:
            return None
        done = None
        if oldest.stage is _DONE:
            done = self._decided()
            self.at_once += 1
        return done, *taken

    def _end(self, event: Event, unsent: int) -> list[M]:
        if isinstance(event, ServiceClosing):
            self._note_limit()
        elif isinstance(event, Disconnected) and event.unanswered:
            self._note_end(event.unanswered[0])
        done = []
        while self.under_way:
            self.under_way[0].transaction.receive(event, unsent=unsent)
            done.append(self._finish())
        self._close("server closed the connection")
        return done

    def _clear_up(self, error: SMTPError | None, unsent: int) -> list[M]:
        """Fail what stands behind the transaction after which the connection must be closed, and cannot go on."""
        if isinstance(error, DeliveryUnknown):
            cause = error.__cause__
            error = cause if isinstance(cause, SMTPError) else error
        if isinstance(error, RemoteProtocolError):  # nothing that is still to be read can be trusted
            return self._fail(_behind(error), unsent, is_clean_end=False)
        # What was handed over still gets its verdict, if the server goes on; nothing more is written.
        if self.under_way and self.under_way[0].transaction.stage is not _HANDED_OVER:
            return self._fail(_behind(error), unsent)
        return []

    def _decided(self) -> M:
        """Take the oldest transaction, which the server's replies decided, out of the window."""
        oldest = self.under_way[0].transaction
        if oldest.is_behind_dot and oldest.error is None and not oldest.was_ignored:
            self._traits.reads_behind_dot = True
        return self._finish()

    def _accepted(self, whole: Whole, replies: Sequence[Reply]) -> M:
        """Take the oldest message out of the window: it was written whole, and each reply to it was the usual one."""
        submission = self.under_way.popleft()
        self._unacknowledged -= whole.size or 0
        self._count_finished()
        submission.accept(whole, replies)
        self.at_once += 1
        self._was_refused = self._is_in_trouble = False
        self._note_success()
        return submission

    def _count_finished(self) -> None:
        self._finished += 1
        if self._is_limit_learnt and self._finished == self._max_transactions:
            self._traits.note_limit_kept()

    def _note_success(self) -> None:
        self._allowed = min(self._allowed * 2, self.in_flight)

    def _finish(self) -> M:
        """Take the oldest transaction, which is done, out of the window."""
        submission = self.under_way.popleft()
        transaction = submission.transaction
        if transaction.transfer is not Transfer.DATA:
            self._unacknowledged -= submission.size or 0
        self._count_finished()
        submission.conclude(transaction)
        if transaction.refuses_chunks:
            self._traits.takes_chunks = False
        elif transaction.transfer is Transfer.PROOF and not transaction.must_close:
            self.is_proved = True
        error = transaction.error
        self._was_refused = isinstance(error, MessageRefused)
        self._is_in_trouble = error is not None
        if error is not None and transaction.met_message_limit and self._finished > 1:
            self._finished -= 1
            self._note_limit()
            self._close("server accepts no more messages on this connection")
        if error is None:
            self._note_success()
        elif transaction.transfer is not Transfer.DATA or isinstance(error, SenderRefused):
            self._allowed = 1  # Exim ends the session at the fourth command that fails
        if transaction.must_close:
            self._close(str(transaction.reply or error or "the dialogue cannot go on"))
        return submission

    def _note_limit(self) -> None:
        if self._finished and not self._has_met_limit:  # Exim says it to each MAIL of a window
            self._has_met_limit = True
            self._traits.note_limit(self._finished)

    def _note_end(self, awaiting: Command | None) -> None:
        """Remember it if the first thing that was ever written behind an end of data ended the connection."""
        if self._traits.reads_behind_dot is None and isinstance(awaiting, EndOfData) and len(self.under_way) > 1:
            self._traits.reads_behind_dot = False

    def refuse_content(self) -> list[M]:
        """Say that the content of the newest cannot be sent after all; nothing else is under way then."""
        self.under_way[-1].transaction.refuse_content()
        return [self._finish()]

    def _close(self, reason: str) -> None:
        if not self.must_close:
            self.must_close = True
            self.reason = reason

    def fail(self, error: SMTPError, *, unsent: int = 0, is_our_own: bool = False) -> list[M]:
        """Say that the session ended, and why; return the messages that were under way: their transactions are done.

        Args:
            error: why; it is that of the oldest. Those behind it learn that the connection ended.
            unsent: as in `receive`.
            is_our_own: the caller gave up; it says nothing about the server.
        """
        if not is_our_own:
            self._note_end(self._connection.awaiting)
        self._close(str(error))
        return self._fail(error, unsent)

    def _fail(self, error: SMTPError, unsent: int, *, is_clean_end: bool = True) -> list[M]:
        is_clean_end = is_clean_end and not self._connection.has_unread and not isinstance(error, RemoteProtocolError)
        done = []
        while self.under_way:
            self.under_way[0].transaction.fail(error, unsent=unsent, is_clean_end=is_clean_end)
            done.append(self._finish())
            error = _behind(error)
        return done


def _behind(error: SMTPError | None) -> ConnectionLost:
    """Return what a message learns whose connection ended with a message before it."""
    lost = ConnectionLost("connection ended with a message before this one")
    lost.__cause__ = error
    return lost
