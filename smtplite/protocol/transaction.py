"""Transaction: what to write next for one message, and what each reply means for its recipients.

Every outcome is decided here, without I/O. Whoever drives it (`smtplite.session`, or a simulation) does this::

    while not transaction.is_done:
        write(transaction.next_flight())              # commands that share a write; b"": nothing to write now
        if transaction.wants_content:
            write(transaction.send_content(...))      # the content, in pieces of any size,
            last = transaction.end_content()          # ... and its end; from here on the content is handed over
            write(last)
        transaction.receive(next event of the connection)

and `transaction.fail(error)` when the session ends before that, whatever the reason. Then `outcomes` has each
recipient's, in order, and `error` the error to raise if nobody was certainly delivered.

When it is not known what the server did (RFC 5321 4.5.3.2.6, 6.1), in this order:

1. not handed over: certainly not sent;
2. MAIL, or every RCPT, was answered negatively: certainly not, and those replies are the error;
3. a 421 was the last reply read: certainly not, for the message whose command it answered (RFC 5321 3.8);
4. otherwise unknown, for the recipients accepted or not yet answered; a refusal that was read stays a refusal.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

import attrs

from smtplite.errors import (
    ConnectionLost,
    DeliveryUnknown,
    MessageRefused,
    RecipientsRefused,
    RemoteProtocolError,
    SenderRefused,
    ServiceUnavailable,
    SMTPError,
)
from smtplite.protocol.commands import Command, Data, EndOfData, Mail, Rcpt, Rset
from smtplite.protocol.connection import Connection
from smtplite.protocol.events import ConnectionClosed, ContentRefused, Event, Replied, ServiceClosing
from smtplite.protocol.reply import Reply
from smtplite.protocol.state import RULES, State

__all__ = ["Outcome", "RecipientOutcome", "Transaction"]


class Outcome(Enum):
    """What became of one recipient of one message."""

    ACCEPTED = "the server took the message for this recipient"
    REFUSED = "the server refused it"
    NOT_SENT = "certainly not taken"
    UNKNOWN = "nobody can know"


@attrs.frozen
class RecipientOutcome:
    """What became of one recipient, and the reply that decided it, if one did."""

    outcome: Outcome
    reply: Reply | None = None


_NOT_SENT: Final = RecipientOutcome(Outcome.NOT_SENT)
_UNKNOWN: Final = RecipientOutcome(Outcome.UNKNOWN)

#: States in which the last transaction is still open at the server: RSET goes in front of the next MAIL.
_OPEN: Final = frozenset({State.MAIL, State.RCPT, State.FAILED, State.CHUNK})


class Transaction:
    """One mail transaction, with DATA (RFC 5321 3.3; pipelined as RFC 2920 3.1 allows).

    Args:
        connection: greeted, between transactions (an open one is reset first).
        mail: the MAIL command, complete with its parameters.
        recipients: at least one RCPT command; each object once.
        require_all: send to nobody unless every recipient is accepted.
        pipelining: False: one command at a time, whatever the server offers.
    """

    def __init__(
        self,
        connection: Connection,
        mail: Mail,
        recipients: Sequence[Rcpt],
        *,
        require_all: bool = False,
        pipelining: bool = True,
    ) -> None:
        self._connection = connection
        self._mail = mail
        self._recipients = recipients
        self._pipelining = pipelining and connection.extensions.pipelining
        self._waits_for_rcpt = require_all and len(recipients) > 1
        self._to_send: list[Command] = [mail, *recipients]  # not yet sent, newest first (see below)
        if connection.state in _OPEN:
            self._to_send.insert(0, Rset())
        self._to_send.reverse()
        self._data: Data | None = None
        self._end: EndOfData | None = None
        self._is_lone_dot = False
        self._is_handed_over = False
        self._mail_reply: Reply | None = None
        self._rcpt_replies: list[Reply | None] = [None] * len(recipients)
        self._rcpt_read = 0  # RCPT replies come in order
        self._accepted_count = 0
        self._verdicts: dict[int, Reply] = {}  # LMTP: by id() of the RCPT command
        self._last_reply: Reply | None = None
        self._outcomes: tuple[RecipientOutcome, ...] | None = None

        #: True while the content may be sent: call `send_content`, then `end_content`.
        self.wants_content = False
        #: True if the connection must be closed and not used again.
        self.must_close = False
        #: Set when done and nobody was certainly delivered: what to raise. Its sets of recipients are not filled in.
        self.error: SMTPError | None = None
        #: The reply that ended the transaction: the verdict, or the refusal.
        self.reply: Reply | None = None

    @property
    def is_done(self) -> bool:
        """True once the outcome of every recipient is decided and no reply of this transaction is owed."""
        return self._outcomes is not None

    @property
    def is_handed_over(self) -> bool:
        """True from `end_content` on, unless `take_back` was called."""
        return self._is_handed_over

    @property
    def may_be_resent(self) -> bool:
        """True if sending it once more, elsewhere, cannot duplicate, and this server never judged it (rule R11 a).

        That is: the connection had died while it was idle, as far as the server tells: MAIL was not answered, or with
        a 421 or a 451 4.4.2, and the content was not handed over.
        """
        if self.error is None or self._end is not None:
            return False
        if self._mail_reply is not None:
            status = self._mail_reply.enhanced
            return self._mail_reply.code == 451 and status is not None and (status.subject, status.detail) == (4, 2)
        return isinstance(self.error, ConnectionLost) or (self.reply is not None and self.reply.code == 421)

    @property
    def outcomes(self) -> tuple[RecipientOutcome, ...]:
        """What became of each recipient, in the order in which they were given; only once `is_done`."""
        assert self._outcomes is not None
        return self._outcomes

    @property
    def phase(self) -> str:
        """Where the dialogue stands, for errors: "mail", "rcpt", "data", "content", "end of data"."""
        awaiting = self._connection.awaiting
        if awaiting is not None:
            return RULES[type(awaiting)].phase
        return "content" if self.wants_content else "mail"

    # What to write

    def next_flight(self) -> bytes:
        """Return all commands that may be written now, to share one write; b"" if replies must be read first."""
        connection = self._connection
        flight: list[bytes] = []
        to_send = self._to_send
        while to_send and (self._pipelining or connection.awaiting is None):
            flight.append(connection.send(to_send[-1]))
            to_send.pop()
        if not to_send and self._data is None and not self.is_done and self._may_send_data():
            data = Data()
            flight.append(connection.send(data))
            self._data = data
        return b"".join(flight)

    def _may_send_data(self) -> bool:
        if self._rcpt_read == len(self._recipients):  # lockstep; or the policy waits for every RCPT
            return True  # with nobody accepted, or not all of them, we would be done
        # MAIL, RCPT* and DATA in one write. Not where one refusal must keep the message from all: a DATA already sent
        # would deliver it, or an empty message, to those who were accepted.
        return self._pipelining and not self._waits_for_rcpt

    def send_content(self, chunk: bytes) -> bytes:
        """Return a piece of the content in its wire form."""
        return self._connection.send_content(chunk)

    def end_content(self) -> bytes:
        """Return the end of data. The content is handed over from now on: give it to the stream, or `take_back`."""
        end = EndOfData()
        data = self._connection.send(end)
        self._end = end
        self.wants_content = False
        self._is_handed_over = True
        return data

    def take_back(self) -> None:
        """Say that the end of data certainly never reached the network, and never will: the stream is aborted."""
        self._is_handed_over = False
        self.must_close = True

    def refuse_content(self) -> None:
        """Say that the content cannot be sent after all (the caller's source failed): close without the dot.

        `error` stays None: the source's own is the one to raise. No-op once the outcome is decided.
        """
        if self.is_done:
            return
        assert not self._is_handed_over
        self.wants_content = False
        self.must_close = True
        self._conclude(None)

    # What comes back

    def receive(self, event: Event) -> None:
        """Take the next event of the connection. No-op once the outcome is decided."""
        if self.is_done:
            return
        if isinstance(event, Replied):
            self._last_reply = event.reply
            self._receive_reply(event)
        elif isinstance(event, ContentRefused):
            # A real refusal, though it came early: the end of data was never sent.
            self.reply = self._last_reply = event.reply
            if event.reply.code == 421:
                self.fail(self._unavailable(None, event.reply))
                return
            self.wants_content = False
            self.must_close = True
            self._conclude(
                MessageRefused(
                    f"server refused the message while it was being sent: {event.reply}",
                    command="DATA",
                    reply=event.reply,
                    phase="content",
                ),
                verdict=event.reply,
            )
        elif isinstance(event, ServiceClosing):
            self.reply = self._last_reply = event.reply
            self.fail(self._unavailable(None, event.reply))
        elif isinstance(event, ConnectionClosed):
            phase = RULES[type(event.unanswered[0])].phase if event.unanswered else self.phase
            self.fail(ConnectionLost("server closed the connection", phase=phase))
        else:  # pragma: no cover (a transaction sends neither AUTH nor STARTTLS)
            raise AssertionError(event)  # noqa: TRY004

    def _receive_reply(self, event: Replied) -> None:
        command, reply = event.command, event.reply
        if command is self._end:
            self._receive_verdict(event)
        elif reply.code == 421:
            # Not handed over: whatever the server still says to the rest of the group, it takes nothing.
            self.reply = reply
            self.fail(self._unavailable(command, reply))
        elif command is self._mail:
            self._mail_reply = reply
            if reply.is_negative:
                self.reply = reply
                self._to_send.clear()
                self._finish_if_nobody()
        elif command is self._data:
            self._receive_data_reply(reply)
        elif isinstance(command, Rcpt):
            assert command is self._recipients[self._rcpt_read]
            self._rcpt_replies[self._rcpt_read] = reply
            self._rcpt_read += 1
            if reply.is_positive:
                self._accepted_count += 1
            if self._rcpt_read == len(self._recipients):
                self._finish_if_nobody()
        else:
            assert isinstance(command, Rset)  # its reply is 2yz, or it would have been a protocol error

    def _finish_if_nobody(self) -> None:
        """End the transaction if nothing more is owed and nobody, or not everybody, was accepted."""
        if self._data is not None or self._connection.awaiting is not None:
            return  # the rest of the group is still owed
        if self._is_mail_refused or self._accepted_count == 0 or self._lacks_someone:
            self._conclude(self._refusal())

    @property
    def _is_mail_refused(self) -> bool:
        return self._mail_reply is not None and self._mail_reply.is_negative

    @property
    def _lacks_someone(self) -> bool:
        return self._waits_for_rcpt and self._accepted_count < len(self._recipients)

    def _receive_data_reply(self, reply: Reply) -> None:
        if self._accepted_count and not self._is_mail_refused:
            if reply.is_intermediate:
                self.wants_content = True
            else:  # not one octet of content
                self.reply = reply
                error = MessageRefused(f"server refused DATA: {reply}", command="DATA", reply=reply, phase="data")
                self._conclude(error, verdict=reply)
            return
        if reply.is_intermediate:
            # A 354, but nobody to send to. The lone dot is safe only where the server has a transaction without
            # recipients; elsewhere it might end a message we know nothing of.
            if self._mail_reply is not None and self._mail_reply.is_positive and not self._connection.lmtp:
                self._is_lone_dot = True
                self._end = EndOfData()
                self._to_send.append(self._end)
                return
            self.must_close = True
        self._conclude(self._refusal())

    def _receive_verdict(self, event: Replied) -> None:
        reply = event.reply
        if self._is_lone_dot:  # whatever it says, a 2yz too: nobody was accepted
            self.must_close = self.must_close or self._connection.state is State.CLOSING
            self._conclude(self._refusal())
            return
        if reply.is_positive and not self._is_handed_over:
            # The end of data was written into a connection that failed, and never left: it answers something else.
            self.fail(RemoteProtocolError(f"server answered {str(reply)[:80]!r} before the end of data was sent"))
            return
        if event.recipient is not None:
            self._verdicts[id(event.recipient)] = reply
        if not event.is_final:
            return
        if event.recipient is not None:  # of several verdicts, one that allows a retry tells more than the last
            reply = next((verdict for verdict in self._verdicts.values() if verdict.is_transient), reply)
        self.reply = reply
        self.must_close = self.must_close or self._connection.state is State.CLOSING
        self._conclude(None, verdict=None if event.recipient is not None else reply)

    def fail(self, error: SMTPError) -> None:
        """Say that the session ended, and why; the stream is already aborted. No-op once the outcome is decided."""
        if self.is_done:
            return
        if error.phase is None:
            error.phase = self.phase
        self.must_close = True
        self.wants_content = False
        self._to_send.clear()
        if self._is_mail_refused or self._is_everyone_refused:
            self._conclude(self._refusal())
        elif not self._is_handed_over:
            self._conclude(error)
        elif self._last_reply is not None and self._last_reply.code == 421:
            self.reply = self._last_reply  # LMTP: a verdict was 421, and the others never came
            self._conclude(None)
        else:
            self._conclude(error, is_unknown=True)

    # What it all means

    @property
    def _is_everyone_refused(self) -> bool:
        return self._rcpt_read == len(self._recipients) and self._accepted_count == 0

    def _conclude(self, error: SMTPError | None, *, verdict: Reply | None = None, is_unknown: bool = False) -> None:
        """Decide every recipient's outcome.

        Args:
            error: what to raise if nobody was delivered; None: derived from the verdicts.
            verdict: the one reply for all who were accepted; None: LMTP's, one by one, as far as they were read.
            is_unknown: whether it is unknown for those who have no verdict.
        """
        outcomes = []
        for rcpt, rcpt_reply in zip(self._recipients, self._rcpt_replies, strict=True):
            decided = verdict or self._verdicts.get(id(rcpt))
            if self._is_mail_refused:
                outcomes.append(RecipientOutcome(Outcome.REFUSED, self._mail_reply))
            elif rcpt_reply is not None and rcpt_reply.is_negative:
                outcomes.append(RecipientOutcome(Outcome.REFUSED, rcpt_reply))
            elif decided is not None:
                outcome = Outcome.ACCEPTED if decided.is_positive else Outcome.REFUSED
                outcomes.append(RecipientOutcome(outcome, decided))
            else:
                outcomes.append(_UNKNOWN if is_unknown else _NOT_SENT)
        self._outcomes = tuple(outcomes)
        kinds = {outcome.outcome for outcome in outcomes}
        if Outcome.ACCEPTED in kinds:
            self.error = None
        elif Outcome.UNKNOWN in kinds:
            assert error is not None
            self.error = DeliveryUnknown(
                "the message was handed over and no verdict came: it may have been delivered, or not",
                phase=error.phase,
            )
            self.error.__cause__ = error
        elif error is None and self.reply is not None:
            self.error = MessageRefused(
                f"server refused the message: {self.reply}", command=".", reply=self.reply, phase="end of data"
            )
        else:
            self.error = error

    def _refusal(self) -> SMTPError:
        """Return the error of a transaction that ended before its content: the first refusal tells why."""
        if self._is_mail_refused:
            assert self._mail_reply is not None
            self.reply = self._mail_reply
            error = SenderRefused(
                f"server refused the sender: {self._mail_reply}",
                command=str(self._mail),
                reply=self._mail_reply,
                phase="mail",
            )
            error.sender = self._mail.reverse_path.address
            if any(reply is not None and reply.is_positive for reply in self._rcpt_replies):
                self.must_close = True  # it took a recipient for a transaction that it had refused
            return error
        refused = [
            (rcpt, reply)
            for rcpt, reply in zip(self._recipients, self._rcpt_replies, strict=True)
            if reply is not None and reply.is_negative
        ]
        rcpt, self.reply = refused[0]
        who = "the recipient" if len(self._recipients) == 1 else f"{len(refused)} of {len(self._recipients)} recipients"
        return RecipientsRefused(
            f"server refused {who}: {self.reply}", command=str(rcpt), reply=self.reply, phase="rcpt"
        )

    def _unavailable(self, command: Command | None, reply: Reply) -> ServiceUnavailable:
        return ServiceUnavailable(
            f"server closes the connection: {reply}",
            command=None if command is None else str(command),
            reply=reply,
            phase=self.phase if command is None else RULES[type(command)].phase,
        )
