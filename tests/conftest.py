"""What every room may use: the event loops that asynchronous tests run on, and a server of blocking code.

And for the whole run: how much of the exhaustive families is run, and what is said of that at the end.
"""

from __future__ import annotations

import gc
import socket
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Final, cast

import pytest
from hypothesis import HealthCheck, settings

from smtplite.testing import ServerConfig, SMTPServer
from tests import exhaustive
from tests.loops import LOOPS
from tests.systems import skip_what_cannot_run

#: Longer than any test should take: a raw server that waits for this long has been left alone.
PATIENCE_SECONDS: Final = 60.0

# On a busy machine everything is slow: no property is wrong for that. And the examples are the same each time, so that
# a test fails for what was changed. `pytest --hypothesis-profile=new-examples` looks for others.
settings.register_profile("new-examples", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("smtplite", settings.get_profile("new-examples"), derandomize=True)
settings.load_profile("smtplite")

#: The mail servers are Debian's, and the soak counts what only Unix tells.
collect_ignore = ["interop", "test_soak.py"] if sys.platform == "win32" else []

RawServer = Callable[[Callable[[socket.socket], None]], int]

_LEFT_OUT = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--exhaustive", action="store_true", help="all of the families of which a part is run otherwise")


def pytest_configure(config: pytest.Config) -> None:
    exhaustive.choose(config)
    if sys.platform == "darwin" and config.option.basetemp is None:
        # The path of a Unix socket has 104 bytes there, and the usual folder for temporary files half of them.
        config.option.basetemp = tempfile.mkdtemp(prefix="smtplite-", dir="/tmp")


# Our own client keeps every rule: the servers of its tests refuse what other servers let pass. A test of what they let
# pass says strict=False, or asks for `as_users_have_it`.
_DEFAULTS = [cast("dict[str, Any]", init.__kwdefaults__) for init in (ServerConfig.__init__, SMTPServer.__init__)]
for _defaults in _DEFAULTS:
    _defaults["strict"] = True


@pytest.fixture
def as_users_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make servers that are not strict unless they are told to be."""
    for defaults in _DEFAULTS:
        monkeypatch.setitem(defaults, "strict", False)


@pytest.hookimpl(trylast=True)  # what -k and -m leave
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skip_what_cannot_run(items)
    config.stash[exhaustive.COLLECTED] = [item.nodeid for item in items]
    left_out = exhaustive.thin(items)
    config.stash[_LEFT_OUT] = len(left_out)
    if hasattr(config, "workeroutput"):  # this is one of pytest-xdist's processes: another one writes the end
        config.workeroutput["left_out"] = len(left_out)
    if left_out:
        config.hook.pytest_deselected(items=left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[_LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", 0)


def pytest_collection_finish() -> None:
    """Spare the tests that collect garbage the thousands of tests themselves, which are none: half a second a time."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say in a line what was left out and how it is run, and in a line for each other reason what was skipped."""
    skipped: Counter[str] = Counter()
    interop = 0
    for report in terminalreporter.stats.get("skipped", ()):
        if "interop" in report.keywords:
            interop += 1
        else:
            skipped[str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)] += 1
    for reason, count in skipped.items():
        terminalreporter.write_line(f"{count} not run: {reason.removeprefix('Skipped: ')}")
    parts = []
    if left_out := config.stash.get(_LEFT_OUT, 0):
        parts.append(f"{left_out:,} tests of exhaustive families, and cases of others (pytest --exhaustive runs them)")
    if interop:
        parts.append(f"{interop:,} of real mail servers (bash .ci/run servers installs them; -rs says what each lacks)")
    if parts:
        terminalreporter.write_line(f"left out: {'; '.join(parts)}")


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture
def unused_port() -> Iterator[Callable[[], int]]:
    """Give a function that returns a loopback port on which nobody listens, each time another.

    Until the end of the test nobody else gets it: a port that was merely closed may be another's a moment later.
    On Linux a server of the test may listen on it meanwhile: `@pytest.mark.needs("ports that are kept")`.
    """
    with ExitStack() as stack:

        def take() -> int:
            keeper = stack.enter_context(socket.socket())
            if sys.platform != "win32":  # where it means something else
                keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            keeper.bind(("127.0.0.1", 0))  # and does not listen
            return int(keeper.getsockname()[1])

        yield take


@pytest.fixture
def raw_server() -> Iterator[RawServer]:
    """Give a function that serves one connection after another with blocking code, in a thread; returns the port.

    For what the built-in server is too well-behaved to do. An exception in the code fails the test.
    """
    with ExitStack() as stack:
        threads: list[threading.Thread] = []
        failures: list[Exception] = []

        def serve(handle: Callable[[socket.socket], None]) -> int:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            # The first accept may come late, the next not at all: closing the listener ends it.
            listener.settimeout(PATIENCE_SECONDS)

            def run() -> None:
                while True:
                    try:
                        connection, _ = listener.accept()
                    except OSError:
                        return
                    with connection:
                        connection.settimeout(PATIENCE_SECONDS)
                        try:
                            handle(connection)
                        except ConnectionError:
                            pass  # the client may leave when it likes
                        except Exception as error:  # noqa: BLE001 (the test fails with it, below)
                            failures.append(error)
                            return

            thread = threading.Thread(target=run, daemon=True)
            threads.append(thread)
            thread.start()
            stack.callback(_wake, listener)
            return int(listener.getsockname()[1])

        yield serve
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert not failures, failures


def _wake(listener: socket.socket) -> None:
    try:
        listener.shutdown(socket.SHUT_RDWR)  # an accept that waits in another thread sees this, not a close
    except OSError:
        pass
