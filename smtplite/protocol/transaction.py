"""Transaction: what to write next for one message, and what each reply means for its recipients.

Every outcome is decided here, without I/O. `window` has several of them under way on one connection; alone, a
transaction is driven like this::

    while not transaction.is_done:
        write(transaction.next_flight())              # commands that share a write; b"": nothing to write now
        if transaction.wants_content:
            write(transaction.send_content(piece))    # pieces of the content, of at most MAX_CHUNK_BYTES ...
            write(transaction.send_content(piece, last=True))  # ... from the last one on it is handed over
        transaction.receive(next event of the connection)

and `transaction.fail(error)` when the session ends before that, whatever the reason. Then `outcomes` has each
recipient's, in order, and `error` the error to raise if nobody was certainly delivered.

When it is not known what the server did (RFC 5321 4.5.3.2.6, 6.1), in this order:

1. not handed over: certainly not sent;
2. MAIL, or every RCPT, was answered negatively: certainly not, and those replies are the error;
3. a 421 was read and nothing but the end followed: certainly not, for the message whose command it answered and all
   behind it (RFC 5321 3.8);
4. otherwise unknown, for the recipients accepted or not yet answered; a refusal that was read stays a refusal.
"""

from __future__ import annotations

from collections import deque
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
from smtplite.protocol.commands import Bdat, BdatLast, BdatProbe, Command, Data, EndOfData, Mail, Rcpt, Rset
from smtplite.protocol.connection import Connection
from smtplite.protocol.events import ContentRefused, Disconnected, Event, Replied, ServiceClosing
from smtplite.protocol.reply import Reply
from smtplite.protocol.state import RULES, State

__all__ = ["MAX_CHUNK_BYTES", "Outcome", "RecipientOutcome", "Transaction", "Transfer"]

#: A chunk of content that does not travel with its envelope; each is acknowledged before the next but one.
MAX_CHUNK_BYTES: Final = 262_144
_MAX_CHUNKS_OWED: Final = 2

#: States in which the last transaction is, or may be, still open at the server: RSET goes in front of the next MAIL.
_OPEN: Final = frozenset({State.MAIL, State.RCPT, State.FAILED, State.CHUNK, State.VERDICT})

#: Replies to BDAT of servers that did not know it, or would not have it here: they may read the chunk as commands.
_NO_CHUNKS: Final = frozenset({500, 502, 521, 530})


def _is_x_5_3(reply: Reply) -> bool:
    return reply.enhanced is not None and (reply.enhanced.subject, reply.enhanced.detail) == (5, 3)


def _is_too_many(reply: Reply) -> bool:
    """Return True if RCPT was refused because the transaction has enough (RFC 5321 4.5.3.1.10)."""
    if reply.code in (452, 552) and reply.enhanced is None:
        return True
    return (reply.is_transient or reply.code == 552) and _is_x_5_3(reply)  # OpenSMTPD says 451 4.5.3


class Outcome(Enum):
    """What became of one recipient of one message."""

    ACCEPTED = "the server took the message for this recipient"
    REFUSED = "the server refused it"
    NOT_SENT = "certainly not taken"
    UNKNOWN = "nobody can know"

    __hash__ = object.__hash__  # each is but once; Enum's own is Python, and slower


@attrs.frozen
class RecipientOutcome:
    """What became of one recipient, and the reply that decided it, if one did."""

    outcome: Outcome
    reply: Reply | None = None


class Transfer(Enum):
    """How the content travels."""

    DATA = "behind the 354 to DATA, with dots doubled"
    PROOF = "in chunks, behind the replies to the envelope, in front of which the server proves that it swallows them"
    CHUNKS = "in chunks, behind the replies to the envelope"
    ONE_CHUNK = "in one chunk that is written with the envelope"


_NOT_SENT: Final = RecipientOutcome(Outcome.NOT_SENT)
_UNKNOWN: Final = RecipientOutcome(Outcome.UNKNOWN)


class Transaction:
    """One mail transaction (RFC 5321 3.3; pipelined as RFC 2920 3.1 allows; with chunks, RFC 3030).

    Args:
        connection: greeted, and where MAIL may be sent now; a transaction that is open there is reset first.
        mail: the MAIL command, complete with its parameters.
        recipients: at least one RCPT command; each object once.
        require_all: send to nobody unless every recipient is accepted.
        pipelining: False: one command at a time, whatever the server offers.
        transfer: how the content travels; anything but DATA needs PIPELINING and CHUNKING.
        resets: begin with RSET, although the last transaction is over as far as its replies tell.
    """

    def __init__(
        self,
        connection: Connection,
        mail: Mail,
        recipients: Sequence[Rcpt],
        *,
        require_all: bool = False,
        pipelining: bool = True,
        transfer: Transfer = Transfer.DATA,
        resets: bool = False,
    ) -> None:
        self._connection = connection
        self._mail = mail
        self._recipients = recipients
        self._waits_for_rcpt = require_all and len(recipients) > 1
        self.transfer = transfer
        #: True if its first commands were written behind an end of data whose reply was owed.
        self.is_behind_dot = isinstance(connection.newest, EndOfData)
        #: True if the server answered 503 to all that stood behind an end of data, as if it had not been there.
        self.was_ignored = False
        #: True if BDAT does not do at this server: DATA, on another connection.
        self.refuses_chunks = False
        self._begin(pipelining=pipelining, resets=resets)

    def _begin(self, *, pipelining: bool, resets: bool) -> None:
        connection, mail = self._connection, self._mail
        self._pipelining = pipelining and connection.extensions.pipelining
        to_send: list[Command] = []
        if resets or connection.assumed_state in _OPEN:
            to_send.append(Rset())
        self._proof: Rset | None = None
        if self.transfer is Transfer.PROOF:
            self._proof = Rset()
            to_send += (attrs.evolve(mail), BdatProbe(), self._proof)
        to_send += (mail, *self._recipients)
        to_send.reverse()
        self._to_send = to_send  # not yet sent, newest first
        self._owed = 0  # commands of ours that are owed a reply
        self._data: Data | None = None
        self._end: EndOfData | BdatLast | None = None
        self._end_position = 0  # of the last octet of the content, among all the connection's
        self._is_lone_dot = False
        self._is_open = False  # for content
        self._chunk_ends: deque[int] = deque()  # as _end_position, of the chunks that are owed their acknowledgement
        self._chunk_refusal: Reply | None = None
        self._mail_reply: Reply | None = None
        self._data_reply: Reply | None = None
        self._rcpt_replies: list[Reply | None] = [None] * len(self._recipients)
        self._rcpt_read = 0  # RCPT replies come in order
        self._accepted_count = 0
        self._verdicts: dict[int, Reply] = {}  # LMTP: by id() of the RCPT command
        self._outcomes: tuple[RecipientOutcome, ...] = ()

        #: True once the outcome of every recipient is decided and no reply of this transaction is owed.
        self.is_done = False
        #: True from the last piece of the content on, unless it was taken back.
        self.is_handed_over = False
        #: True if the connection must be closed and not used again.
        self.must_close = False
        #: Set when done and nobody was certainly delivered: what to raise. Its sets of recipients are not filled in.
        self.error: SMTPError | None = None
        #: The reply that ended the transaction: the verdict, or the refusal.
        self.reply: Reply | None = None

    @property
    def wants_content(self) -> bool:
        """True while a piece of the content may be sent: call `send_content`."""
        return self._is_open and len(self._chunk_ends) < _MAX_CHUNKS_OWED

    @property
    def is_open(self) -> bool:
        """True while content may be sent, if need be after the next reply."""
        return self._is_open

    @property
    def outcomes(self) -> tuple[RecipientOutcome, ...]:
        """What became of each recipient, in the order in which they were given; only once `is_done`."""
        assert self.is_done
        return self._outcomes

    @property
    def phase(self) -> str:
        """Where the dialogue stands, for errors: "mail", "rcpt", "data", "content", "end of data"."""
        if self._is_open:
            return "content"
        awaiting = self._connection.awaiting
        return "mail" if awaiting is None else RULES[type(awaiting)].phase

    # What may be done with it, once it is done

    @property
    def died_idle(self) -> bool:
        """True if the connection had died while it was idle, as far as the server tells (rule R11 a).

        That is: MAIL was not answered, or with a 421 or a 451 4.4.2, and the content was not handed over.
        """
        if self.error is None or self._end is not None:
            return False
        if self._mail_reply is not None and self._mail_reply.code != 421:
            status = self._mail_reply.enhanced
            return self._mail_reply.code == 451 and status is not None and (status.subject, status.detail) == (4, 2)
        return self._was_cut_off or (self.reply is not None and self.reply.code == 421)

    @property
    def was_cut(self) -> bool:
        """True if it is certainly not sent because the connection ended, without a refusal of it (rule R11 b)."""
        return (self._was_cut_off or isinstance(self.error, ServiceUnavailable)) and all(
            outcome.outcome is Outcome.NOT_SENT for outcome in self.outcomes
        )

    @property
    def _was_cut_off(self) -> bool:
        # A refused RSET ends the session before anything of ours was looked at (Exim: "554 Too many nonmail commands").
        error = self.error
        return isinstance(error, ConnectionLost) or (
            isinstance(error, RemoteProtocolError)
            and error.phase == "rset"
            and error.reply is not None
            and error.reply.is_negative
        )

    @property
    def deferred(self) -> tuple[int, ...]:
        """The recipients, by index, that were too many for one transaction that succeeded (RFC 5321 4.5.3.1.10)."""
        if self.error is not None or self._accepted_count == 0 or (self.reply is not None and self.reply.is_negative):
            return ()
        return tuple(
            index for index, reply in enumerate(self._rcpt_replies) if reply is not None and _is_too_many(reply)
        )

    @property
    def met_message_limit(self) -> bool:
        """True if MAIL was refused because the connection has carried enough (OpenSMTPD: 452 4.5.3)."""
        reply = self._mail_reply
        return reply is not None and reply.is_transient and _is_x_5_3(reply)

    # What to write

    def next_flight(self) -> bytes:
        """Return all commands that may be written now, to share one write; b"" if replies must be read first."""
        flight: list[bytes] = []
        to_send = self._to_send
        while to_send and (self._pipelining or self._connection.awaiting is None):
            flight.append(self._send(to_send[-1]))
            to_send.pop()
        if not to_send and self._end is None and not self.is_done:
            if self.transfer is not Transfer.DATA:
                self._is_open = self._is_open or (self._chunk_refusal is None and self._may_send_chunks())
            elif self._data is None and self._may_send_data():
                data = Data()
                flight.append(self._send(data))
                self._data = data
        return b"".join(flight)

    def _send(self, command: Command) -> bytes:
        octets = self._connection.send(command)
        self._owed += 1
        return octets

    def _may_send_data(self) -> bool:
        if self._rcpt_read == len(self._recipients):  # lockstep; or the policy waits for every RCPT
            return True  # with nobody accepted, or not all of them, we would be done
        # MAIL, RCPT* and DATA in one write. Not where one refusal must keep the message from all: a DATA already sent
        # would deliver it, or an empty message, to those who were accepted.
        return self._pipelining and not self._waits_for_rcpt

    def _may_send_chunks(self) -> bool:
        if self._rcpt_read == len(self._recipients):
            return True
        return self.transfer is Transfer.ONE_CHUNK and not self._waits_for_rcpt

    def send_content(self, piece: bytes, *, last: bool = False) -> bytes:
        """Return a piece of the content in its wire form.

        Args:
            piece: its octets; in chunks, at most MAX_CHUNK_BYTES, line endings CRLF.
            last: it ends here. The content is handed over from now on: give it to the stream.
        """
        connection = self._connection
        if self.transfer is Transfer.DATA:
            octets = connection.send_content(piece)
            if not last:
                return octets
            end: EndOfData | BdatLast = EndOfData()
            octets += self._send(end)
        else:
            chunk = end = BdatLast(len(piece)) if last else Bdat(len(piece))  # type: ignore[assignment]
            octets = self._send(chunk) + connection.send_content(piece)
            if not last:
                self._chunk_ends.append(connection.octets_sent)
                return octets
        self._end = end
        self._is_open = False
        self.is_handed_over = True
        self._end_position = connection.octets_sent
        return octets

    def has_left(self, unsent: int) -> bool:
        """Return True if the last octet of the content is no longer with us.

        Args:
            unsent: octets at the end of all that was written to the stream that it did not take.
        """
        return self.is_handed_over and self._is_out(self._end_position, unsent)

    def _is_out(self, position: int, unsent: int) -> bool:
        return position <= self._connection.octets_sent - unsent

    def refuse_content(self) -> None:
        """Say that the content cannot be sent after all (the caller's source failed): close without its end.

        `error` stays None: the source's own is the one to raise. No-op once the outcome is decided.
        """
        if self.is_done:
            return
        assert not self.is_handed_over
        self._is_open = False
        self.must_close = True
        self._conclude(None)

    # What comes back

    def receive(self, event: Event, *, unsent: int = 0) -> None:
        """Take the next event of the connection. No-op once the outcome is decided.

        Args:
            event: a reply to a command of this transaction, or what concerns the connection as a whole.
            unsent: as in `has_left`, when the event was read.
        """
        if self.is_done:
            return
        if type(event) is Replied:
            self._receive_reply(event, unsent)
        elif isinstance(event, ContentRefused):
            # A real refusal, though it came early: the end of data was never sent.
            self.reply = event.reply
            if event.reply.code == 421:
                self.fail(self._unavailable(None, event.reply))
                return
            self._is_open = False
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
            self.reply = event.reply
            self.fail(self._unavailable(None, event.reply))
        elif isinstance(event, Disconnected):
            phase = RULES[type(event.unanswered[0])].phase if event.unanswered else self.phase
            error = ConnectionLost("server closed the connection", phase=phase)
            self.fail(error, unsent=unsent, is_clean_end=not event.partial)
        else:  # pragma: no cover (a transaction sends neither AUTH nor STARTTLS)
            raise AssertionError(event)

    def _receive_reply(self, event: Replied, unsent: int) -> None:
        command, reply = event.command, event.reply
        if event.is_final:
            self._owed -= 1
        if command is self._end:
            self._receive_verdict(event, unsent)
        elif reply.code == 421 and not self.is_handed_over:
            # Whatever the server still says to the rest of the group, it takes nothing.
            self.reply = reply
            self.fail(self._unavailable(command, reply))
        elif command is self._mail:
            self._mail_reply = reply
            if reply.code == 503 and self.transfer is Transfer.PROOF:
                # Behind RSET it cannot be out of sequence: Dovecot's submission server does not pass on that RSET.
                self.refuses_chunks = True
            if reply.is_negative:
                self.reply = reply
                self._to_send.clear()
                self._is_open = False
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
        elif isinstance(command, Bdat):
            self._receive_acknowledgement(reply, unsent)
        elif isinstance(command, BdatProbe):
            if reply.code in _NO_CHUNKS:
                self.refuses_chunks = True
        elif command is self._proof:  # 2yz, or it would have been a breach of the protocol
            self._proof = None

    def _finish_if_nobody(self) -> None:
        """End the transaction if nothing more is owed and nobody, or not everybody, was accepted."""
        if self._owed:
            return  # the rest of the group
        mail_reply = self._mail_reply
        if self.transfer is Transfer.PROOF and mail_reply is not None and mail_reply.code == 503:
            # Behind RSET it cannot be out of sequence: Dovecot's submission server does not pass that RSET on in time.
            self.refuses_chunks = self.must_close = True
            self._conclude_unheard("server takes no chunks: the connection was closed")
        elif self._is_mail_refused or self._accepted_count == 0 or self._lacks_someone:
            if not self._begin_again():
                self._conclude(self._refusal())
        elif self.refuses_chunks:
            self.must_close = True
            self._conclude(ConnectionLost("server takes no chunks: the connection was closed", phase="rcpt"))

    def _begin_again(self) -> bool:
        """Begin once more if the server ignored all that was written behind an end of data; return True if so.

        Haraka answers 503 to each command that arrived in one piece with an end of data, and does nothing. RSET, alone,
        shows that both sides agree; then it goes on in lockstep.
        """
        replies = [self._mail_reply, *self._rcpt_replies]
        if self._data is not None:
            replies.append(self._data_reply)
        if not self.is_behind_dot or self.was_ignored or any(reply is None or reply.code != 503 for reply in replies):
            return False
        self.was_ignored = True
        self._begin(pipelining=False, resets=True)
        return True

    @property
    def _is_mail_refused(self) -> bool:
        return self._mail_reply is not None and self._mail_reply.is_negative

    @property
    def _lacks_someone(self) -> bool:
        return self._waits_for_rcpt and self._accepted_count < len(self._recipients)

    def _receive_data_reply(self, reply: Reply) -> None:
        self._data_reply = reply
        if self._accepted_count and not self._is_mail_refused:
            if reply.is_intermediate:
                self._is_open = True
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
            if self.is_behind_dot and self._mail_reply is not None and self._mail_reply.code == 503:
                # Postfix keeps a transaction open whose end of data a policy refused: our commands joined that one.
                self._conclude_unheard("server kept the transaction before this one open")
                return
        elif self._begin_again():
            return
        self._conclude(self._refusal())

    def _conclude_unheard(self, why: str) -> None:
        """End a transaction of which nothing was sent, and whose replies say nothing about it."""
        self._mail_reply = None
        self._rcpt_replies = [None] * len(self._recipients)
        self._conclude(ConnectionLost(why, phase="mail"))

    def _receive_acknowledgement(self, reply: Reply, unsent: int) -> None:
        """Take the reply to a chunk that is not the last."""
        is_out = self._is_out(self._chunk_ends.popleft(), unsent)
        if reply.is_positive and not is_out:
            error = RemoteProtocolError(f"server answered {str(reply)[:80]!r} to BDAT before the chunk was sent")
            self.fail(error, unsent=unsent)
            return
        if reply.is_negative:
            self._is_open = False  # nothing is written behind a refusal
            self.must_close = self.must_close or not is_out  # nobody knows what the server takes the rest for
            self._chunk_refusal = self._chunk_refusal or reply
            if reply.code in _NO_CHUNKS:
                self.refuses_chunks = self.must_close = True
        if self._chunk_refusal is not None and not self._owed:
            self._conclude_refused_chunk()

    def _conclude_refused_chunk(self) -> None:
        reply = self.reply = self._chunk_refusal
        assert reply is not None
        self.must_close = self.must_close or self._connection.state is State.CLOSING
        self._conclude(
            MessageRefused(
                f"server refused the message while it was being sent: {reply}",
                command="BDAT",
                reply=reply,
                phase="content",
            ),
            verdict=reply,
        )

    def _receive_verdict(self, event: Replied, unsent: int) -> None:
        reply = event.reply
        if self._is_lone_dot:  # whatever it says, a 2yz too: nobody was accepted
            self.must_close = self.must_close or self._connection.state is State.CLOSING
            self._conclude(self._refusal())
            return
        if not self.has_left(unsent):
            # The end of data was written, and never left: a 2yz answers something else (rule R3). A refusal is one,
            # but nobody knows what the server takes the rest for.
            self.must_close = True
            if reply.is_positive:
                error = RemoteProtocolError(f"server answered {str(reply)[:80]!r} before the end of data was sent")
                self.fail(error, unsent=unsent)
                return
        if event.recipient is not None:
            self._verdicts[id(event.recipient)] = reply
        if not event.is_final:
            return
        if event.recipient is not None:  # of several verdicts, one that allows a retry tells more than the last
            reply = next((verdict for verdict in self._verdicts.values() if verdict.is_transient), reply)
        self.must_close = self.must_close or self._connection.state is State.CLOSING
        if isinstance(self._end, BdatLast) and self._receive_last_acknowledgement(reply):
            return
        self.reply = reply
        self._conclude(None, verdict=None if event.recipient is not None else reply)

    def _receive_last_acknowledgement(self, reply: Reply) -> bool:
        """Judge the reply to the last chunk where it is not the verdict on the message; return True if it was not."""
        if reply.code in _NO_CHUNKS:
            self.refuses_chunks = self.must_close = True
        if self._chunk_refusal is not None or self._is_mail_refused:
            if reply.is_positive or (self._is_mail_refused and self._accepted_count):
                what = "its MAIL" if self._is_mail_refused else "a chunk"
                error = RemoteProtocolError(f"server took a message although it had refused {what}")
                self.must_close = True
                self._conclude(error, is_unknown=True)
            elif self._is_mail_refused:
                self._conclude(self._refusal())
            else:
                self._conclude_refused_chunk()
            return True
        if self._accepted_count == 0:
            self.must_close = self.must_close or reply.is_positive  # it went to nobody; what it now has open who knows
            self._conclude(self._refusal())
            return True
        return False

    def fail(self, error: SMTPError, *, unsent: int = 0, is_clean_end: bool = True) -> None:
        """Say that the session ended, and why; the stream is already aborted. No-op once the outcome is decided.

        Args:
            error: why.
            unsent: as in `has_left`.
            is_clean_end: False if octets came behind the last reply, or the server broke the protocol.
        """
        if self.is_done:
            return
        if error.phase is None:
            error.phase = self.phase
        self.must_close = True
        self._is_open = False
        self._to_send.clear()
        last = self._connection.last_reply
        is_421 = last is not None and last.code == 421
        if not self.has_left(unsent):
            self.is_handed_over = False
        if self._proof is not None and not is_421:
            self.refuses_chunks = True
        if self._is_mail_refused or self._is_everyone_refused:
            self._conclude(self._refusal())
        elif not self.is_handed_over:
            if self._chunk_refusal is not None and not is_421:
                self._conclude_refused_chunk()
            else:
                self._conclude(error)
        elif is_421 and is_clean_end:
            assert last is not None
            self.reply = last
            # A verdict of LMTP may have been the 421; else it answered a command of ours, or one before.
            self._conclude(None if self._verdicts else self._unavailable(None, last))
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
        if verdict is not None and verdict.is_positive and self._accepted_count == len(self._recipients):
            self._outcomes = (RecipientOutcome(Outcome.ACCEPTED, verdict),) * len(self._recipients)
            self.is_done = True
            return
        outcomes = []
        for rcpt, rcpt_reply in zip(self._recipients, self._rcpt_replies, strict=True):
            decided = verdict or self._verdicts.get(id(rcpt))
            if self._is_mail_refused:
                assert self._mail_reply is not None
                if (
                    is_unknown
                ):  # it took something for a transaction that it had refused: nothing it said can be trusted
                    outcomes.append(_UNKNOWN)
                    continue
                is_closing = self._mail_reply.code == 421
                outcomes.append(_NOT_SENT if is_closing else RecipientOutcome(Outcome.REFUSED, self._mail_reply))
            elif rcpt_reply is not None and rcpt_reply.is_negative and (rcpt_reply.code != 421 or decided is not None):
                outcomes.append(RecipientOutcome(Outcome.REFUSED, rcpt_reply))
            elif decided is not None:
                outcome = Outcome.ACCEPTED if decided.is_positive else Outcome.REFUSED
                outcomes.append(RecipientOutcome(outcome, decided))
            else:
                outcomes.append(_UNKNOWN if is_unknown else _NOT_SENT)
        self._outcomes = tuple(outcomes)
        self.is_done = True
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
                f"server refused the message: {self.reply}",
                command="." if isinstance(self._end, EndOfData) else "BDAT LAST",
                reply=self.reply,
                phase="end of data",
            )
        else:
            self.error = error

    def _refusal(self) -> SMTPError:
        """Return the error of a transaction that ended before its content: the first refusal tells why."""
        if self._is_mail_refused:
            assert self._mail_reply is not None
            self.reply = self._mail_reply
            if self.reply.code == 421:
                return self._unavailable(self._mail, self.reply)
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
        rcpt, self.reply = next((pair for pair in refused if pair[1].code != 421), refused[0])
        if self.reply.code == 421:
            return self._unavailable(rcpt, self.reply)
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
