"""Events: values that are told apart by identity."""

from __future__ import annotations

import typing

import attrs
import pytest

from smtplite.protocol import events
from smtplite.protocol.commands import Auth, Data, EndOfData, Rcpt, StartTls
from smtplite.protocol.events import (
    ChallengeReceived,
    ContentRefused,
    Disconnected,
    Event,
    Replied,
    ServiceClosing,
    TlsReady,
)
from smtplite.protocol.reply import Reply

ALL: list[Event] = [
    Replied(Data(), Reply(354)),
    ChallengeReceived(Auth("PLAIN"), Reply(334), b""),
    TlsReady(StartTls(), Reply(220)),
    ContentRefused(Reply(552)),
    ServiceClosing(Reply(421)),
    Disconnected(),
]


def test_the_union_has_every_event_of_the_module() -> None:
    assert set(typing.get_args(Event)) == {type(event) for event in ALL}
    assert {kind.__name__ for kind in typing.get_args(Event)} | {"Event"} == set(events.__all__)


@pytest.mark.parametrize("event", ALL, ids=lambda event: type(event).__name__)
def test_an_event_is_frozen_and_equal_only_to_itself(event: Event) -> None:
    assert event != attrs.evolve(event)
    assert len({event, attrs.evolve(event)}) == 2
    name = attrs.fields(type(event))[0].name
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(event, name, None)


def test_a_reply_is_final_and_for_nobody_in_particular_unless_said_otherwise() -> None:
    replied = Replied(EndOfData(), Reply(250))
    assert replied.is_final
    assert replied.recipient is None
    rcpt = Rcpt("a@b")
    verdict = Replied(EndOfData(), Reply(250), rcpt, is_final=False)
    assert verdict.recipient is rcpt
    assert not verdict.is_final


def test_nothing_is_unanswered_or_partial_unless_said() -> None:
    assert Disconnected().unanswered == ()
    assert Disconnected().partial == b""


def test_the_repr_of_a_challenge_event_shows_no_secret_of_ours() -> None:
    """R17."""
    event = ChallengeReceived(Auth("PLAIN", b"s3cr3t"), Reply(334), b"")
    assert "s3cr3t" not in repr(event)
    assert "czNjcjN0" not in repr(event)
