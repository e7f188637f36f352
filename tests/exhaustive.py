"""Families that try everything: by default a part of each is run, always the same; all of it with ``--exhaustive``.

What a family is decides how it is marked::

    @pytest.mark.exhaustive(keep=6)                 # parameters of a test: 6 of them
    @examples(200)                                  # a property: a tenth of its examples
    for cut in part(range(len(data)), keep=50):     # what one test tries: 50 of them

Two things need no mark: of a test with many parameters 12 are run, and on all event loops but asyncio a tenth of the
tests. A table that must be looked at whole says so: ``pytestmark = pytest.mark.exhaustive(keep=WHOLE)``.

Whoever names a test, as in ``pytest FILE::NAME``, wants all of it, and gets it. What was left out is said at the end of
a run, by `tests/conftest.py`.
"""

from __future__ import annotations

import random
import zlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Final, TypeVar

import pytest
from hypothesis import settings

__all__ = ["COLLECTED", "WHOLE", "choose", "examples", "part", "thin"]

T = TypeVar("T")

#: The ids of all tests that were collected, before any was left out.
COLLECTED: Final = pytest.StashKey[list[str]]()

#: `keep` for parameters that are few, or cheap, or of which each one counts: all of them.
WHOLE: Final = 1_000_000

#: Without a mark, so many of a test's parameters are run.
_PARAMETERS: Final = 12

#: A property tries one in so many of its examples, and _FEWEST_EXAMPLES at least.
_EXAMPLES: Final = 10
_FEWEST_EXAMPLES: Final = 20

#: On event loops beside asyncio, one test in so many is run; on one that is an imitation, fewer.
_OTHER_LOOPS: Final = 10
_IMITATED: Final = {"no_readers": 60}

_is_whole = False


def choose(config: pytest.Config) -> None:
    """Decide for this run, before any test is imported."""
    global _is_whole
    _is_whole = config.getoption("exhaustive") or any("::" in argument for argument in config.args)


def part(cases: Sequence[T], *, keep: int) -> Sequence[T]:
    """Return so many of the cases, in their order: the first, the last, and others in between."""
    if _is_whole or len(cases) <= keep:
        return cases
    between = random.Random(len(cases)).sample(range(1, len(cases) - 1), keep - 2)
    return [cases[index] for index in (0, *sorted(between), len(cases) - 1)]


def examples(count: int) -> settings:
    """Return the settings of a property that tries so many examples."""
    few = min(count, max(count // _EXAMPLES, _FEWEST_EXAMPLES))
    return settings(max_examples=count if _is_whole else few, deadline=None)


def _is_on_another_loop(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    return callspec is not None and "anyio_backend" in callspec.params and "asyncio" not in callspec.id.split("-")


def _one_in(item: pytest.Item) -> int:
    imitated = next((loop for loop in _IMITATED if f"[{loop}" in item.nodeid), None)
    return _OTHER_LOOPS if imitated is None else _IMITATED[imitated]


def _name(item: pytest.Item) -> str:
    return item.nodeid.partition("[")[0]


def _too_many(name: str, members: list[pytest.Item], keep: int) -> set[pytest.Item]:
    if len(members) <= keep:
        return set()
    # Not each n-th: event loops and other parameters come round regularly.
    return set(members) - set(random.Random(name).sample(members, keep))


def thin(items: list[pytest.Item]) -> list[pytest.Item]:
    """Take from the tests what a run without ``--exhaustive`` leaves out, and return it."""
    if _is_whole:
        return []
    marked: dict[tuple[str, int], list[pytest.Item]] = defaultdict(list)
    for item in items:
        mark = item.get_closest_marker("exhaustive")
        if mark is not None:
            marked[_name(item), mark.kwargs["keep"]].append(item)
    left_out = {item for (name, keep), members in marked.items() for item in _too_many(name, members, keep)}
    others = [item for item in items if item not in left_out and _is_on_another_loop(item)]
    left_out |= {item for item in others if zlib.crc32(item.nodeid.encode()) % _one_in(item)}
    unmarked: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item not in left_out and item.get_closest_marker("exhaustive") is None:
            unmarked[_name(item)].append(item)
    left_out |= {item for name, members in unmarked.items() for item in _too_many(name, members, _PARAMETERS)}
    items[:] = [item for item in items if item not in left_out]
    return list(left_out)
