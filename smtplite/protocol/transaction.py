"""Transaction: what to write next for one message, and what each reply means for its recipients.

One job, although long: every step, from RSET to the verdict, moves the same stage. Which replies mean which outcome
is the table in `outcomes`; which of them were given, and whether the rest is unknown, is decided here, without I/O.
`window` has several transactions under way on one connection; alone, one is driven like this::

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
from typing import Final, Self

import attrs

from smtplite.errors import (
    ConnectionLost,
    LocalProtocolError,
    RemoteProtocolError,
    SenderRefused,
    ServiceUnavailable,
    SMTPError,
    TLSError,
)
from smtplite.protocol.commands import Bdat, BdatLast, BdatProbe, Command, Data, EndOfData, Mail, Rcpt, Rset
from smtplite.protocol.connection import Connection
from smtplite.protocol.events import ContentRefused, Disconnected, Event, Replied, ServiceClosing
from smtplite.protocol.outcomes import (
    EnvelopeReplies,
    Outcome,
    RecipientOutcome,
    content_refused,
    delivery_unknown,
    is_limit,
    is_too_many,
    service_unavailable,
)
from smtplite.protocol.reply import Reply
from smtplite.protocol.state import RULES, State
from smtplite.protocol.whole import Whole

__all__ = ["MAX_CHUNK_BYTES", "Stage", "Transaction", "Transfer"]

#: A chunk of content that is not sent with its envelope; at most two chunks wait for their replies.
MAX_CHUNK_BYTES: Final = 262_144
_MAX_CHUNKS_OWED: Final = 2

#: States in which the last transaction is, or may be, still open at the server: RSET goes in front of the next MAIL.
_OPEN: Final = frozenset({State.MAIL, State.RCPT, State.FAILED, State.CHUNK, State.VERDICT})

#: Replies to BDAT of servers that did not know it, or would not have it here: they may read the chunk as commands.
_NO_CHUNKS: Final = frozenset({500, 502, 521, 530})


class Transfer(Enum):
    """How the content travels."""

    DATA = "behind the 354 to DATA, with dots doubled"
    PROOF = "in chunks, behind the replies to the envelope, in front of which the server proves that it swallows them"
    CHUNKS = "in chunks, behind the replies to the envelope"
    ONE_CHUNK = "in one chunk that is written with the envelope"


class Stage(Enum):
    """How far a transaction has come.

    It goes forward only, but for two things: a refusal of MAIL or of a chunk leads from CONTENT back to ENVELOPE, and a
    server that ignored all of it is asked once more from the beginning.
    """

    ENVELOPE = "replies are read; no content may be sent: not yet, or, behind a refusal, no more"
    CONTENT = "content may be sent"
    HANDED_OVER = "the last octet of the content was given away, and the verdict is owed"
    DONE = "every outcome is decided"

    __hash__ = object.__hash__


_ENVELOPE, _CONTENT, _HANDED_OVER, _DONE = Stage  # looked at for each reply: a name is found sooner than a member


class Transaction:
    """One mail transaction (RFC 5321 3.3; pipelined as RFC 2920 3.1 allows; with chunks, RFC 3030).

    Provisional until 1.0: what it is called and how it is driven may change in any release before that.

    Args:
        connection: greeted, and where MAIL may be sent now; a transaction that is open there is reset first.
        mail: the MAIL command, complete with its parameters.
        recipients: at least one RCPT command; each object once.
        require_all: send to nobody unless every recipient is accepted.
        pipelining: False: one command at a time, whatever the server offers.
        transfer: how the content travels; anything but DATA needs PIPELINING and CHUNKING.
        resets: begin with RSET, although the last transaction is over as far as its replies tell.
    """

    # What most transactions never change stands here, and not in each of them.

    #: True if the server answered 503 to all that stood behind an end of data, as if it had not been there.
    was_ignored = False
    #: True if BDAT does not do at this server: DATA, on another connection.
    refuses_chunks = False
    #: True if the connection must be closed and not used again.
    must_close = False
    #: Set when done and nobody was certainly delivered: what to raise. Its sets of recipients are not filled in.
    error: SMTPError | None = None
    _proof: Rset | None = None  # behind the proof's chunk, until its reply is read
    _chunk_ends: deque[int] | None = None  # as _content_end, of the chunks that are owed their acknowledgement
    _chunk_refusal: Reply | None = None
    _outcomes: tuple[RecipientOutcome, ...] = ()

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
        #: How far it has come.
        self.stage = _ENVELOPE
        self._connection = connection
        self._envelope = EnvelopeReplies(mail, recipients, require_all=require_all)
        #: How the content travels.
        self.transfer = transfer
        #: True if its first commands were written behind an end of data whose reply was owed.
        self.is_behind_dot = connection.newest_kind is EndOfData
        self._pipelining = pipelining and connection.extensions.pipelining
        #: The reply that ended the transaction: the verdict, or the refusal.
        self.reply: Reply | None = None
        self._owed = 0  # commands of ours that are owed a reply
        self._end: EndOfData | BdatLast | None = None
        #: Where its last octet lies among all the connection's; None: it was not handed over, or was taken back.
        self._content_end: int | None = None
        self._to_send = self._commands(resets=resets)  # not yet sent, newest first

    @classmethod
    def of_whole(cls, connection: Connection, whole: Whole) -> Self:
        """Return the transaction of a message that was written whole, as far as it has come."""
        mail, rcpts = whole.envelope.commands
        last = whole.last
        end: EndOfData | BdatLast | None
        if isinstance(last, BdatLast):
            transaction = cls(connection, mail, rcpts, transfer=Transfer.ONE_CHUNK)
            transaction.is_behind_dot = False
            end = last
        else:
            transaction = cls(connection, mail, rcpts)
            transaction.is_behind_dot = True
            transaction._envelope.data = last
            end = whole.end_of_data
        transaction._to_send.clear()
        transaction._owed = len(whole)
        if whole.replies is not None:
            transaction.note_usual(whole.replies)
            transaction._owed = 0 if end is None else 1
        if end is not None:
            transaction._hand_over(end)
            transaction._content_end = whole.content_end
        return transaction

    def _commands(self, *, resets: bool) -> list[Command]:
        """Return what comes before the content, newest first."""
        mail = self._envelope.mail
        commands: list[Command] = []
        if resets or self._connection.assumed_state in _OPEN:
            commands.append(Rset())
        if self.transfer is Transfer.PROOF:
            self._proof = Rset()
            commands += (attrs.evolve(mail), BdatProbe(), self._proof)
        commands.append(mail)
        commands += self._envelope.rcpts
        commands.reverse()
        return commands

    @property
    def is_done(self) -> bool:
        """True once the outcome of every recipient is decided and no reply of this transaction is owed."""
        return self.stage is _DONE

    @property
    def is_open(self) -> bool:
        """True while content may be sent, if need be after the next reply."""
        return self.stage is _CONTENT

    @property
    def wants_content(self) -> bool:
        """True while a piece of the content may be sent: call `send_content`."""
        return self.stage is _CONTENT and (not self._chunk_ends or len(self._chunk_ends) < _MAX_CHUNKS_OWED)

    @property
    def outcomes(self) -> tuple[RecipientOutcome, ...]:
        """What became of each recipient, in the order in which they were given.

        Raises:
            LocalProtocolError: it is not done.
        """
        if self.stage is not _DONE:
            raise LocalProtocolError("outcomes are not decided yet: drive the transaction until it is done")
        return self._outcomes

    @property
    def phase(self) -> str:
        """Where the dialogue stands, for errors: "mail", "rcpt", "data", "content", "end of data"."""
        if self.stage is _CONTENT:
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
        mail_reply = self._envelope.mail_reply
        if mail_reply is not None and mail_reply.code != 421:
            status = mail_reply.enhanced
            return mail_reply.code == 451 and status is not None and (status.subject, status.detail) == (4, 2)
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
        return isinstance(error, (ConnectionLost, TLSError)) or (
            isinstance(error, RemoteProtocolError)
            and error.phase == "rset"
            and error.reply is not None
            and error.reply.is_negative
        )

    @property
    def deferred(self) -> tuple[int, ...]:
        """The recipients, by index, that were too many for one transaction that succeeded (RFC 5321 4.5.3.1.10)."""
        envelope = self._envelope
        if envelope.accepted == len(envelope.rcpts) or not envelope.accepted or self.error is not None:
            return ()
        if self.reply is not None and self.reply.is_negative:
            return ()
        return tuple(index for index, reply in enumerate(envelope.rcpt_replies) if is_too_many(reply))

    @property
    def met_message_limit(self) -> bool:
        """True if MAIL was refused because the connection has carried enough (OpenSMTPD: 452 4.5.3)."""
        reply = self._envelope.mail_reply
        return reply is not None and reply.is_transient and is_limit(reply)

    # What to write

    def next_flight(self, whole: bytes | None = None) -> bytes:
        """Return all commands that may be written now, to share one write; b"" if replies must be read first.

        Args:
            whole: all of the content. If it may be written behind these commands as one chunk, it is, and is handed
                over: give it to the stream. Otherwise, and without it, `wants_content` says when it is to be sent.

        Raises:
            LocalProtocolError: they cannot be sent now; nothing changed.
        """
        to_send, envelope, pipelining = self._to_send, self._envelope, self._pipelining
        group: list[Command] = []
        if pipelining:
            group = to_send[::-1]
        elif to_send and self._connection.awaiting is None:
            group = to_send[-1:]
        data = None
        is_data = self.transfer is Transfer.DATA
        content_follows = False
        if len(group) == len(to_send) and self._end is None and self.stage is not _DONE:
            content_follows = (
                # MAIL, RCPT* and DATA, or the only chunk, in one write. Not where one refusal must keep the message
                # from all: what was sent already would deliver it, or an empty message, to those who were accepted.
                ((pipelining if is_data else self.transfer is Transfer.ONE_CHUNK) and not envelope.require_all)
                # Lockstep, or the policy waits for every RCPT: with nobody accepted, or not all, it would be done.
                or envelope.is_answered
            )
            if content_follows and is_data and envelope.data is None:
                data = Data()
                group.append(data)
        octets = b""
        if whole is not None and group and content_follows and self.transfer is Transfer.ONE_CHUNK:
            end = BdatLast(len(whole))
            written = self._connection.send_whole([*group, end], whole)
            if written is not None:
                self._owed += len(group) + 1
                to_send.clear()
                self._hand_over(end)
                return written
        if group:
            octets = self._connection.send_group(group)
            self._owed += len(group)
            if pipelining:
                to_send.clear()
            elif to_send:
                to_send.pop()
            if data is not None:
                envelope.data = data
        if content_follows and not is_data and self._chunk_refusal is None:
            self.stage = _CONTENT
        return octets

    def send_content(self, piece: bytes, *, last: bool = False, is_normalized: bool = False) -> bytes:
        """Return a piece of the content in its wire form.

        Args:
            piece: its octets; in chunks, at most MAX_CHUNK_BYTES, line endings CRLF.
            last: it ends here. The content is handed over from now on: give it to the stream.
            is_normalized: as in `Connection.send_content`.
        """
        connection = self._connection
        if self.transfer is Transfer.DATA:
            octets = connection.send_content(piece, is_normalized=is_normalized)
            if not last:
                return octets
            end: EndOfData | BdatLast = EndOfData()
            octets += connection.send(end)
            self._owed += 1
        else:
            chunk = end = BdatLast(len(piece)) if last else Bdat(len(piece))  # type: ignore[assignment]
            octets = connection.send(chunk) + connection.send_content(piece)
            self._owed += 1
            if not last:
                if self._chunk_ends is None:
                    self._chunk_ends = deque()
                self._chunk_ends.append(connection.octets_sent)
                return octets
        self._hand_over(end)
        return octets

    def _hand_over(self, end: EndOfData | BdatLast) -> None:
        """Note that all of the content was given away, up to here."""
        self._end = end
        self._content_end = self._connection.octets_sent
        self.stage = _HANDED_OVER

    def has_left(self, unsent: int) -> bool:
        """Return True if the last octet of the content is no longer with us.

        Args:
            unsent: octets at the end of all that was written to the stream that it did not take.
        """
        return self._content_end is not None and self._is_out(self._content_end, unsent)

    def _is_out(self, position: int, unsent: int) -> bool:
        return position <= self._connection.octets_sent - unsent

    def refuse_content(self) -> None:
        """Say that the content cannot be sent after all (the caller's source failed): close without its end.

        `error` stays None: the source's own is the one to raise. No-op once the outcome is decided.

        Raises:
            LocalProtocolError: it was handed over; nothing changed.
        """
        if self.stage is _DONE:
            return
        if self.stage is _HANDED_OVER:
            raise LocalProtocolError("content cannot be taken back: it was handed over, and its verdict is owed")
        self.must_close = True
        self._conclude()

    # What comes back

    def receive(self, event: Event, *, unsent: int = 0) -> None:
        """Take the next event of the connection. No-op once the outcome is decided.

        Args:
            event: a reply to a command of this transaction, or what concerns the connection as a whole.
            unsent: as in `has_left`, when the event was read.

        Raises:
            LocalProtocolError: the event is the reply to a RCPT of somebody else, or of a kind that answers no command
                of a transaction; nothing changed.
        """
        if self.stage is _DONE:
            return
        if type(event) is Replied:
            self._receive_reply(event, unsent)
        elif isinstance(event, ContentRefused):
            # A real refusal, though it came early: the end of data was never sent.
            self.reply = event.reply
            if event.reply.code == 421:
                self.fail(service_unavailable(event.reply, phase=self.phase))
                return
            self.must_close = True
            self._conclude(content_refused(event.reply, "DATA"), verdict=event.reply)
        elif isinstance(event, ServiceClosing):
            self.reply = event.reply
            self.fail(service_unavailable(event.reply, phase=self.phase))
        elif isinstance(event, Disconnected):
            phase = RULES[type(event.unanswered[0])].phase if event.unanswered else self.phase
            error = ConnectionLost("server closed the connection", phase=phase)
            self.fail(error, unsent=unsent, is_clean_end=not event.partial)
        else:
            raise LocalProtocolError(f"a transaction cannot take {type(event).__name__}: it sends no such command")

    def receive_usual(self) -> tuple[list[Command], list[Reply]] | None:
        """Take all the replies that are owed, if they are at hand and each is the usual one (see `usual`).

        All that was written must have left: `unsent` would be 0. If it is None, nothing changed: call `receive` with
        the next event. Otherwise these are the commands that were answered, and the replies.
        """
        owed, envelope, end = self._owed, self._envelope, self._end
        mail_reply, rcpt_replies = envelope.mail_reply, envelope.rcpt_replies
        if (
            not owed
            or self._proof is not None
            or self._chunk_ends  # each acknowledgement is looked at
            or self._chunk_refusal is not None
            or envelope.accepted != len(rcpt_replies)  # somebody was refused
            or (mail_reply is not None and mail_reply.code >= 400)
        ):
            return None
        if self.stage is not _HANDED_OVER and (
            self.stage is not _ENVELOPE or self._to_send or envelope.data is None or end is not None
        ):
            return None  # all of the envelope, DATA included, or all up to the verdict; a lone dot is neither
        taken = self._connection.take_usual(owed)
        if taken is None:
            return None
        self.note_usual(taken[1])
        return taken

    def note_usual(self, replies: Sequence[Reply]) -> None:
        """Take note of all the replies that were owed: each was the usual one."""
        envelope = self._envelope
        rcpt_replies = envelope.rcpt_replies
        self._owed = 0
        behind_rcpts = len(replies) - 1
        behind_mail = behind_rcpts - len(envelope.rcpts) + len(rcpt_replies)
        if envelope.mail_reply is None:
            envelope.mail_reply = replies[behind_mail - 1]
        rcpt_replies += replies[behind_mail:behind_rcpts]
        envelope.accepted = len(rcpt_replies)
        if self._end is None:
            self._receive_data_reply(replies[-1])
        else:
            self.reply = replies[-1]
            self._conclude(verdict=replies[-1])

    def _receive_reply(self, event: Replied, unsent: int) -> None:
        command, reply = event.command, event.reply
        envelope, kind = self._envelope, type(command)
        if kind is Rcpt:
            replies = envelope.rcpt_replies
            read = len(replies)
            if read == len(envelope.rcpts) or command is not envelope.rcpts[read]:
                raise LocalProtocolError(f"a transaction cannot take the reply to {command}: another one is awaited")
            self._owed -= 1
            if reply.code != 421 or self.stage is _HANDED_OVER:
                replies.append(reply)
                if reply.code < 400:
                    envelope.accepted += 1
                if read + 1 == len(envelope.rcpts):
                    self._finish_if_nobody()
                return
        elif event.is_final:
            self._owed -= 1
        if command is self._end:
            self._receive_verdict(event, unsent)
        elif reply.code == 421 and self.stage is not _HANDED_OVER:
            # Whatever the server still says to the rest of the group, it takes nothing.
            self.reply = reply
            self.fail(service_unavailable(reply, command))
        elif command is envelope.mail:
            envelope.mail_reply = reply
            if reply.code >= 400:
                self._receive_mail_refusal(reply)
        elif command is envelope.data:
            self._receive_data_reply(reply)
        elif isinstance(command, Bdat):
            self._receive_acknowledgement(reply, unsent)
        elif kind is BdatProbe:
            if reply.code in _NO_CHUNKS:
                self.refuses_chunks = True
        elif command is self._proof:  # 2yz, or it would have been a breach of the protocol
            self._proof = None

    def _receive_mail_refusal(self, reply: Reply) -> None:
        if reply.code == 503 and self.transfer is Transfer.PROOF:
            # Behind RSET it cannot be out of sequence: Dovecot's submission server does not pass on that RSET.
            self.refuses_chunks = True
        self.reply = reply
        self._to_send.clear()
        self._stop_content()
        self._finish_if_nobody()

    def _stop_content(self) -> None:
        """Send no more of the content; what is owed is still read."""
        if self.stage is _CONTENT:
            self.stage = _ENVELOPE

    def _finish_if_nobody(self) -> None:
        """End the transaction if nothing more is owed and nobody, or not everybody, was accepted."""
        if self._owed:
            return  # the rest of the group
        envelope = self._envelope
        mail_reply = envelope.mail_reply
        if self.transfer is Transfer.PROOF and mail_reply is not None and mail_reply.code == 503:
            # Behind RSET it cannot be out of sequence: Dovecot's submission server does not pass that RSET on in time.
            self.refuses_chunks = self.must_close = True
            self._conclude_unheard("server does not accept chunks: the connection was closed")
        elif envelope.mail_refusal is not None or not envelope.accepted or envelope.lacks_someone:
            if not self._begin_again():
                self._conclude_refused_envelope()
        elif self.refuses_chunks:
            self.must_close = True
            self._conclude(ConnectionLost("server does not accept chunks: the connection was closed", phase="rcpt"))

    def _begin_again(self) -> bool:
        """Begin once more if the server ignored all that was written behind an end of data; return True if so.

        Haraka answers 503 to each command that arrived in one piece with an end of data, and does nothing. RSET, alone,
        shows that both sides agree; then it goes on in lockstep.
        """
        envelope = self._envelope
        if not self.is_behind_dot or self.was_ignored or not envelope.was_out_of_sequence:
            return False
        self.was_ignored = True
        self.stage = _ENVELOPE
        self.reply = None
        self._envelope = EnvelopeReplies(envelope.mail, envelope.rcpts, require_all=envelope.require_all)
        self._pipelining = False
        self._to_send = self._commands(resets=True)
        return True

    def _receive_data_reply(self, reply: Reply) -> None:
        envelope = self._envelope
        envelope.data_reply = reply
        mail_reply = envelope.mail_reply
        if envelope.accepted and envelope.mail_refusal is None:
            if reply.is_intermediate:
                self.stage = _CONTENT
            else:  # not one octet of content
                self.reply = reply
                self._conclude(content_refused(reply, "DATA", phase="data"), verdict=reply)
            return
        if reply.is_intermediate:
            # A 354, but nobody to send to. The lone dot is safe only where the server has a transaction without
            # recipients; elsewhere it might end a message we know nothing of.
            if mail_reply is not None and mail_reply.is_positive and not self._connection.lmtp:
                self._end = EndOfData()
                self._to_send.append(self._end)
                return
            self.must_close = True
            if self.is_behind_dot and mail_reply is not None and mail_reply.code == 503:
                # Postfix keeps a transaction open whose end of data a policy refused: our commands joined that one.
                self._conclude_unheard("server kept the transaction before this one open")
                return
        elif self._begin_again():
            return
        self._conclude_refused_envelope()

    def _conclude_refused_envelope(self) -> None:
        error = self._envelope.refusal()
        self.reply = error.reply
        if isinstance(error, SenderRefused) and self._envelope.accepted:
            self.must_close = True  # it took a recipient for a transaction that it had refused
        self._conclude(error)

    def _conclude_unheard(self, why: str) -> None:
        """End a transaction of which nothing was sent, and whose replies say nothing about it."""
        self._envelope.forget()
        self._conclude(ConnectionLost(why, phase="mail"))

    def _receive_acknowledgement(self, reply: Reply, unsent: int) -> None:
        """Take the reply to a chunk that is not the last."""
        is_out = self._chunk_ends is not None and self._is_out(self._chunk_ends.popleft(), unsent)
        if reply.is_positive and not is_out:
            error = RemoteProtocolError(f"server answered {str(reply)[:80]!r} to BDAT before the chunk was sent")
            self.fail(error, unsent=unsent)
            return
        if reply.is_negative:
            self._stop_content()  # nothing is written behind a refusal
            self.must_close = self.must_close or not is_out  # nobody knows what the server takes the rest for
            self._chunk_refusal = self._chunk_refusal or reply
            if reply.code in _NO_CHUNKS:
                self.refuses_chunks = self.must_close = True
        if self._chunk_refusal is not None and not self._owed:
            self._conclude_refused_chunk(self._chunk_refusal)

    def _conclude_refused_chunk(self, reply: Reply) -> None:
        self.reply = reply
        self.must_close = self.must_close or self._connection.state is State.CLOSING
        self._conclude(content_refused(reply, "BDAT"), verdict=reply)

    def _receive_verdict(self, event: Replied, unsent: int) -> None:
        reply = event.reply
        envelope = self._envelope
        if self._content_end is None:  # of a lone dot; whatever it says, a 2yz too: nobody was accepted
            self.must_close = self.must_close or self._connection.state is State.CLOSING
            self._conclude_refused_envelope()
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
            envelope.verdicts[id(event.recipient)] = reply
        if not event.is_final:
            return
        if event.recipient is not None:  # of several verdicts, one that allows a retry tells more than the last
            reply = next((verdict for verdict in envelope.verdicts.values() if verdict.is_transient), reply)
        self.must_close = self.must_close or self._connection.state is State.CLOSING
        if type(self._end) is BdatLast and self._receive_last_acknowledgement(reply):
            return
        self.reply = reply
        self._conclude(verdict=None if event.recipient is not None else reply)

    def _receive_last_acknowledgement(self, reply: Reply) -> bool:
        """Judge the reply to the last chunk where it is not the verdict on the message; return True if it was not."""
        envelope = self._envelope
        if reply.code in _NO_CHUNKS:
            self.refuses_chunks = self.must_close = True
        refusal = envelope.mail_refusal or self._chunk_refusal
        if refusal is not None:
            is_of_mail = refusal is envelope.mail_refusal
            if reply.is_positive or (is_of_mail and envelope.accepted):
                what = "its MAIL" if is_of_mail else "a chunk"
                self.must_close = True
                self._conclude(unknown=RemoteProtocolError(f"server accepted a message although it had refused {what}"))
            elif is_of_mail:
                self._conclude_refused_envelope()
            else:
                self._conclude_refused_chunk(refusal)
            return True
        if envelope.accepted == 0:
            self.must_close = self.must_close or reply.is_positive  # it went to nobody; what it now has open who knows
            self._conclude_refused_envelope()
            return True
        return False

    def fail(self, error: SMTPError, *, unsent: int = 0, is_clean_end: bool = True) -> None:
        """Say that the session ended, and why; the stream is already aborted. No-op once the outcome is decided.

        Args:
            error: why.
            unsent: as in `has_left`.
            is_clean_end: False if octets came behind the last reply, or the server broke the protocol.
        """
        if self.stage is _DONE:
            return
        if error.phase is None:
            error.phase = self.phase
        self.must_close = True
        self._to_send.clear()
        envelope = self._envelope
        last = self._connection.last_reply
        closing = last if last is not None and last.code == 421 else None
        if self._proof is not None and closing is None:
            self.refuses_chunks = True
        if not self.has_left(unsent):
            self._content_end = None  # taken back
        if envelope.mail_refusal is not None or envelope.is_everyone_refused:
            self._conclude_refused_envelope()
        elif self._content_end is None:
            if self._chunk_refusal is not None and closing is None:
                self._conclude_refused_chunk(self._chunk_refusal)
            else:
                self._conclude(error)
        elif closing is not None and is_clean_end:
            self.reply = closing
            # A verdict of LMTP may have been the 421; else it answered a command of ours, or one before.
            self._conclude(None if envelope.verdicts else service_unavailable(closing, phase=self.phase))
        else:
            self._conclude(unknown=error)

    # What it all means

    def _conclude(
        self, error: SMTPError | None = None, *, verdict: Reply | None = None, unknown: SMTPError | None = None
    ) -> None:
        """Decide every recipient's outcome.

        Args:
            error: what to raise if nobody was delivered; None: derived from the verdicts.
            verdict: the one reply for all who were accepted; None: LMTP's, one by one, as far as they were read.
            unknown: why it is unknown for those who have no verdict; None: it is not.
        """
        self.stage = _DONE
        envelope = self._envelope
        if verdict is not None and verdict.is_positive and envelope.accepted == len(envelope.rcpts):
            # What the table says, without asking it for each: nearly every message ends here.
            self._outcomes = (RecipientOutcome(Outcome.ACCEPTED, verdict),) * len(envelope.rcpts)
            return
        self._outcomes = outcomes = envelope.outcomes(verdict, is_unknown=unknown is not None)
        kinds = {outcome.outcome for outcome in outcomes}
        if Outcome.ACCEPTED in kinds:
            return
        if unknown is not None:
            self.error = delivery_unknown(unknown) if Outcome.UNKNOWN in kinds else unknown
        elif error is None and self.reply is not None:
            end = "." if isinstance(self._end, EndOfData) else "BDAT LAST"
            self.error = content_refused(self.reply, end, phase="end of data")
        else:
            self.error = error
