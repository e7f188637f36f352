"""The documentation as it was built for a browser: it fits a phone, and people with a screen reader can use it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from . import browser
from .launcher import ensure_nothing_is_missing

pytestmark = pytest.mark.interop

#: Where `python docs/build.py html` wrote the pages: in this checkout, or where SMTPLITE_SITE says.
SITE: Final = Path(
    os.environ.get("SMTPLITE_SITE") or Path(__file__).resolve().parents[2] / "docs" / "_build" / "html"
).resolve()

#: One page, at least, of each make: columns, pictures, the largest tables, code in many languages, the API.
PAGES: Final = (
    *("index", "quickstart", "install", "comparison", "howto/catcher", "howto/providers", "explanation/round-trips"),
    *("reference/states", "reference/errors", "reference/api/oauth", "benchmarks/results", "examples/flask/README"),
)
#: What axe does not like in what the theme puts around each text, and calls moderate.
THEME: Final = {"region", "landmark-unique"}


def missing() -> str | None:
    if not (SITE / "index.html").exists():
        return "the documentation is not built: pip install -e '.[docs]' && python docs/build.py html"
    return browser.missing()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    ensure_nothing_is_missing(missing)
    with browser.chromium() as found:
        yield found


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_every_kind_of_page_fits_and_axe_finds_nothing(width: int, scheme: str, chromium: Any) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    context.set_default_timeout(browser.PATIENCE_MS)
    page = context.new_page()
    script = browser.axe().read_text(encoding="utf-8")
    found: dict[str, object] = {}
    for name in PAGES:
        page.goto((SITE / f"{name}.html").as_uri())
        browser.settled(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        page.evaluate(script)
        faults = [each for each in browser.faults(page, {"moderate", "serious", "critical"}) if each[0] not in THEME]
        if faults:
            found[name] = faults
    context.close()
    assert not found
