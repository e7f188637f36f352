"""A module of `smtplite.system` as it would be on another system."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import smtplite.system

As = Callable[[str, str], ModuleType]


@pytest.fixture
def load_as(monkeypatch: pytest.MonkeyPatch) -> As:
    """Give a function that loads a module anew under the name of another system; the one in use stays as it is."""

    def load(name: str, system: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(
            f"{name}_as_on_{system}", Path(smtplite.system.__path__[0]) / f"{name}.py"
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setattr(sys, "platform", system)
        spec.loader.exec_module(module)
        return module

    return load
