"""What becomes of each recipient: the outcomes, and the one table that says which replies mean which.

`EnvelopeReplies` holds what the server said to MAIL, to each RCPT and to DATA; the verdict is the reply to the end of
the content. `OUTCOME_RULES` makes of them an outcome for each recipient. Whether it is unknown for those who have no
verdict is not told by any reply: `transaction` says so, by the rules in its docstring.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from itertools import product
from typing import Final, NamedTuple

import attrs

from smtplite.errors import (
    DeliveryUnknown,
    MessageRefused,
    RecipientsRefused,
    SenderRefused,
    ServiceUnavailable,
    SMTPError,
)
from smtplite.protocol.commands import Command, Data, Mail, Rcpt
from smtplite.protocol.reply import Reply
from smtplite.protocol.state import RULES

__all__ = [
    "OUTCOME_RULES",
    "EnvelopeReplies",
    "Outcome",
    "OutcomeRule",
    "RecipientOutcome",
    "Said",
    "content_refused",
    "delivery_unknown",
    "is_limit",
    "is_too_many",
    "service_unavailable",
]


class Outcome(Enum):
    """What became of one recipient of one message."""

    ACCEPTED = "the server accepted the message for this recipient"
    REFUSED = "the server refused it"
    NOT_SENT = "certainly not accepted"
    UNKNOWN = "nobody can know"

    __hash__ = object.__hash__  # each is but once; Enum's own is Python, and slower


_ACCEPTED: Final = Outcome.ACCEPTED  # looked at for each message: a name is found sooner than a member


@attrs.frozen
class RecipientOutcome:
    """What became of one recipient, and the reply that decided it, if one did."""

    outcome: Outcome
    reply: Reply | None = None


class Said(Enum):
    """What the server said to a command, as far as outcomes depend on it."""

    NOTHING = "no reply was read"
    YES = "2yz or 3yz"
    NO = "4yz or 5yz, but 421"
    CLOSING = "421: not the command is refused, but the session ends"

    __hash__ = object.__hash__


class OutcomeRule(NamedTuple):
    """A row of the table."""

    #: What was said to MAIL; any of these.
    mail: frozenset[Said]
    #: What was said to the recipient's RCPT.
    rcpt: frozenset[Said]
    #: What was said to the end of the content: to this recipient's in LMTP, otherwise to everybody's. A refusal of DATA
    #: or of a chunk is a verdict, too.
    verdict: frozenset[Said]
    #: Whether it is unknown for those of whom nothing else is told.
    is_unknown: frozenset[bool]
    #: What that means.
    outcome: Outcome
    #: Whose reply it is that goes with the outcome; "": none.
    decided_by: str


_ANY: Final = frozenset(Said)
_REFUSED: Final = frozenset({Said.NO, Said.CLOSING})
_NO: Final = frozenset({Said.NO})
_CLOSING: Final = frozenset({Said.CLOSING})
_YES: Final = frozenset({Said.YES})
_NOTHING: Final = frozenset({Said.NOTHING})
_UNKNOWN: Final = frozenset({True})
_KNOWN: Final = frozenset({False})
_EITHER: Final = _KNOWN | _UNKNOWN

#: MAIL, RCPT, verdict, is it unknown -> outcome, and whose reply decided it. The first row that fits holds.
OUTCOME_RULES: Final[tuple[OutcomeRule, ...]] = (
    # It took something for a transaction that it had refused: nothing that it said can be trusted.
    OutcomeRule(_REFUSED, _ANY, _ANY, _UNKNOWN, Outcome.UNKNOWN, ""),
    OutcomeRule(_CLOSING, _ANY, _ANY, _KNOWN, Outcome.NOT_SENT, ""),
    OutcomeRule(_NO, _ANY, _ANY, _KNOWN, Outcome.REFUSED, "mail"),
    # A refusal that was read stays one, whatever became of the others.
    OutcomeRule(_ANY, _NO, _ANY, _EITHER, Outcome.REFUSED, "rcpt"),
    # A 421 to RCPT ends the session: it refuses the recipient only where the session went on all the same.
    OutcomeRule(_ANY, _CLOSING, _YES | _REFUSED, _EITHER, Outcome.REFUSED, "rcpt"),
    OutcomeRule(_ANY, _ANY, _YES, _EITHER, Outcome.ACCEPTED, "verdict"),
    OutcomeRule(_ANY, _ANY, _REFUSED, _EITHER, Outcome.REFUSED, "verdict"),
    OutcomeRule(_ANY, _ANY, _NOTHING, _UNKNOWN, Outcome.UNKNOWN, ""),
    OutcomeRule(_ANY, _ANY, _NOTHING, _KNOWN, Outcome.NOT_SENT, ""),
)


def _rule_for(mail: Said, rcpt: Said, verdict: Said, is_unknown: bool) -> OutcomeRule:
    return next(
        rule
        for rule in OUTCOME_RULES
        if mail in rule.mail and rcpt in rule.rcpt and verdict in rule.verdict and is_unknown in rule.is_unknown
    )


# The table, unrolled: what was said to MAIL, and whether it is unknown, are the same for all recipients.
_BY_RECIPIENT: Final[dict[tuple[Said, bool], dict[tuple[Said, Said], OutcomeRule]]] = {
    (mail, is_unknown): {
        (rcpt, verdict): _rule_for(mail, rcpt, verdict, is_unknown) for rcpt, verdict in product(Said, repeat=2)
    }
    for mail, is_unknown in product(Said, (False, True))
}


def _said(reply: Reply | None) -> Said:
    if reply is None:
        return Said.NOTHING
    if reply.code < 400:
        return Said.YES
    return Said.CLOSING if reply.code == 421 else Said.NO


def is_limit(reply: Reply) -> bool:
    """Return True for X.5.3, too many: of recipients behind RCPT, of messages behind MAIL."""
    return reply.enhanced is not None and (reply.enhanced.subject, reply.enhanced.detail) == (5, 3)


def is_too_many(reply: Reply) -> bool:
    """Return True if RCPT was refused because the transaction has enough (RFC 5321 4.5.3.1.10)."""
    if reply.code in (452, 552) and reply.enhanced is None:
        return True
    return (reply.is_transient or reply.code == 552) and is_limit(reply)  # OpenSMTPD says 451 4.5.3


def service_unavailable(
    reply: Reply, command: Command | None = None, *, phase: str | None = None
) -> ServiceUnavailable:
    """Return the error that a 421 is.

    Args:
        reply: the 421.
        command: what it answers, if anything.
        phase: where the dialogue stood; None: where the command belongs.
    """
    return ServiceUnavailable(
        f"server closes the connection: {reply}",
        command=None if command is None else str(command),
        reply=reply,
        phase=phase if command is None else RULES[type(command)].phase,
    )


_WHAT_IS_REFUSED: Final = {
    "data": "DATA",
    "content": "the message while it was being sent",
    "end of data": "the message",
}


def content_refused(reply: Reply, command: str, *, phase: str = "content") -> MessageRefused:
    """Return the error of a message whose content is refused: by the reply to DATA, to a chunk, or to its end."""
    return MessageRefused(
        f"server refused {_WHAT_IS_REFUSED[phase]}: {reply}", command=command, reply=reply, phase=phase
    )


def delivery_unknown(cause: SMTPError) -> DeliveryUnknown:
    """Return the error of a message that was handed over, and of which nothing more can be known."""
    error = DeliveryUnknown(
        "the message was handed over and no verdict came: it may have been delivered, or not", phase=cause.phase
    )
    error.__cause__ = cause
    return error


class EnvelopeReplies:
    """The commands of one envelope, and what the server said to them and of its recipients, as far as that was read.

    Args:
        mail: the MAIL command.
        rcpts: its RCPT commands.
        require_all: the message goes to nobody unless every recipient is accepted.
    """

    def __init__(self, mail: Mail, rcpts: Sequence[Rcpt], *, require_all: bool) -> None:
        self.mail = mail
        self.rcpts = rcpts
        self.require_all = require_all and len(rcpts) > 1
        #: DATA, once it is sent.
        self.data: Data | None = None
        self.mail_reply: Reply | None = None
        self.data_reply: Reply | None = None
        #: How many recipients were accepted.
        self.accepted = 0
        #: In the order of the commands; as many as were read.
        self.rcpt_replies: list[Reply] = []
        #: LMTP's replies to the end of data, by `id` of the RCPT of each recipient (RFC 2033 4.2).
        self.verdicts: dict[int, Reply] = {}

    def forget(self) -> None:
        """Forget what was said to MAIL and RCPT: it says nothing about this envelope."""
        self.mail_reply = None
        self.rcpt_replies = []

    @property
    def mail_refusal(self) -> Reply | None:
        """The reply to MAIL, if it is a refusal."""
        reply = self.mail_reply
        return reply if reply is not None and reply.code >= 400 else None

    @property
    def is_answered(self) -> bool:
        """True once the reply to each RCPT was read."""
        return len(self.rcpt_replies) == len(self.rcpts)

    @property
    def is_everyone_refused(self) -> bool:
        """True if each RCPT was refused."""
        return not self.accepted and self.is_answered

    @property
    def lacks_someone(self) -> bool:
        """True if it is for all or nobody, and not every recipient was accepted, as far as is known."""
        return self.require_all and self.accepted < len(self.rcpts)

    @property
    def was_out_of_sequence(self) -> bool:
        """True if every command that was sent was answered, and each by 503."""
        replies: list[Reply | None] = [self.mail_reply, *self.rcpt_replies]
        if self.data is not None:
            replies.append(self.data_reply)
        return self.is_answered and all(reply is not None and reply.code == 503 for reply in replies)

    def outcomes(self, verdict: Reply | None, *, is_unknown: bool) -> tuple[RecipientOutcome, ...]:
        """Return what became of each recipient, in order.

        Args:
            verdict: the one for all; None: there is none, or in LMTP each has one of its own.
            is_unknown: whether it is unknown for those of whom nothing else is told.
        """
        mail_reply, replies, read = self.mail_reply, self.rcpt_replies, len(self.rcpt_replies)
        if (
            verdict is not None
            and verdict.code < 400
            and mail_reply is not None
            and mail_reply.code < 400
            and self.accepted == read == len(self.rcpts)
        ):
            # Nearly every message; the table says the same of each.
            return (RecipientOutcome(_ACCEPTED, verdict),) * read
        rules = _BY_RECIPIENT[_said(mail_reply), is_unknown]
        made: dict[tuple[int, int], RecipientOutcome] = {}  # servers say the same to many
        outcomes = []
        for index, rcpt in enumerate(self.rcpts):
            answer = replies[index] if index < read else None
            decided = verdict or self.verdicts.get(id(rcpt))
            said = (id(answer), id(decided))
            outcome = made.get(said)
            if outcome is None:
                rule = rules[_said(answer), _said(decided)]
                reply = {"mail": mail_reply, "rcpt": answer, "verdict": decided}.get(rule.decided_by)
                outcome = made[said] = RecipientOutcome(rule.outcome, reply)
            outcomes.append(outcome)
        return tuple(outcomes)

    def refusal(self) -> SMTPError:
        """Return the error of an envelope that was refused, whole or in part: the first refusal tells why."""
        refusal = self.mail_refusal
        if refusal is not None:
            if refusal.code == 421:
                return service_unavailable(refusal, self.mail)
            error = SenderRefused(
                f"server refused the sender: {refusal}", command=str(self.mail), reply=refusal, phase="mail"
            )
            error.sender = self.mail.reverse_path.address
            return error
        answered = zip(self.rcpts, self.rcpt_replies, strict=False)
        refused = [(rcpt, reply) for rcpt, reply in answered if reply.is_negative]
        rcpt, reply = next((pair for pair in refused if pair[1].code != 421), refused[0])
        if reply.code == 421:
            return service_unavailable(reply, rcpt)
        count = len(self.rcpts)
        who = "the recipient" if count == 1 else f"{len(refused)} of {count} recipients"
        return RecipientsRefused(f"server refused {who}: {reply}", command=str(rcpt), reply=reply, phase="rcpt")
