"""The results file of ``smtplite send``: one JSON object a line, written as soon as it is known, and never changed.

``{"file": ..., "recipient": ..., "outcome": "begun"}`` is written before the first byte of a message is sent;
`recipient` is null if its recipients are those of its header section. Then, for each recipient,
``{"file": ..., "recipient": ..., "outcome": ..., "reply": ..., "error": ..., "more": ...}``. The outcome is "accepted",
"refused", "unknown" or "not_sent"; `recipient` is null if the message could not be read well enough to tell whom it is
for; `more` is how many lines of the same message follow.

So the file is true at every moment (rule R31), whatever ends its writer: what is not in it was not begun, and what was
begun and has no outcome is unknown. The next writer records that before anything else. Only one process at a time has
the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import attrs

from smtplite.cli.files import FileError, kind_of, text_of
from smtplite.cli.terminal import UserError
from smtplite.system.files import AT_ONCE, BYTE_FOR_BYTE, lock

if TYPE_CHECKING:
    from smtplite.errors import SMTPError
    from smtplite.results import Receipt

__all__ = ["Record", "Result", "Results", "begun_lines", "results_of"]

_OUTCOMES: Final = ("accepted", "refused", "unknown", "not_sent")
_BEGUN: Final = "begun"
_BEGINNING: Final = b'{"file": "'
#: Longer than any line of ours: an address and a reply have their limits.
_MAX_LINE_BYTES: Final = 1_048_576
_LEFT_OPEN: Final = "an earlier run ended after it had begun this message and before it had written down the outcome"


@attrs.frozen(kw_only=True)
class Result:
    """What became of one message for one recipient."""

    file: str
    recipient: str | None
    outcome: str
    reply: str | None = None
    error: str | None = None

    @property
    def is_worth_another_try(self) -> bool:
        """False if sending again would duplicate, may duplicate, or must fail: accepted, unknown, refused by a 5yz."""
        return self.outcome == "not_sent" or (self.outcome == "refused" and (self.reply or "").startswith("4"))


def results_of(file: str, receipt: Receipt | None, error: SMTPError | None, explanation: str | None) -> list[Result]:
    """Return a result for each recipient of a message.

    Args:
        file: where the message stands.
        receipt: what `send_many` reports; None: it reports an error.
        error: that error.
        explanation: the error's text.
    """
    sets: Any = receipt if receipt is not None else error
    replies = receipt.replies if receipt is not None else {}
    common = None if error is None or error.reply is None else str(error.reply)
    results = [
        Result(file=file, recipient=address, outcome="refused", reply=str(reply), error=explanation)
        for address, reply in sets.refused.items()
    ]
    for outcome in ("accepted", "unknown", "not_sent"):
        for address in getattr(sets, outcome):
            reply = str(replies[address]) if address in replies else common
            results.append(Result(file=file, recipient=address, outcome=outcome, reply=reply, error=explanation))
    return results or [Result(file=file, recipient=None, outcome="not_sent", reply=common, error=explanation)]


def begun_lines(file: str, recipients: Iterable[str] | None) -> bytes:
    """Return what is written before the first byte of a message is sent.

    Args:
        file: where the message stands.
        recipients: None: those of its header section.
    """
    name = json.dumps(file)
    if recipients is None:
        return f'{{"file": {name}, "recipient": null, "outcome": "{_BEGUN}"}}\n'.encode("ascii")
    return "".join(
        f'{{"file": {name}, "recipient": {json.dumps(recipient)}, "outcome": "{_BEGUN}"}}\n' for recipient in recipients
    ).encode("ascii")


def _outcome_lines(results: Iterable[Result]) -> bytes:
    lines = [attrs.asdict(result) for result in results]
    for more, line in enumerate(reversed(lines)):
        line["more"] = more
    return b"".join(json.dumps(line).encode("ascii") + b"\n" for line in lines)


class Record:
    """What a results file says about one message, line by line.

    Attributes:
        results: recipient -> what is known. The key None, if there is one, stands for all recipients without a key of
            their own: those of a message that was begun, or could not be read, and that were not written down.
    """

    def __init__(self) -> None:
        self.results: dict[str | None, Result] = {}
        self._begun: set[str | None] = set()

    def add_begun(self, recipient: str | None) -> None:
        """Read a line that was written before the first byte."""
        self._begun.add(recipient)

    def add(self, result: Result, more: int) -> None:
        """Read an outcome.

        Args:
            result: the line.
            more: lines of the same message that follow.
        """
        recipient = result.recipient
        self._begun.discard(recipient)
        everybody_else = self.results.get(None)
        if everybody_else is not None and everybody_else.outcome == "not_sent":  # its recipients were not known
            del self.results[None]
        known = self.results.get(recipient) or self.results.get(None)
        # A message that may have arrived in an earlier run stays so, although a later run did not send it.
        if known is None or known.outcome != "unknown" or result.outcome in ("accepted", "unknown"):
            self.results[recipient] = result
        elif recipient not in self.results:
            self.results[recipient] = attrs.evolve(known, recipient=recipient)
        if not more and None in self._begun:  # everybody whom its header section names has a line
            self._begun.discard(None)
            self.results.pop(None, None)

    def close(self, file: str) -> list[Result]:
        """Turn what was begun and has no outcome into unknown; return the lines that say so."""
        found = [
            Result(file=file, recipient=recipient, outcome="unknown", error=_LEFT_OPEN)
            for recipient in sorted(self._begun, key=lambda recipient: recipient or "")
        ]
        for result in found:
            self.results[result.recipient] = result
        self._begun.clear()
        return found

    @property
    def has_unknown(self) -> bool:
        """True if some recipient's outcome is unknown."""
        return any(result.outcome == "unknown" for result in self.results.values())

    def recipients_left(self, *, resend_unknown: bool) -> list[str] | None:
        """Return those to send it to again; None: everybody except `recipients_done`.

        Args:
            resend_unknown: also to those who may have it.
        """
        everybody_else = self.results.get(None)
        if everybody_else is not None and (everybody_else.outcome != "unknown" or resend_unknown):
            return None
        return list(self._addresses(resend_unknown=resend_unknown, is_left=True))

    def recipients_done(self, *, resend_unknown: bool) -> frozenset[str]:
        """Return those to whom it is not sent again."""
        return frozenset(self._addresses(resend_unknown=resend_unknown, is_left=False))

    def _addresses(self, *, resend_unknown: bool, is_left: bool) -> Iterator[str]:
        for address, result in self.results.items():
            again = result.is_worth_another_try or (resend_unknown and result.outcome == "unknown")
            if address is not None and again == is_left:
                yield address


class Results:
    """A results file: read to its end, then written. Each line is handed to the system as soon as it is known.

    Args:
        path: appended to, so that no record is ever lost.
        read_only: only read it.
        must_exist: do not create it.
        known: what earlier files said.

    Raises:
        UserError: it cannot be opened, another process has it, or it is not a results file.
    """

    def __init__(
        self,
        path: Path,
        *,
        read_only: bool = False,
        must_exist: bool = False,
        known: dict[str, Record] | None = None,
    ) -> None:
        self._path = path
        #: file -> what is known of it from earlier runs.
        self.known: dict[str, Record] = {} if known is None else known
        self._size = 0
        self._is_torn = False  # its last line has no end
        self._descriptor = self._open(read_only=read_only, must_exist=must_exist)
        try:
            self._lock()
            self._read()
            left_open = [result for file, record in self.known.items() for result in record.close(file)]
            if not read_only:
                for result in left_open:
                    self._append(_outcome_lines([result]))
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)  # and with it goes the lock

    def begin(self, lines: bytes) -> None:
        """Write down what is about to be sent, all of it with one write.

        Raises:
            UserError: that failed, for example on a full disk. Nothing of it is in the file, so nothing may be sent.
        """
        self._append(lines)

    def write(self, results: Iterable[Result]) -> None:
        """Write down what became of one message.

        Raises:
            UserError: that failed, for example on a full disk. Nothing of it is in the file; what was begun is unknown.
        """
        self._append(_outcome_lines(results))

    def _append(self, data: bytes) -> None:
        if self._is_torn:
            data = b"\n" + data
        written = 0
        try:
            while written < len(data):
                written += os.write(self._descriptor, data[written:] if written else data)
        except OSError as error:
            if written:
                self._take_back(written)
            raise UserError(f"cannot write {self._path}: {text_of(error)}", exit_code=1) from None
        self._size += written
        self._is_torn = False

    def _take_back(self, written: int) -> None:
        """Remove the beginning of what could not be written whole; that takes no room, so a full disk allows it."""
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError:  # the next line begins on a new line, and whoever reads this one sees that it has no end
            self._size += written
            self._is_torn = True

    def _open(self, *, read_only: bool, must_exist: bool) -> int:
        verb = "read" if read_only or must_exist else "write"
        flags = os.O_RDONLY if read_only else os.O_RDWR | os.O_APPEND
        # What has taken its place since then cannot make us wait.
        flags |= AT_ONCE | BYTE_FOR_BYTE
        try:
            try:
                kind = kind_of(os.stat(self._path).st_mode)
            except FileNotFoundError:
                if read_only or must_exist:
                    raise
                flags |= os.O_CREAT
                kind = None
            if kind is None:
                descriptor = os.open(self._path, flags, 0o666)
                kind = kind_of(os.fstat(descriptor).st_mode)
                if kind is None:
                    return descriptor
                os.close(descriptor)
        except OSError as error:
            raise FileError(verb, self._path, text_of(error)) from None
        raise FileError(verb, self._path, f"it is {kind}, not a regular file")

    def _lock(self) -> None:
        try:
            lock(self._descriptor)
        except (BlockingIOError, PermissionError):
            raise UserError(
                f"{self._path} is in use by another smtplite send: wait for its end, or use another file"
            ) from None
        except OSError as error:
            raise UserError(f"cannot lock {self._path} against other processes: {text_of(error)}") from None

    def _read(self) -> None:
        with open(self._descriptor, "rb", closefd=False) as file:
            for number, line in enumerate(iter(partial(file.readline, _MAX_LINE_BYTES), b""), 1):
                self._size += len(line)
                self._is_torn = not line.endswith(b"\n")  # if it is the last one, its writer was killed within it
                try:
                    _take_in(self.known, line)
                except (ValueError, KeyError, TypeError, RecursionError):
                    raise UserError(f"{self._path}, line {number}: not a line of a results file") from None


def _take_in(known: dict[str, Record], line: bytes) -> None:
    """Read one line.

    Raises:
        ValueError, KeyError, TypeError, RecursionError: it is not one of ours.
    """
    try:
        found = json.loads(line)
    except ValueError:
        if _BEGINNING.startswith(line[: len(_BEGINNING)].rstrip(b"\n")):  # its writer was killed within it
            return
        raise
    file, recipient, outcome = found["file"], found["recipient"], found["outcome"]
    if not isinstance(file, str) or not isinstance(recipient, str | None):
        raise TypeError
    if outcome == _BEGUN:
        known.setdefault(file, Record()).add_begun(recipient)
        return
    more = found.get("more", 0)  # before there were "begun" lines, this was not told
    if outcome not in _OUTCOMES or not isinstance(more, int):
        raise ValueError
    result = Result(file=file, recipient=recipient, outcome=outcome, reply=found["reply"], error=found.get("error"))
    known.setdefault(file, Record()).add(result, more)
