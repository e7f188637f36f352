"""Chromium, driven by playwright, and axe-core in it: for tests of what people see."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .secure import INSTALL, servers_folder

#: Only what fails takes so long: a machine that is busy with other things is waited for.
PATIENCE_MS = 60_000


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
            executable_path=shutil.which("chromium"), args=["--no-sandbox", *arguments], timeout=PATIENCE_MS
        )
        yield browser
        browser.close()


def settled(page: Any) -> None:
    """Wait for the fonts, and until what moves or changes its colour has done so: now the page can be measured."""
    page.evaluate(
        """async () => { await document.fonts.ready;
        const isToEnd = (each) => each.playState === 'running' && each.effect?.getComputedTiming().endTime < Infinity;
        await Promise.allSettled(document.getAnimations().filter(isToEnd).map((each) => each.finished)); }"""
    )


def faults(page: Any, impacts: Iterable[str]) -> list[tuple[str, str, list[str]]]:
    """Return what axe, which the page has, finds wrong there and is that bad; with examples."""
    settled(page)
    found = page.evaluate(
        "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'],"
        " resultTypes: ['violations'], iframes: false})"
    )
    return [
        (each["id"], each["impact"], [node["html"][:200] for node in each["nodes"][:3]])
        for each in found["violations"]
        if each["impact"] in set(impacts)
    ]
