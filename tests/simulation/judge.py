"""The invariants of the fault-injection plan, I1 to I7, held against the truth of the server."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest

from smtplite.protocol.commands import Bdat, BdatLast, EndOfData, Mail, Rcpt, Rset
from smtplite.protocol.events import ConnectionClosed, ContentRefused, Replied, ServiceClosing
from smtplite.protocol.transaction import Outcome, RecipientOutcome

from .client import Client, Ended, Letter
from .conversations import Conversation
from .office import Office
from .plans import Case, base_of

__all__ = ["faults", "initials", "tried", "verdict"]

_QUEUED = re.compile(rb"^250[ -](?:[0-9.]+ )?ok: queued as (Q[0-9]+)[^\n]*\r\n", re.MULTILINE)
_TAG = re.compile(rb" #([0-9]+)$")


#: How many runs were judged, by the kind of what befell them.
tried: Counter[str] = Counter()


def verdict(conversation: Conversation, case: Case, kind: str) -> list[str]:
    """Make a run; return what is wrong with it.

    Args:
        conversation: what is said.
        case: what befalls it, and what must hold.
        kind: for the count.
    """
    tried[kind] += 1
    office = Office(conversation, case.plan)
    try:
        office.run()
        if case.demand == "what counting can tell":
            return list(_faults_of_counting(office))
        is_altered = case.plan.edit is not None or case.plan.recode is not None
        wrong = list(faults(office, is_altered=is_altered, is_421=case.demand == "all but I6"))
        client = office.clients[0]
        if case.has_surplus and client.wire.is_edited and not client.is_closed and not client.is_stale:
            wrong.append("R8: the connection goes on, though more was said than was asked for")
        if case.plan.keeps_all:
            wrong += _differences(base_of(conversation), office)
    except Exception as error:  # noqa: BLE001 (whatever it is, which run it was must be said)
        return [f"{type(error).__name__}: {error}"]
    return wrong


def _claims(letter: Letter) -> dict[str, RecipientOutcome]:
    """Return what the client says of each recipient: the last word of the transactions that it was in."""
    said = {recipient: RecipientOutcome(Outcome.NOT_SENT) for recipient in letter.recipients}
    for concluded in letter.history:
        said.update(zip(concluded.recipients, concluded.outcomes, strict=True))
    return said


def initials(office: Office) -> tuple[str, ...]:
    """Return the outcomes of each letter, as `Conversation.expected` has them."""
    return tuple(
        "".join(outcome.outcome.name[0] for outcome in _claims(letter).values())
        for letter in office.letters[: len(office.conversation.letters)]
    )


def _differences(base: Office, office: Office) -> Iterator[str]:
    """Say in what a run differs from the one that nothing befell, where it must not."""
    if initials(office) != initials(base):
        yield f"outcomes: {initials(office)}, and not {initials(base)}"
    if office.conversation.depends_on_arrival:
        return
    for index, (one, other) in enumerate(zip_longest(_events(office), _events(base))):
        if one != other:
            yield f"event {index}: {one}, and not {other}"
            return


def _events(office: Office) -> list[str]:
    """Return what happened on the first connection, as text.

    In a window of chunks, when replies come decides whether a verdict is owed when the next letter begins, and with it
    whether RSET stands in front: it is left out there, and so are the numbers.
    """
    events = []
    is_window = office.conversation.is_stream and office.conversation.options.chunking
    for event in office.clients[0].happened:
        if isinstance(event, ConnectionClosed):
            events.append(f"closed: {event.partial!r}")
        elif isinstance(event, (ServiceClosing, ContentRefused)):
            events.append(f"{type(event).__name__}: {event.reply}")
        elif not (is_window and isinstance(event.command, Rset)):
            text = f"{event.command}: {event.reply} {event.reply.enhanced}"
            if isinstance(event, Replied):
                text += f" {event.recipient} {event.is_final}"
            events.append(re.sub(r" #[0-9]+", "", text) if is_window else text)
    return events


def faults(office: Office, *, is_altered: bool = False, is_421: bool = False) -> Iterator[str]:
    """Say what is wrong with this run.

    Args:
        office: whose run is over.
        is_altered: replies were recoded or changed, so that what they say is not the server's own.
        is_421: there was a 421 too many; what the replies behind it answer, nobody can know.
    """
    yield from _faults_of_outcomes(office)
    for letter in office.letters:
        yield from _faults_of_history(letter, is_stopped=office.plan.stops)
    yield from _faults_of_closing(office)
    for client in office.clients:
        # What is said in the middle of content answers its end, for a client that hears it late.
        if not office.conversation.depends_on_arrival:
            yield from _faults_of_attribution(client, only=office.last_letters if is_421 else None)
        yield from _faults_of_ends(client)
    if not is_altered:
        yield from _faults_of_final_replies(office)
    if not is_altered and not office.conversation.depends_on_arrival:
        for client in office.clients:
            for violation in client.wire.server.violations:
                yield f"the client broke the protocol: {violation}"


def _faults_of_counting(office: Office) -> Iterator[str]:
    """Say what is wrong with a run in which a reply may be taken for another, for counting cannot tell."""
    for letter in office.letters:
        yield from _faults_of_history(letter)
    yield from _faults_of_closing(office)
    for client in office.clients:
        yield from _faults_of_ends(client)  # the first surplus ends it, and every verdict still open is unknown
        yield from _faults_of_attribution(client, only=office.last_letters)


def _faults_of_outcomes(office: Office) -> Iterator[str]:
    committed = Counter((commitment.content, commitment.recipient) for commitment in office.mailbox.committed)
    for letter in office.letters:
        for recipient, said in _claims(letter).items():
            times = committed.pop((letter.content, recipient), 0)
            what = f"letter {letter.number} to {recipient} is {said.outcome.name}, and was committed {times} times"
            if said.outcome is Outcome.ACCEPTED and times != 1:
                yield f"I1: {what}"
            elif said.outcome in (Outcome.REFUSED, Outcome.NOT_SENT) and times:
                yield f"I2: {what}"
            elif said.outcome is Outcome.UNKNOWN and times > 1:
                yield f"I1: {what}"
            elif said.outcome is Outcome.UNKNOWN and not _was_handed_over(letter, recipient):
                yield f"I3: {what}, but its end was never handed over"
            if said.outcome is Outcome.REFUSED and (said.reply is None or not said.reply.is_negative):
                yield f"I2: {what}, by {said.reply}"
    for (content, recipient), times in committed.items():
        yield f"I1: {content!r} was committed {times} times for {recipient}, who was not to have it"
    senders = {letter.content: letter.sender for letter in office.letters}
    for message in office.mailbox.messages:
        if senders.get(message.content, message.sender) != message.sender:
            yield f"I1: {message!r} was committed under the reverse-path of another letter"


def _was_handed_over(letter: Letter, recipient: str) -> bool:
    return any(concluded.was_handed_over for concluded in letter.history if recipient in concluded.recipients)


def _faults_of_history(letter: Letter, *, is_stopped: bool = False) -> Iterator[str]:
    """I4: exactly one outcome, over several transactions too."""
    decided: Counter[str] = Counter()
    for recipients, outcomes, _, _ in letter.history:
        if len(recipients) != len(outcomes) or len(set(recipients)) != len(recipients):
            yield f"I4: letter {letter.number} has {len(outcomes)} outcomes for {recipients}"
        for recipient, outcome in zip(recipients, outcomes, strict=False):
            if decided[recipient]:
                yield f"I4: letter {letter.number} was sent again to {recipient}, whose outcome was decided"
            decided[recipient] += outcome.outcome in (Outcome.ACCEPTED, Outcome.UNKNOWN)
    said = _claims(letter)
    if letter.outcomes != tuple(said[recipient] for recipient in letter.recipients):
        yield f"I4: letter {letter.number} forgets an outcome: {letter.outcomes}, {letter.history}"
    if not letter.is_done and letter.history and not is_stopped:
        yield f"I4: letter {letter.number} is left undone"
    accepted = any(outcome.outcome is Outcome.ACCEPTED for outcome in letter.outcomes)
    if letter.history and (letter.error is None) is not accepted:
        yield f"I4: letter {letter.number} has the error {letter.error!r} and the outcomes {letter.outcomes}"
    if letter.times_resent > 1 or (letter.times_resent and not letter.is_repeatable):
        yield f"R11: letter {letter.number} was sent again {letter.times_resent} times"


def _faults_of_closing(office: Office) -> Iterator[str]:
    """I5: what is left open is in sync, for a letter that follows on it is delivered (`Office.last_letters`)."""
    if office.clients[0].wire.is_cut or office.plan.befalls_all:
        return
    for letter in office.last_letters:
        outcome = letter.outcomes[0].outcome
        if outcome is Outcome.NOT_SENT and office.conversation.depends_on_arrival:
            continue  # what showed that it is not in sync came later, and ended it
        if outcome is not Outcome.ACCEPTED:
            yield f"I5: a connection was left open, and the letter that followed is {outcome.name}: {letter.error!r}"


def _faults_of_attribution(client: Client, only: list[Letter] | None = None) -> Iterator[str]:
    """I6: each reply names the command that it answers."""
    for heard in client.heard:
        text = heard.reply.lines[0]
        tag = _TAG.search(text)
        if tag is not None and int(tag[1]) != heard.number and (only is None or heard.letter in only):
            yield f"I6: {text!r} was taken for the reply to {heard.command}, number {heard.number}"


def _faults_of_final_replies(office: Office) -> Iterator[str]:
    """R2: a complete final reply decides, whatever follows."""
    heard: Counter[str] = Counter()
    for client in office.clients:
        wire = client.wire
        heard.update(match.decode() for match in _QUEUED.findall(bytes(wire.said[: wire.heard])))
    said = {(letter.content, to): claim for letter in office.letters for to, claim in _claims(letter).items()}
    for commitment in office.mailbox.committed:
        claim = said.get((commitment.content, commitment.recipient))
        if heard[commitment.queue_id] > 0 and claim is not None and claim.outcome is not Outcome.ACCEPTED:
            yield f"R2: the server said that it took {commitment.content!r}, and it is {claim.outcome.name}"
        heard[commitment.queue_id] -= office.conversation.options.lmtp  # there each recipient has a reply


def _faults_of_ends(client: Client) -> Iterator[str]:
    """What a letter comes to whose session ended, by the four rules of design.md, section 4."""
    for ended in client.ended:
        expected = _expected(ended)
        for recipient, outcome, possible in zip(
            ended.concluded.recipients, ended.concluded.outcomes, expected, strict=True
        ):
            if outcome.outcome not in possible:
                names = " or ".join(each.name for each in possible)
                yield f"outcome: {recipient} is {outcome.outcome.name}, and must be {names}"


def _expected(ended: Ended) -> list[tuple[Outcome, ...]]:
    heard = [each for each in ended.heard if each.letter is ended.letter]
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
