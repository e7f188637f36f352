"""Which event loops the tests run on: all three; two, where a module says so; and two others that skip idle time."""

from __future__ import annotations

import sys

import pytest

from .clock import SkippingEventLoop, skipping_trio_clock

if sys.platform == "win32":  # neither SIGALRM nor TIOCOUTQ
    collect_ignore_glob = ["test_*.py"]

EVENT_LOOPS = ("asyncio", "uvloop", "trio")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test on the event loops that its module has in EVENT_LOOPS, if the test itself does not choose."""
    chosen = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "anyio_backend" in metafunc.fixturenames and "anyio_backend" not in chosen:
        metafunc.parametrize("anyio_backend", getattr(metafunc.module, "EVENT_LOOPS", EVENT_LOOPS), indirect=True)


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    """The event loop of the test, by its name."""
    name: str = request.param
    if name == "skipping asyncio":
        return "asyncio", {"loop_factory": SkippingEventLoop}
    if name == "skipping trio":
        return "trio", {"clock": skipping_trio_clock()}
    if name == "trio":
        return "trio", {}
    return "asyncio", {"use_uvloop": name == "uvloop"}
