"""`smtplite worker run CONFIG` sends what is queued in an engine; `install`, `status`, `suspend` and `resume`."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smtplite.cli import rules
from smtplite.cli.terminal import HelpFormatter, UserError, plural, printable
from smtplite.system.loops import watching_loop

if TYPE_CHECKING:
    from smtplite.worker.config import Config
    from smtplite.worker.shaping import Board

__all__ = ["add_to"]

_EXAMPLE = """\
CONFIG is a TOML file:

  [relay]
  url = "env:MAIL_URL"                 # from this environment variable; or the URL itself

  [source]
  engine = "postgres"
  url = "host=db.example.com dbname=shop"

  [worker.lanes]                       # connections for each lane
  transactional = 1
  bulk = 4

  [shaping]                            # no faster than the relay allows; without rules, as fast as it accepts
  rules = ["shaping.toml"]

exit code: 0 stopped, and the outcome of everything that was under way is recorded;
  2 something is wrong with the file or the engine
"""


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Add the command to the command line; `summary` is its line in the list of commands."""
    parser = commands.add_parser(
        "worker",
        help=summary,
        description="Send what is queued in an engine, and record what became of each message.",
        epilog=_EXAMPLE,
        formatter_class=HelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", dest="action", required=True, metavar="ACTION")
    for name, purpose in (
        ("run", "send until SIGTERM or Ctrl-C, then finish what is under way; a second one stops at once"),
        ("status", "show how many jobs each lane has, and what is suspended or slowed down"),
        ("suspend", "send nothing to the relay, or to a domain, for a while; jobs stay in the queue"),
        ("resume", "end what a rule, or suspend, has set for the relay or a domain"),
        ("install", "create the tables or streams that do not exist yet"),
    ):
        action = actions.add_parser(name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.")
        action.add_argument("config", metavar="CONFIG", type=Path, help="a TOML file, see smtplite worker --help")
        if name == "status":
            action.add_argument("--json", action="store_true", help="print a JSON object a line")
        if name == "resume":
            action.add_argument("domain", metavar="DOMAIN", nargs="?", help="only this domain, as status shows it")
        if name == "suspend":
            action.add_argument(
                "domain", metavar="DOMAIN", nargs="?", help="only mail for this domain; * stands for any characters"
            )
            action.add_argument(
                "--for", dest="duration", metavar="TIME", default="1h", help='such as 90m or "2 hours"; 1h by default'
            )
            action.add_argument("--reason", metavar="TEXT", default="no reason given", help="shown by status")
    parser.set_defaults(run=_run)
    rules.add_to(actions)


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
        board, now = (None, 0.0) if config.rules is None else await source.boards.read(config.relay_name)
    if options.json:
        for lane in lanes:
            values = {name: getattr(lane, name) for name in ("lane", "waiting", "leased", "later", "oldest_seconds")}
            print(json.dumps(values))
    elif not lanes:
        print("nothing is queued")
    else:
        for lane in lanes:
            print(
                f"{lane.lane}: {plural(lane.waiting, 'job')} due, {lane.leased:,} with a worker, {lane.later:,} to be"
                f" tried later; the oldest was queued {lane.oldest_seconds:,.0f} s ago"
            )
    if board is not None:
        _print_board(board, now, config.relay_name, as_json=options.json)


def _print_board(board: Board, now: float, relay: str, *, as_json: bool) -> None:
    from smtplite.worker.shaping import RELAY
    from smtplite.worker.shaping.units import spoken

    workers = [worker for worker in board.workers.values() if worker.until > now]
    connections = sum(worker.connections for worker in workers)
    effects = [effect for effect in board.effects if effect.until > now]
    if as_json:
        held = [
            {
                "what": relay if effect.what == RELAY else effect.what,
                "action": str(effect.action),
                "seconds": round(effect.until - now, 1),
                "by": effect.by,
                "reason": effect.reason,
            }
            for effect in effects
        ]
        values = {
            "relay": relay,
            "workers": len(workers),
            "connections": connections,
            "rate": board.pace.rate,
            "holds": held,
        }
        print(json.dumps(values))
        return
    print(
        f"{relay}: {plural(len(workers), 'worker')}, {plural(connections, 'connection')},"
        f" at most {board.pace.rate:,.1f} messages a second"
    )
    for effect in effects:
        name = relay if effect.what == RELAY else printable(effect.what)
        left = spoken(effect.until - now)
        print(f"{name}: {effect.action} for another {left}, by {effect.by}: {printable(effect.reason)}")


def _what(config: Config, options: argparse.Namespace) -> str:
    """Return what is to be suspended or resumed, as the board calls it."""
    from smtplite.errors import ConfigurationError
    from smtplite.worker.shaping import RELAY

    if config.rules is None:
        raise ConfigurationError(
            f"{options.config} has no table [shaping]: workers without it do not look at what is suspended"
        )
    return RELAY if options.domain is None else str(options.domain).rpartition("@")[2].lower()


async def _suspend(config: Config, options: argparse.Namespace) -> None:
    from smtplite.worker.shaping import Action, Effect
    from smtplite.worker.shaping.units import seconds_of, spoken

    what = _what(config, options)
    try:
        seconds = seconds_of(options.duration)
    except ValueError as error:
        raise UserError(f"--for must be {error}, not {options.duration!r:.80}") from error

    def add(board: Board, now: float) -> None:
        effect = Effect(what=what, action=Action("suspend"), until=now + seconds, reason=options.reason, by="hand")
        board.add(effect, now)

    async with config.open_source() as source:
        await source.boards.change(config.relay_name, add)
    print(f"{options.domain or config.relay_name}: nothing is sent for {spoken(seconds)}")


async def _resume(config: Config, options: argparse.Namespace) -> None:
    what = _what(config, options)
    async with config.open_source() as source:
        ended = await source.boards.change(config.relay_name, lambda board, now: board.resume(what, now))
    name = options.domain or config.relay_name
    for effect in ended:
        print(f"{name}: ended {effect.action}, by {effect.by}: {printable(effect.reason)}")
    if not ended:
        print(f"{name}: nothing was suspended or slowed")


_ACTIONS: dict[str, Any] = {
    "run": _work,
    "install": _install,
    "status": _status,
    "suspend": _suspend,
    "resume": _resume,
}
