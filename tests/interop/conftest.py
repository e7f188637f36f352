"""The servers of the interop tests, each started once for the whole run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .launcher import Postfix, ensure_available, running


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
