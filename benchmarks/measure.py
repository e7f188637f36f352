"""Runs in rounds, A B C A B C ..., and what came of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import attrs

from benchmarks import native
from benchmarks.common import MIB, ROUNDS, Spread, ratios
from benchmarks.processes import Failed, Request, Runner, Sample, Unavailable, start
from benchmarks.work import Work, large, letters

RUN_SECONDS: Final = 300.0


# What is measured


@attrs.frozen
class Metric:
    """One number of a sample.

    Attributes:
        unit: behind the number.
        get: sample -> number.
        digits: decimals, if the number is small; see `show`.
        more_is_better: a goal is a lower limit.
    """

    unit: str
    get: Callable[[Sample], float]
    digits: int = 1
    more_is_better: bool = False

    def show(self, value: float, *, unit: bool = True) -> str:
        """Return the number as people read it."""
        digits = 0 if value >= 1000 else max(self.digits, 0) if value >= 1 else self.digits + 1
        return f"{value:,.{digits}f}" + (f" {self.unit}" if unit and self.unit else "")


def _cpu_us(sample: Sample) -> float:
    us: float = sample["us"] if "us" in sample else sample["cpu_seconds"] / sample["count"] * 1e6
    return us


RATE: Final = Metric("msg/s", lambda sample: sample["count"] / sample["seconds"], 0, more_is_better=True)
TRIPS: Final = Metric("", lambda sample: sample["round_trips"], 2)
SECONDS: Final = Metric("s", lambda sample: sample["seconds"], 2)
PEAK: Final = Metric("MiB", lambda sample: sample["peak_bytes"] / MIB, 1)
STALL: Final = Metric("ms", lambda sample: sample["stall_seconds"] * 1e3, 1)
CPU: Final = Metric("µs", _cpu_us, 2)
SPEED: Final = Metric("GB/s", lambda sample: sample["gb_per_second"], 2, more_is_better=True)


@attrs.frozen(kw_only=True)
class Run:
    """Somebody does something.

    Attributes:
        who: its name in the tables, unique in its group.
        peer: the process that does it, a name for `processes.start`.
        request: what to do; the port is filled in.
        is_lone: measured once, for what it takes is time on the line, which does not vary.
    """

    who: str
    peer: str
    request: Request
    is_lone: bool = False


@attrs.frozen(kw_only=True)
class Goal:
    """A limit for the metric of a row.

    Attributes:
        limit: of the median.
        against: the run that ours is divided by, round for round; None: the number itself.
        name: of `against`, in the tables.
    """

    limit: float
    against: str | None = None
    name: str = ""

    def in_words(self, metric: Metric) -> str:
        """Return what is asked for."""
        sign = "≥" if metric.more_is_better else "≤"
        if self.against is None:
            return f"{sign} {self.limit:g} {metric.unit}".rstrip()
        return f"{sign} {self.limit:.3g} × {self.name or self.against}"


@attrs.frozen(kw_only=True)
class Row:
    """A line of the tables.

    Attributes:
        title: what is measured.
        ours: the run that the goals are for.
        metric: what of it.
        goals: see `Goal`.
        peers: column -> run.
        loops: column -> run of smtplite on another event loop.
        is_lead: it stands in the first table of the page: what people do.
    """

    title: str
    ours: str
    metric: Metric
    goals: list[Goal] = attrs.field(factory=list)
    peers: dict[str, str] = attrs.field(factory=dict)
    loops: dict[str, str] = attrs.field(factory=dict)
    is_lead: bool = False


@attrs.frozen(kw_only=True)
class Drawing:
    """Bars in the picture.

    Attributes:
        title: above them.
        metric: what their length is.
        unit: of it, in words.
        runs: label -> run; ours begin with smtplite.
        place: of these bars in the picture, from the top.
    """

    title: str
    metric: Metric
    unit: str
    runs: dict[str, str]
    place: int = 0


@attrs.frozen(kw_only=True)
class Group:
    """Runs that are measured side by side.

    Attributes:
        name: for --rows.
        title: of its table.
        runs: in the order of a round.
        rows: what of it is shown above.
        drawings: what of it is in the picture.
        metric: of its table.
        reference: the run that all are compared with in its table.
        keywords: what the server offers; None: no server.
        settle_ms: see `native.Sink`.
        round_trip_seconds: of the delay line in front of the server; 0: none.
        rounds: how often.
        warms_up: with a round that does not count.
        is_fresh: each run has a process of its own, whose memory is looked at.
        are_lone_at_once: the lone runs are done at the same time: they do nothing but wait.
        note: below its table.
        arguments: what it was made with, beside `quick`.
    """

    name: str
    title: str
    runs: list[Run]
    rows: list[Row]
    metric: Metric
    drawings: list[Drawing] = attrs.field(factory=list)
    reference: str | None = None
    keywords: tuple[str, ...] | None = native.KEYWORDS
    settle_ms: int = 0
    round_trip_seconds: float = 0.0
    rounds: int = ROUNDS
    warms_up: bool = True
    is_fresh: bool = False
    are_lone_at_once: bool = False
    note: str = ""
    arguments: tuple[str, ...] = ()


# What came of it


@attrs.frozen
class Judgement:
    """A goal, and how far we are."""

    goal: Goal
    metric: Metric
    value: Spread

    @property
    def is_reached(self) -> bool:
        limit, value = self.goal.limit, self.value.median
        return value >= limit if self.metric.more_is_better else value <= limit

    @property
    def missing(self) -> float:
        """By what part of the limit it was missed."""
        return abs(self.goal.limit - self.value.median) / self.goal.limit

    @property
    def aim(self) -> str:
        """The goal in words."""
        return self.goal.in_words(self.metric)

    @property
    def outcome(self) -> str:
        """How it stands, in words."""
        if self.goal.against is None:
            value, span = self.metric.show(self.value.median, unit=False), show_range(self.metric, self.value)
        else:
            value = f"{self.value.median:.3g}"
            span = f"{self.value.lowest:.3g} to {self.value.highest:.3g}"
        verdict = "reached" if self.is_reached else f"missed by {percent(self.missing)}"
        return f"{verdict}: {value} ({span})"


def percent(part: float) -> str:
    """Return a part of one as people read it."""
    return f"{part * 100:.0f} %" if part >= 0.01 else f"{part * 100:.1g} %"


def show_range(metric: Metric, spread: Spread) -> str:
    """Return the lowest and the highest as people read them."""
    lowest, highest = metric.show(spread.lowest, unit=False), metric.show(spread.highest, unit=False)
    return lowest if lowest == highest else f"{lowest} to {highest}"


@attrs.define
class Results:
    """The samples of a group: run -> one a round; or why there are none."""

    group: Group
    samples: dict[str, list[Sample]] = attrs.field(factory=dict)
    missing: dict[str, str] = attrs.field(factory=dict)
    failures: list[str] = attrs.field(factory=list)

    def numbers(self, who: str, metric: Metric | None = None) -> list[float]:
        """Return the numbers of a run; [] if there are none."""
        get = (metric or self.group.metric).get
        return [get(sample) for sample in self.samples.get(who, ())]

    def spread(self, who: str, metric: Metric | None = None) -> Spread | None:
        numbers = self.numbers(who, metric)
        return Spread.of(numbers) if numbers else None

    def ratio(self, who: str, against: str, metric: Metric | None = None) -> Spread | None:
        """Return the ratio, round for round; of a lone run, with its one number."""
        a, b = self.numbers(who, metric), self.numbers(against, metric)
        if not a or not b:
            return None
        if len(a) != len(b):
            a, b = (a * len(b) if len(a) == 1 else a), (b * len(a) if len(b) == 1 else b)
        return ratios(a, b)

    def judge(self, row: Row) -> list[Judgement]:
        """Return what became of a row's goals; those that cannot be judged are missing."""
        judged = []
        for goal in row.goals:
            if goal.against is None:
                value = self.spread(row.ours, row.metric)
            else:
                value = self.ratio(row.ours, goal.against, row.metric)
            if value is not None:
                judged.append(Judgement(goal, row.metric, value))
        return judged


# Doing it


class Measuring:
    """All that runs while the groups are measured: the peers stay for all of them.

    Args:
        scratch: a folder for what the peers read.
        say: is told how far it is.
        without: peers that are left out.
    """

    def __init__(
        self, scratch: Path, say: Callable[[str], None] = lambda _: None, without: Collection[str] = ()
    ) -> None:
        self._scratch = scratch
        self._say = say
        self._without = without
        self._stack = ExitStack()
        self._runners: dict[str, Runner | Unavailable] = {}
        self.versions: dict[str, str] = {}
        #: Peer -> why it does not run.
        self.absent: dict[str, str] = {}

    def __enter__(self) -> Measuring:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def measure(self, group: Group) -> Results:
        """Measure a group.

        Raises:
            native.CannotBuild: it needs a server, which this machine cannot build.
        """
        results = Results(group)
        with ExitStack() as stack:
            sink = None
            port = 0
            if group.keywords is not None:
                sink = stack.enter_context(native.Sink(*group.keywords, settle_ms=group.settle_ms))
                port = sink.port
                if group.round_trip_seconds:
                    port = stack.enter_context(native.Line(port, group.round_trip_seconds)).port
            lone = [run for run in group.runs if run.is_lone]
            if lone:
                self._say(f"{group.name}: {len(lone)} runs that are measured once")
                if group.are_lone_at_once:
                    self._do_at_once(lone, results, sink, port)
                else:
                    for run in lone:
                        self._do(run, results, sink, port)
            for number in range(0 if group.warms_up else 1, group.rounds + 1):
                for run in group.runs:
                    if not run.is_lone and run.who not in results.missing:
                        self._say(f"{group.name}: round {number} of {group.rounds}: {run.who}")
                        self._do(run, results, sink, port, is_warm_up=number == 0)
        return results

    def _runner(self, name: str) -> Runner:
        found = self._runners.get(name)
        if found is None:
            try:
                if name in self._without:
                    raise Unavailable("left out")
                found = start(name, self._scratch)
                self._stack.callback(found.close)
                if "@" not in name:  # what runs on another Python is said in its group
                    self.versions |= found.versions()
            except Unavailable as reason:
                found = reason
                self.absent[name] = str(reason)
            self._runners[name] = found
        if isinstance(found, Unavailable):
            raise found
        return found

    @contextmanager
    def _runner_for(self, run: Run, *, is_fresh: bool) -> Iterator[Runner]:
        runner = self._runner(run.peer)
        if not is_fresh:
            yield runner
            return
        runner = start(run.peer, self._scratch)
        try:
            yield runner
        finally:
            runner.close()

    def _complete(self, request: Request, port: int, *, is_warm_up: bool = False) -> Request:
        """Return the request with what was not known when it was written; a round that does not count does less."""
        if not isinstance(request, Work):
            return request
        path = self._scratch / f"large-{request.size}"
        if request.size and not path.exists():
            path.write_bytes(large(request.size))
        count = max(request.count // 5, 1) if is_warm_up else request.count
        return attrs.evolve(request, port=port, count=count, path=str(path) if request.size else "")

    def _do(self, run: Run, results: Results, sink: native.Sink | None, port: int, *, is_warm_up: bool = False) -> None:
        request = self._complete(run.request, port, is_warm_up=is_warm_up)
        try:
            with self._runner_for(run, is_fresh=results.group.is_fresh) as runner:
                runner.prepare(request)
                memory = runner.memory if results.group.is_fresh else None
                resident = memory.reset_peak() if memory is not None else 0
                if sink is not None:
                    sink.counts(reset=True)
                runner.go()
                sample = runner.result(RUN_SECONDS)
                if memory is not None:
                    sample["peak_bytes"] = memory.peak() - resident
                if sink is not None and isinstance(request, Work):
                    sample |= self._counted(request, sink.counts())
        except Unavailable as reason:
            results.missing[run.who] = str(reason)
        except Failed as error:
            self._failed(run, results, error)
        else:
            if not is_warm_up:
                results.samples.setdefault(run.who, []).append(sample)

    def _do_at_once(self, runs: list[Run], results: Results, sink: native.Sink | None, port: int) -> None:
        ready: list[tuple[Run, Work, Runner]] = []
        for run in runs:
            request = self._complete(run.request, port)
            assert isinstance(request, Work)
            try:
                runner = self._runner(run.peer)
                runner.prepare(request)
            except Unavailable as reason:
                results.missing[run.who] = str(reason)
            except Failed as error:
                self._failed(run, results, error)
            else:
                ready.append((run, request, runner))
        if sink is not None:
            sink.counts(reset=True)
        for _, _, runner in ready:
            runner.go()
        for run, request, runner in ready:
            try:
                sample = runner.result(RUN_SECONDS)
            except (Failed, Unavailable) as error:
                self._failed(run, results, error)
            else:
                results.samples[run.who] = [sample | {"count": request.count}]
        if sink is not None:
            counts = sink.counts()
            sent = sum(request.count for run, request, _ in ready if run.who in results.samples)
            if counts.messages < sent or counts.violations:
                results.failures.append(
                    f"{results.group.name}, at once: the server counted {counts.messages} messages of {sent}, and "
                    f"{counts.violations} violations: {counts.violation}"
                )

    @staticmethod
    def _counted(work: Work, counts: native.Counts) -> Sample:
        """Return what the server counted; what is fast and wrong does not count."""
        expected: dict[str, Any] = {"messages": work.count, "recipients": work.count * work.recipients, "violations": 0}
        if work.form == "octets":
            expected["octets"] = work.size or work.count * len(letters(work.recipients)[0].octets)
        found = {name: getattr(counts, name) for name in expected}
        if found != expected:
            raise Failed(f"the server counted {found}, not {expected}; its first complaint: {counts.violation!r}")
        return {"count": work.count, "round_trips": counts.round_trips, "connections": counts.most_connections}

    def _failed(self, run: Run, results: Results, error: Exception) -> None:
        results.missing[run.who] = "failed"
        results.samples.pop(run.who, None)
        results.failures.append(f"{results.group.name}, {run.who}: {error}")
        # Its process may be in any state, or gone: the next run gets another.
        self._runners.pop(run.peer, None)
        self._say(f"FAILED: {run.who}: {error}")


def say_on_stderr(text: str) -> None:
    """Show how far it is, on one line if that is a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text[:110]}", end="", file=sys.stderr, flush=True)
