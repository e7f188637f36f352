"""How many runs of the simulation there were."""

from __future__ import annotations

import pytest

from . import simulation


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many runs there were."""
    if simulation.tried:
        terminalreporter.write_line(
            f"simulation of routes: {simulation.tried.total():,} runs: nobody taken twice, nobody lost"
        )
