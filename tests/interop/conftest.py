"""The servers of the interop tests, each started once for the whole run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from .launcher import Postfix, ServerError, ensure_available, running
from .secure import SecureServer

Launch = Callable[[type[SecureServer]], SecureServer]


@pytest.fixture(scope="session")
def postfix() -> Iterator[Postfix]:
    """A running Postfix; skips the test, or fails it under SMTPLITE_INTEROP=require, where it cannot run."""
    ensure_available(Postfix)
    with running(Postfix) as server:
        yield server


@pytest.fixture(params=Postfix.services)
def port(request: pytest.FixtureRequest, postfix: Postfix) -> int:
    """The port of each service in turn: what holds with every extension offered must hold in lockstep, too."""
    service: str = request.param
    return postfix.ports[service]


@pytest.fixture(scope="session")
def launch() -> Iterator[Launch]:
    """A function that returns the one running server of a class, and starts it if no test needed it before."""
    outcomes: dict[type[SecureServer], SecureServer | ServerError] = {}
    with contextlib.ExitStack() as stack:

        def launch(server_class: type[SecureServer]) -> SecureServer:
            ensure_available(server_class)
            if server_class not in outcomes:
                try:
                    outcomes[server_class] = stack.enter_context(running(server_class))
                except ServerError as error:  # tried once: with a limit of 30 s, a hundred tests would take an hour
                    outcomes[server_class] = error
            outcome = outcomes[server_class]
            if isinstance(outcome, ServerError):
                raise outcome
            return outcome

        yield launch


@pytest.fixture
def server(request: pytest.FixtureRequest, launch: Launch) -> SecureServer:
    """The running server of the class that the test is parametrized with."""
    server_class: type[SecureServer] = request.param
    return launch(server_class)
