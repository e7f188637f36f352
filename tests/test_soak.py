"""A small soak in a process of its own, as the large one is run: ``python -m tests.soak``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MESSAGES = 500


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("way", [[], ["--send-many"]], ids=["send", "send_many"])
@pytest.mark.parametrize("transfer", [[], ["--chunking"]], ids=["DATA", "BDAT"])
def test_what_the_client_says_is_what_the_server_took_whatever_dies(way: list[str], transfer: list[str]) -> None:
    """R1: over connections that are killed at random octets, every outcome is true, and nothing is taken twice."""
    options = ["--messages", str(MESSAGES), "--connections", "4", *way, *transfer]
    ran = subprocess.run([sys.executable, "-m", "tests.soak", *options], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{MESSAGES} messages in " in ran.stdout
    assert " killed: " in ran.stdout
