"""The invariants of the fault-injection plan, I1 to I7, held against the truth of the server."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest

import attrs

from smtplite.protocol.commands import Bdat, BdatLast, EndOfData, Mail, Rcpt, Rset
from smtplite.protocol.events import ContentRefused, Disconnected, Replied, ServiceClosing
from smtplite.protocol.outcomes import Outcome, RecipientOutcome

from .client import Client, Ended, Message
from .conversations import Conversation
from .plans import Case, base_of
from .user_agent import UserAgent

__all__ = ["Taken", "faults", "initials", "taken", "tried", "verdict"]

_QUEUED = re.compile(rb"^250[ -](?:[0-9.]+ )?ok: queued as (Q[0-9]+)[^\n]*\r\n", re.MULTILINE)
_TAG = re.compile(rb" #([0-9]+)$")


@attrs.define
class Taken:
    """How the replies to mail transactions were taken.

    Attributes:
        transactions: all that were begun.
        at_once: those whose verdict was taken at once with all that was owed (see `smtplite.protocol.usual`).
        whole: those that were written whole.
    """

    transactions: int = 0
    at_once: int = 0
    whole: int = 0

    def add(self, agent: UserAgent) -> None:
        """Count what a run had."""
        self.transactions += sum(client.window.begun for client in agent.clients)
        self.at_once += sum(client.window.at_once for client in agent.clients)
        self.whole += sum(client.wholes for client in agent.clients)

    def include(self, other: Taken) -> None:
        """Add what others had."""
        self.transactions += other.transactions
        self.at_once += other.at_once
        self.whole += other.whole

    def __str__(self) -> str:
        return (
            f"{self.at_once:,} of {self.transactions:,} transactions were taken at once with all that was owed, "
            f"{self.whole:,} were written whole"
        )


#: How many runs were judged, by the kind of what befell them.
tried: Counter[str] = Counter()
#: What was taken in all of them.
taken = Taken()


def verdict(conversation: Conversation, case: Case, kind: str) -> list[str]:
    """Make a run; return what is wrong with it.

    Args:
        conversation: what is said.
        case: what befalls it, and what must hold.
        kind: for the count.
    """
    tried[kind] += 1
    agent = UserAgent(conversation, case.plan)
    try:
        agent.run()
        taken.add(agent)
        if case.demand == "what counting can tell":
            return list(_faults_of_counting(agent))
        is_altered = case.plan.edit is not None or case.plan.recode is not None
        wrong = list(faults(agent, is_altered=is_altered, is_421=case.demand == "all but I6"))
        client = agent.clients[0]
        if case.has_surplus and client.wire.is_edited and not client.is_closed and not client.is_stale:
            wrong.append("R8: the connection goes on, though more was said than was asked for")
        if case.plan.keeps_all:
            wrong += _differences(base_of(conversation), agent)
    except Exception as error:  # noqa: BLE001 (whatever it is, which run it was must be said)
        return [f"{type(error).__name__}: {error}"]
    return wrong


def _claims(message: Message) -> dict[str, RecipientOutcome]:
    """Return what the client says of each recipient: the last word of the transactions that it was in."""
    said = {recipient: RecipientOutcome(Outcome.NOT_SENT) for recipient in message.recipients}
    for concluded in message.history:
        said.update(zip(concluded.recipients, concluded.outcomes, strict=True))
    return said


def initials(agent: UserAgent) -> tuple[str, ...]:
    """Return the outcomes of each message, as `Conversation.expected` has them."""
    return tuple(
        "".join(outcome.outcome.name[0] for outcome in _claims(message).values())
        for message in agent.messages[: len(agent.conversation.messages)]
    )


def _differences(base: UserAgent, agent: UserAgent) -> Iterator[str]:
    """Say in what a run differs from the one that nothing befell, where it must not."""
    if initials(agent) != initials(base):
        yield f"outcomes: {initials(agent)}, and not {initials(base)}"
    if agent.conversation.depends_on_arrival:
        return
    for index, (one, other) in enumerate(zip_longest(_events(agent), _events(base))):
        if one != other:
            yield f"event {index}: {one}, and not {other}"
            return


def _events(agent: UserAgent) -> list[str]:
    """Return what happened on the first connection, as text.

    In a window of chunks, when replies come decides whether a verdict is owed when the next message begins, and with it
    whether RSET stands in front: it is left out there, and so are the numbers.
    """
    events = []
    is_window = agent.conversation.is_stream and agent.conversation.options.chunking
    for event in agent.clients[0].happened:
        if isinstance(event, Disconnected):
            events.append(f"closed: {event.partial!r}")
        elif isinstance(event, (ServiceClosing, ContentRefused)):
            events.append(f"{type(event).__name__}: {event.reply}")
        elif not (is_window and isinstance(event.command, Rset)):
            text = f"{event.command}: {event.reply} {event.reply.enhanced}"
            if isinstance(event, Replied):
                text += f" {event.recipient} {event.is_final}"
            events.append(re.sub(r" #[0-9]+", "", text) if is_window else text)
    return events


def faults(agent: UserAgent, *, is_altered: bool = False, is_421: bool = False) -> Iterator[str]:
    """Say what is wrong with this run.

    Args:
        agent: whose run is over.
        is_altered: replies were recoded or changed, so that what they say is not the server's own.
        is_421: there was a 421 too many; what the replies behind it answer, nobody can know.
    """
    yield from _faults_of_outcomes(agent)
    for message in agent.messages:
        yield from _faults_of_history(message, is_stopped=agent.plan.stops)
    yield from _faults_of_closing(agent)
    for client in agent.clients:
        # What is said in the middle of content answers its end, for a client that hears it late.
        if not agent.conversation.depends_on_arrival:
            yield from _faults_of_attribution(client, only=agent.last_messages if is_421 else None)
        yield from _faults_of_ends(client)
    if not is_altered:
        yield from _faults_of_final_replies(agent)
    if not is_altered and not agent.conversation.depends_on_arrival:
        for client in agent.clients:
            for violation in client.wire.server.violations:
                yield f"the client broke the protocol: {violation}"


def _faults_of_counting(agent: UserAgent) -> Iterator[str]:
    """Say what is wrong with a run in which a reply may be taken for another, for counting cannot tell."""
    for message in agent.messages:
        yield from _faults_of_history(message)
    yield from _faults_of_closing(agent)
    for client in agent.clients:
        yield from _faults_of_ends(client)  # the first surplus ends it, and every verdict still open is unknown
        yield from _faults_of_attribution(client, only=agent.last_messages)


def _faults_of_outcomes(agent: UserAgent) -> Iterator[str]:
    committed = Counter((commitment.content, commitment.recipient) for commitment in agent.mailbox.committed)
    for message in agent.messages:
        for recipient, said in _claims(message).items():
            times = committed.pop((message.content, recipient), 0)
            what = f"message {message.number} to {recipient} is {said.outcome.name}, and was committed {times} times"
            if said.outcome is Outcome.ACCEPTED and times != 1:
                yield f"I1: {what}"
            elif said.outcome in (Outcome.REFUSED, Outcome.NOT_SENT) and times:
                yield f"I2: {what}"
            elif said.outcome is Outcome.UNKNOWN and times > 1:
                yield f"I1: {what}"
            elif said.outcome is Outcome.UNKNOWN and not _was_handed_over(message, recipient):
                yield f"I3: {what}, but its end was never handed over"
            if said.outcome is Outcome.REFUSED and (said.reply is None or not said.reply.is_negative):
                yield f"I2: {what}, by {said.reply}"
    for (content, recipient), times in committed.items():
        yield f"I1: {content!r} was committed {times} times for {recipient}, who was not to have it"
    senders = {message.content: message.sender for message in agent.messages}
    for taken in agent.mailbox.messages:
        if senders.get(taken.content, taken.sender) != taken.sender:
            yield f"I1: {taken!r} was committed under the reverse-path of another message"


def _was_handed_over(message: Message, recipient: str) -> bool:
    return any(concluded.was_handed_over for concluded in message.history if recipient in concluded.recipients)


def _faults_of_history(message: Message, *, is_stopped: bool = False) -> Iterator[str]:
    """I4: exactly one outcome, over several transactions too."""
    decided: Counter[str] = Counter()
    for recipients, outcomes, _, _ in message.history:
        if len(recipients) != len(outcomes) or len(set(recipients)) != len(recipients):
            yield f"I4: message {message.number} has {len(outcomes)} outcomes for {recipients}"
        for recipient, outcome in zip(recipients, outcomes, strict=False):
            if decided[recipient]:
                yield f"I4: message {message.number} was sent again to {recipient}, whose outcome was decided"
            decided[recipient] += outcome.outcome in (Outcome.ACCEPTED, Outcome.UNKNOWN)
    said = _claims(message)
    if message.outcomes != tuple(said[recipient] for recipient in message.recipients):
        yield f"I4: message {message.number} forgets an outcome: {message.outcomes}, {message.history}"
    if not message.is_done and message.history and not is_stopped:
        yield f"I4: message {message.number} is left undone"
    accepted = any(outcome.outcome is Outcome.ACCEPTED for outcome in message.outcomes)
    if message.history and (message.error is None) is not accepted:
        yield f"I4: message {message.number} has the error {message.error!r} and the outcomes {message.outcomes}"
    if message.times_resent > 1 or (message.times_resent and not message.is_repeatable):
        yield f"R11: message {message.number} was sent again {message.times_resent} times"


def _faults_of_closing(agent: UserAgent) -> Iterator[str]:
    """I5: what is left open is in sync, for a message that follows on it is delivered (`UserAgent.last_messages`)."""
    if agent.clients[0].wire.is_cut or agent.plan.befalls_all:
        return
    for message in agent.last_messages:
        outcome = message.outcomes[0].outcome
        if outcome is Outcome.NOT_SENT and agent.conversation.depends_on_arrival:
            continue  # what showed that it is not in sync came later, and ended it
        if outcome is not Outcome.ACCEPTED:
            yield f"I5: a connection was left open, and the message that followed is {outcome.name}: {message.error!r}"


def _faults_of_attribution(client: Client, only: list[Message] | None = None) -> Iterator[str]:
    """I6: each reply names the command that it answers."""
    for heard in client.heard:
        text = heard.reply.lines[0]
        tag = _TAG.search(text)
        if tag is not None and int(tag[1]) != heard.number and (only is None or heard.message in only):
            yield f"I6: {text!r} was taken for the reply to {heard.command}, number {heard.number}"


def _faults_of_final_replies(agent: UserAgent) -> Iterator[str]:
    """R2: a complete final reply decides, whatever follows."""
    heard: Counter[str] = Counter()
    for client in agent.clients:
        wire = client.wire
        heard.update(match.decode() for match in _QUEUED.findall(bytes(wire.said[: wire.heard])))
    said = {(message.content, to): claim for message in agent.messages for to, claim in _claims(message).items()}
    for commitment in agent.mailbox.committed:
        claim = said.get((commitment.content, commitment.recipient))
        if heard[commitment.queue_id] > 0 and claim is not None and claim.outcome is not Outcome.ACCEPTED:
            yield f"R2: the server said that it took {commitment.content!r}, and it is {claim.outcome.name}"
        heard[commitment.queue_id] -= agent.conversation.options.lmtp  # there each recipient has a reply


def _faults_of_ends(client: Client) -> Iterator[str]:
    """What a message comes to whose session ended, by the four rules in the docstring of `protocol.transaction`."""
    for ended in client.ended:
        expected = _expected(ended)
        for recipient, outcome, possible in zip(
            ended.concluded.recipients, ended.concluded.outcomes, expected, strict=True
        ):
            if outcome.outcome not in possible:
                names = " or ".join(each.name for each in possible)
                yield f"outcome: {recipient} is {outcome.outcome.name}, and must be {names}"


def _expected(ended: Ended) -> list[tuple[Outcome, ...]]:
    heard = [each for each in ended.heard if each.message is ended.message]
    mails = [index for index, each in enumerate(heard) if isinstance(each.command, Mail)]
    del mails[: ended.concluded.mails_before]  # of the proof, or ignored
    begun = heard[mails[-1] :] if mails else []
    recipients = ended.concluded.recipients
    refusals = [each.reply for each in begun if isinstance(each.command, Mail) and each.reply.is_negative]
    # If anything but the end followed a 421, it may have answered something else.
    is_in_doubt = not ended.is_clean and ended.concluded.was_handed_over
    closing = (Outcome.NOT_SENT, Outcome.REFUSED, *((Outcome.UNKNOWN,) if is_in_doubt else ()))
    if refusals:
        return [closing if refusals[0].code == 421 else (Outcome.REFUSED,)] * len(recipients)

    answers = [each.reply for each in begun if isinstance(each.command, Rcpt)]
    verdicts = iter([each.reply for each in begun if isinstance(each.command, (EndOfData, BdatLast))])
    is_chunk_refused = any(
        each.reply.is_negative and each.reply.code != 421
        for each in begun
        if isinstance(each.command, Bdat) and not isinstance(each.command, BdatLast)
    )
    is_closing = bool(ended.heard) and ended.heard[-1].reply.code == 421 and ended.is_clean
    is_everyone_refused = len(answers) == len(recipients) and all(reply.is_negative for reply in answers)
    if not ended.concluded.was_handed_over or is_everyone_refused or is_closing:
        otherwise = Outcome.NOT_SENT
    else:
        otherwise = Outcome.UNKNOWN
    expected: list[tuple[Outcome, ...]] = []
    for index in range(len(recipients)):
        answer = answers[index] if index < len(answers) else None
        if answer is not None and answer.is_negative:
            expected.append((Outcome.REFUSED,) if answer.code != 421 else closing)
        elif is_chunk_refused:
            expected.append((Outcome.REFUSED,))
        elif (verdict := next(verdicts, None) if answer is not None else None) is not None:
            expected.append((Outcome.REFUSED if verdict.is_negative else Outcome.ACCEPTED,))
        else:
            expected.append((otherwise,))
    return expected
