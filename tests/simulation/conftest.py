"""Small limits for all runs, and how many runs there were."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import judge, user_agent


@pytest.fixture(autouse=True, scope="package")
def _simulating() -> Iterator[None]:
    with user_agent.simulating():
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many runs there were."""
    if judge.tried:
        terminalreporter.write_line(f"simulation: {judge.tried.total():,} runs, each judged by I1 to I7")
