"""The breaker of one relay: opened by failures, half-opened by the clock, one probe at a time."""

from __future__ import annotations

import pytest

from smtplite import AuthenticationError, ConnectError, Reply, SMTPError, TLSError
from smtplite.routes import BreakerClosed, BreakerHalfOpened, BreakerOpened, RouteEvent
from smtplite.routes.breaker import Breaker, Limits


class Clock:
    """A clock that goes when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Watched(Breaker):
    """A breaker whose events and changes are kept."""

    def __init__(self, *, failures: int = 3, pause: float = 5.0, max_pause: float = 300.0) -> None:
        self.clock = Clock()
        self.events: list[RouteEvent] = []
        self.changes: list[str] = []
        limits = Limits(failures=failures, pause=pause, max_pause=max_pause, clock=self.clock)
        super().__init__("relay:25", limits, self.events.append, lambda: self.changes.append(self.state))

    @property
    def seen(self) -> str:
        """Its state, for comparison."""
        return self.state

    def fail(self, times: int = 1, error: SMTPError | None = None) -> None:
        for _ in range(times):
            self.note_failure(error or ConnectError("refused", phase="connect"))


def test_it_opens_after_so_many_failures_in_a_row() -> None:
    breaker = Watched(failures=3)
    breaker.fail(2)
    breaker.note_success()
    breaker.fail(2)
    assert breaker.seen == "closed"
    breaker.fail()
    assert breaker.seen == "open"
    assert breaker.failures == 3
    [event] = breaker.events
    assert isinstance(event, BreakerOpened)
    assert (event.relay, event.failures, event.pause) == ("relay:25", 3, 5.0)


def test_it_is_half_opened_by_the_clock_for_one_message() -> None:
    breaker = Watched(pause=5.0)
    breaker.fail(3)
    breaker.clock.now += 4.9
    assert not breaker.enter()
    assert breaker.retry_in == pytest.approx(0.1)
    breaker.clock.now += 0.1
    assert breaker.is_due
    assert breaker.enter()
    assert breaker.seen == "half-open"
    assert not breaker.enter()
    assert not breaker.enter(is_forced=True)
    breaker.note_success(is_probe=True)
    assert breaker.seen == "closed"
    assert breaker.enter()
    assert breaker.enter()
    assert [type(event) for event in breaker.events] == [BreakerOpened, BreakerHalfOpened, BreakerClosed]
    assert breaker.changes == ["open", "half-open", "closed"]


def test_the_pause_doubles_with_each_probe_that_fails_and_ends_at_the_longest() -> None:
    breaker = Watched(pause=5.0, max_pause=30.0)
    breaker.fail(3)
    pauses = []
    for _ in range(5):
        assert breaker.retry_in is not None
        pauses.append(breaker.retry_in)
        breaker.clock.now += breaker.retry_in
        assert breaker.enter()
        breaker.note_failure(ConnectError("refused", phase="connect"), is_probe=True)
    assert pauses == [5.0, 10.0, 20.0, 30.0, 30.0]


def test_a_probe_that_was_forced_does_not_make_the_pause_longer() -> None:
    """While no relay works every message tries them: an outage of a minute would cost five minutes more."""
    breaker = Watched(pause=5.0)
    breaker.fail(3)
    for _ in range(10):
        assert breaker.enter(is_forced=True)
        breaker.note_failure(ConnectError("refused", phase="connect"), is_probe=True)
    assert breaker.retry_in == 5.0


def test_the_pause_begins_anew_once_the_relay_works() -> None:
    breaker = Watched(pause=5.0)
    breaker.fail(3)
    breaker.clock.now += 5
    assert breaker.enter()
    breaker.note_failure(ConnectError("refused", phase="connect"), is_probe=True)
    breaker.clock.now += 10
    assert breaker.enter()
    breaker.note_success(is_probe=True)
    breaker.fail(3)
    assert breaker.retry_in == 5.0


@pytest.mark.parametrize(
    "error",
    [
        AuthenticationError("535", reply=Reply(535, (b"no",)), phase="auth"),
        AuthenticationError("no mechanism", phase="auth"),
        TLSError("certificate expired", phase="tls"),
    ],
    ids=["password", "mechanism", "certificate"],
)
def test_what_somebody_has_to_mend_opens_it_at_once_and_for_long(error: SMTPError) -> None:
    breaker = Watched(pause=5.0, max_pause=300.0)
    breaker.fail(1, error)
    assert breaker.seen == "open"
    assert breaker.retry_in == 300.0


def test_a_temporary_failure_of_auth_is_one_of_several() -> None:
    breaker = Watched()
    breaker.fail(1, AuthenticationError("454", reply=Reply(454, (b"later",)), phase="auth"))
    assert breaker.seen == "closed"


def test_what_was_begun_before_it_opened_changes_nothing() -> None:
    breaker = Watched()
    breaker.fail(3)
    breaker.clock.now += 3
    breaker.fail(5)
    assert breaker.retry_in == 2.0
    assert breaker.failures == 3
    breaker.note_success()
    assert breaker.seen == "open"


def test_a_probe_that_says_nothing_lets_the_next_one_try() -> None:
    breaker = Watched()
    breaker.fail(3)
    breaker.clock.now += 5
    assert breaker.enter()
    breaker.give_back()
    assert breaker.seen == "open"
    assert breaker.enter()


def test_generations_count_the_signs_that_it_works() -> None:
    breaker = Watched()
    before = breaker.generation
    breaker.fail(3)
    assert breaker.generation == before
    assert breaker.enter(is_forced=True)
    breaker.note_success(is_probe=True)
    assert breaker.generation == before + 1
