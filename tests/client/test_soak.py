"""A small soak: the large one is ``python -m tests.soak``."""

from __future__ import annotations

import asyncio

import pytest

from ..soak import Settings, soak

MESSAGES = 500


@pytest.mark.parametrize("send_many", [False, True], ids=["send", "send_many"])
@pytest.mark.parametrize("chunking", [False, True], ids=["DATA", "BDAT"])
def test_what_the_client_says_is_what_the_server_took_whatever_dies(*, send_many: bool, chunking: bool) -> None:
    """R1: over connections that are killed at random octets, every outcome is true, and nothing is taken twice."""
    report = asyncio.run(
        soak(Settings(messages=MESSAGES, connections=4, seconds=60, send_many=send_many, chunking=chunking))
    )
    assert not report.failures, str(report)
    assert report.messages == MESSAGES
    assert report.outcomes["accepted"] + report.outcomes["refused"] > 0
    assert report.kills.total() > 0
