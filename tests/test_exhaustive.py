"""What a run leaves out of the exhaustive families: always the same, and nothing where all is asked for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests import exhaustive


class Item:
    """A collected test, as far as it matters."""

    def __init__(self, nodeid: str, keep: int | None = None) -> None:
        self.nodeid = nodeid
        self._mark = None if keep is None else pytest.mark.exhaustive(keep=keep).mark

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        assert name == "exhaustive"
        return self._mark


def family(name: str, size: int, keep: int | None) -> list[Any]:
    return [Item(f"{name}[{number}]", keep) for number in range(size)]


@pytest.fixture
def is_whole(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(exhaustive, "_is_whole", request.param)
    return bool(request.param)


in_part = pytest.mark.parametrize("is_whole", [False], indirect=True, ids=["in part"])
whole = pytest.mark.parametrize("is_whole", [True], indirect=True, ids=["whole"])


@in_part
def test_a_part_is_in_order_the_same_each_time_and_has_both_ends(is_whole: bool) -> None:
    cases = range(1000)
    some = exhaustive.part(cases, keep=7)
    assert len(set(some)) == 7
    assert list(some) == sorted(some)
    assert (some[0], some[-1]) == (0, 999)
    assert exhaustive.part(cases, keep=7) == some
    assert list(exhaustive.part(range(7), keep=7)) == list(range(7))


@in_part
def test_of_each_family_as_many_are_kept_as_its_mark_says_or_12(is_whole: bool) -> None:
    items = [*family("a", 100, 6), Item("b"), Item("c[1]"), *family("d", 3, 6), *family("e", 5, 0)]
    items += [*family("f", 100, None), *family("g", 100, exhaustive.WHOLE)]
    kept = list(items)
    left_out = exhaustive.thin(kept)
    names = [item.nodeid.partition("[")[0] for item in kept]
    assert names == ["a"] * 6 + ["b", "c", "d", "d", "d"] + ["f"] * 12 + ["g"] * 100
    assert len(left_out) == 94 + 5 + 88
    assert not set(left_out) & set(kept)
    again = list(items)
    exhaustive.thin(again)
    assert again == kept


@in_part
def test_a_property_tries_a_tenth_of_its_examples(is_whole: bool) -> None:
    assert [exhaustive.examples(count).max_examples for count in (10, 100, 400)] == [10, 20, 40]


@whole
def test_where_all_is_asked_for_nothing_is_left_out(is_whole: bool) -> None:
    items = family("a", 100, 6)
    assert exhaustive.thin(items) == []
    assert len(items) == 100
    assert exhaustive.part(range(1000), keep=7) == range(1000)
    assert exhaustive.examples(400).max_examples == 400


@pytest.mark.parametrize(
    ("option", "arguments", "expected"),
    [(False, ["tests"], False), (True, ["tests"], True), (False, ["tests/test_x.py::test_y"], True)],
)
@in_part
def test_all_is_asked_for_by_the_option_or_by_naming_a_test(
    option: bool, arguments: list[str], expected: bool, is_whole: bool
) -> None:
    config: Any = SimpleNamespace(getoption=lambda name: option, args=arguments)
    exhaustive.choose(config)
    assert exhaustive._is_whole is expected
