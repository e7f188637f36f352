"""What every room may use: the event loops that asynchronous tests run on, and a server of blocking code."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

#: Longer than any test should take: a raw server that waits for this long has been left alone.
PATIENCE_SECONDS = 20.0

RawServer = Callable[[Callable[[socket.socket], None]], int]


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


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
