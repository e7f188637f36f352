"""What the changelog says of a release is what is published with it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

import smtplite

ROOT: Final = Path(__file__).resolve().parents[2]


def _notes() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_notes", ROOT / "docs" / "notes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script: Final = _notes()

CHANGELOG: Final = """# Changelog

## 0.2.0, not yet released

- Something is on its way: [how](docs/index.md).

## 0.1.0

A first one: [how](docs/index.md), and
[elsewhere](https://example.org/).

### Sending

- `send`, in
  `Client`.
- `send_many`.

## 0.0.1
"""


def test_the_notes_are_the_section_of_the_version_with_links_at_its_tag() -> None:
    assert script.notes(CHANGELOG, "0.1.0") == (
        "A first one: [how](https://github.com/smtplite/smtplite/blob/v0.1.0/docs/index.md), and"
        " [elsewhere](https://example.org/).\n\n### Sending\n\n- `send`, in `Client`.\n- `send_many`.\n"
    )


@pytest.mark.parametrize(
    ("version", "words"), [("0.2.0", "no section '0.2.0'"), ("0.3.0", "no section"), ("0.0.1", "says nothing of 0.0.1")]
)
def test_there_are_no_notes_for_what_is_not_ready(version: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        script.notes(CHANGELOG, version)


def test_the_newest_section_of_the_changelog_is_that_of_the_code() -> None:
    """A version that can be tagged has its section; one that cannot says so in both places."""
    assert script.version_of_the_code() == smtplite.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    heading = re.findall(r"^## (.+)$", changelog, re.MULTILINE)[0]
    released, dot_dev, _ = smtplite.__version__.partition(".dev")
    assert heading == (f"{released}, not yet released" if dot_dev else released)


def test_every_release_says_what_to_do_when_upgrading() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for section in re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]:
        assert "\n### Upgrading\n" in section, section.partition("\n")[0]


def test_the_notes_of_this_version_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    if ".dev" in smtplite.__version__:
        assert script.main([]) == 1
        assert "no section" in capsys.readouterr().err
    else:
        assert script.main([]) == 0
        assert "### Upgrading" in capsys.readouterr().out


def test_every_entry_of_the_changelog_is_whole() -> None:
    """Merges of a list leave pieces behind, or two of one entry."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    entries = [" ".join(each.split()) for each in re.findall(r"^- (.+(?:\n  .+)*)", changelog, re.MULTILINE)]
    assert [entry for entry in entries if not entry.endswith(".")] == []
    assert len({entry[:40] for entry in entries}) == len(entries)
