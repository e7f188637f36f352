"""Pace: a relay that allows so many messages a second, and says so only by refusing, is found; by simulation."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from smtplite.protocol.reply import EnhancedStatusCode, Reply
from smtplite.worker.shaping import Rules
from smtplite.worker.shaping.pace import Pace, is_throttling
from tests.exhaustive import part
from tests.worker.shaping.simulated import BucketRelay, Relay, Simulation, SlidingRelay, WindowRelay

#: How a relay counts. What was refused once by one of the last two is refused until a second is over.
COUNTS: dict[str, Callable[[float, Random], Relay]] = {
    "a bucket of a second": lambda rate, random: BucketRelay(rate),
    "a bucket of a fifth of a second": lambda rate, random: BucketRelay(rate, burst=0.2),
    "each second of its clock": lambda rate, random: WindowRelay(rate, ahead=random.random()),
    "any second": lambda rate, random: SlidingRelay(rate),
}


def find(relay: Relay, workers: int, connections: int, random: Random) -> list[tuple[float, float]]:
    """Return what part of a relay's rate is used in the end, and what is refused: first, doubled, and halved again."""
    simulation = Simulation(relay, Rules(), connections=connections, random=random)
    for _ in range(workers):
        simulation.add()
    found = []
    for number, rate in enumerate((relay.rate, 2 * relay.rate, relay.rate)):
        relay.rate = rate
        start, end = 60 * number, 60 * (number + 1)
        simulation.run(end)
        found.append((simulation.rate(end - 15, end) / rate, simulation.refused(start, end)))
    return found


#: (messages a second, connections of each worker, seed); one connection takes 50 a second. The last one is cheap.
CASES = [
    *[(20, connections, seed) for connections in (1, 5) for seed in range(10)],
    *[(500, 30, 0), (200, 10, 0), *[(100, 5, seed) for seed in range(3)]],
    *[(50, 5, seed) for seed in range(10)],
]


@pytest.mark.exhaustive(keep=4)
@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("workers", [1, 3])
def test_a_rate_is_found_within_a_minute_and_again_when_it_changes(counts: str, workers: int) -> None:
    """At 0.8 of it or better, with under 2 % of the messages refused, in whatever way the relay counts."""
    for rate, connections, seed in part(CASES, keep=2):
        random = Random(f"{counts} {workers} {rate} {connections} {seed}")
        found = find(COUNTS[counts](rate, random), workers, connections, random)
        assert min(used for used, _ in found) >= 0.8, (rate, connections, seed)
        assert max(refused for _, refused in found) < 0.02, (rate, connections, seed)


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
    pace = Pace(at=1.0, cut_at=1.0, rate=100.0).after(2.0, accepted=80, throttled=1)
    assert pace.known == 80.0
    assert pace.rate == pytest.approx(0.92 * 80.0)
    assert pace.after(2.2, throttled=20).rate == pace.rate
    assert pace.after(2.2, throttled=20).paused_until == pace.paused_until


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
