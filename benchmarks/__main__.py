"""Measure smtplite beside aiosmtplib, smtpproto, smtplib, and, where they are, nodemailer and Postfix's smtp-source.

::

    python -m benchmarks                            # all of it: a quarter of an hour; writes docs/benchmarks/
    python -m benchmarks --quick                    # every row, with little work: a minute or two; writes nothing
    python -m benchmarks --rows loopback large      # some groups; --list names them
    python -m benchmarks --without nodemailer       # some peers left out
    python -m benchmarks --also python3.11          # the rows of loopback on another Python, too
    python -m benchmarks --again                    # measure nothing: write what the last run found once more
    python -m benchmarks --output /tmp/somewhere    # where results.md, results.svg and goals.md go

Run it in the checkout, with ``pip install -e '.[test]' smtpproto`` done. A C compiler and Linux are needed: the server
(`sink.c`) and the delay line (`line.c`) are compiled at first use. nodemailer is installed by npm at first use, if
there are Node.js and npm. Both go into $SMTPLITE_BENCH, or ~/.cache/smtplite-bench, never into the tree; so do the
numbers of a run that writes, for `--again`. What is not there is left out, and the results say so. Nothing leaves
loopback. The Python of `--also` needs the same packages.

The page for readers and its picture go to docs/benchmarks; what became of our own goals, which stand in CONTRIBUTING,
to benchmarks/goals.md.

Every client is a process of its own, and all of them share one core with the server. As root they take precedence
there over whatever else runs; with --quick they do not. In each round everybody has a turn, one after another, in the
same order; a first round only warms up. A number is the median of the rounds; a ratio is the median of the rounds'
ratios; both come with the lowest and the highest. Messages are made beforehand, the same for all (`work.py`),
and the server's counts must be right, or the run has failed: so many messages, recipients and octets, and no breach of
the protocol.

The exit status is 0 whatever the numbers are, and 1 if a run failed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from benchmarks import native
from benchmarks.common import ROOT, cache_folder, pinned
from benchmarks.measure import Measuring, say_on_stderr
from benchmarks.picture import draw
from benchmarks.processes import Unavailable, python_of, scratch_folder
from benchmarks.report import Report, goals_page, page, summary
from benchmarks.rows import COLUMNS, GROUPS, another


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="little work, few rounds; goals in seconds are not judged")
    parser.add_argument("--rows", nargs="+", metavar="NAME", choices=list(GROUPS), help="these groups alone")
    parser.add_argument("--without", nargs="+", metavar="PEER", choices=COLUMNS, default=[], help="leave these out")
    parser.add_argument("--list", action="store_true", help="name the groups")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write results.md and results.svg there")
    parser.add_argument("--also", metavar="PYTHON", help="another Python: the rows of loopback on it, too")
    parser.add_argument("--again", action="store_true", help="measure nothing: write what the last run found once more")
    options = parser.parse_args(arguments)
    names = [name for name in GROUPS if options.rows is None or name in options.rows]
    if options.list:
        for name in names:
            print(f"{name:13} {GROUPS[name](quick=options.quick).title}")
        return 0
    if options.again:
        try:
            report = Report.read(last_run())
        except FileNotFoundError:
            print(f"{last_run()} is not there: no run has written yet", file=sys.stderr)
            return 1
        write(report, options.output)
        return 0
    groups = [GROUPS[name](quick=options.quick) for name in names]
    if options.also is not None:
        try:
            name = python_of(options.also)
        except Unavailable as error:
            print(error, file=sys.stderr)
            return 1
        groups += [another(options.also, name, form, quick=options.quick) for form in ("objects", "octets")]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    begun = time.monotonic()
    with (
        pinned(comes_first=not options.quick) as how,
        scratch_folder() as scratch,
        Measuring(scratch, say_on_stderr, options.without) as measuring,
    ):
        report = Report(results=[], pinned=how, load=load, is_quick=options.quick)
        for group in groups:
            try:
                results = measuring.measure(group)
            except native.CannotBuild as error:
                print(f"{group.name}: not measured: {error}", file=sys.stderr)
                return 1
            report.results.append(results)
            print(summary(results), flush=True)
        report.versions = measuring.versions
        report.absent = measuring.absent
    print("\n" + "\n".join(report.conditions) + f"\n{time.monotonic() - begun:.0f} s in all")
    if options.output is not None or not (options.quick or options.rows):
        report.keep(last_run())
        write(report, options.output)
    return 1 if any(results.failures for results in report.results) else 0


def last_run() -> Path:
    """Return where the numbers of the last run that wrote are kept."""
    return cache_folder() / "last-run.json"


def write(report: Report, output: Path | None) -> None:
    """Write the pages and the picture: into one folder, or where each belongs in the checkout."""
    documents = ROOT / "docs" / "benchmarks" if output is None else output
    files = {
        documents / "results.md": page(report),
        documents / "results.svg": draw(report),
        (ROOT / "benchmarks" if output is None else output) / "goals.md": goals_page(report),
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    print(f"written: {', '.join(map(str, files))}")


if __name__ == "__main__":
    sys.exit(main())
