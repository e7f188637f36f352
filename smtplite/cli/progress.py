"""The progress of ``smtplite send``: a bar on a terminal, if rich is installed; otherwise a line now and then."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

import attrs

from smtplite.cli.results import Result
from smtplite.cli.terminal import plural

__all__ = ["Lines", "Progress", "Tally", "show_progress"]

#: Between two plain lines, and between two updates of the bar.
LINE_SECONDS: Final = 5.0
BAR_SECONDS: Final = 0.1
_BAR_CHARACTERS: Final = 20
_SECONDS_PER_MINUTE: Final = 60


@attrs.define(eq=False)
class Tally:
    """Counts messages, and recipients by outcome.

    Attributes:
        total: messages to send.
        clock: returns seconds; only differences count.
        done: messages whose outcome is known.
        outcomes: "accepted", "refused", "unknown", "not_sent" -> recipients.
        without_recipients: messages that cannot be sent at all; their recipients were not even looked for.
    """

    total: int
    clock: Callable[[], float] = time.monotonic
    done: int = 0
    outcomes: Counter[str] = attrs.field(factory=Counter)
    without_recipients: int = 0
    _began: float = attrs.field(init=False, default=attrs.Factory(lambda self: self.clock(), takes_self=True))

    def add(self, results: Iterable[Result]) -> None:
        """Count one message."""
        self.done += 1
        for result in results:
            if result.recipient is None:
                self.without_recipients += 1
            else:
                self.outcomes[result.outcome] += 1

    @property
    def seconds(self) -> float:
        """Seconds since it was made."""
        return self.clock() - self._began

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.done / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        """Say how it is going, in one line."""
        shown = [f"{self.rate:,.0f}/s", *self._outcomes()]
        if self.rate:
            minutes, seconds = divmod(round((self.total - self.done) / self.rate), _SECONDS_PER_MINUTE)
            shown.append(f"{minutes}:{seconds:02} left")
        return ", ".join(shown)

    def summary(self) -> str:
        """Return how it went."""
        recipients = plural(sum(self.outcomes.values()), "recipient")
        took = f"{self.seconds:,.1f} s ({self.rate:,.0f} messages/s)"
        return f"{plural(self.done, 'message')}, {recipients}: {', '.join(self._outcomes())}; {took}"

    def as_json(self) -> dict[str, Any]:
        """Return how it went, for programs; each key is always there."""
        outcomes = ("accepted", "refused", "unknown", "not_sent")
        return {
            "messages": self.done,
            "recipients": sum(self.outcomes.values()),
            **{outcome: self.outcomes[outcome] for outcome in outcomes},
            "without_recipients": self.without_recipients,
            "seconds": round(self.seconds, 3),
        }

    def _outcomes(self) -> list[str]:
        shown = [("accepted", "accepted"), ("refused", "refused"), ("unknown", "unknown")]
        if self.outcomes["not_sent"]:
            shown.append(("not sent", "not_sent"))
        counted = [f"{name} {self.outcomes[outcome]:,}" for name, outcome in shown]
        if self.without_recipients:
            counted.append(f"{plural(self.without_recipients, 'message')} cannot be sent")
        return counted


class Progress(Protocol):
    """Shows a tally."""

    def update(self) -> None:
        """Show it, unless it was shown just before."""

    def say(self, line: str) -> None:
        """Print a line without disturbing it."""

    def close(self) -> None:
        """Remove it; `say` still works."""


class Lines:
    """A line on stderr now and then."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._next = tally.seconds + LINE_SECONDS

    def update(self) -> None:
        """Print a line, if the last one is old enough."""
        tally = self._tally
        if tally.seconds >= self._next:
            self._next = tally.seconds + LINE_SECONDS
            self.say(f"{tally.done:,} of {plural(tally.total, 'message')}: {tally}")

    def say(self, line: str) -> None:
        """Print a line."""
        print(f"smtplite send: {line}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Do nothing."""


class _Bar:
    """A bar on the terminal."""

    def __init__(self, tally: Tally) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._tally = tally
        self._next = 0.0
        self._bar = RichProgress(
            BarColumn(bar_width=_BAR_CHARACTERS),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[tally]}"),
            console=Console(stderr=True),
            transient=True,  # the summary says it all
        )
        self._task = self._bar.add_task("", total=tally.total, tally="")
        self._bar.start()

    def update(self) -> None:
        if self._tally.seconds >= self._next:
            self._next = self._tally.seconds + BAR_SECONDS
            self._bar.update(self._task, completed=self._tally.done, tally=str(self._tally))

    def say(self, line: str) -> None:
        self._bar.console.print(f"smtplite send: {line}", markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._next = 0.0
        self.update()
        self._bar.stop()


def show_progress(tally: Tally) -> Progress:
    """Begin to show a tally, as well as stderr can."""
    if sys.stderr.isatty():
        try:
            return _Bar(tally)
        except ImportError:  # the extra "cli" is not installed
            pass
    return Lines(tally)
