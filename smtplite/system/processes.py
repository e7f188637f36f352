"""Processes: what a child of a fork begins with, where there are forks."""

from __future__ import annotations

import os
from collections.abc import Callable

__all__ = ["after_fork"]


def after_fork(function: Callable[[], None]) -> None:
    """Have a function called in each child that this process forks; Windows has no fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)
