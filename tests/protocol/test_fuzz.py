"""A short run of the fuzz; `python -m tests.fuzz --seconds 3600` is the long one."""

from __future__ import annotations

import random

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
    monkeypatch.setattr(Transaction, "has_left", lambda self, unsent: self.is_handed_over)
    _, _, found = fuzz.fuzz(1, inputs=400)
    assert found is not None
