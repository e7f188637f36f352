"""A short run of the fuzz; `python -m tests.fuzz --seconds 3600` is the long one."""

from __future__ import annotations

import random
import sys

import pytest

from smtplite.protocol.transaction import Transaction
from tests import fuzz


@pytest.mark.parametrize("seed", range(4))
def test_random_dialogues_break_nothing(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(400):
        fuzz.play(fuzz.generated(rng))


def test_the_fuzz_finds_a_core_that_believes_a_250_for_octets_that_never_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """R3; a check that cannot fail would be none."""
    monkeypatch.setattr(Transaction, "has_left", lambda self, unsent: self._content_end is not None)
    _, _, found = fuzz.fuzz(1, inputs=400)
    assert found is not None


@pytest.mark.skipif(not hasattr(sys, "monitoring"), reason="this Python cannot tell which lines were reached")
def test_each_run_counts_its_own_lines_and_leaves_nothing_behind() -> None:
    runs = [fuzz.fuzz(1, inputs=20) for _ in range(2)]
    assert all(lines > 100 for _, lines, _ in runs)
    monitoring = getattr(sys, "monitoring")  # noqa: B009 (unknown to Python 3.11)
    assert monitoring.get_tool(monitoring.COVERAGE_ID) is None
