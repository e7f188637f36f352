"""The ``smtplite`` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from smtplite import __version__
from smtplite.cli import demo, job

__all__ = ["main"]

_COMMANDS = (demo, job)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="smtplite", description="Send mail over SMTP, and see what the server says.")
    parser.add_argument("--version", action="version", version=f"smtplite {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_to(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 0 done, 1 the mail could not be sent, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        print("smtplite: interrupted", file=sys.stderr)
        return 130
