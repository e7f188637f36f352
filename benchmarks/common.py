"""What all benchmarks share: where they run, what runs, how often, and how a ratio is taken."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import attrs

ROOT: Final = Path(__file__).resolve().parents[1]
HOST: Final = "127.0.0.1"
LOCAL_HOSTNAME: Final = "client.example.org"
MIB: Final = 1 << 20

ROUNDS: Final = 5
QUICK_ROUNDS: Final = 2


def cache_folder() -> Path:
    """Return where compiled programs and npm packages are kept: $SMTPLITE_BENCH, or ~/.cache/smtplite-bench."""
    chosen = os.environ.get("SMTPLITE_BENCH")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(chosen) if chosen else base / "smtplite-bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


AUTOGROUP: Final = Path("/proc/self/autogroup")


@contextmanager
def pinned(*, comes_first: bool) -> Iterator[str]:
    """Keep this process, and those that it starts, on one core: two are too noisy to compare.

    Args:
        comes_first: where we may, take precedence there over whatever else runs; among ourselves nothing changes.

    Yields:
        What was done, in words.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield "not pinned"
        return
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    try:
        os.nice(-20 if comes_first else 0)
    except PermissionError:
        comes_first = False
    if not comes_first:
        yield "all processes on one core, at normal priority"
        return
    before = _autogroup()
    try:
        # Where the kernel shares a core among sessions first, a process's own niceness counts only within its session.
        if before is not None:
            AUTOGROUP.write_text("-20")
        yield "all processes on one core, in front of what else runs there (niceness -20)"
    finally:
        if before is not None:
            AUTOGROUP.write_text(before)  # the session is that of whoever called us


def _autogroup() -> str | None:
    """Return the niceness of our session; None if sessions have none."""
    try:
        return AUTOGROUP.read_text().split()[-1]
    except OSError:
        return None


def prefer() -> str:
    """Keep everybody else from our core, if we may. Return what was done."""
    if not hasattr(os, "sched_setscheduler"):
        return "normal priority"
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        return "normal priority"
    return "real-time priority"


def installed(package: str) -> str | None:
    """Return the version of a distribution, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions(*packages: str) -> dict[str, str]:
    """Return distribution -> version, of those that are installed."""
    found = {package: installed(package) for package in packages}
    return {package: number for package, number in found.items() if number is not None}


def machine() -> str:
    """Return the processor, the number of cores, and the system."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:  # no Linux
        pass
    return f"{name}, {os.cpu_count()} cores, {platform.system()} {platform.release().partition('-')[0]}"


def python() -> str:
    return f"{platform.python_implementation()} {platform.python_version()}"


@attrs.frozen
class Spread:
    """The median of some numbers, the lowest and the highest."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        return cls(statistics.median(numbers), min(numbers), max(numbers))


def ratios(a: Sequence[float], b: Sequence[float]) -> Spread:
    """Return the spread of a / b, each round by itself: what disturbs a round disturbs both."""
    return Spread.of([x / y for x, y in zip(a, b, strict=True)])
