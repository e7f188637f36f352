"""Small limits for all runs, and how many runs there were."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import judge, plans, user_agent


@pytest.fixture(autouse=True, scope="package")
def _simulating() -> Iterator[None]:
    with user_agent.simulating():
        yield
    plans.forget()  # a hundred conversations, each a server and a client


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many runs there were."""
    if judge.tried:
        terminalreporter.write_line(f"simulation: {judge.tried.total():,} runs, each judged by I1 to I7; {judge.taken}")
