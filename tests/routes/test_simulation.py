"""Whatever befalls the relays: nobody gets it twice, nobody is lost while one relay works, and all claims are true.

A test is one kind of trouble, and one way to send; see `simulation`.
"""

from __future__ import annotations

import pytest

from .simulation import KINDS, WAYS, Way, cases, judged

_SHOWN = 5


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_nobody_gets_it_twice_and_nobody_is_lost(kind: str, way: Way) -> None:
    wrong = judged(kind, cases(kind, way, keep=6))
    if wrong:
        pytest.fail("\n".join((f"{len(wrong)} things are wrong", *wrong[:_SHOWN])), pytrace=False)
