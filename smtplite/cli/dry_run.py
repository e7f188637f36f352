"""``smtplite send --dry-run``: show what would be sent, read and checked as for sending, without a connection."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any, Final

from smtplite.cli.files import FileError
from smtplite.cli.outbox import Job, jobs_of, outgoing_of
from smtplite.cli.results import Record
from smtplite.cli.server_options import explain
from smtplite.cli.terminal import plural, printable

__all__ = ["dry_run"]

#: As when messages are refused, or not sent.
_SOME_CANNOT_BE_SENT: Final = 3
_SHOWN_RECIPIENTS: Final = 3


async def dry_run(options: argparse.Namespace, known: Mapping[str, Record]) -> int:
    """Print each message with its envelope, or why it cannot be sent; return the exit code.

    Args:
        options: of the command line.
        known: what earlier runs wrote down.
    """
    jobs, unknown = jobs_of(options, known)
    messages = recipients = problems = 0
    for job in jobs:
        found = await _look_at(job, options)
        if found is None:
            continue
        messages += 1
        recipients += len(found["recipients"])
        problems += found["error"] is not None
        print(json.dumps(found) if options.json else _line(found))
    if options.json:
        print(json.dumps({"messages": messages, "recipients": recipients, "problems": problems, "dry_run": True}))
    else:
        cannot = f", {plural(problems, 'message')} cannot be sent" if problems else ""
        alone = f", {plural(unknown, 'message')} may have arrived and would be left alone" if unknown else ""
        print(f"{plural(messages, 'message')}, {plural(recipients, 'recipient')}{cannot}{alone}; nothing was sent")
    return _SOME_CANNOT_BE_SENT if problems else 0


async def _look_at(job: Job, options: argparse.Namespace) -> dict[str, Any] | None:
    """Return what is known of a message; None: no recipient is left."""
    from smtplite.errors import MessageError
    from smtplite.message.prepared import prepare

    found: dict[str, Any] = {"file": job.file, "sender": None, "recipients": [], "bytes": None, "error": None}
    try:
        content = job.read()
        found["bytes"] = len(content)
        outgoing = outgoing_of(job, content, sender=options.sender, long_lines=options.long_lines)
        if outgoing is None:
            return None
        prepared = prepare(content, sender=outgoing.sender, recipients=outgoing.recipients, envelope=outgoing.envelope)
        found["sender"], found["recipients"] = prepared.sender.address, list(prepared.recipients)
        await prepared.check()
    except FileError as error:
        found["error"] = f"cannot be read: {error.reason}"
    except MessageError as error:
        found["error"] = explain(error)
    return found


def _line(found: Mapping[str, Any]) -> str:
    recipients = found["recipients"]
    more = len(recipients) - _SHOWN_RECIPIENTS
    whom = ", ".join(recipients[:_SHOWN_RECIPIENTS]) + (f" and {more} more" if more > 0 else "")
    if found["error"] is not None:
        return printable(f"{found['file']}: cannot be sent: {found['error']}")
    return printable(f"{found['file']}: {found['sender'] or '<>'} -> {whom}, {found['bytes']:,} bytes")
