"""Whatever befalls a conversation, what the client says of each recipient is true (the invariants I1 to I7).

A test is one kind of fault in one conversation; it makes many runs, and names each that failed: ``pytest -k "window and
RST"``. The rules are in `judge`, what must hold where in `plans`, which conversations are run whole in `suite`.
"""

from __future__ import annotations

import pytest

from smtplite.protocol import Outcome

from . import judge
from .conversations import CONVERSATIONS, Conversation
from .plans import base_of
from .suite import KINDS, MIN_RUNS, WHOLE, cases
from .user_agent import UserAgent

_SHOWN = 5


def _tests(*kinds: str) -> pytest.MarkDecorator:
    """Parametrise a test: each kind of fault in each conversation."""
    parameters = [
        pytest.param(kind, conversation, id=f"{conversation}-{kind}")
        for kind in kinds
        for conversation in CONVERSATIONS
    ]
    return pytest.mark.parametrize(("kind", "conversation"), parameters)


def _check(kind: str, *conversations: Conversation) -> None:
    before = judge.tried[kind]
    planned = [(conversation, case) for conversation in conversations for case in cases(kind, conversation)]
    failed = [
        f"{conversation}, {case.plan}: {wrong}"
        for conversation, case in planned
        if (wrong := judge.verdict(conversation, case, kind))
    ]
    assert judge.tried[kind] - before == len(planned)
    if failed:
        pytest.fail(
            "\n".join((f"{len(failed)} of {len(planned)} runs failed ({kind})", *failed[:_SHOWN])), pytrace=False
        )


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=str)
def test_nothing_befalls_it(conversation: Conversation) -> None:
    """What the server was told to refuse is refused, all else is delivered; and the server finds no fault in us."""
    base = base_of(conversation)
    assert judge.initials(base) == conversation.expected
    assert list(judge.faults(base)) == []
    assert len(base.clients) == conversation.connections
    assert not any(client.wire.is_starved for client in base.clients) or conversation.config.quirks.hangs_on_bdat


def test_what_nobody_refuses_is_taken_at_once() -> None:
    """Or what befalls a conversation would not befall that; see `smtplite.protocol.usual`."""
    for conversation in CONVERSATIONS:
        base = base_of(conversation)
        counted = judge.Taken()
        counted.add(base)
        concluded = [each for message in base.messages for each in message.history]
        accepted = sum(all(each.outcome is Outcome.ACCEPTED for each in outcomes) for _, outcomes, _, _ in concluded)
        assert accepted, conversation
        assert counted.at_once == (0 if conversation.options.lmtp else accepted), conversation
        assert counted.whole >= 2 or "many messages" not in conversation.name, conversation


def test_a_run_is_the_same_each_time() -> None:
    for conversation in CONVERSATIONS:
        again = UserAgent(conversation).run()
        assert [bytes(client.wire.said) for client in again.clients] == [
            bytes(client.wire.said) for client in base_of(conversation).clients
        ]


@pytest.mark.exhaustive(keep=60)
@_tests(*(kind for kind in KINDS if " cut " in kind))
def test_it_is_cut(kind: str, conversation: Conversation) -> None:
    """I1 to I7, R1, R2: at each octet, in both directions; and R11: what is sent again is delivered once."""
    _check(kind, conversation)


@pytest.mark.exhaustive(keep=12)
@_tests("replies split")
def test_the_replies_are_split(kind: str, conversation: Conversation) -> None:
    """What happens is the same, however the replies are cut into pieces."""
    _check(kind, conversation)


@pytest.mark.exhaustive(keep=12)
@_tests("writes that wait")
def test_a_write_waits_and_replies_are_read_meanwhile(kind: str, conversation: Conversation) -> None:
    """R3, R24: what happens is the same, wherever a write has to wait."""
    _check(kind, conversation)


@pytest.mark.exhaustive(keep=12)
@_tests("replies recoded")
def test_a_reply_is_recoded(kind: str, conversation: Conversation) -> None:
    """I1 to I7: everywhere, for the count is kept."""
    _check(kind, conversation)


@pytest.mark.exhaustive(keep=12)
@_tests("RSET refused")
def test_a_reset_is_refused(kind: str, conversation: Conversation) -> None:
    """I1 to I7, R9: what stands behind it in the same write must not go to the recipients of the message before."""
    _check(kind, conversation)


@pytest.mark.exhaustive(keep=12)
@_tests("chunks for nobody taken")
def test_chunks_for_nobody_are_taken(kind: str, conversation: Conversation) -> None:
    """I1, I5: a server that takes a message for nobody contradicts itself; what follows on that connection is safe."""
    _check(kind, conversation)


@pytest.mark.exhaustive(keep=12)
@_tests("replies edited")
def test_replies_are_truncated_doubled_deleted_swapped_and_inserted(kind: str, conversation: Conversation) -> None:
    """I1 to I7 where counting can tell; elsewhere I4, I5, I7, and the first surplus ends it."""
    _check(kind, conversation)


@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize("beginning", dict.fromkeys(str(each).split(maxsplit=1)[0] for each in CONVERSATIONS))
def test_there_is_a_421_too_many(beginning: str) -> None:
    """I1 to I5, I7, where no verdict is owed: it may answer any command, and nothing that follows can be trusted."""
    _check("a 421 too many", *(each for each in CONVERSATIONS if each.name.startswith(beginning)))


@pytest.mark.exhaustive(keep=0)
def test_there_are_enough_runs() -> None:
    assert {conversation.name for conversation in CONVERSATIONS} >= WHOLE
    assert sum(1 for kind in KINDS for conversation in CONVERSATIONS for _ in cases(kind, conversation)) >= MIN_RUNS
