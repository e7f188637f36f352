"""Chromium, driven by playwright, and axe-core in it: for tests of what people see."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .secure import INSTALL, servers_folder


def axe() -> Path:
    """Return the script of axe-core, which says what people with a screen reader, say, cannot use."""
    return servers_folder() / "npm/node_modules/axe-core/axe.min.js"


def missing() -> str | None:
    if shutil.which("chromium") is None:
        return f"Chromium is not installed: {INSTALL}"
    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed: pip install playwright"
    return None if axe().exists() else f"axe-core is not installed: {INSTALL}"


@contextmanager
def chromium(*arguments: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", *arguments]
        )
        yield browser
        browser.close()


def faults(page: Any, impacts: Iterable[str]) -> list[tuple[str, str, list[str]]]:
    """Return what axe, which the page has, finds wrong there and is that bad; with examples."""
    found = page.evaluate(
        "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'],"
        " resultTypes: ['violations'], iframes: false})"
    )
    return [
        (each["id"], each["impact"], [node["html"][:200] for node in each["nodes"][:3]])
        for each in found["violations"]
        if each["impact"] in set(impacts)
    ]
