"""Shaping: as fast as a relay and the recipients' servers allow, for all workers together, and never faster."""

from __future__ import annotations

from smtplite.worker.shaping.rules import Action, Automation, RecipientRule, RelayRule, Rules, Trigger
from smtplite.worker.shaping.units import Rate

__all__ = ["Action", "Automation", "Rate", "RecipientRule", "RelayRule", "Rules", "Trigger"]
