"""Timeouts, and the named limits."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from types import ModuleType

import attrs

import smtplite.message
import smtplite.message.composing
import smtplite.message.content
import smtplite.message.prepared
import smtplite.message.wire
import smtplite.net.stream
import smtplite.protocol
from making.markdown import attributes, code, prose, table
from smtplite import Timeouts
from smtplite.protocol import RULES


def timeouts() -> str:
    """Return the table of the defaults of Timeouts."""
    meanings = attributes(Timeouts)
    return table(
        ("Field", "Default, seconds", "Limits", "For the replies to"),
        (
            (
                code(field.name),
                f"{field.default:g}",
                meanings[field.name],
                ", ".join(code(rule.verb) for rule in RULES.values() if rule.timeout == field.name),
            )
            for field in attrs.fields(Timeouts)
        ),
    )


def limits() -> str:
    """Return the table of the constants MAX_*, and what stands beside each in its module."""
    names = [found.name for found in pkgutil.iter_modules(smtplite.protocol.__path__, "smtplite.protocol.")]
    modules = [
        *map(importlib.import_module, names),
        smtplite.message.wire,
        smtplite.message.content,
        smtplite.message.prepared,
        smtplite.message.composing,
        smtplite.net.stream,
    ]
    rows = (
        (code(name), f"{getattr(module, name):,}", _unit(name), remark, code(module.__name__))
        for module in modules
        for name, remark in _constants(module)
    )
    return table(("Constant", "Value", "Unit", "What it limits", "Module"), rows)


def _unit(name: str) -> str:
    return name.rpartition("_")[2].lower()


def _constants(module: ModuleType) -> list[tuple[str, str]]:
    """Return the module's public MAX_* and the comment after each, or above it and those that follow on."""
    found = []
    comment: list[str] = []
    is_above = False  # whether the line before was a comment too
    for line in inspect.getsource(module).splitlines():
        if line.startswith("#"):
            comment = [*(comment if is_above else []), line.lstrip("#:").strip()]
            is_above = True
            continue
        is_above = False
        match = re.match(r"(MAX_\w+)(?:: \S+)? = [^#]*(?:# ?(.*))?", line)
        if match is None:
            comment = []
            continue
        found.append((match[1], prose(match[2] or " ".join(comment))))
    return found
