"""`smtplite worker check-rules`: which rules apply to a relay or a recipient, from which line and which source."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from smtplite.cli.terminal import HelpFormatter, UserError, plural, printable

if TYPE_CHECKING:
    from smtplite.worker.shaping.rules import Automation, Origin, RecipientRule, Rules

__all__ = ["add_to"]

_EXAMPLE = """\
  smtplite worker check-rules rules.toml                                  is the file right?
  smtplite worker check-rules rules.toml ada@gmail.com                    what applies to this recipient?
  smtplite worker check-rules smtp.office365.com                          what applies to this relay?
  smtplite worker check-rules rules.toml smtp://mail.example.com:587 ada@gmail.com

smtplite comes with rules for submission services; your files win over them, and a later file over an earlier one,
key by key.

exit code: 0 the files are right; 2 one is not: the text names the file, the line and the key
"""

#: The keys of a rule that have a value to show, in this order.
_KEYS: Final = ("suspended", "connection_limit", "max_deliveries_per_connection", "max_message_rate", "quota")


def add_to(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action to those of `smtplite worker`."""
    purpose = "show what is wrong in a file of rules, or which rules apply to a relay or a recipient"
    action = actions.add_parser(
        "check-rules",
        help=purpose,
        description=f"{purpose[0].upper()}{purpose[1:]}. No connection is opened.",
        epilog=_EXAMPLE,
        formatter_class=HelpFormatter,
    )
    action.add_argument(
        "what",
        metavar="FILE|ADDRESS|RELAY",
        nargs="+",
        help="a file of rules (*.toml), a recipient's address, or a relay's name or URL; as many as you like",
    )
    action.add_argument(
        "--no-services", action="store_true", help="without the rules for submission services that come with smtplite"
    )
    action.add_argument("--json", action="store_true", help="print a JSON object a line")
    action.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    from smtplite.errors import ConfigurationError
    from smtplite.worker.shaping.rules import Rules
    from smtplite.worker.shaping.services import services

    files = [Path(what) for what in options.what if _is_file(what)]
    try:
        own = Rules.read(*files)
    except ConfigurationError as error:
        raise UserError(str(error)) from error
    rules = own if options.no_services else services().and_also(own)
    asked = [what for what in options.what if not _is_file(what)]
    if not asked:
        count = len(own.relays) + len(own.recipients)
        found = [{"files": [str(path) for path in files], "tables": count}]
        lines = [f"{', '.join(map(str, files))}: right; {plural(count, 'table')}"]
    else:
        found = [_of(rules, what) for what in asked]
        lines = [line for about in found for line in _shown(about)]
    for line in map(json.dumps, found) if options.json else map(printable, lines):
        print(line)
    return 0


def _is_file(what: str) -> bool:
    return what.endswith(".toml") or ("@" not in what and Path(what).is_file())


def _of(rules: Rules, what: str) -> dict[str, Any]:
    """Return what holds for a recipient or a relay, as plain values."""
    if "@" in what and "://" not in what:
        tables = [_table(rule) for rule in rules.for_recipient(what)]
        return {"recipient": what, "rules": tables}
    host = _host(what)
    return {"relay": host, "rules": [_table(rules.for_relay(host))]}


def _host(relay: str) -> str:
    """Return the name in a URL, or in what is a name, with a port or not; never the password."""
    try:
        host = urlsplit(relay if "://" in relay else f"smtp://{relay}").hostname
    except ValueError:
        host = None
    if not host:
        raise UserError(f"a relay is a name or a URL, such as smtp.example.com, not {relay.rpartition('@')[2]!r:.80}")
    return host


def _table(rule: RecipientRule) -> dict[str, Any]:
    values = {key: getattr(rule, key, None) for key in _KEYS}
    return {
        "pattern": rule.pattern,
        "where": rule.where,
        "service": rule.service,
        "note": rule.note,
        "limits": {
            key: {"value": value if isinstance(value, (int, bool)) else str(value), **_from(rule.origins[key])}
            for key, value in values.items()
            if key in rule.origins
        },
        "automation": [_automation(each) for each in rule.automation],
    }


def _automation(automation: Automation) -> dict[str, Any]:
    from smtplite.worker.shaping.units import spoken

    return {
        "name": automation.name,
        "when": {
            "regex": [regex.pattern for regex in automation.regex],
            "code": list(automation.code),
            "enhanced_code": list(automation.enhanced_code),
            "trigger": str(automation.trigger),
        },
        "action": [str(action) for action in automation.actions],
        "duration": spoken(automation.duration),
        **_from(automation.origin),
    }


def _from(origin: Origin) -> dict[str, Any]:
    return {
        "where": origin.where,
        "source": origin.source,
        "checked": None if origin.checked is None else origin.checked.isoformat(),
    }


def _shown(about: dict[str, Any]) -> Iterator[str]:
    """Yield the lines for a person."""
    is_relay = "relay" in about
    name = about["relay"] if is_relay else about["recipient"]
    said = [rule for rule in about["rules"] if rule["limits"] or rule["automation"] or rule["service"]]
    yield f"{'relay' if is_relay else 'recipient'} {name}" + ("" if said else ": no rule")
    for rule in said:
        if not is_relay:
            yield f'  [recipient."{rule["pattern"]}"]  {rule["where"]}'
        if rule["service"]:
            yield f"  {rule['service']}"
        for key, limit in rule["limits"].items():
            value = str(limit["value"]).lower() if isinstance(limit["value"], bool) else limit["value"]
            yield f"    {key} = {value}  {limit['where']}"
            yield from _source(limit)
        if not rule["limits"]:
            yield "    no limit is known"
        for automation in rule["automation"]:
            yield f"    {_when(automation['when'])}: {', '.join(automation['action'])} for {automation['duration']}"
            yield f"      {automation['name']}  {automation['where']}"
            yield from _source(automation)
        if rule["note"]:
            yield f"    note: {rule['note']}"


def _when(when: dict[str, Any]) -> str:
    each = (map(str, when["code"]), when["enhanced_code"], map(repr, when["regex"]))
    parts = [text for text in map(" or ".join, each) if text]
    often = "" if when["trigger"] == "Immediate" else f", {when['trigger']}"
    return f"if a reply has {', and '.join(parts)}{often}"


def _source(about: dict[str, Any]) -> Iterator[str]:
    if about["source"]:
        yield f"      {about['source']}" + (f", read {about['checked']}" if about["checked"] else "")
