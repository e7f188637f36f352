"""What the commands share: errors that the user can fix, text that is safe to print, numbers, and Ctrl-C."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Final, Literal

from smtplite.system.signals import open_stop_signals
from smtplite.system.terminals import show_colours

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

__all__ = [
    "WRONG_USAGE",
    "HelpFormatter",
    "Output",
    "Paint",
    "UserError",
    "count",
    "on_stop",
    "plural",
    "port",
    "printable",
    "seconds",
]

#: argparse also exits with this.
WRONG_USAGE: Final = 2

#: Control characters, and those that change the direction of what comes after them.
_CONTROLS: Final = {
    code: 0xFFFD
    for code in (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    if code != 0x09
}


class UserError(Exception):
    """The command cannot go on, for a reason that the user can fix: one line, no traceback.

    Attributes:
        exit_code: of the command.
    """

    def __init__(self, problem: str, exit_code: int = WRONG_USAGE) -> None:
        super().__init__(problem)
        self.exit_code = exit_code


def printable(text: str) -> str:
    """Return a line without anything that could control a terminal: a server or a message may contain anything."""
    return text.translate(_CONTROLS)


def plural(number: int, noun: str) -> str:
    """Return a number with its noun, such as "1 message" or "2,000 messages"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


Colour = Literal["bold", "faint", "good", "bad", "warn"]

#: What it means -> how terminals show it (ECMA-48, SGR): no colour of its own for text, which must be readable on any
#: background.
_COLOURS: Final = {"bold": "1", "faint": "2", "good": "32", "bad": "31", "warn": "33"}


class Paint:
    """Colours text if a terminal shows it, and leaves it alone otherwise.

    ``NO_COLOR`` (https://no-color.org) switches colours off, ``FORCE_COLOR`` on.

    Args:
        stream: where the text goes.
    """

    def __init__(self, stream: IO[str] | None = None) -> None:
        stream = sys.stdout if stream is None else stream
        if os.environ.get("NO_COLOR"):
            self.is_on = False
        elif os.environ.get("FORCE_COLOR"):
            self.is_on = True
        else:
            self.is_on = stream.isatty() and show_colours()

    def __call__(self, text: str, colour: Colour) -> str:
        """Return the text in a colour; the caller has made it `printable`."""
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if self.is_on and text else text


class Output:
    """Prints lines from within hooks, where an exception would be logged, or end something else.

    Attributes:
        problem: the error that printing ran into, for example when nobody reads any more; then nothing more is printed.
    """

    def __init__(self) -> None:
        self.problem: OSError | None = None

    def print(self, line: str) -> None:
        """Print a line, if that is still possible."""
        if self.problem is None:
            try:
                print(line, flush=True)
            except OSError as error:
                self.problem = error

    def check(self) -> None:
        """Raise the error that printing ran into, if any."""
        if self.problem is not None:
            raise self.problem


class HelpFormatter(argparse.HelpFormatter):
    """Wraps a description, leaves the line breaks of an epilog alone, and has room for long options."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


# Types of arguments


def count(text: str) -> int:
    """Read a whole number, at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def port(text: str) -> int:
    """Read a port, or 0."""
    number = int(text)
    if not 0 <= number <= 65_535:
        raise argparse.ArgumentTypeError(f"{text} is not 0 to 65535")
    return number


def seconds(text: str) -> float:
    """Read a number of seconds above 0."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return number


# Signals


async def on_stop(call: Callable[[int], None], *, task_status: TaskStatus[None]) -> None:
    """Call a function with each SIGINT (Ctrl-C) and SIGTERM, instead of their usual effect, until cancelled."""
    with open_stop_signals() as signals:
        task_status.started()
        async for number in signals:
            call(number)
