"""Limits that submission services publish, as rules: SES, Microsoft 365, Google, and others. See services.toml."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Final

from smtplite.worker.shaping.rules import Rules

__all__ = ["SERVICES", "services"]

#: The name of the file where the origin of a rule is shown.
SERVICES: Final = "smtplite's services.toml"


@cache
def services() -> Rules:
    """Return the rules. A file of your own can override them: ``services().and_also(Rules.read(path))``."""
    text = (resources.files("smtplite.worker.shaping") / "services.toml").read_text(encoding="utf-8")
    return Rules.of(text, SERVICES)
