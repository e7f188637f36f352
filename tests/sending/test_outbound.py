"""Outbound: one message on its way, and what is said of it at the end."""

from __future__ import annotations

from smtplite.message.prepared import prepare
from smtplite.protocol.outcomes import Outcome, RecipientOutcome
from smtplite.protocol.reply import EnhancedStatusCode, Reply
from smtplite.results import Receipt
from smtplite.sending.outbound import Outbound
from smtplite.trace import Tracer

RAW = b"From: me@client.example\r\nTo: you@server.example\r\nSubject: x\r\n\r\nHello\r\n"
TAKEN = Reply(250, (b"ok",))
NO = Reply(550, (b"5.1.1 no",), EnhancedStatusCode(5, 1, 1))


def test_every_recipient_as_given_has_exactly_one_outcome_and_the_reply_about_it() -> None:
    outbound = Outbound(prepare(RAW, recipients=["a@x", "b@x", "a@X", "c@x", "d@x", "b@x"]), Tracer())
    outbound._outcomes = [
        RecipientOutcome(Outcome.ACCEPTED, TAKEN),
        RecipientOutcome(Outcome.REFUSED, NO),
        RecipientOutcome(Outcome.UNKNOWN),
        RecipientOutcome(Outcome.NOT_SENT),
    ]
    assert outbound._sets() == {
        "accepted": ("a@x", "a@X"),
        "refused": {"b@x": NO},
        "unknown": ("c@x",),
        "not_sent": ("d@x",),
    }
    assert outbound._replies() == {"a@x": TAKEN, "a@X": TAKEN, "b@x": NO}
    receipt = Receipt(**outbound._sets(), replies=outbound._replies())
    assert not receipt.complete
