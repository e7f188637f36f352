"""Prints the notes of a release: what CHANGELOG.md says of it.

``python docs/notes.py`` prints those of the version in the code, ``python docs/notes.py 0.1.0`` of another. The release
workflow publishes what is printed. It exits 1, and says why, if the changelog has nothing to publish for that version.
Only the standard library is needed.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
#: Where the links of the changelog lead when it is read away from its files, at the tag of the release.
FILES: Final = "https://github.com/smtplite/smtplite/blob/v{version}/"


def version_of_the_code(root: Path = ROOT) -> str:
    """Return the version that the code says it has, without importing it."""
    source = (root / "smtplite" / "__init__.py").read_text(encoding="utf-8")
    [version] = re.findall(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    return str(version)


def notes(changelog: str, version: str) -> str:
    """Return the section of a version, one line for each paragraph, with links that lead somewhere from anywhere.

    Raises:
        ValueError: the changelog has no such section, or it is empty.
    """
    headings = re.findall(r"^## (.+)$", changelog, re.MULTILINE)
    if version not in headings:
        raise ValueError(f"CHANGELOG.md has no section {version!r}, but {', '.join(headings) or 'none at all'}")
    section = re.split(r"^## ", changelog.partition(f"\n## {version}\n")[2], maxsplit=1, flags=re.MULTILINE)[0].strip()
    if not section:
        raise ValueError(f"CHANGELOG.md says nothing of {version}")
    # Where notes are shown, a line end within a paragraph begins a new line.
    unwrapped = re.sub(r"(?<=\S)\n *(?![\s#|]|- |```)", " ", section)
    return re.sub(r"\]\((?!https?://|#)([^)]+)\)", rf"]({FILES.format(version=version)}\1)", unwrapped) + "\n"


def main(arguments: list[str]) -> int:
    """Print the notes; return the exit status."""
    version = arguments[0] if arguments else version_of_the_code()
    try:
        text = notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
