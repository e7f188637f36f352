"""Terminals: whether they show colours."""

from __future__ import annotations

import os
import sys

__all__ = ["show_colours"]


def show_colours() -> bool:
    """Say whether a terminal shows colours; the old console of Windows does not, unless it is told to."""
    if os.environ.get("TERM") == "dumb":
        return False
    return sys.platform != "win32" or bool(os.environ.get("WT_SESSION") or os.environ.get("TERM"))
