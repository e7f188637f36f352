"""Pace: a relay that allows so many messages a second, and says so only by refusing, is found; by simulation."""

from __future__ import annotations

import copy

import pytest

from smtplite.protocol.reply import EnhancedStatusCode, Reply
from smtplite.worker.shaping import Rules
from smtplite.worker.shaping.pace import Pace, is_throttling
from tests.worker.shaping.simulated import BucketRelay, Relay, Simulation, WindowRelay


@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize(
    ("relay", "workers", "least"),
    [
        *[(BucketRelay(rate), workers, 0.8) for workers in (1, 3) for rate in (20, 50, 100, 200, 500)],
        *[(BucketRelay(rate, burst=0.2), 1, 0.8) for rate in (20, 50, 100, 200, 500)],
        # So many within each second of its clock: what was refused once is refused until the second is over.
        *[(WindowRelay(rate), workers, 0.79) for workers in (1, 3) for rate in (50, 100, 200, 500)],
    ],
    ids=lambda value: f"{type(value).__name__}-{value.rate}" if hasattr(value, "rate") else str(value),
)
def test_a_rate_is_found_within_a_minute_and_again_when_it_changes(relay: Relay, workers: int, least: float) -> None:
    """At 0.8 of it or better, with under 2 % of the messages refused."""
    relay = copy.copy(relay)
    rate = relay.rate
    simulation = Simulation(relay, Rules(), connections=30)
    for _ in range(workers):
        simulation.add()
    for minute, now in enumerate((rate, 2 * rate, rate)):
        relay.rate = now
        start, end = 60 * minute, 60 * (minute + 1)
        simulation.run(end)
        assert simulation.rate(end - 15, end) >= least * now
        assert simulation.refused(start, end) < 0.02


@pytest.mark.parametrize("rate", [1, 3])
def test_a_relay_that_takes_next_to_nothing_is_found_with_few_refusals(rate: int) -> None:
    simulation = Simulation(BucketRelay(rate), Rules())
    simulation.add()
    simulation.run(600)
    assert simulation.rate(300, 600) >= 0.7 * rate
    assert sum(not ok for at, _, ok in simulation.sent if at > 300) <= 30


def test_a_relay_that_refuses_everything_is_asked_once_a_minute() -> None:
    simulation = Simulation(BucketRelay(100), Rules())
    simulation.add()
    simulation.run(20)
    assert simulation.relay is not None
    simulation.relay.rate = 0
    simulation.run(200)
    assert sum(100 <= at < 200 for at, _, _ in simulation.sent) <= 12
    simulation.relay.rate = 100
    simulation.run(320)
    assert simulation.rate(300, 320) >= 80


def test_a_relay_without_a_limit_is_not_slowed() -> None:
    simulation = Simulation(None, Rules(), connections=4)
    simulation.add()
    simulation.run(20)
    assert simulation.rate(10, 20) >= 180, "4 connections, 20 ms a message"
    assert simulation.refused(0, 20) == 0


def test_while_little_is_sent_the_rate_does_not_grow() -> None:
    pace = Pace(at=1.0)
    for second in range(2, 100):
        pace = pace.after(second, accepted=1)
    assert pace.rate == Pace().rate


def test_what_is_refused_during_a_pause_was_sent_before_and_says_nothing() -> None:
    pace = Pace(at=1.0, rate=100.0).after(10.0, accepted=50, throttled=1)
    assert pace.rate == 88.0
    assert pace.after(10.2, throttled=20).rate == pace.rate
    assert pace.after(10.2, throttled=20).paused_until == pace.paused_until


@pytest.mark.parametrize(
    ("code", "enhanced", "throttles"),
    [
        (421, None, True),
        (452, (4, 3, 1), True),
        (451, (4, 7, 0), True),
        (451, (4, 3, 0), False),
        (451, None, False),
        (450, (4, 7, 1), False),
        (550, (5, 7, 1), False),
    ],
)
def test_which_replies_mean_too_much(code: int, enhanced: tuple[int, int, int] | None, throttles: bool) -> None:
    assert is_throttling(Reply(code, (b"",), enhanced and EnhancedStatusCode(*enhanced))) is throttles
