"""The table of outcomes: every combination of replies, against the rules said in words, and no row that never holds."""

from __future__ import annotations

from itertools import product

import pytest

from smtplite.protocol import Mail, Outcome, Rcpt, RecipientOutcome, Reply
from smtplite.protocol.outcomes import OUTCOME_RULES, EnvelopeReplies, OutcomeRule, Said
from tests.exhaustive import WHOLE

A, R, N, U = Outcome.ACCEPTED, Outcome.REFUSED, Outcome.NOT_SENT, Outcome.UNKNOWN

#: One reply of each kind.
REPLIES = {Said.NOTHING: None, Said.YES: Reply(250), Said.NO: Reply(550), Said.CLOSING: Reply(421)}
COMBINATIONS = list(product(Said, Said, Said, (False, True)))


def row_for(mail: Said, rcpt: Said, verdict: Said, is_unknown: bool) -> OutcomeRule:
    return next(
        row
        for row in OUTCOME_RULES
        if mail in row.mail and rcpt in row.rcpt and verdict in row.verdict and is_unknown in row.is_unknown
    )


def in_words(mail: Said, rcpt: Said, verdict: Said, is_unknown: bool) -> tuple[Outcome, str]:
    """Rule by rule, as `transaction` and R1 say it."""
    if mail in (Said.NO, Said.CLOSING) and is_unknown:
        return U, ""  # the server took what it had refused
    if mail is Said.CLOSING:
        return N, ""
    if mail is Said.NO:
        return R, "mail"
    if rcpt is Said.NO or (rcpt is Said.CLOSING and verdict is not Said.NOTHING):
        return R, "rcpt"
    if verdict is Said.NOTHING:
        return (U if is_unknown else N), ""
    return (A if verdict is Said.YES else R), "verdict"


@pytest.mark.exhaustive(keep=WHOLE)
@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize(("mail", "rcpt", "verdict", "is_unknown"), COMBINATIONS)
def test_each_combination_has_its_outcome(mail: Said, rcpt: Said, verdict: Said, is_unknown: bool, lmtp: bool) -> None:
    """R1: exactly one outcome, and the reply that decided it; in LMTP the verdict is the recipient's own."""
    first, second = Rcpt("a@x.example"), Rcpt("b@x.example")
    replies = EnvelopeReplies(Mail("me@x.example"), [first, second], require_all=False)
    replies.mail_reply = REPLIES[mail]
    replies.rcpt_replies = [Reply(250)]
    if (answer := REPLIES[rcpt]) is not None:
        replies.rcpt_replies.append(answer)
    for_all = REPLIES[verdict]
    if lmtp:
        for_all = None
        if (decided := REPLIES[verdict]) is not None:
            replies.verdicts[id(second)] = decided
    outcome, decided_by = in_words(mail, rcpt, verdict, is_unknown)
    reply = {"": None, "mail": REPLIES[mail], "rcpt": answer, "verdict": REPLIES[verdict]}[decided_by]
    looked_at_each = replies.outcomes(for_all, is_unknown=is_unknown)
    assert looked_at_each[1] == RecipientOutcome(outcome, reply)
    # As the transaction counts them: where all were accepted, one outcome is everybody's.
    replies.accepted = sum(answer.code < 400 for answer in replies.rcpt_replies)
    assert replies.outcomes(for_all, is_unknown=is_unknown) == looked_at_each


def test_each_row_holds_somewhere_and_every_combination_has_a_row() -> None:
    used = {id(row_for(*combination)) for combination in COMBINATIONS}
    assert used == set(map(id, OUTCOME_RULES))


def test_accepted_is_only_who_has_a_positive_verdict_of_a_transaction_that_was_not_refused() -> None:
    """Promise 1: nothing but the reply to the end of the content means delivered (R3)."""
    for mail, rcpt, verdict, is_unknown in COMBINATIONS:
        if row_for(mail, rcpt, verdict, is_unknown).outcome is A:
            assert verdict is Said.YES
            assert mail in (Said.NOTHING, Said.YES)
            assert rcpt in (Said.NOTHING, Said.YES)


def test_not_sent_is_nobody_whose_outcome_is_unknown() -> None:
    """R1: a doubt is never told as certain."""
    for mail, rcpt, verdict, is_unknown in COMBINATIONS:
        if is_unknown:
            assert row_for(mail, rcpt, verdict, is_unknown).outcome is not N
