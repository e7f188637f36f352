"""Every state, and every transition: two tables, RULES and AFTER. `connection` looks them up, and knows no other.

Theory of operation:

1. A connection has one *state*: what the replies read so far have made of it. It begins in GREETING, with the greeting
   owed. A reply moves it to `Rule.after_success` or `Rule.after_failure` of the command that it answers, a 334 to
   `Rule.after_challenge`; None leaves it where it is. These states are absolute: they do not depend on the state
   before.
2. A command may be sent while replies are owed, if the server offers PIPELINING and no command of those still owed
   ends its group (`Rule.ends_group`, RFC 2920 3.1; in LMTP `Rule.ends_lmtp_group`). What is legal then is judged by the
   *assumed* state: the one in which the connection would be if all that is owed succeeded. Because states are absolute,
   that is the state behind the newest command alone, `Rule.while_owed`: no queue is walked.
3. What moves a connection and is no reply within a rule is an `Occasion`; AFTER says where each leads, whatever the
   state was. CLOSING is left for CLOSED alone: what the server still says to commands that it was sent before changes
   nothing. CLOSED is not left.
4. `Rule.expected` are the classes (first digits) that a reply may have; another breaks the protocol. A few codes
   belong to certain commands alone (RESERVED_CODES) and a few commands believe one positive code alone (`Rule.code`).
5. `Rule.requires` is the keyword that the server must have offered. `Rule.timeout` names the field of `Timeouts` that
   holds for the reply, `Rule.phase` the phase that an error reports.

What a table of states cannot say is decided in `connection`, for the commands whose rule `is_special` and for content:
LHLO is of LMTP, EHLO and HELO are not; no STARTTLS inside TLS or with octets unread; no AUTH twice; in LMTP no end of
data without a recipient; nothing behind a chunk that is not complete, and nothing where octets wait that nobody asked
for. Who may be sent what, and when, is decided above: in `transaction` and `window`.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import attrs

from smtplite.protocol.commands import (
    Auth,
    AuthCancel,
    AuthResponse,
    Bdat,
    BdatLast,
    BdatProbe,
    Command,
    Custom,
    Data,
    Ehlo,
    EndOfData,
    Expn,
    Greeting,
    Helo,
    Help,
    Lhlo,
    Mail,
    Noop,
    Quit,
    Rcpt,
    Rset,
    StartTls,
    Vrfy,
)

__all__ = ["AFTER", "RESERVED_CODES", "RULES", "Occasion", "Rule", "State"]


class State(Enum):
    """Where a connection stands."""

    GREETING = "the server has yet to send its greeting"
    HELLO = "the greeting was read; EHLO comes next"
    READY = "between mail transactions"
    AUTH = "the server waits for the response to its challenge"
    TLS = "the TLS handshake comes next"
    MAIL = "MAIL was accepted; recipients come next"
    RCPT = "a recipient was accepted"
    DATA = "the content is being sent"
    CHUNK = "a chunk was accepted; more come"
    VERDICT = "the last chunk was sent; its reply has yet to come"
    FAILED = "a chunk was refused; RSET or EHLO must come next"
    CLOSING = "the connection is being closed, by the server or after QUIT"
    CLOSED = "closed"

    __hash__ = object.__hash__  # each is but once; Enum's own is Python, and asked at every command


@attrs.frozen(eq=False)
class Rule:
    """What holds for one kind of command; the module's docstring explains each field."""

    verb: str
    legal_in: frozenset[State]
    after_success: State | None
    after_failure: State | None
    ends_group: bool
    phase: str
    timeout: str = "command"
    while_owed: State | None = attrs.field(default=attrs.Factory(lambda self: self.after_success, takes_self=True))
    after_challenge: State | None = None
    ends_lmtp_group: bool = attrs.field(default=attrs.Factory(lambda self: self.ends_group, takes_self=True))
    requires: str | None = None
    expected: frozenset[int] = frozenset({2, 4, 5})
    code: int | None = None
    is_special: bool = attrs.field(default=attrs.Factory(lambda self: self.requires is not None, takes_self=True))


_QUIET: Final = frozenset({State.HELLO, State.READY, State.MAIL, State.RCPT, State.FAILED})
_SESSION: Final = frozenset({State.READY, State.MAIL, State.RCPT, State.CHUNK, State.FAILED})
_NO: Final[frozenset[State]] = frozenset()
_CONTINUES: Final = frozenset({3, 4, 5})
_EXCHANGE: Final = frozenset({2, 3, 4, 5})


def _only(*states: State) -> frozenset[State]:
    return frozenset(states)


#: RFC 5321 4.1.4 and 4.3.2 in one table; the docs' state table and diagram are generated from it.
RULES: Final[dict[type[Command], Rule]] = {
    Greeting: Rule("(greeting)", _NO, State.HELLO, State.CLOSING, True, "greeting", "greeting"),
    # In mid-session these are RSET and more (RFC 5321 4.1.4): a refused one leaves all as it was.
    Ehlo: Rule("EHLO", _SESSION | {State.HELLO}, State.READY, None, True, "hello", is_special=True),
    Helo: Rule("HELO", _SESSION | {State.HELLO}, State.READY, None, True, "hello", is_special=True),
    Lhlo: Rule("LHLO", _SESSION | {State.HELLO}, State.READY, None, True, "hello", is_special=True),
    StartTls: Rule("STARTTLS", _only(State.READY), State.TLS, None, True, "starttls", requires="STARTTLS", code=220),
    Auth: Rule(
        "AUTH",
        _only(State.READY),
        State.READY,
        State.READY,
        True,
        "auth",
        requires="AUTH",
        after_challenge=State.AUTH,
        expected=_EXCHANGE,
        code=235,
    ),
    AuthResponse: Rule(
        "(response)",
        _only(State.AUTH),
        State.READY,
        State.READY,
        True,
        "auth",
        after_challenge=State.AUTH,
        expected=_EXCHANGE,
        code=235,
    ),
    AuthCancel: Rule(
        "*",
        _only(State.AUTH),
        State.READY,
        State.READY,
        True,
        "auth",
        after_challenge=State.AUTH,
        expected=_EXCHANGE,
        code=235,
    ),
    Mail: Rule("MAIL", _only(State.READY), State.MAIL, State.READY, False, "mail"),
    Rcpt: Rule("RCPT", _only(State.MAIL, State.RCPT), State.RCPT, None, False, "rcpt"),
    # A refused DATA leaves the transaction open at every server met: RSET comes before the next MAIL.
    Data: Rule("DATA", _only(State.RCPT), State.DATA, None, True, "data", "data_init", expected=_CONTINUES),
    # In LMTP it is owed as many replies as recipients were taken, and how many that is must be known first.
    EndOfData: Rule(
        ".",
        _only(State.DATA),
        State.READY,
        State.READY,
        False,
        "end of data",
        "end_of_data",
        ends_lmtp_group=True,
        is_special=True,
    ),
    # After a refused chunk the server's state is undefined: RSET (RFC 3030 2).
    Bdat: Rule(
        "BDAT",
        _only(State.RCPT, State.CHUNK),
        State.CHUNK,
        State.FAILED,
        False,
        "content",
        "end_of_data",
        requires="CHUNKING",
    ),
    # VERDICT: a MAIL behind a BDAT LAST whose reply is owed needs RSET in front, or it may join the transaction that
    # failed (Exim did that, and delivered under the wrong sender).
    BdatLast: Rule(
        "BDAT LAST",
        _only(State.RCPT, State.CHUNK),
        State.READY,
        State.FAILED,
        False,
        "end of data",
        "end_of_data",
        while_owed=State.VERDICT,
        ends_lmtp_group=True,
        requires="CHUNKING",
    ),
    # In LMTP, too, it is owed one reply: no recipient was taken. RSET behind it shows how many commands were read.
    BdatProbe: Rule(
        "BDAT (proof)",
        _only(State.MAIL),
        State.FAILED,
        State.FAILED,
        False,
        "chunking proof",
        requires="CHUNKING",
    ),
    # Its reply is how we know that both sides agree where they are: nothing but 2yz, or a 421, will do.
    Rset: Rule("RSET", _SESSION | {State.VERDICT}, State.READY, None, False, "rset", expected=frozenset({2})),
    Noop: Rule("NOOP", _QUIET, None, None, True, "command"),
    Vrfy: Rule("VRFY", _QUIET, None, None, True, "command"),
    Expn: Rule("EXPN", _QUIET, None, None, True, "command"),
    Help: Rule("HELP", _QUIET, None, None, True, "command"),
    Custom: Rule("(any other)", _QUIET, None, None, True, "command"),
    Quit: Rule("QUIT", _QUIET | {State.CHUNK, State.VERDICT}, State.CLOSING, State.CLOSING, True, "quit", "quit"),
}

#: Codes that are believed as the reply to these commands alone. Anywhere else they show that the count is off.
RESERVED_CODES: Final[dict[int, frozenset[type[Command]]]] = {
    220: frozenset({Greeting, StartTls}),
    221: frozenset({Quit}),
    235: frozenset({Auth, AuthResponse, AuthCancel}),
    334: frozenset({Auth, AuthResponse, AuthCancel}),
    354: frozenset({Data}),
}


class Occasion(Enum):
    """What moves a connection, whatever its state, and is no reply within the rule of a command."""

    TLS_ESTABLISHED = "TLS established"
    SERVICE_CLOSING = "a 421, to a command or unasked"
    REFUSED_IN_CONTENT = "a 4yz or 5yz before all of the content, or of a chunk, was sent"
    ONE_FOR_ALL = "LMTP: one reply to the end of data, instead of one for each recipient"
    END_OF_OCTETS = "end of the connection"
    BREACH = "the server broke the protocol"

    __hash__ = object.__hash__


#: Where each occasion leads.
AFTER: Final[dict[Occasion, State]] = {
    Occasion.TLS_ESTABLISHED: State.HELLO,  # behind STARTTLS; before the greeting it changes nothing
    Occasion.SERVICE_CLOSING: State.CLOSING,  # RFC 5321 3.8
    Occasion.REFUSED_IN_CONTENT: State.CLOSING,  # nobody can say what the server takes the rest for
    Occasion.ONE_FOR_ALL: State.CLOSING,  # should the others come all the same, no count can be trusted
    Occasion.END_OF_OCTETS: State.CLOSED,
    Occasion.BREACH: State.CLOSED,
}
