"""`smtplite worker run CONFIG` sends what is queued in an engine; `install` prepares it, `status` counts what waits."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smtplite.cli.terminal import HelpFormatter, UserError, plural
from smtplite.system.loops import watching_loop

if TYPE_CHECKING:
    from smtplite.worker.config import Config

__all__ = ["add_to"]

_EXAMPLE = """\
CONFIG is a TOML file:

  [relay]
  url = "env:MAIL_URL"                 # of this environment variable; or the URL itself

  [source]
  engine = "postgres"
  url = "host=db.example.com dbname=shop"

  [worker.lanes]                       # connections for each lane
  transactional = 1
  bulk = 4

exit code: 0 stopped, and the outcome of everything that was under way is recorded;
  2 something is wrong with the file or the engine
"""


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Add the command to the command line; `summary` is what the list of commands says of it."""
    parser = commands.add_parser(
        "worker",
        help=summary,
        description="Send what is queued in an engine, and write down what became of each message.",
        epilog=_EXAMPLE,
        formatter_class=HelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", dest="action", required=True, metavar="ACTION")
    for name, purpose in (
        ("run", "send until SIGTERM or Ctrl-C: then finish what is under way; a second one ends at once"),
        ("status", "say how many jobs each lane has"),
        ("install", "create the tables or streams that are not there"),
    ):
        action = actions.add_parser(name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.")
        action.add_argument("config", metavar="CONFIG", type=Path, help="a TOML file, see smtplite worker --help")
        if name == "status":
            action.add_argument("--json", action="store_true", help="print a JSON object a line")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from smtplite.errors import ConfigurationError
    from smtplite.worker.config import Config

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        config = Config.read(options.config)
        with asyncio.Runner(loop_factory=watching_loop()) as runner:
            runner.run(_ACTIONS[options.action](config, options))
    except (ConfigurationError, ImportError) as error:
        raise UserError(str(error)) from error
    return 0


async def _work(config: Config, _options: argparse.Namespace) -> None:
    async with config.open_worker() as worker:
        print("smtplite worker: running", flush=True)
        await worker.run(handle_signals=True)
    print("smtplite worker: stopped", flush=True)


async def _install(config: Config, _options: argparse.Namespace) -> None:
    async with config.open_source() as source:
        await source.install()


async def _status(config: Config, options: argparse.Namespace) -> None:
    async with config.open_source() as source:
        lanes = await source.status()
    if options.json:
        for lane in lanes:
            values = {name: getattr(lane, name) for name in ("lane", "waiting", "leased", "later", "oldest_seconds")}
            print(json.dumps(values))
        return
    if not lanes:
        print("nothing is queued")
    for lane in lanes:
        print(
            f"{lane.lane}: {plural(lane.waiting, 'job')} due, {lane.leased:,} with a worker, {lane.later:,} to be tried"
            f" later; the oldest was queued {lane.oldest_seconds:,.0f} s ago"
        )


_ACTIONS: dict[str, Any] = {"run": _work, "install": _install, "status": _status}
