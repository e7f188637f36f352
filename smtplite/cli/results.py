"""The results file of ``smtplite send``: one JSON object a line, for each recipient of each message.

``{"file": ..., "recipient": ..., "outcome": ..., "reply": ..., "error": ...}``. The outcome is "accepted", "refused",
"unknown" or "not_sent"; `recipient` is null where the message could not be read well enough to tell whom it is for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import attrs

from smtplite.cli.terminal import UserError

if TYPE_CHECKING:
    from smtplite.errors import SMTPError
    from smtplite.results import Receipt

__all__ = ["Result", "Results", "read_results", "results_of", "worth_another_try"]

_OUTCOMES: Final = ("accepted", "refused", "unknown", "not_sent")
_BEGINNING: Final = b'{"file": "'


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


class Results:
    """A results file that is being written: each line is handed to the system as soon as it is known.

    Args:
        path: appended to, so that no record is ever lost; None: nothing is written.

    Raises:
        UserError: it cannot be opened.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file = None
        if path is None:
            return
        try:
            self._file = path.open("ab+", buffering=0)
            if self._file.seek(0, 2):
                self._file.seek(-1, 2)
                if self._file.read(1) != b"\n":  # its writer was killed within a line
                    self._file.write(b"\n")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, results: Iterable[Result]) -> None:
        """Write them down.

        Raises:
            UserError: that failed, as on a full disk.
        """
        if self._file is None:
            return
        data = b"".join(json.dumps(attrs.asdict(result)).encode("ascii") + b"\n" for result in results)
        try:
            while data:
                data = data[self._file.write(data) or 0 :]
        except OSError as error:
            raise UserError(f"cannot write {self._path}: {error.strerror or error}", exit_code=1) from None


def read_results(path: Path) -> dict[str, dict[str | None, Result]]:
    """Return file -> recipient -> the last result.

    Raises:
        UserError: it cannot be read, or is not a results file.
    """
    known: dict[str, dict[str | None, Result]] = {}
    try:
        with path.open("rb") as file:
            for result in _parse(path, file):
                known.setdefault(result.file, {})[result.recipient] = result
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    return known


def _parse(path: Path, lines: Iterable[bytes]) -> Iterator[Result]:
    for number, line in enumerate(lines, 1):
        try:
            try:
                found = json.loads(line)
            except ValueError:
                if _BEGINNING.startswith(line[: len(_BEGINNING)].rstrip(b"\n")):  # its writer was killed within it
                    continue
                raise
            result = Result(
                file=found["file"], recipient=found["recipient"], outcome=found["outcome"], reply=found["reply"]
            )
            if not isinstance(result.file, str) or result.outcome not in _OUTCOMES:
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}, line {number}: not a line of a results file") from None
        yield result


def worth_another_try(known: dict[str | None, Result]) -> list[str] | None:
    """Return the recipients to send a message to again, by its results; None: all of them.

    A message that could not even be read has one result, without a recipient; nothing of it was sent.
    """
    if None in known and len(known) == 1:
        return None
    return [address for address, result in known.items() if address is not None and result.is_worth_another_try]
