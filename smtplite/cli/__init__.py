"""The ``smtplite`` command."""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import Final, NoReturn

from smtplite import __version__
from smtplite.cli.terminal import HelpFormatter, UserError

__all__ = ["full_parser", "main", "program"]

#: Each command is in a module of the same name, loaded when the command is used: --help loads none of them.
_COMMANDS: Final = {
    "check": "show what a server offers, step by step, and what fails",
    "send": "send messages from files, one or 100,000",
    "serve": "catch mail with a server for development",
    "worker": "send what is queued in PostgreSQL or NATS JetStream",
    "demo": "send a message to a built-in server, and show the dialogue",
    "job": "send the message of a job file, and print the replies",
    "completion": "print what your shell needs to complete commands",
}

#: What a shell reports for a program that SIGPIPE or SIGINT ended.
_BROKEN_PIPE: Final = 141
_INTERRUPTED: Final = 130
#: How long a thread that has nothing to do any more is given to end.
_THREAD_SECONDS: Final = 0.2


def full_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line, with all commands loaded."""
    return _parser(_COMMANDS)[0]


def _parser(arguments: Iterable[str]) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser, and that of each command: whole for those that are among the arguments."""
    parser = argparse.ArgumentParser(
        prog="smtplite",
        description="Send mail over SMTP, and see what the server says.",
        epilog="smtplite COMMAND --help says more, with an example.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"smtplite {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    wanted = set(arguments)
    for name, summary in _COMMANDS.items():
        if name in wanted:
            importlib.import_module(f"smtplite.cli.{name}").add_to(commands, summary)
        else:
            commands.add_parser(name, help=summary)
    return parser, dict(commands.choices)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 0 done, 2 wrong usage; each command's help lists the others."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A server's text may hold characters that a terminal cannot show. And where both streams go into one pipe,
            # what was printed first comes first.
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    try:
        try:
            return _main(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()  # now, not when the interpreter exits: nobody could catch what it raises then
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        _discard_output()
        return _BROKEN_PIPE


def program() -> NoReturn:
    """Run the command line, and end the process with its exit code.

    A message that is hard to read is read in a thread. A thread cannot be stopped, and the interpreter would wait for
    it: after Ctrl-C the program would not end.
    """
    code = main()
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join(_THREAD_SECONDS)
            if thread.is_alive():
                sys.stderr.flush()
                os._exit(code)
    sys.exit(code)


def _main(arguments: Sequence[str]) -> int:
    chosen = next((argument for argument in arguments if not argument.startswith("-")), None)
    parser, commands = _parser([chosen] if chosen in _COMMANDS else [])
    options, unknown = parser.parse_known_args(arguments)
    if unknown and not any(text.startswith("-") and text != "-" for text in unknown) and "files" in options:
        options.files += unknown  # argparse takes one run of them: `send URL --rate 1/s FILE` has two
    elif unknown:  # reported by the command's own parser, which knows its usage
        _refuse(commands[options.command], unknown)
    try:
        return int(options.run(options))
    except UserError as error:
        print(f"smtplite {options.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("smtplite: interrupted", file=sys.stderr)
        return _INTERRUPTED


def _refuse(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> NoReturn:
    """Say that arguments are unknown, and which option may have been meant."""
    known = [option for action in parser._actions for option in action.option_strings]
    meant = next((match for text in unknown for match in difflib.get_close_matches(text, known, n=1)), None)
    parser.error(f"unrecognized arguments: {' '.join(unknown)}{f' (did you mean {meant}?)' if meant else ''}")


def _discard_output() -> None:
    """Discard what is still in the buffer: the interpreter would complain about it when it exits."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # not a file of the system: nothing will complain
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
