"""Every text of an error is explained on the page Troubleshooting, and the page explains no text that is gone."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.exhaustive import WHOLE

pytestmark = pytest.mark.exhaustive(keep=WHOLE)

DOCS = Path(__file__).parents[2] / "docs"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_texts", DOCS / "texts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["docs_texts"] = module
    spec.loader.exec_module(module)
    return module


texts = load()
FOUND = texts.texts_of()
PAGE = texts.ENTRIES.read_text(encoding="utf-8")
ENTRIES = texts.entries_of(PAGE)

#: A pattern that explains more texts than this would explain others, too, that it does not know.
MOST_TEXTS = 15


def test_there_are_entries_and_texts() -> None:
    assert len(ENTRIES) == PAGE.count("\n### ") > 50
    assert len(FOUND) > 300


@pytest.mark.parametrize("text", FOUND, ids=lambda text: text.place)
def test_every_text_of_an_error_is_explained(text: object) -> None:
    wanted = text.text  # type: ignore[attr-defined]  # a class of the module that was loaded
    assert any(texts.explained_by(wanted, pattern) for entry in ENTRIES for pattern in entry.patterns), (
        f"docs/reference/troubleshooting.md does not explain {wanted!r}: add it to an entry, or write one"
    )


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.heading[:40])
def test_no_entry_is_stale(entry: object) -> None:
    patterns: tuple[str, ...] = entry.patterns  # type: ignore[attr-defined]  # as above
    for pattern in patterns:
        assert any(texts.explained_by(text.text, pattern) for text in FOUND), f"no error says {pattern!r} any more"
    heading: str = entry.heading  # type: ignore[attr-defined]  # as above
    assert any(texts.is_example(heading, pattern) for pattern in patterns), f"{heading!r} is no example of its entry"


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.heading[:40])
def test_an_entry_says_what_happened_and_what_to_do(entry: object) -> None:
    happened, _, to_do = entry.advice.partition("**What to do:**")  # type: ignore[attr-defined]  # as above
    assert len(happened.split()) >= 5
    assert len(to_do.split()) >= 3


@pytest.mark.parametrize("pattern", ["...: ...", "... must be ..., not ...", "server ...: ..."])
def test_a_vague_pattern_explains_no_other_text(pattern: str) -> None:
    assert texts.explained_by(pattern, pattern)
    assert not texts.explained_by(pattern.replace("...", "something"), pattern)


def test_no_pattern_explains_whatever_comes() -> None:
    for entry in ENTRIES:
        for pattern in entry.patterns:
            explained = sum(texts.explained_by(text.text, pattern) for text in FOUND)
            assert explained <= MOST_TEXTS, f"{pattern!r} explains {explained} texts"


def test_what_is_read_from_the_source(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(
        """
SAYS = "a constant"

def why(n):
    return f"no {n}"

def function(n):
    raise MessageError("as it is")
    raise SMTPError(f"with {n!r} in {it}")
    raise TLSError(SAYS)
    raise errors.ConnectError("one" if n else "other")
    raise MessageError("to " + f"{n} and on")
    raise extension_required("SIZE", "second argument")
    raise UserError(why(n))
    raise ConnectionLost(unknown(n))
    raise ValueError("not ours")
"""
    )
    assert [text.text for text in texts.texts_of(tmp_path)] == [
        "as it is",
        "with ... in ...",
        "a constant",
        "one",
        "other",
        "to ... and on",
        "second argument",
        "no ...",
    ]
