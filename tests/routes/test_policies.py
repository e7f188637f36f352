"""Whose turn it is: shares that hold at any length, also while relays are out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtplite import ConfigurationError
from smtplite.routes.policies import Order
from tests.exhaustive import examples


def always(_: int) -> bool:
    return True


def shares(order: Order, count: int, works: Callable[[int], bool] = always) -> Counter[int]:
    """Return how many of so many messages each relay gets."""
    return Counter(next(index for index in order.next(works) if works(index)) for _ in range(count))


def test_failover_always_begins_with_the_first() -> None:
    order = Order("failover", 3, None)
    assert [list(order.next(always)) for _ in range(3)] == [[0, 1, 2]] * 3


def test_round_robin_gives_each_the_same() -> None:
    assert shares(Order("round-robin", 3, None), 9_999) == {0: 3_333, 1: 3_333, 2: 3_333}


def test_weights_hold_within_two_percent_over_10_000_messages() -> None:
    weights = [5, 3, 2]
    found = shares(Order("weighted", 3, weights), 10_000)
    for index, weight in enumerate(weights):
        assert abs(found[index] - 1_000 * weight) <= 20 * weight


def test_a_relay_that_is_out_leaves_its_share_to_the_others_by_theirs() -> None:
    found = shares(Order("weighted", 3, [5, 3, 1]), 10_000, lambda index: index != 0)
    assert found[0] == 0
    assert abs(found[1] - 7_500) <= 150
    assert abs(found[2] - 2_500) <= 50


def test_round_robin_without_one_gives_the_others_the_same() -> None:
    found = shares(Order("round-robin", 3, None), 10_000, lambda index: index != 1)
    assert abs(found[0] - found[2]) <= 100


@given(
    weights=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    out=st.sets(st.integers(0, 4)),
    count=st.integers(1, 50),
)
@examples(200)
def test_every_relay_is_in_every_order_once(weights: list[int], out: set[int], count: int) -> None:
    order = Order("weighted", len(weights), weights)
    for _ in range(count):
        found = list(order.next(lambda index: index not in out))
        assert sorted(found) == list(range(len(weights)))


@pytest.mark.parametrize(
    ("policy", "weights", "text"),
    [
        ("first", None, "policy must be"),
        ("weighted", None, "go together"),
        ("failover", [1, 2], "go together"),
        ("weighted", [1], "one number for each"),
        ("weighted", [1, 0], "positive number"),
        ("weighted", [1, True], "positive number"),
    ],
)
def test_what_is_wrong_is_said(policy: str, weights: list[float] | None, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        Order(policy, 2, weights)  # type: ignore[arg-type]  # on purpose
