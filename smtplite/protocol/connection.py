"""Connection: the FIFO of commands that await their replies.

One job, although long: commands in, octets out; octets in, events out. It does no I/O and keeps no time. Which command
is legal when, and what a reply makes of the state, stands in `state.RULES`; here are the counting (RFC 2920 3.1 forbids
to match replies to commands by anything else) and what needs more than a table: the content, LMTP's replies, the
unsolicited ones.

Commands, replies and events are values. What changes below `transaction` is the connection, with its parser and its
encoder.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Sequence
from itertools import islice
from typing import Final

from smtplite.errors import LocalProtocolError, RemoteProtocolError
from smtplite.protocol.commands import (
    Auth,
    AuthCancel,
    AuthResponse,
    Bdat,
    BdatLast,
    Command,
    Data,
    Ehlo,
    EndOfData,
    Greeting,
    Helo,
    Lhlo,
    Mail,
    Rcpt,
    Rset,
    StartTls,
)
from smtplite.protocol.envelope import EnvelopeCommands
from smtplite.protocol.events import (
    ChallengeReceived,
    ContentRefused,
    Disconnected,
    Event,
    Replied,
    ServiceClosing,
    TlsReady,
)
from smtplite.protocol.extensions import Extensions
from smtplite.protocol.redaction import Guard
from smtplite.protocol.reply import Reply, ReplyParser
from smtplite.protocol.state import AFTER, RESERVED_CODES, RULES, Occasion, State
from smtplite.protocol.transparency import ContentEncoder
from smtplite.protocol.usual import USUAL, Group, group_of, usual_codes
from smtplite.protocol.whole import Owed, Whole, octets_of, shape_of

__all__ = ["MAX_CHALLENGES", "Connection"]

#: Challenges in one authentication exchange (rule R6): no mechanism needs more than three.
MAX_CHALLENGES: Final = 6

_HELLO: Final = (Ehlo, Helo, Lhlo)
_AUTHENTICATION: Final = (Auth, AuthResponse, AuthCancel)
_ENDS_OF_DATA: Final = (EndOfData, BdatLast)
#: What a 250 leads to, for the commands that most replies answer.
_AFTER_250: Final = {kind: state for kind in (Mail, Rcpt) if (state := RULES[kind].after_success) is not None}
#: What the usual reply leads to.
_AFTER_USUAL: Final = {kind: state for kind in USUAL if (state := RULES[kind].after_success) is not None}
_BEGINS_SOMETHING: Final = frozenset({Bdat, BdatLast, EndOfData, *_AUTHENTICATION})
_ENDED: Final = (State.CLOSING, State.CLOSED)


class Connection:
    """One SMTP or LMTP connection, as the client sees it.

    Call `send` and write what it returns; give what the server sends to `receive_data`, then call `next_event` until
    it returns None. The greeting is owed from the start.

    Args:
        lmtp: speak LMTP (RFC 2033): LHLO, and a reply for each accepted recipient at the end of data.
    """

    #: Whether what is usual is written and read at once (see `usual`). It changes nothing but the time that it takes:
    #: tests turn it off, and compare.
    _at_once = True

    def __init__(self, *, lmtp: bool = False) -> None:
        self.lmtp = lmtp
        #: What the server offered in its last reply to EHLO; empty before, after HELO, and again after STARTTLS.
        self.extensions = Extensions()
        #: True once TLS is established.
        self.is_tls = False
        #: True once the server said 235.
        self.is_authenticated = False
        #: How many bytes `send` and `send_content` have returned, in all.
        self.octets_sent = 0
        #: The last reply that an event brought.
        self.last_reply: Reply | None = None
        #: What the replies read so far have made of the connection.
        self.state = State.GREETING
        self._pending = Owed((Greeting(),))
        self._parser = ReplyParser()
        self._eof = False
        self._close_reported = False
        self._violation: str | None = None
        self._challenges = 0
        self._guard = Guard()
        self._encoder: ContentEncoder | None = None  # between 354 and EndOfData
        self._chunk_left = 0  # octets of the newest BDAT's chunk that were not yet given to send_content
        self._accepted: list[Rcpt] = []  # LMTP: the recipients of this transaction that were taken, in order
        self._verdicts = 0  # LMTP: replies read for the end of data at the head of the queue

    # What the connection is

    @property
    def assumed_state(self) -> State:
        """What the connection will be if every reply that is owed is a success: what the next command must fit."""
        newest = self._pending.newest_kind
        if newest is None or self.state in _ENDED:  # behind a 421, or a breach of the protocol, nothing succeeds
            return self.state
        return RULES[newest].while_owed or self.state

    @property
    def pending(self) -> tuple[Command, ...]:
        """The commands that are owed a reply, oldest first."""
        return self._pending.everything

    @property
    def awaiting(self) -> Command | None:
        """The command whose reply comes next, or None if none is owed."""
        return self._pending.oldest

    @property
    def oldest_kind(self) -> type[Command] | None:
        """The class of the command whose reply comes next, or None if none is owed."""
        return self._pending.oldest_kind

    @property
    def newest_kind(self) -> type[Command] | None:
        """The class of the command whose reply comes last, or None if none is owed."""
        return self._pending.newest_kind

    @property
    def owed(self) -> int:
        """How many commands are owed a reply."""
        return self._pending.total

    @property
    def has_unread(self) -> bool:
        """True if there are bytes from the server that no event has reported."""
        return self._parser.has_data

    @property
    def may_have_event(self) -> bool:
        """True if `next_event` may return something without more bytes."""
        return self._parser.has_data or self._eof or self._violation is not None

    @property
    def wants_content(self) -> bool:
        """True while `send_content` is legal: after 354 or a BDAT, until the content is complete."""
        if self._encoder is not None:
            return self.state is State.DATA
        return self._chunk_left > 0 and self.state not in _ENDED

    # What we send

    def send(self, command: Command) -> bytes:
        """Return the bytes that send this command, and await its reply.

        Raises:
            LocalProtocolError: the command is illegal now; nothing changed.
        """
        self._pending.unfold()
        pending = self._pending
        data = self._check(command, pending[-1] if pending else None, self._chunk_left)
        pending.append(command)
        self._guard.is_up = False
        if type(command) in _BEGINS_SOMETHING:
            self._begin(command)
        self.octets_sent += len(data)
        return data

    def send_group(self, commands: Sequence[Command]) -> bytes:
        """Return the octets of commands that share a write, and await their replies.

        Raises:
            LocalProtocolError: one of them is illegal where it stands; nothing changed.
        """
        self._pending.unfold()
        group = group_of(commands) if self._at_once else None
        if group is not None and not group.has_chunk and self._takes(group, self._pending.newest_kind):
            self._pending.extend(commands)
            self._guard.is_up = False
            data = b"".join([command.to_bytes() for command in commands])
            self.octets_sent += len(data)
            return data
        pending = self._pending
        newest = pending[-1] if pending else None
        chunk_left = self._chunk_left
        octets = []
        for command in commands:
            octets.append(self._check(command, newest, chunk_left))
            newest = command
            chunk_left = command.size if isinstance(command, Bdat) else 0
        pending.extend(commands)  # all of them are legal: only now something changes
        self._guard.is_up = False
        for command in commands:
            if type(command) in _BEGINS_SOMETHING:
                self._begin(command)
        data = b"".join(octets)
        self.octets_sent += len(data)
        return data

    def send_whole(self, commands: Sequence[Command], content: bytes) -> bytes | None:
        """Return the octets of a group that ends in BDAT LAST, with the chunk; None: it must be sent step by step.

        If it is None, nothing changed.
        """
        self._pending.unfold()
        group = group_of(commands) if self._at_once else None
        if group is None or not group.has_chunk or not self._takes(group, self._pending.newest_kind):
            return None
        last = commands[-1]
        if not isinstance(last, BdatLast) or last.size != len(content):
            return None
        self._pending.extend(commands)
        self._guard.is_up = False
        octets = [command.to_bytes() for command in commands]
        octets.append(content)
        data = b"".join(octets)
        self.octets_sent += len(data)
        return data

    def send_message(self, envelope: EnvelopeCommands, content: bytes | None) -> tuple[bytes, Whole] | None:
        """Return the octets of a message, and what stands for its commands; None: it must be sent step by step.

        With content, that is `send_whole` of MAIL, the RCPTs and BDAT LAST; with RSET in front if the last message is
        owed its verdict. Without, it is `send_group` of MAIL, the RCPTs and DATA behind the end of another message's
        content. If it is None, nothing changed.
        """
        newest = self._pending.newest_kind
        resets = newest is BdatLast
        is_first = newest is None and self.state is State.READY
        has_place = newest is EndOfData if content is None else resets or is_first
        if not has_place or not self._at_once:
            return None
        shape = shape_of(len(envelope.recipients), has_chunk=content is not None, resets=resets)
        if shape is None or not self._takes(shape[0], newest):
            return None
        data = octets_of(envelope, content, resets=resets)
        self._guard.is_up = False
        self.octets_sent += len(data)
        if content is None:
            whole = Whole(envelope, shape[1], size=None, content_end=None)
        else:
            whole = Whole(envelope, shape[1], size=len(content), content_end=self.octets_sent)
        self._pending.wholes.append(whole)
        return data, whole

    def _takes(self, group: Group, newest: type[Command] | None) -> bool:
        """Return True if a group is legal behind this command, as `_check` would say of each of its commands.

        If it is False, that must be asked.
        """
        if self.lmtp or self._chunk_left or not self.extensions.pipelining:
            return False
        if group.has_chunk and not self.extensions.chunking:
            return False
        state = self.state
        if newest is not None:
            rule = RULES[newest]
            if rule.ends_group or state in _ENDED:
                return False
            state = rule.while_owed or state
        elif self._parser.has_data:
            return False
        return state in group.legal_in

    def _check(self, command: Command, newest: Command | None, chunk_left: int) -> bytes:
        """Return the octets of a command that is legal behind `newest`, the last that will be owed a reply before it.

        Raises:
            LocalProtocolError: it is not.
        """
        rule = RULES[type(command)]
        state = self.state
        if newest is not None:
            newest_rule = RULES[type(newest)]
            if newest_rule.ends_lmtp_group if self.lmtp else newest_rule.ends_group:
                raise LocalProtocolError(f"{rule.verb} cannot be sent before the reply to {newest_rule.verb} is read")
            if not self.extensions.pipelining:
                raise LocalProtocolError(
                    f"{rule.verb} cannot be sent before the reply to {newest_rule.verb} is read: "
                    "the server does not offer PIPELINING"
                )
            if state not in _ENDED:
                state = newest_rule.while_owed or state
        elif self._parser.has_data:
            raise LocalProtocolError(f"{rule.verb} cannot be sent: bytes that nobody asked for are waiting to be read")
        if state not in rule.legal_in:
            raise LocalProtocolError(f"{rule.verb} cannot be sent now: {state.value}")
        if chunk_left:
            raise LocalProtocolError(f"{rule.verb} cannot be sent: {chunk_left} bytes of the chunk are missing")
        if type(command) is EndOfData:
            if self.lmtp and not self._accepted:
                raise LocalProtocolError("the end of data cannot be sent in LMTP without a recipient: close instead")
            if self._encoder is not None and not self._encoder.at_line_start:
                # The content ended in the middle of a line: the dot needs a line of its own (RFC 5321 4.1.1.4).
                return b"\r\n.\r\n"
        elif rule.is_special:
            self._check_session(command, rule.requires)
        return command.to_bytes()

    def _begin(self, command: Command) -> None:
        """Note what a command begins, or ends, beside the state."""
        if isinstance(command, Bdat):
            self._chunk_left = command.size
        elif isinstance(command, _AUTHENTICATION):
            if isinstance(command, Auth):
                self._challenges = 0
            self._guard.watch(command)
        else:  # the end of data
            self._encoder = None

    def _check_session(self, command: Command, requires: str | None) -> None:
        if isinstance(command, _HELLO) and isinstance(command, Lhlo) is not self.lmtp:
            raise LocalProtocolError(
                f"{command.verb} cannot be sent in {'LMTP: LHLO' if self.lmtp else 'SMTP: EHLO'} is"
            )
        if requires is not None and requires not in self.extensions:
            raise LocalProtocolError(f"{command.verb} cannot be sent: the server does not offer {requires}")
        if type(command) is StartTls:
            if self.is_tls:
                raise LocalProtocolError("STARTTLS cannot be sent inside TLS")
            if self._parser.has_data:  # a 220 that was there before the command must not answer it (rule R13)
                raise LocalProtocolError("STARTTLS cannot be sent while bytes from the server are unread")
        if type(command) is Auth and self.is_authenticated:
            raise LocalProtocolError("AUTH cannot be sent again: the session is authenticated")

    def send_content(self, chunk: bytes, *, is_normalized: bool = False) -> bytes:
        """Return the bytes that send this piece of the content.

        Between the 354 to DATA and EndOfData: line endings made CRLF, leading dots doubled, in pieces of any size.
        Behind a BDAT: the chunk's octets as they are, until the announced number is reached.

        Args:
            chunk: the piece.
            is_normalized: the line endings of all the content are known to be CRLF, and are not looked at again.

        Raises:
            LocalProtocolError: no content is awaited, or it is more than BDAT announced; nothing changed.
        """
        if self._encoder is not None:
            if self.state is not State.DATA:
                raise LocalProtocolError(f"content cannot be sent now: {self.state.value}")
            encoded = self._encoder.encode(chunk, is_normalized=is_normalized)
            self.octets_sent += len(encoded)
            return encoded
        if not chunk:
            return chunk
        if len(chunk) > self._chunk_left or self.state in _ENDED:
            raise LocalProtocolError(
                f"{len(chunk)} bytes of content cannot be sent now: {self._chunk_left} are awaited"
                if self.wants_content
                else f"content cannot be sent now: {self.state.value}"
            )
        self._chunk_left -= len(chunk)
        self.octets_sent += len(chunk)
        return chunk

    def tls_established(self) -> None:
        """Say that TLS is up: before the greeting (implicit TLS), or after `TlsReady`.

        After STARTTLS all knowledge of the server is forgotten; EHLO comes next (RFC 3207 4.2).

        Raises:
            LocalProtocolError: TLS cannot begin here; nothing changed.
        """
        if self.is_tls or (self.state is not State.TLS and self.state is not State.GREETING):
            raise LocalProtocolError(f"TLS cannot begin now: {self.state.value}")
        if self._parser.has_data:
            raise LocalProtocolError("TLS cannot begin now: bytes sent unencrypted are waiting to be read")
        self.is_tls = True
        self.is_authenticated = False
        self.extensions = Extensions()
        if self.state is State.TLS:
            self.state = AFTER[Occasion.TLS_ESTABLISHED]

    # What we receive

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the server; b"" means that it closed the connection. Call `next_event` afterwards."""
        if data:
            self._parser.receive_data(data)
        else:
            self._eof = True

    def next_event(self) -> Event | None:
        """Return what happened next, or None if more data is needed.

        Raises:
            RemoteProtocolError: the server broke the protocol. The connection is CLOSED; every further call raises
                the same.
        """
        if self._violation is not None:
            raise RemoteProtocolError(self._violation)
        try:
            command = self.awaiting
            if command is None:
                return self._unsolicited()
            # The replies to hello carry no enhanced codes (RFC 2034 3); before it nothing is known to be offered.
            enhanced = self.extensions.enhanced_status_codes and not isinstance(command, _HELLO)
            reply = self._parser.next_reply(enhanced=enhanced, shown=self._guard.shown)
            if reply is None:
                return self._end() if self._eof else None
            self._pending.unfold_oldest()
            return self._answer(command, reply)
        except RemoteProtocolError as error:
            self._violation = str(error)
            self.state = AFTER[Occasion.BREACH]
            raise

    def take_usual(self, count: int) -> tuple[list[Command], list[Reply]] | None:
        """Take the replies to the oldest commands, if all are at hand and the usual ones; None: call `next_event`.

        That is, 250, and 354 to DATA; each on one line, and of commands that a mail transaction consists of. Where it
        is None, nothing was taken. Otherwise all is as if `next_event` had returned them, one after the other.

        Args:
            count: of how many commands.
        """
        pending = self._pending
        if not self._at_once or self.lmtp or self._chunk_left or len(pending) < count or self.state in _ENDED:
            return None
        commands = list(pending) if len(pending) == count else list(islice(pending, count))
        codes = usual_codes(tuple(map(type, commands)))
        if codes is None:
            return None
        replies = self._parser.take(codes, enhanced=self.extensions.enhanced_status_codes)
        if replies is None:
            return None
        if len(pending) == count:
            pending.clear()
        else:
            for _ in commands:
                pending.popleft()
        self.last_reply = replies[-1]
        kind = type(commands[-1])
        self.state = _AFTER_USUAL[kind]
        if kind is Data:
            self._encoder = ContentEncoder()
        return commands, replies

    def take_whole(self) -> list[Reply] | None:
        """Take the replies to what `send_message` sent first, as `take_usual` does; None: call `next_event`."""
        pending = self._pending
        if pending or not pending.wholes or not self._at_once or self.state in _ENDED:
            return None
        whole = pending.wholes[0]
        replies = self._parser.take(whole.codes, enhanced=self.extensions.enhanced_status_codes)
        if replies is not None:
            pending.wholes.popleft()
            self.last_reply = replies[-1]
            kind = whole.last_kind
            self.state = _AFTER_USUAL[kind]
            if kind is Data:
                self._encoder = ContentEncoder()
        return replies

    def _answer(self, command: Command, reply: Reply) -> Event:
        kind = type(command)
        if reply.code == 250 and kind in _AFTER_250 and not self.lmtp:  # most replies, by far
            self.last_reply = reply
            self._pending.popleft()
            if self.state is not State.CLOSING:
                self.state = _AFTER_250[kind]
            return Replied(command, reply)
        if self._guard.is_up:
            reply = self._guard.shown_reply(reply)
        rule = RULES[kind]
        code = reply.code
        self.last_reply = reply
        if code == 421:
            self.state = AFTER[Occasion.SERVICE_CLOSING]  # and there it stays, whatever replies follow: see _advance
        elif code // 100 not in rule.expected or (
            code < 400
            and (
                (code in RESERVED_CODES and kind not in RESERVED_CODES[code])
                or (rule.code is not None and code != rule.code and code != 334)
            )
        ):
            raise RemoteProtocolError(
                f"server answered {str(reply)[:80]!r} to {rule.verb}", reply=reply, phase=rule.phase
            )
        if self._chunk_left and command is self._pending[-1]:
            return self._answer_to_unfinished_chunk(command, reply)
        if self.lmtp:
            if kind in _ENDS_OF_DATA:
                return self._lmtp_verdict(command, reply)
            self._note_recipient(command, reply)
        if code == 334 and isinstance(command, (Auth, AuthResponse, AuthCancel)):  # to others it breaks the protocol
            return self._challenge(command, reply)
        self._pending.popleft()
        if code >= 400:
            self._advance(rule.after_failure)
            return Replied(command, reply)
        self._advance(rule.after_success)
        if kind is Data:
            self._encoder = ContentEncoder()
        elif isinstance(command, _HELLO):
            self.extensions = Extensions() if kind is Helo else Extensions.from_reply(reply)
        elif isinstance(command, StartTls):
            if self._parser.has_data:
                raise RemoteProtocolError(self._injected())
            return TlsReady(command, reply)
        elif isinstance(command, _AUTHENTICATION):
            self.is_authenticated = True
        return Replied(command, reply)

    def _injected(self) -> str:
        return f"server sent {self._guard.shown(self._parser.unread)[:80]!r} unencrypted after its 220 to STARTTLS"

    def _advance(self, state: State | None) -> None:
        if state is not None and self.state is not State.CLOSING:
            self.state = state

    def _answer_to_unfinished_chunk(self, command: Command, reply: Reply) -> Event:
        if not reply.is_negative:
            raise RemoteProtocolError(f"server answered {str(reply)[:80]!r} to BDAT before the chunk was sent")
        # A real refusal; but nobody can say what the server would take the rest of the chunk for.
        self._pending.popleft()
        self._chunk_left = 0
        self.state = AFTER[Occasion.REFUSED_IN_CONTENT]
        return Replied(command, reply)

    def _challenge(self, command: Auth | AuthResponse | AuthCancel, reply: Reply) -> Event:
        self._challenges += 1
        if self._challenges > MAX_CHALLENGES:
            raise RemoteProtocolError(f"server sent more than {MAX_CHALLENGES} challenges to one AUTH")
        self._pending.popleft()
        self._advance(RULES[type(command)].after_challenge)
        try:
            challenge = b64decode(reply.lines[-1].strip(), validate=True) if len(reply.lines) == 1 else None
        except binascii.Error:
            challenge = None
        return ChallengeReceived(command, reply, challenge)

    def _note_recipient(self, command: Command, reply: Reply) -> None:
        """Keep the list of LMTP's accepted recipients, each of whom is owed a reply at the end of data."""
        if isinstance(command, Rcpt):
            if reply.is_positive:
                self._accepted.append(command)
        elif isinstance(command, (Mail, Rset, Lhlo)) and reply.is_positive:  # refused, it leaves all as it was
            self._accepted.clear()

    def _lmtp_verdict(self, command: Command, reply: Reply) -> Event:
        """Count one of the replies to LMTP's end of data: one for each accepted recipient (RFC 2033 4.2)."""
        accepted = self._accepted
        recipient = accepted[self._verdicts] if accepted else None
        self._verdicts += 1
        if self._verdicts < len(accepted) and not self._answers_for_all(reply):
            return Replied(command, reply, recipient, is_final=False)
        if self._verdicts < len(accepted):
            # Should further replies follow all the same, they must not answer what comes next: nothing comes next.
            self.state = AFTER[Occasion.ONE_FOR_ALL]
            recipient = None
        rule = RULES[type(command)]
        self._pending.popleft()
        self._verdicts = 0
        accepted.clear()
        self._advance(rule.after_failure if reply.is_negative else rule.after_success)
        return Replied(command, reply, recipient)

    def _answers_for_all(self, reply: Reply) -> bool:
        # The command itself was not understood or not allowed: Dovecot answers that once, whatever was accepted.
        return self._verdicts == 1 and (500 <= reply.code <= 509 or reply.code == 530)

    def _unsolicited(self) -> Event | None:
        """Judge what comes while nothing is owed (rules R3, R8): as soon as it can be told, not once it is complete."""
        parser = self._parser
        if self.state in _ENDED:
            parser.discard()  # whatever comes behind the last word changes nothing
        elif parser.has_data:
            if self.state is State.TLS:
                raise RemoteProtocolError(self._injected())
            in_content = self.state is State.DATA
            if not in_content and not b"421".startswith(parser.partial_code):
                raise RemoteProtocolError(
                    f"server sent {self._guard.shown(parser.unread)[:80]!r} although no reply was owed"
                )
            reply = parser.next_reply(enhanced=self.extensions.enhanced_status_codes, shown=self._guard.shown)
            if reply is not None:
                reply = self._guard.shown_reply(reply)
                if not reply.is_negative:
                    raise RemoteProtocolError(f"server sent {str(reply)[:80]!r} before the end of data")
                self.state = AFTER[Occasion.REFUSED_IN_CONTENT if in_content else Occasion.SERVICE_CLOSING]
                self.last_reply = reply
                return ContentRefused(reply) if in_content else ServiceClosing(reply)
        return self._end() if self._eof else None

    def _end(self) -> Disconnected | None:
        if self._close_reported:
            return None
        self._close_reported = True
        self.state = AFTER[Occasion.END_OF_OCTETS]
        unanswered = self.pending
        self._pending.forget()
        partial = self._guard.shown(self._parser.unread)
        self._parser.discard()
        return Disconnected(unanswered, partial)
