"""What each extra installs: measured, and shown."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Final

from making.markdown import code, table
from making.paths import DOCS

#: What is installed: written by `measure`, read by the table.
INSTALLED: Final = DOCS / "dependencies.json"
#: Extras for those who work on smtplite itself.
_FOR_US: Final = frozenset({"docs", "test"})


def _requirements() -> dict[str, tuple[str, ...]]:
    """Return extra -> what pyproject.toml asks for; "" is smtplite itself."""
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: tuple(asked) for name, asked in project["optional-dependencies"].items() if name not in _FOR_US}
    return {"": tuple(project["dependencies"]), **extras}


def measure() -> None:
    """Install each extra into an empty folder, from the package index, and write what came."""
    packages: dict[str, dict[str, object]] = {}
    brought: dict[str, dict[str, list[str]]] = {}
    for extra, asked in _requirements().items():
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", folder, *asked]
            subprocess.run(command, check=True)  # noqa: S603 (pip, and what pyproject.toml asks for)
            found = {_normal(each.name): each for each in importlib.metadata.distributions(path=[folder])}
            brought[extra] = {"asked": list(asked), "installed": sorted(found)}
            packages |= {name: _measured(each) for name, each in found.items()}
    python = ".".join(platform.python_version_tuple()[:2])
    kept = {
        "python": python,
        "system": platform.system(),
        "extras": brought,
        "packages": dict(sorted(packages.items())),
    }
    INSTALLED.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8", newline="\n")
    print(f"{INSTALLED.name} written: now run python docs/build.py")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _name_of(requirement: str) -> str:
    return _normal(re.split(r"[<>=~!;\[ ]", requirement)[0])


def _measured(found: importlib.metadata.Distribution) -> dict[str, object]:
    files = [Path(str(found.locate_file(file))) for file in found.files or ()]
    fields = found.metadata
    licence = fields["License-Expression"] or fields["License"] or ""
    if not licence or "\n" in licence:
        classifiers = [each for each in fields.get_all("Classifier") or () if each.startswith("License ::")]
        licence = ", ".join(each.rpartition(" :: ")[2] for each in classifiers)
    return {
        "version": found.version,
        "licence": licence,
        "kilobytes": round(sum(file.stat().st_size for file in files if file.exists()) / 1000),
        "compiled": any(file.suffix in (".so", ".pyd") for file in files),
    }


def _size(kilobytes: int) -> str:
    return f"{kilobytes} kB" if kilobytes < 1000 else f"{kilobytes / 1000:.1f} MB"


def dependencies() -> str:
    """Return the table of what each extra installs, as `measure` found it."""
    kept = json.loads(INSTALLED.read_text(encoding="utf-8"))
    packages, base = kept["packages"], set(kept["extras"][""]["installed"])
    rows = []
    for extra, asked in _requirements().items():
        name = code(f"smtplite[{extra}]" if extra else "smtplite")
        if kept["extras"].get(extra, {}).get("asked") != list(asked):
            rows.append((name, ", ".join(code(_name_of(each)) for each in asked), "", "", ""))
            continue
        added = [each for each in kept["extras"][extra]["installed"] if not extra or each not in base]
        size = sum(packages[each]["kilobytes"] for each in added)
        compiled = ", ".join(each for each in added if packages[each]["compiled"])
        rows.append((name, ", ".join(map(code, added)), str(len(added)), _size(size), compiled or "no"))
    return table(("You install", "It adds", "Packages", "On disk", "Compiled code"), rows)


def packages() -> str:
    """Return the table of the packages that the extras bring: version, licence and size, as `measure` found them."""
    kept = json.loads(INSTALLED.read_text(encoding="utf-8"))
    rows = []
    for name, found in kept["packages"].items():
        users = [extra or "smtplite itself" for extra, each in kept["extras"].items() if name in each["installed"]]
        by = users[0] if users[0] == "smtplite itself" else ", ".join(map(code, users))
        link = f"[{name}](https://pypi.org/project/{name}/)"
        rows.append((link, found["version"], found["licence"], _size(found["kilobytes"]), by))
    return table(("Package", "Version measured", "Licence", "On disk", "Brought by"), rows)


def measured_with() -> str:
    """Return the sentence that says where the two tables come from."""
    kept = json.loads(INSTALLED.read_text(encoding="utf-8"))
    return f"Measured with Python {kept['python']} on {kept['system']}, without bytecode. 1 MB is 1,000,000 bytes.\n"
