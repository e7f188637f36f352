"""What ``smtplite send`` sends: messages from files, folders and stdin, each read when its turn comes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal

import attrs

from smtplite.cli.files import MAX_MESSAGE_BYTES, FileError, kind_of, read_file, text_of
from smtplite.cli.results import Record
from smtplite.cli.terminal import UserError

if TYPE_CHECKING:
    from smtplite.message.envelope import Outgoing

__all__ = ["SUFFIX", "Job", "jobs_of", "outgoing_of"]

_STDIN: Final = "-"
SUFFIX: Final = ".eml"


@attrs.frozen(kw_only=True)
class Job:
    """A message to send.

    Attributes:
        file: its path, or "-".
        content: what is in it; None: not read yet.
        recipients: None: those of its header section.
        without: those of them to whom it is not sent again.
    """

    file: str
    content: bytes | None = None
    recipients: Sequence[str] | None = None
    without: frozenset[str] = frozenset()

    def read(self) -> bytes:
        """Return what is in it.

        Raises:
            FileError: it cannot be read.
        """
        return read_file(self.file, MAX_MESSAGE_BYTES) if self.content is None else self.content


def jobs_of(options: argparse.Namespace, known: Mapping[str, Record]) -> tuple[list[Job], int]:
    """Return what to send, and how many messages are left alone because they may have arrived.

    Args:
        options: of the command line.
        known: what earlier runs wrote down.
    """
    jobs, unknown = [], 0
    again = options.resend_unknown
    for file in dict.fromkeys(file for argument in options.files for file in _files(argument)):
        job = Job(file=file, recipients=options.to)
        if file in known:
            record = known[file]
            if record.has_unknown and not again:
                unknown += 1
            left = record.recipients_left(resend_unknown=again)
            if left is not None and not left:
                continue
            job = Job(
                file=file,
                recipients=options.to if left is None else left,
                without=record.recipients_done(resend_unknown=again) if left is None else frozenset(),
            )
        if file == _STDIN:  # now, while Ctrl-C still ends everything that waits
            job = attrs.evolve(job, content=_read_stdin())
        jobs.append(job)
    return jobs, unknown


def _read_stdin() -> bytes:
    content = sys.stdin.buffer.read(MAX_MESSAGE_BYTES + 1)
    if len(content) > MAX_MESSAGE_BYTES:
        raise UserError(f"cannot read stdin: it has more than {MAX_MESSAGE_BYTES:,} bytes")
    return content


def _files(argument: str) -> Iterator[str]:
    if argument == _STDIN:
        yield argument
        return
    if not os.path.isdir(argument):
        try:
            kind = kind_of(os.stat(argument).st_mode)
        except FileNotFoundError:
            raise UserError(f"cannot read {argument}: no such file or folder") from None
        except OSError as error:
            raise FileError("read", argument, text_of(error)) from None
        if kind is not None:
            raise FileError("read", argument, f"it is {kind}, not a regular file (- is stdin)")
        yield argument
        return
    found = False
    for folder, folders, names in os.walk(argument, onerror=_raise_unreadable):
        folders.sort()
        for name in sorted(names):
            if name.endswith(SUFFIX):
                found = True
                yield os.path.join(folder, name)
    if not found:
        raise UserError(f"there is no *{SUFFIX} in {argument}")


def _raise_unreadable(error: OSError) -> None:
    raise FileError("read", error.filename, text_of(error))


def outgoing_of(job: Job, content: bytes, *, sender: str | None, long_lines: Literal["send"] | None) -> Outgoing | None:
    """Return what is sent, with the envelope that --long-lines asks for; None: no recipient is left.

    Args:
        job: the message.
        content: what is in it.
        sender: None: that of its header section.
        long_lines: "send": also lines that are too long.
    """
    from smtplite.errors import MessageError
    from smtplite.message.envelope import Outgoing
    from smtplite.message.prepared import envelope_of

    if job.without:
        recipients = _recipients_without(job, content, sender)
        if recipients is not None and not recipients:
            return None
        job = attrs.evolve(job, recipients=recipients)
    if long_lines is not None:
        try:
            envelope = envelope_of(content, sender, job.recipients)
        except MessageError:
            pass  # sending reports it again, for this message only
        else:
            return Outgoing(content, envelope=attrs.evolve(envelope, long_lines=long_lines), tag=job)
    return Outgoing(content, sender=sender, recipients=job.recipients, tag=job)


def _recipients_without(job: Job, content: bytes, sender: str | None) -> list[str] | None:
    """Return the recipients that are left of a message; None: it cannot be read, which sending reports again."""
    from smtplite.errors import MessageError
    from smtplite.message.prepared import envelope_of

    try:
        found = envelope_of(content, sender, job.recipients).recipients
    except MessageError:
        return None
    return [recipient.address for recipient in found if recipient.address not in job.without]
