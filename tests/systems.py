"""What tests need of the system that they run on, and not every system has.

A test that needs such a thing says so, and is skipped elsewhere, with the reason::

    @pytest.mark.needs("fork")
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Final

import pytest

__all__ = ["HAS", "skip_what_cannot_run"]

#: What tests need -> whether it is here. Windows has none of it; macOS has no /proc, and no ports that are kept: there
#: nobody listens where another socket is bound.
HAS: Final = {
    "Unix sockets": hasattr(socket, "AF_UNIX"),
    "fork": hasattr(os, "fork"),
    "signals for other processes": hasattr(signal, "SIGSTOP"),
    "/proc": os.path.exists("/proc/self/fd"),
    "pseudo-terminals": hasattr(os, "openpty"),
    "named pipes": hasattr(os, "mkfifo"),
    "symbolic links": sys.platform != "win32",
    "devices": os.path.exists("/dev/zero"),
    "limits of resources": find_spec("resource") is not None,
    "flock": find_spec("fcntl") is not None,
    "uvloop": find_spec("uvloop") is not None,
    "ports that are kept": sys.platform == "linux",
}


def skip_what_cannot_run(items: Iterable[pytest.Item]) -> None:
    """Mark as skipped what needs something that is not here."""
    for item in items:
        missing = [need for mark in item.iter_markers("needs") for need in mark.args if not HAS[need]]
        if missing:
            item.add_marker(pytest.mark.skip(reason=f"this system has no {', no '.join(missing)}"))
        elif "no_readers" in item.name and any("Unix sockets" in mark.args for mark in item.iter_markers("needs")):
            item.add_marker(pytest.mark.skip(reason="an event loop as on Windows has no Unix sockets"))
