"""What importing smtplite costs, beside importing anyio, ssl and email together.

Run: ``python -m benchmarks.imports [--rounds 15]``.

Each turn is a fresh interpreter that reads its modules' compiled form; what is measured is the statement alone, in
CPU time, so that a busy machine distorts it less. In each round everybody has a turn, in the same order; a first round
writes the compiled forms and warms up. A ratio is the median of the rounds' ratios to ``import anyio, ssl, email``.

- ``import smtplite`` loads names only: its modules come with the first use of a name (PEP 562). The goal: within 1.15.
- ``from smtplite import Client`` is what an application pays in the end. anyio, too, loads most of itself at first use:
  "the same, used" is what a client cannot do without, loaded as far as smtplite uses it.
- ``import smtplite.protocol`` is the core; its goal is not a time: it loads none of the three (tests/test_imports.py).

The exit status is 0 whatever the numbers are.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from benchmarks.common import ROOT

GOAL: Final = 1.15
DEFAULT_ROUNDS: Final = 15

BASE: Final = "import anyio, ssl, email"
STATEMENTS: Final = {
    BASE: BASE,
    "import smtplite": "import smtplite",
    "the same, used": (
        "import anyio.abc, anyio.lowlevel, anyio.streams.tls, anyio.to_thread, ssl\n"
        "from anyio import CancelScope, Event, connect_tcp, create_task_group\n"
        "import email.generator, email.headerregistry, email.message, email.parser, email.policy, email.utils"
    ),
    "import attrs, idna": "import attrs, idna",
    "from smtplite import Client": "from smtplite import Client",
    "import smtplite.protocol": "import smtplite.protocol",
}


def milliseconds(statement: str) -> float:
    """Return the CPU time of the statement in a fresh interpreter."""
    program = f"import time\nbegun = time.process_time_ns()\n{statement}\nprint(time.process_time_ns() - begun)\n"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    return int(done.stdout) / 1e6


def measure(rounds: int) -> dict[str, list[float]]:
    """Return the times of each statement, by its name, round by round."""
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for number in range(rounds + 1):
        for name, statement in STATEMENTS.items():
            taken = milliseconds(statement)
            if number > 0:
                times[name].append(taken)
    return times


def report(times: dict[str, list[float]]) -> str:
    """Return the table, and whether the goal was met."""
    lines = [f"{'':30} {'median':>9} {'lowest':>9} {'ratio':>6}"]
    ratios: dict[str, float] = {}
    for name, taken in times.items():
        ratios[name] = statistics.median(one / base for one, base in zip(taken, times[BASE], strict=True))
        lines.append(f"{name:30} {statistics.median(taken):6.1f} ms {min(taken):6.1f} ms {ratios[name]:6.2f}")
    ratio = ratios["import smtplite"]
    lines.append(f"import smtplite: {ratio:.2f}, goal {GOAL} or less: {'met' if ratio <= GOAL else 'missed'}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.imports", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=DEFAULT_ROUNDS, help="how often everybody has a turn")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds is at least 1")
    print(f"Python {sys.version.split()[0]}, {options.rounds} rounds, CPU time of fresh interpreters")
    print(report(measure(options.rounds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
