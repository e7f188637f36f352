"""Board and Share: limits that workers share, by a clock of the tests' own."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtplite.protocol.reply import EnhancedStatusCode, Reply
from smtplite.worker.shaping import RELAY, Action, Board, Effect, Rate, Rules
from smtplite.worker.shaping.board import Ask, Limit
from smtplite.worker.shaping.share import Share
from tests.exhaustive import examples
from tests.worker.shaping.simulated import Simulation

FIVE_AND_FIFTY = Rules.of('[default]\nconnection_limit = 5\nmax_message_rate = "50/s"\n')


def of_three(rules: Rules = FIVE_AND_FIFTY, clocks: tuple[float, ...] = (0.0, 0.0, 0.0), **options: Any) -> Simulation:
    simulation = Simulation(None, rules, **options)
    for clock in clocks:
        simulation.add(clock=clock)
    return simulation


@pytest.mark.parametrize("clocks", [(0.0, 0.0, 0.0), (0.0, -300.0, 7200.0)])
def test_three_workers_share_connections_and_messages_a_second_whatever_their_clocks_say(
    clocks: tuple[float, ...],
) -> None:
    simulation = of_three(clocks=clocks, seconds=0.09)  # over 5 connections 55 a second, and no more
    simulation.run(30)
    assert 45 <= simulation.rate(5, 30) <= 55
    assert simulation.most_open == 5
    assert sorted(worker.share.connections or 0 for worker in simulation.workers) == [1, 2, 2]
    assert len(simulation.sent) > 1200
    assert simulation.asks <= 3 * 30 * 1.5, "no round trip to the engine for each message"


def test_each_has_its_part() -> None:
    simulation = of_three()
    simulation.run(30)
    for number in range(3):
        assert 15 <= simulation.rate(5, 30, number) <= 18.5


def test_with_the_store_away_each_worker_takes_its_part() -> None:
    simulation = of_three(store=lambda now: not 10 <= now < 20)
    simulation.run(30)
    for start, end in ((5, 10), (11, 20), (21, 30)):
        assert 44 <= simulation.rate(start, end) <= 55
    assert simulation.most_open <= 5


def test_a_worker_that_dies_leaves_its_part_to_the_others() -> None:
    simulation = of_three()
    simulation.run(10)
    simulation.workers[0].is_alive = False
    simulation.run(60)
    assert 45 <= simulation.rate(30, 60) <= 55
    assert sorted(worker.share.connections or 0 for worker in simulation.workers[1:]) == [2, 3]


def test_a_worker_without_mail_leaves_its_part_to_the_others_and_has_it_back_at_once() -> None:
    simulation = of_three()
    simulation.workers[0].has_mail = False
    simulation.run(20)
    assert simulation.rate(10, 20, 0) == 0
    assert 45 <= simulation.rate(10, 20) <= 55
    simulation.workers[0].has_mail = True
    simulation.run(30)
    assert simulation.rate(22, 30, 0) >= 14


def test_a_quota_holds_within_any_period() -> None:
    simulation = of_three(Rules.of('[default]\nquota = "200/min"\n'))
    simulation.run(300)
    times = [at for at, _, _ in simulation.sent]
    assert all(later - earlier >= 60 for earlier, later in zip(times, times[200:], strict=False))
    assert len(times) >= 2 * 190


def test_a_rate_of_less_than_one_a_second_is_shared_too() -> None:
    simulation = of_three(Rules.of('[default]\nmax_message_rate = "6/min"\n'))
    simulation.run(300)
    assert 26 <= len(simulation.sent) <= 34


@pytest.mark.parametrize("jump", [-3600.0, -120.0])
def test_a_store_whose_clock_is_put_back_changes_nothing(jump: float) -> None:
    simulation = of_three(store_clock=lambda now: 1e9 + now + (jump if now > 10 else 0))
    simulation.run(30)
    assert 45 <= simulation.rate(5, 30) <= 55


@attrs.frozen
class Asked:
    worker: int
    after: float
    wants: int
    is_active: bool


asks = st.lists(
    st.builds(
        Asked, st.integers(0, 3), st.sampled_from([0.0, 0.01, 0.3, 1.0, 20.0]), st.integers(0, 99), st.booleans()
    ),
    max_size=60,
)


@examples(300)
@given(asks, st.integers(1, 40), st.integers(1, 6))
def test_whoever_asks_whenever_no_more_is_given_than_there_is(asked: list[Asked], rate: int, connections: int) -> None:
    board, now, given_in_all = Board(), 1000.0, 0
    held = dict.fromkeys(map(str, range(4)), 0)
    ends: dict[str, float] = {}
    for ask in asked:
        now += ask.after
        worker = str(ask.worker)
        grant = board.exchange(
            Ask(
                worker=worker,
                seconds=15.0,
                is_active=ask.is_active,
                connections=held[worker] if ends.get(worker, 0) > now else 0,
                connection_limit=connections,
                limits={RELAY: Limit(Rate(rate, 1.0))},
                wants={RELAY: ask.wants},
            ),
            now,
        )
        given_in_all += grant.tokens[RELAY]
        ends[worker] = now + 15.0
        held[worker] = grant.connections or 0
        assert given_in_all <= 1 + 0.25 * rate + rate * (now - 1000.0 + 1)
        assert sum(count for name, count in held.items() if ends.get(name, 0) > now) <= connections
        board = Board.from_json(board.to_json())


# Automation

SLOWED = """
[[default.automation]]
regex = "slow down"
trigger = { Threshold = "3/min" }
action = { SetConfig = { name = "max_message_rate", value = "2/s" } }
duration = "1 min"

[[recipient."gmail.com".automation]]
enhanced_code = "4.7.28"
action = "Suspend"
duration = "2 hours"
"""


def exchange(share: Share, board: Board, now: float) -> None:
    ask = share.ask(now)
    share.granted(ask, board.exchange(ask, now + 5000), now)


def test_an_automation_waits_for_its_trigger_holds_for_all_and_ends_by_itself() -> None:
    board, first, second = Board(), *(Share(name, Rules.of(SLOWED), "x") for name in "ab")
    reply = Reply(450, (b"slow down",))
    for second_now, share in ((1.0, first), (30.0, second), (65.0, first)):
        share.observe(reply, "ada@example.net", second_now)
        exchange(share, board, second_now)
        assert not board.effects, "three within a minute, and not within more"
    first.observe(reply, "ada@example.net", 85.0)
    exchange(first, board, 85.0)
    exchange(second, board, 86.0)
    [effect] = board.effects
    assert (effect.what, str(effect.action), effect.reason) == (RELAY, "max_message_rate = 2/s", "450 slow down")
    assert effect.by == "default.automation[0]"
    assert second.rate == 2
    exchange(second, board, 146.0)
    assert not board.effects


def test_a_recipients_server_is_suspended_and_the_others_are_not() -> None:
    board, share, other = Board(), *(Share(name, Rules.of(SLOWED), "x") for name in "ab")
    share.observe(Reply(451, (b"4.7.28 too fast",), EnhancedStatusCode(4, 7, 28)), "ada@gmail.com", 1.0)
    exchange(share, board, 1.0)
    exchange(other, board, 2.0)
    assert other.suspended_for(2.0, "grace@GMAIL.com") == pytest.approx(7199)
    assert other.suspended_for(2.0, "grace@example.net") <= 0
    assert other.suspended_for(2.0) <= 0
    assert other.suspended_for(7202.0, "grace@gmail.com") <= 0


def test_while_the_relay_is_suspended_nobody_has_tokens_or_connections() -> None:
    simulation = of_three()
    simulation.run(10)
    board = Board.from_json(simulation.board)
    until = simulation.store_clock(simulation.now) + 20
    board.add(Effect(what=RELAY, action=Action("suspend"), until=until, reason="maintenance", by="hand"), until - 20)
    simulation.board = board.to_json()
    simulation.run(40)
    assert simulation.rate(12, 29) == 0
    assert simulation.rate(32, 40) >= 45


def test_resume_ends_what_holds_for_this_and_nothing_else() -> None:
    board = Board()
    for what in (RELAY, "gmail.com"):
        board.add(Effect(what=what, action=Action("suspend"), until=2000.0, reason="", by="hand"), 1000.0)
    assert [effect.what for effect in board.resume("gmail.com", 1001.0)] == ["gmail.com"]
    assert [effect.what for effect in Board.from_json(board.to_json()).effects] == [RELAY]


def test_recipients_of_a_rule_come_one_after_another_and_the_others_at_once() -> None:
    rules = Rules.of('[recipient."*.example.net"]\nmax_message_rate = "2/s"\n')
    board, share = Board(), Share("a", rules, "x")
    names = share.limits_of("ada@mx.example.net")
    assert share.limits_of("ada@example.org") == []
    assert share.lacking(names * 4)
    exchange(share, board, 1.0)
    waits = [share.recipient_wait(names, 1.0) for _ in range(4)]
    assert waits[0] == 0
    assert waits[1:] == sorted(waits[1:])
    assert waits[3] - waits[1] == pytest.approx(1.0), "two a second"


def test_a_board_is_the_same_after_it_was_written_down() -> None:
    simulation = of_three(Rules.of('[default]\nquota = "200/min"\n' + SLOWED.lstrip()))
    simulation.workers[0].share.observe(Reply(450, (b"slow down",)), "a@gmail.com", 0.0)
    simulation.run(5)
    assert Board.from_json(simulation.board).to_json() == simulation.board
