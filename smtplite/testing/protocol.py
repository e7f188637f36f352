"""The sans-IO half of the testing server: bytes of the client in, bytes of the server out.

One job, although long: one state machine, whose methods share the turn that they are called in.

It is an oracle. It reads what the client wrote with a parser of its own, and understands each byte only as RFC 5321
does. When the client makes a mistake, it answers as a server would, and records the mistake in
`ServerConnection.violations`.

Theory of operation:

1. `ServerConnection.feed` hands the bytes to one of three readers: of a line, of the content after a 354, of the
   chunk after a BDAT. Each uses up what it can, and may choose the next reader. A line is a command, or a response
   within an authentication exchange.
2. A command line goes to the method of its verb (`_COMMANDS`). It either refuses what is misspelt (`_Refusal`), or
   settles the command: it works out the server's own reply and lets the script replace it (`_settle`), and performs
   the command if that reply was positive.
3. A message is committed to the mailbox before `feed` returns the reply that says so.
4. TLS is the shell's: `begins_tls` tells it to begin after the bytes returned last, and it calls `tls_established`,
   also where TLS comes first of all. From there on it feeds what it decrypted.
5. No violation and no reply of our own quotes what may be a credential: nothing after AUTH in a line, no response,
   and no line after AUTH until the next one that begins with a verb we know.
6. A reply that is held (`Hold`) ends the turn: what stands before it is returned, it and all that follows are kept,
   and what the client sends meanwhile waits unread, until `ServerConnection.resume` goes on.
7. Neither the clock nor chance is asked: the same bytes are answered with the same bytes. The one exception is the
   nonce of SCRAM and CRAM-MD5, unless `ServerConfig.auth_nonce` gives it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Collection
from typing import Literal

import attrs

from smtplite.testing.config import ServerConfig
from smtplite.testing.content import BARE_LF, ContentCheck, DotDecoder
from smtplite.testing.grammar import (
    BadSyntax,
    is_domain,
    read_parameters,
    read_parameters_anyhow,
    read_path,
    read_path_anyhow,
)
from smtplite.testing.message import (
    Commitment,
    Mailbox,
    Parameters,
    ReceivedMessage,
    Refusal,
    RefusedMessage,
    Violation,
)
from smtplite.testing.parameters import MAX_ENVID_BYTES, MAX_ORCPT_BYTES, PARAMETERS, declared_size
from smtplite.testing.record import Record
from smtplite.testing.sasl import (
    MECHANISMS,
    Challenge,
    Exchange,
    Failure,
    Step,
    Success,
    decode_response,
    encode_challenge,
    offered_mechanisms,
)
from smtplite.testing.script import Hold, Script, ScriptedReply

__all__ = ["ServerConnection"]

#: With CRLF; extensions add to it (RFC 5321 section 4.5.3.1.4).
MAX_COMMAND_LINE_BYTES = 512
#: Longer ones are not read, even where the server is not strict. Postfix takes as much.
MAX_LENIENT_LINE_BYTES = 12_288
#: Within an authentication exchange (RFC 4954 section 4.3).
MAX_RESPONSE_LINE_BYTES = 12_288
#: RFC 1870 section 3.
SIZE_MAIL_BYTES = 26
#: RFC 6152 section 2.
EIGHT_BIT_MAIL_BYTES = 17
#: RFC 6531 section 3.1.
SMTPUTF8_MAIL_BYTES = 10
#: RFC 3030 section 3.
BINARY_MAIL_BYTES = 16
#: RFC 8689 section 2.
REQUIRETLS_MAIL_BYTES = 11
#: RFC 2852 section 2.
DELIVER_BY_MAIL_BYTES = 17
#: RFC 4865 section 3.
FUTURE_RELEASE_MAIL_BYTES = 34
#: RFC 6710 section 3.
PRIORITY_MAIL_BYTES = 15
DSN_MAIL_BYTES = len(" RET=FULL ENVID=") + MAX_ENVID_BYTES
DSN_RCPT_BYTES = len(" NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=") + MAX_ORCPT_BYTES
#: For `ServerExtensions.extra_parameters`, if there are any.
EXTRA_PARAMETER_BYTES = 500
#: Where SIZE gives no lower limit.
MAX_CONTENT_BYTES = 1024 * 1024 * 1024
#: Accepted in one transaction.
MAX_RECIPIENTS = 100_000
#: Of content that ran as commands, written down of one connection.
MAX_EXECUTED_LINES = 1_000
#: Of a client's line in a violation or a reply.
MAX_QUOTED_CHARS = 80
#: Of a line without meaning in a long reply, CRLF included (RFC 5321 section 4.5.3.1.5).
FILLER_LINE_BYTES = 512

_CHUNK = re.compile(r"([0-9]{1,20})( LAST)?", re.IGNORECASE)
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
#: RFC 2920 section 3.1, RFC 3207 section 4, RFC 4954 section 3; and HELO, which cannot know of PIPELINING yet.
#:
#: Commands that we do not know are such, too.
_LAST_IN_GROUP = frozenset({"EHLO", "HELO", "LHLO", "DATA", "NOOP", "VRFY", "EXPN", "QUIT", "STARTTLS", "AUTH"})
_ANYWHERE_IN_GROUP = frozenset({"MAIL", "RCPT", "RSET", "BDAT", "HELP", "END_OF_DATA"})
#: RFC 3207 section 4, and HELP and HELO, as servers do.
_BEFORE_TLS = frozenset({"EHLO", "HELO", "LHLO", "NOOP", "STARTTLS", "HELP", "QUIT"})
#: RFC 4954 section 6.
_BEFORE_AUTH = _BEFORE_TLS | {"AUTH", "RSET"}
_AUTH_COMMAND = re.compile(rb"(?:^|[\x00-\x20])AUTH(?![A-Za-z0-9=])", re.IGNORECASE)

Via = Literal["DATA", "BDAT"]


@attrs.frozen
class _Reply:
    code: int
    enhanced: str
    text: str


@attrs.frozen
class _Settled:
    """What became of a command."""

    positive: bool
    performed: bool


class _Refusal(Exception):
    """The command is not one that can be settled: it is answered with this reply, and written down."""

    def __init__(self, code: int, enhanced: str, text: str, violation: str) -> None:
        super().__init__(violation)
        self.reply = _Reply(code, enhanced, text)
        self.violation = violation


@attrs.define
class _Dialogue:
    """One authentication exchange, as the lines of the client drive it."""

    #: None: the command was refused, and a script made an exchange of it.
    exchange: Exchange | None
    #: The final step, once it was reached and a script put a challenge in its place.
    outcome: Step | None = None


@attrs.define
class _Transaction:
    """One mail transaction.

    RFC 5321 section 3.3.
    """

    sender: str
    parameters: Parameters
    limit: int
    check: ContentCheck
    #: The forward-paths that were accepted; `recipient_parameters` are theirs.
    recipients: list[str] = attrs.field(factory=list)
    recipient_parameters: list[Parameters] = attrs.field(factory=list)
    #: Of RCPT, refused ones too.
    rcpt_count: int = 0
    chunks_begun: bool = False
    content: bytearray = attrs.field(factory=bytearray)
    size: int = 0
    #: Follows a scripted 354 without a MAIL: its content is read, and belongs to nobody.
    is_void: bool = False

    @property
    def is_too_big(self) -> bool:
        return self.size > self.limit

    def begin_anew(self) -> None:
        """Forget the content; reverse-path and recipients stay."""
        self.chunks_begun = False
        self.content = bytearray()
        self.size = 0
        self.check = _check(self.parameters)

    def add(self, piece: bytes) -> None:
        self.size += len(piece)
        self.check.feed(piece)
        if self.is_too_big:
            # Refused whatever follows: only its length still matters
            self.content = bytearray()
        else:
            self.content += piece


@attrs.define
class _Chunk:
    left: int
    is_last: bool
    #: What the chunk will be answered once its bytes were swallowed (RFC 3030 section 2).
    refusal: _Reply | None
    scripted: ScriptedReply | None = None
    #: Whether the script was asked already.
    is_settled: bool = False


@attrs.define
class _Verdict:
    """A reply to end of data."""

    reply: _Reply
    scripted: ScriptedReply | None
    is_taken: bool
    #: For whom it is in LMTP.
    recipient: str | None = None


class ServerConnection:
    """One connection of an ESMTP or LMTP server, without I/O.

    Send `greeting()`, then hand each piece that the client sends to `feed`, its end as an empty one, and send what it
    returns; when `closing` is true, close after it; when `begins_tls` is, take the server's part in a TLS handshake,
    call `tls_established` and go on inside; when `is_held` is, wait until the hold is released and send what `resume`
    returns. The bytes may be cut anywhere: replies, messages and violations are the same. Only what was written too
    early (pipelining, bytes after a command that ends its group; with `ServerQuirks.refuses_after_dot`, commands
    after a dot) can be seen where it arrives together with the command.

    `committed` is what the server answers for: complete before a reply that says so is returned.

    Args:
        config: how the server behaves.
        mailbox: where accepted messages go.
        script: the scripted replies that several connections share; without it those of `config` alone.
    """

    def __init__(
        self, config: ServerConfig | None = None, mailbox: Mailbox | None = None, *, script: Script | None = None
    ) -> None:
        self.config = config if config is not None else ServerConfig()
        self.mailbox = mailbox if mailbox is not None else Mailbox()
        self.script = script if script is not None else Script(self.config.replies)
        #: Whether the server wants to close after the bytes that were returned last.
        self.closing = False
        #: Whether it closes with an alert, inside TLS.
        self.alerts = False
        #: Whether the TLS handshake begins after the bytes that were returned last.
        self.begins_tls = False
        #: The version of TLS, as `tls_established` was told; None: unencrypted.
        self.tls: str | None = None
        #: Who the client is, by AUTH; empty: a scripted 235 ended the exchange before the server knew.
        self.authenticated_as: str | None = None
        #: The lines that ran as commands and were content: of a chunk whose BDAT was refused, where the quirk
        #: `ServerQuirks.executes_refused_chunks` is on, or not known. None of them is a violation.
        self.executed_content: list[bytes] = []

        self._record = Record()
        self._out: list[bytes] = []
        # Where in _out a reply stands that is held. After the turn: what is kept, and what it waits for
        self._holds: list[tuple[int, Hold]] = []
        self._kept: deque[tuple[Hold, bytes]] = deque()
        self._backlog = bytearray()
        # What is to be done about content that is complete, and was stopped in its middle
        self._unfinished: Callable[[], None] | None = None
        self._closes_later = self._begins_tls_later = False

        self._read: Callable[[bytes, int], int] = self._read_line
        self._line = bytearray()
        self._line_is_too_long = False
        self._line_ends_in_cr = False
        self._number = 0
        # The verb answered last, as long as nothing came after it; None: what follows belongs to the command
        self._answered: str | None = None

        # How many of the next bytes belong to a refused chunk that was not swallowed, and whether the line does
        self._stray = 0
        self._new_stray = 0
        self._line_is_stray = False
        # Whether an end of data came in this turn whose followers are to be refused, and where its verdict stands
        self._is_after_dot = False
        self._verdict_at = 0

        # The last line with a verb that we know was AUTH: what we do not know may be a credential
        self._is_after_auth = False
        self._dialogue: _Dialogue | None = None
        self._peer: str | None = None

        self._refuses_service = False
        self._helo: str | None = None
        self._is_extended = False
        self._mail_was_refused = False
        self._must_reset = False
        self._transaction_count = 0
        self._taken_count = 0
        self._transaction: _Transaction | None = None
        # Outlived its refused BDAT, and is taken up by the next MAIL
        self._outlived: _Transaction | None = None
        self._decoder = DotDecoder()
        self._chunk = _Chunk(0, False, None)

        extensions = self.config.extensions
        extra = EXTRA_PARAMETER_BYTES if extensions.extra_parameters else 0
        smtputf8 = SMTPUTF8_MAIL_BYTES if extensions.smtputf8 else 0
        self._additions = {
            "MAIL": extra
            + smtputf8
            + (SIZE_MAIL_BYTES if extensions.size is not None else 0)
            + (EIGHT_BIT_MAIL_BYTES if extensions.eight_bit_mime else 0)
            + (BINARY_MAIL_BYTES if extensions.binarymime else 0)
            + (REQUIRETLS_MAIL_BYTES if extensions.requiretls else 0)
            + (DELIVER_BY_MAIL_BYTES if extensions.deliver_by is not None else 0)
            + (FUTURE_RELEASE_MAIL_BYTES if extensions.future_release is not None else 0)
            + (PRIORITY_MAIL_BYTES if extensions.mt_priority else 0)
            + (DSN_MAIL_BYTES if extensions.dsn else 0),
            "RCPT": extra + (DSN_RCPT_BYTES if extensions.dsn else 0),
            "VRFY": smtputf8,
            "EXPN": smtputf8,
        }
        self._max_command_bytes = MAX_COMMAND_LINE_BYTES + max(self._additions.values())
        if not self.config.strict:
            self._max_command_bytes = max(self._max_command_bytes, MAX_LENIENT_LINE_BYTES)
        self._limit = min(extensions.size or MAX_CONTENT_BYTES, MAX_CONTENT_BYTES)

    def greeting(self) -> bytes:
        """Return what the server says first.

        RFC 5321 section 3.1.
        """
        self._begin_turn()
        protocol = "LMTP" if self.config.lmtp else "ESMTP"
        settled = self._settle("GREETING", _Reply(220, "", f"{self.config.name} {protocol} ready"))
        self._refuses_service = not settled.performed
        self._answered = "GREETING"
        self._note_reply()
        return self._end_turn()

    def tls_established(self, version: str = "TLS", peer: str | None = None) -> None:
        """Forget everything that was said before TLS: the handshake is complete. From here on, feed what is decrypted.

        Args:
            version: of TLS, such as ``TLSv1.3``.
            peer: whom the certificate of the client names, if it was asked for one.

        RFC 3207 section 4.2.
        """
        self.begins_tls = False
        self.tls = version
        self.authenticated_as = None
        self._peer = peer
        self._answered = None
        self._helo = None
        self._is_extended = False
        self._transaction_count = 0
        self._reset()

    @property
    def violations(self) -> list[Violation]:
        """The client's mistakes, in the order in which they came."""
        return self._record.violations

    @property
    def committed(self) -> list[Commitment]:
        """What the server answers for, on all connections that share the mailbox (`Mailbox.committed`)."""
        return self.mailbox.committed

    @property
    def is_held(self) -> bool:
        """Whether a reply is kept back: nothing happens until `held_by` is released and `resume` called."""
        return bool(self._kept)

    @property
    def held_by(self) -> Hold | None:
        """What keeps the next reply back."""
        return self._kept[0][0] if self._kept else None

    @property
    def waiting_bytes(self) -> int:
        """How much of what the client sent waits unread because a reply is held."""
        return len(self._backlog)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way: no line, mail transaction, exchange or handshake."""
        return (
            self._read == self._read_line
            and not (self._line or self._line_ends_in_cr or self.closing or self.begins_tls or self._kept)
            and self._transaction is None
            and self._dialogue is None
        )

    def say(self, data: bytes, *, close: bool = False) -> bytes:
        """Say something that nobody asked for; the client cannot know of it, and what it sends next is no violation.

        Args:
            data: returned as they are.
            close: whether to close after them.
        """
        self._answered = None
        self.closing |= close
        return data

    def feed(self, data: bytes, *, unread: bool = False) -> bytes:
        """Take what the client sent.

        Args:
            data: the bytes; empty: the client will send no more. A command, content or chunk cut off there is not
                acted on.
            unread: whether the client sent them before it took all that was returned before. It is then told from a
                write of its own that came too early.

        Returns:
            The replies. All messages that they answer for are in the mailbox.
        """
        if not data:
            self._note_end()
            self._kept.clear()
            self._backlog.clear()
            self.closing = True
            return b""
        if self._kept:
            self._backlog += data
            return b""
        return self._take_turn(data, unread=unread)

    def resume(self) -> bytes:
        """Go on after a reply that was held, if its hold was released.

        Returns:
            The reply, and those to what the client sent meanwhile, up to the next one that is held.
        """
        if not self._kept:
            return b""
        pieces: list[bytes] = []
        while self._kept and self._kept[0][0].is_released:
            pieces.append(self._kept.popleft()[1])
        if not self._kept:
            self.closing |= self._closes_later
            self.begins_tls = self._begins_tls_later
            data = bytes(self._backlog)
            self._backlog.clear()
            pieces.append(self._take_turn(data, unread=bool(data)))
        return b"".join(pieces)

    def _take_turn(self, data: bytes, *, unread: bool) -> bytes:
        self._begin_turn()
        if self._unfinished is not None:
            end, self._unfinished = self._unfinished, None
            if not self.closing:
                end()
        if unread or self.closing or self.begins_tls:
            self._note_early()
        position = 0
        while position < len(data) and not (self.closing or self.begins_tls or self._holds):
            start, stray = position, self._stray
            position = self._read(data, start)
            if stray or self._new_stray:
                self._stray = max(stray - (position - start), self._new_stray)
                self._new_stray = 0
            if position < len(data):
                self._note_early()
        if self._holds:
            self._backlog += data[position:]
        else:
            # What is held back with the verdict, and what comes until it is said, came together with the dot
            self._is_after_dot = False
        return self._end_turn()

    def _begin_turn(self) -> None:
        self._out = []
        self._verdict_at = 0
        self._record.noted = 0

    def _end_turn(self) -> bytes:
        """Return what may be sent now, and keep what is held."""
        if self._mail_was_refused:
            self._report()
        if not self._holds:
            return b"".join(self._out)
        starts = [start for start, _ in self._holds]
        for (start, hold), end in zip(self._holds, [*starts[1:], len(self._out)], strict=True):
            self._kept.append((hold, b"".join(self._out[start:end])))
        self._holds.clear()
        self._closes_later, self._begins_tls_later = self.closing, self.begins_tls
        self.closing = self.begins_tls = False
        return b"".join(self._out[: starts[0]])

    # --- the readers: each is called with at least one byte, and returns where it stopped

    def _read_nothing(self, data: bytes, position: int) -> int:
        """Read on for ever without answering."""
        del position
        return len(data)

    def _read_line(self, data: bytes, position: int) -> int:
        self._line_is_stray |= self._stray > 0
        if self._line_ends_in_cr and data[position : position + 1] == b"\n":
            self._line_ends_in_cr = False
            if not self._line_is_too_long:
                del self._line[-1:]
            self._end_line()
            return position + 1
        end = data.find(b"\r\n", position)
        if self.config.quirks.takes_bare_lf:
            bare = data.find(b"\n", position)
            if bare >= 0 and (end < 0 or bare < end):
                return self._end_bare_line(data, position, bare)
        stop = end if end >= 0 else len(data)
        if not self._line_is_too_long:
            # The limit counts CRLF, which is not kept: a line that is too long still shows as such in `_end_line`
            limit = self._max_command_bytes if self._dialogue is None else MAX_RESPONSE_LINE_BYTES
            room = limit - len(self._line)
            self._line += data[position : min(stop, position + room)]
            self._line_is_too_long = stop - position > room
        if end < 0:
            self._line_ends_in_cr = data.endswith(b"\r")
            return stop
        self._line_ends_in_cr = False
        self._end_line()
        return end + 2

    def _end_bare_line(self, data: bytes, position: int, end: int) -> int:
        """Take a line that a bare LF ends."""
        self._line_is_too_long |= len(self._line) + end - position > self._max_command_bytes
        if not self._line_is_too_long:
            self._line += data[position:end]
        self._line_ends_in_cr = False
        self._violate("bare LF at the end of a command", at="COMMAND")
        self._end_line()
        return end + 1

    def _end_line(self) -> None:
        line, is_too_long = bytes(self._line), self._line_is_too_long
        self._line.clear()
        self._line_is_too_long = False
        if self._line_is_stray:
            if len(self.executed_content) < MAX_EXECUTED_LINES:
                self.executed_content.append(line)
            self._act_on(line, is_too_long)
            # What follows it, the client did not write after a command of its own
            self._answered = None
            self._line_is_stray = False
        else:
            self._act_on(line, is_too_long)

    def _act_on(self, line: bytes, is_too_long: bool) -> None:
        if self._dialogue is not None:
            self._answered = "AUTH"
            self._record.heard(b"(not shown: a response of AUTH)\r\n")
            self._respond(self._dialogue, line, is_too_long or len(line) + 2 > MAX_RESPONSE_LINE_BYTES)
            self._note_reply()
            return
        self._number += 1
        verb = line.partition(b" ")[0].upper().decode("ascii", "replace")
        if verb in _COMMANDS:
            self._is_after_auth = verb == "AUTH"
        self._answered = self._name(verb)
        self._begin_note(verb, line)
        if self._is_after_dot:
            self._refuse_after_dot()
            self._note_reply()
            return
        try:
            if is_too_long or len(line) + 2 > MAX_COMMAND_LINE_BYTES + self._additions.get(verb, 0):
                violation = f"command line too long: {self._show(line)}"
                self._tolerate(_Refusal(500, "5.5.2", "line too long", violation), if_only=not is_too_long)
            self._execute(verb, self._command_text(line))
        except _Refusal as refusal:
            self._violate(refusal.violation)
            self._say(refusal.reply)
            if verb == "MAIL":
                self._mail_was_refused = True
            elif verb == "RCPT" and self._transaction is not None:
                self._transaction.rcpt_count += 1
        self._note_reply()

    def _refuse_after_dot(self) -> None:
        self._say(_Reply(503, "5.5.1", "bad sequence of commands: pipelined after end of data"))
        if self.config.quirks.refuses_after_dot == "before":
            self._out.insert(self._verdict_at, self._out.pop())
            self._verdict_at += 1

    def _read_content(self, data: bytes, position: int) -> int:
        transaction = self._current()
        pieces, position, is_complete = self._decoder.decode(data, position)
        for piece in pieces:
            transaction.add(piece)
        if pieces:
            self._interrupt(transaction)
        if is_complete:
            self._finish_reading(self._end_content)
        return position

    def _end_content(self) -> None:
        if self._decoder.single_dot:
            self._violate("a line of content that begins with a dot, not doubled", at="CONTENT")
        self._number += 1
        self._record.number = self._number
        self._answered = "END_OF_DATA"
        self._verdict_at = len(self._out)
        self._is_after_dot = self.config.quirks.refuses_after_dot is not None
        self._end_of_data(self._current(), "DATA")

    def _read_chunk(self, data: bytes, position: int) -> int:
        chunk = self._chunk
        stop = min(len(data), position + chunk.left)
        if chunk.refusal is None:
            transaction = self._current()
            transaction.add(data[position:stop])
            self._interrupt(transaction)
        chunk.left -= stop - position
        if not chunk.left:
            self._finish_reading(self._end_read_chunk)
        return stop

    def _end_read_chunk(self) -> None:
        self._answered = "BDAT"
        self._end_chunk(self._chunk)

    def _finish_reading(self, end: Callable[[], None]) -> None:
        """Call `end`, content or chunk being complete; but not after a reply in its middle that is held or closes."""
        self._read = self._read_line
        if self._holds:
            self._unfinished = end
        elif not self.closing:
            end()

    def _interrupt(self, transaction: _Transaction) -> None:
        """Say what the script has to say in the middle of content."""
        scripted = self._scripted("CONTENT", content_bytes=transaction.size)
        if scripted is not None:
            self._say_scripted(scripted)
            self._record.at = "CONTENT"
            self._note_reply()

    # --- what is written down, and what is said

    def violate(self, what: str, *, at: str | None = None) -> None:
        """Write a mistake of the client down that shows only to what carries the bytes.

        Args:
            what: the client did.
            at: where; None: where the session is.
        """
        self._violate(what, at=at)

    def refuse_tls(self, problem: str) -> None:
        """Note that TLS failed; the session that ends by it is reported with what it was."""
        self._record.refuse(problem.encode(), at="TLS")

    def _violate(self, violation: str, *, at: str | None = None) -> None:
        # Content that runs as commands is written down as such, and is no mistake line by line
        if not self._line_is_stray:
            self._record.violate(violation, at=at)

    def _tolerate(self, refusal: _Refusal, *, if_only: bool = True) -> None:
        """Write down what servers take though it breaks the protocol, and go on; a strict server refuses it.

        Args:
            refusal: of a strict server.
            if_only: whether it can be taken at all.
        """
        if self.config.strict or not if_only:
            raise refusal
        self._violate(refusal.violation)

    def _begin_note(self, verb: str, line: bytes) -> None:
        """Note a command, without what may be a credential."""
        record = self._record
        record.at = verb if verb in _COMMANDS else "COMMAND"
        record.number = self._number
        record.recipient = None
        if verb == "MAIL":
            if self._mail_was_refused:
                self._end_attempt()
            record.has_mail = True
        auth = _AUTH_COMMAND.search(line)
        if auth is not None:
            line = line[: auth.end()] + b" (not shown)"
        elif self._is_after_auth:
            line = b"(not shown after AUTH)"
        record.heard(line + b"\r\n")

    def _note_address(self, verb: str, argument: str) -> None:
        """Note whom a MAIL or RCPT names that is refused before it is read."""
        preposition = {"MAIL": "FROM:", "RCPT": "TO:"}.get(verb, "")
        if not preposition or argument[: len(preposition)].upper() != preposition:
            return
        try:
            mailbox, _ = read_path_anyhow(argument[len(preposition) :], may_be_null=verb == "MAIL")
        except BadSyntax:
            return
        if verb == "MAIL":
            self._record.sender = mailbox
        else:
            self._record.recipient = mailbox

    def _note_reply(self) -> None:
        """Note what a command was answered, and whether that refuses something."""
        record = self._record
        reply = b"".join(self._out[record.noted :])
        record.noted = len(self._out)
        if reply:
            record.said(reply)
        if reply[:1] in {b"4", b"5"} or (not reply and self.closing and record.at not in {"END_OF_DATA", "QUIT"}):
            record.refuse(reply, recipient=record.recipient)
            if record.at == "DATA":
                self._report()

    def _note_end(self) -> None:
        """Note that the client is gone: what was under way comes to nothing."""
        if self._transaction is not None and self._read in (self._read_content, self._read_chunk):
            self._record.refuse(b"", at="CONTENT")
        self._end_attempt()

    def _end_attempt(self) -> None:
        """Report what was refused since the last message, if anything was, and begin anew."""
        self._report()
        self._record.begin_anew()

    def _report(self) -> None:
        """Hand the mailbox what came to nothing, once."""
        record = self._record
        if record.is_reported or not record.refusals:
            return
        record.is_reported = True
        transaction = self._transaction
        self.mailbox.refuse(
            RefusedMessage(
                refusals=record.refusals,
                sender=transaction.sender if transaction is not None else record.sender,
                recipients=tuple(transaction.recipients) if transaction is not None else (),
                parameters=transaction.parameters if transaction is not None else {},
                content=bytes(transaction.content) if transaction is not None else b"",
                helo=self._helo or "",
                tls=self.tls,
                authenticated_as=self.authenticated_as,
                violations=record.recent,
                dialogue=record.dialogue,
            )
        )

    def _note_early(self) -> None:
        """Write down that bytes came which the client should not have sent before it read the last reply."""
        verb, self._answered = self._answered, None
        if verb is None:
            return
        if verb == "GREETING":
            self._violate("bytes before the greeting was read")
        elif verb in _LAST_IN_GROUP or verb not in _ANYWHERE_IN_GROUP:
            self._violate(f"bytes after {verb}, which ends its group")
        elif not self._offers_pipelining:
            self._violate("pipelining, which is not offered")

    def _name(self, verb: str) -> str:
        return "a line" if self._is_after_auth and verb not in _COMMANDS else verb[:MAX_QUOTED_CHARS]

    def _show(self, line: bytes | str) -> str:
        """Quote a line of the client, as far as it cannot hold a credential."""
        data = line.encode() if isinstance(line, str) else line
        auth = _AUTH_COMMAND.search(data)
        if auth is not None:
            return _quote(data[: auth.end()] + b" ...")
        if self._is_after_auth:
            return "(not shown after AUTH)"
        return _quote(line)

    @property
    def _offers_pipelining(self) -> bool:
        return self._is_extended and self.config.extensions.pipelining

    def _say(self, reply: _Reply, *lines: str) -> None:
        """Send a reply of our own; `lines` follow its first line."""
        self._out.append(self._worded(reply, *lines))
        if reply.code == 421:
            self.closing = True

    def _worded(self, reply: _Reply, *lines: str) -> bytes:
        enhanced = f"{reply.enhanced} " if reply.enhanced and self.config.extensions.enhanced_status_codes else ""
        text = [f"{enhanced}{reply.text}{self._suffix}", *lines]
        lines_before = "".join(f"{reply.code}-{line}\r\n" for line in text[:-1])
        return f"{lines_before}{reply.code} {text[-1]}\r\n".encode()

    @property
    def _suffix(self) -> str:
        return f" #{self._number}" if self.config.numbered else ""

    def _say_scripted(self, scripted: ScriptedReply, *, is_numbered: bool = True) -> None:
        self._hold_by(scripted)
        self._out.append(scripted.to_bytes(self._suffix if is_numbered else ""))
        if scripted.closes:
            self.closing = True
            self.alerts = scripted.alert

    def _hold_by(self, scripted: ScriptedReply) -> None:
        """Hold what is said next, if the script wants it."""
        hold = scripted.hold
        if hold is not None and not hold.is_released:
            hold.reached()
            self._holds.append((len(self._out), hold))

    def _alter(self, scripted: ScriptedReply) -> None:
        """Make of what we said last what the script makes of it."""
        if callable(scripted.reply):
            self._out.append(scripted.reply(self._out.pop()))
        if scripted.alert:
            self.closing = self.alerts = True
        elif scripted.close is not None:
            self.closing = scripted.close

    def _settle(
        self,
        verb: str,
        reply: _Reply,
        *lines: str,
        sender: str | None = None,
        recipients: Collection[str] | None = None,
        can_perform: bool = True,
    ) -> _Settled:
        """Answer a command that is free of syntax errors: as the script says, else with `reply`.

        Args:
            verb: as the script names it.
            reply: our own reply.
            lines: of our own reply, after its first line.
            sender: the reverse-path, for the script; None: that of the transaction.
            recipients: the forward-paths, for the script; None: those accepted in the transaction.
            can_perform: whether there is anything to perform, if the reply is positive.
        """
        scripted = self._scripted(verb, sender=sender, recipients=recipients)
        return self._settle_by(scripted, verb, reply, *lines, can_perform=can_perform)

    def _settle_by(
        self, scripted: ScriptedReply | None, verb: str, reply: _Reply, *lines: str, can_perform: bool = True
    ) -> _Settled:
        """Answer a command as `_settle` does, where the script was asked already."""
        if scripted is not None and not scripted.is_own:
            self._say_scripted(scripted)
            return _Settled(scripted.is_positive, scripted.is_performed and can_perform)
        positive = performed = reply.code // 100 == (3 if verb == "DATA" else 2)
        if scripted is None:
            self._say(reply, *lines)
        else:
            self._hold_by(scripted)
            self._say(reply, *lines)
            self._alter(scripted)
            performed = scripted.performs_if(positive)
        return _Settled(positive, performed and can_perform)

    def _scripted(
        self,
        verb: str,
        *,
        sender: str | None = None,
        recipients: Collection[str] | None = None,
        content_bytes: int = 0,
    ) -> ScriptedReply | None:
        transaction = self._transaction
        if transaction is not None:
            sender = transaction.sender if sender is None else sender
            recipients = transaction.recipients if recipients is None else recipients
        return self.script.take(
            verb, sender=sender, recipients=recipients or (), in_tls=self.tls is not None, content_bytes=content_bytes
        )

    # --- commands

    def _command_text(self, line: bytes) -> str:
        if any(octet in line for octet in (b"\r", b"\n", b"\0")):
            name = "NUL" if b"\0" in line else "bare LF" if b"\n" in line else "bare CR"
            raise _Refusal(500, "5.5.2", f"{name} in a command", f"{name} in a command: {self._show(line)}")
        if _CONTROL.search(line):
            violation = f"control character in {self._show(line)}"
            raise _Refusal(501, "5.5.2", "control character in a command", violation)
        try:
            text = line.decode()
        except UnicodeDecodeError:
            self._tolerate(_Refusal(501, "5.5.2", "not UTF-8", f"command that is not UTF-8: {self._show(line)}"))
            text = line.decode("latin-1")
        if text.endswith(" "):
            # RFC 5321 section 4.1.1 has servers tolerate it; clients have no reason to send it
            self._violate(f"space at the end of {self._show(line)}")
        return text.rstrip(" ")

    def _execute(self, verb: str, text: str) -> None:
        _, space, argument = text.partition(" ")
        takes_utf8 = verb in {"MAIL", "RCPT"} and not self.config.strict  # they see to it themselves
        if not text.isascii() and not (
            takes_utf8 or (verb in {"MAIL", "RCPT", "VRFY", "EXPN"} and self._offers_smtputf8)
        ):
            code, enhanced = (553, "5.6.7") if verb in {"MAIL", "RCPT"} else (501, "5.5.4")
            refusal = _Refusal(code, enhanced, "non-ASCII not permitted here", f"8-bit command: {self._show(text)}")
            self._tolerate(refusal, if_only=verb in {"EHLO", "HELO", "LHLO"})
        if self._refuses_service and verb != "QUIT":
            self._violate(f"{self._name(verb)} after a negative greeting")
            self._settle(verb, _Reply(503, "5.5.1", "no service here"), can_perform=False)
            return
        command = _COMMANDS.get(verb)
        is_known = command is not None
        if verb in {"EHLO", "HELO", "LHLO"}:
            is_known = self.config.lmtp == (verb == "LHLO")
        elif verb == "BDAT":
            is_known = self._offers_chunking
        elif verb == "STARTTLS":
            is_known = self.config.extensions.starttls
        if command is None or not is_known:
            scripted = self._scripted(verb)
            if scripted is not None and not scripted.is_own:
                self._say_scripted(scripted)
                return
            if verb == "BDAT" and (match := _CHUNK.fullmatch(argument)) is not None:
                self._new_stray = int(match[1])
            if verb == "STARTTLS":
                raise _Refusal(502, "5.5.1", "STARTTLS is not implemented", "STARTTLS, which is not offered")
            violation = "BDAT, which is not offered" if verb == "BDAT" else f"unknown command: {self._show(text)}"
            raise _Refusal(500, "5.5.1", f"command not recognized: {self._show(verb)}", violation)
        demand = self._demand(verb)
        if demand is not None and verb != "BDAT":
            self._note_address(verb, argument)
            self._settle(verb, demand, can_perform=False)
            self._mail_was_refused |= verb == "MAIL"
            return
        command(self, argument if space else "")

    def _demand(self, verb: str) -> _Reply | None:
        """Return the 530 to a command that must wait for TLS or AUTH; a client can learn of it in this way only."""
        if self.config.require_tls and self.tls is None and verb not in _BEFORE_TLS:
            return _Reply(530, "5.7.0", "must issue a STARTTLS command first")
        if self.config.require_auth and self.authenticated_as is None and verb not in _BEFORE_AUTH:
            return _Reply(530, "5.7.0", "authentication required")
        return None

    @property
    def _offers_smtputf8(self) -> bool:
        return self._is_extended and self.config.extensions.smtputf8

    @property
    def _offers_chunking(self) -> bool:
        return self._is_extended and self.config.extensions.chunking

    def _no_argument(self, verb: str, argument: str) -> None:
        if argument:
            raise _Refusal(501, "5.5.4", f"{verb} takes no argument", f"{verb} with an argument: {_quote(argument)}")

    def _reset(self) -> None:
        self._transaction = self._outlived = None
        self._must_reset = False
        self._mail_was_refused = False

    def _current(self) -> _Transaction:
        if self._transaction is None:
            raise AssertionError("content is read within a transaction only")
        return self._transaction

    def _begin(self, sender: str, parameters: Parameters) -> _Transaction:
        self._transaction = _Transaction(sender, parameters, self._limit, _check(parameters))
        return self._transaction

    def _ehlo(self, argument: str) -> None:
        self._hello("LHLO" if self.config.lmtp else "EHLO", argument)

    def _plain_helo(self, argument: str) -> None:
        self._hello("HELO", argument)

    def _hello(self, verb: str, argument: str) -> None:
        if not is_domain(argument):
            violation = f"{verb} without a domain: {_quote(argument)}"
            refusal = _Refusal(501, "", "a domain or an address literal is needed", violation)
            self._tolerate(refusal, if_only=bool(argument.strip()))
        is_extended = verb != "HELO"
        lines = self._keywords() if is_extended else ()
        if self._settle(verb, _Reply(250, "", f"{self.config.name} greets {argument}"), *lines).performed:
            if self._record.has_mail:
                self._note_reply()
                self._end_attempt()
            self._reset()
            self._helo = argument
            self._is_extended = is_extended

    def _keywords(self) -> tuple[str, ...]:
        mechanisms = " ".join(offered_mechanisms(self.config, in_tls=self.tls is not None))
        return (
            *self.config.extensions.keywords(in_tls=self.tls is not None),
            *(("STARTTLS",) if self.config.extensions.starttls and self.tls is None else ()),
            *((f"AUTH{'=' if self.config.auth_legacy_form else ' '}{mechanisms}",) if mechanisms else ()),
        )

    def _starttls(self, argument: str) -> None:
        self._no_argument("STARTTLS", argument)
        if self.tls is not None:
            reply = self._out_of_sequence("STARTTLS inside TLS")
        elif not self._is_extended:
            reply = self._out_of_sequence("STARTTLS before EHLO")
        elif self._transaction is not None:
            reply = self._out_of_sequence("STARTTLS within a mail transaction")
        else:
            reply = _Reply(220, "2.0.0", "ready to start TLS")
        if self._settle("STARTTLS", reply, can_perform=self.tls is None).performed:
            self.begins_tls = True

    # --- AUTH: the command, the responses after it, and what a step of the mechanism is answered

    def _auth(self, argument: str) -> None:
        name, space, initial = argument.partition(" ")
        name = name.upper()
        if not name:
            raise _Refusal(501, "5.5.4", "AUTH needs a mechanism", "AUTH without a mechanism")
        initial_response: bytes | None = None
        if space:
            # An empty one is spelt "=", since a missing one is none
            initial_response = b"" if initial == "=" else _base64("initial response", initial.encode())
        refusal = self._refuses_auth(name)
        if refusal is None:
            exchange = Exchange(name, self.config, self._peer)
            self._answer_step(_Dialogue(exchange), exchange.begin(initial_response), "AUTH")
        else:
            self._answer_step(_Dialogue(None), refusal, "AUTH")

    def _refuses_auth(self, name: str) -> Failure | None:
        """Return what stands against an exchange with this mechanism.

        RFC 4954 section 4.
        """
        offered = offered_mechanisms(self.config, in_tls=True)
        shown = name if name in MECHANISMS else "with a mechanism"
        if not offered:
            return Failure(502, "5.5.1", "AUTH is not implemented", "AUTH, which is not offered")
        for is_so, violation in (
            (not self._is_extended, "AUTH before EHLO"),
            (self.authenticated_as is not None, "AUTH after AUTH"),
            (self._transaction is not None, "AUTH within a mail transaction"),
        ):
            if is_so:
                return Failure(503, "5.5.1", "bad sequence of commands", violation)
        if name not in offered:
            return Failure(504, "5.5.4", "mechanism not offered", f"AUTH {shown}, which is not offered")
        if name not in offered_mechanisms(self.config, in_tls=self.tls is not None):
            return Failure(538, "5.7.11", "encryption required for this mechanism", f"AUTH {shown} without TLS")
        if name not in MECHANISMS:
            return Failure(504, "5.5.4", "mechanism not implemented")
        return None

    def _respond(self, dialogue: _Dialogue, line: bytes, is_too_long: bool) -> None:
        """Take a line within the exchange."""
        step: Step
        verb: str | None = "AUTH_RESPONSE"
        if is_too_long:
            step = Failure(500, "5.5.6", "line too long", "AUTH response too long")
        elif line == b"*":
            step, verb = Failure(501, "5.7.0", "authentication cancelled"), None
        elif dialogue.outcome is not None or dialogue.exchange is None:
            step = dialogue.outcome or Failure()
        else:
            try:
                step = dialogue.exchange.respond(_base64("response", line))
            except _Refusal as refusal:
                step = Failure(refusal.reply.code, refusal.reply.enhanced, refusal.reply.text, refusal.violation)
        self._answer_step(dialogue, step, verb)

    def _answer_step(self, dialogue: _Dialogue, step: Step, verb: str | None) -> None:
        """Answer AUTH or a response: as the script says, else with what the mechanism made of it."""
        scripted = None if isinstance(step, Challenge) else self._scripted("END_OF_AUTH")
        if scripted is None and verb is not None:
            scripted = self._scripted(verb)
        if scripted is not None and scripted.is_own:
            self._hold_by(scripted)
            self._take_step(dialogue, step, None)
            self._alter(scripted)
            if isinstance(step, Success) and not scripted.performs_if(True):
                self.authenticated_as = None
        else:
            self._take_step(dialogue, step, scripted)

    def _take_step(self, dialogue: _Dialogue, step: Step, scripted: ScriptedReply | None) -> None:
        if isinstance(step, Failure) and step.violation and (scripted is None or step.code != 502):
            # As with any command that the server does not know: with a script it does
            self._violate(step.violation)
        self._dialogue = None
        if scripted is not None:
            # A number after a challenge would make it undecodable
            self._say_scripted(scripted, is_numbered=not scripted.is_intermediate)
            if scripted.is_intermediate and not self.closing:
                dialogue.outcome = None if isinstance(step, Challenge) else step
                self._dialogue = dialogue
            elif scripted.is_performed and not (isinstance(step, Failure) and dialogue.exchange is None):
                self.authenticated_as = step.identity if isinstance(step, Success) else ""
        elif isinstance(step, Challenge):
            self._out.append(f"334 {encode_challenge(step.data)}\r\n".encode())
            self._dialogue = dialogue
        elif isinstance(step, Failure):
            self._say(_Reply(step.code, step.enhanced, step.text))
        else:
            self.authenticated_as = step.identity
            if step.final is None:
                self._say(_Reply(235, "2.7.0", "authentication successful"))
            else:
                enhanced = "2.7.0 " if self.config.extensions.enhanced_status_codes else ""
                self._out.append(f"235 {enhanced}{encode_challenge(step.final)}\r\n".encode())

    def _mail(self, argument: str) -> None:
        sender, parameters = self._path_and_parameters("MAIL", "FROM:", argument)
        self._record.sender = sender
        if not sender.isascii() and "SMTPUTF8" not in parameters:
            self._tolerate(_without_smtputf8("MAIL", argument))
        reply = _Reply(250, "2.1.0", "sender ok")
        can_perform = False
        extensions, quirks = self.config.extensions, self.config.quirks
        if self._helo is None and not self.config.strict:
            self._violate("MAIL before EHLO")
        if self._helo is None and self.config.strict:
            reply = self._out_of_sequence("MAIL before EHLO")
        elif self._outlived is not None:
            reply = self._out_of_sequence("MAIL without RSET after a refused BDAT")
            self._transaction, self._outlived = self._outlived, None
            self._must_reset = False
        elif self._must_reset and not quirks.executes_refused_chunks:
            reply = self._out_of_sequence("MAIL without RSET after a refused BDAT")
        elif self._transaction is not None:
            reply = self._out_of_sequence("MAIL within a mail transaction")
        else:
            if self._must_reset:
                self._violate("MAIL without RSET after a refused BDAT")
            can_perform = True
            if (declared_size(parameters) or 0) > self._limit:
                reply = _Reply(552, "5.3.4", "message size exceeds the limit")
            elif quirks.max_messages is not None and self._taken_count >= quirks.max_messages:
                reply = _Reply(421, "4.7.0", "too many messages in this connection")
            elif extensions.mailmax is not None and self._transaction_count >= extensions.mailmax:
                self._violate("MAIL beyond MAILMAX")
                reply = _Reply(extensions.mailmax_code, "4.3.2", "too many transactions in this session")
        if self._settle("MAIL", reply, sender=sender, can_perform=can_perform).performed:
            self._begin(sender, parameters)
            self._transaction_count += 1
            self._mail_was_refused = self._must_reset = False
        else:
            self._mail_was_refused = True

    def _rcpt(self, argument: str) -> None:
        recipient, parameters = self._path_and_parameters("RCPT", "TO:", argument)
        self._record.recipient = recipient
        transaction = self._transaction
        if not recipient.isascii() and transaction is not None and "SMTPUTF8" not in transaction.parameters:
            self._tolerate(_without_smtputf8("RCPT", argument))
        reply = _Reply(250, "2.1.5", "recipient ok")
        rcptmax = self.config.extensions.rcptmax
        if transaction is None:
            may_be_early = self._mail_was_refused or self._must_reset
            reply = self._out_of_sequence(None if may_be_early else "RCPT without MAIL")
        elif transaction.chunks_begun:
            reply = self._out_of_sequence("RCPT after BDAT")
        else:
            transaction.rcpt_count += 1
            if rcptmax is not None and transaction.rcpt_count > rcptmax:
                self._violate("RCPT beyond RCPTMAX")
                reply = _Reply(452, "4.5.3", "too many recipients")
            elif len(transaction.recipients) >= MAX_RECIPIENTS:
                reply = _Reply(452, "4.5.3", "too many recipients")
        can_perform = transaction is not None and not transaction.chunks_begun
        lines = self._filler(reply)
        settled = self._settle("RCPT", reply, *lines, recipients=(recipient,), can_perform=can_perform)
        if settled.performed and transaction is not None:
            transaction.recipients.append(recipient)
            transaction.recipient_parameters.append(parameters)

    def _filler(self, reply: _Reply) -> list[str]:
        """Return the lines that make `reply` long, if it is to be."""
        wanted = self.config.quirks.rcpt_reply_bytes
        if not wanted:
            return []
        prefix = f"{reply.enhanced} " if self.config.extensions.enhanced_status_codes else ""
        # Code, its separator and CRLF are six bytes more
        line = prefix.ljust(FILLER_LINE_BYTES - 6, "x")
        return [line] * -(-wanted // FILLER_LINE_BYTES)

    def _data(self, argument: str) -> None:
        self._no_argument("DATA", argument)
        transaction = self._transaction
        reply = _Reply(354, "", "end data with <CRLF>.<CRLF>")
        can_perform = True
        if transaction is None:
            may_be_early = self._mail_was_refused or self._must_reset
            reply = self._out_of_sequence(None if may_be_early else "DATA without MAIL")
        elif transaction.chunks_begun:
            reply = self._out_of_sequence("DATA after BDAT")
            can_perform = False
        elif _is_binary(transaction.parameters):
            reply = self._out_of_sequence("DATA with BODY=BINARYMIME")
            can_perform = False
        elif not transaction.recipients:
            if not transaction.rcpt_count:
                self._violate("DATA without RCPT")
            if not self.config.quirks.takes_empty_envelopes:
                reply = _Reply(503 if self.config.lmtp else 554, "5.5.1", "no valid recipients")
        settled = self._settle("DATA", reply, can_perform=can_perform)
        if settled.performed:
            if transaction is None:
                # Only a script says 354 here, and a server that said it must read what comes
                self._begin("", {}).is_void = True
            self._decoder = DotDecoder()
            self._read = self._read_content

    def _bdat(self, argument: str) -> None:
        match = _CHUNK.fullmatch(argument)
        if match is None:
            raise _Refusal(501, "5.5.4", "a chunk size is needed", f"BDAT without a chunk size: {_quote(argument)}")
        if self.config.quirks.hangs_on_bdat:
            self._read = self._read_nothing
            self._answered = None
            return
        transaction = self._transaction
        refusal = self._demand("BDAT")
        if refusal is not None:
            pass
        elif self._must_reset:
            # Chunks that were on their way when the first one failed: they are discarded (RFC 3030 section 2)
            refusal = self._out_of_sequence(None)
        elif transaction is None:
            refusal = self._out_of_sequence(None if self._mail_was_refused else "BDAT without MAIL")
        elif not transaction.recipients:
            refusal = _Reply(503, "5.5.1", "no valid recipients")
        else:
            transaction.chunks_begun = True
        self._chunk = chunk = _Chunk(int(match[1]), match[2] is not None, refusal)
        if self.config.quirks.executes_refused_chunks and self._is_refused_at_once(chunk):
            self._new_stray = chunk.left
            self._end_chunk(chunk)
        elif chunk.left:
            self._read = self._read_chunk
            self._answered = None
        else:
            self._end_chunk(chunk)

    def _is_refused_at_once(self, chunk: _Chunk) -> bool:
        """Say whether a chunk is refused before its bytes are read; what is left to say is then noted in it."""
        transaction = self._transaction
        if chunk.refusal is None and transaction is not None and transaction.size + chunk.left > transaction.limit:
            chunk.refusal = _Reply(552, "5.3.4", "message size exceeds the limit")
        chunk.scripted = self._scripted("BDAT")
        chunk.is_settled = True
        code = chunk.refusal.code if chunk.refusal is not None else None
        if chunk.scripted is not None and not chunk.scripted.is_own:
            code = chunk.scripted.code if chunk.scripted.is_negative else None
        codes = self.config.quirks.executes_refused_chunks
        if code is None or not (codes is True or (codes and code in codes)):
            return False
        chunk.refusal = chunk.refusal or self._out_of_sequence(None)
        return True

    def _end_chunk(self, chunk: _Chunk) -> None:
        """Answer a BDAT whose bytes were all read, or are not to be.

        RFC 3030 section 2.
        """
        transaction = self._transaction
        scripted = chunk.scripted if chunk.is_settled else self._scripted("BDAT")
        if chunk.refusal is not None or transaction is None:
            reply = chunk.refusal or self._out_of_sequence(None)
            positive = self._settle_by(scripted, "BDAT", reply, can_perform=False).positive
        elif chunk.is_last:
            positive = self._end_of_data(transaction, "BDAT", scripted)
        else:
            reply = _Reply(250, "2.0.0", f"{transaction.size} bytes so far")
            if transaction.is_too_big:
                reply = _Reply(552, "5.3.4", "message size exceeds the limit")
            positive = self._settle_by(scripted, "BDAT", reply).positive
        self._note_reply()
        if not positive:
            self._report()
            self._transaction = None
            self._must_reset = True
            if chunk.is_last and transaction is not None and self.config.quirks.merges_messages:
                transaction.begin_anew()
                self._outlived = transaction

    def _rset(self, argument: str) -> None:
        self._no_argument("RSET", argument)
        if self._settle("RSET", _Reply(250, "2.0.0", "ok")).performed:
            if self._record.has_mail:
                self._note_reply()
                self._end_attempt()
            self._reset()

    def _noop(self, argument: str) -> None:
        del argument
        self._settle("NOOP", _Reply(250, "2.0.0", "ok"))

    def _vrfy(self, argument: str) -> None:
        self._look_up("VRFY", argument)

    def _expn(self, argument: str) -> None:
        self._look_up("EXPN", argument)

    def _look_up(self, verb: str, argument: str) -> None:
        text, is_utf8 = argument, False
        if self._offers_smtputf8 and argument.upper().endswith(" SMTPUTF8"):
            text, is_utf8 = argument[: -len(" SMTPUTF8")], True
        if not text:
            raise _Refusal(501, "5.5.4", f"{verb} needs an argument", f"{verb} without an argument")
        if not text.isascii() and not is_utf8:
            raise _without_smtputf8(verb, argument)
        # RFC 5321 section 7.3: neither confirm nor deny
        self._settle(verb, _Reply(252, "2.0.0", "cannot verify, but will take a message"), recipients=(text,))

    def _help(self, argument: str) -> None:
        del argument
        if self.config.extensions.help:
            self._settle("HELP", _Reply(214, "2.0.0", "see RFC 5321"))
        else:
            self._settle("HELP", _Reply(502, "5.5.1", "HELP is not implemented"))

    def _quit(self, argument: str) -> None:
        self._no_argument("QUIT", argument)
        if self._settle("QUIT", _Reply(221, "2.0.0", f"{self.config.name} closes the connection")).performed:
            self._note_reply()
            self._end_attempt()
            self._transaction = None
            self.closing = True

    # --- parts of commands

    def _out_of_sequence(self, violation: str | None) -> _Reply:
        """Return the reply to a command out of sequence.

        Args:
            violation: None where the client may have sent it before it could know.
        """
        if violation is not None:
            self._violate(violation)
        return _Reply(503, "5.5.1", "bad sequence of commands")

    def _path_and_parameters(self, verb: str, preposition: str, argument: str) -> tuple[str, Parameters]:
        """Read the argument of MAIL or RCPT (RFC 5321 sections 4.1.1.2 and 4.1.1.3)."""
        may_be_null = verb == "MAIL"
        path = argument[len(preposition) :]
        try:
            if argument[: len(preposition)].upper() != preposition:
                raise BadSyntax(f"{verb} without {preposition}")
            mailbox, rest = read_path(path, may_be_null=may_be_null)
            parameters = read_parameters(rest)
        except BadSyntax as error:
            refusal = _Refusal(501, "5.5.4", str(error), f"{error}: {_quote(f'{verb} {argument}')}")
            try:
                mailbox, rest = read_path_anyhow(path, may_be_null=may_be_null)
                parameters = read_parameters_anyhow(rest)
            except BadSyntax:
                raise refusal from None
            self._tolerate(refusal, if_only=argument[: len(preposition)].upper() == preposition)
        for keyword, value in parameters.items():
            self._check_parameter(verb, keyword, value)
        if "HOLDFOR" in parameters and "HOLDUNTIL" in parameters and self.config.extensions.future_release is not None:
            text = "HOLDFOR and HOLDUNTIL in one command"
            raise _Refusal(501, "5.5.4", text, f"{text}: {_quote(argument)}")
        return mailbox, parameters

    def _check_parameter(self, verb: str, keyword: str, value: str | None) -> None:
        extensions = self.config.extensions
        if self._is_extended and keyword in extensions.extra_parameters:
            return
        # RFC 4954 section 5: whoever offers AUTH takes AUTH=, and may think nothing of it
        is_auth = (verb, keyword) == ("MAIL", "AUTH") and value is not None
        if is_auth and self._is_extended and offered_mechanisms(self.config, in_tls=True):
            return
        parameter = PARAMETERS.get((verb, keyword))
        is_known = parameter is not None and parameter.is_offered(extensions)
        if parameter is None or not is_known or not self._is_extended or (parameter.needs_tls and self.tls is None):
            text = f"parameter not recognized: {_quote(keyword)}"
            violation = f"parameter {keyword[:MAX_QUOTED_CHARS]} of {verb}, which is not offered"
            # After HELO nothing is offered, and servers take what they know all the same
            is_early = parameter is not None and is_known and not parameter.needs_tls
            self._tolerate(_Refusal(555, "5.5.4", text, violation), if_only=is_early)
        if parameter is None:
            return
        if not parameter.is_valid(value, extensions):
            text = keyword if value is None else f"{keyword}={value}"
            raise _Refusal(501, "5.5.4", f"bad value of {keyword}", f"bad parameter of {verb}: {_quote(text)}")

    def _end_of_data(self, transaction: _Transaction, via: Via, for_all: ScriptedReply | None = None) -> bool:
        """Commit what is taken, then give the verdict, or in LMTP one for each recipient.

        Args:
            transaction: whose content is complete.
            via: how it came.
            for_all: what the script says to BDAT, instead of all verdicts.

        Returns:
            Whether any reply was positive. The transaction is over in any case.

        RFC 5321 section 4.1.1.4, RFC 2033 section 4.2.
        """
        transaction.check.finish()
        for fault in transaction.check.faults:
            self._violate(fault, at="CONTENT")
        declared = declared_size(transaction.parameters)
        if declared is not None and transaction.size > declared:
            self._violate(f"{transaction.size} bytes of content, SIZE={declared} declared", at="CONTENT")
        queue_id = self.mailbox.new_queue_id()
        refusal = self._refuses_content(transaction)
        reply = refusal or _Reply(250, "2.0.0", f"ok: queued as {queue_id}")

        everyone = range(len(transaction.recipients))
        # One reply for all in SMTP, one for each in LMTP
        groups = [everyone]
        quirks = self.config.quirks
        fails_once = quirks.lmtp_fails_once and via == "BDAT" and refusal is not None
        if self.config.lmtp and everyone and for_all is None and not fails_once:
            groups = [everyone[index : index + 1] for index in everyone]
        verdicts: list[_Verdict] = []
        taken: list[int] = []
        for group in groups:
            recipients = transaction.recipients[group.start : group.stop]
            scripted = for_all or self._scripted("END_OF_DATA", recipients=recipients)
            is_taken = refusal is None
            if scripted is not None:
                is_taken = scripted.performs_if(is_taken if scripted.is_own else scripted.is_positive)
            verdicts.append(
                _Verdict(reply, scripted, is_taken, recipients[0] if self.config.lmtp and recipients else None)
            )
            answers_for_all = scripted is not None and scripted.for_all
            if is_taken:
                taken += everyone[group.start :] if answers_for_all else group
            if answers_for_all or (scripted is not None and scripted.closes):
                break

        record = self._record
        record.heard(f"({transaction.size} bytes of content)\r\n".encode())
        can_perform = bool(transaction.recipients) and not transaction.is_too_big and not transaction.is_void
        is_committed = bool(taken) and can_perform and self._commit(transaction, via, queue_id, taken, verdicts)
        self._taken_count += is_committed
        positive = False
        for verdict in verdicts:
            positive |= self._settle_by(verdict.scripted, "END_OF_DATA", verdict.reply).positive
        record.at = "END_OF_DATA"
        record.noted = len(self._out)
        if not is_committed:
            self._note_verdicts(verdicts)
            self._report()
        record.begin_anew()
        self._transaction = None
        if is_committed and quirks.closes_unasked and self._taken_count == quirks.max_messages:
            enhanced = "4.7.0 " if self.config.extensions.enhanced_status_codes else ""
            self._out.append(f"421 {enhanced}too many messages in this connection, closing\r\n".encode())
            self.closing = True
        return positive

    def _wording(self, verdict: _Verdict) -> bytes:
        """Return what a verdict will say, as far as it is known before it is said."""
        if verdict.scripted is None or verdict.scripted.is_own:
            return self._worded(verdict.reply)
        return verdict.scripted.to_bytes()

    def _note_verdicts(self, verdicts: list[_Verdict]) -> None:
        """Note what refused a message after its content."""
        for verdict in verdicts:
            text = self._wording(verdict)
            if text:
                self._record.said(text)
            self._record.refuse(text, at="END_OF_DATA", recipient=verdict.recipient)

    def _refuses_content(self, transaction: _Transaction) -> _Reply | None:
        """Return what stands against a message that is complete."""
        if not transaction.recipients and not self.config.quirks.takes_empty_envelopes:
            return _Reply(503 if self.config.lmtp else 554, "5.5.1", "no valid recipients")
        if transaction.is_too_big:
            return _Reply(552, "5.3.4", "message size exceeds the limit")
        for fault in transaction.check.faults:
            if self.config.strict or (fault == BARE_LF and not self.config.quirks.takes_bare_lf):
                return _Reply(554, "5.6.0", fault)
        return None

    def _commit(
        self, transaction: _Transaction, via: Via, queue_id: str, taken: list[int], verdicts: list[_Verdict]
    ) -> bool:
        """Put a message into the mailbox for those who are `taken`.

        Returns:
            Whether the mailbox has it; if not, the verdicts that took it say so now, unless they are scripted.
        """
        record = self._record
        said = [self._wording(verdict) for verdict in verdicts]
        refused = [
            Refusal(at="END_OF_DATA", reply=text.decode("utf-8", "replace").rstrip(), recipient=verdict.recipient)
            for verdict, text in zip(verdicts, said, strict=True)
            if text[:1] in {b"4", b"5"}
        ]
        refusal = self.mailbox.deliver(
            ReceivedMessage(
                sender=transaction.sender,
                recipients=tuple(transaction.recipients[index] for index in taken),
                parameters=transaction.parameters,
                recipient_parameters=tuple(transaction.recipient_parameters[index] for index in taken),
                content=bytes(transaction.content),
                via=via,
                helo=self._helo or "",
                queue_id=queue_id,
                tls=self.tls,
                authenticated_as=self.authenticated_as,
                violations=record.recent,
                refusals=(*record.refusals, *refused),
                dialogue=(*record.dialogue, *(("S", text) for text in said)),
            )
        )
        if refusal is None:
            return True
        for verdict in verdicts:
            if verdict.is_taken and (verdict.scripted is None or verdict.scripted.is_own):
                verdict.scripted = ScriptedReply("END_OF_DATA", refusal)
        return False


def _is_binary(parameters: Parameters) -> bool:
    return (parameters.get("BODY") or "").upper() == "BINARYMIME"


def _check(parameters: Parameters) -> ContentCheck:
    is_utf8 = "SMTPUTF8" in parameters
    is_8bit = (parameters.get("BODY") or "").upper() == "8BITMIME" or is_utf8
    return ContentCheck(allow_8bit=is_8bit, allow_utf8=is_utf8, allow_binary=_is_binary(parameters))


def _quote(text: str | bytes) -> str:
    return repr(text[:MAX_QUOTED_CHARS])


def _without_smtputf8(verb: str, argument: str) -> _Refusal:
    violation = f"8-bit {verb} without SMTPUTF8: {_quote(argument)}"
    return _Refusal(553, "5.6.7", "non-ASCII address without SMTPUTF8", violation)


def _base64(what: str, line: bytes) -> bytes:
    try:
        return decode_response(line)
    except ValueError:
        raise _Refusal(501, "5.5.2", "cannot decode base64", f"AUTH {what} that is not base64") from None


_COMMANDS: dict[str, Callable[[ServerConnection, str], None]] = {
    "EHLO": ServerConnection._ehlo,
    "LHLO": ServerConnection._ehlo,
    "HELO": ServerConnection._plain_helo,
    "MAIL": ServerConnection._mail,
    "RCPT": ServerConnection._rcpt,
    "DATA": ServerConnection._data,
    "BDAT": ServerConnection._bdat,
    "RSET": ServerConnection._rset,
    "NOOP": ServerConnection._noop,
    "VRFY": ServerConnection._vrfy,
    "EXPN": ServerConnection._expn,
    "HELP": ServerConnection._help,
    "QUIT": ServerConnection._quit,
    "STARTTLS": ServerConnection._starttls,
    "AUTH": ServerConnection._auth,
}
