"""Shaping: all workers together send as fast as the relay and the recipients' servers allow, and no faster."""

from __future__ import annotations

from smtplite.worker.shaping.board import RELAY, Board, Effect
from smtplite.worker.shaping.boards import Boards, MemoryBoards
from smtplite.worker.shaping.pace import Pace
from smtplite.worker.shaping.rules import Action, Automation, RecipientRule, RelayRule, Rules, Trigger
from smtplite.worker.shaping.shaper import Shaping
from smtplite.worker.shaping.units import Rate

__all__ = [
    "RELAY",
    "Action",
    "Automation",
    "Board",
    "Boards",
    "Effect",
    "MemoryBoards",
    "Pace",
    "Rate",
    "RecipientRule",
    "RelayRule",
    "Rules",
    "Shaping",
    "Trigger",
]
