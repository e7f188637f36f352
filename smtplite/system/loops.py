"""Event loops: the one to run on, for libraries that need a loop that watches sockets."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = ["watching_loop"]


def watching_loop() -> Callable[[], AbstractEventLoop] | None:
    """Return what makes an asyncio event loop that watches sockets; None: the default one does, as but on Windows.

    psycopg refuses to run on any other.
    """
    if sys.platform == "win32":
        import asyncio

        return asyncio.SelectorEventLoop
    return None
