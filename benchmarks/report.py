"""What came of it, as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import attrs

from benchmarks.common import Spread, machine, python
from benchmarks.measure import Metric, Results, Row, show_range
from benchmarks.rows import COLUMNS, GROUPS, LOOPS, another

COMMAND: Final = "python -m benchmarks"
NOTHING: Final = "–"


@attrs.define(kw_only=True)
class Report:
    """All that a run of the command found.

    Attributes:
        results: of each group, in order.
        versions: name -> version of what ran.
        absent: peer -> why it did not run.
        pinned: what `common.pin` said.
        load: of the machine, when it began; None: unknown.
        is_quick: with --quick: the numbers are rough.
        date: when.
        python: what smtplite ran on.
        machine: where.
    """

    results: list[Results]
    versions: dict[str, str] = attrs.field(factory=dict)
    absent: dict[str, str] = attrs.field(factory=dict)
    pinned: str = ""
    load: float | None = None
    is_quick: bool = False
    date: datetime = attrs.field(factory=lambda: datetime.now(UTC))
    python: str = attrs.field(factory=python)
    machine: str = attrs.field(factory=machine)

    def keep(self, path: Path) -> None:
        """Write down all that was found, for `read`."""
        kept: dict[str, Any] = attrs.asdict(self, filter=lambda field, _: field.name not in ("results", "date"))
        kept["date"] = self.date.isoformat()
        kept["results"] = [
            {
                "group": [results.group.name, *results.group.arguments],
                "samples": results.samples,
                "missing": results.missing,
                "failures": results.failures,
            }
            for results in self.results
        ]
        path.write_text(json.dumps(kept), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Report:
        """Return what `keep` wrote; how it is shown is as `rows` has it now.

        Raises:
            FileNotFoundError: nothing was kept.
        """
        kept = json.loads(path.read_text(encoding="utf-8"))
        results = []
        for found in kept.pop("results"):
            name, *arguments = found.pop("group")
            make = another if name == another.__name__ else GROUPS[name]
            results.append(Results(make(*arguments, quick=kept["is_quick"]), **found))
        return cls(results=results, date=datetime.fromisoformat(kept.pop("date")), **kept)

    @property
    def conditions(self) -> list[str]:
        """Return what the numbers depend on, a line each."""
        lines = [
            f"{self.date:%Y-%m-%d}; {self.python}; {self.machine}",
            f"{self.pinned}; load of the machine at the beginning: {self.load:.2f}"
            if self.load is not None
            else self.pinned,
            ", ".join(
                f"{name} {version}" for name, version in sorted(self.versions.items(), key=lambda v: v[0].lower())
            ),
        ]
        lines += [f"{peer} did not run: {reason}" for peer, reason in self.absent.items()]
        if self.is_quick:
            lines.append("`--quick`: less work and fewer rounds, so the numbers are rough")
        return lines


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> str:
    """Return a Markdown table; `right`: columns that are aligned there."""
    right = set(right)
    marks = ["---:" if column in right else "---" for column in range(len(headers))]
    lines = [headers, marks, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def show(metric: Metric, spread: Spread | None, *, unit: bool = True) -> str:
    return NOTHING if spread is None else metric.show(spread.median, unit=unit)


# Against the goals


def goal_lines(results: Results, row: Row) -> list[tuple[str, str, str, str]]:
    """Return a row's lines: work, our number, a goal, what became of it."""
    ours = results.spread(row.ours, row.metric)
    if ours is None:
        reason = results.missing.get(row.ours, "not measured")
        return [(row.title, NOTHING, NOTHING, f"not available: {reason}")]
    number = show(row.metric, ours)
    judged = results.judge(row)
    lines: list[tuple[str, str, str, str]] = []
    for judgement in judged:
        outcome = judgement.outcome if judgement.is_reached else f"**{judgement.outcome}**"
        lines.append((row.title if not lines else "", number if not lines else "", judgement.aim, outcome))
    lines += [
        ("" if lines else row.title, "" if lines else number, f"against {goal.against}", "not available: no such run")
        for goal in row.goals
        if goal not in [judgement.goal for judgement in judged]
    ]
    if not lines:
        lines.append((row.title, number, NOTHING, f"({show_range(row.metric, ours)})"))
    return lines


def against_the_goals(report: Report) -> str:
    lines = [line for results in report.results for row in results.group.rows for line in goal_lines(results, row)]
    return table(("work", "smtplite", "goal", "outcome (median, lowest to highest)"), lines, right={1})


def goals_page(report: Report) -> str:
    """Return the page of our own goals, for those who work on smtplite."""
    return "\n".join(
        [
            "# Against the goals\n",
            f"`{COMMAND}` wrote this page; do not edit it by hand. The goals are in `CONTRIBUTING.md`, and come from "
            "`benchmarks/rows.py`. What others reach, and each single run, is on the benchmark page of the "
            "documentation, which is written at the same time.\n",
            "".join(f"- {line}\n" for line in report.conditions),
            against_the_goals(report),
            *_failures(report),
        ]
    )


# Beside others

#: The columns of the first table: a phone shows no more.
LEADING: Final = ("aiosmtplib", "smtplib", "nodemailer")


def what_people_do(report: Report) -> str:
    lines = []
    for results in report.results:
        for row in results.group.rows:
            if row.is_lead and (ours := results.spread(row.ours, row.metric)) is not None:
                theirs = [
                    results.spread(row.peers[peer], row.metric) if peer in row.peers else None for peer in LEADING
                ]
                lines.append([row.title, *(show(row.metric, spread) for spread in (ours, *theirs))])
    return table(("work", "smtplite", *LEADING), lines, right=range(1, 2 + len(LEADING)))


def beside_others(report: Report) -> str:
    lines = []
    loops = [loop for loop in LOOPS if loop != "asyncio"]
    for results in report.results:
        for row in results.group.rows:
            cells = [row.title, show(row.metric, results.spread(row.ours, row.metric), unit=False)]
            for names in ((loops, row.loops), (COLUMNS, row.peers)):
                for column in names[0]:
                    run = names[1].get(column)
                    spread = None if run is None else results.spread(run, row.metric)
                    cells.append(show(row.metric, spread, unit=False))
            cells.insert(1, row.metric.unit)
            if set(cells[2:]) != {NOTHING}:
                lines.append(cells)
    headers = ("work", "unit", "smtplite", *(f"on {loop}" for loop in loops), *COLUMNS)
    return table(headers, lines, right=range(2, len(headers)))


# Everything


def every_run(results: Results) -> str:
    group = results.group
    metric = group.metric
    unit = f" ({metric.unit})" if metric.unit else ""
    headers = ["who", f"median{unit}", "lowest to highest"]
    if group.reference is not None:
        headers.append(f"against {group.reference} (lowest to highest)")
    has_usual = any("at_once" in sample for samples in results.samples.values() for sample in samples)
    if has_usual:
        headers.append("the usual way")
    has_memory = any("peak_bytes" in sample for samples in results.samples.values() for sample in samples)
    has_stalls = any("stall_seconds" in sample for samples in results.samples.values() for sample in samples)
    if has_memory:
        headers.append("memory (MiB)")
    if has_stalls:
        headers.append("longest stall (ms); of its own CPU time")
    rows = []
    for run in group.runs:
        spread = results.spread(run.who)
        if spread is None:
            reason = results.missing.get(run.who, "not measured")
            rows.append([run.who, NOTHING, f"not available: {reason}", *[""] * (len(headers) - 3)])
            continue
        cells = [run.who, metric.show(spread.median, unit=False)]
        cells.append("measured once" if run.is_lone else show_range(metric, spread))
        if group.reference is not None:
            ratio = results.ratio(run.who, group.reference)
            cells.append("" if ratio is None else f"{ratio.median:.3g} ({ratio.lowest:.3g} to {ratio.highest:.3g})")
        samples = results.samples[run.who]
        if has_usual:
            found = [(sample["at_once"], sample["count"]) for sample in samples if "at_once" in sample]
            cells.append(f"{sum(n for n, _ in found):,} of {sum(n for _, n in found):,}" if found else "")
        if has_memory:
            peaks = [sample["peak_bytes"] / (1 << 20) for sample in samples if "peak_bytes" in sample]
            cells.append(f"{Spread.of(peaks).median:.1f}" if peaks else "")
        if has_stalls:
            walls = [sample["stall_seconds"] * 1e3 for sample in samples if "stall_seconds" in sample]
            cpus = [sample["stall_cpu_seconds"] * 1e3 for sample in samples if "stall_seconds" in sample]
            cells.append(f"{Spread.of(walls).median:.1f}; {Spread.of(cpus).median:.1f}" if walls else "")
        rows.append(cells)
    text = f"### {group.title}\n\n{table(headers, rows, right={1})}"
    if group.note:
        text += f"\n{group.note}\n"
    return text


def page(report: Report) -> str:
    """Return the whole page."""
    parts = [
        "# Benchmarks\n",
        "What it costs to send mail with smtplite, and with other libraries. All send the same messages to the same "
        "server, on one core, side by side in one run.\n",
        "![smtplite beside others: an EmailMessage by send, a bulk run over a network, and one on a single machine]"
        "(results.svg)\n",
        what_people_do(report),
        "Over a network, round trips decide, and smtplite waits for fewer of them. On one machine there is nothing to "
        "wait for: there the numbers show how much processor time a message costs. `chunking=True` is for servers that "
        "you trust: [why](../explanation/round-trips.md).\n",
        "## How it was measured\n",
        "".join(f"- {line}\n" for line in report.conditions),
        f"`{COMMAND}` wrote this page and its picture; do not edit them by hand. In each round, each program has one "
        "turn: A B C, A B C, ... A number is the median of the rounds. The server is written in C, and counts what it "
        "accepts. smtplite runs on asyncio unless another event loop is named. `EmailMessage` objects are built before "
        "the clock starts, one for each message. Messages as bytes are ready to be sent.\n",
        "## All of it\n",
        "The median of each. *raw bytes* is the least that asyncio can do: the bytes are composed beforehand, and "
        "replies are only counted.\n",
        beside_others(report),
        "## Every run\n",
        "*The usual way* is how many of smtplite's messages were written and decided at once, without a look at each "
        "command and reply. A ratio is taken in each round.\n",
        *(every_run(results) for results in report.results),
        *_failures(report),
    ]
    return "\n".join(parts)


def _failures(report: Report) -> list[str]:
    failures = [failure for results in report.results for failure in results.failures]
    return ["## Failures\n", "".join(f"- {' '.join(failure.split())}\n" for failure in failures)] if failures else []


def summary(results: Results) -> str:
    """Return a group's rows as text for a terminal."""
    lines = [results.group.title]
    for row in results.group.rows:
        for title, number, aim, outcome in goal_lines(results, row):
            lines.append(f"  {title:<64.64} {number:>13}  {aim:<34} {outcome}")
    lines += [f"  FAILED {failure}" for failure in results.failures]
    return "\n".join(lines)
