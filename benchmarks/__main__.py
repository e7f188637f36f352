"""Measure smtplite beside aiosmtplib, smtpproto, smtplib, and, where they are, nodemailer and Postfix's smtp-source.

::

    python -m benchmarks                            # all of it: twelve minutes; writes docs/benchmarks/
    python -m benchmarks --quick                    # every row, with little work: a minute or two; writes nothing
    python -m benchmarks --rows loopback large      # some groups; --list names them
    python -m benchmarks --without nodemailer       # some peers left out
    python -m benchmarks --output /tmp/somewhere    # where results.md and results.svg go

Run it in the checkout, with ``pip install -e '.[test]' smtpproto`` done. A C compiler and Linux are needed: the server
(`sink.c`) and the delay line (`line.c`) are compiled at first use. nodemailer is installed by npm at first use, if
there are Node.js and npm. Both go into $SMTPLITE_BENCH, or ~/.cache/smtplite-bench, never into the tree. What is not
there is left out, and the results say so. Nothing leaves loopback.

Every client is a process of its own, and all of them share one core with the server. As root they take precedence
there over whatever else runs; with --quick they do not. In each round everybody has a turn, one after another, in the
same order; a first round only warms up. A number is the median of the rounds; a ratio is the median of the rounds'
ratios; both come with the lowest and the highest. Messages are octets made beforehand, the same for all (`work.py`),
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
from benchmarks.common import ROOT, pinned
from benchmarks.measure import Measuring, say_on_stderr
from benchmarks.picture import draw
from benchmarks.processes import scratch_folder
from benchmarks.report import Report, page, summary
from benchmarks.rows import COLUMNS, GROUPS


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="little work, few rounds; goals in seconds are not judged")
    parser.add_argument("--rows", nargs="+", metavar="NAME", choices=list(GROUPS), help="these groups alone")
    parser.add_argument("--without", nargs="+", metavar="PEER", choices=COLUMNS, default=[], help="leave these out")
    parser.add_argument("--list", action="store_true", help="name the groups")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write results.md and results.svg there")
    options = parser.parse_args(arguments)
    groups = [GROUPS[name](quick=options.quick) for name in GROUPS if options.rows is None or name in options.rows]
    if options.list:
        for group in groups:
            print(f"{group.name:13} {group.title}")
        return 0
    output: Path | None = options.output
    if output is None and not options.quick and options.rows is None:
        output = ROOT / "docs" / "benchmarks"
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
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "results.md").write_text(page(report), encoding="utf-8", newline="\n")
        (output / "results.svg").write_text(draw(report), encoding="utf-8", newline="\n")
        print(f"written: {output / 'results.md'}, {output / 'results.svg'}")
    return 1 if any(results.failures for results in report.results) else 0


if __name__ == "__main__":
    sys.exit(main())
