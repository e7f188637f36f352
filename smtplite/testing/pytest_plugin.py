"""Fixtures for pytest: a server on a real port, and a client whose messages never leave this process.

Switch it on in the `conftest.py` at the top of your tests::

    pytest_plugins = ["smtplite.testing.pytest_plugin"]

and use `smtp_server` or `smtp_outbox`. A marker says how the server behaves::

    @pytest.mark.smtp_server(tls="starttls", users={"me": "secret"}, strict=True)

or, for all tests of a folder or a module, a fixture there called `smtp_server_options`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from smtplite.testing.message import ReceivedMessage
from smtplite.testing.outbox import Outbox
from smtplite.testing.server import SMTPServer
from smtplite.testing.threaded import ThreadedServer

__all__ = ["smtp_outbox", "smtp_outbox_options", "smtp_server", "smtp_server_options"]

#: Messages, and mistakes of clients, that the report of a failed test shows.
MAX_REPORTED = 20

_servers = pytest.StashKey[list[tuple[str, SMTPServer]]]()  # with the name of the fixture


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        "smtp_server(**options): how the server of smtp_server and smtp_outbox behaves; the arguments of"
        " smtplite.testing.SMTPServer",
    )


@pytest.fixture
def smtp_server_options() -> dict[str, Any]:
    """Return the arguments of `SMTPServer` for `smtp_server` and `smtp_outbox`; override it to change them.

    What the marker says has priority.
    """
    return {}


@pytest.fixture
def smtp_outbox_options() -> dict[str, Any]:
    """Return the arguments of `smtplite.Client` for `smtp_outbox`; override it to change them."""
    return {}


@pytest.fixture(scope="session")
def _smtp_server_thread() -> Iterator[BlockingPortal]:
    """The thread that all servers of the session run in, with an event loop of its own."""
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture
def smtp_server(
    request: pytest.FixtureRequest, smtp_server_options: dict[str, Any], _smtp_server_thread: BlockingPortal
) -> Iterator[ThreadedServer]:
    """Run an SMTP server on a free port of this host, for one test, synchronous or not.

    Point the code under test at `ThreadedServer.url`, or at `host` and `port`, and look at `messages` afterwards.
    """
    server = _server(request, smtp_server_options)
    with ThreadedServer(server, _smtp_server_thread) as threaded:
        yield threaded


@pytest.fixture
def smtp_outbox(
    request: pytest.FixtureRequest, smtp_server_options: dict[str, Any], smtp_outbox_options: dict[str, Any]
) -> Outbox:
    """Provide a `smtplite.Client` whose messages are captured in memory: `Outbox.client` and `Outbox.messages`.

    It opens no socket and needs no closing; it works on the event loop of the test.
    """
    return Outbox(_server(request, smtp_server_options), **smtp_outbox_options)


def _server(request: pytest.FixtureRequest, options: dict[str, Any]) -> SMTPServer:
    # From the module's marker to the function's: the nearest one wins
    for marker in reversed(list(request.node.iter_markers("smtp_server"))):
        if marker.args:
            raise pytest.UsageError(f"smtp_server takes keyword arguments, those of SMTPServer; not {marker.args!r}")
        options = {**options, **marker.kwargs}
    try:
        server = SMTPServer(**options)
    except (TypeError, ValueError) as error:
        raise pytest.UsageError(
            f"smtp_server: {error}; its arguments, and those of its options, are SMTPServer's"
        ) from None
    request.node.stash.setdefault(_servers, []).append((request.fixturename or "smtp_server", server))
    return server


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Say in which parts two messages differ."""
    if op != "==":
        return None
    if isinstance(left, ReceivedMessage) and isinstance(right, ReceivedMessage):
        return [f"{left!r} == {right!r}", *left.differences(right)]
    if isinstance(left, Sequence) and isinstance(right, Sequence):
        for index, (one, other) in enumerate(zip(left, right, strict=False)):
            if isinstance(one, ReceivedMessage) and isinstance(other, ReceivedMessage) and one != other:
                return [f"message {index} of {len(left)} and {len(right)}", *one.differences(other)]
    return None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to the report of a failed test what its servers accepted and refused, and the mistakes that clients made."""
    report = yield
    if report.when == "call" and report.failed:
        for name, server in item.stash.get(_servers, []):
            report.sections.append((f"SMTP server of {name}", "\n".join(_account(server))))
    return report


def _account(server: SMTPServer) -> list[str]:
    messages, refused, violations = list(server.messages), list(server.refused), list(server.violations)
    lines = [f"{len(messages)} message{'' if len(messages) == 1 else 's'}"]
    lines += [f"  {message!r}" for message in messages[:MAX_REPORTED]]
    if refused:
        lines.append("refused")
        lines += [f"  {message!r}" for message in refused[:MAX_REPORTED]]
    if violations:
        lines.append("mistakes of the client")
        lines += [f"  {violation} [{violation.rfc}]" for violation in violations[:MAX_REPORTED]]
    return lines
