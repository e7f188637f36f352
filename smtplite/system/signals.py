"""Signals that ask a program to stop: Ctrl-C, and what a supervisor sends."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from typing import Final

__all__ = ["STOP", "open_stop_signals"]

#: What asks a program to stop.
STOP: Final = (signal.SIGINT, signal.SIGTERM)


def open_stop_signals() -> AbstractContextManager[AsyncIterator[int]]:
    """Hear SIGINT (Ctrl-C) and SIGTERM, in place of their usual effect, as long as the context is open.

    Raises:
        NotImplementedError: the event loop cannot: those of asyncio on Windows.
    """
    import anyio

    return anyio.open_signal_receiver(*STOP)
