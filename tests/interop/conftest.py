"""The servers of the interop tests, each started once for the whole run, all of them at the same time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from .launcher import Postfix, Server, ensure_available
from .table import Recorder

Launch = Callable[[type[Server]], Server]


_RECORDER = pytest.StashKey[Recorder]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-servers-table", action="store_true", help="write docs/reference/servers.md, from what the run finds"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "quirk(server, does, handled): the test meets a peculiarity of a server")
    if config.getoption("write_servers_table", default=False):
        config.stash[_RECORDER] = recorder = Recorder()
        config.pluginmanager.register(recorder)


class Fleet:
    """The running servers, one of each class."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=4)
        self._servers: dict[type[Server], Server] = {}
        self._starts: dict[type[Server], Future[None]] = {}

    def begin(self, server_class: type[Server]) -> None:
        """Start a server, if this was not done, and do not wait for it."""
        if server_class not in self._starts:
            self._servers[server_class] = server = server_class()
            self._starts[server_class] = self._executor.submit(server.start)

    def launch(self, server_class: type[Server]) -> Server:
        """Return the running server of a class; start it if nobody did.

        Skips the calling test, or fails it under SMTPLITE_INTEROP=require, where the server cannot run.

        Raises:
            ServerError: it did not start. It is tried once: with a limit of 30 s, a hundred tests would take an hour.
        """
        ensure_available(server_class)
        self.begin(server_class)
        self._starts[server_class].result()
        return self._servers[server_class]

    @property
    def running(self) -> dict[type[Server], Server]:
        """The servers that started, by their classes."""
        return {each: server for each, server in self._servers.items() if self._starts[each].exception() is None}

    def stop(self) -> None:
        """Stop all of them."""
        self._executor.shutdown(cancel_futures=True)
        with contextlib.ExitStack() as stack:  # the rest, too, if one fails
            for server in self._servers.values():
                stack.callback(server.stop)


def classes_of(items: list[pytest.Item]) -> Iterator[type[Server]]:
    """Yield the class of every server that a test needs, as far as its parameters tell."""
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            server_class = item.callspec.params.get("server")
            if isinstance(server_class, type) and issubclass(server_class, Server):
                yield server_class
        if "postfix" in getattr(item, "fixturenames", ()):
            yield Postfix


@pytest.fixture(scope="session")
def launch(request: pytest.FixtureRequest) -> Iterator[Launch]:
    """A function that returns the one running server of a class. All that the run needs start at once."""
    fleet = Fleet()
    try:
        for server_class in dict.fromkeys(classes_of(request.session.items)):
            if server_class.missing() is None:
                fleet.begin(server_class)
        yield fleet.launch
        if (recorder := request.config.stash.get(_RECORDER, None)) is not None:
            recorder.write(fleet.running)
    finally:
        fleet.stop()


@pytest.fixture
def server(request: pytest.FixtureRequest, launch: Launch) -> Server:
    """The running server of the class that the test is parametrized with."""
    server_class: type[Server] = request.param
    return launch(server_class)


@pytest.fixture(scope="session")
def postfix(launch: Launch) -> Postfix:
    """A running Postfix."""
    server = launch(Postfix)
    assert isinstance(server, Postfix)
    return server


@pytest.fixture(params=("smtp", "lockstep"))
def port(request: pytest.FixtureRequest, postfix: Postfix) -> int:
    """A port of Postfix: what holds with every extension offered must hold in lockstep, too."""
    service: str = request.param
    return postfix.ports[service]
