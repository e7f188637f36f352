"""Regenerates the generated parts of the documentation from the code, in place; and builds it for a browser.

``python docs/build.py`` writes; ``python docs/build.py --check`` writes nothing, names each page that is out of date
and exits 1 if there is one. ``python docs/build.py html`` builds docs/_build/html with Sphinx, every warning an error;
it needs ``pip install -e '.[docs]'``. ``python docs/build.py measure`` installs each extra into an empty folder, and
writes docs/dependencies.json, from which two tables are made. A generated part stands between two comments::

    <!-- generated: NAME -->
    ...
    <!-- end generated -->

NAME is a key of PARTS; what makes it is in docs/making. Everything outside of such parts is written by hand and left
alone.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

# As `python docs/build.py` has it, whatever loads this file.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from making import (
    addresses,
    behaviour,
    codes,
    dependencies,
    errors,
    flows,
    house,
    limits,
    measurements,
    services,
    states,
)
from making.paths import DOCS

#: The pages beside this folder.
BESIDE: Final = ("README.md", "CONTRIBUTING.md")

_PART: Final = re.compile(
    r"(?P<begin><!-- generated: (?P<name>[a-z-]+) -->\n).*?(?P<end>^<!-- end generated -->$)", re.DOTALL | re.MULTILINE
)
_BEGIN: Final = "<!-- generated:"

#: Every generated part: NAME -> what makes it.
PARTS: Final[dict[str, Callable[[], str]]] = {
    "reply-classes": codes.reply_classes,
    "reply-codes": codes.reply_codes,
    "enhanced-codes": codes.enhanced_codes,
    "parameters": codes.parameters,
    "article-codes": codes.article_codes,
    "states": states.states,
    "rules": states.rules,
    "occasions": states.occasions,
    "state-diagram": states.diagram,
    "reserved-codes": codes.reserved_codes,
    "error-tree": errors.error_tree,
    "error-table": errors.error_table,
    "error-attributes": errors.error_attributes,
    "timeouts": limits.timeouts,
    "limits": limits.limits,
    "accepted-addresses": addresses.accepted_addresses,
    "refused-addresses": addresses.refused_addresses,
    "named-addresses": addresses.named_addresses,
    "read-fields": addresses.read_fields,
    "refused-fields": addresses.refused_fields,
    "troubles": behaviour.troubles,
    "measured": measurements.measured,
    "goals": measurements.goals,
    "compat-differences": behaviour.compat_differences,
    "compat-further": behaviour.compat_further,
    "compat-names": behaviour.compat_names,
    "dependencies": dependencies.dependencies,
    "packages": dependencies.packages,
    "services": services.services_table,
    "measured-with": dependencies.measured_with,
    "examples": house.examples,
    "rooms": house.rooms,
}


def pictures(docs: Path) -> dict[Path, str]:
    """Return where each generated picture is -> the picture."""
    made = {docs / "explanation" / f"{name}.svg": flows.flow(name) for name in flows.FLOWS}
    return {docs / "reference" / "states.svg": states.picture(), **made}


def regenerate(page: str) -> str:
    """Return the page with its generated parts made anew.

    Raises:
        ValueError: a part has a name that nothing makes, or no end.
    """

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in PARTS:
            raise ValueError(f"nothing makes the generated part {name!r}: name one of {', '.join(PARTS)}")
        return f"{match['begin']}\n{PARTS[name]()}\n{match['end']}"

    made, count = _PART.subn(fill, page)
    if count != page.count(_BEGIN):
        raise ValueError(f"{page.count(_BEGIN) - count} generated parts have no name or no end")
    return made


def outdated(docs: Path = DOCS) -> dict[Path, str]:
    """Return page -> what it should be, for each page that is out of date.

    Raises:
        ValueError: a page cannot be generated; says which and why.
    """
    pages: dict[Path, str] = {}
    names: set[str] = set()
    for path in [*(docs.parent / name for name in BESIDE), *sorted(docs.rglob("*.md"))]:
        if docs / "_build" in path.parents:
            continue
        page = path.read_text(encoding="utf-8")
        try:
            made = regenerate(page)
        except ValueError as error:
            raise ValueError(f"{path.relative_to(docs.parent)}: {error}") from error
        names.update(match["name"] for match in _PART.finditer(page))
        if made != page:
            pages[path] = made
    pages |= {
        place: drawn
        for place, drawn in pictures(docs).items()
        if not place.exists() or place.read_text(encoding="utf-8") != drawn
    }
    missing = [name for name in PARTS if name not in names]
    if missing:
        raise ValueError(f"no page has the generated part {', '.join(missing)}")
    return pages


def build_html(docs: Path = DOCS) -> int:
    """Build docs/_build/html with Sphinx, anew; return the exit status."""
    from sphinx.cmd.build import main as sphinx

    built = docs / "_build"
    status: int = sphinx(
        ["-b", "html", "-W", "--keep-going", "-q", "-E", "-d", str(built / "doctrees"), str(docs), str(built / "html")]
    )
    if not status:
        print(f"built {(built / 'html' / 'index.html').relative_to(docs.parent)}")
    return status


def main(arguments: Sequence[str] | None = None, docs: Path = DOCS) -> int:
    """Write what is out of date, or only say so; return the exit status."""
    parser = argparse.ArgumentParser(description="Regenerates the generated parts of the documentation.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is out of date")
    parser.add_argument(
        "what",
        nargs="?",
        choices=("html", "measure"),
        help="html: build the pages for a browser, docs/_build/html;"
        " measure: install each extra, and note what it brings",
    )
    options = parser.parse_args(arguments)
    if options.what == "html":
        return build_html(docs)
    if options.what == "measure":
        dependencies.measure()
        return 0
    pages = outdated(docs)
    for path, made in pages.items():
        name = path.relative_to(docs.parent).as_posix()
        if options.check:
            print(f"{name} is out of date: run python docs/build.py")
        else:
            path.write_text(made, encoding="utf-8", newline="\n")
            print(f"{name} written")
    if not pages:
        print("docs are up to date")
    return 1 if options.check and pages else 0


if __name__ == "__main__":
    sys.exit(main())
