"""A small soak in a process of its own, as the large one is run: ``python -m tests.soak``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MESSAGES = 500
CHAOS_MESSAGES = 300


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("way", [[], ["--send-many"]], ids=["send", "send_many"])
@pytest.mark.parametrize("transfer", [[], ["--chunking"]], ids=["DATA", "BDAT"])
def test_what_the_client_says_is_what_the_server_took_whatever_dies(way: list[str], transfer: list[str]) -> None:
    """R1: over connections that are killed at random octets, every outcome is true, and nothing is taken twice."""
    said = soaked(MESSAGES, *way, *transfer)
    assert " killed: " in said


def soaked(messages: int, *options: str) -> str:
    """Run one and return what it says, if all held that must hold."""
    command = [sys.executable, "-m", "tests.soak", "--messages", str(messages), "--connections", "4", *options]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{messages} messages in " in ran.stdout
    return ran.stdout


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize(
    "options",
    [[], ["--chunking", "--tls"], ["--send-many", "--tls"], ["--send-many", "--chunking"]],
    ids=["send DATA clear", "send BDAT TLS", "send_many DATA TLS", "send_many BDAT clear"],
)
def test_refused_restarted_stalled_and_cancelled_nothing_is_false_or_lost(options: list[str]) -> None:
    """R1, R25, R26: and no message fails for a connection that was not its own; see the text of `tests.soak`."""
    said = soaked(CHAOS_MESSAGES, "--chaos", *options)
    assert "\nchaos: " in said
