"""The sans-IO half of the testing server: octets of the client in, octets of the server out.

It is an oracle. It reads what the client wrote with a parser of its own, takes no octet for anything but what RFC 5321
makes of it, and does two things with a client's mistake: it answers as a server would, and it writes it down in
`ServerConnection.violations`.

Theory of operation:

1. `ServerConnection.feed` hands the octets to one of three readers: of a line, of the content behind a 354, of the
   chunk behind a BDAT. Each uses up what it can, and may choose the next reader. A line is a command, or a response
   within an authentication exchange.
2. A command line goes to the method of its verb (`_COMMANDS`). It either refuses what is misspelt (`_Refusal`), or
   settles the command: it works out the server's own reply and lets the script replace it (`_settle`), and performs
   the command if that reply was positive.
3. A message is committed to the mailbox before `feed` returns the reply that says so.
4. TLS is the shell's: `begins_tls` tells it to begin behind the octets returned last, and it calls `tls_established`,
   also where TLS comes first of all. From there on it feeds what it decrypted.
5. No violation and no reply of our own quotes what may be a credential: nothing behind AUTH in a line, no response,
   and no line behind AUTH until the next one that begins with a verb we know.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Literal

import attrs

from smtplite.testing.config import ServerConfig
from smtplite.testing.content import ContentCheck, DotDecoder
from smtplite.testing.grammar import BadSyntax, is_domain, read_parameters, read_path
from smtplite.testing.message import Mailbox, Parameters, ReceivedMessage
from smtplite.testing.parameters import MAX_ENVID_OCTETS, MAX_ORCPT_OCTETS, PARAMETERS, declared_size
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
from smtplite.testing.script import Script, ScriptedReply

__all__ = ["ServerConnection"]

MAX_COMMAND_LINE_OCTETS = 512
"""With CRLF; extensions add to it (RFC 5321 section 4.5.3.1.4)."""
MAX_RESPONSE_LINE_OCTETS = 12_288
"""Within an authentication exchange (RFC 4954 section 4.3)."""
SIZE_MAIL_OCTETS = 26
"""RFC 1870 section 3."""
EIGHT_BIT_MAIL_OCTETS = 17
"""RFC 6152 section 2."""
SMTPUTF8_MAIL_OCTETS = 10
"""RFC 6531 section 3.1."""
DSN_MAIL_OCTETS = len(" RET=FULL ENVID=") + MAX_ENVID_OCTETS
DSN_RCPT_OCTETS = len(" NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=") + MAX_ORCPT_OCTETS
EXTRA_PARAMETER_OCTETS = 500
"""For `ServerExtensions.extra_parameters`, if there are any."""
MAX_CONTENT_OCTETS = 1024 * 1024 * 1024
"""Where SIZE gives no lower limit."""
MAX_RECIPIENTS = 100_000
"""Accepted in one transaction."""
MAX_VIOLATIONS = 1_000
"""Written down of one connection."""
MAX_QUOTED_CHARS = 80
"""Of a client's line in a violation or a reply."""

_CHUNK = re.compile(r"([0-9]{1,20})( LAST)?", re.IGNORECASE)
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_LAST_IN_GROUP = frozenset({"EHLO", "HELO", "LHLO", "DATA", "NOOP", "VRFY", "EXPN", "QUIT", "STARTTLS", "AUTH"})
"""
RFC 2920 section 3.1, RFC 3207 section 4, RFC 4954 section 3; and HELO, which cannot know of PIPELINING yet.

Commands that we do not know are such, too.
"""
_ANYWHERE_IN_GROUP = frozenset({"MAIL", "RCPT", "RSET", "BDAT", "HELP", "END_OF_DATA"})
_BEFORE_TLS = frozenset({"EHLO", "HELO", "LHLO", "NOOP", "STARTTLS", "HELP", "QUIT"})
"""RFC 3207 section 4, and HELP and HELO, as servers do."""
_BEFORE_AUTH = _BEFORE_TLS | {"AUTH", "RSET"}
"""RFC 4954 section 6."""
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

    exchange: Exchange | None
    """None: the command was refused, and a script made an exchange of it."""
    outcome: Step | None = None
    """The final step, once it was reached and a script put a challenge in its place."""


@attrs.define
class _Transaction:
    """One mail transaction.

    RFC 5321 section 3.3.
    """

    sender: str
    parameters: Parameters
    limit: int
    check: ContentCheck
    recipients: list[str] = attrs.field(factory=list)
    """The forward-paths that were accepted; `recipient_parameters` are theirs."""
    recipient_parameters: list[Parameters] = attrs.field(factory=list)
    rcpt_count: int = 0
    """Of RCPT, refused ones too."""
    chunks_begun: bool = False
    content: bytearray = attrs.field(factory=bytearray)
    octets: int = 0
    is_void: bool = False
    """Stands behind a scripted 354 without a MAIL: its content is read, and belongs to nobody."""

    @property
    def is_too_big(self) -> bool:
        return self.octets > self.limit

    def add(self, piece: bytes) -> None:
        self.octets += len(piece)
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
    refusal: _Reply | None
    """What the chunk will be answered once its octets were swallowed (RFC 3030 section 2)."""


class ServerConnection:
    """One connection of an ESMTP or LMTP server, without I/O.

    Send `greeting()`, then hand each piece that the client sends to `feed` and send what it returns; when `closing`
    is true, close behind it; when `begins_tls` is, take the server's part in a TLS handshake, call `tls_established`
    and go on inside. The octets may be cut anywhere: replies, messages and violations are the same. Only what
    was written too early (pipelining, octets behind a command that ends its group) can be seen where it arrives
    together with the command.

    Args:
        config: How the server behaves.
        mailbox: Where accepted messages go.
        script: The scripted replies that several connections share; without it those of `config` alone.
    """

    def __init__(
        self, config: ServerConfig | None = None, mailbox: Mailbox | None = None, *, script: Script | None = None
    ) -> None:
        self.config = config if config is not None else ServerConfig()
        self.mailbox = mailbox if mailbox is not None else Mailbox()
        self.script = script if script is not None else Script(self.config.replies)
        self.violations: list[str] = []
        """The client's mistakes, in the order in which they came."""
        self.closing = False
        """Whether the server wants to close behind the octets that were returned last."""
        self.begins_tls = False
        """Whether the TLS handshake begins behind the octets that were returned last."""
        self.tls: str | None = None
        """The version of TLS, as `tls_established` was told; None: in clear."""
        self.authenticated_as: str | None = None
        """Who the client is, by AUTH; empty: a scripted 235 ended the exchange before the server knew."""

        self._out: list[bytes] = []
        self._read: Callable[[bytes, int], int] = self._read_line
        self._line = bytearray()
        self._line_is_too_long = False
        self._line_ends_in_cr = False
        self._number = 0
        # The verb answered last, as long as nothing came behind it; None: what follows belongs to the command
        self._answered: str | None = None

        # The last line with a verb that we know was AUTH: what we do not know may be a credential
        self._is_behind_auth = False
        self._dialogue: _Dialogue | None = None
        self._peer: str | None = None

        self._refuses_service = False
        self._helo: str | None = None
        self._is_extended = False
        self._mail_was_refused = False
        self._must_reset = False
        self._transaction_count = 0
        self._transaction: _Transaction | None = None
        self._decoder = DotDecoder()
        self._chunk = _Chunk(0, False, None)

        extensions = self.config.extensions
        extra = EXTRA_PARAMETER_OCTETS if extensions.extra_parameters else 0
        smtputf8 = SMTPUTF8_MAIL_OCTETS if extensions.smtputf8 else 0
        self._additions = {
            "MAIL": extra
            + smtputf8
            + (SIZE_MAIL_OCTETS if extensions.size is not None else 0)
            + (EIGHT_BIT_MAIL_OCTETS if extensions.eight_bit_mime else 0)
            + (DSN_MAIL_OCTETS if extensions.dsn else 0),
            "RCPT": extra + (DSN_RCPT_OCTETS if extensions.dsn else 0),
            "VRFY": smtputf8,
            "EXPN": smtputf8,
        }
        self._max_command_octets = MAX_COMMAND_LINE_OCTETS + max(self._additions.values())
        self._limit = min(extensions.size or MAX_CONTENT_OCTETS, MAX_CONTENT_OCTETS)

    def greeting(self) -> bytes:
        """Return what the server says first.

        RFC 5321 section 3.1.
        """
        self._out = []
        protocol = "LMTP" if self.config.lmtp else "ESMTP"
        settled = self._settle("GREETING", _Reply(220, "", f"{self.config.name} {protocol} ready"))
        self._refuses_service = not settled.performed
        self._answered = "GREETING"
        return b"".join(self._out)

    def tls_established(self, version: str = "TLS", peer: str | None = None) -> None:
        """Forget everything that was said in clear: the handshake is complete. What is fed from here on was decrypted.

        Args:
            version: Of TLS, such as ``TLSv1.3``.
            peer: Whom the certificate of the client names, if it was asked for one.

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
    def is_idle(self) -> bool:
        """Whether nothing is under way: no line, mail transaction, exchange or handshake."""
        return (
            self._read == self._read_line
            and not (self._line or self._line_ends_in_cr or self.closing or self.begins_tls)
            and self._transaction is None
            and self._dialogue is None
        )

    def say(self, octets: bytes, *, close: bool = False) -> bytes:
        """Say something that nobody asked for; the client cannot know of it, and what it sends next is no violation.

        Args:
            octets: Returned as they are.
            close: Whether to close behind them.
        """
        self._answered = None
        self.closing |= close
        return octets

    def feed(self, data: bytes, *, unread: bool = False) -> bytes:
        """Take what the client sent.

        Args:
            data: The octets; empty: the client will send no more. A command, content or chunk cut off there is not
                acted on.
            unread: Whether the client sent them before it took all that was returned before. It is then told from a
                write of its own that came too early.

        Returns:
            The replies. All messages that they answer for are in the mailbox.
        """
        self._out = []
        if not data:
            self.closing = True
            return b""
        if unread or self.closing or self.begins_tls:
            self._note_early()
        position = 0
        while position < len(data) and not self.closing and not self.begins_tls:
            position = self._read(data, position)
            if position < len(data):
                self._note_early()
        return b"".join(self._out)

    # --- the three readers: each is called with at least one octet, and returns where it stopped

    def _read_line(self, data: bytes, position: int) -> int:
        if self._line_ends_in_cr and data[position : position + 1] == b"\n":
            self._line_ends_in_cr = False
            if not self._line_is_too_long:
                del self._line[-1:]
            self._end_line()
            return position + 1
        end = data.find(b"\r\n", position)
        stop = end if end >= 0 else len(data)
        if not self._line_is_too_long:
            # The limit counts CRLF, which is not kept: a line that is too long still shows as such in `_end_line`
            limit = self._max_command_octets if self._dialogue is None else MAX_RESPONSE_LINE_OCTETS
            room = limit - len(self._line)
            self._line += data[position : min(stop, position + room)]
            self._line_is_too_long = stop - position > room
        if end < 0:
            self._line_ends_in_cr = data.endswith(b"\r")
            return stop
        self._line_ends_in_cr = False
        self._end_line()
        return end + 2

    def _end_line(self) -> None:
        line, is_too_long = bytes(self._line), self._line_is_too_long
        self._line.clear()
        self._line_is_too_long = False
        if self._dialogue is not None:
            self._answered = "AUTH"
            self._respond(self._dialogue, line, is_too_long or len(line) + 2 > MAX_RESPONSE_LINE_OCTETS)
            return
        self._number += 1
        verb = line.partition(b" ")[0].upper().decode("ascii", "replace")
        if verb in _COMMANDS:
            self._is_behind_auth = verb == "AUTH"
        self._answered = self._name(verb)
        try:
            if is_too_long or len(line) + 2 > MAX_COMMAND_LINE_OCTETS + self._additions.get(verb, 0):
                raise _Refusal(500, "5.5.2", "line too long", f"command line too long: {self._show(line)}")
            self._execute(verb, self._command_text(line))
        except _Refusal as refusal:
            self._violate(refusal.violation)
            self._say(refusal.reply)
            if verb == "MAIL":
                self._mail_was_refused = True
            elif verb == "RCPT" and self._transaction is not None:
                self._transaction.rcpt_count += 1

    def _read_content(self, data: bytes, position: int) -> int:
        transaction = self._current()
        pieces, position, is_complete = self._decoder.decode(data, position)
        for piece in pieces:
            transaction.add(piece)
        if is_complete:
            if self._decoder.single_dot:
                self._violate("a line of content that begins with a dot, not doubled")
            self._number += 1
            self._answered = "END_OF_DATA"
            self._read = self._read_line
            self._end_of_data(transaction, "DATA")
        return position

    def _read_chunk(self, data: bytes, position: int) -> int:
        chunk = self._chunk
        stop = min(len(data), position + chunk.left)
        if chunk.refusal is None:
            self._current().add(data[position:stop])
        chunk.left -= stop - position
        if not chunk.left:
            self._read = self._read_line
            self._answered = "BDAT"
            self._end_chunk(chunk)
        return stop

    # --- what is written down, and what is said

    def _violate(self, violation: str) -> None:
        if len(self.violations) < MAX_VIOLATIONS:
            self.violations.append(violation)

    def _note_early(self) -> None:
        """Write down that octets came which the client should not have sent before it read the last reply."""
        verb, self._answered = self._answered, None
        if verb is None:
            return
        if verb == "GREETING":
            self._violate("octets before the greeting was read")
        elif verb in _LAST_IN_GROUP or verb not in _ANYWHERE_IN_GROUP:
            self._violate(f"octets behind {verb}, which ends its group")
        elif not self._offers_pipelining:
            self._violate("pipelining, which is not offered")

    def _name(self, verb: str) -> str:
        return "a line" if self._is_behind_auth and verb not in _COMMANDS else verb[:MAX_QUOTED_CHARS]

    def _show(self, line: bytes | str) -> str:
        """Quote a line of the client, as far as it cannot hold a credential."""
        octets = line.encode() if isinstance(line, str) else line
        auth = _AUTH_COMMAND.search(octets)
        if auth is not None:
            return _quote(octets[: auth.end()] + b" ...")
        if self._is_behind_auth:
            return "(not shown behind AUTH)"
        return _quote(line)

    @property
    def _offers_pipelining(self) -> bool:
        return self._is_extended and self.config.extensions.pipelining

    def _say(self, reply: _Reply, *lines: str) -> None:
        """Send a reply of our own; `lines` stand behind its first line."""
        enhanced = f"{reply.enhanced} " if reply.enhanced and self.config.extensions.enhanced_status_codes else ""
        text = [f"{enhanced}{reply.text}{self._suffix}", *lines]
        octets = "".join(f"{reply.code}-{line}\r\n" for line in text[:-1])
        self._out.append(f"{octets}{reply.code} {text[-1]}\r\n".encode())
        if reply.code == 421:
            self.closing = True

    @property
    def _suffix(self) -> str:
        return f" #{self._number}" if self.config.numbered else ""

    def _say_scripted(self, scripted: ScriptedReply, *, is_numbered: bool = True) -> None:
        self._out.append(scripted.to_bytes(self._suffix if is_numbered else ""))
        if scripted.closes:
            self.closing = True

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
            verb: As the script names it.
            reply: Our own reply.
            lines: Of our own reply, behind its first line.
            sender: The reverse-path, for the script; None: that of the transaction.
            recipients: The forward-paths, for the script; None: those accepted in the transaction.
            can_perform: Whether there is anything to perform, if the reply is positive.
        """
        scripted = self._scripted(verb, sender=sender, recipients=recipients)
        if scripted is not None:
            self._say_scripted(scripted)
            return _Settled(scripted.is_positive, scripted.is_performed and can_perform)
        self._say(reply, *lines)
        positive = reply.code // 100 == (3 if verb == "DATA" else 2)
        return _Settled(positive, positive and can_perform)

    def _scripted(
        self, verb: str, *, sender: str | None = None, recipients: Collection[str] | None = None
    ) -> ScriptedReply | None:
        transaction = self._transaction
        if transaction is not None:
            sender = transaction.sender if sender is None else sender
            recipients = transaction.recipients if recipients is None else recipients
        return self.script.take(verb, sender=sender, recipients=recipients or (), in_tls=self.tls is not None)

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
            raise _Refusal(501, "5.5.2", "not UTF-8", f"command that is not UTF-8: {self._show(line)}") from None
        if text.endswith(" "):
            # RFC 5321 section 4.1.1 has servers tolerate it; clients have no reason to send it
            self._violate(f"space at the end of {self._show(line)}")
        return text.rstrip(" ")

    def _execute(self, verb: str, text: str) -> None:
        _, space, argument = text.partition(" ")
        if not text.isascii() and not (verb in {"MAIL", "RCPT", "VRFY", "EXPN"} and self._offers_smtputf8):
            code, enhanced = (553, "5.6.7") if verb in {"MAIL", "RCPT"} else (501, "5.5.4")
            raise _Refusal(code, enhanced, "non-ASCII not permitted here", f"8-bit command: {self._show(text)}")
        if self._refuses_service and verb != "QUIT":
            self._violate(f"{self._name(verb)} behind a negative greeting")
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
            if scripted is not None:
                self._say_scripted(scripted)
                return
            if verb == "STARTTLS":
                raise _Refusal(502, "5.5.1", "STARTTLS is not implemented", "STARTTLS, which is not offered")
            violation = "BDAT, which is not offered" if verb == "BDAT" else f"unknown command: {self._show(text)}"
            raise _Refusal(500, "5.5.1", f"command not recognized: {self._show(verb)}", violation)
        demand = self._demand(verb)
        if demand is not None and verb != "BDAT":
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
        self._transaction = None
        self._must_reset = False
        self._mail_was_refused = False

    def _current(self) -> _Transaction:
        if self._transaction is None:
            raise AssertionError("content is read within a transaction only")
        return self._transaction

    def _begin(self, sender: str, parameters: Parameters) -> _Transaction:
        body = parameters.get("BODY") or ""
        check = ContentCheck(allow_8bit=body.upper() == "8BITMIME" or "SMTPUTF8" in parameters)
        self._transaction = _Transaction(sender, parameters, self._limit, check)
        return self._transaction

    def _ehlo(self, argument: str) -> None:
        self._hello("LHLO" if self.config.lmtp else "EHLO", argument)

    def _plain_helo(self, argument: str) -> None:
        self._hello("HELO", argument)

    def _hello(self, verb: str, argument: str) -> None:
        if not is_domain(argument):
            raise _Refusal(
                501, "", "a domain or an address literal is needed", f"{verb} without a domain: {_quote(argument)}"
            )
        is_extended = verb != "HELO"
        lines = self._keywords() if is_extended else ()
        if self._settle(verb, _Reply(250, "", f"{self.config.name} greets {argument}"), *lines).performed:
            self._reset()
            self._helo = argument
            self._is_extended = is_extended

    def _keywords(self) -> tuple[str, ...]:
        mechanisms = " ".join(offered_mechanisms(self.config, in_tls=self.tls is not None))
        return (
            *self.config.extensions.keywords(),
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

    # --- AUTH: the command, the responses behind it, and what a step of the mechanism is answered

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
            (self.authenticated_as is not None, "AUTH behind AUTH"),
            (self._transaction is not None, "AUTH within a mail transaction"),
        ):
            if is_so:
                return Failure(503, "5.5.1", "bad sequence of commands", violation)
        if name not in offered:
            return Failure(504, "5.5.4", "mechanism not offered", f"AUTH {shown}, which is not offered")
        if name not in offered_mechanisms(self.config, in_tls=self.tls is not None):
            return Failure(538, "5.7.11", "encryption required for this mechanism", f"AUTH {shown} in clear")
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
        if isinstance(step, Failure) and step.violation and (scripted is None or step.code != 502):
            # As with any command that the server does not know: with a script it does
            self._violate(step.violation)
        self._dialogue = None
        if scripted is not None:
            # A number behind a challenge would make it undecodable
            self._say_scripted(scripted, is_numbered=not scripted.is_intermediate)
            if scripted.is_intermediate and not self.closing:
                dialogue.outcome = None if isinstance(step, Challenge) else step
                self._dialogue = dialogue
            elif scripted.is_performed and not (isinstance(step, Failure) and dialogue.exchange is None):
                self.authenticated_as = step.identity if isinstance(step, Success) else ""
        elif isinstance(step, Challenge):
            self._out.append(f"334 {encode_challenge(step.octets)}\r\n".encode())
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
        if not sender.isascii() and "SMTPUTF8" not in parameters:
            raise _Refusal(
                553, "5.6.7", "non-ASCII address without SMTPUTF8", f"8-bit MAIL without SMTPUTF8: {_quote(argument)}"
            )
        reply = _Reply(250, "2.1.0", "sender ok")
        can_perform = False
        mailmax = self.config.extensions.mailmax
        if self._helo is None:
            reply = self._out_of_sequence("MAIL before EHLO")
        elif self._must_reset:
            reply = self._out_of_sequence("MAIL without RSET behind a refused BDAT")
        elif self._transaction is not None:
            reply = self._out_of_sequence("MAIL within a mail transaction")
        else:
            can_perform = True
            if (declared_size(parameters) or 0) > self._limit:
                reply = _Reply(552, "5.3.4", "message size exceeds the limit")
            elif mailmax is not None and self._transaction_count >= mailmax:
                self._violate("MAIL beyond MAILMAX")
                reply = _Reply(421, "4.3.2", "too many transactions in this session")
        if self._settle("MAIL", reply, sender=sender, can_perform=can_perform).performed:
            self._begin(sender, parameters)
            self._transaction_count += 1
            self._mail_was_refused = False
        else:
            self._mail_was_refused = True

    def _rcpt(self, argument: str) -> None:
        recipient, parameters = self._path_and_parameters("RCPT", "TO:", argument)
        transaction = self._transaction
        if not recipient.isascii() and transaction is not None and "SMTPUTF8" not in transaction.parameters:
            raise _Refusal(
                553, "5.6.7", "non-ASCII address without SMTPUTF8", f"8-bit RCPT without SMTPUTF8: {_quote(argument)}"
            )
        reply = _Reply(250, "2.1.5", "recipient ok")
        rcptmax = self.config.extensions.rcptmax
        if transaction is None:
            may_be_early = self._mail_was_refused or self._must_reset
            reply = self._out_of_sequence(None if may_be_early else "RCPT without MAIL")
        elif transaction.chunks_begun:
            reply = self._out_of_sequence("RCPT behind BDAT")
        else:
            transaction.rcpt_count += 1
            if rcptmax is not None and transaction.rcpt_count > rcptmax:
                self._violate("RCPT beyond RCPTMAX")
                reply = _Reply(452, "4.5.3", "too many recipients")
            elif len(transaction.recipients) >= MAX_RECIPIENTS:
                reply = _Reply(452, "4.5.3", "too many recipients")
        can_perform = transaction is not None and not transaction.chunks_begun
        settled = self._settle("RCPT", reply, recipients=(recipient,), can_perform=can_perform)
        if settled.performed and transaction is not None:
            transaction.recipients.append(recipient)
            transaction.recipient_parameters.append(parameters)

    def _data(self, argument: str) -> None:
        self._no_argument("DATA", argument)
        transaction = self._transaction
        reply = _Reply(354, "", "end data with <CRLF>.<CRLF>")
        can_perform = True
        if transaction is None:
            may_be_early = self._mail_was_refused or self._must_reset
            reply = self._out_of_sequence(None if may_be_early else "DATA without MAIL")
        elif transaction.chunks_begun:
            reply = self._out_of_sequence("DATA behind BDAT")
            can_perform = False
        elif not transaction.recipients:
            if not transaction.rcpt_count:
                self._violate("DATA without RCPT")
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
        self._chunk = _Chunk(int(match[1]), match[2] is not None, refusal)
        if self._chunk.left:
            self._read = self._read_chunk
            self._answered = None
        else:
            self._end_chunk(self._chunk)

    def _end_chunk(self, chunk: _Chunk) -> None:
        """Answer a BDAT whose octets were all read.

        RFC 3030 section 2.
        """
        transaction = self._transaction
        if chunk.refusal is not None or transaction is None:
            reply = chunk.refusal or self._out_of_sequence(None)
            positive = self._settle("BDAT", reply, can_perform=False).positive
        elif chunk.is_last:
            positive = self._end_of_data(transaction, "BDAT")
        else:
            reply = _Reply(250, "2.0.0", f"{transaction.octets} octets so far")
            if transaction.is_too_big:
                reply = _Reply(552, "5.3.4", "message size exceeds the limit")
            positive = self._settle("BDAT", reply).positive
        if not positive:
            self._transaction = None
            self._must_reset = True

    def _rset(self, argument: str) -> None:
        self._no_argument("RSET", argument)
        if self._settle("RSET", _Reply(250, "2.0.0", "ok")).performed:
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
            raise _Refusal(
                553, "5.6.7", "non-ASCII address without SMTPUTF8", f"8-bit {verb} without SMTPUTF8: {_quote(argument)}"
            )
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
        try:
            if argument[: len(preposition)].upper() != preposition:
                raise BadSyntax(f"{verb} without {preposition}")
            mailbox, rest = read_path(argument[len(preposition) :], may_be_null=verb == "MAIL")
            parameters = read_parameters(rest)
        except BadSyntax as error:
            raise _Refusal(501, "5.5.4", str(error), f"{error}: {_quote(f'{verb} {argument}')}") from None
        for keyword, value in parameters.items():
            self._check_parameter(verb, keyword, value)
        return mailbox, parameters

    def _check_parameter(self, verb: str, keyword: str, value: str | None) -> None:
        extensions = self.config.extensions
        if self._is_extended and keyword in extensions.extra_parameters:
            return
        parameter = PARAMETERS.get((verb, keyword))
        if parameter is None or not self._is_extended or not parameter.is_offered(extensions):
            raise _Refusal(
                555,
                "5.5.4",
                f"parameter not recognized: {_quote(keyword)}",
                f"parameter {keyword[:MAX_QUOTED_CHARS]} of {verb}, which is not offered",
            )
        if not parameter.is_valid(value):
            text = keyword if value is None else f"{keyword}={value}"
            raise _Refusal(501, "5.5.4", f"bad value of {keyword}", f"bad parameter of {verb}: {_quote(text)}")

    def _end_of_data(self, transaction: _Transaction, via: Via) -> bool:
        """Give the verdict, or in LMTP one for each recipient, and commit what was taken.

        Returns:
            Whether any reply was positive. The transaction is over in any case.

        RFC 5321 section 4.1.1.4, RFC 2033 section 4.2.
        """
        transaction.check.finish()
        for fault in transaction.check.faults:
            self._violate(fault)
        declared = declared_size(transaction.parameters)
        if declared is not None and transaction.octets > declared:
            self._violate(f"{transaction.octets} octets of content, SIZE={declared} declared")
        queue_id = self.mailbox.new_queue_id()
        if not transaction.recipients:
            refusal: _Reply | None = _Reply(503 if self.config.lmtp else 554, "5.5.1", "no valid recipients")
        elif transaction.is_too_big:
            refusal = _Reply(552, "5.3.4", "message size exceeds the limit")
        elif transaction.check.faults:
            refusal = _Reply(554, "5.6.0", transaction.check.faults[0])
        else:
            refusal = None

        can_perform = bool(transaction.recipients) and not transaction.is_too_big and not transaction.is_void
        everyone = range(len(transaction.recipients))
        for_all = self._scripted("BDAT") if via == "BDAT" else None
        # One reply for all in SMTP, one for each in LMTP
        groups = [everyone]
        if self.config.lmtp and everyone and for_all is None:
            groups = [everyone[index : index + 1] for index in everyone]
        positive = False
        taken: list[int] = []
        for group in groups:
            recipients = transaction.recipients[group.start : group.stop]
            scripted = for_all or self._scripted("END_OF_DATA", recipients=recipients)
            if scripted is not None:
                self._say_scripted(scripted)
                positive |= scripted.is_positive
                is_taken = scripted.is_performed
            else:
                self._say(refusal or _Reply(250, "2.0.0", f"ok: queued as {queue_id}"))
                is_taken = refusal is None
                positive |= is_taken
            answers_for_all = scripted is not None and scripted.for_all
            if is_taken:
                taken += everyone[group.start :] if answers_for_all else group
            if answers_for_all or self.closing:
                break
        if taken and can_perform:
            self.mailbox.deliver(
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
                )
            )
        self._transaction = None
        return positive


def _quote(text: str | bytes) -> str:
    return repr(text[:MAX_QUOTED_CHARS])


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
