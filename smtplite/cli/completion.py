"""``smtplite completion SHELL``: print a script with which a shell completes our commands and options, by shtab."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from smtplite.cli.terminal import HelpFormatter, UserError

__all__ = ["add_to"]

_SHELLS: Final = ("bash", "zsh", "fish")

_EPILOG: Final = """\
where to write it:
  bash  ~/.local/share/bash-completion/completions/smtplite
  zsh   ~/.zfunc/_smtplite, with ~/.zfunc in fpath
  fish  ~/.config/fish/completions/smtplite.fish

It needs the extra cli: pip install "smtplite[cli]"

example: smtplite completion zsh > ~/.zfunc/_smtplite"""


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Add the command to the command line; `summary` is what the list of commands says of it."""
    parser = commands.add_parser(
        "completion",
        help=summary,
        usage="smtplite completion SHELL",
        description="Print a script with which your shell completes smtplite's commands, options and file names. Write "
        "it where your shell looks for it, and open a new shell.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("shell", choices=_SHELLS, metavar="SHELL", help="bash, zsh or fish")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    try:
        import shtab
    except ImportError:
        raise UserError('shtab is not installed: install "smtplite[cli]"') from None
    from smtplite.cli import full_parser

    parser = full_parser()
    _mark_files(parser, shtab.FILE, shtab.DIRECTORY)
    print(shtab.complete(parser, shell=options.shell))
    return 0


def _mark_files(parser: argparse.ArgumentParser, file: object, folder: object) -> None:
    """Mark each argument that is a file or a folder as one."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _mark_files(command, file, folder)
        elif action.metavar == "FOLDER":
            action.complete = folder  # type: ignore[attr-defined]  # shtab's own
        elif action.metavar == "FILE" or action.type is Path:
            action.complete = file  # type: ignore[attr-defined]  # shtab's own
